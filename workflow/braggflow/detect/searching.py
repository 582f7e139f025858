"""What of frames is searched: which images, from which level on, and their maxima before any is judged.

Frames come as a stack (n, y, x) with one mask (y, x), levels as one of each frame.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from braggflow.angles import Geometry
from braggflow.config import DetectConfig
from braggflow.detect.background import above_grid, level_grid, sample_above
from braggflow.detect.findpeaks_engine import persistence_findpeaks
from braggflow.detect.gaps import bridges
from braggflow.detect.levels import levels_above, levels_in_counts, sample_step
from braggflow.detect.noise import Noise, foreground_grid, frames_noise
from braggflow.detect.persistence import (
    Foreground,
    at_minval,
    foreground_above,
    foreground_from,
    foreground_of_noise,
    maxima_of,
    threshold_in,
)
from braggflow.detect.pixels import as_searched
from braggflow.detect.shapes import RadialLevel, radial_level
from braggflow.detect.significance import least_significance, significance, significance_above
from braggflow.frames import CorrectedFrame

#: Pixels are looked at from so many standard deviations on, whatever is accepted up to 0.1 false peaks (so that one
#: search holds what a stricter one finds); lower where more are. Of significant maxima of noise a third is lower.
_DEVIATIONS, _DEVIATIONS_SHARE = 2.85, 0.6


class Told(NamedTuple):
    """What a search is told beside frames, mask and settings."""

    background_frame: NDArray[np.float32] | None = None
    geometry: Geometry | None = None
    counts_per_photon: float = 1.0
    read_noise: float = 0.0

    @property
    def constants(self) -> dict[str, float]:
        """Those of the detector, for `frames_noise`."""
        return {"counts_per_photon": self.counts_per_photon, "read_noise": self.read_noise}


#: What is subtracted: a frame (y, x), the levels of each frame by two-theta and azimuth, or what only the search finds.
Background: TypeAlias = NDArray[np.float32] | RadialLevel | None


class Searched(NamedTuple):
    """What a frame was searched in, and from which level."""

    image: NDArray[Any]
    """(y, x) counts, above the background that was subtracted."""
    floor: NDArray[np.float32]
    """(y, x), or () for one level: counts of `image` below which pixels count as 0."""


def searched_image(
    frame: CorrectedFrame,
    config: DetectConfig,
    *,
    background_frame: NDArray[np.float32] | None = None,
    geometry: Geometry | None = None,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
) -> Searched:
    """The image that `detect` searches, and the level from which on; raises as `detect` does."""
    counts, mask = as_searched(frame.counts, frame.mask)
    frames, local = counts[None], config.background == "local"
    told = Told(background_frame, geometry, counts_per_photon, read_noise)
    if config.false_peaks is None or not local:
        images = subtract_background(frames, mask, config, background_of(frames, mask, config, told))
    if config.false_peaks is None:
        return Searched(images[0], np.asarray(levels_in_counts(images[0], mask, config)[0], np.float32))
    noise = noise_of(frames, mask, config, told)
    source = frames if local else images
    level = frames_level(source, mask, config, noise)
    minval = np.float32(frames_levels(source, mask, config, level)[0][0])
    image = above_grid(counts, level[0], noise.cell) if local else images[0]
    floor = frames_floor(config, noise) if local else level + frames_floor(config, noise)
    return Searched(image, np.maximum(-above_grid(np.zeros(counts.shape, np.float32), floor[0], noise.cell), minval))


def noise_of(
    frames: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig, told: Told, *, cell: int | None = None
) -> Noise:
    """The noise of frames (n, y, x), mask (y, x), on cells of `background_cell` pixels, or of another side.

    With a radial background by the constants stated: rings pass for noise, and how far its scatter is another is
    measured along them.
    """
    noise = frames_noise(frames, mask, cell or config.background_cell, **told.constants)
    if config.background != "radial":
        return noise
    photon, shift = told.counts_per_photon, (told.read_noise / told.counts_per_photon) ** 2
    return noise._replace(counts_per_photon=np.full(len(frames), photon), shift=np.full(len(frames), shift))


def background_of(
    frames: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig, told: Told, noise: Noise | None = None
) -> Background:
    """What `config.background` subtracts from frames (n, y, x), mask (y, x): of a local level nothing yet.

    Raises `ValueError` where what it needs was not told. `noise` saves time where it is known.
    """
    if config.background in ("none", "local"):
        return None
    if config.background != "radial":
        if told.background_frame is None:
            raise ValueError(f"detect.background: {config.background} was not given to detect()")
        return told.background_frame
    if told.geometry is None:
        raise ValueError("detect.background: radial needs the geometry, which was not given to detect()")
    noise = noise or noise_of(frames, mask, config, told, cell=max(mask.shape))
    return radial_level(frames, mask, told.geometry, noise)


def significance_over(
    background: Background,
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    maxima: NDArray[np.void],
    noise: Noise,
    *,
    least: float = -np.inf,
) -> NDArray[np.float32]:
    """`significance` of maxima (m,), of those above a radial level by that."""
    if not isinstance(background, RadialLevel):
        return significance(frames, mask, maxima, noise, least=least)
    dispersion = background.dispersion_at(maxima["frame"], maxima["y_pixel"], maxima["x_pixel"], noise)
    return significance_above(frames, mask, maxima, background.level, dispersion, noise)


def subtract_background(
    frames: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig, background: Background = None
) -> NDArray[Any]:
    """The frames that are searched (n, y, x): themselves, or float32 counts above `config.background`."""
    if config.background == "none":
        return frames
    if config.background == "local":
        grids = level_grid(frames, mask, config.background_cell)
        return np.stack([above_grid(*pair, config.background_cell) for pair in zip(frames, grids, strict=True)])
    level: Any = background.level if isinstance(background, RadialLevel) else background
    return np.asarray(np.subtract(frames, level, dtype=np.float32))


#: `minval` and `minscore` (n,) of each frame, counts.
Levels: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]


def _of_each(levels: Iterable[tuple[float, float]]) -> Levels:
    minval, minscore = np.array([*levels], np.float64).T
    return minval, minscore


def maxima_above_levels(
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    settings: Sequence[DetectConfig],
    background: Background,
    grids: NDArray[np.float32] | None = None,
) -> tuple[list[NDArray[np.void]], list[NDArray[np.float64]]]:
    """The maxima above `minval`, and `minscore` (n,), of each of the settings; searched at the lowest `minval`.

    `grids`: levels of a local background, where they are known.
    """
    config, cell = settings[0], settings[0].background_cell
    if config.engine == "native" and config.background == "local":
        # As below, without frame-sized images of what is above the background.
        grids = level_grid(frames, mask, cell) if grids is None else grids
        samples = None
        if any(each.in_sigma for each in settings):
            samples = sample_above(frames, mask, grids, cell, sample_step(frames.shape[1:]))
        no_sample = [np.empty(0)] * len(frames)
        pairs = list(zip(frames, no_sample if samples is None else samples, strict=True))
        levels = [_of_each(levels_above(counts, mask, sample, each) for counts, sample in pairs) for each in settings]
        lowest, dtype = np.min([minval for minval, _ in levels], axis=0), np.dtype(np.float32)
        maxima = maxima_of(
            Foreground(*foreground_above(frames, mask, grids, cell, lowest.astype(np.float32))), frames.shape[2]
        )
    else:
        images = subtract_background(frames, mask, config, background)
        levels = [_of_each(levels_in_counts(image, mask, each) for image in images) for each in settings]
        lowest, dtype = np.min([minval for minval, _ in levels], axis=0), images.dtype
        if config.engine == "native":
            maxima = maxima_of(foreground_from(images, mask, lowest), frames.shape[2])
        else:
            maxima = in_frames(
                [
                    persistence_findpeaks(image, mask, level)
                    for image, level in zip(images, lowest.tolist(), strict=True)
                ]
            )
    of_each = [maxima.copy() if (minval == lowest).all() else _at_minval(maxima, minval, dtype) for minval, _ in levels]
    return of_each, [minscore for _, minscore in levels]


def in_frames(maxima: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """The maxima of several frames as those of a stack."""
    for frame, of_frame in enumerate(maxima):
        of_frame["frame"] = frame
    return np.concatenate(maxima)


def _at_minval(maxima: NDArray[np.void], minval: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.void]:
    """The maxima that a search from higher levels finds, each in the images' own dtype (none beyond its range)."""
    thresholds = [threshold_in(dtype, level) for level in minval.tolist()]
    level = np.array([np.inf if threshold is None else float(threshold) for threshold in thresholds])
    high = at_minval(maxima, level[maxima["frame"]])
    high["saddle"][high["death"] == 0] = -1
    return high


def frames_level(
    source: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig, noise: Noise
) -> NDArray[np.float32]:
    """The local level of the images that maxima are looked for in, on the noise's grid (n, rows, columns)."""
    if config.background in ("none", "local"):
        return noise.level
    return level_grid(source, mask, noise.cell)


def frames_floor(config: DetectConfig, noise: Noise) -> NDArray[np.float32]:
    """Counts above the local level from which pixels are looked at, on the noise's grid."""
    return foreground_grid(noise, least_deviations(config))


def least_deviations(config: DetectConfig) -> float:
    """Standard deviations above their place from which pixels are looked at."""
    return min(_DEVIATIONS, _DEVIATIONS_SHARE * least_significance(config.false_peaks or 0.0))


def frames_levels(
    source: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig, level: NDArray[np.float32]
) -> Levels:
    """`minval` and `minscore` in counts, 0 where none is given."""
    if config.background != "local" or not config.in_sigma:
        return _of_each(levels_in_counts(image, mask, config) for image in source)
    samples = sample_above(source, mask, level, config.background_cell, sample_step(source.shape[1:]))
    return _of_each(levels_above(*pair, config) for pair in zip(source, [mask] * len(source), samples, strict=True))


def frames_foreground(
    source: NDArray[Any],
    mask: NDArray[np.bool_],
    config: DetectConfig,
    noise: Noise,
    level: NDArray[np.float32],
    floor: NDArray[np.float32],
) -> Foreground:
    """The pixels that rise above a floor on the noise's grid, gaps bridged."""
    pixels, between, ends = bridges(source, mask)
    subtract = config.background == "local"
    found = Foreground(*foreground_of_noise(source, mask, level, floor, noise.cell, pixels, between, ends, subtract))
    if subtract:
        return found
    size = source[0].size
    place = found.pixels + size * frames_of(found.stops)
    values = source.ravel()[place]
    if len(pixels) and len(place):
        bridged = pixels + size * frames_of(ends)
        at = np.minimum(np.searchsorted(place, bridged), len(place) - 1)
        there = place[at] == bridged
        values[at[there]] = between[there]
    return found._replace(values=values)


def frames_of(stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """The frame of each of the pixels that `stops` (n,) tell apart."""
    return np.repeat(np.arange(len(stops)), np.diff(stops, prepend=0))


def frames_maxima(
    found: Foreground, shape: tuple[int, ...], config: DetectConfig, minval: NDArray[np.float64]
) -> NDArray[np.void]:
    """All maxima of foregrounds of frames of a shape, with where they merge; areas are those above `minval` (n,)."""
    if config.engine == "native":
        return maxima_of(found, shape[1], floor=minval)
    # The library has no floor of its own for each place: what is below it is 0.
    of_frames, start = [], 0
    for stop in found.stops.tolist():
        image = np.zeros(shape)
        image.ravel()[found.pixels[start:stop]] = found.values[start:stop]
        of_frames.append(persistence_findpeaks(image, np.zeros(shape, bool), float(np.finfo(np.float64).tiny)))
        start = stop
    return in_frames(of_frames)
