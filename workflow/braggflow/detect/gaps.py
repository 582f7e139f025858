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
    masked = np.flatnonzero(mask)
    if len(masked) == 0:
        return masked, np.empty(0, np.float32), np.zeros(len(images), np.int64)
    found = [_bridge(image, mask, masked) for image in images]
    pixels, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return pixels, values, np.cumsum([len(part) for part, _ in found])


@kernel(nogil=True)
def _bridge(image: Any, mask: Any, masked: Any) -> Any:
    width = image.shape[1]
    pixels, values = np.empty_like(masked), np.empty(len(masked), np.float32)
    n = 0
    for p in masked:
        y, x = p // width, p % width
        value = max(_line(image, mask, y, x, 0, 1), _line(image, mask, y, x, 1, 0))
        if value > -np.inf:
            pixels[n], values[n] = p, value
            n += 1
    return _with_crossings(pixels[:n], values[:n], mask)


@inner(nogil=True)
def _line(image: Any, mask: Any, y: int, x: int, dy: int, dx: int) -> float:
    """The line between the unmasked pixels on either side of a gap along (dy, dx); -inf where it is too wide."""
    before, after = 1, 1
    while before <= WIDEST and _masked(mask, y - before * dy, x - before * dx):
        before += 1
    while after <= WIDEST and _masked(mask, y + after * dy, x + after * dx):
        after += 1
    if before + after - 1 > WIDEST:
        return -np.inf
    one_y, one_x, other_y, other_x = y - before * dy, x - before * dx, y + after * dy, x + after * dx
    if one_y < 0 or one_x < 0 or other_y >= mask.shape[0] or other_x >= mask.shape[1]:
        return -np.inf  # beyond the frame there is no other side
    one, other = float(image[one_y, one_x]), float(image[other_y, other_x])
    return one + (other - one) * before / (before + after)


@inner(nogil=True)
def _masked(mask: Any, y: int, x: int) -> bool:
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


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
