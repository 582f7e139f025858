"""Frames stores: the schema of `NAME.zarr`, making one, and reading its frames.

A frames store holds `frames(frame, y, x)` in its raw dtype, optional `mask(y, x)` (True = ignore), `dark(y, x)` and
`flat(y, x)`, the index coordinate `frame`, and any per-frame coordinates.
"""

import lzma
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import ArrayLike, NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from braggflow.errors import InputError
from braggflow.frames.seals import guarded_encoding, seal

FRAMES_FORMAT = "braggflow-frames"
#: 2 added checksums (`seals`).
FRAMES_VERSION = GUARDED_SINCE = 2
#: What codecs raise of a damaged chunk, without saying which it is.
_OF_CODECS = (RuntimeError, SystemError, EOFError, zlib.error, lzma.LZMAError, struct.error)
#: What reading a damaged chunk raises: file system errors, the codecs' own, and what a length made of nonsense does.
UNREADABLE = (OSError, ValueError, MemoryError, *_OF_CODECS)
#: Aimed-at size of one chunk before compression: long enough to amortise a read, short enough to hold a few.
CHUNK_BYTES = 16 * 2**20
#: What is compressed at a time. In Blosc's own choice for this codec, 32 KiB, frames take more space and twice as long
#: to decode; bits shuffled in place of bytes do so too (docs/benchmarks.md).
BLOCK_BYTES = 2**20
#: A short series of small frames is cut finer, so that several workers share it and damage to a file costs little.
MIN_CHUNKS = 32
#: Above this many chunks, they are packed into shards so that file systems need not hold a file for each.
MAX_CHUNK_FILES = 10_000


def chunk_frames(n_frames: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> int:
    """Whole frames per chunk, for about `CHUNK_BYTES` a chunk and at least `MIN_CHUNKS` chunks."""
    return max(1, min(-(-n_frames // MIN_CHUNKS), CHUNK_BYTES // (shape[0] * shape[1] * dtype.itemsize)))


def unfinished_path(path: Path) -> Path:
    """The name under which a store is built before it is complete."""
    return path.with_name(path.name + ".wip")


def create_store(
    path: Path,
    *,
    n_frames: int,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    coords: Mapping[str, tuple[ArrayLike, Mapping[str, Any]]] | None = None,
    images: Mapping[str, ArrayLike] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> "zarr.Array[Any]":
    """Begin a frames store at `wip(path)`; return its `frames` array, to be filled chunk by chunk, then `finish(path)`.

    `coords` are per-frame coordinates as (values of shape (n_frames,), attributes); `frame` among them replaces the
    default numbering from 0. `images` may hold `mask`, `dark` and `flat`, each of shape (y, x). `attributes` may hold
    `saturation` (counts), `masked_below` (counts: pixels below it are ignored), `sources` and `geometry`.
    """
    target = unfinished_path(path)
    if target.exists():
        shutil.rmtree(target)
    coords = dict(coords or {})
    numbers, number_attributes = coords.pop("frame", (np.arange(n_frames), {}))
    small = xr.Dataset(
        {name: (("y", "x"), np.asarray(image)) for name, image in (images or {}).items()},
        coords={
            "frame": ("frame", np.asarray(numbers, np.int64), dict(number_attributes)),
            **{name: ("frame", np.asarray(values), dict(attrs)) for name, (values, attrs) in coords.items()},
        },
        attrs={"format": FRAMES_FORMAT, "format_version": FRAMES_VERSION, **(attributes or {})},
    )
    small.to_zarr(
        target,
        mode="w",
        zarr_format=3,
        consolidated=False,
        encoding=guarded_encoding(small),
        write_empty_chunks=True,
    )
    # The format here too: whoever appends to the store may leave the root without attributes.
    of_frames: dict[str, Any] = {"units": "count", "format": FRAMES_FORMAT}
    if coords:
        of_frames["coordinates"] = " ".join(coords)
    step = chunk_frames(n_frames, shape, dtype)
    n_chunks = -(-n_frames // step)
    per_shard = -(-n_chunks // MAX_CHUNK_FILES)
    zarr.open_group(target, mode="r+").create_array(
        "frames",
        shape=(n_frames, *shape),
        dtype=dtype,
        chunks=(step, *shape),
        shards=(step * per_shard, *shape) if per_shard > 1 else None,
        compressors=(
            BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=dtype.itemsize, blocksize=BLOCK_BYTES),
            Crc32cCodec(),
        ),
        dimension_names=("frame", "y", "x"),
        attributes=of_frames,
    )
    return open_unfinished_store(path)


def open_unfinished_store(path: Path) -> "zarr.Array[Any]":
    """The `frames` array of the store that `create` began at `wip(path)`, for writing, from any process."""
    # Chunks of zeros are written too, so that a chunk that is missing later is known to be lost.
    with zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.open_array(unfinished_path(path), path="frames", mode="r+")


def finish_store(path: Path) -> None:
    """Seal the complete store at `wip(path)` and give it its name; an older store of that name is replaced."""
    seal(unfinished_path(path))
    old = path.with_name(path.name + ".old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    unfinished_path(path).rename(path)
    shutil.rmtree(old, ignore_errors=True)


def frames_per_file(frames: "zarr.Array[Any]") -> int:
    """Frames per file of a store: writers must keep to multiples of it, lest two of them share a file."""
    return int((frames.shards or frames.chunks)[0])


def read_raw(data: xr.Dataset, positions: NDArray[np.int64]) -> NDArray[Any]:
    """The raw frames at ascending `positions` (n,) of an open store, shape (n, y, x).

    Raises `FileNotFoundError` where a chunk of a store of ours is missing (Zarr itself would read it as zeros), and
    `ValueError` or `OSError` where one is damaged or cannot be read.
    """
    if data.attrs.get("format") == FRAMES_FORMAT:
        folder, unit = Path(data.encoding["source"]) / "frames" / "c", _file_frames(data)
        for index in np.unique(positions // unit):
            if not (folder / str(index) / "0" / "0").exists():
                raise FileNotFoundError(f"chunk frames/c/{index}/0/0 is missing")
    consecutive = positions[-1] - positions[0] == len(positions) - 1
    try:
        values = data["frames"][slice(positions[0], positions[-1] + 1) if consecutive else positions].values
    except (*_OF_CODECS, ValueError) as error:  # which do not say where
        if "chunks" not in data["frames"].encoding:  # of no store, but of an array that is read when it is asked for
            raise
        files = ", ".join(f"frames/c/{at}/0/0" for at in np.unique(positions // _file_frames(data)))
        raise ValueError(f"chunk {files} is damaged ({error})") from error
    native: NDArray[Any] = values.astype(values.dtype.newbyteorder("="), copy=False)
    return native


@contextmanager
def reading_store(what: str) -> Iterator[None]:
    """Turn what a damaged store raises, or one that states what cannot be, into an `InputError` that begins with it."""
    try:
        yield
    except InputError:
        raise
    except (*UNREADABLE, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what}: cannot be read; damaged or incomplete? ({reason})") from error


def _file_frames(data: xr.Dataset) -> int:
    encoding = data["frames"].encoding
    return int((encoding.get("shards") or encoding["chunks"])[0])
