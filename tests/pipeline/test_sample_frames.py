"""A look at a few frames before a run: each warning where it should be, and none where all is well."""

import numpy as np
import pytest
import xarray as xr

from braggflow.config import RunConfig
from braggflow.frames import frames_from_array, open_series
from braggflow.pipeline import look_at_frames
from tests.stores import spots

FINDPEAKS = {"false_peaks": None, "background": "none"}


def looked_at(images, attrs=None, **sections):
    data = frames_from_array(xr.Dataset({"frames": (("frame", "y", "x"), images)}, attrs=attrs or {}))
    config = RunConfig.model_validate({"locate": {"network": "none"}, **sections})
    return look_at_frames(open_series(data, config))


@pytest.fixture(scope="module")
def images():
    return np.stack([spots((96, 96), 12, seed=seed) for seed in range(9)])


def test_frames_are_spread_over_the_series_the_ends_first(images):
    found = looked_at(images)
    assert [frame.number for frame in found.frames] == [0, 8, 2, 4, 6]
    assert found.warnings == []
    assert found.seconds_per_frame == np.mean([frame.seconds for frame in found.frames[1:]]) > 0


def test_no_frame_is_no_error():
    assert looked_at(np.zeros((1, 32, 32), np.uint16), frames={"stop": 1}).frames[0].table.size == 0


@pytest.mark.parametrize(("minval", "warned"), [(5, True), (20, False), ({"sigma": 1.5}, True), ({"sigma": 6}, False)])
def test_a_level_in_the_noise_is_said(images, minval, warned):
    warnings = looked_at(images, detect={**FINDPEAKS, "minval": minval, "minscore": 3}).warnings
    assert any("lies in the noise: 1 pixel in " in warning for warning in warnings) == warned


def test_a_level_in_noise_that_is_more_than_photons_is_said():
    noise = np.random.default_rng(3).normal(0, 300, (3, 96, 96)).astype(np.float32)
    for level, warned in ((660, True), (1500, False)):  # 2.2 and 5 sigma
        warnings = looked_at(noise, detect={**FINDPEAKS, "minval": level, "minscore": 3}).warnings
        assert any("lies in the noise" in warning for warning in warnings) == warned


def test_a_level_above_the_noise_of_a_crowded_frame_is_not_blamed():
    crowded = np.stack([spots((96, 96), 25, seed=seed) for seed in range(3)])
    assert looked_at(crowded, detect={**FINDPEAKS, "minval": 40, "minscore": 20}).warnings == []


def test_pixels_below_0_that_are_ignored_are_said(images):
    signed = images.astype(np.int32)
    signed.ravel()[np.random.default_rng(0).choice(signed.size, signed.size // 200, replace=False)] = -1
    told = " ".join(looked_at(signed, frames={"negative": "mark"}).warnings)
    assert "below 0 and ignored" in told
    assert "frames.negative: count" in told


def test_no_peak_is_said_with_what_dropped_the_maxima(images):
    (told,) = looked_at(images, detect={"minscore": 1e5}).warnings
    assert told.startswith("no peak in the 5 frames looked at; maxima were dropped: ")
    assert "by minscore" in told


def test_hot_pixels_are_said():
    rng = np.random.default_rng(1)
    noisy = rng.poisson(3, (3, 96, 96))
    at = rng.choice(96 * 96, 60, replace=False)
    noisy.reshape(3, -1)[:, at] += 500
    (told,) = looked_at(noisy).warnings
    assert "of one pixel; are they hot pixels? Try frames.find_bad_pixels: true" in told


def test_saturation_is_said(images):
    told = looked_at(np.minimum(images, 150), attrs={"saturation": 150.0}).warnings
    assert any("of the peaks are saturated" in warning for warning in told)


def test_a_frame_that_fails_is_said_with_its_reason(images):
    (told, *_) = looked_at(
        images, detect={**FINDPEAKS, "minval": 1, "minscore": 0.5, "max_peaks_per_frame": 5}
    ).warnings
    assert told.startswith("frame 0 fails: InputError: ")
    assert "detect.max_peaks_per_frame is 5" in told
