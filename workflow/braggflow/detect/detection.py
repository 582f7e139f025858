"""Peaks of frames: background, noise, persistence, significance, levels, filters, in that order.

The water level falls from the highest pixel over the 8-connected frame. A peak is born at each maximum and dies where
its island meets a higher one (elder rule; an island that meets none dies at 0). Its score is birth - death
(Edelsbrunner & Harer, Computational Topology, 2010; the reference implementation is `findpeaks.stats.topology`). Pixels
of equal value are ordered by their flat index, the later one higher.

By default (`false_peaks`) the water falls to the background's level, narrow gaps of the mask are bridged, and a maximum
is a peak where the noise of its place hardly makes one like it (`detect.significance`); `minval` and `minscore`, where
given, are cuts of what is left. With `false_peaks: null` pixels below `minval` are set to 0 first, and `minscore` alone
decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow.angles import Geometry
from braggflow.config import DetectConfig
from braggflow.detect.background import LevelGrid, level_grid
from braggflow.detect.filters import Detection, filter_peaks
from braggflow.detect.noise import Noise
from braggflow.detect.persistence import dead_below
from braggflow.detect.pixels import as_searched
from braggflow.detect.searching import (
    Background,
    Levels,
    Told,
    background_of,
    frames_floor,
    frames_foreground,
    frames_level,
    frames_levels,
    frames_maxima,
    least_deviations,
    maxima_above_levels,
    noise_of,
    significance_over,
    subtract_background,
)
from braggflow.detect.shapes import RadialLevel, on_ridges
from braggflow.detect.significance import least_significance
from braggflow.peak_table import Flag


def detect(
    counts: NDArray[Any],
    mask: NDArray[np.bool_],
    config: DetectConfig,
    *,
    background_frame: NDArray[np.float32] | None = None,
    geometry: Geometry | None = None,
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
    geometry : Geometry, optional
        Where the detector of `counts` stands, needed where angles decide (`background: radial`, ranges of q, ...).
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
    return detect_stack(
        counts[None],
        mask,
        config,
        background_frame=background_frame,
        geometry=geometry,
        counts_per_photon=counts_per_photon,
        read_noise=read_noise,
        bin=bin,
    )


def detect_stack(
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    config: DetectConfig,
    *,
    background_frame: NDArray[np.float32] | None = None,
    geometry: Geometry | None = None,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
    bin: int = 1,  # noqa: A002 - the configuration's word
) -> Detection:
    """What `detect` finds in each of several frames that share a mask, in a few compiled calls for all of them.

    Parameters
    ----------
    frames : numpy.ndarray
        Shape (n, y, x), of any real dtype, in counts.

    The others are those of `detect`.

    Returns
    -------
    Detection
        The rows that `detect` returns for each frame, exactly, frame after frame, with its position in the stack as
        `peak_frame`; and how many maxima each filter dropped in all frames.
    """
    told = Told(background_frame, geometry, counts_per_photon, read_noise)
    frames, mask = as_searched(frames, mask)
    (found,) = _search_for([config])(frames, mask, [config], told, bin)
    return found


def detect_each(
    counts: NDArray[Any],
    mask: NDArray[np.bool_],
    settings: Sequence[DetectConfig],
    *,
    background_frame: NDArray[np.float32] | None = None,
    geometry: Geometry | None = None,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
    bin: int = 1,  # noqa: A002 - the configuration's word
) -> list[Detection]:
    """What `detect` finds by each of several settings, from as few searches as will do.

    One search at the loosest levels holds what stricter ones find, and is made once for all settings that differ in
    levels and filters only, with these exceptions: a `false_peaks` above 0.1 looks at fainter pixels, and so has a
    search of its own; and where areas are filtered, or the engine `findpeaks` searches above `minval`, each `minval`
    has.

    Parameters
    ----------
    settings : sequence of DetectConfig
        Any.

    The others are those of `detect`.

    Returns
    -------
    list of Detection
        One for each of the settings: what `detect` returns, exactly, but for the column `area`, which is 0 where it
        was not asked for and the search was at another `minval`.
    """
    frames, mask = as_searched(counts[None], mask)
    told = Told(background_frame, geometry, counts_per_photon, read_noise)
    alike: dict[tuple[Any, ...], list[int]] = {}
    for at, config in enumerate(settings):
        alike.setdefault(_search_of(config), []).append(at)
    found: dict[int, Detection] = {}
    for group in alike.values():
        of_group = [settings[at] for at in group]
        search = _search_for(of_group)
        found |= zip(group, search(frames, mask, of_group, told, bin), strict=True)
    return [found[at] for at in range(len(settings))]


class SearchedAgain:
    """`detect_stack` for the same frames by one setting after another.

    A search is made where the last one does not hold what is asked for; else `false_peaks`, `minval`, `minscore` and
    filters take from it, as `detect_each` does, with the same exceptions and the same `area`.
    """

    def __init__(self) -> None:
        self._last: tuple[_Search, tuple[Any, ...]] | None = None

    def __call__(
        self,
        frames: NDArray[Any],
        mask: NDArray[np.bool_],
        config: DetectConfig,
        *,
        bin: int = 1,  # noqa: A002 - the configuration's word
        **known: Any,
    ) -> Detection:
        """As `detect_stack`; `frames` and `mask` are those of the first call."""
        if config.false_peaks is None or known.get("background_frame") is not None:
            return detect_stack(frames, mask, config, bin=bin, **known)
        told = Told(**known)
        frames, mask = as_searched(frames, mask)
        kind = (_search_of(config), told.geometry, told.constants)
        last, levels = self._last, None
        if last is not None and last[1] == kind:
            search = last[0]
            levels = frames_levels(search.source, mask, config, search.level)
            if least_significance(config.false_peaks) < search.least or (levels[0] < search.lowest).any():
                levels = None
        if levels is None:
            search, (levels,) = _search(frames, mask, [config], told)
            self._last = search, kind
        return _taken(search, [levels], frames, mask, [config], told, bin)[0]


def _search_of(config: DetectConfig) -> tuple[Any, ...]:
    """What decides a search: settings of which it is the same share one."""
    by_levels = config.false_peaks is None
    areas = config.min_area > 1 or config.max_area is not None
    own_minval = areas or (by_levels and config.engine == "findpeaks")
    return (
        by_levels or least_deviations(config),
        # Where the other level is in sigma, a minval of 0 is the least above 0.
        (config.levels()[0], config.in_sigma) if own_minval else None,
        *(config.engine, config.background, config.background_cell),
    )


def _search_for(settings: Sequence[DetectConfig]) -> Callable[..., list[Detection]]:
    return _by_levels if settings[0].false_peaks is None else _by_significance


class _Search(NamedTuple):
    """What one search of frames by significance has found, at the loosest of the levels that it was made for."""

    noise: Noise
    background: Background
    source: NDArray[Any]
    level: NDArray[np.float32]
    maxima: NDArray[np.void]
    lowest: NDArray[np.float64]
    """(n,) the counts that maxima have at least."""
    least: float
    """The significance from which on that of maxima is exact."""


def _search(
    frames: NDArray[Any], mask: NDArray[np.bool_], settings: Sequence[DetectConfig], told: Told
) -> tuple[_Search, list[Levels]]:
    """The search that the settings share, and the levels of each."""
    config = settings[0]
    noise = noise_of(frames, mask, config, told)
    background = background_of(frames, mask, config, told, noise)
    source = frames if config.background == "local" else subtract_background(frames, mask, config, background)
    level = frames_level(source, mask, config, noise)
    levels = [frames_levels(source, mask, each, level) for each in settings]
    least = min(least_significance(each.false_peaks or 0.0) for each in settings)
    lowest = np.min([minval for minval, _ in levels], axis=0)
    foreground = frames_foreground(source, mask, config, noise, level, level + frames_floor(config, noise))
    maxima = frames_maxima(foreground, mask.shape, config, lowest)
    if (lowest > 0).any():
        maxima = maxima[maxima["birth"] >= lowest[maxima["frame"]]]
    maxima["significance"] = significance_over(background, frames, mask, maxima, noise, least=least)
    return _Search(noise, background, source, level, maxima, lowest, least), levels


def _by_significance(
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    settings: Sequence[DetectConfig],
    told: Told,
    bin: int,  # noqa: A002 - the configuration's word
) -> list[Detection]:
    """What each of the settings, which share a search, finds in it by `false_peaks` and levels."""
    return _taken(*_search(frames, mask, settings, told), frames, mask, settings, told, bin)


def _taken(
    search: _Search,
    levels: Sequence[Levels],
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    settings: Sequence[DetectConfig],
    told: Told,
    bin: int,  # noqa: A002 - the configuration's word
) -> list[Detection]:
    """What of a search each of the settings takes."""
    maxima, found = search.maxima, []
    for each, (minval, minscore) in zip(settings, levels, strict=True):
        is_lowest = bool((minval == search.lowest).all())
        high = maxima if is_lowest else maxima[maxima["birth"] >= minval[maxima["frame"]]]
        significant = high["significance"] >= least_significance(each.false_peaks or 0.0)
        removed = {"false_peaks": int(np.count_nonzero(~significant))}
        high = high[significant]
        kept = dead_below(high, minval[high["frame"]])
        if not is_lowest:
            kept["area"] = 0
        minscores = minscore[kept["frame"]]
        found.append(filter_peaks(kept, mask.shape, minscores, each, removed, geometry=told.geometry, bin=bin))
    _flag_ridges(found, frames, mask, search.noise, search.background)
    return _with_level(found, settings[0], search.background, search.level)


def _by_levels(
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    settings: Sequence[DetectConfig],
    told: Told,
    bin: int,  # noqa: A002 - the configuration's word
) -> list[Detection]:
    """What each of the settings, which share a search, finds in it by `minval` and `minscore` alone."""
    config = settings[0]
    background = background_of(frames, mask, config, told)
    grids = level_grid(frames, mask, config.background_cell) if config.background == "local" else None
    maxima_of_each, minscores = maxima_above_levels(frames, mask, settings, background, grids)
    noise, found = None, []
    for each, maxima, minscore in zip(settings, maxima_of_each, minscores, strict=True):
        least = minscore[maxima["frame"]]
        high = maxima["score"] > least
        if high.any():  # one level of the whole frame will do where nothing is decided by it
            noise = noise or noise_of(frames, mask, config, told, cell=max(mask.shape))
            maxima["significance"][high] = significance_over(background, frames, mask, maxima[high], noise)
        found.append(filter_peaks(maxima, mask.shape, least, each, geometry=told.geometry, bin=bin))
    if noise is not None:
        _flag_ridges(found, frames, mask, noise, background)
    return _with_level(found, config, background, grids)


def _with_level(
    found: list[Detection], config: DetectConfig, background: Background, grids: NDArray[np.float32] | None
) -> list[Detection]:
    """With the level whose course patches are rid of: of a local background its `grids`."""
    if isinstance(background, RadialLevel):
        return [replace(each, level=background.level) for each in found]
    if config.background != "local" or grids is None:
        return found
    return [replace(each, level=LevelGrid(grids, config.background_cell)) for each in found]


def _flag_ridges(
    found: Sequence[Detection], frames: NDArray[Any], mask: NDArray[np.bool_], noise: Noise, background: Background
) -> None:
    """Set the flag `ring` in all tables where a maximum lies on a ridge, or on a ring that was subtracted."""
    height, width = mask.shape
    rows = [(each.table["peak_frame"], each.table["y_pixel"], each.table["x_pixel"]) for each in found]
    places = [(frame * height + y) * width + x for frame, y, x in rows]
    place = places[0] if len(places) == 1 else np.unique(np.concatenate(places))  # rows are in order of places
    if not len(place):
        return
    frame, y, x = np.unravel_index(place, frames.shape)
    level, deviation = noise.at(frame, y, x)
    if isinstance(background, RadialLevel):
        ridge = background.is_ring(frame, y, x, deviation)
    else:
        ridge = on_ridges(frames, mask, frame, y, x, level, deviation)
    for each, of in zip(found, places, strict=True):
        each.table["flags"][ridge[np.searchsorted(place, of)]] |= np.uint16(Flag.ring)
