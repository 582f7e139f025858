"""Topological persistence, compiled: every maximum of some frames and the level at which it merges into a higher one.

Frames come as a stack (frame, y, x) with one mask (y, x), and are searched one after the other in one compiled call.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.compiled import inner, kernel
from braggflow.detect.background import above_level, above_row, levels_of_row, line_ends, line_of

_OF_PEAKS = ("y_pixel", "x_pixel", "birth", "death", "score", "significance", "area")
#: What is known of a maximum: a small part of `PEAK_DTYPE`, as most maxima are noise and soon dropped, the flat index
#: of the pixel at which it merges (-1: never), and the position of its frame in the stack.
MAXIMUM_DTYPE = np.dtype(
    [*((name, peak_table.PEAK_DTYPE[name]) for name in _OF_PEAKS), ("saddle", "i8"), ("frame", "i4")]
)
#: Foreground pixels that are made room for at first; frames that have more take more.
_FOREGROUND = 65_536
#: Bits by which foregrounds are sorted at a time.
_DIGIT = 11


class Foreground(NamedTuple):
    """The pixels of a stack that are looked at."""

    pixels: NDArray[np.int64]
    """(m,) flat indices in their frames, ascending in each, frame after frame."""
    values: NDArray[Any]
    """(m,) counts, 0 or more."""
    stops: NDArray[np.int64]
    """(n,) where the pixels of each frame end."""


def persistence(image: NDArray[Any], mask: NDArray[np.bool_], minval: float) -> NDArray[np.void]:
    """Every peak of score above 0 of one frame, by place, rows of `MAXIMUM_DTYPE`: the compiled engine.

    `image` (y, x) of any real dtype, `mask` (y, x) True = ignore, `minval` > 0 counts. Only pixels at or above
    `minval` are visited. The result holds for every higher `minval` too: see `at_minval`.
    """
    return maxima_of(foreground_from(image[None], mask, np.array([minval])), image.shape[1])


def maxima_of(found: Foreground, width: int, *, floor: NDArray[np.float64] | None = None) -> NDArray[np.void]:
    """The maxima of foregrounds, frame by frame in order of their pixels, with where they merge.

    Their significance is not known (NaN). Pixels below the `floor` (n,) of their frame are in no area.
    """
    pixels, values, stops = found
    counted = np.diff(stops, prepend=0)
    if floor is not None:
        above = np.concatenate([[0], np.cumsum(values >= np.repeat(floor, counted))])
        counted = np.diff(above[stops], prepend=0)
    births, deaths, areas, frames = _merge_each(pixels, _keys(values), stops, counted, width)
    table = np.empty(len(births), MAXIMUM_DTYPE)
    table["y_pixel"], table["x_pixel"] = np.divmod(pixels[births], width)
    table["birth"] = values[births]
    table["death"] = np.where(deaths >= 0, values[deaths], 0) if len(values) else 0
    table["score"] = table["birth"] - table["death"]
    table["saddle"] = np.where(deaths >= 0, pixels[deaths], -1) if len(values) else -1
    table["significance"] = np.nan
    table["area"], table["frame"] = areas, frames
    return table[table["score"] > 0]


def _keys(values: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers in the order of foreground values: the bits of floats that are not below 0 are."""
    return values.view(f"u{values.itemsize}") if values.dtype.kind == "f" else values


def threshold_in(dtype: np.dtype[Any], minval: float) -> Any:
    """`minval` in the image's own dtype, so that the compiled comparison needs no conversion; None: above its range."""
    if dtype.kind == "f":
        return dtype.type(minval)
    lowest = int(np.ceil(minval))
    return dtype.type(lowest) if lowest <= np.iinfo(dtype).max else None


def foreground_from(images: NDArray[Any], mask: NDArray[np.bool_], minval: NDArray[np.float64]) -> Foreground:
    """The unmasked pixels of a stack (n, y, x) at or above the `minval` (n,) of their frame."""
    given = [threshold_in(images.dtype, level) for level in minval.tolist()]
    thresholds = np.array([0 if level is None else level for level in given], images.dtype)
    return Foreground(*_foreground(images, mask, thresholds, np.array([level is not None for level in given])))


@kernel(nogil=True)
def _foreground(images: Any, mask: Any, thresholds: Any, is_searched: Any) -> Any:
    """As `foreground_from`; frames that are not searched have none."""
    n_frames, height, width = images.shape
    pixels, values = np.empty(_FOREGROUND + width, np.int64), np.empty(_FOREGROUND + width, images.dtype)
    stops, above = np.zeros(n_frames, np.int64), np.zeros((width + 7) // 8 * 8, np.bool_)
    n = 0
    for f in range(n_frames):
        image = images[f]
        for y in range(height if is_searched[f] else 0):
            if n + width > len(pixels):
                pixels, values = _twice(pixels), _twice(values)
            n = _take_row(image[y], mask[y], y * width, thresholds[f], above, pixels, values, n)
        stops[f] = n
    return pixels[:n], values[:n], stops


@kernel(nogil=True)
def foreground_above(frames: Any, mask: Any, grids: Any, cell: int, thresholds: Any) -> Any:
    """As `foreground_from`, of what is above the backgrounds whose grids (n, rows, columns) are given."""
    n_frames, height, width = frames.shape
    pixels, values = np.empty(_FOREGROUND + width, np.int64), np.empty(_FOREGROUND + width, np.float32)
    stops, level = np.zeros(n_frames, np.int64), np.empty(grids.shape[2], np.float32)
    n = 0
    for f in range(n_frames):
        threshold = thresholds[f]
        for y in range(height):
            if n + width > len(pixels):
                pixels, values = _twice(pixels), _twice(values)
            row, ignored = frames[f, y], mask[y]
            levels_of_row(grids[f], cell, y, level)
            for c in range(max(1, len(level) - 1)):
                first, stop = line_ends(c, len(level), cell, width)
                start, slope = line_of(level, c, cell)
                # Nowhere along a straight line is the background below that at its lower end.
                lowest = min(start + slope * np.float32(first), start + slope * np.float32(stop - 1))
                if not _any_above(row[first:stop], lowest, threshold):
                    continue
                for x in range(first, stop):
                    above = np.float32(row[x]) - (start + slope * np.float32(x))
                    if above >= threshold and not ignored[x]:
                        pixels[n] = y * width + x
                        values[n] = above
                        n += 1
        stops[f] = n
    return pixels[:n], values[:n], stops


@inner(nogil=True)
def _any_above(row: Any, level: Any, threshold: Any) -> bool:
    found = False
    for i in range(len(row)):
        found |= np.float32(row[i]) - level >= threshold
    return found


@kernel(nogil=True)
def foreground_of_noise(
    images: Any, mask: Any, levels: Any, floors: Any, cell: int, bridged: Any, between: Any, ends: Any, subtract: bool
) -> Any:
    """Flat indices (ascending) and values of the pixels that rise above the noise of their place; where frames end.

    `images` (n, y, x), `mask` (y, x); `levels` and `floors` (n, rows, columns) are grids of cells: of the background,
    and of what a pixel must reach. Masked pixels at the flat indices `bridged` (ascending in each frame, which `ends`
    (n,) there) have the values `between`. Values are float32, above the level if that is to be subtracted. A value that
    is not above 0 belongs to no peak.
    """
    n_frames, height, width = images.shape
    pixels, values = np.empty(_FOREGROUND + width, np.int64), np.empty(_FOREGROUND + width, np.float32)
    stops, above = np.zeros(n_frames, np.int64), np.zeros((width + 7) // 8 * 8, np.bool_)
    eights = above.view(np.uint64)
    row, line = np.empty(width, np.float32), np.empty(floors.shape[2], np.float32)
    background = np.empty(levels.shape[2], np.float32)
    is_bridged, patched = np.zeros(width, np.bool_), np.empty(width, np.float32)
    columns = np.arange(width).astype(np.float32)
    n, b = 0, 0
    for f in range(n_frames):
        image, level, floor = images[f], levels[f], floors[f]
        for y in range(height):
            if n + width > len(pixels):
                pixels, values = _twice(pixels), _twice(values)
            start, first = y * width, b
            while b < ends[f] and bridged[b] < start + width:
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
        stops[f] = n
    return pixels[:n], values[:n], stops


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
def _merge_each(pixels: Any, keys: Any, stops: Any, n_counted: Any, width: int) -> Any:
    """`_merge` of each frame's foreground, whose pixels are in the order of their `keys`; positions in the whole one.

    Returns the position of each maximum's frame too.
    """
    births, deaths, areas = np.empty(len(pixels), np.int64), np.empty(len(pixels), np.int64), np.empty_like(pixels)
    frames = np.empty(len(pixels), np.int64)
    found, start = 0, 0
    for f in range(len(stops)):
        stop = stops[f]
        if stop > start:
            one, other, area = _merge(pixels[start:stop], _descending(keys[start:stop]), width, n_counted[f])
            for k in range(len(one)):
                births[found], deaths[found], areas[found] = start + one[k], other[k], area[k]
                if other[k] >= 0:
                    deaths[found] += start
                frames[found] = f
                found += 1
        start = stop
    return births[:found], deaths[:found], areas[:found], frames[:found]


@inner(nogil=True)
def _descending(keys: Any) -> Any:
    """Positions of whole numbers, 0 or more, from the highest down; of equal ones the last is first.

    By digits from the lowest on, those left out that are the same everywhere: numbers of 16 bits take two turns.
    """
    n, highest = len(keys), np.uint64(0)
    order, other, bits = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.uint64)
    for i in range(n):
        order[i] = n - 1 - i
        bits[i] = np.uint64(keys[i])
        highest = max(highest, bits[i])
    starts = np.empty(2**_DIGIT, np.int64)
    mask, shift = np.uint64(2**_DIGIT - 1), np.uint64(0)
    while shift < np.uint64(64) and highest >> shift > np.uint64(0):
        starts[:] = 0
        for i in range(n):
            starts[(bits[i] >> shift) & mask] += 1
        if starts[(bits[0] >> shift) & mask] < n:
            before = 0
            for digit in range(len(starts) - 1, -1, -1):
                starts[digit], before = before, before + starts[digit]
            for i in range(n):
                digit = (bits[order[i]] >> shift) & mask
                other[starts[digit]] = order[i]
                starts[digit] += 1
            order, other = other, order
        shift += np.uint64(_DIGIT)
    return order


@inner(nogil=True)
def _merge(pixels: Any, order: Any, width: int, n_counted: int) -> Any:
    """Where the islands of a frame's foreground are born and merge, from the highest pixel down.

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


def at_minval(table: NDArray[np.void], minval: float | NDArray[np.float64]) -> NDArray[np.void]:
    """The peaks that a run at a higher `minval` would find: born at or above it; those that died below it die at 0.

    `minval` is one level, or that of each row. `area` is not known at the higher level and set to 0.
    """
    levels = np.broadcast_to(minval, table.shape)
    high = table["birth"] >= levels
    result = dead_below(table[high], levels[high])
    result["area"] = 0
    return result


def dead_below(table: NDArray[np.void], minval: float | NDArray[np.float64]) -> NDArray[np.void]:
    """A copy of the table in which those that died below `minval` (one level, or that of each row) die at 0."""
    result = table.copy()
    result["death"][result["death"] < minval] = 0
    result["score"] = result["birth"] - result["death"]
    return result
