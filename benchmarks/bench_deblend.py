"""Peaks without maxima of their own: pairs told apart by the program, false splits and blends of single peaks, cost.

**Pairs.** Frames of 512² with 196 pairs each of one shared Gaussian shape (sigma 0.8 to 1.4 px, axis ratio up to 1.3)
in any direction, the higher peak of 200 to 2,000 photons on a background of 0.5 to 30, through `find_peaks` (no key set
but `locate.network: none`). Right: two rows near the pair, each within 0.5 px, or 3 of its
stated standard uncertainties up to 1 px, of one of the two. `unflagged`: of the pairs in one row, those whose position
is off the nearer of the two by more than 3 of its stated uncertainties and that are not flagged `blend`.

**Single peaks.** Patches of each class of `braggflow.simulate.CLASSES`: which are split, and which are flagged `blend`.

**Cost.** Time of the test over that of the fits, on the same patches.

    python benchmarks/bench_deblend.py [PATCHES] [FRAMES] [SEED]
"""

import sys
import time

import numpy as np
from numpy.typing import NDArray

import braggflow
from braggflow.config import FitConfig
from braggflow.fit import deblend, fit_patches
from braggflow.peak_table import Flag
from braggflow.simulate import CLASSES, PROFILE_DTYPE, simulate_patches
from braggflow.simulate.profiles import render

DISTANCES, RATIOS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5), (1, 3, 10)
SIDE, APART, CLEAR = 512, 36, 8
SINGLE = ("sharp", "sampled", "broad", "elongated", "pseudo_voigt", "faint")
NEAR, FAR = 0.5, 1.0
SETTINGS = {
    "locate": {"network": "none"},
}


def frame_of_pairs(
    distance: float, ratio: float, rng: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """A frame (y, x), and the places (n, 2, 2) of its pairs, the higher peak first, as (y, x)."""
    places = np.arange(APART // 2, SIDE - APART // 2, APART, dtype=float)
    n = len(places) ** 2
    first = np.zeros(n, PROFILE_DTYPE)
    grid = np.stack(np.meshgrid(places, places, indexing="ij"), -1).reshape(n, 2)
    first["y"], first["x"] = (grid + rng.uniform(-0.5, 0.5, (n, 2))).T
    first["sigma_minor"] = rng.uniform(0.8, 1.4, n)
    first["sigma_major"] = first["sigma_minor"] * rng.uniform(1, 1.3, n)
    first["angle"] = rng.uniform(-90, 90, n)
    first["height"] = np.exp(rng.uniform(np.log(200), np.log(2000), n))
    second, direction = first.copy(), rng.uniform(0, 2 * np.pi, n)
    second["height"] /= ratio
    second["y"] += distance * np.sin(direction)
    second["x"] += distance * np.cos(direction)
    background = np.exp(rng.uniform(np.log(0.5), np.log(30)))
    mean = render((SIDE, SIDE), np.concatenate([first, second]), background=background)
    at = np.stack([np.column_stack([peaks["y"], peaks["x"]]) for peaks in (first, second)], axis=1)
    return rng.poisson(mean).astype(np.uint16), at


def judged(counts: NDArray[np.uint16], pairs: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Of each pair: whether it is right, the main peak's error, and, of a pair in one row, deviation and flag."""
    peaks = braggflow.find_peaks(counts, config=SETTINGS)
    at = np.column_stack([peaks["y"].values, peaks["x"].values])
    std = np.column_stack([peaks["y_std"].values, peaks["x_std"].values])
    flags = peaks["flags"].values
    result = {name: np.full(len(pairs), np.nan) for name in ("right", "rows", "error", "deviation", "blend")}
    for k, pair in enumerate(pairs):
        near = np.flatnonzero(np.hypot(*(at - pair.mean(axis=0)).T) < CLEAR)
        away = np.hypot(*np.moveaxis(at[near, None] - pair, -1, 0))  # (rows, 2)
        result["rows"][k], result["right"][k] = len(near), 0
        if len(near) == 2:
            order = [0, 1] if np.trace(away) <= np.trace(away[:, ::-1]) else [1, 0]
            errors = away[[0, 1], order]
            allowed = np.clip(3 * np.hypot(*std[near].T), NEAR, FAR)
            if (errors <= allowed).all():
                result["right"][k], result["error"][k] = 1, errors[order.index(0)]
        elif len(near) == 1:
            deviations = np.abs((at[near[0]] - pair) / std[near[0]]).max(axis=1)
            result["deviation"][k] = np.nan_to_num(deviations.min(), nan=np.inf)
            result["blend"][k] = flags[near[0]] & (Flag.blend | Flag.fit_failed) != 0
    return result


def pairs(frames: int, seed: int) -> None:
    print(
        "\n| distance, px | heights | right, % | main peak off, px | one row, % | of these blend, % | unflagged, % |",
        end="",
    )
    print(" blends within 1 σ, 2 σ |\n|---|---|---|---|---|---|---|---|")
    for distance in DISTANCES:
        for ratio in RATIOS:
            rng = np.random.default_rng([seed, int(10 * distance), ratio])
            all_frames = [judged(*frame_of_pairs(distance, ratio, rng)) for _ in range(frames)]
            of = {name: np.concatenate([one[name] for one in all_frames]) for name in all_frames[0]}
            single, blend = of["rows"] == 1, of["blend"] == 1
            unflagged = single & ~blend & (of["deviation"] > 3)
            within = [f"{np.mean(of['deviation'][blend] < limit):.2f}" if blend.any() else "–" for limit in (1, 2)]
            error = f"{np.nanmedian(of['error']):.3f}" if (of["right"] == 1).any() else "–"
            of_single = [f"{100 * share.sum() / max(single.sum(), 1):.0f}" for share in (blend, unflagged)]
            print(
                f"| {distance} | 1:{ratio} | {100 * of['right'].mean():.0f} | {error} | {100 * single.mean():.0f} | "
                f"{of_single[0]} | {of_single[1]} | {within[0]}, {within[1]} |",
                flush=True,
            )


def single_peaks(n: int, seed: int) -> None:
    print("\n| class | model | split, % | blend, % | pseudo-Voigt, % | 1 σ | 2 σ | fit, µs | test over fits |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in ("gaussian", "pseudo_voigt"):
        for name in (*SINGLE, "neighbour", "edge"):
            config = FitConfig(model=model)
            drawn = simulate_patches(n, rng=np.random.default_rng(seed), config=CLASSES[name])
            patches = (drawn.counts, drawn.state, drawn.maxima)
            seconds = []
            for _ in range(2):
                start = time.process_time()
                fits = fit_patches(*patches, config)
                between = time.process_time()
                found = deblend(*patches, config, fits)
                seconds.append((between - start, time.process_time() - between))
            of_fits, of_test = (min(times) for times in zip(*seconds, strict=True))
            good = found.fits["converged"]
            errors = np.column_stack([found.fits["y"], found.fits["x"]]) - drawn.position
            deviations = np.abs(errors / np.column_stack([found.fits["y_std"], found.fits["x_std"]]))[good]
            print(
                f"| `{name}` | {model} | {100 * found.split.mean():.3f} | {100 * found.blend.mean():.2f} | "
                f"{100 * found.fits['voigt'].mean():.0f} | {np.mean(deviations < 1):.3f} | "
                f"{np.mean(deviations < 2):.3f} | "
                f"{1e6 * of_fits / n:.2f} | {of_test / of_fits:.3f} |",
                flush=True,
            )


def main(patches: int = 20_000, frames: int = 4, seed: int = 11) -> None:
    """Print the tables."""
    braggflow.find_peaks(frame_of_pairs(3.0, 1, np.random.default_rng(0))[0], config=SETTINGS)  # compiled
    single_peaks(patches, seed)
    pairs(frames, seed)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
