"""The square of pixels around each maximum, and what can be measured in it directly.

Rules, the same for every stage that follows:

- A pixel is **missing** where it lies beyond the frame, is masked, or (with `neighbours: exclude`) is nearer to another
  detected maximum than to the patch's own. Missing pixels are not usable: fits and sums leave them out. For networks,
  which need a full square, each is filled with its mirror image through the maximum (a Bragg peak is nearly
  point-symmetric), or with the background level where the mirror image is missing too.
- A **saturated** pixel keeps its counts but is not usable.
- Each rule that touched a patch sets the peak's flag.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from braggflow import peaks
from braggflow.config import PatchesConfig
from braggflow.frames import CorrectedFrame
from braggflow.peaks import Flag

# numba reads module constants as numbers.
_EDGE, _MASKED, _SATURATED, _OVERLAP = int(Flag.edge), int(Flag.masked), int(Flag.saturated), int(Flag.overlap)
# A pixel's state: fits and sums leave out the full (saturated) ones, and the missing ones are filled for networks.
_USABLE, _FULL, _MISSING = 0, 1, 2
#: The centroid weighs counts above this share of the maximum: the tails would draw it to the patch's centre.
_CENTROID_LEVEL = 0.2


@dataclass(frozen=True, slots=True)
class Patches:
    """Patches of n peaks, in the order of their table."""

    counts: NDArray[np.float32]
    """(n, size, size) detector counts, missing pixels filled."""
    usable: NDArray[np.bool_]
    """(n, size, size), False where a pixel is missing or saturated."""
    centroid: NDArray[np.float64]
    """(n, 2) centre of mass (y, x) in patch coordinates (0 is the first pixel's centre); NaN without counts above the
    background."""


def empty(config: PatchesConfig) -> Patches:
    """No patches, of the configured size."""
    shape = (0, config.size, config.size)
    return Patches(np.empty(shape, np.float32), np.empty(shape, bool), np.empty((0, 2)))


def select(patches: Patches, kept: NDArray[np.bool_]) -> Patches:
    """The patches where `kept` (n,) is True."""
    return Patches(patches.counts[kept], patches.usable[kept], patches.centroid[kept])


def concatenate(patches: Sequence[Patches]) -> Patches:
    """Join the patches of several frames (at least one) in the order given."""
    return Patches(
        counts=np.concatenate([p.counts for p in patches]),
        usable=np.concatenate([p.usable for p in patches]),
        centroid=np.concatenate([p.centroid for p in patches]),
    )


def cut(frame: CorrectedFrame, table: peaks.Table, config: PatchesConfig) -> tuple[Patches, peaks.Table]:
    """Cut a patch at every peak of one frame and measure it.

    `table` holds the frame's peaks, sorted by (y_pixel, x_pixel), in pixels of `frame`. Returns the patches and a copy
    of the table with `flags`, `intensity` and `snr` set. Counts are taken from the corrected frame before background
    subtraction, so that their noise is still the detector's. The background level is the median of the patch's usable
    border pixels; the noise of `intensity` is that of its own counts (Poisson) and of the background.
    """
    ys, xs = np.ascontiguousarray(table["y_pixel"]), np.ascontiguousarray(table["x_pixel"])
    saturated = np.zeros((1, 1), bool) if frame.saturated is None else frame.saturated
    counts, state, flags = _gather(
        frame.counts,
        frame.mask,
        saturated,
        frame.saturated is not None,
        frame.saturation,
        ys,
        xs,
        config.size,
    )
    _mark_neighbours(ys, xs, config.neighbours == "exclude", state, flags)
    intensity, noise, centroid = _measure(counts, state)
    measured = table.copy()
    measured["intensity"] = intensity
    measured["snr"] = np.divide(intensity, noise, out=np.zeros_like(intensity), where=noise > 0)
    measured["flags"] = flags
    measured["flags"][measured["snr"] < config.low_snr] |= np.uint16(Flag.low_snr)
    return Patches(counts, state == _USABLE, centroid), measured


@nb.njit(cache=True, nogil=True)
def _gather(
    image: Any, mask: Any, saturated: Any, any_saturated: bool, saturation: float, ys: Any, xs: Any, size: int
) -> tuple[Any, Any, Any]:
    n, half = len(ys), size // 2
    height, width = image.shape
    counts = np.zeros((n, size, size), np.float32)
    state = np.full((n, size, size), _USABLE, np.uint8)
    flags = np.zeros(n, np.uint16)
    for i in range(n):
        for j in range(size):
            for k in range(size):
                y, x = ys[i] + j - half, xs[i] + k - half
                if y < 0 or x < 0 or y >= height or x >= width:
                    flags[i] |= _EDGE
                    state[i, j, k] = _MISSING
                elif mask[y, x]:
                    flags[i] |= _MASKED
                    state[i, j, k] = _MISSING
                else:
                    counts[i, j, k] = image[y, x]
                    if image[y, x] >= saturation or (any_saturated and saturated[y, x]):
                        flags[i] |= _SATURATED
                        state[i, j, k] = _FULL
    return counts, state, flags


@nb.njit(cache=True, nogil=True)
def _mark_neighbours(ys: Any, xs: Any, exclude: bool, state: Any, flags: Any) -> None:
    n, size = len(ys), state.shape[1]
    half = size // 2
    first = 0
    for i in range(n):
        # Peaks are sorted by row: those whose maxima can own pixels of this patch are a short run around it.
        while ys[first] < ys[i] - 2 * half:
            first += 1
        other = first
        while other < n and ys[other] <= ys[i] + 2 * half:
            dy, dx = ys[other] - ys[i], xs[other] - xs[i]
            if other != i and abs(dx) <= 2 * half:
                if abs(dy) <= half and abs(dx) <= half:
                    flags[i] |= _OVERLAP
                if exclude:  # a maximum beyond the patch owns pixels of it too
                    for j in range(size):
                        for k in range(size):
                            # Nearer to the other maximum: beyond the perpendicular bisector.
                            if 2 * ((j - half) * dy + (k - half) * dx) > dy * dy + dx * dx:
                                state[i, j, k] = _MISSING
                                flags[i] |= _OVERLAP
            other += 1


@nb.njit(cache=True, nogil=True)
def _measure(counts: Any, state: Any) -> tuple[Any, Any, Any]:
    """Fill missing pixels in place; return intensity, its noise, and the centroid."""
    n, size = counts.shape[:2]
    half, last = size // 2, size - 1
    intensity = np.zeros(n, np.float32)
    noise = np.zeros(n, np.float32)
    centroid = np.full((n, 2), np.nan)
    border = np.empty(4 * last, np.float32)
    for i in range(n):
        n_border = 0
        for j in range(size):
            for k in range(size):
                if state[i, j, k] == _USABLE and (j == 0 or k == 0 or j == last or k == last):
                    border[n_border] = counts[i, j, k]
                    n_border += 1
        level, spread = 0.0, 0.0
        if n_border:
            level = _median(border[:n_border])
            for b in range(n_border):
                border[b] = abs(border[b] - level)
            spread = 1.4826 * _median(border[:n_border])

        floor = level + _CENTROID_LEVEL * (counts[i, half, half] - level)
        total, n_usable = 0.0, 0
        weight, wy, wx = 0.0, 0.0, 0.0
        for j in range(size):
            for k in range(size):
                if state[i, j, k] == _MISSING:
                    mirrored = state[i, last - j, last - k] != _MISSING
                    counts[i, j, k] = counts[i, last - j, last - k] if mirrored else level
                    continue
                above = counts[i, j, k] - level
                if state[i, j, k] == _USABLE:
                    total += above
                    n_usable += 1
                if counts[i, j, k] > floor:
                    weight += counts[i, j, k] - floor
                    wy += (counts[i, j, k] - floor) * j
                    wx += (counts[i, j, k] - floor) * k
        if weight > 0:
            centroid[i, 0], centroid[i, 1] = wy / weight, wx / weight
        # Poisson noise of the peak, the background's noise under it, and the error of the level (a median of n_border).
        variance = max(total, 0.0) + n_usable * spread**2
        if n_border:
            variance += n_usable**2 * (np.pi / 2) * spread**2 / n_border
        intensity[i], noise[i] = total, np.sqrt(variance)
    return intensity, noise, centroid


@nb.njit(cache=True, nogil=True)
def _median(values: Any) -> float:
    """Median of a few values, which are put in order in place (insertion sort)."""
    n = len(values)
    for i in range(1, n):
        v = values[i]
        j = i
        while j > 0 and values[j - 1] > v:
            values[j] = values[j - 1]
            j -= 1
        values[j] = v
    return (float(values[(n - 1) // 2]) + float(values[n // 2])) / 2
