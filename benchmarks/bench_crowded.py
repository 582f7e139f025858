"""Whether peaks are found where there are many of them: recall by SNR, against that on frames of few.

Frames of 1024² (three of each), Poisson noise, Gaussians of sigma 1 to 2 px (0.8 to 1.5 where they are 6 px apart, 2 to
3.5 where 16), heights log-uniform from three standard deviations of a pixel to 3,000 counts, no two nearer than so many
pixels. SNR is that within two sigma of a known centre: signal over the root of signal and background. Then lattices:
spots of one height, every so many pixels.

    python benchmarks/bench_crowded.py
"""

import itertools

import numpy as np
import scipy.spatial
from numpy.typing import NDArray

from braggflow.config import DetectConfig
from braggflow.detect import detect
from braggflow.simulate.profiles import PROFILE_DTYPE, render

SIDE, FRAMES, MARGIN = 1024, 3, 8
SNR = (5, 8, 12, 30, np.inf)
LIKE = {6.0: (0.8, 1.5), 8.0: (1.0, 2.0), 16.0: (2.0, 3.5)}


def apart(rng: np.random.Generator, n: int, least: float) -> NDArray[np.float64]:
    """Places (n, 2), no two of them nearer than `least`, drawn one after the other."""
    places: list[NDArray[np.float64]] = []
    cells: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    while len(places) < n:
        place = rng.uniform(MARGIN, SIDE - MARGIN, 2)
        row, column = (place // least).astype(int)
        near = [other for r in (-1, 0, 1) for c in (-1, 0, 1) for other in cells.get((row + r, column + c), [])]
        if all(np.hypot(*(place - other)) >= least for other in near):
            cells.setdefault((row, column), []).append(place)
            places.append(place)
    return np.array(places)


def peaks(rng: np.random.Generator, n: int, least: float, background: float) -> NDArray[np.void]:
    """Profiles of n peaks."""
    table = np.zeros(n, PROFILE_DTYPE)
    table["y"], table["x"] = apart(rng, n, least).T
    table["sigma_major"] = table["sigma_minor"] = rng.uniform(*LIKE[least], n)
    table["height"] = np.exp(rng.uniform(np.log(3 * np.sqrt(max(background, 1.0))), np.log(3000), n))
    return table


def counted(rng: np.random.Generator, n: int, least: float, background: float) -> tuple[NDArray[np.float64], float]:
    """Recall by SNR and false rows a frame."""
    shown, found, false = np.zeros(len(SNR) - 1), np.zeros(len(SNR) - 1), 0
    for _ in range(FRAMES * max(1, 500 // n)):
        table = peaks(rng, n, least, background)
        counts = rng.poisson(render((SIDE, SIDE), table, background=background)).astype(np.uint16)
        rows = detect(counts, np.zeros(counts.shape, bool), DetectConfig()).table
        truth = np.column_stack([table["y"], table["x"]])
        places = np.column_stack([rows["y_pixel"], rows["x_pixel"]]).astype(np.float64)
        area = 2 * np.pi * table["sigma_major"] ** 2
        snr = table["height"] * area / np.sqrt(table["height"] * area + 2 * area * background)
        bins = np.digitize(snr, SNR) - 1
        is_found = scipy.spatial.KDTree(places).query(truth)[0] < 2.5
        distance, nearest = scipy.spatial.KDTree(truth).query(places)
        false += int((distance > table["sigma_major"][nearest] + 1.5).sum())
        for k in range(len(shown)):
            shown[k] += np.count_nonzero(bins == k)
            found[k] += np.count_nonzero(is_found & (bins == k))
    with np.errstate(invalid="ignore"):
        return found / shown, false / (FRAMES * max(1, 500 // n))


def lattice(rng: np.random.Generator, pitch: float, height: float, background: float) -> float:
    """Share of the spots of a lattice, turned by 0.3 rad and half a pixel off at random, that are found."""
    steps = np.arange(-SIDE, SIDE, pitch)
    down, across = (each.ravel() for each in np.meshgrid(steps, steps, indexing="ij"))
    y, x = SIDE / 2 + np.cos(0.3) * down - np.sin(0.3) * across, SIDE / 2 + np.sin(0.3) * down + np.cos(0.3) * across
    inside = (abs(y - SIDE / 2) < SIDE / 2 - MARGIN) & (abs(x - SIDE / 2) < SIDE / 2 - MARGIN)
    table = np.zeros(np.count_nonzero(inside), PROFILE_DTYPE)
    table["y"] = y[inside] + rng.uniform(-0.5, 0.5, len(table))
    table["x"] = x[inside] + rng.uniform(-0.5, 0.5, len(table))
    table["height"], table["sigma_major"], table["sigma_minor"] = height, 1.2, 1.2
    counts = rng.poisson(render((SIDE, SIDE), table, background=background)).astype(np.uint16)
    rows = detect(counts, np.zeros(counts.shape, bool), DetectConfig()).table
    if not len(rows):
        return 0.0
    places = scipy.spatial.KDTree(np.column_stack([rows["y_pixel"], rows["x_pixel"]]).astype(np.float64))
    return float(np.mean(places.query(np.column_stack([table["y"], table["x"]]))[0] < 1.5))


def main() -> None:
    rng = np.random.default_rng(0)
    names = [f"SNR {low} to {high}" if high < np.inf else f"above {low}" for low, high in itertools.pairwise(SNR)]
    print("| counts a pixel | nearest, px | peaks | " + " | ".join(names) + " | false rows a frame |")
    print("|---" * (len(names) + 4) + "|")
    for background in (0.1, 10.0, 300.0):
        for least, numbers in ((8.0, (50, 500, 2000, 4000)), (6.0, (50, 7000)), (16.0, (50, 2000))):
            for n in numbers:
                recall, false = counted(rng, n, least, background)
                shown = [f"{share:.3f}" if np.isfinite(share) else "–" for share in recall]
                print(f"| {background:g} | {least:g} | {n:,} | " + " | ".join(shown) + f" | {false:.1f} |", flush=True)
    pitches = (6, 7, 8, 10, 12, 16, 24)
    print("\n| counts a pixel | height | " + " | ".join(f"every {pitch} px" for pitch in pitches) + " |")
    print("|---" * (len(pitches) + 2) + "|")
    for background in (0.1, 10.0, 1000.0):
        for height in (100.0, 1000.0, 10_000.0):
            shares = [f"{lattice(rng, pitch, height, background):.3f}" for pitch in pitches]
            print(f"| {background:g} | {height:g} | " + " | ".join(shares) + " |", flush=True)


if __name__ == "__main__":
    main()
