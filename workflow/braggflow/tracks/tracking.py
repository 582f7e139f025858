"""Peaks of a series followed: one function from a peak table to tracks."""

import json
import time as clock
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow import compiled
from braggflow.config import TrackConfig, resolve_config
from braggflow.errors import InputError
from braggflow.peak_rows import intensity_errors
from braggflow.peak_table import FOLLOWED as PEAK_COLUMNS
from braggflow.results import RunFolder, open_stored_peaks, open_tracks, run_lock, write_tracks
from braggflow.tracks.columns import (
    FOLLOWED,
    Changed,
    change_columns,
    course_columns,
    life_columns,
    spacing_columns,
    spacings_of_rows,
)
from braggflow.tracks.drift import common_shift
from braggflow.tracks.linking import Joined, Linker, join_segments
from braggflow.tracks.motion_found import Motion, find_motion
from braggflow.tracks.rocking import rocking_curves
from braggflow.tracks.rows import (
    FrameAxis,
    angle_of_frames,
    frame_axis,
    frames_of_rows,
    read_rows,
    room,
    rotation_axis,
    turned,
)
from braggflow.tracks.smoothing import Scales, smoothed_groups

#: What compiling takes, seconds.
_ABOUT = 25.0
#: Places in the series from which the usual motion is found.
_PLACES = 64
#: Series with up to so many peaks are followed where nobody says whether they are to be, of so many frames at least.
AUTO_PEAKS, AUTO_FRAMES = 2_000_000, 3
#: What a table of an unknown shape is taken for: signal to noise of a peak that states none.
_SNR = 10.0


def track(source: str | Path | xr.Dataset, **settings: Any) -> xr.Dataset:
    """Follow the peaks of a series: which are one, how each moves and changes, where they split, merge, come and go.

    Parameters
    ----------
    source : str, pathlib.Path or xarray.Dataset
        A run folder, into which `tracks.zarr` is written, or a peak table in memory.
    settings : keyword arguments
        Those of the section `track` of the configuration: `kind`, `time`, `max_gap`, `min_length`, `speed`,
        `subtract_drift`, `false_alarms`, `strain_reference`. Of a run, they stand above those that it was made with.

    Returns
    -------
    xarray.Dataset
        Of a run what `open_tracks` returns; `open_peaks` has `track_id` and smoothed positions then. Of a table the
        same, with these columns on dimension `peak`, in the order of its rows.

    Raises
    ------
    InputError
        Where there is no peak table, a setting is not accepted, or the series has no such coordinate.

    Examples
    --------
    >>> import braggflow
    >>> tracks = braggflow.track("runs/scan", max_gap=2)
    >>> tracks.sizes["track"] == int(tracks["length"].size)
    True
    >>> braggflow.open_peaks("runs/scan")["y_smooth"].dims
    ('peak',)
    """
    if isinstance(source, xr.Dataset):
        return follow_peaks(source, _settings({}, settings))
    folder = RunFolder(Path(source))
    from braggflow.results import read_run_config

    config = read_run_config(folder).track if folder.settings.is_file() else TrackConfig()
    track_run(folder, _settings(config.model_dump(), settings))
    return open_tracks(folder.path)


def track_run(folder: RunFolder, settings: TrackConfig, *, locked: bool = False) -> dict[str, Any]:
    """Follow the peaks of a run and write its `tracks.zarr`; what came of it, for `run.json`.

    `locked`: who calls holds the run's lock. Raises as `track`.
    """
    start = clock.perf_counter()
    with open_stored_peaks(folder.path) as peaks:
        data = follow_peaks(peaks, settings)
    if locked:
        write_tracks(folder, data)
    else:
        with run_lock(folder):
            write_tracks(folder, data)
    said = {name: data.attrs[name] for name in ("kind", "peaks_on_tracks", "peaks_left_out", "warning")}
    return {"tracks": data.sizes["track"], **said, "seconds": round(clock.perf_counter() - start, 3)}


def track_or_why_not(folder: RunFolder, settings: TrackConfig) -> dict[str, Any]:
    """What `track_run` returns, or `left_out`: why the peaks were not followed. No failure ends a run."""
    try:
        if settings.enabled is False:
            raise InputError("track.enabled is false")
        with open_stored_peaks(folder.path) as peaks:
            n, n_frames = peaks.sizes["peak"], peaks.sizes["frame"]
        if settings.enabled == "auto" and not (n_frames >= AUTO_FRAMES and 0 < n <= AUTO_PEAKS):
            raise InputError(
                f"track.enabled is auto, and there are {n_frames:,} frames and {n:,} peaks; braggflow track does it"
            )
        return track_run(folder, settings, locked=True)
    except InputError as error:
        return {"left_out": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever ails it must not spoil the run, whose table is whole
        return {"left_out": f"{type(error).__name__}: {error}"}


def said_of_tracks(tracks: xr.Dataset) -> dict[str, Any]:
    """What a user is told of a table of tracks, as plain data."""
    motion = json.loads(tracks.attrs["motion"])
    per = f"pixel/{tracks.attrs['time_units']}"
    said = {
        "kind": tracks.attrs["kind"],
        "tracks": tracks.sizes["track"],
        "peaks on tracks": tracks.attrs["peaks_on_tracks"],
        "peaks on none": tracks.attrs["peaks_left_out"],
        "split off": int((tracks["parent"] >= 0).sum()),
        "merged": int((tracks["merged_into"] >= 0).sum()),
        f"displacement between frames, median ({per})": round(motion["displacement"], 4),
        f"scatter of velocities ({per})": round(motion["speed"], 4),
        "scatter of positions over stated errors": round(tracks.attrs["position_std_scale"], 3),
    }
    if tracks.attrs["rotation_axis"]:
        said["reflections with a fitted rocking curve"] = int(tracks["rocking_fitted"].sum())
    else:
        drift = np.hypot(tracks["y_drift"].values, tracks["x_drift"].values)
        said["common shift, at most (pixel)"] = round(float(np.nanmax(drift)), 4) if np.isfinite(drift).any() else None
    if warning := tracks.attrs.get("warning"):  # which tracks of before have not
        said["warning"] = warning
    return said


def follow_peaks(peaks: xr.Dataset, settings: TrackConfig) -> xr.Dataset:
    """As `track`, of a peak table; the tracks and, on dimension `peak`, what each of its rows has of its track."""
    frames = frame_axis(peaks, settings.time)
    rotation = _rotation(peaks, frames, settings)
    kind = "rotation" if rotation else "series"
    if rotation:
        frames = turned(peaks, frames, rotation)
    max_gap = settings.max_gap if settings.max_gap is not None else 1 if rotation else 5
    shortest = settings.min_length if settings.min_length is not None else 1 if rotation else 3
    rows, at = read_rows(peaks, frames)
    motion = _motion(rows, frames, still=rotation is not None)
    if settings.speed is not None:
        motion = replace(motion, speed=settings.speed)
    linker = Linker(motion, max_gap, frames.step)
    segment = np.empty(len(rows), np.int64)
    for k, where in frames_of_rows(rows, frames):
        segment[where] = linker.link(frames.position[k], frames.time[k], np.asarray(rows[where, :7]))
    joined = join_segments(
        segment, rows, motion, max_gap=max_gap, step=frames.step, shortest=shortest, relations=not rotation
    )
    of_frame = frames.index(rows)
    shift, shift_std = _shift(joined, rows, of_frame, len(frames.numbers), wanted=not rotation)
    if settings.subtract_drift:
        rows[:, :2] -= np.nan_to_num(shift)[of_frame]
    smooth, scales = _smooth(joined, rows, motion, _typical_step(frames))
    columns = _tracks(peaks, joined, rows, at, of_frame, frames, settings.false_alarms, changes=not rotation)
    if (spacings := spacings_of_rows(peaks, at)) is not None:
        reference = None if rotation else settings.strain_reference
        columns |= spacing_columns(joined, rows[:, 8], spacings, frames.units, reference)
    if rotation:
        columns |= _reflections(peaks, joined, at, of_frame, frames, rotation)
    on_tracks = int(joined.starts[-1])
    return xr.Dataset(
        columns | _drift(shift, shift_std) | _of_peaks(smooth, joined, at, peaks.sizes["peak"], frames.units),
        coords={"track": np.arange(len(joined.starts) - 1), "frame": frames.numbers},
        attrs={
            "kind": kind,
            "settings": json.dumps(settings.model_dump(mode="json") | {"max_gap": max_gap, "min_length": shortest}),
            "motion": json.dumps(asdict(motion)),
            "warning": motion.warning,
            "time_units": frames.units,
            "rotation_axis": rotation or "",
            "peaks_on_tracks": on_tracks,
            "peaks_left_out": int(peaks.sizes["peak"] - on_tracks),
            "members_of_cut_components": linker.cut,
            "position_std_scale": float(np.sqrt(scales.of_positions)),
            "smooth_std_scale": float(np.sqrt(scales.of_smoothed)),
            "drift_subtracted": int(settings.subtract_drift),
        },
    )


def _typical_step(frames: FrameAxis) -> float:
    return float(np.median(np.diff(frames.time))) if len(frames.time) > 1 else 1.0


def _settings(known: Mapping[str, Any], given: Mapping[str, Any]) -> TrackConfig:
    return resolve_config({"track": {**known, **given}}, source="track").track


def _rotation(peaks: xr.Dataset, frames: FrameAxis, settings: TrackConfig) -> str | None:
    """The coordinate of the rotation, where spots are to be joined to reflections."""
    found = rotation_axis(peaks, frames) if settings.kind != "series" else None
    if settings.kind == "rotation" and found is None:
        raise InputError("track.kind: rotation is not accepted; no coordinate (omega, phi, ...) rises in even steps")
    return found


def _motion(rows: NDArray[np.float64], frames: FrameAxis, *, still: bool) -> Motion:
    """From places of three frames in a row, or of two where there are no more."""
    where = dict(frames_of_rows(rows, frames))
    long = min(3, len(frames.numbers))
    first = [
        k
        for k in range(len(frames.numbers) - long + 1)
        if all(k + i in where for i in range(long))
        and frames.position[k + long - 1] - frames.position[k] == (long - 1) * frames.step
    ]
    chosen = [first[k] for k in np.unique(np.linspace(0, len(first) - 1, min(_PLACES, len(first))).astype(int))]
    triples = [(frames.time[k : k + long], [np.asarray(rows[where[k + i], :7]) for i in range(long)]) for k in chosen]
    extent = np.ptp(rows[:, :2], axis=0) + 1 if len(rows) else np.ones(2)
    return find_motion(triples, float(max(extent[0] * extent[1], 1e4)), still=still)


def _shift(
    joined: Joined, rows: NDArray[np.float64], of_frame: NDArray[np.int64], n: int, *, wanted: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not wanted:
        return np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    return common_shift(joined.track, of_frame, rows[:, :2], n)


def _smooth(
    joined: Joined, rows: NDArray[np.float64], motion: Motion, step: float
) -> tuple[NDArray[np.float64], Scales]:
    """Of each row that is on a track: y, x, their standard errors and covariance, velocities; (n_on_tracks, 7).

    And what the tracks show of stated errors: those of smoothed positions are brought into line with it.
    """
    found = room(len(joined.order), 7)
    done, scales = 0, Scales(step)
    for _, bounds, at, states, covs in smoothed_groups(rows, joined.starts, joined.order, motion):
        part = found[done : done + len(at)]
        part[:, :2], part[:, 5:] = states[:, :2], states[:, 2:]
        part[:, 2], part[:, 3], part[:, 4] = covs[:, 0, 0], covs[:, 1, 1], covs[:, 0, 1]
        done += len(at)
        own = rows[at]
        scales.add(bounds, own[:, 8], own[:, :5], part[:, :2], part[:, 2:4])
    found[:, 2:5] *= scales.of_smoothed
    found[:, 2:4] = np.sqrt(found[:, 2:4])
    return found, scales


def _of_peaks(
    smooth: NDArray[np.float64], joined: Joined, at: NDArray[np.int64], n: int, time_units: str
) -> dict[str, xr.Variable]:
    """The columns that are added to the peaks, in the order of the table's rows."""
    columns = {}
    for k, (name, variable) in enumerate(PEAK_COLUMNS.items()):
        values = np.full(n, variable.missing, variable.dtype)
        if name == "track_id":
            values[at] = joined.track
        else:
            values[at[joined.order]] = smooth[:, k - 1]
        units = f"pixel/{time_units}" if name.endswith("velocity") else variable.units
        columns[name] = xr.Variable(("peak",), values, {"units": units, "long_name": variable.long_name})
    return columns


def _tracks(
    peaks: xr.Dataset,
    joined: Joined,
    rows: NDArray[np.float64],
    at: NDArray[np.int64],
    of_frame: NDArray[np.int64],
    frames: FrameAxis,
    false_alarms: float,
    *,
    changes: bool,
) -> dict[str, xr.Variable]:
    columns = life_columns(joined, frames.numbers[of_frame], rows[:, 7], frames.numbers, frames.step)
    time, courses = rows[:, 8], {}
    for name in FOLLOWED:
        axis = "yx".find(name)
        value = rows[:, axis] if axis >= 0 else peaks[name].values[at].astype(np.float64)
        weight = 1 / rows[:, (2, 4)[axis]] if axis >= 0 else None
        columns |= course_columns(joined, time, name, value, weight, frames.units)
        if changes and name in Changed.__members__:
            courses[Changed[name]] = value
    return columns | change_columns(joined, time, frames.numbers[of_frame], courses, false_alarms)


def _reflections(
    peaks: xr.Dataset,
    joined: Joined,
    at: NDArray[np.int64],
    of_frame: NDArray[np.int64],
    frames: FrameAxis,
    name: str,
) -> dict[str, xr.Variable]:
    """Where each reflection is in the angle, how wide, and how bright in all."""
    angle = angle_of_frames(peaks, name, frames)
    order = joined.order
    light = peaks["intensity"].values[at[order]].astype(np.float64)
    error = intensity_errors(peaks)[at[order]]
    unknown = _SNR if "snr" not in peaks else 1.0  # else there is no light above the noise
    error = np.where(np.isnan(error), np.abs(light) / unknown, error)
    step = abs(float(np.median(np.diff(angle))))
    of_row = angle[of_frame[order]]
    found = rocking_curves(joined.starts, of_row, np.nan_to_num(light), np.nan_to_num(error, nan=1.0), step)
    units = str(peaks[name].attrs.get("units", "degree"))
    values = {
        name: (found.centre, units, f"{name} of the reflection's centre"),
        f"{name}_std": (found.centre_std, units, f"standard error of {name}"),
        f"{name}_fwhm": (found.fwhm, units, f"full width at half maximum in {name}"),
        f"{name}_fwhm_std": (found.fwhm_std, units, f"standard error of {name}_fwhm (NaN: not fitted)"),
        "integrated_intensity": (found.intensity, "count", "counts of all frames of the reflection"),
        "integrated_intensity_std": (found.intensity_std, "count", "standard error of integrated_intensity"),
        "rocking_fitted": (found.fitted.astype(np.int8), "1", "1: a curve was fitted; 0: from moments"),
    }
    return {
        key: xr.Variable(("track",), value, {"units": units, "long_name": said})
        for key, (value, units, said) in values.items()
    }


def _drift(shift: NDArray[np.float64], std: NDArray[np.float64]) -> dict[str, xr.Variable]:
    columns = {}
    for axis, name in enumerate("yx"):
        said = {"units": "pixel", "long_name": f"common shift of all tracks along {name} against the first frame"}
        columns[f"{name}_drift"] = xr.Variable(("frame",), shift[:, axis], said)
        said = {"units": "pixel", "long_name": f"standard error of {name}_drift (NaN: fewer than 3 tracks)"}
        columns[f"{name}_drift_std"] = xr.Variable(("frame",), std[:, axis], said)
    return columns


def compile_tracks() -> None:
    """Compile what following peaks needs, unless it is kept from before; says so meanwhile."""
    compiled.compile_once(("tracks",), _follow, about=_ABOUT)


def _follow() -> bool:
    """Follow two peaks through four frames."""
    n, columns = 8, ("y", "x", "y_std", "x_std", "fwhm_major", "fwhm_minor", "angle", "intensity", "snr")
    peaks = xr.Dataset(
        {name: ("peak", np.tile([1.0, 9.0], n // 2)) for name in columns} | {"peak_frame": ("peak", np.arange(n) // 2)},
        coords={"frame": np.arange(n // 2)},
    )
    follow_peaks(peaks, TrackConfig())
    return True
