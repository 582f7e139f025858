"""HDF5 data sets of four axes: grids of scan points as series, and panels of a detector one by one."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from braggflow.errors import InputError
from braggflow.formats import Stack, frames_per_chunk, inspect_source, read_frames
from tests.convert.conversions import copied
from tests.formats.test_hdf5_choice import SHAPE, nxdata, refused


def grid(rows: int, columns: int) -> np.ndarray:
    """A grid of frames that carry their number along the scan in every pixel."""
    numbers = np.arange(rows * columns, dtype="u2").reshape(rows, columns, 1, 1)
    return np.broadcast_to(numbers, (rows, columns, *SHAPE)).copy()


def panels(frames: int, n_panels: int) -> np.ndarray:
    """Frames of panels that carry 100 × frame + panel."""
    numbers = 100 * np.arange(frames)[:, None, None, None] + np.arange(n_panels)[:, None, None]
    return np.broadcast_to(numbers, (frames, n_panels, *SHAPE)).astype("i4")


def inspected(path: Path, inside: str = "") -> Stack:
    (stack,) = inspect_source(str(path), inside)
    return stack


# ---------------------------------------------------------------- grids


@pytest.mark.parametrize("chunks", [None, (1, 1, *SHAPE), (1, 4, *SHAPE), (2, 3, 12, 32), True])
@pytest.mark.parametrize("inside", ["", "/d"])
def test_a_grid_is_a_series_along_the_scan_with_row_and_column(tmp_path: Path, chunks: Any, inside: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("d", data=grid(3, 4), chunks=chunks)
    stack = inspected(tmp_path / "a.h5", inside)
    assert (stack.inside, stack.frames, stack.shape, stack.missing) == ("/d", 12, SHAPE, ())
    assert stack.facts.coords["scan_y"][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert stack.facts.coords["scan_x"][0].tolist() == [0, 1, 2, 3] * 3
    for lo in range(12):
        for hi in range(lo + 1, 13):
            np.testing.assert_array_equal(read_frames(stack, lo, hi)[:, 5, 7], np.arange(lo, hi))


@pytest.mark.parametrize(
    ("chunks", "expected"), [((1, 1, *SHAPE), 1), ((1, 2, 10, 10), 2), ((2, 2, *SHAPE), 8), ((5, 4, *SHAPE), 12)]
)
def test_frames_decoded_together_in_a_grid(tmp_path: Path, chunks: Any, expected: int) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("d", data=grid(3, 4), chunks=chunks, maxshape=(None,) * 4)
    assert frames_per_chunk(str(tmp_path / "a.h5"), "/d") == expected


def test_a_grid_that_ended_early_lacks_its_last_points(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("d", (3, 4, *SHAPE), "u2", chunks=(1, 1, *SHAPE))
        data[:1], data[1, :2] = grid(1, 4), 4
    stack = inspected(tmp_path / "a.h5")
    assert [(first, stop) for first, stop, _ in stack.missing] == [(6, 12)]
    assert read_frames(stack, 2, 6)[:, 0, 0].tolist() == [2, 3, 4, 4]
    with pytest.raises(InputError, match="frames 6 to 11 are missing: never written"):
        read_frames(stack, 5, 7)


def test_values_of_the_scan_axes_come_along_with_units_where_their_names_are_free(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = nxdata(file, "entry/map", "data")
        group.attrs["axes"] = ["sample_y", "sample_x", ".", "."]
        group["data"] = h5py.SoftLink("/entry/detector/data")
        file["entry/detector/data"] = grid(2, 3)
        group["sample_y"], group["sample_x"] = np.array([0.5, 1.5]), np.arange(6, dtype=">i4").reshape(2, 3)
        group["sample_y"].attrs["units"] = np.bytes_("mm")
        file["entry/omega"] = np.arange(6.0).reshape(2, 3)
    stacks = inspect_source(str(tmp_path / "a.h5"), coords={"omega": "/entry/omega"})
    coords = stacks[0].facts.coords
    assert set(coords) == {"scan_y", "scan_x", "sample_y", "sample_x", "omega"}
    assert (coords["sample_y"][0].tolist(), coords["sample_y"][1]) == ([0.5] * 3 + [1.5] * 3, {"units": "mm"})
    assert (coords["sample_x"][0].tolist(), coords["sample_x"][0].dtype) == ([0, 1, 2, 3, 4, 5], np.dtype("i4"))
    assert coords["omega"][0].tolist() == [0, 1, 2, 3, 4, 5]
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["entry/map"].move("sample_y", "y")
        file["entry/map"].move("sample_x", "flags")
        file["entry/map"].attrs["axes"] = ["y", "flags", ".", "."]
    assert set(inspected(tmp_path / "a.h5").facts.coords) == {"scan_y", "scan_x"}


def test_three_axes_are_taken_before_four_and_the_others_are_said(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"], file["image"] = grid(2, 3), grid(1, 3)[0], grid(1, 1)[0, 0]
    stack = inspected(tmp_path / "a.h5")
    assert (stack.inside, stack.others) == ("/b", (f"/a {(2, 3, *SHAPE)}",))
    assert inspected(tmp_path / "a.h5", "/a").others == ()
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.attrs["default"] = "plot"
        nxdata(file, "plot", "grid")["grid"] = h5py.SoftLink("/a")
    assert inspected(tmp_path / "a.h5").inside == "/a"


def test_a_grid_becomes_a_store_with_its_scan(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["d"] = grid(2, 3)
    store = copied(tmp_path / "a.h5", tmp_path)
    np.testing.assert_array_equal(store["frames"], grid(2, 3).reshape(6, *SHAPE))
    assert (store["scan_y"].values.tolist(), store["scan_x"].values.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1, 2] * 2)


def test_two_grids_are_listed_and_none_is_taken(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"] = grid(2, 3), grid(2, 3)
    assert "2 data sets that may be the frames (/a, /b)" in refused(tmp_path / "a.h5")


# ---------------------------------------------------------------- panels


def by_modules(file: Any) -> None:
    for number in range(3):
        file.create_group(f"entry/detector/module_{number}").attrs["NX_class"] = "NXdetector_module"


def by_axes(file: Any) -> None:
    file["entry"].attrs["NX_class"], file["entry"].attrs["signal"] = "NXdata", "data"
    file["entry"].attrs["axes"] = ["frame_number", "module", ".", "."]


def by_cxi(file: Any) -> None:
    file["entry/data"].attrs["axes"] = "experiment_identifier:module_identifier:y:x"


def by_labels(file: Any) -> None:
    for axis, label in enumerate(("time", "Panel", "slow", "fast")):
        file["entry/data"].dims[axis].label = label


@pytest.mark.parametrize("told", [by_modules, by_axes, by_cxi, by_labels])
def test_panels_are_recognised_and_read_one_by_one_by_name(tmp_path: Path, told: Any) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data", data=panels(4, 3), chunks=(2, 3, 8, 32))
        detector = file.create_group("entry/detector")
        detector.attrs["NX_class"] = "NXdetector"
        detector["pixel_mask"] = np.arange(3, dtype="u4")[:, None, None] * np.ones(SHAPE, "u4")
        told(file)
    for inside in ("", "/entry/data"):
        assert f"3 panels of a detector in each frame, and a series holds one; name the panel: {path}:/entry/data/" in (
            refused(path, inside)
        )
    assert f"{path}:/entry/data/panel_0 to panel_2" in refused(path)
    stack = inspected(path, "/entry/data/panel_2")
    assert (stack.inside, stack.frames, stack.shape, stack.facts.coords) == ("/entry/data/panel_2", 4, SHAPE, {})
    assert read_frames(stack, 1, 4)[:, 3, 3].tolist() == [102, 202, 302]
    assert frames_per_chunk(stack.path, stack.inside) == 2
    assert stack.facts.pixel_mask == (str(path), "/entry/detector/pixel_mask/panel_2")
    mask = inspected(path, "/entry/detector/pixel_mask/panel_2")
    assert (mask.frames, int(read_frames(mask, 0, 1)[0, 0, 0])) == (1, 2)
    assert "no panel 3 (they count from 0)" in refused(path, "/entry/data/panel_3")
    assert "has no data set /entry/data/panel_x" in refused(path, "/entry/data/panel_x")


def test_a_panel_lacks_only_what_is_not_written_of_itself(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("d", (3, 2, *SHAPE), "u2", chunks=(1, 1, *SHAPE))
        data[:, 0], data[:2, 1] = 1, 2
    assert inspected(tmp_path / "a.h5", "/d/panel_0").missing == ()
    assert [(first, stop) for first, stop, _ in inspected(tmp_path / "a.h5", "/d/panel_1").missing] == [(2, 3)]


def test_a_detector_of_one_panel_needs_no_name_and_panels_before_frames_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/data"] = panels(4, 1)
        by_labels(file)
        file["other"] = panels(4, 3)
        file["other"].attrs["axes"] = "panel:frame:y:x"
    stack = inspected(tmp_path / "a.h5", "/entry/data")
    assert (stack.inside, stack.frames, stack.facts.coords) == ("/entry/data/panel_0", 4, {})
    assert "must be (frame, panel, y, x)" in refused(tmp_path / "a.h5", "/other")
