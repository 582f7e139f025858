"""Which maxima lie on a ridge: a part of a powder ring, an arc, a streak.

A peak that is cut at half of its height is a spot, about as long as wide, whatever its tails, and whatever else its
foreground is connected with. A ridge cut there is long: that of a ring goes on as far as one looks. So each maximum is
judged by the pixels connected with it above half of its own height: how long they are, along their own course, and how
wide on average. What rises above a ridge by more than the ridge's own level is a spot by this rule. What lies at the
foot of something higher is a spot too: peaks that touch make long foregrounds as well, but of uneven height.

Pixels are means of 3 × 3, which makes one piece of a noisy ridge, and are looked at out to `REACH` pixels from the
maximum. The cost is that of the pixels above half of each maximum, 0.1 ms for one on a ring: nothing is done for the
frame as a whole. Ridges much wider than a sixth of `REACH` are background, not ridges.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel
from braggflow.detect.noise import is_free, square
from braggflow.detect.pixels import as_searched

#: How far from a maximum its ridge is followed, pixels along either axis.
REACH = 32
#: A ridge is at least so many pixels long, and so many times as long as wide: an ellipse of axis ratio r is 1.3 r times
#: as long as its mean width, a chain of three peaks up to 4 times, a streak of 20 × 3 pixels 5.2 times or more.
MIN_LENGTH, MIN_RATIO = 14.0, 5.0
#: Nowhere is a ridge higher than so many times the height of a maximum that lies on it: noise makes 1.4.
MAX_HIGHER = 1.5
#: The cut is at least so many times the noise of a mean of 3 × 3 pixels above the background.
_LEAST_NOISE = 2.0
#: Half the side of a square around a maximum that its ridge leaves, and the share of the maximum's height that a pixel
#: of it has there, noise or not.
_CROSSED, _FAINT = 6, 0.35
# Steps along and across a pixel's diagonal, in units of a fifth of a pixel (Borgefors, 1986, CVGIP 34, 344: 5-7).
_UNIT, _STRAIGHT, _DIAGONAL = 5, 5, 7
# A ridge in the window is at most about 1.5 times as long as that, and covers no more pixels than this.
_MOST_PIXELS = int((1.5 * (2 * REACH + 1)) ** 2 / MIN_RATIO)
# Marks of pixels in place of a distance.
_UNSEEN, _BELOW = -1, -2


def arcs(
    counts: NDArray[Any],
    mask: NDArray[np.bool_],
    y_pixel: NDArray[np.integer[Any]],
    x_pixel: NDArray[np.integer[Any]],
    level: NDArray[np.floating[Any]],
    noise: NDArray[np.floating[Any]],
) -> NDArray[np.int64]:
    """For each maximum of one frame the highest maximum of the ridge that it lies on.

    Parameters
    ----------
    counts : numpy.ndarray
        The frame, shape (y, x), of any real dtype, in counts.
    mask : numpy.ndarray of bool
        Shape (y, x), True = ignore.
    y_pixel, x_pixel : numpy.ndarray of int
        Shape (n,): pixels of the maxima, in any order.
    level, noise : numpy.ndarray of float
        Shape (n,): the background that each maximum stands on, in counts of `counts`, and the standard deviation of a
        pixel of it.

    Returns
    -------
    numpy.ndarray of int64
        Shape (n,). Position in the given order of the highest maximum (in means of 3 × 3 pixels) of the same ridge, or
        part of a ridge; that maximum's own position for itself; -1 for a maximum on no ridge. So ``arc >= 0`` are the
        maxima on ridges, and ``(arc < 0) | (arc == numpy.arange(n))`` keeps one of each.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.detect import arcs
    >>> y, x = np.mgrid[:96, :96]
    >>> ring = 100 * np.exp(-((np.hypot(y - 48, x - 48) - 30) ** 2) / 3)
    >>> spot = 100 * np.exp(-((y - 48) ** 2 + (x - 50) ** 2) / 3)
    >>> frame = np.random.default_rng(0).poisson(5 + ring + spot)
    >>> maxima = np.array([[18, 48], [48, 18], [48, 50]])  # two on the ring, one inside
    >>> level, noise = np.full(3, 5.0), np.full(3, 2.2)
    >>> (arcs(frame, np.zeros(frame.shape, bool), *maxima.T, level, noise) >= 0).tolist()
    [True, True, False]
    """
    counts, mask = as_searched(counts, mask)
    order = np.lexsort((x_pixel, y_pixel))
    found: NDArray[np.int64] = _arcs(
        counts[None],
        mask,
        np.array([len(order)]),
        np.ascontiguousarray(y_pixel[order], np.int64),
        np.ascontiguousarray(x_pixel[order], np.int64),
        np.ascontiguousarray(level[order], np.float64),
        np.ascontiguousarray(noise[order], np.float64),
    )
    result = np.empty(len(order), np.int64)
    result[order] = np.where(found >= 0, order[found], -1)
    return result


def on_ridges(
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    frame: NDArray[np.integer[Any]],
    y_pixel: NDArray[np.integer[Any]],
    x_pixel: NDArray[np.integer[Any]],
    level: NDArray[np.floating[Any]],
    noise: NDArray[np.floating[Any]],
) -> NDArray[np.bool_]:
    """Which maxima (m,) of a stack (n, y, x) lie on a ridge; they are in order of (frame, y, x), each once.

    `mask`, `level` and `noise` are as for `arcs`.
    """
    stops = np.searchsorted(frame, np.arange(len(frames)), "right")
    places = (np.ascontiguousarray(each, np.int64) for each in (y_pixel, x_pixel))
    values = (np.ascontiguousarray(each, np.float64) for each in (level, noise))
    return np.asarray(_arcs(frames, mask, stops, *places, *values) >= 0)


@kernel(nogil=True)
def _arcs(frames: Any, mask: Any, stops: Any, ys: Any, xs: Any, level: Any, noise: Any) -> Any:
    """As `arcs`, of maxima in order of (frame, y, x), of which `stops` (n,) says where those of each frame end."""
    side = 2 * REACH + 1
    distance, queue = np.full((side, side), _UNSEEN, np.int64), np.empty(side * side * 4, np.int64)
    pixels = np.empty(side * side, np.int64)
    arc, start = np.full(len(ys), -1, np.int64), 0
    for f in range(len(stops)):
        stop = stops[f]
        if stop > start:
            _arcs_of_frame(
                frames[f],
                mask,
                start,
                ys[start:stop],
                xs[start:stop],
                level[start:stop],
                noise[start:stop],
                distance,
                queue,
                pixels,
                arc[start:stop],
            )
        start = stop
    return arc


@inner(nogil=True)
def _arcs_of_frame(
    counts: Any,
    mask: Any,
    start: int,
    ys: Any,
    xs: Any,
    level: Any,
    noise: Any,
    distance: Any,
    queue: Any,
    pixels: Any,
    arc: Any,
) -> None:
    """Fill `arc`, whose first maximum is at `start` of all; `distance` is `_UNSEEN` everywhere, before and after."""
    n, side = len(ys), 2 * REACH + 1
    height = np.empty(n)
    on = np.zeros(n, np.bool_)
    joined = np.arange(n)  # union-find over maxima, whose root is the highest
    # Pairs of a maximum on a ridge and another one above its cut: the other may turn out to be a peak.
    pairs, m = np.empty((1024, 2), np.int64), 0
    first = 0
    for k in range(n):
        top, left = ys[k] - REACH, xs[k] - REACH
        height[k] = _highest_near(counts, mask, ys[k], xs[k])
        cut = level[k] + max(0.5 * (height[k] - level[k]), _LEAST_NOISE * noise[k] / 3)
        most = level[k] + MAX_HIGHER * (height[k] - level[k])
        area, seen, even = 0, 0, False
        if _reaches(counts, mask, ys[k], xs[k], level[k] + _FAINT * (height[k] - level[k])):
            area, seen, even = _flood(counts, mask, top, left, cut, most, distance, pixels)
        # A line of fewer pixels is too short, however thin.
        if even and area >= MIN_LENGTH:
            length = _length(distance, pixels, area, queue) / _UNIT + 1
            on[k] = length >= MIN_LENGTH and length * length >= MIN_RATIO * area
        while first < n and ys[first] < top:
            first += 1
        other = first
        while on[k] and other < n and ys[other] <= ys[k] + REACH:
            i = xs[other] - left
            if other != k and 0 <= i < side and distance[ys[other] - top, i] >= 0:
                if m == len(pairs):
                    pairs = np.concatenate((pairs, np.empty_like(pairs)))
                pairs[m, 0], pairs[m, 1] = k, other
                m += 1
            other += 1
        for p in range(area):
            distance[pixels[p] // side, pixels[p] % side] = _UNSEEN
        for p in range(len(pixels) - seen, len(pixels)):
            distance[pixels[p] // side, pixels[p] % side] = _UNSEEN
    for p in range(m):
        one, other = pairs[p]
        if on[other]:
            one, other = _root(joined, one), _root(joined, other)
            if height[one] < height[other] or (height[one] == height[other] and one < other):
                one, other = other, one
            joined[other] = one
    for k in range(n):
        if on[k]:
            arc[k] = start + _root(joined, k)


@inner(nogil=True)
def _root(joined: Any, k: int) -> int:
    while joined[k] != k:
        k = joined[k]
    return k


@inner(nogil=True)
def mean_around(counts: Any, mask: Any, y: int, x: int) -> float:
    """Mean of the unmasked pixels of the 3 × 3 around a pixel; minus infinity beyond the frame and without any.

    So ridges and disks go on across a gap of one or two pixels.
    """
    height, width = counts.shape
    if 1 <= y < height - 1 and 1 <= x < width - 1 and is_free(mask, y, x):
        return float(square(counts, y, x) / 9)
    if y < 0 or x < 0 or y >= height or x >= width:
        return -np.inf
    s, m = 0.0, 0
    for j in range(max(y - 1, 0), min(y + 2, height)):
        for i in range(max(x - 1, 0), min(x + 2, width)):
            if not mask[j, i]:
                s += counts[j, i]
                m += 1
    return s / m if m > 0 else -np.inf


@inner(nogil=True)
def _reaches(counts: Any, mask: Any, y: int, x: int, least: float) -> bool:
    """Whether a pixel, or none that could say otherwise, is as high on the border of a square that a ridge crosses."""
    for j in range(max(y - _CROSSED, 0), min(y + _CROSSED + 1, counts.shape[0])):
        step = 1 if abs(j - y) == _CROSSED else 2 * _CROSSED
        for i in range(x - _CROSSED, x + _CROSSED + 1, step):
            if 0 <= i < counts.shape[1] and (mask[j, i] or counts[j, i] >= least):
                return True
    return False


@inner(nogil=True)
def _highest_near(counts: Any, mask: Any, y: int, x: int) -> float:
    highest = -np.inf
    for j in range(y - 1, y + 2):
        for i in range(x - 1, x + 2):
            highest = max(highest, mean_around(counts, mask, j, i))
    return highest


@inner(nogil=True)
def _flood(
    counts: Any, mask: Any, top: int, left: int, cut: float, most: float, distance: Any, pixels: Any
) -> tuple[int, int, bool]:
    """Fill `pixels` from the front with those of the window above the cut that are connected with its middle.

    From the back it is filled with those below the cut beside them. Returns how many of each, and whether it came to an
    end: False as soon as one is higher than `most`, or there are more than of any ridge. `distance` is 0 for those
    above, `_BELOW` for those below.
    """
    side = len(distance)
    n, below, k = 0, 0, 0
    # From the maximum and its neighbours: the mean of 3 × 3 may have its own maximum beside it.
    y, x = REACH, REACH
    while True:
        for j in range(max(y - 1, 0), min(y + 2, side)):
            for i in range(max(x - 1, 0), min(x + 2, side)):
                if distance[j, i] != _UNSEEN:
                    continue
                mean = mean_around(counts, mask, top + j, left + i)
                if mean >= cut:
                    distance[j, i] = 0
                    pixels[n] = j * side + i
                    n += 1
                else:
                    distance[j, i] = _BELOW
                    below += 1
                    pixels[-below] = j * side + i
                if mean > most or n > _MOST_PIXELS:
                    return n, below, False
        if k == n:
            return n, below, True
        y, x = pixels[k] // side, pixels[k] % side
        k += 1


@inner(nogil=True)
def _length(distance: Any, pixels: Any, area: int, queue: Any) -> int:
    """Length of the flooded pixels along their own course: the way between those furthest apart, within them."""
    side = len(distance)
    start = pixels[0]
    longest = 0
    for _ in range(2):
        for p in range(area):
            distance[pixels[p] // side, pixels[p] % side] = 2**40
        distance[start // side, start % side] = 0
        # Distances are corrected until none becomes shorter; a ring of places holds the pixels to look at again.
        queue[0], head, waiting = start, 0, 1
        while waiting > 0:
            y, x = queue[head] // side, queue[head] % side
            head, waiting = (head + 1) % len(queue), waiting - 1
            for j in range(max(y - 1, 0), min(y + 2, side)):
                for i in range(max(x - 1, 0), min(x + 2, side)):
                    step = distance[y, x] + (_DIAGONAL if j != y and i != x else _STRAIGHT)
                    if step < distance[j, i] and waiting < len(queue):
                        distance[j, i] = step
                        queue[(head + waiting) % len(queue)] = j * side + i
                        waiting += 1
        longest = 0
        for p in range(area):
            d = distance[pixels[p] // side, pixels[p] % side]
            if d >= longest:
                longest, start = d, pixels[p]
    return longest
