"""What files say of their frames: coordinates, geometry, saturation, times."""

from pathlib import Path

import fabio
import h5py
import numpy as np
import pytest
import tifffile

from braggflow.errors import InputError
from braggflow.formats import inspect_source
from braggflow.formats.metadata import facts_from_text, grid_coords
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


@pytest.mark.parametrize("detector", ["PILATUS3 6M, S/N 60-0001", "Dectris EIGER Si 4M, S/N E-08-0100"])
def test_the_header_lines_of_a_dectris_tiff_are_those_of_a_cbf(tmp_path: Path, detector: str) -> None:
    lines = f"# Detector: {detector}\n# Pixel_size 75e-6 m x 75e-6 m\n# Count_cutoff 1000 counts\n"
    lines += "# Beam_xy (12, 7) pixels\n"
    tifffile.imwrite(tmp_path / "a.tif", series(1, "i4")[0], description=lines, metadata=None)
    facts = inspect_source(str(tmp_path / "a.tif"))[0].facts
    assert facts.geometry == {"pixel_size_um": pytest.approx([75, 75]), "beam_centre_px": [7, 12]}
    assert facts.saturation == 1000


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


# ---------------------------------------------------------------- what headers say that cannot be true

SMV = {"OSC_START": "0", "PIXEL_SIZE": "0.055", "DISTANCE": "100", "WAVELENGTH": "0.02508"}


def test_a_beam_centre_in_pixels_is_not_taken_for_mm(tmp_path: Path) -> None:
    facts = facts_from_text(SMV | {"BEAM_CENTER_X": "246", "BEAM_CENTER_Y": "240"}, 1, (512, 512))
    assert "beam_centre_px" not in facts.geometry
    (note,) = facts.notes
    assert "BEAM_CENTER_X, BEAM_CENTER_Y (246, 240)" in note
    assert "512 x 512" in note
    header = SMV | {"BEAM_CENTER_X": "246", "BEAM_CENTER_Y": "240"}
    fabio.adscimage.AdscImage(data=series(1, "u2")[0], header=header).write(str(tmp_path / "a.img"))
    (stack,) = inspect_source(str(tmp_path / "a.img"))
    assert "beam_centre_px" not in stack.facts.geometry
    assert stack.facts.geometry["distance_mm"] == 100
    assert len(stack.facts.notes) == 1


@pytest.mark.parametrize(
    ("x", "y", "centre"),
    [
        ("13.53", "13.2", [245.5, 239.5]),
        ("0.0275", "28.16", [0, 511.5]),
        ("13.53", "28.2", None),
        ("-1", "13.2", None),
    ],
)
def test_a_beam_centre_in_mm_is_taken_where_it_lies_on_the_frame(x: str, y: str, centre: list[float] | None) -> None:
    facts = facts_from_text(SMV | {"BEAM_CENTER_X": x, "BEAM_CENTER_Y": y}, 1, (512, 512))
    assert facts.geometry.get("beam_centre_px") == (pytest.approx(centre) if centre else None)
    assert len(facts.notes) == (centre is None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("CCD_IMAGE_SATURATION", "0"),
        ("CCD_IMAGE_SATURATION", "-1"),
        ("DISTANCE", "-100"),
        ("WAVELENGTH", "-0.5"),
        ("PIXEL_SIZE", "-0.055"),
        ("TIME", "-1"),
    ],
)
def test_values_of_an_smv_header_that_cannot_be_true_are_noted_and_not_used(key: str, value: str) -> None:
    facts = facts_from_text(SMV | {key: value}, 1, (512, 512))
    assert facts.saturation is None
    assert "exposure" not in facts.coords
    assert all(np.min(entry) > 0 for entry in facts.geometry.values())
    (note,) = facts.notes
    assert note.startswith(f"{key} is {value}")


@pytest.mark.parametrize(
    "line",
    [
        "Count_cutoff 0 counts",
        "Count_cutoff -5 counts",
        "Detector_distance -0.2 m",
        "Wavelength -1 A",
        "Pixel_size -172e-6 m x 172e-6 m",
        "Exposure_time -1 s",
    ],
)
def test_values_of_a_pilatus_header_that_cannot_be_true_are_noted_and_not_used(line: str) -> None:
    facts = facts_from_text({"_array_data.header_contents": f"# Detector: PILATUS\r\n# {line}"}, 1, (195, 487))
    assert (facts.geometry, facts.saturation, facts.coords) == ({}, None, {})
    (note,) = facts.notes
    assert note.startswith(line.split()[0])


def test_zeros_that_mean_unknown_are_left_out_without_a_note() -> None:
    header = {"_array_data.header_contents": "# Wavelength 0 A\n# Detector_distance 0 m\n# Beam_xy (0, 0) pixels"}
    assert facts_from_text(header, 1, (195, 487)) == facts_from_text({}, 1, (195, 487))


def test_frames_of_a_grid_are_numbered_row_by_row() -> None:
    coords = grid_coords(2, 3)
    assert coords["scan_y"][0].tolist() == [0, 0, 0, 1, 1, 1]
    assert coords["scan_x"][0].tolist() == [0, 1, 2, 0, 1, 2]
