"""Intensities and widths of isolated peaks, and their stated errors, against the truth.

Frames of 512² with 64 Gaussians of one shape (sigma × sigma / 1.3), 8 to 300 standard deviations of a pixel of the
background high, no key set. Intensities are those of the fitted profile, and the sum of the patch's counts, which is
what `fit.fraction: 0` gives. 0.683 of honest errors hold.

    python benchmarks/bench_intensity.py [frames of each kind, 4] [seed, 1]
"""

import sys
from collections import defaultdict

import numpy as np
from bench_bright import scene
from bench_defaults import NEAR, SIDE
from numpy.typing import NDArray

import braggflow
from braggflow.simulate.profiles import render

SETTINGS = {"fit": {}, "sum": {"locate": {"network": "none"}, "fit": {"fraction": 0}}}
FWHM_PER_SIGMA, ELONGATED = 2 * np.sqrt(2 * np.log(2)), 1.3


def main(n_frames: int = 4, seed: int = 1) -> None:
    """Print a row for each background and width."""
    columns = ("intensity over the truth: median [16 %, 84 %]", "within 1 σ")
    heads = [f"{name}: {column}" for name in SETTINGS for column in columns]
    heads += [f"{name}: over the truth, within 1 σ" for name in ("fwhm_major", "fwhm_minor")]
    print(f"| counts a pixel | sigma, px | {' | '.join(heads)} |\n{'|---' * (2 + len(heads))}|")
    for background in (1, 8, 100, 1000):
        for sigma in (0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 3.5):
            print(f"| {background} | {sigma} | {' | '.join(_cells(n_frames, seed, background, sigma))} |", flush=True)


def _cells(n_frames: int, seed: int, background: int, sigma: float) -> list[str]:
    """What is printed of one background and width."""
    ratios, deviations = defaultdict[str, list[NDArray[np.float64]]](list), defaultdict[str, list[NDArray]](list)
    for number in range(n_frames):
        rng = np.random.default_rng([seed, background, number])
        peaks = scene(rng, background)
        peaks["sigma_major"], peaks["sigma_minor"] = sigma, sigma / ELONGATED
        peaks["angle"] = rng.uniform(-90, 90, len(peaks))
        peaks["height"] = np.sqrt(background + 4) * np.exp(rng.uniform(np.log(8), np.log(300), len(peaks)))
        counts = rng.poisson(render((SIDE, SIDE), peaks, background=background)).astype(np.uint16)
        for name, config in SETTINGS.items():
            table = braggflow.find_peaks(counts, config=config)
            apart = np.hypot(*(table[axis].values[:, None] - peaks[axis] for axis in "yx"))
            k = np.flatnonzero(apart.min(axis=0) < NEAR)
            found = table.isel(peak=apart.argmin(axis=0)[k])
            true = {"intensity": 2 * np.pi * (peaks["sigma_major"] * peaks["sigma_minor"] * peaks["height"])[k]}
            true |= {f"fwhm_{axis}": FWHM_PER_SIGMA * peaks[f"sigma_{axis}"][k] for axis in ("major", "minor")}
            for column, values in true.items():
                given, std = (found[of].values.astype(float) for of in (column, f"{column}_std"))
                ratios[f"{name} {column}"].append((given / values)[np.isfinite(std)])
                deviations[f"{name} {column}"].append(((given - values) / std)[np.isfinite(std)])
    cells = []
    for key in ("fit intensity", "sum intensity", "fit fwhm_major", "fit fwhm_minor"):
        low, middle, high = np.quantile(np.concatenate(ratios[key]), (0.16, 0.5, 0.84))
        within = f"{np.mean(np.abs(np.concatenate(deviations[key])) < 1):.2f}"
        cells.append(
            f"{middle:.3f} [{low:.3f}, {high:.3f}] | {within}" if "intensity" in key else f"{middle:.3f}, {within}"
        )
    return cells


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
