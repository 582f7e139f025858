import warnings
from io import BytesIO

import matplotlib.pyplot
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.figure import Figure

from braggflow import peak_table
from braggflow.peak_table import Flag, Method
from braggflow.results import SearchedFrame
from braggflow.show.drawing import around, draw_frame, intensity_norm, shrink
from braggflow.show.plots import (
    CURVE_POINTS,
    Example,
    count_bars,
    detected,
    disagreement_histogram,
    error_against_frame,
    frame_pair,
    located,
    patch_gallery,
    peaks_per_frame,
    widths_and_snr,
)


def _seen(shape=(40, 60), *, bin=1, peak=(12, 30)):  # noqa: A002
    searched = np.random.default_rng(0).poisson(5, shape).astype(np.float32)
    searched[peak] = 500
    searched[-3:] = np.nan
    raw = np.kron(np.nan_to_num(searched), np.ones((bin, bin))).astype(np.uint16)
    return SearchedFrame(raw, np.zeros(raw.shape, bool), searched, floor=np.float32(20), bin=bin)


def _table(*positions, **values):
    table = peak_table.empty(len(positions))
    table["peak_frame"] = 0
    for name, column in zip(("y_pixel", "x_pixel"), np.array(positions).reshape(-1, 2).T, strict=True):
        table[name] = table[name[0]] = column
    table["score"] = table["snr"] = np.arange(1, len(positions) + 1)
    for name, value in values.items():
        table[name] = value
    import xarray as xr

    return peak_table.to_dataset(table, xr.Dataset(coords={"frame": [0]}), [], {})


def _draw(figure):
    content = BytesIO()
    figure.savefig(content, format="png", dpi=50)
    assert content.getvalue().startswith(b"\x89PNG")
    return figure


def _texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=20)), st.integers(1, 20))
@settings(deadline=None, max_examples=50)
def test_shrinking_keeps_the_highest_count_and_its_place(image, longest):
    image = np.nan_to_num(image, nan=0, posinf=1, neginf=-1)
    small, factor = shrink(image, longest)
    assert max(small.shape) <= longest
    place = np.unravel_index(image.argmax(), image.shape)
    assert small[place[0] // factor, place[1] // factor] == image.max()


def test_shrinking_ignores_pixels_only_where_all_are_ignored():
    image = np.full((4, 4), np.nan, np.float32)
    image[0, 0] = 3
    small, _ = shrink(image, 2)
    np.testing.assert_array_equal(small, [[3, np.nan], [np.nan, np.nan]])


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.floats(-100, 60000, width=32) | st.just(np.nan),
    )
)
@settings(deadline=None, max_examples=50)
def test_the_grey_scale_rises_with_counts_and_can_be_inverted(image):
    norm = intensity_norm(image)
    assert norm.vmin < norm.vmax
    counts = np.linspace(norm.vmin, norm.vmax, 20)
    greys = np.asarray(norm(counts))
    assert (np.diff(greys) > 0).all()
    np.testing.assert_allclose(norm.inverse(greys), counts, rtol=1e-4, atol=1e-2 * (norm.vmax - norm.vmin))


def test_weak_and_strong_peaks_on_a_diffuse_background_both_stand_out():
    image = np.random.default_rng(1).poisson(600, (200, 200)).astype(np.float32)
    image[50:53, 50:53] += 300
    image[100:103, 100:103] += 30000
    norm = intensity_norm(image)
    background, weak, strong = np.asarray(norm([600, 900, 30600]))
    assert background < 0.25
    assert background + 0.15 < weak < strong - 0.15


def test_the_lowest_counts_of_a_frame_cut_off_by_its_detector_are_not_white():
    image = np.zeros((500, 500), np.float32)
    image[::100, ::50] = 6
    image[250, 250] = 10_000
    assert float(intensity_norm(image)(6)) > 0.2


@pytest.mark.parametrize("bin", [1, 2, 3])
def test_a_pixel_is_drawn_where_the_detector_has_it(bin):  # noqa: A002
    seen = _seen(bin=bin)
    axes = Figure().subplots()
    draw_frame(axes, seen.searched, bin, longest=1000)
    left, right, bottom, top = axes.images[0].get_extent()
    assert (left, top) == (-0.5, -0.5)
    assert (bottom, right) == (40 * bin - 0.5, 60 * bin - 0.5)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # y downwards
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x (pixel)", "y (pixel)")


@pytest.mark.parametrize("bin", [1, 2, 3])
@pytest.mark.parametrize("place", [(12, 30), (0, 0), (36, 59)])
def test_an_enlarged_peak_has_its_maximum_at_its_detector_position(bin, place):  # noqa: A002
    seen = _seen(bin=bin, peak=place)
    pixel = [p * bin + (bin - 1) // 2 for p in place]  # as the table gives it
    table = _table(pixel)
    window, (left, right, bottom, top) = around(seen, table.isel(peak=0), 4)
    assert window.shape == (9, 9)
    assert window[4, 4] == 500
    assert (right - left, bottom - top) == (9 * bin, 9 * bin)
    # The centre of a binned pixel in detector pixels.
    assert (left + right) / 2 == place[1] * bin + (bin - 1) / 2
    assert (top + bottom) / 2 == place[0] * bin + (bin - 1) / 2


def test_located_tells_methods_and_flags_apart_and_enlarges_up_to_six():
    table = _table(
        *[(4 + i, 5 * i + 3) for i in range(8)],
        method=[Method.compact] * 5 + [Method.gaussian] * 3,
        flags=[0] * 4 + [int(Flag.edge | Flag.overlap)] * 4,
        y_std=0.1,
    )
    figure = _draw(located(_seen(), table))
    texts = _texts(figure)
    for expected in ("compact: 4", "compact, flagged: 1", "gaussian, flagged: 3", "f: SNR 1", "a: SNR 8\nedge overlap"):
        assert expected in texts
    assert sum(text in tuple("abcdefg") for text in texts) == 6


def test_detected_markers_grow_with_score():
    table = _table((5, 5), (10, 10), (20, 20), score=[10.0, 100.0, 1000.0])
    axes = _draw(detected(_seen(), table)).axes[0]
    areas = axes.collections[0].get_sizes()
    assert (np.diff(areas) > 0).all()
    assert areas[1] == pytest.approx((areas[0] + areas[2]) / 2)


@pytest.mark.parametrize("n", [0, 1])
def test_frames_with_no_or_one_peak_can_be_drawn(n):
    table = _table(*[(5, 5)] * n)
    _draw(detected(_seen(), table))
    _draw(located(_seen(), table))


def test_a_frame_of_equal_counts_and_one_all_ignored_can_be_drawn():
    for value in (7.0, np.nan):
        searched = np.full((20, 30), value, np.float32)
        _draw(frame_pair(SearchedFrame(np.full((20, 30), 7), np.zeros((20, 30), bool), searched, np.float32(20), 1)))


def test_the_searched_frame_shows_nothing_below_minval_and_the_raw_one_all():
    left, right = (axes for axes in frame_pair(_seen()).axes if axes.images)
    raw, searched = (axes.images[0].get_array() for axes in (left, right))
    assert np.unique(searched.compressed()).tolist() == [0, 500]
    assert len(np.unique(raw)) > 5
    assert searched.mask[-3:].all()


def test_the_gallery_draws_network_and_fit_where_they_are_known():
    table = _table((12, 30), (20, 20), x_network=[30.3, np.nan], y_network=[12.1, np.nan], x_fit=30.4, y_fit=12.2)
    examples = [Example(f"example {i}", _seen(), table.isel(peak=i)) for i in (0, 1)]
    figure = _draw(patch_gallery(examples, size=9))
    offsets = [c.get_offsets() for c in figure.axes[0].collections]
    drawn = {tuple(np.round(o[0], 3)) for o in offsets if not np.ma.is_masked(o)}
    assert drawn == {(30.0, 12.0), (30.3, 12.1), (30.4, 12.2)}
    assert {"network", "fit", "maximum"} <= set(_texts(figure))


@pytest.mark.parametrize("n", [1, 5, 1234])
def test_curves_against_frame_number_hold_the_true_numbers(n):
    random = np.random.default_rng(n)
    numbers = np.arange(100, 100 + n)
    counts = random.integers(0, 50, n)
    axes = _draw(peaks_per_frame(numbers, counts, np.zeros(n, bool))).axes[0]
    x, y = axes.lines[0].get_data()
    assert len(x) <= CURVE_POINTS
    if n <= CURVE_POINTS:
        np.testing.assert_array_equal([x, y], [numbers, counts])
    frame = np.repeat(numbers, 3)
    distance = random.uniform(0.01, 1, 3 * n)
    axes = _draw(error_against_frame(frame, distance)).axes[0]
    x, y = axes.lines[0].get_data()
    assert len(x) <= CURVE_POINTS
    together = -(-n // CURVE_POINTS)
    np.testing.assert_allclose(y[0], np.median(distance[: 3 * together]))
    np.testing.assert_allclose(y[-1], np.median(distance[3 * together * (len(x) - 1) :]))


def test_failed_frames_are_marked_and_not_counted_as_frames_without_peaks():
    axes = peaks_per_frame(np.arange(4), np.array([3, 0, 4, 5]), np.array([False, True, False, False])).axes[0]
    assert list(axes.lines[0].get_xdata()) == [0, 2, 3]
    assert axes.lines[1].get_xdata().tolist() == [1]
    _draw(peaks_per_frame(np.arange(2), np.zeros(2, int), np.ones(2, bool)))


def test_distributions_can_be_drawn_where_values_are_missing():
    nothing = np.full(5, np.nan, np.float32)
    _draw(widths_and_snr(nothing, nothing, np.zeros(5, np.float32)))
    _draw(disagreement_histogram(np.zeros(3)))
    _draw(count_bars({}, {"edge": 1}))


def test_drawing_leaves_no_figure_behind_in_pyplot():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _draw(detected(_seen(), _table((5, 5))))
    assert matplotlib.pyplot.get_fignums() == []
