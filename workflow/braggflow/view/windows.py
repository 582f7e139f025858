"""What of an image is sent to a page: the window that it shows, with no more pixels than its screen has.

Pixels that share a place on the screen are drawn by the highest of them, so that no spot vanishes (as in the report).
"""

from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
#: Reductions of a picture that are kept.
_KEPT = 4
_NUMBERS = count()


class Extent(NamedTuple):
    """A part of the detector in its pixels; pixel centres are whole numbers, so that the first one begins at -0.5."""

    top: float
    bottom: float
    left: float
    right: float


class Window(NamedTuple):
    """A part of an image, reduced, and where it lies."""

    image: Image
    """(rows, columns), the first row on top; NaN where all pixels are ignored."""
    extent: Extent
    factor: int
    """Pixels of the image along each side of one of these."""


class Picture:
    """An image (y, x) of `bin` × `bin` detector pixels each, NaN where ignored, and what its windows show."""

    def __init__(self, image: Image, bin: int = 1) -> None:  # noqa: A002 - the configuration's word
        self.image, self.bin = image, bin
        self._kept: dict[int, Image] = {}
        self.number = next(_NUMBERS)
        """Of no other picture, also of none that is gone."""

    @property
    def extent(self) -> Extent:
        """All of it."""
        rows, columns = self.image.shape
        return Extent(-0.5, rows * self.bin - 0.5, -0.5, columns * self.bin - 0.5)

    def window(self, shown: Extent, height: int, width: int) -> Window:
        """What a screen of `height` × `width` pixels sees of the part `shown`, which may reach beyond the image."""
        tall, wide = ((end - start) / self.bin for start, end in ((shown.top, shown.bottom), (shown.left, shown.right)))
        factor = max(1, int(np.ceil(max(tall / max(height, 1), wide / max(width, 1)) - 1e-9)))
        image = self._reduced(factor)
        size = factor * self.bin
        top, bottom = _cells(shown.top, shown.bottom, size, image.shape[0])
        left, right = _cells(shown.left, shown.right, size, image.shape[1])
        edges = (edge * size - 0.5 for edge in (top, bottom, left, right))
        return Window(image[top:bottom, left:right], Extent(*edges), factor)

    def _reduced(self, factor: int) -> Image:
        if factor not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[factor] = reduced(self.image, factor)
        return self._kept[factor]


def reduced(image: Image, factor: int) -> Image:
    """The highest of each `factor` × `factor` pixels, fewer at the far edges; NaN where all of them are."""
    if factor == 1:
        return image
    rows, columns = (-(-n // factor) for n in image.shape)
    padded = image
    if image.shape != (rows * factor, columns * factor):
        padded = np.full((rows * factor, columns * factor), np.nan, np.float32)
        padded[: image.shape[0], : image.shape[1]] = image
    tall = np.fmax.reduce([padded[i::factor] for i in range(factor)])
    return np.asarray(np.fmax.reduce([tall[:, i::factor] for i in range(factor)]))


def covered(mask: NDArray[np.bool_], window: Window) -> NDArray[np.bool_]:
    """Which pixels of a window hold a masked pixel of the detector; shaped as the window's image."""
    rows, columns = window.image.shape
    extent = window.extent
    size = round((extent.bottom - extent.top) / rows)
    top, left = round(extent.top + 0.5), round(extent.left + 0.5)
    part = mask[top : top + rows * size, left : left + columns * size].astype(np.float32)
    found = np.zeros((rows, columns), bool)
    small = reduced(part, size) > 0
    found[: small.shape[0], : small.shape[1]] = small
    return found


def _cells(start: float, end: float, size: int, n: int) -> tuple[int, int]:
    """The first cell that reaches into (start, end), and the one after the last: at least one."""
    first = min(max(int(np.floor((start + 0.5) / size)), 0), n - 1)
    return first, min(max(int(np.ceil((end + 0.5) / size)), first + 1), n)
