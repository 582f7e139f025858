"""A series of frames read from detector files themselves: what `open_frames` returns of a file that is no store.

Results are the same bits as from the store that `braggflow ingest` makes of the files.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from braggflow.errors import InputError
from braggflow.formats import (
    Stack,
    expand_sources,
    frames_per_chunk,
    has_changed,
    inspect_source,
    read_frames,
    split_name,
)
from braggflow.frames.data_sets import data_set_name
from braggflow.frames.description import described
from braggflow.frames.stated import stated_attributes, stated_coords, stated_mask
from braggflow.frames.store import chunk_frames

#: Files of which every worker reads the headers; of more, a frames store is quicker.
MOST_FILES = 5000


def open_files(path: str | Path) -> xr.Dataset:
    """Open the frames of detector files lazily, as the Dataset of a frames store.

    `path` is as for `stacks_of`. Which data set is meant, pixel mask, saturation, geometry and coordinates are found as
    by ingest. Raises `InputError` naming the file where one is damaged or ambiguous, or where there are too many.
    """
    return described(series_of(stacks_of(path)))


def stacks_of(path: str | Path) -> list[Stack]:
    """The stacks of `FILE`, `FILE:/path/in/it`, or of a folder or pattern whose files are one series; as by ingest."""
    file, inside = split_name(str(path))
    if file.is_file():
        return inspect_source(str(file), inside)
    files = expand_sources([path])
    if len(files) > MOST_FILES:
        raise InputError(
            f"data: {path}: has {len(files):,} files, more than the {MOST_FILES:,} that are read as they are; "
            f"{ingest_command(path)} makes a frames store of them"
        )
    return [stack for name, inside in files for stack in inspect_source(name, inside)]


def ingest_command(path: str | Path) -> str:
    """What to type to make a frames store of files."""
    return f"braggflow ingest {shlex.quote(str(path))} --out {shlex.quote(data_set_name(path) + '.zarr')}"


def series_of(stacks: Sequence[Stack], *, growing: bool = False) -> xr.Dataset:
    """The frames of `stacks`, one after the other, with all that their files state; nothing is read but headers.

    `sources` names the files that the frames lie in, with their sizes and times of change. A chunk is what one task
    reads: whole HDF5 chunks of about `store.CHUNK_BYTES`. Raises `InputError` where the stacks are not alike.
    `growing`: the files may be written to; else frames of one that was are refused.
    """
    check_alike(stacks)
    shape, dtype = stacks[0].shape, np.dtype(stacks[0].dtype)
    series = _Series(stacks, growing=growing)
    n_frames = series.shape[0]
    per_chunk = max(frames_per_chunk(stack.path, stack.inside) if stack.kind == "hdf5" else 1 for stack in stacks)
    step = per_chunk * max(1, chunk_frames(n_frames, shape, dtype) // per_chunk)
    variable = xr.Variable(
        ("frame", "y", "x"),
        indexing.LazilyIndexedArray(series),
        {"units": "count"},
        {"chunks": (min(step, n_frames), *shape)},
    )
    mask = stated_mask(stacks)
    return xr.Dataset(
        {"frames": variable} | ({"mask": (("y", "x"), mask)} if mask is not None and mask.any() else {}),
        coords={
            "frame": np.arange(n_frames),
            **{name: ("frame", *of_frames) for name, of_frames in stated_coords(stacks).items()},
        },
        attrs={
            **stated_attributes(stacks),
            **({"mask_pixels": {"pixel_mask": int(mask.sum())}} if mask is not None and mask.any() else {}),
            **_origin(stacks),
        },
    )


def check_alike(stacks: Sequence[Stack]) -> None:
    """Refuse stacks whose frames differ in shape or dtype, naming the first that differs."""
    first = stacks[0]
    for stack in stacks:
        if (stack.shape, stack.dtype) != (first.shape, first.dtype):
            raise InputError(
                f"source {stack.name}: its frames are {stack.shape} of {np.dtype(stack.dtype)}, those of "
                f"{first.name} are {first.shape} of {np.dtype(first.dtype)}; all must be alike"
            )


class _Series(BackendArray):
    """Frames (frame, y, x) of the stacks in order, read when they are indexed."""

    def __init__(self, stacks: Sequence[Stack], *, growing: bool) -> None:
        self.stacks, self._growing = stacks, growing
        self.starts = np.cumsum([0, *(stack.frames for stack in stacks)])
        self.shape = (int(self.starts[-1]), *stacks[0].shape)
        self.dtype = np.dtype(stacks[0].dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self._indexed
        )

    def _indexed(self, key: tuple[Any, ...]) -> NDArray[Any]:
        of_series = np.arange(self.shape[0])[key[0]]
        read = self.read(np.atleast_1d(of_series))
        return read[(slice(None) if of_series.ndim else 0, *key[1:])]

    def read(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """The frames at `positions` (n,), shape (n, y, x).

        Raises `OSError`, which may pass, naming the file where it cannot be read or has changed since it was opened.
        """
        # Of consecutive frames in one stack, each run is one read.
        stack_of = np.searchsorted(self.starts, positions, side="right") - 1
        breaks = np.flatnonzero((np.diff(positions) != 1) | (np.diff(stack_of) != 0)) + 1
        runs = [run for run in np.split(positions, breaks) if len(run)]
        parts = [self._run(int(run[0]), int(run[-1]) + 1) for run in runs]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *parts])

    def _run(self, first: int, stop: int) -> NDArray[Any]:
        """Frames [first, stop), all of one stack."""
        at = int(np.searchsorted(self.starts, first, side="right")) - 1
        stack, start = self.stacks[at], int(self.starts[at])
        if not self._growing and has_changed(stack):
            raise OSError(f"{stack.name}: has changed since it was opened")
        try:
            return read_frames(stack, first - start, stop - start)
        except InputError as error:
            raise OSError(f"frames {first - start} to {stop - start - 1} of {error}") from error


def _origin(stacks: Sequence[Stack]) -> dict[str, Any]:
    """Every file, with what shows that it has changed: a checksum would take as long as reading the frames."""
    folder = os.path.commonpath([str(Path(stack.path).parent) for stack in stacks])
    sources = [
        {
            "name": os.path.relpath(stack.name, folder),
            "frames": stack.frames,
            "files": [[os.path.relpath(file, folder), size, changed_ns] for file, size, changed_ns in stack.files],
        }
        for stack in stacks
    ]
    return {"sources": sources, "source_folder": folder}
