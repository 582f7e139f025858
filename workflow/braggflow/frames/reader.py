"""Chunks of a frames store, read ahead and decoded, all in memory that is used again.

Zarr decodes a chunk into new memory and copies it from there; of reading frames that took a third (docs/benchmarks.md).
To read files into new memory takes twice as long as into memory that was used before.
What is not as `create_store` writes it (shards, other codecs, arrays in memory) is left to Zarr.
"""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from braggflow.frames.seals import CRC_BYTES, checksum_fits
from braggflow.frames.store import FRAMES_FORMAT, read_raw

#: A Blosc header: its length, and where the sizes of what it holds and of itself with that stand (uint32).
_HEADER, _DECODED, _ENCODED = 16, 4, 12


class FrameReader:
    """Reads the raw frames of an open store, chunk by chunk; may be shared by threads."""

    def __init__(self, data: xr.Dataset) -> None:
        self._data = data
        self._shape = _direct_shape(data)
        self._guarded = Crc32cCodec() in (data["frames"].encoding.get("compressors") or ())
        self._mine = _OfThread()

    def read(self, positions: NDArray[np.int64], *, following: int | None = None) -> NDArray[Any]:
        """The raw frames at ascending `positions` (n,), shape (n, y, x): not to be kept, not to be written to.

        They may lie in memory that this thread's next `read` fills again. Meanwhile the file that holds the frame at
        `following`, where that is another, is read. Raises as `read_raw` does.
        """
        if self._shape is None or positions[0] // self._shape[0] != positions[-1] // self._shape[0]:
            return read_raw(self._data, positions)
        index = int(positions[0]) // self._shape[0]
        encoded = self._encoded(index)
        if following is not None and (next_index := following // self._shape[0]) != index:
            self._mine.ahead = {next_index: _file_reader().submit(self._from_disk, next_index, self._mine.next_room)}
        if self._mine.chunk is None:
            self._mine.chunk = np.empty(self._shape, self._data["frames"].dtype)
        _decode(encoded, self._mine.chunk, index)
        rows = positions - index * self._shape[0]
        consecutive = rows[-1] - rows[0] == len(rows) - 1
        return self._mine.chunk[rows[0] : rows[-1] + 1] if consecutive else self._mine.chunk[rows]

    def _encoded(self, index: int) -> memoryview:
        mine = self._mine
        coming = mine.ahead.pop(index, None)
        try:
            if coming is None:
                return self._from_disk(index, mine.room)
            encoded = coming.result()
        except FileNotFoundError:
            raise FileNotFoundError(f"chunk frames/c/{index}/0/0 is missing") from None
        mine.room, mine.next_room = mine.next_room, mine.room
        return encoded

    def _from_disk(self, index: int, room: "_Room") -> memoryview:
        """A chunk without the checksum at its end. Raises `ValueError` with its name where that does not fit.

        Whoever reads ahead compares it too: that takes a fortieth of the time of decoding, and is done beside it.
        """
        view = room.read(_file(self._data, index))
        if not self._guarded:
            return view
        if not checksum_fits(view[:-CRC_BYTES], view[-CRC_BYTES:].tobytes()):
            raise ValueError(f"chunk frames/c/{index}/0/0 is damaged (its checksum does not fit)")
        return view[:-CRC_BYTES]


class _Room:
    """Memory for a file, as large as the largest one so far."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def read(self, path: Path) -> memoryview:
        """The content of a file, until the next one is read."""
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > len(self._bytes):
                self._bytes = np.empty(size, np.uint8)
            view, at = self._bytes.data[:size], 0
            while n := file.readinto(view[at:]):
                at += n
        return view[:at].toreadonly()


class _OfThread(threading.local):
    """What a thread has of its own."""

    def __init__(self) -> None:
        self.room, self.next_room = _Room(), _Room()  # one reader of files reads ahead: never two into one room
        self.chunk: NDArray[Any] | None = None
        self.ahead: dict[int, Future[memoryview]] = {}
        """The file that is being read, by the index of its chunk."""


def _decode(encoded: memoryview, chunk: NDArray[Any], index: int) -> None:
    """Fill `chunk`. Raises `ValueError` with its `index` where what is encoded is damaged."""
    sizes = [int.from_bytes(encoded[at : at + 4], "little") for at in (_ENCODED, _DECODED)]
    # The decoder believes the header, and would read or write beyond its memory.
    if len(encoded) < _HEADER or sizes != [len(encoded), chunk.nbytes]:
        raise ValueError(
            f"chunk frames/c/{index}/0/0 is damaged (a file of {len(encoded)} bytes, by its header {sizes[0]} that "
            f"hold {sizes[1]}; a chunk has {chunk.nbytes})"
        )
    try:
        numcodecs.blosc.decompress(encoded, chunk)
    except RuntimeError as error:  # which does not say where
        raise ValueError(f"chunk frames/c/{index}/0/0 is damaged ({error})") from error


def _direct_shape(data: xr.Dataset) -> tuple[int, ...] | None:
    """The shape of the chunks where they can be decoded here: whole frames, by Blosc, guarded or not, a file each."""
    array, encoding = data["frames"], data["frames"].encoding
    if data.attrs.get("format") != FRAMES_FORMAT or encoding.get("shards") or encoding.get("filters"):
        return None
    compressors = [codec for codec in encoding.get("compressors") or () if codec != Crc32cCodec()]
    if [type(codec) for codec in (*compressors, encoding.get("serializer"))] != [BloscCodec, BytesCodec]:
        return None
    # What xarray itself would have converted (a scale, another byte order) shows in the dtype.
    chunk = tuple(encoding["chunks"])
    plain = array.dtype == encoding["dtype"] and array.dtype.isnative and chunk[1:] == array.shape[1:]
    return chunk if plain else None


def _file(data: xr.Dataset, index: int) -> Path:
    return Path(data.encoding["source"]) / "frames" / "c" / str(index) / "0" / "0"


@lru_cache(maxsize=1)
def _file_reader() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
