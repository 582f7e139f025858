"""Tracks in the run folder: made after the table, bound to it, guarded; a failure ends no run."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

import braggflow
from braggflow import peak_table
from braggflow.cli import app
from braggflow.evaluate import verify
from braggflow.frames import seal
from braggflow.results import RunFolder
from braggflow.tracks import track_or_why_not, tracking
from tests.stores import make_store, spots

QUICK = {"output": {"report": False}, "check": {"fraction": 0}, "locate": {"network": "none"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("followed")
    frames = np.stack([np.roll(spots((64, 80), 5, seed=3), shift, axis=1) for shift in (0, 0, 1, 1, 2, 2)])
    store = make_store(folder / "scan.zarr", frames)
    braggflow.run(QUICK, [store], out=folder / "runs")
    return folder / "runs" / "scan"


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "scan")


def test_a_run_of_three_frames_or_more_is_followed(made):
    info = json.loads((made / "run.json").read_text())
    tracks = braggflow.open_tracks(made)
    assert info["tracks"]["tracks"] == tracks.sizes["track"] > 0
    peaks = braggflow.open_peaks(made)
    assert {*peak_table.FOLLOWED} <= {*map(str, peaks.data_vars)}
    counts = np.bincount(peaks["track_id"].values[peaks["track_id"].values >= 0])
    np.testing.assert_array_equal(counts, tracks["length"])
    assert peaks.bragg.to_dataframe(["track_id", "y_smooth"]).shape[0] == peaks.sizes["peak"]
    assert info["tracks"]["peaks_on_tracks"] == counts.sum()


@pytest.mark.parametrize(("settings", "frames"), [({"track": {"enabled": False}}, 6), ({}, 2)])
def test_what_is_not_followed_says_why(settings, frames, tmp_path):
    store = make_store(tmp_path / "scan.zarr", np.stack([spots((64, 80), 4, seed=3)] * frames))
    (outcome,) = braggflow.run(QUICK | settings, [store], out=tmp_path / "runs")
    assert outcome.status == "complete"
    run = tmp_path / "runs" / "scan"
    said = json.loads((run / "run.json").read_text())["tracks"]["left_out"]
    assert said.startswith("track.enabled is")
    assert "track_id" not in braggflow.open_peaks(run)
    with pytest.raises(
        braggflow.InputError, match=r"scan: holds no tracks \(tracks.zarr is missing\); braggflow track"
    ):
        braggflow.open_tracks(run)


def test_settings_of_tracks_are_no_part_of_a_runs_identity(run, made):
    info = json.loads((made / "run.json").read_text())
    assert "track" not in info["identity"]["settings"]


def test_a_failure_is_recorded_and_ends_nothing(run, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("of whatever kind")

    monkeypatch.setattr(tracking, "follow_peaks", fail)
    config = braggflow.open_run(run).config
    assert track_or_why_not(RunFolder(run), config.track) == {"left_out": "ZeroDivisionError: of whatever kind"}


def test_followed_anew_with_other_settings(run):
    before = braggflow.open_tracks(run).sizes["track"]
    assert braggflow.track(run, min_length=6).sizes["track"] <= before
    assert json.loads(braggflow.open_tracks(run).attrs["settings"])["min_length"] == 6
    # The run is as whole as it was.
    assert not verify(run, frames=1)[0].damaged


def test_tracks_of_another_table_are_not_used(run, tmp_path):
    shutil.rmtree(run / "peaks.zarr")
    other = make_store(tmp_path / "other.zarr", np.stack([spots((64, 80), 4, seed=5)] * 3))
    braggflow.run(QUICK | {"track": {"enabled": False}}, [other], out=tmp_path / "others")
    shutil.copytree(tmp_path / "others" / "other" / "peaks.zarr", run / "peaks.zarr")
    assert "track_id" not in braggflow.open_peaks(run)
    with pytest.raises(braggflow.InputError, match=r"tracks.zarr: is of another peak table than peaks.zarr beside it"):
        braggflow.open_tracks(run)


def test_damage_is_told(run):
    chunk = run / "tracks.zarr" / "y_smooth" / "c" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    with pytest.raises(braggflow.InputError, match=r"y_smooth/c/0: is damaged"):
        braggflow.open_peaks(run)["y_smooth"].load()
    states = {check.what: check.state for check in verify(run, frames=0)[0].checks}
    assert states["tracks.zarr"] == "damaged"
    chunk.unlink()
    with pytest.raises(braggflow.InputError, match=r"tracks.zarr: y_smooth/c/0 is missing; braggflow track RUN makes"):
        braggflow.open_tracks(run)
    braggflow.track(run)
    assert np.isfinite(braggflow.open_peaks(run)["y_smooth"].values).any()


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("format", "a-format", "is no table of tracks; braggflow track RUN makes it anew"),
        ("format", "z-format", "is no table of tracks; braggflow track RUN makes it anew"),
        ("format_version", 99, r"has format_version 99, this braggflow \(.*\) reads \d+; update it"),
    ],
)
def test_what_is_no_table_of_tracks_or_a_newer_one_is_refused(run, attribute, value, said):
    zarr.open_group(run / "tracks.zarr").attrs[attribute] = value
    seal(run / "tracks.zarr")
    with pytest.raises(braggflow.InputError, match=rf"tracks.zarr: {said}"):
        braggflow.open_tracks(run)


def test_the_verb_says_what_was_found(run):
    result = CliRunner().invoke(app, ["track", str(run), "--set", "max_gap=2", "--json"], catch_exceptions=False)
    said = json.loads(result.stdout)
    assert (said["kind"], said["tracks"]) == ("series", braggflow.open_tracks(run).sizes["track"])
    with pytest.raises(braggflow.InputError, match=r"track.max_gap: 'many'"):
        CliRunner().invoke(app, ["track", str(run), "--set", "track.max_gap=many"], catch_exceptions=False)
    with pytest.raises(braggflow.InputError, match=r"--plot tracks.bmp: must end with"):
        CliRunner().invoke(app, ["track", str(run), "--plot", "tracks.bmp"], catch_exceptions=False)


@pytest.mark.parametrize("how", ["changed", "removed"])
def test_what_happened_to_tracks_is_mended_by_the_next_run(made, run, how):
    whole = braggflow.open_peaks(run).load()
    chunk = run / "tracks.zarr" / "x_smooth" / "c" / "0"
    if how == "removed":
        chunk.unlink()
    else:
        chunk.write_bytes(bytes([*chunk.read_bytes()[:-1], 0]))
    again = braggflow.run(QUICK, [made.parents[1] / "scan.zarr"], out=run.parent)[0]
    assert "tracks.zarr/x_smooth/c/0" in again.message
    xr.testing.assert_identical(braggflow.open_peaks(run).load(), whole)
