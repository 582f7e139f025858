"""Peaks of a simulated series followed: what comes out is what was put in, however it is given."""

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import braggflow
from braggflow.config import TrackConfig
from braggflow.evaluate import score_tracks
from braggflow.simulate import simulate_moving_peaks
from braggflow.tracks import follow_peaks, rows, said_of_tracks
from tests.tracks.peak_tables import plain_table, table_of

N_FRAMES = 240


@pytest.fixture(scope="module", params=[0, 1])
def series(request):
    return simulate_moving_peaks(N_FRAMES, 50, seed=request.param)


@pytest.fixture(scope="module")
def followed(series):
    return follow_peaks(table_of(series.detections, N_FRAMES), TrackConfig())


def score_of(series, found):
    related = {name: found[name].values for name in ("parent", "merged_into")}
    return score_tracks(found["track_id"].values, series, **related)


def test_series_too_long_for_memory_have_the_same_tracks(series, followed, monkeypatch):
    monkeypatch.setattr(rows, "_IN_MEMORY", 1000)
    monkeypatch.setattr(rows, "AT_ONCE", 512)
    assert isinstance(rows.room(1001, 2), np.memmap)
    xr.testing.assert_identical(follow_peaks(table_of(series.detections, N_FRAMES), TrackConfig()), followed)


def test_links_are_those_of_the_truth(series, followed):
    found = score_of(series, followed)
    assert found.found >= 0.985
    assert found.wrong <= 0.005
    assert found.switches == 0
    for seen, there in (found.splits, found.merges):
        assert seen >= 0.9 * there


def test_smoothed_positions_are_calibrated_and_better_than_those_found(series, followed):
    true = series.detections
    on = (followed["track_id"].values >= 0) & (true["peak_id"] >= 0) & ~true["blended"]
    error = np.stack([(followed[f"{axis}_smooth"].values - true[f"{axis}_true"])[on] for axis in "yx"])
    stated = np.stack([followed[f"{axis}_smooth_std"].values[on] for axis in "yx"])
    raw = np.stack([(true[axis] - true[f"{axis}_true"])[on] for axis in "yx"])
    assert 0.66 <= np.mean(np.abs(error) < stated) <= 0.71
    assert np.median(np.abs(error)) < 0.6 * np.median(np.abs(raw))


def test_false_peaks_are_on_no_track(series, followed):
    false = series.detections["peak_id"] < 0
    assert np.mean(followed["track_id"].values[false] >= 0) < 0.1


def test_tracks_say_when_and_why_they_begin_and_end(series, followed):
    tracks = followed.drop_dims("peak")
    counts = np.bincount(followed["track_id"].values[followed["track_id"].values >= 0])
    np.testing.assert_array_equal(tracks["length"], counts)
    np.testing.assert_array_equal(tracks["last"] - tracks["first"] + 1, tracks["length"] + tracks["gaps"])
    assert ((tracks["why_born"] == 0) == (tracks["first"] == 0)).all()
    assert ((tracks["why_born"] == 2) == (tracks["parent"] >= 0)).all()
    assert ((tracks["why_ended"] == 2) == (tracks["merged_into"] >= 0)).all()
    assert int(tracks["children"].sum()) == int((tracks["parent"] >= 0).sum())
    assert tracks["why_ended"].attrs["flag_meanings"] == "series_ends disappeared merged"


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    for name in ("track_id", "y_smooth", "x_smooth", "y_smooth_std", "y_velocity"):
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


@given(st.randoms(use_true_random=False))
@settings(max_examples=5)
def test_the_order_of_rows_and_frames_changes_nothing(random):
    rows = simulate_moving_peaks(60, 20, size=300, seed=3).detections
    found = follow_peaks(table_of(rows, 60), TrackConfig())
    rng = np.random.default_rng(random.randrange(2**32))
    order = rng.permutation(len(rows))
    table = table_of(rows[order], 60).isel(frame=rng.permutation(60))
    same(found.isel(peak=order), follow_peaks(table, TrackConfig()))


def test_numbers_of_frames_may_begin_anywhere_and_go_in_steps():
    rows = simulate_moving_peaks(60, 20, size=300, seed=3).detections
    found = follow_peaks(table_of(rows, 60), TrackConfig())
    other = rows.copy()
    other["frame"] = 1000 + 2 * rows["frame"]
    table = table_of(other, 60).assign_coords(frame=1000 + 2 * np.arange(60))
    moved = follow_peaks(table, TrackConfig())
    np.testing.assert_array_equal(moved["track_id"], found["track_id"])
    np.testing.assert_allclose(moved["y_velocity"], found["y_velocity"] / 2, atol=1e-5)
    np.testing.assert_array_equal(moved["gaps"], found["gaps"])


def test_a_shifted_detector_shifts_what_is_found():
    rows = simulate_moving_peaks(60, 20, size=300, seed=4).detections
    found = follow_peaks(table_of(rows, 60), TrackConfig())
    other = rows.copy()
    other["y"] += 512
    moved = follow_peaks(table_of(other, 60), TrackConfig())
    np.testing.assert_array_equal(moved["track_id"], found["track_id"])
    np.testing.assert_allclose(moved["y_smooth"], found["y_smooth"] + 512, atol=1e-6)


def test_backwards_in_time_the_tracks_are_the_same():
    rng = np.random.default_rng(1)
    n_frames, n = 50, 15
    place, velocity = rng.uniform(0, 500, (n, 2)), rng.normal(0, 0.4, (n, 2))
    frame, of = np.repeat(np.arange(n_frames), n), np.tile(np.arange(n), n_frames)
    at = place[of] + velocity[of] * frame[:, None] + 0.05 * rng.standard_normal((len(of), 2))
    kept = rng.random(len(of)) > 0.05
    forward = follow_peaks(plain_table(frame[kept], *at[kept].T, n_frames), TrackConfig())
    back = follow_peaks(plain_table(n_frames - 1 - frame[kept], *at[kept].T, n_frames), TrackConfig())
    pairs = {*zip(forward["track_id"].values.tolist(), back["track_id"].values.tolist(), strict=True)}
    assert len(pairs) == forward.sizes["track"] == back.sizes["track"] == n
    np.testing.assert_allclose(forward["y_smooth"], back["y_smooth"], atol=0.02)
    np.testing.assert_allclose(forward["y_velocity"], -back["y_velocity"], atol=0.02)


def test_time_is_the_number_of_a_frame_and_never_its_place():
    # Frames 10 to 19 are not there: for ten frames, more than a peak may be missing.
    frame = np.concatenate([np.arange(10), np.arange(20, 30)])
    table = plain_table(frame, np.full(20, 50.0), np.full(20, 60.0), 30)
    gone = table.isel(frame=np.concatenate([np.arange(10), np.arange(20, 30)]))
    assert follow_peaks(gone, TrackConfig()).sizes["track"] == 2
    found = follow_peaks(gone, TrackConfig(max_gap=10))
    assert (found.sizes["track"], int(found["gaps"][0]), int(found["longest_gap"][0])) == (1, 10, 10)


def test_a_coordinate_may_be_the_time():
    frame = np.arange(20)
    time = np.cumsum(np.tile([1.0, 3.0], 10))
    table = plain_table(frame, 5 + 0.5 * time, np.full(20, 60.0), 20).assign_coords(
        time=("frame", time, {"units": "s"})
    )
    found = follow_peaks(table, TrackConfig(time="time"))
    np.testing.assert_allclose(found["y_velocity"], 0.5, atol=0.02)
    np.testing.assert_allclose(found["y_trend"], 0.5, atol=1e-6)
    assert found["y_velocity"].attrs["units"] == found["y_trend"].attrs["units"] == "pixel/s"


@pytest.mark.parametrize(
    ("settings_given", "said"),
    [
        ({"time": "voltage"}, r"track.time: voltage does not rise from frame to frame"),
        ({"time": "current"}, r"track.time: current is no numeric coordinate of the frames; has: frame, voltage"),
        ({"kind": "rotation"}, r"track.kind: rotation is not accepted; no coordinate \(omega, phi, ...\) rises"),
        ({"max_gap": -1}, r"track: track.max_gap: -1"),
        ({"gap": 1}, r"track.gap: unknown key"),
    ],
)
def test_what_cannot_be_is_refused(settings_given, said):
    table = plain_table(np.arange(4), np.zeros(4), np.zeros(4), 4)
    table = table.assign_coords(voltage=("frame", np.array([1.0, 2.0, 1.0, 0.0])))
    with pytest.raises(braggflow.InputError, match=said):
        braggflow.track(table, **settings_given)


def test_what_is_no_table_is_refused():
    with pytest.raises(braggflow.InputError, match="peaks: is no peak table"):
        braggflow.track(xr.Dataset({"y": ("row", np.zeros(2))}))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_tables_of_next_to_nothing_have_no_tracks(n):
    found = braggflow.track(plain_table(np.arange(n), np.ones(n), np.ones(n), 3))
    assert found.sizes["track"] == 0
    assert (found["track_id"].values == -1).all()
    assert np.isnan(found["y_smooth"].values).all()


def test_peaks_without_a_known_error_or_shape_are_followed_all_the_same():
    table = plain_table(np.arange(20), np.full(20, 7.0), np.full(20, 9.0), 20)
    for name in ("y_std", "x_std", "fwhm_major", "fwhm_minor", "angle", "intensity"):
        table[name][::2] = np.nan
    found = follow_peaks(table, TrackConfig())
    assert found["length"].values.tolist() == [20]
    assert np.isfinite(found["y_smooth_std"].values).all()


def test_what_is_usual_is_found_and_said(followed):
    said = json.loads(followed.attrs["motion"])
    assert 0.1 < said["displacement"] < 0.5
    assert said["intensity_scatter"] == pytest.approx(0.07, abs=0.02)
    assert followed.attrs["position_std_scale"] == pytest.approx(1, abs=0.05)
    assert json.loads(followed.attrs["settings"])["max_gap"] == 5


@pytest.mark.parametrize("seed", range(3))
def test_frames_whose_peaks_have_nothing_to_do_with_each_other_are_said(seed):
    rng, n, n_frames = np.random.default_rng(seed), 60, 40
    frame = np.repeat(np.arange(n_frames), n)
    for moved, warned in ((0.0, False), (15.0, True)):
        places = rng.uniform(0, 500, (n, 2)) + rng.normal(0, 0.1, (n_frames, n, 2))
        places[1::2] += moved
        found = follow_peaks(plain_table(frame, *places.reshape(-1, 2).T, n_frames), TrackConfig())
        assert ("hardly nearer to each other than by chance" in found.attrs["warning"]) == warned
        assert ("warning" in said_of_tracks(found)) == warned


@pytest.mark.parametrize("n_frames", [1, 2])
def test_fewer_frames_than_motion_is_found_from_are_followed_without_a_warning(n_frames):
    places = np.tile(np.random.default_rng(0).uniform(0, 500, (60, 2)), (n_frames, 1))
    frame = np.repeat(np.arange(n_frames), 60)
    found = follow_peaks(plain_table(frame, *places.T, n_frames), TrackConfig(min_length=1))
    assert found.sizes["track"] == 60
    assert found.attrs["warning"] == ""


def test_nothing_is_said_of_few_peaks_of_a_lattice_or_of_peaks_that_move(followed):
    grid = np.stack(np.meshgrid(np.arange(20, 500, 24.0), np.arange(20, 500, 24.0)), -1).reshape(-1, 2)
    for places in (np.array([[5.0, 5.0]]), np.array([[5.0, 5.0], [9.0, 9.0]]), grid):
        n, n_frames = len(places), 30
        noisy = places + np.random.default_rng(0).normal(0, 0.05, (n_frames, n, 2))
        table = plain_table(np.repeat(np.arange(n_frames), n), *noisy.reshape(-1, 2).T, n_frames)
        assert follow_peaks(table, TrackConfig()).attrs["warning"] == ""
    assert followed.attrs["warning"] == ""


def test_the_correlation_of_errors_is_that_of_the_shape():
    table = plain_table(np.arange(10), np.full(10, 7.0), np.full(10, 9.0), 10, fwhm_major=np.full(10, 6.0))
    along = follow_peaks(table.assign(angle=("peak", np.full(10, 45.0))), TrackConfig())["yx_smooth_cov"].values
    against = follow_peaks(table.assign(angle=("peak", np.full(10, -45.0))), TrackConfig())["yx_smooth_cov"].values
    assert (along > 0).all()
    np.testing.assert_allclose(along, -against, rtol=1e-5)


def test_means_and_trends_are_those_of_a_line():
    frame = np.arange(30)
    rng = np.random.default_rng(0)
    angle = (85 + 0.5 * frame + 90) % 180 - 90  # it passes 90 degrees, where a direction is -90
    table = plain_table(
        frame, 5 + 0.1 * frame, np.full(30, 9.0), 30, intensity=1000 + 10 * frame + rng.normal(0, 5, 30), angle=angle
    )
    found = follow_peaks(table, TrackConfig())
    assert found["y_mean"].values == pytest.approx(5 + 0.1 * 14.5)
    assert found["y_trend"].values == pytest.approx(0.1)
    assert found["y_mean_std"].values == pytest.approx(0.05 / np.sqrt(30))
    assert found["angle_trend"].values == pytest.approx(0.5)
    slope = np.polyfit(frame, table["intensity"].values, 1)[0]
    assert found["intensity_trend"].values == pytest.approx(slope)
    assert abs(slope - 10) < 4 * float(found["intensity_trend_std"][0])
