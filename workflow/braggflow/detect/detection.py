"""Peaks of one frame: background, noise, persistence, significance, levels, filters, in that order.

The water level falls from the highest pixel over the 8-connected frame. A peak is born at each maximum and dies where
its island meets a higher one (elder rule; an island that meets none dies at 0). Its score is birth - death
(Edelsbrunner & Harer, Computational Topology, 2010; the reference implementation is `findpeaks.stats.topology`). Pixels
of equal value are ordered by their flat index, the later one higher.

By default (`false_peaks`) the water falls to the background's level, narrow gaps of the mask are bridged, and a maximum
is a peak where the noise of its place hardly makes one like it (`detect.significance`); `minval` and `minscore`, where
given, are cuts of what is left. With `false_peaks: null` pixels below `minval` are set to 0 first, and `minscore` alone
decides.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow.config import DetectConfig
from braggflow.detect.background import above_grid, level_grid, sample_above
from braggflow.detect.filters import Detection, filter_peaks
from braggflow.detect.findpeaks_engine import persistence_findpeaks
from braggflow.detect.gaps import bridges
from braggflow.detect.levels import levels_above, levels_in_counts, levels_of_sample, sample_step
from braggflow.detect.noise import Noise, foreground_grid, frame_noise
from braggflow.detect.persistence import (
    dead_below,
    foreground_above,
    foreground_of_noise,
    maxima_of,
    persistence,
)
from braggflow.detect.pixels import as_searched
from braggflow.detect.rings import arcs
from braggflow.detect.significance import least_significance, significance
from braggflow.frames import CorrectedFrame
from braggflow.peak_table import Flag

#: Pixels are looked at from so many standard deviations on, whatever is accepted up to 0.1 false peaks (so that one
#: search holds what a stricter one finds); lower where more are. Of significant maxima of noise a third is lower.
_DEVIATIONS, _DEVIATIONS_SHARE = 2.85, 0.6


class Searched(NamedTuple):
    """What a frame was searched in, and from which level."""

    image: NDArray[Any]
    """(y, x) counts, above the background that was subtracted."""
    floor: NDArray[np.float32]
    """(y, x), or () for one level: counts of `image` below which pixels count as 0."""


def detect(
    counts: NDArray[Any],
    mask: NDArray[np.bool_],
    config: DetectConfig,
    *,
    background_frame: NDArray[np.float32] | None = None,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
    bin: int = 1,  # noqa: A002 - the configuration's word
) -> Detection:
    """Find the peaks of one frame: maxima by topological persistence that are significant where they are.

    Parameters
    ----------
    counts : numpy.ndarray
        The frame, shape (y, x), of any real dtype, in counts.
    mask : numpy.ndarray of bool
        Shape (y, x), True = ignore.
    config : DetectConfig
        False peaks, levels, background and filters.
    background_frame : numpy.ndarray of float32, optional
        Shape (y, x), counts: the frame that `config.background` names, needed where it names one.
    counts_per_photon : float, default 1.0
        Counts of one photon.
    read_noise : float, default 0.0
        Standard deviation of a pixel of `counts` without light, counts.
    bin : int, default 1
        Detector pixels along a side of a pixel of `counts`: the areas that filters ask for are in pixels of the
        detector. All else is in pixels of `counts`.

    Returns
    -------
    Detection
        `table`, one row a peak with `y_pixel`, `x_pixel`, `birth`, `death`, `score` (counts), `significance` (sigma),
        `area` (pixels) and the flag `ring`, sorted by (y_pixel, x_pixel); and `removed`, how many maxima each filter
        dropped.

    Raises
    ------
    InputError
        Where every pixel is masked, or a level in multiples of the noise meets a frame without noise.

    References
    ----------
    H. Edelsbrunner and J. Harer, Computational Topology, American Mathematical Society (2010). Significance: see
    docs/detection.md.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.config import DetectConfig
    >>> from braggflow.detect import detect
    >>> y, x = np.mgrid[:48, :48]
    >>> frame = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 20.3) ** 2 + (x - 31.8) ** 2) / 3))
    >>> found = detect(frame, np.zeros(frame.shape, bool), DetectConfig())
    >>> found.table[["y_pixel", "x_pixel"]].tolist()
    [(20, 32)]
    >>> bool(found.table["significance"][0] > 10)
    True
    """
    constants = {"counts_per_photon": counts_per_photon, "read_noise": read_noise}
    counts, mask = as_searched(counts, mask)
    if config.false_peaks is None:
        maxima, minscore = _by_levels(counts, mask, config, background_frame)
        high = maxima["score"] > minscore
        if high.any():  # one level of the whole frame will do where nothing is decided by it
            noise = frame_noise(counts, mask, max(counts.shape), **constants)
            maxima["significance"][high] = significance(counts, mask, maxima[high], noise)
        found = filter_peaks(maxima, counts.shape, minscore, config, bin=bin)
        return _flag_ridges(found, counts, mask, noise) if len(found.table) else found
    noise = frame_noise(counts, mask, config.background_cell, **constants)
    source = (
        counts
        if config.background == "local"
        else subtract_background(counts, mask, config, background_frame=background_frame)
    )
    level = _level(source, mask, config, noise)
    minval, minscore = _levels(source, mask, config, level)
    maxima = _maxima(source, mask, config, noise, level, minval)
    if minval > 0:
        maxima = maxima[maxima["birth"] >= minval]
    least = least_significance(config.false_peaks)
    maxima["significance"] = significance(counts, mask, maxima, noise, least=least)
    significant = maxima["significance"] >= least
    removed = {"false_peaks": int(np.count_nonzero(~significant))}
    found = filter_peaks(dead_below(maxima[significant], minval), counts.shape, minscore, config, removed, bin=bin)
    return _flag_ridges(found, counts, mask, noise)


def _flag_ridges(found: Detection, counts: NDArray[Any], mask: NDArray[np.bool_], noise: Noise) -> Detection:
    """The detection with the flag `ring` set where a maximum lies on a ridge."""
    y, x = found.table["y_pixel"], found.table["x_pixel"]
    rows, columns = noise.level.shape
    level = noise.level[np.minimum(y // noise.cell, rows - 1), np.minimum(x // noise.cell, columns - 1)]
    photons = np.maximum(level / noise.counts_per_photon + noise.shift, 0)
    ridge = arcs(counts, mask, y, x, level, noise.counts_per_photon * np.sqrt(photons)) >= 0
    found.table["flags"][ridge] |= np.uint16(Flag.ring)
    return found


def searched_image(
    frame: CorrectedFrame,
    config: DetectConfig,
    *,
    background_frame: NDArray[np.float32] | None = None,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
) -> Searched:
    """The image that `detect` searches, and the level from which on; raises as `detect` does."""
    counts, mask = as_searched(frame.counts, frame.mask)
    local = config.background == "local"
    if config.false_peaks is None or not local:
        image = subtract_background(counts, mask, config, background_frame=background_frame)
    if config.false_peaks is None:
        return Searched(image, np.asarray(levels_in_counts(image, mask, config)[0], np.float32))
    noise = frame_noise(
        counts, mask, config.background_cell, counts_per_photon=counts_per_photon, read_noise=read_noise
    )
    source = counts if local else image
    level = _level(source, mask, config, noise)
    minval = np.float32(_levels(source, mask, config, level)[0])
    if local:
        image = above_grid(counts, level, noise.cell)
    floor = _floor(config, noise) if local else level + _floor(config, noise)
    return Searched(image, np.maximum(-above_grid(np.zeros(counts.shape, np.float32), floor, noise.cell), minval))


def subtract_background(
    counts: NDArray[Any],
    mask: NDArray[np.bool_],
    config: DetectConfig,
    *,
    background_frame: NDArray[np.float32] | None = None,
) -> NDArray[Any]:
    """The frame that is searched: `counts` itself, or float32 counts above `config.background`."""
    if config.background == "none":
        return counts
    if config.background == "local":
        return np.asarray(above_grid(counts, level_grid(counts, mask, config.background_cell), config.background_cell))
    if background_frame is None:
        raise ValueError(f"detect.background: {config.background} was not given to detect()")
    return np.asarray(np.subtract(counts, background_frame, dtype=np.float32))


def _by_levels(
    counts: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig, background_frame: NDArray[np.float32] | None
) -> tuple[NDArray[np.void], float]:
    """The maxima above `minval`, and `minscore`."""
    if config.engine == "native" and config.background == "local":
        # As below, without a frame-sized image of what is above the background.
        grid = level_grid(counts, mask, config.background_cell)
        sample = sample_above(counts, mask, grid, config.background_cell, sample_step(counts.shape))
        minval, minscore = levels_of_sample(sample, config)
        pixels, values = foreground_above(counts, mask, grid, config.background_cell, np.float32(minval))
        return maxima_of(pixels, values, counts.shape[1]), minscore
    image = subtract_background(counts, mask, config, background_frame=background_frame)
    minval, minscore = levels_in_counts(image, mask, config)
    find = persistence if config.engine == "native" else persistence_findpeaks
    return find(image, mask, minval), minscore


def _level(source: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig, noise: Noise) -> NDArray[np.float32]:
    """The local level of the image that maxima are looked for in, on the noise's grid."""
    if config.background in ("none", "local"):
        return noise.level
    return level_grid(source, mask, noise.cell)


def _floor(config: DetectConfig, noise: Noise) -> NDArray[np.float32]:
    """Counts above the local level from which pixels are looked at, on the noise's grid."""
    least = least_significance(config.false_peaks or 0.0)
    return foreground_grid(noise, min(_DEVIATIONS, _DEVIATIONS_SHARE * least))


def _levels(
    source: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig, level: NDArray[np.float32]
) -> tuple[float, float]:
    """`minval` and `minscore` in counts, 0 where none is given."""
    if config.background != "local" or not config.in_sigma:
        return levels_in_counts(source, mask, config)
    cell = config.background_cell
    return levels_above(source, mask, sample_above(source, mask, level, cell, sample_step(source.shape)), config)


def _maxima(
    source: NDArray[Any],
    mask: NDArray[np.bool_],
    config: DetectConfig,
    noise: Noise,
    level: NDArray[np.float32],
    minval: float,
) -> NDArray[np.void]:
    """All maxima that rise above the noise's floor, with where they merge; areas are those above `minval`."""
    pixels, between = bridges(source, mask)
    subtract = config.background == "local"
    floor = level + _floor(config, noise)
    found, values = foreground_of_noise(source, mask, level, floor, noise.cell, pixels, between, subtract)
    if not subtract:
        values = source.ravel()[found]
        if len(pixels) and len(found):
            place = np.minimum(np.searchsorted(found, pixels), len(found) - 1)
            there = found[place] == pixels
            values[place[there]] = between[there]
    if config.engine == "native":
        return maxima_of(found, values, source.shape[1], floor=minval)
    # The library has no floor of its own for each place: what is below it is 0.
    image = np.zeros(source.shape)
    image.ravel()[found] = values
    return persistence_findpeaks(image, np.zeros(source.shape, bool), float(np.finfo(np.float64).tiny))
