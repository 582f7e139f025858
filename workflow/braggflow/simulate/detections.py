"""What a perfect search would find of peaks that move through a series, with the truth of who is who.

No frame is made: positions with their uncertainties, intensities and widths alone, so that following peaks can be
judged by itself. Peaks cross, keep a small distance, split, merge, come, go and fade for a few frames; some detections
are missing, some are false, and two peaks that are too near to be told apart are one detection.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DETECTION_DTYPE = np.dtype(
    [
        ("frame", "i8"),
        ("peak_id", "i4"),
        ("y", "f8"),
        ("x", "f8"),
        ("y_std", "f4"),
        ("x_std", "f4"),
        ("intensity", "f4"),
        ("fwhm", "f4"),
        ("y_true", "f8"),
        ("x_true", "f8"),
        ("blended", "?"),
    ]
)
#: Distance below which two peaks are one detection, and that at which companions keep beside each other, pixels.
RESOLVED, BESIDE = 2.5, 4.0


@dataclass(frozen=True, slots=True)
class MovingPeaks:
    """Detections of a series of moving peaks, and what became of whom."""

    detections: NDArray[np.void]
    """(n,) of `DETECTION_DTYPE`, by frame; `peak_id` −1: false, `y_true`, `x_true` NaN there."""
    splits: dict[int, int]
    """The peak from which each came, by the `peak_id` of what was split off."""
    merges: dict[int, int]
    """The peak into which each went, by the `peak_id` of what ended."""
    companions: list[tuple[int, int]]
    """Peaks that keep `BESIDE` pixels beside each other all along."""


def simulate_moving_peaks(
    n_frames: int = 480,
    peaks: int = 50,
    *,
    size: int = 1024,
    speed: float = 3.0,
    missing: float = 0.02,
    false: float = 0.02,
    longest_fade: int = 5,
    seed: int = 0,
) -> MovingPeaks:
    """Detections of `peaks` peaks that move through `n_frames` frames.

    Parameters
    ----------
    n_frames, peaks : int
        Frames, and peaks in all; what is split off counts as one.
    size : int, default 1024
        Pixels on a side of the detector.
    speed : float, default 3
        The fastest peaks move by so many pixels a frame.
    missing, false : float, default 0.02
        Share of detections that are taken away, and of false ones that are put in.
    longest_fade : int, default 5
        Frames for which a fading peak is not seen, at most.
    seed : int
        The same gives the same.

    Returns
    -------
    MovingPeaks
        Positions in pixels, (y, x).

    Examples
    --------
    >>> from braggflow.simulate import simulate_moving_peaks
    >>> series = simulate_moving_peaks(40, 12, seed=1)
    >>> series.detections["y"].shape == series.detections["frame"].shape
    True
    """
    rng = np.random.default_rng(seed)
    times = np.arange(n_frames)
    paths = np.stack([_path(rng, times, size, speed) for _ in range(peaks)])
    there = np.ones((peaks, n_frames), bool)
    level = np.exp(rng.uniform(np.log(150), np.log(20000), peaks))[:, None] * np.ones(n_frames)
    splits, merges, companions = dict[int, int](), dict[int, int](), list[tuple[int, int]]()
    pairs = rng.permutation(peaks)[: 2 * (peaks * 4 // 10)].reshape(-1, 2)
    for k, (a, b) in enumerate(pairs.tolist()):
        kind = k % 4
        direction = np.exp(1j * rng.uniform(0, 2 * np.pi))
        unit = np.array([direction.imag, direction.real])
        if kind == 0:
            paths[b] = paths[a] + BESIDE * unit
            companions.append((a, b))
        elif kind == 1:
            _cross(rng, paths, a, b, times)
        else:
            part = rng.uniform(0.3, 0.7)
            at = int(rng.uniform(0.25, 0.75) * n_frames)
            after = times - at if kind == 2 else at - times
            reach = rng.uniform(0.15, 0.5) * np.maximum(after, 0)
            paths[b] = paths[a] + (30 * np.tanh(reach / 30))[:, None] * unit
            level[b] = level[a] * part
            level[a] = np.where(after >= 0, level[a] * (1 - part), level[a])
            there[b] = after >= 0
            (splits if kind == 2 else merges)[b] = a
    free = [k for k in range(peaks) if k not in pairs]
    for k in free[::2]:
        _fade(rng, there[k], longest_fade)
    for k in free[1::4]:
        begin = int(rng.uniform(0.1, 0.5) * n_frames)
        there[k, :begin] = False
    for k in free[3::4]:
        there[k, int(rng.uniform(0.5, 0.9) * n_frames) :] = False
    elders = [*splits.values(), *merges.values()]
    rows = np.concatenate([_seen(rng, t, paths[:, t], level[:, t], there[:, t], elders) for t in range(n_frames)])
    rows = rows[rng.random(len(rows)) >= missing]
    return MovingPeaks(_with_false(rng, rows, false, n_frames, size), splits, merges, companions)


def _path(rng: np.random.Generator, times: NDArray[np.int64], size: int, speed: float) -> NDArray[np.float64]:
    """(frame, 2): swings and drifts, nowhere faster than `speed`, the fastest of each peak log-uniform below."""
    fastest = speed * np.exp(rng.uniform(np.log(0.01), 0))
    turns = rng.uniform(0.5, 2.5, 2) * max(1.0, len(times) / 480)
    angle = 2 * np.pi * turns * times[:, None] / len(times) + rng.uniform(0, 2 * np.pi, 2)
    swing = np.sin(angle) * len(times) / (2 * np.pi * turns)
    drift = rng.uniform(-0.2, 0.2, 2) * times[:, None]
    moved = (swing + drift) * rng.dirichlet([1, 1]) ** 0.5
    most = np.hypot(*np.gradient(moved, axis=0).T).max()
    path = moved * fastest / most
    room = np.maximum((size - np.ptp(path, axis=0)) / 2 - 10, 0)
    return path - (path.max(axis=0) + path.min(axis=0)) / 2 + size / 2 + rng.uniform(-room, room)  # type: ignore[no-any-return]


def _cross(rng: np.random.Generator, paths: NDArray[np.float64], a: int, b: int, times: NDArray[np.int64]) -> None:
    """Let path `b` meet path `a` once, at a relative speed of a third of a pixel a frame or more."""
    at = int(rng.uniform(0.2, 0.8) * len(times))
    relative = np.gradient(paths[b] - paths[a], axis=0)[at]
    speed = float(np.hypot(*relative))
    if speed < 0.35:
        push = relative / max(speed, 1e-9) * (0.35 - speed)
        paths[b] += push * (times[:, None] - at)
    paths[b] += paths[a, at] - paths[b, at]


def _fade(rng: np.random.Generator, there: NDArray[np.bool_], longest: int) -> None:
    for start in rng.integers(5, max(6, len(there) - 10), max(1, len(there) // 100)):
        there[start : start + rng.integers(1, longest + 1)] = False


def _seen(
    rng: np.random.Generator,
    frame: int,
    places: NDArray[np.float64],
    level: NDArray[np.float64],
    there: NDArray[np.bool_],
    elders: list[int],
) -> NDArray[np.void]:
    """The detections of one frame; peaks nearer than `RESOLVED` are one, of the brighter one or of the parent."""
    order = np.flatnonzero(there)
    order = order[np.lexsort((-level[order], ~np.isin(order, elders)))]
    rows = np.zeros(len(order), DETECTION_DTYPE)
    n = 0
    for k in order.tolist():
        near = np.hypot(*(places[rows["peak_id"][:n]] - places[k]).T) < RESOLVED
        if near.any():
            row = rows[int(np.argmax(near))]
            share = level[k] / (row["intensity"] + level[k])
            row["y"], row["x"] = (1 - share) * np.array([row["y"], row["x"]]) + share * places[k]
            row["intensity"] += level[k]
            row["blended"] = True
            continue
        rows[n] = (frame, k, *places[k], 0, 0, level[k], 3.0, *places[k], False)
        n += 1
    rows = rows[:n]
    std = np.hypot(1.4 / np.sqrt(rows["intensity"]), 0.01)
    rows["y_std"], rows["x_std"] = std * rng.uniform(0.8, 1.2, (2, n))
    for axis in "yx":
        rows[axis] += rows[f"{axis}_std"] * rng.standard_normal(n)
    rows["intensity"] *= np.exp(0.05 * rng.standard_normal(n))
    rows["fwhm"] *= np.exp(0.03 * rng.standard_normal(n))
    return rows


def _with_false(
    rng: np.random.Generator, rows: NDArray[np.void], share: float, n_frames: int, size: int
) -> NDArray[np.void]:
    false = np.zeros(round(share * len(rows)), DETECTION_DTYPE)
    n = len(false)
    false["frame"], false["peak_id"] = rng.integers(0, n_frames, n), -1
    false["y"], false["x"] = rng.uniform(0, size - 1, (2, n))
    false["y_true"] = false["x_true"] = np.nan
    false["intensity"] = np.exp(rng.uniform(np.log(100), np.log(2000), n))
    false["y_std"] = false["x_std"] = 1.4 / np.sqrt(false["intensity"])
    false["fwhm"] = rng.uniform(1.5, 4, n)
    joined = np.concatenate([rows, false])
    return joined[np.lexsort((joined["x"], joined["y"], joined["frame"]))]
