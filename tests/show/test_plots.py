import warnings
from io import BytesIO

import matplotlib.pyplot
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as Pillow

from braggflow import peak_table
from braggflow.peak_table import Flag, Method
from braggflow.results import SearchedFrame
from braggflow.show.drawing import around, draw_frame, intensity_norm, png, shrink
from braggflow.show.plots import (
    CURVE_POINTS,
    count_bars,
    disagreement_histogram,
    error_against_frame,
    peaks_per_frame,
    widths_and_snr,
)
from braggflow.show.searched_pictures import detected, frame_pair, gallery_panel, located, patch_gallery
from braggflow.show.series_axis import SeriesAxis


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
    assert png(figure, dpi=50).startswith(b"\x89PNG")
    return figure


def _texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=20)), st.integers(1, 20))
@settings(max_examples=50)
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
@settings(max_examples=50)
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
    left, right = (axes for axes in frame_pair(_seen()).axes if axes.get_xlabel())
    raw, searched = (axes.images[0].get_array() for axes in (left, right))
    assert np.unique(searched.compressed()).tolist() == [0, 500]
    assert len(np.unique(raw)) > 5
    assert searched.mask[-3:].all()


def test_the_gallery_draws_network_and_fit_where_they_are_known():
    table = _table((12, 30), (20, 20), x_network=[30.3, np.nan], y_network=[12.1, np.nan], x_fit=30.4, y_fit=12.2)
    examples = [gallery_panel(f"example {i}", _seen(), table.isel(peak=i)) for i in (0, 1)]
    assert [(mark.y, mark.x) for mark in examples[0].marks] == [(12.1, 30.3), (12.2, 30.4)]
    figure = _draw(patch_gallery(examples, size=9))
    # One axes: each mark is drawn twice, white below. The second peak's fit lies outside its patch.
    assert len(figure.axes[0].collections) - 2 == 2 * 2
    assert {"network", "fit", "highest pixel"} <= set(_texts(figure))


def _axis(numbers, values=None, name="frame"):
    values = np.asarray(numbers if values is None else values, float)
    return SeriesAxis(name, "frame number" if name == "frame" else name, values, numbers)


@pytest.mark.parametrize("n", [1, 5, 1234])
def test_curves_against_frame_number_hold_the_true_numbers(n):
    random = np.random.default_rng(n)
    numbers = np.arange(100, 100 + n)
    counts = random.integers(0, 50, n)
    axes = _draw(peaks_per_frame(_axis(numbers), counts, np.zeros(n, bool))).axes[0]
    x, y = axes.lines[0].get_data()
    assert len(x) <= CURVE_POINTS
    if n <= CURVE_POINTS:
        np.testing.assert_array_equal([x, y], [numbers, counts])
    frame = np.repeat(numbers, 3)
    distance = random.uniform(0.01, 1, 3 * n)
    axes = _draw(error_against_frame(_axis(numbers), frame, distance)).axes[0]
    x, y = axes.lines[0].get_data()
    assert len(x) <= CURVE_POINTS
    together = -(-n // CURVE_POINTS)
    np.testing.assert_allclose(y[0], np.median(distance[: 3 * together]))
    np.testing.assert_allclose(y[-1], np.median(distance[3 * together * (len(x) - 1) :]))


def test_failed_frames_are_marked_and_not_counted_as_frames_without_peaks():
    axes = peaks_per_frame(_axis(np.arange(4)), np.array([3, 0, 4, 5]), np.array([False, True, False, False])).axes[0]
    assert list(axes.lines[0].get_xdata()) == [0, 2, 3]
    assert axes.lines[1].get_xdata().tolist() == [1]
    _draw(peaks_per_frame(_axis(np.arange(2)), np.zeros(2, int), np.ones(2, bool)))


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


def _ticks(axis):
    low, high = sorted(axis.get_view_interval())
    return [tick for tick in axis.get_ticklocs() if low <= tick <= high]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 480])
def test_ticks_of_frames_and_of_counts_are_whole_numbers(n):
    curve = peaks_per_frame(_axis(np.arange(n)), np.arange(n) % 3, np.zeros(n, bool)).axes[0]
    bars = count_bars({"min_area": 1}, {"edge": 2}).axes
    drawn = frame_pair(_seen((4, 5), peak=(0, 0))).axes[0]
    for axis in (curve.xaxis, curve.yaxis, *(axes.xaxis for axes in bars), drawn.xaxis, drawn.yaxis):
        assert all(tick == round(tick) for tick in _ticks(axis))


def test_a_coordinate_is_the_axis_and_the_numbers_of_frames_stand_above():
    omega = _axis(np.arange(100, 105), np.arange(5) * 0.5 - 30, "omega")
    figure = _draw(peaks_per_frame(omega, np.arange(5), np.zeros(5, bool)))
    assert figure.axes[0].lines[0].get_xdata().tolist() == [-30, -29.5, -29, -28.5, -28]
    upper = figure.axes[1]
    numbers = [int(label.get_text()) for label in upper.get_xticklabels()]
    assert numbers == [100, 101, 102, 103, 104]
    np.testing.assert_allclose(upper.get_xticks(), omega.values)
    assert upper.get_xlim() == figure.axes[0].get_xlim()


def test_against_values_that_turn_back_the_curve_is_a_path_of_two_branches():
    voltage = _axis(np.arange(5), [3.0, 3.5, 4.0, 3.5, 3.0], "voltage")
    axes = _draw(peaks_per_frame(voltage, np.array([1, 2, 3, 5, 6]), np.zeros(5, bool))).axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert set(drawn) == {"voltage rising", "voltage falling"}
    # Every point is on a branch, and a step between two frames is on one of them.
    assert (np.isfinite(drawn["voltage rising"]) | np.isfinite(drawn["voltage falling"])).all()
    steps = [np.isfinite(of[:-1]) & np.isfinite(of[1:]) for of in drawn.values()]
    assert np.logical_or(*steps).all()


def test_what_turns_back_is_drawn_below_the_curve():
    time, voltage = _axis(np.arange(5), np.arange(5.0), "time"), _axis(np.arange(5), [3, 4, 5, 4, 3], "voltage")
    figure = _draw(peaks_per_frame(time, np.arange(5), np.zeros(5, bool), [voltage]))
    strip = next(axes for axes in figure.axes if axes.get_ylabel() == "voltage")
    np.testing.assert_array_equal(strip.lines[0].get_ydata(), voltage.values)
    assert strip.get_xlim() == figure.axes[0].get_xlim()


def test_a_picture_is_the_same_as_matplotlibs_own_but_for_the_number_of_its_colours():
    figure = frame_pair(_seen())
    figure.set_dpi(50)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    own = np.array(canvas.buffer_rgba())[..., :3].astype(int)
    drawn = np.asarray(Pillow.open(BytesIO(png(figure, dpi=50))).convert("RGB")).astype(int)
    assert drawn.shape == own.shape
    assert np.abs(drawn - own).max() <= 8
    assert (drawn[(own == 255).all(axis=2)] == 255).all()


@pytest.mark.parametrize("bin", [1, 2])
def test_each_drawn_dot_has_the_grey_of_the_pixel_below_it(bin):  # noqa: A002
    image = np.random.default_rng(0).uniform(0, 1, (7, 5)).astype(np.float32)
    figure = Figure(figsize=(5, 7), dpi=10)
    axes = figure.add_axes((0, 0, 1, 1))
    norm = draw_frame(axes, image, bin, longest=100)
    axes.axis("off")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.array(canvas.buffer_rgba())[5::10, 5::10, 0]
    expected = axes.images[0].get_cmap()(norm(image), bytes=True)[..., 0]
    np.testing.assert_array_equal(drawn, expected)
