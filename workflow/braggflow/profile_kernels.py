"""Compiled model of a patch: pixel-integrated profiles, their derivatives, deviance and information matrix.

The model is background + Σ amplitude × profile over the peaks of the patch; see `fit` for the profile and `fit_start`
for the order of the parameters. Each peak's background and eta are those of the first.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from braggflow.fit_start import AMPLITUDE, BACKGROUND, ETA, MAX_PEAKS, XX, XY, YY, Floats, X, Y
from braggflow.patches import State

#: Largest patch, pixels along an axis.
MAX_SIZE = 15
_LAST_USED, _FULL = int(State.OTHER), int(State.FULL)

# Rows of the flat work array, all of one constant length: the compiler then knows that they do not overlap and does
# several pixels at a time. Each peak has a block of rows: the derivatives of the model by its parameters, in their
# order, those by y, x, C and eta for unit amplitude, then the pixels' coordinates. Pixels that are not usable, or
# beyond the patch's, have weight 0.
_ROW = 256
ROWS_PER_PEAK = 10
_BLOCK = ROWS_PER_PEAK * _ROW
_BY_Y, _BY_X, _BY_YY, _BY_XY, _BY_XX, _BY_AMPLITUDE, _BY_BACKGROUND, _BY_ETA = (k * _ROW for k in range(8))
_PIXEL_Y, _PIXEL_X = 8 * _ROW, 9 * _ROW
_COUNTS, _USABLE, _WEIGHT, _MODEL, _TRIAL, _RESIDUAL, _PRODUCT, WORK_LENGTH = (
    MAX_PEAKS * _BLOCK + k * _ROW for k in range(8)
)

_LORENTZ = 1 / (2 * math.log(2))
_EXP_MINUS_20 = math.exp(-20)
#: What the compiler may do to sums; nothing that would make it blind to NaN.
_FAST = {"reassoc", "contract", "nsz"}

# Nodes and weights of a pixel along an axis, [rule, number, node]: equal parts for the Gaussian, Gauss–Legendre for
# the pseudo-Voigt.
_NODES = np.zeros((2, 7, 6))
_NODE_WEIGHTS = np.zeros((2, 7, 6))
for _n in range(1, 7):
    _NODES[0, _n, :_n], _NODE_WEIGHTS[0, _n, :_n] = (np.arange(_n) + 0.5) / _n - 0.5, 1 / _n
    _legendre, _weights = np.polynomial.legendre.leggauss(_n)
    _NODES[1, _n, :_n], _NODE_WEIGHTS[1, _n, :_n] = _legendre / 2, _weights / 2

Integers = NDArray[np.int64]
#: Row of each free parameter in the work array: peak × `ROWS_PER_PEAK` + parameter. Without a sign, so that the
#: compiler knows that no index is negative.
Rows = NDArray[np.uint8]


@numba.njit(nogil=True, error_model="numpy")
def load(
    counts: NDArray[np.float32], state: NDArray[np.uint8], scale: float, shift: float, n_peaks: int, work: Floats
) -> tuple[int, int, float]:
    """Copy a patch into the work array; return the number of usable pixels, of full ones, and the highest usable."""
    size = len(counts)
    n = padded(size)
    number, n_full, highest = 0, 0, 0.0
    for row in (_COUNTS, _USABLE, _MODEL):
        work[row : row + n] = 0.0
    for k in range(n_peaks):
        block = work[k * _BLOCK : (k + 1) * _BLOCK]
        block[_PIXEL_Y : _PIXEL_Y + n] = 0.0
        block[_PIXEL_X : _PIXEL_X + n] = 0.0
        for y in range(size):
            for x in range(size):
                block[_PIXEL_Y + y * size + x] = y
                block[_PIXEL_X + y * size + x] = x
    for y in range(size):
        for x in range(size):
            n_full += state[y, x] == _FULL
            if state[y, x] <= _LAST_USED and np.isfinite(counts[y, x]):
                i = y * size + x
                work[_COUNTS + i] = counts[y, x] * scale + shift
                work[_USABLE + i] = 1.0
                number += 1
                highest = max(highest, work[_COUNTS + i])
    return number, n_full, highest


@numba.njit(nogil=True, error_model="numpy")
def padded(size: int) -> int:
    """Length of the used part of a row: whole vector registers."""
    return (size * size + 15) // 16 * 16


@numba.njit(nogil=True, error_model="numpy")
def node_numbers(p: Floats, voigt: bool) -> tuple[int, int]:
    """Nodes a pixel along y and x, from the inverse width (1 / sigma) of the profile's cut along that axis."""
    determinant = p[YY] * p[XX] - p[XY] ** 2
    sharp_y, sharp_x = math.sqrt(p[XX] / determinant), math.sqrt(p[YY] / determinant)
    if voigt:
        return _voigt_number(sharp_y), _voigt_number(sharp_x)
    return int(min(math.ceil(sharp_y), 6.0)), int(min(math.ceil(sharp_x), 6.0))


@numba.njit(nogil=True, error_model="numpy")
def _voigt_number(sharpness: float) -> int:
    if sharpness < 0.7:
        return 2
    if sharpness < 1.2:
        return 3
    return 4 if sharpness < 2.0 else 6


@numba.njit(nogil=True, error_model="numpy")
def _smear(number: int, voigt: bool) -> float:
    """Variance that a Gaussian gains where a pixel's parts are replaced by their centres.

    A box of width h is to second order a Gaussian of variance h²/12 (Sheppard's correction), and a Gaussian smeared by
    a Gaussian stays one: what is left out is 0.001 of the height where sigma is one part.
    """
    return 0.0 if voigt else 1 / (12.0 * number * number)


@numba.njit(nogil=True, error_model="numpy")
def height_ratio(p: Floats, ny: int, nx: int, voigt: bool) -> float:
    """Height of the smeared profile over that of the profile."""
    cross = p[XY] ** 2
    smeared = (p[YY] + _smear(ny, voigt)) * (p[XX] + _smear(nx, voigt)) - cross
    return math.sqrt((p[YY] * p[XX] - cross) / smeared)


@numba.njit(nogil=True, error_model="numpy", fastmath=_FAST)
def _profile(p: Floats, ny: int, nx: int, voigt: bool, n: int, work: Floats) -> None:
    """Fill a peak's rows of derivatives."""
    yy, xx, xy = p[YY] + _smear(ny, voigt), p[XX] + _smear(nx, voigt), p[XY]
    determinant = yy * xx - xy * xy
    a, b, c = xx / determinant, -xy / determinant, yy / determinant  # inverse of C: yy, xy, xx
    eta = p[ETA]
    rule = 1 if voigt else 0
    for i in range(n):
        for row in (_BY_Y, _BY_X, _BY_YY, _BY_XY, _BY_XX, _BY_AMPLITUDE, _BY_ETA):
            work[i + row] = 0.0
        work[i + _BY_BACKGROUND] = 1.0
    for j in range(ny):
        for k in range(nx):
            weight = _NODE_WEIGHTS[rule, ny, j] * _NODE_WEIGHTS[rule, nx, k]
            y, x = p[Y] - _NODES[rule, ny, j], p[X] - _NODES[rule, nx, k]
            if voigt:
                for i in range(n):
                    dy, dx = work[i + _PIXEL_Y] - y, work[i + _PIXEL_X] - x
                    uy, ux = a * dy + b * dx, b * dy + c * dx
                    q = dy * uy + dx * ux
                    gaussian = weight * _exp_half(q)
                    lorentz = 1.0 / (1.0 + _LORENTZ * q)
                    slope = (1.0 - eta) * gaussian + (2.0 * _LORENTZ * weight * eta) * lorentz * lorentz
                    lorentz *= weight
                    work[i + _BY_AMPLITUDE] += (1.0 - eta) * gaussian + eta * lorentz
                    work[i + _BY_ETA] += lorentz - gaussian
                    work[i + _BY_Y] += slope * uy
                    work[i + _BY_X] += slope * ux
                    work[i + _BY_YY] += slope * uy * uy
                    work[i + _BY_XY] += slope * uy * ux
                    work[i + _BY_XX] += slope * ux * ux
            else:
                for i in range(n):
                    dy, dx = work[i + _PIXEL_Y] - y, work[i + _PIXEL_X] - x
                    uy, ux = a * dy + b * dx, b * dy + c * dx
                    gaussian = weight * _exp_half(dy * uy + dx * ux)
                    work[i + _BY_AMPLITUDE] += gaussian
                    work[i + _BY_Y] += gaussian * uy
                    work[i + _BY_X] += gaussian * ux
                    work[i + _BY_YY] += gaussian * uy * uy
                    work[i + _BY_XY] += gaussian * uy * ux
                    work[i + _BY_XX] += gaussian * ux * ux


@numba.njit(nogil=True, error_model="numpy", fastmath=_FAST)
def model(
    p: Floats, n_peaks: int, nodes: Integers, voigt: bool, floor: float, n: int, height: Floats, work: Floats
) -> float:
    """Fill the rows of derivatives and trial; return the fall of the deviance from that of the row of the model.

    Sets the `height` of each smeared profile. The deviance is 2 ∫ (t - counts) / max(t, floor) dt up to the model,
    summed: the Poisson deviance above the floor.
    """
    for k in range(n_peaks):
        _profile(p[k], nodes[k, 0], nodes[k, 1], voigt, n, work[k * _BLOCK : (k + 1) * _BLOCK])
        height[k] = p[k, AMPLITUDE]
    amplitude, background = p[0, AMPLITUDE] * height_ratio(p[0], nodes[0, 0], nodes[0, 1], voigt), p[0, BACKGROUND]
    height[0] = amplitude
    for i in range(n):
        work[i + _TRIAL] = amplitude * work[i + _BY_AMPLITUDE] + background
    for k in range(1, n_peaks):
        block = work[k * _BLOCK : (k + 1) * _BLOCK]
        other, ratio = height[k], height[k] / amplitude
        for i in range(n):
            work[i + _TRIAL] += other * block[i + _BY_AMPLITUDE]
            work[i + _BY_ETA] += ratio * block[i + _BY_ETA]
    fall = 0.0
    for i in range(n):
        new, c, old = work[i + _TRIAL], work[i + _COUNTS], work[i + _MODEL]
        high, old_high, low, old_low = max(new, floor), max(old, floor), min(new, floor), min(old, floor)
        z = (high - old_high) / (high + old_high)
        # log(high / old_high) to 1 % up to a ratio of 7, beyond which no step is trusted anyway.
        z2 = z * z
        log = 2.0 * z * (1.0 + z2 * (1.0 / 3 + z2 * (1.0 / 5 + z2 * (1.0 / 7 + z2 * (1.0 / 9)))))
        above = c * log - (high - old_high)
        below = (low - old_low) * (c - 0.5 * (low + old_low)) / floor
        fall += work[i + _USABLE] * (above + below)
    return 2.0 * fall


@numba.njit(nogil=True, error_model="numpy", fastmath=_FAST)
def _exp_half(q: float) -> float:
    """exp(-q/2), to 1e-9 relative up to q = 80 and constant beyond: arithmetic that the compiler does in vectors."""
    z = 0.078125 - min(q, 80.0) / 512.0
    s = 1.0 + z * (1.0 + z / 2 * (1.0 + z / 3 * (1.0 + z / 4 * (1.0 + z / 5 * (1.0 + z / 6)))))
    for _ in range(8):
        s *= s
    return s * _EXP_MINUS_20


@numba.njit(nogil=True, error_model="numpy", fastmath=_FAST)
def information(
    free: Rows, n_free: int, floor: float, n: int, height: Floats, work: Floats, gradient: Floats, matrix: Floats
) -> tuple[float, float]:
    """Make the trial the model, renew the weights, fill the gradient and the lower half of the information matrix.

    Returns the weighted sum of squared residuals, and what it would be for photon counts.
    """
    total, expected = 0.0, 0.0
    for i in range(n):
        new = work[i + _TRIAL]
        residual = work[i + _COUNTS] - new
        weight = work[i + _USABLE] / max(new, floor)
        work[i + _MODEL] = new
        work[i + _RESIDUAL] = residual
        work[i + _WEIGHT] = weight
        total += weight * residual * residual
        expected += weight * max(new, 0.0)
    for a in range(n_free):
        row = free[a] * _ROW
        s = 0.0
        for i in range(n):
            product = work[i + _WEIGHT] * work[row + i]
            work[i + _PRODUCT] = product
            s += product * work[i + _RESIDUAL]
        gradient[a] = s
        for b in range(0, a + 1, 2):
            other, another = free[b] * _ROW, free[b + 1] * _ROW
            s, t = 0.0, 0.0
            for i in range(n):
                s += work[i + _PRODUCT] * work[other + i]
                t += work[i + _PRODUCT] * work[another + i]
            matrix[a, b] = s
            matrix[a, b + 1] = t
    for a in range(n_free):
        scale = _scale(free[a], height)
        gradient[a] *= scale
        for b in range(a + 1):
            matrix[a, b] *= scale * _scale(free[b], height)
    return total, expected


@numba.njit(nogil=True, error_model="numpy")
def _scale(row: int, height: Floats) -> float:
    """What a row of the work array lacks to be the derivative by its parameter."""
    parameter = row % ROWS_PER_PEAK
    if parameter in (AMPLITUDE, BACKGROUND):
        return 1.0
    amplitude = height[row // ROWS_PER_PEAK]
    return float(0.5 * amplitude if parameter in (YY, XX) else amplitude)
