"""The parts of a run joined into one table: rows in order, and parents that name rows of the whole."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from braggflow import InputError, peak_table
from braggflow.results import Part, RunFolder, consolidate, open_peaks, stored_columns, write_part


def part_table(frames: list[int]) -> peak_table.Table:
    """In each frame three peaks: the third is the first one's child, and both are marked by their place."""
    table = peak_table.empty(3 * len(frames))
    table["peak_frame"] = np.repeat(frames, 3)
    table["y_pixel"] = np.tile([10, 20, 30], len(frames))
    table["x_pixel"] = np.repeat(frames, 3)
    table["parent"][2::3] = np.arange(0, len(table), 3)
    return peak_table.sort(table)


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 4, 5], [5, 0, 3, 2, 4, 1], [4, 5, 2, 3, 0, 1]])
def test_a_parent_is_a_row_of_the_whole_table(tmp_path: Path, numbers: list[int]) -> None:
    folder = RunFolder(tmp_path)
    folder.parts.mkdir(parents=True)
    parts = [
        write_part(folder, Part(first, first + 2, part_table(numbers[first : first + 2])), "run") for first in (0, 2, 4)
    ]
    coords = xr.Dataset(coords={"frame": numbers})
    consolidate(folder, parts, coords, [], {})
    peaks = open_peaks(tmp_path).load()
    children = np.flatnonzero(peaks["parent"].values >= 0)
    assert len(children) == 6
    parents = peaks.isel(peak=peaks["parent"].values[children])
    np.testing.assert_array_equal(parents["peak_frame"].values, peaks["peak_frame"].values[children])
    np.testing.assert_array_equal(parents["y_pixel"].values, 10)
    np.testing.assert_array_equal(peaks["y_pixel"].values[children], 30)


def test_some_columns_are_those_of_the_whole_table(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"holds no peak table \(peaks\.zarr is missing\)"):
        stored_columns(folder, ["y_pixel"])
    folder.parts.mkdir(parents=True)
    part = write_part(folder, Part(0, 2, part_table([0, 1])), "run")
    consolidate(folder, [part], xr.Dataset(coords={"frame": [0, 1]}), [], {})
    found = stored_columns(folder, ["x_pixel", "of_no_version", "peak_count"])
    peaks = open_peaks(tmp_path).load()
    assert found.keys() == {"x_pixel", "peak_count"}
    for name, values in found.items():
        np.testing.assert_array_equal(values, peaks[name].values)
