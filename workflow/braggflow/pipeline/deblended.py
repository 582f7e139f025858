"""Rows for the peaks that the fit told apart: each has its own, and names that of the peak whose patch it is in."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.config import RunConfig
from braggflow.fit import Deblended
from braggflow.frames import unbinned
from braggflow.patches import Patches, State
from braggflow.peak_table import Flag, Method

#: A further peak closer than this (pixels of the searched frame) to another's maximum is that other one, and two as
#: close to each other, found in the patches of two maxima, are one.
SAME_PEAK = 1.5
#: What a further peak's patch says of it, as of the peak at whose maximum that was cut.
_OF_THE_PATCH = np.uint16(Flag.edge | Flag.masked | Flag.saturated | Flag.overlap)
_SIGMA_PER_FWHM = 1 / (2 * np.sqrt(2 * np.log(2)))
#: Points a pixel and axis by which a profile is summed.
_POINTS = 4


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
    order = np.argsort(table["peak_frame"], kind="stable")
    first = np.searchsorted(table["peak_frame"], frame, sorter=order)
    last = np.searchsorted(table["peak_frame"], frame, "right", sorter=order)
    for k in range(len(fits)):
        others = order[first[k] : last[k]]
        others = others[others != row[k]]
        kept[k] = not _near(table["y_pixel"][others], table["x_pixel"][others], place[k]).any()
    variance = fits["y_std"] ** 2 + fits["x_std"] ** 2
    # By certainty, then place: which of two stays does not depend on the order of the table.
    for k in np.lexsort((place[:, 1], place[:, 0], variance)).tolist():
        if kept[k]:
            same = np.flatnonzero((frame == frame[k]) & (row != row[k]))
            kept[same[_near(place[same, 0], place[same, 1], place[k])]] = False
    pixel = np.full((len(fits), 2), -1)
    for k in np.flatnonzero(kept).tolist():
        taken = pixel[:k][kept[:k] & (row[:k] == row[k])] - corner[k]
        pixel[k] = corner[k] + _own_pixel(patches.state[row[k]], fits["y"][k], fits["x"][k], taken)
    return Further(fits[kept], row[kept], pixel[kept])


def _near(y: NDArray[Any], x: NDArray[Any], place: NDArray[np.float64]) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.hypot(y - place[0], x - place[1]) < SAME_PEAK
    return near


def _own_pixel(state: NDArray[np.uint8], y: float, x: float, taken: NDArray[np.int64]) -> tuple[int, int]:
    """The pixel (y, x) of the patch nearest to a position that is the peak's own, not the middle and not `taken`."""
    free = state == State.OWN
    free[len(state) // 2, len(state) // 2] = False
    for row, column in taken:
        if 0 <= row < len(state) and 0 <= column < len(state):
            free[row, column] = False
    rows, columns = np.nonzero(free)
    nearest = np.argmin((rows - y) ** 2 + (columns - x) ** 2)
    return int(rows[nearest]), int(columns[nearest])


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

    `result` is what `assemble` made of `table`. Peaks that have further ones get `deblended`, and, as these, the
    intensity and the snr of their fitted profile. A further peak is no maximum: its `birth` is the level of its pixel,
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
    for name, factor in (("fwhm_major", scale), ("fwhm_minor", scale), ("amplitude", scale**-2)):
        rows[name] = fits[name] * factor
    rows["background"] = fits["background"] * scale**-2
    for name in ("angle", "eta", "chi2"):
        rows[name] = fits[name]
    rows["method"] = np.where(fits["voigt"], Method.pseudo_voigt, Method.gaussian)
    at = (further.pixel - corner).astype(np.int64)
    counts = patches.counts[row]
    # The searched frame's level, as far as its background is that of the maximum.
    rows["birth"] = table["birth"][row] - (counts[:, half, half] - counts[np.arange(len(row)), at[:, 0], at[:, 1]])
    rows["death"], rows["score"] = rows["birth"], 0

    main = np.unique(row)
    result["flags"][main] |= np.uint16(Flag.deblended)
    rows["flags"] = (result["flags"][row] & _OF_THE_PATCH) | np.uint16(Flag.deblended)
    result["flags"][main] &= ~np.uint16(Flag.low_snr)
    for peaks, of in ((result, main), (rows, row)):
        chosen = main if peaks is result else np.arange(len(rows))
        own = patches.state[of] == State.OWN
        intensity = _intensity(peaks[chosen], patches, table, of, scale)
        variance = counts_per_photon * np.maximum(peaks["background"][chosen] * scale**2, 0) + read_noise**2
        noise = np.sqrt(counts_per_photon * intensity + own.sum(axis=(1, 2)) * variance)
        peaks["intensity"][chosen], peaks["snr"][chosen] = intensity, intensity / noise
        weak = chosen[peaks["snr"][chosen] < config.patches.flag_snr_below]
        peaks["flags"][weak] |= np.uint16(Flag.low_snr)
    return np.concatenate([result, rows])


def _intensity(
    peaks: peak_table.Table, patches: Patches, table: peak_table.Table, of: NDArray[np.int64], scale: int
) -> NDArray[np.float64]:
    """Counts of the fitted profiles in the own pixels of their patches `of` (n,); `peaks` are in detector pixels."""
    size = patches.counts.shape[1]
    point = (np.arange(size * _POINTS) + 0.5) / _POINTS - 0.5  # of the patch
    offset = (scale - 1) / 2
    total = np.empty(len(peaks))
    for k, (peak, patch) in enumerate(zip(peaks, of, strict=True)):
        y = (peak["y_fit"] - offset) / scale - (table["y_pixel"][patch] - size // 2)
        x = (peak["x_fit"] - offset) / scale - (table["x_pixel"][patch] - size // 2)
        dy, dx = (point - y)[:, None], point - x
        cosine, sine = np.cos(np.radians(peak["angle"])), np.sin(np.radians(peak["angle"]))
        major, minor = (peak[f"fwhm_{axis}"] * _SIGMA_PER_FWHM / scale for axis in ("major", "minor"))
        q = ((cosine * dx + sine * dy) / major) ** 2 + ((cosine * dy - sine * dx) / minor) ** 2
        eta = peak["eta"]
        profile = (1 - eta) * np.exp(-q / 2) + eta / (1 + q / (2 * np.log(2)))
        pixels = profile.reshape(size, _POINTS, size, _POINTS).mean(axis=(1, 3))
        total[k] = peak["amplitude"] * scale**2 * pixels[patches.state[patch] == State.OWN].sum()
    return total
