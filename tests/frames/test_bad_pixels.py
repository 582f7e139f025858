"""Pixels that are bad are found by being alone, and no peak is taken for one, however sharp and still."""

import numpy as np
import pytest

import braggflow
from braggflow import InputError, RunConfig
from braggflow.evaluate import load_truth
from braggflow.frames import frames_from_array, open_frames, open_series, settled_constants, without_bad_pixels
from braggflow.frames.detector import find_bad_pixels
from braggflow.simulate import CLASSES, sample_profiles, simulate_series
from braggflow.simulate.profiles import render

SIDE = 256


def peaks_of(sigma, drift, *, n=32, background=8.0, twinkle=False, seed=0):
    """Frames (n, y, x) of sharp peaks, a third of them in the middle of a pixel, and their expected first frame."""
    rng = np.random.default_rng(seed)
    peaks = sample_profiles(80, rng=rng, config=CLASSES["sharp"])
    peaks["sigma_minor"] = peaks["sigma_major"] = sigma
    peaks["eta"] = 0
    peaks["y"], peaks["x"] = rng.uniform(4, SIDE - 5, (2, len(peaks)))
    for axis in "yx":
        peaks[axis][::3] = np.round(peaks[axis][::3])
    heights, frames = peaks["height"].copy(), []
    for _ in range(n):
        peaks["height"] = heights * (rng.uniform(0.2, 1.8, len(peaks)) if twinkle else 1)
        frames.append(rng.poisson(render((SIDE, SIDE), peaks, background=background)))
        peaks["y"] += drift
    return np.array(frames, np.uint16)


def found(frames, **section):
    return find_bad_pixels(open_series(frames_from_array(frames), RunConfig.model_validate({"frames": section})))


def bad(seen):
    return {tuple(place) for kind in ("hot", "noisy", "dead") for place in seen[kind]}


@pytest.mark.parametrize("sigma", [0.4, 0.5, 0.8])
@pytest.mark.parametrize("drift", [0.0, 0.03])
@pytest.mark.parametrize("twinkle", [False, True])
def test_no_peak_is_lost_whether_it_stands_still_drifts_or_twinkles(sigma, drift, twinkle):
    seen = found(peaks_of(sigma, drift, twinkle=twinkle))
    assert bad(seen) == set()
    assert seen["persistent_spots"] > 40 or drift


def test_hot_noisy_and_dead_pixels_are_found_each_as_what_it_is():
    frames = peaks_of(0.5, 0.0)
    rng = np.random.default_rng(5)
    frames[:, 20, 30] += 400
    frames[:, 90, 31] += np.where(rng.random(32) < 0.5, rng.exponential(500, 32), 0).astype(np.uint16)
    frames[:, 120, 7] = np.clip(8 + 60 * rng.standard_normal(32), 0, None)
    frames[:, 200, 100] = 0
    frames[:, 201, 50] = 3
    seen = found(frames)
    assert seen["hot"] == [[20, 30]]
    assert seen["noisy"] == [[90, 31], [120, 7]]
    assert seen["dead"] == [[200, 100], [201, 50]]
    assert seen["frames"] == 32


def test_every_pixel_that_is_noisier_than_those_around_it_is_found():
    rng = np.random.default_rng(6)
    frames = rng.poisson(200, (31, SIDE, SIDE)).astype(np.uint16)
    places = [[y, 4 + 13 * k] for k, y in enumerate(range(10, 240, 15))]
    for y, x in places:
        frames[:, y, x] = np.rint(200 + 110 * rng.uniform(-1.7, 1.7, 31))
    seen = found(frames)
    assert (seen["hot"], seen["noisy"], seen["dead"]) == ([], places, [])


@pytest.mark.parametrize(("n", "sure"), [(200, True), (9, False)])
def test_a_restless_pixel_is_bad_once_those_beside_it_are_known_to_be_calm(n, sure):
    rng = np.random.default_rng(7)
    frames = rng.poisson(200, (n, SIDE, SIDE)).astype(np.uint16)
    places = [[y, 30 + y % 90] for y in range(12, 244, 29)]
    for y, x in places:
        frames[:, y, x] = np.rint(200 + 100 * np.where(np.arange(n) % 2, 1, -1) * rng.uniform(0.9, 1.1, n))
    assert found(frames)["noisy"] == (places if sure else [])


def test_the_flickering_pixels_of_a_simulated_series_are_found_and_nothing_else(tmp_path):
    truth = load_truth(simulate_series(tmp_path / "scan.zarr", n_frames=64, shape=(256, 256), hot_pixels=8))
    data = open_frames(tmp_path / "scan.zarr")
    mask = data["mask"].values
    places = zip(truth["hot_y"].values.tolist(), truth["hot_x"].values.tolist(), strict=True)
    inner = {(y, x) for y, x in places if not mask[y, x] and min(y, x) >= 2 and max(y, x) < 254}
    assert bad(find_bad_pixels(open_series(data, RunConfig()))) == inner


def test_a_dark_pixel_of_sparse_frames_and_a_cosmic_ray_are_not_bad():
    frames = np.random.default_rng(0).poisson(0.05, (32, 128, 128))
    frames[7, 40, 40] += 5000
    frames[9:11, 70, 50] += 300
    assert bad(found(frames)) == set()


def test_below_a_threshold_nothing_is_dead_and_above_it_pixels_are_judged_all_the_same():
    frames = peaks_of(0.8, 0.1, background=5.0)
    frames[frames < 6] = 0
    frames[:, 60, 61] += 300
    seen = found(frames)
    assert (seen["hot"], seen["noisy"], seen["dead"]) == ([[60, 61]], [], [])


def test_masked_pixels_are_not_looked_at_and_found_ones_join_the_mask():
    frames = peaks_of(0.8, 0.0)
    frames[:, 20, 30] += 400
    frames[:, 90, 31] += 400
    data = frames_from_array(frames)
    data["mask"] = (("y", "x"), np.zeros((SIDE, SIDE), bool))
    data["mask"][20, 30] = True
    config = RunConfig.model_validate({"frames": {"find_bad_pixels": True}})
    series, constants = settled_constants(open_series(data, config))
    assert constants.bad_pixels["hot"] == [[90, 31]]
    assert series.correction.mask.sum() == 2
    again, _ = settled_constants(open_series(data, config), constants.record())
    np.testing.assert_array_equal(again.correction.mask, series.correction.mask)
    assert without_bad_pixels(series, {}).correction.mask.sum() == 2


def test_pixels_are_judged_up_to_two_from_the_edge():
    frames = np.random.default_rng(0).poisson(20, (16, 64, 48))
    frames[:, [2, 2, -3], [2, -3, 2]] = 0
    frames[:, -3, -3] += 300
    frames[:, 1, 30] = 0
    seen = found(frames)
    assert seen["dead"] == [[2, 2], [2, 45], [61, 2]]
    assert seen["hot"] == [[61, 45]]


def test_a_pixel_beside_a_brighter_one_is_not_alone_on_whichever_side_that_one_is():
    frames = np.random.default_rng(0).poisson(20, (16, 64, 64))
    sides = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    brighter = [(8 + 16 * (i // 4), 8 + 16 * (i % 4)) for i in range(len(sides))]
    for (y, x), (up, left) in zip(brighter, sides, strict=True):
        frames[:, y, x] += 600
        frames[:, y + up, x + left] += 300
    seen = found(frames)
    cornered = [place for place, (up, left) in zip(brighter, sides, strict=True) if up and left]
    assert seen["hot"] == [list(place) for place in cornered]
    assert seen["persistent_spots"] == len(sides) - len(cornered)


def test_find_peaks_ignores_what_is_found():
    frames = peaks_of(0.8, 0.0, n=10)
    frames[:, 90, 31] += 900
    asked = {
        "frames": {"find_bad_pixels": True},
        "detect": {"minval": 60, "minscore": 50},
        "locate": {"network": "none"},
    }
    peaks = braggflow.find_peaks(frames, config=asked)
    assert not ((peaks["y_pixel"] == 90) & (peaks["x_pixel"] == 31)).any()
    assert peaks.attrs["bad_pixels"] == 1


def test_too_few_frames_and_too_many_bad_pixels_are_refused():
    with pytest.raises(InputError, match=r"frames\.find_bad_pixels: true needs 8 frames, 3 can be read"):
        found(peaks_of(0.8, 0.0, n=3))
    frames = np.random.default_rng(0).poisson(20, (16, 64, 64))
    frames[:, ::6, ::6] += 500
    with pytest.raises(InputError, match=r"find_bad_pixels: true finds 1\d\d of 4,096 pixels bad.*give frames\.mask"):
        found(frames)
