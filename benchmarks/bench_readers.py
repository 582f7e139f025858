"""Three ways of reading a frames store on one core: Zarr's codec pipeline, that of the `zarrs` package, and our reader.

The last also without comparing the checksums of the same files: what that costs. (Of two copies of a store the one may
be read up to a tenth faster than the other, by where they lie in memory.)

CPU and wall time of this process, medians of several passes over the whole series in turns; files are cached.

    python benchmarks/bench_readers.py      (about a minute; `zarrs` comes with the extra dev)
"""

import os

os.environ["RAYON_NUM_THREADS"] = "1"  # zarrs' threads, before it is loaded

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numcodecs.blosc
import numpy as np
import zarr
from data import frames_store

from braggflow.frames import open_frames
from braggflow.frames.reader import FrameReader
from braggflow.frames.seals import checksum_fits
from braggflow.frames.store import read_raw

PASSES = 7
#: Passes with checksums and without, in turns: their ratio is to be known to a percent.
PAIRS = 15
ONE_THREAD = {"threading.max_workers": 1, "async.concurrency": 1, "codec_pipeline.max_workers": 1}
PIPELINES: Mapping[str, Mapping[str, Any]] = {
    "zarr": {},
    "zarrs": {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"},
}


def measure() -> list[dict[str, Any]]:
    """One row a series and way: ms a frame, and the ratio to Zarr's own pipeline."""
    numcodecs.blosc.set_nthreads(1)
    rows = []
    for size, peaks, n_frames in ((2048, 500, 48), (512, 14, 480)):
        path = frames_store(size=size, peaks=peaks, n_frames=n_frames)
        passes = {name: _pipeline(path, settings) for name, settings in PIPELINES.items()}
        passes["braggflow.frames.FrameReader"] = _own(path)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in passes}
        for _ in range(PASSES):
            for name, read_all in passes.items():
                seconds[name].append(_timed(read_all))
        median = {
            name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in seconds.items()
        }
        rows += [
            {
                "series": f"simulated, {size}², {peaks} peaks",
                "reader": name,
                "cpu ms a frame": cpu / n_frames * 1e3,
                "wall ms a frame": wall / n_frames * 1e3,
                "cpu ratio to zarr": cpu / median["zarr"][0],
            }
            for name, (cpu, wall) in median.items()
        ]
    return rows


def _pipeline(path: Path, settings: Mapping[str, Any]) -> Callable[[], None]:
    """Reads all frames, chunk by chunk, with a codec pipeline of Zarr's."""
    with zarr.config.set({**ONE_THREAD, **settings}):
        data = open_frames(path)
    step = int(data["frames"].encoding["chunks"][0])

    def read_all() -> None:
        with zarr.config.set({**ONE_THREAD, **settings}):
            for first in range(0, data.sizes["frame"], step):
                read_raw(data, np.arange(first, min(first + step, data.sizes["frame"])))

    return read_all


def _own(path: Path) -> Callable[[], None]:
    data = open_frames(path)
    reader, n, step = FrameReader(data), data.sizes["frame"], int(data["frames"].encoding["chunks"][0])

    def read_all() -> None:
        for first in range(0, n, step):
            following = first + step if first + step < n else None
            reader.read(np.arange(first, min(first + step, n)), following=following)

    return read_all


def cost_of_checksums() -> list[dict[str, Any]]:
    """One row a series: the time of reading it with checksums to that without, medians of the ratios of neighbours."""
    numcodecs.blosc.set_nthreads(1)
    rows = []
    for size, peaks, n_frames in ((2048, 500, 48), (512, 14, 480)):
        path = frames_store(size=size, peaks=peaks, n_frames=n_frames)
        read_all, seconds = _own(path), {}
        ratios = []
        for at in range(PAIRS):
            for compared in (True, False) if at % 2 else (False, True):
                with patch("braggflow.frames.reader.checksum_fits", checksum_fits if compared else _not_compared):
                    seconds[compared] = _timed(read_all)
            ratios.append([ours / without for ours, without in zip(seconds[True], seconds[False], strict=True)])
        cpu, wall = (statistics.quantiles(column, n=4) for column in zip(*ratios, strict=True))
        rows.append(
            {
                "series": f"simulated, {size}², {peaks} peaks",
                "cpu ratio to without checksums": cpu[1],
                "quartiles of cpu": f"{cpu[0]:.3f} to {cpu[2]:.3f}",
                "wall ratio to without checksums": wall[1],
                "quartiles of wall": f"{wall[0]:.3f} to {wall[2]:.3f}",
            }
        )
    return rows


def _not_compared(_body: object, _stated: bytes) -> bool:
    return True


def _timed(action: Callable[[], None]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    for row in measure() + cost_of_checksums():
        print(", ".join(f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()))


if __name__ == "__main__":
    main()
