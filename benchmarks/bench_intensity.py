"""Intensities of isolated peaks against the truth: of the fitted profile, and of the sum of the patch's counts.

Frames of 512² with 64 round Gaussians of one width, 8 to 300 standard deviations of a pixel of the background high, no
key set; the sum is what `fit.fraction: 0` gives. The stated error is intensity / snr: 0.683 of honest ones hold.

    python benchmarks/bench_intensity.py [frames of each kind, 4] [seed, 1]
"""

import sys

import numpy as np
from bench_bright import scene
from bench_defaults import NEAR, SIDE
from numpy.typing import NDArray

import braggflow
from braggflow.simulate.profiles import render

SETTINGS = {"fit": {}, "sum": {"locate": {"network": "none"}, "fit": {"fraction": 0}}}


def main(n_frames: int = 4, seed: int = 1) -> None:
    """Print a row for each background and width."""
    columns = ("over the truth: median [16 %, 84 %]", "within 1 σ")
    heads = [f"{name}: {column}" for name in SETTINGS for column in columns]
    print(f"| counts a pixel | sigma, px | {' | '.join(heads)} |\n{'|---' * (2 + len(heads))}|")
    for background in (1, 8, 100, 1000):
        for sigma in (0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 3.5):
            cells = []
            for config in SETTINGS.values():
                ratios, errors = list[NDArray[np.float64]](), list[NDArray[np.float64]]()
                for number in range(n_frames):
                    rng = np.random.default_rng([seed, background, number])
                    peaks = scene(rng, background)
                    peaks["sigma_major"] = peaks["sigma_minor"] = sigma
                    peaks["height"] = np.sqrt(background + 4) * np.exp(rng.uniform(np.log(8), np.log(300), len(peaks)))
                    counts = rng.poisson(render((SIDE, SIDE), peaks, background=background)).astype(np.uint16)
                    table = braggflow.find_peaks(counts, config=config)
                    apart = np.hypot(*(table[axis].values[:, None] - peaks[axis] for axis in "yx"))
                    k = np.flatnonzero(apart.min(axis=0) < NEAR)
                    found = table.isel(peak=apart.argmin(axis=0)[k])
                    true, given = 2 * np.pi * sigma**2 * peaks["height"][k], found["intensity"].values
                    ratios.append(given / true)
                    errors.append((given - true) * found["snr"].values / given)
                low, middle, high = np.quantile(np.concatenate(ratios), (0.16, 0.5, 0.84))
                within = np.mean(np.abs(np.concatenate(errors)) < 1)
                cells.append(f"{middle:.3f} [{low:.3f}, {high:.3f}] | {within:.2f}")
            print(f"| {background} | {sigma} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
