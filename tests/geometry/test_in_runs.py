"""The geometry of frames and configuration is carried into the run, and what is wrong with it refuses the run."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import braggflow
from braggflow.cli import app
from braggflow.errors import InputError
from braggflow.geometry import Geometry
from tests.geometry.places import PLAIN, tilted
from tests.stores import make_store, spots

STATED = {"distance_mm": 150.0, "beam_centre_px": [1.0, 2.0], "pixel_size_um": [75.0, 75.0], "wavelength_angstrom": 1.0}
NO_REPORT = {"output": {"report": False}, "check": {"fraction": 0}}


def store(path: Path, geometry: Any = STATED) -> Path:
    return make_store(path, np.stack([spots((64, 64), 3, seed=1)] * 2), attributes={"geometry": geometry})


def run(path: Path, out: Path, **geometry: Any) -> Path:
    outcomes = braggflow.run({**NO_REPORT, "geometry": geometry}, [path], out=out)
    assert outcomes.status == "complete", outcomes
    return out / path.stem


def poni_file(path: Path) -> Path:
    path.write_text(
        "PixelSize1: 7.5e-05\nPixelSize2: 7.5e-05\nDistance: 0.3\nPoni1: 0\nPoni2: 0\nRot1: 0\nRot2: 0\n"
        "Rot3: 0\nWavelength: 1e-10\n"
    )
    return path


def test_a_table_holds_what_a_poni_file_said_and_needs_it_no_more(tmp_path: Path) -> None:
    pytest.importorskip("pyFAI")
    poni = poni_file(tmp_path / "scan.poni")
    asked = {"geometry": {"poni": str(poni), "std": {"distance_mm": 1.0}}}
    data = braggflow.open_frames(store(tmp_path / "scan.zarr"))  # which states another place
    expected = Geometry.from_config(asked["geometry"])
    assert (expected.distance_mm, expected.wavelength_angstrom) == (pytest.approx(300), pytest.approx(1.0))
    assert expected.covariance is not None
    peaks = braggflow.find_peaks(data, config=asked)
    poni.unlink()
    assert Geometry.from_attributes(peaks.attrs["geometry"]) == expected
    with pytest.raises(InputError, match=r"geometry.poni: .*scan.poni is no file"):
        braggflow.find_peaks(data, config=asked)


def test_what_the_frames_state_is_in_the_table_of_a_run_and_of_arrays(tmp_path: Path) -> None:
    path = store(tmp_path / "scan.zarr")
    of_run = braggflow.open_peaks(run(path, tmp_path / "runs"))
    of_array = braggflow.find_peaks(braggflow.open_frames(path))
    for peaks in (of_run, of_array):
        expected = Geometry.from_config(STATED).q(peaks["y"].values, peaks["x"].values)
        np.testing.assert_array_equal(braggflow.add_q(peaks)["q"], expected)
    assert len(of_run["y"])
    assert Geometry.from_frames(braggflow.open_frames(path)) == Geometry.from_config(STATED)


def test_the_configuration_stands_above_the_frames_and_is_whole_in_the_table(tmp_path: Path) -> None:
    folder = run(store(tmp_path / "scan.zarr"), tmp_path / "runs", distance_mm=140)
    stored = json.loads(braggflow.open_peaks(folder).attrs["geometry"])
    assert Geometry.from_attributes(stored) == Geometry.from_config({**STATED, "distance_mm": 140})
    assert braggflow.open_run(folder).info["dataset"]["geometry"] == stored
    np.testing.assert_array_equal(
        braggflow.add_q(folder)["q"], braggflow.add_q(braggflow.open_run(folder), {"distance_mm": 140})["q"]
    )


def test_a_run_that_is_given_another_geometry_takes_it_without_a_new_search(tmp_path: Path) -> None:
    path, out = store(tmp_path / "scan.zarr"), tmp_path / "runs"
    folder = run(path, out)
    before = braggflow.open_peaks(folder).load()
    parts = {part: part.stat().st_mtime_ns for part in (folder / "parts").iterdir()}
    run(path, out, **PLAIN)
    after = braggflow.open_peaks(folder).load()
    assert Geometry.from_attributes(after.attrs["geometry"]) == Geometry.from_config(PLAIN)
    np.testing.assert_array_equal(before["y"], after["y"])
    assert {part: part.stat().st_mtime_ns for part in (folder / "parts").iterdir()} == parts


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        ({"distance_mm": 100}, "geometry: is incomplete"),
        ({**tilted(), "wavelength_angstrom": 1}, "geometry.energy_kev"),
        ({"poni": "nowhere.poni"}, "nowhere.poni is no file"),
        ({"phases": {"x": {"cell": [1, 1, 2, 90, 90, 90], "space_group": "F m -3 m"}}}, "does not fit the space group"),
    ],
)
def test_a_run_with_a_geometry_that_is_wrong_or_incomplete_is_refused(
    tmp_path: Path, geometry: dict[str, Any], said: str
) -> None:
    path = store(tmp_path / "scan.zarr", {"wavelength_angstrom": 1.0} if "phases" not in geometry else STATED)
    try:
        outcomes = str(braggflow.run({**NO_REPORT, "geometry": geometry}, [path], out=tmp_path / "runs").status)
    except InputError as error:
        outcomes = str(error)
    assert said in outcomes
    assert not (tmp_path / "runs").exists()


def test_what_frames_state_incompletely_stops_no_run(tmp_path: Path) -> None:
    folder = run(store(tmp_path / "scan.zarr", {"wavelength_angstrom": 1.0}), tmp_path / "runs")
    with pytest.raises(InputError, match="geometry: is incomplete; has wavelength_angstrom, lacks distance_mm"):
        braggflow.add_q(folder)
    whole = {key: value for key, value in STATED.items() if key != "wavelength_angstrom"}
    np.testing.assert_array_equal(braggflow.add_q(folder, whole)["q"], braggflow.add_q(folder, STATED)["q"])


def test_exported_tables_have_q_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = run(store(tmp_path / "scan.zarr"), tmp_path / "runs")
    poni = poni_file(tmp_path / "other.poni")
    for name, options in (("own", ["--q"]), ("other", ["--geometry", str(poni)]), ("none", [])):
        if name == "other":
            pytest.importorskip("pyFAI")
        for suffix in ("csv", "parquet", "h5"):
            out = tmp_path / f"{name}.{suffix}"
            result = CliRunner().invoke(app, ["export", str(folder), "--out", str(out), *options])
            assert result.exit_code == 0, result.output
        table, columns = pd.read_csv(tmp_path / f"{name}.csv"), pd.read_parquet(tmp_path / f"{name}.parquet")
        assert table.columns.to_list() == columns.columns.to_list()
        if name == "none":
            assert "q" not in table
        else:
            expected = braggflow.add_q(folder, None if name == "own" else poni)
            np.testing.assert_allclose(table["q"], expected["q"], rtol=1e-12)
            np.testing.assert_array_equal(columns["two_theta_std"], expected["two_theta_std"])
            with h5py.File(tmp_path / f"{name}.h5") as file:
                assert json.loads(file.attrs["braggflow"])["geometry"] == expected.attrs["geometry"]
