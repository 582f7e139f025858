"""Detection of one frame: the native engine against findpeaks, in one run, with the same peaks checked."""

import statistics
import time

import numpy as np
from data import frames_store

from braggflow.detect.findpeaks_engine import persistence_findpeaks
from braggflow.detect.persistence import persistence
from braggflow.frames import open_frames

SIZE, PEAKS, MINVAL = 512, 14, 25.0


def median_seconds(function, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure() -> list[dict[str, float | int]]:
    """Seconds of both engines for one frame, after a check that they find the same peaks."""
    image = open_frames(frames_store(size=SIZE, peaks=PEAKS, n_frames=1))["frames"].values[0]
    mask = np.zeros(image.shape, bool)
    native, reference = (find(image, mask, MINVAL) for find in (persistence, persistence_findpeaks))
    for table in (native, reference):
        table.sort(order=["y_pixel", "x_pixel"])
    assert (native[["y_pixel", "x_pixel", "score"]] == reference[["y_pixel", "x_pixel", "score"]]).all()
    slow = median_seconds(lambda: persistence_findpeaks(image, mask, MINVAL), 3)
    fast = median_seconds(lambda: persistence(image, mask, MINVAL), 200)
    return [{"maxima": len(native), "findpeaks_topology_ms": slow * 1e3, "native_ms": fast * 1e3, "ratio": slow / fast}]


def main() -> None:
    (row,) = measure()
    print(f"one frame of {SIZE}², {row['maxima']} maxima, one core (medians)")
    print(f"  findpeaks topology   {row['findpeaks_topology_ms']:10.2f} ms")
    print(f"  native               {row['native_ms']:10.3f} ms   {row['ratio']:10.0f} × findpeaks")


if __name__ == "__main__":
    main()
