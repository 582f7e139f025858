"""Compiled model of a patch: pixel-integrated profiles, their derivatives, deviance and information matrix.

The model is background + Σ amplitude × profile over the peaks of the patch; see `fit` for the profile and `start`
for the order of the parameters. Each peak's background and eta are those of the first.

Pixels are worked on in single precision, twice as many at a time as in double: that moved no position by more than 1e-4
of its standard error for peaks up to 2,000 photons high, 0.003 at ten million. Parameters, steps and errors are in
double.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner
from braggflow.fit.start import AMPLITUDE, BACKGROUND, ETA, MAX_PEAKS, XX, XY, YY, Floats, Singles, X, Y, exp_half
from braggflow.patches import State

#: Largest patch, pixels along an axis.
MAX_SIZE = 15
#: Peaks modelled in a patch, at most: its own and its neighbours', and two more that the residuals of these tell of.
MAX_MODELLED = MAX_PEAKS + 2
#: Free parameters: 8 of the peak, 6 of each neighbour, 3 of each that shares the peak's shape; and three to spare, as
#: they are taken in fours.
MAX_FREE = 8 + 6 * (MAX_PEAKS - 1) + 3 * (MAX_MODELLED - MAX_PEAKS) + 3
_LAST_USED, _FULL = int(State.OTHER), int(State.FULL)

# Rows of the flat work array, all of one constant length: the compiler then knows that they do not overlap and does
# several pixels at a time. Each peak has a block of rows: the derivatives of the model by its parameters, in their
# order, those by y, x, C and eta for unit amplitude, then the pixels' coordinates. Pixels that are not usable, or
# beyond the patch's, have weight 0.
_ROW = 256
ROWS_PER_PEAK = 10
_BLOCK = ROWS_PER_PEAK * _ROW
_BY_Y, _BY_X, _BY_YY, _BY_XY, _BY_XX, _BY_AMPLITUDE, _BY_BACKGROUND, _BY_ETA = (k * _ROW for k in range(8))
PIXEL_Y, PIXEL_X = 8 * _ROW, 9 * _ROW
COUNTS, USABLE, WEIGHT, MODEL, _TRIAL, RESIDUAL, _PRODUCT, WORK_LENGTH = (
    MAX_MODELLED * _BLOCK + k * _ROW for k in range(8)
)

# Constants of the pixels' arithmetic, which one number in double precision would make double.
_HALF, _ONE, _TWO, LORENTZ = np.float32(0.5), np.float32(1), np.float32(2), np.float32(1 / (2 * math.log(2)))
# atanh(z) / z - 1 as a series in z².
_ATANH_3, _ATANH_5, _ATANH_7, _ATANH_9 = (np.float32(1 / k) for k in (3, 5, 7, 9))
#: What the compiler may do to sums; nothing that would make it blind to NaN.
_FAST = {"reassoc", "contract", "nsz"}

# Nodes and weights of a pixel along an axis, [rule, number, node]: equal parts for the Gaussian, Gauss–Legendre for
# the pseudo-Voigt.
NODES = np.zeros((2, 7, 6))
NODE_WEIGHTS = np.zeros((2, 7, 6), np.float32)
for _n in range(1, 7):
    NODES[0, _n, :_n], NODE_WEIGHTS[0, _n, :_n] = (np.arange(_n) + 0.5) / _n - 0.5, 1 / _n
    _legendre, _weights = np.polynomial.legendre.leggauss(_n)
    NODES[1, _n, :_n], NODE_WEIGHTS[1, _n, :_n] = _legendre / 2, _weights / 2

Integers = NDArray[np.int64]
#: Row of each free parameter in the work array: peak × `ROWS_PER_PEAK` + parameter. Without a sign, so that the
#: compiler knows that no index is negative.
Rows = NDArray[np.uint8]


class Tools(NamedTuple):
    """Arrays to work in, as `fit_one` wants them."""

    work: Singles
    system: Floats
    trial: Floats
    prior: Floats
    height: Floats
    nodes: Integers
    free: Rows


def tools_for(size: int) -> Tools:
    """Arrays for patches of `size` × `size` pixels."""
    return Tools(
        work_array(size),
        np.zeros((3 + 2 * MAX_FREE, MAX_FREE)),
        np.zeros((MAX_MODELLED, 8)),
        np.zeros((MAX_MODELLED, 8)),
        np.zeros(MAX_MODELLED),
        np.zeros((MAX_MODELLED, 2), np.int64),
        np.zeros(MAX_FREE, np.uint8),
    )


def work_array(size: int) -> Singles:
    """A work array of zeros, the coordinates of a patch's pixels written."""
    work = np.zeros(WORK_LENGTH, np.float32)
    blocks = work[: MAX_MODELLED * _BLOCK].reshape(MAX_MODELLED, _BLOCK)
    blocks[:, PIXEL_Y : PIXEL_Y + size * size] = np.arange(size * size) // size
    blocks[:, PIXEL_X : PIXEL_X + size * size] = np.arange(size * size) % size
    return work


@inner(nogil=True, error_model="numpy")
def load_pixels(
    counts: NDArray[np.float32], state: NDArray[np.uint8], scale: float, shift: float, work: Singles
) -> tuple[int, int, float]:
    """Copy a patch into the work array; return the number of usable pixels, of full ones, and the highest usable."""
    size = len(counts)
    n = padded(size)
    number, n_full, highest = 0, 0, 0.0
    for row in (COUNTS, USABLE, MODEL):
        work[row : row + n] = 0.0
    for y in range(size):
        for x in range(size):
            n_full += state[y, x] == _FULL
            if state[y, x] <= _LAST_USED and np.isfinite(counts[y, x]):
                i = y * size + x
                work[COUNTS + i] = counts[y, x] * scale + shift
                work[USABLE + i] = 1.0
                number += 1
                highest = max(highest, work[COUNTS + i])
    return number, n_full, highest


@inner(nogil=True, error_model="numpy")
def padded(size: int) -> int:
    """Length of the used part of a row: whole vector registers."""
    return (size * size + 15) // 16 * 16


@inner(nogil=True, error_model="numpy")
def node_numbers(p: Floats, voigt: bool) -> tuple[int, int]:
    """Nodes a pixel along y and x, from the inverse width (1 / sigma) of the profile's cut along that axis."""
    determinant = p[YY] * p[XX] - p[XY] ** 2
    sharp_y, sharp_x = math.sqrt(p[XX] / determinant), math.sqrt(p[YY] / determinant)
    if voigt:
        return _voigt_number(sharp_y), _voigt_number(sharp_x)
    return int(min(math.ceil(sharp_y), 6.0)), int(min(math.ceil(sharp_x), 6.0))


@inner(nogil=True, error_model="numpy")
def _voigt_number(sharpness: float) -> int:
    if sharpness < 0.7:
        return 2
    if sharpness < 1.2:
        return 3
    return 4 if sharpness < 2.0 else 6


@inner(nogil=True, error_model="numpy")
def smear(number: int, voigt: bool) -> float:
    """Variance that a Gaussian gains where a pixel's parts are replaced by their centres.

    A box of width h is to second order a Gaussian of variance h²/12 (Sheppard's correction), and a Gaussian smeared by
    a Gaussian stays one: what is left out is 0.001 of the height where sigma is one part.
    """
    return 0.0 if voigt else 1 / (12.0 * number * number)


@inner(nogil=True, error_model="numpy")
def height_ratio(p: Floats, ny: int, nx: int, voigt: bool) -> float:
    """Height of the smeared profile over that of the profile."""
    cross = p[XY] ** 2
    smeared = (p[YY] + smear(ny, voigt)) * (p[XX] + smear(nx, voigt)) - cross
    return math.sqrt((p[YY] * p[XX] - cross) / smeared)


@inner(nogil=True, error_model="numpy", fastmath=_FAST)
def _profile(p: Floats, ny: int, nx: int, voigt: bool, n: int, work: Singles) -> None:
    """Fill a peak's rows of derivatives."""
    yy, xx, xy = p[YY] + smear(ny, voigt), p[XX] + smear(nx, voigt), p[XY]
    determinant = yy * xx - xy * xy
    # Inverse of C: yy, xy, xx.
    a, b, c = np.float32(xx / determinant), np.float32(-xy / determinant), np.float32(yy / determinant)
    lorentzian = np.float32(p[ETA])
    rest, steep = _ONE - lorentzian, _TWO * LORENTZ * lorentzian
    rule = 1 if voigt else 0
    for i in range(n):
        for row in (_BY_Y, _BY_X, _BY_YY, _BY_XY, _BY_XX, _BY_AMPLITUDE, _BY_ETA):
            work[i + row] = 0.0
        work[i + _BY_BACKGROUND] = 1.0
    for j in range(ny):
        for k in range(nx):
            weight = NODE_WEIGHTS[rule, ny, j] * NODE_WEIGHTS[rule, nx, k]
            y, x = np.float32(p[Y] - NODES[rule, ny, j]), np.float32(p[X] - NODES[rule, nx, k])
            if voigt:
                for i in range(n):
                    dy, dx = work[i + PIXEL_Y] - y, work[i + PIXEL_X] - x
                    uy, ux = a * dy + b * dx, b * dy + c * dx
                    q = dy * uy + dx * ux
                    gaussian = weight * exp_half(q)
                    unit = _ONE / (_ONE + LORENTZ * q)
                    lorentz = weight * unit
                    slope = rest * gaussian + steep * lorentz * unit
                    work[i + _BY_AMPLITUDE] += rest * gaussian + lorentzian * lorentz
                    work[i + _BY_ETA] += lorentz - gaussian
                    work[i + _BY_Y] += slope * uy
                    work[i + _BY_X] += slope * ux
                    work[i + _BY_YY] += slope * uy * uy
                    work[i + _BY_XY] += slope * uy * ux
                    work[i + _BY_XX] += slope * ux * ux
            else:
                for i in range(n):
                    dy, dx = work[i + PIXEL_Y] - y, work[i + PIXEL_X] - x
                    uy, ux = a * dy + b * dx, b * dy + c * dx
                    gaussian = weight * exp_half(dy * uy + dx * ux)
                    work[i + _BY_AMPLITUDE] += gaussian
                    work[i + _BY_Y] += gaussian * uy
                    work[i + _BY_X] += gaussian * ux
                    work[i + _BY_YY] += gaussian * uy * uy
                    work[i + _BY_XY] += gaussian * uy * ux
                    work[i + _BY_XX] += gaussian * ux * ux


@inner(nogil=True, error_model="numpy", fastmath=_FAST)
def model(
    p: Floats,
    n_peaks: int,
    n_sharing: int,
    nodes: Integers,
    voigt: bool,
    floor: float,
    n: int,
    height: Floats,
    work: Singles,
) -> float:
    """Fill the rows of derivatives and trial; return the fall of the deviance from that of the row of the model.

    The first `n_sharing` peaks have one shape: the first one's derivatives by it are those of all of them.
    Sets the `height` of each smeared profile. The deviance is 2 ∫ (t - counts) / max(t, floor) dt up to the model,
    summed: the Poisson deviance above the floor.
    """
    for k in range(n_peaks):
        _profile(p[k], nodes[k, 0], nodes[k, 1], voigt, n, work[k * _BLOCK : (k + 1) * _BLOCK])
        height[k] = p[k, AMPLITUDE]
    height[0] *= height_ratio(p[0], nodes[0, 0], nodes[0, 1], voigt)
    amplitude, background, least = np.float32(height[0]), np.float32(p[0, BACKGROUND]), np.float32(floor)
    for i in range(n):
        work[i + _TRIAL] = amplitude * work[i + _BY_AMPLITUDE] + background
    for k in range(1, n_peaks):
        block = work[k * _BLOCK : (k + 1) * _BLOCK]
        other, ratio = np.float32(height[k]), np.float32(height[k] / height[0])
        for i in range(n):
            work[i + _TRIAL] += other * block[i + _BY_AMPLITUDE]
            work[i + _BY_ETA] += ratio * block[i + _BY_ETA]
        if k < n_sharing:
            for i in range(n):
                work[i + _BY_YY] += ratio * block[i + _BY_YY]
                work[i + _BY_XY] += ratio * block[i + _BY_XY]
                work[i + _BY_XX] += ratio * block[i + _BY_XX]
    fall, per_floor = np.float32(0), _ONE / least
    for i in range(n):
        new, c, old = work[i + _TRIAL], work[i + COUNTS], work[i + MODEL]
        high, old_high, low, old_low = max(new, least), max(old, least), min(new, least), min(old, least)
        # counts × log(high / old_high) - (high - old_high), nothing large subtracted from its like; the logarithm is
        # 2 atanh(z), to 1 % up to a ratio of 7, beyond which no step is trusted anyway.
        z = (high - old_high) / (high + old_high)
        z2 = z * z
        series = z2 * (_ATANH_3 + z2 * (_ATANH_5 + z2 * (_ATANH_7 + z2 * _ATANH_9)))
        above = z * ((c - high) + (c - old_high) + _TWO * c * series)
        below = (low - old_low) * (c - _HALF * (low + old_low)) * per_floor
        fall += work[i + USABLE] * (above + below)
    return float(2.0 * fall)


@inner(nogil=True, error_model="numpy", fastmath=_FAST)
def information(
    free: Rows, n_free: int, floor: float, n: int, height: Floats, work: Singles, gradient: Floats, matrix: Floats
) -> tuple[float, float]:
    """Make the trial the model, renew the weights, fill the gradient and the lower half of the information matrix.

    Returns the weighted sum of squared residuals, and what it would be for photon counts.
    """
    zero, least = np.float32(0), np.float32(floor)
    total, expected = zero, zero
    for i in range(n):
        new = work[i + _TRIAL]
        residual = work[i + COUNTS] - new
        weight = work[i + USABLE] / max(new, least)
        work[i + MODEL] = new
        work[i + RESIDUAL] = residual
        work[i + WEIGHT] = weight
        total += weight * residual * residual
        expected += weight * max(new, zero)
    for a in range(n_free):
        row, scale = free[a] * _ROW, _scale(free[a], height)
        s = zero
        for i in range(n):
            product = work[i + WEIGHT] * work[row + i]
            work[i + _PRODUCT] = product
            s += product * work[i + RESIDUAL]
        gradient[a] = scale * s
        for b in range(0, a + 1, 4):
            first, second, third, fourth = free[b] * _ROW, free[b + 1] * _ROW, free[b + 2] * _ROW, free[b + 3] * _ROW
            s, t, u, v = zero, zero, zero, zero
            for i in range(n):
                product = work[i + _PRODUCT]
                s += product * work[first + i]
                t += product * work[second + i]
                u += product * work[third + i]
                v += product * work[fourth + i]
            matrix[a, b] = scale * s
            matrix[a, b + 1] = scale * t
            matrix[a, b + 2] = scale * u
            matrix[a, b + 3] = scale * v
    for b in range(n_free):
        scale = _scale(free[b], height)
        for a in range(b, n_free):
            matrix[a, b] *= scale
    return float(total), float(expected)


@inner(nogil=True, error_model="numpy")
def _scale(row: int, height: Floats) -> float:
    """What a row of the work array lacks to be the derivative by its parameter."""
    parameter = row % ROWS_PER_PEAK
    if parameter in (AMPLITUDE, BACKGROUND):
        return 1.0
    amplitude = height[row // ROWS_PER_PEAK]
    return float(0.5 * amplitude if parameter in (YY, XX) else amplitude)
