"""A whole series as one image: highest, mean, median and variance of each pixel over frames spread evenly over it."""

from collections.abc import Callable

import numpy as np

from braggflow.errors import InputError
from braggflow.frames import UNREADABLE, OpenedSeries
from braggflow.view.windows import Image

#: What can be asked for, with what a page calls it.
PROJECTIONS = {
    "maximum": "highest of the series",
    "mean": "mean of the series",
    "median": "median of the series",
    "variance": "variance over the series",
}
#: Frames that are read, and those whose median is taken (all of them are in memory at once), at most.
_FRAMES, _OF_MEDIAN = 64, 15
#: Pixels that are read at most: of 4096 × 4096 pixels 12 frames.
_PIXELS = 200_000_000


def projected(
    opened: OpenedSeries, kind: str, *, told: Callable[[int, int], None] = lambda _done, _all: None
) -> tuple[Image, int]:
    """An image (y, x) in counts after correction, NaN where a pixel is ignored in every frame; and the frames read.

    `told` hears how many frames are done. Raises `InputError` where no frame can be read, and for another `kind`.
    """
    if kind not in PROJECTIONS:
        raise InputError(f"projection: {kind!r} is not accepted; accepted: {', '.join(PROJECTIONS)}")
    size = int(np.prod(opened.data["frames"].shape[1:]))
    there = [position for position in range(len(opened.numbers)) if position not in opened.missing]
    n = min(len(there), _OF_MEDIAN if kind == "median" else _FRAMES, max(3, _PIXELS // size))
    chosen = [there[i] for i in np.unique(np.linspace(0, len(there) - 1, n).round().astype(int))] if there else []
    sums = _Sums(kind)
    reason = "none was ever written"
    for done, position in enumerate(chosen):
        try:
            frame = opened.corrected(opened.raw(position))
        except UNREADABLE as error:
            reason = f"frame {opened.numbers[position]}: {error}"
            continue
        sums.add(np.where(frame.mask, np.float32(np.nan), frame.counts).astype(np.float32))
        told(done + 1, len(chosen))
    if not sums.n:
        raise InputError(f"frames: none can be read ({reason})")
    return sums.result(), sums.n


class _Sums:
    """What is kept of the frames that were read."""

    def __init__(self, kind: str) -> None:
        self.kind, self.n = kind, 0
        self._kept: list[Image] = []
        self._mean: Image = np.zeros((0, 0), np.float32)
        self._squares = self._seen = self._mean

    def add(self, image: Image) -> None:
        self.n += 1
        if self.kind in ("median", "maximum"):
            self._kept.append(image)
            if self.kind == "maximum":
                self._kept = [np.fmax.reduce(self._kept)]
            return
        if self.n == 1:
            self._mean, self._squares, self._seen = (np.zeros(image.shape, np.float32) for _ in range(3))
        valid = np.isfinite(image)
        self._seen += valid
        step = np.where(valid, image - self._mean, 0)  # B. P. Welford, Technometrics 4, 419 (1962)
        self._mean += step / np.maximum(self._seen, 1)
        self._squares += step * np.where(valid, image - self._mean, 0)

    def result(self) -> Image:
        if self.kind == "maximum":
            return self._kept[0]
        if self.kind == "median":
            return _median(self._kept)
        value = self._mean if self.kind == "mean" else self._squares / np.maximum(self._seen - 1, 1)
        return np.where(self._seen > 0, value, np.float32(np.nan)).astype(np.float32)


def _median(images: list[Image], rows_at_once: int = 64) -> Image:
    """Band by band, so that no second copy of all frames is made."""
    result = np.empty(images[0].shape, np.float32)
    for start in range(0, len(result), rows_at_once):
        band = np.stack([image[start : start + rows_at_once] for image in images])
        ordered = np.sort(band, axis=0)  # NaN last
        n = np.isfinite(band).sum(axis=0)
        low, high = (np.take_along_axis(ordered, np.maximum(at, 0)[None], 0)[0] for at in ((n - 1) // 2, n // 2))
        result[start : start + rows_at_once] = np.where(n > 0, (low + high) / 2, np.nan)
    return result
