"""The noise of each place of a frame: its level on a coarse grid, and what a pixel of that level scatters by.

The variance of a pixel is modelled as level + shift, in photons: `shift` is the square of the read noise. Where the
frame itself contradicts the constants stated (a CCD whose gain nobody gave, a frame less its dark, a detector that sets
all below a level to 0), those that its own pixels show are taken, for the search alone. Where the frame is full of
peaks, these are the ones of its darkest places.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from braggflow.compiled import inner, kernel
from braggflow.detect.background import level_grid
from braggflow.detect.levels import ENOUGH, LOW_COUNT, median_of, sample_step

#: Photons a pixel up to which a pixel's counts follow Poisson's law and not yet a normal one.
FEW_PHOTONS = 3.0
#: What the frame shows is taken where it is further from what is stated than so many of its standard errors: a read
#: noise of 1 that nobody stated makes three times the false peaks on 8 counts a pixel.
_CONTRADICTION = 4.0
#: Threes of squares without which a frame shows nothing.
_ENOUGH = 400
#: Pixels from one square of a three to the next. It is squares whose noise must be known, and where neighbouring pixels
#: share their charge, or a CCD's image was made straight, that of single ones says too little.
_APART = 4
_CLIP = 4.0
#: What looks like noise and is peaks is told by the darkest of so many threes in each block of a frame: about so many
#: blocks, of so many pixels a side at least, which hold several peaks where these are close.
_TRIES, _BLOCKS, _LEAST_BLOCK = 64, 484, 24
#: Blocks without which nothing is told.
_ENOUGH_BLOCKS = 8
#: Steps of places that fill a square evenly, whatever their number (the powers of 1 / 1.3247..., the root of
#: x^3 = x + 1: M. Roberts, The unreasonable effectiveness of quasirandom sequences, 2018).
_STEP_Y, _STEP_X = 0.7548776662466927, 0.5698402909980532
#: The standard deviation of what the middle of a three is off, over that of a pixel.
_OF_ONE_PIXEL = np.sqrt(6.0 * 9)
#: The share of pixels without a photon where a pixel has 3; noises, in photons, that few detectors have, and none.
_NO_PHOTON, _SMALL, _TINY = np.exp(-FEW_PHOTONS), 0.1, 0.005
#: Lone pixels, of photons or hot, that a frame may have which was scaled.
_FEW_LONE = 3
#: Pixels sampled.
_SAMPLE = 8192
#: Of frames of few counts, every so many rows are looked at for their lowest.
_ROWS = 8
#: A foreground of few photons begins at a count of a chance of at most this; one of more, at standard deviations.
_RARE = 0.03


class Noise(NamedTuple):
    """The noise of a stack of frames, for the search."""

    level: NDArray[np.float32]
    """Levels of the counts at the centres of the cells of the coarse grid, (n, rows, columns), counts."""
    cell: int
    """Side of a cell, pixels."""
    counts_per_photon: NDArray[np.float64]
    """(n,)"""
    shift: NDArray[np.float64]
    """(n,) photons that a pixel's variance is above its level."""

    def at(
        self, frame: NDArray[np.integer[Any]], y: NDArray[np.integer[Any]], x: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Level of the cells that pixels (n,) lie in, and the standard deviation of a pixel of it, counts."""
        rows, columns = self.level.shape[1:]
        level = self.level[frame, np.minimum(y // self.cell, rows - 1), np.minimum(x // self.cell, columns - 1)]
        return level, self.deviation(level, frame)

    def deviation(self, level: NDArray[np.float32], frame: Any) -> NDArray[np.float32]:
        """The standard deviation of pixels at a level, counts; `frame` is that of each."""
        photon, shift = (each.astype(np.float32)[frame] for each in (self.counts_per_photon, self.shift))
        photons = np.maximum(level / photon + shift, 0)
        return np.asarray(photon * np.sqrt(photons))


def frames_noise(
    frames: NDArray[Any], mask: NDArray[np.bool_], cell: int, *, counts_per_photon: float, read_noise: float
) -> Noise:
    """The noise of a stack of frames (n, y, x) with a mask (y, x), by the constants stated and by each frame.

    Its levels are those of cells of a side. Raises `InputError` where no pixel of a frame is unmasked.
    """
    step = sample_step(frames.shape[1:], _SAMPLE)
    n, m, values, levels, curvatures = _sample(frames, mask, step)
    shift = (read_noise / counts_per_photon) ** 2
    gain, shifts, few = _constants(
        frames, mask, n, m, values, levels, curvatures, float(counts_per_photon), float(shift), float(read_noise)
    )
    level = level_grid(frames, mask, cell, photon=np.where(few, np.minimum(gain, counts_per_photon), 0.0))
    return Noise(level, cell, gain, shifts)


@kernel(nogil=True)
def _constants(
    frames: Any,
    mask: Any,
    n: Any,
    m: Any,
    values: Any,
    levels: Any,
    curvatures: Any,
    stated: float,
    shift: float,
    read_noise: float,
) -> Any:
    """Counts of a photon and shift of each frame, as stated or as samples show, and whether it holds few photons."""
    n_frames = len(frames)
    gains, shifts, fews = np.empty(n_frames), np.empty(n_frames), np.zeros(n_frames, np.bool_)
    room = np.empty(max(values.shape[1], 2 * _BLOCKS, (frames.shape[1] + frames.shape[2]) // _LEAST_BLOCK + 1))
    for f in range(n_frames):
        gains[f], shifts[f] = stated, shift
        counts = values[f, : n[f]]
        negative = n[f] - _number_from(counts, 0.0)  # NaN too
        fews[f] = n[f] > 0 and negative == 0 and _median_is_below(counts, FEW_PHOTONS * stated)
        threes, off = levels[f, : m[f]], curvatures[f, : m[f]]
        if m[f] >= _ENOUGH and not _is_whole(counts):
            photon, without_light = _scaled_photon(frames[f], mask, counts, negative > 0, threes, off, stated, room)
            if photon > 0:
                gains[f], shifts[f] = photon, 1.0 if without_light else 0.0
                fews[f] = negative == 0 and _median_is_below(counts, FEW_PHOTONS * photon)
                continue
        if fews[f]:
            above, lowest = _lowest(frames[f], mask)
            # Nothing is known of what was set to 0: the least count that was not is one event.
            if above >= ENOUGH and lowest > LOW_COUNT:
                gains[f], shifts[f] = max(stated, lowest), 0.0
        elif m[f] >= _ENOUGH:
            gains[f], shifts[f] = _seen(threes, off, stated, shift, read_noise, room)
            if gains[f] != stated or shifts[f] != shift:
                # What peaks add is less on the darkest places near by. Noise against its level is not: that of photons
                # goes with the level, any other does not depend on it.
                dark, dark_off, sure = _darkest(frames[f], mask)
                if sure * _over(dark, dark_off, gains[f], shifts[f], room) < 1:
                    gains[f], shifts[f] = _seen(dark, dark_off, stated, shift, read_noise, room)
    return gains, shifts, fews


@inner(nogil=True, error_model="numpy")
def _seen(levels: Any, curvatures: Any, gain: float, shift: float, read_noise: float, room: Any) -> tuple[float, float]:
    """Counts of a photon and shift that a frame shows, where they contradict those stated."""
    n = len(levels)
    # The relative standard error of a variance; squares are correlated a little where they overlap.
    sure = _CONTRADICTION * np.sqrt(2 / n)
    if not _median_is_below(levels, FEW_PHOTONS * gain):
        ratio = _over(levels, curvatures, gain, (read_noise / gain) ** 2, room)
        if abs(ratio - 1) > sure and ratio > 0:  # 0: no noise at all, as of computed frames
            # As a gain: on bright places that is on the safe side of a noise that does not grow with the light.
            return gain * ratio, shift / ratio
        return gain, shift
    # Less a dark, or too much of one: what is left of the photons' level may be below 0.
    for i in range(n):
        room[i] = abs(curvatures[i])
    variance = _clipped_mean_square(room[:n])
    excess = variance - gain * median_of(levels) - read_noise**2
    if excess > sure * variance:
        shift += excess / gain**2
    return gain, shift


@inner(nogil=True)
def _is_whole(values: Any) -> bool:
    """Whether all numbers are whole ones, but for NaN."""
    broken = 0
    for i in range(len(values)):
        broken += values[i] != np.floor(values[i]) and not np.isnan(values[i])
    return broken == 0


@inner(nogil=True)
def _holds_nothing(counts: Any) -> bool:
    """Whether as many pixels hold nothing as do where they hold a few photons."""
    return bool(len(counts) - np.count_nonzero(counts) > _NO_PHOTON * len(counts))


@inner(nogil=True)
def _lone(counts: Any, mask: Any, limit: float) -> int:
    """Number of unmasked pixels above a limit of which no neighbour has half as much: photons, not peaks."""
    n = 0
    for y in range(1, counts.shape[0] - 1):
        for x in range(1, counts.shape[1] - 1):
            if counts[y, x] > limit and not mask[y, x]:
                highest = -np.inf
                for j in range(y - 1, y + 2):
                    for k in range(x - 1, x + 2):
                        if (j != y or k != x) and not mask[j, k]:
                            highest = max(highest, float(counts[j, k]))
                n += highest < limit / 2
    return n


@inner(nogil=True)
def _scaled_photon(
    frame: Any,
    mask: Any,
    counts: Any,
    is_negative: bool,
    levels: Any,
    curvatures: Any,
    stated: float,
    room: Any,
) -> tuple[float, bool]:
    """Counts of a photon of a frame that was scaled down, as `_own_photon` has them; 0 of one that may be as stated."""
    own, without_light = _own_photon(counts, is_negative, levels, curvatures, room)
    if own > 0 and (own < stated / 2 or is_negative or _median_is_below(counts, FEW_PHOTONS * stated)):
        dark, off, sure = _darkest(frame, mask)
        least, least_without_light = _own_photon(counts, is_negative, dark, off, room)
        if 0 < sure * least < own:
            own, without_light = least, least_without_light
    if not (without_light or (_holds_nothing(counts) and _median_is_below(counts, FEW_PHOTONS * own))):
        return (own if own < stated / 2 else 0.0), without_light
    # Numbers like these may be a few photons each with an integrating detector's noise, or spread over pixels.
    if own < _TINY * stated or (own < _SMALL * stated and _lone(frame, mask, stated / 2) <= _FEW_LONE):
        return own, without_light
    return 0.0, without_light


@inner(nogil=True)
def _own_photon(counts: Any, is_negative: bool, levels: Any, curvatures: Any, room: Any) -> tuple[float, bool]:
    """Counts of a photon by what a frame shows alone: its noise, and where many pixels hold nothing, what others do.

    Of a frame less its dark, whose level says nothing, the noise of a pixel without light is taken for one, which is
    said. 0 where there is none.
    """
    for i in range(len(levels)):
        room[i] = abs(curvatures[i])
    variance = _clipped_mean_square(room[: len(levels)])
    level, known = median_of(levels), 0
    if is_negative and level <= np.sqrt(variance):
        return float(np.sqrt(variance)), True
    own = variance / level if level > 0 else 0.0
    if _holds_nothing(counts) and (own == 0 or _median_is_below(counts, FEW_PHOTONS * own)):
        for i in range(len(counts)):
            room[known] = counts[i]
            known += counts[i] > 0
        own = max(own, median_of(room[:known])) if known > 0 else 0.0
    return own, False


@inner(nogil=True, error_model="numpy")
def _over(levels: Any, curvatures: Any, gain: float, shift: float, room: Any) -> float:
    """The variance that threes show over the one of these constants, peaks left out."""
    known, third, variance = 0, gain / 3, shift * gain**2
    for i in range(len(levels)):
        expected = gain * max(levels[i] + third, 0.0) + variance
        room[i] = abs(curvatures[i]) / np.sqrt(expected) if expected > 0 else np.nan
    for i in range(len(levels)):
        room[known] = room[i]
        known += not np.isnan(room[i])
    return _clipped_mean_square(room[:known])


@inner(nogil=True)
def _lowest(counts: Any, mask: Any) -> tuple[int, float]:
    """Number and lowest of the unmasked pixels above 0 in every so many rows."""
    n, lowest = 0, np.inf
    for y in range(0, counts.shape[0], _ROWS):
        for x in range(counts.shape[1]):
            if counts[y, x] > 0 and not mask[y, x]:
                lowest = min(lowest, float(counts[y, x]))
                n += 1
    return n, lowest


@inner(nogil=True)
def _median_is_below(values: Any, limit: float) -> bool:
    """Whether the median of numbers is below a limit: they are counted, not sorted."""
    n, last, first = len(values), -np.inf, np.inf
    below = n - _number_from(values, limit)
    if 2 * below != n:
        return 2 * below > n
    for i in range(n):  # it lies between the two
        if values[i] < limit:
            last = max(last, values[i])
        else:
            first = min(first, values[i])
    return bool((last + first) / 2 < limit)


@inner(nogil=True, fastmath={"reassoc", "nsz"})
def _number_from(values: Any, limit: float) -> int:
    """How many numbers are at or above a limit."""
    n = 0.0
    for i in range(len(values)):
        n += 1.0 if values[i] >= limit else 0.0
    return int(n)


def foreground_grid(noise: Noise, deviations: float) -> NDArray[np.float32]:
    """Counts above the level from which a pixel is looked at, at the cells' centres, shape of `noise.level`.

    So many standard deviations, or, at few photons a pixel, the lowest count that is rare enough: at least a photon.
    """
    photon, shift = noise.counts_per_photon[:, None, None], noise.shift[:, None, None]
    photons = np.maximum(noise.level / photon.astype(np.float32), 0).astype(np.float64)
    above = deviations * np.sqrt(photons + shift)
    rare = np.searchsorted(_MEANS_OF_RARE_COUNTS, photons) + 0.5  # between two counts
    above = np.where((shift < 1) & (photons < FEW_PHOTONS), rare - photons, above)
    return np.asarray(np.maximum(above, 0.25) * photon, np.float32)


#: Means up to which a count of 1, 2, 3, ... is reached by a chance of `_RARE`, ascending.
_MEANS_OF_RARE_COUNTS = special.gammaincinv(np.arange(1, 20), _RARE)


@inner(nogil=True)
def _clipped_mean_square(values: Any) -> float:
    """Mean square of values around 0, given by their sizes, peaks and other outliers left out."""
    square = (1.4826 * median_of(values)) ** 2
    for _ in range(3):
        limit = _CLIP * np.sqrt(square)
        total, kept = _sum_of_squares(values, limit)
        if kept == 0 or square == 0:
            break
        square = total / kept
    return square


@inner(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _sum_of_squares(values: Any, limit: float) -> tuple[float, int]:
    """Sum of the squares of the values up to a limit, and how many these are."""
    total, kept = 0.0, 0.0
    for i in range(len(values)):
        total += values[i] * values[i] if values[i] <= limit else 0.0
        kept += 1.0 if values[i] <= limit else 0.0
    return total, int(kept)


@kernel(nogil=True)
def _sample(frames: Any, mask: Any, step: int) -> Any:
    """A sample of each frame's pixels, `n` of them; means of threes of squares in a row, `m` of them, and how far the
    middle square is off its neighbours' line, scaled to the noise of one pixel.
    """
    n_frames, height, width = frames.shape
    room = height * width // step + 1
    n, m = np.zeros(n_frames, np.int64), np.zeros(n_frames, np.int64)
    values, levels, curvatures = np.empty((n_frames, room)), np.empty((n_frames, room)), np.empty((n_frames, room))
    ys, xs, free = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.bool_)
    known = 0
    for p in range(0, height * width, step):
        y, x = p // width, p % width
        if not mask[y, x]:
            inside = 1 <= y < height - 1 and _APART < x < width - _APART - 1
            ys[known], xs[known] = y, x
            free[known] = inside and (
                is_free(mask, y, x - _APART) and is_free(mask, y, x) and is_free(mask, y, x + _APART)
            )
            known += 1
    for f in range(n_frames):
        counts, k = frames[f], 0
        for i in range(known):
            y, x = ys[i], xs[i]
            values[f, i] = counts[y, x]
            if free[i]:
                left, middle = square(counts, y, x - _APART), square(counts, y, x)
                right = square(counts, y, x + _APART)
                if np.isfinite(left + middle + right):
                    levels[f, k] = (left + middle + right) / 27
                    curvatures[f, k] = (left + right - 2 * middle) / _OF_ONE_PIXEL
                    k += 1
        n[f], m[f] = known, k
    return n, m, values, levels, curvatures


@inner(nogil=True)
def _darkest(counts: Any, mask: Any) -> tuple[Any, Any, float]:
    """Level and curvature, as `_sample` has them, of the darkest three of squares in each block of a frame; and how
    many times a variance must be that of these to be more for sure, infinite where blocks are too few to tell.
    """
    height, width = counts.shape
    side = max(_LEAST_BLOCK, int(np.sqrt(height * width / _BLOCKS)))
    rows, columns = max(1, height // side), max(1, width // side)
    levels, curvatures, n = np.empty(rows * columns), np.empty(rows * columns), 0
    tries = np.arange(1, _TRIES + 1)
    downs = (tries * _STEP_Y % 1 * (height // rows)).astype(np.int64)
    acrosses = (tries * _STEP_X % 1 * (width // columns)).astype(np.int64)
    for block in range(rows * columns):
        top, left = block // columns * height // rows, block % columns * width // columns
        least, off = np.inf, 0.0
        for t in range(_TRIES):
            y, x = top + downs[t], left + acrosses[t]
            if not (1 <= y < height - 1 and _APART < x < width - _APART - 1):
                continue
            sides = square(counts, y, x - _APART) + square(counts, y, x + _APART)
            middle = square(counts, y, x)
            # Nor is NaN less. Where all is 0 nothing was measured. The mask is asked last: it is another cache miss.
            if (
                sides + middle < least
                and (sides != 0 or middle != 0)
                and (is_free(mask, y, x - _APART) and is_free(mask, y, x) and is_free(mask, y, x + _APART))
            ):
                least, off = float(sides + middle), float(sides) - 2 * float(middle)
        if least < np.inf:
            levels[n], curvatures[n] = least / 27, off / _OF_ONE_PIXEL
            n += 1
    return levels[:n], curvatures[:n], (1 + _CONTRADICTION * np.sqrt(2 / n) if n >= _ENOUGH_BLOCKS else np.inf)


@inner(nogil=True)
def is_free(mask: Any, y: int, x: int) -> bool:
    """Whether none of 3 × 3 pixels within the frame is masked."""
    for j in range(y - 1, y + 2):
        for k in range(x - 1, x + 2):
            if mask[j, k]:
                return False
    return True


@inner(nogil=True)
def square(counts: Any, y: int, x: int) -> Any:
    """Sum of 3 × 3 pixels within the frame: a whole number where they are."""
    total = counts[y - 1, x - 1] + 0
    total += counts[y - 1, x]
    total += counts[y - 1, x + 1]
    for j in range(y, y + 2):
        total += counts[j, x - 1]
        total += counts[j, x]
        total += counts[j, x + 1]
    return total
