"""The square of pixels around each maximum, and what each of its pixels is.

A pixel belongs to the nearest detected maximum: to the patch's own, or to a neighbour's. The rules, the same for every
stage that follows:

- **Missing** pixels lie beyond the frame or are masked, or belong to a neighbour that is not listed. They hold 0, and
  nothing uses them.
- A **saturated** pixel keeps its counts, which are a lower bound.
- Pixels of a **listed neighbour** (with `neighbours: fit_together`) keep their counts too: the fit models the neighbour
  with the peak, the network is told which pixels are not the peak's. With `neighbours: mask` no neighbour is listed,
  with `neighbours: ignore` every pixel counts as the peak's own.
- Each rule that touched a patch sets the peak's flag.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel
from braggflow.config import PatchesConfig


class State(IntEnum):
    """What a pixel of a patch is; where several hold, the last of them."""

    OWN = 0
    """A pixel of this peak."""
    OTHER = 1
    """Nearer to a listed neighbour's maximum."""
    FULL = 2
    """Saturated; the counts are kept."""
    MISSING = 3
    """Beyond the frame, masked, or an unlisted neighbour's; the counts are 0."""


#: Neighbours that a patch lists, the nearest first.
MAX_NEIGHBOURS = 3

# numba reads module constants as numbers.
_OWN, _OTHER, _FULL, _MISSING = (int(state) for state in State)


@dataclass(frozen=True, slots=True)
class Patches:
    """Patches of n peaks, in the order of their table."""

    counts: NDArray[np.float32]
    """(n, size, size) detector counts as read, 0 where missing."""
    state: NDArray[np.uint8]
    """(n, size, size), a `State` each."""
    neighbours: NDArray[np.float32]
    """(n, MAX_NEIGHBOURS, 2) as (dy, dx), pixels from the patch's centre to the maxima of the listed neighbours: the
    nearest first, of equally near ones that of lower dy, then dx; NaN: no more."""
    centroid: NDArray[np.float64]
    """(n, 2) centre of mass (y, x) in patch coordinates (0 is the first pixel's centre); NaN without counts above the
    background."""


def empty(config: PatchesConfig) -> Patches:
    """No patches, of the configured size."""
    shape = (0, config.size, config.size)
    neighbours = np.empty((0, MAX_NEIGHBOURS, 2), np.float32)
    return Patches(np.empty(shape, np.float32), np.empty(shape, np.uint8), neighbours, np.empty((0, 2)))


def select(patches: Patches, kept: NDArray[np.bool_]) -> Patches:
    """The patches where `kept` (n,) is True."""
    return Patches(patches.counts[kept], patches.state[kept], patches.neighbours[kept], patches.centroid[kept])


def concatenate(patches: Sequence[Patches]) -> Patches:
    """Join the patches of several frames (at least one) in the order given."""
    return Patches(
        counts=np.concatenate([p.counts for p in patches]),
        state=np.concatenate([p.state for p in patches]),
        neighbours=np.concatenate([p.neighbours for p in patches]),
        centroid=np.concatenate([p.centroid for p in patches]),
    )


def others(neighbours: NDArray[np.floating[Any]], size: int) -> NDArray[np.bool_]:
    """Which pixels of n patches are nearer to a neighbour than to the patch's centre, shape (n, size, size).

    `neighbours` (n, k, 2) are (dy, dx) in pixels from the centre, NaN: none. A pixel as near to both is the centre's.
    """
    return _others(np.ascontiguousarray(neighbours, np.float32), size)  # type: ignore[no-any-return]  # numba's


def filled(counts: NDArray[np.float32], state: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Patches (n, size, size) for networks that need a full square: a copy of `counts` without holes.

    Each missing pixel, and each of a neighbour, holds its mirror image through the centre (a Bragg peak is nearly
    point-symmetric), or the background level (the median of the peak's own pixels on the border) where that is missing
    or a neighbour's too. Saturated pixels keep their counts.
    """
    return _filled(np.ascontiguousarray(counts, np.float32), np.ascontiguousarray(state))  # type: ignore[no-any-return]  # numba's


@kernel(nogil=True)
def _others(neighbours: Any, size: int) -> Any:
    n, half = len(neighbours), size // 2
    result = np.empty((n, size, size), np.bool_)
    for i in range(n):
        for j in range(size):
            for k in range(size):
                result[i, j, k] = is_other(neighbours[i], j - half, k - half)
    return result


@inner(nogil=True)
def is_other(neighbours: Any, y: int, x: int) -> bool:
    """Whether the pixel at (y, x) from the centre is nearer to a neighbour: beyond the perpendicular bisector."""
    for o in range(len(neighbours)):
        dy, dx = float(neighbours[o, 0]), float(neighbours[o, 1])
        if 2 * (y * dy + x * dx) > dy * dy + dx * dx:  # never with NaN
            return True
    return False


@kernel(nogil=True)
def _filled(counts: Any, state: Any) -> Any:
    n, size = counts.shape[:2]
    last = size - 1
    result = counts.copy()
    border = np.empty(4 * last, np.float32)
    for i in range(n):
        level = median(border[: own_border(counts[i], state[i], border)])
        for j in range(size):
            for k in range(size):
                if state[i, j, k] == _OTHER or state[i, j, k] == _MISSING:
                    mirror = state[i, last - j, last - k]
                    result[i, j, k] = counts[i, last - j, last - k] if mirror in (_OWN, _FULL) else level
    return result


@inner(nogil=True)
def own_border(counts: Any, state: Any, border: Any) -> int:
    """Collect the peak's own pixels on the patch's border; return how many."""
    size, n = len(counts), 0
    for j in range(size):
        for k in range(size):
            if state[j, k] == _OWN and (j == 0 or k == 0 or j == size - 1 or k == size - 1):
                border[n] = counts[j, k]
                n += 1
    return n


@inner(nogil=True)
def median(values: Any) -> float:
    """Median of a few values (0 of none), which are put in order in place (insertion sort)."""
    n = len(values)
    if n == 0:
        return 0.0
    for i in range(1, n):
        v = values[i]
        j = i
        while j > 0 and values[j - 1] > v:
            values[j] = values[j - 1]
            j -= 1
        values[j] = v
    return (float(values[(n - 1) // 2]) + float(values[n // 2])) / 2


@inner(nogil=True)
def median_distance(values: Any, level: float) -> float:
    """Median of the distances of numbers in order (0 of none) from a level, taken from it outwards."""
    n, above = len(values), 0
    if n == 0:
        return 0.0
    while above < n and values[above] < level:
        above += 1
    below, nearer, last = above - 1, np.float32(0), np.float32(0)
    for _ in range(n // 2 + 1):
        nearer = last
        low = np.float32(level - values[below]) if below >= 0 else np.float32(np.inf)
        high = np.float32(values[above] - level) if above < n else np.float32(np.inf)
        if low <= high:
            last, below = low, below - 1
        else:
            last, above = high, above + 1
    return float(last) if n % 2 else (float(nearer) + float(last)) / 2
