"""What a user gets who sets no key at all: recall, precision, errors over the limit and their calibration.

Frames of 512² with 64 isolated peaks of six classes (`braggflow.simulate.CLASSES`), on backgrounds of 0.02 to 20 counts
a pixel. A true peak is found where a row lies within 3 px of it; every other row is a false peak. Recall is of those
that rise at least 6 standard deviations above their background in one pixel, as `braggflow simulate` counts them.

    python benchmarks/bench_defaults.py [frames of each background, 20] [seed, 1]
"""

import sys

import numpy as np
from numpy.typing import NDArray

import braggflow
from braggflow.peak_table import Flag
from braggflow.simulate import CLASSES, sample_profiles
from braggflow.simulate.information_limit import cramer_rao
from braggflow.simulate.profiles import Profiles, render

KINDS = ("sharp", "sampled", "broad", "elongated", "pseudo_voigt", "faint")
BACKGROUNDS = (0.02, 0.1, 0.5, 2.0, 8.0, 20.0)
SIDE, CELLS, NEAR, SIZE = 512, 8, 3.0, 11
#: What a user is told to be careful with.
CAREFUL = Flag.fit_failed | Flag.blend | Flag.deblended | Flag.overlap | Flag.low_snr | Flag.disagree | Flag.ring


def scene(rng: np.random.Generator) -> tuple[Profiles, NDArray[np.int64]]:
    """The peaks of a frame, one in each cell of a coarse grid, and the numbers of their classes."""
    kinds = rng.integers(0, len(KINDS), CELLS**2)
    peaks = np.concatenate([sample_profiles(1, rng=rng, config=CLASSES[KINDS[kind]]) for kind in kinds])
    corner = np.stack(np.divmod(np.arange(CELLS**2), CELLS), axis=1) * (SIDE // CELLS)
    peaks["y"], peaks["x"] = (corner + rng.uniform(14, SIDE // CELLS - 14, corner.shape)).T
    return peaks, kinds


def limits(peaks: Profiles, background: float) -> NDArray[np.float64]:
    """The information limit (y, x) of isolated peaks, px."""
    centred = peaks.copy()
    for axis in "yx":
        centred[axis] += SIZE // 2 - np.rint(peaks[axis])
    centred["background"] = background
    return cramer_rao(centred, size=SIZE)


def main(n_frames: int = 20, seed: int = 1) -> None:
    """Print both tables."""
    errors: list[NDArray[np.float64]] = []  # class, error y, x, std y, x, limit y, x, flags
    print(
        "| background | detectable | recall | rows | false | precision | false a megapixel |\n"
        "|---|---|---|---|---|---|---|"
    )
    for background in BACKGROUNDS:
        found = detectable = rows = false = 0
        for number in range(n_frames):
            rng = np.random.default_rng([seed, int(100 * background), number])
            peaks, kinds = scene(rng)
            expected = render((SIDE, SIDE), peaks, background=background)
            table = braggflow.find_peaks(rng.poisson(expected).astype(np.uint16))
            at = np.stack([table["y"].values, table["x"].values], axis=1)
            apart = np.hypot(*np.moveaxis(at[:, None] - np.stack([peaks["y"], peaks["x"]], axis=1), -1, 0))
            pixel = np.rint(np.stack([peaks["y"], peaks["x"]])).astype(int)
            high = expected[tuple(pixel)] - background >= 6 * np.sqrt(background)
            hit = (apart < NEAR).any(axis=0)
            found, detectable = found + np.count_nonzero(hit & high), detectable + np.count_nonzero(high)
            best = np.where(hit, apart.argmin(axis=0), -1)
            rows, false = rows + len(at), false + len(at) - len(np.unique(best[best >= 0]))
            k = np.flatnonzero(hit)
            error = at[best[k]] - np.stack([peaks["y"][k], peaks["x"][k]], axis=1)
            std = np.stack([table["y_std"].values, table["x_std"].values], axis=1)[best[k]]
            flags = table["flags"].values[best[k]]
            errors.append(np.column_stack([kinds[k], error, std, limits(peaks[k], background), flags]))
        megapixels = n_frames * SIDE**2 / 1e6
        print(
            f"| {background:g} | {detectable} | {found / detectable:.4f} | {rows} | {false} | {1 - false / rows:.4f} "
            f"| {false / megapixels:.2f} |"
        )
    joined = np.concatenate(errors)
    print("\n| class | peaks | limit, px | RMS over the limit | within 1 σ | 2 σ | beyond 5 σ, unflagged | no σ |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, name in enumerate(KINDS):
        of = joined[joined[:, 0] == kind]
        error, std, limit = of[:, 1:3], of[:, 3:5], np.minimum(of[:, 5:7], 2.0)
        ratio = np.sqrt(np.mean(np.minimum(np.abs(error), 2.0) ** 2) / np.mean(limit**2))
        deviation = np.abs(error) / std
        known = np.isfinite(deviation)
        far = (np.where(known, deviation, 0).max(axis=1) > 5) & (of[:, 7].astype(int) & CAREFUL == 0)
        print(
            f"| {name} | {len(of)} | {np.sqrt(np.mean(limit**2)):.4f} | {ratio:.3f} "
            f"| {np.mean(deviation[known] < 1):.3f} | {np.mean(deviation[known] < 2):.3f} | {np.count_nonzero(far)} "
            f"| {np.count_nonzero(~known.all(axis=1))} |"
        )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
