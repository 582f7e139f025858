"""What files say of their frames: coordinates, geometry, saturation, times."""

from pathlib import Path

import fabio
import h5py
import numpy as np
import pytest

from braggflow.errors import InputError
from tests.convert.conversions import copied, refusal, series
from tests.formats.writers import (
    eiger,
    npy,
    with_omega,
)

# ---------------------------------------------------------------- coordinates


def test_coordinates_carry_values_and_units(tmp_path: Path) -> None:
    source = with_omega(tmp_path, series(), voltage=3.7)
    elsewhere = tmp_path / "log.h5"
    with h5py.File(elsewhere, "w") as file:
        file["capacity"] = np.arange(5, dtype=">i4")
    coords = {"omega": "/entry/data/omega", "voltage": "/entry/data/voltage", "capacity": f"{elsewhere}:/capacity"}
    result = copied(source, tmp_path, coords=coords)
    np.testing.assert_array_equal(result["omega"], np.arange(5) * 0.5)
    assert result["omega"].attrs["units"] == "degree"
    np.testing.assert_array_equal(result["voltage"], np.full(5, 3.7))
    np.testing.assert_array_equal(result["capacity"], np.arange(5))


def test_coordinates_of_an_eiger_master_are_shared_out_over_its_data_files(tmp_path: Path) -> None:
    eiger(tmp_path, series())
    with h5py.File(tmp_path / "s_master.h5", "a") as file:
        file["omega"] = np.arange(5.0)
    result = copied(tmp_path / "s_master.h5", tmp_path, coords={"omega": "/omega"})
    np.testing.assert_array_equal(result["omega"], np.arange(5.0))


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ({"omega": "/entry/data/short"}, r"shape \(3,\).*one for each of the 5 frames"),
        ({"omega": "/entry/gone"}, "has no such data set"),
        ({"mask": "/entry/data/omega"}, "the name is taken"),
        ({"omega": "/gone/log.h5:/omega"}, "/gone/log.h5: cannot be read"),
    ],
)
def test_wrong_coordinates_are_refused(tmp_path: Path, coords: dict[str, str], message: str) -> None:
    source = with_omega(tmp_path, series(), short=np.arange(3))
    with pytest.raises(InputError, match=message):
        copied(source, tmp_path, coords=coords)


def test_coordinate_of_a_format_without_data_sets_is_refused(tmp_path: Path) -> None:
    assert "FILE.h5:/PATH" in refusal(npy(tmp_path, series()), tmp_path, coords={"omega": "/omega"})


# ---------------------------------------------------------------- what headers say


def pilatus(path: Path, angle: float, second: int) -> None:
    lines = [
        "# Detector: PILATUS",
        f"# 2024-01-05T10:20:{second:02d}.250",
        "# Pixel_size 172e-6 m x 100e-6 m",
        "# Exposure_time 0.5 s",
        "# Count_cutoff 1000 counts",
        "# Wavelength 0.5 A",
        "# Detector_distance 0.25 m",
        "# Beam_xy (12.5, 7.25) pixels",
        f"# Start_angle {angle} deg.",
        "# Angle_increment 0.1 deg.",
    ]
    header = {"_array_data.header_convention": "PILATUS_1.2", "_array_data.header_contents": "\r\n".join(lines)}
    fabio.cbfimage.CbfImage(data=series(1, "i4")[0], header=header).write(str(path))


def test_pilatus_header_gives_geometry_saturation_angle_and_time(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3):
        pilatus(tmp_path / "in" / f"p_{index}.cbf", 10 + index * 0.1, 2 * index)
    result = copied(tmp_path / "in", tmp_path)
    geometry = result.attrs["geometry"]
    assert geometry["wavelength_angstrom"] == 0.5
    assert geometry["distance_mm"] == 250
    assert geometry["pixel_size_um"] == pytest.approx([100, 172])
    assert geometry["beam_centre_px"] == [7.25, 12.5]
    assert (result.attrs["saturation"], result.attrs["saturation_source"]) == (1000, "Count_cutoff")
    np.testing.assert_allclose(result["rotation_angle"], [10, 10.1, 10.2])
    np.testing.assert_allclose(result["time"], [0, 2, 4])
    np.testing.assert_allclose(result["exposure"], 0.5)
    assert result["rotation_angle"].attrs["units"] == "degree"


def test_geometry_on_which_files_disagree_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(2):
        pilatus(tmp_path / "in" / f"p_{index}.cbf", 10, 0)
    text = (tmp_path / "in" / "p_1.cbf").read_bytes()
    (tmp_path / "in" / "p_1.cbf").write_bytes(text.replace(b"Detector_distance 0.25", b"Detector_distance 0.35"))
    geometry = copied(tmp_path / "in", tmp_path).attrs["geometry"]
    assert "distance_mm" not in geometry
    assert geometry["wavelength_angstrom"] == 0.5


def test_nexus_groups_give_geometry_in_our_units(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file["entry/instrument/detector/data"] = series()
        detector, beam = file["entry/instrument/detector"], file.create_group("entry/instrument/beam")
        detector.attrs["NX_class"], beam.attrs["NX_class"] = "NXdetector", np.bytes_("NXbeam")
        for name, value, units in [
            ("distance", 120.0, "mm"),
            ("x_pixel_size", 75e-6, "m"),
            ("y_pixel_size", 50.0, "um"),
            ("beam_center_x", 0.75, "mm"),
            ("beam_center_y", 11.5, "pixel"),
        ]:
            detector[name] = value
            detector[name].attrs["units"] = units
        detector["saturation_value"] = 5000
        beam["incident_energy"] = 12.398419843
        beam["incident_energy"].attrs["units"] = "keV"
    attrs = copied(tmp_path / "a.nxs", tmp_path).attrs
    assert attrs["geometry"]["distance_mm"] == pytest.approx(120)
    assert attrs["geometry"]["pixel_size_um"] == pytest.approx([50, 75])
    assert attrs["geometry"]["beam_centre_px"] == pytest.approx([11.5, 9.5])  # 0.75 mm from the edge: 10 px, minus 0.5
    assert attrs["geometry"]["wavelength_angstrom"] == pytest.approx(1)
    assert (attrs["saturation"], attrs["saturation_source"]) == (5000, "saturation_value")
