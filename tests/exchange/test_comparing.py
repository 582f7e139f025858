"""Two tables side by side: pairs, what one only has, offsets, their map, settings that differ; and lists as tables."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import braggflow
from braggflow import peak_table
from braggflow.cli.entry import app
from braggflow.errors import InputError
from braggflow.exchange import export_peaks, write_imported
from braggflow.results import RunFolder, write_run_info
from tests.exchange.tables import FRAMES, filled, in_frames
from tests.test_first_hour import run

pytestmark = pytest.mark.filterwarnings("ignore:The codec `vlen-utf8` is currently not part:UserWarning")
__all__ = ["run"]


def grid(frames: int = FRAMES) -> xr.Dataset:
    """9 peaks a frame, 20 px apart."""
    table = peak_table.empty(9 * frames)
    table["peak_frame"] = np.repeat(np.arange(frames), 9)
    table["y"], table["x"] = (
        np.tile(20 + 20.0 * (np.arange(9) // 3), frames),
        np.tile(20 + 20.0 * (np.arange(9) % 3), frames),
    )
    table["intensity"] = np.arange(len(table)) + 1
    return in_frames(peak_table.sort(table), frames)


@settings(max_examples=15)
@given(dy=st.floats(-1, 1), dx=st.floats(-1, 1), dropped=st.sets(st.integers(0, 62)), added=st.integers(0, 20))
def test_a_shift_what_is_dropped_and_what_is_added_are_found(
    dy: float, dx: float, dropped: set[int], added: int
) -> None:
    peaks = grid()
    other = peaks.assign(y=peaks["y"] + dy, x=peaks["x"] + dx)
    table = peak_table.empty(added)
    table["peak_frame"], table["y"], table["x"] = np.arange(added) % FRAMES, 150.0, 10.0 * np.arange(added)
    kept = other.isel(peak=np.setdiff1d(np.arange(63), list(dropped)))
    both = xr.concat(
        [kept.drop_indexes(["peak", "peak_frame"]), in_frames(table).drop_indexes(["peak", "peak_frame"])],
        "peak",
        data_vars="minimal",
        coords="minimal",
        compat="override",
    )
    found = braggflow.compare(peaks, both)
    assert (found.figures["matched"], found.figures["extra"], found.figures["missed"]) == (
        63 - len(dropped),
        len(dropped),
        added,
    )
    np.testing.assert_allclose(found.offsets, np.tile([dy, dx], (len(found.offsets), 1)), atol=1e-12)
    back = braggflow.compare(both, peaks)
    assert (back.figures["extra"], back.figures["missed"]) == (added, len(dropped))
    np.testing.assert_allclose(back.offsets, -found.offsets, atol=1e-12)


def test_the_map_has_the_median_offset_of_each_cell() -> None:
    peaks = grid(40)
    stretched = peaks.assign(x=peaks["x"] + 0.01 * (peaks["x"] - 40))
    field = braggflow.compare(peaks, stretched).field
    assert int(field["peaks"].sum()) == 360
    there = np.isfinite(field["offset_x"].values)
    assert there.sum() == 9
    columns = np.unique(np.round(field["offset_x"].values[there], 9))
    np.testing.assert_allclose(columns, [-0.2, 0, 0.2])
    assert np.abs(field["offset_y"].values[there]).max() == 0


def test_shares_are_told_by_the_intensity_of_the_second_table() -> None:
    peaks = grid()
    faint_lost = peaks.isel(peak=peaks["intensity"].values > 20)
    classes = braggflow.compare(faint_lost, peaks).by_intensity
    assert [row["matched"] for row in classes] == [0, pytest.approx(4 / 12, abs=0.1), 1, 1, 1]
    assert sum(row["peaks"] for row in classes) == 63
    assert classes[0]["from"] == 1
    assert classes[-1]["to"] == 63


def test_a_spot_of_a_neighbouring_frame_is_a_partner_where_that_is_asked() -> None:
    peaks = grid()
    later = peaks.isel(peak=peaks["peak_frame"].values == 2).drop_indexes(["peak", "peak_frame"])
    later = later.assign_coords(peak_frame=later["peak_frame"] + 1)
    alone = peaks.isel(peak=peaks["peak_frame"].values == 2)
    assert braggflow.compare(alone, later).figures["matched"] == 0
    found = braggflow.compare(alone, later, frames_apart=1)
    assert (found.figures["matched"], found.figures["matched_in_other_frame"]) == (9, 9)
    assert (found.figures["extra"], found.figures["missed"]) == (0, 0)
    assert braggflow.compare(peaks, peaks, frames_apart=2).figures["matched_in_other_frame"] == 0
    with pytest.raises(InputError, match="frames_apart: -1 is not accepted; must be 0 or more"):
        braggflow.compare(peaks, peaks, frames_apart=-1)


def test_a_list_has_the_frames_of_what_it_is_compared_with(run: Path, tmp_path: Path) -> None:
    for suffix in ("csv", "refl", "stream", "cxi", "nxs"):
        found = braggflow.compare(run, export_peaks(run, tmp_path / f"theirs.{suffix}"))
        assert (found.figures["matched"], found.figures["frames"]) == (6, 5)
        assert np.abs(found.offsets).max() < 1e-12
    beside = filled(3).assign_coords(frame=np.arange(FRAMES) + 100, peak_frame=("peak", np.full(3, 100)))
    with pytest.raises(InputError, match="have no frame in common"):
        braggflow.compare(run, beside)
    with pytest.raises(InputError, match="radius: 0 is not accepted"):
        braggflow.compare(run, run, radius=0)


def test_an_imported_list_is_a_table_on_disk(tmp_path: Path) -> None:
    peaks = filled(20)
    read = braggflow.import_peaks(export_peaks(peaks, tmp_path / "a.nxs"), peaks)
    path = write_imported(read, tmp_path / "theirs.zarr")
    xr.testing.assert_equal(braggflow.open_peaks(path).drop_attrs(), peaks.drop_attrs())
    assert braggflow.open_peaks(path).attrs["imported_as"] == "nexus"
    with pytest.raises(InputError, match=r"theirs\.zarr: exists; choose another name or add --overwrite"):
        write_imported(read, tmp_path / "theirs.zarr")
    write_imported(read, tmp_path / "theirs.zarr", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nxs", "theirs.zarr"]
    assert write_imported(read, tmp_path / "folder") == tmp_path / "folder" / "peaks.zarr"
    assert braggflow.open_peaks(tmp_path / "folder").sizes["peak"] == 20


def test_two_runs_are_compared_with_what_differs_in_their_settings(run: Path, tmp_path: Path) -> None:
    for name, minval in (("one", 20.0), ("two", 40.0)):
        shutil.copytree(run, tmp_path / name)
        settings_of = {"detect": {"minval": minval}, "fit": {"model": "gaussian"}}
        write_run_info(RunFolder(tmp_path / name), {"identity": {"settings": settings_of, "model": None}})
    found = braggflow.compare(tmp_path / "one", tmp_path / "two")
    assert found.settings == ["detect.minval: 20.0 → 40.0"]
    assert (found.figures["matched"], found.figures["distance_95"]) == (6, 0)
    said = CliRunner().invoke(app, ["compare", str(tmp_path / "one"), str(tmp_path / "two")]).output
    assert "differs: detect.minval: 20.0 → 40.0" in said


def test_the_verbs_say_and_write_what_was_found(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = CliRunner().invoke
    assert call(app, ["export", str(run), "--out", "peaks.refl"]).exit_code == 0
    said = call(app, ["import", "peaks.refl", "--frames", "20", "--out", "theirs.zarr"])
    assert (said.exit_code, said.output) == (0, "theirs.zarr: 6 peaks in 20 frames\n")
    said = call(app, ["compare", str(run), "theirs.zarr", "--out", "compared.png"])
    assert said.exit_code == 0
    assert "in both               6" in said.output
    assert "picture: compared.png" in said.output
    assert (tmp_path / "compared.png").stat().st_size > 10_000
    found = json.loads(call(app, ["compare", str(run), "peaks.refl", "--json"]).output)
    assert (found["matched"], found["missed"], found["extra"], found["offset_y"]) == (6, 0, 0, 0)
    assert call(app, ["compare", str(run), "peaks.xyz"]).exit_code != 0
