"""Several peaks without maxima of their own in one patch: told apart where the counts say so, else flagged.

**Who is asked.** Each fit tells how its residuals are shaped (`misfit.shape_misfit`). Where the scores that have a
direction are beyond what noise makes (`SUSPECT`), one profile is not all there is in the patch. Where only the wings
are too high (`HALO`), the profile is another one.

**The test** is between rivals, each fitted by maximum likelihood together with the listed neighbours: one Gaussian, one
pseudo-Voigt, two and three peaks of one shared shape: Gaussian, or pseudo-Voigt where the single pseudo-Voigt beats the
single Gaussian. It compares Poisson deviances, read noise included as in the fit, by the Bayesian information criterion
(G. Schwarz, Annals of Statistics 6, 461 (1978)): each parameter costs log(number of pixels), and the simpler rival
keeps a `MARGIN` beyond that. Where even the richer rival's chi2 is above 1 (a gain that is not that of the data, a
shape that none of them has), a difference of deviances counts by so much less.

**What comes of it.** Peaks that are told apart share the shape of the fit; each is as high, and as certain, as their
fit together says. A peak whose single pseudo-Voigt beats its Gaussian gets the pseudo-Voigt's numbers. What is not one
profile and not told apart either is a blend: the standard errors of its position then include how far that one of
two peaks which is at the maximum would be from it.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel
from braggflow.config import FitConfig
from braggflow.fit.misfit import shape_misfit
from braggflow.fit.patch_fits import FIT_DTYPE
from braggflow.fit.peak_profile import MAX_MODELLED, Integers, Tools, load_pixels, padded, tools_for
from braggflow.fit.reported import COUNTS_STD, FWHM_PER_SIGMA
from braggflow.fit.rivals import CHI2, NUMBERS, Patch, fit_rival, start_pair, start_third
from braggflow.fit.solver import FLOOR_SHARE
from braggflow.fit.start import (
    AMPLITUDE,
    BACKGROUND,
    ETA,
    MAX_PEAKS,
    XX,
    XY,
    YY,
    Floats,
    X,
    Y,
    copy,
    copy_rows,
    starting_values,
)
from braggflow.patches import State

#: Peaks told apart in one patch, at most.
MOST = 1 + MAX_MODELLED - MAX_PEAKS
#: A fit is suspect where its `misfit` is above this, times chi2 where that is above 1 (a gain that is not that of the
#: data) up to `MOST_CHI2`, for a second peak raises chi2 too; of single peaks of every class 0.1 to 0.5 % are. What is
#: not told apart is a blend where it is above this times all of chi2. The profile is doubtful where `halo` is above its
#: limit; of Gaussian peaks next to none are (benchmarks/bench_deblend.py).
SUSPECT, MOST_CHI2, HALO = 18.0, 1.25, 2.5
#: By which the deviance must fall beyond what the additional parameters cost.
MARGIN = 10.0
#: Peaks closer than this to one another are not told apart: real spots that are lopsided look like a second one there
#: (a quarter as high, 1.2 to 1.6 px off, on a fifth of a CCD's spots). Closer than that to a detected neighbour they
#: are it. Px.
NEAREST, OF_NEIGHBOUR = 1.7, 1.5
#: Peaks whose place is less certain than this are not told apart, px.
_LEAST_CERTAIN = 1.0
#: One of the peaks is where the maximum was detected, to so many px along each axis.
_FARTHEST = 2.0
#: eta that a pseudo-Voigt starts from.
_START_ETA = 0.3
_OWN = int(State.OWN)


class Deblended(NamedTuple):
    """Fits after the test, and the peaks that it found besides; see `deblend`."""

    fits: NDArray[np.void]
    """(n,) of dtype FIT_DTYPE: those given, anew where another rival won."""
    split: NDArray[np.bool_]
    """(n,) True where several peaks are told apart; the fit is that of the one at the maximum."""
    blend: NDArray[np.bool_]
    """(n,) True where it is neither one profile nor told apart."""
    further: NDArray[np.void]
    """(m,) of dtype FIT_DTYPE: the other peaks, in pixels of the patch, those of one patch from the highest on."""
    patch: NDArray[np.int64]
    """(m,) the patch that each of these is in, ascending."""


def deblend(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    neighbours: NDArray[np.float32],
    config: FitConfig,
    fits: NDArray[np.void],
    *,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
) -> Deblended:
    """Tell peaks without maxima of their own apart, in the patches whose fits are suspect.

    Parameters
    ----------
    counts, state, neighbours, config, counts_per_photon, read_noise
        As for `fit_patches`. With `config.likelihood: least_squares`, which knows no noise, nothing is tested.
    fits : numpy.ndarray of dtype FIT_DTYPE
        Shape (n,): what `fit_patches` made of the same patches.

    Returns
    -------
    Deblended
        The fits, anew where another rival won, and the peaks found besides.

    Examples
    --------
    Two peaks of one shape, 3 px apart, the second a third as high as the first:

    >>> import numpy as np
    >>> from braggflow.config import FitConfig
    >>> from braggflow.fit import deblend, fit_patches
    >>> y, x = np.mgrid[:11, :11]
    >>> mean = 4 + sum(h * np.exp(-((y - 5) ** 2 + (x - at) ** 2) / 3) for h, at in ((900, 4.6), (300, 7.6)))
    >>> counts = np.random.default_rng(0).poisson(mean)[None].astype(np.float32)
    >>> state, alone = np.zeros(counts.shape, np.uint8), np.full((1, 3, 2), np.nan, np.float32)
    >>> fits = fit_patches(counts, state, alone, FitConfig())
    >>> found = deblend(counts, state, alone, FitConfig(), fits)
    >>> found.split, found.patch
    (array([ True]), array([0]))
    >>> [float(at.round(1)) for at in (found.fits["x"][0], found.further["x"][0])]
    [4.6, 7.7]
    """
    suspects = np.flatnonzero(_suspects(fits, config))
    counts, state = np.ascontiguousarray(counts[suspects], np.float32), np.ascontiguousarray(state[suspects], np.uint8)
    listed = np.ascontiguousarray(neighbours[suspects], np.float32)
    given = np.column_stack([fits[name][suspects] for name in (FIT_DTYPE.names or ())[:NUMBERS]])
    given = np.ascontiguousarray(given, np.float64).reshape(len(suspects), NUMBERS)
    voigt = config.model == "pseudo_voigt"
    start = starting_values(counts, state, listed, voigt=voigt)
    found = np.full((len(suspects), MOST, NUMBERS), np.nan)
    verdict = np.zeros((len(suspects), 3), np.int64)
    photon, shift, tools = float(counts_per_photon), (read_noise / counts_per_photon) ** 2, tools_for(counts.shape[1])
    room = np.zeros((3, MAX_MODELLED, 8))
    _judge_all(
        counts, state, listed, start, given, voigt, config.max_iterations, photon, shift, tools, room, found, verdict
    )
    found[:, :, 4] *= photon
    found[:, :, 5] = photon * (found[:, :, 5] - shift)
    found[:, :, COUNTS_STD] *= photon
    new, split, blend = fits.copy(), np.zeros(len(fits), bool), np.zeros(len(fits), bool)
    number, is_voigt, is_blend = verdict.T
    changed = number > 0
    _enter(new, suspects[changed], found[changed, 0], is_voigt[changed])
    split[suspects], blend[suspects] = number > 1, is_blend
    row, further = np.nonzero(np.arange(1, MOST) < number[:, None])
    others = fits[suspects[row]]
    _enter(others, np.arange(len(others)), found[row, 1 + further], is_voigt[row])
    return Deblended(new, split, blend, others, suspects[row])


def _suspects(fits: NDArray[np.void], config: FitConfig) -> NDArray[np.bool_]:
    if not config.deblend or config.likelihood != "poisson":
        return np.zeros(len(fits), bool)
    suspect: NDArray[np.bool_] = fits["misfit"] > SUSPECT * np.clip(fits["chi2"], 1, MOST_CHI2)
    if config.model == "gaussian":
        suspect |= fits["halo"] > HALO
    suspect &= fits["converged"]
    return suspect


def _enter(fits: NDArray[np.void], rows: NDArray[np.int64], numbers: Floats, voigt: NDArray[np.int64]) -> None:
    for column, name in enumerate((FIT_DTYPE.names or ())[:NUMBERS]):
        fits[name][rows] = numbers[:, column]
    fits["voigt"][rows] = voigt


@inner(nogil=True, error_model="numpy")
def _prepare(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    start: Floats,
    given: Floats,
    max_iterations: int,
    counts_per_photon: float,
    shift: float,
    tools: Tools,
    peaks: Floats,
) -> Patch:
    """Load a patch; fill `peaks` with the parameters of the fit `given` and of the neighbours that are started."""
    n_close = 0
    while n_close < MAX_PEAKS - 1 and np.isfinite(start[1 + n_close, Y]):
        n_close += 1
    number, _, _ = load_pixels(counts, state, 1 / counts_per_photon, shift, tools.work)
    floor = FLOOR_SHARE * start[0, AMPLITUDE] / counts_per_photon
    given[4] /= counts_per_photon
    given[5] = given[5] / counts_per_photon + shift
    for j in range(1 + n_close):
        copy(start[j], peaks[j])
        peaks[j, AMPLITUDE] /= counts_per_photon
        peaks[j, BACKGROUND] = given[5]
    _parameters(given, peaks[0])
    return Patch(len(counts), n_close, floor, number, max_iterations)


@inner(nogil=True, error_model="numpy")
def _parameters(numbers: Floats, p: Floats) -> None:
    """The parameters of a profile from the numbers of its fit."""
    p[Y], p[X], p[AMPLITUDE], p[BACKGROUND], p[ETA] = numbers[0], numbers[1], numbers[4], numbers[5], numbers[9]
    major, minor = (numbers[6] / FWHM_PER_SIGMA) ** 2, (numbers[7] / FWHM_PER_SIGMA) ** 2
    cosine, sine = math.cos(math.radians(numbers[8])), math.sin(math.radians(numbers[8]))
    p[YY] = major * sine**2 + minor * cosine**2
    p[XX] = major * cosine**2 + minor * sine**2
    p[XY] = (major - minor) * sine * cosine


@kernel(nogil=True, error_model="numpy")
def _judge_all(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    neighbours: NDArray[np.float32],
    start: Floats,
    given: Floats,
    voigt: bool,
    max_iterations: int,
    counts_per_photon: float,
    shift: float,
    tools: Tools,
    room: Floats,
    found: Floats,
    verdict: Integers,
) -> None:
    """`_judge` each patch."""
    for k in range(len(counts)):
        _judge(
            counts[k], state[k], neighbours[k], start[k], given[k], voigt, max_iterations, counts_per_photon, shift,
            tools, room, found[k], verdict[k],
        )  # fmt: skip


@inner(nogil=True, error_model="numpy")
def _judge(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    neighbours: NDArray[np.float32],
    start: Floats,
    given: Floats,
    voigt: bool,
    max_iterations: int,
    counts_per_photon: float,
    shift: float,
    tools: Tools,
    room: Floats,
    found: Floats,
    verdict: Integers,
) -> None:
    """Fill what is `found` of one patch by fitting the rivals, the peak at its maximum first, and the `verdict`.

    That is the number of peaks (0: the fit given stays), whether they are pseudo-Voigts, and whether this is a blend.
    Heights and background are in photons, as the `shift` is. `room` (3, MAX_MODELLED, 8) is to work in.
    """
    peaks, p, pair = room[0], room[1], room[2]
    patch = _prepare(counts, state, start, given, max_iterations, counts_per_photon, shift, tools, peaks)
    numbers, cost = np.empty((MOST, NUMBERS)), math.log(patch.number)
    copy_rows(peaks, p)
    of_single = fit_rival(1, voigt, patch, tools, p, found)
    misfit, halo, third, fourth = shape_misfit(p[0], padded(patch.size), tools.work)
    single, of_voigt = np.empty(8), np.inf
    copy(p[0], single)
    profile = voigt
    if not voigt and halo > HALO:
        copy_rows(peaks, p)
        p[:, ETA] = _START_ETA
        of_voigt = fit_rival(1, True, patch, tools, p, numbers)
    if of_voigt < of_single - max(numbers[0, CHI2], 1.0) * (MARGIN + cost):
        misfit, _, third, fourth = shape_misfit(p[0], padded(patch.size), tools.work)
        copy(p[0], single)
        copy(numbers[0], found[0])
        of_single, profile = of_voigt, True
        verdict[0], verdict[1] = 1, 1
    if not misfit > SUSPECT * min(max(found[0, CHI2], 1.0), MOST_CHI2):
        return

    # Two peaks: from several starts, Gaussians, and pseudo-Voigts where one is better than one Gaussian.
    pair_numbers, of_pair, pair_profile = np.empty((MOST, NUMBERS)), np.inf, False
    brief = Patch(patch.size, patch.n_close, patch.floor, patch.number, min(patch.max_iterations, 15))
    for is_voigt in (False, True):
        if is_voigt != profile and (is_voigt or voigt):
            continue
        for way in range(4):
            start_pair(way, single, third, fourth, peaks, patch.n_close, p)
            p[:, ETA] = max(single[ETA], 0.1) if is_voigt else 0.0
            deviance = fit_rival(2, is_voigt, brief, tools, p, numbers) + cost * is_voigt
            if deviance < of_pair:
                of_pair, pair_profile = deviance, is_voigt
                copy_rows(p, pair)
                copy_rows(numbers, pair_numbers)
    verdict[0], verdict[1] = 1, profile
    needed = max(pair_numbers[0, CHI2], 1.0) * (MARGIN + (3 - profile) * cost)
    if of_pair < of_single - needed and _is_good(2, pair_numbers, state, neighbours):
        verdict[0], verdict[1] = 2, pair_profile
        copy_rows(pair_numbers, found)
        copy_rows(pair, p)
        fit_rival(2, pair_profile, patch, tools, p, numbers)  # the work array holds the residuals of another
        of_three = np.inf
        if start_third(patch, tools, pair, p):
            of_three = fit_rival(3, pair_profile, patch, tools, p, numbers) + cost * pair_profile
        needed = max(numbers[0, CHI2], 1.0) * (MARGIN + 3 * cost)
        if of_three < of_pair - needed and _is_good(3, numbers, state, neighbours):
            verdict[0] = 3
            copy_rows(numbers, found)
        return
    if not misfit > SUSPECT * max(found[0, CHI2], 1.0):
        verdict[0] = profile != voigt  # else the fit given stays, to the last bit
        return
    verdict[2] = 1
    if of_pair < np.inf:
        for axis in range(2):
            found[0, 2 + axis] = math.hypot(found[0, 2 + axis], pair_numbers[0, axis] - found[0, axis])


@inner(nogil=True, error_model="numpy")
def _is_good(n: int, numbers: Floats, state: NDArray[np.uint8], neighbours: NDArray[np.float32]) -> bool:
    """Whether the first is at the patch's maximum, the others are on pixels of its own, and all are apart."""
    size = len(state)
    half = size // 2
    if max(abs(numbers[0, 0] - half), abs(numbers[0, 1] - half)) > _FARTHEST:
        return False
    for k in range(1, n):
        y, x = numbers[k, 0], numbers[k, 1]
        row, column = round(y), round(x)
        if not (0 <= row < size and 0 <= column < size and state[row, column] == _OWN):
            return False
        if not (numbers[k, 2] < _LEAST_CERTAIN and numbers[k, 3] < _LEAST_CERTAIN):
            return False
        for j in range(k):
            if math.hypot(y - numbers[j, 0], x - numbers[j, 1]) < NEAREST:
                return False
        for j in range(len(neighbours)):
            if math.hypot(y - half - neighbours[j, 0], x - half - neighbours[j, 1]) < OF_NEIGHBOUR:
                return False
    return True
