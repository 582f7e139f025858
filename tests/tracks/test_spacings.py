"""Tracks of a lattice that changes: q, d and strain against each reference, with errors that hold."""

import json

import numpy as np
import pytest
import xarray as xr

from braggflow.config import TrackConfig
from braggflow.errors import InputError
from braggflow.geometry import Geometry, add_q, strain
from braggflow.tracks import follow_peaks
from tests.geometry.places import PLAIN
from tests.tracks.peak_tables import plain_table

TRACKS, FRAMES, RATE, SIDE = 100, 40, 2e-5, 2000


def series(seed, attributes=PLAIN):
    """Peaks on a grid, whose spacings grow by `RATE` a frame, found with errors of 0.05 pixel."""
    rng, geometry = np.random.default_rng(seed), Geometry.from_config(PLAIN)
    y, x = (place.ravel() for place in np.meshgrid(*2 * [np.linspace(100, SIDE - 100, 10)], indexing="ij"))
    two_theta, azimuth = geometry.two_theta(y, x), geometry.azimuth(y, x)
    frame = np.repeat(np.arange(FRAMES), TRACKS)
    sine = np.sin(np.radians(np.tile(two_theta, FRAMES) / 2)) / (1 + RATE * frame)
    at = np.stack(geometry.position(2 * np.degrees(np.arcsin(sine)), np.tile(azimuth, FRAMES)))
    at += rng.normal(0, 0.05, at.shape)
    table = plain_table(frame, *at, FRAMES)
    return table.assign_attrs(geometry=json.dumps(attributes)) if attributes else table


def pulls(found, std, truth):
    pull = (np.asarray(found) - truth) / np.asarray(std)
    return pull.mean() * np.sqrt(pull.size), (np.square(pull).sum() - pull.size) / np.sqrt(2 * pull.size)


@pytest.fixture(scope="module")
def followed():
    return [follow_peaks(series(seed), TrackConfig(strain_reference="first")) for seed in range(3)]


@pytest.mark.parametrize("name", ["strain_mean", "strain_trend"])
def test_strain_and_its_slope_are_found_within_their_errors(followed, name):
    tracks = xr.concat([one[[name, f"{name}_std"]] for one in followed], "track")
    assert tracks.sizes["track"] == 3 * TRACKS
    truth = RATE if name == "strain_trend" else RATE * (FRAMES - 1) / 2
    # Of normal pulls these are normal deviates, whose errors are 1.
    for deviate in pulls(tracks[name], tracks[f"{name}_std"], truth):
        assert abs(deviate) < 4


def test_q_and_d_are_those_of_the_peaks(followed):
    tracks, peaks = followed[0], add_q(series(0)).assign(track_id=followed[0]["track_id"])
    for name in ("q", "d"):
        mean = [np.average(one[name], weights=one[f"{name}_std"] ** -2.0) for _, one in peaks.groupby("track_id")]
        np.testing.assert_allclose(tracks[f"{name}_mean"], mean, rtol=1e-12)
    assert tracks["q_trend"].attrs["units"] == "angstrom-1/frame"
    assert (tracks["q_trend"] < 0).mean() > 0.9


@pytest.mark.parametrize(("reference", "same"), [("first", {"first": 1}), ("mean", {"mean": True}), (2.5, {"d0": 2.5})])
def test_peaks_have_the_strain_of_their_tracks_reference(reference, same):
    tracks = follow_peaks(series(0), TrackConfig(strain_reference=reference))
    peaks = add_q(series(0)).assign(track_id=tracks["track_id"])
    found, expected = strain(peaks, tracks=tracks), strain(peaks, **same)
    for name in ("d_reference", "strain", "strain_std"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-11)


def test_what_the_geometry_leaves_open_counts_against_a_spacing_that_is_given_alone():
    vague = {**PLAIN, "std": {"distance_mm": 1.0}}
    for reference, times in (("first", 1.0), (2.5, 10.0)):
        exact, with_std = (
            follow_peaks(series(0, keys), TrackConfig(strain_reference=reference))["strain_mean_std"].median()
            for keys in (PLAIN, vague)
        )
        assert with_std / exact == pytest.approx(1, rel=1e-3) if times == 1 else with_std > times * exact


def test_without_a_geometry_or_in_a_rotation_there_is_none():
    assert "q_mean" not in follow_peaks(series(0, None), TrackConfig())
    assert "q_mean" not in follow_peaks(series(0, {"distance_mm": 200.0}), TrackConfig())
    omega = ("frame", np.arange(FRAMES) * 0.5, {"units": "degree"})
    turned = follow_peaks(series(0).assign_coords(omega=omega), TrackConfig())
    assert "d_mean" in turned
    assert "d_reference" not in turned
    peaks = add_q(series(0)).assign(track_id=turned["track_id"])
    with pytest.raises(InputError, match="tracks: have no d_reference"):
        strain(peaks, tracks=turned)
