"""Saturated peaks: one row each, cut in the middle of its flat top, as near to the truth as it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import braggflow
from braggflow import RunConfig
from braggflow.detect import plateau_middles
from braggflow.explain import explain_in, explain_place, find_in_frame
from braggflow.fit import Deblended
from braggflow.fit.patch_fits import FIT_DTYPE
from braggflow.frames import frames_from_array, open_series
from braggflow.patches import MAX_NEIGHBOURS, Patches, State
from braggflow.peak_table import Flag
from braggflow.pipeline.saturated import doubted
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


def test_a_pixel_that_hardly_responds_lifts_no_other_top(tmp_path):
    expected, _ = scene(1.6)
    frames = np.minimum(np.random.default_rng(1).poisson(expected), TOP).astype(np.uint16)
    flat = np.ones(frames.shape, np.float32)
    flat[3, 5], frames[3, 5] = 0.02, TOP
    np.save(tmp_path / "flat.npy", flat)
    peaks = braggflow.find_peaks(frames, config={"frames": {"flat": str(tmp_path / "flat.npy")}})
    births = np.sort(peaks["birth"].values)
    assert births[-1] > 40 * TOP
    assert births[-2] <= TOP


@pytest.mark.parametrize("apart", [0.0, 4.0, 5.0, 7.0])
def test_two_peaks_under_one_top_are_a_blend_somewhere_under_it(apart):
    peaks = np.zeros(2, PROFILE_DTYPE)
    peaks["y"], peaks["x"] = 60.2, (60, 60 + apart)
    peaks["sigma_major"] = peaks["sigma_minor"] = 1.6
    peaks["height"] = 6 * TOP, 4 * TOP
    expected = render((120, 128), peaks, background=8)
    found = braggflow.find_peaks(np.minimum(np.random.default_rng(1).poisson(expected), TOP).astype(np.uint16))
    assert found.sizes["peak"] == 1
    blend = bool(found["flags"][0] & np.uint16(Flag.blend))
    assert blend == (apart > 0)
    off = np.abs(found["x"].values - peaks["x"]).min()
    assert off < (1.5 * float(found["x_std"][0]) if blend else 0.05)


@pytest.mark.parametrize("sigma", [1.0, 2.2])
def test_what_is_clipped_counts_for_the_snr_with_what_it_was_clipped_at(sigma):
    expected, centres = scene(sigma)
    frame = np.minimum(np.random.default_rng(1).poisson(expected), TOP).astype(np.uint16)
    found = braggflow.find_peaks(frame, config={"fit": {"fraction": 0}, "locate": {"network": "none"}})
    assert found.sizes["peak"] == len(centres)
    assert not (found["flags"].values & np.uint16(Flag.low_snr)).any()
    if sigma == 1.0:  # of broader ones the tops reach where the background is taken from
        aperture = np.hypot(*np.mgrid[-5:6, -5:6]) <= 1.5
        pixels = zip(found["y_pixel"].values, found["x_pixel"].values, strict=True)
        seen = np.array([frame[y - 5 : y + 6, x - 5 : x + 6][aperture].sum() for y, x in pixels])
        assert (found["snr"].values > 0.95 * np.sqrt(seen)).all()
        assert (found["snr"].values < 2 * np.sqrt(seen)).all()


def test_a_fit_below_what_was_clipped_has_failed():
    fits, state = np.zeros(3, FIT_DTYPE), np.zeros((3, 11, 11), np.uint8)
    state[:2, 5, 5] = State.FULL
    counts = np.full((3, 11, 11), 1000, np.float32)
    fits["converged"], fits["amplitude"], fits["background"], fits["chi2"] = True, (700, 950, 700), 20, 1
    cut = Patches(counts, state, np.full((3, MAX_NEIGHBOURS, 2), np.nan, np.float32), np.zeros((3, 2)))
    apart = Deblended(fits, np.zeros(3, bool), np.zeros(3, bool), fits[:0], np.zeros(0, int))
    assert doubted(apart, cut).fits["converged"].tolist() == [False, True, True]
    assert apart.fits["converged"].all()


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


@pytest.mark.parametrize("background", ["none", "local"])
def test_what_explains_a_maximum_beside_a_higher_top_finds_that(background):
    peaks = np.zeros(2, PROFILE_DTYPE)
    peaks["y"], peaks["x"] = 60, (60, 71)
    peaks["sigma_major"] = peaks["sigma_minor"] = 2.2
    peaks["height"] = 3 * TOP
    expected = render((120, 128), peaks, background=8)
    frames = np.minimum(np.random.default_rng(1).poisson(expected), TOP).astype(np.uint16)
    settings = {"detect": {"min_neighbour_distance": 14, "background": background}}
    series = open_series(frames_from_array(frames), RunConfig.model_validate(settings))
    found = find_in_frame(series, 0)
    told = [explain_in(found, y, x).maximum for y in range(58, 66) for x in range(56, 66)]
    dropped = [one for one in told if one is not None and one.dropped_by == "min_neighbour_distance"]
    assert dropped
    assert all(one.value < 14 for one in dropped)


def test_what_explains_a_saturated_peak_knows_its_maximum():
    expected, centres = scene(1.6)
    frames = np.minimum(np.random.default_rng(1).poisson(expected), TOP).astype(np.uint16)
    series = open_series(frames_from_array(frames), RunConfig())
    explained = explain_place(series, 0, *centres[24])
    assert explained.kind == "peak"
    assert explained.maximum is not None
    assert explained.maximum.birth > 4000
    assert np.hypot(*(np.array(explained.maximum.place) - centres[24])) < 1
