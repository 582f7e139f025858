"""Pictures of tracks are drawn of any run whose peaks were followed."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr

import braggflow
from tests.stores import make_store, spots

QUICK = {"output": {"report": False}, "check": {"fraction": 0}, "locate": {"network": "none"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    frames = np.stack([np.roll(spots((64, 80), 5, seed=3), shift, axis=1) for shift in (0, 0, 1, 1, 2, 2)])
    braggflow.run(QUICK, [make_store(folder / "scan.zarr", frames)], out=folder / "runs")
    return folder / "runs" / "scan"


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_one_track_has_its_curves_and_its_patches(run):
    track = int(np.argmax(braggflow.open_tracks(run)["length"].values))
    figure = braggflow.plot_track(run, track)
    said = words(figure)
    assert f"track {track}: 6 peaks in frames 0 to 5" in said
    assert "frame 5" in said  # a patch
    assert "time (s)" in said
    assert "frame number" in words(braggflow.plot_track(run, track, axis="frame"))


def test_without_frames_there_are_curves_alone(run, tmp_path):
    moved = shutil.copytree(run, tmp_path / "scan")
    store = run.parent.parent / "scan.zarr"
    store.rename(store.with_name("away.zarr"))
    try:
        assert len(braggflow.plot_track(moved, 0).axes) == 4
    finally:
        store.with_name("away.zarr").rename(store)


def test_all_tracks_are_drawn(run):
    said = words(braggflow.plot_tracks(run))
    n = braggflow.open_tracks(run).sizes["track"]
    assert f"{n} tracks of" in said
    assert "common shift" in said


def test_a_scan_shows_rocking_curves(tmp_path):
    images = np.stack([spots((64, 80), 3, seed=2) * (at in (2, 3, 4)) + np.uint16(4) for at in range(7)])
    omega = ("frame", np.arange(7) * 0.5, {"units": "degree"})
    data = xr.Dataset({"frames": (("frame", "y", "x"), images)}, {"frame": np.arange(7), "omega": omega})
    data.to_zarr(tmp_path / "turned.zarr", zarr_format=3, consolidated=False)
    braggflow.run(QUICK, [tmp_path / "turned.zarr"], out=tmp_path / "runs")
    run = tmp_path / "runs" / "turned"
    tracks = braggflow.open_tracks(run)
    assert np.nanmedian(tracks["omega"].values) == pytest.approx(1.5, abs=0.3)
    said = words(braggflow.plot_tracks(run))
    assert f"{tracks.sizes['track']} reflections of" in said
    assert "full width at half maximum in omega (degree)" in said


def test_no_tracks_and_unknown_ones_are_said(run, tmp_path):
    n = braggflow.open_tracks(run).sizes["track"]
    with pytest.raises(braggflow.InputError, match=rf"track_id: {n} is not accepted; there are tracks 0 to {n - 1}"):
        braggflow.plot_track(run, n)
    empty = shutil.copytree(run, tmp_path / "scan")
    braggflow.track(empty, min_length=1000)
    assert "0 tracks of 0 peaks" in words(braggflow.plot_tracks(empty))
    assert json.loads((empty / "run.json").read_text())["status"] == "complete"
