"""What a peak table shows of one frame, and of one reflection through the series."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.frames import frames_from_array
from braggflow.results import Run, open_peaks
from braggflow.show.colours import BLUE, ORANGE
from braggflow.show.drawing import WIDTH, NotebookFigure, axes_at
from braggflow.show.frame_pictures import plot_frame
from braggflow.show.series_axis import SeriesAxis, axis_of_series

#: Around the curves, inches: left, bottom, right, top; of each curve its height and the room below it.
_LEFT, _BOTTOM, _RIGHT, _TOP, _HEIGHT, _BELOW = 0.95, 0.6, 0.25, 0.45, 2.2, 0.2


def show_frame(
    peaks: xr.Dataset, frame: int, frames: "Run | str | Path | xr.Dataset | xr.DataArray | NDArray[Any] | None" = None
) -> NotebookFigure:
    """A frame with the peaks that a table has of it: what `peaks.bragg.show` draws.

    `frames` is a run, its folder, or frames (frame, y, x); without it, the run folder that the table was opened from.
    Raises `InputError` where the table knows no such frame, and where its frames cannot be found or read.
    """
    of_frame = peaks.bragg.frame(frame)
    if frames is None:
        source = peaks.encoding.get("source")
        if source is None:
            raise InputError(
                "frames: the table was not opened from a run folder, so its frames are not known; give them, as in "
                "peaks.bragg.show(17, frames=...)"
            )
        frames = Path(str(source)).parent
    if isinstance(frames, Run | str | Path):
        return plot_frame(frames, frame, peaks=peaks)
    series = frames_from_array(frames)["frames"]
    if frame not in series["frame"].values:
        raise InputError(f"frame: {frame} is none of the {series.sizes['frame']:,} frames that are given")
    n = of_frame.sizes["peak"]
    title = f"frame {frame}, {n:,} {'peak' if n == 1 else 'peaks'}"
    return plot_frame(series.sel(frame=frame).values, peaks=of_frame, title=title)


def plot_series(
    peaks: "xr.Dataset | Run | str | Path",
    columns: str | Sequence[str],
    *,
    near: tuple[float, float],
    radius: float = 5.0,
    axis: str | None = None,
) -> NotebookFigure:
    """Columns of one reflection through the series, with their uncertainties: its position, width, intensity.

    Parameters
    ----------
    peaks : xarray.Dataset, Run, str or pathlib.Path
        What `open_peaks` or `find_peaks` returned; or a run, or its folder.
    columns : str or sequence of str
        One column of docs/table.md or several, drawn below each other: ``"x"``, ``["fwhm_major", "intensity"]``.
    near : tuple of float
        The place (y, x) of the reflection, pixels.
    radius : float, default 5
        Peaks no further from it are of the reflection, pixels.
    axis : str, optional
        The coordinate of the frames it is drawn against, or ``"frame"``; by default omega, time, voltage or the like.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide; a point each peak, those with a flag hollow. Bars are the column's standard uncertainty, where
        the table has one (``y_std`` of ``y``).

    Raises
    ------
    InputError
        Where no peak lies there, for a column that the table does not have, and an axis that its frames do not have.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.show import plot_series
    >>> peaks = braggflow.open_peaks("runs/scan")
    >>> place = float(peaks["y"][0]), float(peaks["x"][0])
    >>> plot_series(peaks, "x", near=place, axis="voltage").savefig("x_of_reflection.png")

    The accessor has the same:

    >>> figure = peaks.bragg.plot_series(["fwhm_major", "intensity"], near=place)
    """
    if isinstance(peaks, Run | str | Path):
        peaks = open_peaks(peaks.path if isinstance(peaks, Run) else peaks)
    names = [columns] if isinstance(columns, str) else list(columns)
    rows = peaks.bragg.near(*near, radius=radius).sortby("peak_frame")
    for name in names:
        if name not in rows or rows[name].dtype.kind not in "iuf":
            have = ", ".join(str(of) for of in rows.data_vars if rows[of].dtype.kind in "iuf")
            raise InputError(f"columns: {name!r} is none that can be drawn; the table has {have}")
    place = f"({near[0]:g}, {near[1]:g})"
    if not rows.sizes["peak"]:
        raise InputError(f"near: no peak lies within {radius:g} px of {place} (y, x); look for one by peaks.bragg.near")
    if "frame" not in peaks.dims:
        raise InputError("peaks: has rows alone; give the whole table, whose frames have the axis")
    against = axis_of_series(peaks, axis)
    figure = NotebookFigure(figsize=(WIDTH, _TOP + len(names) * (_HEIGHT + _BELOW) + _BOTTOM - _BELOW))
    for i, name in enumerate(names):
        bottom = _BOTTOM + (len(names) - 1 - i) * (_HEIGHT + _BELOW)
        axes = axes_at(figure, _LEFT, bottom, WIDTH - _LEFT - _RIGHT, _HEIGHT, ylabel=0.62)
        _draw_column(axes, rows, name, against)
        last = i == len(names) - 1
        axes.tick_params(labelbottom=last)
        if last:
            axes.set_xlabel(against.label)
    seen = np.unique(rows["peak_frame"].values).size
    n = rows.sizes["peak"]
    figure.text(
        _LEFT / WIDTH,
        1 - 0.15 / figure.get_figheight(),
        f"{n:,} {'peak' if n == 1 else 'peaks'} within {radius:g} px of (y, x) = {place}, in {seen:,} of "
        f"{peaks.sizes['frame']:,} frames; hollow: with a flag",
        fontsize=10,
        va="top",
    )
    return figure


def _draw_column(axes: Axes, rows: xr.Dataset, name: str, axis: SeriesAxis) -> None:
    x, y = axis.of(rows["peak_frame"].values), rows[name].values.astype(np.float64)
    std = rows[f"{name}_std"].values.astype(np.float64) if f"{name}_std" in rows else np.full(len(y), np.nan)
    flagged = rows["flags"].values != 0
    known = np.isfinite(std)
    if known.any():
        axes.errorbar(x[known], y[known], std[known], fmt="none", ecolor="#999999", elinewidth=1, zorder=1)
    size = 22 if len(y) <= 200 else 8
    for where, face in ((~flagged, BLUE), (flagged, "white")):
        axes.scatter(x[where], y[where], s=size, c=face, edgecolors=BLUE if face == BLUE else ORANGE, zorder=2)
    units = str(rows[name].attrs.get("units", "1"))
    axes.set_ylabel(f"{name} ({units})" if units != "1" else name)
    axes.set_xlim(_padded(axis.values))
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(axis="y", useOffset=False)


def _padded(values: NDArray[np.float64]) -> tuple[float, float]:
    """Limits that hold all of the series, whose reflection may be seen in a part of it."""
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    room = 0.02 * (high - low) or 1.0
    return low - room, high + room
