"""Frames read from an HDF5 file itself against the frames store that ingest makes of it, and what ingest costs.

Simulated frames of 2048² with 500 peaks, a frame in each chunk, as detectors write them. CPU time of this process with
one thread; what is compared is timed in turns, and the median taken of the times and of the turns' ratios. Files are
cached.

    python benchmarks/bench_hdf5.py      (about a minute)
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # bitshuffle's own; before it is loaded

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from data import frames_store
from numpy.typing import NDArray

from braggflow.convert import ingest
from braggflow.frames import open_frames
from braggflow.frames.reader import FrameReader

N_FRAMES = 16
REPEATS = 7
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip-1, shuffle": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "bitshuffle, lz4": dict(hdf5plugin.Bitshuffle(cname="lz4")),
    "bitshuffle, zstd": dict(hdf5plugin.Bitshuffle(cname="zstd")),
}


def measure() -> dict[str, list[dict[str, Any]]]:
    simulated = open_frames(frames_store(size=2048, peaks=500, n_frames=48))
    images, mask = simulated["frames"][:N_FRAMES].values, simulated["mask"].values
    with tempfile.TemporaryDirectory() as folder:
        return {
            "reading HDF5": [
                _row(name, _write(Path(folder) / f"{k}.h5", images, mask, options), Path(folder) / f"{k}.zarr")
                for k, (name, options) in enumerate(FILTERS.items())
            ]
        }


def _write(path: Path, images: NDArray[Any], mask: NDArray[np.bool_], options: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data", data=images, chunks=(1, *images.shape[1:]), **options)
        detector = file.create_group("entry/detector")
        detector.attrs["NX_class"] = "NXdetector"
        detector["pixel_mask"] = mask.astype(np.uint32)
    return path


def _row(name: str, path: Path, store: Path) -> dict[str, Any]:
    start = time.process_time()
    ingest([path], store, workers=1)
    ingesting = 1e3 * (time.process_time() - start) / N_FRAMES
    readers = [_reader(path), _reader(store)]
    times = np.array([[_cpu_ms(read) for read in readers] for _ in range(1 + REPEATS)])[1:]
    return {
        "filters": name,
        "MB a frame": path.stat().st_size / N_FRAMES / 1e6,
        "open, ms": median(_cpu_ms(lambda: open_frames(path)) for _ in range(REPEATS)),
        "direct, ms a frame": float(np.median(times[:, 0])) / N_FRAMES,
        "store, ms a frame": float(np.median(times[:, 1])) / N_FRAMES,
        "direct / store": float(np.median(times[:, 0] / times[:, 1])),
        "ingest, ms a frame": ingesting,
    }


def _reader(path: Path) -> Callable[[], None]:
    """Reads all frames as tasks do, chunk by chunk."""
    data = open_frames(path)
    reader, step = FrameReader(data), int(data["frames"].encoding["chunks"][0])
    chunks = np.array_split(np.arange(N_FRAMES), N_FRAMES // step)

    def read() -> None:
        for chunk in chunks:
            reader.read(chunk)

    return read


def _cpu_ms(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


if __name__ == "__main__":
    from harness import markdown

    for title, rows in measure().items():
        print(f"{title}\n{markdown(rows)}")
