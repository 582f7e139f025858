"""One row a disk: the maxima of noise on the flat top of a disk become its middle.

A disk has no maximum of its own: noise makes several, anywhere on its top. Each is moved to the centre of mass of the
pixels around it that are connected with it and above half of its height (in means of 3 × 3 pixels), until it stays. Of
maxima that come to lie on one disk the highest is kept.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel
from braggflow.detect.filters import Detection
from braggflow.detect.pixels import as_searched
from braggflow.detect.shapes.rings import mean_around
from braggflow.patches import median

#: Times that a centre is moved at most: mostly it stays after two or three.
_MOVES = 10


def on_disks(found: Detection, counts: NDArray[Any], mask: NDArray[np.bool_], *, size: int) -> Detection:
    """The peaks of one frame as disks: one a disk, its `y_pixel`, `x_pixel` the pixel in the disk's middle.

    Parameters
    ----------
    found : Detection
        What `detect` found.
    counts : numpy.ndarray
        The frame, shape (y, x), of any real dtype, in counts.
    mask : numpy.ndarray of bool
        Shape (y, x), True = ignore.
    size : int
        Side of the square around a maximum in which a disk and some background beside it lie, pixels, odd.

    Returns
    -------
    Detection
        The rows that are kept, of a disk that of its highest maximum, sorted by (y_pixel, x_pixel); other columns are
        those of the maximum. `removed` counts the others as ``disk``.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.config import DetectConfig
    >>> from braggflow.detect import detect, on_disks
    >>> y, x = np.mgrid[:48, :48]
    >>> expected = np.where(np.hypot(y - 20, x - 30) < 4, 400, 4)
    >>> frame, mask = np.random.default_rng(0).poisson(expected), np.zeros(expected.shape, bool)
    >>> disks = on_disks(detect(frame, mask, DetectConfig(minval=40, minscore=20)), frame, mask, size=15)
    >>> disks.table[["y_pixel", "x_pixel"]].tolist()
    [(20, 30)]
    """
    counts, mask = as_searched(counts, mask)
    table = found.table.copy()
    if not len(table):
        return replace(found, removed={**found.removed, "disk": 0})
    ys, xs, radius = _middles(
        counts, mask, np.ascontiguousarray(table["y_pixel"]), np.ascontiguousarray(table["x_pixel"]), size // 2
    )
    order = np.lexsort((table["x_pixel"], table["y_pixel"], table["birth"]))[::-1]  # ties as everywhere: the later one
    kept = _highest_of_each(ys, xs, radius, order)
    table["y_pixel"], table["x_pixel"] = np.rint(ys), np.rint(xs)
    table = table[kept]
    removed = {**found.removed, "disk": int(np.count_nonzero(~kept))}
    return replace(found, table=table[np.lexsort((table["x_pixel"], table["y_pixel"]))], removed=removed)


@kernel(nogil=True)
def _middles(counts: Any, mask: Any, ys: Any, xs: Any, half: int) -> Any:
    """Centre (y, x) and radius of the disk around each maximum, pixels."""
    n, size = len(ys), 2 * half + 1
    y, x, radius = np.empty(n), np.empty(n), np.empty(n)
    smooth = np.empty((size, size))
    border, stack = np.empty(4 * size), np.empty(size * size, np.int64)
    for k in range(n):
        y[k], x[k], radius[k] = ys[k], xs[k], 0.0
        cy, cx = ys[k], xs[k]
        for _ in range(_MOVES):
            _smooth_window(counts, mask, cy - half, cx - half, smooth)
            sy, sx, area = _middle(smooth, border, stack)
            if area == 0:
                break
            my, mx = cy - half + sy / area, cx - half + sx / area
            if max(abs(my - ys[k]), abs(mx - xs[k])) > half:  # what it lies on is no disk of this size
                break
            y[k], x[k], radius[k] = my, mx, math.sqrt(area / math.pi)
            if int(np.rint(my)) == cy and int(np.rint(mx)) == cx:
                break
            cy, cx = int(np.rint(my)), int(np.rint(mx))
    return y, x, radius


@inner(nogil=True)
def _smooth_window(counts: Any, mask: Any, top: int, left: int, smooth: Any) -> None:
    """`mean_around` the pixels of a window of the frame, NaN where there is none."""
    for j in range(len(smooth)):
        for i in range(len(smooth)):
            mean = mean_around(counts, mask, top + j, left + i)
            smooth[j, i] = mean if mean > -np.inf else np.nan


@inner(nogil=True)
def _middle(smooth: Any, border: Any, stack: Any) -> Any:
    """Sums of the coordinates, and number, of pixels connected with the window's centre above half of its height."""
    size = len(smooth)
    half, last = size // 2, size - 1
    m = 0
    for j in range(size):
        for i in range(0, size, 1 if j in (0, last) else last):
            if not np.isnan(smooth[j, i]):
                border[m] = smooth[j, i]
                m += 1
    level = median(border[:m])
    highest, start = -np.inf, -1
    for j in range(half - 1, half + 2):
        for i in range(half - 1, half + 2):
            if smooth[j, i] > highest:
                highest, start = smooth[j, i], j * size + i
    if start < 0 or not highest > level:
        return 0.0, 0.0, 0
    threshold = level + 0.5 * (highest - level)
    sy, sx, area, waiting = 0.0, 0.0, 0, 1
    stack[0] = start
    smooth[start // size, start % size] = np.nan  # seen
    while waiting > 0:
        waiting -= 1
        j, i = stack[waiting] // size, stack[waiting] % size
        sy, sx, area = sy + j, sx + i, area + 1
        for jj in range(max(j - 1, 0), min(j + 2, size)):
            for ii in range(max(i - 1, 0), min(i + 2, size)):
                if smooth[jj, ii] > threshold:
                    smooth[jj, ii] = np.nan
                    stack[waiting] = jj * size + ii
                    waiting += 1
    return sy, sx, area


@kernel(nogil=True)
def _highest_of_each(y: Any, x: Any, radius: Any, order: Any) -> Any:
    """Which maxima are kept, from the highest (first in `order`) down: those on no disk of a higher one."""
    kept = np.zeros(len(y), np.bool_)
    for k in range(len(order)):
        one = order[k]
        kept[one] = True
        for m in range(k):
            other = order[m]
            # Two that rest half a pixel apart are one, however small.
            reach = max(radius[other], 1.0)
            if kept[other] and (y[one] - y[other]) ** 2 + (x[one] - x[other]) ** 2 <= reach * reach:
                kept[one] = False
                break
    return kept
