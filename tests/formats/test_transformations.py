"""NeXus transformations: the detector stands where they put it, by a computation of its own."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import braggflow
from braggflow.geometry import Geometry

SHAPE, PIXEL = (40, 60), (75e-6, 100e-6)


def write(
    path: Path, fast: list[float], slow: list[float], *, arm: float = 0.0, tilt: float = 0.0, **more: Any
) -> None:
    """A file of one module, its corner at `corner` (m), on an arm that turns about -y, tilted about x there."""
    corner = more.get("corner", [0.01, 0.02, 0.3])
    with h5py.File(path, "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector.attrs["NX_class"] = "NXdetector"
        file["entry"].attrs["NX_class"], file["entry/instrument"].attrs["NX_class"] = "NXentry", "NXinstrument"
        detector["data"] = np.random.default_rng(0).poisson(5, (3, *SHAPE)).astype(np.uint16)
        beam = file.create_group("entry/instrument/beam")
        beam.attrs["NX_class"] = "NXbeam"
        beam["incident_wavelength"] = 0.9
        beam["incident_wavelength"].attrs["units"] = "angstrom"

        def axis(name: str, value: Any, vector: list[float], after: str, kind: str, units: str) -> Any:
            detector[name] = value
            of = detector[name].attrs
            of.update({"vector": vector, "depends_on": after, "transformation_type": kind, "units": units})
            return detector[name]

        place = "/entry/instrument/detector/"
        axis("transformations/arm", more.get("arms", arm), [0, -1, 0], ".", "rotation", "deg")
        axis("transformations/tilt", np.radians(tilt), [1, 0, 0], place + "transformations/arm", "rotation", "rad")
        detector["transformations/tilt"].attrs.update({"offset": [0, 0, 300.0], "offset_units": "mm"})
        if more.get("modules", True):
            axis(
                "module/module_offset",
                1.0,
                corner,
                place + "transformations/tilt",
                "translation",
                more.get("units", "m"),
            )
            detector["module/module_offset"][()] = np.linalg.norm(corner)
            for name, size, vector in (("fast", PIXEL[1], fast), ("slow", PIXEL[0], slow)):
                axis(f"module/{name}_pixel_direction", size, vector, "module_offset", "translation", "m")
            detector["module"].attrs["NX_class"] = "NXdetector_module"


@pytest.mark.parametrize(("arm", "tilt"), [(0, 0), (25, 0), (-40, 12), (100, -5)])
@pytest.mark.parametrize(
    ("fast", "slow"),
    [([-1, 0, 0], [0, -1, 0]), ([1, 0, 0], [0, 1, 0]), ([-1, 0, 0], [0, 1, 0]), ([0, 1, 0], [1, 0, 0])],
)
def test_places_are_those_of_the_transformations(tmp_path: Path, arm: float, tilt: float, fast: Any, slow: Any) -> None:
    write(tmp_path / "a.nxs", fast, slow, arm=arm, tilt=tilt)
    geometry = Geometry.from_frames(braggflow.open_frames(tmp_path / "a.nxs"))
    y, x = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
    on_detector = (
        np.array([0.01, 0.02, 0.3])
        + (y[..., None] + 0.5) * PIXEL[0] * np.array(slow)
        + (x[..., None] + 0.5) * PIXEL[1] * np.array(fast)
    )
    tilted = on_detector @ Rotation.from_rotvec(np.radians(tilt) * np.array([1, 0, 0])).as_matrix().T + [0, 0, 0.3]
    place = tilted @ Rotation.from_rotvec(np.radians(arm) * np.array([0, -1, 0])).as_matrix().T
    two_theta = np.degrees(np.arccos(place[..., 2] / np.linalg.norm(place, axis=-1)))
    np.testing.assert_allclose(geometry.two_theta(y, x), two_theta, rtol=1e-9)
    assert geometry.wavelength_angstrom == pytest.approx(0.9)
    if abs(arm) < 90:  # from the laboratory's axis that rows run along towards the one that columns do
        along = [np.sign(vector) * (np.abs(vector) > 0.5) for vector in (np.array(fast), np.array(slow))]
        azimuth = np.degrees(np.arctan2(place @ along[1], place @ along[0]))
        np.testing.assert_allclose(geometry.azimuth(y, x), azimuth, atol=1e-7)


@pytest.mark.parametrize(
    "odd",
    [
        {"modules": False},
        {"arms": [0.0, 1.0, 2.0]},
        {"units": "furlong"},
        {"corner": [0.01, 0.02, -0.5]},
    ],
)
def test_what_puts_the_detector_nowhere_is_not_used(tmp_path: Path, odd: dict[str, Any]) -> None:
    write(tmp_path / "a.nxs", [-1, 0, 0], [0, -1, 0], **odd)
    stated = braggflow.open_frames(tmp_path / "a.nxs").attrs["geometry"]
    if "corner" in odd:  # behind the sample, where a detector can stand
        assert Geometry.from_attributes(stated).two_theta(0, 0) > 90
    else:
        assert set(stated) == {"wavelength_angstrom"}


def test_a_detector_across_the_beam_keeps_the_plain_keys_that_it_has(tmp_path: Path) -> None:
    write(tmp_path / "a.nxs", [-1, 0, 0], [0, -1, 0])
    with h5py.File(tmp_path / "a.nxs", "a") as file:
        detector = file["entry/instrument/detector"]
        for name, value, units in (
            ("distance", 0.6, "m"),
            ("beam_center_x", 20.0, "pixel"),
            ("beam_center_y", 30.0, "pixel"),
            ("x_pixel_size", PIXEL[1], "m"),
            ("y_pixel_size", PIXEL[0], "m"),
        ):
            detector[name] = value
            detector[name].attrs["units"] = units
    stated = braggflow.open_frames(tmp_path / "a.nxs").attrs["geometry"]
    assert stated["beam_centre_px"] == [30, 20]
    assert stated["distance_mm"] == pytest.approx(600)
