"""Chunks that were written by gzip, with or without the bytes shuffled: inflated by libdeflate.

HDF5 asks zlib, which takes three times as long (`benchmarks/bench_hdf5.py`).
"""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_deflated(data_set: Any, lo: int, hi: int) -> NDArray[Any] | None:
    """Images lo to hi of a data set (frame, y, x); None where HDF5 itself has to read them.

    That is where other filters were used, a chunk was never written, or one cannot be inflated: HDF5 then says why.
    """
    shuffled = _is_shuffled(data_set)
    if shuffled is None or hi <= lo:
        return None
    from imagecodecs import DeflateError, deflate_decode  # here: few files need it

    chunk, shape = data_set.chunks, data_set.shape
    images = np.empty((hi - lo, *shape[1:]), data_set.dtype)
    packed = np.empty(np.prod(chunk, dtype=np.int64) * images.itemsize, np.uint8)
    firsts = (
        range(lo - lo % chunk[0], hi, chunk[0]),
        *(range(0, n, step) for n, step in zip(shape[1:], chunk[1:], strict=True)),
    )
    for first in product(*firsts):
        try:
            left_out, content = data_set.id.read_direct_chunk(first)
            if left_out or len(deflate_decode(content, out=packed.data)) != packed.size:
                return None
        except (OSError, ValueError, RuntimeError, DeflateError):  # never written, damaged
            return None
        unpacked = _together(packed, images.itemsize) if shuffled else packed
        values = unpacked.view(images.dtype).reshape(chunk)
        there = slice(max(lo - first[0], 0), min(hi - first[0], chunk[0]))
        rows, columns = (slice(at, at + n) for at, n in zip(first[1:], chunk[1:], strict=True))
        place = images[first[0] + there.start - lo : first[0] + there.stop - lo, rows, columns]
        place[...] = values[there, : place.shape[1], : place.shape[2]]
    return images


def _is_shuffled(data_set: Any) -> bool | None:
    """Whether bytes of chunks compressed by gzip alone were shuffled before; None of all other data sets."""
    import h5py

    if data_set.chunks is None or len(data_set.shape) != 3 or data_set.dtype.kind not in "iuf":
        return None
    created = data_set.id.get_create_plist()
    filters = [created.get_filter(at) for at in range(created.get_nfilters())]
    codes = [code for code, *_ in filters]
    if codes == [h5py.h5z.FILTER_DEFLATE]:
        return False
    if codes == [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE] and filters[0][2][:1] == (data_set.dtype.itemsize,):
        return bool(data_set.dtype.itemsize > 1)
    return None


def _together(planes: NDArray[np.uint8], itemsize: int) -> NDArray[np.uint8]:
    """The bytes of each number beside each other, which lay in one plane for each byte."""
    numbers = np.empty((planes.size // itemsize, itemsize), np.uint8)
    for byte, plane in enumerate(planes.reshape(itemsize, -1)):
        numbers[:, byte] = plane
    return numbers.ravel()
