# mypy: allow-untyped-calls
"""How a peak moves: at a constant velocity that wanders, as a Kalman filter and a smoother see it.

A state is (y, x, velocity y, velocity x), in pixels and pixels per unit of time; its covariance is (4, 4). The velocity
does a random walk of strength `q`, pixel² per time³, along each axis (white-noise acceleration: Bar-Shalom, Li &
Kirubarajan, *Estimation with applications to tracking and navigation*, 2001, section 6.2), so that two steps and the
one over both say the same of a gap. The smoother is that of Bryson & Frazier in its modified form (Bierman,
Automatica 9, 1973), which gives what Rauch, Tung & Striebel's gives and inverts no covariance of a state.
"""

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel

#: A position further from the smoothed path than so many sigma is given less weight, in so many rounds.
_OUTLIER, _ROUNDS = 4.0, 2


@inner()
def predict(state: NDArray[np.float64], cov: NDArray[np.float64], dt: float, q: float) -> None:
    """Move a state, shape (4,), and its covariance, shape (4, 4), on by `dt`, in place."""
    for a in range(2):
        state[a] += dt * state[a + 2]
    for a in range(2):
        for b in range(4):
            cov[a, b] += dt * cov[a + 2, b]
    for a in range(4):
        for b in range(2):
            cov[a, b] += dt * cov[a, b + 2]
    for a in range(2):
        cov[a, a] += q * dt**3 / 3
        cov[a, a + 2] += q * dt**2 / 2
        cov[a + 2, a] += q * dt**2 / 2
        cov[a + 2, a + 2] += q * dt


@inner()
def update(
    state: NDArray[np.float64],
    cov: NDArray[np.float64],
    place: NDArray[np.float64],
    inverse: NDArray[np.float64],
    gain: NDArray[np.float64],
) -> float:
    """Take up a position `place` (y, x, and its variances yy, yx, xx), in place; return minus twice its log-likelihood.

    `inverse` (yy, yx, xx) becomes that of the innovation's covariance, `gain`, shape (4, 2), the filter's.
    """
    syy, syx, sxx = cov[0, 0] + place[2], cov[0, 1] + place[3], cov[1, 1] + place[4]
    determinant = syy * sxx - syx * syx
    inverse[0], inverse[1], inverse[2] = sxx / determinant, -syx / determinant, syy / determinant
    ey, ex = place[0] - state[0], place[1] - state[1]
    for a in range(4):
        gain[a, 0] = cov[a, 0] * inverse[0] + cov[a, 1] * inverse[1]
        gain[a, 1] = cov[a, 0] * inverse[1] + cov[a, 1] * inverse[2]
    for b in range(4):
        row_y, row_x = cov[0, b], cov[1, b]
        for a in range(4):
            cov[a, b] -= gain[a, 0] * row_y + gain[a, 1] * row_x
    for a in range(4):
        # Rounding would grow along a long track where it makes the covariance unsymmetric.
        for b in range(a):
            cov[a, b] = cov[b, a] = (cov[a, b] + cov[b, a]) / 2
    for a in range(4):
        state[a] += gain[a, 0] * ey + gain[a, 1] * ex
    squared = ey * (inverse[0] * ey + inverse[1] * ex) + ex * (inverse[1] * ey + inverse[2] * ex)
    return float(squared + np.log(determinant))


@inner()
def begin(
    state: NDArray[np.float64], cov: NDArray[np.float64], place: NDArray[np.float64], speed_variance: float
) -> None:
    """The state after a first position: there, at rest within what peaks usually move."""
    state[0], state[1], state[2], state[3] = place[0], place[1], 0.0, 0.0
    cov[:, :] = 0.0
    cov[0, 0], cov[0, 1], cov[1, 0], cov[1, 1] = place[2], place[3], place[3], place[4]
    cov[2, 2] = cov[3, 3] = speed_variance


@kernel(nogil=True)
def misfit(time: NDArray[np.float64], places: NDArray[np.float64], q: float, speed_variance: float) -> float:
    """Minus twice the log-likelihood of a track's positions (n, 5) at times (n,), of all but the first."""
    state, cov = np.empty(4), np.empty((4, 4))
    inverse, gain = np.empty(3), np.empty((4, 2))
    begin(state, cov, places[0], speed_variance)
    total = 0.0
    for k in range(1, len(time)):
        predict(state, cov, time[k] - time[k - 1], q)
        total += update(state, cov, places[k], inverse, gain)
    return total


@kernel(nogil=True)
def likeliest_wander(
    starts: NDArray[np.int64],
    time: NDArray[np.float64],
    places: NDArray[np.float64],
    typical: float,
    speed_variance: float,
    spread: float,
) -> NDArray[np.float64]:
    """Of each track the strength `q` that its positions are likeliest with, shape (n_tracks,).

    `starts` (n_tracks + 1,) bounds the tracks' rows. How the strength may differ from the `typical` one is a normal
    distribution of its logarithm of width `spread`: a short track has the typical one.
    """
    found = np.empty(len(starts) - 1)
    for track in range(len(starts) - 1):
        rows = slice(starts[track], starts[track + 1])
        if starts[track + 1] - starts[track] < 3:
            found[track] = typical
            continue
        # Halving steps from the middle: the misfit has one minimum, but for noise, along the logarithm.
        best, step = 0.0, 4.0
        least = misfit(time[rows], places[rows], typical, speed_variance)
        while step > 0.2:
            moved = False
            for side in (-1.0, 1.0):
                at = best + side * step
                if abs(at) > 16.0:
                    continue
                value = misfit(time[rows], places[rows], typical * np.exp(at), speed_variance) + (at / spread) ** 2
                if value < least:
                    best, least, moved = at, value, True
                    break
            if not moved:
                step /= 2
        found[track] = typical * np.exp(best)
    return found


@inner()
def _before_update(
    slope: NDArray[np.float64], bend: NDArray[np.float64], gain: NDArray[np.float64], pull: NDArray[np.float64]
) -> None:
    """What later positions pull at (the adjoint state and its matrix), from after a position was taken up to before."""
    to_y, to_x = 0.0, 0.0
    for c in range(4):
        to_y += gain[c, 0] * slope[c]
        to_x += gain[c, 1] * slope[c]
    slope[0] -= to_y + pull[0]
    slope[1] -= to_x + pull[1]
    for i in range(4):
        to_y, to_x = 0.0, 0.0
        for c in range(4):
            to_y += bend[i, c] * gain[c, 0]
            to_x += bend[i, c] * gain[c, 1]
        bend[i, 0] -= to_y
        bend[i, 1] -= to_x
    for j in range(4):
        to_y, to_x = 0.0, 0.0
        for c in range(4):
            to_y += gain[c, 0] * bend[c, j]
            to_x += gain[c, 1] * bend[c, j]
        bend[0, j] -= to_y
        bend[1, j] -= to_x
    bend[0, 0] += pull[2]
    bend[0, 1] += pull[3]
    bend[1, 0] += pull[3]
    bend[1, 1] += pull[4]


@inner()
def _before_step(slope: NDArray[np.float64], bend: NDArray[np.float64], dt: float) -> None:
    """The same, from the later time to the earlier."""
    for a in range(2):
        slope[a + 2] += dt * slope[a]
        for b in range(4):
            bend[b, a + 2] += dt * bend[b, a]
    for a in range(2):
        for b in range(4):
            bend[a + 2, b] += dt * bend[a, b]


@inner()
def _lighten(places: NDArray[np.float64], states: NDArray[np.float64], weighted: NDArray[np.float64]) -> bool:
    """Widen positions that lie off the smoothed path in `weighted`; return whether there are any."""
    any_off = False
    for k in range(len(places)):
        ey, ex = places[k, 0] - states[k, 0], places[k, 1] - states[k, 1]
        yy, yx, xx = places[k, 2], places[k, 3], places[k, 4]
        off = (xx * ey * ey - 2 * yx * ey * ex + yy * ex * ex) / (yy * xx - yx * yx)
        factor = max(1.0, off / (_OUTLIER * _OUTLIER))
        # Four times: what a far position is worth falls as that of Cauchy's distribution does.
        weighted[k, 2:] = places[k, 2:] * (4.0 * factor if factor > 1.0 else 1.0)
        any_off |= factor > 1.0
    return any_off


@inner()
def _smooth(
    time: NDArray[np.float64],
    places: NDArray[np.float64],
    q: float,
    speed_variance: float,
    states: NDArray[np.float64],
    covs: NDArray[np.float64],
    gains: NDArray[np.float64],
    pulls: NDArray[np.float64],
) -> None:
    """Smooth one track; `states` (n, 4) and `covs` (n, 4, 4) are filled, `gains` (n, 4, 2), `pulls` (n, 5) are room."""
    state, cov, inverse = np.empty(4), np.empty((4, 4)), np.empty(3)
    n = len(time)
    begin(state, cov, places[0], speed_variance)
    states[0], covs[0] = state, cov
    for k in range(1, n):
        predict(state, cov, time[k] - time[k - 1], q)
        ey, ex = places[k, 0] - state[0], places[k, 1] - state[1]
        update(state, cov, places[k], inverse, gains[k])
        pulls[k, 0], pulls[k, 1] = inverse[0] * ey + inverse[1] * ex, inverse[1] * ey + inverse[2] * ex
        pulls[k, 2:] = inverse
        states[k], covs[k] = state, cov
    slope, bend, work = np.zeros(4), np.zeros((4, 4)), np.empty((4, 4))
    for k in range(n - 1, -1, -1):
        covs_k = covs[k].copy()
        for a in range(4):
            for b in range(4):
                work[a, b] = 0.0
                for c in range(4):
                    work[a, b] += covs_k[a, c] * bend[c, b]
        for a in range(4):
            for b in range(4):
                states[k, a] -= covs_k[a, b] * slope[b]
                for c in range(4):
                    covs[k, a, b] -= work[a, c] * covs_k[c, b]
        if k == 0:
            break
        _before_update(slope, bend, gains[k], pulls[k])
        _before_step(slope, bend, time[k] - time[k - 1])


@kernel(nogil=True)
def smooth_tracks(
    starts: NDArray[np.int64],
    time: NDArray[np.float64],
    places: NDArray[np.float64],
    wander: NDArray[np.float64],
    speed_variance: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The states (n, 4) and covariances (n, 4, 4) of tracks at each of their positions, from all of their positions.

    `starts` (n_tracks + 1,) bounds the tracks' rows in `time` (n,) and `places` (n, 5: y, x, and the variances yy, yx,
    xx); `wander` (n_tracks,) is the strength `q` of each. Positions that lie off the path are given less weight.
    """
    n, longest = len(time), 0
    for track in range(len(starts) - 1):
        longest = max(longest, starts[track + 1] - starts[track])
    states, covs = np.empty((n, 4)), np.empty((n, 4, 4))
    gains, pulls = np.empty((longest, 4, 2)), np.empty((longest, 5))
    for track in range(len(starts) - 1):
        rows = slice(starts[track], starts[track + 1])
        weighted = places[rows].copy()
        for turn in range(_ROUNDS + 1):
            _smooth(time[rows], weighted, wander[track], speed_variance, states[rows], covs[rows], gains, pulls)
            if turn == _ROUNDS or not _lighten(places[rows], states[rows], weighted):
                break
    return states, covs
