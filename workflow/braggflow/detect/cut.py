"""Patches cut from a frame: the states of their pixels, their neighbours, flags, and what can be measured directly."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.compiled import inner, kernel
from braggflow.config import PatchesConfig
from braggflow.detect.background import LevelGrid, above_level, levels_of_row
from braggflow.detect.pixels import as_searched
from braggflow.frames import CorrectedFrame
from braggflow.patches import MAX_NEIGHBOURS, Patches, State, is_other, median, median_distance, own_border
from braggflow.peak_table import Flag

#: A neighbour is listed where its maximum is at most this far beyond the patch, pixels along either axis: one further
#: away shows too little of itself in the patch to be fitted.
LISTED_BEYOND = 3
#: A local background's course that is less than this share of a pixel's noise moves a peak with a sigma of 1.4 px by
#: less than a tenth of its error. Of levels of few photons, nothing is subtracted: fits take no count for negative.
COURSE, _LEAST_LEVEL = 0.05, 10.0
# numba reads module constants as numbers.
_OWN, _OTHER, _FULL, _MISSING = (int(state) for state in State)
_EDGE, _MASKED, _SATURATED, _OVERLAP = int(Flag.edge), int(Flag.masked), int(Flag.saturated), int(Flag.overlap)
#: The centroid weighs counts above this share of the maximum: the tails would draw it to the patch's centre.
_CENTROID_LEVEL = 0.2


def cut_patches(
    frame: CorrectedFrame,
    table: peak_table.Table,
    config: PatchesConfig,
    *,
    level: NDArray[np.float32] | LevelGrid | None = None,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
) -> tuple[Patches, peak_table.Table]:
    """Cut a patch at every peak of one frame and measure it.

    Parameters
    ----------
    frame : CorrectedFrame
        The frame, shape (y, x), with its mask and saturated pixels. Counts are taken from it before background
        subtraction, so that their noise is still the detector's.
    table : numpy.ndarray of dtype PEAK_DTYPE
        The frame's peaks, shape (n,), sorted by (y_pixel, x_pixel), in pixels of `frame`.
    config : PatchesConfig
        Size of the patches, and what becomes of neighbours.
    level : numpy.ndarray of float32 or LevelGrid, optional
        As detection has it: with a radial background shape (1, y, x), counts, with a local one the grid of its cells.
        Its course is subtracted from each patch, but for its level at the maximum: with a local background where it
        is more than `COURSE` of a pixel's noise somewhere in the patch and the pixels on its border follow it.
    counts_per_photon : float, default 1.0
        Counts of one photon.
    read_noise : float, default 0.0
        Standard deviation of a pixel of `frame` without light, counts.

    Returns
    -------
    patches : Patches
        The n patches with the states of their pixels, their neighbours and centroids.
    measured : numpy.ndarray of dtype PEAK_DTYPE
        A copy of the table, shape (n,), with `flags`, `intensity`, `intensity_std` (counts) and `snr` set. Intensity is
        that of the peak's own pixels; the background level is the median of those on the patch's border (their mean
        where that is less than 3 photons: a median of few counts is 0). `snr` is that of the aperture that shows most:
        of those of 1.5, 2.5, 3.5, ... px around the maximum and of all own pixels the highest, saturated ones as they
        were clipped. The noise in an aperture is that of its own counts (Poisson, of `counts_per_photon`), of the
        background, whose scatter is at least that of its photons and of `read_noise`, and of the level's error.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.config import DetectConfig, PatchesConfig
    >>> from braggflow.detect import cut_patches, detect
    >>> from braggflow.frames import CorrectedFrame
    >>> y, x = np.mgrid[:48, :48]
    >>> counts = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 20.3) ** 2 + (x - 31.8) ** 2) / 3))
    >>> frame = CorrectedFrame(counts, np.zeros(counts.shape, bool), None)
    >>> found = detect(frame.counts, frame.mask, DetectConfig(minval=40, minscore=20))
    >>> patches, measured = cut_patches(frame, found.table, PatchesConfig(size=11))
    >>> patches.counts.shape
    (1, 11, 11)
    >>> (patches.centroid + measured[["y_pixel", "x_pixel"]].tolist() - 5).round(1)
    array([[20.3, 31.8]])
    """
    return cut_stack(
        frame.counts[None],
        frame.mask,
        table,
        config,
        saturated=frame.saturated,
        saturation=frame.saturation,
        frame=np.zeros(len(table), np.int64),
        level=level,
        counts_per_photon=counts_per_photon,
        read_noise=read_noise,
    )


def cut_stack(
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    table: peak_table.Table,
    config: PatchesConfig,
    *,
    frame: NDArray[np.int64],
    saturated: NDArray[np.bool_] | None = None,
    saturation: float = np.inf,
    level: NDArray[np.float32] | LevelGrid | None = None,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
) -> tuple[Patches, peak_table.Table]:
    """What `cut_patches` makes of each of several frames that share a mask, in a few compiled calls for all of them.

    Parameters
    ----------
    frames : numpy.ndarray
        Shape (n, y, x), in counts.
    mask : numpy.ndarray of bool
        Shape (y, x), True = ignore.
    table : numpy.ndarray of dtype PEAK_DTYPE
        The frames' peaks, shape (m,), sorted by (frame, y_pixel, x_pixel).
    config : PatchesConfig
        As for `cut_patches`.
    frame : numpy.ndarray of int64
        Shape (m,): the position of each peak's frame in `frames`.
    saturated : numpy.ndarray of bool, optional
        Shape (y, x): saturated pixels of all frames.
    saturation : float
        Counts at and above which a pixel is saturated.
    level : numpy.ndarray of float32 or LevelGrid, optional
        As for `cut_patches`, of each frame.
    counts_per_photon, read_noise : float
        As for `cut_patches`.

    Returns
    -------
    patches, measured
        As of `cut_patches`, for all m peaks.
    """
    ys, xs = np.ascontiguousarray(table["y_pixel"]), np.ascontiguousarray(table["x_pixel"])
    images, mask = as_searched(frames, mask)
    none = np.zeros((1, 1), bool)
    counts, state, flags = _gather(
        images,
        mask,
        none if saturated is None else saturated,
        saturated is not None,
        float(saturation),
        frame,
        ys,
        xs,
        config.size,
    )
    if isinstance(level, LevelGrid):
        _flatten_slopes(counts, state, level.levels, level.cell, frame, ys, xs, counts_per_photon, read_noise)
    elif level is not None:
        _flatten(counts, state, level, frame, ys, xs)
    neighbours = np.full((len(ys), MAX_NEIGHBOURS, 2), np.nan, np.float32)
    n_listed = MAX_NEIGHBOURS if config.neighbours == "fit_together" else 0
    _mark_neighbours(frame, ys, xs, n_listed, config.neighbours != "ignore", counts, state, flags, neighbours)
    intensity, std, snr, centroid = measure_patches(counts, state, neighbours, counts_per_photon, read_noise)
    measured = table.copy()
    measured["intensity"], measured["intensity_std"], measured["snr"] = intensity, std, snr
    measured["flags"] |= flags
    measured["flags"][measured["snr"] < config.flag_snr_below] |= np.uint16(Flag.low_snr)
    return Patches(counts, state, neighbours, centroid), measured


def _flatten(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    level: NDArray[np.float32],
    frame: NDArray[np.int64],
    ys: NDArray[np.integer[Any]],
    xs: NDArray[np.integer[Any]],
) -> None:
    """Subtract from patches (m, size, size) what a level (n, y, x) is above or below that at their maxima."""
    height, width = level.shape[1:]
    steps = np.arange(counts.shape[1]) - counts.shape[1] // 2
    rows = np.clip(ys[:, None] + steps, 0, height - 1)[:, :, None]
    columns = np.clip(xs[:, None] + steps, 0, width - 1)[:, None, :]
    course = level[frame[:, None, None], rows, columns] - level[frame, ys, xs][:, None, None]
    counts -= np.where(state == _MISSING, np.float32(0), course)


@kernel(nogil=True)
def _flatten_slopes(
    counts: Any,
    state: Any,
    levels: Any,
    cell: int,
    frame: Any,
    ys: Any,
    xs: Any,
    counts_per_photon: float,
    read_noise: float,
) -> None:
    """As `_flatten`, by the grids of a local background, where its course matters.

    Patches of few photons stay what was measured, and those of flat places.
    """
    n, size = counts.shape[:2]
    half, line, course = size // 2, np.empty(levels.shape[2], np.float32), np.empty((size, size), np.float32)
    for i in range(n):
        levels_of_row(levels[frame[i]], cell, ys[i], line)
        middle = -above_level(0.0, line, cell, xs[i])
        lowest, furthest = 0.0, 0.0
        for j in range(size):
            levels_of_row(levels[frame[i]], cell, ys[i] - half + j, line)
            for k in range(size):
                course[j, k] = -above_level(0.0, line, cell, xs[i] - half + k) - middle
                lowest, furthest = min(lowest, course[j, k]), max(furthest, abs(course[j, k]))
        noise = np.sqrt(counts_per_photon * max(middle, 0.0) + read_noise**2)
        if (
            middle + lowest >= _LEAST_LEVEL * counts_per_photon
            and furthest > COURSE * noise
            and _shows(counts[i], state[i], course)
        ):
            for j in range(size):
                for k in range(size):
                    if state[i, j, k] != _MISSING:
                        counts[i, j, k] -= course[j, k]


@inner(nogil=True)
def _shows(counts: Any, state: Any, course: Any) -> bool:
    """Whether the own pixels on a patch's border follow a course rather than none: by least squares, by half or more.

    Where a background has a step, a grid of cells makes a slope of it on places that are flat.
    """
    last, n = len(counts) - 1, 0
    mean, mean_course, products, squares = 0.0, 0.0, 0.0, 0.0
    for turn in range(2):
        for j in range(last + 1):
            for k in range(last + 1):
                if state[j, k] == _OWN and (j == 0 or k == 0 or j == last or k == last):
                    if turn == 0:
                        mean, mean_course, n = mean + counts[j, k], mean_course + course[j, k], n + 1
                    else:
                        off = course[j, k] - mean_course
                        products += off * (counts[j, k] - mean)
                        squares += off * off
        if turn == 0 and n > 0:
            mean, mean_course = mean / n, mean_course / n
    return bool(products > squares / 2)


@kernel(nogil=True)
def _gather(
    images: Any,
    mask: Any,
    saturated: Any,
    any_saturated: bool,
    saturation: float,
    frame: Any,
    ys: Any,
    xs: Any,
    size: int,
) -> tuple[Any, Any, Any]:
    n, half = len(ys), size // 2
    height, width = images.shape[1:]
    counts = np.zeros((n, size, size), np.float32)
    state = np.full((n, size, size), _OWN, np.uint8)
    flags = np.zeros(n, np.uint16)
    for i in range(n):
        image, top, left = images[frame[i]], ys[i] - half, xs[i] - half
        if top >= 0 and left >= 0 and top + size <= height and left + size <= width and not any_saturated:
            special = 0
            for j in range(size):
                row, ignored, into = image[top + j, left : left + size], mask[top + j, left : left + size], counts[i, j]
                for k in range(len(into)):
                    into[k] = row[k]
                    special += ignored[k] or row[k] >= saturation
            if special == 0:
                continue
        for j in range(size):
            for k in range(size):
                y, x = top + j, left + k
                if y < 0 or x < 0 or y >= height or x >= width:
                    flags[i] |= _EDGE
                    state[i, j, k] = _MISSING
                elif mask[y, x]:
                    flags[i] |= _MASKED
                    state[i, j, k] = _MISSING
                    counts[i, j, k] = 0
                else:
                    counts[i, j, k] = image[y, x]
                    if image[y, x] >= saturation or (any_saturated and saturated[y, x]):
                        flags[i] |= _SATURATED
                        state[i, j, k] = _FULL
    return counts, state, flags


@kernel(nogil=True)
def _mark_neighbours(
    frame: Any, ys: Any, xs: Any, n_listed: int, mark: bool, counts: Any, state: Any, flags: Any, neighbours: Any
) -> None:
    """Flag overlaps, list up to `n_listed` neighbours of each patch, and `mark` the pixels that are not the peak's."""
    n, size = len(ys), state.shape[1]
    half = size // 2
    # A maximum beyond the patch owns pixels of it too; beyond this distance along an axis it owns not even a corner.
    reach = int((1 + np.sqrt(2)) * half)
    offsets = np.empty(((2 * reach + 1) ** 2, 2), np.int64)
    is_listed = np.empty(len(offsets), np.bool_)
    first = 0
    for i in range(n):
        # Peaks are sorted by frame and row: the candidates are a short run.
        while frame[first] < frame[i] or ys[first] < ys[i] - reach:
            first += 1
        m = 0
        other = first
        while other < n and frame[other] == frame[i] and ys[other] <= ys[i] + reach:
            dy, dx = ys[other] - ys[i], xs[other] - xs[i]
            if other != i and 2 * half * (abs(dy) + abs(dx)) > dy * dy + dx * dx:
                _insert(offsets, m, dy, dx)
                m += 1
            other += 1
        if not m:
            continue
        flags[i] |= _OVERLAP
        if not mark:
            continue
        listed = 0
        for o in range(m):
            dy, dx = offsets[o]
            is_listed[o] = listed < n_listed and max(abs(dy), abs(dx)) <= half + LISTED_BEYOND
            if is_listed[o]:
                neighbours[i, listed, 0], neighbours[i, listed, 1] = dy, dx
                listed += 1
        for j in range(size):
            for k in range(size):
                # How much nearer than the centre: the square of the distance to that, less that to the maximum.
                to_listed, to_unlisted = 0, 0
                for o in range(m):
                    dy, dx = offsets[o]
                    nearer = 2 * ((j - half) * dy + (k - half) * dx) - (dy * dy + dx * dx)
                    if is_listed[o]:
                        to_listed = max(to_listed, nearer)
                    else:
                        to_unlisted = max(to_unlisted, nearer)
                if to_unlisted > to_listed:
                    state[i, j, k] = _MISSING
                    counts[i, j, k] = 0
                elif to_listed > 0 and state[i, j, k] == _OWN:
                    state[i, j, k] = _OTHER


@inner(nogil=True)
def _insert(offsets: Any, m: int, dy: int, dx: int) -> None:
    """Put an offset into `m` offsets that are in order of distance, behind those as near."""
    at = m
    while at > 0 and offsets[at - 1, 0] ** 2 + offsets[at - 1, 1] ** 2 > dy * dy + dx * dx:
        offsets[at, 0], offsets[at, 1] = offsets[at - 1, 0], offsets[at - 1, 1]
        at -= 1
    offsets[at, 0], offsets[at, 1] = dy, dx


@kernel(nogil=True)
def measure_patches(
    counts: Any, state: Any, neighbours: Any, counts_per_photon: float, read_noise: float
) -> tuple[Any, Any, Any, Any]:
    """Intensity (n,), counts, its error, snr (n,), and the centroid (n, 2), pixels, of n patches; see `cut_patches`."""
    n, size = counts.shape[:2]
    half = size // 2
    intensity, std, snr = np.zeros(n, np.float32), np.full(n, np.nan, np.float32), np.zeros(n, np.float32)
    centroid = np.full((n, 2), np.nan)
    border = np.empty(4 * (size - 1), np.float32)
    # By aperture: counts above the level, and own pixels, saturated ones too.
    inside, pixels = np.empty(half + 1), np.empty(half + 1, np.int64)
    # The smallest aperture that holds the pixel; the last one has them all.
    apertures = np.empty((size, size), np.int64)
    for j in range(size):
        for k in range(size):
            a = math.ceil(max(math.hypot(j - half, k - half) - 1.5, 0.0))
            apertures[j, k] = min(a, half)
    for i in range(n):
        n_border = own_border(counts[i], state[i], border)
        level, scatter = _background(border[:n_border], counts_per_photon, read_noise)
        floor = level + _CENTROID_LEVEL * (counts[i, half, half] - level)
        summed, n_summed, weight, wy, wx = 0.0, 0, 0.0, 0.0, 0.0
        inside[:], pixels[:] = 0.0, 0
        for j in range(size):
            for k in range(size):
                own = state[i, j, k] == _OWN
                # A saturated core draws the centroid to itself rightly, a neighbour's does not.
                if not own and (state[i, j, k] != _FULL or is_other(neighbours[i], j - half, k - half)):
                    continue
                inside[apertures[j, k]] += counts[i, j, k] - level
                pixels[apertures[j, k]] += 1
                if own:
                    summed, n_summed = summed + counts[i, j, k] - level, n_summed + 1
                if counts[i, j, k] > floor:
                    weight += counts[i, j, k] - floor
                    wy += (counts[i, j, k] - floor) * j
                    wx += (counts[i, j, k] - floor) * k
        intensity[i] = summed
        if weight > 0:
            centroid[i, 0], centroid[i, 1] = wy / weight, wx / weight
        total, n_own = 0.0, 0
        for a in range(half + 1):
            total += inside[a]
            n_own += pixels[a]
            variance = _variance(total, n_own, scatter, n_border, counts_per_photon)
            if variance > 0:
                snr[i] = max(snr[i], total / np.sqrt(variance))
        std[i] = np.sqrt(_variance(summed, n_summed, scatter, n_border, counts_per_photon))
    return intensity, std, snr, centroid


@inner(nogil=True)
def _variance(total: float, n: int, scatter: float, n_border: int, counts_per_photon: float) -> float:
    """Variance of the sum of `n` pixels above a level which is the median of `n_border` others."""
    variance = counts_per_photon * max(total, 0.0) + n * scatter**2
    return variance + n**2 * (np.pi / 2) * scatter**2 / n_border if n_border else variance


@inner(nogil=True)
def _background(border: Any, counts_per_photon: float, read_noise: float) -> tuple[float, float]:
    """Level of a patch's border and standard deviation of one of its pixels; puts the values in order."""
    n = len(border)
    level = median(border)
    if n and level < 3 * counts_per_photon and border[0] >= 0:
        limit = level + (4 * np.sqrt(level / counts_per_photon) + 3) * counts_per_photon
        total, kept = 0.0, 0
        for b in range(n):
            if border[b] <= limit:
                total += border[b]
                kept += 1
        level = total / kept
    expected = counts_per_photon * max(level, 0.0) + read_noise**2
    return level, max(1.4826 * median_distance(border, level), np.sqrt(expected))
