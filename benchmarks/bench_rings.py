"""Peaks on frames with powder rings: what `background: radial` finds and keeps out, beside the local background.

Frames of 1024² with 60 spots of 30 to 400 photons (0.9 to 1.6 pixels) on rings of a polarised beam, the detector
tilted; Poisson noise, and rings of few grains (each pixel's mean drawn from a gamma law). Recall is of all spots; false
are rows further than 4 pixels from any. Time is that of the search, one core, kernels compiled: the median of five.

    python benchmarks/bench_rings.py 4
"""

import statistics
import sys
import time

import numpy as np
from numpy.typing import NDArray

from braggflow.angles import Geometry
from braggflow.config import DetectConfig
from braggflow.detect import detect
from braggflow.peak_table import Flag

SIDE, SPOTS, TIMES = 1024, 60, 5
GEOMETRY = Geometry.from_config(
    {
        "distance_mm": 200,
        "beam_centre_px": [SIDE * 0.45, SIDE * 0.52],
        "pixel_size_um": [75, 75],
        "rotation_degree": [3, -5, 0],
    }
)
PIXEL = float(np.degrees(0.075 / 200))
Y, X = np.mgrid[:SIDE, :SIDE]
#: Two-theta (degree), width (sigma, pixels), height (photons) of each ring; grains: shape of the gamma law, 0: none.
CASES = {
    "no ring": ((), 0),
    "three rings": (((5.0, 2.0, 50.0), (8.0, 1.2, 200.0), (9.2, 4.0, 30.0)), 0),
    "broad ring": (((6.0, 10.0, 300.0),), 0),
    "strong and sharp rings": (((5.0, 2.0, 1000.0), (8.0, 1.0, 5000.0)), 0),
    "many grains": (((5.0, 2.0, 300.0), (8.0, 1.2, 300.0)), 20),
    "few grains": (((5.0, 2.0, 300.0), (8.0, 1.2, 300.0)), 5),
}


def frame(
    rings: tuple[tuple[float, ...], ...], grains: int, seed: int
) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """A frame and the places of its spots (n, 2)."""
    rng = np.random.default_rng(seed)
    angle, azimuth = GEOMETRY.two_theta(Y, X), GEOMETRY.azimuth(Y, X)
    mean = 20 * np.exp(-angle / 15) + 2
    for at, width, height in rings:
        shape = np.exp(-(((angle - at) / (width * PIXEL)) ** 2) / 2)
        mean += height * shape * (1 + 0.2 * np.cos(np.radians(2 * azimuth)))
    places = rng.uniform(20, SIDE - 20, (SPOTS, 2))
    for y, x in places:
        height, width = rng.uniform(30, 400), rng.uniform(0.9, 1.6)
        mean += height * np.exp(-((Y - y) ** 2 + (X - x) ** 2) / (2 * width**2))
    drawn = rng.gamma(grains, 1 / grains, mean.shape) if grains else 1.0
    return rng.poisson(mean * drawn).astype(np.uint16), places


def main(n: int) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    print("| frames | background | recall | false rows a frame | of these not flagged ring | ms | times local |")
    print("|---|---|---|---|---|---|---|")
    for name, (rings, grains) in CASES.items():
        frames = [frame(rings, grains, seed) for seed in range(n)]
        local = 0.0
        for background in ("local", "radial"):
            config, found, false, unflagged, took = DetectConfig(background=background), 0, 0, 0, []
            for counts, places in frames:
                table = detect(counts, mask, config, geometry=GEOMETRY).table
                apart = np.hypot(table["y_pixel"][:, None] - places[:, 0], table["x_pixel"][:, None] - places[:, 1])
                found += np.count_nonzero(apart.min(axis=0) < 2)
                is_false = apart.min(axis=1) > 4
                false += np.count_nonzero(is_false)
                unflagged += np.count_nonzero(is_false & (table["flags"] & Flag.ring == 0))
            for _ in range(TIMES):
                start = time.perf_counter()
                detect(frames[0][0], mask, config, geometry=GEOMETRY)
                took.append(1e3 * (time.perf_counter() - start))
            ms = statistics.median(took)
            local = local or ms
            row = f"{found / (n * SPOTS):.3f} | {false / n:.1f} | {unflagged / n:.1f} | {ms:.0f} | {ms / local:.1f}"
            print(f"| {name} | {background} | {row} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
