"""Powder rings: the level of a frame by two-theta and azimuth, above which peaks are looked for.

The detector is parted into cells of half a pixel along two-theta and about `_ARC` pixels along the arc. Each has the
mean of its counts, those left out that stand out above it (sigma-clipped, upwards: peaks), and between cells the level
is interpolated along both directions. What the interpolation misses where a ring is sharp is added to the cells, twice.

A ring of few grains scatters by more than its photons do. How much more, in variance, is measured in each cell
(`dispersion`), and a peak on it must be as much more significant. So is a gain that nobody stated.
"""

from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from braggflow.angles import Geometry
from braggflow.compiled import inner, kernel
from braggflow.detect.noise import Noise

#: Sides of a cell, pixels: a ring is as sharp as two, and 64 counts have a mean.
_STEP, _ARC = 0.5, 128.0
#: Cells of fewer valid pixels have the level of their neighbours.
_FEWEST = 16
_CLIPPINGS, _CLIP = 8, 4.0
#: Rounds in which what interpolation misses is added.
_ROUNDS = 3
#: Cells whose scatter is taken together: that of 64 pixels is known to a sixth.
_TOGETHER = 5
#: A cell's scatter counts where it is so many standard errors off that of photons.
_SURE = 3.0
#: Pixels to either side at which a ring under a peak is looked for: its crest, and its flanks.
_NEAR, _BENT = (4, 8), 3.0
#: Photons a pixel: the variance of less is not known from the pixels of a cell.
_LEAST_VARIANCE = 0.05
#: Pixels, as of a step of a sharp ring's level, to which that is known.
_MISSED = 0.02
#: Rows whose angles are computed at a time.
_ROWS = 128
#: Steps of two-theta in which the angle of a pixel is looked at.
_ANGLES = 256


Pixels: TypeAlias = NDArray[np.integer[Any]]


class Circles(NamedTuple):
    """The cells of a detector."""

    ring: NDArray[np.float32]
    """(y, x) along two-theta, in steps of `_STEP` pixels from the first ring's start."""
    turn: NDArray[np.float32]
    """(y, x) azimuth, from 0 up to 1."""
    cell: NDArray[np.int32]
    """(y, x)"""
    order: NDArray[np.int32]
    """Flat indices of the pixels, cell by cell."""
    start: NDArray[np.int64]
    """(cells + 1,) where the pixels of each cell begin in that."""
    first: NDArray[np.int64]
    """(rings + 1,) the first cell of each ring; cells of a ring follow each other in azimuth."""


class RadialLevel(NamedTuple):
    """The level of frames by two-theta and azimuth."""

    level: NDArray[np.float32]
    """(n, y, x) counts."""
    dispersion: NDArray[np.float32]
    """(n, cells) variance of pixels over that of their photons; 1 where a cell does not show another one."""
    circles: Circles

    def dispersion_at(self, frame: Pixels, y: Pixels, x: Pixels, noise: Noise) -> NDArray[np.float64]:
        """That of the cells that pixels (m,) of frames lie in, and of 3 × 3 of them by what the level may be off."""
        photon, shift = noise.counts_per_photon[frame], noise.shift[frame]
        variance = np.maximum(self.level[frame, y, x] / photon + shift, _LEAST_VARIANCE)
        missed = 9 * (_MISSED * self._step(frame, y, x) / photon) ** 2 / variance
        return np.asarray(self.dispersion[frame, self.circles.cell[y, x]] + missed, np.float64)

    def is_ring(self, frame: Pixels, y: Pixels, x: Pixels, deviation: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Whether the level around pixels (m,) is bent by more than `_BENT` times a pixel's noise, as no slope is."""
        height, width = self.level.shape[1:]
        middle, bent = self.level[frame, y, x], np.zeros(len(y), bool)
        for far in _NEAR:
            for v, u in ((far, 0), (0, far), (far, far), (far, -far)):
                inside = (y >= v) & (y < height - v) & (x >= abs(u)) & (x < width - abs(u))
                at = frame[inside], y[inside], x[inside]
                ends = self.level[at[0], at[1] + v, at[2] + u], self.level[at[0], at[1] - v, at[2] - u]
                bent[inside] |= np.abs((ends[0] + ends[1]) / 2 - middle[inside]) > _BENT * deviation[inside]
        return bent

    def _step(self, frame: Pixels, y: Pixels, x: Pixels) -> NDArray[np.float32]:
        """How much the level changes by a pixel around each of some (m,), at most."""
        height, width = self.level.shape[1:]
        steps = np.arange(-1, 2)
        rows, columns = np.clip(y[:, None] + steps, 0, height - 1), np.clip(x[:, None] + steps, 0, width - 1)
        around = self.level[frame[:, None, None], rows[:, :, None], columns[:, None, :]]
        return np.asarray(np.ptp(around, axis=(1, 2)) / 2)


@lru_cache(maxsize=2)
def circles_of(geometry: Geometry, shape: tuple[int, int]) -> Circles:
    """The cells of frames (y, x) of a detector that stands so."""
    x = np.arange(shape[1])
    angle, turn = np.empty(shape), np.empty(shape, np.float32)
    for row in range(0, shape[0], _ROWS):  # places take three numbers a pixel, in turn three more
        y = np.arange(row, min(row + _ROWS, shape[0]))[:, None]
        angle[row : row + _ROWS] = geometry.two_theta(y, x)
        turn[row : row + _ROWS] = (geometry.azimuth(y, x) / 360) % 1
    ring = (_in_pixels(angle) / _STEP).astype(np.float32)
    number = ring.astype(np.int64)
    from_beam = geometry.distance_mm * np.tan(np.radians(np.minimum(angle, 80))) / (max(geometry.pixel_size_um) / 1e3)
    radius = np.bincount(number.ravel(), from_beam.ravel()) / np.maximum(np.bincount(number.ravel()), 1)
    parts = np.maximum(1, np.rint(2 * np.pi * radius / _ARC)).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(parts)])
    cell = first[number] + np.minimum((turn * parts[number]).astype(np.int64), parts[number] - 1)
    start = np.concatenate([[0], np.cumsum(np.bincount(cell.ravel(), minlength=first[-1]))])
    order = np.argsort(cell.ravel(), kind="stable").astype(np.int32)
    return Circles(ring, turn, cell.astype(np.int32), order, start, first)


def _in_pixels(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-theta (y, x) in pixels from the lowest one on: as many as it takes along the steepest way there."""
    slopes = []
    for axis in (0, 1):  # the steeper side: in the beam the two sides cancel
        steps = np.abs(np.diff(angle, axis=axis))
        before, after = (np.concatenate(pair, axis) for pair in _with_none(steps, angle.take([0], axis)))
        slopes.append(np.maximum(before, after))
    low, high = float(angle.min()), float(angle.max())
    step = max((high - low) / _ANGLES, 1e-12)
    at = np.minimum(((angle - low) / step).astype(np.int64), _ANGLES - 1).ravel()
    n = np.bincount(at, minlength=_ANGLES)
    a_pixel = np.bincount(at, np.hypot(*slopes).ravel(), minlength=_ANGLES) / np.maximum(n, 1)
    a_pixel = np.interp(np.arange(_ANGLES), np.flatnonzero(n), np.maximum(a_pixel[n > 0], 1e-12))
    along = np.concatenate([[0], np.cumsum(step / a_pixel)])
    return np.asarray(np.interp(angle, low + step * np.arange(_ANGLES + 1), along))


def _with_none(steps: NDArray[np.float64], line: NDArray[np.float64]) -> tuple[list[NDArray[np.float64]], ...]:
    """Steps with a line of zeros before, and after."""
    none = np.zeros_like(line)
    return [none, steps], [steps, none]


def radial_level(frames: NDArray[Any], mask: NDArray[np.bool_], geometry: Geometry, noise: Noise) -> RadialLevel:
    """The level of each of a stack of frames (n, y, x), mask (y, x), by two-theta and azimuth.

    Of `noise`, what a photon counts and what else a pixel scatters by is used.
    """
    circles = circles_of(geometry, mask.shape)
    levels, dispersions = [], []
    for counts, photon, shift in zip(frames, noise.counts_per_photon.tolist(), noise.shift.tolist(), strict=True):
        level, dispersion = _level_of_frame(np.asarray(counts, np.float32), mask, circles, photon, shift)
        levels.append(level)
        dispersions.append(dispersion)
    return RadialLevel(np.stack(levels), np.stack(dispersions).astype(np.float32), circles)


def _level_of_frame(
    counts: NDArray[np.float32], mask: NDArray[np.bool_], circles: Circles, photon: float, shift: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    ring, turn, first = circles.ring, circles.turn, circles.first
    means, n = _clipped_means(counts.ravel(), mask.ravel(), circles.order, circles.start, photon, shift)
    is_known = n >= _FEWEST
    _fill(means, is_known, first)
    dispersion = np.ones(len(means))
    for _ in range(_ROUNDS):
        n, missed, squares = _left_over(counts, mask, circles.cell, means, ring, turn, first, dispersion, photon, shift)
        means += np.where(is_known, missed / np.maximum(n, 1), 0)
        dispersion = _dispersion(squares, n)
    return _interpolated(means, ring, turn, first), dispersion


def _dispersion(squares: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Variance of the pixels of cells and of their neighbours along the ring, over that of their photons."""
    together, number = (np.convolve(each, np.ones(_TOGETHER), mode="same") for each in (squares, n))
    found: NDArray[np.float64] = (together / np.maximum(number, 1))[: len(n)]
    found[np.abs(found - 1) < _SURE * np.sqrt(2 / np.maximum(number[: len(n)], 1))] = 1
    found[number[: len(n)] < _FEWEST] = 1
    return found


def _fill(means: NDArray[np.float64], is_known: NDArray[np.bool_], first: NDArray[np.int64]) -> None:
    """Give cells that are not known what lies between the next ones of their ring, or else of the next rings."""
    at = np.arange(len(means))
    ring = np.repeat(np.arange(len(first) - 1), np.diff(first))
    before = np.maximum.accumulate(np.where(is_known, at, -1))
    after = np.minimum.accumulate(np.where(is_known, at, len(at))[::-1])[::-1]
    has_before, has_after = before >= first[ring], after < first[ring + 1]
    low = means[np.where(has_before, before, np.minimum(after, len(at) - 1))]
    high = means[np.where(has_after, after, np.maximum(before, 0))]
    share = np.where(has_before & has_after, (at - before) / np.maximum(after - before, 1), 0)
    of_ring = has_before | has_after
    filled = np.where(of_ring, low + share * (high - low), 0)
    if of_ring.any() and not of_ring.all():
        level = np.bincount(ring, filled) / np.diff(first)
        there = np.flatnonzero(np.bincount(ring, of_ring) > 0)
        filled = np.where(of_ring, filled, np.interp(ring, there, level[there]))
    means[~is_known] = filled[~is_known]


@kernel(nogil=True)
def _clipped_means(counts: Any, mask: Any, order: Any, start: Any, photon: float, shift: float) -> Any:
    """Mean of the counts (flat) of each cell, and how many there are, without those that stand out above the others."""
    means, numbers = np.zeros(len(start) - 1), np.zeros(len(start) - 1, np.int64)
    values = np.empty(max(1, np.max(start[1:] - start[:-1])), np.float32)
    for c in range(len(means)):
        n = 0
        for i in range(start[c], start[c + 1]):
            values[n] = counts[order[i]]
            n += not mask[order[i]]
        limit, kept = np.inf, n
        for _ in range(_CLIPPINGS):
            total, before, kept = 0.0, kept, 0
            for i in range(n):
                inside = values[i] <= limit
                total += values[i] if inside else 0.0
                kept += inside
            means[c] = total / max(kept, 1)
            limit = means[c] + _clip_above(means[c], 1.0, photon, shift)
            if kept == before and limit < np.inf:
                break
        numbers[c] = kept
    return means, numbers


@inner(nogil=True)
def _clip_above(level: float, dispersion: float, photon: float, shift: float) -> float:
    """Counts above a level beyond which a pixel is not of it."""
    return float((_CLIP * np.sqrt(dispersion * max(level / photon + shift, 0.0)) + 3) * photon)


@kernel(nogil=True)
def _interpolated(means: Any, ring: Any, turn: Any, first: Any) -> Any:
    """The level of each pixel between the means of cells."""
    level = np.empty(ring.shape, np.float32)
    for y in range(ring.shape[0]):
        for x in range(ring.shape[1]):
            level[y, x] = _between(means, ring[y, x], turn[y, x], first)
    return level


@inner(nogil=True)
def _between(means: Any, ring: float, turn: float, first: Any) -> float:
    at, last = ring - np.float32(0.5), len(first) - 2
    r = max(0, min(int(at), last - 1))
    low = _along(means, turn, first[r], first[r + 1])
    high = _along(means, turn, first[min(r + 1, last)], first[min(r + 2, last + 1)])
    share = min(max(float(at - r), 0.0), 1.0)
    return low + share * (high - low)


@inner(nogil=True)
def _along(means: Any, turn: float, start: int, stop: int) -> float:
    """The mean between two cells of a ring, which goes round."""
    n = stop - start
    at = turn * n + np.float32(0.5)
    s = min(int(at), n)
    one, other = means[start + (s - 1 if s > 0 else n - 1)], means[start + (s if s < n else 0)]
    return float(one + (at - s) * (other - one))


@kernel(nogil=True)
def _left_over(
    counts: Any,
    mask: Any,
    cell: Any,
    means: Any,
    ring: Any,
    turn: Any,
    first: Any,
    dispersion: Any,
    photon: float,
    shift: float,
) -> Any:
    """Of each cell: pixels that are not far above the level, the sum of what they are above it, and of its squares in
    units of the variance of their photons.
    """
    n, missed, squares = np.zeros(len(means), np.int64), np.zeros(len(means)), np.zeros(len(means))
    least = max(shift, _LEAST_VARIANCE)
    for y in range(counts.shape[0]):
        for x in range(counts.shape[1]):
            if mask[y, x]:
                continue
            c, level = cell[y, x], _between(means, ring[y, x], turn[y, x], first)
            above = counts[y, x] - level
            if above <= _clip_above(level, dispersion[c], photon, shift):
                n[c] += 1
                missed[c] += above
                squares[c] += (above / photon) ** 2 / max(level / photon + shift, least)
    return n, missed, squares
