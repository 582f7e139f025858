"""A log of the experiment (voltage, current, temperature, ...) joined to the frames of a series by time."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.peak_table import RESERVED
from braggflow.results.opened_run import Run

Floats = NDArray[np.float64]

#: Seconds of each unit of time.
_SECONDS = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_DURATION = re.compile(r"\s*(?P<number>[\d.]+(?:[eE][-+]?\d+)?)\s*(?P<unit>[a-z]*)\s*")
#: A name with its unit: voltage (V), voltage [V], Ewe/V.
_WITH_UNIT = re.compile(r"(?P<name>.*?)\s*(?:\((?P<a>[^()]*)\)|\[(?P<b>[^][]*)\]|/(?P<c>[^/\s]+))\s*")


class _Column(NamedTuple):
    values: NDArray[Any]
    units: str
    """Empty where none are stated."""


class _Times(NamedTuple):
    """Moments in seconds: since 1970 where they are dates, else since whatever the clock began with."""

    seconds: Floats
    dates: bool


def join_log(
    data: xr.Dataset | Run,
    log: str | Path,
    *,
    time: str = "time",
    tolerance: str | float,
    interpolate: bool = False,
    columns: Sequence[str] | None = None,
    units: Mapping[str, str] | None = None,
    start: str | float | None = None,
    frame_time: str = "time",
) -> xr.Dataset:
    """Give each frame what a log says of its time: voltage, current, capacity, temperature, ... as coordinates.

    Parameters
    ----------
    data : xarray.Dataset or Run
        A run, its peak table, or opened frames, whose frames have a coordinate of time.
    log : str or pathlib.Path
        A CSV file (a line of names, with units as in ``voltage (V)``, ``voltage [V]`` or ``Ewe/V``; separated by
        commas, semicolons or tabs) or an HDF5 file, ``FILE.h5:/group`` (data sets of one length, attribute `units`).
    time : str, default "time"
        The log's column of time: numbers in a unit of time, or dates. It must not go back.
    tolerance : str or float
        How far the nearest row of the log may be from a frame: ``"2 s"``, ``"500 ms"``, or seconds. Frames without one
        get NaN.
    interpolate : bool, default False
        Join the rows before and after a frame by a straight line, in place of the nearest.
    columns : sequence of str, optional
        The log's columns that are wanted, without their units. Default: all, which must be numbers then.
    units : mapping of str to str, optional
        Units of columns whose names state none, and of the frames' time; ``"1"`` for a number without.
    start : str or float, optional
        Where one clock is of dates and the other counts: the moment at which the counting one is 0. Where both count:
        the log's time, in seconds, at which the frames' time is 0 (default 0).
    frame_time : str, default "time"
        The frames' coordinate of time.

    Returns
    -------
    xarray.Dataset
        The same with a coordinate along `frame` for each column; its attribute `comment` says how it was joined.

    Raises
    ------
    InputError
        Where the log cannot be read, has no such columns, two of one name, no unit or times that go back; where a
        coordinate of the name is there already; where log and frames have no time in common, or no clock.

    Examples
    --------
    >>> from pathlib import Path
    >>> import braggflow
    >>> _ = Path("cycler.csv").write_text("time (s),temperature (K)\\n0,300\\n2,301\\n")
    >>> peaks = braggflow.join_log(braggflow.open_peaks("runs/scan"), "cycler.csv", tolerance="5 s")
    >>> peaks["temperature"].dims, peaks["temperature"].attrs["units"]
    (('frame',), 'K')
    """
    table = data.peaks if isinstance(data, Run) else data
    limit = _seconds(tolerance)
    stated = dict(units or {})
    found = _with_units(_read(log), stated, log)
    if time not in found:
        raise InputError(f"log {log}: has no column of time {time!r}; it has {', '.join(found)}; name it by time=...")
    wanted = [name for name in found if name != time] if columns is None else list(columns)
    _refuse_columns(table, found, wanted, log)
    moments = _times(found[time].values, found[time].units, f"log {log}: column {time}")
    back = np.flatnonzero(np.diff(moments.seconds) < 0)
    if len(back):
        raise InputError(f"log {log}: column {time} goes back in row {back[0] + 2} (counted from 1); sort it by time")
    frames = _frame_times(table, frame_time, stated)
    of_frames = _on_one_clock(frames, moments, start, log)
    at = _nearest(moments.seconds, of_frames)
    near = np.abs(moments.seconds[at] - of_frames) <= limit
    if not near.any():
        raise InputError(
            f"log {log}: no row lies within {limit:g} s of a frame; the log's times go from "
            f"{_said(moments, moments.seconds[0])} to {_said(moments, moments.seconds[-1])}, the frames' from "
            f"{_said(moments, np.nanmin(of_frames))} to {_said(moments, np.nanmax(of_frames))}. Give start=..., or a "
            "larger tolerance"
        )
    how = f"{'interpolated' if interpolate else 'nearest row'} of {Path(log).name} within {limit:g} s"
    how += f"; {np.count_nonzero(~near)} of {len(near)} frames have none" if not near.all() else ""
    coords = {}
    for name in wanted:
        values = found[name].values.astype(np.float64)
        of_each = np.interp(of_frames, moments.seconds, values, np.nan, np.nan) if interpolate else values[at]
        attributes = {"units": found[name].units, "comment": how}
        coords[name] = ("frame", np.where(near, of_each, np.nan), attributes)
    return table.assign_coords(coords)


def _seconds(tolerance: str | float) -> float:
    """A duration in seconds; raises `InputError` for what is none."""
    matched = _DURATION.fullmatch(str(tolerance))
    unit = _SECONDS.get(matched["unit"] or "s") if matched else None
    try:
        seconds = float(matched["number"]) * unit if matched and unit else -1.0
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < np.inf:
        raise InputError(f"tolerance: {tolerance!r} is not accepted; must be a time, e.g. '2 s', '500 ms', '1 min'")
    return seconds


def _read(log: str | Path) -> list[tuple[str, _Column]]:
    """The columns of a log by the names that stand in it."""
    from braggflow.formats import is_hdf5, split_name  # here, as it loads the readers of detector files

    path, inside = split_name(str(log))
    if not path.is_file():
        raise InputError(f"log {log}: is no file; must be a CSV file, or an HDF5 file, FILE.h5:/group")
    return _read_hdf5(log, path, inside) if is_hdf5(path) else _read_csv(log, path)


def _read_csv(log: str | Path, path: Path) -> list[tuple[str, _Column]]:
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.readline()
        separator = max(",;\t", key=head.count)
        table = pd.read_csv(path, sep=separator, header=None, skiprows=1, encoding="utf-8-sig", skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise InputError(f"log {log}: cannot be read as a CSV file ({error})") from error
    names = [name.strip().strip('"') for name in head.rstrip("\r\n").split(separator)]
    if len(names) != table.shape[1]:
        raise InputError(f"log {log}: has {len(names)} names and {table.shape[1]} columns")
    return [(name, _Column(table[i].to_numpy(), "")) for i, name in enumerate(names)]


def _read_hdf5(log: str | Path, path: Path, inside: str) -> list[tuple[str, _Column]]:
    import h5py

    from braggflow.formats import open_hdf5

    try:
        with open_hdf5(str(path)) as file:
            group = file[inside or "/"]
            sets = {name: one for name, one in group.items() if isinstance(one, h5py.Dataset) and one.ndim == 1}
            found = [(name, _Column(one[()], str(one.attrs.get("units", "")))) for name, one in sets.items()]
    except (OSError, KeyError, AttributeError) as error:
        raise InputError(f"log {log}: cannot be read ({error}); must be FILE.h5, or FILE.h5:/group") from error
    if len({len(column.values) for _, column in found}) != 1:
        lengths = ", ".join(f"{name} {len(column.values)}" for name, column in found) or "none"
        raise InputError(f"log {log}: must hold data sets of one length; has: {lengths}")
    return found


def _with_units(read: Sequence[tuple[str, _Column]], stated: Mapping[str, str], log: str | Path) -> dict[str, _Column]:
    """The columns by their names without units."""
    found: dict[str, _Column] = {}
    for whole, column in read:
        matched = _WITH_UNIT.fullmatch(whole) if not column.units else None
        name = matched["name"] if matched else whole
        inside = (matched["a"] or matched["b"] or matched["c"] or "") if matched else column.units
        if name in found:
            raise InputError(f"log {log}: has two columns of the name {name!r}; rename one")
        found[name] = _Column(column.values, stated.get(name, inside.strip()))
    return found


def _refuse_columns(table: xr.Dataset, found: Mapping[str, _Column], wanted: Sequence[str], log: str | Path) -> None:
    for name in wanted:
        if name not in found:
            raise InputError(f"log {log}: has no column {name!r}; it has {', '.join(found)}")
        if found[name].values.dtype.kind not in "iuf":
            raise InputError(f"log {log}: column {name} is not of numbers; name those that are wanted by columns=[...]")
        if not found[name].units:
            raise InputError(
                f"log {log}: column {name} has no unit; write it as '{name} (V)' in the first line, or give "
                f"units={{{name!r}: 'V'}}, '1' for a number without"
            )
        if name in table.variables or name in RESERVED:
            raise InputError(f"log {log}: column {name} is there already, in what it would be joined to; rename it")


def _times(values: NDArray[Any], units: str, what: str) -> _Times:
    """Moments from numbers in a unit of time, or from dates; raises `InputError` where one is none."""
    if values.dtype.kind == "m":
        values, units = values / np.timedelta64(1, "s"), "s"
    if values.dtype.kind in "iuf":
        scale = _SECONDS.get(units.lower())
        if scale is None:
            raise InputError(f"{what} has the unit {units!r}; must be one of time: ms, s, min, h, d, as in 'time (s)'")
        seconds, dates = values.astype(np.float64) * scale, False
    else:
        import pandas as pd

        try:
            texts = [one.decode() if isinstance(one, bytes) else str(one) for one in values.astype(object)]
            moments = pd.to_datetime(texts, utc=True, format="ISO8601").tz_localize(None)
        except (ValueError, TypeError) as error:
            raise InputError(f"{what} is neither of numbers nor of dates ({error})") from error
        seconds, dates = moments.to_numpy("M8[ns]").astype(np.int64) / 1e9, True
    if not len(seconds) or not np.isfinite(seconds).all():
        raise InputError(f"{what} has {'no row' if not len(seconds) else 'a row without a time'}")
    return _Times(seconds, dates)


def _frame_times(table: xr.Dataset, name: str, stated: Mapping[str, str]) -> _Times:
    if "frame" not in table.dims or name not in table.coords or table[name].dims != ("frame",):
        there = ", ".join(str(one) for one, of in table.coords.items() if of.dims == ("frame",)) or "none"
        raise InputError(
            f"frame_time: the frames have no coordinate {name!r} (they have: {there}); a log is joined by time. Frames "
            "get one from their files, or by braggflow ingest --coord time=..., or peaks.assign_coords(time=...)"
        )
    of_frames = table[name]
    units = str(of_frames.attrs.get("units", stated.get(name, "")))
    return _times(of_frames.values, units, f"frame_time: the frames' {name}")


def _on_one_clock(frames: _Times, log: _Times, start: str | float | None, path: str | Path) -> Floats:
    """The frames' times by the log's clock, seconds."""
    if frames.dates == log.dates:
        offset = 0.0 if start is None else _start(start, dates=False)
        return frames.seconds + offset
    if start is None:
        counting = "the log's" if frames.dates else "the frames'"
        raise InputError(
            f"log {path}: {'the frames' if frames.dates else 'the log'} have dates, and {counting} time counts from an "
            "unknown moment; give it as start='2026-05-01T10:00:00'"
        )
    moment = _start(start, dates=True)
    return frames.seconds - moment if frames.dates else frames.seconds + moment


def _start(start: str | float, *, dates: bool) -> float:
    if dates:
        return float(_times(np.array([start], object), "", "start")[0][0])
    try:
        return float(start)
    except ValueError as error:
        raise InputError(f"start: {start!r} is not accepted; must be seconds, as both clocks are alike") from error


def _nearest(times: Floats, wanted: Floats) -> NDArray[np.int64]:
    """The row whose time is nearest to each; of two alike the earlier."""
    after = np.searchsorted(times, wanted).clip(0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(wanted - times[before] <= times[after] - wanted, before, after)


def _said(times: _Times, seconds: Any) -> str:
    return str(np.datetime64(round(float(seconds)), "s")) if times.dates else f"{float(seconds):g} s"
