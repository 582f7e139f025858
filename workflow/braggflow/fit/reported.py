"""What is reported of a fit that has converged: its numbers, and their standard errors by the information matrix."""

import math

import numpy as np

from braggflow.compiled import inner
from braggflow.fit.equations import eliminate, position_variances, release_eta, variance_of
from braggflow.fit.peak_profile import height_ratio, smear
from braggflow.fit.start import AMPLITUDE, BACKGROUND, ETA, XX, XY, YY, Floats, X, Y

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
#: Where the results of a fit have these (FIT_DTYPE); `halo` is behind `misfit`.
COUNTS_STD, MISFIT = 13, 14


@inner(nogil=True, error_model="numpy")
def variances(p: Floats) -> tuple[float, float]:
    """Variances along the long and the short axis."""
    middle, half = 0.5 * (p[YY] + p[XX]), math.hypot(0.5 * (p[XX] - p[YY]), p[XY])
    return middle + half, middle - half


@inner(nogil=True, error_model="numpy")
def report(
    p: Floats,
    n_free: int,
    ny: int,
    nx: int,
    voigt: bool,
    size: int,
    spread: float,
    chi2: float,
    matrix: Floats,
    gradient: Floats,
    factor: Floats,
    reduced: Floats,
    values: Floats,
) -> bool:
    """Fill the row of results; False, and NaN left there, where the errors are not determined.

    Of an eta that is held at a bound, widths and counts are as uncertain as if it were free: it is there by chance.
    """
    if not eliminate(matrix, gradient, 0.0, n_free, factor, reduced):
        return False
    y_variance, x_variance = position_variances(factor)
    values[2], values[3] = math.sqrt(y_variance * spread), math.sqrt(x_variance * spread)
    major, minor = variances(p)
    angle = math.degrees(0.5 * math.atan2(2 * p[XY], p[XX] - p[YY]))
    values[0], values[1] = p[Y], p[X]
    values[4], values[5] = p[AMPLITUDE], p[BACKGROUND]
    values[6], values[7] = FWHM_PER_SIGMA * math.sqrt(major), FWHM_PER_SIGMA * math.sqrt(minor)
    values[8] = 90.0 if angle <= -90.0 else angle
    values[9], values[10] = p[ETA], chi2
    if voigt and release_eta(n_free, matrix) and not eliminate(matrix, gradient, 0.0, n_free, factor, reduced):
        factor[0, 0] = np.nan  # no variance is known then
    for column in range(2):
        variance = minor if column else major
        _by_width(p, 0.5 * (minor - major if column else major - minor), n_free, reduced)
        of_variance = math.sqrt(variance_of(reduced, n_free, factor) * spread)
        values[11 + column] = FWHM_PER_SIGMA * of_variance / (2 * math.sqrt(variance))
    height = p[AMPLITUDE] * height_ratio(p, ny, nx, voigt)
    by_counts(p, height, AMPLITUDE, ny, nx, voigt, size, n_free, reduced)
    values[COUNTS_STD] = math.sqrt(variance_of(reduced, n_free, factor) * spread)
    return True


@inner(nogil=True, error_model="numpy")
def _by_width(p: Floats, half: float, n_free: int, direction: Floats) -> None:
    """Fill the derivatives by the free parameters of the variance along an axis, which is `half` above the mean."""
    cosine, sine = 1.0, 0.0  # of twice the angle
    if half != 0:
        cosine, sine = 0.5 * (p[XX] - p[YY]) / half, p[XY] / half
    direction[:n_free] = 0.0
    direction[YY], direction[XY], direction[XX] = 0.5 * (1 - cosine), sine, 0.5 * (1 + cosine)


@inner(nogil=True, error_model="numpy")
def by_counts(
    p: Floats,
    height: float,
    amplitude: int,
    ny: int,
    nx: int,
    voigt: bool,
    size: int,
    n_free: int,
    direction: Floats,
) -> None:
    """Fill the derivatives by the free parameters of the counts of a peak (`patch_fits.profile_counts`).

    `height` is that of the smeared profile, `amplitude` the place of its parameter; the shape is that of `p`.
    """
    yy, xx, xy = p[YY] + smear(ny, voigt), p[XX] + smear(nx, voigt), p[XY]
    determinant, eta = yy * xx - xy * xy, p[ETA]
    area = math.pi * math.sqrt(determinant)
    lorentzian = 2 * math.log(2) * area
    ratio = size * size / lorentzian
    tails = math.log1p(ratio)
    direction[:n_free] = 0.0
    direction[amplitude] = 2 * (1 - eta) * area + eta * lorentzian * tails
    by_area = 2 * (1 - eta) + eta * 2 * math.log(2) * (tails - ratio / (1 + ratio))
    slope = height * by_area * area / (2 * determinant)
    direction[YY], direction[XY], direction[XX] = slope * xx, -2 * slope * xy, slope * yy
    if voigt:
        direction[ETA] = height * (lorentzian * tails - 2 * area)
