"""Frame caches of HEXRD: each frame as the rows, columns and values of its pixels above a threshold; the others are 0.

The layout is what hexrd writes and reads (hexrd/core/imageseries/save.py, load/framecache.py):

- `.npz`: arrays `0_row`, `0_col`, `0_data`, `1_row`, ..., with `shape` (y, x), `nframes`, `dtype` (a name, as bytes or
  str), and any arrays of metadata. The older form has its `nframes` and `dtype` in a YAML file beside it.
- `.fch5`: HDF5 with the root's attribute HEXRD_FRAMECACHE_VERSION = 1, `shape`, `nframes`, `dtype`, `data` (m, 1),
  `indices` (m, 2) of row and column, `frame_ids` (2 nframes): frame i has the entries frame_ids[2i] to
  frame_ids[2i + 1]; metadata below `metadata`.

The metadata `omega`, shape (nframes, 2), is each frame's first and last angle in degrees (load/../omega.py).
"""

import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.hdf5 import open_hdf5
from braggflow.formats.numpy_files import npz_headers
from braggflow.formats.readers import Layout, Stack, check_frame_size

_VERSION = 1


def open_frame_cache(path: str, inside: str) -> Layout:
    """Shape, dtype and angles of a frame cache of either form."""
    if inside:
        raise InputError(f"source {path}: is a frame cache of HEXRD, which is one series: {inside} is no name in it")
    shape, dtype, omega = _open_npz(path) if zipfile.is_zipfile(path) else _open_hdf5(path)
    check_frame_size(path, shape, dtype)
    return Layout(shape, dtype, coords=_angles(omega, shape[0]))


def read_frame_cache(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi, zero where the cache has no pixel."""
    read = _read_npz if zipfile.is_zipfile(stack.path) else _read_hdf5
    frames = np.zeros((hi - lo, *stack.shape), stack.dtype)
    for number, (rows, columns, values) in enumerate(read(stack, lo, hi), lo):
        inside = rows.size == 0 or (rows.max() < stack.shape[0] and columns.max() < stack.shape[1])
        if not (rows.size == columns.size == values.size and inside):
            raise ValueError(f"frame {number} has pixels beyond {stack.shape}, or not as many values as places")
        frames[number - lo, rows, columns] = values.astype(stack.dtype, casting="same_kind")
    return frames


_Pixels = list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]


def _open_npz(path: str) -> tuple[tuple[int, int, int], np.dtype[Any], Any]:
    with zipfile.ZipFile(path) as archive:
        names = npz_headers(archive)
    with np.load(path, allow_pickle=False) as arrays:
        y, x = (int(length) for length in arrays["shape"])
        stored = sum(name.endswith("_data") and name.removesuffix("_data").isdecimal() for name in names)
        frames = int(arrays["nframes"]) if "nframes" in names else stored
        gone = [i for i in range(frames) if not {f"{i}_row", f"{i}_col", f"{i}_data"} <= names.keys()][:1]
        if gone:
            raise ValueError(f"frame {gone[0]} of {frames} is not in it")
        dtype = _dtype(arrays["dtype"][()]) if "dtype" in names else names["0_data"][2]
        return (frames, y, x), dtype, arrays["omega"] if "omega" in names else None


def _read_npz(stack: Stack, lo: int, hi: int) -> _Pixels:
    with np.load(stack.path, allow_pickle=False) as arrays:
        return [(arrays[f"{i}_row"], arrays[f"{i}_col"], arrays[f"{i}_data"]) for i in range(lo, hi)]


def _open_hdf5(path: str) -> tuple[tuple[int, int, int], np.dtype[Any], Any]:
    with open_hdf5(path) as file:
        version = file.attrs.get("HEXRD_FRAMECACHE_VERSION")
        if version is None:
            raise InputError(f"source {path}: is no frame cache of HEXRD (no attribute HEXRD_FRAMECACHE_VERSION)")
        if int(version) != _VERSION:
            raise InputError(f"source {path}: is a frame cache of version {version}, must be {_VERSION}")
        y, x = (int(length) for length in file["shape"][()])
        frames = int(file["nframes"][()])
        if file["frame_ids"].size != 2 * frames:
            raise ValueError(f"it states {frames} frames, and has the entries of {file['frame_ids'].size // 2}")
        omega = file.get("metadata/omega")
        return (frames, y, x), _dtype(file["dtype"][()]), None if omega is None else omega[()]


def _read_hdf5(stack: Stack, lo: int, hi: int) -> _Pixels:
    with open_hdf5(stack.path) as file:
        ends = file["frame_ids"][()].reshape(-1, 2).astype(np.int64)
        stored = min(len(file["data"]), len(file["indices"]))
        if np.any(ends[lo:hi] > stored):
            raise ValueError(f"frames {lo} to {hi - 1} have entries beyond the {stored} that are stored")
        pixels: _Pixels = []
        for first, last in ends[lo:hi]:
            places = file["indices"][first:last]
            pixels.append((places[:, 0], places[:, 1], file["data"][first:last, 0]))
        return pixels


def _dtype(name: Any) -> np.dtype[Any]:
    text = name.decode() if isinstance(name, bytes) else str(name)
    try:
        return np.dtype(text)
    except TypeError as error:
        raise ValueError(f"it states the dtype {text!r}, which is none") from error


def _angles(omega: Any, frames: int) -> dict[str, tuple[Any, dict[str, str]]]:
    """Per-frame coordinates of stored angles; nothing where they are not one or two numbers for each frame."""
    values = np.asarray(omega if omega is not None else ())
    if values.dtype.kind not in "iuf" or values.shape not in ((frames,), (frames, 2)):
        return {}
    if values.ndim == 1:
        return {"omega": (values.astype(float), {"units": "degree"})}
    return {
        name: (values[:, column].astype(float), {"units": "degree", "long_name": f"{which} of the frame"})
        for column, (name, which) in enumerate((("omega", "start"), ("omega_end", "end")))
    }
