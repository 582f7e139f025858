"""Peaks on backgrounds that are not flat: how far off are positions, and are the stated errors right?

Frames of 512² with 64 isolated round Gaussians of a sigma of 0.8 to 2 px and heights of 60 to 400 counts, no key set.
Of honest errors 0.683 lie within one stated standard deviation.

    python benchmarks/bench_slopes.py [frames of each background, 12] [seed, 1]
"""

import sys

import numpy as np
from bench_bright import scene
from bench_defaults import NEAR, SIDE
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

import braggflow
from braggflow.simulate.profiles import render

Y, X = np.mgrid[:SIDE, :SIDE].astype(float)
RADIUS = np.hypot(Y - SIDE / 2, X - SIDE / 2)


def ring(width: float) -> NDArray[np.float64]:
    return 10 + 60 * np.exp(-(((RADIUS - 150) / width) ** 2) / 2)


BACKGROUNDS = {
    "flat, 10 counts": np.full((SIDE, SIDE), 10.0),
    "flat, 100 counts": np.full((SIDE, SIDE), 100.0),
    "slope of 0.3 counts a pixel": 10 + 0.3 * X,
    "slope of 1 count a pixel": 10 + X,
    "halo of 300 counts, falling by e in 80 px": 5 + 300 * np.exp(-RADIUS / 80),
    "halo of 3,000 counts, falling by e in 40 px": 5 + 3000 * np.exp(-RADIUS / 40),
    "ring of 60 counts, sigma 20 px": ring(20),
    "ring of 60 counts, sigma 8 px": ring(8),
    "waves of 25 on 50 counts, 190 px long": 50 + 25 * np.sin(X / 30),
    "waves of 25 on 50 counts, 94 px long": 50 + 25 * np.sin(X / 15),
    "steps of 20 and 200 counts, 64 px apart": np.where(X // 64 % 2 == 0, 20.0, 200.0),
    "the same, blurred by 8 px": gaussian_filter1d(np.where(X // 64 % 2 == 0, 20.0, 200.0), 8),
}


def main(n_frames: int = 12, seed: int = 1) -> None:
    """Print a row for each background."""
    print("| background | found | median error, px | within 1 σ | within 2 σ |\n|---|---|---|---|---|")
    for name, background in BACKGROUNDS.items():
        errors, deviations, n = list[NDArray[np.float64]](), list[NDArray[np.float64]](), 0
        for number in range(n_frames):
            rng = np.random.default_rng([seed, number])
            peaks = scene(rng, 1.0)
            peaks["height"] = np.exp(rng.uniform(np.log(60), np.log(400), len(peaks)))
            counts = rng.poisson(render((SIDE, SIDE), peaks) + background).astype(np.uint16)
            table = braggflow.find_peaks(counts)
            at, true = (np.stack([of["y"], of["x"]], axis=1) for of in (table, peaks))
            apart = np.hypot(*np.moveaxis(at[:, None] - true, -1, 0))
            k = np.flatnonzero((apart < NEAR).any(axis=0))
            best, n = apart.argmin(axis=0)[k], n + len(k)
            errors.append(apart[best, k])
            std = np.stack([table["y_std"], table["x_std"]], axis=1)[best]
            deviations.append((np.abs(at[best] - true[k]) / std).ravel())
        off, joined = np.concatenate(errors), np.concatenate(deviations)
        print(
            f"| {name} | {n} of {n_frames * len(peaks)} | {np.median(off):.4f} "
            f"| {np.mean(joined < 1):.3f} | {np.mean(joined < 2):.3f} |"
        )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
