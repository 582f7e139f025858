"""A stack of frames of each kind of file: opening it, and reading any range of its frames.

A new format is an opener and a reader here, its name in `OPENERS` and `READERS`, and its suffixes in `sources`.
"""

import bz2
import gzip
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.hdf5 import read_hdf5
from braggflow.formats.metadata import Facts
from braggflow.formats.sources import suffix_of

#: More than any CBF header takes.
_CBF_HEADER_BYTES = 2**20
#: Enough to see whether padding or another header follows the last frame of an EDF file.
_EDF_REST_BYTES = 512


@dataclass(frozen=True, slots=True)
class Stack:
    """One data set or file of frames."""

    path: str
    inside: str
    """Data set in an HDF5 file or array in a .npz, else empty."""
    kind: str
    """hdf5, tiff, npy, npz or fabio."""
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

    @property
    def name(self) -> str:
        """File, and data set inside it, as a user would write it."""
        return f"{self.path}:{self.inside}" if self.inside else self.path


def stored_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """The dtype in which frames are stored: native byte order; bool as uint8, float16 as float32 (both exact)."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype == np.float16:
        return np.dtype(np.float32)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{name}: holds {dtype}, must be integers, booleans, or floats of 16, 32 or 64 bits")
    return dtype.newbyteorder("=")


Layout = tuple[tuple[int, ...], np.dtype[Any], str, Mapping[str, Any]]
"""Shape, dtype, name inside the file, text header."""


def _open_tiff(path: str, _: str) -> Layout:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        if len(tiff.series) != 1:
            shapes = ", ".join(str(series.shape) for series in tiff.series[:5])
            raise InputError(f"source {path}: holds {len(tiff.series)} image series of shapes {shapes}; must be one")
        series: Any = tiff.series[0]
        page: Any = tiff.pages[0]
        if not series.axes.endswith("YX"):
            raise InputError(
                f"source {path}: has axes {series.axes} and shape {series.shape}, must end in YX (no colours)"
            )
        text = page.description
        # Pilatus and EIGER TIFFs carry the header lines of a CBF here.
        header = {"_array_data.header_contents": text} if text.lstrip().startswith("#") else {}
        return series.shape, series.dtype, "", header


def _read_tiff(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(stack.path) as tiff:
        series: Any = tiff.series[0]
        if series.dataoffset is not None:
            dtype = series.dtype.newbyteorder(tiff.byteorder)
            whole = np.memmap(stack.path, dtype, "r", series.dataoffset, (stack.frames, *stack.shape))
            return np.array(whole[lo:hi])
        if len(series.pages) == stack.frames:
            return np.stack([series.pages[index].asarray() for index in range(lo, hi)])
        return np.asarray(series.asarray().reshape(stack.frames, *stack.shape)[lo:hi])


def _open_npy(path: str, _: str) -> Layout:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.shape, array.dtype, "", {}


def _read_npy(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    array = np.load(stack.path, mmap_mode="r", allow_pickle=False)
    return np.array(array.reshape(stack.frames, *stack.shape)[lo:hi])


def _open_npz(path: str, inside: str) -> Layout:
    with zipfile.ZipFile(path) as archive:
        layouts = {}
        for member in archive.namelist():
            with archive.open(member) as file:
                layouts[member.removesuffix(".npy")] = _npy_header(file)
    name = inside.strip("/")
    stacks = [key for key, (shape, _, _) in layouts.items() if len(shape) in (2, 3)]
    if not name and len(stacks) == 1:
        name = stacks[0]
    if name not in layouts:
        raise InputError(f"source {path}: name one of its arrays as {path}:/NAME (has: {', '.join(layouts) or 'none'})")
    shape, _, dtype = layouts[name]
    return shape, dtype, f"/{name}", {}


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype; the file is left at the first value."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _read_npz(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    with zipfile.ZipFile(stack.path) as archive, archive.open(stack.inside.strip("/") + ".npy") as file:
        shape, fortran, dtype = _npy_header(file)
        if fortran:
            raise ValueError("the array is in Fortran order; save it with numpy.ascontiguousarray")
        size = stack.shape[0] * stack.shape[1] * dtype.itemsize
        file.seek(lo * size, 1)
        values = np.frombuffer(file.read((hi - lo) * size), dtype)
        return values.reshape(hi - lo, *shape[-2:])


def _open_fabio(path: str, _: str) -> Layout:
    import fabio

    _check_cbf(path)
    with fabio.open(path) as image:
        if isinstance(image, fabio.edfimage.EdfImage) and suffix_of(Path(path)) == Path(path).suffix[1:].lower():
            _check_edf(path, image._frames[-1])
        shape = image.data.shape
        return (image.nframes, *shape) if image.nframes > 1 else shape, image.data.dtype, "", dict(image.header)


def _check_cbf(path: str) -> None:
    """Refuse a CBF file cut off before its binary data: fabio would look for their start for ever."""
    if suffix_of(Path(path)) == "cbf":
        opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(Path(path).suffix.lower(), open)
        with opener(path, "rb") as file:
            if b"\x0c\x1a\x04\xd5" not in file.read(_CBF_HEADER_BYTES):
                raise ValueError("its header is not followed by binary data")


def _check_edf(path: str, last: Any) -> None:
    """Refuse an EDF file cut off in the header of a frame: fabio would end the series one frame earlier."""
    if last.start is not None and last.blobsize is not None and last.bfname is None:
        with Path(path).open("rb") as file:
            file.seek(last.start + last.blobsize)
            if file.read(_EDF_REST_BYTES).strip(b"\0\r\n "):
                raise ValueError("after the last whole frame comes a part of another")


def _read_fabio(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    import fabio

    with fabio.open(stack.path) as image:
        if stack.frames == 1:
            return np.asarray(image.data)[np.newaxis]
        return np.stack([image.getframe(index).data for index in range(lo, hi)])


def _read_hdf5(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    return read_hdf5(stack.path, stack.inside, lo, hi)


OPENERS = {"tiff": _open_tiff, "npy": _open_npy, "npz": _open_npz, "fabio": _open_fabio}
READERS = {"hdf5": _read_hdf5, "tiff": _read_tiff, "npy": _read_npy, "npz": _read_npz, "fabio": _read_fabio}
