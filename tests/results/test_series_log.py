"""A log of the experiment joined to frames by time."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

import braggflow
from braggflow.errors import InputError
from braggflow.results import join_log
from braggflow.show.series_axis import axis_of_series

LOG = "time (s),voltage (V),Ewe/V,temperature [K]\n0,3.0,1,300\n10,3.5,2,301\n20,4.0,3,302\n"


def frames(times: Any = (1.0, 9.0, 14.0, 21.0), units: str | None = "s") -> xr.Dataset:
    times = np.asarray(times)
    coords = {"frame": np.arange(len(times)) + 5, "time": ("frame", times, {} if units is None else {"units": units})}
    return xr.Dataset(coords=coords)


def log(folder: Path, text: str = LOG) -> Path:
    path = folder / "cycler.csv"
    path.write_text(text)
    return path


def test_each_frame_gets_the_nearest_row_within_the_tolerance(tmp_path: Path) -> None:
    found = join_log(frames(), log(tmp_path), tolerance="2 s")
    np.testing.assert_array_equal(found["voltage"], [3.0, 3.5, np.nan, 4.0])
    np.testing.assert_array_equal(found["Ewe"], [1, 2, np.nan, 3])
    assert [found[name].attrs["units"] for name in ("voltage", "Ewe", "temperature")] == ["V", "V", "K"]
    assert found["voltage"].attrs["comment"] == "nearest row of cycler.csv within 2 s; 1 of 4 frames have none"
    assert axis_of_series(found, "voltage").label == "voltage (V)"


def test_rows_are_interpolated_only_where_that_is_asked_for(tmp_path: Path) -> None:
    found = join_log(frames(), log(tmp_path), tolerance=5, interpolate=True)
    np.testing.assert_allclose(found["voltage"], [3.05, 3.45, 3.7, np.nan])
    assert found["voltage"].attrs["comment"].startswith("interpolated of cycler.csv within 5 s")


def test_blanks_after_separators_are_no_part_of_what_a_log_says(tmp_path: Path) -> None:
    expected = join_log(frames(), log(tmp_path), tolerance="2 s")
    quoted = "time (s), voltage (V), Ewe/V, temperature [K]\n" + "".join(
        f'{at}, "{volts}", {at // 10 + 1}, "{300 + at // 10}"\n' for at, volts in ((0, 3.0), (10, 3.5), (20, 4.0))
    )
    xr.testing.assert_identical(join_log(frames(), log(tmp_path, quoted), tolerance="2 s"), expected)


@pytest.mark.parametrize(("tolerance", "n"), [("2 s", 3), ("2000 ms", 3), (2, 3), ("0.1 min", 4), ("0 s", 0)])
def test_tolerances_have_units(tmp_path: Path, tolerance: str | float, n: int) -> None:
    if n:
        assert np.isfinite(join_log(frames(), log(tmp_path), tolerance=tolerance)["voltage"]).sum() == n
    else:
        with pytest.raises(InputError, match="no row lies within 0 s"):
            join_log(frames(), log(tmp_path), tolerance=tolerance)


def test_clocks_of_dates_and_such_that_count(tmp_path: Path) -> None:
    dates = LOG.replace("time (s)", "time")
    for at in (0, 10, 20):
        dates = dates.replace(f"\n{at},", f"\n2026-05-01T10:00:{at:02d},")
    start = "2026-05-01T10:00:00"
    expected = join_log(frames(), log(tmp_path), tolerance=2)["voltage"]
    moments = np.datetime64(start) + (np.array([1, 9, 14, 21]) * 1000).astype("m8[ms]")
    for text, data, more in (
        (dates, frames(), {"start": start}),
        (dates, frames(moments, None), {}),
        (LOG, frames(moments, None), {"start": start}),
        (LOG.replace("\n10,", "\n0.16666666,").replace("\n20,", "\n0.333333,").replace("(s)", "(min)"), frames(), {}),
        (LOG, frames(np.array([1, 9, 14, 21]) - 7.0), {"start": 7}),
        (LOG, frames(np.array([1, 9, 14, 21]) * 10**9, None).astype("m8[ns]"), {}),
    ):
        if data["time"].dtype.kind == "i":
            data = data.assign_coords(time=("frame", data["time"].values.astype("m8[ns]")))
        np.testing.assert_array_equal(join_log(data, log(tmp_path, text), tolerance=2, **more)["voltage"], expected)


@pytest.mark.parametrize(
    ("units", "seconds"),
    [
        *((unit, 1e-3) for unit in ("ms", "millisecond", "milliseconds")),
        *((unit, 1.0) for unit in ("s", "sec", "second", "seconds")),
        *((unit, 60.0) for unit in ("min", "minute", "minutes")),
        *((unit, 3600.0) for unit in ("h", "hr", "hour", "hours")),
        *((unit, 86400.0) for unit in ("d", "day", "days")),
    ],
)
def test_clocks_of_every_unit_agree(tmp_path: Path, units: str, seconds: float) -> None:
    clock = np.array([0, 7, 20, 33])
    text = f"time ({units}),step (1)\n" + "".join(f"{number},{number}\n" for number in clock)
    found = join_log(frames(clock * seconds), log(tmp_path, text), tolerance=0.01 * seconds)
    np.testing.assert_array_equal(found["step"], clock)
    in_units = xr.Dataset(coords={"frame": clock, "time": ("frame", clock.astype(np.uint32), {"units": units})})
    np.testing.assert_array_equal(join_log(in_units, log(tmp_path, text), tolerance=0.01 * seconds)["step"], clock)


def test_hdf5_logs(tmp_path: Path) -> None:
    path = tmp_path / "log.h5"
    with h5py.File(path, "w") as file:
        for name, values, units in (("time", [0, 10, 20], "s"), ("voltage", [3.0, 3.5, 4.0], "V")):
            file[f"entry/{name}"] = values
            file[f"entry/{name}"].attrs["units"] = units
    found = join_log(frames(), f"{path}:/entry", tolerance=2)
    np.testing.assert_array_equal(found["voltage"], [3.0, 3.5, np.nan, 4.0])
    with h5py.File(path, "a") as file:
        file["entry/more"] = [1, 2]
    with pytest.raises(InputError, match="data sets of one length; has: more 2, time 3, voltage 3"):
        join_log(frames(), f"{path}:/entry", tolerance=2)
    with pytest.raises(InputError, match="cannot be read"):
        join_log(frames(), f"{path}:/nothing", tolerance=2)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (LOG, {"start": 1000}, "the log's times go from 0 s to 20 s, the frames' from 1001 s to 1021 s"),
        (LOG.replace(" (V)", ""), {}, "column voltage has no unit; write it as 'voltage (V)'"),
        (LOG.replace(" (s)", ""), {}, "column time has the unit ''; must be one of time"),
        (LOG.replace("\n20,", "\n5,"), {}, "column time goes back in row 3"),
        (LOG.replace("Ewe/V", "voltage/mV"), {}, "two columns of the name 'voltage'"),
        (LOG.replace("10,", ","), {}, "a row without a time"),
        (LOG.replace("3.5", "open"), {}, "column voltage is not of numbers"),
        (LOG.replace("Ewe/V", "y (px)"), {}, "column y is there already"),
        (LOG.replace("time (s)", "time").replace("\n0,", "\nyesterday,"), {}, "neither of numbers nor of dates"),
        (LOG, {"time": "clock"}, "no column of time 'clock'; it has time, voltage, Ewe, temperature"),
        (LOG, {"columns": ["current"]}, "has no column 'current'"),
        (LOG, {"tolerance": "2 parsecs"}, "tolerance: '2 parsecs' is not accepted"),
        (LOG, {"tolerance": -1}, "tolerance: -1 is not accepted"),
        (LOG, {"start": "noon"}, "start: 'noon' is not accepted"),
        (LOG, {"frame_time": "clock"}, "the frames have no coordinate 'clock' (they have: frame, time)"),
        ("a,b\n", {}, "cannot be read as a CSV file"),
        ("a,b\n1,2,3\n", {}, "has 2 names and 3 columns"),
    ],
)
def test_what_is_wrong_with_a_log_is_said(tmp_path: Path, text: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        join_log(frames(), log(tmp_path, text), **{"tolerance": "2 s", **options})
    assert said in str(error.value)


def test_frames_without_units_or_a_known_start_and_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the frames' time has the unit ''"):
        join_log(frames(units=None), log(tmp_path), tolerance=1)
    assert "voltage" in join_log(frames(units=None), log(tmp_path), tolerance=1, units={"time": "s"}).coords
    dates = LOG.replace("time (s)", "time").replace("\n0,", "\n2026-05-01,")
    with pytest.raises(InputError, match="is no file"):
        join_log(frames(), tmp_path / "nowhere.csv", tolerance=1)
    dates = "time,voltage (V)\n2026-05-01,3\n"
    with pytest.raises(InputError, match=r"counts from an unknown moment; give it as start="):
        join_log(frames(), log(tmp_path, dates), tolerance=1)


def test_what_is_joined_goes_with_the_peaks_into_tables(tmp_path: Path) -> None:
    peaks = xr.Dataset({"peak_frame": ("peak", [5, 5, 8]), "y": ("peak", [1.0, 2, 3])}, frames().coords)
    table = braggflow.to_dataframe(braggflow.join_log(peaks, log(tmp_path), tolerance=2, columns=["voltage"]))
    assert table["voltage"].to_list() == [3.0, 3.0, 4.0]
