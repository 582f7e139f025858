from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from braggflow.show.labels import place_labels

LETTERS = list("abcdef")


def _drawn(points, markers, texts=LETTERS):
    """The labels' boxes (left, bottom, right, top) in dots, as matplotlib has drawn them, and the axes."""
    figure = Figure(figsize=(7, 6), dpi=100)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(-0.5, 511.5), ylim=(511.5, -0.5))
    labels = place_labels(axes, points, texts, markers=markers)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [label.get_bbox_patch().get_window_extent(canvas.get_renderer()).extents for label in labels], axes


def _overlap(one, other):
    return (one[:2] < other[2:]).all() and (one[2:] > other[:2]).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([3.0, 30.0, 300.0]))
@settings(max_examples=20)
def test_labels_lie_over_no_other_label_and_within_the_axes(seed, spread):
    points = np.clip(256 + np.random.default_rng(seed).normal(0, spread, (6, 2)), 0, 511)
    boxes, axes = _drawn(points, points)
    assert not [pair for pair in combinations(boxes, 2) if _overlap(*pair)]
    left, bottom, right, top = axes.bbox.extents
    for box in boxes:
        assert left <= box[0] < box[2] <= right
        assert bottom <= box[1] < box[3] <= top


def test_labels_on_a_crowded_frame_hide_no_peak():
    # One every 26 pixels, but for noise of 4: 400 in all.
    y, x = np.mgrid[2:512:26, 2:512:26].reshape(2, -1)
    peaks = np.clip(np.column_stack([x, y]) + np.random.default_rng(0).normal(0, 4, (len(x), 2)), 0, 511)
    boxes, axes = _drawn(peaks[[0, 100, 101, 250, 251, 399]], peaks)
    at = axes.transData.transform(peaks)
    for box in boxes:
        assert np.count_nonzero(((at > box[:2]) & (at < box[2:])).all(axis=1)) == 0


def test_a_line_leads_from_each_label_to_its_point():
    points = np.random.default_rng(0).uniform(0, 511, (6, 2))
    _, axes = _drawn(points, points)
    assert [text.xy for text in axes.texts if text.arrow_patch is not None] == [tuple(point) for point in points]


@pytest.mark.parametrize("n", [0, 1])
def test_no_or_one_label_can_be_placed(n):
    assert len(_drawn(np.zeros((n, 2)), np.zeros((0, 2)), LETTERS[:n])[0]) == n
