"""The local background of a frame: robust levels on a coarse grid, joined by bilinear interpolation.

Kernels work row by row, so that what is above the background can be searched without an image of it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel
from braggflow.errors import InputError

#: Range of whole numbers that are bisected as such.
_FEW_STEPS = 65_536


def local_background(counts: NDArray[Any], mask: NDArray[np.bool_], *, cell: int) -> NDArray[np.float32]:
    """A robust local level: medians of `cell` × `cell` pixels, smoothed, joined by bilinear interpolation.

    `counts`, `mask` (y, x); returns float32 (y, x). Cells without an unmasked pixel are joined from those around.
    """
    zero = np.zeros(counts.shape, np.float32)
    return -np.asarray(above_grid(zero, level_grid(counts, mask, cell), cell))


def level_grid(counts: NDArray[Any], mask: NDArray[np.bool_], cell: int, *, photon: float = 0.0) -> NDArray[np.float32]:
    """Levels at the centres of cells of `cell` × `cell` pixels, smoothed over 3 × 3 cells; float32 (rows, columns).

    They are medians; with `photon`, the counts of one, means where a cell holds fewer than 3 photons a pixel: most
    pixels of a sparse frame hold none. Raises `InputError` where no pixel is unmasked.
    """
    grid: NDArray[np.float32] = _cell_levels(counts, mask, cell, photon)
    empty = np.isnan(grid)
    if empty.all():
        raise InputError("every pixel of the frame is masked or NaN")
    if empty.any():
        grid = _fill(grid, empty)
    # A cell half filled by a bright spot stands out against its neighbours; beyond the frame the slope goes on.
    for axis in (0, 1):
        pad = [(1, 1) if a == axis else (0, 0) for a in (0, 1)]
        grid = np.pad(grid, pad, "reflect", reflect_type="odd") if grid.shape[axis] > 1 else np.pad(grid, pad, "edge")
    return _median_of_nine(grid)


#: Pairs of nine values that, put in order one after the other, leave the median in the middle (A. W. Paeth, Median
#: finding on a 3 × 3 grid, in Graphics Gems, 1990).
_NINE = ((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (5, 8), (4, 7), (3, 6), (1, 4),
         (2, 5), (4, 7), (4, 2), (6, 4), (4, 2))  # fmt: skip


def _median_of_nine(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """Medians of 3 × 3 values, for all but those on the border."""
    rows, columns = grid.shape
    values = [grid[y : rows - 2 + y, x : columns - 2 + x] for y in range(3) for x in range(3)]
    for low, high in _NINE:
        values[low], values[high] = np.minimum(values[low], values[high]), np.maximum(values[low], values[high])
    return values[4]


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


@kernel(nogil=True)
def _cell_levels(counts: Any, mask: Any, cell: int, photon: float) -> Any:
    height, width = counts.shape
    rows, columns = (height + cell - 1) // cell, (width + cell - 1) // cell
    grid = np.empty((rows, columns), np.float32)
    values = np.empty(cell * cell, np.float32)
    bits = values.view(np.uint32)
    for r in range(rows):
        for c in range(columns):
            n = 0
            # About 128 pixels a cell are enough: the smoothing over cells makes up for it.
            for y in range(r * cell, min((r + 1) * cell, height), max(1, cell // 16)):
                for x in range(c * cell, min((c + 1) * cell, width), max(1, cell // 8)):
                    if not mask[y, x]:
                        values[n] = counts[y, x]
                        n += 1
            grid[r, c] = _median(bits, n) if n else np.nan
            if photon > 0 and grid[r, c] < 3 * photon:
                grid[r, c] = _cell_mean(counts, mask, r * cell, c * cell, cell, photon)
    return grid


@inner(nogil=True)
def _cell_mean(counts: Any, mask: Any, top: int, left: int, cell: int, photon: float) -> Any:
    """Mean of a cell's pixels, those left out that counts of that mean do not reach."""
    total, n, limit = 0.0, 0, 4 * photon
    for _ in range(2):
        total, n = 0.0, 0
        for y in range(top, min(top + cell, counts.shape[0]), 2):
            for x in range(left, min(left + cell, counts.shape[1]), 2):
                if not mask[y, x] and counts[y, x] <= limit:
                    total += counts[y, x]
                    n += 1
        mean = total / max(n, 1)
        limit = mean + (4 * np.sqrt(mean / photon) + 3) * photon
    return np.float32(total / max(n, 1))


@inner(nogil=True)
def _median(bits: Any, n: int) -> Any:
    """Median (float32) of `n` values, whose bits (uint32) are changed.

    Bisects the value: counting those below is done with vector instructions and, unlike selection, without branches
    that noise makes unpredictable.
    """
    values = bits.view(np.float32)
    least, most, whole = np.float32(np.inf), np.float32(-np.inf), 0
    for i in range(n):
        least, most = min(least, values[i]), max(most, values[i])
        whole += values[i] == np.floor(values[i])
    if whole == n and most - least < _FEW_STEPS:
        return _median_of_counts(values, n, int(least), int(most))
    sign, ones = np.uint32(0x80000000), np.uint32(0xFFFFFFFF)
    low, high = np.int64(ones), np.int64(0)
    for i in range(n):
        # Integers in the order of the values: negative floats count backwards.
        bits[i] ^= ones if bits[i] & sign else sign
        low, high = min(low, np.int64(bits[i])), max(high, np.int64(bits[i]))
    wanted, below = (n + 1) // 2, n
    while low < high:
        middle = np.uint32((low + high) // 2)
        count = 0
        for i in range(n):
            count += 1 if bits[i] <= middle else 0
        if count >= wanted:
            high, below = np.int64(middle), count
        else:
            low = np.int64(middle) + 1
    following = low
    if n % 2 == 0 and below == wanted:
        following = np.int64(ones)
        for i in range(n):
            if bits[i] > low:
                following = min(following, np.int64(bits[i]))
    pair = np.array([low, following]).astype(np.uint32)
    for i in range(2):
        pair[i] ^= sign if pair[i] & sign else ones
    one, other = pair.view(np.float32)
    return np.float32((float(one) + float(other)) / 2)


@inner(nogil=True)
def _median_of_counts(values: Any, n: int, low: int, high: int) -> Any:
    """Median of `n` whole numbers between two: far fewer steps than those of all floats between these."""
    wanted, below = (n + 1) // 2, n
    while low < high:
        middle = np.float32((low + high) // 2)
        count = 0
        for i in range(n):
            count += 1 if values[i] <= middle else 0
        if count >= wanted:
            high, below = int(middle), count
        else:
            low = int(middle) + 1
    following = np.float32(low)
    if n % 2 == 0 and below == wanted:
        following = np.float32(np.inf)
        for i in range(n):
            if values[i] > low:
                following = min(following, values[i])
    return np.float32((float(low) + float(following)) / 2)


@kernel(nogil=True)
def above_grid(counts: Any, grid: Any, cell: int) -> Any:
    """`counts` less the bilinear interpolation of `grid`, whose values stand at the cells' centres."""
    above = np.empty(counts.shape, np.float32)
    columns, level = np.arange(counts.shape[1]).astype(np.float32), np.empty(grid.shape[1], np.float32)
    for y in range(counts.shape[0]):
        above_row(counts[y], grid, cell, y, columns, level, above[y])
    return above


@inner(nogil=True)
def above_row(counts: Any, grid: Any, cell: int, y: int, columns: Any, level: Any, above: Any) -> None:
    """Fill `above` (x) with `counts` (x), row `y` of a frame, above the background.

    `columns` (x) holds 0, 1, 2, ... as float32; `level` is room for a row of the grid.
    """
    n, width = len(level), len(above)
    levels_of_row(grid, cell, y, level)
    # From centre to centre the level is a straight line; the first and last line go on to the frame's edge.
    for c in range(max(1, n - 1)):
        first = 0 if c == 0 else c * cell + cell // 2
        stop = width if c >= n - 2 else (c + 1) * cell + cell // 2
        start, slope = _line(level[c], level[min(c + 1, n - 1)], c, cell)
        # Slices, whose positions cannot be negative: compilers make vector instructions of them.
        source, x, target = counts[first:stop], columns[first:stop], above[first:stop]
        for i in range(len(target)):
            target[i] = np.float32(source[i]) - (start + slope * x[i])


@inner(nogil=True)
def _grid_level(grid: Any, cell: int, y: int, c: int) -> Any:
    """The level of column `c` of the grid at row `y` of the frame."""
    rows = len(grid)
    v = (y - (cell - 1) / 2) / cell
    r = max(0, min(int(v), rows - 2))
    return np.float32(grid[r, c] + np.float32(v - r) * (grid[min(r + 1, rows - 1), c] - grid[r, c]))


@inner(nogil=True)
def levels_of_row(grid: Any, cell: int, y: int, level: Any) -> None:
    """Fill `level` with the grid's levels at row `y` of the frame."""
    for c in range(len(level)):
        level[c] = _grid_level(grid, cell, y, c)


@inner(nogil=True)
def above_level(count: float, level: Any, cell: int, x: int) -> Any:
    """What `above_row` makes of one pixel, from `levels_of_row`."""
    c = max(0, min((x - cell // 2) // cell, len(level) - 2))
    start, slope = _line(level[c], level[min(c + 1, len(level) - 1)], c, cell)
    return np.float32(count) - (start + slope * np.float32(x))


@inner(nogil=True)
def _line(level: Any, following: Any, c: int, cell: int) -> Any:
    """Value at column 0 of the frame, and slope, of the line through two levels at the centres of cells c and c + 1."""
    slope = (following - level) / np.float32(cell)
    return level - slope * np.float32(c * cell + (cell - 1) / 2), slope


@kernel(nogil=True)
def sample_above(counts: Any, mask: Any, grid: Any, cell: int, step: int) -> Any:
    """Every `step`-th pixel of the frame above its background, as `_sample` takes it of the whole image."""
    height, width = counts.shape
    sample, level = np.empty(height * width // step + 1), np.empty(grid.shape[1], np.float32)
    n, row = 0, -1
    for p in range(0, height * width, step):
        y, x = p // width, p % width
        if mask[y, x]:
            continue
        if y != row:
            levels_of_row(grid, cell, y, level)
            row = y
        sample[n] = above_level(counts[y, x], level, cell, x)
        n += 1
    return sample[:n]
