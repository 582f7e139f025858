"""What the report says of tracks: words, tables of the longest and the most changing, and pictures."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.results import open_tracks
from braggflow.show.of_tracks.all_tracks import plot_tracks
from braggflow.show.of_tracks.one_track import plot_track
from braggflow.show.of_tracks.waterfall import plot_waterfall
from braggflow.show.report.pictures import Picture, picture_of
from braggflow.show.shown_run import ShownRun

#: Tracks, and frames, that a table lists.
_LISTED = 8
#: Tracks of which so many change in one frame are named together, at least.
_TOGETHER = 2
_COLUMNS = ["track", "frames", "peaks", "y (px)", "x (px)", "moved (px)", "counts", "changes"]
_NONE: dict[str, Any] = {
    "track_columns": _COLUMNS,
    "longest": [],
    "changing": [],
    "change_frames": [],
    "track_pictures": [],
}


def followed(shown: ShownRun, info: dict[str, Any]) -> dict[str, Any]:
    """The section on tracks, by the names that the template uses."""
    left_out = info.get("tracks", {}).get("left_out")
    try:
        tracks = open_tracks(shown.folder.path).load()
    except InputError:
        return _NONE | {"tracks_told": f"Not followed: {left_out or 'braggflow track does it'}."}
    if "track_id" not in shown.table or not tracks.sizes["track"]:
        return _NONE | {"tracks_told": "No peak was there for long enough to be followed."}
    rotation = str(tracks.attrs["rotation_axis"])
    longest = np.lexsort((-np.nan_to_num(tracks["intensity_mean"].values), -tracks["length"].values))[:_LISTED]
    moved = _moved(shown.table, tracks.sizes["track"])
    most = np.lexsort((-moved, -tracks["changes"].values))[:_LISTED]
    most = most[(tracks["changes"].values[most] > 0) | (moved[most] > 0)] if not rotation else most[:0]
    strained = ["strain a " + str(tracks.attrs["time_units"])] if "strain_trend" in tracks else []
    return {
        "tracks_told": _told(tracks, rotation),
        "track_columns": [*_COLUMNS, *strained],
        "longest": [_row(tracks, moved, k) for k in longest.tolist()],
        "changing": [_row(tracks, moved, k) for k in most.tolist()],
        "change_frames": _change_frames(tracks),
        "track_pictures": _pictures(shown, most),
    }


def waterfall_pictures(shown: ShownRun) -> list[Picture]:
    """The peaks by q along the series; nothing where it is not known how the detector stands, or of one frame."""
    if len(shown.axis.values) < 2 or not shown.table.sizes["peak"]:
        return []
    try:
        figure = plot_waterfall(shown)
    except InputError:  # what the frames state of their detector is not whole
        return []
    return [picture_of(figure, "Intensity of the peaks in each step of q, one frame above the other.")]


def _told(tracks: xr.Dataset, rotation: str) -> str:
    """A sentence or two on all tracks, and what is to be known of how peaks were linked."""
    warning = str(tracks.attrs.get("warning", ""))
    return _counted(tracks, rotation) + (f" {warning[0].upper()}{warning[1:]}." if warning else "")


def _counted(tracks: xr.Dataset, rotation: str) -> str:
    on, off = tracks.attrs["peaks_on_tracks"], tracks.attrs["peaks_left_out"]
    share = on / max(1, on + off)
    if rotation:
        return f"{tracks.sizes['track']:,} reflections in a scan of {rotation}, of {on:,} peaks ({share:.1%})."
    split, merged = int((tracks["parent"] >= 0).sum()), int((tracks["merged_into"] >= 0).sum())
    lost = int((tracks["gaps"] > 0).sum())
    said = (
        f"{tracks.sizes['track']:,} tracks hold {on:,} of {on + off:,} peaks ({share:.1%}); {split:,} split off from "
        f"another, {merged:,} went into another, {lost:,} have gaps. {int((tracks['changes'] > 0).sum()):,} change "
        f"their course, {tracks.sizes['change']:,} times in all."
    )
    drift = np.hypot(tracks["y_drift"].values, tracks["x_drift"].values)
    return said + (f" All move together by up to {np.nanmax(drift):.2f} px." if np.isfinite(drift).any() else "")


def _moved(table: xr.Dataset, n: int) -> NDArray[np.float64]:
    """How far each track's smoothed positions are apart, along the diagonal of what they span, (n,) pixels."""
    number = table["track_id"].values
    order = np.argsort(number, kind="stable")
    order = order[np.searchsorted(number[order], 0) :]
    starts = np.searchsorted(number[order], np.arange(n))
    sides = []
    for name in ("y_smooth", "x_smooth"):
        values = table[name].values[order]
        sides.append(np.maximum.reduceat(values, starts) - np.minimum.reduceat(values, starts))
    return np.asarray(np.hypot(*sides))


def _row(tracks: xr.Dataset, moved: NDArray[np.float64], at: int) -> list[str]:
    row = tracks.isel(track=at)
    cells = [
        f"{int(row['track'])}",
        f"{int(row['first'])} to {int(row['last'])}",
        f"{int(row['length']):,}",
        *(f"{float(row[f'{axis}_mean']):.2f}" for axis in "yx"),
        f"{moved[at]:.2f}",
        f"{float(row['intensity_mean']):,.0f}",
        f"{int(row['changes'])}",
    ]
    if "strain_trend" in row:
        cells.append(f"{float(row['strain_trend']):.2e} ± {float(row['strain_trend_std']):.0e}")
    return cells


def _change_frames(tracks: xr.Dataset) -> list[tuple[str, str, str]]:
    """Frames in which most courses change: number, how many, and of what."""
    frames, number = np.unique(tracks["change_frame"].values, return_counts=True)
    most = [k for k in np.lexsort((frames, -number))[:_LISTED].tolist() if number[k] >= _TOGETHER]
    names = np.array(tracks["change_of"].attrs["flag_meanings"].split())
    rows = []
    for k in most:
        of = names[tracks["change_of"].values[tracks["change_frame"].values == frames[k]]]
        said = ", ".join(f"{name} {np.count_nonzero(of == name)}" for name in names if (of == name).any())
        rows.append((f"{frames[k]}", f"{number[k]:,}", said))
    return rows


def _pictures(shown: ShownRun, most: NDArray[np.int64]) -> list[Picture]:
    pictures = [
        picture_of(
            plot_tracks(shown),
            "All tracks: left, from where to where each moves; right, when each lives, and the common shift (of a "
            "scan, how wide reflections are in the angle); below, the longest one by one.",
        )
    ]
    if len(most):
        caption = (
            "The track whose course changes most: its peaks with their standard errors, and what all of them say "
            "together (smoothed, with one standard error on either side)."
        )
        pictures.append(picture_of(plot_track(shown, int(most[0])), caption))
    return pictures
