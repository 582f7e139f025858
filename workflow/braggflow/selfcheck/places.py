"""Where peaks are added: in the open, near the frame's edges, near masked pixels, near peaks that are there."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree


class Place(IntEnum):
    """What lies in a peak's patch beside itself; where several hold, the first of edge, gap and peak."""

    free = 0
    """Nothing."""
    edge = 1
    """The patch reaches beyond the frame."""
    gap = 2
    """Masked or NaN pixels."""
    peak = 3
    """The maximum of a peak that is there."""


#: Share of the added peaks that are put into each kind of place, where there is such a place; the rest is free.
_SHARES = {Place.gap: 0.15, Place.peak: 0.15, Place.edge: 0.15, Place.free: 1.0}
#: Candidates for each peak that is to be placed, and nearest place to a peak that is there, pixels: nearer ones are one
#: to the eye.
_TRIES, _NEAREST = 20, 2.0
#: Within so many halves of a patch no maximum may be, for a place to be free: one that near owns pixels of the patch.
_REACH = 1 + np.sqrt(2)
#: Pixels that added peaks keep apart, beyond the width of a patch.
_APART = 3


def places_of(
    at: NDArray[np.float64], mask: NDArray[np.bool_], peaks: NDArray[np.float64], size: int
) -> NDArray[np.int8]:
    """The kind of each place, -1 where its own pixel is not there, or a peak beyond its patch owns pixels of it.

    Parameters
    ----------
    at : numpy.ndarray of float64
        Shape (n, 2), places (y, x) in pixels of the searched frame.
    mask : numpy.ndarray of bool
        Shape (y, x), True = ignored.
    peaks : numpy.ndarray of float64
        Shape (m, 2), the other peaks.
    size : int
        Pixels on a side of a patch.

    Returns
    -------
    numpy.ndarray of int8
        Shape (n,), a `Place` each, or -1.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.selfcheck import places_of
    >>> mask = np.zeros((64, 64), bool)
    >>> mask[:, 30] = True
    >>> places_of(np.array([[20.0, 15.0], [20.0, 2.0], [20.0, 33.0]]), mask, np.empty((0, 2)), 11)
    array([0, 1, 2], dtype=int8)
    """
    half, shape = size // 2, np.array(mask.shape)
    pixel = np.rint(at).astype(np.int64)
    within = ((pixel >= 0) & (pixel < shape)).all(axis=1)
    kept = np.clip(pixel, 0, shape - 1)
    good = within & ~mask[kept[:, 0], kept[:, 1]]
    edge = ((pixel < half) | (pixel >= shape - half)).any(axis=1)
    window = np.arange(-half, half + 1)
    rows = np.clip(kept[:, 0, None, None] + window[:, None], 0, shape[0] - 1)
    columns = np.clip(kept[:, 1, None, None] + window, 0, shape[1] - 1)
    gap = mask[rows, columns].any(axis=(1, 2))
    distance = np.full(len(at), np.inf)
    if len(peaks):
        distance[:] = cKDTree(np.rint(peaks)).query(pixel, p=np.inf)[0]
    near = distance <= half
    kind = np.select([edge, gap, near], [Place.edge, Place.gap, Place.peak], Place.free)
    return np.where(good & (near | (distance > _REACH * half)), kind, -1).astype(np.int8)


def draw_places(
    n: int, rng: np.random.Generator, mask: NDArray[np.bool_], peaks: NDArray[np.float64], size: int
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Up to `n` places (y, x) on a searched frame, further apart than their patches are wide, and the kind of each."""
    places, kinds = np.empty((0, 2)), np.empty(0, np.int8)
    for kind, share in _SHARES.items():
        wanted = n - len(places) if kind == Place.free else round(n * share)
        at = _candidates(kind, wanted * _TRIES, rng, mask, peaks, size)
        for place in at[places_of(at, mask, peaks, size) == kind]:
            if not wanted:
                break
            if not len(places) or np.abs(places - place).max(axis=1).min() > size + _APART:
                places, kinds = np.vstack([places, place]), np.append(kinds, np.int8(kind))
                wanted -= 1
    return places, kinds


def _candidates(
    kind: Place,
    n: int,
    rng: np.random.Generator,
    mask: NDArray[np.bool_],
    peaks: NDArray[np.float64],
    size: int,
) -> NDArray[np.float64]:
    """Places (n, 2) of which some are of that kind; none where there can be none."""
    half, shape = size // 2, np.array(mask.shape)
    at = rng.uniform(-0.5, shape - 0.5, (n, 2))
    if kind == Place.edge:
        axis, far = rng.integers(2, size=n), rng.random(n) < 0.5
        inside = rng.uniform(-0.3, half - 0.5, n)
        at[np.arange(n), axis] = np.where(far, shape[axis] - 1 - inside, inside)
    if kind == Place.gap:
        masked = np.flatnonzero(mask)
        if not len(masked):
            return np.empty((0, 2))
        pixel = np.stack(np.unravel_index(masked[rng.integers(len(masked), size=n)], mask.shape), axis=1)
        at = pixel + rng.uniform(-half - 0.5, half + 0.5, (n, 2))
    if kind == Place.peak:
        if not len(peaks):
            return np.empty((0, 2))
        angle, distance = rng.uniform(0, 2 * np.pi, n), rng.uniform(_NEAREST, half + 0.5, n)
        away = distance[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        at = peaks[rng.integers(len(peaks), size=n)] + away
    return at
