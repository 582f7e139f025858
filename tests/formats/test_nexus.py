"""What NeXus files state of their frames: taken where it can be true, left out with a note where it cannot."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from braggflow.formats import inspect_source
from braggflow.formats.metadata import Facts
from tests.formats.test_hdf5_choice import SHAPE, frames, refused


def facts(
    path: Path, entries: dict[str, Any], beam: dict[str, Any] | None = None, data: str = "entry/det/data"
) -> Facts:
    """What is made of an NXdetector (and NXbeam) with these entries: value, or (value, units)."""
    with h5py.File(path, "w") as file:
        file[data] = frames()
        for group, nx_class, values in (("entry/det", "NXdetector", entries), ("entry/beam", "NXbeam", beam or {})):
            made = file.require_group(group)
            made.attrs["NX_class"] = nx_class
            for name, value in values.items():
                number, units = value if isinstance(value, tuple) else (value, "")
                made[name] = number
                if units:
                    made[name].attrs["units"] = units
    return inspect_source(str(path), f"/{data}")[0].facts


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_a_saturation_that_cannot_be_is_not_used_and_noted(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.nxs"
    found = facts(path, {"saturation_value": value})
    assert (found.saturation, found.saturation_source) == (None, "")
    assert found.notes[0].startswith(f"{path}:/entry/det/saturation_value is {float(value)}, must be ")
    found = facts(path, {"saturation_value": value, "countrate_correction_count_cutoff": 500})
    assert (found.saturation, found.saturation_source) == (500, "countrate_correction_count_cutoff")


def test_underload_is_taken_where_it_lies_below_saturation(tmp_path: Path) -> None:
    found = facts(tmp_path / "a.nxs", {"underload_value": -3, "saturation_value": 1000})
    assert (found.underload, found.notes) == (-3, ())
    assert facts(tmp_path / "a.nxs", {"underload_value": 0}).underload == 0
    found = facts(tmp_path / "a.nxs", {"underload_value": 1000, "saturation_value": 1000})
    assert found.underload is None
    assert "underload_value is 1000.0, must be below the saturation of 1000" in found.notes[0]


@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE), (1, 1, *SHAPE)])
def test_a_mask_of_the_frames_shape_is_taken_also_as_one_frame(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "a.nxs"
    assert facts(path, {"pixel_mask": np.ones(shape, "u4")}).pixel_mask == (str(path), "/entry/det/pixel_mask")


@pytest.mark.parametrize("shape", [SHAPE[::-1], (3, *SHAPE), (SHAPE[0] - 1, SHAPE[1]), (SHAPE[0] * SHAPE[1],)])
@pytest.mark.parametrize("data", ["entry/det/data", "entry/data"])
def test_a_mask_of_another_shape_is_refused_naming_both(tmp_path: Path, shape: tuple[int, ...], data: str) -> None:
    path = tmp_path / "a.nxs"
    with h5py.File(path, "w") as file:
        file[data] = frames()
        file["entry/det/pixel_mask"] = np.ones(shape, "u4")
        file["entry/det"].attrs["NX_class"] = "NXdetector"
    message = refused(path)
    assert f"{path}:/entry/det/pixel_mask: the detector's mask has shape {shape}, the frames {SHAPE}" in message


def test_a_mask_of_other_frames_of_the_detector_or_out_of_reach_is_noted(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file["entry/det/data"], file["entry/det/pixel_mask"] = np.zeros((3, 100, 100)), np.zeros((100, 100), "u1")
        file["entry/det"].attrs["NX_class"] = "NXdetector"
        file["entry/binned"] = frames()
    found = inspect_source(str(tmp_path / "a.nxs"), "/entry/binned")[0].facts
    assert found.pixel_mask is None
    assert "for frames that the detector does not hold itself: not used" in found.notes[0]
    with h5py.File(tmp_path / "a.nxs", "a") as file:
        del file["entry/det/pixel_mask"]
        file["entry/det/pixel_mask"] = h5py.ExternalLink("gone.h5", "/mask")
    found = inspect_source(str(tmp_path / "a.nxs"), "/entry/det/data")[0].facts
    assert "/entry/det/pixel_mask links to gone.h5:/mask, which is missing" in found.notes[0]


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_geometry_that_cannot_be_is_left_out_with_a_note(tmp_path: Path, value: float) -> None:
    detector = {"distance": (value, "m"), "x_pixel_size": (75e-6, "m"), "y_pixel_size": (value, "m")}
    found = facts(tmp_path / "a.nxs", detector, {"incident_wavelength": value})
    assert found.geometry == {}
    named = [note.split(" is ")[0].rpartition("/")[2] for note in found.notes]
    assert named == ["y_pixel_size", "distance", "incident_wavelength"]


def test_zeros_that_nobody_filled_in_need_no_note(tmp_path: Path) -> None:
    zeros = dict.fromkeys(("distance", "x_pixel_size", "y_pixel_size", "beam_center_x", "beam_center_y"), 0.0)
    found = facts(tmp_path / "a.nxs", zeros, {"incident_wavelength": 0.0, "incident_energy": (0.0, "keV")})
    assert (found.geometry, found.notes) == ({}, ())


@pytest.mark.parametrize(
    ("y", "x", "units", "expected"),
    [
        (12.0, 16.0, "", [12.0, 16.0]),
        (0.0, 16.0, "pixel", [0.0, 16.0]),
        (-20.0, 60.0, "pixel", [-20.0, 60.0]),
        (1.2, 1.6, "mm", [11.5, 15.5]),
        (12.0, 16.0, "mm", None),  # pixels called mm: 119.5, 159.5
        (12.0, -1e6, "", None),
        (12.0, np.nan, "", None),
    ],
)
def test_a_beam_centre_far_from_the_frame_is_left_out(
    tmp_path: Path, y: float, x: float, units: str, expected: list[float] | None
) -> None:
    detector = dict.fromkeys(("x_pixel_size", "y_pixel_size"), (0.0001, "m"))
    found = facts(tmp_path / "a.nxs", {**detector, "beam_center_y": (y, units), "beam_center_x": (x, units)})
    assert found.geometry.get("beam_centre_px") == (expected and pytest.approx(expected))
    assert ["beam_center" in note for note in found.notes] == ([] if expected else [True])


def test_of_several_detectors_the_one_that_holds_the_frames_under_any_name_speaks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        for number, name in enumerate(("one", "two"), 1):
            file[f"entry/{name}/data"], file[f"entry/{name}/distance"] = frames(), float(number)
            file[f"entry/{name}"].attrs["NX_class"] = "NXdetector"
        file["entry/data"] = h5py.SoftLink("/entry/two/data")
    (stack,) = inspect_source(str(tmp_path / "a.nxs"), "/entry/data")
    assert stack.facts.geometry == {"distance_mm": 2000.0}


def test_entries_of_odd_types_are_passed_over(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file["entry/det/data"] = frames()
        detector = file["entry/det"]
        detector.attrs["NX_class"] = np.array([b"NXdetector"])
        file["entry"].attrs["NX_class"] = file.ref
        detector["distance"], detector["saturation_value"] = "far", np.arange(3.0)
        detector["underload_value"] = h5py.Empty("f4")
        detector.create_group("pixel_mask")
        detector["x_pixel_size"] = 75e-6
        detector["x_pixel_size"].attrs["units"] = file.ref
    found = inspect_source(str(tmp_path / "a.nxs"))[0].facts
    assert (found.geometry, found.saturation, found.pixel_mask, found.notes) == ({}, None, None, ())
