"""Source files of frames: what is in them, and reading any range of their frames.

Nothing is kept open: `inspect_source` describes the stacks of a file, `read_frames` reads frames lo to hi of a stack.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.damage import reading_errors
from braggflow.formats.hdf5 import FoundDataSet, inspect_hdf5
from braggflow.formats.metadata import facts_from_text
from braggflow.formats.readers import OPENERS, READERS, Stack, stored_dtype
from braggflow.formats.sources import kind_of, split_name


def inspect_source(path: str, inside: str = "", *, coords: Mapping[str, str] | None = None) -> list[Stack]:
    """The stacks of frames in one file, in order (several only for an EIGER master file).

    `inside` names a data set (HDF5) or array (.npz), else it is found; `coords` are names of per-frame HDF5 data sets.
    Raises `InputError` naming the file where it is damaged, ambiguous, empty, or no series of 2-D numeric frames.
    """
    with reading_errors(path):
        kind = kind_of(Path(path))
        if coords and kind != "hdf5":
            raise InputError(f"--coord {next(iter(coords))}: {path} has no data sets; write --coord NAME=FILE.h5:/PATH")
        if inside and kind not in ("hdf5", "npz"):
            raise InputError(f"source {path}: only HDF5 and .npz files have data sets inside, {inside} is none")
        if kind == "hdf5":
            return [_of_hdf5(found) for found in inspect_hdf5(path, inside, coords or {})]
        shape, dtype, name, header = OPENERS[kind](path, inside)
        stack = _checked(path=path, inside=name, kind=kind, shape=shape, dtype=dtype, files=_stamp([path]))
        facts = facts_from_text(header, stack.frames)
        return [Stack(path, name, kind, stack.frames, stack.shape, stack.dtype, stack.files, facts)]


def _of_hdf5(found: FoundDataSet) -> Stack:
    return _checked(
        path=found.path,
        inside=found.inside,
        kind="hdf5",
        shape=found.shape,
        dtype=found.dtype,
        files=_stamp(found.files),
        facts=found.facts,
        missing=found.missing,
        others=found.others,
    )


def _checked(*, shape: tuple[int, ...], dtype: np.dtype[Any], path: str, inside: str, **rest: Any) -> Stack:
    name = f"source {path}:{inside}" if inside else f"source {path}"
    if len(shape) not in (2, 3):
        raise InputError(f"{name}: has shape {shape}, must be (frame, y, x) or (y, x)")
    if 0 in shape:
        raise InputError(f"{name}: has shape {shape}: the series is empty")
    frames, y, x = shape if len(shape) == 3 else (1, *shape)
    return Stack(path, inside, frames=frames, shape=(y, x), dtype=stored_dtype(dtype, name).str, **rest)


def _stamp(files: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    stats = {file: Path(file).stat() for file in files}
    return tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items())


def has_changed(stack: Stack) -> bool:
    """Whether a file of the stack is no longer what it was when inspected."""
    try:
        return _stamp([file for file, _, _ in stack.files]) != stack.files
    except OSError:
        return True


def read_frames(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi (exclusive) of a stack, shape (hi - lo, y, x), C order, dtype of the stack.

    Raises `InputError` naming the file and why it cannot be read, which it never is where frames are missing.
    """
    for first, stop, reason in stack.missing:
        if first < hi and lo < stop:
            at = f"frame {first} is" if stop - first == 1 else f"frames {first} to {stop - 1} are"
            raise InputError(f"{stack.name}: {at} missing: {reason}")
    with reading_errors(stack.name):
        frames = np.ascontiguousarray(READERS[stack.kind](stack, lo, hi), dtype=stack.dtype)
        if frames.shape != (hi - lo, *stack.shape):
            raise ValueError(f"frames {lo} to {hi - 1} have shape {frames.shape}, must be {(hi - lo, *stack.shape)}")
        return frames


def _calibration_source(path: str, inside: str) -> list[Stack]:
    """The stacks of a file of a mask, dark or flat, which in a file of frames are never taken for the frames."""
    with reading_errors(path):
        if kind_of(Path(path)) == "hdf5":
            return [_of_hdf5(found) for found in inspect_hdf5(path, inside, {}, calibration=True)]
    return inspect_source(path, inside)


def read_image(key: str, source: str | Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """One image (a mask, dark or flat) of shape (y, x) from any readable file, or `file.h5:/path`.

    Raises `InputError` naming `key`, the file, what it holds and what is accepted.
    """
    path, inside = split_name(str(source))
    if not path.is_file():
        raise InputError(f"{key}: {path} does not exist")
    try:
        stacks = _calibration_source(str(path), inside)
        if len(stacks) != 1 or stacks[0].frames != 1:
            raise InputError(f"{source} holds {sum(stack.frames for stack in stacks)} frames, must be one 2-D image")
        image: NDArray[Any] = read_frames(stacks[0], 0, 1)[0]
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    if image.shape != shape:
        raise InputError(f"{key}: {source} has shape {image.shape}, the frames are {shape}")
    return image
