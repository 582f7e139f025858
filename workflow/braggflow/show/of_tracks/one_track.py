"""One track along the series: position, intensity, widths, strain, and its patches as a film strip."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.geometry import add_q, strain
from braggflow.peak_rows import intensity_errors
from braggflow.results import RunFolder, open_run_frames, open_tracks, read_run_frame
from braggflow.show.colours import BLUE, GREEN, ORANGE, VERMILLION
from braggflow.show.drawing import WIDTH, Mark, Panel, axes_at, draw_panels, panels_height
from braggflow.show.series_axis import SeriesAxis
from braggflow.show.shown_run import Shown, shown_run

#: Frames of the film strip; searched pixels on each side of a maximum, and a panel's side, inches.
_STRIP, _HALF, _SIDE = 9, 7, 0.96
#: Room of a curve, inches: left of it, its height, the gap below.
_LEFT, _HEIGHT, _GAP = 1.25, 1.35, 0.22
_POINT: dict[str, Any] = {"fmt": ".", "markersize": 3, "color": "#777777", "elinewidth": 0.6, "alpha": 0.8}
#: Of a longer track, so many points of each curve are drawn.
_POINTS = 600


def plot_track(run: Shown, track_id: int, *, axis: str | None = None) -> Figure:
    """Draw one track of a run: where its peak is in each frame, how bright and how wide, its strain, and its patches.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder; its peaks must have been followed.
    track_id : int
        Row of `open_tracks`.
    axis : str, optional
        Coordinate of the frames that the curves are drawn against, or `frame`; by default omega, time, ... if there is
        one.

    Returns
    -------
    matplotlib.figure.Figure
        Points are the peaks with their standard errors, the band one smoothed standard error on each side. Strain is
        that against the track's own reference (`open_tracks`), and drawn where the geometry is known. Patches are left
        out where the frames are no longer there.

    Raises
    ------
    InputError
        Where there is no such track, or no such coordinate, or the peaks were not followed.

    Examples
    --------
    >>> import braggflow
    >>> figure = braggflow.plot_track("runs/scan", 0)
    >>> figure.savefig("track.png")
    """
    shown = shown_run(run, axis)
    folder, peaks, series = shown.folder, shown.table, shown.axis
    tracks = open_tracks(folder.path)
    if track_id not in tracks["track"].values:
        raise InputError(f"track_id: {track_id} is not accepted; there are tracks 0 to {tracks.sizes['track'] - 1}")
    own = peaks.isel(peak=np.flatnonzero(peaks["track_id"].values == track_id)).load()
    strip = _strip(folder, own)
    curves = 5 if "d_reference" in tracks else 4
    below = panels_height(1, _SIDE, 1) + 0.3 if strip else 0.0
    height = 0.85 + curves * (_HEIGHT + _GAP) + below + 0.35
    figure = Figure(figsize=(WIDTH, height))
    axes = _curves(figure, series, own, curves, top=height - 0.6)
    if curves == 5:
        _strain(axes[-1], series, own, tracks)
    row = tracks.isel(track=int(np.flatnonzero(tracks["track"].values == track_id)[0]))
    figure.text(_LEFT / WIDTH, 1 - 0.32 / height, _title(row, track_id), fontsize=11, va="center")
    if strip:
        draw_panels(figure, strip, left=_LEFT - 0.85, top=below - 0.25, side=_SIDE, columns=_STRIP, half=_HALF)
    return figure


def _title(row: xr.Dataset, track_id: int) -> str:
    said = f"track {track_id}: {int(row['length'])} peaks in frames {int(row['first'])} to {int(row['last'])}"
    if int(row["parent"]) >= 0:
        said += f", split off from track {int(row['parent'])}"
    if int(row["merged_into"]) >= 0:
        said += f", went into track {int(row['merged_into'])}"
    return said


def _some(own: xr.Dataset) -> xr.Dataset:
    n = own.sizes["peak"]
    return own.isel(peak=np.unique(np.linspace(0, n - 1, min(_POINTS, n)).astype(int)))


def _curves(figure: Figure, series: SeriesAxis, own: xr.Dataset, curves: int, *, top: float) -> list[Axes]:
    own = _some(own)
    at = series.of(own["peak_frame"].values)
    axes: list[Axes] = []
    for k in range(curves):
        room = (_LEFT, top - (k + 1) * _HEIGHT - k * _GAP, WIDTH - _LEFT - 0.3, _HEIGHT)
        axes.append(axes_at(figure, *room, ylabel=0.82))
    for one, name in zip(axes, ("y", "x"), strict=False):
        _position(one, at, own, name, series.ordered)
    _points(axes[2], at, own["intensity"].values, intensity_errors(own), BLUE, "intensity")
    axes[2].set_ylabel("intensity\n(count)")
    for name, colour in (("fwhm_major", VERMILLION), ("fwhm_minor", GREEN)):
        label = {"fwhm_major": "long axis", "fwhm_minor": "short axis"}[name]
        _points(axes[3], at, own[name].values, own[f"{name}_std"].values, colour, label)
    axes[3].set_ylabel("FWHM\n(pixel)")
    axes[3].legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.96), borderpad=0)
    axes[0].legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98), borderpad=0)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.yaxis.set_major_locator(MaxNLocator(4))
        one.ticklabel_format(axis="y", useOffset=False)
        one.set_xlim(*_limits(at))
        one.tick_params(labelbottom=one is axes[-1])
    axes[-1].set_xlabel(series.label)
    return axes


def _strain(axes: Axes, series: SeriesAxis, own: xr.Dataset, tracks: xr.Dataset) -> None:
    """Strain of the peaks with its errors, and that of the smoothed positions."""
    own = _some(own)
    at = series.of(own["peak_frame"].values)
    found = strain(add_q(own), tracks=tracks)
    axes.errorbar(at, found["strain"].values, yerr=np.nan_to_num(found["strain_std"].values), **_POINT)
    smooth = strain(add_q(own.assign(y=own["y_smooth"], x=own["x_smooth"])), tracks=tracks)["strain"].values
    order = np.argsort(at) if series.ordered else slice(None)
    axes.plot(at[order], smooth[order], color=BLUE, linewidth=1.2)
    axes.set_ylabel(f"strain against\n{float(found['d_reference'][0]):.5g} Å")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)


def _limits(at: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(np.nanmin(at)), float(np.nanmax(at))
    room = 0.02 * (high - low) if high > low else 0.5
    return low - room, high + room


def _position(axes: Axes, at: NDArray[np.float64], own: xr.Dataset, name: str, ordered: bool) -> None:
    smooth, std = own[f"{name}_smooth"].values, own[f"{name}_smooth_std"].values.astype(np.float64)
    error = own[f"{name}_std"].values
    axes.errorbar(at, own[name].values, yerr=np.nan_to_num(error), label="peak", **_POINT)
    if ordered:
        order = np.argsort(at)
        axes.fill_between(at[order], (smooth - std)[order], (smooth + std)[order], color=BLUE, alpha=0.25, linewidth=0)
        at, smooth = at[order], smooth[order]
    axes.plot(at, smooth, color=BLUE, linewidth=1.2, label="smoothed")
    axes.set_ylabel(f"{name}\n(pixel)")


def _points(
    axes: Axes, at: NDArray[np.float64], values: NDArray[Any], std: NDArray[Any], colour: str, name: str
) -> None:
    axes.errorbar(at, values, np.nan_to_num(std), fmt=".", markersize=3.5, color=colour, elinewidth=0.6, label=name)
    if np.isfinite(values).any() and np.nanmin(values) > 0:
        axes.set_ylim(0, 1.1 * float(max(np.nanmax(values), axes.get_ylim()[1] / 1.1)))


def _strip(folder: RunFolder, own: xr.Dataset) -> Sequence[Panel]:
    """Patches of frames along the track; none where the frames are gone."""
    try:
        series = open_run_frames(folder)
        chosen = np.unique(np.linspace(0, own.sizes["peak"] - 1, min(_STRIP, own.sizes["peak"])).astype(int))
        panels = []
        for k in chosen.tolist():
            peak = own.isel(peak=k)
            number = int(peak["peak_frame"])
            mark = Mark(float(peak["y_smooth"]), float(peak["x_smooth"]), "+", ORANGE)
            panels.append(Panel([f"frame {number}"], read_run_frame(series, number), peak, [mark]))
    except InputError:
        return []
    return panels
