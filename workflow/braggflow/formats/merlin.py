"""Merlin files (`.mib`) of Medipix3 detectors: a text header and the values of each frame, one after the other.

The header's fields are parted by commas (Quantum Detectors' Merlin manual; LiberTEM and RosettaSciIO read them alike):
MQ1, number of the frame, bytes of the header, chips, pixels in x, pixels in y, type of the values, layout, ... Values
are big-endian. Rows are taken in the order of the file; some programs turn them upside down for display.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.readers import Layout, Stack

_TYPES = {"U08": "u1", "U16": ">u2", "U32": ">u4", "U64": ">u8"}
#: The fields that are used end well before this.
_FIELDS_BYTES = 96


class _Header(NamedTuple):
    size: int
    """Bytes before the first value."""
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def record(self) -> int:
        """Bytes from one frame's header to the next."""
        return self.size + self.shape[0] * self.shape[1] * self.dtype.itemsize


def open_mib(path: str, _: str) -> Layout:
    """The frames of a file; refused where it ends within one, or holds raw counters."""
    with Path(path).open("rb") as file:
        header = _header(file.read(_FIELDS_BYTES), path)
    frames, rest = divmod(Path(path).stat().st_size, header.record)
    if rest or not frames:
        raise ValueError(f"after {frames} whole frames come {rest} of the {header.record} bytes of another")
    return Layout((frames, *header.shape), header.dtype)


def read_mib(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi, each with a header that is like the first one's."""
    with Path(stack.path).open("rb") as file:
        first = _header(file.read(_FIELDS_BYTES), stack.path)
        file.seek(lo * first.record)
        frames = np.empty((hi - lo, *first.shape), first.dtype)
        for number in range(lo, hi):
            record = file.read(first.record)
            if not record.startswith(b"MQ1,") or _header(record[:_FIELDS_BYTES], stack.path) != first:
                raise ValueError(f"frame {number} has no header, or not one like that of frame 0")
            frames[number - lo] = np.frombuffer(record, first.dtype, offset=first.size).reshape(first.shape)
        return frames


def _header(head: bytes, path: str) -> _Header:
    fields = head.decode("ascii", errors="replace").split(",")
    if len(fields) < 8 or fields[0] != "MQ1":
        raise ValueError("it has no Merlin header (MQ1,...)")
    size, x, y = (int(fields[place]) for place in (2, 4, 5))
    kind = fields[6].strip()
    if kind.startswith("R"):
        raise InputError(
            f"source {path}: holds raw counters ({kind}), whose pixels lie in the order of the readout; "
            "LiberTEM reads them: save the array as .npy or HDF5"
        )
    if kind not in _TYPES or min(size, x, y) < 1:
        raise ValueError(f"its header states {y} x {x} pixels of type {kind} after {size} bytes")
    return _Header(size, (y, x), np.dtype(_TYPES[kind]))
