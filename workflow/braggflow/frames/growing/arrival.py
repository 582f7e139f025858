"""The one place that decides which frames of a series that is still being written have arrived.

A frame has arrived when it can be read and will not be half of itself:

- HDF5 whose file is open for SWMR writing: its chunk is in the file. Of chunks of several frames, one is taken once the
  writer has begun a later one.
- HDF5 whose file no one writes to any more (also each data file of an EIGER series): the same, and the file is as it
  was at the look before.
- Zarr: all files of its chunk (or shard) are there and as they were at the look before; of chunks of several frames,
  once a later one was begun.

So neither the length that a writer gives its array, nor the zeros that stand for what was never written, make a frame.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from braggflow.formats import HDF5_SUFFIXES, Stack, frames_per_chunk, split_name
from braggflow.frames.data_sets import is_named_as_store, names_files
from braggflow.frames.description import missing_frames
from braggflow.frames.growing.described import undescribed
from braggflow.frames.growing.stamps import chunk_files

#: A Zarr array whose length was given beforehand is whole when all its chunks have been there for so long.
SETTLE_SECONDS = 10.0
#: Where an HDF5 file says whether it is open for writing: byte 11 of a superblock of version 3.
_MAGIC, _VERSION_AT, _FLAGS_AT = b"\x89HDF\r\n\x1a\n", 8, 11


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a look at a growing series showed."""

    there: NDArray[np.bool_]
    """(frame,) Which frames of those known so far have arrived; the rest may still come."""
    numbers: NDArray[np.int64]
    """(frame,) Their numbers."""
    whole: str
    """Why nothing more will come: what marks the end; "" while more may."""


def is_growing_series(path: str | Path) -> bool:
    """Whether a path that is to be followed names one series (HDF5, Zarr), and not a folder of frames stores.

    Neither need be there yet.
    """
    file, _ = split_name(str(path))
    if file.suffix.lower().removeprefix(".") in HDF5_SUFFIXES and not file.is_dir():
        return True
    return is_named_as_store(file) or any((file / name).exists() for name in ("zarr.json", ".zgroup"))


def done_mark(path: str | Path) -> Path:
    """The file that says that a series is whole, whatever of it is there: `scan.h5.done` beside `scan.h5`."""
    file, _ = split_name(str(path))
    return file.with_name(file.name + ".done")


class GrowingSeries:
    """A series that is still being written, looked at again and again; `promised` frames, where that is known."""

    def __init__(self, path: str | Path, *, promised: int | None = None) -> None:
        self.path, self.promised = path, promised
        self._files: dict[str, tuple[int, int]] = {}
        self._chunks: dict[int, list[tuple[int, int]]] = {}
        self._arrived: set[int] = set()
        self._ahead, self._since = False, (0, time.monotonic())

    def look(self) -> Arrived:
        """What has arrived by now. Raises `InputError`, with the reason, where there is nothing that can be read."""
        marked = done_mark(self.path).exists()  # first: whatever came before it is seen
        there, numbers, whole = self._of_files() if names_files(self.path) else self._of_store()
        if self.promised is not None:
            enough = len(there) >= self.promised and bool(there[: self.promised].all())
            whole = f"all of its {self.promised:,} frames are there" if enough else ""
        return Arrived(there, numbers, f"{done_mark(self.path).name} is there" if marked else whole)

    def _of_files(self) -> tuple[NDArray[np.bool_], NDArray[np.int64], str]:
        from braggflow.frames.file_series import series_of, stacks_of

        stacks = stacks_of(self.path)
        data = series_of(stacks, growing=True)
        there = np.ones(data.sizes["frame"], bool)
        there[list(missing_frames(data))] = False
        seen, start, written, settled = self._files, 0, False, True
        self._files = {file: (size, changed) for stack in stacks for file, size, changed in stack.files}
        for stack in stacks:
            of_stack = there[start : start + stack.frames]
            start += stack.frames
            if any(is_being_written(file) for file, _, _ in stack.files):
                written = True
                _hold_back(of_stack, _frames_per_chunk(stack))
            elif any(seen.get(file) != self._files[file] for file, _, _ in stack.files):
                settled = False
                of_stack[:] = False
        promised = max(stack.promised for stack in stacks)
        whole = there.all() and settled and not written and len(there) >= promised
        told = "its files are closed, and all of its frames are there" if whole else ""
        return there, data["frame"].values, told

    def _of_store(self) -> tuple[NDArray[np.bool_], NDArray[np.int64], str]:
        data = undescribed(self.path)
        frames = data.sizes["frame"]
        array = zarr.open_array(Path(self.path) / "frames", mode="r")
        step = int((array.shards or array.chunks)[0])
        n_chunks = -(-frames // step)
        begun = _begun(Path(self.path) / "frames", array)
        seen, self._chunks = self._chunks, {}
        for index in range(n_chunks):
            if index in self._arrived or (begun is not None and index not in begun):
                continue
            stats = _stats(chunk_files(Path(self.path), array, index))
            if not stats:
                continue
            if seen.get(index) == stats:
                self._arrived.add(index)
            else:
                self._chunks[index] = stats
        chunks = np.zeros(n_chunks, bool)
        chunks[[index for index in self._arrived if index < n_chunks]] = True
        there = np.repeat(chunks, step)[:frames]
        # Two lacking chunks at the end: no writer that lengthens the array chunk by chunk leaves so many.
        last = max([*self._arrived, *self._chunks], default=-1)
        self._ahead |= n_chunks - last > 2
        if self._since[0] != int(chunks.sum()) or self._chunks:
            self._since = int(chunks.sum()), time.monotonic()
        settled = time.monotonic() - self._since[1] >= SETTLE_SECONDS
        whole = self._ahead and chunks.all() and settled
        if not chunks.all() or not settled:
            _hold_back(there, step)
        told = f"all chunks of its array have been there for {SETTLE_SECONDS:g} s" if whole else ""
        return there, data["frame"].values, told


def is_being_written(file: str) -> bool:
    """Whether an HDF5 file says that its writer has not closed it (a writer that was killed never does)."""
    try:
        with Path(file).open("rb") as opened:
            head = opened.read(_FLAGS_AT + 1)
    except OSError:
        return False
    return len(head) > _FLAGS_AT and head.startswith(_MAGIC) and head[_VERSION_AT] >= 3 and head[_FLAGS_AT] & 1 == 1


def _frames_per_chunk(stack: Stack) -> int:
    return frames_per_chunk(stack.path, stack.inside) if stack.kind == "hdf5" else 1


def _hold_back(there: NDArray[np.bool_], step: int) -> None:
    """Of chunks of several frames, the last that was begun may still be filled."""
    if step > 1 and there.any():
        last = int(np.flatnonzero(there)[-1]) // step
        there[last * step :] = False


def _begun(folder: Path, array: "zarr.Array[Any]") -> set[int] | None:
    """Indices along the first axis of which there is a file or folder; None where their names do not say so."""
    first = Path(array.metadata.encode_chunk_key((0,) * array.ndim)).parts
    depth = 2 if first[0] == "c" and len(first) > 1 else 1
    above, (head, tail) = folder.joinpath(*first[: depth - 1]), first[depth - 1].split("0", 1)
    try:
        names = os.listdir(above)  # noqa: PTH208 - of a hundred thousand
    except OSError:
        return set()
    found = set()
    for name in names:
        number = name.removeprefix(head).partition(".")[0]
        if name.startswith(head) and bool(tail) == ("." in name.removeprefix(head)) and number.isdigit():
            found.add(int(number))
    return found


def _stats(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Sizes and times of change of the files of a chunk; nothing unless all are there."""
    try:
        return [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, files)]
    except OSError:
        return []
