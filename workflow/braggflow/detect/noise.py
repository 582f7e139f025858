"""The noise of each place of a frame: its level on a coarse grid, and what a pixel of that level scatters by.

The variance of a pixel is modelled as level + shift, in photons: `shift` is the square of the read noise. Where the
frame itself contradicts the constants stated (a CCD whose gain nobody gave, a frame less its dark, a detector that sets
all below a level to 0), those that its own pixels show are taken, for the search alone.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from braggflow.compiled import inner, kernel
from braggflow.detect.background import level_grid
from braggflow.detect.levels import cut_off, sample_step

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
#: Pixels sampled.
_SAMPLE = 8192
#: Of frames of few counts, every so many rows are looked at for their lowest.
_ROWS = 8
#: A foreground of few photons begins at a count of a chance of at most this; one of more, at standard deviations.
_RARE = 0.03


class Noise(NamedTuple):
    """The noise of a frame, for the search."""

    level: NDArray[np.float32]
    """Level of the counts at the centres of the cells of the coarse grid, (rows, columns), counts."""
    cell: int
    """Side of a cell, pixels."""
    counts_per_photon: float
    shift: float
    """Photons that a pixel's variance is above its level."""


def frame_noise(
    counts: NDArray[Any], mask: NDArray[np.bool_], cell: int, *, counts_per_photon: float, read_noise: float
) -> Noise:
    """The noise of one frame (y, x), from the constants stated and from the frame, its level on cells of a side.

    Raises `InputError` where no pixel is unmasked.
    """
    values, levels, curvatures = _samples(counts, mask, sample_step(counts.shape, _SAMPLE))
    few = len(values) > 0 and values.min() >= 0 and np.median(values) < FEW_PHOTONS * counts_per_photon
    level = level_grid(counts, mask, cell, photon=counts_per_photon if few else 0.0)
    gain, shift = counts_per_photon, (read_noise / counts_per_photon) ** 2
    if few:
        rows, ignored = counts[::_ROWS], mask[::_ROWS]
        above = rows[(rows > 0) & ~ignored]
        if cut_off(above):  # nothing is known of what was set to 0: the least count that was not is one event
            return Noise(level, cell, max(gain, float(above.min())), 0.0)
    elif len(curvatures) >= _ENOUGH:
        # The relative standard error of a variance; squares are correlated a little where they overlap.
        sure = _CONTRADICTION * np.sqrt(2 / len(curvatures))
        expected = gain * np.maximum(levels + gain / 3, 0) + read_noise**2
        if np.median(levels) >= FEW_PHOTONS * gain:
            known = expected > 0
            ratio = _clipped_mean_square(curvatures[known] / np.sqrt(expected[known]))
            if abs(ratio - 1) > sure and ratio > 0:  # 0: no noise at all, as of computed frames
                # As a gain: on bright places that is on the safe side of a noise that does not grow with the light.
                gain, shift = gain * ratio, shift / ratio
        else:
            # Less a dark, or too much of one: what is left of the photons' level may be below 0.
            variance = _clipped_mean_square(curvatures)
            excess = variance - gain * float(np.median(levels)) - read_noise**2
            if excess > sure * variance:
                shift += excess / gain**2
    return Noise(level, cell, gain, shift)


def foreground_grid(noise: Noise, deviations: float) -> NDArray[np.float32]:
    """Counts above the level from which a pixel is looked at, at the cells' centres, shape of `noise.level`.

    So many standard deviations, or, at few photons a pixel, the lowest count that is rare enough: at least a photon.
    """
    photons = np.maximum(noise.level / noise.counts_per_photon, 0).astype(np.float64)
    above = deviations * np.sqrt(photons + noise.shift)
    if noise.shift < 1:
        rare = np.searchsorted(_MEANS_OF_RARE_COUNTS, photons) + 0.5  # between two counts
        above = np.where(photons < FEW_PHOTONS, rare - photons, above)
    return np.asarray(np.maximum(above, 0.25) * noise.counts_per_photon, np.float32)


#: Means up to which a count of 1, 2, 3, ... is reached by a chance of `_RARE`, ascending.
_MEANS_OF_RARE_COUNTS = special.gammaincinv(np.arange(1, 20), _RARE)


def _clipped_mean_square(values: NDArray[np.float64]) -> float:
    """Mean square of values around 0, peaks and other outliers left out."""
    square = (1.4826 * float(np.median(np.abs(values)))) ** 2
    for _ in range(3):
        kept = values[np.abs(values) <= _CLIP * np.sqrt(square)]
        if kept.size == 0 or square == 0:
            break
        square = float(np.mean(kept**2))
    return square


def _samples(
    counts: NDArray[Any], mask: NDArray[np.bool_], step: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A sample of the frame's pixels; means of threes of squares in a row, and how far the middle square is off its
    neighbours' line, scaled to the noise of one pixel.
    """
    n, m, values, levels, curvatures = _sample(counts, mask, step)
    return values[:n], levels[:m], curvatures[:m]


@kernel(nogil=True)
def _sample(counts: Any, mask: Any, step: int) -> Any:
    height, width = counts.shape
    room = height * width // step + 1
    values, levels, curvatures = np.empty(room), np.empty(room), np.empty(room)
    n, m = 0, 0
    for p in range(0, height * width, step):
        y, x = p // width, p % width
        if mask[y, x]:
            continue
        values[n] = counts[y, x]
        n += 1
        if 1 <= y < height - 1 and _APART < x < width - _APART - 1:
            left, middle, right = (
                _square(counts, mask, y, x - _APART),
                _square(counts, mask, y, x),
                _square(counts, mask, y, x + _APART),
            )
            if np.isfinite(left + middle + right):
                levels[m] = (left + middle + right) / 27
                curvatures[m] = (left + right - 2 * middle) / np.sqrt(6.0 * 9)
                m += 1
    return n, m, values, levels, curvatures


@inner(nogil=True)
def _square(counts: Any, mask: Any, y: int, x: int) -> float:
    """Sum of 3 × 3 pixels within the frame; NaN where one is masked."""
    total = 0.0
    for j in range(y - 1, y + 2):
        for k in range(x - 1, x + 2):
            if mask[j, k]:
                return np.nan
            total += counts[j, k]
    return total
