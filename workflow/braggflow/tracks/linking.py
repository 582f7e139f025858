"""Peaks joined to segments, frame by frame, and segments to tracks: over gaps, with what split off and what merged."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from braggflow.tracks.assignment import cheapest_pairs
from braggflow.tracks.candidates import COLUMNS, COUNT, FRAME, SEGMENT, begun, candidates, move_on
from braggflow.tracks.motion_found import Motion, missed_cost, no_link_cost
from braggflow.tracks.segment_ends import end_of_segments, gap_candidates, relatives
from braggflow.tracks.smoothing import smoothed_groups

#: Largest squared distance in sigma of a link, beside the blend's: of one true link in 300,000 it is more.
GATE = 25.0
#: Share of peaks whose place is off by the width of a blend.
_BLENDED = 0.05


def link_rules(motion: Motion) -> NDArray[np.float64]:
    """What the kernels of `candidates` go by."""
    return np.array(
        [
            motion.wander,
            GATE,
            motion.blend**2,
            -2 * np.log(_BLENDED),
            no_link_cost(motion),
            motion.intensity_scatter,
            motion.intensity_spread,
            motion.width_scatter,
            motion.width_spread,
        ]
    )


@dataclass(slots=True)
class Linker:
    """Takes the frames of a series in turn and says on which segment each peak lies.

    `step` is by how much the numbers of neighbouring frames differ, `max_gap` for how many frames a peak may be
    missing.
    """

    motion: Motion
    max_gap: int
    step: float = 1.0
    begun: int = 0
    """Segments so far."""
    cut: int = 0
    """Members of components that were too large to be solved as a whole."""
    _open: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, COLUMNS)))
    _room: int = 1024

    def link(self, frame: float, time: float, peaks: NDArray[np.float64]) -> NDArray[np.int64]:
        """The segment of each peak (n, 7) of a frame, shape (n,); frames come in ascending order of number and time.

        Columns of peaks: y, x, their variances yy, yx, xx, and the logarithms of intensity and width (NaN: unknown).
        """
        self._forget(frame)
        order = np.lexsort((peaks[:, 6], peaks[:, 5], peaks[:, 1], peaks[:, 0]))
        ordered = np.ascontiguousarray(peaks[order])
        segment = np.full(len(peaks), -1, np.int64)
        rules = link_rules(self.motion)
        if len(self._open) and len(ordered):
            left, right, cost = self._candidates(ordered, frame, time, rules)
            chosen, cut = cheapest_pairs(left, right, cost)
            self.cut += cut
            left, right = left[chosen], right[chosen]
            move_on(self._open, ordered, left, right, time, frame, rules)
            segment[right] = self._open[left, SEGMENT].astype(np.int64)
        new = segment < 0
        if new.any():
            more = begun(ordered[new], self.begun, time, frame, self.motion.speed**2)
            segment[new] = np.arange(self.begun, self.begun + len(more))
            self.begun += len(more)
            self._open = np.concatenate([self._open, more])
        result = np.empty(len(peaks), np.int64)
        result[order] = segment
        return result

    def _forget(self, frame: float) -> None:
        """Leave out segments that were not seen for too long: as many frames as they have peaks, at most."""
        gap = np.rint((frame - self._open[:, FRAME]) / self.step) - 1
        there = gap <= np.minimum(self.max_gap, self._open[:, COUNT])
        if not there.all():
            self._open = self._open[there]

    def _candidates(
        self, peaks: NDArray[np.float64], frame: float, time: float, rules: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        first, further = missed_cost()
        gap = np.rint((frame - self._open[:, FRAME]) / self.step) - 1
        missed = np.where(gap > 0, first + further * (gap - 1), 0.0)
        found, *pairs = candidates(self._open, peaks, time, missed, rules, self._room)
        if found > self._room:
            self._room = 2 * found
            found, *pairs = candidates(self._open, peaks, time, missed, rules, self._room)
        left, right, cost = pairs
        return left.astype(np.int64), right.astype(np.int64), cost.astype(np.float64)


@dataclass(frozen=True, slots=True)
class Joined:
    """Which track each peak lies on, and how tracks hang together; tracks are numbered by first frame, then y, x."""

    track: NDArray[np.int64]
    """(n,) of each row; −1: none."""
    starts: NDArray[np.int64]
    """(n_tracks + 1,) bounds of each track in `order`."""
    order: NDArray[np.int64]
    """Rows track by track, those of each in order of time."""
    parent: NDArray[np.int64]
    """(n_tracks,) from which it split off, −1: none."""
    merged_into: NDArray[np.int64]
    """(n_tracks,) into which it went, −1: none."""


def by_number(number: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bounds (n + 1,) and order of rows by their number, −1 left out; those of one stay in order."""
    order = np.argsort(number, kind="stable")
    order = order[np.searchsorted(number, 0, sorter=order) :]
    counts = np.bincount(number[order], minlength=n)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), order


def join_segments(
    segment: NDArray[np.int64],
    rows: NDArray[np.float64],
    motion: Motion,
    *,
    max_gap: int,
    step: float,
    shortest: int,
    relations: bool = True,
) -> Joined:
    """Tracks from the segments of rows, which go by frame, ascending in y within each.

    Parameters
    ----------
    segment : numpy.ndarray of int64
        (n,) of each row, from 0.
    rows : numpy.ndarray of float64
        (n, 9): y, x, their variances yy, yx, xx, logarithms of intensity and width, frame, time.
    max_gap, step
        Frames for which a peak may be missing, and by how much the numbers of neighbouring frames differ.
    shortest : int
        What has fewer peaks is no track.
    relations : bool
        Whether splits and merges are looked for.
    """
    n_segments = int(segment.max(initial=-1)) + 1
    starts, order = by_number(segment, n_segments)
    begins, ends = [], []
    for _, bounds, at, states, covs in smoothed_groups(rows, starts, order, motion):
        own = rows[at]
        begins.append(end_of_segments(bounds, own, states, covs, False))
        ends.append(end_of_segments(bounds, own, states, covs, True))
    chain = _chains(begins, ends, n_segments, motion, max_gap, step)
    track = _long_enough(chain[segment], shortest)
    track = _numbered(track)
    n = int(track.max(initial=-1)) + 1
    starts, order = by_number(track, n)
    none = np.full(n, -1, np.int64)
    if not (relations and n):
        return Joined(track, starts, order, none, none.copy())
    place = np.full(len(track), -1, np.int64)
    place[order] = np.arange(len(order))
    frames, frame_starts = np.unique(rows[:, 7], return_index=True)
    bounds = np.append(frame_starts, len(rows)).astype(np.int64)
    settings = (step, shortest, motion.blend, motion.intensity_scatter, no_link_cost(motion) - missed_cost()[0])
    found = [
        relatives(sign, starts, order, place, track, np.ascontiguousarray(rows), bounds, frames, *settings)
        for sign in (1, -1)
    ]
    first = rows[order[starts[:-1]], 7] == frames[0]
    last = rows[order[starts[1:] - 1], 7] == frames[-1]
    return Joined(track, starts, order, np.where(first, -1, found[0]), np.where(last, -1, found[1]))


def _chains(
    begins: list[NDArray[np.float64]],
    ends: list[NDArray[np.float64]],
    n: int,
    motion: Motion,
    max_gap: int,
    step: float,
) -> NDArray[np.int64]:
    """The chain of each segment, (n,): those joined over gaps bear the number of their first."""
    if not n:
        return np.zeros(0, np.int64)
    begin, end = np.concatenate(begins), np.concatenate(ends)
    ordered = np.argsort(end[:, FRAME], kind="stable")
    end = end[ordered]
    room = 4 * n + 1024
    rules = link_rules(motion), motion.speed**2, missed_cost()
    found, *pairs = gap_candidates(end, begin, max_gap, step, *rules, room)
    if found > room:
        found, *pairs = gap_candidates(end, begin, max_gap, step, *rules, found)
    left, right, cost = pairs
    other = ordered[left] != right
    left, right, cost = left[other], right[other], cost[other]
    chosen, _ = cheapest_pairs(left, right, cost)
    before = np.full(n, -1, np.int64)
    before[right[chosen]] = ordered[left[chosen]]
    chain = np.arange(n)
    # What a segment follows began earlier: in that order, each finds the chain of its predecessor.
    for k in right[chosen][np.argsort(begin[right[chosen], FRAME], kind="stable")].tolist():
        chain[k] = chain[before[k]]
    return chain


def _long_enough(number: NDArray[np.int64], shortest: int) -> NDArray[np.int64]:
    counts = np.bincount(number) if len(number) else np.zeros(0, np.int64)
    return np.where(counts[number] >= shortest, number, -1)


def _numbered(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbered anew, in the order in which they first come."""
    there = np.flatnonzero(number >= 0)
    known, first, inverse = np.unique(number[there], return_index=True, return_inverse=True)
    rank = np.empty(len(known), np.int64)
    rank[np.argsort(first)] = np.arange(len(known))
    result = np.full(len(number), -1, np.int64)
    result[there] = rank[inverse]
    return result
