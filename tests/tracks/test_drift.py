"""The common shift of all tracks is found through their own motion, and subtracted where asked."""

import numpy as np

from braggflow.config import TrackConfig
from braggflow.tracks import common_shift, follow_peaks
from tests.tracks.peak_tables import plain_table


def shaken(n: int = 30, n_frames: int = 80, *, seed: int = 0):
    """Peaks that stand still but for a few, on a detector that moves: track, frame, place, shift."""
    rng = np.random.default_rng(seed)
    shift = np.cumsum(rng.normal(0, 0.1, (n_frames, 2)), axis=0)
    shift -= shift[0]
    frame, track = np.repeat(np.arange(n_frames), n), np.tile(np.arange(n), n_frames)
    place = rng.uniform(0, 600, (n, 2))[track] + shift[frame] + 0.05 * rng.standard_normal((len(track), 2))
    place[track < 3] += 0.2 * frame[track < 3, None]
    return track, frame, place, shift


def test_the_shift_is_found_within_its_error():
    track, frame, place, shift = shaken()
    found, std = common_shift(track, frame, place, 80)
    assert (found[0] == 0).all()
    # Three of thirty move by themselves: they pull by less than their share.
    assert np.abs(found - shift).max() < 0.08
    assert np.sqrt(np.mean((found - shift) ** 2)) < 4 * np.median(std)
    assert 0.005 < np.median(std) < 0.03


def test_frames_with_few_tracks_have_no_shift():
    found, std = common_shift(np.array([0, 1, 0, 1, -1]), np.array([0, 0, 1, 1, 1]), np.zeros((5, 2)), 3)
    assert np.isnan(found).all()
    assert np.isnan(std).all()


def test_positions_are_less_the_shift_where_asked():
    _, frame, place, shift = shaken()
    table = plain_table(frame, *place.T, 80)
    moved, still = (follow_peaks(table, TrackConfig(subtract_drift=wanted)) for wanted in (False, True))
    np.testing.assert_allclose(still["y_drift"], shift[:, 0], atol=0.1)
    own = np.flatnonzero(still["track_id"].values == 10)
    assert np.ptp(still["y_smooth"].values[own]) < 0.3 * np.ptp(moved["y_smooth"].values[own])
    assert (still.attrs["drift_subtracted"], moved.attrs["drift_subtracted"]) == (1, 0)
