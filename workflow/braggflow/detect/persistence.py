"""Topological persistence, compiled: every maximum of one frame and the level at which it merges into a higher one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.compiled import inner, kernel
from braggflow.detect.background import above_level, above_row, levels_of_row

_OF_PEAKS = ("y_pixel", "x_pixel", "birth", "death", "score", "significance", "area")
#: What is known of a maximum: a small part of `PEAK_DTYPE`, as most maxima are noise and soon dropped, and the flat
#: index of the pixel at which it merges (-1: never).
MAXIMUM_DTYPE = np.dtype([*((name, peak_table.PEAK_DTYPE[name]) for name in _OF_PEAKS), ("saddle", "i8")])
#: Foreground pixels that are made room for at first; a frame that has more takes more.
_FOREGROUND = 65_536


def persistence(image: NDArray[Any], mask: NDArray[np.bool_], minval: float) -> NDArray[np.void]:
    """Every peak of score above 0 of one frame, unsorted, rows of `MAXIMUM_DTYPE`: the compiled engine.

    `image` (y, x) of any real dtype, `mask` (y, x) True = ignore, `minval` > 0 counts. Only pixels at or above
    `minval` are visited. The result holds for every higher `minval` too: see `at_minval`.
    """
    threshold = threshold_in(image.dtype, minval)
    if threshold is None:
        return np.empty(0, MAXIMUM_DTYPE)
    pixels, values = _foreground(image, mask, threshold)
    return maxima_of(pixels, values, image.shape[1])


def maxima_of(pixels: NDArray[np.int64], values: NDArray[Any], width: int, *, floor: float = 0.0) -> NDArray[np.void]:
    """The maxima of a foreground, given by its flat indices (ascending) and values, with where they merge.

    Their significance is not known (NaN). Pixels below `floor` are in no area.
    """
    order = _descending(values)
    births, deaths, areas = _merge(pixels, order, width, int(np.count_nonzero(values >= floor)))
    table = np.empty(len(births), MAXIMUM_DTYPE)
    table["y_pixel"], table["x_pixel"] = np.divmod(pixels[births], width)
    table["birth"] = values[births]
    table["death"] = np.where(deaths >= 0, values[deaths], 0) if len(values) else 0
    table["score"] = table["birth"] - table["death"]
    table["saddle"] = np.where(deaths >= 0, pixels[deaths], -1) if len(values) else -1
    table["significance"] = np.nan
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


def threshold_in(dtype: np.dtype[Any], minval: float) -> Any:
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
def foreground_above(counts: Any, mask: Any, grid: Any, cell: int, threshold: Any) -> Any:
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
def foreground_of_noise(
    image: Any, mask: Any, level: Any, floor: Any, cell: int, bridged: Any, between: Any, subtract: bool
) -> Any:
    """Flat indices (ascending) and values of the pixels that rise above the noise of their place.

    `image`, `mask` (y, x); `level` and `floor` (rows, columns) are grids of cells: of the background, and of what a
    pixel must reach. Masked pixels at the flat indices `bridged` (ascending) have the values `between`. Values are
    float32, above the level if that is to be subtracted. A value that is not above 0 belongs to no peak.
    """
    height, width = image.shape
    pixels, values = np.empty(_FOREGROUND + width, np.int64), np.empty(_FOREGROUND + width, np.float32)
    above = np.zeros((width + 7) // 8 * 8, np.bool_)
    eights = above.view(np.uint64)
    row, line = np.empty(width, np.float32), np.empty(floor.shape[1], np.float32)
    background = np.empty(level.shape[1], np.float32)
    is_bridged, patched = np.zeros(width, np.bool_), np.empty(width, np.float32)
    columns = np.arange(width).astype(np.float32)
    n, b = 0, 0
    for y in range(height):
        if n + width > len(pixels):
            pixels, values = _twice(pixels), _twice(values)
        start, first = y * width, b
        while b < len(bridged) and bridged[b] < start + width:
            b += 1
        above_row(image[y], floor, cell, y, columns, line, row)
        for i in range(first, b):
            x = bridged[i] - start
            is_bridged[x], patched[x] = True, between[i]
            row[x] = above_level(between[i], line, cell, x)
        for x in range(width):
            above[x] = row[x] >= 0
        known = False
        for e in range(len(eights)):
            if eights[e] == 0:
                continue
            if subtract and not known:
                levels_of_row(level, cell, y, background)
                known = True
            for x in range(8 * e, min(8 * e + 8, width)):
                if not above[x] or (mask[y, x] and not is_bridged[x]):
                    continue
                value = float(patched[x]) if is_bridged[x] else float(image[y, x])
                if subtract:
                    value = above_level(value, background, cell, x)
                if value > 0:
                    pixels[n] = start + x
                    values[n] = value
                    n += 1
        for i in range(first, b):
            is_bridged[bridged[i] - start] = False
    return pixels[:n], values[:n]


@inner(nogil=True)
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


@inner(nogil=True)
def _twice(array: Any) -> Any:
    return np.concatenate((array, np.empty_like(array)))


@kernel(nogil=True)
def _merge(pixels: Any, order: Any, width: int, n_counted: int) -> Any:
    """Where the islands of the foreground are born and merge, from the highest pixel down.

    `pixels` flat indices, ascending; `order` positions in it from the highest pixel to the lowest. Returns positions
    of the maxima, positions of the pixels at which they merge (-1: never), and numbers of pixels down to those, of the
    `n_counted` highest of the frame.

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
                births[found], deaths[found], areas[found] = order[younger], order[k], area[younger] + (k < n_counted)
                found += 1
                island[younger] = elder
                if k < n_counted:
                    area[elder] += area[younger]
        area[_root(island, basin[k])] += k < n_counted
    for k in range(n):
        if basin[k] == k and island[k] == k:
            births[found], deaths[found], areas[found] = order[k], -1, area[k]
            found += 1
    # By place: what is asked of the maxima next reads the frame around them.
    order_of_births = np.full(n, -1, np.int32)
    for k in range(found):
        order_of_births[births[k]] = k
    by_place = order_of_births[order_of_births >= 0]
    return births[by_place], deaths[by_place], areas[by_place]


@inner(nogil=True)
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


@inner(nogil=True)
def _root(island: Any, k: int) -> int:
    while island[k] != k:
        island[k] = island[island[k]]
        k = island[k]
    return k


def at_minval(table: NDArray[np.void], minval: float) -> NDArray[np.void]:
    """The peaks that a run at a higher `minval` would find: born at or above it; those that died below it die at 0.

    `area` is not known at the higher level and set to 0.
    """
    result = dead_below(table[table["birth"] >= minval], minval)
    result["area"] = 0
    return result


def dead_below(table: NDArray[np.void], minval: float) -> NDArray[np.void]:
    """A copy of the table in which those that died below `minval` die at 0."""
    result = table.copy()
    result["death"][result["death"] < minval] = 0
    result["score"] = result["birth"] - result["death"]
    return result
