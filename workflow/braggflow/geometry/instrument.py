"""The width that the instrument alone gives a peak, from those of a standard."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError

#: Widths further from the curve than this many times their scatter are of peaks that are not the standard's.
_CLIP = 4.0
_ROUNDS = 5


def instrument_width(standard: xr.Dataset, two_theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Full width at half maximum in two-theta, degree, that the instrument gives peaks at `two_theta` (n,), degree.

    By G. Caglioti, A. Paoletti & F. P. Ricci, Nucl. Instrum. 3 (1958) 223: FWHM² = U tan² θ + V tan θ + W, fitted to
    the peaks of a standard that carry no flag, those left out that lie far from the curve. NaN beyond their range.
    Raises `InputError` where `standard` is no table that `add_q` made, or has too few peaks.
    """
    missing = [name for name in ("two_theta", "fwhm_two_theta") if name not in standard]
    if missing:
        raise InputError(f"standard: has no column {missing[0]}; must be peaks of a standard, as add_q returns them")
    good = np.isfinite(standard["fwhm_two_theta"].values)
    if "flags" in standard:
        good &= standard["flags"].values == 0
    at, widths = standard["two_theta"].values[good], standard["fwhm_two_theta"].values[good]
    if len(at) < 3:
        raise InputError(f"standard: has {len(at)} peaks with a fitted width and no flag; must have 3 or more")
    tangent, squares = np.tan(np.radians(at / 2)), widths**2
    # Fewer rings than the curve has constants leave some of these open.
    degree = min(2, len(np.unique(np.round(at, 2))) - 1)
    kept = np.ones(len(at), bool)
    for _ in range(_ROUNDS):
        curve = np.polynomial.Polynomial.fit(tangent[kept], squares[kept], degree)
        off = np.abs(squares - curve(tangent))
        near = off <= _CLIP * max(1.4826 * float(np.median(off[kept])), 1e-12 * float(squares.max()))
        if near.sum() <= degree or np.array_equal(near, kept):
            break
        kept = near
    inside = (two_theta >= at[kept].min()) & (two_theta <= at[kept].max())
    found = curve(np.tan(np.radians(two_theta / 2)))
    return np.sqrt(np.where(inside & (found > 0), found, np.nan))
