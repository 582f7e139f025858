"""Whether significance is what it says: false peaks on frames of noise alone, and the laws of persistence.

python benchmarks/bench_significance.py [megapixels of each mean, 20]
"""

import sys

import numpy as np
from numpy.typing import NDArray
from scipy import special

from braggflow.config import DetectConfig
from braggflow.detect import detect
from braggflow.detect.persistence import persistence

MEANS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
ACCEPTED = (1.0, 10.0)
SIDE = 2000


def noise(mean: float, seed: int) -> NDArray[np.uint16]:
    """A frame of counts of one mean."""
    return np.random.default_rng([seed, int(1000 * mean)]).poisson(mean, (SIDE, SIDE)).astype(np.uint16)


def false_peaks(megapixels: float) -> None:
    """Print the peaks that are found where there is none."""
    frames = max(1, round(megapixels * 1e6 / SIDE**2))
    none = np.zeros((SIDE, SIDE), bool)
    print(
        "| counts a pixel | "
        + " | ".join(f"false_peaks: {a:g}" for a in ACCEPTED)
        + " |\n"
        + "|---" * (1 + len(ACCEPTED))
        + "|"
    )
    for mean in MEANS:
        images = [noise(mean, seed) for seed in range(frames)]
        shown = []
        for accepted in ACCEPTED:
            found = sum(len(detect(image, none, DetectConfig(false_peaks=accepted)).table) for image in images)
            shown.append(f"{found / (frames * SIDE**2 / 1e6):.2f} ({found})")
        print(f"| {mean:g} | " + " | ".join(shown) + " |")


def laws() -> None:
    """Print the share of noise's maxima above z, for pixels and for squares, as sigma of a normal deviate."""
    steps = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
    print(
        "\n| counts a pixel | of | "
        + " | ".join(f"z > {z:g}" for z in steps)
        + " |\n"
        + "|---" * (2 + len(steps))
        + "|"
    )
    for mean in (1.0, 3.0, 30.0, 300.0, 3000.0):
        by_pixel, by_square = [], []
        for seed in range(4):
            image = noise(mean, 100 + seed).astype(np.float64)
            maxima = persistence(image, np.zeros(image.shape, bool), 1e-9)
            y, x = maxima["y_pixel"], maxima["x_pixel"]
            v, u = np.divmod(maxima["saddle"], SIDE)
            inner = (maxima["saddle"] >= 0) & (np.minimum.reduce([y, x, v, u]) > 0)
            inner &= np.maximum.reduce([y, x, v, u]) < SIDE - 1
            y, x, v, u = y[inner], x[inner], v[inner], u[inner]
            by_pixel.append((image[y, x] - image[v, u]) / np.sqrt(image[y, x] + image[v, u]))
            around = [(j, k) for j in (-1, 0, 1) for k in (-1, 0, 1)]
            high, low = (sum(image[a + j, b + k] for j, k in around) for a, b in ((y, x), (v, u)))
            both = sum(
                np.where((abs(y + j - v) <= 1) & (abs(x + k - u) <= 1), image[y + j, x + k], 0) for j, k in around
            )
            by_square.append((high - low) / np.sqrt(np.maximum(high + low - 2 * both, 1e-9)))
        for of, values in (("pixels", np.concatenate(by_pixel)), ("squares", np.concatenate(by_square))):
            shares = [np.mean(values > z) for z in steps]
            shown = [f"{-special.ndtri(share):.2f}" if share * len(values) >= 10 else "–" for share in shares]
            print(f"| {mean:g} | {of} | " + " | ".join(shown) + " |")
    print("| the law | pixels | " + " | ".join(f"{1.6 * z - 0.8:.2f}" for z in steps) + " |")
    print("| the law | squares | " + " | ".join(f"{z + 0.63:.2f}" for z in steps) + " |")


if __name__ == "__main__":
    false_peaks(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
    laws()
