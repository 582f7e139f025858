"""Source files of frames: what is in them, and reading any range of their frames.

Nothing is kept open: `inspect_source` describes the stacks of a file, `read_frames` reads frames lo to hi of a stack.
A new format is a module with an opener and a reader, which stand in `OPENERS` and `READERS` here; its suffixes and
first bytes stand in `sources`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.damage import reading_errors
from braggflow.formats.fabio_files import open_fabio, read_fabio
from braggflow.formats.frame_cache import open_frame_cache, read_frame_cache
from braggflow.formats.hdf5 import FoundDataSet, inspect_hdf5, read_hdf5
from braggflow.formats.merlin import open_mib, read_mib
from braggflow.formats.metadata import facts_from_text, grid_coords
from braggflow.formats.numpy_files import open_npy, open_npz, read_npy, read_npz
from braggflow.formats.readers import SMALLEST_SIDE, Stack, stored_dtype
from braggflow.formats.sources import content_of, kind_for, split_name, suffix_of
from braggflow.formats.tiff import open_tiff, read_tiff

OPENERS = {
    "tiff": open_tiff,
    "npy": open_npy,
    "npz": open_npz,
    "frame_cache": open_frame_cache,
    "merlin": open_mib,
    "fabio": open_fabio,
}
READERS = {
    "hdf5": lambda stack, lo, hi: read_hdf5(stack.path, stack.inside, lo, hi),
    "tiff": read_tiff,
    "npy": read_npy,
    "npz": read_npz,
    "frame_cache": read_frame_cache,
    "merlin": read_mib,
    "fabio": read_fabio,
}
#: Formats whose files may begin with zeros, or with text that no mark tells: only their readers know.
_WITHOUT_MARK = {"ge", "ge1", "ge2", "ge3", "ge4", "ge5", "spe", "mrc", "f2d", "spr", "mpa", "kcd", "pgm"}


def inspect_source(path: str, inside: str = "", *, coords: Mapping[str, str] | None = None) -> list[Stack]:
    """The stacks of frames in one file, in order (several only for an EIGER master file).

    `inside` names a data set (HDF5) or array (.npz), else it is found; `coords` are names of per-frame HDF5 data sets.
    Raises `InputError` naming the file where it is damaged, ambiguous, empty, or no series of 2-D numeric frames.
    """
    stacks = _inspect(path, inside, coords)
    for stack in stacks:
        if min(stack.shape) < SMALLEST_SIDE:
            raise InputError(
                f"source {stack.name}: its frames are {stack.shape}, smaller than a patch ({SMALLEST_SIDE} pixels on a "
                "side); frames must be (frame, y, x) or (y, x)"
            )
    return stacks


def _inspect(
    path: str, inside: str, coords: Mapping[str, str] | None = None, *, calibration: bool = False
) -> list[Stack]:
    """As `inspect_source`; `calibration`: a mask, dark or flat of any size is meant, which frames never are."""
    with reading_errors(path, path):
        kind = _checked_kind(path)
        if coords and kind != "hdf5":
            raise InputError(f"--coord {next(iter(coords))}: {path} has no data sets; write --coord NAME=FILE.h5:/PATH")
        if inside and kind not in ("hdf5", "npz", "frame_cache"):
            raise InputError(f"source {path}: only HDF5 and .npz files have data sets inside, {inside} is none")
        if kind == "hdf5":
            return [_of_hdf5(found) for found in inspect_hdf5(path, inside, coords or {}, calibration=calibration)]
        return [_file_stack(path, inside, kind)]


def _checked_kind(path: str) -> str:
    """The kind of a file; refused where its content is of no kind that is read, whatever its name is."""
    if Path(path).stat().st_size == 0:
        raise InputError(f"source {path}: is empty (0 bytes)")
    content, suffix = content_of(Path(path)), suffix_of(Path(path))
    kind = kind_for(content, Path(path))
    if content is not None and not content.kind and suffix not in _WITHOUT_MARK:
        hint = content.hint and f"; {content.hint}"
        raise InputError(f"source {path}: cannot be read; its content is {content.what}{hint}")
    if content is None and kind in _MARKED:
        raise InputError(
            f"source {path}: cannot be read; its content is not {_MARKED[kind]}, nor of another kind that is known here"
        )
    return kind


#: Kinds whose files all begin with their mark; of HDF5 files some begin with a block of the user's.
_MARKED = {"tiff": "TIFF", "npy": "a NumPy array", "npz": "a zip archive", "merlin": "Merlin"}


def _file_stack(path: str, inside: str, kind: str) -> Stack:
    """The stack of a file that is not HDF5; a scan over a grid has its rows and columns as coordinates."""
    layout = OPENERS[kind](path, inside)
    shape, coords = layout.shape, dict(layout.coords)
    if len(shape) == 4:
        coords |= grid_coords(*shape[:2])
        shape = (prod(shape[:2]), *shape[2:])
    stack = _checked(path=path, inside=layout.inside, kind=kind, shape=shape, dtype=layout.dtype, files=_stamp([path]))
    facts = facts_from_text(layout.header, stack.frames, stack.shape)
    return replace(stack, facts=replace(facts, coords=facts.coords | coords), others=layout.others)


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
        promised=found.promised,
    )


def _checked(*, shape: tuple[int, ...], dtype: np.dtype[Any], path: str, inside: str, **rest: Any) -> Stack:
    name = f"source {path}:{inside}" if inside else f"source {path}"
    if dtype.names:
        raise InputError(f"{name}: holds a table of {', '.join(dtype.names)}; save the frames alone")
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
    with reading_errors(stack.name, stack.path):
        read = READERS[stack.kind](stack, lo, hi)
        if stored_dtype(read.dtype, stack.name) != stack.dtype:
            raise ValueError(f"frames {lo} to {hi - 1} are {read.dtype}, those that were inspected {stack.dtype}")
        frames = np.ascontiguousarray(read, dtype=stack.dtype)
        if frames.shape != (hi - lo, *stack.shape):
            raise ValueError(f"frames {lo} to {hi - 1} have shape {frames.shape}, must be {(hi - lo, *stack.shape)}")
        return frames


def read_image(key: str, source: str | Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """One image (a mask, dark or flat) of shape (y, x) from any readable file, or `file.h5:/path`.

    Raises `InputError` naming `key`, the file, what it holds and what is accepted.
    """
    path, inside = split_name(str(source))
    if not path.is_file():
        raise InputError(f"{key}: {path} does not exist")
    try:
        stacks = _inspect(str(path), inside, calibration=True)
        if len(stacks) != 1 or stacks[0].frames != 1:
            raise InputError(f"{source} holds {sum(stack.frames for stack in stacks)} frames, must be one 2-D image")
        image: NDArray[Any] = read_frames(stacks[0], 0, 1)[0]
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    if image.shape != shape:
        raise InputError(f"{key}: {source} has shape {image.shape}, the frames are {shape}")
    return image
