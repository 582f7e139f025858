"""How peaks move and change from frame to frame, found from the series itself: what linking takes for usual."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: Places in the series that are looked at, each three frames in a row, and peaks of one frame, at most.
_PLACES, _PEAKS = 64, 4000
#: Two peaks further apart than this share of what parts neighbours are not taken for one, unless far fewer are.
_OF_SPACING = 0.4
#: Percentiles of distances over the scatter along an axis (Rayleigh's distribution), and of squares of normal deviates:
#: few peaks may be much faster than most, or bend more, unless they stand still.
_SPEEDS: tuple[Sequence[tuple[int, float]], ...] = (((50, 1.177), (95, 2.448)), ((50, 1.177),))
_BENDS: tuple[Sequence[tuple[int, float]], ...] = (((50, 0.455), (95, 3.84)), ((50, 0.455),))
#: In so many pairs of frames it is seen which pairs of peaks there are by chance: those of one frame are put elsewhere,
#: by these shares of what all of them span. Where there are not so many times more, nor nearer than this share of how
#: far those are apart, that is said; not of fewer pairs than that, nor where peaks span fewer times the reach.
_LOOKED_AT, _MORE, _NEARER, _FEW, _ROOM = 12, 3.0, 0.5, 10, 4
_ELSEWHERE = ((0.382, 0.271), (0.169, 0.443), (0.271, 0.618), (0.557, 0.169), (0.731, 0.382))
#: Least values, so that nothing has no scatter: pixels a frame, pixel² per frame³, of logarithms.
_LEAST_SPEED, _LEAST_WANDER, _LEAST_SCATTER = 0.02, 1e-6, 0.03
#: Blends lie off by up to about this share of a width; without widths, pixels.
_BLEND, _BLEND_UNKNOWN = 0.5, 1.5
#: Share of a track's frames in which its peak is missing, of those the share after which it is missing still, as what
#: fades does, and the share of peaks that belong to none.
_MISSING, _STILL_MISSING, _NEW = 0.05, 0.7, 0.02


@dataclass(frozen=True, slots=True)
class Motion:
    """What is usual in a series; times are in the units of its axis, by default frame numbers."""

    speed: float
    """Scatter of velocities along an axis, pixels per unit of time."""
    wander: float
    """Strength of the random walk that velocities do, pixel² per time³."""
    intensity_scatter: float
    """Of the logarithm of a track's intensity from frame to frame."""
    intensity_spread: float
    """Of that logarithm among all peaks."""
    width_scatter: float
    width_spread: float
    blend: float
    """How far off peaks lie that are several in one, pixels."""
    density: float
    """New or false peaks a frame, per pixel²."""
    displacement: float
    """Median displacement between frames, pixels, as it was seen."""
    pairs: int
    """Pairs of peaks that all this is from."""
    pairs_by_chance: int
    """About as many there would be if the peaks of neighbouring frames had nothing to do with each other."""
    nearness: float
    """Median distance of the pairs over that of those by chance."""

    @property
    def warning(self) -> str:
        """What a user must know of it; "" where there is nothing."""
        chance = self.pairs_by_chance
        if chance < _FEW or self.pairs >= _MORE * chance or self.nearness < _NEARER:
            return ""
        return (
            f"peaks of neighbouring frames lie hardly nearer to each other than by chance ({self.pairs:,} pairs, "
            f"{chance:,} by chance): they may not be the same ones, or move too far from frame to frame"
        )


def find_motion(
    triples: Sequence[tuple[NDArray[np.float64], Sequence[NDArray[np.float64]]]], area: float, *, still: bool = False
) -> Motion:
    """What is usual, from places of three frames in a row: their times (3,), and the peaks (n, 7) of each.

    Peaks of two frames that are each the other's nearest are taken for one. Columns of peaks: y, x, their variances
    yy, yx, xx, logarithms of intensity and width; `area` is the detector's, pixel². Series of fewer frames give pairs
    alone. `still`: peaks are not expected to move, so that the median is believed and not the fastest, who are
    neighbours by chance.
    """
    moves, bends, changes = [], [], []
    every = [frame for _, frames in triples for frame in frames]
    spacing = _spacing(every)
    for times, frames in triples:
        follow = [_nearest(a, b, _OF_SPACING * spacing) for a, b in pairwise(frames)]
        for (a, b), pair, dt in zip(pairwise(frames), follow, np.diff(times), strict=True):
            here, there = pair
            moves.append(np.hypot(*(b[there, :2] - a[here, :2]).T) / dt)
            changes.append(b[there, 5:] - a[here, 5:])
        if len(follow) == 2:
            bends.append(_bends(times, frames, *follow))
    motion = _motion(moves, bends, changes, every, spacing, area, still)
    share, nearness = _by_chance([frames for _, frames in triples], _OF_SPACING * spacing)
    return replace(motion, pairs_by_chance=round(share * motion.pairs), nearness=nearness)


def _motion(
    moves: list[NDArray[np.float64]],
    bends: list[NDArray[np.float64]],
    changes: list[NDArray[np.float64]],
    frames: list[NDArray[np.float64]],
    spacing: float,
    area: float,
    still: bool,
) -> Motion:
    move = np.concatenate([np.zeros(0), *moves])
    bend = np.concatenate([np.zeros((0, 2)), *bends])
    change = np.concatenate([np.zeros((0, 2)), *changes])
    every = np.concatenate([np.zeros((0, 7)), *frames])
    counts = np.array([len(frame) for frame in frames])
    fast = max(np.percentile(move, share) / factor for share, factor in _SPEEDS[still]) if len(move) else spacing / 10
    widths = np.exp(every[np.isfinite(every[:, 6]), 6])
    return Motion(
        speed=float(max(fast, _LEAST_SPEED)),
        wander=float(max(_strength(bend, _BENDS[still]) if len(bend) else fast**2 / 10, _LEAST_WANDER)),
        intensity_scatter=_scatter(change[:, 0]),
        intensity_spread=max(_scatter(every[:, 5]), 2 * _scatter(change[:, 0])),
        width_scatter=_scatter(change[:, 1]),
        width_spread=max(_scatter(every[:, 6]), 2 * _scatter(change[:, 1])),
        blend=float(_BLEND * np.median(widths)) if len(widths) else _BLEND_UNKNOWN,
        density=float(_NEW * max(1.0, counts.mean() if len(counts) else 1.0) / area),
        displacement=float(np.median(move)) if len(move) else np.nan,
        pairs=len(move),
        pairs_by_chance=0,
        nearness=0.0,
    )


def _by_chance(frames: Sequence[Sequence[NDArray[np.float64]]], reach: float) -> tuple[float, float]:
    """Pairs that are each the other's nearest, within `reach`, if one frame's peaks are put elsewhere, over those that
    there are; and the median distance of these over that of those elsewhere.

    0 where there is no room for an elsewhere.
    """
    both = [of_place[:2] for of_place in frames if len(of_place) > 1]
    pairs = [(a[:, :2], b[:, :2]) for a, b in both if len(a) and len(b)]
    if not pairs:
        return 0.0, 0.0
    pairs = [pairs[k] for k in np.unique(np.linspace(0, len(pairs) - 1, _LOOKED_AT).astype(int))]
    every = np.concatenate([places for pair in pairs for places in pair])
    low, size = every.min(axis=0), np.ptp(every, axis=0) + 1
    size = size * min(1.0, (2 * len(pairs) * _PEAKS / len(every)) ** 0.5)  # of many peaks those in a part
    if (size < _ROOM * reach).any():
        return 0.0, 0.0
    near = [[places[(places <= low + size).all(axis=1)] for places in pair] for pair in pairs]
    there = np.concatenate([_distances(a, b, reach) for a, b in near])
    elsewhere = [
        _distances(a, low + (b - low + share * size) % size, reach) for share in np.array(_ELSEWHERE) for a, b in near
    ]
    by_chance = np.concatenate(elsewhere)
    if not (len(there) and len(by_chance)):
        return 0.0, 0.0
    return len(by_chance) / len(_ELSEWHERE) / len(there), float(np.median(there) / np.median(by_chance))


def _distances(a: NDArray[np.float64], b: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    here, there = _nearest(a, b, reach)
    return np.asarray(np.hypot(*(b[there] - a[here]).T))


def _strength(bend: NDArray[np.float64], expectations: Sequence[tuple[int, float]]) -> float:
    """Of the walk, the largest with which squares over their variances have the percentiles that they ought to."""
    found = []
    for share, expected in expectations:
        low, high = np.log(_LEAST_WANDER), np.log(max(10.0 * bend[:, 0].max(), 10 * _LEAST_WANDER))
        for _ in range(40):
            middle = (low + high) / 2
            over = np.percentile(bend[:, 0] / (np.exp(middle) + bend[:, 1]), share)
            low, high = (middle, high) if over > expected else (low, middle)
        found.append(np.exp(low))
    return float(max(found))


def missed_cost() -> tuple[float, float]:
    """What the first frame costs in which a track's peak is missing, and each further one in a row."""
    return -2 * float(np.log(_MISSING)), -2 * float(np.log(_STILL_MISSING))


def no_link_cost(motion: Motion) -> float:
    """What a peak costs that is new, and a track that is missing."""
    return -2 * float(np.log(2 * np.pi * motion.density)) + missed_cost()[0]


def _spacing(frames: Sequence[NDArray[np.float64]]) -> float:
    """What parts neighbours within a frame: the median distance to the nearest other one."""
    from scipy.spatial import KDTree

    found = [
        np.asarray(KDTree(frame[:, :2]).query(frame[:_PEAKS, :2], 2)[0])[:, 1] for frame in frames if len(frame) > 1
    ]
    return float(np.median(np.concatenate(found))) if found else 100.0


def _nearest(
    a: NDArray[np.float64], b: NDArray[np.float64], reach: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Peaks of two frames that are each the other's nearest, within `reach`."""
    from scipy.spatial import KDTree

    if not (len(a) and len(b)):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    distance, there = map(np.asarray, KDTree(b[:, :2]).query(a[:, :2]))
    back = np.asarray(KDTree(a[:, :2]).query(b[:, :2])[1])
    here = np.flatnonzero((back[there] == np.arange(len(a))) & (distance <= reach))
    return here, np.asarray(there[here], np.int64)


def _bends(
    times: NDArray[np.float64],
    frames: Sequence[NDArray[np.float64]],
    first: tuple[NDArray[np.int64], NDArray[np.int64]],
    second: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[np.float64]:
    """Squared changes of displacement and what the positions' errors make of them, (n, 2), as strengths of the walk."""
    _, at_first, at_second = np.intersect1d(first[1], second[0], return_indices=True)
    a, b, c = (
        frame[rows]
        for frame, rows in zip(frames, (first[0][at_first], first[1][at_first], second[1][at_second]), strict=True)
    )
    before, after = np.diff(times)
    ratio = after / before
    off = c[:, :2] - b[:, :2] - ratio * (b[:, :2] - a[:, :2])
    noise = c[:, 2:5:2] + (1 + ratio) ** 2 * b[:, 2:5:2] + ratio**2 * a[:, 2:5:2]
    # Of a position from two before, for a walk of strength 1: after² (before + after) / 3.
    strengths: NDArray[np.float64] = np.stack([(off**2).ravel(), noise.ravel()], axis=1)
    return strengths / (after**2 * (before + after) / 3)  # type: ignore[no-any-return]


def _scatter(values: NDArray[np.float64]) -> float:
    """1.4826 times the median absolute deviation of those that are known, and no less than is sensible."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 1.0
    return max(_LEAST_SCATTER, 1.4826 * float(np.median(np.abs(known - np.median(known)))))
