from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from braggflow import peak_table
from braggflow.peak_table import Flag, Method


def test_empty_table_has_the_schema_and_no_rows():
    table = peak_table.empty()
    assert table.dtype == peak_table.PEAK_DTYPE
    assert len(table) == 0


def test_new_rows_hold_missing_values():
    row = peak_table.empty(1)[0]
    assert np.isnan(row["y"])
    assert (row["track"], row["flags"], row["peak_frame"]) == (-1, 0, -1)


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
