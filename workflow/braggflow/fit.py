"""Profile fits: a compiled Levenberg–Marquardt fit of an elliptical, pixel-integrated peak to each patch.

The model is amplitude × profile(q) + background, with q the squared elliptical radius d' C⁻¹ d of the distance d from
the centre: exp(-q/2) for a Gaussian; for a pseudo-Voigt (1 - eta) exp(-q/2) + eta / (1 + q / (2 ln 2)), both parts of
one FWHM. Each pixel holds the mean of the model over its area. Free are y, x, the covariance C (xx, xy, yy),
amplitude, background and, for a pseudo-Voigt, eta in 0 to 1.

Pixels are weighted by 1 / max(model, floor), renewed in each iteration. For photon counts this is Fisher scoring of
the Poisson likelihood (the fixed point is its maximum wherever the model is above the floor), without the bias of
weighting by the counts themselves (Laurence & Chromy, Nature Methods 7, 338 (2010)). Multiplying the counts by a gain
changes no position. The standard errors are those of the inverse information matrix times sqrt(chi2), the reduced
chi-square, so that they hold for any gain (counts that are not photons). Noise that the counts do not show (the read
noise of a dark-subtracted camera, where it is above the photon noise) costs precision, and the standard errors are
then too large rather than too small.

Each peak is fitted by itself with the same arithmetic: its result does not depend, to the last bit, on which other
peaks are in the batch.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from braggflow.config import FitConfig, InputError

_NUMBERS = "y x y_std x_std amplitude background fwhm_major fwhm_minor angle eta chi2"
#: One fit; see `fit_patches`.
FIT_DTYPE = np.dtype([*[(name, "f8") for name in _NUMBERS.split()], ("iterations", "i2"), ("converged", "?")])
_COLUMNS = (*_NUMBERS.split(), "iterations", "converged")

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
#: Narrowest sigma accepted, px: a peak all in one pixel has no shape.
MIN_SIGMA = 0.1
#: Farthest that a centre may lie beyond the patch, px.
MAX_OUTSIDE = 1.0
#: Least variance given to a pixel, as a share of the highest pixel above background: faint wings, of which the model
#: knows little, and pixels that a threshold set to 0 must not outweigh the peak.
FLOOR_SHARE = 0.02
#: A fit has converged when its next step is below this many standard errors (that step is still taken).
STEP_TOLERANCE = 0.01

MAX_SIZE = 15

# Rows of the flat work array, all of one constant length: the compiler then knows that they do not overlap and does
# several pixels at a time. Rows 0 to 7 hold the derivatives of the model by the parameters, in their order, those by
# y, x, C and eta for unit amplitude. Pixels that are not usable, or beyond the patch's, have weight 0.
_ROW = 256
_PIXEL_Y, _PIXEL_X, _COUNTS, _USABLE, _WEIGHT, _MODEL, _TRIAL, _RESIDUAL, _PRODUCT = (k * _ROW for k in range(8, 17))
_N_ROWS = 17
_Y, _X, _YY, _XY, _XX, _AMPLITUDE, _BACKGROUND, _ETA = range(8)
_BY_Y, _BY_X, _BY_YY, _BY_XY, _BY_XX, _BY_AMPLITUDE, _BY_BACKGROUND, _BY_ETA = (k * _ROW for k in range(8))
# Vectors of 8 before the two matrices: parameters, trial, step, gradient.
_N_VECTORS = 20

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

Floats = NDArray[np.float64]


def fit_patches(counts: NDArray[np.float32], usable: NDArray[np.bool_], config: FitConfig) -> NDArray[np.void]:
    """Fit one peak to each patch.

    `counts` (n, y, x) of square patches up to 15 × 15, `usable` (n, y, x) True = take this pixel (others may hold
    anything; a NaN is never taken). Uses `config.model` and `config.max_iterations`. Returns shape (n,), dtype
    `FIT_DTYPE`: `y`, `x` in pixels of the patch with their standard errors, `amplitude` the height of the profile
    above `background`, `fwhm_major`, `fwhm_minor` in pixels, `angle` in degrees of the long axis from +x towards +y,
    in (-90, 90], `eta`, and `chi2`, the sum of squared residuals over their expected variances per degree of freedom
    (the gain, if the model holds).

    Where the fit does not converge to a peak (too few usable pixels, no positive amplitude, centre more than 1 px
    outside, sigma below 0.1 px or above the patch size), `converged` is False and all else but `iterations` NaN.
    Raises `InputError` for other shapes.
    """
    n, size = len(counts), counts.shape[-1]
    if counts.ndim != 3 or counts.shape[1] != size or not 1 <= size <= MAX_SIZE:
        raise InputError(f"counts: has shape {counts.shape}, must be (n, s, s) with s up to {MAX_SIZE}")
    if usable.shape != counts.shape:
        raise InputError(f"usable: has shape {usable.shape}, must be that of counts, {counts.shape}")
    values = np.empty((n, len(_COLUMNS)))
    _fit_all(
        np.ascontiguousarray(counts, np.float32),
        np.ascontiguousarray(usable, np.bool_),
        config.model == "pseudo_voigt",
        config.max_iterations,
        values,
    )
    result = np.empty(n, FIT_DTYPE)
    for column, name in enumerate(_COLUMNS):
        result[name] = values[:, column]
    return result


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _fit_all(
    counts: NDArray[np.float32], usable: NDArray[np.bool_], voigt: bool, max_iterations: int, values: Floats
) -> None:
    work, system = np.zeros(_N_ROWS * _ROW), np.zeros((_N_VECTORS, 8))
    for k in range(len(counts)):
        values[k] = np.nan
        iterations, converged = _fit_one(counts[k], usable[k], voigt, max_iterations, work, system, values[k])
        values[k, -2], values[k, -1] = iterations, converged


@numba.njit(nogil=True, error_model="numpy")
def _fit_one(
    counts: NDArray[np.float32],
    usable: NDArray[np.bool_],
    voigt: bool,
    max_iterations: int,
    work: Floats,
    system: Floats,
    values: Floats,
) -> tuple[int, bool]:
    """Fit one patch, write its row of `values`; return the iterations taken and whether the fit converged."""
    size = len(counts)
    n = (size * size + 15) // 16 * 16  # whole vector registers
    p, trial, step, gradient = system[0], system[1], system[2], system[3]
    information, factor = system[4:12], system[12:20]
    n_free = 8 if voigt else 7
    if _load(counts, usable, n, work) < n_free + 2:
        return 0, False
    floor = FLOOR_SHARE * _start(size, work, p)
    if not floor > 0:
        return 0, False
    p[_ETA] = 0.3 if voigt else 0.0
    ny, nx = _node_numbers(p, voigt)
    _model(p, ny, nx, voigt, floor, n, work)
    chi2 = _information(p, ny, nx, voigt, floor, n, work, gradient, information)
    damping = 1e-3
    for iteration in range(1, max_iterations + 1):
        # At a bound that the step would cross, eta is held.
        held = voigt and ((p[_ETA] <= 0 and gradient[_ETA] <= 0) or (p[_ETA] >= 1 and gradient[_ETA] >= 0))
        n_free = 8 if voigt and not held else 7
        gain = -1.0  # fall of the deviance over that of its quadratic approximation
        if _factorise(information, damping, n_free, factor):
            _solve(factor, gradient, n_free, step)
            length, predicted = 0.0, 0.0  # length: squared, in standard errors
            for a in range(n_free):
                length += step[a] * gradient[a]
                predicted += damping * information[a, a] * step[a] ** 2
            if _move(p, step, n_free, ny, nx, voigt, size, trial):
                if damping <= 1 and length <= STEP_TOLERANCE**2 * max(chi2, 1e-9):
                    p[:] = trial
                    return iteration, _report(p, information, n_free, chi2, factor, trial, step, values)
                gain = _model(trial, ny, nx, voigt, floor, n, work) / (length + predicted)
        if gain > 1e-3:
            p[:] = trial
            ty, tx = _node_numbers(p, voigt)
            if ty > ny or tx > nx:  # never fewer: a number that came and went would keep the fit from settling
                ny, nx = max(ty, ny), max(tx, nx)
                _model(p, ny, nx, voigt, floor, n, work)
            chi2 = _information(p, ny, nx, voigt, floor, n, work, gradient, information)
        if gain > 0.75:
            damping *= 0.1
        elif not gain >= 0.25:
            damping = max(4 * damping, 4e-3)
            if damping > 1e6:
                return iteration, False
    return max_iterations, False


@numba.njit(nogil=True, error_model="numpy")
def _load(counts: NDArray[np.float32], usable: NDArray[np.bool_], n: int, work: Floats) -> int:
    """Copy a patch into the work array; return the number of usable pixels."""
    size = len(counts)
    number = 0
    work[_PIXEL_Y : _PIXEL_Y + n] = 0.0
    work[_PIXEL_X : _PIXEL_X + n] = 0.0
    work[_COUNTS : _COUNTS + n] = 0.0
    work[_USABLE : _USABLE + n] = 0.0
    work[_MODEL : _MODEL + n] = 0.0
    for y in range(size):
        for x in range(size):
            i = y * size + x
            work[_PIXEL_Y + i] = y
            work[_PIXEL_X + i] = x
            if usable[y, x] and np.isfinite(counts[y, x]):
                work[_COUNTS + i] = counts[y, x]
                work[_USABLE + i] = 1.0
                number += 1
    return number


@numba.njit(nogil=True, error_model="numpy")
def _start(size: int, work: Floats, p: Floats) -> float:
    """Starting values by moments around the highest pixel near the centre; returns its height above background."""
    # A patch is cut at its peak: higher pixels away from the centre are another's, if there are usable ones here.
    top, n_border, border, squares, lowest = -1, 0, 0.0, 0.0, np.inf
    for distance in (2.0, float(size)):
        for i in range(size * size):
            off_centre = max(abs(work[_PIXEL_Y + i] - size // 2), abs(work[_PIXEL_X + i] - size // 2))
            if work[_USABLE + i] == 0 or off_centre > distance:
                continue
            if top < 0 or work[_COUNTS + i] > work[_COUNTS + top]:
                top = i
        if top >= 0:
            break
    for i in range(size * size):
        if work[_USABLE + i] > 0:
            y, x, c = work[_PIXEL_Y + i], work[_PIXEL_X + i], work[_COUNTS + i]
            lowest = min(lowest, c)
            if y == 0 or x == 0 or y == size - 1 or x == size - 1:
                border += c
                squares += c * c
                n_border += 1
    highest, background, noise = work[_COUNTS + top], lowest, 0.0
    if n_border > 0 and border < n_border * highest:
        background = border / n_border
        noise = math.sqrt(max(squares / n_border - background**2, 0.0))
    height = highest - background
    if not 0 < height < np.inf:
        return 0.0
    # Pixels above this share of the height: few of them noise, and enough of them to have a width.
    share = min(max(2.5 * noise / height, 0.3), 0.7)
    cut = background + share * height
    area = 0
    for i in range(size * size):
        if work[_USABLE + i] > 0 and work[_COUNTS + i] > cut:
            area += 1
    reach = 2 * math.sqrt(area / math.pi) + 1
    s, sy, sx, syy, sxy, sxx = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(size * size):
        y, x = work[_PIXEL_Y + i] - work[_PIXEL_Y + top], work[_PIXEL_X + i] - work[_PIXEL_X + top]
        v = work[_COUNTS + i]
        if work[_USABLE + i] > 0 and v > cut and y * y + x * x <= reach * reach:
            v -= background
            s += v
            sy += v * y
            sx += v * x
            syy += v * y * y
            sxy += v * y * x
            sxx += v * x * x
    y, x = sy / s, sx / s
    p[_Y], p[_X] = work[_PIXEL_Y + top] + y, work[_PIXEL_X + top] + x
    # They hold a known share of a Gaussian's variance. The correlation is the least certain: half of it is kept, as a
    # start too narrow is worse than one too round.
    scale = (1 - share) / (1 - share * (1 - math.log(share)))
    widest = size * size / 4.0
    p[_YY] = min(max(scale * (syy / s - y * y), 0.3), widest)
    p[_XX] = min(max(scale * (sxx / s - x * x), 0.3), widest)
    limit = 0.5 * math.sqrt(p[_YY] * p[_XX])
    p[_XY] = min(max(0.5 * scale * (sxy / s - x * y), -limit), limit)
    p[_AMPLITUDE], p[_BACKGROUND] = height, background
    return float(height)


@numba.njit(nogil=True, error_model="numpy")
def _node_numbers(p: Floats, voigt: bool) -> tuple[int, int]:
    """Nodes a pixel along y and x, from the inverse width (1 / sigma) of the profile's cut along that axis."""
    determinant = p[_YY] * p[_XX] - p[_XY] ** 2
    sharp_y, sharp_x = math.sqrt(p[_XX] / determinant), math.sqrt(p[_YY] / determinant)
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
def _height_ratio(p: Floats, ny: int, nx: int, voigt: bool) -> float:
    """Height of the smeared profile over that of the profile."""
    cross = p[_XY] ** 2
    smeared = (p[_YY] + _smear(ny, voigt)) * (p[_XX] + _smear(nx, voigt)) - cross
    return math.sqrt((p[_YY] * p[_XX] - cross) / smeared)


@numba.njit(nogil=True, error_model="numpy", fastmath=_FAST)
def _model(p: Floats, ny: int, nx: int, voigt: bool, floor: float, n: int, work: Floats) -> float:
    """Fill the rows of derivatives and trial; return the fall of the deviance from that of the row of the model.

    The deviance is 2 ∫ (t - counts) / max(t, floor) dt up to the model, summed: the Poisson deviance above the floor.
    """
    yy, xx, xy = p[_YY] + _smear(ny, voigt), p[_XX] + _smear(nx, voigt), p[_XY]
    determinant = yy * xx - xy * xy
    a, b, c = xx / determinant, -xy / determinant, yy / determinant  # inverse of C: yy, xy, xx
    eta = p[_ETA]
    rule = 1 if voigt else 0
    for i in range(n):
        for row in (_BY_Y, _BY_X, _BY_YY, _BY_XY, _BY_XX, _BY_AMPLITUDE, _BY_ETA):
            work[i + row] = 0.0
    for j in range(ny):
        for k in range(nx):
            weight = _NODE_WEIGHTS[rule, ny, j] * _NODE_WEIGHTS[rule, nx, k]
            y, x = p[_Y] - _NODES[rule, ny, j], p[_X] - _NODES[rule, nx, k]
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
    amplitude = p[_AMPLITUDE] * _height_ratio(p, ny, nx, voigt)
    fall = 0.0
    for i in range(n):
        model = amplitude * work[i + _BY_AMPLITUDE] + p[_BACKGROUND]
        work[i + _TRIAL] = model
        work[i + _BY_BACKGROUND] = 1.0
        c, old = work[i + _COUNTS], work[i + _MODEL]
        high, old_high, low, old_low = max(model, floor), max(old, floor), min(model, floor), min(old, floor)
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
def _information(
    p: Floats,
    ny: int,
    nx: int,
    voigt: bool,
    floor: float,
    n: int,
    work: Floats,
    gradient: Floats,
    information: Floats,
) -> float:
    """Make the trial the model, renew the weights, fill gradient and information matrix; return chi2."""
    total, expected = 0.0, 0.0
    for i in range(n):
        model = work[i + _TRIAL]
        residual = work[i + _COUNTS] - model
        weight = work[i + _USABLE] / max(model, floor)
        work[i + _MODEL] = model
        work[i + _RESIDUAL] = residual
        work[i + _WEIGHT] = weight
        total += weight * residual * residual
        expected += weight * max(model, 0.0)
    n_free = 8 if voigt else 7
    for row in range(n_free):
        start = row * _ROW
        s = 0.0
        for i in range(n):
            product = work[i + _WEIGHT] * work[start + i]
            work[i + _PRODUCT] = product
            s += product * work[i + _RESIDUAL]
        gradient[row] = s
        for column in range(0, row + 1, 2):
            other = column * _ROW
            s, t = 0.0, 0.0
            for i in range(n):
                s += work[i + _PRODUCT] * work[other + i]
                t += work[i + _PRODUCT] * work[other + _ROW + i]
            information[row, column] = s
            information[row, column + 1] = t
    amplitude = p[_AMPLITUDE] * _height_ratio(p, ny, nx, voigt)
    for row in range(n_free):
        scale = _scale(row, amplitude)
        gradient[row] *= scale
        for column in range(row + 1):
            information[row, column] *= scale * _scale(column, amplitude)
    return total / max(expected - n_free, 1.0)


@numba.njit(nogil=True, error_model="numpy")
def _scale(row: int, amplitude: float) -> float:
    """What a row of the work array lacks to be the derivative by its parameter."""
    if row in (_AMPLITUDE, _BACKGROUND):
        return 1.0
    return 0.5 * amplitude if row in (_YY, _XX) else amplitude


@numba.njit(nogil=True, error_model="numpy")
def _factorise(information: Floats, damping: float, n_free: int, factor: Floats) -> bool:
    """Cholesky factor of the damped information matrix, with inverse diagonal; False where there is none."""
    for row in range(n_free):
        for column in range(row + 1):
            s = information[row, column]
            if row == column:
                s *= 1.0 + damping
                least = 1e-13 * s
            for k in range(column):
                s -= factor[row, k] * factor[column, k]
            if row > column:
                factor[row, column] = s * factor[column, column]
            elif s > least:
                factor[row, row] = 1.0 / math.sqrt(s)
            else:
                return False
    return True


@numba.njit(nogil=True, error_model="numpy")
def _solve(factor: Floats, right: Floats, n_free: int, solution: Floats) -> None:
    for row in range(n_free):
        s = right[row]
        for k in range(row):
            s -= factor[row, k] * solution[k]
        solution[row] = s * factor[row, row]
    for row in range(n_free - 1, -1, -1):
        s = solution[row]
        for k in range(row + 1, n_free):
            s -= factor[k, row] * solution[k]
        solution[row] = s * factor[row, row]


@numba.njit(nogil=True, error_model="numpy")
def _move(p: Floats, step: Floats, n_free: int, ny: int, nx: int, voigt: bool, size: int, trial: Floats) -> bool:
    """Parameters after the step, eta kept in 0 to 1; False where they are no peak."""
    trial[:] = p
    for a in range(n_free):
        trial[a] += step[a]
    if not _is_peak(trial, size):
        return False
    # The step is that of the smeared height.
    height = p[_AMPLITUDE] * _height_ratio(p, ny, nx, voigt) + step[_AMPLITUDE]
    trial[_AMPLITUDE] = height / _height_ratio(trial, ny, nx, voigt)
    trial[_ETA] = min(max(trial[_ETA], 0.0), 1.0)
    return bool(height > 0)


@numba.njit(nogil=True, error_model="numpy")
def _variances(p: Floats) -> tuple[float, float]:
    """Variances along the long and the short axis."""
    middle, half = 0.5 * (p[_YY] + p[_XX]), math.hypot(0.5 * (p[_XX] - p[_YY]), p[_XY])
    return middle + half, middle - half


@numba.njit(nogil=True, error_model="numpy")
def _is_peak(p: Floats, size: int) -> bool:
    major, minor = _variances(p)
    low, high = -0.5 - MAX_OUTSIDE, size - 0.5 + MAX_OUTSIDE
    if not (low <= p[_Y] <= high and low <= p[_X] <= high):
        return False
    return bool(minor >= MIN_SIGMA**2 and major <= size * size)


@numba.njit(nogil=True, error_model="numpy")
def _report(
    p: Floats,
    information: Floats,
    n_free: int,
    chi2: float,
    factor: Floats,
    unit: Floats,
    solution: Floats,
    values: Floats,
) -> bool:
    """Fill the row of results; False, and NaN left there, where the errors are not determined."""
    if not _factorise(information, 0.0, n_free, factor):
        return False
    for a in (_Y, _X):
        unit[:] = 0.0
        unit[a] = 1.0
        _solve(factor, unit, n_free, solution)
        values[2 + a] = math.sqrt(solution[a] * chi2)
    major, minor = _variances(p)
    angle = math.degrees(0.5 * math.atan2(2 * p[_XY], p[_XX] - p[_YY]))
    values[0], values[1] = p[_Y], p[_X]
    values[4], values[5] = p[_AMPLITUDE], p[_BACKGROUND]
    values[6], values[7] = FWHM_PER_SIGMA * math.sqrt(major), FWHM_PER_SIGMA * math.sqrt(minor)
    values[8] = 90.0 if angle <= -90.0 else angle
    values[9], values[10] = p[_ETA], chi2
    return True
