"""The local background of a frame: robust levels on a coarse grid, joined by bilinear interpolation.

Kernels work row by row, so that what is above the background can be searched without an image of it.
"""

from typing import Any, NamedTuple

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
    (grid,) = level_grid(counts[None], mask, cell)
    return -np.asarray(above_grid(np.zeros(counts.shape, np.float32), grid, cell))


class LevelGrid(NamedTuple):
    """The level of a stack of frames, linear between the centres of cells along rows and columns."""

    levels: NDArray[np.float32]
    """(n, rows, columns), counts, as `level_grid` has them."""
    cell: int
    """Side of a cell, pixels."""


def level_grid(
    frames: NDArray[Any], mask: NDArray[np.bool_], cell: int, *, photon: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Levels at the centres of cells of `cell` × `cell` pixels, smoothed over 3 × 3 cells; float32 (n, rows, columns).

    `frames` (n, y, x), `mask` (y, x). Levels are medians; of a frame whose `photon` (n,), the counts of one, is given
    and not 0, means where a cell holds fewer than 3 photons a pixel: most pixels of a sparse frame hold none. Raises
    `InputError` where no pixel of a frame is unmasked.
    """
    grids = _cell_levels(frames, mask, cell, np.zeros(len(frames)) if photon is None else photon)
    empty = np.isnan(grids)
    if empty.any():
        if empty.all(axis=(1, 2)).any():
            raise InputError("every pixel of the frame is masked or NaN")
        _fill(grids)
    return _smoothed(grids)  # type: ignore[no-any-return]  # numba's


#: Pairs of nine values that, put in order one after the other, leave the median in the middle (A. W. Paeth, Median
#: finding on a 3 × 3 grid, in Graphics Gems, 1990).
_NINE = np.array(
    [(1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (5, 8), (4, 7), (3, 6), (1, 4),
     (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)]
)  # fmt: skip


@kernel(nogil=True)
def _smoothed(grids: Any) -> Any:
    """Medians of 3 × 3 levels: a cell half filled by a bright spot stands out against its neighbours."""
    n_frames, rows, columns = grids.shape
    smooth, padded = np.empty_like(grids), np.empty((rows + 2, columns + 2), np.float32)
    nine = np.empty((9, columns), np.float32)
    for f in range(n_frames):
        # Beyond the frame the slope goes on.
        for r in range(rows):
            for c in range(columns):
                padded[r + 1, c + 1] = grids[f, r, c]
        for c in range(1, columns + 1):
            padded[0, c] = _beyond(padded[1, c], padded[min(2, rows), c])
            padded[-1, c] = _beyond(padded[rows, c], padded[max(rows - 1, 1), c])
        for r in range(rows + 2):
            padded[r, 0] = _beyond(padded[r, 1], padded[r, min(2, columns)])
            padded[r, -1] = _beyond(padded[r, columns], padded[r, max(columns - 1, 1)])
        for r in range(rows):
            for k in range(9):
                values, above = nine[k], padded[r + k // 3, k % 3 : k % 3 + columns]
                for c in range(columns):
                    values[c] = above[c]
            for k in range(len(_NINE)):
                low, high = nine[_NINE[k, 0]], nine[_NINE[k, 1]]
                for c in range(columns):
                    low[c], high[c] = min(low[c], high[c]), max(low[c], high[c])
            for c in range(columns):
                smooth[f, r, c] = nine[4, c]
    return smooth


@inner(nogil=True)
def _beyond(last: Any, before: Any) -> Any:
    return np.float32(2) * last - before


@kernel(nogil=True)
def _fill(grids: Any) -> None:
    """Give cells without a pixel a level: joined linearly across the gap, along rows and columns (their mean).

    Some may have a level in neither their row nor their column: they are joined from those that were filled.
    """
    n_frames, rows, columns = grids.shape
    sums, n = np.empty((rows, columns)), np.empty((rows, columns), np.int64)
    for f in range(n_frames):
        grid, left = grids[f], True
        while left:
            left = False
            sums[:], n[:] = 0.0, 0
            for r in range(rows):
                _join(grid[r], sums[r], n[r])
            for c in range(columns):
                _join(grid[:, c], sums[:, c], n[:, c])
            for r in range(rows):
                for c in range(columns):
                    if n[r, c] > 0:
                        grid[r, c] = sums[r, c] / n[r, c]
                    left |= np.isnan(grid[r, c])


@inner(nogil=True)
def _join(line: Any, sums: Any, n: Any) -> None:
    """Add to `sums` what the levels of a line make of those between that are missing, and count that."""
    before = -1
    for i in range(len(line)):
        if np.isnan(line[i]):
            continue
        for k in range(before + 1, i):
            slope = (float(line[i]) - float(line[before])) / (i - before) if before >= 0 else 0.0
            start = float(line[before]) if before >= 0 else float(line[i])
            sums[k] += slope * (k - before) + start
            n[k] += 1
        before = i
    if before >= 0:
        for k in range(before + 1, len(line)):
            sums[k] += float(line[before])
            n[k] += 1


@kernel(nogil=True)
def _cell_levels(frames: Any, mask: Any, cell: int, photons: Any) -> Any:
    n_frames, height, width = frames.shape
    rows, columns = (height + cell - 1) // cell, (width + cell - 1) // cell
    grids = np.empty((n_frames, rows, columns), np.float32)
    # About 128 pixels a cell are enough: the smoothing over cells makes up for it.
    down, across = max(1, cell // 16), max(1, cell // 8)
    values = np.empty((cell // down + 1) * (cell // across + 1) + 1, np.float32)
    bits = values.view(np.uint32)
    for f in range(n_frames):
        counts, photon = frames[f], photons[f]
        for r in range(rows):
            for c in range(columns):
                n = 0
                for y in range(r * cell, min((r + 1) * cell, height), down):
                    row, ignored = counts[y, c * cell : (c + 1) * cell], mask[y, c * cell : (c + 1) * cell]
                    for x in range(0, len(row), across):
                        values[n] = row[x]
                        n += not ignored[x]
                grids[f, r, c] = _median(bits, n) if n else np.nan
                if photon > 0 and grids[f, r, c] < 3 * photon:
                    grids[f, r, c] = _cell_mean(counts, mask, r * cell, c * cell, cell, photon)
    return grids


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
    if _all_whole(values[:n]):
        least, most = _range_of(values[:n])
        if most - least < _FEW_STEPS:
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


@inner(nogil=True, fastmath={"reassoc", "nsz"})
def _all_whole(values: Any) -> Any:
    """Whether all numbers are whole ones, and none NaN."""
    broken, one, zero = np.float32(0), np.float32(1), np.float32(0)
    for i in range(len(values)):
        broken += zero if values[i] == np.floor(values[i]) else one
    return broken == zero


@inner(nogil=True, fastmath={"reassoc", "nsz", "nnan"})
def _range_of(values: Any) -> Any:
    """The least and the most of numbers, none of them NaN: the compiler may take them in any order."""
    least, most = values[0], values[0]
    for i in range(len(values)):
        least = values[i] if values[i] < least else least
        most = values[i] if values[i] > most else most
    return least, most


@inner(nogil=True, fastmath={"reassoc", "nsz"})
def _median_of_counts(values: Any, n: int, low: int, high: int) -> Any:
    """Median of `n` whole numbers between two: far fewer steps than those of all floats between these."""
    wanted, below = (n + 1) // 2, n
    used, one, zero = values[:n], np.float32(1), np.float32(0)
    while low < high:
        middle, sum_of_ones = np.float32((low + high) // 2), np.float32(0)
        for i in range(len(used)):  # as floats: eight at a time
            sum_of_ones += one if used[i] <= middle else zero
        count = int(sum_of_ones)
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
    levels_of_row(grid, cell, y, level)
    for c in range(max(1, len(level) - 1)):
        first, stop = line_ends(c, len(level), cell, len(above))
        start, slope = line_of(level, c, cell)
        # Slices, whose positions cannot be negative: compilers make vector instructions of them.
        source, x, target = counts[first:stop], columns[first:stop], above[first:stop]
        for i in range(len(target)):
            target[i] = np.float32(source[i]) - (start + slope * x[i])


@inner(nogil=True)
def line_ends(c: int, n: int, cell: int, width: int) -> tuple[int, int]:
    """Columns from which on and up to which the `c`-th straight line of `n` levels in a row holds.

    From centre to centre the level is a straight line; the first and last line go on to the frame's edge.
    """
    first = 0 if c == 0 else c * cell + cell // 2
    return first, width if c >= n - 2 else (c + 1) * cell + cell // 2


@inner(nogil=True)
def line_of(level: Any, c: int, cell: int) -> Any:
    """Value at column 0 of the frame, and slope, of the `c`-th straight line of the levels in a row."""
    return _line(level[c], level[min(c + 1, len(level) - 1)], c, cell)


@inner(nogil=True)
def levels_of_row(grid: Any, cell: int, y: int, level: Any) -> None:
    """Fill `level` with the grid's levels at row `y` of the frame."""
    rows = len(grid)
    v = (y - (cell - 1) / 2) / cell
    r = max(0, min(int(v), rows - 2))
    share, one, other = np.float32(v - r), grid[r], grid[min(r + 1, rows - 1)]
    for c in range(len(level)):
        level[c] = one[c] + share * (other[c] - one[c])


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
def sample_above(frames: Any, mask: Any, grids: Any, cell: int, step: int) -> Any:
    """Every `step`-th pixel of each frame above its background, as `levels` samples the whole image; (n, m)."""
    n_frames, height, width = frames.shape
    samples, level = np.empty((n_frames, height * width // step + 1)), np.empty(grids.shape[2], np.float32)
    ys, xs, n = np.empty(samples.shape[1], np.int64), np.empty(samples.shape[1], np.int64), 0
    for p in range(0, height * width, step):
        y, x = p // width, p % width
        if not mask[y, x]:
            ys[n], xs[n] = y, x
            n += 1
    for f in range(n_frames):
        row = -1
        for i in range(n):
            if ys[i] != row:
                row = ys[i]
                levels_of_row(grids[f], cell, row, level)
            samples[f, i] = above_level(frames[f, row, xs[i]], level, cell, xs[i])
    return samples[:, :n]
