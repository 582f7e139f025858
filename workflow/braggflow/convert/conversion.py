"""Detector files to a frames store: planned from the files' headers, copied unit by unit in parallel, checked, resumed.

While it is made, the store lies at `NAME.zarr.wip` with a folder `progress/` inside: the plan's digest, and for each
finished unit (the frames of one file of the store) a record with what `_finish` needs.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from rich.console import Console

from braggflow.cluster import task_pool
from braggflow.config import digest
from braggflow.console import moving_line
from braggflow.convert.inspection import SeriesFacts, series_facts
from braggflow.convert.plan import Coords, asked_coords, inspect_all, plan_units
from braggflow.convert.units import CopyUnit, copy_units
from braggflow.errors import InputError, is_full
from braggflow.files import write_atomic
from braggflow.formats import Stack, has_changed, read_image
from braggflow.frames import (
    COMPRESSORS,
    create_store,
    described,
    finish_store,
    frames_per_file,
    missing_frames,
    open_unfinished_store,
    refuse_incomplete,
    series_of,
    unfinished_path,
)


def ingest(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    dataset: str | None = None,
    coords: Mapping[str, str] | None = None,
    mask: str | Path | None = None,
    dark: str | Path | None = None,
    flat: str | Path | None = None,
    overwrite: bool = False,
    require_complete: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    opened: Callable[[SeriesFacts], None] | None = None,
) -> Path:
    """Copy the frames of detector files into a frames store, checked by reading back.

    Parameters
    ----------
    sources : sequence of str or pathlib.Path
        Files, ``file.h5:/path/in/it``, folders or glob patterns: HDF5/NeXus, TIFF, CBF, EDF and others. They are taken
        in natural order of their names (frame_2 before frame_10), whatever the order given. All frames must have one
        shape (y, x) and one dtype.
    out : str or pathlib.Path
        The frames store to make, ``NAME.zarr``.
    dataset : str, optional
        The data set of every HDF5 source that names none itself.
    coords : mapping of str to str, optional
        Coordinates for each frame, by name: a data set of the sources, or ``file.h5:/path`` with one value for each
        frame of the whole series. Headers may give others (docs/ingest.md).
    mask, dark, flat : str or pathlib.Path, optional
        Image files, or ``file.h5:/path``, of shape (y, x): pixels to ignore (non-zero), counts without light, and
        relative response. They are kept in the store, and a run applies them.
    overwrite : bool, default False
        Replace a frames store at `out`.
    require_complete : bool, default False
        Refuse a series of which frames were never written. Else they are left out of what is read: the store's
        attribute `missing_frames` names them with the reason, and a run lists them as failed.
    workers : int, optional
        Processes that copy, 1 or more; default: one for each core. With more than one the work runs on a local Dask
        cluster, and a script that calls this needs the ``if __name__ == "__main__":`` of multiprocessing.
    progress : callable, optional
        Called with (frames done, frames in all). Default: a notebook shows a line that moves, and a script nothing.
    opened : callable, optional
        Called with what will be copied, as `braggflow inspect` shows it, before any frame is.

    Returns
    -------
    pathlib.Path
        The absolute path of the store.

    Raises
    ------
    InputError
        For anything refused: a name that does not end in .zarr, an `out` that exists, sources that are missing, named
        twice, ambiguous or not alike, images of another shape, coordinates of another length, a disk that is full.
        Where frames cannot be read, every one of them is named; the others are copied, but the store does not get its
        name.

    Notes
    -----
    While it is made, the store is named ``NAME.zarr.wip``. After an interruption the same call goes on where it was.

    Examples
    --------
    >>> import h5py
    >>> import numpy as np
    >>> import braggflow
    >>> with h5py.File("scan.h5", "w") as file:
    ...     file["entry/data/data"] = np.random.default_rng(0).poisson(5, (4, 32, 48)).astype("uint16")
    ...     file["entry/omega"] = [0.0, 0.1, 0.2, 0.3]
    >>> store = braggflow.ingest(["scan.h5"], "scan.zarr", coords={"omega": "/entry/omega"}, workers=1)
    >>> store.name
    'scan.zarr'
    >>> data = braggflow.open_frames(store)
    >>> dict(data["frames"].sizes), data["omega"].values
    ({'frame': 4, 'y': 32, 'x': 48}, array([0. , 0.1, 0.2, 0.3]))
    """
    out = _checked_out(Path(out), overwrite=overwrite)
    if workers is not None and workers < 1:
        raise InputError(f"--workers: {workers} is not accepted; must be 1 or more")
    with task_pool(workers) as run_tasks, _shown(progress) as progress:
        stacks = inspect_all(sources, dataset, coords or {}, run_tasks)
        shape = stacks[0].shape
        asked = asked_coords(coords or {}, stacks)
        stated = series_of(stacks)
        if require_complete:
            refuse_incomplete(missing_frames(stated), stated.sizes["frame"], "--require-complete")
        given = {
            name: source for name, source in (("mask", mask), ("dark", dark), ("flat", flat)) if source is not None
        }
        images = {name: read_image(f"--{name}", source, shape) for name, source in given.items()}
        coordinates = _coordinates(stated, asked)
        series = described(_with_mask(stated, images.get("mask")))
        if opened is not None:
            with_coords = series.assign_coords({name: ("frame", *of_name) for name, of_name in coordinates.items()})
            opened(series_facts(with_coords, ", ".join(map(str, sources)), stacks))
        with _disk_errors(out):
            store = _begin(out, stacks, coordinates, images)
            units = plan_units(stacks, frames_per_file(store), str(out))
            copy_units(units, run_tasks, progress)
            moved = next((stack.name for stack in stacks if has_changed(stack)), None)
            if moved is not None:
                raise InputError(f"source {moved}: changed while it was read; run the same command again")
            _finish(out, stacks, units, series)
    return out


@contextmanager
def _shown(progress: Callable[[int, int], None] | None) -> Iterator[Callable[[int, int], None]]:
    """The caller's progress, or a line that moves where the caller is a notebook."""
    console = Console(stderr=True)
    if progress is not None:
        yield progress
    elif not console.is_jupyter:
        yield lambda _done, _total: None
    else:
        with moving_line(console, "ingest") as line:
            line("looking at the files", None, "")
            yield lambda done, total: line("ingest", done / total, f"{done}/{total} frames")


def _checked_out(out: Path, *, overwrite: bool) -> Path:
    if out.suffix != ".zarr":
        raise InputError(f"--out {out}: must end in .zarr")
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: exists; choose another name, or --overwrite to replace it")
    for path in (out, unfinished_path(out)):
        if path.exists() and not (path / "zarr.json").is_file():
            raise InputError(f"--out {out}: {path} is there and is no frames store; it will not be replaced")
    return out.absolute()


def _begin(out: Path, stacks: Sequence[Stack], coords: Coords, images: Mapping[str, NDArray[Any]]) -> "zarr.Array[Any]":
    """The unfinished store of this very plan if there is one, else a new one."""
    plan = digest(
        {
            "stacks": [(stack.name, stack.frames, stack.shape, stack.dtype, stack.files) for stack in stacks],
            "coords": {name: (values.tolist(), attrs) for name, (values, attrs) in coords.items()},
            "images": {name: sha256(image.tobytes()).hexdigest() for name, image in images.items()},
        }
    )
    plan_file = unfinished_path(out) / "progress" / "plan"
    if plan_file.is_file() and plan_file.read_text() == plan:
        return open_unfinished_store(out)
    store = create_store(
        out,
        n_frames=sum(stack.frames for stack in stacks),
        shape=stacks[0].shape,
        dtype=np.dtype(stacks[0].dtype),
        coords=coords,
        images={name: image for name, image in images.items() if name != "mask"},
    )
    plan_file.parent.mkdir()
    write_atomic(plan_file, plan.encode())
    return store


def _coordinates(stated: xr.Dataset, asked: Coords) -> Coords:
    """Per-frame coordinates: those that the headers of all files state, and those asked for, which stand above."""
    found = {str(name): (values.values, values.attrs) for name, values in stated.coords.items() if name != "frame"}
    return found | asked


def _with_mask(stated: xr.Dataset, user_mask: NDArray[Any] | None) -> xr.Dataset:
    """The series with the user's mask joined to that of the files, and its pixels counted."""
    if user_mask is None or not user_mask.any():
        return stated
    joined = (user_mask != 0) | (stated["mask"].values if "mask" in stated else False)
    series = stated.assign(mask=(("y", "x"), joined))
    pixels = {**series.attrs.get("mask_pixels", {}), "file": int(np.count_nonzero(user_mask))}
    return series.assign_attrs(mask_pixels=pixels)


def _finish(out: Path, stacks: Sequence[Stack], units: Sequence[CopyUnit], series: xr.Dataset) -> None:
    """Write mask and attributes, then give the store its name."""
    group = zarr.open_group(unfinished_path(out), mode="r+")
    for name in ("mask", "negative_marks"):
        if name in series:
            image = series[name].values
            with zarr.config.set({"array.write_empty_chunks": True}):
                group.create_array(
                    name, data=image, dimension_names=("y", "x"), compressors=COMPRESSORS, overwrite=True
                )
    hashes = np.concatenate([np.load(unit.record) for unit in units])
    attributes = {key: value for key, value in series.attrs.items() if value != {}} | _provenance(stacks, hashes)
    # A plain round trip: zarr refuses numpy scalars only when it writes, long after they came in.
    group.attrs.update(json.loads(json.dumps(attributes)))
    shutil.rmtree(unfinished_path(out) / "progress")
    finish_store(out)


def _provenance(stacks: Sequence[Stack], hashes: NDArray[np.uint8]) -> dict[str, Any]:
    """Each source with its size and checksum."""
    folder = os.path.commonpath([str(Path(stack.path).parent) for stack in stacks])
    sources, start = [], 0
    for stack in stacks:
        of_frames = hashes[start : start + stack.frames]
        start += stack.frames
        sources.append(
            {
                "name": os.path.relpath(stack.name, folder),
                "bytes": sum(size for _, size, _ in stack.files),
                "sha256": sha256(of_frames.tobytes()).hexdigest(),
                "frames": stack.frames,
            }
        )
    return {"sources": sources, "source_folder": folder}


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Say what to do when the store cannot be written; what was written stays for the same command to go on with."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            message = (
                f"--out {out}: the disk is full; make room and run the same command again, it goes on where it was"
            )
        else:
            message = f"--out {out}: cannot be written ({error.strerror or error})"
        raise InputError(message) from error
