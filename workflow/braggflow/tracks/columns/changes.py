"""Where a track's course changes: one straight line before, another after."""

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

#: Peaks before and after a change, at least; changes of one course, at most.
_BESIDE, _MOST = 5, 5


def change_points(
    time: NDArray[np.float64], value: NDArray[np.float64], false_alarms: float = 0.01
) -> list[tuple[int, float]]:
    """Where a course changes its level or its slope, with the chance that noise alone does that.

    A line through a stretch is compared with two, parted where these fit best, by the F test of the likelihood ratio
    (two more parameters); the chance is that of the test times the number of places that were tried. Where it is below
    `false_alarms` the stretch is parted there, and both parts are looked at again. Noise is taken for normal and
    independent, its size is found from the course. The clearest changes are returned, five at most: a course that bends
    smoothly is parted wherever it departs most from straight lines.

    Parameters
    ----------
    time, value : numpy.ndarray of float64
        (n,) in ascending order of time; NaN is left out.
    false_alarms : float, default 0.01
        Of straight courses with independent normal noise, at most this share is parted.

    Returns
    -------
    list of (int, float)
        The first place after each change, ascending, and the chance.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.tracks import change_points
    >>> time = np.arange(60.0)
    >>> value = np.maximum(time - 30, 0) + np.random.default_rng(0).normal(0, 0.3, 60)
    >>> [at for at, _ in change_points(time, value)]
    [31]
    """
    known = np.flatnonzero(np.isfinite(value))
    t, v = time[known], value[known]
    found: list[tuple[int, float]] = []
    waiting: list[tuple[float, int, int, int]] = []

    def look_at(first: int, stop: int) -> None:
        best = _best_split(t[first:stop], v[first:stop])
        if best is not None and best[1] < false_alarms:
            heappush(waiting, (best[1], first, first + best[0], stop))

    look_at(0, len(t))
    while waiting and len(found) < _MOST:
        chance, first, at, stop = heappop(waiting)
        found.append((int(known[at]), chance))
        look_at(first, at)
        look_at(at, stop)
    return sorted(found)


def _best_split(t: NDArray[np.float64], v: NDArray[np.float64]) -> tuple[int, float] | None:
    from scipy.special import fdtrc

    n = len(t)
    at = np.arange(_BESIDE, n - _BESIDE + 1)
    if not len(at):
        return None
    t, v = t - t.mean(), v - v.mean()
    sums = np.concatenate([np.zeros((5, 1)), np.cumsum([t, t * t, v, v * t, v * v], axis=1)], axis=1)
    whole = float(_misfit(sums[:, -1:], np.array([n]))[0])
    parted = _misfit(sums[:, at], at) + _misfit(sums[:, -1:] - sums[:, at], n - at)
    best = int(np.argmin(parted))
    left = max(float(parted[best]), 1e-300)
    ratio = (whole - left) / 2 / (left / (n - 4))
    return int(at[best]), float(min(1.0, fdtrc(2, n - 4, ratio) * len(at)))


def _misfit(sums: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of squares about the line through points of which these sums are known."""
    t, tt, v, vt, vv = sums
    about_t = np.maximum(tt - t * t / n, 1e-300)
    squares: NDArray[np.float64] = vv - v * v / n - (vt - v * t / n) ** 2 / about_t
    least: NDArray[np.float64] = np.maximum(squares, 1e-12 * np.maximum(vv, 1e-300))
    return least
