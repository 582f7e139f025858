"""Fits of a uniformly filled disk, the template of convergent-beam electron diffraction, to each patch.

The model is background + amplitude × D(r), with r a pixel's distance from the centre and D(r) = 1 / (1 + exp((r - R) /
w)): 1 inside the radius R, 0 outside, an edge of width w between (from 10 to 90 % in 4.4 w). Each pixel holds the mean
of the model over its area, by a grid of points in pixels near the edge. Free are y, x, R, w, amplitude and background.
Weights, read noise, chi2 and standard errors are those of the other profiles (`patch_fits`).

Only a peak's own pixels are fitted: the edge of another disk is nothing that a background could explain. Where the
edge is sharper than pixels can tell, w stays at its least and counts as known.
"""

import math

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel
from braggflow.fit.reported import COUNTS_STD
from braggflow.fit.start import copy, copy_rows
from braggflow.patches import State, median, own_border

Floats = NDArray[np.float64]

#: Least radius, px; the greatest is half the patch.
MIN_RADIUS = 1.5
#: Bounds of the edge's width w, px: pixels blur an edge more than the least does, and a wider one is no disk's.
MIN_EDGE, MAX_EDGE = 0.06, 1.5
#: Edge that a fit starts from, px: wide, so that a start that is a pixel off still feels the edge.
START_EDGE = 0.6
#: Least variance given to a pixel, as a share of the amplitude: what scatters faintly around a disk, and pixels that a
#: threshold set to 0, must not outweigh its edge.
FLOOR_SHARE = 0.002
#: A fit has converged when a step is below this many standard errors in each parameter.
STEP_TOLERANCE = 0.01
#: Of counts without noise, steps need be no shorter than this share of the amplitude's.
ROUNDING = 1e-9

Y, X, RADIUS, EDGE, AMPLITUDE, BACKGROUND = range(6)
_N = 6
_FIRST_DAMPING = 1e-2
# Points of a pixel along an axis, Gauss–Legendre's, so many for an edge of at least this width, px: they keep the
# pixel's mean within 1e-4 of the amplitude, and 0.003 at the least edge.
_WIDE, _FEW, _MEDIUM, _SOME, _MANY = 0.5, 3, 0.25, 4, 8
_NODES, _WEIGHTS = np.zeros((_MANY + 1, _MANY)), np.zeros((_MANY + 1, _MANY))
for _n in (_FEW, _SOME, _MANY):
    _NODES[_n, :_n], _WEIGHTS[_n, :_n] = (part / 2 for part in np.polynomial.legendre.leggauss(_n))
# numba reads module constants as numbers.
_OWN = int(State.OWN)


@kernel(nogil=True, error_model="numpy")
def fit_disks(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    poisson: bool,
    max_iterations: int,
    counts_per_photon: float,
    shift: float,
    values: Floats,
) -> None:
    """Fit each patch; fill its row of `values`, in the order of `FIT_DTYPE`.

    `shift` photons (the variance of the read noise) are added to every pixel, and to the background. Both full widths
    at half maximum are the diameter 2 R, the angle is 0, eta NaN.
    """
    size = counts.shape[1]
    photons, usable = np.empty((size, size)), np.empty((size, size), np.bool_)
    p, work = np.empty(_N), np.empty((3 + 3 * _N, _N))
    border = np.empty(max(4 * (size - 1), 1), np.float32)
    for k in range(len(counts)):
        values[k] = np.nan
        number = 0
        for j in range(size):
            for i in range(size):
                usable[j, i] = state[k, j, i] == _OWN and np.isfinite(counts[k, j, i])
                photons[j, i] = counts[k, j, i] / counts_per_photon + shift if usable[j, i] else 0.0
                number += usable[j, i]
        iterations, converged, at_bound = 0, False, False
        level = median(border[: own_border(counts[k], state[k], border)]) / counts_per_photon + shift
        if number > _N + 2 and _start(photons, usable, level, p):
            iterations, converged, at_bound = _fit_one(
                photons, usable, number, poisson, max_iterations, p, work, values[k]
            )
        values[k, 4] *= counts_per_photon
        values[k, COUNTS_STD] *= counts_per_photon
        values[k, 5] = counts_per_photon * (values[k, 5] - shift)
        values[k, -3], values[k, -2], values[k, -1] = iterations, converged, at_bound


@inner(nogil=True, error_model="numpy")
def _start(photons: Floats, usable: NDArray[np.bool_], level: float, p: Floats) -> bool:
    """Fill the values to start from: centre and area of what is above half of the height. False without a disk."""
    size = len(photons)
    # The highest mean of 3 × 3 pixels: a single one is its noise.
    highest = -np.inf
    smooth = np.full((size, size), -np.inf)
    for j in range(size):
        for i in range(size):
            s, n = 0.0, 0
            for jj in range(max(j - 1, 0), min(j + 2, size)):
                for ii in range(max(i - 1, 0), min(i + 2, size)):
                    if usable[jj, ii]:
                        s += photons[jj, ii]
                        n += 1
            if n > 0:
                smooth[j, i] = s / n
                if n >= 4:
                    highest = max(highest, s / n)
    height = highest - level
    if not 0 < height < np.inf:
        return False
    half = level + 0.5 * height
    area, sy, sx = 0, 0.0, 0.0
    for j in range(size):
        for i in range(size):
            if smooth[j, i] > half:
                area += 1
                sy += j
                sx += i
    if area == 0:
        return False
    p[Y], p[X] = sy / area, sx / area
    p[RADIUS] = min(max(math.sqrt(area / math.pi), MIN_RADIUS + 0.2), 0.5 * size - 0.2)
    p[EDGE], p[AMPLITUDE], p[BACKGROUND] = START_EDGE, 0.9 * height, level
    return True


@inner(nogil=True, error_model="numpy")
def _pixel(dy: float, dx: float, radius: float, edge: float) -> tuple[float, float, float, float, float]:
    """Mean over a pixel of D, and of its derivatives by y, x, R and w."""
    r = math.hypot(dy, dx)
    # D is 1 or 0 to 1e-6 where the whole pixel is further from the edge than this.
    if abs(r - radius) > 0.71 + 14 * edge:
        return (1.0 if r < radius else 0.0), 0.0, 0.0, 0.0, 0.0
    n = _FEW if edge >= _WIDE else _SOME if edge >= _MEDIUM else _MANY
    value, by_y, by_x, by_radius, by_edge = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(n):
        for i in range(n):
            weight = _WEIGHTS[n, j] * _WEIGHTS[n, i]
            vy, vx = dy + _NODES[n, j], dx + _NODES[n, i]
            r = math.sqrt(vy * vy + vx * vx) + 1e-12
            u = (r - radius) / edge
            d = 1.0 / (1.0 + math.exp(u))
            slope = weight * d * (1.0 - d) / edge
            value += weight * d
            by_y += slope * vy / r
            by_x += slope * vx / r
            by_radius += slope
            by_edge += slope * u
    return value, by_y, by_x, by_radius, by_edge


@inner(nogil=True, error_model="numpy")
def _look(
    photons: Floats, usable: NDArray[np.bool_], poisson: bool, floor: float, p: Floats, gradient: Floats, matrix: Floats
) -> tuple[float, float, float]:
    """Fill gradient and information matrix.

    Returns the deviance up to a constant (below the floor a parabola, as the weights are equal there), the weighted
    squared residuals, and what photons would make these.
    """
    gradient[:], matrix[:] = 0.0, 0.0
    by = np.empty(_N)
    deviance, total, expected = 0.0, 0.0, 0.0
    for j in range(len(photons)):
        for i in range(len(photons)):
            if not usable[j, i]:
                continue
            d, by[Y], by[X], by[RADIUS], by[EDGE] = _pixel(j - p[Y], i - p[X], p[RADIUS], p[EDGE])
            for a in range(AMPLITUDE):
                by[a] *= p[AMPLITUDE]
            by[AMPLITUDE], by[BACKGROUND] = d, 1.0
            m, c = p[BACKGROUND] + p[AMPLITUDE] * d, photons[j, i]
            weight, residual = 1.0, c - m
            if poisson:
                high, low = max(m, floor), min(m, floor)
                weight = 1.0 / high
                deviance += 2 * (high - c * math.log(high)) + ((c - low) ** 2 - (c - floor) ** 2) / floor
            total += weight * residual * residual
            expected += weight * max(m, 0.0)
            for a in range(_N):
                gradient[a] += weight * residual * by[a]
                for b in range(a + 1):
                    matrix[a, b] += weight * by[a] * by[b]
    for a in range(_N):
        for b in range(a):
            matrix[b, a] = matrix[a, b]
    return deviance if poisson else total, total, expected


@inner(nogil=True, error_model="numpy")
def _hold(a: int, gradient: Floats, matrix: Floats) -> None:
    """Take a parameter to be known."""
    gradient[a] = 0.0
    for b in range(_N):
        matrix[a, b] = matrix[b, a] = 0.0
    matrix[a, a] = 1.0


@inner(nogil=True, error_model="numpy")
def _invert(matrix: Floats, damping: float, inverse: Floats) -> bool:
    """Inverse of the symmetric matrix with its diagonal raised by a share (Gauss–Jordan); False where it has none."""
    for a in range(_N):
        for b in range(_N):
            inverse[a, b] = matrix[a, b]
        inverse[a, a] *= 1.0 + damping
    for k in range(_N):
        if not inverse[k, k] > 1e-13 * matrix[k, k]:
            return False
        pivot = 1.0 / inverse[k, k]
        for a in range(_N):
            if a != k:
                share = inverse[a, k] * pivot
                for b in range(_N):
                    if b != k:
                        inverse[a, b] -= share * inverse[k, b]
        for a in range(_N):
            if a != k:
                inverse[a, k] *= -pivot
                inverse[k, a] *= pivot
        inverse[k, k] = pivot
    return True


@inner(nogil=True, error_model="numpy")
def _fit_one(
    photons: Floats,
    usable: NDArray[np.bool_],
    number: int,
    poisson: bool,
    max_iterations: int,
    p: Floats,
    work: Floats,
    values: Floats,
) -> tuple[int, bool, bool]:
    """Fit one patch by damped steps (Levenberg–Marquardt); return iterations, whether it converged, at a bound."""
    size = len(photons)
    floor = max(FLOOR_SHARE * p[AMPLITUDE], 1e-9)
    trial, gradient, new_gradient = work[0], work[1], work[2]
    matrix, new_matrix, inverse = work[3 : 3 + _N], work[3 + _N : 3 + 2 * _N], work[3 + 2 * _N :]
    copy(p, trial)
    damping, found, iterations = _FIRST_DAMPING, False, 0
    before, total, expected = _look(photons, usable, poisson, floor, p, gradient, matrix)
    spread = 1.0
    while iterations < max_iterations and not found and damping < 1e8:
        iterations += 1
        n_free = float(_N)
        if (p[EDGE] <= MIN_EDGE and gradient[EDGE] <= 0) or (p[EDGE] >= MAX_EDGE and gradient[EDGE] >= 0):
            _hold(EDGE, gradient, matrix)
            n_free -= 1
        spread = total / max(expected - n_free, 1.0) if poisson else total / max(number - n_free, 1.0)
        if not _invert(matrix, damping, inverse):
            damping *= 10
            continue
        length = 0.0
        for a in range(_N):
            step = 0.0
            for b in range(_N):
                step += inverse[a, b] * gradient[b]
            length += step * gradient[a]
            trial[a] = p[a] + step
        trial[EDGE] = min(max(trial[EDGE], MIN_EDGE), MAX_EDGE)
        least = max(spread, (ROUNDING / STEP_TOLERANCE) ** 2 * p[AMPLITUDE])
        found = length <= STEP_TOLERANCE**2 * least and damping <= 1
        if not _is_disk(trial, size):
            found = False
            damping *= 10
            continue
        after, new_total, new_expected = _look(photons, usable, poisson, floor, trial, new_gradient, new_matrix)
        if after <= before or found:
            copy(trial, p)
            copy(new_gradient, gradient)
            copy_rows(new_matrix, matrix)
            before, total, expected = after, new_total, new_expected
            damping = max(0.1 * damping, 1e-7)
        else:
            damping *= 10
    if not found:
        return iterations, False, not _is_disk(trial, size)
    n_free = float(_N)
    if p[EDGE] <= MIN_EDGE or p[EDGE] >= MAX_EDGE:
        _hold(EDGE, gradient, matrix)
        n_free -= 1
    spread = total / max(expected - n_free, 1.0) if poisson else total / max(number - n_free, 1.0)
    if not _invert(matrix, 0.0, inverse):
        return iterations, False, False
    values[0], values[1] = p[Y], p[X]
    values[2], values[3] = math.sqrt(spread * inverse[Y, Y]), math.sqrt(spread * inverse[X, X])
    values[4], values[5] = p[AMPLITUDE], p[BACKGROUND]
    values[6] = values[7] = 2 * p[RADIUS]
    values[8] = 0.0
    values[11] = values[12] = 2 * math.sqrt(spread * inverse[RADIUS, RADIUS])
    # Of the counts, amplitude × π R².
    by_radius, by_amplitude = 2 * math.pi * p[RADIUS] * p[AMPLITUDE], math.pi * p[RADIUS] ** 2
    variance = by_radius**2 * inverse[RADIUS, RADIUS] + by_amplitude**2 * inverse[AMPLITUDE, AMPLITUDE]
    variance += 2 * by_radius * by_amplitude * inverse[RADIUS, AMPLITUDE]
    values[COUNTS_STD] = math.sqrt(spread * variance)
    # Of equal weights, the mean variance of the residuals over that of photons.
    values[10] = spread if poisson else spread * number / max(expected, 1e-9)
    return iterations, True, False


@inner(nogil=True, error_model="numpy")
def _is_disk(p: Floats, size: int) -> bool:
    """Whether centre, radius and amplitude are within their bounds."""
    inside = -0.5 <= p[Y] <= size - 0.5 and -0.5 <= p[X] <= size - 0.5
    return bool(inside and MIN_RADIUS <= p[RADIUS] <= 0.5 * size and p[AMPLITUDE] > 0)
