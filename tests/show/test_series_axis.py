import re

import numpy as np
import pytest
import xarray as xr

from braggflow.errors import InputError
from braggflow.show.series_axis import axis_of_series


def _table(**coords):
    return xr.Dataset(coords={"frame": np.arange(10, 15), **{name: ("frame", of) for name, of in coords.items()}})


RISING, CYCLE = np.arange(5.0), np.array([3.0, 3.5, 4.0, 3.5, 3.0])


@pytest.mark.parametrize(
    ("coords", "name"),
    [
        ({}, "frame"),
        ({"omega": RISING}, "omega"),
        ({"omega": -RISING}, "omega"),
        ({"load": RISING}, "load"),
        ({"load": RISING, "stage": RISING}, "frame"),
        ({"load": RISING, "time": RISING}, "time"),
        ({"time": RISING, "omega": RISING}, "omega"),
        ({"voltage": CYCLE}, "frame"),
        ({"voltage": CYCLE, "time": RISING}, "time"),
        ({"exposure": np.ones(5), "time": RISING}, "time"),
        ({"time": np.where(RISING == 2, np.nan, RISING)}, "frame"),
        ({"sample": np.array(list("abcde"))}, "frame"),
    ],
)
def test_the_axis_is_what_rises_or_falls_all_along_with_usual_names_first(coords, name):
    assert axis_of_series(_table(**coords)).name == name


def test_an_axis_carries_its_units_and_gives_the_values_of_peaks_frames():
    table = _table(omega=RISING * 0.5)
    table["omega"].attrs["units"] = "degree"
    axis = axis_of_series(table)
    assert axis.label == "omega (degree)"
    np.testing.assert_array_equal(axis.of(np.array([10, 10, 14])), [0, 0, 2])
    assert axis_of_series(table, "frame").label == "frame number"


@pytest.mark.parametrize(
    ("step", "label", "last"),
    [
        (np.timedelta64(250, "ms"), "time since 2026-01-02 03:04:05 (s)", 1.0),
        (np.timedelta64(30, "s"), "time since 2026-01-02 03:04:05 (min)", 2.0),
        (np.timedelta64(2, "h"), "time since 2026-01-02 03:04:05 (h)", 8.0),
        (np.timedelta64(1, "D"), "time since 2026-01-02 03:04:05 (days)", 4.0),
    ],
)
def test_dates_become_the_time_that_passed_since_the_first(step, label, last):
    times = np.datetime64("2026-01-02T03:04:05", "ns") + np.arange(5) * step
    axis = axis_of_series(_table(time=times))
    assert axis.label == label
    assert axis.values[[0, -1]].tolist() == [0, last]


def test_durations_and_missing_dates_are_drawn_too():
    assert axis_of_series(_table(time=np.arange(5) * np.timedelta64(1, "s"))).label == "time (s)"
    times = np.datetime64("2026-01-02", "ns") + np.arange(5) * np.timedelta64(1, "s")
    times[1] = np.datetime64("NaT")
    np.testing.assert_array_equal(axis_of_series(_table(time=times), "time").values, [0, np.nan, 2, 3, 4])


def test_an_axis_that_is_not_there_is_refused_with_those_that_are():
    said = "axis omega: is no numeric coordinate of the run's frames that varies; has: frame, time, voltage"
    with pytest.raises(InputError, match=re.escape(said)):
        axis_of_series(_table(time=RISING, voltage=CYCLE, exposure=np.ones(5)), "omega")
