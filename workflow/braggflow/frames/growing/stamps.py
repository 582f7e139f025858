"""Stamps of frames: texts that are others when a frame was written anew, whatever its writer does."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from braggflow.errors import InputError
from braggflow.formats import Stack, open_hdf5, read_frames
from braggflow.frames.data_sets import names_files


def frame_stamps(path: str | Path, positions: Sequence[int]) -> list[str]:
    """The stamps of the frames at `positions`; "" where a frame is not there or cannot be read.

    Of Zarr, size and time of change of the chunk's files; of an EIGER series, of the data file, which is written as a
    whole; of one HDF5 file, which changes with every frame, the checksum of the chunk as it is stored.
    """
    if not names_files(path):
        return _of_store(Path(path), positions)
    from braggflow.frames.file_series import stacks_of

    stacks = stacks_of(path)
    starts = np.cumsum([0, *(stack.frames for stack in stacks)])
    stamps = [""] * len(positions)
    of_stack = np.searchsorted(starts, positions, side="right") - 1
    for at, stack in enumerate(stacks):
        mine = np.flatnonzero(of_stack == at).tolist()
        if mine:
            inside = [positions[i] - int(starts[at]) for i in mine]
            found = _of_hdf5(stack, inside) if len(stacks) == 1 else [_of_whole_file(stack)] * len(mine)
            for i, stamp in zip(mine, found, strict=True):
                stamps[i] = stamp
    return stamps


def chunk_files(path: Path, array: "zarr.Array[Any]", index: int) -> list[Path]:
    """The files of a store that hold the frames of a chunk, or shard, along the first axis."""
    units = array.shards or array.chunks
    grid = [range(-(-size // unit)) for size, unit in zip(array.shape[1:], units[1:], strict=True)]
    places = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, len(grid)).tolist()
    return [path / "frames" / array.metadata.encode_chunk_key((index, *place)) for place in places]


def _of_store(path: Path, positions: Sequence[int]) -> list[str]:
    array = zarr.open_array(path / "frames", mode="r")
    step = int((array.shards or array.chunks)[0])
    known: dict[int, str] = {}
    for index in {position // step for position in positions}:
        try:
            stats = [os.stat(file) for file in chunk_files(path, array, index)]  # noqa: PTH116 - many
        except OSError:
            known[index] = ""
        else:
            known[index] = ",".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)
    return [known[position // step] for position in positions]


def _of_whole_file(stack: Stack) -> str:
    return ",".join(f"{Path(file).name}:{size}:{changed}" for file, size, changed in stack.files)


def _of_hdf5(stack: Stack, positions: Sequence[int]) -> list[str]:
    try:
        with open_hdf5(stack.path) as file:
            data_set = file.get(stack.inside)
            chunks = None if data_set is None or data_set.is_virtual else data_set.chunks
            if chunks is not None and len(chunks) == 3:
                known: dict[int, str] = {}
                for index in {position // chunks[0] for position in positions}:
                    known[index] = _of_chunk(data_set, index)
                return [known[position // chunks[0]] for position in positions]
    except (OSError, RuntimeError, KeyError, ValueError):
        return [""] * len(positions)
    return [_of_pixels(stack, position) for position in positions]


def _of_chunk(data_set: Any, index: int) -> str:
    """The checksum of what is stored of the frames of a chunk along the first axis."""
    first, (step_y, step_x) = index * data_set.chunks[0], data_set.chunks[1:]
    checksum = 0
    try:
        for y in range(0, data_set.shape[1], step_y):
            for x in range(0, data_set.shape[2], step_x):
                checksum = zlib.crc32(data_set.id.read_direct_chunk((first, y, x))[1], checksum)
    except (OSError, RuntimeError, ValueError):  # it is not there
        return ""
    return f"{checksum:08x}"


def _of_pixels(stack: Stack, position: int) -> str:
    """As `_of_chunk`, where frames are not chunks of the file itself."""
    try:
        return f"{zlib.crc32(read_frames(stack, position, position + 1).data):08x}"
    except (InputError, OSError):
        return ""
