"""Added peaks have the photons of a detector's, lie where they are asked for, and leave all else as it was."""

import numpy as np
import pytest

from braggflow import RunConfig
from braggflow.detect import cut_patches
from braggflow.frames import CorrectedFrame, Correction, correct_frame
from braggflow.peak_table import empty
from braggflow.selfcheck import LIMIT_SNR, Place, expected_snr, places_of
from braggflow.selfcheck.added_peaks import Seen, add_peaks, draw_peaks, height_of_snr, profile_patches
from braggflow.selfcheck.places import draw_places
from braggflow.simulate import PROFILE_DTYPE

SHAPE = (96, 128)


def correction(**changed):
    values = {"mask": np.zeros(SHAPE, bool), "dark": None, "flat": None, "bin": 1, "saturation": np.inf}
    return Correction(**values | {"masked_below": -np.inf} | changed)


def profiles(n, *, height=200.0, sigma=1.2, at=(48.0, 64.0)):
    peaks = np.zeros(n, PROFILE_DTYPE)
    peaks["y"], peaks["x"] = at
    peaks["height"], peaks["sigma_major"], peaks["sigma_minor"] = height, sigma, sigma
    return peaks


def added(raw, peaks, fixed=None, *, seed=0, model="gaussian", counts_per_photon=1.0):
    rng = np.random.default_rng(seed)
    return add_peaks(raw, peaks, fixed or correction(), rng, model=model, counts_per_photon=counts_per_photon)


@pytest.mark.parametrize("counts_per_photon", [1.0, 5.0])
def test_each_pixel_gets_the_poisson_number_of_photons_of_its_expected_counts(counts_per_photon):
    raw = np.full(SHAPE, 100, np.uint16)
    got = np.array(
        [added(raw, profiles(1), seed=k, counts_per_photon=counts_per_photon)[48, 64] for k in range(400)], float
    )
    centred = profiles(1, at=(5.0, 5.0))
    mean = float(profile_patches(centred, 11, "gaussian")[0, 5, 5])
    assert abs(got.mean() - 100 - mean) < 4 * np.sqrt(counts_per_photon * mean / 400)
    assert abs(got.var() / (counts_per_photon * mean) - 1) < 4 * np.sqrt(2 / 400)


def test_the_frame_given_is_left_as_it_was_and_so_is_what_lies_far_from_the_peaks():
    raw = np.full(SHAPE, 7, np.uint16)
    got = added(raw, profiles(1))
    assert got.dtype == raw.dtype
    assert (raw == 7).all()
    assert (got[:, :50] == 7).all()
    assert got.sum() > raw.sum()


def test_ignored_pixels_stay_as_they_are():
    mask = np.zeros(SHAPE, bool)
    mask[48] = True
    raw = np.full(SHAPE, 3, np.int32)
    raw[47, 64], raw[49, 64] = -2, 9
    got = added(raw, profiles(1), correction(mask=mask, masked_below=0.0, missing_value=9.0))
    assert (got[48] == 3).all()
    assert (got[47, 64], got[49, 64]) == (-2, 9)
    assert got[47, 63] > 3
    floats = np.full(SHAPE, 3, np.float32)
    floats[48, 64] = np.nan
    assert np.isnan(added(floats, profiles(1))[48, 64])


def test_no_pixel_is_raised_beyond_saturation_nor_beyond_its_type():
    raw = np.full(SHAPE, 100, np.uint8)
    raw[48, 64] = 180
    got = added(raw, profiles(1, height=5000), correction(saturation=150.0))
    assert got[48, 64] == 180  # was beyond it before
    assert got[48, 65] == 150
    assert added(raw, profiles(1, height=5000))[48, 64] == 255


def test_through_a_flat_field_and_back_a_peak_has_the_height_that_was_asked_for():
    flat = np.full(SHAPE, 0.5, np.float32)
    fixed = correction(flat=flat)
    raw = np.zeros(SHAPE, np.float32)
    seen = np.mean([correct_frame(added(raw, profiles(1), fixed, seed=k), fixed).counts[48, 64] for k in range(200)])
    mean = float(profile_patches(profiles(1, at=(5.0, 5.0)), 11, "gaussian")[0, 5, 5])
    assert abs(seen / mean - 1) < 0.03


def test_at_the_edge_of_a_frame_a_peak_is_cut():
    got = added(np.zeros(SHAPE, np.uint16), profiles(1, at=(0.0, 127.0)))
    assert got[0, 127] > 100
    assert np.count_nonzero(got) == np.count_nonzero(got[:10, 115:])


def test_a_tail_reaches_as_far_as_it_has_photons():
    peaks = profiles(1, height=5000)
    peaks["eta"] = 0.8
    got = added(np.zeros(SHAPE, np.uint16), peaks)
    assert np.count_nonzero(got[48 - 30 : 48 - 20]) > 30


def test_drawn_peaks_have_about_the_snr_that_the_table_states():
    rng = np.random.default_rng(3)
    config = RunConfig()
    frame = CorrectedFrame(rng.poisson(20, (600, 600)).astype(np.uint16), np.zeros((600, 600), bool), None)
    shapes = profiles(1, height=1.0)
    places, kinds = draw_places(400, rng, frame.mask, np.empty((0, 2)), 11)
    drawn = draw_peaks(places, Seen(shapes, 200.0), frame, config, rng, LIMIT_SNR)
    fixed = Correction(frame.mask, None, None, 1, np.inf, -np.inf)
    raw = add_peaks(frame.counts, drawn.profiles, fixed, rng, model="gaussian", counts_per_photon=1.0)
    rows = empty(len(places))
    rows["y_pixel"], rows["x_pixel"] = np.rint(places).T
    order = np.lexsort((rows["x_pixel"], rows["y_pixel"]))
    _, measured = cut_patches(CorrectedFrame(raw, frame.mask, None), rows[order], config.patches)
    bright = (drawn.snr[order] > 20) & (kinds[order] == Place.free)
    assert np.count_nonzero(bright) > 50
    # The table's has the error of the level too, and tails in the background.
    assert 0.9 < np.median(measured["snr"][bright] / drawn.snr[order][bright]) < 1
    assert drawn.snr.min() < 4 < 100 < drawn.snr.max()


def test_the_expected_snr_rises_with_the_counts_and_falls_with_the_noise():
    state, level = np.zeros((1, 11, 11), np.uint8), np.array([10.0])
    unit = profile_patches(profiles(1, height=1.0, at=(5.0, 5.0)), 11, "gaussian")
    low, high = (expected_snr(height * unit, level, state)[0] for height in (50, 500))
    assert 3 * low < high < 10 * low
    assert expected_snr(50 * unit, level, state, read_noise=5.0)[0] < low
    assert expected_snr(50 * unit, level, state, counts_per_photon=4.0)[0] < 0.55 * low
    for noise in ({}, {"counts_per_photon": 3.0, "read_noise": 2.0}):
        height = height_of_snr(np.array([12.5]), unit, level, state, **noise)
        assert abs(expected_snr(height * unit, level, state, **noise)[0] - 12.5) < 1e-6


def test_places_are_of_every_kind_apart_from_one_another_and_on_pixels_that_count():
    rng = np.random.default_rng(0)
    mask = np.zeros((400, 400), bool)
    mask[100:104] = True
    peaks = rng.uniform(20, 380, (12, 2))
    places, kinds = draw_places(40, rng, mask, peaks, 11)
    np.testing.assert_array_equal(places_of(places, mask, peaks, 11), kinds)
    assert set(kinds.tolist()) == {place.value for place in Place}
    apart = np.abs(places[:, None] - places).max(axis=2) + 1e3 * np.eye(len(places))
    assert apart.min() > 11
    pixel = np.rint(places).astype(int)
    assert not mask[tuple(pixel.T)].any()


def test_where_there_is_no_gap_and_no_peak_all_are_free_or_at_edges():
    _, kinds = draw_places(30, np.random.default_rng(0), np.zeros((400, 400), bool), np.empty((0, 2)), 11)
    assert set(kinds.tolist()) == {Place.free, Place.edge}
    assert len(kinds) == 30


def test_on_a_frame_without_room_there_are_fewer():
    places, _ = draw_places(50, np.random.default_rng(0), np.zeros((40, 40), bool), np.empty((0, 2)), 11)
    assert 1 <= len(places) < 12
