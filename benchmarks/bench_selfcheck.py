"""Does a run's self-check say what is true? Its figures beside those against the truth of 20 simulated series.

Ten series hold isolated peaks of one class each (`braggflow.simulate.CLASSES`), on 0.5 to 30 counts a pixel, every
other with 2.5 counts a photon and read noise, with a gap of four rows; their SNR is log-uniform from 2.5 to 60. Ten are
made by `simulate_series` on 8 to 200 counts a pixel. Each is run, with a self-check on a share of its frames. Of the
true peaks those by themselves are taken, as of the added ones, and their SNR is counted alike. A figure agrees where
the 95 % interval of the difference of both holds 0.

    python benchmarks/bench_selfcheck.py [series of each kind, 10] [share of the frames, 0.6] [frames, 30] [seed, 0]
"""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr

import braggflow
from braggflow.evaluate import load_truth
from braggflow.flow import running
from braggflow.frames import create_store, finish_store
from braggflow.selfcheck import (
    ADDED_DTYPE,
    LIMIT_SNR,
    Place,
    expected_snr,
    figures_of,
    match_places,
    places_of,
    share_of_groups,
)
from braggflow.selfcheck.added_peaks import height_of_snr
from braggflow.simulate import CLASSES, PROFILE_DTYPE, expected_patches, sample_profiles, simulate_series
from braggflow.simulate.profiles import render

SIDE, STEP, SIZE, GAP = 256, 36, 11, slice(120, 124)
KINDS = ("sharp", "sampled", "broad", "elongated", "pseudo_voigt")
LOWEST, HIGHEST = 2.5, 60.0
BANDS = ((5.0, 7.0), (7.0, 10.0), (LIMIT_SNR, np.inf))


def isolated(folder: Path, seed: int, n_frames: int) -> tuple[Path, xr.Dataset, dict[str, Any]]:
    """A series of isolated peaks of one class, its truth, and the settings that its run needs."""
    rng, kind = np.random.default_rng(seed), KINDS[seed % len(KINDS)]
    background, per_photon, read_noise = float(np.exp(rng.uniform(np.log(0.5), np.log(30)))), 1.0, 0.0
    if seed % 2:
        per_photon, read_noise = 2.5, 1.5
    settings = {
        "frames": {"counts_per_photon": per_photon, "read_noise": read_noise, "negative": "count"},
        "fit": {"model": "pseudo_voigt" if kind == "pseudo_voigt" else "gaussian"},
    }
    config = braggflow.RunConfig.model_validate(settings)
    at = np.arange(16, SIDE - 16, STEP)
    grid = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[GAP] = True
    path, frames, truth = folder / f"{kind}_{seed}.zarr", [], []
    for number in range(n_frames):
        peaks = sample_profiles(len(grid), rng=rng, config=CLASSES[kind])
        place = grid + rng.uniform(-4, 4, grid.shape)
        peaks["y"], peaks["x"] = (place - np.rint(place) + SIZE // 2).T
        peaks["height"], peaks["background"] = 1, 0
        snr = np.exp(rng.uniform(np.log(LOWEST), np.log(HIGHEST), len(grid)))
        state = np.zeros((len(grid), SIZE, SIZE), np.uint8)
        level = np.full(len(grid), background)
        peaks["height"] = height_of_snr(snr, expected_patches(peaks, SIZE), level, state, **config.frames.noise)
        peaks["y"], peaks["x"] = place.T
        photons = rng.poisson(render((SIDE, SIDE), peaks, background=background) / per_photon)
        counts = photons * per_photon + rng.normal(0, read_noise, photons.shape)
        frames.append(np.where(mask, 0, np.rint(counts)).astype(np.int32))
        peaks["background"] = background
        truth.append((number, peaks))
    store = create_store(
        path, n_frames=n_frames, shape=(SIDE, SIDE), dtype=np.dtype(np.int32), coords={}, images={"mask": mask}
    )
    store[:] = np.array(frames)
    finish_store(path)
    rows = np.concatenate([peaks for _, peaks in truth])
    columns: dict[str, Any] = {name: ("peak", rows[name]) for name in PROFILE_DTYPE.names or ()}
    columns["peak_frame"] = ("peak", np.repeat([number for number, _ in truth], len(grid)))
    columns["peak_id"] = ("peak", np.arange(len(rows)))
    return path, xr.Dataset(columns), settings


def operando(folder: Path, seed: int, n_frames: int) -> tuple[Path, xr.Dataset, dict[str, Any]]:
    """A series of `simulate_series`, its truth, and the settings that its run needs."""
    background = float(np.exp(np.random.default_rng(seed).uniform(np.log(8), np.log(200))))
    path = folder / f"operando_{seed}.zarr"
    truth = simulate_series(path, n_frames=n_frames, shape=(SIDE, SIDE), peaks=10, seed=seed, background=background)
    return path, load_truth(truth), {"frames": {"read_noise": 1.0}}


def true_peaks(
    truth: xr.Dataset, mask: np.ndarray, peaks: xr.Dataset, config: braggflow.RunConfig
) -> tuple[np.ndarray, np.ndarray]:
    """What became of the true peaks, as a check has it of added ones; and which reflection each is."""
    profiles = np.zeros(truth.sizes["peak"], PROFILE_DTYPE)
    for name in PROFILE_DTYPE.names or ():
        profiles[name] = truth[name].values
    place = np.stack([profiles["y"], profiles["x"]], axis=1)
    centred = profiles.copy()
    centred["y"], centred["x"] = (place - np.rint(place) + SIZE // 2).T
    state = np.zeros((len(place), SIZE, SIZE), np.uint8)
    background, centred["background"] = profiles["background"], 0
    result = np.zeros(len(place), ADDED_DTYPE)
    result["snr"] = expected_snr(expected_patches(centred, SIZE), background, state, **config.frames.noise)
    result["frame"] = truth["peak_frame"].values
    for number in np.unique(result["frame"]):
        mine = np.flatnonzero(result["frame"] == number)
        at, rows = place[mine], peaks.sel(peak_frame=number)
        for k, one in enumerate(mine):
            result["place"][one] = places_of(at[k : k + 1], mask, np.delete(at, k, axis=0), SIZE)[0]
        found = np.stack([rows["y"].values, rows["x"].values], axis=1)
        row, true = match_places(found, at, 3.0)
        result["found"][mine[true]] = True
        result["error"][mine[true]] = found[row] - at[true]
        result["std"][mine[true]] = np.stack([rows["y_std"].values, rows["x_std"].values], axis=1)[row]
    free = result["place"] == Place.free
    return result[free], truth["peak_id"].values[free]


def figures_of_truth(true: np.ndarray, reflection: np.ndarray) -> dict[str, Any]:
    """Figures of true peaks; one reflection in many frames does not say as much as many reflections do."""
    found, std = true["found"], true["std"]
    groups = np.unique(reflection, return_inverse=True)[1]

    def share(part: np.ndarray, whole: np.ndarray) -> dict[str, float | None]:
        there = np.unique(groups[whole > 0])
        return share_of_groups(
            *(np.bincount(groups, of, minlength=groups.max(initial=0) + 1)[there] for of in (part, whole))
        )

    result = {**figures_of(true), "recall": share(found, np.ones(len(true)))}
    known = found & np.isfinite(std).all(axis=1) & (std > 0).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.abs(true["error"] / std)
    for k in (1, 2):
        within = np.where(known, np.count_nonzero(deviation <= k, axis=1), 0)
        result[f"within_{k}"] = share(within, 2 * known)
    return result


def pairs(check: Mapping[str, Any], true: np.ndarray, reflection: np.ndarray) -> dict[str, tuple[Any, ...] | None]:
    """Figures of check and truth: value and standard error of each, of shares the distances of the interval's ends."""
    result: dict[str, tuple[Any, ...] | None] = {}
    bands = {tuple(of["snr"]): of for of in check["by_snr"]}
    high_enough = true["snr"] >= LIMIT_SNR
    limit = figures_of_truth(true[high_enough], reflection[high_enough])
    for low, high in BANDS:
        of = check["limit"] if low == LIMIT_SNR else bands.get((low, high))
        within = (true["snr"] >= low) & (true["snr"] < high)
        truth = figures_of_truth(true[within], reflection[within])
        name = f"recall {low:g} to {high:g}" if high < np.inf else f"recall {low:g} on"
        result[name] = _shares(None if of is None else of["recall"], truth["recall"])
    for axis in (0, 1):
        mine, its = check["limit"], limit
        result[f"bias {'yx'[axis]}"] = (
            mine["bias"][axis],
            mine["bias_std"][axis],
            its["bias"][axis],
            its["bias_std"][axis],
        )
    result["error over stated"] = (
        check["limit"]["scatter"],
        check["limit"]["scatter_std"],
        limit["scatter"],
        limit["scatter_std"],
    )
    for k in (1, 2):
        result[f"within {k} σ"] = _shares(check["limit"][f"within_{k}"], limit[f"within_{k}"])
    return result


def _shares(mine: Any, its: Any) -> tuple[Any, ...] | None:
    if mine is None or mine["share"] is None or its["share"] is None:
        return None
    return tuple(
        of[name] if name == "share" else abs(of[name] - of["share"])
        for of in (mine, its)
        for name in ("share", "low", "high")
    )


def agrees(pair: tuple[Any, ...]) -> bool:
    """Whether the 95 % interval of the difference holds 0; of shares Newcombe's (Stat. Med. 17, 873 (1998))."""
    if len(pair) == 4:
        return bool(abs(pair[0] - pair[2]) <= 1.96 * np.hypot(pair[1], pair[3]))
    mine, below, above, its, its_below, its_above = pair
    return bool(-np.hypot(above, its_below) <= mine - its <= np.hypot(below, its_above))


def main(n: int = 10, share: float = 0.6, n_frames: int = 30, first: int = 0) -> None:
    """Print a line a series, of seed `first` and those after it, then in how many series each figure agrees."""
    running.MOST_SECONDS = np.inf  # in this process, however busy the machine
    agree, asked = Counter[str](), Counter[str]()
    print("| series | added, true | recall 5 to 7 | 7 to 10 | 10 on | error over stated | within 1 σ | 2 σ |")
    print("|---" * 8 + "|")
    for make in (isolated, operando):
        for seed in range(first, first + n):
            with TemporaryDirectory() as folder:
                path, truth, settings = make(Path(folder), seed, n_frames)
                settings |= {"output": {"report": False}, "check": {"fraction": share, "max_frames": 1000}}
                (outcome,) = braggflow.run(settings, [path], out=Path(folder) / "runs")
                run = braggflow.open_run(outcome.folder)
                mask = braggflow.open_frames(path)["mask"].values != 0
                true, reflection = true_peaks(truth, mask, run.peaks.load(), run.config)
                check = run.info["check"]
            found = pairs(check, true, reflection)
            for name, pair in found.items():
                if pair is not None:
                    asked[name] += 1
                    agree[name] += agrees(pair)
            cells = [
                "–" if pair is None else f"{pair[0]:.3f}, {pair[len(pair) // 2]:.3f}"
                for name, pair in found.items()
                if not name.startswith("bias")
            ]
            n_true = np.count_nonzero(true["snr"] >= LIMIT_SNR)
            print(f"| {path.stem} | {check['limit']['peaks']}, {n_true} | " + " | ".join(cells) + " |", flush=True)
    print()
    for name, of in asked.items():
        print(f"{name}: agrees in {agree[name]} of {of} series")


if __name__ == "__main__":
    main(*(float(argument) if "." in argument else int(argument) for argument in sys.argv[1:]))
