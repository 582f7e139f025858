"""Codecs and chunk sizes of a frames store: size, speed of writing and reading through zarr, and bare decoding.

Simulated frames of 2048² with 500 peaks and of 512² with 14, and real ones where BRAGGFLOW_REAL_DATA names a folder.
First every codec with the frames per chunk that ingest would choose, then other frames per chunk, in shards and not,
with a few codecs. Times are CPU time of this process with one thread, the least of a few repeats; files are cached,
writing does not wait for the disk. MB are of frames, not of files.

    python benchmarks/bench_codecs.py      (about 3 minutes)
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import zarr
from data import frames_store
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, ZstdCodec

from braggflow.formats import expand_sources, inspect_source, read_frames
from braggflow.frames import open_frames
from braggflow.frames.store import BLOCK_BYTES, chunk_frames

#: Frames that are written and read: that many bytes of them, in whole shards of `SHARD_FRAMES` or more.
SAMPLE_BYTES = 2**28
SHARD_FRAMES = 32
REPEATS = 3
SHUFFLES = {"shuffle": 1, "bitshuffle": 2}
CODECS = (("lz4", 5, "shuffle"), ("lz4", 5, "bitshuffle"), ("zstd", 1, "shuffle"), ("zstd", 1, "bitshuffle"))
Frames = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Codec:
    """A way to compress chunks, for zarr and by itself."""

    name: str
    zarr: BloscCodec | ZstdCodec | None
    encode: Callable[[Frames], bytes]
    decode: Callable[[bytes, Frames], object]


def codecs(itemsize: int) -> Iterator[Codec]:
    """All that are compared, for pixels of `itemsize` bytes."""
    yield Codec("none", None, lambda block: block.tobytes(), _copy)
    yield Codec(
        "zstd-1", ZstdCodec(level=1), lambda block: numcodecs.zstd.compress(block, 1), numcodecs.zstd.decompress
    )
    # Blosc's own choice of blocks (0), and the store's.
    for block in (0, BLOCK_BYTES):
        for name, level, shuffle in CODECS:
            yield Codec(
                f"blosc {name}-{level} {shuffle}" + (", blocks of 1 MiB" if block else ""),
                BloscCodec(cname=name, clevel=level, shuffle=shuffle, typesize=itemsize, blocksize=block),
                numcodecs.Blosc(name, level, SHUFFLES[shuffle], block).encode,
                numcodecs.blosc.decompress,
            )


def _copy(raw: bytes, out: Frames) -> None:
    out[...] = np.frombuffer(raw, out.dtype).reshape(out.shape)


def samples() -> Iterator[tuple[str, Frames]]:
    """Series of frames (frame, y, x), each with its name."""
    for size, peaks, n_frames in ((2048, 500, 48), (512, 14, 480)):
        path = frames_store(size=size, peaks=peaks, n_frames=n_frames)
        yield f"simulated, {size}², {peaks} peaks", _of_sample_size(open_frames(path)["frames"].values)
    folder = os.environ.get("BRAGGFLOW_REAL_DATA")
    if folder is None:
        print("BRAGGFLOW_REAL_DATA is not set: no real frames", file=sys.stderr)
        return
    for name, source in (
        ("GE, thresholded at source, 2048²", "zr_ge2/zr_ge2.h5"),
        ("CCD, diffuse background, 1024²", "snase_ccd/*.img"),
    ):
        stacks = [inspect_source(*found)[0] for found in expand_sources([Path(folder) / source])]
        yield name, _of_sample_size(np.concatenate([read_frames(stack, 0, stack.frames) for stack in stacks]))


def _of_sample_size(series: Frames) -> Frames:
    """As many frames as make the sample, in turn again where there are not enough."""
    count = max(SHARD_FRAMES, SAMPLE_BYTES // series[0].nbytes // SHARD_FRAMES * SHARD_FRAMES)
    return np.ascontiguousarray(series[np.arange(count) % len(series)])


def measure() -> list[dict[str, Any]]:
    """One row a combination: series, codec, frames per chunk, sharded, and what `row` returns."""
    numcodecs.blosc.set_nthreads(1)
    rows = []
    with zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1, "array.write_empty_chunks": True}):
        for name, series in samples():
            known = {codec.name: codec for codec in codecs(series.itemsize)}
            usual = chunk_frames(480, series.shape[1:], series.dtype)
            steps = (1, 2, 4, 8) if series[0].nbytes > 2**20 else (1, 15, 60)
            chosen = "blosc zstd-1 shuffle, blocks of 1 MiB"
            plans = [(codec, usual, False) for codec in known]
            plans += [(chosen, step, False) for step in steps if step != usual]
            plans.append((chosen, 1, True))
            for codec, step, sharded in plans:
                rows.append({"series": name, "codec": codec, **row(series, known[codec], step, sharded=sharded)})
                print(".", end="", file=sys.stderr, flush=True)
    return rows


def row(series: Frames, codec: Codec, step: int, *, sharded: bool) -> dict[str, Any]:
    """Size and speed (MB/s of frames) of one codec with `step` frames per chunk."""
    whole = series[: len(series) // step * step]
    megabytes = whole.nbytes / 1e6
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        array = zarr.create_array(
            folder,
            shape=whole.shape,
            dtype=whole.dtype,
            chunks=(step, *whole.shape[1:]),
            shards=(SHARD_FRAMES, *whole.shape[1:]) if sharded else None,
            compressors=codec.zarr,
            serializer=BytesCodec(),
        )
        unit = SHARD_FRAMES if sharded else step

        def write() -> None:
            for first in range(0, len(whole), unit):
                array[first : first + unit] = whole[first : first + unit]

        def read() -> None:
            for first in range(0, len(whole), step):
                array[first : first + step]

        writing, reading = cpu_seconds(write, 1), cpu_seconds(read, REPEATS)
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        if not np.array_equal(array[:step], whole[:step]):
            raise AssertionError(f"{codec.name}: what is read is not what was written")
    chunks = [codec.encode(whole[first : first + step]) for first in range(0, len(whole), step)]
    out = np.empty_like(whole[:step])

    def decode() -> None:
        for chunk in chunks:
            codec.decode(chunk, out)

    decoding, frame = cpu_seconds(decode, REPEATS) / len(whole), whole[0].nbytes / 1e6
    return {
        "frames per chunk": step,
        "shards": "yes" if sharded else "no",
        "size": stored / whole.nbytes,
        "write MB/s": megabytes / writing,
        "read with zarr MB/s": megabytes / reading,
        "decode ms a frame": decoding * 1e3,
        "ms a frame at 200 MB/s": (frame * stored / whole.nbytes / 200 + decoding) * 1e3,
    }


def cpu_seconds(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    for found in measure():
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in found.items()))


if __name__ == "__main__":
    main()
