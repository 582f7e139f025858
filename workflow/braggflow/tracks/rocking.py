"""Spots of a rotation scan joined to reflections: where each is in the angle, how wide, how bright in all."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

#: Frames of a reflection that a curve is fitted to, at least and at most; rounds of the fit.
_FITTED, _LONGEST, _ROUNDS = 4, 200, 30
_FWHM = 2 * np.sqrt(2 * np.log(2))
#: The least width of a curve, in steps.
_NARROWEST = 0.15


@dataclass(frozen=True, slots=True)
class Reflections:
    """One value for each track; angles in the units of the axis."""

    centre: NDArray[np.float64]
    centre_std: NDArray[np.float64]
    fwhm: NDArray[np.float64]
    fwhm_std: NDArray[np.float64]
    intensity: NDArray[np.float64]
    """Counts of all frames, what a missing frame would have added included where a curve was fitted."""
    intensity_std: NDArray[np.float64]
    fitted: NDArray[np.bool_]
    """Whether a curve was fitted; else these are moments."""


def rocking_curves(
    starts: NDArray[np.int64],
    angle: NDArray[np.float64],
    intensity: NDArray[np.float64],
    error: NDArray[np.float64],
    step: float,
) -> Reflections:
    """The rocking curves of tracks.

    Of four frames or more, a Gaussian in the angle is fitted, integrated over each frame's rotation and weighted by the
    errors, so that a frame that is missing within does no harm. Of fewer, the centre is the mean weighted by intensity,
    the width comes from the second moment less that of a frame's own rotation, and one frame alone says that the centre
    lies somewhere within it.

    Parameters
    ----------
    starts : numpy.ndarray of int64
        (n_tracks + 1,) bounds of each track's peaks.
    angle : numpy.ndarray of float64
        (n,) middle of each peak's frame, units of the axis.
    intensity, error : numpy.ndarray of float64
        (n,) counts above the background, and their standard error.
    step : float
        Rotation of a frame, above 0.

    Returns
    -------
    Reflections
        (n_tracks,) each.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.tracks import rocking_curves
    >>> angle = np.arange(7.0)
    >>> curve = 1000 * np.exp(-(angle - 3.2) ** 2 / 2)
    >>> found = rocking_curves(np.array([0, 7]), angle, curve, np.sqrt(curve) + 1, 1.0)
    >>> round(float(found.centre[0]), 2), bool(found.fitted[0])
    (3.2, True)
    """
    n = len(starts) - 1
    length = np.diff(starts)
    # Without a last start the sums of an empty track would be those of the next; there is none.
    light = np.maximum(intensity, 0)
    total = np.add.reduceat(light, starts[:-1]) if n else np.zeros(0)
    safe = np.maximum(total, 1e-12)
    of = np.repeat(np.arange(n), length)
    centre = np.bincount(of, light * angle, n) / safe
    off = angle - centre[of]
    second = np.bincount(of, light * off**2, n) / safe
    blurred = np.sqrt(np.maximum(second - step**2 / 12, 0))
    variance = np.bincount(of, error**2 * off**2, n) / safe**2
    # Where a peak lies within a frame is not known: the more frames it spans, the less that matters.
    centre_std = np.sqrt(variance + step**2 / 12 / length**2)
    found = Reflections(
        centre,
        centre_std,
        np.where(length > 1, _FWHM * blurred, np.nan),
        np.full(n, np.nan),
        total,
        np.sqrt(np.bincount(of, error**2, n)),
        np.zeros(n, bool),
    )
    _fit(found, starts, angle, light, error, step)
    return found


def _fit(
    found: Reflections,
    starts: NDArray[np.int64],
    angle: NDArray[np.float64],
    light: NDArray[np.float64],
    error: NDArray[np.float64],
    step: float,
) -> None:
    """Fit those that are long enough, all of about one length at once."""
    length = np.diff(starts)
    for low in (4, 6, 9, 14, 22, 36, 60, 120):
        chosen = np.flatnonzero((length >= max(low, _FITTED)) & (length < low * 2) & (length <= _LONGEST))
        chosen = chosen[~found.fitted[chosen]]
        for first in range(0, len(chosen), 4096):
            some = chosen[first : first + 4096]
            at = starts[some][:, None] + np.arange(length[some].max())
            there = at < starts[some + 1][:, None]
            at = np.where(there, at, starts[some][:, None])
            weight = np.where(there, 1 / np.maximum(error[at], 1e-6) ** 2, 0)
            sigma = np.maximum(np.nan_to_num(found.fwhm[some]) / _FWHM, _NARROWEST * step)
            start = np.stack([found.intensity[some], found.centre[some], np.log(sigma)], axis=1)
            _take(found, some, *_fit_curves(angle[at], light[at], weight, start, step), step)


def _fit_curves(
    angle: NDArray[np.float64],
    light: NDArray[np.float64],
    weight: NDArray[np.float64],
    start: NDArray[np.float64],
    step: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Levenberg's and Marquardt's way for many curves at once: parameters, their covariances, whether they settled."""
    value, damping = start.copy(), np.full(len(start), 1e-2)
    model, slope = _curve(angle, value, step)
    misfit = (weight * (light - model) ** 2).sum(axis=1)
    settled = np.zeros(len(start), bool)
    for _ in range(_ROUNDS):
        hessian = _squares(slope, weight)
        diagonal = np.einsum("nii->ni", hessian)
        damped = hessian + np.einsum("n,ni,ij->nij", damping, diagonal + 1e-12, np.eye(3))
        gradient = np.einsum("nki,nk->ni", slope, weight * (light - model))
        move = np.linalg.solve(damped, gradient[..., None])[..., 0]
        move[:, 2] = np.clip(move[:, 2], -0.7, 0.7)
        trial = value + move
        trial[:, 2] = np.maximum(trial[:, 2], np.log(_NARROWEST * step))
        new, new_slope = _curve(angle, trial, step)
        new_misfit = (weight * (light - new) ** 2).sum(axis=1)
        better = new_misfit <= misfit
        settled |= better & (np.abs(misfit - new_misfit) < 1e-6 * (1 + misfit))
        value[better], model[better], slope[better] = trial[better], new[better], new_slope[better]
        misfit = np.where(better, new_misfit, misfit)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-9, 1e9)
    # Misfit beyond what the errors explain widens them.
    free = np.maximum((weight > 0).sum(axis=1) - 3, 1)
    wider = np.maximum(misfit / free, 1)
    covariance = np.linalg.pinv(_squares(slope, weight), hermitian=True) * wider[:, None, None]
    return value, covariance, settled


def _squares(slope: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the derivatives (n, k, 3), the weighted sums of their products, (n, 3, 3)."""
    sums: NDArray[np.float64] = np.einsum("nki,nk,nkj->nij", slope, weight, slope)
    return sums


def _curve(
    angle: NDArray[np.float64], value: NDArray[np.float64], step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts of frames (n, k), and their derivatives (n, k, 3) by total, centre and logarithm of sigma."""
    total, centre, sigma = value[:, 0, None], value[:, 1, None], np.exp(value[:, 2, None])
    low, high = (angle - step / 2 - centre) / sigma, (angle + step / 2 - centre) / sigma
    share = (erf(high / np.sqrt(2)) - erf(low / np.sqrt(2))) / 2
    at_low, at_high = (np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) for z in (low, high))
    slope = np.stack([share, total * (at_low - at_high) / sigma, total * (low * at_low - high * at_high)], axis=2)
    return total * share, slope


def _take(
    found: Reflections,
    some: NDArray[np.int64],
    value: NDArray[np.float64],
    covariance: NDArray[np.float64],
    settled: NDArray[np.bool_],
    step: float,
) -> None:
    """Write what was fitted, where the fit settled within the frames that it was given."""
    variance = np.einsum("nii->ni", covariance)
    sigma = np.exp(value[:, 2])
    near = np.abs(value[:, 1] - found.centre[some]) < 2 * np.maximum(sigma, step)
    good = settled & near & (value[:, 0] > 0) & np.isfinite(variance).all(axis=1) & (sigma > 1.01 * _NARROWEST * step)
    at = some[good]
    found.intensity[at], found.centre[at], found.fwhm[at] = value[good, 0], value[good, 1], _FWHM * sigma[good]
    found.intensity_std[at], found.centre_std[at] = np.sqrt(variance[good, :2]).T
    found.fwhm_std[at] = found.fwhm[at] * np.sqrt(variance[good, 2])
    found.fitted[at] = True
