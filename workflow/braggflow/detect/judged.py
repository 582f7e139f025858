"""All maxima of a frame with what became of each: for whoever asks why there is a peak, or none."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow.angles import Geometry
from braggflow.config import DetectConfig
from braggflow.detect.background import above_grid
from braggflow.detect.filters import filtered
from braggflow.detect.persistence import Foreground, dead_below, maxima_of
from braggflow.detect.pixels import as_searched
from braggflow.detect.searching import (
    Told,
    background_of,
    frames_floor,
    frames_foreground,
    frames_level,
    frames_levels,
    frames_maxima,
    maxima_above_levels,
    noise_of,
    searched_image,
    significance_over,
)
from braggflow.detect.shapes import RadialLevel
from braggflow.detect.significance import HIGHEST, least_significance
from braggflow.frames import CorrectedFrame

#: So near to a pixel, what is below the foreground's floor is looked at: maxima of noise merge sooner.
_AROUND = 32


class JudgedMaxima(NamedTuple):
    """All maxima of a frame, those that are no peaks too, and why."""

    table: NDArray[np.void]
    """(n,) with the fields of `MAXIMUM_DTYPE`, pixels of the searched frame; `saddle` is the flat index of the pixel
    where a maximum merges, -1 where it merges with none. The significance of noise is NaN where it was not asked."""
    detected: NDArray[np.int64]
    """(n, 2) the highest pixel of each (y, x), whatever `table` is made to say."""
    dropped_by: NDArray[np.str_]
    """(n,) key of the filter that dropped it, `floor` where it is not above the noise at all, "" for a peak."""
    least: float
    """Significance from which on a maximum counts; NaN where levels alone decide."""
    minval: float
    """Counts, 0: no such cut."""
    minscore: float
    foreground: NDArray[Any]
    """(y, x) counts in which islands rise and merge, with narrow gaps bridged; 0 below the floor."""
    level: NDArray[np.float32]
    """(y, x) local level of the counts."""
    deviation: NDArray[np.float32]
    """(y, x) standard deviation of a pixel at that level, counts."""


def judge_maxima(
    counts: NDArray[Any],
    mask: NDArray[np.bool_],
    config: DetectConfig,
    *,
    near: tuple[int, int],
    background_frame: NDArray[np.float32] | None = None,
    geometry: Geometry | None = None,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
    bin: int = 1,  # noqa: A002 - the configuration's word
) -> JudgedMaxima:
    """All maxima of one frame, with what `detect` makes of each; raises as that does.

    Those that it keeps are the rows of its table. Around the pixel `near` (y, x), maxima below the foreground's floor
    are listed too. All other arguments are those of `detect`.
    """
    told = Told(background_frame, geometry, counts_per_photon, read_noise)
    image, floor = searched_image(CorrectedFrame(counts, mask, None), config, **told._asdict())
    counts, mask = as_searched(counts, mask)
    cell = max(counts.shape) if config.false_peaks is None else config.background_cell
    frames = counts[None]
    noise = noise_of(frames, mask, config, told, cell=cell)
    background = background_of(frames, mask, config, told, noise)
    if config.false_peaks is None:
        least, minval = -np.inf, float(floor)
        (maxima,), ((minscore,),) = maxima_above_levels(frames, mask, [config], background)
        foreground = np.where((image >= floor) & ~mask, image, 0)
        above = image
    else:
        least = least_significance(config.false_peaks)
        source = frames if config.background == "local" else image[None]
        level = frames_level(source, mask, config, noise)
        minvals, (minscore,) = frames_levels(source, mask, config, level)
        minval = float(minvals[0])
        floors = level + frames_floor(config, noise)
        found = frames_foreground(source, mask, config, noise, level, floors)
        maxima = frames_maxima(found, mask.shape, config, minvals)
        foreground = np.zeros(mask.shape, found.values.dtype)
        foreground.ravel()[found.pixels] = found.values
        above = above_grid(source[0], level[0], noise.cell)
    of_maxima = partial(significance_over, background, frames, mask)
    maxima["significance"] = of_maxima(maxima, noise, least=least)
    dropped_by = np.where(maxima["significance"] < least, "false_peaks", "").astype("U24")
    _tell_noise(partial(of_maxima, noise=noise), maxima, least, near)
    dropped_by[maxima["birth"] < minval] = "minval"
    rows = np.flatnonzero(dropped_by == "")
    if config.false_peaks is not None:
        maxima[rows] = dead_below(maxima[rows], minval)
    for key, dropped in filtered(maxima[rows], counts.shape, minscore, config, geometry=geometry, bin=bin)[1].items():
        dropped_by[rows[dropped]] = key
    faint = _faint(foreground, image, (above >= 0) & (image > 0) & ~mask, near)
    faint["significance"] = of_maxima(faint, noise)
    if config.false_peaks is None:
        noise = noise_of(frames, mask, config, told)
    if isinstance(background, RadialLevel):
        local = background.level[0]
    else:
        local = -above_grid(np.zeros(counts.shape, np.float32), noise.level[0], noise.cell)
    table = np.concatenate([maxima, faint])
    return JudgedMaxima(
        table,
        np.column_stack([table["y_pixel"], table["x_pixel"]]),
        np.concatenate([dropped_by, np.full(len(faint), "minval" if config.false_peaks is None else "floor")]),
        least if config.false_peaks is not None else np.nan,
        minval,
        float(minscore),
        foreground,
        local,
        noise.deviation(local, 0),
    )


def _tell_noise(
    significance_of: Callable[[NDArray[np.void]], NDArray[np.float32]],
    maxima: NDArray[np.void],
    least: float,
    near: tuple[int, int],
) -> None:
    """Enter how significant the maxima below `least` are around a pixel, which was known only as far as it decides."""
    decided = maxima["significance"].copy()
    low = decided < least
    maxima["significance"][low] = np.nan
    low &= np.hypot(maxima["y_pixel"] - near[0], maxima["x_pixel"] - near[1]) <= _AROUND
    known = significance_of(maxima[low])
    settled = np.where(decided[low] > -HIGHEST, decided[low], np.float32(np.nan))
    maxima["significance"][low] = np.where(known < least, known, settled)


def _faint(
    foreground: NDArray[Any], image: NDArray[Any], rising: NDArray[np.bool_], near: tuple[int, int]
) -> NDArray[np.void]:
    """Maxima around a pixel of what rises above the background, and is not in the foreground."""
    top, left = (max(0, at - _AROUND) for at in near)
    ys, xs = np.nonzero(rising[top : near[0] + _AROUND + 1, left : near[1] + _AROUND + 1])
    found = (ys + top) * image.shape[1] + xs + left
    maxima = maxima_of(Foreground(found, image.ravel()[found], np.array([len(found)])), image.shape[1])
    faint: NDArray[np.void] = maxima[foreground[maxima["y_pixel"], maxima["x_pixel"]] == 0]
    return faint
