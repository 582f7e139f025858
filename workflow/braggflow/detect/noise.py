"""The noise of each place of a frame: its level on a coarse grid, and what a pixel of that level scatters by.

The variance of a pixel is modelled as counts_per_photon × (level + shift), in photons: `shift` is the square of the read
noise. Where the frame itself contradicts the constants stated (a CCD whose gain nobody gave, a frame less its dark, a
detector that sets all below a level to 0), those that its own differences show are taken, for the search alone.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from braggflow.compiled import kernel
from braggflow.detect.background import level_grid
from braggflow.detect.levels import cut_off, sample_step

#: Photons a pixel up to which a pixel's counts follow Poisson's law and not yet a normal one.
FEW_PHOTONS = 3.0
#: What the frame shows is taken where it is further than this from what is stated, as a share.
_CONTRADICTION = 0.25
#: Pairs of pixels without which a frame shows nothing.
_ENOUGH_PAIRS = 400
#: The second pixel of a pair lies so many to the right: the next one may share its charge.
_APART = 2
_CLIP = 4.0
#: Photons up to which the level of a foreground is a count of a chance of at most `_RARE`; above, in standard deviations.
_DISCRETE, _RARE = 3.0, 0.03


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
    values, differences, places = _pairs(counts, mask, cell, sample_step(counts.shape), _APART)
    few = len(values) > 0 and values.min() >= 0 and np.median(values) < FEW_PHOTONS * counts_per_photon
    level = level_grid(counts, mask, cell, photon=counts_per_photon if few else 0.0)
    gain, shift = counts_per_photon, (read_noise / counts_per_photon) ** 2
    if few:
        if not values.any() or not cut_off(values[values > 0]):
            return Noise(level, cell, gain, shift)
        # Nothing is known of what was set to 0: the least count that was not is one event.
        return Noise(level, cell, max(gain, float(values[values > 0].min())), 0.0)
    if len(differences) < _ENOUGH_PAIRS:
        return Noise(level, cell, gain, shift)
    there = np.maximum(level.ravel()[places], 0).astype(np.float64)
    expected = gain * there + read_noise**2
    usable = expected > 0
    if np.median(there) >= FEW_PHOTONS * gain:
        ratio = _clipped_mean_square(differences[usable] / np.sqrt(2 * expected[usable]))
        if abs(ratio - 1) > _CONTRADICTION:
            # As a gain: on bright places that is on the safe side of a noise that does not grow with the light.
            gain, shift = gain * ratio, shift / ratio
    else:
        excess = _clipped_mean_square(differences / np.sqrt(2)) - float(np.median(expected))
        if excess > _CONTRADICTION * float(np.median(expected)) and excess > 0:
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
        above = np.where(photons < _DISCRETE, rare - photons, above)
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


def _pairs(
    counts: NDArray[Any], mask: NDArray[np.bool_], cell: int, step: int, apart: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """A sample of the frame's pixels; differences of theirs to those `apart` to the right; the cells of these pairs."""
    n_values, n_pairs, values, differences, places = _sample_pairs(counts, mask, cell, step, apart)
    return values[:n_values], differences[:n_pairs], places[:n_pairs]


@kernel(nogil=True)
def _sample_pairs(counts: Any, mask: Any, cell: int, step: int, apart: int) -> Any:
    height, width = counts.shape
    room = height * width // step + 1
    values, differences, places = np.empty(room), np.empty(room), np.empty(room, np.int64)
    columns = (width + cell - 1) // cell
    n, m = 0, 0
    for p in range(0, height * width, step):
        y, x = p // width, p % width
        if mask[y, x]:
            continue
        values[n] = counts[y, x]
        n += 1
        if x + apart < width and not mask[y, x + apart]:
            differences[m] = float(counts[y, x + apart]) - float(counts[y, x])
            places[m] = y // cell * columns + x // cell
            m += 1
    return n, m, values, differences, places
