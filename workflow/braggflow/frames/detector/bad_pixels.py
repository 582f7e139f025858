"""Hot, noisy and dead pixels of a detector, from one pass over frames of a series.

What marks a pixel is that it is alone: the light of any peak reaches the pixels beside it (of a peak of sigma 0.4 px in
the middle of a pixel, they have 13 % of its counts, of 0.5 px 23 %), a pixel's own defect does not. Peaks that stand
still, and those that come and go, are thus told from pixels that do the same. Memory holds some arrays of a frame's
size, however many frames there are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.frames.correction import correct_frame
from braggflow.frames.detector.transfer import source_threshold
from braggflow.frames.series import OpenedSeries
from braggflow.frames.store import UNREADABLE

#: Frames, spread over the series, that are looked at, and without which nothing can be said.
MAX_FRAMES, LEAST_FRAMES = 64, 8
#: A pixel stands out of a frame where it is above its brightest neighbour by so many sigma of that one's noise.
_STANDS_OUT = 5.0
#: Share of the frames in which a pixel must stand out to be bad, and from which on it is hot and not only noisy.
_OFTEN, _ALWAYS = 0.05, 0.8
#: Mean counts of the four pixels beside it, over its own, both above the surroundings: below this no light is so sharp.
_FLANK = 0.10
#: Standard errors by which it must be below.
_SURE = 4.0
#: Variance in time above that of the surroundings from which on a pixel is noisy, where that of the four beside it is
#: below `_FLANK`² of it.
_NOISY = 30.0
#: Share of a noisy pixel's sum of squared deviations that a single frame may have.
_OF_ALL = 0.3
#: Quantile of the surroundings by which a pixel is dead: half of them may lie in a peak.
_DIMMER = 0.25
#: Chance, over all pixels, that a pixel that works never changes.
_BY_CHANCE = 1e-3
#: Share of the pixels beyond which it is not single pixels that are bad.
_TOO_MANY = 0.01
_BESIDE = ((-1, 0), (1, 0), (0, -1), (0, 1))
_AROUND = (*_BESIDE, (-1, -1), (-1, 1), (1, -1), (1, 1))
_RING = tuple((y, x) for y in range(-2, 3) for x in range(-2, 3) if 2 in (abs(y), abs(x)))

Image = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class _Sums:
    """What is kept of the frames seen; images (y, x)."""

    frames: int
    mean: Image
    squares: Image
    """Sum of squared deviations from the mean so far (Welford)."""
    lowest: Image
    highest: Image
    stood_out: NDArray[np.uint8]
    """Frames in which the pixel stood out; the next three are sums over these."""
    excess: Image
    """Counts above the surroundings."""
    beside: Image
    """The same of the four pixels beside it, together."""
    beside_variance: Image
    brightest: NDArray[np.uint8]
    """Frames in which the pixel was brighter than all of its neighbours."""


def find_bad_pixels(opened: OpenedSeries) -> dict[str, Any]:
    """Bad pixels of a series' detector; its constants must be numbers.

    Returns `hot`, `noisy`, `dead`, each a list of [y, x] outside the mask, in order; `persistent_spots`, how many other
    pixels are the brightest of their surroundings in nearly all frames (the sample's where it stands still, else
    candidates for the detector's), and `frames`, how many were looked at. Raises `InputError` where these are too few,
    or bad pixels too many.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow import RunConfig
    >>> from braggflow.frames import frames_from_array, open_series
    >>> from braggflow.frames.detector import find_bad_pixels
    >>> counts = np.random.default_rng(0).poisson(20, (16, 64, 64))
    >>> counts[:, 10, 12] += 300
    >>> counts[::2, 30, 31] += 200
    >>> counts[:, 50, 5] = 0
    >>> found = find_bad_pixels(open_series(frames_from_array(counts), RunConfig()))
    >>> found["hot"], found["noisy"], found["dead"]
    ([[10, 12]], [[30, 31]], [[50, 5]])
    """
    n = len(opened.numbers)
    positions = np.unique(np.linspace(0, n - 1, min(MAX_FRAMES, n)).round().astype(int)).tolist()
    counts_per_photon, read_noise = opened.config.frames.detector_constants
    threshold = _threshold(opened, positions)
    # Below a threshold nothing is known: a pixel that reaches it now and then is none the worse.
    noise = float(np.hypot(read_noise, threshold))
    sums = _summed(_frames(opened, positions), (counts_per_photon, noise))
    if sums is None or sums.frames < LEAST_FRAMES:
        seen = 0 if sums is None else sums.frames
        raise InputError(f"frames.find_bad_pixels: true needs {LEAST_FRAMES} frames, {seen} can be read")
    valid = ~opened.correction.mask
    found = _judged(sums, valid, counts_per_photon, noise)
    if threshold:
        found["dead"] = []
    bad = sum(len(pixels) for pixels in found.values())
    if bad > _TOO_MANY * valid.sum():
        raise InputError(
            f"frames.find_bad_pixels: true finds {bad:,} of {valid.sum():,} pixels bad, more than a detector has; "
            "give frames.mask"
        )
    often = (sums.brightest >= 0.9 * sums.frames) & valid
    for pixels in found.values():
        often[tuple(np.array(pixels, int).reshape(-1, 2).T)] = False
    return {**found, "persistent_spots": int(often.sum()), "frames": sums.frames}


def without_bad_pixels(opened: OpenedSeries, found: Mapping[str, Any]) -> OpenedSeries:
    """The series with the bad pixels that `find_bad_pixels` found joined to its mask."""
    mask = opened.correction.mask.copy()
    for kind in ("hot", "noisy", "dead"):
        mask[tuple(np.array(found.get(kind, []), int).reshape(-1, 2).T)] = True
    return replace(opened, correction=replace(opened.correction, mask=mask))


def _threshold(opened: OpenedSeries, positions: Iterable[int]) -> int:
    """Counts below which pixels were set to 0, 0 where they were not, by the first frame that can be read."""
    for position in positions:
        try:
            return source_threshold(opened.raw(position), opened.correction.mask)
        except UNREADABLE:
            continue
    return 0


def _frames(opened: OpenedSeries, positions: Iterable[int]) -> Iterable[Image]:
    """Frames corrected but not binned, NaN where masked."""
    correction = replace(opened.correction, bin=1)
    for position in positions:
        try:
            frame = correct_frame(opened.raw(position), correction)
        except UNREADABLE:
            continue  # whoever processes the frame records it
        yield np.where(frame.mask, np.float32(np.nan), frame.counts).astype(np.float32)


def _summed(frames: Iterable[Image], constants: tuple[float, float]) -> _Sums | None:
    sums = None
    for frame in frames:
        if min(frame.shape) < 5:
            return None
        if sums is None:
            mean, squares, excess, beside, variance = (np.zeros(frame.shape, np.float32) for _ in range(5))
            stood_out, brightest = (np.zeros(frame.shape, np.uint8) for _ in range(2))
            sums = _Sums(0, mean, squares, frame.copy(), frame.copy(), stood_out, excess, beside, variance, brightest)
        _add(sums, frame, constants)
    return sums


def _add(sums: _Sums, frame: Image, constants: tuple[float, float]) -> None:
    counts_per_photon, read_noise = constants
    sums.frames += 1
    change = frame - sums.mean
    sums.mean += change / np.float32(sums.frames)
    sums.squares += change * (frame - sums.mean)
    np.fmin(sums.lowest, frame, out=sums.lowest)
    np.fmax(sums.highest, frame, out=sums.highest)
    # Two pixels at the border are not judged: they have no surroundings.
    inner = frame[2:-2, 2:-2]
    highest = np.full(inner.shape, -np.inf, np.float32)
    for y, x in _AROUND:
        np.fmax(highest, _moved(frame, y, x), out=highest)
    above = inner > highest
    sums.brightest[2:-2, 2:-2] += above
    at = np.flatnonzero(above)
    noise = counts_per_photon * (np.maximum(highest.ravel()[at], 0) + counts_per_photon) + read_noise**2
    at = at[inner.ravel()[at] - highest.ravel()[at] > _STANDS_OUT * np.sqrt(noise)]
    ys, xs = (index + 2 for index in np.unravel_index(at, inner.shape))
    if not len(ys):
        return
    level = _around(frame, ys, xs)
    beside = np.stack([frame[ys + y, xs + x] for y, x in _BESIDE])
    there = np.isfinite(beside)
    sums.stood_out[ys, xs] += 1
    sums.excess[ys, xs] += frame[ys, xs] - level
    # A masked pixel beside it tells nothing: the others stand for it.
    above_level = np.where(there, beside - level, 0).sum(axis=0) * 4 / np.maximum(there.sum(axis=0), 1)
    sums.beside[ys, xs] += np.where(there.any(axis=0), above_level, np.inf)
    sums.beside_variance[ys, xs] += 5 * (counts_per_photon * np.maximum(level, counts_per_photon) + read_noise**2)


def _moved(image: NDArray[Any], y: int, x: int) -> NDArray[Any]:
    """The inner image whose pixels are those at (y, x) from each inner one."""
    rows, columns = image.shape
    return image[2 + y : rows - 2 + y, 2 + x : columns - 2 + x]


def _around(image: NDArray[Any], ys: NDArray[np.int64], xs: NDArray[np.int64], share: float = 0.5) -> Image:
    """Median, or another quantile, of the 16 pixels two away; 0 where all are masked."""
    ring = np.stack([image[ys + y, xs + x] for y, x in _RING])
    ring[:, ~np.isfinite(ring).any(axis=0)] = 0
    return np.asarray(np.nanquantile(ring, share, axis=0), np.float32)


def _judged(
    sums: _Sums, valid: NDArray[np.bool_], counts_per_photon: float, noise: float
) -> dict[str, list[list[int]]]:
    n = sums.frames
    out = (sums.stood_out >= max(3.0, _OFTEN * n)) & valid
    flank, error = sums.beside / 4, np.sqrt(sums.beside_variance) / 4
    alone = out & (flank + _SURE * error < _FLANK * sums.excess)
    hot = alone & (sums.stood_out >= _ALWAYS * n)
    noisy = (alone & ~hot) | (_restless(sums, counts_per_photon**2 + noise**2) & valid & ~hot)
    dead = _dead(sums, valid, counts_per_photon) & ~hot & ~noisy
    return {name: np.argwhere(image).tolist() for name, image in (("hot", hot), ("noisy", noisy), ("dead", dead))}


def _restless(sums: _Sums, least: float) -> NDArray[np.bool_]:
    """Pixels whose counts vary in time far more than their surroundings', and those beside them do not.

    `least` is the variance, counts², that any surroundings are taken to have: of few photons, chance has most of it.
    """
    variance = sums.squares / max(1, sums.frames - 1)
    typical = max(float(np.nanmedian(variance)), least)
    found = np.zeros(variance.shape, bool)
    inner = variance[2:-2, 2:-2]
    ys, xs = (index + 2 for index in np.nonzero(inner > _NOISY * typical))
    if not len(ys):
        return found
    around = np.maximum(_around(variance, ys, xs), typical)
    beside = np.stack([variance[ys + y, xs + x] for y, x in _BESIDE])
    beside[~np.isfinite(beside)] = np.inf
    own = variance[ys, xs] - around
    error = around * np.sqrt(2 / (4 * max(1, sums.frames - 1)))
    excess = beside.mean(axis=0) - around
    # What happened in one frame, or two, is a cosmic ray or a peak that came by.
    furthest = np.maximum(sums.highest - sums.mean, sums.mean - sums.lowest)[ys, xs] ** 2
    again = furthest < _OF_ALL * sums.squares[ys, xs]
    found[ys, xs] = again & (own > _NOISY * around) & (excess + _SURE * error < _FLANK**2 * own)
    return found


def _dead(sums: _Sums, valid: NDArray[np.bool_], counts_per_photon: float) -> NDArray[np.bool_]:
    """Pixels that never change, where those around them count so much that by chance none would stay."""
    found = np.zeros(valid.shape, bool)
    same = (sums.lowest == sums.highest) & valid
    ys, xs = (index + 2 for index in np.nonzero(same[2:-2, 2:-2]))
    if not len(ys):
        return found
    variance = sums.squares / max(1, sums.frames - 1)
    level = np.maximum(_around(sums.mean, ys, xs, _DIMMER), 0) / counts_per_photon
    scatter = np.sqrt(_around(variance, ys, xs, _DIMMER))
    # At 0: no photon in any frame. Elsewhere: the same count again and again, each with the chance of the likeliest.
    at_zero = sums.highest[ys, xs] == 0
    likeliest = np.minimum(1, 0.4 / np.maximum(scatter, 1e-6))
    log_chance = np.where(at_zero, -level * sums.frames, (sums.frames - 1) * np.log(likeliest))
    found[ys, xs] = log_chance < np.log(_BY_CHANCE / valid.sum())
    return found
