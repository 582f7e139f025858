"""What the readers of all formats share: the stack of frames in a file, and checks of what a header states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from braggflow.errors import InputError
from braggflow.formats.metadata import Facts

#: Pixels on a side of the smallest patch: an array that is smaller is no detector frame.
SMALLEST_SIDE = 9
#: One frame above this, in a file that is less than a thousandth of it, is a header that lies: no detector makes frames
#: so large, and no lossless compression of counts is so good.
_LARGEST_FRAME_BYTES = 2**32
_LARGEST_RATIO = 1000


@dataclass(frozen=True, slots=True)
class Stack:
    """One data set or file of frames."""

    path: str
    inside: str
    """Data set in an HDF5 file or array in a .npz, else empty."""
    kind: str
    """hdf5, tiff, npy, npz, frame_cache, merlin or fabio."""
    frames: int
    shape: tuple[int, int]
    """(y, x)"""
    dtype: str
    """Of the frames as they are read: native byte order."""
    files: tuple[tuple[str, int, int], ...]
    """Every file that the frames lie in: path, bytes, time of change in ns."""
    facts: Facts = field(default_factory=Facts)
    missing: tuple[tuple[int, int, str], ...] = ()
    """Frames that were never written, as (first, the one after the last, reason); reading them is refused."""
    others: tuple[str, ...] = ()
    """What else in the file may be frames and is not taken, as `/path (shape)`."""
    promised: int = 0
    """Frames that the series of which it is a part was to have; 0 where nothing is stated."""

    @property
    def name(self) -> str:
        """File, and data set inside it, as a user would write it."""
        return f"{self.path}:{self.inside}" if self.inside else self.path


@dataclass(frozen=True, slots=True)
class Layout:
    """What the opener of a format finds in a file."""

    shape: tuple[int, ...]
    """(frame, y, x), (y, x), or (scan row, scan column, y, x)."""
    dtype: np.dtype[Any]
    """As in the file: any byte order, bool and float16 too."""
    inside: str = ""
    header: Mapping[str, Any] = field(default_factory=dict)
    """Text header."""
    coords: Mapping[str, tuple[Any, dict[str, str]]] = field(default_factory=dict)
    """Per-frame values that the file states beside its frames, and their attributes."""
    others: tuple[str, ...] = ()


def stored_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """The dtype in which frames are stored: native byte order; bool as uint8, float16 as float32 (both exact)."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype == np.float16:
        return np.dtype(np.float32)
    if dtype.hasobject:
        raise InputError(f"{name}: holds Python objects, which are never loaded; save the numbers alone")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{name}: holds {dtype}, must be integers, booleans, or floats of 16, 32 or 64 bits")
    return dtype.newbyteorder("=")


def is_image_stack(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether an array may be frames: 2 to 4 axes, of numbers, y and x no smaller than a patch."""
    numbers = dtype.kind in "biuf" and dtype.itemsize <= 8
    return numbers and len(shape) in (2, 3, 4) and min(shape[-2:]) >= SMALLEST_SIDE and prod(shape) > 0


def check_stated_size(path: str, stated: int, offset: int = 0) -> None:
    """Refuse a file that is shorter than the uncompressed values which its header states."""
    length = Path(path).stat().st_size
    if stated < 0 or offset + stated > length:
        raise ValueError(f"its header states {stated:,} bytes of values, the file has {max(length - offset, 0):,}")


def check_frame_size(path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse a header that states frames of a size which the file cannot hold, compressed or not."""
    size, length = prod(shape[-2:]) * dtype.itemsize, Path(path).stat().st_size
    if min(shape, default=0) < 0 or (size > _LARGEST_FRAME_BYTES and size > _LARGEST_RATIO * length):
        raise ValueError(f"its header states frames of {shape[-2:]} pixels, {size:,} bytes; the file has {length:,}")


def refuse_unlike(path: str, number: int, found: tuple[Any, Any], first: tuple[Any, Any]) -> None:
    """Refuse frame `number` of (shape, dtype) `found` in a file whose first frame has others."""
    if found != first:
        raise InputError(
            f"source {path}: frame {number} is {tuple(found[0])} of {found[1]}, frame 0 is {tuple(first[0])} of "
            f"{first[1]}; all frames of a file must be alike"
        )
