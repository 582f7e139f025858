"""A series of frames read from its HDF5 file itself: what `open_frames` returns of a file that is no store.

Results are the same bits as from the store that `braggflow ingest` makes of the file. Ingest knows more, because it
reads every frame; what of that results depend on, and cannot be told without, is refused (`_dead_pixels`).
"""

import os
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
    detector_marks,
    frames_per_chunk,
    geometry_attributes,
    has_changed,
    inspect_source,
    read_frames,
    saturation_attributes,
    split_name,
    stated_pixel_mask,
)
from braggflow.frames.store import chunk_frames

#: Frames, spread over the series, in which pixels that carry the detector's mark are looked for.
MARK_FRAMES = 16


def open_frames(path: str | Path) -> xr.Dataset:
    """Open the frames of an HDF5 file, `FILE` or `FILE:/path/in/it`, lazily, as the Dataset of a frames store.

    Which data set is meant, its pixel mask, saturation and geometry are found as by ingest; `sources` names the files
    that the frames lie in, with their sizes and times of change. A chunk is what one task reads: whole HDF5 chunks of
    about `store.CHUNK_BYTES`. Raises `InputError` naming the file where it is damaged or ambiguous, or where only
    reading all frames would tell its dead pixels.
    """
    file, inside = split_name(str(path))
    stacks = inspect_source(str(file), inside)
    shape, dtype = stacks[0].shape, np.dtype(stacks[0].dtype)
    odd = next((stack for stack in stacks if (stack.shape, stack.dtype) != (shape, dtype.str)), None)
    if odd is not None:
        raise InputError(
            f"source {odd.name}: its frames are {odd.shape} of {np.dtype(odd.dtype)}, those of {stacks[0].name} are "
            f"{shape} of {dtype}; all must be alike"
        )
    series = _Series(stacks)
    n_frames = series.shape[0]
    per_chunk = max(frames_per_chunk(stack.path, stack.inside) for stack in stacks)
    step = per_chunk * max(1, chunk_frames(n_frames, shape, dtype) // per_chunk)
    variable = xr.Variable(
        ("frame", "y", "x"),
        indexing.LazilyIndexedArray(series),
        {"units": "count"},
        {"chunks": (min(step, n_frames), *shape)},
    )
    mask = stated_pixel_mask(stacks, shape)
    mask = np.zeros(shape, bool) if mask is None else mask
    if dtype.kind == "u":
        mask = mask | _dead_pixels(series, mask, str(path))
    return xr.Dataset(
        {"frames": variable} | ({"mask": (("y", "x"), mask)} if mask.any() else {}),
        coords={"frame": np.arange(n_frames)},
        attrs={
            # Where no pixel is negative, or none at the limit outside the mask, these change no result.
            **({"masked_below": 0} if dtype.kind == "i" else {}),
            **saturation_attributes(stacks, dtype, reached=True),
            **geometry_attributes(stacks),
            **_origin(stacks),
        },
    )


class _Series(BackendArray):
    """Frames (frame, y, x) of the stacks in order, read when they are indexed."""

    def __init__(self, stacks: Sequence[Stack]) -> None:
        self.stacks = stacks
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
        if has_changed(stack):
            raise OSError(f"{stack.name}: has changed since it was opened")
        try:
            return read_frames(stack, first - start, stop - start)
        except InputError as error:
            raise OSError(f"frames {first - start} to {stop - start - 1} of {error}") from error


def _dead_pixels(series: _Series, known: NDArray[np.bool_], name: str) -> NDArray[np.bool_]:
    """Pixels, shape (y, x), outside the `known` mask that carry the mark of unsigned integers in every frame.

    Mostly a few frames show that there are none. Where some stay marked in all that are looked at, they may be dead, or
    saturated there and not elsewhere; only reading the rest would tell, and `InputError` is raised.
    """
    marked = ~known
    n_frames = series.shape[0]
    looked = 0
    for position in np.unique(np.linspace(0, n_frames - 1, MARK_FRAMES).round().astype(np.int64)):
        try:
            frame = series.read(np.array([position]))
        except OSError:
            continue  # the run records it
        looked += 1
        marked &= detector_marks(frame)[0]
        if not marked.any():
            return marked
    if looked == 0:
        raise InputError(f"source {name}: none of {min(MARK_FRAMES, n_frames)} frames spread over it can be read")
    if n_frames > MARK_FRAMES:
        raise InputError(
            f"source {name}: {np.count_nonzero(marked)} pixels outside its pixel mask are at "
            f"{np.iinfo(series.dtype).max} in each of {looked} frames looked at; only all of its {n_frames} frames "
            "tell whether they are dead or saturated: make a frames store of it with braggflow ingest"
        )
    return marked


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
