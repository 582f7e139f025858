"""The recommended setting lies on the plateau, its peaks persist, and on simulated frames it is near the best."""

import numpy as np
import pytest

import braggflow
from braggflow.evaluate import load_truth, score
from braggflow.simulate import simulate_series
from braggflow.sweeps.levels import Levels
from braggflow.sweeps.recommendation import Candidates, changes, recommended

LEVELS = Levels((None, 10.0, 20.0), (None,), (0.001, 0.01, 0.1, 1.0, 10.0))


def candidates(peaks, persisting=0.9, false=0.0, followed=1000):
    peaks = np.asarray(peaks, float)[:, None, :]
    whole = [
        np.broadcast_to(np.asarray(values, float), peaks[:, 0].shape)[:, None]
        for values in (persisting, followed, false)
    ]
    return Candidates(peaks, *whole)


FLAT = [[80, 95, 98, 99, 160], [80, 95, 98, 99, 160], [50, 60, 62, 63, 64]]


def test_the_plateau_is_where_one_step_changes_least():
    np.testing.assert_allclose(
        changes(candidates(FLAT).peaks, LEVELS)[0, 0], [15 / 80, 15 / 80, 3 / 95, 61 / 99, 61 / 99]
    )
    place, reason = recommended(candidates(FLAT), LEVELS)
    assert place == (0, 0, 2)  # the fewest cuts of equal ones
    assert reason.startswith("false_peaks 0.1, no minval, no minscore: 98 peaks a frame on average, and one step of ")
    assert "false_peaks 1 adds 1 a frame" in reason


def test_a_configuration_on_the_plateau_is_left_as_it_is():
    flat = candidates([[98, 98, 98, 98, 160]] * 3)
    assert recommended(flat, LEVELS)[0] == (0, 0, 1)
    assert recommended(flat, LEVELS, (0, 0, 2))[0] == (0, 0, 2)
    assert recommended(flat, LEVELS, (0, 0, 4))[0] == (0, 0, 1)


def test_a_corner_where_two_levels_do_the_same_is_no_plateau():
    levels = Levels((None, 10.0, 20.0, 40.0, 80.0), (None, 10.0, 20.0, 40.0, 80.0), (0.1,))
    of_level = np.array([100.0, 99, 80, 60, 40])
    peaks = np.minimum.outer(of_level, of_level)[..., None]
    known = np.full(peaks.shape, 0.9)
    assert changes(peaks, levels)[3, 3, 0] == 0.5
    assert recommended(Candidates(peaks, known, peaks, 0 * known), levels)[0] == (0, 0, 0)


def test_a_plateau_whose_peaks_do_not_persist_is_not_trusted():
    persisting = np.array([0.9, 0.9, 0.9, 0.3, 0.3])
    flat_in_noise = [[60, 80, 100, 300, 301]] * 3
    place, _ = recommended(candidates(flat_in_noise, persisting), LEVELS)
    assert place[2] < 3


def test_settings_of_many_expected_false_peaks_are_not_trusted():
    place, _ = recommended(candidates([[60, 80, 100, 100, 100]] * 3, false=[0, 0, 0.1, 20, 40]), LEVELS)
    assert place[2] < 3


def test_the_brightest_alone_set_no_measure_of_persistence():
    persisting, followed = np.array([1, 0.5, 0.5, 0.5, 0.5]), np.array([30, 900, 980, 990, 1600])
    place, _ = recommended(candidates([[3, 90, 98, 99, 160]] * 3, persisting, followed=followed), LEVELS)
    assert place[2] == 2


def test_the_loosest_level_is_not_recommended_as_what_lies_beyond_it_is_not_known():
    place, _ = recommended(candidates([[60, 80, 100, 101, 101]] * 3), LEVELS)
    assert place[2] == 3


def test_findpeaks_rule_is_no_looser_level_of_the_other():
    levels = Levels((None,), (None,), (0.01, 0.1, None))
    found = Candidates(*(np.array([[[10.0, 10, 900]]]) for _ in range(3)), np.zeros((1, 1, 3)))
    assert changes(found.peaks, levels)[0, 0].tolist() == [0, 0, 0]


def test_without_peaks_nothing_is_recommended():
    place, reason = recommended(candidates(np.zeros((3, 5))), LEVELS)
    assert place is None
    assert reason == "no setting finds a peak"


def f1(store, truth, frames, config):
    found = score(braggflow.find_peaks(braggflow.open_frames(store).sel(frame=frames), config=config), truth)
    recall, precision = found.recall["all"].share, found.precision
    return 2 * precision * recall / (precision + recall) if recall else 0.0


@pytest.mark.parametrize("by_levels", [False, True], ids=["by significance", "by levels"])
def test_on_simulated_frames_the_recommended_setting_is_near_the_best(tmp_path, by_levels):
    truth = load_truth(simulate_series(tmp_path / "s.zarr", n_frames=40, shape=(256, 256), peaks=20, seed=3))
    config = {"detect": {"false_peaks": None}} if by_levels else {}
    found = braggflow.sweep(tmp_path / "s.zarr", config, frames=8)
    frames = found.map["frame"].values.tolist()
    best = max(
        f1(tmp_path / "s.zarr", truth, frames, {"detect": setting.model_dump(mode="json")})
        for setting in found.levels.settings(found.config.detect)[:: 1 if by_levels else 3]
    )
    assert f1(tmp_path / "s.zarr", truth, frames, found.recommended_config) > best - 0.03
