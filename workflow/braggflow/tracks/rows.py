"""A peak table as the arrays that following peaks needs, frame after frame."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.peak_rows import frame_positions

#: Coordinates that tell how a sample was turned; steps that differ by more than this share are no scan.
ROTATIONS = ("omega", "phi", "chi", "kappa", "theta", "rotation_angle", "angle", "rotation")
_EVEN = 0.1
#: So many steps lie between frames where a scan jumps.
_JUMP = 10_000.0
#: Nobody knows a position better (pixels); what stands for an uncertainty that no peak states: a pixel's own.
_LEAST_STD, _UNKNOWN_STD = 0.01, 12**-0.5
#: The largest correlation of y and x that a shape is believed.
_MOST_CORRELATED = 0.95
#: Peaks that are read at once; of more in all, arrays lie in files that have no name.
AT_ONCE, _IN_MEMORY = 262_144, 4_000_000

_COLUMNS = ("y", "x", "y_std", "x_std", "fwhm_major", "fwhm_minor", "angle", "intensity")


@dataclass(frozen=True, slots=True)
class FrameAxis:
    """The frames of a series, in order of their numbers."""

    numbers: NDArray[np.int64]
    """(n_frames,) ascending."""
    position: NDArray[np.float64]
    """(n_frames,) ascending: what gaps are counted in; by default the numbers."""
    time: NDArray[np.float64]
    """(n_frames,) ascending."""
    units: str
    """Of the time: frame, or those of its coordinate."""
    step: float
    """By how much the positions of neighbours differ."""

    def index(self, rows: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which frame each row lies in."""
        return np.searchsorted(self.position, rows[:, 7])


def room(n: int, *more: int) -> NDArray[np.float64]:
    """An array (n, *more) to be filled, on disk where it is large."""
    if n <= _IN_MEMORY:
        return np.empty((n, *more))
    with tempfile.TemporaryFile() as file:  # the file lasts as long as the array
        return np.memmap(file, np.float64, "w+", shape=(n, *more))


def frame_axis(peaks: xr.Dataset, time: str | None) -> FrameAxis:
    """The frames of a table, with their numbers or a coordinate's values as time.

    Raises `InputError` where there is no such coordinate, or its values do not rise from frame to frame.
    """
    if "peak_frame" not in peaks.variables or "peak" not in peaks.dims:
        raise InputError("peaks: is no peak table (dimension peak, column peak_frame); must be what open_peaks returns")
    numbers = np.sort(peaks["frame"].values if "frame" in peaks.dims else np.unique(peaks["peak_frame"].values))
    step = float(np.median(np.diff(numbers))) if len(numbers) > 1 else 1.0
    if time is None or time == "frame":
        return FrameAxis(numbers, numbers.astype(np.float64), numbers.astype(np.float64), "frame", step)
    values = _coordinate(peaks, time, numbers)
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        raise InputError(f"track.time: {time} does not rise from frame to frame; must be, as time does; null: numbers")
    return FrameAxis(numbers, numbers.astype(np.float64), values, str(peaks[time].attrs.get("units", "")) or time, step)


def rotation_axis(peaks: xr.Dataset, frames: FrameAxis) -> str | None:
    """The coordinate of a scan in even steps of an angle, if there is one."""
    for name in ROTATIONS:
        if name in peaks.coords and peaks[name].dims == ("frame",) and len(frames.numbers) > 2:
            steps = np.diff(_coordinate(peaks, name, frames.numbers)) / np.diff(frames.numbers)
            typical = np.median(steps)
            if typical and np.isfinite(steps).all() and (np.abs(steps / typical - 1) < _EVEN).mean() > 0.9:
                return name
    return None


def turned(peaks: xr.Dataset, frames: FrameAxis, name: str) -> FrameAxis:
    """The frames of a scan by its angle, so that spots on both sides of a jump are no neighbours."""
    steps = np.diff(_coordinate(peaks, name, frames.numbers))
    typical = np.median(steps / np.diff(frames.numbers)) * frames.step
    apart = steps / typical
    even = np.abs(apart - np.rint(apart)) < _EVEN
    apart = np.where(even & (apart > 0.5) & (apart < _JUMP), np.rint(apart), _JUMP)
    position = np.concatenate([[0.0], np.cumsum(apart)])
    return replace(frames, position=position, time=position, step=1.0)


def angle_of_frames(peaks: xr.Dataset, name: str, frames: FrameAxis) -> NDArray[np.float64]:
    """The values of a coordinate, in order of the frames' numbers."""
    return _coordinate(peaks, name, frames.numbers)


def _coordinate(peaks: xr.Dataset, name: str, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    if name not in peaks.coords or peaks[name].dims != ("frame",) or peaks[name].dtype.kind not in "iufMm":
        there = ", ".join(str(known) for known, values in peaks.coords.items() if values.dims == ("frame",))
        raise InputError(f"track.time: {name} is no numeric coordinate of the frames; has: {there or 'none'}")
    values = peaks[name].values[frame_positions(peaks, numbers)]
    if values.dtype.kind in "Mm":
        return np.asarray((values - values[0]) / np.timedelta64(1, "s"), np.float64)
    return np.asarray(values, np.float64)


def read_rows(peaks: xr.Dataset, frames: FrameAxis) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The rows of `segment_ends`, (n, 9), by frame and ascending in y within each, and which peak each is, (n,).

    Peaks without a finite position are left out. The covariance of y and x is that of the fitted shape; an uncertainty
    that is not known is the median of those that are.
    """
    number = peaks["peak_frame"].values
    n = len(number)
    rows = room(n, 9)
    for first in range(0, n, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        _fill(rows[part], peaks[list(_COLUMNS)].isel(peak=part), number[part], frames)
    for column in (2, 4):
        known = rows[:, column][np.isfinite(rows[:, column])]
        unknown = np.isnan(rows[:, column])
        if unknown.any():
            rows[unknown, column] = np.median(known) if len(known) else _UNKNOWN_STD**2
    rows[np.isnan(rows[:, 3]), 3] = 0.0
    order = np.lexsort((rows[:, 5], rows[:, 1], rows[:, 0], rows[:, 7]))
    order = order[np.isfinite(rows[order, 0] + rows[order, 1])]
    ordered = room(len(order), 9)
    for first in range(0, len(order), AT_ONCE):
        ordered[first : first + AT_ONCE] = rows[order[first : first + AT_ONCE]]
    return ordered, order


def _fill(rows: NDArray[np.float64], part: xr.Dataset, number: NDArray[np.int64], frames: FrameAxis) -> None:
    column: dict[str, NDArray[Any]] = {name: part[name].values.astype(np.float64) for name in _COLUMNS}
    y_std, x_std = (np.maximum(column[name], _LEAST_STD) for name in ("y_std", "x_std"))
    rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 4] = column["y"], column["x"], y_std**2, x_std**2
    rows[:, 3] = _correlation(column["fwhm_major"], column["fwhm_minor"], column["angle"]) * y_std * x_std
    with np.errstate(invalid="ignore", divide="ignore"):
        for to, value in ((5, column["intensity"]), (6, np.sqrt(column["fwhm_major"] * column["fwhm_minor"]))):
            rows[:, to] = np.log(np.where(value > 0, value, np.nan))
    at = np.searchsorted(frames.numbers, number)
    rows[:, 7], rows[:, 8] = frames.position[at], frames.time[at]


def _correlation(
    major: NDArray[np.float64], minor: NDArray[np.float64], angle: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of the errors of y and x: photons that are spread as an ellipse place its centre as precisely as it is narrow."""
    along, across = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    xx, yy = (major * along) ** 2 + (minor * across) ** 2, (major * across) ** 2 + (minor * along) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (major**2 - minor**2) * along * across / np.sqrt(xx * yy)
    return np.clip(np.nan_to_num(found), -_MOST_CORRELATED, _MOST_CORRELATED)


def frames_of_rows(rows: NDArray[np.float64], frames: FrameAxis) -> Iterator[tuple[int, slice]]:
    """Which frames have rows, and where these are."""
    bounds = np.searchsorted(rows[:, 7], frames.position)
    for at, (first, stop) in enumerate(zip(bounds, [*bounds[1:], len(rows)], strict=True)):
        if first < stop:
            yield at, slice(int(first), int(stop))
