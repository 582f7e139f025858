"""What a stricter setting finds is told by a search at looser levels, exactly as if it had been searched for alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow.config import DetectConfig, resolve_config
from braggflow.detect import SearchedAgain, detect, detect_each
from tests.stores import spots

#: All that is known of a peak but its area, which other levels of the search leave unknown.
COLUMNS = ["y_pixel", "x_pixel", "birth", "death", "score", "significance", "flags"]
LEVELS = st.one_of(
    st.none(), st.sampled_from([7.0, 20.1, 55.5, 140.0]), st.sampled_from(["3 sigma", "6 sigma", "9 sigma"])
)
FALSE_PEAKS = st.sampled_from([None, 0.0001, 0.1, 0.1000001, 1.0, 30.0, 1000.0])
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "min_area": st.sampled_from([2, 6, 12]),
        "max_area": st.sampled_from([9, 40]),
        "min_edge_distance": st.sampled_from([1, 5]),
        "min_neighbour_distance": st.sampled_from([2.5, 9.0, 30.0]),
    },
)


def section(**keys):
    return resolve_config({"detect": keys}).detect


def assert_same(found, alone, *, area):
    for name in COLUMNS + ["area"] * area:
        np.testing.assert_array_equal(found.table[name], alone.table[name], err_msg=name)
    assert found.removed == alone.removed


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["uint16", "int32", "float32", "float64"]),
    background=st.sampled_from(["none", "local"]),
    filters=FILTERS,
    levels=st.lists(st.tuples(LEVELS, LEVELS, FALSE_PEAKS), min_size=1, max_size=8),
)
def test_each_setting_finds_what_it_finds_alone(seed, dtype, background, filters, levels):
    image = spots((64, 80), 14, seed=seed).astype(dtype)
    mask = np.zeros(image.shape, bool)
    mask[:, 50] = mask[20:24] = True
    wanted = [
        section(
            minval=minval, minscore=minscore, false_peaks=false, background=background, background_cell=16, **filters
        )
        for minval, minscore, false in levels
    ]
    found = detect_each(image, mask, wanted, bin=2, read_noise=1.0)
    areas = "min_area" in filters or "max_area" in filters
    for setting, of_setting in zip(wanted, found, strict=True):
        assert_same(of_setting, detect(image, mask, setting, bin=2, read_noise=1.0), area=areas)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    asked=st.lists(
        st.tuples(LEVELS, LEVELS, FALSE_PEAKS, FILTERS, st.sampled_from(["none", "local"])), min_size=2, max_size=8
    ),
)
def test_one_setting_after_another_finds_what_it_finds_alone(seed, asked):
    image = spots((64, 80), 14, seed=seed)
    mask = np.zeros(image.shape, bool)
    mask[:, 50] = mask[20:24] = True
    search = SearchedAgain()
    for minval, minscore, false, filters, background in asked:
        setting = section(
            minval=minval, minscore=minscore, false_peaks=false, background=background, background_cell=16, **filters
        )
        found = search(image[None], mask, setting, bin=2, read_noise=1.0)
        areas = "min_area" in filters or "max_area" in filters
        assert_same(found, detect(image, mask, setting, bin=2, read_noise=1.0), area=areas)


def test_levels_and_filters_alone_make_no_search_anew(monkeypatch):
    image, mask, searches = spots((64, 64), 6, seed=2), np.zeros((64, 64), bool), []
    from braggflow.detect import searching

    maxima = searching.maxima_of
    monkeypatch.setattr(searching, "maxima_of", lambda *args, **more: searches.append(0) or maxima(*args, **more))
    search = SearchedAgain()
    for keys in ({}, {"false_peaks": 0.001}, {"minval": 20}, {"minscore": 9}, {"min_edge_distance": 3}, {}):
        search(image[None], mask, section(**keys))
    assert len(searches) == 1
    for keys in ({"false_peaks": 10}, {"background": "none"}, {"min_area": 3}):
        search(image[None], mask, section(**keys))
    assert len(searches) == 4


def test_areas_are_those_of_the_search_also_where_one_level_alone_is_in_sigma():
    image, mask = spots((64, 64), 8, seed=0), np.zeros((64, 64), bool)
    wanted = [section(min_area=2, background="none", minscore=level) for level in (None, "3 sigma")]
    for setting, found in zip(wanted, detect_each(image, mask, wanted), strict=True):
        assert_same(found, detect(image, mask, setting), area=True)


def test_levels_between_two_float32_numbers_are_those_of_the_search():
    image = spots((64, 64), 6, seed=1).astype(np.float32) + np.float32(0.1)
    mask = np.zeros(image.shape, bool)
    levels = [
        5.0,
        *(float(np.nextafter(value, side)) for value in image.max(axis=1) for side in (0, 1e9)),
        *image[7] + 1.0,
    ]
    wanted = [section(false_peaks=None, minval=float(m), minscore=1, background="none") for m in levels]
    for setting, found in zip(wanted, detect_each(image, mask, wanted), strict=True):
        assert_same(found, detect(image, mask, setting), area=False)


def test_settings_that_differ_in_levels_only_share_a_search(monkeypatch):
    image, searches = spots((64, 64), 6, seed=2), []
    from braggflow.detect import searching

    maxima = searching.maxima_of
    monkeypatch.setattr(searching, "maxima_of", lambda *args, **more: searches.append(0) or maxima(*args, **more))
    levels = [(m, s, f) for m in (None, 20, "6 sigma") for s in (None, 9) for f in (0.001, 0.1, None)]
    wanted = [section(minval=m, minscore=s, false_peaks=f) for m, s, f in levels]
    detect_each(image, np.zeros(image.shape, bool), wanted)
    assert len(searches) == 2  # by significance, and by levels
    detect_each(image, np.zeros(image.shape, bool), [section(minval=m, min_area=3) for m in (None, 20, 40)])
    assert len(searches) == 5  # each minval


def test_the_engine_findpeaks_finds_the_same_too():
    image, mask = spots((40, 40), 4, seed=3), np.zeros((40, 40), bool)
    levels = [(None, None, 0.1), (60, None, 0.1), (None, 90, 0.001), (30, 20, None), (60, 20, None)]
    wanted = [section(engine="findpeaks", minval=m, minscore=s, false_peaks=f) for m, s, f in levels]
    for setting, found in zip(wanted, detect_each(image, mask, wanted), strict=True):
        assert_same(found, detect(image, mask, setting), area=False)


def test_no_setting_finds_nothing():
    assert detect_each(np.ones((8, 8), np.uint16), np.zeros((8, 8), bool), []) == []


@pytest.mark.parametrize("levels", [{}, {"false_peaks": None, "minval": 1e9}])
def test_frames_without_peaks(levels):
    (found,) = detect_each(np.ones((32, 32), np.uint16), np.zeros((32, 32), bool), [DetectConfig(**levels, minscore=1)])
    assert len(found.table) == 0
