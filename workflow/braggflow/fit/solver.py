"""The compiled fit of a patch: damped steps to the optimum (Levenberg–Marquardt), the prior of loose peaks.

Levenberg–Marquardt after Marquardt, SIAM J. Appl. Math. 11, 431 (1963): the diagonal of the information matrix is
raised by a share of itself, which falls with each step that goes as foreseen. The fit starts from `start`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel
from braggflow.fit.equations import eliminate, hold, position_variances, substitute
from braggflow.fit.misfit import shape_misfit
from braggflow.fit.peak_profile import (
    MAX_FREE,
    ROWS_PER_PEAK,
    Integers,
    Rows,
    Tools,
    height_ratio,
    information,
    load_pixels,
    model,
    node_numbers,
    padded,
)
from braggflow.fit.reported import COUNTS_STD, MISFIT, report, variances
from braggflow.fit.start import AMPLITUDE, BACKGROUND, ETA, MAX_PEAKS, XX, XY, YY, Floats, Singles, X, Y, copy

#: Narrowest sigma accepted, px: a peak all in one pixel has no shape.
MIN_SIGMA = 0.1
#: Farthest that the centre may lie beyond the patch, px.
MAX_OUTSIDE = 1.0
#: Least variance given to a pixel, as a share of the highest pixel above background: faint wings, of which the model
#: knows little, and pixels that a threshold set to 0 must not outweigh the peak.
FLOOR_SHARE = 0.02
#: For equal weights the least variance is so many times the highest pixel: above every model.
EQUAL_WEIGHTS = 10.0
#: A fit has converged when, after the step at hand, the next one would be below this many standard errors: as much
#: shorter again as this one is than the last, but no more than ten times.
STEP_TOLERANCE, LEAST_RATE = 0.01, 0.1
#: Where residuals are worth fewer pixels than this beyond the free parameters, as those of sharp spots on no background
#: are, they do not tell that counts scatter less than photons: all of them are fitted.
FEW = 12.0
#: Of counts without noise, steps need be no shorter than what single precision rounds, as a share of the height.
ROUNDING = 1e-6
#: Damping of the first step; of one from poorer starting values, those of loose peaks: neighbours, of which the pixels
#: may hardly tell, and a peak whose core is saturated.
FIRST_DAMPING, FIRST_DAMPING_LOOSE = 1e-3, 1.0
#: With loose peaks a fit has also converged when, so many times in a row, an undamped step would move the own position
#: by no more than this many standard errors: what the pixels hardly tell may be changing for ever.
SETTLED_SHIFT, SETTLED_STEPS = 0.1, 3
#: What is taken to be known of a loose peak beforehand, as standard deviations: its position around the detected
#: maximum, px; the logarithm of its variances around those of a round peak of the own size; its amplitude around the
#: starting value, as a share of that and the own one together.
PRIOR_POSITION, PRIOR_SHAPE, PRIOR_AMPLITUDE = 1.0, 1.4, 3.0


@kernel(nogil=True, error_model="numpy")
def fit_all(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    start: Floats,
    voigt: bool,
    poisson: bool,
    max_iterations: int,
    counts_per_photon: float,
    shift: float,
    tools: Tools,
    p: Floats,
    values: Floats,
) -> None:
    """Fit each patch from its row of `start` (`start.starting_values`); fill its row of `values`, in the order of
    `FIT_DTYPE`. `shift` photons are added to every pixel, and to the background. `p` (MAX_MODELLED, 8) is to work in.
    """
    work, prior = tools.work, tools.prior
    for k in range(len(counts)):
        values[k] = np.nan
        n_peaks = 0
        while n_peaks < MAX_PEAKS and np.isfinite(start[k, n_peaks, Y]):
            copy(start[k, n_peaks], p[n_peaks])
            p[n_peaks, AMPLITUDE] /= counts_per_photon
            p[n_peaks, BACKGROUND] = p[n_peaks, BACKGROUND] / counts_per_photon + shift
            copy(p[n_peaks], prior[n_peaks])
            n_peaks += 1
        number, n_full, highest = load_pixels(counts[k], state[k], 1 / counts_per_photon, shift, work)
        iterations, converged, at_bound = 0, False, False
        misfit, halo = np.nan, np.nan
        if n_peaks > 0 and number >= (10 if voigt else 9):
            floor = FLOOR_SHARE * p[0, AMPLITUDE] if poisson else EQUAL_WEIGHTS * max(highest, p[0, AMPLITUDE])
            iterations, converged, at_bound = fit_one(
                counts.shape[1],
                n_peaks,
                1,
                0 if n_full > 0 else 1,
                voigt,
                poisson,
                floor,
                number,
                max_iterations,
                work,
                tools.system,
                p,
                tools.trial,
                prior,
                tools.height,
                tools.nodes,
                tools.free,
                values[k],
            )
            if converged and n_full == 0:
                misfit, halo, _, _ = shape_misfit(p[0], padded(counts.shape[1]), work)
        values[k, MISFIT], values[k, MISFIT + 1] = misfit, halo
        values[k, 4] *= counts_per_photon
        values[k, COUNTS_STD] *= counts_per_photon
        values[k, 5] = counts_per_photon * (values[k, 5] - shift)
        values[k, -3], values[k, -2], values[k, -1] = iterations, converged, at_bound


@inner(nogil=True, error_model="numpy")
def fit_one(
    size: int,
    n_peaks: int,
    n_sharing: int,
    first_loose: int,
    voigt: bool,
    poisson: bool,
    floor: float,
    number: int,
    max_iterations: int,
    work: Singles,
    system: Floats,
    p: Floats,
    trial: Floats,
    prior: Floats,
    height: Floats,
    nodes: Integers,
    free: Rows,
    values: Floats,
) -> tuple[int, bool, bool]:
    """Fit the patch in the work array, write its `values`; return iterations, whether it converged, at a bound.

    The first `n_sharing` peaks of `p` have one shape, that of the first; `first_loose` and those after it have a prior.
    What is left in the work array is the model before the last step, shorter than 0.01 standard errors.
    """
    n = padded(size)
    gradient, step, reduced = system[0], system[1], system[2]
    matrix, factor = system[3 : 3 + MAX_FREE], system[3 + MAX_FREE :]
    n_own = 8 if voigt else 7
    n_close = n_own + 3 * (n_sharing - 1)  # the parameters of those that share the shape
    n_free = n_close + 6 * (n_peaks - n_sharing)
    for a in range(n_own):
        free[a] = a
    for k in range(1, n_sharing):
        for j, parameter in enumerate((Y, X, AMPLITUDE)):
            free[n_own + 3 * (k - 1) + j] = ROWS_PER_PEAK * k + parameter
    for a in range(n_free - n_close):
        free[n_close + a] = ROWS_PER_PEAK * (n_sharing + a // 6) + a % 6
    free[n_free : n_free + 3] = 0
    for k in range(n_peaks):
        nodes[k, 0], nodes[k, 1] = node_numbers(p[k], voigt)
    loose = first_loose < n_peaks
    least_spread = (ROUNDING / STEP_TOLERANCE) ** 2 * p[0, AMPLITUDE]
    damping = FIRST_DAMPING_LOOSE if loose else FIRST_DAMPING
    settled, moved, resampled, outside, found = 0, True, True, False, False
    iterations, spread, chi2, last, freedom = 0, 1.0, 1.0, 0.0, 0.0
    while iterations < max_iterations:
        iterations += 1
        if resampled:
            model(p, n_peaks, n_sharing, nodes, voigt, floor, n, height, work)
        if moved:
            total, expected = information(free, n_free, floor, n, height, work, gradient, matrix)
            freedom = expected - n_free
            # Variance of the residuals over that of the weights.
            spread = chi2 = total / max(freedom, 1.0)
            if not poisson:
                spread = total / max(number - n_free, 1)
                chi2 = spread * number / max(expected, 1 / floor)
            for k in range(first_loose, n_peaks):
                first = n_close + 6 * (k - n_sharing) if k > 0 else 0
                _add_prior(first, p[k], prior[k], prior[0, AMPLITUDE], _weak(spread), gradient, matrix)
            hold(n_own, n_free, free, p, gradient, matrix)
            if loose:
                shift = _own_shift(n_free, max(spread, least_spread), gradient, matrix, factor, reduced, step)
                settled = settled + 1 if shift < SETTLED_SHIFT else 0
                found = settled == SETTLED_STEPS
        if found:
            break
        gain = -1.0  # fall of the deviance over that of its quadratic approximation
        if eliminate(matrix, gradient, damping, n_free, factor, reduced):
            substitute(factor, reduced, n_free, step)
            length, predicted = 0.0, 0.0  # length: squared, in standard errors
            for a in range(n_free):
                length += step[a] * gradient[a]
                predicted += damping * matrix[a, a] * step[a] ** 2
            outside = not move(p, step, free, n_free, n_peaks, n_sharing, nodes, voigt, size, trial)
            if not outside:
                rate = min(max(length / last, LEAST_RATE**2), 1.0)
                found = damping <= 1 and rate * length <= STEP_TOLERANCE**2 * max(spread, least_spread)
                if found:
                    for k in range(n_sharing):
                        copy(trial[k], p[k])
                    break
                fall = model(trial, n_peaks, n_sharing, nodes, voigt, floor, n, height, work)
                for k in range(first_loose, n_peaks):
                    before = prior_of(p[k], prior[k], prior[0, AMPLITUDE])
                    fall += 2 * _weak(spread) * (before - prior_of(trial[k], prior[k], prior[0, AMPLITUDE]))
                gain = fall / (length + predicted)
        moved, resampled = gain > 1e-3, False
        if moved:
            last = length
            for k in range(n_peaks):
                copy(trial[k], p[k])
                ny, nx = node_numbers(p[k], voigt)
                # Never fewer: a number that came and went would keep the fit from settling.
                if ny > nodes[k, 0] or nx > nodes[k, 1]:
                    nodes[k, 0], nodes[k, 1] = max(ny, nodes[k, 0]), max(nx, nodes[k, 1])
                    resampled = True
        if gain > 0.75:
            damping *= 0.1
        elif not gain >= 0.25:
            damping = max(4 * damping, 4e-3)
            if damping > 1e6:
                break
    if not found:
        return iterations, False, outside
    if poisson and freedom < FEW:
        spread = max(spread, 1.0)
    ny, nx = nodes[0, 0], nodes[0, 1]
    converged = report(p[0], n_free, ny, nx, voigt, size, spread, chi2, matrix, gradient, factor, reduced, values)
    return iterations, converged, voigt and (p[0, ETA] <= 0 or p[0, ETA] >= 1)


@inner(nogil=True, error_model="numpy")
def _weak(spread: float) -> float:
    """Weight of the prior: it is worth the same in standard errors of noisy counts, whatever their gain."""
    return max(spread, 1e-6)


@inner(nogil=True, error_model="numpy")
def prior_of(p: Floats, mean: Floats, own_height: float) -> float:
    """Minus the logarithm of the prior probability of a peak."""
    y, x = (p[Y] - mean[Y]) / PRIOR_POSITION, (p[X] - mean[X]) / PRIOR_POSITION
    amplitude = (p[AMPLITUDE] - mean[AMPLITUDE]) / (PRIOR_AMPLITUDE * (mean[AMPLITUDE] + own_height))
    # With s the variances along the axes over that of the prior, Σ (s + 1/s - 2) / 2: near 1, Σ (log s)² / 2.
    trace, determinant, variance = p[YY] + p[XX], p[YY] * p[XX] - p[XY] ** 2, math.sqrt(mean[YY] * mean[XX])
    shape = (trace / variance + variance * trace / determinant - 4) / PRIOR_SHAPE**2
    return float(0.5 * (y * y + x * x + amplitude * amplitude + shape))


@inner(nogil=True, error_model="numpy")
def _add_prior(
    first: int, p: Floats, mean: Floats, own_height: float, weight: float, gradient: Floats, matrix: Floats
) -> None:
    """Add a peak's prior to gradient and information, from its first parameter."""
    y, x, yy, xy, xx, amplitude = first, first + 1, first + 2, first + 3, first + 4, first + 5
    precision = weight / PRIOR_POSITION**2
    gradient[y] -= precision * (p[Y] - mean[Y])
    gradient[x] -= precision * (p[X] - mean[X])
    matrix[y, y] += precision
    matrix[x, x] += precision
    precision = weight / (PRIOR_AMPLITUDE * (mean[AMPLITUDE] + own_height)) ** 2
    gradient[amplitude] -= precision * (p[AMPLITUDE] - mean[AMPLITUDE])
    matrix[amplitude, amplitude] += precision
    # Derivatives of tr(C⁻¹): the first is -C⁻², the second that of tr(C⁻¹ dC C⁻¹ dC C⁻¹).
    determinant = p[YY] * p[XX] - p[XY] ** 2
    a, b, c = p[XX] / determinant, -p[XY] / determinant, p[YY] / determinant  # C⁻¹: yy, xy, xx
    a2, b2, c2 = a * a + b * b, b * (a + c), b * b + c * c  # C⁻²
    precision, variance = weight / PRIOR_SHAPE**2, math.sqrt(mean[YY] * mean[XX])
    gradient[yy] -= 0.5 * precision * (1 / variance - variance * a2)
    gradient[xx] -= 0.5 * precision * (1 / variance - variance * c2)
    gradient[xy] += precision * variance * b2
    precision *= variance
    matrix[yy, yy] += precision * a * a2
    matrix[xx, xx] += precision * c * c2
    matrix[xy, xy] += precision * (c * a2 + a * c2 + 2 * b * b2)
    matrix[xy, yy] += precision * (b * a2 + a * b2)
    matrix[xx, xy] += precision * (c * b2 + b * c2)
    matrix[xx, yy] += precision * b * b2


@inner(nogil=True, error_model="numpy")
def _own_shift(
    n_free: int, spread: float, gradient: Floats, matrix: Floats, factor: Floats, reduced: Floats, step: Floats
) -> float:
    """What an undamped step would change of the own position, in standard errors."""
    if not eliminate(matrix, gradient, 0.0, n_free, factor, reduced):
        return np.inf
    substitute(factor, reduced, 2, step)
    y, x = position_variances(factor)
    return math.sqrt(max(step[Y] ** 2 / y, step[X] ** 2 / x) / spread)


@inner(nogil=True, error_model="numpy")
def move(
    p: Floats,
    step: Floats,
    free: Rows,
    n_free: int,
    n_peaks: int,
    n_sharing: int,
    nodes: Integers,
    voigt: bool,
    size: int,
    trial: Floats,
) -> bool:
    """Fill the trial with the parameters after the step, within their bounds; False where the own ones are no peak."""
    for k in range(n_peaks):
        copy(p[k], trial[k])
    own = trial[0]
    own[AMPLITUDE] *= height_ratio(p[0], nodes[0, 0], nodes[0, 1], voigt)  # the step is that of the smeared height
    for a in range(n_free):
        trial[free[a] // ROWS_PER_PEAK, free[a] % ROWS_PER_PEAK] += step[a]
    low, high = -0.5 - MAX_OUTSIDE, size - 0.5 + MAX_OUTSIDE
    if not (low <= own[Y] <= high and low <= own[X] <= high and own[AMPLITUDE] > 0 and _has_shape(own, size)):
        return False
    own[AMPLITUDE] /= height_ratio(own, nodes[0, 0], nodes[0, 1], voigt)
    own[ETA] = min(max(own[ETA], 0.0), 1.0)
    for k in range(1, n_peaks):
        trial[k, AMPLITUDE], trial[k, ETA] = max(trial[k, AMPLITUDE], 0.0), own[ETA]
        if k < n_sharing:
            trial[k, YY], trial[k, XY], trial[k, XX] = own[YY], own[XY], own[XX]
            if not (low <= trial[k, Y] <= high and low <= trial[k, X] <= high):
                return False
            continue
        # What the pixels hardly determine must not stop the rest: back half way, until it has a shape.
        for _ in range(10):
            if not _has_shape(trial[k], size):
                for a in (YY, XY, XX):
                    trial[k, a] = 0.5 * (trial[k, a] + p[k, a])
        if not _has_shape(trial[k], size):
            return False
    return True


@inner(nogil=True, error_model="numpy")
def _has_shape(p: Floats, size: int) -> bool:
    major, minor = variances(p)
    return bool(minor >= MIN_SIGMA**2 and major <= size * size)
