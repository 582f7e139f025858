"""How significant a maximum is: the chance that the noise of its own place makes one like it.

Two questions are asked of each maximum, and the less certain answer counts:

- *Does it rise above its surroundings?* The counts of its 3 × 3 pixels against those of a ring around it (15 × 15 less
  7 × 7, wider where that holds few counts). If both had one level, the share of the counts that lies within would be
  binomial, whatever the level is (Przyborowski & Wilenski, Biometrika 31, 313 (1940)): exact from no counts to
  millions, with no level to be known. Pixels of the ring beyond 4 standard deviations, other peaks, are left out.
- *Is it a maximum of its own?* What it has above the saddle at which it merges into a higher one, over the standard
  deviation of that, twice: the two pixels, z = (birth - death) / sqrt(birth + death) in photons, which tells for sharp
  peaks; and the 3 × 3 pixels around either, for all others. Of maxima that noise makes on a field of one level, the
  share above z is that of a normal deviate above 1.6 z - 0.8 for the pixels and z + 0.63 for the squares (measured,
  docs/detection.md). The higher counts.

Both are given as sigma of a normal deviate, so that the share of noise's maxima above s is that of a normal one. Noise
has one maximum in about 10 pixels: of a megapixel without any peak, 100,000 × that share are expected above s.

What can be told without the ring is not: a maximum that cannot reach the significance asked for, whatever is around it,
is looked at no further. Such short cuts are bounds: they never decide otherwise than the whole calculation.

Counts are whole: to have the very chance asked for, a test must decide between equal counts. The number that decides,
between 0 and 1, is drawn from the counts and their place: the same frame gets the same answer always.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from braggflow.compiled import inner, kernel
from braggflow.detect.noise import Noise

#: Maxima that noise makes in a megapixel.
_MAXIMA_PER_MEGAPIXEL = 1e5
#: Beyond, chances are too small for double precision to hold.
HIGHEST = 37.0
#: Slope and offset of the normal deviate of z.
_OF_PIXELS, _OF_SQUARES = (1.6, -0.8), (1.0, 0.63)
_CORE, _HOLE = 1, 3
#: Photons from which on a tie is a small share of any chance.
_MOST_TIES = 10_000.0
#: Half sides of the ring, the first of which that holds so many photons counts.
_FIRST_RING, _WIDEST_RING, _ENOUGH_PHOTONS = 7, 31, 30.0
#: Below, a ring tells nothing, and the coarse level stands for one of so many pixels.
_LEAST_RING, _COARSE_RING = 20, (2 * _FIRST_RING + 1) ** 2 - (2 * _HOLE + 1) ** 2
#: Times that a ring is gone through to leave out other peaks.
_CLIPPINGS = 8
#: Of a chance below this, the binomial's tail is longer than the normal one, so that the normal deviate is no less than
#: its own: from `_FEW` photons within on, one around, and so many times as many pixels there.
_UNLIKELY, _WIDE = 1e-3, 4
#: A core that is so many standard deviations above that border is as significant as can be told.
_BEYOND_DOUBT = 1.2 * HIGHEST
#: Photons that are few, and pixels of the widest ring and its core; of what the ring leaves out.
_FEW, _WIDEST_PIXELS = 10.0, (2 * _WIDEST_RING + 1) ** 2 - (2 * _HOLE + 1) ** 2 + (2 * _CORE + 1) ** 2
#: Photons a pixel that a level has at least, so that counts have a share of it.
_LEAST_LEVEL = 1e-3
_HOLE_PIXELS = (2 * _HOLE + 1) ** 2


def least_significance(false_peaks: float) -> float:
    """The significance above which `false_peaks` maxima of noise are expected in a megapixel."""
    return float(-special.ndtri(min(false_peaks / _MAXIMA_PER_MEGAPIXEL, 0.5)))


def significance(
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    maxima: NDArray[np.void],
    noise: Noise,
    *,
    least: float = -np.inf,
) -> NDArray[np.float32]:
    """Significance of each maximum, shape (m,), sigma.

    `frames` (n, y, x), `mask` (y, x); of `maxima` (m,) are used `frame`, `y_pixel`, `x_pixel`, `birth`, `death` and
    `saddle`. Of maxima below `least` it may be too high, but not above `least`.
    """
    names = ("frame", "y_pixel", "x_pixel", "birth", "death", "saddle")
    frame, y, x, birth, death, saddle = (np.ascontiguousarray(maxima[name]) for name in names)
    chance = float(special.ndtr(-least))
    photon, shift = noise.counts_per_photon, noise.shift
    sigma, *sums = _count(
        frames, mask, frame, y, x, birth, death, saddle, noise.level, noise.cell, photon, shift, least, chance
    )
    counted = sums[0] > 0
    sigma[counted] = np.minimum(sigma[counted], _excess(*(each[counted] for each in sums)))
    result: NDArray[np.float32] = np.clip(sigma, -HIGHEST, HIGHEST).astype(np.float32)
    return result


def significance_above(
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    maxima: NDArray[np.void],
    level: NDArray[np.float32],
    dispersion: NDArray[np.float64],
    noise: Noise,
) -> NDArray[np.float32]:
    """As `significance`, of maxima of what is above a level that is not flat around them: counts (n, y, x).

    Within and around, counts are shared as the levels there are if there is no peak: binomial, whatever factor they
    are wrong by. `dispersion` (m,) is the variance of pixels over that of their photons, by which counts are divided.
    """
    names = ("frame", "y_pixel", "x_pixel", "birth", "death", "saddle")
    frame, y, x, birth, death, saddle = (np.ascontiguousarray(maxima[name]) for name in names)
    photon, shift, counts = noise.counts_per_photon, noise.shift, np.asarray(frames, np.float32)
    sigma, core, ring, share, tie = _count_above(
        counts, mask, level, frame, y, x, birth, death, saddle, photon, shift, dispersion
    )
    sigma = np.minimum(sigma, _excess(core / dispersion, ring / dispersion, share, tie))
    return np.asarray(np.clip(sigma, -HIGHEST, HIGHEST), np.float32)


def _excess(
    core: NDArray[np.float64], ring: NDArray[np.float64], share: NDArray[np.float64], tie: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sigma of `core` photons in a `share` of all pixels, `ring` in the others; `tie` (0 to 1) decides equal counts."""
    at_least = special.betainc(core, ring + 1, share)
    more = np.where(ring > 0, special.betainc(core + 1, np.maximum(ring, 1e-300), share), 0.0)
    sigma = -special.ndtri(np.clip(more + tie * (at_least - more), 1e-290, 1.0))
    # Far out, the signed root of the deviance is as good, and has no end.
    total = core + ring
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(ring > 0, ring * np.log(ring / (total * (1 - share))), 0.0)
        root = np.sqrt(np.maximum(2 * (core * np.log(core / (total * share)) + rest), 0))
    sigma = np.where(at_least > 1e-280, sigma, np.maximum(root, HIGHEST - 1))
    return np.clip(sigma, -HIGHEST, HIGHEST)


@kernel(nogil=True)
def _count(
    frames: Any,
    mask: Any,
    of_frame: Any,
    ys: Any,
    xs: Any,
    births: Any,
    deaths: Any,
    saddles: Any,
    levels: Any,
    cell: int,
    counts_per_photon: Any,
    shifts: Any,
    least: float,
    chance: float,
) -> Any:
    """Sigma of each maximum's persistence, photons within and around it, the share of the pixels that lies within, and
    a number to decide ties.

    Nothing is counted (0) within those that are less significant than `least`, of this `chance`, for sure; their sigma
    is below it.
    """
    n = len(ys)
    sigma, core, ring, share, tie = np.empty(n), np.zeros(n), np.zeros(n), np.full(n, 0.5), np.zeros(n)
    values, weights = np.empty(_WIDEST_PIXELS + _HOLE_PIXELS), np.empty(_WIDEST_PIXELS + _HOLE_PIXELS)
    for i in range(n):
        counts, level, y, x = frames[of_frame[i]], levels[of_frame[i]], ys[i], xs[i]
        per_count, shift = 1 / counts_per_photon[of_frame[i]], shifts[of_frame[i]]
        sigma[i] = np.inf
        if saddles[i] >= 0:
            persistence = (births[i] - deaths[i]) * per_count
            variance = 2 * (counts[y, x] * per_count + shift) - persistence
            z = persistence / np.sqrt(max(variance, 1e-300))
            sigma[i] = _OF_PIXELS[0] * z + _OF_PIXELS[1]
            if sigma[i] < HIGHEST:
                v, u = saddles[i] // counts.shape[1], saddles[i] % counts.shape[1]
                z = _between_squares(counts, mask, y, x, v, u, per_count, shift)
                sigma[i] = max(sigma[i], _OF_SQUARES[0] * z + _OF_SQUARES[1])
            if sigma[i] < least:
                continue
        inside, n_inside = _inside(counts, mask, y, x, per_count, shift)
        # If there were nothing around it, as far as it is looked at.
        if inside < _FEW:
            sparsest = (n_inside / _WIDEST_PIXELS) ** max(inside, 1e-9)
            if _number(counts, y, x) * sparsest > chance:
                sigma[i] = -np.inf
                continue
        # More than that the border of the hole could not tell if it held nothing.
        if inside * (8 * _HOLE) > _BEYOND_DOUBT**2 * n_inside:
            near, n_near = _square_border(counts, mask, y, x, per_count, shift)
            if _normal(inside, n_inside, near, n_near) > _BEYOND_DOUBT:  # though the border holds its own flanks
                sigma[i] = min(sigma[i], HIGHEST)
                continue
        half = _FIRST_RING
        outside, n_outside = _around_free(counts, mask, y, x, per_count, shift)
        while outside < _ENOUGH_PHOTONS and half <= _WIDEST_RING:
            outside, n_outside = _around(counts, mask, y, x, half, per_count, shift, values, weights)
            half = 2 * half + 1
        if n_outside < _LEAST_RING:
            coarse = level[min(y // cell, level.shape[0] - 1), min(x // cell, level.shape[1] - 1)] * per_count + shift
            outside, n_outside = max(coarse, 0.0) * _COARSE_RING, _COARSE_RING
        is_longer = chance < _UNLIKELY and inside >= _FEW and outside >= 1 and n_outside >= _WIDE * n_inside
        if is_longer and _normal(inside, n_inside, outside, n_outside) < least:
            sigma[i] = -np.inf
            continue
        core[i], ring[i] = max(inside, 1e-9), max(outside, 0.0)
        share[i] = n_inside / (n_inside + n_outside)
        tie[i] = _number(counts, y, x) if inside < _MOST_TIES else 0.5
    return sigma, core, ring, share, tie


@inner(nogil=True)
def _normal(inside: float, n_inside: int, outside: float, n_outside: int) -> float:
    """How many standard deviations `inside` is above its share of all photons."""
    variance = n_inside * n_outside * max(inside + outside, 0.0)
    return (inside * n_outside - outside * n_inside) / np.sqrt(variance) if variance > 0 else 0.0


@inner(nogil=True)
def _between_squares(counts: Any, mask: Any, y: int, x: int, v: int, u: int, per_count: float, shift: float) -> float:
    """Difference of the means of the 3 × 3 pixels around (y, x) and (v, u), in standard deviations."""
    high, n_high, low, n_low, both = 0.0, 0, 0.0, 0, 0.0
    for j in range(-_CORE, _CORE + 1):
        for k in range(-_CORE, _CORE + 1):
            if _unmasked(mask, y + j, x + k):
                photons = counts[y + j, x + k] * per_count + shift
                high += photons
                n_high += 1
                if abs(y + j - v) <= _CORE and abs(x + k - u) <= _CORE:
                    both += photons
            if _unmasked(mask, v + j, u + k):
                low += counts[v + j, u + k] * per_count + shift
                n_low += 1
    if n_low == 0:
        return -np.inf
    variance = high / n_high**2 + low / n_low**2 - 2 * both / (n_high * n_low)
    return float((high / n_high - low / n_low) / np.sqrt(max(variance, 1e-300)))


@inner(nogil=True)
def _unmasked(mask: Any, y: int, x: int) -> bool:
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and not mask[y, x]


@inner(nogil=True)
def _inside(counts: Any, mask: Any, y: int, x: int, per_count: float, shift: float) -> tuple[float, int]:
    """Photons and pixels of the core."""
    total, n = 0.0, 0
    for j in range(max(y - _CORE, 0), min(y + _CORE + 1, counts.shape[0])):
        for k in range(max(x - _CORE, 0), min(x + _CORE + 1, counts.shape[1])):
            if not mask[j, k]:
                total += counts[j, k]
                n += 1
    return total * per_count + n * shift, n


@inner(nogil=True)
def _number(counts: Any, y: int, x: int) -> float:
    """A number between 0 and 1 drawn from a place and the counts around it, by the steps of SplitMix64."""
    state = np.uint64(y) << np.uint64(32) | np.uint64(x)
    for j in range(max(y - _CORE, 0), min(y + _CORE + 1, counts.shape[0])):
        for k in range(max(x - _CORE, 0), min(x + _CORE + 1, counts.shape[1])):
            state = (state ^ np.uint64(np.int64(16 * float(counts[j, k])))) * np.uint64(0xBF58476D1CE4E5B9)
            state ^= state >> np.uint64(29)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return float(state >> np.uint64(11)) / 2.0**53


@inner(nogil=True)
def _square_border(counts: Any, mask: Any, y: int, x: int, per_count: float, shift: float) -> tuple[float, int]:
    """Photons and pixels of the border of the square that the ring leaves out."""
    total, n = 0.0, 0
    for j in range(max(y - _HOLE, 0), min(y + _HOLE + 1, counts.shape[0])):
        step = 1 if abs(j - y) == _HOLE else 2 * _HOLE
        for k in range(x - _HOLE, x + _HOLE + 1, step):
            if 0 <= k < counts.shape[1] and not mask[j, k]:
                total += counts[j, k] * per_count + shift
                n += 1
    return total, n


@inner(nogil=True)
def _around_free(counts: Any, mask: Any, y: int, x: int, per_count: float, shift: float) -> tuple[float, int]:
    """As `_around`, of the first ring where no pixel of it is masked or left out, as of most; else -1 photons."""
    top, left, side = y - _FIRST_RING, x - _FIRST_RING, 2 * _FIRST_RING + 1
    if top < 0 or left < 0 or top + side > counts.shape[0] or left + side > counts.shape[1]:
        return -1.0, 0
    total = highest = 0 * counts[y, x]  # a whole number where counts are
    ignored = False
    for j in range(side):
        row, masked = counts[top + j], mask[top + j]
        is_cut = abs(j - _FIRST_RING) <= _HOLE
        for k in range(np.uint64(left), np.uint64(left + (_FIRST_RING - _HOLE if is_cut else side))):
            total += row[k]
            highest = max(highest, row[k])
            ignored |= masked[k]
        for k in range(np.uint64(left + (_FIRST_RING + _HOLE + 1 if is_cut else side)), np.uint64(left + side)):
            total += row[k]
            highest = max(highest, row[k])
            ignored |= masked[k]
    photons = total * per_count + _COARSE_RING * shift
    mean = max(photons, 0.0) / _COARSE_RING
    if ignored or highest * per_count + shift > mean + 4 * np.sqrt(mean) + 3:
        return -1.0, 0
    return photons, _COARSE_RING


@inner(nogil=True)
def _around(
    counts: Any, mask: Any, y: int, x: int, half: int, per_count: float, shift: float, values: Any, weights: Any
) -> tuple[float, int]:
    """Photons and pixels of a ring, without those beyond 4 standard deviations of the others.

    `values` and `weights` are room for the square around the ring.
    """
    top, bottom = max(y - half, 0), min(y + half + 1, counts.shape[0])
    left, right = max(x - half, 0), min(x + half + 1, counts.shape[1])
    n, width = 0, right - left
    for j in range(top, bottom):
        row, ignored, value, weight = counts[j, left:right], mask[j, left:right], values[n:], weights[n:]
        for k in range(width):
            value[k] = 0.0 if ignored[k] else row[k] * per_count + shift
            weight[k] = 0.0 if ignored[k] else 1.0
        if abs(j - y) <= _HOLE:
            for k in range(max(x - _HOLE, left) - left, min(x + _HOLE + 1, right) - left):
                weight[k] = 0.0
        n += width
    total, left_over = _kept(values[:n], weights[:n], np.inf)
    for _ in range(_CLIPPINGS):
        mean = max(total, 0.0) / max(left_over, 1)
        before = left_over
        total, left_over = _kept(values[:n], weights[:n], mean + 4 * np.sqrt(mean) + 3)
        if left_over == before:
            break
    return total, left_over


@inner(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _kept(values: Any, weights: Any, limit: float) -> tuple[float, int]:
    """Sum and number of the weighted values up to a limit."""
    total, n = 0.0, 0.0
    for i in range(len(values)):
        kept = weights[i] if values[i] <= limit else 0.0
        total += kept * values[i]
        n += kept
    return total, int(n)


@kernel(nogil=True)
def _count_above(
    frames: Any,
    mask: Any,
    levels: Any,
    of_frame: Any,
    ys: Any,
    xs: Any,
    births: Any,
    deaths: Any,
    saddles: Any,
    counts_per_photon: Any,
    shifts: Any,
    dispersion: Any,
) -> Any:
    """Sigma of each maximum's persistence above levels, photons within and around it, the share that would lie within,
    and a number to decide ties.
    """
    n = len(ys)
    sigma, core, ring, share, tie = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        counts, level, y, x = frames[of_frame[i]], levels[of_frame[i]], ys[i], xs[i]
        per_count, shift = 1 / counts_per_photon[of_frame[i]], shifts[of_frame[i]]
        sigma[i] = np.inf
        if saddles[i] >= 0:
            v, u = saddles[i] // counts.shape[1], saddles[i] % counts.shape[1]
            variance = (level[y, x] + births[i] + level[v, u] + deaths[i]) * per_count + 2 * shift
            z = (births[i] - deaths[i]) * per_count / np.sqrt(max(variance * dispersion[i], 1e-300))
            sigma[i] = _OF_PIXELS[0] * z + _OF_PIXELS[1]
            high, high_level, n_high = _square_above(counts, level, mask, y, x, per_count, shift)
            low, low_level, n_low = _square_above(counts, level, mask, v, u, per_count, shift)
            if n_high > 0 and n_low > 0:
                variance = (high / n_high**2 + low / n_low**2) * dispersion[i]
                z = ((high - high_level) / n_high - (low - low_level) / n_low) / np.sqrt(max(variance, 1e-300))
                sigma[i] = max(sigma[i], _OF_SQUARES[0] * z + _OF_SQUARES[1])
        inside, expected, n_inside = _square_above(counts, level, mask, y, x, per_count, shift)
        outside, around, half = 0.0, 0.0, _FIRST_RING
        n_outside = 0
        while True:
            outside, around, n_outside = _around_above(counts, level, mask, y, x, half, per_count, shift)
            if outside >= _ENOUGH_PHOTONS or half >= _WIDEST_RING:
                break
            half = 2 * half + 1
        if n_outside < _LEAST_RING:
            around = expected / max(n_inside, 1) * _COARSE_RING
            outside = around
        core[i], ring[i], share[i] = max(inside, 1e-9), max(outside, 0.0), expected / (expected + around)
        tie[i] = _number(counts, y, x) if inside < _MOST_TIES else 0.5
    return sigma, core, ring, share, tie


@inner(nogil=True)
def _square_above(
    counts: Any, level: Any, mask: Any, y: int, x: int, per_count: float, shift: float
) -> tuple[float, float, int]:
    """Photons of the 3 × 3 pixels around a place, those of their level, and how many pixels these are."""
    total, expected, n = 0.0, 0.0, 0
    for j in range(max(y - _CORE, 0), min(y + _CORE + 1, counts.shape[0])):
        for k in range(max(x - _CORE, 0), min(x + _CORE + 1, counts.shape[1])):
            if not mask[j, k]:
                total += counts[j, k] * per_count + shift
                expected += max(level[j, k] * per_count + shift, _LEAST_LEVEL)
                n += 1
    return total, expected, n


@inner(nogil=True)
def _around_above(
    counts: Any, level: Any, mask: Any, y: int, x: int, half: int, per_count: float, shift: float
) -> tuple[float, float, int]:
    """Photons of a ring and of its level, pixels beyond 4 standard deviations of the others left out; their number."""
    scale, outside, around, n, before = np.inf, 0.0, 0.0, 0, -1
    for _ in range(_CLIPPINGS):
        outside, around, n = 0.0, 0.0, 0
        for j in range(max(y - half, 0), min(y + half + 1, counts.shape[0])):
            for k in range(max(x - half, 0), min(x + half + 1, counts.shape[1])):
                if mask[j, k] or (abs(j - y) <= _HOLE and abs(k - x) <= _HOLE):
                    continue
                photons = counts[j, k] * per_count + shift
                expected = max(level[j, k] * per_count + shift, _LEAST_LEVEL)
                if photons <= scale * expected + 4 * np.sqrt(scale * expected) + 3:
                    outside += photons
                    around += expected
                    n += 1
        if n == before or n == 0:
            break
        scale, before = max(outside, 0.0) / around, n
    return outside, around, n
