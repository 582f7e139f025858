"""Narrow gaps of a mask: what their pixels may have held, so that the search for maxima goes across them.

A spot that is cut by a missing column has two maxima, one on either side, and is one spot. Pixels in a gap of up to
`WIDEST` are given the straight line between those on either side of it: no more than the higher of these, so that a
maximum never lies in a gap. Wider gaps stay walls.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel

#: Pixels of the widest gap that is bridged.
WIDEST = 2


def bridges(
    images: NDArray[Any], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Flat indices (ascending in each image) and values of the masked pixels that are bridged, and where images end.

    `images` (n, y, x), `mask` (y, x). A gap may run along rows or columns; where it does both (a lone dead pixel), the
    higher of the two lines holds, so that a ridge is not cut. Where a missing row meets a missing column, the pixels in
    both are joined from those bridged beside them.
    """
    pixels, sides, ways = _spans(mask, np.flatnonzero(mask))
    if len(pixels) == 0:
        return pixels, np.empty(0, np.float32), np.zeros(len(images), np.int64)
    found = [_with_crossings(pixels, _values(image.ravel(), sides, ways), mask) for image in images]
    all_pixels, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return all_pixels, values, np.cumsum([len(part) for part, _ in found])


@kernel(nogil=True)
def _spans(mask: Any, masked: Any) -> Any:
    """Which of the masked pixels are bridged, between which pixels, and how far along the way between them each is.

    Sides are flat indices (m, along x and y, before and after); ways are pixels (m, along x and y, from the one before
    and of all), 0 where a gap is too wide that way.
    """
    height, width = mask.shape
    ignored = mask.ravel()
    pixels = np.empty_like(masked)
    sides, ways = np.empty((len(masked), 2, 2), np.int64), np.empty((len(masked), 2, 2), np.int64)
    n, y = 0, 0
    for p in masked:
        while p >= (y + 1) * width:
            y += 1
        across, down = _gap(ignored, p, 1, p - y * width, width), _gap(ignored, p, width, y, height)
        if across[0] == 0 and down[0] == 0:
            continue
        pixels[n] = p
        for k, (before, after), step in ((0, across, 1), (1, down, width)):
            sides[n, k, 0], sides[n, k, 1] = p - before * step, p + after * step
            ways[n, k, 0], ways[n, k, 1] = before, before + after
        n += 1
    return pixels[:n], sides[:n], ways[:n]


@inner(nogil=True)
def _gap(ignored: Any, p: int, step: int, at: int, length: int) -> tuple[int, int]:
    """How far the unmasked pixels on either side of a gap are along a line; 0 if it is too wide, or the line ends.

    `ignored` is flat; pixel `p` is at `at` of the `length` pixels of the line, which are `step` apart.
    """
    before, after = 1, 1
    while before <= WIDEST and at >= before and ignored[p - before * step]:
        before += 1
    while before + after <= WIDEST + 1 and at + after < length and ignored[p + after * step]:
        after += 1
    if before + after > WIDEST + 1 or at < before or at + after >= length:
        return 0, 0
    return before, after


@kernel(nogil=True)
def _values(counts: Any, sides: Any, ways: Any) -> Any:
    """The higher of the lines across each pixel; `counts` is flat."""
    values = np.empty(len(sides), np.float32)
    for i in range(len(sides)):
        value = -np.inf
        for k in range(2):
            if ways[i, k, 0] > 0:
                one, other = float(counts[sides[i, k, 0]]), float(counts[sides[i, k, 1]])
                value = max(value, one + (other - one) * ways[i, k, 0] / ways[i, k, 1])
        values[i] = value
    return values


@kernel(nogil=True)
def _with_crossings(pixels: Any, values: Any, mask: Any) -> Any:
    """The bridged pixels, and those between two of a row with nothing but one or two masked ones between them."""
    n, more = len(pixels), 0
    for i in range(1, n):
        more += _between(pixels, i, mask)
    if more == 0:
        return pixels, values
    all_pixels, all_values = np.empty(n + more, np.int64), np.empty(n + more, np.float32)
    m = 0
    for i in range(n):
        missing = _between(pixels, i, mask) if i > 0 else 0
        for j in range(missing):
            all_pixels[m] = pixels[i - 1] + 1 + j
            all_values[m] = values[i - 1] + (values[i] - values[i - 1]) * (j + 1) / (missing + 1)
            m += 1
        all_pixels[m], all_values[m] = pixels[i], values[i]
        m += 1
    return all_pixels, all_values


@kernel(nogil=True)
def _between(pixels: Any, i: int, mask: Any) -> int:
    """How many pixels lie between bridged pixel `i` and the one before, where all of them are masked; else 0."""
    width = mask.shape[1]
    missing = pixels[i] - pixels[i - 1] - 1
    if missing < 1 or missing > WIDEST or pixels[i] // width != pixels[i - 1] // width:
        return 0
    y, x = pixels[i] // width, pixels[i] % width
    for j in range(1, missing + 1):
        if not mask[y, x - j]:
            return 0
    return int(missing)
