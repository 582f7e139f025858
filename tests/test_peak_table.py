import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from braggflow import peak_table
from braggflow.errors import InputError
from braggflow.peak_rows import intensity_errors
from braggflow.peak_table import Flag, Method


def test_empty_table_has_the_schema_and_no_rows():
    table = peak_table.empty()
    assert table.dtype == peak_table.PEAK_DTYPE
    assert len(table) == 0


def test_new_rows_hold_missing_values():
    row = peak_table.empty(1)[0]
    assert np.isnan(row["y"])
    assert (row["parent"], row["flags"], row["peak_frame"]) == (-1, 0, -1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 5)), max_size=20), st.randoms())
def test_canonical_order_does_not_depend_on_the_order_of_rows(keys, random):
    def table(rows):
        result = peak_table.empty(len(rows))
        for record, (frame, y, x) in zip(result, rows, strict=True):
            record["peak_frame"], record["y_pixel"], record["x_pixel"] = frame, y, x
        return result

    shuffled = list(keys)
    random.shuffle(shuffled)
    names = ["peak_frame", "y_pixel", "x_pixel"]
    ordered = peak_table.sort(table(keys))[names].tolist()
    assert ordered == peak_table.sort(table(shuffled))[names].tolist() == sorted(keys)


def test_concatenate_of_nothing_is_an_empty_table():
    assert len(peak_table.concatenate([])) == 0
    assert len(peak_table.concatenate([peak_table.empty(2), peak_table.empty(3)])) == 5


def test_flags_are_distinct_bits_with_a_meaning_each():
    assert sum(flag.value for flag in Flag) == 2 ** len(Flag) - 1
    assert set(peak_table.FLAG_MEANINGS) == set(Flag)
    attributes = peak_table.cf_attributes("flags")
    assert len(attributes["flag_masks"]) == len(attributes["flag_meanings"].split()) == len(Flag)
    assert peak_table.cf_attributes("method")["flag_meanings"].split() == [method.name for method in Method]


def test_every_variable_has_units_and_a_long_name():
    for name, variable in peak_table.VARIABLES.items():
        assert variable.units, name
        assert variable.long_name, name


def test_the_documented_table_is_the_schema():
    text = (Path(__file__).parent.parent / "docs" / "table.md").read_text()
    for name, variable in peak_table.VARIABLES.items():
        assert f"| `{name}` | {variable.dtype} | {variable.units} | {variable.long_name} |" in text
    for flag, meaning in peak_table.FLAG_MEANINGS.items():
        assert f"| `{flag.name}` | {int(flag)} | {meaning} |" in text


def table_of(peaks_of_frame):
    """The Dataset of a table with so many peaks in each frame, by number."""
    table = peak_table.empty(sum(peaks_of_frame.values()))
    table["peak_frame"] = np.repeat(list(peaks_of_frame), list(peaks_of_frame.values()))
    return peak_table.to_dataset(table, xr.Dataset(coords={"frame": list(peaks_of_frame)}), [], {})


@given(st.dictionaries(st.integers(-3, 30), st.integers(0, 4), min_size=1, max_size=6))
def test_the_peaks_of_a_frame_are_selected_however_many_they_are(peaks_of_frame):
    table = table_of(dict(sorted(peaks_of_frame.items())))
    for number, n in peaks_of_frame.items():
        for label in (number, np.int32(number), table["frame"].sel(frame=number)):
            assert table.sel(peak_frame=label)["y"].shape == (n,)
    first, last = min(peaks_of_frame), max(peaks_of_frame)
    assert table.sel(peak_frame=slice(first, last)).sizes["peak"] == table.sizes["peak"]


def test_selection_by_frame_survives_what_people_do_with_tables():
    table = table_of({4: 2, 5: 0, 9: 1})
    copies = {
        "pickled": pickle.loads(pickle.dumps(table)),
        "copied": table.copy(deep=True),
        "filtered": table.isel(peak=table["peak_frame"] != 4),
        "reversed": table.isel(peak=slice(None, None, -1)),
        "of some variables": table[["y", "x"]],
        "joined": xr.concat([table[["y"]], table[["y"]]], "peak"),
    }
    expected = {"filtered": (0, 0, 1), "joined": (4, 0, 2)}
    for what, other in copies.items():
        for number, n in zip((4, 5, 9), expected.get(what, (2, 0, 1)), strict=True):
            assert other.sel(peak_frame=number)["y"].shape == (n,), what
    assert table.sel(peak_frame=[4, 9])["y"].shape == (3,)
    assert table.sel(peak=2)["peak_frame"].values.tolist() == [9]
    assert table.rename(peak_frame="number").sel(number=4)["y"].shape == (2,)
    assert table.rename(peak="row").sel(row=[0, 2])["peak_frame"].values.tolist() == [4, 9]
    assert table.where(table["peak_frame"] == 4, drop=True).sizes["peak"] == 2
    assert table.assign(d=table["y"] - table["x"])["d"].sizes == {"peak": 3}
    assert table.isel(peak=0)["peak_frame"].item() == 4
    assert table.isel(peak=xr.DataArray([[0, 1]], dims=("a", "b")))["y"].shape == (1, 2)
    assert table.sel(peak_frame=5).to_dataframe().empty
    other = table.isel(peak=[0, 1])
    assert other["y"].equals(table["y"][:2])
    with pytest.raises(InputError, match=r"3 rows and 2 others are not the same peaks.*one\.bragg\.compare\(other\)"):
        table["y"] + other["y"]


def test_the_error_of_an_intensity_is_the_stated_one_or_else_what_the_snr_says():
    table = peak_table.empty(4)
    table["intensity"], table["snr"] = [100, -50, 80, 60], [20, 10, 0, np.nan]
    table["intensity_std"] = [7, np.nan, np.nan, np.nan]
    peaks = xr.Dataset({name: ("peak", table[name].copy()) for name in ("intensity", "intensity_std", "snr")})
    np.testing.assert_array_equal(intensity_errors(peaks), [7, 5, np.nan, np.nan])
    np.testing.assert_array_equal(intensity_errors(peaks.drop_vars("intensity_std"))[:2], [5, 5])
    assert np.isnan(intensity_errors(peaks.drop_vars(["snr", "intensity_std"]))).all()
