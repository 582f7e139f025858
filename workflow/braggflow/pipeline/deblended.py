"""Rows for the peaks that the fit told apart: each has its own, and names that of the peak whose patch it is in."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.config import RunConfig
from braggflow.fit import Deblended, profile_counts
from braggflow.frames import unbinned
from braggflow.patches import Patches, State
from braggflow.peak_table import Flag, Method

#: A further peak closer than this (pixels of the searched frame) to another's maximum is that other one, and two as
#: close to each other, found in the patches of two maxima, are one.
SAME_PEAK = 1.5
#: What a further peak's patch says of it, as of the peak at whose maximum that was cut.
_OF_THE_PATCH = np.uint16(Flag.edge | Flag.masked | Flag.saturated | Flag.overlap)
_SIGMA_PER_FWHM = 1 / (2 * np.sqrt(2 * np.log(2)))
#: Points a pixel and axis by which a profile is summed, and profiles that are at once.
_POINTS, _AT_ONCE = 4, 32


class Further(NamedTuple):
    """Further peaks of a group's patches."""

    fits: NDArray[np.void]
    """(m,) of dtype FIT_DTYPE, in pixels of the patch."""
    row: NDArray[np.int64]
    """(m,) row of the table whose patch each is in, ascending."""
    pixel: NDArray[np.int64]
    """(m, 2) as (y, x) of the searched frame: the pixel that stands for it."""


def further_peaks(
    table: peak_table.Table, patches: Patches, fitted: NDArray[np.bool_], deblended: Deblended
) -> Further:
    """The further peaks that get rows, with their pixels; `table` (n,) is in pixels of the searched frame.

    Left out are those that are another detected maximum (`SAME_PEAK`), and of two that are one the less certain. The
    pixel is the nearest to the position that is the peak's own, neither its maximum nor another one's pixel.
    """
    fits, row = deblended.further, np.flatnonzero(fitted)[deblended.patch]
    half = patches.counts.shape[1] // 2
    corner = np.column_stack([table["y_pixel"], table["x_pixel"]])[row] - half
    place = corner + np.column_stack([fits["y"], fits["x"]])
    frame = table["peak_frame"][row]
    kept = np.ones(len(fits), bool)
    maxima = np.column_stack([table["y_pixel"], table["x_pixel"]]).astype(np.float64)
    one, other = _close_pairs(frame, place, table["peak_frame"], maxima)
    kept[one[other != row[one]]] = False
    one, other = _close_pairs(frame, place, frame, place)
    apart = row[one] != row[other]
    one, other = one[apart], other[apart]
    variance = fits["y_std"] ** 2 + fits["x_std"] ** 2
    # By certainty, then place: which of two stays does not depend on the order of the table.
    rank = np.argsort(np.lexsort((place[:, 1], place[:, 0], variance)))
    for k in sorted(set(one.tolist()), key=rank.__getitem__):
        if kept[k]:
            kept[other[one == k]] = False
    fits, row, corner = fits[kept], row[kept], corner[kept]
    return Further(fits, row, corner + _own_pixels(patches.state, row, fits))


def _close_pairs(
    frame: NDArray[np.int64], place: NDArray[np.float64], frames: NDArray[np.int64], places: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of a place (n, 2) and one of `places` (m, 2) closer than `SAME_PEAK`, each in its frame, as (y, x)."""
    if not len(frame):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # Rows of all frames one below the other, far enough apart.
    lowest = min(place[:, 0].min(), places[:, 0].min())
    height = max(place[:, 0].max(), places[:, 0].max()) - lowest + 4 * SAME_PEAK
    first_frame = frame.min()
    line = (frame - first_frame) * height + place[:, 0] - lowest
    lines = (frames - first_frame) * height + places[:, 0] - lowest
    order = np.argsort(lines, kind="stable")
    first, stop = (np.searchsorted(lines[order], line + sign * 2 * SAME_PEAK) for sign in (-1, 1))
    number = stop - first
    one = np.repeat(np.arange(len(line)), number)
    other = order[np.arange(len(one)) - np.repeat(np.cumsum(number) - number, number) + np.repeat(first, number)]
    away = np.hypot(places[other, 0] - place[one, 0], places[other, 1] - place[one, 1])
    near = (away < SAME_PEAK) & (frames[other] == frame[one])
    return one[near], other[near]


def _own_pixels(state: NDArray[np.uint8], row: NDArray[np.int64], fits: NDArray[np.void]) -> NDArray[np.int64]:
    """The pixel (m, 2) of the patch nearest to each position that is the peak's own, not the middle nor another's."""
    size = state.shape[1]
    pixel = np.empty((len(row), 2), np.int64)
    free = state[row] == State.OWN
    free[:, size // 2, size // 2] = False
    # Rows are ascending: those of one patch follow each other, and the first has the first choice.
    turn = np.arange(len(row)) - np.searchsorted(row, row)
    y, x = np.mgrid[:size, :size]
    for one in range(int(turn.max(initial=-1)) + 1):
        now = np.flatnonzero(turn == one)
        for before in range(one):
            taken = pixel[now - one + before]
            free[now, taken[:, 0], taken[:, 1]] = False
        far = (y - fits["y"][now, None, None]) ** 2 + (x - fits["x"][now, None, None]) ** 2
        nearest = np.where(free[now], far, np.inf).reshape(len(now), -1).argmin(axis=1)
        pixel[now] = np.column_stack(np.divmod(nearest, size))
    return pixel


def add_further(
    result: peak_table.Table,
    table: peak_table.Table,
    patches: Patches,
    config: RunConfig,
    further: Further,
    *,
    counts_per_photon: float,
    read_noise: float,
) -> peak_table.Table:
    """`result` (n,) with the rows of the further peaks behind it, their `parent` the row that they belong to.

    `result` is what `assemble` made of `table`. Peaks that have further ones get `deblended`, and, as these, the snr of
    their fitted profile in the patch's own pixels. A further peak is no maximum: its `birth` is the level of its pixel,
    its `score` 0, its `area` 0, and it has no `significance`. `counts_per_photon` and `read_noise` are those of the
    searched frame.
    """
    if not len(further.row):
        return result
    scale, row = config.frames.bin, further.row
    half = patches.counts.shape[1] // 2
    fits, rows = further.fits, peak_table.empty(len(row))
    corner = np.column_stack([table["y_pixel"], table["x_pixel"]])[row].astype(np.float64) - half
    rows["peak_frame"], rows["parent"] = table["peak_frame"][row], row
    for axis, name in enumerate("yx"):
        rows[f"{name}_pixel"] = further.pixel[:, axis] * scale + (scale - 1) // 2
        rows[name] = rows[f"{name}_fit"] = unbinned(corner[:, axis] + fits[name], scale)
        rows[f"{name}_std"] = rows[f"{name}_fit_std"] = fits[f"{name}_std"] * scale
    for name in ("fwhm_major", "fwhm_minor", "fwhm_major_std", "fwhm_minor_std"):
        rows[name] = fits[name] * scale
    rows["amplitude"] = fits["amplitude"] * scale**-2
    rows["background"] = fits["background"] * scale**-2
    for name in ("angle", "eta", "chi2"):
        rows[name] = fits[name]
    rows["method"] = np.where(fits["voigt"], Method.pseudo_voigt, Method.gaussian)
    at = (further.pixel - corner).astype(np.int64)
    counts = patches.counts[row]
    # The searched frame's level, as far as its background is that of the maximum.
    rows["birth"] = table["birth"][row] - (counts[:, half, half] - counts[np.arange(len(row)), at[:, 0], at[:, 1]])
    rows["death"], rows["score"] = rows["birth"], 0

    rows["intensity"], rows["intensity_std"] = profile_counts(fits, 2 * half + 1), fits["counts_std"]

    main = np.unique(row)
    result["flags"][main] |= np.uint16(Flag.deblended)
    rows["flags"] = (result["flags"][row] & _OF_THE_PATCH) | np.uint16(Flag.deblended)
    result["flags"][main] &= ~np.uint16(Flag.low_snr)
    for peaks, of in ((result, main), (rows, row)):
        chosen = main if peaks is result else np.arange(len(rows))
        own = patches.state[of] == State.OWN
        inside = _counts_inside(peaks[chosen], patches, table, of, scale)
        variance = counts_per_photon * np.maximum(peaks["background"][chosen] * scale**2, 0) + read_noise**2
        peaks["snr"][chosen] = inside / np.sqrt(counts_per_photon * inside + own.sum(axis=(1, 2)) * variance)
        weak = chosen[peaks["snr"][chosen] < config.patches.flag_snr_below]
        peaks["flags"][weak] |= np.uint16(Flag.low_snr)
    return np.concatenate([result, rows])


def _counts_inside(
    peaks: peak_table.Table, patches: Patches, table: peak_table.Table, of: NDArray[np.int64], scale: int
) -> NDArray[np.float64]:
    """Counts of the fitted profiles in the own pixels of their patches `of` (n,); `peaks` are in detector pixels."""
    size = patches.counts.shape[1]
    point = (np.arange(size * _POINTS) + 0.5) / _POINTS - 0.5  # of the patch
    offset = (scale - 1) / 2
    total = np.empty(len(peaks))
    for first in range(0, len(peaks), _AT_ONCE):
        peak, patch = peaks[first : first + _AT_ONCE, None, None], of[first : first + _AT_ONCE]
        y = (peak["y_fit"] - offset) / scale - (table["y_pixel"][patch] - size // 2)[:, None, None]
        x = (peak["x_fit"] - offset) / scale - (table["x_pixel"][patch] - size // 2)[:, None, None]
        dy, dx = point[:, None] - y, point - x
        cosine, sine = np.cos(np.radians(peak["angle"])), np.sin(np.radians(peak["angle"]))
        major, minor = (peak[f"fwhm_{axis}"] * _SIGMA_PER_FWHM / scale for axis in ("major", "minor"))
        q = ((cosine * dx + sine * dy) / major) ** 2 + ((cosine * dy - sine * dx) / minor) ** 2
        eta = peak["eta"]
        profile = (1 - eta) * np.exp(-q / 2) + eta / (1 + q / (2 * np.log(2)))
        pixels = profile.reshape(-1, size, _POINTS, size, _POINTS).mean(axis=(2, 4))
        inside = np.sum(pixels, axis=(1, 2), where=patches.state[patch] == State.OWN)
        total[first : first + _AT_ONCE] = peak["amplitude"][:, 0, 0] * scale**2 * inside
    return total
