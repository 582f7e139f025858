"""All tracks of a run at once: over the detector, along the series, one by one."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from braggflow.results import open_tracks
from braggflow.show.colours import BLUE, GREEN, ORANGE, PURPLE, VERMILLION
from braggflow.show.drawing import WIDTH, axes_at
from braggflow.show.series_axis import SeriesAxis, axis_of_series
from braggflow.show.shown_run import Shown, shown_run

#: Tracks that are drawn one by one, in rows of so many; a small picture's side to side and height, inches.
_SMALL, _COLUMNS, _PITCH, _TALL = 24, 6, 1.78, 1.15
#: Tracks that stand in the overview of lives, at most.
_LIVES = 400
#: Displacements are drawn on axes that span no less, pixels.
_LEAST = 0.2
#: The longest displacement is drawn this share of the detector's shorter side long.
_ARROW = 0.12


def plot_tracks(run: Shown, *, axis: str | None = None) -> Figure:
    """Draw all tracks of a run: displacements over the detector, when each lives, and the longest one by one.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder; its peaks must have been followed.
    axis : str, optional
        As for `plot_track`.

    Returns
    -------
    matplotlib.figure.Figure
        Of a rotation scan the small pictures are rocking curves, else displacements along y and x.

    Raises
    ------
    InputError
        Where the peaks were not followed, or there is no such coordinate.

    Examples
    --------
    >>> import braggflow
    >>> figure = braggflow.plot_tracks("runs/scan")
    >>> figure.savefig("tracks.png")
    """
    shown = shown_run(run, axis)
    tracks = open_tracks(shown.folder.path).load()
    rotation = str(tracks.attrs["rotation_axis"])
    series = axis_of_series(shown.table, rotation) if rotation and axis is None else shown.axis
    own = shown.table[["y_pixel", "x_pixel", "track_id", "y_smooth", "x_smooth", "intensity"]].load()
    chosen = _chosen(tracks)
    rows = -(-len(chosen) // _COLUMNS)
    small = rows * (_TALL + 0.42) + 0.55
    height = 4.75 + small + 0.3
    figure = Figure(figsize=(WIDTH, height))
    figure.text(0.4 / WIDTH, 1 - 0.25 / height, _title(tracks), fontsize=11, va="center")
    shape = _detector(own)
    _field(axes_at(figure, 0.85, small + 0.55, 4.6, 3.75, ylabel=0.58), own, tracks, shape)
    _lives(axes_at(figure, 6.35, small + 0.55 + 1.45, 4.3, 2.3, ylabel=0.6), tracks, series)
    _lower_right(axes_at(figure, 6.35, small + 0.55, 4.3, 0.95, ylabel=0.6), tracks, series, rotation)
    for k, track in enumerate(chosen.tolist()):
        room = 0.55 + k % _COLUMNS * _PITCH, small - 0.3 - (k // _COLUMNS) * (_TALL + 0.42) - _TALL, _PITCH - 0.5, _TALL
        axes = axes_at(figure, *room)
        _one(axes, own.isel(peak=np.flatnonzero(own["track_id"].values == track)), series, bool(rotation))
        axes.set_title(f"track {track}", fontsize=8, y=1.0, pad=2)
        axes.tick_params(labelsize=7, length=2, pad=1.5, labelbottom=bool(rotation) or k + _COLUMNS >= len(chosen))
    _words(figure, series, rotation, small, height)
    return figure


def _words(figure: Figure, series: SeriesAxis, rotation: str, small: float, height: float) -> None:
    figure.text(0.5, 0.16 / height, series.label, fontsize=9, ha="center", va="center")
    if rotation:
        figure.text(0.4 / WIDTH, (small - 0.02) / height, "counts of each frame (one reflection a picture)", fontsize=9)
        return
    words = (("displacement (pixel) along", "black"), ("y,", BLUE), ("x", VERMILLION))
    at = 0.4
    for word, colour in words:
        figure.text(at / WIDTH, (small - 0.02) / height, word, fontsize=9, color=colour)
        at += 0.068 * len(word) + 0.1


def _title(tracks: xr.Dataset) -> str:
    n, of = tracks.sizes["track"], tracks.attrs["peaks_on_tracks"]
    if tracks.attrs["rotation_axis"]:
        return f"{n:,} reflections of {of:,} peaks in a scan of {tracks.attrs['rotation_axis']}"
    split, merged = int((tracks["parent"] >= 0).sum()), int((tracks["merged_into"] >= 0).sum())
    return f"{n:,} tracks of {of:,} peaks; {split} split off, {merged} merged"


def _chosen(tracks: xr.Dataset) -> NDArray[np.int64]:
    """The longest tracks, of equally long ones the brightest; of reflections the brightest of three frames or more."""
    if tracks.attrs["rotation_axis"]:
        order = np.argsort(np.where(tracks["length"] >= 3, -tracks["integrated_intensity"], 0.0), kind="stable")
    else:
        order = np.lexsort((-np.nan_to_num(tracks["intensity_mean"].values), -tracks["length"].values))
    return np.asarray(np.sort(order[:_SMALL]), np.int64)


def _detector(peaks: xr.Dataset) -> tuple[float, float]:
    return float(peaks["y_pixel"].max()) + 1, float(peaks["x_pixel"].max()) + 1


def _ends(own: xr.Dataset, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smoothed places (n, 2) of each track: the first, and that which is furthest from it."""
    track = own["track_id"].values
    order = np.argsort(track, kind="stable")
    order = order[np.searchsorted(track[order], 0) :]
    places = np.stack([own["y_smooth"].values, own["x_smooth"].values], axis=1)[order]
    starts = np.searchsorted(track[order], np.arange(n))
    first = places[starts]
    far = np.hypot(*(places - first[track[order]]).T)
    furthest = np.lexsort((-far, track[order]))[starts]
    return first, places[furthest]


def _field(axes: Axes, own: xr.Dataset, tracks: xr.Dataset, shape: tuple[float, float]) -> None:
    axes.set(xlim=(-0.5, shape[1]), ylim=(shape[0], -0.5), xlabel="x (pixel)", ylabel="y (pixel)")
    axes.set_aspect("equal", adjustable="box", anchor="SW")
    if not tracks.sizes["track"]:
        return
    first, furthest = _ends(own, tracks.sizes["track"])
    moved = furthest - first
    longest = float(np.percentile(np.hypot(*moved.T), 98))
    scale = _ARROW * min(shape) / max(longest, 1e-9)
    power = 10 ** np.floor(np.log10(max(scale, 1)))
    scale = max(1.0, float(scale // power * power))
    ends = first + scale * moved
    lines = np.stack([first[:, ::-1], ends[:, ::-1]], axis=1)
    axes.add_collection(LineCollection(list(lines), colors=BLUE, linewidths=0.9))
    axes.plot(first[:, 1], first[:, 0], ".", color=BLUE, markersize=3)
    longer = f", {scale:g} times as long" if scale > 1 else ""
    axes.set_title(f"from the first place to the furthest from it{longer}", fontsize=9)


def _lives(axes: Axes, tracks: xr.Dataset, series: SeriesAxis) -> None:
    """When each track lives, and where it split off or went."""
    n = tracks.sizes["track"]
    shown = np.arange(n) if n <= _LIVES else np.sort(np.argsort(-tracks["length"].values, kind="stable")[:_LIVES])
    row = np.full(n, -1)
    row[shown] = np.arange(len(shown))
    first, last = series.of(tracks["first"].values), series.of(tracks["last"].values)
    lines = [[(first[k], row[k]), (last[k], row[k])] for k in shown.tolist()]
    axes.add_collection(LineCollection(lines, colors="#555555", linewidths=min(1.5, 120 / max(1, len(shown)))))
    axes.plot(first[shown], row[shown], "|", color="#555555", markersize=2)
    for name, at, colour, word in (("parent", first, GREEN, "split off"), ("merged_into", last, VERMILLION, "merged")):
        other = tracks[name].values
        related = np.flatnonzero((other >= 0) & (row >= 0))
        related = related[row[other[related]] >= 0]
        joints = [[(at[k], row[k]), (at[k], row[other[k]])] for k in related.tolist()]
        if joints:
            axes.add_collection(LineCollection(joints, colors=colour, linewidths=0.8, label=word))
    axes.set(ylim=(max(1, len(shown)) - 0.5, -0.5), ylabel="track" if len(shown) == n else f"the {_LIVES} longest")
    axes.set_xlim(*_limits(series.values))
    axes.tick_params(labelbottom=bool(tracks.attrs["rotation_axis"]))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.97), borderpad=0)
    axes.spines[["top", "right"]].set_visible(False)


def _lower_right(axes: Axes, tracks: xr.Dataset, series: SeriesAxis, rotation: str) -> None:
    """The common shift of all tracks; of a scan, how wide its reflections are in the angle."""
    axes.spines[["top", "right"]].set_visible(False)
    if rotation:
        width = tracks[f"{rotation}_fwhm"].values
        width = width[np.isfinite(width) & (width > 0)]
        if len(width):
            axes.hist(width, list(np.linspace(0, float(np.percentile(width, 98)) * 1.1, 40)), color=PURPLE)
        units = tracks[f"{rotation}_fwhm"].attrs["units"]
        axes.set(xlabel=f"full width at half maximum in {rotation} ({units})", ylabel="reflections")
        return
    for name, colour in (("y", BLUE), ("x", VERMILLION)):
        shift, std = tracks[f"{name}_drift"].values, tracks[f"{name}_drift_std"].values
        axes.plot(series.values, shift, color=colour, linewidth=1, label=name)
        if series.ordered:
            axes.fill_between(series.values, shift - std, shift + std, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel=series.label, ylabel="common shift\n(pixel)")
    axes.set_xlim(*_limits(series.values))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.95), borderpad=0)


def _one(axes: Axes, own: xr.Dataset, series: SeriesAxis, rotation: bool) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    at = series.of(own["peak_frame"].values)
    if rotation:
        axes.plot(at, own["intensity"].values, ".-", color=ORANGE, markersize=3, linewidth=0.9)
        axes.set_ylim(0, 1.1 * float(np.nanmax(own["intensity"].values)))
    else:
        for name, colour in (("y_smooth", BLUE), ("x_smooth", VERMILLION)):
            values = own[name].values
            axes.plot(at, values - values[0], color=colour, linewidth=1)
        low, high = axes.get_ylim()
        middle, half = (low + high) / 2, max(high - low, _LEAST) / 2
        axes.set_ylim(middle - half, middle + half)
        axes.set_xlim(*_limits(series.values))
    for one, ticks in ((axes.xaxis, 3), (axes.yaxis, 3)):
        one.set_major_locator(MaxNLocator(ticks))


def _limits(at: NDArray[Any]) -> tuple[float, float]:
    low, high = float(np.nanmin(at)), float(np.nanmax(at))
    room = 0.02 * (high - low) if high > low else 0.5
    return low - room, high + room
