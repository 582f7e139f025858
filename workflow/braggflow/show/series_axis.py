"""What a series is drawn against: an angle, the time, a voltage, or else the numbers of its frames."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError

#: Names of coordinates that a series is drawn against where several are to choose from, the first that is there.
_USUAL = (
    *("omega", "phi", "chi", "kappa", "theta", "rotation_angle", "angle", "rotation"),
    *("time", "timestamp", "elapsed_time", "temperature", "pressure", "voltage", "capacity"),
)
#: Units of elapsed time: the largest of which the series lasts two or more.
_SPANS = (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


@dataclass(frozen=True, slots=True)
class SeriesAxis:
    """The values that a series' frames are drawn against."""

    name: str
    """`frame`, or that of the coordinate."""
    label: str
    """Name and units, as an axis shows them."""
    values: NDArray[np.float64]
    """(n,) of each frame of the table; NaN where it has none."""
    numbers: NDArray[np.int64]
    """(n,) frame numbers, ascending."""

    @property
    def whole(self) -> bool:
        """Whether ticks are whole numbers."""
        return self.name == "frame"

    @property
    def ordered(self) -> bool:
        """Whether values rise or fall all along, so that curves against them are functions."""
        return _monotonic(self.values)

    def straight(self, values: NDArray[np.float64]) -> bool:
        """Whether other values of the frames, (n,), are a straight line against these, to 1 % of their range."""
        known = np.isfinite(values) & np.isfinite(self.values)
        if np.count_nonzero(known) < 3:
            return True
        at, v = self.values[known] - self.values[known].mean(), values[known] - values[known].mean()
        line = at * (at @ v) / max(at @ at, np.finfo(float).tiny)
        return bool(np.abs(v - line).max() < 0.01 * np.ptp(v))

    def of(self, peak_frame: NDArray[Any]) -> NDArray[np.float64]:
        """The values of the frames that peaks lie in, (peak,)."""
        return self.values[np.searchsorted(self.numbers, peak_frame)]


def axis_of_series(table: xr.Dataset, wanted: str | None = None) -> SeriesAxis:
    """The axis of a peak table's frames.

    `wanted` is the name of a coordinate, or `frame`. Without it, of the coordinates that rise or fall all along one of
    the usual names (omega, ..., time, ..., voltage) is taken, or the only one there is, or else the frame numbers.
    Raises `InputError` where the table has no such coordinate.
    """
    numbers = table["frame"].values
    by_number = SeriesAxis("frame", "frame number", numbers.astype(np.float64), numbers)
    found = coordinates(table)
    if wanted is not None:
        if wanted == "frame":
            return by_number
        if wanted not in found:
            there = ", ".join(["frame", *found])
            raise InputError(f"axis {wanted}: is no numeric coordinate of the run's frames that varies; has: {there}")
        return found[wanted]
    ordered = [name for name, axis in found.items() if axis.ordered]
    usual = [name for name in _USUAL if name in ordered]
    if usual:
        return found[usual[0]]
    return found[ordered[0]] if len(ordered) == 1 else by_number


def coordinates(table: xr.Dataset) -> dict[str, SeriesAxis]:
    """The numbers and times along `frame` that vary, by name; of a time, what has passed since its first."""
    found = {}
    for name, coordinate in table.coords.items():
        if coordinate.dims != ("frame",) or name == "frame" or coordinate.dtype.kind not in "iufMm":
            continue
        values, label = _numbers(coordinate, str(name))
        finite = values[np.isfinite(values)]
        if finite.size and finite.min() < finite.max():
            found[str(name)] = SeriesAxis(str(name), label, values, table["frame"].values)
    return found


def _numbers(coordinate: xr.DataArray, name: str) -> tuple[NDArray[np.float64], str]:
    values = coordinate.values
    if values.dtype.kind not in "Mm":
        units = str(coordinate.attrs.get("units", coordinate.attrs.get("unit", ""))).strip()
        return values.astype(np.float64), f"{name} ({units})" if units not in ("", "1") else name
    known = values[~np.isnat(values)]
    absolute = values.dtype.kind == "M" and known.size > 0
    start = known.min() if absolute else np.timedelta64(0, "s")
    passed = np.where(np.isnat(values), np.nan, (values - start) / np.timedelta64(1, "s"))
    longest = float(np.nanmax(np.abs(passed))) if known.size else 0.0
    units, seconds = next(((units, s) for units, s in _SPANS if longest >= 2 * s), _SPANS[-1])
    since = f" since {str(start.astype('datetime64[s]')).replace('T', ' ')}" if absolute else ""
    return passed / seconds, f"{name}{since} ({units})"


def _monotonic(values: NDArray[np.float64]) -> bool:
    steps = np.diff(values)
    return bool(np.isfinite(values).all() and ((steps > 0).all() or (steps < 0).all()))
