"""The fit of a peak that is alone in its patch, by one thread that needs little memory: for GPUs.

The steps are those of `solver` and end where those end; results differ by how sums are rounded. A pass over the pixels
fills no rows of derivatives, as on a CPU, but the sums that a step needs. Neighbours and saturated pixels are left to
the CPU. Everything here is plain arithmetic on numbers and small arrays: `gpu` compiles it for a GPU, tests for a CPU.
"""

import math

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner
from braggflow.fit.equations import eliminate, hold, substitute
from braggflow.fit.misfit import scores
from braggflow.fit.peak_profile import LORENTZ, NODE_WEIGHTS, NODES, Integers, Rows, height_ratio, node_numbers, smear
from braggflow.fit.reported import COUNTS_STD, MISFIT, report
from braggflow.fit.solver import (
    EQUAL_WEIGHTS,
    FEW,
    FIRST_DAMPING,
    FLOOR_SHARE,
    LEAST_RATE,
    ROUNDING,
    STEP_TOLERANCE,
    move,
)
from braggflow.fit.start import (
    AMPLITUDE,
    BACKGROUND,
    ETA,
    XX,
    XY,
    YY,
    Floats,
    Singles,
    X,
    Y,
    copy,
    exp_half,
    start_alone,
)
from braggflow.patches import State

#: Rows of the working arrays of single and of double precision; sums of a pass over the pixels.
N_SINGLES, N_DOUBLES, N_SUMS = 3, 21, 47
#: Columns of a result, in the order of `FIT_DTYPE`.
N_VALUES = 19
_PIXELS, _MODEL, _TRIAL = range(N_SINGLES)
#: What stands for a pixel that is not usable.
_UNUSABLE = np.float32(-3e38)
_ZERO, _HALF, _ONE, _TWO = (np.float32(number) for number in (0, 0.5, 1, 2))
_ATANH = tuple(np.float32(1 / k) for k in (3, 5, 7, 9))
_FULL, _LAST_USED = int(State.FULL), int(State.OTHER)
_FAST = {"reassoc", "contract", "nsz"}


@inner(nogil=True, error_model="numpy")
def fit_alone(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    voigt: bool,
    poisson: bool,
    max_iterations: int,
    counts_per_photon: float,
    shift: float,
    pixel_y: Singles,
    pixel_x: Singles,
    left: Singles,
    singles: Singles,
    doubles: Floats,
    sums: Singles,
    nodes: Integers,
    free: Rows,
    values: Floats,
) -> bool:
    """Fit one patch (y, x); fill its `values`. False where a pixel is saturated: the CPU's work.

    To work in: `left` (y, x), `singles` (N_SINGLES, y × x), `doubles` (N_DOUBLES, 8), `sums` (N_SUMS,), `nodes` (1, 2),
    `free` (8,).
    """
    size, scale = len(counts), 1 / counts_per_photon
    pixels, old, new = singles[_PIXELS], singles[_MODEL], singles[_TRIAL]
    p, trial = doubles[0:1], doubles[1:2]
    gradient, step, reduced, matrix, factor = doubles[2], doubles[3], doubles[4], doubles[5:13], doubles[13:21]
    for column in range(N_VALUES):
        values[column] = np.nan
    number, n_full, highest = 0, 0, 0.0
    for y in range(size):
        for x in range(size):
            c, s = counts[y, x], state[y, x]
            n_full += s == _FULL
            photons = _UNUSABLE
            if s <= _LAST_USED and math.isfinite(c):
                photons = np.float32(c * scale + shift)
                number += 1
                highest = max(highest, float(photons))
            pixels[y * size + x], old[y * size + x] = photons, _ZERO
    if n_full > 0:
        return False
    iterations, converged, at_bound = 0, False, False
    n_free = 8 if voigt else 7
    if number >= n_free + 2 and start_alone(counts, state, voigt, left, p[0]):
        p[0, AMPLITUDE] /= counts_per_photon
        p[0, BACKGROUND] = p[0, BACKGROUND] / counts_per_photon + shift
        floor = FLOOR_SHARE * p[0, AMPLITUDE] if poisson else EQUAL_WEIGHTS * max(highest, p[0, AMPLITUDE])
        for a in range(8):
            free[a] = a
        nodes[0, 0], nodes[0, 1] = node_numbers(p[0], voigt)
        least_spread = (ROUNDING / STEP_TOLERANCE) ** 2 * p[0, AMPLITUDE]
        damping, spread, chi2, last, length, freedom = FIRST_DAMPING, 1.0, 1.0, 0.0, 0.0, 0.0
        moved, resampled, outside, found = True, True, False, False
        while iterations < max_iterations:
            iterations += 1
            if resampled:
                sum_up(p[0], nodes[0, 0], nodes[0, 1], voigt, floor, size, pixels, old, new, pixel_y, pixel_x, sums)
            if moved:
                for i in range(size * size):
                    old[i] = new[i]
                height = p[0, AMPLITUDE] * height_ratio(p[0], nodes[0, 0], nodes[0, 1], voigt)
                _unpack(n_free, height, sums, gradient, matrix)
                total, expected = float(sums[1]), float(sums[2])
                freedom = expected - n_free
                spread = chi2 = total / max(freedom, 1.0)
                if not poisson:
                    spread = total / max(number - n_free, 1)
                    chi2 = spread * number / max(expected, 1 / floor)
                hold(n_free, n_free, free, p, gradient, matrix)
            gain = -1.0
            if eliminate(matrix, gradient, damping, n_free, factor, reduced):
                substitute(factor, reduced, n_free, step)
                length, predicted = 0.0, 0.0
                for a in range(n_free):
                    length += step[a] * gradient[a]
                    predicted += damping * matrix[a, a] * step[a] ** 2
                outside = not move(p, step, free, n_free, 1, 1, nodes, voigt, size, trial)
                if not outside:
                    rate = min(max(length / last, LEAST_RATE**2), 1.0) if last > 0 else 1.0
                    found = damping <= 1 and rate * length <= STEP_TOLERANCE**2 * max(spread, least_spread)
                    if found:
                        copy(trial[0], p[0])
                        break
                    sum_up(
                        trial[0], nodes[0, 0], nodes[0, 1], voigt, floor, size, pixels, old, new, pixel_y, pixel_x, sums
                    )
                    gain = 2.0 * sums[0] / (length + predicted)
            moved, resampled = gain > 1e-3, False
            if moved:
                last = length
                copy(trial[0], p[0])
                ny, nx = node_numbers(p[0], voigt)
                if ny > nodes[0, 0] or nx > nodes[0, 1]:
                    nodes[0, 0], nodes[0, 1] = max(ny, nodes[0, 0]), max(nx, nodes[0, 1])
                    resampled = True
            if gain > 0.75:
                damping *= 0.1
            elif not gain >= 0.25:
                damping = max(4 * damping, 4e-3)
                if damping > 1e6:
                    break
        at_bound = outside
        if found:
            if poisson and freedom < FEW:
                spread = max(spread, 1.0)
            ny, nx = nodes[0, 0], nodes[0, 1]
            converged = report(
                p[0], n_free, ny, nx, voigt, size, spread, chi2, matrix, gradient, factor, reduced, values
            )
            at_bound = voigt and (p[0, ETA] <= 0 or p[0, ETA] >= 1)
        if converged:
            # Residuals and weights of the model before the last step, as on a CPU.
            for i in range(size * size):
                usable = pixels[i] > _UNUSABLE
                new[i] = pixels[i] - old[i] if usable else _ZERO
                old[i] = _ONE / max(old[i], np.float32(floor)) if usable else _ZERO
            values[MISFIT], values[MISFIT + 1], _, _ = scores(p[0], size * size, pixel_y, pixel_x, old, new)
    values[4] *= counts_per_photon
    values[COUNTS_STD] *= counts_per_photon
    values[5] = counts_per_photon * (values[5] - shift)
    values[16], values[17], values[18] = iterations, converged, at_bound
    return True


@inner(nogil=True, error_model="numpy", fastmath=_FAST)
def sum_up(
    p: Floats,
    ny: int,
    nx: int,
    voigt: bool,
    floor: float,
    size: int,
    pixels: Singles,
    old: Singles,
    new: Singles,
    pixel_y: Singles,
    pixel_x: Singles,
    sums: Singles,
) -> None:
    """Fill the model of the parameters into `new`, and the `sums` over the pixels.

    These are half of the fall of the deviance from the `old` model, the weighted sum of squared residuals and what it
    would be for photon counts, the gradient (8) and the lower half of the information matrix (36), row by row; the last
    two for unit amplitude (`_unpack`).
    """
    yy, xx, xy = p[YY] + smear(ny, voigt), p[XX] + smear(nx, voigt), p[XY]
    determinant = yy * xx - xy * xy
    a, b, c = np.float32(xx / determinant), np.float32(-xy / determinant), np.float32(yy / determinant)
    height = np.float32(p[AMPLITUDE] * height_ratio(p, ny, nx, voigt))
    background, least, lorentzian = np.float32(p[BACKGROUND]), np.float32(floor), np.float32(p[ETA])
    per_floor, rest, steep = _ONE / least, _ONE - lorentzian, _TWO * LORENTZ * lorentzian
    fall, total, expected = _ZERO, _ZERO, _ZERO
    g0, g1, g2, g3, g4, g5, g6, g7 = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    m00, m10, m11, m20, m21, m22 = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    m30, m31, m32, m33, m40, m41, m42, m43, m44 = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    m50, m51, m52, m53, m54, m55 = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    m60, m61, m62, m63, m64, m65, m66 = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    m70, m71, m72, m73, m74, m75, m76, m77 = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    rule = 1 if voigt else 0
    centre_y, centre_x = np.float32(p[Y]), np.float32(p[X])
    for i in range(size * size):
        d0, d1, d2, d3, d4, d5, d7 = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
        from_y, from_x = pixel_y[i] - centre_y, pixel_x[i] - centre_x
        for j in range(ny):
            for k in range(nx):
                weight = NODE_WEIGHTS[rule, ny, j] * NODE_WEIGHTS[rule, nx, k]
                dy, dx = from_y + np.float32(NODES[rule, ny, j]), from_x + np.float32(NODES[rule, nx, k])
                uy, ux = a * dy + b * dx, b * dy + c * dx
                q = dy * uy + dx * ux
                gaussian = weight * exp_half(q)
                slope = gaussian
                if voigt:
                    unit = _ONE / (_ONE + LORENTZ * q)
                    lorentz = weight * unit
                    slope = rest * gaussian + steep * lorentz * unit
                    d5 += rest * gaussian + lorentzian * lorentz
                    d7 += lorentz - gaussian
                else:
                    d5 += gaussian
                along_y, along_x = slope * uy, slope * ux
                d0 += along_y
                d1 += along_x
                d2 += along_y * uy
                d3 += along_y * ux
                d4 += along_x * ux
        model = height * d5 + background
        new[i] = model
        counts = pixels[i]
        if counts > _UNUSABLE:
            before = old[i]
            high, old_high, low, old_low = max(model, least), max(before, least), min(model, least), min(before, least)
            # As in `peak_profile.model`.
            z = (high - old_high) / (high + old_high)
            z2 = z * z
            series = z2 * (_ATANH[0] + z2 * (_ATANH[1] + z2 * (_ATANH[2] + z2 * _ATANH[3])))
            fall += z * ((counts - high) + (counts - old_high) + _TWO * counts * series)
            fall += (low - old_low) * (counts - _HALF * (low + old_low)) * per_floor
            w, residual = _ONE / high, counts - model
            pull = w * residual
            total += pull * residual
            expected += w * max(model, _ZERO)
            g0 += pull * d0
            g1 += pull * d1
            g2 += pull * d2
            g3 += pull * d3
            g4 += pull * d4
            g5 += pull * d5
            g6 += pull
            w0, w1, w2, w3, w4, w5 = w * d0, w * d1, w * d2, w * d3, w * d4, w * d5
            m00 += w0 * d0
            m10 += w1 * d0
            m11 += w1 * d1
            m20 += w2 * d0
            m21 += w2 * d1
            m22 += w2 * d2
            m30 += w3 * d0
            m31 += w3 * d1
            m32 += w3 * d2
            m33 += w3 * d3
            m40 += w4 * d0
            m41 += w4 * d1
            m42 += w4 * d2
            m43 += w4 * d3
            m44 += w4 * d4
            m50 += w5 * d0
            m51 += w5 * d1
            m52 += w5 * d2
            m53 += w5 * d3
            m54 += w5 * d4
            m55 += w5 * d5
            m60 += w0
            m61 += w1
            m62 += w2
            m63 += w3
            m64 += w4
            m65 += w5
            m66 += w
            if voigt:
                w7 = w * d7
                g7 += pull * d7
                m70 += w7 * d0
                m71 += w7 * d1
                m72 += w7 * d2
                m73 += w7 * d3
                m74 += w7 * d4
                m75 += w7 * d5
                m76 += w7
                m77 += w7 * d7
    sums[0], sums[1], sums[2] = fall, total, expected
    sums[3], sums[4], sums[5], sums[6], sums[7], sums[8], sums[9], sums[10] = g0, g1, g2, g3, g4, g5, g6, g7
    sums[11], sums[12], sums[13], sums[14], sums[15], sums[16] = m00, m10, m11, m20, m21, m22
    sums[17], sums[18], sums[19], sums[20] = m30, m31, m32, m33
    sums[21], sums[22], sums[23], sums[24], sums[25] = m40, m41, m42, m43, m44
    sums[26], sums[27], sums[28], sums[29], sums[30], sums[31] = m50, m51, m52, m53, m54, m55
    sums[32], sums[33], sums[34], sums[35], sums[36], sums[37], sums[38] = m60, m61, m62, m63, m64, m65, m66
    sums[39], sums[40], sums[41], sums[42] = m70, m71, m72, m73
    sums[43], sums[44], sums[45], sums[46] = m74, m75, m76, m77


@inner(nogil=True, error_model="numpy")
def _unpack(n_free: int, height: float, sums: Singles, gradient: Floats, matrix: Floats) -> None:
    """Gradient and lower half of the information matrix from the sums, which are for unit amplitude."""
    at = 11
    for a in range(n_free):
        of_a = _factor(a, height)
        gradient[a] = of_a * sums[3 + a]
        for b in range(a + 1):
            matrix[a, b] = of_a * _factor(b, height) * sums[at]
            at += 1


@inner(nogil=True, error_model="numpy")
def _factor(parameter: int, height: float) -> float:
    """What a sum lacks to be that of the derivative by this parameter."""
    if parameter in (AMPLITUDE, BACKGROUND):
        return 1.0
    return 0.5 * height if parameter in (YY, XX) else height
