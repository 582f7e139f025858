"""Arrays of NumPy: `.npy` files, and the members of `.npz` files."""

import zipfile
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.readers import Layout, Stack, check_frame_size, check_stated_size, is_image_stack
from braggflow.formats.sources import is_compressed, opened

#: Shape, whether in Fortran order, dtype, and where in the file the first value is.
_Header = tuple[tuple[int, ...], bool, np.dtype[Any], int]


def open_npy(path: str, _: str) -> Layout:
    """The array of a .npy file; its pickled objects are never loaded."""
    with opened(path) as file:
        shape, _fortran, dtype, start = npy_header(file)
    check_frame_size(path, shape, dtype)
    if not dtype.hasobject and not is_compressed(path):
        check_stated_size(path, prod(shape) * dtype.itemsize, start)
    return Layout(shape, dtype)


def read_npy(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi; in Fortran order too, where the values of a frame lie far apart."""
    if is_compressed(stack.path):
        with opened(stack.path) as file:
            return _unpacked(file, stack, lo, hi)
    array: NDArray[Any] = np.load(stack.path, mmap_mode="r", allow_pickle=False)
    if array.flags.c_contiguous:
        return np.array(array.reshape(stack.frames, *stack.shape)[lo:hi])
    return _of_fortran(array, lo, hi)


def _of_fortran(array: NDArray[Any], lo: int, hi: int) -> NDArray[Any]:
    """Frames of an array whose reshaping would copy all of it."""
    scan = array.shape[:-2]
    return np.stack([array[np.unravel_index(number, scan)] if scan else array for number in range(lo, hi)])


def open_npz(path: str, inside: str) -> Layout:
    """The array that is named, or the only one that can be frames: a series before a single image, as in HDF5."""
    with zipfile.ZipFile(path) as archive:
        headers = npz_headers(archive)
    name = inside.strip("/") or _chosen(path, headers)
    if name not in headers:
        raise InputError(f"source {path}: has no array {name} (has: {_listed(headers)})")
    shape, _, dtype, _ = headers[name]
    check_frame_size(path, shape, dtype)
    others = [key for key, (s, _, d, _) in headers.items() if key != name and is_image_stack(s, d)]
    return Layout(shape, dtype, f"/{name}", others=tuple(f"/{key} {headers[key][0]}" for key in others))


def _chosen(path: str, headers: Mapping[str, _Header]) -> str:
    images = {key: len(shape) for key, (shape, _, dtype, _) in headers.items() if is_image_stack(shape, dtype)}
    series = [key for key, n_dims in images.items() if n_dims > 2]
    chosen = series or list(images)
    if len(chosen) == 1:
        return chosen[0]
    if len(headers) == 1 and not chosen:
        return next(iter(headers))  # what is wrong with it is said in one place
    what = f"{len(chosen)} of its arrays may be the frames" if chosen else "none of its arrays can be frames"
    raise InputError(
        f"source {path}: {what}; name one as {path}:/NAME if it is (frame, y, x) or (y, x) (has: {_listed(headers)})"
    )


def _listed(headers: Mapping[str, _Header]) -> str:
    return ", ".join(f"{key} {shape} of {dtype}" for key, (shape, _, dtype, _) in headers.items()) or "none"


def npz_headers(archive: zipfile.ZipFile) -> dict[str, _Header]:
    """Names and headers of all arrays; refused where one's values are not as many bytes as its header states."""
    headers: dict[str, _Header] = {}
    for member in archive.infolist():
        if not member.filename.endswith(".npy"):
            continue
        with archive.open(member) as file:
            shape, fortran, dtype, start = npy_header(file)
        if not dtype.hasobject and member.file_size != start + prod(shape) * dtype.itemsize:
            raise ValueError(
                f"{member.filename} states shape {shape} of {dtype}, which is "
                f"{prod(shape) * dtype.itemsize:,} bytes; it has {member.file_size - start:,}"
            )
        headers[member.filename.removesuffix(".npy")] = (shape, fortran, dtype, start)
    return headers


def npy_header(file: Any) -> _Header:
    """Header of an array; the file is left at the first value."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if any(length < 0 for length in shape):
        raise ValueError(f"its header states shape {shape}")
    return shape, fortran, dtype, file.tell()


def read_npz(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi; a compressed member is unpacked from its start, one in Fortran order whole."""
    with zipfile.ZipFile(stack.path) as archive, archive.open(stack.inside.strip("/") + ".npy") as file:
        return _unpacked(file, stack, lo, hi)


def _unpacked(file: Any, stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi of an array that can only be read from its start on."""
    shape, fortran, dtype, _ = npy_header(file)
    if fortran:
        return _of_fortran(np.frombuffer(file.read(), dtype).reshape(shape, order="F"), lo, hi)
    size = stack.shape[0] * stack.shape[1] * dtype.itemsize
    file.seek(lo * size, 1)
    values = np.frombuffer(file.read((hi - lo) * size), dtype)
    return values.reshape(hi - lo, *stack.shape)
