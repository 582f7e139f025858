"""Marks, noise below 0, and saturation: the rules of docs/ingest.md, a test each."""

import numpy as np
import pytest

import braggflow
from braggflow.config import FramesConfig
from braggflow.frames import correct_frame, correction_of, frames_from_array
from braggflow.frames.marks import MAX_LOOKED_AT, frames_looked_at
from braggflow.peak_table import Flag

SHAPE = (96, 128)


def counts(n=4, *, mean=3.0, spots=True, seed=0, shape=SHAPE):
    """Frames (n, y, x) of Poisson counts with six spots of 300 counts, int64."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    expected = np.full(shape, float(mean))
    for cy, cx in ((20, 20), (20, 60), (20, 100), (70, 20), (70, 60), (70, 100)) if spots else ():
        expected += 300 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.3**2))
    return rng.poisson(expected, (n, *shape))


def ignored(frames, frame=0, **settings):
    """Pixels that are ignored in one frame of a series."""
    data = frames_from_array(frames)
    return correct_frame(frames[frame], correction_of(data, FramesConfig(**settings))).mask


def pixels(*slices):
    mask = np.zeros(SHAPE, bool)
    for part in slices:
        mask[part] = True
    return mask


GAP = pixels(np.s_[:, 40:44])


@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize(
    ("dtype", "mark"),
    [
        ("i4", -1),
        ("i2", -2),
        ("i4", np.iinfo("i4").min),
        ("i2", np.iinfo("i2").min),
        ("f4", -1),
        ("f8", np.nan),
        ("u2", 2**16 - 1),
        ("u4", 2**32 - 1),
        ("u4", 2**32 - 2),
        ("i8", 2**32 - 1),
        ("u8", 2**32 - 1),
        ("f4", 2**32 - 1),
        ("f8", 2**32 - 1),
        ("i4", 2**31 - 1),
        ("u1", 255),
        ("u4", 2**16 - 1),
    ],
)
def test_a_gap_of_any_mark_is_ignored_in_every_frame(n, dtype, mark):
    frames = np.minimum(counts(n), 200).astype(dtype)
    frames[:, GAP] = mark
    for frame in (0, n - 1):
        np.testing.assert_array_equal(ignored(frames, frame), GAP)


def test_several_marks_and_a_mark_in_one_frame_only():
    frames = counts(5).astype("i4")
    frames[:, GAP] = -1
    frames[:, 5, 5] = -2
    frames[2, 8, 8] = -1
    expected = GAP | pixels(np.s_[5, 5])
    np.testing.assert_array_equal(ignored(frames, 1), expected)
    np.testing.assert_array_equal(ignored(frames, 2), expected | pixels(np.s_[8, 8]))


@pytest.mark.parametrize(("values", "are"), [((-1, -2, -5), "mark"), ((-1, -2, -5, -9), "count")])
def test_marks_are_three_at_most_more_numbers_below_0_are_counts(values, are):
    frames = counts(1).astype("i4")
    for k, value in enumerate(values):
        frames[0, 10 + 7 * k, 20] = value
    assert frames_from_array(frames).attrs["marks"]["negative"] == are
    assert ignored(frames).sum() == (len(values) if are == "mark" else 0)


@pytest.mark.parametrize("dies_at", [1, 9, 19])
def test_a_module_that_dies_during_the_series_is_ignored_from_then_on(dies_at):
    frames = counts(20).astype("i4")
    frames[:, GAP] = -1
    frames[dies_at:, :30, :30] = -1
    np.testing.assert_array_equal(ignored(frames, dies_at - 1), GAP)
    np.testing.assert_array_equal(ignored(frames, dies_at), GAP | pixels(np.s_[:30, :30]))


@pytest.mark.parametrize("n", [1, 2, 3, 30])
@pytest.mark.parametrize(("mean", "dark"), [(5, 5), (5, 100), (1, 1), (0.3, 1), (30, 30), (0.1, 1)])
@pytest.mark.parametrize("dtype", ["i2", "i4", "f4"])
def test_noise_around_0_and_a_pedestal_below_it_are_counts(n, mean, dark, dtype):
    frames = (counts(n, mean=mean) - dark).astype(dtype)
    assert not ignored(frames).any()
    data = frames_from_array(frames)
    assert data.attrs["marks"]["negative"] == "count"
    share = np.mean(frames[frames_looked_at(n)] < 0)
    assert data.attrs["marks"]["negative_share"] == pytest.approx(share, abs=1e-6)


def test_copies_of_one_frame_say_no_more_than_one():
    noise = counts(1, mean=5).astype("i4") - 5
    assert not ignored(np.repeat(noise, 4, axis=0)).any()
    marked = counts(1).astype("i4")
    marked[:, GAP] = -1
    np.testing.assert_array_equal(ignored(np.repeat(marked, 4, axis=0)), GAP)


def test_gaps_stay_ignored_in_frames_of_noise_around_0():
    frames = (counts(8, mean=5) - 5).astype("i4")
    frames[:, GAP] = -1
    frames[:, :3] = np.iinfo("i4").min
    np.testing.assert_array_equal(ignored(frames), GAP | pixels(np.s_[:3]))


def test_peaks_of_frames_less_their_dark_are_those_of_the_frames():
    frames = counts(3, mean=5)
    plain = braggflow.find_peaks(frames.astype("i4"), minval=30, minscore=20)
    for dark in (5, 100):
        less = braggflow.find_peaks((frames - dark).astype("i4"), minval=30 - dark if dark < 30 else 5, minscore=20)
        assert less.sizes["peak"] == plain.sizes["peak"] == 18
        assert not (less["flags"] & int(Flag.masked)).any()


@pytest.mark.parametrize(("choice", "masked"), [("auto", False), ("count", False), ("mark", True)])
def test_the_user_may_say_what_noise_is(choice, masked):
    frames = (counts(2, mean=5) - 5).astype("i2")
    np.testing.assert_array_equal(ignored(frames, negative=choice), (frames[0] < 0) if masked else pixels())


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "i4"])
def test_numbers_below_0_are_counts_in_every_type_but_for_the_lowest_of_whole_ones(dtype):
    frames = counts(2, mean=5).astype(dtype) - 5
    lowest = dtype.startswith("i")
    if lowest:
        frames[:, GAP] = np.iinfo(dtype).min
    np.testing.assert_array_equal(ignored(frames, negative="count"), GAP if lowest else pixels())


@pytest.mark.parametrize(("choice", "masked"), [("auto", True), ("count", False), ("mark", True)])
def test_the_user_may_say_what_marks_are(choice, masked):
    frames = counts(2).astype("i2")
    frames[:, GAP] = -1
    np.testing.assert_array_equal(ignored(frames, negative=choice), GAP if masked else pixels())


def test_a_spot_at_the_limit_in_every_frame_is_saturated_and_no_mark():
    for n in (1, 5):
        frames = counts(n, mean=20)
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        frames = frames + (2000 * np.exp(-((y - 45) ** 2 + (x - 80) ** 2) / (2 * 2**2))).astype(int)
        frames = np.minimum(frames, 255)
        frames[:, 60, 3] = 255  # and a dead pixel
        data = frames_from_array(frames.astype("u1"))
        assert np.argwhere(data["mask"].values).tolist() == [[60, 3]]
        assert data.attrs["saturation"] == 255
        peaks = braggflow.find_peaks(data, minval=120, minscore=60)
        at = np.hypot(peaks["y_pixel"] - 45, peaks["x_pixel"] - 80) < 4
        assert (peaks["flags"].values[at] & int(Flag.saturated)).all()


@pytest.mark.parametrize("limit", [4095, 16383, 11000])
@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
def test_counts_that_pile_up_tell_the_saturation(limit, dtype):
    frames = counts(3, mean=50)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frames = frames + (3 * limit * np.exp(-((y - 45) ** 2 + (x - 80) ** 2) / (2 * 2**2))).astype(int)
    data = frames_from_array(np.minimum(frames, limit).astype(dtype))
    assert data.attrs["saturation"] == limit
    assert "pile up" in data.attrs["saturation_source"]


@pytest.mark.parametrize("mean", [0, 0.05, 1, 20, 200])
def test_counts_that_thin_out_tell_none(mean):
    for seed in range(3):
        data = frames_from_array(counts(6, mean=mean, seed=seed).astype("i4"))
        assert "saturation" not in data.attrs
        assert "saturation" not in frames_from_array(np.repeat(counts(1, seed=seed), 16, axis=0)).attrs


@pytest.mark.parametrize("value", [0, -1, float("nan"), "none"])
def test_a_saturation_that_cannot_be_true_is_not_used_and_said(value):
    data = frames_from_array(counts(2).astype("u2")).drop_attrs().assign_attrs(saturation=value)
    found = frames_from_array(data)
    assert found.attrs["saturation"] == 65535
    assert f"saturation: {value!r}" in found.attrs["notes"][0]


def test_pixels_below_the_underload_value_are_ignored():
    data = frames_from_array(counts(2, mean=3).astype("u2")).drop_attrs().assign_attrs(underload=1)
    described = frames_from_array(data)
    mask = correct_frame(data["frames"].values[0], correction_of(described, FramesConfig())).mask
    np.testing.assert_array_equal(mask, data["frames"].values[0] < 1)


def test_the_frames_looked_at_are_spread_over_the_series():
    assert frames_looked_at(1).tolist() == [0]
    assert frames_looked_at(5).tolist() == [0, 1, 2, 3, 4]
    at = frames_looked_at(1000)
    assert (len(at), at[0], at[-1]) == (MAX_LOOKED_AT, 0, 999)
