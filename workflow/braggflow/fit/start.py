"""Where a fit starts: the peak by the moments of its own pixels, its neighbours at their detected maxima.

A starting value is a guess, not a result: pixels count as points here, and the background is the patch's border.
"""

import math

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel
from braggflow.patches import MAX_NEIGHBOURS, State

#: The peaks of a patch, its own first, and what is known of each, in this order: centre y, x, covariance yy, xy, xx of
#: the profile (px²), amplitude and background (counts), eta.
MAX_PEAKS = 1 + MAX_NEIGHBOURS
Y, X, YY, XY, XX, AMPLITUDE, BACKGROUND, ETA = range(8)
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# numba reads module constants as numbers.
_OWN, _OTHER, _FULL = int(State.OWN), int(State.OTHER), int(State.FULL)
# How far off the centre pixel the peak's highest may be, px, and the least variance to start from, px²: next to a
# neighbour, what is left of a peak looks too narrow.
_ALONE, _CROWDED = (2, 0.3), (1, 0.7)
#: eta that a pseudo-Voigt starts from.
_START_ETA = 0.3
#: A neighbour starts no lower than this share of the peak's height, and no higher than so many times the height.
_LOWEST_NEIGHBOUR, _HIGHEST_NEIGHBOUR = 0.02, 2.0

# 2^z for z in -0.5 to 0.5, to 2e-7: a polynomial through Chebyshev's nodes.
_POWERS = np.polynomial.Chebyshev.interpolate(np.exp2, 5, (-0.5, 0.5)).convert(kind=np.polynomial.Polynomial).coef
_2_0, _2_1, _2_2, _2_3, _2_4, _2_5 = (np.float32(c) for c in _POWERS)
_FARTHEST, _MINUS_HALF_LOG2_E = np.float32(80), np.float32(-0.5 / math.log(2))
# Added to a number below 2²², this leaves the nearest integer in the lowest bits; the exponent begins at bit 23.
_ROUND, _EXPONENT_BIT = np.float32(1.5 * 2**23), np.int32(23)


def starting_values(
    counts: NDArray[np.float32], state: NDArray[np.uint8], neighbours: NDArray[np.float32], *, voigt: bool
) -> Floats:
    """Parameters to start from, shape (n, `MAX_PEAKS`, 8): a row per peak, NaN where there is none.

    Takes what `fit.fit_patches` takes, contiguous. The background and eta of all peaks are those of the first. A patch
    whose own pixels hold no maximum above their background has no peak at all.
    """
    start = np.full((len(counts), MAX_PEAKS, 8), np.nan)
    _start_all(counts, state, neighbours, voigt, start)
    return start


# No "reassoc": by that, x + _ROUND - _ROUND is x.
@inner(nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def exp_half(q: np.float32) -> np.float32:
    """exp(-q/2), to 2e-6 relative up to q = 80 and constant beyond: arithmetic that the compiler does in vectors."""
    power = min(q, _FARTHEST) * _MINUS_HALF_LOG2_E
    rounded = power + _ROUND
    z = power - (rounded - _ROUND)
    s = _2_0 + z * (_2_1 + z * (_2_2 + z * (_2_3 + z * (_2_4 + z * _2_5))))
    whole = np.float32(rounded).view(np.int32) << _EXPONENT_BIT
    return np.int32(np.float32(s).view(np.int32) + whole).view(np.float32)


@kernel(nogil=True, error_model="numpy")
def _start_all(
    counts: NDArray[np.float32], state: NDArray[np.uint8], neighbours: NDArray[np.float32], voigt: bool, start: Floats
) -> None:
    size = counts.shape[1]
    left = np.empty((size, size), np.float32)  # counts that tell of the peak at hand, NaN elsewhere
    for k in range(len(counts)):
        own, row, crowded = start[k, 0], 1, False
        for j in range(neighbours.shape[1]):
            crowded |= math.isfinite(neighbours[k, j, 0] + neighbours[k, j, 1])
        if not crowded:
            start_alone(counts[k], state[k], voigt, left, own)
            continue
        _take(counts[k], state[k], _OWN, True, left, 0.0)
        _symmetrise(left)
        if not _start_peak(left, _CROWDED[0], _CROWDED[1], own):
            continue
        own[ETA] = _START_ETA if voigt else 0.0
        _take(counts[k], state[k], _OTHER, False, left, own[BACKGROUND])
        _subtract(own, left)
        for j in range(neighbours.shape[1]):
            dy, dx = neighbours[k, j]
            if math.isfinite(dy + dx):
                _start_neighbour(size // 2 + dy, size // 2 + dx, own, left, start[k, row])
                row += 1


@inner(nogil=True, error_model="numpy")
def start_alone(counts: NDArray[np.float32], state: NDArray[np.uint8], voigt: bool, left: Singles, own: Floats) -> bool:
    """Where the fit of a peak without neighbours starts; False where there is no peak. `left` is to work in."""
    # Without a neighbour that could explain them, pixels beyond it are as good as any.
    _take(counts, state, _OTHER, True, left, 0.0)
    if not _start_peak(left, _ALONE[0], _ALONE[1], own):
        return False
    own[ETA] = _START_ETA if voigt else 0.0
    return True


@inner(nogil=True, error_model="numpy")
def copy(source: Floats, target: Floats) -> None:
    """Copy the numbers of one row to another.

    Of an assignment between arrays numba makes code for every shape and for its messages: seconds to compile.
    """
    for a in range(len(target)):
        target[a] = source[a]


@inner(nogil=True, error_model="numpy")
def copy_rows(source: Floats, target: Floats) -> None:
    """Copy the rows of one array to another, as many as that has."""
    for k in range(len(target)):
        copy(source[k], target[k])


@inner(nogil=True, error_model="numpy")
def _take(
    counts: NDArray[np.float32], state: NDArray[np.uint8], last: int, full: bool, left: Singles, level: float
) -> None:
    """Copy, above a level, pixels whose state is `last` or a lower one; `full` ones as high as the highest of these."""
    n_full, base, none = 0, np.float32(level), np.float32(np.nan)
    for y in range(len(counts)):
        for x in range(len(counts)):
            usable = state[y, x] <= last and math.isfinite(counts[y, x])
            left[y, x] = counts[y, x] - base if usable else none
            n_full += state[y, x] == _FULL
    if full and n_full > 0:  # the peak's middle, whatever these pixels hold
        highest = np.float32(_highest(left, 1))
        for y in range(len(counts)):
            for x in range(len(counts)):
                if state[y, x] == _FULL:
                    left[y, x] = highest


@inner(nogil=True, error_model="numpy")
def _highest(values: Singles, sign: int) -> float:
    """The highest of the numbers times a sign; NaN without one."""
    highest = np.nan
    for y in range(len(values)):
        for x in range(len(values)):
            value = float(sign * values[y, x])
            if not (value <= highest or math.isnan(value)):
                highest = value
    return highest


@inner(nogil=True, error_model="numpy")
def _symmetrise(left: Singles) -> None:
    """Lower each pixel to its mirror image through the centre: what remains of a neighbour's flank is the peak's."""
    last = len(left) - 1
    for y in range(len(left)):
        for x in range(len(left)):
            if left[y, x] > left[last - y, last - x]:
                left[y, x] = left[last - y, last - x]


@inner(nogil=True, error_model="numpy")
def _start_peak(counts: Singles, near: int, narrowest: float, p: Floats) -> bool:
    """Moments around the highest pixel up to `near` pixels off the centre; sets all but eta. False without a peak."""
    size = len(counts)
    half = size // 2
    # A patch is cut at its peak: higher pixels away from the centre are another's, if there are usable ones here.
    top_y, top_x, n_border, border, squares, highest = -1, -1, 0, 0.0, 0.0, -np.inf
    for distance in (near, size):
        for y in range(max(half - distance, 0), min(half + distance + 1, size)):
            for x in range(max(half - distance, 0), min(half + distance + 1, size)):
                if counts[y, x] > highest:
                    top_y, top_x, highest = y, x, counts[y, x]
        if top_y >= 0:
            break
    if top_y < 0:
        return False
    for y in range(size):
        for x in range(0, size, 1 if y in (0, size - 1) else max(size - 1, 1)):
            c = float(counts[y, x])
            if math.isfinite(c):
                border += c
                squares += c * c
                n_border += 1
    if n_border > 0 and border < n_border * highest:
        background = border / n_border
        noise = math.sqrt(max(squares / n_border - background**2, 0.0))
    else:
        background, noise = -_highest(counts, -1), 0.0
    height = highest - background
    if not 0 < height < np.inf:
        return False
    # Pixels above this share of the height: few of them noise, and enough of them to have a width.
    share = min(max(2.5 * noise / height, 0.3), 0.7)
    cut = background + share * height
    area = 0
    for y in range(size):
        for x in range(size):
            area += counts[y, x] > cut
    reach = 2 * math.sqrt(area / math.pi) + 1
    window = int(reach)
    s, sy, sx, syy, sxy, sxx = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for y in range(max(top_y - window, 0), min(top_y + window + 1, size)):
        for x in range(max(top_x - window, 0), min(top_x + window + 1, size)):
            dy, dx = float(y - top_y), float(x - top_x)
            if counts[y, x] > cut and dy * dy + dx * dx <= reach * reach:
                v = counts[y, x] - background
                s += v
                sy += v * dy
                sx += v * dx
                syy += v * dy * dy
                sxy += v * dy * dx
                sxx += v * dx * dx
    my, mx = sy / s, sx / s
    p[Y], p[X] = top_y + my, top_x + mx
    # They hold a known share of a Gaussian's variance. The correlation is the least certain: half of it is kept, as a
    # start too narrow is worse than one too round.
    scale = (1 - share) / (1 - share * (1 - math.log(share)))
    widest = size * size / 4.0
    p[YY] = min(max(scale * (syy / s - my * my), narrowest), widest)
    p[XX] = min(max(scale * (sxx / s - mx * mx), narrowest), widest)
    limit = 0.5 * math.sqrt(p[YY] * p[XX])
    p[XY] = min(max(0.5 * scale * (sxy / s - mx * my), -limit), limit)
    p[AMPLITUDE], p[BACKGROUND] = height, background
    return True


@inner(nogil=True, error_model="numpy")
def _start_neighbour(y: float, x: float, own: Floats, left: Singles, p: Floats) -> None:
    """A round peak of the own size at (y, x), as high as the counts left tell; they lose it."""
    copy(own, p)
    p[Y], p[X] = y, x
    p[YY] = p[XX] = math.sqrt(own[YY] * own[XX])
    p[XY] = 0.0
    sharpness, highest = np.float32(1 / p[YY]), own[AMPLITUDE]
    along, norm = np.float32(0), np.float32(0)
    for j in range(len(left)):
        for i in range(len(left)):
            if math.isfinite(left[j, i]):
                dy, dx = np.float32(j - y), np.float32(i - x)
                unit = exp_half(sharpness * (dy * dy + dx * dx))
                along += unit * left[j, i]
                norm += unit * unit
                highest = max(highest, left[j, i])
    height = along / norm if norm > 0 else 0.0
    p[AMPLITUDE] = min(max(height, _LOWEST_NEIGHBOUR * own[AMPLITUDE]), _HIGHEST_NEIGHBOUR * highest)
    _subtract(p, left)


@inner(nogil=True, error_model="numpy")
def _subtract(p: Floats, left: Singles) -> None:
    """Take a Gaussian off the counts left."""
    determinant, amplitude = p[YY] * p[XX] - p[XY] ** 2, np.float32(p[AMPLITUDE])
    a, b, c = np.float32(p[XX] / determinant), np.float32(-2 * p[XY] / determinant), np.float32(p[YY] / determinant)
    for j in range(len(left)):
        dy = np.float32(j - p[Y])
        for i in range(len(left)):
            dx = np.float32(i - p[X])
            left[j, i] -= amplitude * exp_half(a * dy * dy + dx * (b * dy + c * dx))
