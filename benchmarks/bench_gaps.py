"""Spots cut by narrow gaps: rows, errors over the limit of the pixels that are left, calibration.

One spot a frame (`sharp`, `sampled`, `broad` of `braggflow.simulate.CLASSES`) on 8 counts a pixel, with missing
columns, rows, a crossing of both, or a square of dead pixels within 2 px of its centre. No key is set. Positions that
the remaining pixels do not determine (limit above 0.5 px) are counted apart.

    python benchmarks/bench_gaps.py [spots of each kind, 300]
"""

import sys
from collections import Counter

import numpy as np

import braggflow
from braggflow.simulate import CLASSES, sample_profiles
from braggflow.simulate.information_limit import cramer_rao
from braggflow.simulate.profiles import render

SIDE, MIDDLE, HALF, BACKGROUND = 48, 24, 5, 8.0
KNOWN = 0.5


def main(n: int = 300) -> None:
    """Print the table."""
    print(
        "| gap | px | class | rows | RMS over the limit | within 1 σ | 2 σ | no σ | not determined |\n"
        + "|---" * 9
        + "|"
    )
    for kind in ("none", "column", "row", "cross", "pixels"):
        for width in (1, 2) if kind != "none" else (0,):
            for name in ("sharp", "sampled", "broad"):
                rng = np.random.default_rng([len(kind), width, len(name)])
                peaks = sample_profiles(n, rng=rng, config=CLASSES[name])
                peaks["y"], peaks["x"] = MIDDLE + rng.uniform(-0.5, 0.5, (2, n))
                frames, usable = np.empty((n, SIDE, SIDE), np.float32), np.empty((n, 2 * HALF + 1, 2 * HALF + 1), bool)
                window = slice(MIDDLE - HALF, MIDDLE + HALF + 1)
                for k in range(n):
                    gap = np.zeros((SIDE, SIDE), bool)
                    y, x = MIDDLE + rng.integers(-2, 3, 2)
                    if kind in ("column", "cross"):
                        gap[:, x : x + width] = True
                    if kind in ("row", "cross"):
                        gap[y : y + width] = True
                    if kind == "pixels":
                        gap[y : y + width, x : x + width] = True
                    frames[k] = rng.poisson(render((SIDE, SIDE), peaks[k : k + 1], background=BACKGROUND))
                    frames[k][gap] = np.nan
                    usable[k] = ~gap[window, window]
                centred = peaks.copy()
                centred["y"], centred["x"] = peaks["y"] - MIDDLE + HALF, peaks["x"] - MIDDLE + HALF
                centred["background"] = BACKGROUND
                limit = cramer_rao(centred, size=2 * HALF + 1, usable=usable)
                table = braggflow.find_peaks(frames)
                rows = Counter(table["peak_count"].values.tolist())
                single = np.flatnonzero((table["peak_count"].values == 1) & (limit.max(axis=1) < KNOWN))
                at = np.searchsorted(table["peak_frame"].values, single)
                error = np.stack(
                    [table["y"].values[at] - peaks["y"][single], table["x"].values[at] - peaks["x"][single]]
                )
                std = np.stack([table["y_std"].values[at], table["x_std"].values[at]])
                known = np.isfinite(std)
                ratio = np.sqrt(np.mean(error[known] ** 2) / np.mean(limit[single].T[known] ** 2))
                off = np.abs(error[known] / std[known])
                print(
                    f"| {kind} | {width} | {name} | {dict(rows)} | {ratio:.3f} | {np.mean(off < 1):.3f} "
                    f"| {np.mean(off < 2):.3f} | {np.count_nonzero(~known.all(axis=0))} | {n - len(single)} |"
                )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
