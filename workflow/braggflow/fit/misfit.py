"""How the residuals of a fit are shaped: by the terms that two peaks in place of one leave, or a wrong profile.

Two profiles side by side are one broader profile, and what a fit of one leaves of them is of third order in their
distance (lopsided: unequal heights) and of fourth (flat along their axis). In coordinates z = u + iv in which the
fitted profile is a round Gaussian of unit width, the orthogonal terms of those orders are z³, z (ρ² - 4), z⁴,
z² (ρ² - 6) and ρ⁴ - 8 ρ² + 8 with ρ = |z| (K. Itô, Japanese Journal of Mathematics 22, 63 (1952)). The last knows no
direction: it is what a profile with other wings leaves, as a pseudo-Voigt does of a Gaussian. Their scores, sums of
residuals over variances times term times Gaussian, cost a few per cent of a fit, and tell more than chi2, which asks
all pixels.
"""

import math

import numpy as np

from braggflow.compiled import inner
from braggflow.fit.peak_profile import PIXEL_X, PIXEL_Y, RESIDUAL, WEIGHT
from braggflow.fit.start import XX, XY, YY, Floats, Singles, X, Y, exp_half

_FAST = {"reassoc", "contract", "nsz"}
#: Variance of a pixel's box along an axis, px².
_PIXEL = 1 / 12


@inner(nogil=True, error_model="numpy")
def whitening(p: Floats) -> tuple[float, float, float]:
    """(a, b, c) with u = a dy + b dx and v = c dx for offsets from the peak's centre, in px."""
    yy, xx, xy = p[YY] + _PIXEL, p[XX] + _PIXEL, p[XY]
    determinant = yy * xx - xy * xy
    a = math.sqrt(xx / determinant)
    b = -xy / determinant / a
    return a, b, math.sqrt(max(yy / determinant - b * b, 1e-12))


@inner(nogil=True, error_model="numpy")
def shape_misfit(p: Floats, n: int, work: Singles) -> tuple[float, float, complex, complex]:
    """`scores` of the residuals in the work array around the peak `p`."""
    return scores(p, n, work[PIXEL_Y:], work[PIXEL_X:], work[WEIGHT:], work[RESIDUAL:])


@inner(nogil=True, error_model="numpy", fastmath=_FAST)
def scores(
    p: Floats, n: int, pixel_y: Singles, pixel_x: Singles, weights: Singles, residuals: Singles
) -> tuple[float, float, complex, complex]:
    """`misfit`, `halo` and two scores of the residuals of `n` pixels around the peak `p`.

    `halo` is the score without a direction, in its standard deviation: above 0 where the wings are higher than the
    profile's, below where the top is flat, as that of two equal peaks. `misfit` is the sum of squares of the eight
    scores that have a direction, in theirs, and of `halo` below 0: for a right model about chi-squared of 9 degrees of
    freedom, or less (the fit has taken its share). The scores of z (ρ² - 4) and z² (ρ² - 6) tell where a second peak
    is to be looked for.
    """
    a64, b64, c64 = whitening(p)
    a, b, c = np.float32(a64), np.float32(b64), np.float32(c64)
    y, x = np.float32(p[Y]), np.float32(p[X])
    zero = np.float32(0)
    r30, i30, r21, i21, r40, i40, r31, i31, s22 = zero, zero, zero, zero, zero, zero, zero, zero, zero
    v30, v21, v40, v31, v22 = zero, zero, zero, zero, zero
    four, six, eight = np.float32(4), np.float32(6), np.float32(8)
    for i in range(n):
        dy, dx = pixel_y[i] - y, pixel_x[i] - x
        u, v = a * dy + b * dx, c * dx
        uu, vv = u * u, v * v
        q = uu + vv
        gaussian = exp_half(q)
        score = weights[i] * residuals[i] * gaussian
        variance = weights[i] * gaussian * gaussian
        re2, im2 = uu - vv, np.float32(2) * u * v
        re3, im3 = re2 * u - im2 * v, re2 * v + im2 * u
        one, two, none = q - four, q - six, q * (q - eight) + eight
        r30 += score * re3
        i30 += score * im3
        r21 += score * u * one
        i21 += score * v * one
        r40 += score * (re2 * re2 - im2 * im2)
        i40 += score * np.float32(2) * re2 * im2
        r31 += score * re2 * two
        i31 += score * im2 * two
        s22 += score * none
        qq = q * q
        v30 += variance * qq * q
        v21 += variance * q * one * one
        v40 += variance * qq * qq
        v31 += variance * qq * two * two
        v22 += variance * none * none
    misfit = 2.0 * (
        (r30 * r30 + i30 * i30) / max(v30, np.float32(1e-30))
        + (r21 * r21 + i21 * i21) / max(v21, np.float32(1e-30))
        + (r40 * r40 + i40 * i40) / max(v40, np.float32(1e-30))
        + (r31 * r31 + i31 * i31) / max(v31, np.float32(1e-30))
    )
    halo = s22 / math.sqrt(max(v22, np.float32(1e-30)))
    if halo < 0:
        misfit += halo * halo
    return float(misfit), float(halo), complex(r21, i21), complex(r31, i31)
