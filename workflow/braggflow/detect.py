"""Peaks of one frame by threshold and topological persistence.

Pixels below `minval` are set to 0; the water level then falls from the highest pixel to 0 over the 8-connected frame.
A peak is born at each maximum and dies where its island meets a higher one (elder rule; an island that meets none dies
at 0). Its score is birth - death (Edelsbrunner & Harer, Computational Topology, 2010; the reference implementation is
`findpeaks.stats.topology`). Pixels of equal value are ordered by their flat index, the later one higher.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.spatial
from numpy.typing import NDArray

from braggflow import background, peaks
from braggflow.background import above_row
from braggflow.config import DetectConfig, InputError, Level
from braggflow.kernels import kernel

#: Pixels sampled for the frame's noise, for a precision of about half a per cent.
_NOISE_SAMPLE = 16_384
#: What is known of a maximum: a small part of `PEAK_DTYPE`, as most maxima are noise and soon dropped.
MAXIMUM_DTYPE = np.dtype(
    [(name, peaks.PEAK_DTYPE[name]) for name in ("y_pixel", "x_pixel", "birth", "death", "score", "area")]
)
#: Foreground pixels that are made room for at first; a frame that has more takes more.
_FOREGROUND = 65_536


@dataclass(frozen=True, slots=True)
class Detection:
    """The peaks of one frame and what the filters took away."""

    table: peaks.Table
    """Rows of `PEAK_DTYPE` with `y_pixel`, `x_pixel` (pixels of the searched frame), `birth`, `death`, `score` and
    `area` set, sorted by (y_pixel, x_pixel)."""
    removed: dict[str, int] = field(default_factory=dict)
    """Number of peaks dropped, by the key of the filter that dropped them."""


def detect(
    counts: NDArray[Any],
    mask: NDArray[np.bool_],
    config: DetectConfig,
    *,
    background_frame: NDArray[np.float32] | None = None,
) -> Detection:
    """Peaks of one frame.

    `counts` (y, x) of any real dtype, `mask` (y, x) True = ignore, `background_frame` (y, x) the frame that
    `config.background` names. Raises `InputError` where a level in noise multiples meets a frame without noise.
    """
    if config.engine == "native" and config.background == "local":
        # As below, without a frame-sized image of what is above the background.
        grid = background.level_grid(counts, mask, config.background_cell)
        sample = background.sample_above(counts, mask, grid, config.background_cell, _sample_step(counts.shape))
        minval, minscore = _levels(sample, config)
        pixels, values = _foreground_above(counts, mask, grid, config.background_cell, np.float32(minval))
        return filter_peaks(_maxima(pixels, values, counts.shape[1]), counts.shape, minscore, config)
    image = subtract_background(counts, mask, config, background_frame=background_frame)
    minval, minscore = levels(image, mask, config)
    find = persistence if config.engine == "native" else persistence_findpeaks
    return filter_peaks(find(image, mask, minval), image.shape, minscore, config)


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
        return np.asarray(
            background.above_grid(
                counts, background.level_grid(counts, mask, config.background_cell), config.background_cell
            )
        )
    if background_frame is None:
        raise ValueError(f"detect.background: {config.background} was not given to detect()")
    return np.asarray(np.subtract(counts, background_frame, dtype=np.float32))


def levels(image: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig) -> tuple[float, float]:
    """`minval` and `minscore` in counts; a `minval` in noise multiples is counted from the frame's median."""
    return _levels(_sample(image, mask), config)


def _levels(sample: NDArray[np.float64], config: DetectConfig) -> tuple[float, float]:
    if isinstance(config.minval, float) and isinstance(config.minscore, float):
        return config.minval, config.minscore
    median, sigma = _noise(sample)
    minval = _in_counts(config.minval, sigma, offset=median)
    # A pixel at 0 belongs to no peak, also where the background was over-subtracted.
    return max(minval, float(np.finfo(np.float32).tiny)), _in_counts(config.minscore, sigma)


def _in_counts(level: Level, sigma: float, *, offset: float = 0.0) -> float:
    return level if isinstance(level, float) else offset + level.sigma * sigma


def noise(image: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Median and noise (4-sigma-clipped standard deviation) of a frame's unmasked pixels, in counts.

    Raises `InputError` where the noise is 0: the detector cut it off, and only levels in counts make sense.
    """
    return _noise(_sample(image, mask))


def _sample(image: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    step = _sample_step(image.shape)
    return image.ravel()[::step][~mask.ravel()[::step]].astype(np.float64)


def _sample_step(shape: tuple[int, ...]) -> int:
    step = max(1, shape[0] * shape[1] // _NOISE_SAMPLE)
    # A step that shares a factor with the row length would sample a few columns only.
    while step > 1 and np.gcd(step, shape[1]) > 1:
        step += 1
    return step


def _noise(sample: NDArray[np.float64]) -> tuple[float, float]:
    if sample.size == 0:
        raise InputError("every pixel of the frame is masked or NaN")
    from scipy.stats import sigmaclip  # takes 0.4 s to import, and most runs have their levels in counts

    clipped = sigmaclip(sample, 4, 4).clipped
    sigma = float(clipped.std())
    if sigma == 0:
        raise InputError(
            "the frame has no noise (thresholded by its detector?), so levels of {sigma: ...} mean nothing; "
            "give detect.minval and detect.minscore in counts"
        )
    return float(np.median(clipped)), sigma


def persistence(image: NDArray[Any], mask: NDArray[np.bool_], minval: float) -> NDArray[np.void]:
    """Every peak of score above 0 of one frame, unsorted, rows of `MAXIMUM_DTYPE`: the compiled engine.

    `image` (y, x) of any real dtype, `mask` (y, x) True = ignore, `minval` > 0 counts. Only pixels at or above
    `minval` are visited. The result holds for every higher `minval` too: see `at_minval`.
    """
    threshold = _threshold(image.dtype, minval)
    if threshold is None:
        return np.empty(0, MAXIMUM_DTYPE)
    pixels, values = _foreground(image, mask, threshold)
    return _maxima(pixels, values, image.shape[1])


def _maxima(pixels: NDArray[np.int64], values: NDArray[Any], width: int) -> NDArray[np.void]:
    """The maxima of a foreground, given by its flat indices (ascending) and values, with where they merge."""
    order = _descending(values)
    births, deaths, areas = _merge(pixels, order, width)
    table = np.empty(len(births), MAXIMUM_DTYPE)
    table["y_pixel"], table["x_pixel"] = np.divmod(pixels[births], width)
    table["birth"] = values[births]
    table["death"] = np.where(deaths >= 0, values[deaths], 0) if len(values) else 0
    table["score"] = table["birth"] - table["death"]
    table["area"] = areas
    return table[table["score"] > 0]


def _descending(values: NDArray[Any]) -> NDArray[np.int64]:
    """Positions of foreground values, above 0, from the highest down; of equal ones the last is first."""
    if values.dtype != np.float32:
        return np.argsort(values, kind="stable")[::-1]
    # The bits of positive floats are in the order of their values: with the position below them they make unique
    # integers, whose sorting is several times as fast as a stable one of floats.
    keys = values.view(np.uint32).astype(np.uint64) << np.uint64(32) | np.arange(len(values), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF))[::-1].astype(np.int64)


def _threshold(dtype: np.dtype[Any], minval: float) -> Any:
    """`minval` in the image's own dtype, so that the compiled comparison needs no conversion; None: above its range."""
    if dtype.kind == "f":
        return dtype.type(minval)
    lowest = int(np.ceil(minval))
    return dtype.type(lowest) if lowest <= np.iinfo(dtype).max else None


@kernel(nogil=True)
def _foreground(image: Any, mask: Any, threshold: Any) -> Any:
    """Flat indices (ascending) and values of unmasked pixels at or above the threshold."""
    height, width = image.shape
    pixels, values = np.empty(_FOREGROUND + width, np.int64), np.empty(_FOREGROUND + width, image.dtype)
    above = np.zeros((width + 7) // 8 * 8, np.bool_)
    n = 0
    for y in range(height):
        if n + width > len(pixels):
            pixels, values = _twice(pixels), _twice(values)
        n = _take_row(image[y], mask[y], y * width, threshold, above, pixels, values, n)
    return pixels[:n], values[:n]


@kernel(nogil=True)
def _foreground_above(counts: Any, mask: Any, grid: Any, cell: int, threshold: Any) -> Any:
    """As `_foreground`, of what is above the background whose grid is given."""
    height, width = counts.shape
    pixels, values = np.empty(_FOREGROUND + width, np.int64), np.empty(_FOREGROUND + width, np.float32)
    above = np.zeros((width + 7) // 8 * 8, np.bool_)
    row, level = np.empty(width, np.float32), np.empty(grid.shape[1], np.float32)
    columns = np.arange(width).astype(np.float32)
    n = 0
    for y in range(height):
        if n + width > len(pixels):
            pixels, values = _twice(pixels), _twice(values)
        above_row(counts[y], grid, cell, y, columns, level, row)
        n = _take_row(row, mask[y], y * width, threshold, above, pixels, values, n)
    return pixels[:n], values[:n]


@kernel(nogil=True)
def _take_row(row: Any, mask: Any, start: int, threshold: Any, above: Any, pixels: Any, values: Any, n: int) -> int:
    """Append a row's foreground to `pixels` and `values`, of which `n` are taken; `above` is room for the row."""
    for x in range(len(row)):
        above[x] = row[x] >= threshold  # branch-free, so that compilers make vector instructions of it
    eights = above.view(np.uint64)
    for e in range(len(eights)):
        if eights[e] != 0:  # nearly all pixels are below: look at eight at a time
            for x in range(8 * e, 8 * e + 8):
                if above[x] and not mask[x]:
                    pixels[n] = start + x
                    values[n] = row[x]
                    n += 1
    return n


@kernel(nogil=True)
def _twice(array: Any) -> Any:
    return np.concatenate((array, np.empty_like(array)))


@kernel(nogil=True)
def _merge(pixels: Any, order: Any, width: int) -> Any:
    """Where the islands of the foreground are born and merge, from the highest pixel down.

    `pixels` flat indices, ascending; `order` positions in it from the highest pixel to the lowest. Returns positions
    of the maxima, positions of the pixels at which they merge (-1: never), and numbers of pixels down to those.

    A pixel joins the island of its highest neighbour as soon as it rises, so whole basins, pixels with the same maximum
    uphill, can be merged in place of pixels: two that touch merge at the lower pixel of the highest pair that touches.
    """
    n = len(pixels)
    rank: Any = np.empty(n + 1, np.int32)  # 0 is the highest; the last stands for a neighbour below the threshold
    rank[n] = n
    for k in range(n):
        rank[order[k]] = k
    uphill, before = _uphill(pixels, rank, width)
    basin: Any = np.empty(n, np.int32)  # by rank: the rank of its maximum
    for k in range(n):
        up = uphill[order[k]]
        basin[k] = k if up == k else basin[up]
    # Pairs of touching basins, in lists by the rank of the lower pixel, at which they merge if nothing did before.
    newest = np.full(n, -1, np.int32)
    pairs = np.empty((1024, 3), np.int32)
    m = 0
    for i in range(n):
        own = basin[rank[i]]
        if m + 4 > len(pairs):
            pairs = np.concatenate((pairs, np.empty_like(pairs)))
        for j in before[i]:
            if j < n and basin[rank[j]] != own:
                lower = max(rank[i], rank[j])
                pairs[m, 0], pairs[m, 1], pairs[m, 2] = own, basin[rank[j]], newest[lower]
                newest[lower] = m
                m += 1

    island: Any = np.arange(n).astype(np.int32)  # by rank: union-find over basins, whose root is the highest
    area = np.zeros(n, np.int64)
    births, deaths, areas = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    found = 0
    for k in range(n):
        pair = newest[k]
        while pair >= 0:
            one, other = _root(island, pairs[pair, 0]), _root(island, pairs[pair, 1])
            pair = pairs[pair, 2]
            if one != other:
                elder, younger = min(one, other), max(one, other)
                births[found], deaths[found], areas[found] = order[younger], order[k], area[younger] + 1
                found += 1
                island[younger] = elder
                area[elder] += area[younger]
        area[_root(island, basin[k])] += 1
    for k in range(n):
        if basin[k] == k and island[k] == k:
            births[found], deaths[found], areas[found] = order[k], -1, area[k]
            found += 1
    return births[:found], deaths[:found], areas[:found]


@kernel(nogil=True)
def _uphill(pixels: Any, rank: Any, width: int) -> Any:
    """The rank of each pixel's highest neighbour (its own at a maximum), and its neighbours that come before it.

    Positions of the four before (n: below the threshold) are looked up in two rows of the frame.
    """
    n = len(pixels)
    uphill = np.empty(n + 1, np.int32)
    before = np.empty((n, 4), np.int32)
    above, here = np.full(width + 2, n, np.int32), np.full(width + 2, n, np.int32)
    first_above = first_here = start_above = start = stop = 0
    for i in range(n):
        p = pixels[i]
        if p >= stop:  # a new row
            for j in range(first_above, first_here):
                above[pixels[j] - start_above + 1] = n
            above, here = here, above
            first_above, first_here, start_above = first_here, i, start
            start = p // width * width
            if start != start_above + width:
                for j in range(first_above, i):
                    above[pixels[j] - start_above + 1] = n
                first_above = i
            stop = start + width
        x = p - start + 1
        a, b, c, d = above[x - 1], above[x], above[x + 1], here[x - 1]
        here[x] = i
        before[i, 0], before[i, 1], before[i, 2], before[i, 3] = a, b, c, d
        # Without branches, which noise would make unpredictable; what is written at n is never read.
        own = rank[i]
        uphill[i] = min(own, rank[a], rank[b], rank[c], rank[d])
        for j in (a, b, c, d):
            uphill[j] = min(uphill[j], own)
    return uphill, before


@kernel(nogil=True)
def _root(island: Any, k: int) -> int:
    while island[k] != k:
        island[k] = island[island[k]]
        k = island[k]
    return k


def persistence_findpeaks(image: NDArray[Any], mask: NDArray[np.bool_], minval: float) -> NDArray[np.void]:
    """The same peaks by `findpeaks.stats.topology`, the reference: thousands of times slower, `area` not known (0)."""
    import findpeaks.stats

    # It logs and draws a progress bar for every frame unless told not to.
    findpeaks.stats.logger.setLevel(logging.WARNING)
    threshold = _threshold(image.dtype, minval)
    if threshold is None:
        return np.empty(0, MAXIMUM_DTYPE)
    # float64, because the library breaks ties by adding multiples of the dtype's epsilon.
    floored = np.where(mask | ~(image >= threshold), 0, image).astype(np.float64)
    if not floored.any():
        return np.empty(0, MAXIMUM_DTYPE)
    groups = findpeaks.stats.topology(floored, limit=0)["groups0"]
    table = np.zeros(len(groups), MAXIMUM_DTYPE)
    for row, (maximum, _birth, _score, saddle) in zip(table, groups, strict=True):
        row["y_pixel"], row["x_pixel"] = maximum
        # Levels are read from the frame: the library's carry its tie-breaking noise.
        row["birth"] = floored[tuple(maximum)]
        row["death"] = 0 if saddle is None else floored[tuple(saddle)]
    table["score"] = table["birth"] - table["death"]
    return table[table["score"] > 0]


def at_minval(table: NDArray[np.void], minval: float) -> NDArray[np.void]:
    """The peaks that a run at a higher `minval` would find: born at or above it; those that died below it die at 0.

    `area` is not known at the higher level and set to 0.
    """
    result = table[table["birth"] >= minval].copy()
    result["death"][result["death"] < minval] = 0
    result["score"] = result["birth"] - result["death"]
    result["area"] = 0
    return result


def filter_peaks(maxima: NDArray[np.void], shape: tuple[int, ...], minscore: float, config: DetectConfig) -> Detection:
    """Drop what the configuration's filters name, counting by reason; `shape` (y, x) is the searched frame's."""
    removed = {}

    def keep(table: NDArray[np.void], key: str, kept: NDArray[np.bool_]) -> NDArray[np.void]:
        removed[key] = int(len(table) - np.count_nonzero(kept))
        return table[kept]

    table = keep(maxima, "minscore", maxima["score"] > minscore)
    if config.min_area > 1:
        table = keep(table, "min_area", table["area"] >= config.min_area)
    if config.max_area is not None:
        table = keep(table, "max_area", table["area"] <= config.max_area)
    if config.min_edge_distance > 0:
        y, x = table["y_pixel"], table["x_pixel"]
        distance = np.minimum.reduce([y, x, shape[0] - 1 - y, shape[1] - 1 - x])
        table = keep(table, "min_edge_distance", distance >= config.min_edge_distance)
    if config.min_neighbour_distance > 0:
        table = keep(table, "min_neighbour_distance", ~_near_higher(table, config.min_neighbour_distance))
    table = table[np.lexsort((table["x_pixel"], table["y_pixel"]))]
    found = peaks.empty(len(table))
    for name in MAXIMUM_DTYPE.fields or ():
        found[name] = table[name]
    return Detection(found, removed)


def _near_higher(table: NDArray[np.void], distance: float) -> NDArray[np.bool_]:
    """Which maxima lie closer than `distance` (pixels) to a higher one (ties: to one later in the frame)."""
    near = np.zeros(len(table), bool)
    if len(table) < 2:
        return near
    positions = np.column_stack([table["y_pixel"], table["x_pixel"]]).astype(np.float64)
    rank = np.empty(len(table), np.int64)
    rank[np.lexsort((table["x_pixel"], table["y_pixel"], table["birth"]))] = np.arange(len(table))
    pairs = scipy.spatial.KDTree(positions).query_pairs(distance, output_type="ndarray")
    close = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1) < distance
    pairs = pairs[close]
    near[np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])] = True
    return near
