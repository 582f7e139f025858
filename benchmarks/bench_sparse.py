"""Frames of few counts: recall and false peaks by mean counts a pixel.

Frames of 512², ten round spots (sigma 1.2 px) of 10 to 60 counts each, at least 20 px apart; with no key set, and by
levels alone: `false_peaks: null`, `minval` 6 sigma, `minscore` 3 sigma. A peak within 3 px of a spot's centre has found
it.

    python benchmarks/bench_sparse.py
"""

import numpy as np
from numpy.typing import NDArray

import braggflow

MEANS = (0.001, 0.01, 0.05, 0.1, 0.3, 1.0, 2.0, 4.0, 10.0)
FRAMES, SIDE, SPOTS, SIGMA = 40, 512, 10, 1.2
APART, NEAR = 20, 3


def frame(mean: float, seed: int) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """A frame (y, x), and the centres (n, 2) of its spots."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres: list[NDArray[np.float64]] = []
    while len(centres) < SPOTS:
        centre = rng.uniform(15, SIDE - 15, 2)
        if all(np.hypot(*(centre - other)) > APART for other in centres):
            centres.append(centre)
    expected = np.full((SIDE, SIDE), mean)
    for cy, cx in centres:
        expected += rng.uniform(10, 60) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * SIGMA**2))
    return rng.poisson(expected).astype(np.uint16), np.array(centres)


SETTINGS: dict[str, dict[str, object]] = {
    "no key": {},
    "levels": {"false_peaks": None, "background": "none", "minval": "6 sigma", "minscore": "3 sigma"},
}


def main() -> None:
    """Print the table."""
    print("| counts a pixel | search | recall | false peaks a frame | refused frames |")
    print("|---|---|---|---|---|")
    for mean in MEANS:
        for name, keys in SETTINGS.items():
            found = false = refused = 0
            for seed in range(FRAMES):
                image, centres = frame(mean, seed)
                try:
                    peaks = braggflow.find_peaks(image, network="none", config={"detect": keys})
                except braggflow.InputError:
                    refused += 1
                    continue
                at = np.stack([peaks["y_pixel"].values, peaks["x_pixel"].values], axis=1).reshape(-1, 1, 2)
                near = np.hypot(*np.moveaxis(at - centres, -1, 0)) < NEAR
                found += int(near.any(axis=0).sum())
                false += int((~near.any(axis=1)).sum())
            shown = f"{found / (FRAMES * SPOTS):.3f} | {false / FRAMES:.2f} | {refused} of {FRAMES}"
            print(f"| {mean:g} | {name} | {shown} |")


if __name__ == "__main__":
    main()
