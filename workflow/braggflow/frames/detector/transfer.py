"""The photon transfer line: variance of pixels against their level, from differences of frames or of pixels.

A pixel that counts photons has the variance counts_per_photon × (level − pedestal) + read_noise². Frames are cut into
blocks; in each, half of the pixels (the checkerboard) give one point of the line and the other half the level that
it is entered at and whether the block is used. What chooses a point thus knows nothing of its noise, so that neither
the choice nor the noise of the level bends the line, down to frames of few photons, of which no pixel could be clipped
without a bias. (Photon transfer: J. R. Janesick, Photon Transfer, SPIE Press (2007).)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Sides of a block in pixels, of which the first is taken in which enough pixels differ.
BLOCKS = (8, 16, 32, 64, 128)
#: Frames from this many pixels on are cut into the second of them: the first would only cost time.
_LARGE = 2**16
#: Pixels of half a block that must differ, in the mean: a variance of fewer photons is too skewed for a first guess.
_LEAST_DIFFERENT = 30
#: Points further from the line than this are of places that something else moves: their own, and the other half's.
_TOO_FAR, _OTHER_TOO_FAR = 6.0, 2.5
_ROUNDS = 8
#: A block stands out where it is brighter than those around by so many sigma and by this share.
_BRIGHT, _BRIGHT_SHARE = 3.0, 0.1
#: Blocks below this share of the median level are dark, where that level is above 0 by so many sigma.
_DARK, _CLEARLY = 0.1, 5.0
#: What second differences of pixels two apart share with each other: 1 + 2 (4/6)² + 2 (1/6)².
_OVERLAP = 1 + 2 * (4 / 6) ** 2 + 2 * (1 / 6) ** 2
#: Counts up to which a threshold is looked for.
_HISTOGRAM = 4096

Floats = NDArray[np.float64]


class Points(NamedTuple):
    """Halves of blocks, each (n, 2): the halves of a block side by side."""

    level: Floats
    """Counts."""
    variance: Floats
    """Counts², of a pixel of one frame."""
    pixels: Floats
    """How many pixels it is of; 0: not to be used."""
    squares: Floats
    """Mean square of the pixels' levels, counts²: what says how uneven the half is."""
    shared: Floats
    """Covariance of a pixel with the one below it, in the measure of `variance`."""
    quiet: NDArray[np.bool_]
    """Whether the block and those around it are no brighter than their surroundings: no peak."""
    share: float = 1.0
    """Variance of `variance`, over that of independent differences."""


class Line(NamedTuple):
    """variance = slope × level + intercept, with standard errors."""

    slope: float
    slope_std: float
    intercept: float
    intercept_std: float
    level: float
    """Mean level of the points, counts."""
    variance: float
    """Mean variance of the points, counts²."""
    variance_std: float
    low: float
    high: float
    """The levels that 5 and 95 % of the points are below."""
    points: int
    used: NDArray[np.bool_]
    """(n, 2)"""


def block_side(differing: float, shape: tuple[int, int]) -> int:
    """The side of a block where this share of the pixels differs from frame to frame."""
    sides = BLOCKS[1:] if shape[0] * shape[1] >= _LARGE else BLOCKS
    fit = [side for side in sides if side <= min(shape)] or [min(shape) // 2 * 2]
    return next((side for side in fit if differing * side**2 / 2 >= _LEAST_DIFFERENT), fit[-1])


def points_of_frames(frames: Sequence[NDArray[np.float32]], valid: NDArray[np.bool_], side: int) -> Points:
    """Points from two or three consecutive frames (y, x) of a scene.

    Of three, the second difference is taken, in which what changes steadily cancels: peaks that drift, a brightness
    that rises. What the whole frame's brightness does besides is taken out by a factor, where it is certain, and with
    the mean difference of each block.
    """
    frames = _as_bright(frames, valid)
    if len(frames) == 2:
        first, second = frames
        return _points(first - second, (first + second) / 2, valid, side)
    first, middle, last = frames
    # Scaled to the variance of a difference of two pixels, 1 + 4 + 1 being 6.
    return _points((first - 2 * middle + last) / np.float32(3**0.5), (first + 4 * middle + last) / 6, valid, side)


def _as_bright(frames: Sequence[NDArray[np.float32]], valid: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
    """The frames, each with the brightness of the second where it differs from it by more than noise makes it."""
    reference = frames[1]
    light = float(reference.sum(where=valid, dtype=np.float64))
    scaled = []
    for frame in frames:
        difference = frame - reference
        change = float(difference.sum(where=valid, dtype=np.float64))
        noise = float((difference * difference).sum(where=valid, dtype=np.float64)) ** 0.5
        certain = light > 0 and abs(change) > 4 * noise and abs(change) < light / 2
        scaled.append(frame * np.float32(light / (light + change)) if certain else frame)
    return scaled


def points_of_frame(frame: NDArray[np.float32], valid: NDArray[np.bool_], side: int) -> Points:
    """Points from one frame (y, x): pixels two apart, f(x − 2) − 2 f(x) + f(x + 2), in which no gradient is left."""
    left, centre, right = frame[:, :-4], frame[:, 2:-2], frame[:, 4:]
    all_valid = valid[:, :-4] & valid[:, 2:-2] & valid[:, 4:]
    points = _points((left - 2 * centre + right) / np.float32(3**0.5), (left + 4 * centre + right) / 6, all_valid, side)
    return points._replace(share=_OVERLAP)


def joined_points(points: Sequence[Points]) -> Points:
    """Points of several sets of frames as one."""
    first, *_ = points
    joined = {name: np.concatenate([getattr(p, name) for p in points]) for name in first._fields if name != "share"}
    return Points(**joined, share=first.share)


def _points(
    difference: NDArray[np.floating[Any]], level: NDArray[np.floating[Any]], valid: NDArray[np.bool_], side: int
) -> Points:
    difference, level = np.where(valid, difference, np.float32(0)), np.where(valid, level, np.float32(0))
    n = _half_sums(valid, side)
    total, squares = _half_sums(difference, side), _half_sums(difference * difference, side)
    enough = np.maximum(n, 2)
    variance = (squares - total**2 / enough) / (enough - 1) / 2
    # A block with pixels missing is used unless it is half empty.
    used = np.where(n >= side**2 / 4, n, 0)
    used[(used == 0).any(axis=1)] = 0
    mean, square = _half_sums(level, side) / enough, _half_sums(level * level, side) / enough
    below = np.zeros_like(difference)
    below[:-1] = difference[:-1] * difference[1:]
    shared = (_half_sums(below, side) / enough - (total / enough) ** 2) / 2
    grid = level.shape[0] // side, level.shape[1] // side
    quiet = _quiet(mean.mean(axis=1), variance.mean(axis=1) / enough.sum(axis=1), used[:, 0] > 0, grid)
    return Points(mean, variance, used, square, shared, np.column_stack([quiet, quiet]))


def _quiet(level: Floats, noise: Floats, used: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Blocks (n,) that, like their neighbours, do not stand out of what surrounds them; `noise` is their variance."""
    from scipy import ndimage

    if not used.any():
        return used
    image = np.where(used, level, np.median(level[used])).reshape(grid)
    around = ndimage.median_filter(image, 5, mode="nearest")
    typical = ndimage.median_filter(noise.reshape(grid), 5, mode="nearest")
    bright = image - around > np.maximum(_BRIGHT * np.sqrt(np.maximum(typical, 0)), _BRIGHT_SHARE * np.abs(around))
    return np.asarray(used & ~ndimage.binary_dilation(bright, np.ones((3, 3), bool)).ravel())


def _half_sums(image: NDArray[np.generic], side: int) -> Floats:
    """Sums over the two colours of the checkerboard in each block, shape (n, 2)."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    cut = image[: rows * side, : columns * side]

    def part(y: int, x: int) -> Floats:
        phase = cut[y::2, x::2].reshape(rows, side // 2, columns, side // 2)
        return np.asarray(phase.sum(axis=3, dtype=np.float64).sum(axis=1)).ravel()

    return np.column_stack([part(0, 0) + part(1, 1), part(0, 1) + part(1, 0)])


def fitted_line(points: Points, among: NDArray[np.bool_] | None = None) -> Line | None:
    """The line through the points that lie on it, those (n, 2) that are not `among` apart; None of too few points.

    Raises no error: a line that is not known has standard errors that say so.
    """
    at = points.level[:, ::-1]  # the level by the other half's pixels
    there = points.pixels > 0
    if among is not None:
        there &= among
    there &= ~_dark(points)
    if np.count_nonzero(there) < 8:
        return None
    slope, intercept = _first_guess(points, at, there)
    line = None
    for _ in range(_ROUNDS):
        std, own_std = _std_of_variance(points, slope, intercept)
        away = (points.variance - slope * points.level - intercept) / own_std
        scale = max(1.0, 1.4826 * float(np.median(np.abs(away[there] - np.median(away[there])))))
        used = there & (np.abs(away[:, ::-1]) < _OTHER_TOO_FAR * scale) & (np.abs(away) < _TOO_FAR * scale)
        if np.count_nonzero(used) < 8:
            return None
        line = _line(points, at, used, 1 / (scale * std))
        if not np.isfinite(line.slope):
            return line
        if abs(line.slope - slope) < 1e-6 * abs(slope) and abs(line.intercept - intercept) < 1e-6 * line.variance:
            break
        slope, intercept = line.slope, line.intercept
    return line


def neighbours_correlation(points: Points, used: NDArray[np.bool_]) -> float:
    """Correlation of the noise of a pixel with that of the one below it, over the points (n, 2) that are `used`."""
    power = float((points.variance * points.pixels)[used].sum())
    return float((points.shared * points.pixels)[used].sum()) / power if power > 0 else 0.0


def _dark(points: Points) -> NDArray[np.bool_]:
    """Halves of blocks (n, 2) with next to no counts where others have many: dead borders would weigh vastly."""
    used = points.pixels[:, 0] > 0
    if not used.any():
        return np.zeros(points.level.shape, bool)
    typical = float(np.median(points.level[used]))
    noise = float(np.median(points.variance[used] / points.pixels[used])) ** 0.5
    dark = points.level[:, ::-1] < _DARK * typical if typical > _CLEARLY * noise else np.zeros(points.level.shape, bool)
    return np.asarray(dark | dark[:, ::-1])


def _first_guess(points: Points, at: Floats, there: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept by medians of the points in order of their level, of which peaks that move spoil few."""
    order = np.argsort(at[there], kind="stable")
    level, variance = points.level[there][order], points.variance[there][order]
    groups = np.array_split(np.arange(len(order)), max(2, min(24, len(order) // 8)))
    x, y = (np.array([np.median(values[group]) for group in groups]) for values in (level, variance))
    weight = 1 / np.maximum(y, 1e-12) ** 2
    x_mean, y_mean = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = np.average((x - x_mean) ** 2, weights=weight)
    slope = float(np.average((x - x_mean) * (y - y_mean), weights=weight) / spread) if spread > 0 else 0.0
    return (slope, float(y_mean - slope * x_mean)) if slope > 0 else (0.0, float(y_mean))


def _std_of_variance(points: Points, slope: float, intercept: float) -> tuple[Floats, Floats]:
    """Standard error expected of each variance: for its weight, by the other half's levels; to judge it, by both.

    A pixel of variance s has (4th cumulant + 2 s²) / n of it in a mean of n; of photons the cumulant is slope³ level.
    """
    floor = max(float(np.median(points.variance[points.pixels > 0])) / 100, 1e-12)
    level, squares = np.maximum(points.level, 0), points.squares
    twice = np.maximum(slope**2 * squares + 2 * slope * intercept * points.level + intercept**2, floor**2)
    of_one = np.maximum(slope, 0) ** 3 * level / 2 + 2 * twice
    std = np.sqrt(points.share * of_one / np.maximum(points.pixels, 1))
    return std[:, ::-1], np.maximum(std, std[:, ::-1])


def _line(points: Points, at: Floats, used: NDArray[np.bool_], inverse_std: Floats) -> Line:
    """The line with the other half's level as the instrument (a noisy level would flatten it)."""
    z, m, v, s = (values[used] for values in (at, points.level, points.variance, inverse_std))
    weight = s**2
    total = weight.sum()
    z_mean, m_mean, v_mean = ((weight * values).sum() / total for values in (z, m, v))
    lever = weight * (z - z_mean)
    spread = float((lever * (m - m_mean)).sum())
    low, high = np.percentile(m, [5, 95])
    slope = float((lever * (v - v_mean)).sum() / spread) if spread > 0 else np.nan
    mean_std = float(np.sqrt(1 / total))
    slope_std = float(np.sqrt(((lever / s) ** 2).sum()) / spread) if spread > 0 else np.inf
    return Line(
        slope,
        slope_std,
        float(v_mean - slope * m_mean),
        float(np.hypot(mean_std, slope_std * m_mean)),
        float(m_mean),
        float(v_mean),
        mean_std,
        float(low),
        float(high),
        int(np.count_nonzero(used)),
        used,
    )


def source_threshold(raw: NDArray[Any], mask: NDArray[np.bool_]) -> int:
    """Counts below which pixels were set to 0 as it seems (none is between), 0 where they were not."""
    if raw.dtype.kind not in "iu":
        return 0
    values = raw[~mask & (raw >= 0) & (raw < _HISTOGRAM)].astype(np.int64)
    seen = np.bincount(values, minlength=2)
    levels = np.flatnonzero(seen[1:]) + 1
    if len(levels) < 4 or seen[0] < len(values) / 100:
        return 0
    # A converter may give every second count only.
    step = float(np.median(np.diff(levels[:12])))
    # Cut off in the middle of the noise: a few dead pixels at 0 far below all others are no threshold.
    cut = levels[0] > 1.5 * step and seen[levels[0]] > seen[1:].max() / 20
    return int(levels[0]) if cut else 0
