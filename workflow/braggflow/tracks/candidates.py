# mypy: allow-untyped-calls
"""Which peak of a frame may go on which open segment, and at what cost; segments moved on. Compiled."""

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel
from braggflow.tracks.motion_model import begin, predict, update

#: Columns of open segments: state (4), covariance (16), then these.
TIME, FRAME, INTENSITY, WIDTH, SEGMENT, COUNT, COLUMNS = 20, 21, 22, 23, 24, 25, 26
#: Columns of a frame's peaks: y, x, their variances yy, yx, xx, logarithms of intensity and width.
PEAK_COLUMNS = 7
#: A difference of intensity or width costs no more than that of so many sigma: peaks do change at once.
_MOST = 3.0
#: How much of a new peak the intensity and width that a segment goes by take up.
_TAKEN_UP = 0.3


@inner()
def difference_cost(difference: float, scatter: float, spread: float) -> float:
    """Of a change between two peaks of a track, against two peaks of which nothing is known; NaN costs nothing."""
    if not np.isfinite(difference):
        return 0.0
    off = min(abs(difference) / scatter, _MOST)
    return float(off * off + 2 * np.log(scatter / spread))


@inner()
def place_cost(ey: float, ex: float, syy: float, syx: float, sxx: float, rules: NDArray[np.float64]) -> float:
    """Of a peak that lies (ey, ex) from where it ought to be, by their joint covariance; infinite beyond the gate.

    It may be a blend, which weighs less: the cheaper of both. `rules` as of `candidates`.
    """
    far = (syy + rules[2]) * (sxx + rules[2]) - syx * syx
    off = ((sxx + rules[2]) * ey * ey - 2 * syx * ey * ex + (syy + rules[2]) * ex * ex) / far
    if off > rules[1]:
        return float(np.inf)
    near = syy * sxx - syx * syx
    place = (sxx * ey * ey - 2 * syx * ey * ex + syy * ex * ex) / near + np.log(near)
    return float(min(place, off + np.log(far) + rules[3]))


@kernel(nogil=True)
def candidates(
    segments: NDArray[np.float64],
    peaks: NDArray[np.float64],
    time: float,
    missed: NDArray[np.float64],
    rules: NDArray[np.float64],
    most: int,
) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of an open segment (n, 26) and a peak (m, 7, ascending in y) of a frame at `time`, each with its cost.

    The cost is minus twice the logarithm of how likely the peak is where the segment would be, less that of a peak of
    its own; `missed` (n,) is what the frames cost in which the segment was not seen. `rules`: strength of the walk,
    gate (squared Mahalanobis distance), variance of a blended peak's place, cost of such a one, cost of no link,
    scatter and spread of the logarithms of intensity and of width. Returns how many pairs there are, and the first
    `most` of them.
    """
    wander, gate, blend, no_link = rules[0], rules[1], rules[2], rules[4]
    left, right, cost = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most)
    found, widest = 0, 0.0
    for j in range(len(peaks)):
        widest = max(widest, peaks[j, 2])
    state, cov = np.empty(4), np.empty((4, 4))
    ys = peaks[:, 0].copy()
    for i in range(len(segments)):
        for a in range(4):
            state[a] = segments[i, a]
            for b in range(4):
                cov[a, b] = segments[i, 4 + 4 * a + b]
        predict(state, cov, time - segments[i, TIME], wander)
        reach = np.sqrt(gate * (cov[0, 0] + widest + blend))
        for j in range(np.searchsorted(ys, state[0] - reach), len(peaks)):
            ey, ex = peaks[j, 0] - state[0], peaks[j, 1] - state[1]
            if ey > reach:
                break
            syy, syx, sxx = cov[0, 0] + peaks[j, 2], cov[0, 1] + peaks[j, 3], cov[1, 1] + peaks[j, 4]
            total = place_cost(ey, ex, syy, syx, sxx, rules) + missed[i] - no_link
            if total == np.inf:
                continue
            total += difference_cost(peaks[j, 5] - segments[i, INTENSITY], rules[5], rules[6])
            total += difference_cost(peaks[j, 6] - segments[i, WIDTH], rules[7], rules[8])
            if total < 0:
                if found < most:
                    left[found], right[found], cost[found] = i, j, total
                found += 1
    kept = min(found, most)
    return found, left[:kept], right[:kept], cost[:kept]


@kernel(nogil=True)
def move_on(
    segments: NDArray[np.float64],
    peaks: NDArray[np.float64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    time: float,
    frame: float,
    rules: NDArray[np.float64],
) -> None:
    """Let the segments `left` take up the peaks `right` of the frame at `time`, in place."""
    wander, gate, blend = rules[0], rules[1], rules[2]
    state, cov, inverse, gain, place = np.empty(4), np.empty((4, 4)), np.empty(3), np.empty((4, 2)), np.empty(5)
    for k in range(len(left)):
        segment, peak = segments[left[k]], peaks[right[k]]
        for a in range(4):
            state[a] = segment[a]
            for b in range(4):
                cov[a, b] = segment[4 + 4 * a + b]
        for a in range(5):
            place[a] = peak[a]
        predict(state, cov, time - segment[TIME], wander)
        ey, ex = place[0] - state[0], place[1] - state[1]
        syy, syx, sxx = cov[0, 0] + place[2], cov[0, 1] + place[3], cov[1, 1] + place[4]
        if sxx * ey * ey - 2 * syx * ey * ex + syy * ex * ex > gate * (syy * sxx - syx * syx):
            place[2] += blend
            place[4] += blend
        update(state, cov, place, inverse, gain)
        for a in range(4):
            segment[a] = state[a]
            for b in range(4):
                segment[4 + 4 * a + b] = cov[a, b]
        segment[TIME], segment[FRAME] = time, frame
        for to, of in ((INTENSITY, 5), (WIDTH, 6)):
            if not np.isfinite(segment[to]):
                segment[to] = peak[of]
            elif np.isfinite(peak[of]):
                segment[to] += _TAKEN_UP * (peak[of] - segment[to])
        segment[COUNT] += 1


@kernel(nogil=True)
def begun(
    peaks: NDArray[np.float64], first: int, time: float, frame: float, speed_variance: float
) -> NDArray[np.float64]:
    """Segments that begin with these peaks, numbered from `first` on."""
    segments = np.empty((len(peaks), COLUMNS))
    state, cov = np.empty(4), np.empty((4, 4))
    for k in range(len(peaks)):
        begin(state, cov, peaks[k], speed_variance)
        for a in range(4):
            segments[k, a] = state[a]
            for b in range(4):
                segments[k, 4 + 4 * a + b] = cov[a, b]
        segments[k, TIME], segments[k, FRAME] = time, frame
        segments[k, INTENSITY], segments[k, WIDTH] = peaks[k, 5], peaks[k, 6]
        segments[k, SEGMENT], segments[k, COUNT] = first + k, 1
    return segments
