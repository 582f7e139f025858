"""The peak table as plain rows, each peak with its frame's number and coordinates; and two tables side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.peak_table import VARIABLES

if TYPE_CHECKING:
    import pandas as pd


def frame_coordinates(peaks: xr.Dataset) -> list[str]:
    """Names of the coordinates that each frame has one value of, in order, `frame` itself left out."""
    return sorted(str(name) for name, values in peaks.coords.items() if values.dims == ("frame",) and name != "frame")


def frame_positions(peaks: xr.Dataset, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where frames with these numbers stand on the dimension `frame`; raises `InputError` for one that is not there."""
    known = peaks["frame"].values
    order = np.argsort(known, kind="stable")
    at = np.searchsorted(known, numbers, sorter=order)
    found: NDArray[np.int64] = order[np.minimum(at, len(known) - 1)] if len(known) else np.full(len(numbers), -1)
    strange = (at == len(known)) | (known[found] != numbers) if len(known) else np.ones(len(numbers), bool)
    if strange.any():
        raise InputError(
            f"peaks: one lies in frame {numbers[strange][0]}, of which dimension frame knows nothing; "
            "select frames by peaks.sel(peak_frame=...), which leaves that dimension whole"
        )
    return found


def rows_of(peaks: xr.Dataset) -> xr.Dataset:
    """The table on its dimension `peak` alone: each peak with the coordinates of its frame as coordinates of its own.

    Raises `InputError` where `peaks` is no peak table.
    """
    if "peak" not in peaks.dims or "peak_frame" not in peaks.variables:
        raise InputError(
            "peaks: is no peak table (dimension peak, column peak_frame); must be what open_peaks or find_peaks "
            "returns, or a part of it: peaks.isel(peak=...), peaks[[...]]"
        )
    rows = peaks.drop_dims([dim for dim in peaks.dims if dim != "peak"])
    if not (names := frame_coordinates(peaks)):
        return rows
    position = frame_positions(peaks, peaks["peak_frame"].values)
    return rows.assign_coords({name: ("peak", peaks[name].values[position], peaks[name].attrs) for name in names})


def column_names(peaks: xr.Dataset) -> list[str]:
    """The columns of a table's rows in their order: frame, its coordinates, then as docs/table.md has them."""
    of_peaks = [str(name) for name, values in peaks.variables.items() if values.dims == ("peak",) and name != "peak"]
    labels = sorted(name for name in of_peaks if name in peaks.coords and name not in VARIABLES)
    first = ["peak_frame", *frame_coordinates(peaks), *labels]
    known = [name for name in VARIABLES if name in of_peaks and name != "peak_frame"]
    return [*first, *known, *(name for name in of_peaks if name not in {*first, *known})]


def to_dataframe(peaks: xr.Dataset, columns: Sequence[str] | None = None) -> "pd.DataFrame":
    """The peaks as a pandas table: one row a peak, with its frame's number and coordinates.

    Parameters
    ----------
    peaks : xarray.Dataset
        What `open_peaks` or `find_peaks` returned, or a part of it.
    columns : sequence of str, optional
        The columns of docs/table.md that are wanted, which alone are read; default: all. `peak_frame` and the
        coordinates of the frames come with them, in front.

    Returns
    -------
    pandas.DataFrame
        `peak_frame`, then what each frame has one value of (omega, time, voltage, ..., by name), then the columns in
        the order of docs/table.md, with their dtypes and in their units; a row a peak, in the order of the table,
        labelled by its row in the whole one. `method` and `flags` are numbers. Frames without a peak have no row.

    Raises
    ------
    InputError
        Where `peaks` is no peak table, or has no such column.

    See Also
    --------
    braggflow.open_peaks : The accessor `peaks.bragg` has the same, and more.

    Examples
    --------
    >>> import braggflow
    >>> peaks = braggflow.open_peaks("runs/scan")
    >>> table = braggflow.to_dataframe(peaks)
    >>> len(table) == peaks.sizes["peak"]
    True
    >>> list(table.columns[:5])
    ['peak_frame', 'capacity', 'time', 'voltage', 'y_pixel']
    >>> good = table[table["flags"] == 0]

    `peaks.bragg.to_dataframe()` is the same:

    >>> list(peaks.bragg.to_dataframe(["intensity"]).columns)
    ['peak_frame', 'capacity', 'time', 'voltage', 'intensity']
    """
    rows = rows_of(peaks)
    names = column_names(rows)
    if columns is not None:
        for name in columns:
            if name not in names:
                close = get_close_matches(name, names, n=1)
                hint = f". Did you mean {close[0]}?" if close else ""
                raise InputError(f"columns: {name!r} is not in the table; it has {', '.join(names)}{hint}")
        names = [name for name in names if name in rows.coords or name in columns]
    # Without indexes: what is one is no column of what xarray makes.
    table = rows[names].drop_indexes(list(rows.xindexes)).to_dataframe()
    return (table.set_index("peak") if "peak" in table else table)[names]


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """The peaks of two tables: found in both, or in one only. All are Datasets on the dimension `peak`."""

    first: xr.Dataset
    """What both have, as the first table has it."""
    second: xr.Dataset
    """The same peaks, row by row, as the second table has them."""
    distance: NDArray[np.float64]
    """Between the two positions of each, pixels, shape (n,)."""
    only_first: xr.Dataset
    """What the second table has not."""
    only_second: xr.Dataset
    """What the first table has not."""
    frames: int
    """How many frames both tables have; others are left out."""
    radius: float
    """Pixels; peaks further apart are two."""

    def __repr__(self) -> str:
        median = f", {np.median(self.distance):.2g} px apart (median)" if len(self.distance) else ""
        return (
            f"<{self.frames:,} frames compared: {len(self.distance):,} peaks in both{median}; "
            f"{self.only_first.sizes['peak']:,} only in the first, {self.only_second.sizes['peak']:,} only in the "
            f"second; radius {self.radius:g} px>"
        )


def matched(first: xr.Dataset, second: xr.Dataset, radius: float) -> Comparison:
    """Peaks of the same frame that are each the other's nearest, and no more than `radius` pixels apart.

    Frames of which one table knows nothing are left out. Raises `InputError` where one is no peak table, or `radius` is
    not above 0.
    """
    _check_radius(radius)
    frames = np.intersect1d(_frames(first), _frames(second))
    a, b = (_of_frames(table, frames) for table in (first, second))
    points_a, points_b = (_points(rows, frames, radius) for rows in (a, b))
    there, distance = _nearest(points_a, points_b, radius)
    back, _ = _nearest(points_b, points_a, radius)
    of_a = np.flatnonzero(there < len(points_b))
    of_a = of_a[back[there[of_a]] == of_a]
    of_b = there[of_a]
    alone_a, alone_b = np.setdiff1d(np.arange(len(points_a)), of_a), np.setdiff1d(np.arange(len(points_b)), of_b)
    return Comparison(
        a.isel(peak=of_a),
        b.isel(peak=of_b),
        distance[of_a],
        a.isel(peak=alone_a),
        b.isel(peak=alone_b),
        len(frames),
        radius,
    )


def near(peaks: xr.Dataset, y: float, x: float, radius: float) -> xr.Dataset:
    """The rows within `radius` pixels of a position; raises `InputError` where that is not above 0."""
    _check_radius(radius)
    distance = np.hypot(peaks["y"].values - y, peaks["x"].values - x)
    return rows_of(peaks.isel(peak=np.flatnonzero(distance <= radius)))


def _check_radius(radius: float) -> None:
    if not radius > 0:
        raise InputError(f"radius: {radius} is not accepted; must be above 0 (pixels)")


def _frames(table: xr.Dataset) -> NDArray[Any]:
    numbers: NDArray[Any] = table["frame" if "frame" in table.dims else "peak_frame"].values
    return np.unique(numbers)


def _of_frames(table: xr.Dataset, frames: NDArray[Any]) -> xr.Dataset:
    rows = rows_of(table)
    return rows.isel(peak=np.flatnonzero(np.isin(rows["peak_frame"].values, frames)))


def _points(rows: xr.Dataset, frames: NDArray[Any], radius: float) -> NDArray[np.float64]:
    """Peaks as points (n, 3); those of different frames are too far apart to be taken for one."""
    of_frame = np.searchsorted(frames, rows["peak_frame"].values) * (4.0 * radius)
    return np.stack([of_frame, rows["y"].values, rows["x"].values], axis=-1)


def _nearest(
    points: NDArray[np.float64], others: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each point the nearest of the others, and how far it is; `len(others)` where none is near enough."""
    from scipy.spatial import KDTree

    if not len(others):
        return np.zeros(len(points), np.int64), np.full(len(points), np.inf)
    # The bound of the tree's own search leaves out what lies on it.
    distance, at = KDTree(others).query(points, distance_upper_bound=np.nextafter(radius, np.inf))
    return np.asarray(at, np.int64), np.asarray(distance, np.float64)
