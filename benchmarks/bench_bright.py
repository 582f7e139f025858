"""Peaks on bright backgrounds: are the stated errors of positions right where networks were never trained?

Frames of 512² with 64 isolated round Gaussians of a sigma of 0.8 to 2 px, 8 to 80 standard deviations of a pixel of the
background high, on backgrounds of 10 to 5,000 photons a pixel. With no key set, and by the network `compact` alone. Of
honest errors 0.683 lie within one stated standard deviation.

    python benchmarks/bench_bright.py [frames of each background, 12] [seed, 1]
"""

import sys
from typing import Any

import numpy as np
from bench_defaults import CELLS, NEAR, SIDE
from numpy.typing import NDArray

import braggflow
from braggflow.simulate.profiles import PROFILE_DTYPE, Profiles, render

BACKGROUNDS = (10, 60, 100, 300, 1000, 5000)
SETTINGS = {
    "no key": {},
    "network alone": {"locate": {"network": "compact", "position": "network"}, "fit": {"fraction": 0}},
}


def scene(rng: np.random.Generator, background: float) -> Profiles:
    """One peak in each cell of a coarse grid."""
    peaks = np.zeros(CELLS**2, PROFILE_DTYPE)
    corner = np.stack(np.divmod(np.arange(len(peaks)), CELLS), axis=1) * (SIDE // CELLS)
    peaks["y"], peaks["x"] = (corner + rng.uniform(14, SIDE // CELLS - 14, corner.shape)).T
    peaks["sigma_major"] = peaks["sigma_minor"] = rng.uniform(0.8, 2, len(peaks))
    peaks["height"] = np.exp(rng.uniform(np.log(8), np.log(80), len(peaks))) * np.sqrt(background)
    return peaks


def deviations(peaks: Profiles, counts: NDArray[Any], settings: dict[str, Any]) -> NDArray[np.float64]:
    """Errors of the peaks that are found over what is stated, of both axes."""
    table = braggflow.find_peaks(counts, config=settings)
    at, true = (np.stack([of["y"], of["x"]], axis=1) for of in (table, peaks))
    apart = np.hypot(*np.moveaxis(at[:, None] - true, -1, 0))
    k = np.flatnonzero((apart < NEAR).any(axis=0))
    best = apart.argmin(axis=0)[k]
    return ((at[best] - true[k]) / np.stack([table["y_std"], table["x_std"]], axis=1)[best]).ravel()


def main(n_frames: int = 12, seed: int = 1) -> None:
    """Print a row for each background."""
    print("| background | " + " | ".join(f"{name}: within 1 σ | median error / σ" for name in SETTINGS) + " |")
    print("|---" * (1 + 2 * len(SETTINGS)) + "|")
    for background in BACKGROUNDS:
        found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in SETTINGS}
        for number in range(n_frames):
            rng = np.random.default_rng([seed, background, number])
            peaks = scene(rng, background)
            counts = rng.poisson(render((SIDE, SIDE), peaks, background=background)).astype(np.uint16)
            for name, settings in SETTINGS.items():
                found[name].append(deviations(peaks, counts, settings))
        columns = [np.abs(np.concatenate(each)) for each in found.values()]
        # Half of a normal distribution lies within 0.6745 standard deviations.
        told = " | ".join(f"{np.mean(each < 1):.3f} | {np.median(each) / 0.6745:.2f}" for each in columns)
        print(f"| {background:,} | {told} |")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
