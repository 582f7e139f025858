"""Peaks of one frame by threshold and topological persistence.

Pixels below `minval` are set to 0; the water level then falls from the highest pixel to 0 over the 8-connected frame.
A peak is born at each maximum and dies where its island meets a higher one (elder rule; an island that meets none dies
at 0). Its score is birth - death (Edelsbrunner & Harer, Computational Topology, 2010; the reference implementation is
`findpeaks.stats.topology`). Pixels of equal value are ordered by their flat index, the later one higher.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import numba as nb
import numpy as np
import scipy.ndimage
import scipy.spatial
import scipy.stats
from numpy.typing import NDArray

from braggflow import peaks
from braggflow.config import DetectConfig, InputError, Level

#: Pixels sampled for the frame's noise, for a precision of about half a per cent.
_NOISE_SAMPLE = 16_384
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
            _above_grid(counts, _background_grid(counts, mask, config.background_cell), config.background_cell)
        )
    if background_frame is None:
        raise ValueError(f"detect.background: {config.background} was not given to detect()")
    return np.asarray(np.subtract(counts, background_frame, dtype=np.float32))


def levels(image: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig) -> tuple[float, float]:
    """`minval` and `minscore` in counts; a `minval` in noise multiples is counted from the frame's median."""
    if isinstance(config.minval, float) and isinstance(config.minscore, float):
        return config.minval, config.minscore
    median, sigma = noise(image, mask)
    minval = _in_counts(config.minval, sigma, offset=median)
    # A pixel at 0 belongs to no peak, also where the background was over-subtracted.
    return max(minval, float(np.finfo(np.float32).tiny)), _in_counts(config.minscore, sigma)


def _in_counts(level: Level, sigma: float, *, offset: float = 0.0) -> float:
    return level if isinstance(level, float) else offset + level.sigma * sigma


def noise(image: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Median and noise (4-sigma-clipped standard deviation) of a frame's unmasked pixels, in counts.

    Raises `InputError` where the noise is 0: the detector cut it off, and only levels in counts make sense.
    """
    step = max(1, image.size // _NOISE_SAMPLE)
    # A step that shares a factor with the row length would sample a few columns only.
    while step > 1 and np.gcd(step, image.shape[1]) > 1:
        step += 1
    sample = image.ravel()[::step][~mask.ravel()[::step]].astype(np.float64)
    if sample.size == 0:
        raise InputError("every pixel of the frame is masked or NaN")
    clipped = scipy.stats.sigmaclip(sample, 4, 4).clipped
    sigma = float(clipped.std())
    if sigma == 0:
        raise InputError(
            "the frame has no noise (thresholded by its detector?), so levels of {sigma: ...} mean nothing; "
            "give detect.minval and detect.minscore in counts"
        )
    return float(np.median(clipped)), sigma


def local_background(counts: NDArray[Any], mask: NDArray[np.bool_], *, cell: int) -> NDArray[np.float32]:
    """A robust local level: medians of `cell` × `cell` pixels, smoothed, joined by bilinear interpolation.

    `counts`, `mask` (y, x); returns float32 (y, x). Cells without an unmasked pixel are joined from those around.
    """
    zero = np.zeros(counts.shape, np.float32)
    return -np.asarray(_above_grid(zero, _background_grid(counts, mask, cell), cell))


def _background_grid(counts: NDArray[Any], mask: NDArray[np.bool_], cell: int) -> NDArray[np.float32]:
    grid: NDArray[np.float32] = _cell_medians(counts, mask, cell)
    empty = np.isnan(grid)
    if empty.all():
        raise InputError("every pixel of the frame is masked or NaN")
    if empty.any():
        grid = _fill(grid, empty)
    # A cell half filled by a bright spot stands out against its neighbours; beyond the frame the slope goes on.
    for axis in (0, 1):
        pad = [(1, 1) if a == axis else (0, 0) for a in (0, 1)]
        grid = np.pad(grid, pad, "reflect", reflect_type="odd") if grid.shape[axis] > 1 else np.pad(grid, pad, "edge")
    return np.asarray(scipy.ndimage.median_filter(grid, size=3)[1:-1, 1:-1])


def _fill(grid: NDArray[np.float32], empty: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Levels of cells without a pixel: joined linearly across the gap, along rows and columns (their mean)."""
    total, n = np.zeros(grid.shape), np.zeros(grid.shape)
    for lines, unknown, sums, counts in ((grid, empty, total, n), (grid.T, empty.T, total.T, n.T)):
        for line in np.flatnonzero(unknown.any(axis=1) & ~unknown.all(axis=1)):
            known, missing = np.flatnonzero(~unknown[line]), np.flatnonzero(unknown[line])
            sums[line, missing] += np.interp(missing, known, lines[line, known])
            counts[line, missing] += 1
    filled = np.where(empty, total / np.maximum(n, 1), grid).astype(np.float32)
    left = empty & (n == 0)  # neither its row nor its column has a level
    return _fill(np.where(left, np.float32(np.nan), filled), left) if left.any() else filled


@nb.njit(cache=True, nogil=True)
def _cell_medians(counts: Any, mask: Any, cell: int) -> Any:
    height, width = counts.shape
    rows, columns = (height + cell - 1) // cell, (width + cell - 1) // cell
    grid = np.empty((rows, columns), np.float32)
    values = np.empty(cell * cell, np.float32)
    for r in range(rows):
        for c in range(columns):
            n = 0
            # About 128 pixels a cell are enough: the smoothing over cells makes up for it.
            for y in range(r * cell, min((r + 1) * cell, height), max(1, cell // 16)):
                for x in range(c * cell, min((c + 1) * cell, width), max(1, cell // 8)):
                    if not mask[y, x]:
                        values[n] = counts[y, x]
                        n += 1
            grid[r, c] = np.median(values[:n]) if n else np.nan
    return grid


@nb.njit(cache=True, nogil=True)
def _above_grid(counts: Any, grid: Any, cell: int) -> Any:
    """`counts` less the bilinear interpolation of `grid`, whose values stand at the cells' centres."""
    height, width = counts.shape
    rows, columns = grid.shape
    above = np.empty((height, width), np.float32)
    level = np.empty(columns, np.float32)
    for y in range(height):
        v = (y - (cell - 1) / 2) / cell
        r = max(0, min(int(v), rows - 2))
        for c in range(columns):
            level[c] = grid[r, c] + np.float32(v - r) * (grid[min(r + 1, rows - 1), c] - grid[r, c])
        # From centre to centre the level is a straight line; the first and last line go on to the frame's edge.
        for c in range(max(1, columns - 1)):
            first = 0 if c == 0 else c * cell + cell // 2
            stop = width if c >= columns - 2 else (c + 1) * cell + cell // 2
            slope = (level[min(c + 1, columns - 1)] - level[c]) / np.float32(cell)
            start = level[c] - slope * np.float32(c * cell + (cell - 1) / 2)
            for x in range(first, min(stop, width)):
                above[y, x] = np.float32(counts[y, x]) - (start + slope * np.float32(x))
    return above


def persistence(image: NDArray[Any], mask: NDArray[np.bool_], minval: float) -> peaks.Table:
    """Every peak of score above 0 of one frame, unsorted: the compiled engine.

    `image` (y, x) of any real dtype, `mask` (y, x) True = ignore, `minval` > 0 counts. Only pixels at or above
    `minval` are visited. The result holds for every higher `minval` too: see `at_minval`.
    """
    threshold = _threshold(image.dtype, minval)
    if threshold is None:
        return peaks.empty()
    pixels, values = _foreground(image, mask, threshold)
    order = np.argsort(values, kind="stable")[::-1]
    births, deaths, areas = _merge(pixels, order, image.shape[1])
    table = peaks.empty(len(births))
    table["y_pixel"], table["x_pixel"] = np.divmod(pixels[births], image.shape[1])
    table["birth"] = values[births]
    table["death"] = np.where(deaths >= 0, values[deaths], 0) if len(values) else 0
    table["score"] = table["birth"] - table["death"]
    table["area"] = areas
    return table[table["score"] > 0]


def _threshold(dtype: np.dtype[Any], minval: float) -> Any:
    """`minval` in the image's own dtype, so that the compiled comparison needs no conversion; None: above its range."""
    if dtype.kind == "f":
        return dtype.type(minval)
    lowest = int(np.ceil(minval))
    return dtype.type(lowest) if lowest <= np.iinfo(dtype).max else None


@nb.njit(cache=True, nogil=True)
def _foreground(image: Any, mask: Any, threshold: Any) -> Any:
    """Flat indices (ascending) and values of unmasked pixels at or above the threshold."""
    height, width = image.shape
    pixels = np.empty(_FOREGROUND + width, np.int64)
    values = np.empty(_FOREGROUND + width, image.dtype)
    above = np.zeros((width + 7) // 8 * 8, np.bool_)
    eights = above.view(np.uint64)
    n = 0
    for y in range(height):
        if n + width > len(pixels):
            pixels = np.concatenate((pixels, np.empty_like(pixels)))
            values = np.concatenate((values, np.empty_like(values)))
        for x in range(width):
            above[x] = image[y, x] >= threshold  # branch-free, so that compilers make vector instructions of it
        for e in range(len(eights)):
            if eights[e] != 0:  # nearly all pixels are below: look at eight at a time
                for x in range(8 * e, 8 * e + 8):
                    if above[x] and not mask[y, x]:
                        pixels[n] = y * width + x
                        values[n] = image[y, x]
                        n += 1
    return pixels[:n], values[:n]


@nb.njit(cache=True, nogil=True)
def _merge(pixels: Any, order: Any, width: int) -> Any:
    """Union-find over the foreground from the highest pixel down.

    `pixels` flat indices, ascending; `order` positions in it from the highest pixel to the lowest. Returns positions
    of the maxima, positions of the pixels at which they merge (-1: never), and numbers of pixels joined until then.
    """
    n = len(pixels)
    # Positions of the neighbours in the row above, found by walking along it; those below see this pixel as above.
    above = np.full((n, 3), -1, np.int32)
    start = 0
    for i in range(n):
        p = pixels[i]
        x = p % width
        while pixels[start] < p - width - 1:
            start += 1
        j = start
        while j < i and pixels[j] <= p - width + 1:
            d = pixels[j] - (p - width)
            # An offset of one column does not reach around the frame's edge.
            if (d >= 0 or x > 0) and (d <= 0 or x < width - 1):
                above[i, d + 1] = j
            j += 1
    below = np.full((n, 3), -1, np.int32)
    for i in range(n):
        for k in range(3):
            if above[i, k] >= 0:
                below[above[i, k], k] = i

    rank: Any = np.empty(n, np.int32)
    for k in range(n):
        rank[order[k]] = k
    parent = np.arange(n, dtype=np.int32)  # by rank: a root is its island's maximum, the island's lowest rank
    area = np.ones(n, np.int64)
    births = np.empty(n, np.int64)
    deaths = np.empty(n, np.int64)
    areas = np.empty(n, np.int64)
    neighbours = np.empty(8, np.int64)
    m = 0
    for k in range(n):
        i = order[k]
        for j in range(3):
            neighbours[j] = above[i, j]
            neighbours[3 + j] = below[i, j]
        p = pixels[i]
        neighbours[6] = i - 1 if i > 0 and pixels[i - 1] == p - 1 and p % width > 0 else -1
        neighbours[7] = i + 1 if i + 1 < n and pixels[i + 1] == p + 1 and p % width < width - 1 else -1
        island = k
        for q in neighbours:
            if q < 0 or rank[q] > k:
                continue
            root = rank[q]
            while parent[root] != root:
                parent[root] = parent[parent[root]]
                root = parent[root]
            if root == island:
                continue
            elder, younger = (root, island) if root < island else (island, root)
            if younger != k:  # the pixel itself is no maximum: it only joins
                births[m], deaths[m], areas[m] = order[younger], i, area[younger]
                m += 1
            parent[younger] = elder
            area[elder] += area[younger]
            island = elder
    for k in range(n):
        if parent[k] == k:
            births[m], deaths[m], areas[m] = order[k], -1, area[k]
            m += 1
    return births[:m], deaths[:m], areas[:m]


def persistence_findpeaks(image: NDArray[Any], mask: NDArray[np.bool_], minval: float) -> peaks.Table:
    """The same peaks by `findpeaks.stats.topology`, the reference: thousands of times slower, `area` not known (0)."""
    import findpeaks.stats

    # It logs and draws a progress bar for every frame unless told not to.
    findpeaks.stats.logger.setLevel(logging.WARNING)
    threshold = _threshold(image.dtype, minval)
    if threshold is None:
        return peaks.empty()
    # float64, because the library breaks ties by adding multiples of the dtype's epsilon.
    floored = np.where(mask | ~(image >= threshold), 0, image).astype(np.float64)
    if not floored.any():
        return peaks.empty()
    groups = findpeaks.stats.topology(floored, limit=0)["groups0"]
    table = peaks.empty(len(groups))
    for row, (maximum, _birth, _score, saddle) in zip(table, groups, strict=True):
        row["y_pixel"], row["x_pixel"] = maximum
        # Levels are read from the frame: the library's carry its tie-breaking noise.
        row["birth"] = floored[tuple(maximum)]
        row["death"] = 0 if saddle is None else floored[tuple(saddle)]
    table["score"] = table["birth"] - table["death"]
    return table[table["score"] > 0]


def at_minval(table: peaks.Table, minval: float) -> peaks.Table:
    """The peaks that a run at a higher `minval` would find: born at or above it; those that died below it die at 0.

    `area` is not known at the higher level and set to 0.
    """
    result = table[table["birth"] >= minval].copy()
    result["death"][result["death"] < minval] = 0
    result["score"] = result["birth"] - result["death"]
    result["area"] = 0
    return result


def filter_peaks(table: peaks.Table, shape: tuple[int, ...], minscore: float, config: DetectConfig) -> Detection:
    """Drop what the configuration's filters name, counting by reason; `shape` (y, x) is the searched frame's."""
    removed = {}

    def keep(table: peaks.Table, key: str, kept: NDArray[np.bool_]) -> peaks.Table:
        removed[key] = int(len(table) - np.count_nonzero(kept))
        return table[kept]

    table = keep(table, "minscore", table["score"] > minscore)
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
    return Detection(table[np.lexsort((table["x_pixel"], table["y_pixel"]))], removed)


def _near_higher(table: peaks.Table, distance: float) -> NDArray[np.bool_]:
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
