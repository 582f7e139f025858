"""The peak table as plain rows, each peak with its frame's number and coordinates; two tables side by side.

What a table can be asked in one line is the xarray accessor `bragg`, which is there once this module is imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from braggflow.errors import InputError
from braggflow.peak_table import VARIABLES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: What draws the pictures of a table: a wing above, loaded by name when one is asked for.
_PICTURES = "braggflow.show"
#: Maxima that noise makes in a megapixel: what `detect.false_peaks` is a share of (docs/detection.md).
MAXIMA_PER_MEGAPIXEL = 1e5


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


def intensity_errors(peaks: xr.Dataset) -> NDArray[np.float64]:
    """Standard errors of `intensity`, counts, (n,): `intensity_std`, else |`intensity`| / `snr`, else NaN."""
    names, unknown = ("intensity", "intensity_std", "snr"), np.full(peaks.sizes["peak"], np.nan)
    light, std, snr = (np.asarray(peaks[name].values, float) if name in peaks.variables else unknown for name in names)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isnan(std) & (snr > 0), np.abs(light) / snr, std)


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
    table = rows[names].drop_indexes(list(rows.xindexes)).to_dataframe()[names]
    return table.set_axis(rows["peak"].values, axis=0).rename_axis("peak") if "peak" in rows.coords else table


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


@xr.register_dataset_accessor("bragg")  # type: ignore[no-untyped-call]
class BraggAccessor:
    """What a peak table can be asked: `peaks.bragg`, of what `open_peaks` and `find_peaks` return and of parts of it.

    Rows that are returned are Datasets on the dimension `peak` alone, each peak with its frame's coordinates (omega,
    time, ...), so that xarray's own plots and tables have them.

    Examples
    --------
    >>> import braggflow
    >>> peaks = braggflow.open_peaks("runs/scan")
    >>> peaks.bragg.frame(2)["voltage"].dims
    ('peak',)

    One reflection through the series, here within 3 pixels of the first peak:

    >>> y, x = float(peaks["y"][0]), float(peaks["x"][0])
    >>> reflection = peaks.bragg.near(y, x, radius=3)
    >>> reflection.bragg.to_dataframe(["y", "x", "intensity"]).columns.to_list()
    ['peak_frame', 'capacity', 'time', 'voltage', 'y', 'x', 'intensity']

    The same drawn against the voltage, and a frame with its peaks:

    >>> peaks.bragg.plot_series(["x", "intensity"], near=(y, x), axis="voltage").savefig("reflection.png")
    >>> peaks.bragg.show(2).savefig("frame_2.png")

    Two settings, and what stricter ones would leave:

    >>> peaks.bragg.compare(peaks.isel(peak=slice(1, None)))
    <4 frames compared: ... peaks in both, 0 px apart (median); 1 only in the first, 0 only in the second; radius 1 px>
    >>> sorted(peaks.bragg.levels_for(1))
    ['minscore', 'minval']
    >>> int(peaks.bragg.count(minscore=peaks.bragg.levels_for(1)["minscore"]).sum())
    4
    """

    def __init__(self, peaks: xr.Dataset) -> None:
        self._peaks = peaks

    def to_dataframe(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """One row a peak with its frame's number and coordinates: `braggflow.to_dataframe`."""
        return to_dataframe(self._peaks, columns)

    def rows(self) -> xr.Dataset:
        """All peaks, on the dimension `peak` alone."""
        return rows_of(self._peaks)

    def frame(self, number: int) -> xr.Dataset:
        """The peaks of one frame, which may be none; raises `InputError` where the table knows no such frame."""
        numbers = self._peaks["frame" if "frame" in self._peaks.dims else "peak_frame"].values
        if number not in numbers:
            known = (
                f"{numbers.min()} to {numbers.max()}, {np.unique(numbers).size:,} in all" if len(numbers) else "none"
            )
            raise InputError(f"frame: {number!r} is not in the table; its frames: {known}")
        return rows_of(self._peaks.isel(peak=np.flatnonzero(self._peaks["peak_frame"].values == number)))

    def near(self, y: float, x: float, radius: float = 5.0) -> xr.Dataset:
        """The peaks of all frames within `radius` pixels of (y, x): one reflection through the series."""
        return near(self._peaks, y, x, radius)

    def show(self, frame: int, frames: Any = None) -> "Figure":
        """The picture of one frame with the peaks that this table has of it.

        `frames` is a run, its folder, or frames (frame, y, x) in memory; by default the run folder that the table was
        opened from. Raises `InputError` where the table knows no such frame, and where its frames cannot be read.
        """
        figure: Figure = import_module(_PICTURES).show_frame(self._peaks, frame, frames)
        return figure

    def plot_series(
        self,
        columns: str | Sequence[str],
        *,
        near: tuple[float, float],
        radius: float = 5.0,
        axis: str | None = None,
    ) -> "Figure":
        """Columns of the reflection `near` (y, x) through the series, with error bars: `braggflow.show.plot_series`."""
        drawn = import_module(_PICTURES).plot_series
        figure: Figure = drawn(self._peaks, columns, near=near, radius=radius, axis=axis)
        return figure

    def compare(self, other: xr.Dataset, radius: float = 1.0) -> Comparison:
        """This table and another of the same frames: peaks that both have, and those that only one has.

        A peak is in both where the nearest in the other table, in the same frame and no more than `radius` pixels away,
        has it as its own nearest. Frames that only one table has are left out.
        """
        return matched(self._peaks, other, radius)

    def count(
        self, *, false_peaks: float | None = None, minval: float | None = None, minscore: float | None = None
    ) -> xr.DataArray:
        """Peaks of each frame that a search by stricter levels would have found; nothing is searched.

        Levels as those of the configuration, `minval` and `minscore` in counts. Looser ones than the table was made
        with give what it holds; where that was made by a `false_peaks` above 0.1, whose search looks at fainter pixels
        in which maxima merge, the number may be off by a few. Counted are maxima: rows with a `parent` have none of
        their own. Filters by area, edge and neighbour stay as they were. Raises `InputError` where the table is of a
        version without `significance`.
        """
        birth, death = self._maxima("birth"), self._maxima("death")
        there = np.ones(len(birth), bool)
        if minval is not None:
            there &= birth >= minval
            death = np.where(death < minval, 0, death)
        if minscore is not None:
            there &= birth - death > minscore
        if false_peaks is not None:
            least = -special.ndtri(min(_positive("false_peaks", false_peaks) / MAXIMA_PER_MEGAPIXEL, 0.5))
            there &= self._significance() >= least
        at = frame_positions(self._peaks, self._maxima("peak_frame")[there].astype(np.int64))
        counts = np.bincount(at, minlength=self._peaks.sizes["frame"])
        coords = {name: values for name, values in self._peaks.coords.items() if values.dims == ("frame",)}
        return xr.DataArray(counts, coords, ["frame"], "peak_count", {"long_name": "peaks in the frame"})

    def levels_for(self, peaks_per_frame: float) -> dict[str, float]:
        """Levels of which each, alone, leaves so many peaks a frame, on average: `false_peaks`, `minval`, `minscore`.

        The last two in counts; frames that failed are not counted. Where several peaks stand at the level itself, the
        number is near to what was asked, not equal. Significance ends at a highest value: where the level is that,
        no `false_peaks` tells peaks apart, and it is left out. Raises `InputError` where the table has fewer: make one
        by looser levels first, e.g. `detect.false_peaks: 100` (docs/detection.md).
        """
        per_frame = _positive("peaks_per_frame", peaks_per_frame)
        scores = self._maxima("birth") - self._maxima("death")
        frames = int((self._peaks["frame_failed"] == 0).sum()) if "frame_failed" in self._peaks else 0
        wanted = round(per_frame * frames)
        if not 0 < wanted <= len(scores):
            raise InputError(
                f"peaks_per_frame: {peaks_per_frame:g} is not accepted; {len(scores)} maxima in {frames} frames give "
                f"{len(scores) / max(1, frames):.3g} at most: search by looser levels, e.g. detect.false_peaks: 100"
            )
        significance = self._significance()
        least = _between(significance, wanted)
        by_noise = {"false_peaks": float(special.ndtr(-least) * MAXIMA_PER_MEGAPIXEL)}
        return (by_noise if least < significance.max() else {}) | {
            "minval": _between(self._maxima("birth"), wanted),
            "minscore": _between(scores, wanted, least=0.0),
        }

    def _maxima(self, name: str) -> NDArray[Any]:
        """A column of the rows that are maxima of their own."""
        values: NDArray[Any] = self._peaks[name].values[self._peaks["parent"].values < 0]
        return values

    def _significance(self) -> NDArray[np.float64]:
        found = self._maxima("significance").astype(np.float64)
        if np.isnan(found).any():
            raise InputError("false_peaks: the table has no significance (made by an older version); run it again")
        return found


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise InputError(f"{name}: {value} is not accepted; must be above 0")
    return value


def _between(values: NDArray[np.float64], n: int, *, least: float | None = None) -> float:
    """A level that the `n` highest values are above and no other is, ties aside; `least` where all are to be."""
    ordered = np.sort(values)[::-1]
    below = ordered[n] if n < len(ordered) else ordered[-1] if least is None else least
    return float((ordered[n - 1] + below) / 2)
