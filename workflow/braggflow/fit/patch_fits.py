"""Profile fits: elliptical, pixel-integrated peaks to each patch, its own together with its neighbours'.

The model is background + Σ amplitude × profile(q), with q the squared elliptical radius d' C⁻¹ d of the distance d from
a peak's centre: exp(-q/2) for a Gaussian; for a pseudo-Voigt (1 - eta) exp(-q/2) + eta / (1 + q / (2 ln 2)), both parts
of one FWHM. Each pixel holds the mean of the model over its area. Free are y, x, the covariance C (yy, xy, xx) and the
amplitude of each peak, one background and, for a pseudo-Voigt, one eta in 0 to 1.

**Weights.** With `likelihood: poisson` a pixel is weighted by 1 / max(model, floor), renewed in each iteration. For
photon counts this is Fisher scoring of the Poisson likelihood (the fixed point is its maximum wherever the model is
above the floor), without the bias of weighting by the counts themselves (Laurence & Chromy, Nature Methods 7, 338
(2010)). With `least_squares` all weights are equal. The standard errors are those of the inverse information matrix
times sqrt(chi2), so that they hold for any gain (where residuals are too few to tell, times 1 at least); for least
squares, times the scatter of the residuals: they hold for noise that is the same everywhere, and are too small for
photon counts (of sharp peaks, three to four times).

**Read noise.** The variance of a pixel is mean + r² (photons). That of counts + r² is their mean, as for photons: r²
is added to the counts and to the background for the fit (Snyder et al., J. Opt. Soc. Am. A 12, 272 (1995); Huang et
al., Nature Methods 10, 653 (2013)). Read noise that is not given costs precision where it is above the photon noise,
and the standard errors are then too large rather than too small.

**Loose peaks.** What a patch tells of a neighbour can be next to nothing (its tail, in a corner), and a peak whose core
is saturated has no height (it may be as high and narrow as you like). Fitted freely, such parameters run away and take
the fit with them. A weak prior keeps the neighbours, and a peak with saturated pixels, in sight: near the detected
maximum (to 1 px; a maximum is the brightest pixel), about as large as the own peak (to a factor 2 in sigma; the peaks
of a frame share its optics), no higher than a few times what the patch shows. Where the pixels know better, a few tens
of photons of them outvote it. It is weighted with chi2, as the errors are, so that a gain changes no position.
Neighbours are not reported: the errors of the own position hold whatever they are.

Each patch is fitted by itself with the same arithmetic: its result does not depend, to the last bit, on which others
are in the batch.

**On a GPU** (`device`) peaks without neighbours and saturated pixels are fitted by the same steps (`alone`), the others
on the CPU. Sums are rounded otherwise: docs/gpu.md says by how much positions differ.
"""

import math

import numpy as np
from numpy.typing import NDArray

from braggflow.config import FitConfig
from braggflow.errors import InputError
from braggflow.fit.disk import fit_disks
from braggflow.fit.peak_profile import MAX_MODELLED, MAX_SIZE, tools_for
from braggflow.fit.reported import FWHM_PER_SIGMA
from braggflow.fit.solver import fit_all
from braggflow.fit.start import starting_values
from braggflow.locate import compute_device
from braggflow.patches import MAX_NEIGHBOURS

_NUMBERS = "y x y_std x_std amplitude background fwhm_major fwhm_minor angle eta chi2 "
_NUMBERS += "fwhm_major_std fwhm_minor_std counts_std misfit halo"
#: One fit; see `fit_patches`.
FIT_DTYPE = np.dtype(
    [
        *[(name, "f8") for name in _NUMBERS.split()],
        ("iterations", "i2"),
        ("converged", "?"),
        ("at_bound", "?"),
        ("voigt", "?"),
    ]
)


def fit_patches(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    neighbours: NDArray[np.float32],
    config: FitConfig,
    *,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
) -> NDArray[np.void]:
    """Fit the peak of each patch, together with its listed neighbours.

    Parameters
    ----------
    counts : numpy.ndarray of float32
        Shape (n, y, x): square patches up to 15 × 15 as the detector delivered them, counts.
    state : numpy.ndarray of uint8
        Shape (n, y, x), a `patches.State` each. Taken are finite pixels that are `OWN` (0) or `OTHER` (1), others may
        hold anything.
    neighbours : numpy.ndarray of float32
        Shape (n, k, 2) with k up to 3: (dy, dx) in pixels from the patch's centre pixel to the maxima of its
        neighbours, NaN: none. Without one the peak is fitted alone.
    config : FitConfig
        `model`, `likelihood`, `max_iterations` and `device` are used. A `disk` is fitted alone, to its own pixels
        (`fit.disk`), on the CPU.
    counts_per_photon : float, default 1.0
        Counts of one photon, above 0.
    read_noise : float, default 0.0
        Standard deviation of a pixel without light, counts.

    Returns
    -------
    numpy.ndarray of dtype FIT_DTYPE
        Shape (n,). `y`, `x` in pixels of the patch (0 is the first pixel's centre) with their standard errors,
        `amplitude` the height of the profile above `background` in counts, `fwhm_major`, `fwhm_minor` in pixels with
        theirs, `counts_std` the standard error of `profile_counts`, `angle` in degrees of the long axis from +x towards
        +y, in (-90, 90], `eta`, and `chi2` per degree of freedom: 1 where model, gain and read noise are right. It is
        the sum of squared residuals over their expected variances; for least squares, the variance of the residuals
        over the mean of the expected ones. `misfit` and `halo` say how the residuals are shaped (`misfit.shape_misfit`;
        NaN with saturated pixels and of disks), `voigt` that the profile is a pseudo-Voigt. Of a disk both widths are
        the diameter, the angle is 0 and eta NaN.

        Where the fit does not converge to a peak (too few usable pixels, no positive amplitude, centre more than 1 px
        outside, sigma below 0.1 px or above the patch size; of a disk, centre outside the patch, radius below 1.5 px or
        above half of its size), `converged` is False and all numbers but `iterations` NaN.
        `at_bound` is True where a converged fit ended with eta at 0 or 1 (a Gaussian peak fitted with a pseudo-Voigt:
        the result is good), and where one that did not was on its way out of the bounds of centre, sigma or amplitude.

    Raises
    ------
    InputError
        For other shapes, a `counts_per_photon` that is not above 0, a negative read noise, and a `device` that is not
        there.

    References
    ----------
    Poisson weights: T. A. Laurence and B. A. Chromy, Nature Methods 7, 338 (2010). Read noise: D. L. Snyder et al.,
    J. Opt. Soc. Am. A 12, 272 (1995); F. Huang et al., Nature Methods 10, 653 (2013).

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.config import FitConfig
    >>> from braggflow.fit import fit_patches
    >>> y, x = np.mgrid[:11, :11]
    >>> counts = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 5.3) ** 2 + (x - 4.8) ** 2) / 3), (1, 11, 11))
    >>> state = np.zeros(counts.shape, np.uint8)  # every pixel is the peak's own
    >>> alone = np.full((1, 3, 2), np.nan, np.float32)
    >>> fitted = fit_patches(counts.astype(np.float32), state, alone, FitConfig())
    >>> bool(fitted["converged"][0]), float(fitted["y"][0].round(1)), float(fitted["x"][0].round(1))
    (True, 5.3, 4.8)
    """
    n, size = len(counts), counts.shape[-1]
    if counts.ndim != 3 or counts.shape[1] != size or not 1 <= size <= MAX_SIZE:
        raise InputError(f"counts: has shape {counts.shape}, must be (n, s, s) with s up to {MAX_SIZE}")
    if state.shape != counts.shape:
        raise InputError(f"state: has shape {state.shape}, must be that of counts, {counts.shape}")
    if neighbours.ndim != 3 or len(neighbours) != n or neighbours.shape[1] > MAX_NEIGHBOURS or neighbours.shape[2] != 2:
        raise InputError(f"neighbours: has shape {neighbours.shape}, must be ({n}, k, 2) with k up to {MAX_NEIGHBOURS}")
    if not 0 < counts_per_photon < math.inf:
        raise InputError(f"counts_per_photon: is {counts_per_photon}, must be a number of counts per photon above 0")
    if not 0 <= read_noise < math.inf:
        raise InputError(f"read_noise: is {read_noise}, must be a number of counts, 0 or more")
    counts, state = np.ascontiguousarray(counts, np.float32), np.ascontiguousarray(state, np.uint8)
    names = (FIT_DTYPE.names or ())[:-1]
    values = np.empty((n, len(names)))
    voigt = config.model == "pseudo_voigt"
    poisson, shift = config.likelihood == "poisson", (read_noise / counts_per_photon) ** 2
    if config.model == "disk":
        fit_disks(counts, state, poisson, config.max_iterations, float(counts_per_photon), shift, values)
    else:
        settings = (voigt, poisson, config.max_iterations, float(counts_per_photon), shift)
        neighbours = np.ascontiguousarray(neighbours, np.float32)
        _fit_profiles(counts, state, neighbours, settings, compute_device(config.device, key="fit.device"), values)
    result = np.empty(n, FIT_DTYPE)
    for column, name in enumerate(names):
        result[name] = values[:, column]
    result["voigt"] = voigt
    return result


def profile_counts(fits: NDArray[np.void], size: int) -> NDArray[np.float64]:
    """Counts of fitted profiles above their background, wherever they are.

    The integral of the profile, of a Gaussian 2π σ₁σ₂ × amplitude. The tails of a pseudo-Voigt's Lorentzian part have
    no end: of it, what lies within its ellipse of the patch's area.

    Parameters
    ----------
    fits : numpy.ndarray of dtype FIT_DTYPE
        Shape (n,); `amplitude`, `fwhm_major`, `fwhm_minor` and `eta` are used.
    size : int
        Side of the patches, pixels.

    Returns
    -------
    numpy.ndarray of float64
        Shape (n,), NaN where there is no fit.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.fit import profile_counts
    >>> names = "amplitude", "fwhm_major", "fwhm_minor", "eta"
    >>> fits = np.array([(100, 4.71, 2.355, 0), (100, 4.71, 2.355, 1)], [(name, "f8") for name in names])
    >>> profile_counts(fits, 11).round().tolist()  # 2π × 2 × 1 × 100, and of the Lorentzian
    [1257.0, 2353.0]
    """
    square = fits["fwhm_major"] * fits["fwhm_minor"]
    area = np.pi * square / FWHM_PER_SIGMA**2  # of the ellipse of one sigma
    is_disk, double = np.isnan(fits["eta"]), 2 * math.log(2)
    eta = np.where(is_disk, 0, fits["eta"])
    lorentzian = double * area * np.log1p(size**2 / np.maximum(double * area, 1e-9))
    profile = np.where(is_disk, np.pi / 4 * square, 2 * (1 - eta) * area + eta * lorentzian)
    counts: NDArray[np.float64] = fits["amplitude"] * profile
    return counts


def _fit_profiles(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    neighbours: NDArray[np.float32],
    settings: tuple[bool, bool, int, float, float],
    device: str,
    values: NDArray[np.float64],
) -> None:
    """Fill `values` as `fit_all` does: on a GPU those of peaks that are alone in a patch without saturated pixels."""
    if device == "cpu":
        start = starting_values(counts, state, neighbours, voigt=settings[0])
        fit_all(counts, state, start, *settings, tools_for(counts.shape[1]), np.zeros((MAX_MODELLED, 8)), values)
        return
    done = ~np.isfinite(neighbours[:, :, 0] + neighbours[:, :, 1]).any(axis=1)
    chosen = slice(None) if done.all() else done
    found, whole = np.empty((np.count_nonzero(done), values.shape[1])), np.empty(np.count_nonzero(done), bool)
    try:
        from braggflow.fit.gpu import fit_on_gpu

        fit_on_gpu(counts[chosen], state[chosen], device, settings, found, whole)
    except ImportError as error:  # so are numba's errors where it lacks something of CUDA
        reason = " ".join(str(error).split())
        raise InputError(
            f"fit.device: {device}, but numba cannot compute there ({reason}); pip install 'braggflow[gpu]', or set it "
            "to cpu"
        ) from error
    values[chosen], done[chosen] = found, whole
    if not done.all():
        left = ~done
        rest = np.empty((np.count_nonzero(left), values.shape[1]))
        _fit_profiles(counts[left], state[left], neighbours[left], settings, "cpu", rest)
        values[left] = rest
