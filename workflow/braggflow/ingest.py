"""Detector files to a frames store: planned from the files' headers, copied unit by unit in parallel, checked, resumed.

While it is made, the store lies at `NAME.zarr.wip` with a folder `progress/` inside: the plan's digest, and for each
finished unit (the frames of one file of the store) a record with what `_finish` needs.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from braggflow.attributes import detector_marks, geometry, pixel_mask, saturation
from braggflow.config import ComputeConfig, InputError, digest
from braggflow.frames import create, finish, open_unfinished, wip, write_unit
from braggflow.hdf5 import open_file, read_coord
from braggflow.peaks import RESERVED
from braggflow.sources import Stack, changed, expand, inspect, read_frames, read_image, reading, split_name

#: Files whose headers are read in one task.
INSPECT_BATCH = 100
#: Tasks in flight per worker: one that runs, one that waits.
TASKS_PER_WORKER = 2

Item = TypeVar("Item")
Result = TypeVar("Result")
Coords = dict[str, tuple[NDArray[Any], dict[str, str]]]
#: (stack, frame in it, why it cannot be read)
Failure = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Unit:
    """One task: the frames that share a file of the store."""

    number: int
    start: int
    """First frame in the store."""
    pieces: tuple[tuple[Stack, int, int], ...]
    """(stack, first frame, frame after the last) in order."""
    out: str

    @property
    def frames(self) -> int:
        """How many frames the unit holds."""
        return sum(hi - lo for _, lo, hi in self.pieces)

    @property
    def record(self) -> Path:
        """Exists when the unit is written and checked."""
        return wip(Path(self.out)) / "progress" / f"{self.number:06d}.npz"


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
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Copy the frames of detector files into the frames store `out` (NAME.zarr); return its path.

    `sources` are files, `file.h5:/path`, folders or globs, taken in natural order of their names. `dataset` is the data
    set of every HDF5 source; `coords` maps the name of a per-frame coordinate to a data set of the sources, or to
    `file.h5:/path` with one value for each frame of the whole series. `mask` (non-zero = ignore), `dark` and `flat` are
    image files or `file.h5:/path`, of shape (y, x). `progress` is called with frames done and frames in all.

    With more than one worker (default: one per core) the work runs on a local Dask cluster; a script that calls this
    needs the `if __name__ == "__main__":` of multiprocessing. After an interruption the same call goes on where it was.
    Raises `InputError` for anything refused, and, naming every frame, where frames cannot be read.
    """
    out = _checked_out(Path(out), overwrite=overwrite)
    if workers is not None and workers < 1:
        raise InputError(f"--workers: {workers} is not accepted; must be 1 or more")
    with _pool(workers) as run_tasks:
        stacks = _inspect_all(sources, dataset, coords or {}, run_tasks)
        shape = stacks[0].shape
        series_coords = _series_coords(stacks, coords or {})
        given = {
            name: source for name, source in (("mask", mask), ("dark", dark), ("flat", flat)) if source is not None
        }
        images = {name: read_image(f"--{name}", source, shape) for name, source in given.items()}
        with _disk_errors(out):
            store = _begin(out, stacks, series_coords, images)
            units = _units(stacks, write_unit(store), str(out))
            _copy(units, run_tasks, progress or (lambda _done, _total: None))
            moved = next((stack.name for stack in stacks if changed(stack)), None)
            if moved is not None:
                raise InputError(f"source {moved}: changed while it was read; run the same command again")
            _finish(out, stacks, units, images.get("mask"))
    return out


def _checked_out(out: Path, *, overwrite: bool) -> Path:
    if out.suffix != ".zarr":
        raise InputError(f"--out {out}: must end in .zarr")
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: exists; choose another name, or --overwrite to replace it")
    for path in (out, wip(out)):
        if path.exists() and not (path / "zarr.json").is_file():
            raise InputError(f"--out {out}: {path} is there and is no frames store; it will not be replaced")
    return out.absolute()


RunTasks = Callable[[Callable[[Item], Result], Sequence[Item]], Iterator[Result]]


@contextmanager
def _pool(workers: int | None) -> Iterator[Callable[..., Iterator[Any]]]:
    """A function that maps tasks over items, results in any order: in this process, or on a cluster made on demand."""
    most = workers or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        client: Any = None

        def run_tasks(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
            nonlocal client
            wanted = min(most, len(items))
            if wanted <= 1:
                yield from map(function, items)
                return
            if client is None:
                from braggflow import cluster

                client = stack.enter_context(cluster.local(ComputeConfig(workers=wanted)))
            client.cluster.scale(wanted)
            yield from _in_window(client, function, items, TASKS_PER_WORKER * wanted)

        yield run_tasks


def _in_window(client: Any, function: Callable[[Item], Result], items: Sequence[Item], window: int) -> Iterator[Result]:
    """Results of the tasks as they finish, never more than `window` of them submitted."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    waiting = iter(items)
    first = [client.submit(function, item, pure=False) for item in islice(waiting, window)]
    running = as_completed(first)
    for future in running:
        try:
            result = future.result()
        except KilledWorker as error:
            raise InputError(
                "a worker process was killed several times on the same frames, perhaps for lack of memory; "
                "run the same command again with fewer --workers"
            ) from error
        for item in islice(waiting, 1):
            running.add(client.submit(function, item, pure=False))
        yield result


def _inspect_all(
    sources: Sequence[str | Path], dataset: str | None, coords: Mapping[str, str], run_tasks: RunTasks[Any, Any]
) -> list[Stack]:
    """The stacks of all sources in order, of one shape and dtype, none twice."""
    inside_coords = {name: place for name, place in coords.items() if not split_name(place)[1]}
    files = [(path, inside or dataset or "") for path, inside in expand(sources)]
    batches = [(start, files[start : start + INSPECT_BATCH]) for start in range(0, len(files), INSPECT_BATCH)]
    found = sorted(run_tasks(partial(_inspect_batch, coords=inside_coords), batches), key=itemgetter(0))
    refusals = [message for _, _, refused in found for message in refused]
    if refusals:
        raise InputError("\n  ".join(refusals))
    stacks: list[Stack] = [stack for _, described, _ in found for stack in described]
    names: set[str] = set()
    for stack in stacks:
        if (stack.shape, stack.dtype) != (stacks[0].shape, stacks[0].dtype):
            raise InputError(
                f"source {stack.name}: its frames are {stack.shape} of {np.dtype(stack.dtype)}, those of "
                f"{stacks[0].name} are {stacks[0].shape} of {np.dtype(stacks[0].dtype)}; all must be alike"
            )
        if stack.name in names:
            raise InputError(
                f"source {stack.name}: is named twice (once by itself, once through a file that links to it)"
            )
        names.add(stack.name)
    return stacks


def _inspect_batch(
    batch: tuple[int, Sequence[tuple[str, str]]], *, coords: Mapping[str, str]
) -> tuple[int, list[Stack], list[str]]:
    """The stacks of some files, and a message for each file that is refused, so that all can be named at once."""
    start, files = batch
    stacks: list[Stack] = []
    refused: list[str] = []
    for path, inside in files:
        try:
            stacks += inspect(path, inside, coords=coords)
        except InputError as error:
            refused.append(str(error))
    return start, stacks, refused


def _series_coords(stacks: Sequence[Stack], asked: Mapping[str, str]) -> Coords:
    """Coordinates of the whole series: those asked for, and those that the headers of all files state."""
    reserved = sorted((RESERVED | {"frame", "frames", "mask", "dark", "flat"}) & set(asked))
    if reserved:
        raise InputError(f"--coord {reserved[0]}: the name is taken; choose another, e.g. {reserved[0]}_of_frame")
    n_frames = sum(stack.frames for stack in stacks)
    coords: Coords = {}
    for name in stacks[0].facts.coords:
        if all(name in stack.facts.coords for stack in stacks):
            parts = [stack.facts.coords[name] for stack in stacks]
            coords[name] = (np.concatenate([values for values, _ in parts]), parts[0][1])
    if "time" in coords and "time" not in asked:
        times, attrs = coords.pop("time")
        if n_frames == 1 or np.ptp(times) > 0:  # some headers carry one date for all frames
            attrs = {**attrs, "long_name": f"{attrs['long_name']}, since the first frame's"}
            coords["time"] = (times - times[0], attrs)
    for name, place in asked.items():
        path, inside = split_name(place)
        if inside:
            with reading(f"--coord {name}: {path}"), open_file(str(path)) as file:
                coords[name] = read_coord(file, str(path), name, inside, n_frames)
    return coords


def _begin(out: Path, stacks: Sequence[Stack], coords: Coords, images: Mapping[str, NDArray[Any]]) -> "zarr.Array[Any]":
    """The unfinished store of this very plan if there is one, else a new one."""
    plan = digest(
        {
            "stacks": [(stack.name, stack.frames, stack.shape, stack.dtype, stack.files) for stack in stacks],
            "coords": {name: (values.tolist(), attrs) for name, (values, attrs) in coords.items()},
            "images": {name: sha256(image.tobytes()).hexdigest() for name, image in images.items()},
        }
    )
    plan_file = wip(out) / "progress" / "plan"
    if plan_file.is_file() and plan_file.read_text() == plan:
        return open_unfinished(out)
    store = create(
        out,
        n_frames=sum(stack.frames for stack in stacks),
        shape=stacks[0].shape,
        dtype=np.dtype(stacks[0].dtype),
        coords=coords,
        images={name: image for name, image in images.items() if name != "mask"},
    )
    plan_file.parent.mkdir()
    _write_whole(plan_file, lambda path: path.write_text(plan))
    return store


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, then rename: it is there whole or not at all."""
    partial_path = path.with_name(f"{path.stem}.{os.getpid()}.tmp{path.suffix}")
    write(partial_path)
    partial_path.replace(path)


def _units(stacks: Sequence[Stack], size: int, out: str) -> list[Unit]:
    """The series cut into units of `size` frames; the last may be smaller."""
    units: list[Unit] = []
    pieces: list[tuple[Stack, int, int]] = []
    room = size
    for stack in stacks:
        lo = 0
        while lo < stack.frames:
            hi = min(stack.frames, lo + room)
            pieces.append((stack, lo, hi))
            room -= hi - lo
            lo = hi
            if room == 0:
                units.append(Unit(len(units), len(units) * size, tuple(pieces), out))
                pieces, room = [], size
    if pieces:
        units.append(Unit(len(units), len(units) * size, tuple(pieces), out))
    return units


def _copy(units: Sequence[Unit], run_tasks: RunTasks[Any, Any], progress: Callable[[int, int], None]) -> None:
    """Copy the units that have no record; raise naming every frame that cannot be read."""
    todo = [unit for unit in units if not unit.record.exists()]
    total = sum(unit.frames for unit in units)
    done = total - sum(unit.frames for unit in todo)
    progress(done, total)
    failures: list[Failure] = []
    for n_frames, failed in run_tasks(copy_unit, todo):
        failures += failed
        done += n_frames
        progress(done, total)
    if failures:
        raise InputError(_failure_text(failures, total))


def copy_unit(unit: Unit) -> tuple[int, list[Failure]]:
    """Read a unit's frames, write them, read them back and compare; return how many were written and what failed."""
    stack = unit.pieces[0][0]
    block = np.empty((unit.frames, *stack.shape), stack.dtype)
    failures: list[Failure] = []
    at = 0
    for stack, lo, hi in unit.pieces:
        try:
            block[at : at + hi - lo] = read_frames(stack, lo, hi)
        except InputError:
            failures += _read_singly(stack, lo, hi, block[at : at + hi - lo])
        at += hi - lo
    if failures:
        return 0, failures
    store = open_unfinished(Path(unit.out))
    store[unit.start : unit.start + unit.frames] = block
    written = np.ascontiguousarray(store[unit.start : unit.start + unit.frames])
    if not np.array_equal(written.view(np.uint8), block.view(np.uint8)):
        reason = "read back from the store, the frames differ from the source: faulty memory or disk"
        return 0, [(stack.name, index, reason) for stack, lo, hi in unit.pieces for index in range(lo, hi)]
    always, ever = detector_marks(block)
    hashes = np.frombuffer(b"".join(sha256(frame.data).digest() for frame in block), np.uint8).reshape(-1, 32)
    _write_whole(
        unit.record,
        lambda path: np.savez_compressed(path, sha256=hashes, always=np.packbits(always), ever=np.packbits(ever)),
    )
    return unit.frames, []


def _read_singly(stack: Stack, lo: int, hi: int, block: NDArray[Any]) -> list[Failure]:
    """Read frame by frame where reading several failed, to keep and to name no more than what is damaged."""
    failures = []
    for index in range(lo, hi):
        try:
            block[index - lo] = read_frames(stack, index, index + 1)[0]
        except InputError as error:
            failures.append((stack.name, index, str(error).removeprefix(f"{stack.name}: ")))
    return failures


def _failure_text(failures: Sequence[Failure], total: int) -> str:
    """One line for each file and reason, with the frames as ranges."""
    grouped: dict[tuple[str, str], list[int]] = {}
    for name, index, reason in sorted(failures):
        grouped.setdefault((name, reason), []).append(index)
    lines = [f"{name}, frame {_ranges(indices)}: {reason}" for (name, reason), indices in grouped.items()]
    return (
        f"{len(failures)} of {total} frames could not be copied (counted from 0 in each file); "
        "the same command tries only their units again, unless a file changes\n  " + "\n  ".join(lines)
    )


def _ranges(indices: Sequence[int]) -> str:
    starts = [k for k, index in enumerate(indices) if k == 0 or index != indices[k - 1] + 1]
    parts = [(indices[a], indices[b - 1]) for a, b in zip(starts, [*starts[1:], len(indices)], strict=True)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _finish(out: Path, stacks: Sequence[Stack], units: Sequence[Unit], user_mask: NDArray[Any] | None) -> None:
    """Join the units' records into mask and attributes, then give the store its name."""
    shape, dtype = stacks[0].shape, np.dtype(stacks[0].dtype)
    always, ever = np.ones(shape, bool), np.zeros(shape, bool)
    hashes = []
    for unit in units:
        with np.load(unit.record) as record:
            always &= _unpacked(record["always"], shape)
            ever |= _unpacked(record["ever"], shape)
            hashes.append(record["sha256"])
    group = zarr.open_group(wip(out), mode="r+")
    masks = {"file": user_mask, "pixel_mask": pixel_mask(stacks, shape), "detector marks": always}
    present = {name: image != 0 for name, image in masks.items() if image is not None and image.any()}
    mask = np.any(list(present.values()), axis=0) if present else np.zeros(shape, bool)
    if present:
        group.create_array("mask", data=mask, dimension_names=("y", "x"), overwrite=True)
        group.attrs["mask_pixels"] = {name: int(image.sum()) for name, image in present.items()}
    if dtype.kind == "i" and ever.any():
        group.attrs["masked_below"] = 0
    group.attrs.update(saturation(stacks, dtype, reached=bool((ever & ~mask).any())))
    group.attrs.update(_provenance(stacks, np.concatenate(hashes)))
    shutil.rmtree(wip(out) / "progress")
    finish(out)


def _unpacked(bits: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.bool_]:
    return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).astype(bool)


def _provenance(stacks: Sequence[Stack], hashes: NDArray[np.uint8]) -> dict[str, Any]:
    """Geometry as far as all files agree on it, and each source with its size and checksum."""
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
    attributes = {"sources": sources, "source_folder": folder}
    # A plain round trip: zarr refuses numpy scalars only when it writes, long after they came in.
    return json.loads(json.dumps({**attributes, **geometry(stacks)}))  # type: ignore[no-any-return]


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Say what to do when the store cannot be written; what was written stays for the same command to go on with."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = (
                f"--out {out}: the disk is full; make room and run the same command again, it goes on where it was"
            )
        else:
            message = f"--out {out}: cannot be written ({error.strerror or error})"
        raise InputError(message) from error
