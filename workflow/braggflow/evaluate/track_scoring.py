"""How well peaks were followed, where it is known which are one."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braggflow.simulate import MovingPeaks

#: Frames by which the time of a split or a merge may be off.
_NEAR = 6


@dataclass(frozen=True, slots=True)
class TrackScore:
    """Links between detections, and what else may go wrong with tracks."""

    links: int
    """True ones: a peak and the same peak where it is seen next, within the gap."""
    found: float
    """Share of the true links that are there."""
    wrong: float
    """Share of the links that are there and are not true."""
    splits: tuple[int, int]
    """Found, and there."""
    merges: tuple[int, int]
    switches: int
    """Links between two peaks that keep beside each other."""
    idf1: float
    """Share of detections under one name for each peak (Ristani et al., ECCV 2016 workshops)."""


def score_tracks(
    track: NDArray[np.int64],
    truth: MovingPeaks,
    *,
    max_gap: int = 5,
    parent: NDArray[np.int64] | None = None,
    merged_into: NDArray[np.int64] | None = None,
) -> TrackScore:
    """Compare the track of each detection (n,), −1 where it is on none, with which peak it is of.

    `parent` and `merged_into` (n_tracks,) are the tracks that each split off from and went into, where that is known.

    Examples
    --------
    >>> from braggflow.evaluate import score_tracks
    >>> from braggflow.simulate import simulate_moving_peaks
    >>> truth = simulate_moving_peaks(20, 5, seed=1)
    >>> score_tracks(truth.detections["peak_id"], truth).found
    1.0
    """
    rows = truth.detections
    true, there = _links(rows["peak_id"], rows["frame"], max_gap), _links(track, rows["frame"])
    beside = {frozenset(pair) for pair in truth.companions}
    switched = sum(frozenset((int(rows["peak_id"][a]), int(rows["peak_id"][b]))) in beside for a, b in there)
    nobody = np.full(int(track.max(initial=-1)) + 1, -1)
    return TrackScore(
        len(true),
        len(true & there) / max(1, len(true)),
        len(there - true) / max(1, len(there)),
        _related(track, truth, truth.splits, nobody if parent is None else parent, first=True),
        _related(track, truth, truth.merges, nobody if merged_into is None else merged_into, first=False),
        switched,
        _idf1(rows["peak_id"], track),
    )


def _links(name: NDArray[np.int64], frame: NDArray[np.int64], max_gap: int | None = None) -> set[tuple[int, int]]:
    order = np.lexsort((frame, name))
    same = (np.diff(name[order]) == 0) & (name[order][1:] >= 0)
    if max_gap is not None:
        same &= np.diff(frame[order]) <= max_gap + 1
    return set(zip(order[:-1][same].tolist(), order[1:][same].tolist(), strict=True))


def _related(
    track: NDArray[np.int64], truth: MovingPeaks, events: Mapping[int, int], relative: NDArray[np.int64], *, first: bool
) -> tuple[int, int]:
    """How many events were seen: about then, a track of one of both begins (or ends) at one of the other."""
    rows = truth.detections
    order = np.argsort(track, kind="stable")
    bounds = np.searchsorted(track[order], np.arange(len(relative) + 1))
    found, there = 0, 0
    for child, elder in events.items():
        of_child = np.flatnonzero(rows["peak_id"] == child)
        if len(of_child) < _NEAR:
            continue
        there += 1
        when = rows["frame"][of_child[0 if first else -1]]
        for k in np.flatnonzero(relative >= 0).tolist():
            own, other = (order[bounds[j] : bounds[j + 1]] for j in (k, int(relative[k])))
            at = own[0 if first else -1]
            near = other[np.abs(rows["frame"][other] - when) <= _NEAR]
            pair = {child, elder}
            if (
                abs(rows["frame"][at] - when) <= _NEAR
                and int(rows["peak_id"][at]) in pair
                and pair & set(rows["peak_id"][near].tolist())
            ):
                found += 1
                break
    return found, there


def _idf1(truth: NDArray[np.int64], track: NDArray[np.int64]) -> float:
    from scipy.optimize import linear_sum_assignment

    both = (truth >= 0) & (track >= 0)
    shared = np.zeros((int(truth.max(initial=-1)) + 1, int(track.max(initial=-1)) + 1))
    np.add.at(shared, (truth[both], track[both]), 1)
    matched = shared[linear_sum_assignment(shared, maximize=True)].sum()
    return float(2 * matched / max(1, np.count_nonzero(truth >= 0) + np.count_nonzero(track >= 0)))
