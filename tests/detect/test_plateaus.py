"""Saturated peaks: one row each, cut in the middle of its flat top, as near to the truth as it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import braggflow
from braggflow import RunConfig
from braggflow.detect import plateau_middles
from braggflow.explain import explain_place
from braggflow.frames import frames_from_array, open_series
from braggflow.peak_table import Flag
from braggflow.simulate.profiles import PROFILE_DTYPE, render

SIDE, TOP = 256, 4095


@st.composite
def frames_with_maxima(draw):
    """Few random frames whose pixels are saturated or not, a mask, and some maxima."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    frames = (rng.random(shape) < draw(st.sampled_from([0.1, 0.4, 0.6, 1.0]))).astype(np.uint16) * TOP
    mask = rng.random(shape[1:]) < draw(st.sampled_from([0.0, 0.1]))
    places = np.argwhere((rng.random(shape) < draw(st.sampled_from([0.02, 0.2]))) & ~mask)
    return frames, mask, places


@given(frames_with_maxima())
@settings(max_examples=200, deadline=None)
def test_a_maximum_alone_on_its_plateau_is_moved_to_its_middle_and_no_other(drawn):
    frames, mask, places = drawn
    found = np.stack(plateau_middles(frames, mask, *places.T, saturation=TOP), axis=1)
    expected = places[:, 1:].copy()
    for number, image in enumerate(frames):
        labels, _ = ndimage.label((image >= TOP) & ~mask, np.ones((3, 3)))
        rows = np.flatnonzero(places[:, 0] == number)
        of_rows = labels[tuple(places[rows, 1:].T)]
        for row, label in zip(rows, of_rows, strict=True):
            if label and np.count_nonzero(of_rows == label) == 1:
                pixels = np.argwhere(labels == label)
                away = ((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1)
                expected[row] = pixels[np.flatnonzero(away <= away.min() + 1e-9)[0]]
    np.testing.assert_array_equal(found, expected)
    again = plateau_middles(frames, mask, places[:, 0], *found.T, saturation=TOP)
    np.testing.assert_array_equal(np.stack(again, axis=1), found)
    if len(frames) == 1:
        told = plateau_middles(frames, mask, *places.T, saturated=frames[0] >= TOP)
        np.testing.assert_array_equal(np.stack(told, axis=1), found)


def scene(sigma, *, seed=0):
    """Round peaks 32 px apart, 1.2 to 8 times as high as what can be counted: their expected counts and centres."""
    rng = np.random.default_rng(seed)
    peaks = np.zeros(49, PROFILE_DTYPE)
    at = np.stack(np.meshgrid(*[np.arange(7) * 32 + 32] * 2), axis=-1).reshape(-1, 2)
    peaks["y"], peaks["x"] = (at + rng.uniform(-2, 2, at.shape)).T
    peaks["sigma_major"] = peaks["sigma_minor"] = sigma
    peaks["height"] = TOP * np.exp(rng.uniform(np.log(1.2), np.log(8), len(peaks)))
    return render((SIDE, SIDE), peaks, background=8.0), np.column_stack([peaks["y"], peaks["x"]])


@pytest.mark.parametrize("sigma", [1.0, 1.6, 2.2])
@pytest.mark.parametrize("corrected", [False, True])
def test_saturated_peaks_are_one_row_each_as_near_as_they_state(tmp_path, sigma, corrected):
    expected, centres = scene(sigma)
    rng, flat = np.random.default_rng(1), np.ones((SIDE, SIDE), np.float32)
    sections = {}
    if corrected:  # by as much as a noisy top would make maxima of
        flat += 0.2 * (np.arange(SIDE) % 2 - 0.5) * (1 - 2 * (np.arange(SIDE) % 2))[:, None]
        np.save(tmp_path / "flat.npy", flat)
        sections = {"frames": {"flat": str(tmp_path / "flat.npy")}}
    frames = np.minimum(rng.poisson(expected * flat), TOP).astype(np.uint16)
    peaks = braggflow.find_peaks(frames, config=sections)
    assert peaks.sizes["peak"] == len(centres)
    assert np.mean(peaks["flags"].values & np.uint16(Flag.saturated) > 0) > 0.9
    at, std = (np.column_stack([peaks[f"y{name}"], peaks[f"x{name}"]]) for name in ("", "_std"))
    nearest = np.hypot(*np.moveaxis(at[:, None] - centres, -1, 0)).argmin(axis=1)
    deviations = (at - centres[nearest]) / std
    assert np.hypot(*(at - centres[nearest]).T).max() < 0.5
    assert np.median(np.abs(at - centres[nearest])) < 0.02
    assert 0.58 < np.mean(np.abs(deviations) < 1) < 0.85
    np.testing.assert_allclose(peaks[["y_pixel", "x_pixel"]].to_array().T, centres[nearest], atol=1.5)


def test_marks_in_the_mask_are_no_top(tmp_path):
    expected, centres = scene(1.6)
    frames = np.minimum(np.random.default_rng(1).poisson(expected), TOP).astype(np.uint16)
    frames[:4] = 2**16 - 1
    images = {"mask": frames > TOP, "flat": 1 + 0.2 * np.random.default_rng(0).uniform(-1, 1, frames.shape)}
    for name, image in images.items():
        np.save(tmp_path / f"{name}.npy", image)
    given = {"saturation": TOP, **{name: str(tmp_path / f"{name}.npy") for name in images}}
    peaks = braggflow.find_peaks(frames, config={"frames": given})
    assert peaks.sizes["peak"] == len(centres)


def test_what_explains_a_saturated_peak_knows_its_maximum():
    expected, centres = scene(1.6)
    frames = np.minimum(np.random.default_rng(1).poisson(expected), TOP).astype(np.uint16)
    series = open_series(frames_from_array(frames), RunConfig())
    explained = explain_place(series, 0, *centres[24])
    assert explained.kind == "peak"
    assert explained.maximum is not None
    assert explained.maximum.birth > 4000
    assert np.hypot(*(np.array(explained.maximum.place) - centres[24])) < 1
