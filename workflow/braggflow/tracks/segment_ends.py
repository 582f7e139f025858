# mypy: allow-untyped-calls
"""Ends of segments compared: which go on after a gap, which come out of another or go into one. Compiled."""

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import kernel
from braggflow.tracks.candidates import COUNT, FRAME, INTENSITY, TIME, WIDTH, difference_cost, place_cost
from braggflow.tracks.motion_model import predict

#: Columns of rows: y, x, their variances yy, yx, xx, logarithms of intensity and width, frame, time.
ROW_COLUMNS, LOG_INTENSITY, ROW_FRAME, ROW_TIME = 9, 5, 7, 8
#: Velocities that differ by more sigma than this cost no more: a peak may have turned.
_TURNED = 4.0
#: Peaks of either side whose mean intensity is compared, and what these means scatter by of themselves.
_COMPARED, _OWN_SCATTER = 5, 0.1
#: Frames for which neither part of a split may be seen, at most; most sigma of a difference; cost of a split in itself.
_UNSEEN, _MOST, _RARE = 2, 5.0, 4.6


@kernel(nogil=True)
def gap_candidates(
    ends: NDArray[np.float64],
    starts: NDArray[np.float64],
    max_gap: int,
    step: float,
    rules: NDArray[np.float64],
    speed_variance: float,
    missed: tuple[float, float],
    most: int,
) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of the end of one segment (m, 26, ascending in frame) and the start of another (m, 26), each with its cost.

    Both are as `candidates` has them, smoothed, their covariances with what lies before and after. `rules` as there.
    """
    left, right, cost = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most)
    state, cov = np.empty(4), np.empty((4, 4))
    frames = ends[:, FRAME].copy()
    found = 0
    for s in range(len(starts)):
        start = starts[s]
        first = np.searchsorted(frames, start[FRAME] - (max_gap + 1.5) * step)
        for e in range(first, np.searchsorted(frames, start[FRAME] - 0.5 * step)):
            end = ends[e]
            for a in range(4):
                state[a] = end[a]
                for b in range(4):
                    cov[a, b] = end[4 + 4 * a + b]
            predict(state, cov, start[TIME] - end[TIME], rules[0])
            ey, ex = start[0] - state[0], start[1] - state[1]
            syy, syx, sxx = cov[0, 0] + start[4], cov[0, 1] + start[5], cov[1, 1] + start[9]
            total = place_cost(ey, ex, syy, syx, sxx, rules) - rules[4]
            if total == np.inf:
                continue
            for a in range(2, 4):
                variance = cov[a, a] + start[4 + 5 * a]
                turned = min((start[a] - state[a]) ** 2 / variance, _TURNED**2)
                total += turned + np.log(variance / (variance + 2 * speed_variance))
            gap = np.rint((start[FRAME] - end[FRAME]) / step) - 1
            if gap > 0:
                total += missed[0] + missed[1] * (gap - 1)
            total += difference_cost(start[INTENSITY] - end[INTENSITY], rules[5], rules[6])
            total += difference_cost(start[WIDTH] - end[WIDTH], rules[7], rules[8])
            if total < 0:
                if found < most:
                    left[found], right[found], cost[found] = e, s, total
                found += 1
    kept = min(found, most)
    return found, left[:kept], right[:kept], cost[:kept]


@kernel(nogil=True)
def relatives(
    sign: int,
    starts: NDArray[np.int64],
    order: NDArray[np.int64],
    place: NDArray[np.int64],
    track: NDArray[np.int64],
    rows: NDArray[np.float64],
    frame_starts: NDArray[np.int64],
    frames: NDArray[np.float64],
    step: float,
    shortest: int,
    blend: float,
    scatter: float,
    no_link: float,
) -> NDArray[np.int64]:
    """Of each track that from which it split off (`sign` 1), or into which it merged (−1); −1: none.

    Parameters
    ----------
    starts, order, place, track
        Bounds (n_tracks + 1,) of each track in `order` (n,), which holds the rows track by track; where each row stands
        there, and its track.
    rows : (n, 9)
        Of `ROW_COLUMNS`, by frame, ascending in y within each.
    frame_starts, frames
        Bounds (n_frames + 1,) of each frame in `rows`, and its number.
    shortest
        Tracks of fewer peaks are left out.
    """
    relative = np.full(len(starts) - 1, -1)
    sigma2 = (2 * blend) ** 2
    for k in range(len(starts) - 1):
        if starts[k + 1] - starts[k] < shortest:
            continue
        at = starts[k] if sign > 0 else starts[k + 1] - 1
        row = order[at]
        here = np.searchsorted(frames, rows[row, ROW_FRAME])
        best = no_link
        for back in range(1, _UNSEEN + 2):
            there = here - sign * back
            if there < 0 or there >= len(frames) or abs(frames[there] - frames[here]) > (_UNSEEN + 1.5) * step:
                break
            for other in range(frame_starts[there], frame_starts[there + 1]):
                j = track[other]
                near = place[other]
                if j < 0 or j == k or near + sign < starts[j] or near + sign >= starts[j + 1]:
                    continue
                if (near + 1 - starts[j] if sign > 0 else starts[j + 1] - near) < shortest:
                    continue
                nearer = order[near + sign]
                dt = rows[nearer, ROW_TIME] - rows[other, ROW_TIME]
                part = (rows[row, ROW_TIME] - rows[other, ROW_TIME]) / dt
                if part < 0 or part > 1:
                    continue
                off = 0.0
                for a in range(2):
                    off += (rows[row, a] - rows[other, a] - part * (rows[nearer, a] - rows[other, a])) ** 2
                if off > 9 * sigma2:
                    continue
                whole = _mean(rows, order, near, -sign, starts[j], starts[j + 1])
                rest = _mean(rows, order, near + sign, sign, starts[j], starts[j + 1])
                part_of = _mean(rows, order, at, sign, starts[k], starts[k + 1])
                width2 = 2 * scatter**2 / _COMPARED + _OWN_SCATTER**2
                shared = min(np.log(whole / (rest + part_of)) ** 2 / width2, _MOST**2)
                unchanged = min(np.log(whole / rest) ** 2 / width2, _MOST**2)
                cost = off / sigma2 + 2 * np.log(2 * np.pi * sigma2) + _RARE + 6.0 * (back - 1)
                if np.isfinite(shared - unchanged):
                    cost += shared - unchanged
                if cost < best:
                    best = cost
                    relative[k] = j
            if relative[k] >= 0:
                break
    return relative


@kernel(nogil=True)
def _mean(rows: NDArray[np.float64], order: NDArray[np.int64], at: int, sign: int, first: int, stop: int) -> float:
    """Mean intensity of a track's peaks from one on, in one direction."""
    total, n = 0.0, 0
    for k in range(_COMPARED):
        index = at + sign * k
        if index < first or index >= stop:
            break
        value = rows[order[index], LOG_INTENSITY]
        if np.isfinite(value):
            total += np.exp(value)
            n += 1
    return total / n if n else np.nan


@kernel(nogil=True)
def end_of_segments(
    starts: NDArray[np.int64],
    rows: NDArray[np.float64],
    states: NDArray[np.float64],
    covs: NDArray[np.float64],
    last: bool,
) -> NDArray[np.float64]:
    """The first or last state of segments, (m, 26) as `candidates` has open ones.

    `rows`, `states` and `covs` go segment by segment, within `starts` (m + 1,).
    """
    found = np.empty((len(starts) - 1, COUNT + 1))
    for k in range(len(starts) - 1):
        first, stop = starts[k], starts[k + 1]
        at, sign = (stop - 1, -1) if last else (first, 1)
        for a in range(4):
            found[k, a] = states[at, a]
            for b in range(4):
                found[k, 4 + 4 * a + b] = covs[at, a, b]
        found[k, TIME], found[k, FRAME], found[k, COUNT] = rows[at, ROW_TIME], rows[at, ROW_FRAME], stop - first
        for to, of in ((INTENSITY, LOG_INTENSITY), (WIDTH, LOG_INTENSITY + 1)):
            total, n = 0.0, 0
            for step in range(min(_COMPARED, stop - first)):
                value = rows[at + sign * step, of]
                if np.isfinite(value):
                    total += value
                    n += 1
            found[k, to] = total / n if n else np.nan
        found[k, COUNT - 1] = k
    return found
