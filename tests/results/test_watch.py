"""Alarms: each fault is named from its frame on, and what is no fault raises none."""

import re

import numpy as np
import pytest

import braggflow
from braggflow.results import FRAME_STATE, data_set_statuses, find_alarms, frame_states
from braggflow.results.watch import BLOCK_PEAKS, IN_A_ROW, LEAST_BEFORE
from tests.faults import FAULTS, plain_series, write_faulty

AT, FRAMES = 24, 40


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Frames and mask, a tenth of a battery's cycle."""
    frames, mask = plain_series(
        tmp_path_factory.mktemp("plain"), n_frames=10 * FRAMES, shape=(160, 160), peaks=12, seed=3
    )
    return frames[4 * FRAMES : 5 * FRAMES], mask


def states_of(mean, peaks=None, saturated=0.0):
    states = np.zeros(len(mean), FRAME_STATE)
    states["frame"] = np.arange(len(mean))
    states["mean"], states["saturated"] = mean, saturated
    states["peaks"] = 20 if peaks is None else peaks
    return states


def searched(path):
    """The table of a series, and the states of its frames as a run has them."""
    data = braggflow.open_frames(path)
    peaks = braggflow.find_peaks(data, network="none")
    states = np.zeros(peaks.sizes["frame"], FRAME_STATE)
    states["frame"], states["mean"] = peaks["frame"].values, peaks["frame_mean"].values
    states["peaks"] = peaks["peak_count"].values
    saturated = peaks["peak_frame"].values[peaks["flags"].values & 4 != 0]
    states["saturated"] = np.bincount(saturated, minlength=len(states)) / np.maximum(states["peaks"], 1)
    return peaks, states


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_from_its_first_frame_on(tmp_path, series, fault):
    write_faulty(tmp_path / "s.zarr", *series, fault, at=AT, seed=3)
    peaks, states = searched(tmp_path / "s.zarr")
    (alarm,) = find_alarms(states, peaks)
    assert (alarm.frame, alarm.cause) == (AT, FAULTS[fault][1])
    assert str(alarm).startswith(f"from frame {AT} on: ")
    if fault == "detector shift":
        moved = re.search(r"by \((\S+), (\S+)\) px", alarm.told).groups()
        np.testing.assert_allclose(np.array(moved, float), [2, -3], atol=0.2)
    if fault == "hot module":
        y0, y1, x0, x1 = map(int, re.search(r"rows (\d+) to (\d+), columns (\d+) to (\d+)", alarm.told).groups())
        assert 40 <= y0 < y1 <= 80
        assert 40 <= x0 < x1 <= 80


def test_a_clean_series_raises_no_alarm(tmp_path, series):
    write_faulty(tmp_path / "s.zarr", *series, None, at=AT, seed=3)
    peaks, states = searched(tmp_path / "s.zarr")
    assert find_alarms(states, peaks) == []


def test_peaks_are_followed_alike_in_blocks_of_any_size(tmp_path, series, monkeypatch):
    write_faulty(tmp_path / "s.zarr", *series, "detector shift", at=AT, seed=3)
    peaks, states = searched(tmp_path / "s.zarr")
    assert peaks.sizes["peak"] < BLOCK_PEAKS
    whole = find_alarms(states, peaks)
    for block in (1, 100, 333):
        monkeypatch.setattr("braggflow.results.watch.BLOCK_PEAKS", block)
        assert find_alarms(states, peaks) == whole


def test_frames_that_failed_are_left_out(tmp_path, series):
    write_faulty(tmp_path / "s.zarr", *series, "detector shift", at=AT, seed=3)
    peaks, states = searched(tmp_path / "s.zarr")
    (alarm,) = find_alarms(np.delete(states, [4, 5, AT + 1]), peaks)
    assert (alarm.frame, alarm.cause) == (AT, "pattern moved")


def test_what_drifts_slowly_is_no_alarm_and_what_falls_at_once_is_one():
    drift = 5 * np.exp(-np.arange(300) / 150)
    assert find_alarms(states_of(drift)) == []
    fallen = drift.copy()
    fallen[200:] *= 0.6
    (alarm,) = find_alarms(states_of(fallen))
    assert (alarm.frame, alarm.cause) == (200, "background changed")
    assert float(re.search(r"is (\S+) times", alarm.told)[1]) == pytest.approx(0.6, abs=0.03)


def test_a_change_must_last_and_needs_frames_before_it():
    mean = np.full(60, 5.0)
    for length in range(1, IN_A_ROW + 1):
        short = mean.copy()
        short[30 : 30 + length] = 50
        assert len(find_alarms(states_of(short))) == (length == IN_A_ROW)
    for first in (1, LEAST_BEFORE // 2 - 1, LEAST_BEFORE, LEAST_BEFORE + 1):
        early = mean.copy()
        early[:first] = 50
        expected = [first] if first >= LEAST_BEFORE else []
        assert [alarm.frame for alarm in find_alarms(states_of(early))] == expected


def test_scatter_is_no_change():
    rng = np.random.default_rng(0)
    mean, peaks = 5 * np.exp(0.3 * rng.standard_normal(2000)), rng.poisson(20, 2000)
    assert find_alarms(states_of(mean, peaks, saturated=0.2 * rng.random(2000))) == []


@pytest.mark.parametrize("n", [0, 1, LEAST_BEFORE])
def test_too_few_frames_raise_none(n):
    assert find_alarms(states_of(np.linspace(1, 100, n))) == []


def test_frames_without_light_raise_none():
    assert find_alarms(states_of(np.zeros(100), peaks=0)) == []
    assert find_alarms(states_of(np.full(100, np.nan), peaks=0)) == []


def test_a_frames_state_counts_its_peaks_and_their_flags():
    table = braggflow.peak_table.empty(4)
    table["peak_frame"], table["flags"] = [7, 7, 9, 7], [4, 32, 128 | 32, 0]
    states = frame_states(table, {9: 1.5, 7: 2.5, 8: 0.0})
    assert states["frame"].tolist() == [9, 7, 8]
    assert states["mean"].tolist() == [1.5, 2.5, 0.0]
    assert states["peaks"].tolist() == [1, 3, 0]
    np.testing.assert_allclose(states["saturated"], [0, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(states["doubtful"], [1, 1 / 3, 0], rtol=1e-6)


def test_a_run_tells_its_alarms_everywhere(tmp_path, series):
    write_faulty(tmp_path / "s.zarr", *series, "beam off", at=AT, seed=3)
    seen = []
    settings = {"locate": {"network": "none"}, "compute": {"task_seconds": 0.01}}
    done = braggflow.run(settings, [tmp_path / "s.zarr"], out=tmp_path / "runs", progress=seen.append)
    (alarm,) = done[0].open().info["alarms"]
    assert (alarm["frame"], alarm["cause"]) == (AT, "beam lost")
    words = f"from frame {AT} on: no beam, or a closed shutter"
    assert done.status == "complete"
    assert words in done[0].message
    (state,) = data_set_statuses(tmp_path / "runs")
    assert any(reason.startswith(words) for reason in state.reasons)
    assert f"Changed {words}" in done.report.read_text()
    mean = done.peaks["frame_mean"].values
    data = braggflow.open_frames(tmp_path / "s.zarr")
    valid = data["mask"].values == 0
    np.testing.assert_allclose(mean, [frame[valid].mean() for frame in data["frames"].values], rtol=1e-6)


def test_an_alarm_is_told_while_the_run_goes_on(tmp_path, series, monkeypatch):
    monkeypatch.setattr("braggflow.flow.tally.WATCH_SECONDS", 0.0)
    write_faulty(tmp_path / "s.zarr", *series, "beam off", at=AT, seed=3)
    seen = []
    settings = {"locate": {"network": "none"}, "output": {"report": False}, "compute": {"task_seconds": 0.001}}
    braggflow.run(settings, [tmp_path / "s.zarr"], out=tmp_path / "runs", progress=seen.append)
    told = [state for state in seen if any("no beam" in note for note in state.notes)]
    assert told
    assert told[0].frames_done < FRAMES
    assert {note for state in told for note in state.notes if "no beam" in note} == {told[-1].notes[-1]}
