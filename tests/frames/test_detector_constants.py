"""Counts of a photon and read noise by the frames themselves: near the truth, or refused with a reason."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import braggflow
from braggflow import InputError, RunConfig
from braggflow.frames import frames_from_array, open_series, settled_constants
from braggflow.simulate import CLASSES, sample_profiles
from braggflow.simulate.profiles import render

SIDE = 256


def shots(gain, noise, *, n=15, background=30.0, seed=0, side=SIDE, pedestal=0, drift=0.05, flat=False):
    """Frames (n, side, side) of whole counts, with a halo and peaks that drift."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    level = background * (1 + (0 if flat else 1) * (0.3 * y - 0.2 * x + 0.8 * np.exp(-(y**2 + x**2) / 0.1)))
    peaks = np.concatenate(
        [sample_profiles(3, rng=rng, config=CLASSES[name]) for name in ("sharp", "sampled", "broad")]
    )
    peaks["y"], peaks["x"] = rng.uniform(0, side, (2, len(peaks)))
    frames = []
    for _ in range(n):
        expected = render((side, side), peaks, background=level)
        frames.append(gain * rng.poisson(expected) + noise * rng.standard_normal(level.shape) + pedestal)
        peaks["y"] += drift
    return np.rint(frames).astype(np.int32)


def settled(frames, counts_per_photon="auto", read_noise="auto", **section):
    config = {"counts_per_photon": counts_per_photon, "read_noise": read_noise, **section}
    data = frames if isinstance(frames, xr.Dataset) else frames_from_array(frames)
    return settled_constants(open_series(data, RunConfig.model_validate({"frames": config})), judge=True)[1]


@pytest.mark.parametrize("gain", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_gain_and_read_noise_of_a_series_are_found(gain, noise):
    found = settled(shots(gain, noise, background=300))
    assert found.counts_per_photon == pytest.approx(gain, rel=0.05)
    assert abs(found.counts_per_photon - gain) < 4 * found.counts_per_photon_std
    assert abs(found.read_noise - noise) < 3 * found.read_noise_std
    assert "three at a time (15 read)" in found.how
    assert "share noise" not in " ".join(found.notes)


@pytest.mark.parametrize("less_dark", [False, True])
def test_saturated_pixels_are_left_out(less_dark):
    frames = np.minimum(shots(1.0, 0.0, background=300), 700)
    data = frames_from_array(frames)
    if less_dark:  # saturation is that of the raw counts
        data["dark"] = ("y", "x"), np.zeros(frames.shape[1:], np.float32)
    assert (frames == 700).sum() > 100
    assert settled(data, saturation=700, read_noise=0.0).counts_per_photon == pytest.approx(1, rel=0.05)


def test_a_wide_range_of_levels_gives_the_read_noise_too():
    found = settled(shots(1.0, 2.0, background=10, side=512))
    assert found.read_noise == pytest.approx(2, rel=0.1)
    assert found.read_noise_std < 0.1


def test_with_the_gain_given_the_read_noise_is_found():
    found = settled(shots(2.0, 4.0), counts_per_photon=2.0)
    assert found.counts_per_photon == 2.0
    assert found.counts_per_photon_std is None
    assert found.read_noise == pytest.approx(4, rel=0.1)


def test_one_frame_gives_the_gain_where_the_read_noise_is_known():
    found = settled(shots(2.0, 0.0, n=1, side=512), read_noise=0.0)
    assert found.counts_per_photon == pytest.approx(2, rel=0.05)
    assert "one frame" in found.how
    assert "charge" in found.notes[0]


def test_frames_that_flicker_give_the_same_gain():
    light = np.array([1, 0.97, 1.02, 1.01, 0.95, 1.05, 1, 1, 0.98, 1.03, 1, 0.99, 1, 1.04, 1])
    rng = np.random.default_rng(1)
    level = np.linspace(50, 400, 256) * np.ones((256, 1))
    found = settled(rng.poisson(light[:, None, None] * level))
    assert found.counts_per_photon == pytest.approx(1, rel=0.05)


def test_sparse_frames_give_the_gain_by_their_level():
    found = settled(np.random.default_rng(2).poisson(0.02, (15, 256, 256)), read_noise=0.0)
    assert found.counts_per_photon == pytest.approx(1, rel=0.05)


def test_marks_and_saturated_pixels_do_not_count():
    frames = shots(1.0, 2.0, background=200)
    frames[:, 40:44] = -1
    frames[3:9, 100:130, 100:130] = 5000
    data = frames_from_array(frames).assign_attrs(saturation=5000)
    assert settled(data).counts_per_photon == pytest.approx(1, rel=0.05)


@settings(max_examples=10)
@given(factor=st.sampled_from([2, 3, 8]), offset=st.integers(0, 50), turns=st.integers(0, 3))
def test_counts_that_are_scaled_scale_the_gain_and_a_pedestal_or_a_turn_changes_nothing(factor, offset, turns):
    frames = EXAMPLE
    plain = settled(frames, read_noise=0.0)
    scaled = settled(np.rot90(frames * factor + offset, turns, (1, 2)), read_noise=0.0)
    assert scaled.counts_per_photon / factor == pytest.approx(plain.counts_per_photon, rel=0.04)


EXAMPLE = shots(1.0, 0.0, background=300)


def test_a_pedestal_is_estimated_where_the_read_noise_is_given():
    found = settled(shots(1.0, 0.0, background=300, pedestal=400), read_noise=0.0)
    assert found.counts_per_photon == pytest.approx(1, rel=0.05)
    assert found.pedestal == pytest.approx(400, abs=25)


def test_with_a_dark_frame_subtracted_there_is_no_pedestal():
    data = frames_from_array(shots(1.0, 3.0, background=100, pedestal=400))
    data["dark"] = (("y", "x"), np.full((SIDE, SIDE), 400.0))
    found = settled(data)
    assert found.pedestal == 0
    assert found.read_noise == pytest.approx(3, abs=1)


@pytest.mark.parametrize(
    ("frames", "given", "reason"),
    [
        (np.zeros((5, 64, 64), np.uint16), {}, "every pixel is 0"),
        (np.full((5, 64, 64), 7, np.uint16), {}, "every pixel is the same"),
        (np.random.default_rng(0).poisson(20, (5, 6, 6)), {}, "every pixel is the same|too few"),
        (np.random.default_rng(0).poisson(20, (5, 12, 12)), {}, "too few"),
        (np.random.default_rng(0).poisson(20, (5, 128, 128)), {}, "too close together.*give frames.read_noise"),
        (shots(1.0, 0.0, background=100, pedestal=400), {}, "pedestal of that or more"),
        (shots(1.0, 0.0, background=100, pedestal=400), {"counts_per_photon": 3.0}, "less than their photons make"),
        (np.where((a := shots(1.0, 0.0, background=6)) < 6, 0, a), {}, "pixels below 6 counts were set to 0"),
        (shots(0.2, 0.0, background=4), {"read_noise": 0.0}, "is lost in whole counts"),
        (shots(1.0, 20.0, n=3), {"read_noise": 0.0}, r"noise is not that of photons and frames\.read_noise: 0"),
    ],
    ids=["zeros", "constant", "tiny", "small", "narrow", "pedestal", "pedestal-gain", "thresholded", "coarse", "other"],
)
def test_what_cannot_be_known_is_refused_with_the_key_and_a_reason(frames, given, reason):
    with pytest.raises(InputError, match=rf"frames\.(counts_per_photon|read_noise): auto.*{reason}"):
        settled(frames, **given)


def test_of_a_level_alone_the_read_noise_that_is_given_is_taken_off():
    rng = np.random.default_rng(3)
    flat = np.rint([4 * rng.poisson(50, (256, 256)) + 20 * rng.standard_normal((256, 256)) for _ in range(6)])
    assert settled(flat.astype(np.int32), read_noise=20.0).counts_per_photon == pytest.approx(4, rel=0.05)


def test_smoothed_frames_are_refused():
    from scipy import ndimage

    smooth = ndimage.uniform_filter(shots(1.0, 0.0, background=300).astype(np.float32), (0, 3, 3))
    with pytest.raises(InputError, match="frames were smoothed"):
        settled(smooth)


def test_constants_that_the_frames_contradict_are_noted_and_others_are_not():
    frames = shots(3.0, 0.0, background=30)
    (note,) = settled(frames, 1.0, 0.0).notes
    assert "frames.counts_per_photon: 1 " in note
    assert settled(frames, 3.0, 0.0).notes == ()
    assert settled(np.zeros((3, 64, 64), np.uint16), 1.0, 0.0).notes == ()


@pytest.mark.parametrize(("sigma", "times"), [(0.5, 1.5), (0.7, 2.4), (1.0, 3.3)])
def test_noise_that_neighbours_share_is_noted_with_what_it_makes_of_stated_errors(sigma, times):
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(shots(1.0, 0.0, background=300).astype(np.float32), (0, sigma, sigma))
    note = settled(smooth, 1.0, 0.0).notes[0]
    assert "neighbouring pixels share noise" in note
    assert float(note.partition("about ")[2].split()[0]) == pytest.approx(times, abs=0.15)  # bench_smoothed.py


def test_find_peaks_on_an_array_uses_and_states_what_was_found():
    frames = shots(4.0, 2.0, n=6, background=300)
    peaks = braggflow.find_peaks(frames, counts_per_photon="auto", read_noise=2.0, network="none", minval=4000)
    found = settled(frames, read_noise=2.0)
    assert peaks.attrs["counts_per_photon"] == found.counts_per_photon
    assert peaks.attrs["counts_per_photon_std"] == found.counts_per_photon_std
    told = braggflow.find_peaks(
        frames, counts_per_photon=found.counts_per_photon, read_noise=2.0, network="none", minval=4000
    )
    np.testing.assert_array_equal(peaks["snr"], told["snr"])


@pytest.mark.parametrize("value", ["none", 0, -1])
def test_values_that_are_no_number_above_0_are_refused(value):
    with pytest.raises(InputError, match=r"counts_per_photon.*must be a number above 0, or auto"):
        braggflow.find_peaks(np.zeros((32, 32)), counts_per_photon=value)


def test_auto_that_no_frames_settled_is_refused():
    config = RunConfig.model_validate({"frames": {"read_noise": "auto"}})
    with pytest.raises(InputError, match=r"read_noise: auto; must be numbers"):
        _ = config.frames.detector_constants
