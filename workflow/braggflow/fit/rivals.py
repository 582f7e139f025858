"""The rivals of `deblending`: one, two or three peaks of one shape, fitted with the listed neighbours."""

import math
from typing import NamedTuple

import numpy as np

from braggflow.compiled import inner
from braggflow.fit.equations import variance_of
from braggflow.fit.misfit import whitening
from braggflow.fit.peak_profile import COUNTS, MAX_FREE, MODEL, RESIDUAL, USABLE, WEIGHT, Tools, height_ratio, padded
from braggflow.fit.reported import COUNTS_STD, by_counts
from braggflow.fit.solver import MIN_SIGMA, fit_one, prior_of
from braggflow.fit.start import AMPLITUDE, XX, XY, YY, Floats, Singles, X, Y, copy, copy_rows

#: Columns of FIT_DTYPE that are numbers of a profile, up to `misfit`.
NUMBERS = 14
_AMPLITUDE, CHI2 = 4, 10
#: A third peak is looked for where 3 × 3 pixels of what two leave are this many standard deviations above 0.
THIRD = 4.0
#: Where two peaks are started: share of the height and place along the axis, in standard deviations of the profile that
#: they replace, of the brighter and of the other; the share of that profile's variance along it which they lose.
_EQUAL, _UNEQUAL, _FAR = (0.65, -0.8, 0.65, 0.8, 0.5), (0.9, -0.2, 0.3, 1.6, 0.3), (1.0, 0.0, 0.12, 2.8, 0.1)


class Patch(NamedTuple):
    """What is the same for all rivals of a patch."""

    size: int
    n_close: int
    """Listed neighbours."""
    floor: float
    """Least variance of a pixel."""
    number: int
    """Usable pixels."""
    max_iterations: int


@inner(nogil=True, error_model="numpy")
def fit_rival(n: int, voigt: bool, patch: Patch, tools: Tools, p: Floats, numbers: Floats) -> float:
    """Fit `n` peaks of one shape, and the neighbours after them in `p`; return the deviance, infinite without a fit.

    Fills the numbers of the `n`: first the one whose maximum the patch was cut at, the nearest to its middle of those
    at least half as high as the highest, then the others from the highest on. The deviance is what the fit minimises,
    its priors of neighbours included: below the floor, where a pixel's variance is that, it is a sum of squares.
    """
    work, total = tools.work, n + patch.n_close
    copy_rows(p, tools.prior)
    numbers[:] = np.nan
    _, converged, _ = fit_one(
        patch.size, total, n, n, voigt, True, patch.floor, patch.number, patch.max_iterations, work, tools.system, p,
        tools.trial, tools.prior, tools.height, tools.nodes, tools.free, numbers[0],
    )  # fmt: skip
    if not converged:
        return np.inf
    deviance = 0.0
    for k in range(n, total):
        deviance += 2 * prior_of(p[k], tools.prior[k], tools.prior[0, AMPLITUDE])
    for i in range(padded(patch.size)):
        if work[USABLE + i] > 0:
            deviance += _deviance(float(work[COUNTS + i]), float(work[MODEL + i]), patch.floor)
    n_own = 8 if voigt else 7
    _enter_others(n, n_own + 3 * (n - 1) + 6 * patch.n_close, n_own, patch.size, p, tools, numbers)
    return deviance


@inner(nogil=True, error_model="numpy")
def _deviance(counts: float, mean: float, floor: float) -> float:
    """2 ∫ (t - counts) / max(t, floor) dt from the counts to the mean."""
    low_counts, low_mean = min(counts, floor), min(mean, floor)
    high_counts, high_mean = max(counts, floor), max(mean, floor)
    below = ((low_mean - counts) ** 2 - (low_counts - counts) ** 2) / floor
    return float(below + 2 * (high_mean - high_counts - counts * math.log(high_mean / high_counts)))


@inner(nogil=True, error_model="numpy")
def _enter_others(n: int, n_free: int, n_own: int, patch_size: int, p: Floats, tools: Tools, numbers: Floats) -> None:
    """The numbers of the peaks that share the first one's shape; then all in order: see `fit_rival`."""
    system = tools.system
    direction, factor = system[2], system[3 + MAX_FREE :]
    ny, nx, voigt = tools.nodes[0, 0], tools.nodes[0, 1], n_own == 8
    ratio = height_ratio(p[0], ny, nx, voigt)
    if n > 1:
        spread = numbers[0, 2] ** 2 / factor[0, 0]  # which is the variance of y
        for k in range(1, n):
            copy(numbers[0], numbers[k])
            numbers[k, 0], numbers[k, 1], numbers[k, _AMPLITUDE] = p[k, Y], p[k, X], p[k, AMPLITUDE] / ratio
            first = n_own + 3 * (k - 1)
            for axis in range(2):
                direction[:n_free] = 0.0
                direction[first + axis] = 1.0
                numbers[k, 2 + axis] = math.sqrt(variance_of(direction, n_free, factor) * spread)
            by_counts(p[0], p[k, AMPLITUDE], first + 2, ny, nx, voigt, patch_size, n_free, direction)
            numbers[k, COUNTS_STD] = math.sqrt(variance_of(direction, n_free, factor) * spread)
    for k in range(1, n):
        for j in range(k, 0, -1):
            if numbers[j, _AMPLITUDE] > numbers[j - 1, _AMPLITUDE]:
                _swap(j, j - 1, p, numbers)
    # Of peaks about as high as each other, the maximum was that of the one nearest to it.
    middle, nearest = patch_size // 2, 0
    for k in range(1, n):
        is_high = numbers[k, _AMPLITUDE] > 0.5 * numbers[0, _AMPLITUDE]
        away = math.hypot(numbers[k, 0] - middle, numbers[k, 1] - middle)
        if is_high and away < math.hypot(numbers[nearest, 0] - middle, numbers[nearest, 1] - middle):
            nearest = k
    for k in range(nearest, 0, -1):
        _swap(k, k - 1, p, numbers)


@inner(nogil=True, error_model="numpy")
def _swap(first: int, second: int, p: Floats, numbers: Floats) -> None:
    for column in range(NUMBERS):
        numbers[first, column], numbers[second, column] = numbers[second, column], numbers[first, column]
    for column in range(8):
        p[first, column], p[second, column] = p[second, column], p[first, column]


@inner(nogil=True, error_model="numpy")
def start_pair(
    way: int, single: Floats, third: complex, fourth: complex, peaks: Floats, n_close: int, p: Floats
) -> None:
    """Two peaks in place of the single one: along its long axis, or where the scores of its residuals point."""
    a, b, c = whitening(single)
    if way == 0:
        angle = 0.5 * math.atan2(2 * single[XY], single[XX] - single[YY])
        u, v = a * math.sin(angle) + b * math.cos(angle), c * math.cos(angle)
        share, at, other_share, other_at, lost = _EQUAL
    elif way == 1:  # flat along the axis: the score is below 0 there
        angle = 0.5 * math.atan2(-fourth.imag, -fourth.real)
        u, v = math.cos(angle), math.sin(angle)
        share, at, other_share, other_at, lost = _EQUAL
    else:
        u, v = third.real, third.imag
        share, at, other_share, other_at, lost = _UNEQUAL if way == 2 else _FAR
    length = max(math.hypot(u, v), 1e-30)
    dx = v / length / c
    dy = (u / length - b * dx) / a  # (dy, dx): one standard deviation along the axis
    copy(single, p[0])
    copy(single, p[1])
    copy_rows(peaks[1:], p[2 : 2 + n_close])
    p[0, AMPLITUDE], p[1, AMPLITUDE] = share * single[AMPLITUDE], other_share * single[AMPLITUDE]
    p[0, Y], p[0, X] = single[Y] + at * dy, single[X] + at * dx
    p[1, Y], p[1, X] = single[Y] + other_at * dy, single[X] + other_at * dx
    yy, xy, xx = single[YY] - lost * dy * dy, single[XY] - lost * dy * dx, single[XX] - lost * dx * dx
    if yy + xx - math.hypot(yy - xx, 2 * xy) > 8 * MIN_SIGMA**2:
        for k in range(2):
            p[k, YY], p[k, XY], p[k, XX] = yy, xy, xx


@inner(nogil=True, error_model="numpy")
def start_third(patch: Patch, tools: Tools, pair: Floats, p: Floats) -> bool:
    """A third peak beside the fitted pair in `p`, where that leaves most; False where that is only noise."""
    z, y, x, left = _highest_residual(patch.size, tools.work)
    if not z > THIRD:
        return False
    copy_rows(pair[2:], p[3 : 3 + patch.n_close])
    copy(pair[0], p[2])
    p[2, Y], p[2, X], p[2, AMPLITUDE] = y, x, left
    return True


@inner(nogil=True, error_model="numpy")
def _highest_residual(size: int, work: Singles) -> tuple[float, float, float, float]:
    """Most significant 3 × 3 pixels of the residuals: standard deviations above 0, y, x of the middle, mean counts."""
    z, at_y, at_x, left = 0.0, 0, 0, 0.0
    for y in range(1, size - 1):
        for x in range(1, size - 1):
            total, variance, pixels = 0.0, 0.0, 0
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    i = (y + dy) * size + x + dx
                    if work[USABLE + i] > 0:
                        total += work[RESIDUAL + i]
                        variance += 1 / work[WEIGHT + i]
                        pixels += 1
            if pixels > 0 and total > z * math.sqrt(variance):
                z, at_y, at_x, left = total / math.sqrt(variance), y, x, total / pixels
    return z, float(at_y), float(at_x), left
