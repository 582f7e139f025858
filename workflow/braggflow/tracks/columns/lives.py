"""When each track lives, its relatives, and the courses of its peak, as lines with errors."""

from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.tracks.columns.changes import change_points
from braggflow.tracks.linking import Joined

#: What the mean and the trend are of, with units.
FOLLOWED = {
    "y": "pixel",
    "x": "pixel",
    "intensity": "count",
    "fwhm_major": "pixel",
    "fwhm_minor": "pixel",
    "angle": "degree",
}
#: These too, where it is known how the detector stands.
_UNITS = FOLLOWED | {"q": "angstrom-1", "d": "angstrom"}

_CHANGE_DTYPE = np.dtype([("track", "i8"), ("what", "i8"), ("frame", "i8"), ("chance", "f8")])


class Born(IntEnum):
    """Why a track begins."""

    series_begins = 0
    appeared = 1
    split_off = 2


class Ended(IntEnum):
    """Why a track ends."""

    series_ends = 0
    disappeared = 1
    merged = 2


class Changed(IntEnum):
    """What of a track changes its course."""

    y = 0
    x = 1
    intensity = 2
    fwhm_major = 3


def life_columns(
    joined: Joined,
    frame: NDArray[np.int64],
    position: NDArray[np.float64],
    frames: NDArray[np.int64],
    step: float,
) -> dict[str, xr.Variable]:
    """First and last frame, length, gaps and relatives of each track.

    `frame` (n,) is the number of each row's frame, `position` (n,) what gaps are counted in, by `step` from frame to
    frame; `frames` the numbers of all.
    """
    starts, order = joined.starts, joined.order
    of_track = frame[order]
    first, last = of_track[starts[:-1]], of_track[starts[1:] - 1]
    n = len(first)
    length = np.diff(starts)
    missed = np.maximum(np.rint(np.diff(position[order]) / step).astype(np.int64) - 1, 0)
    inside = np.ones(len(missed), bool)
    inside[starts[1:-1] - 1] = False
    of = np.repeat(np.arange(n), length)[:-1] if n else np.zeros(0, np.int64)
    gaps = np.bincount(of[inside], missed[inside], n).astype(np.int64)
    longest = np.zeros(n, np.int64)
    np.maximum.at(longest, of[inside], missed[inside])
    born = np.full(n, Born.appeared)
    born[first == frames[0]] = Born.series_begins
    born[joined.parent >= 0] = Born.split_off
    ended = np.full(n, Ended.disappeared)
    ended[last == frames[-1]] = Ended.series_ends
    ended[joined.merged_into >= 0] = Ended.merged
    children = np.bincount(joined.parent[joined.parent >= 0], minlength=n)
    return {
        "first": _column(first, "1", "number of the frame in which the track begins"),
        "last": _column(last, "1", "number of the frame in which it ends"),
        "length": _column(length, "1", "peaks"),
        "gaps": _column(gaps, "1", "frames between first and last in which the peak is missing"),
        "longest_gap": _column(longest, "1", "such frames in a row, at most"),
        "parent": _column(joined.parent, "1", "track from which it split off (-1: none)"),
        "merged_into": _column(joined.merged_into, "1", "track into which it went (-1: none)"),
        "children": _column(children, "1", "tracks that split off from it"),
        "why_born": _flags(born, "why the track begins", Born),
        "why_ended": _flags(ended, "why the track ends", Ended),
    }


def course_columns(
    joined: Joined,
    time: NDArray[np.float64],
    name: str,
    value: NDArray[np.float64],
    weight: NDArray[np.float64] | None,
    per: str,
) -> dict[str, xr.Variable]:
    """Mean and trend of a quantity along each track, with their standard errors.

    A straight line is fitted to the values (n,) at times (n,); `weight` (n,) is one over their variance, or None where
    that is found from their scatter about the line. The mean is the line's value in the middle of the times. With
    weights, the errors are widened by the scatter where that is larger than the weights say.
    """
    starts, order = joined.starts, joined.order
    n = len(starts) - 1
    of = np.repeat(np.arange(n), np.diff(starts))
    t, v = time[order], value[order].astype(np.float64)
    w = np.where(np.isfinite(v), 1.0 if weight is None else weight[order], 0.0)
    if name == "angle":
        v = _unfolded(of, n, v)
    v = np.where(w > 0, v, 0.0)
    whole = np.bincount(of, w, n)
    count = np.bincount(of, w > 0, n)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle, mean = np.bincount(of, w * t, n) / whole, np.bincount(of, w * v, n) / whole
        dt, dv = t - middle[of], v - mean[of]
        spread = np.bincount(of, w * dt**2, n)
        trend = np.bincount(of, w * dt * dv, n) / spread
        trend[(count < 2) | (spread <= 0)] = np.nan
        left = np.bincount(of, w * (dv - np.nan_to_num(trend)[of] * dt) ** 2, n) / (count - 2)
        left[count < 3] = np.nan
        variance = left if weight is None else np.fmax(left, 1.0)
        mean_std, trend_std = np.sqrt(variance / whole), np.sqrt(variance / spread)
    if name == "angle":
        mean = 90 - (90 - mean) % 180
    units = _UNITS[name]
    return {
        f"{name}_mean": _column(mean, units, f"{name} in the middle of the track, by a line through it"),
        f"{name}_mean_std": _column(mean_std, units, f"standard error of {name}_mean"),
        f"{name}_trend": _column(trend, f"{units}/{per}", f"slope of {name} along the track"),
        f"{name}_trend_std": _column(trend_std, f"{units}/{per}", f"standard error of {name}_trend"),
    }


def _unfolded(of: NDArray[np.int64], n: int, angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions, which are the same after 180 degrees, brought within 90 of the mean of their track."""
    double = np.deg2rad(2 * np.nan_to_num(angle))
    known = np.isfinite(angle)
    middle = (
        np.rad2deg(np.arctan2(np.bincount(of, known * np.sin(double), n), np.bincount(of, known * np.cos(double), n)))
        / 2
    )
    unfolded: NDArray[np.float64] = middle[of] + (angle - middle[of] + 90) % 180 - 90
    return unfolded


def change_columns(
    joined: Joined,
    time: NDArray[np.float64],
    frame: NDArray[np.int64],
    courses: Mapping[Changed, NDArray[np.float64]],
    false_alarms: float,
) -> dict[str, xr.Variable]:
    """Where the courses of tracks change, on dimension `change`: which track, what of it, in which frame.

    `courses` holds the values (n,) of each row; of intensities the logarithm is looked at, so that their noise does not
    change with them.
    """
    found: list[tuple[int, int, int, float]] = []
    of_order = time[joined.order]
    for what, values in courses.items():
        ordered = values[joined.order]
        if what is Changed.intensity:
            ordered = np.log(np.where(ordered > 0, ordered, np.nan))
        for track, (first, stop) in enumerate(zip(joined.starts[:-1], joined.starts[1:], strict=True)):
            for at, chance in change_points(of_order[first:stop], ordered[first:stop], false_alarms):
                found.append((track, int(what), int(frame[joined.order[first + at]]), chance))
    found.sort()
    rows = np.array(found, _CHANGE_DTYPE)
    changes = np.bincount(rows["track"], minlength=len(joined.starts) - 1)
    said = {"units": "1", "long_name": "chance that noise alone makes such a change", "false_alarms": false_alarms}
    return {
        "changes": _column(changes, "1", "changes of its courses"),
        "change_track": _column(rows["track"], "1", "track whose course changes", dim="change"),
        "change_frame": _column(rows["frame"], "1", "first frame after the change", dim="change"),
        "change_of": _flags(rows["what"], "what changes its course", Changed, dim="change"),
        "change_chance": xr.Variable(("change",), rows["chance"], said),
    }


def _column(values: NDArray[np.generic], units: str, long_name: str, dim: str = "track") -> xr.Variable:
    dtype = np.float64 if values.dtype.kind == "f" else np.int64
    return xr.Variable((dim,), values.astype(dtype), {"units": units, "long_name": long_name})


def _flags(values: NDArray[np.integer], long_name: str, kinds: type[IntEnum], dim: str = "track") -> xr.Variable:
    members: Sequence[IntEnum] = list(kinds)
    said = {
        "units": "1",
        "long_name": long_name,
        "flag_values": [int(kind) for kind in members],
        "flag_meanings": " ".join(kind.name for kind in members),
    }
    return xr.Variable((dim,), values.astype(np.int8), said)
