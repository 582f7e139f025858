"""Every shape holds exactly the pixels whose centre lies in it, by a slow test in whole fractions of each pixel."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from braggflow import DrawnMask, InputError

FRAME = (13, 17)
#: Numbers that floats hold exactly, so that centres lie on borders often.
coordinates = st.integers(-40, 160).map(lambda eighths: eighths / 8)
places = st.tuples(coordinates, coordinates)
lengths = st.integers(1, 80).map(lambda eighths: eighths / 8)
quick = settings(max_examples=150)


def by_pixel(inside: Callable[[Fraction, Fraction], bool]) -> NDArray[np.bool_]:
    """The slow way: each pixel's centre is asked for by itself."""
    rows, columns = FRAME
    return np.array([[inside(Fraction(y), Fraction(x)) for x in range(columns)] for y in range(rows)])


def exact(*values: float) -> list[Fraction]:
    return [Fraction(value) for value in values]


def on_segment(y: Fraction, x: Fraction, ends: list[Fraction], reach: Fraction) -> bool:
    """Whether a place is within `reach` of a segment, by its foot on it."""
    y0, x0, y1, x1 = ends
    length = (y1 - y0) ** 2 + (x1 - x0) ** 2
    along = ((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / length if length else Fraction(0)
    along = min(max(along, Fraction(0)), Fraction(1))
    return (y - y0 - along * (y1 - y0)) ** 2 + (x - x0 - along * (x1 - x0)) ** 2 <= reach**2


@quick
@given(places, places)
def test_rectangle(one: tuple[float, float], other: tuple[float, float]) -> None:
    drawn = DrawnMask(FRAME).rectangle(*one, *other)
    low, high = (
        [min(pair) for pair in zip(one, other, strict=True)],
        [max(pair) for pair in zip(one, other, strict=True)],
    )
    assert np.array_equal(drawn.array, by_pixel(lambda y, x: low[0] <= y <= high[0] and low[1] <= x <= high[1]))


@quick
@given(places, st.tuples(lengths, lengths), st.sampled_from([0, 90, -90, 180, 450]))
def test_ellipse(centre: tuple[float, float], radii: tuple[float, float], angle: int) -> None:
    (cy, cx), (ry, rx) = exact(*centre), exact(*radii)
    if angle % 180:
        ry, rx = rx, ry
    drawn = DrawnMask(FRAME).ellipse(centre, radii, angle)
    assert np.array_equal(drawn.array, by_pixel(lambda y, x: ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1))


def test_an_ellipse_turns_from_x_towards_y() -> None:
    drawn = DrawnMask((81, 81)).ellipse((40, 40), (6, 30), angle=30)
    y, x = np.nonzero(drawn.array)
    covariance = np.cov(x, y)
    assert math.degrees(0.5 * math.atan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1])) == pytest.approx(
        30, abs=1
    )
    assert drawn.array.sum() == pytest.approx(np.pi * 180, rel=0.02)


@quick
@given(places, lengths, lengths)
def test_ring(centre: tuple[float, float], one: float, other: float) -> None:
    inner, outer = sorted((one, other))
    (cy, cx), low, high = exact(*centre), *exact(inner, outer)
    drawn = DrawnMask(FRAME).ring(centre, inner, outer)
    assert np.array_equal(drawn.array, by_pixel(lambda y, x: low**2 <= (y - cy) ** 2 + (x - cx) ** 2 <= high**2))


@settings(max_examples=60)
@given(st.lists(places, min_size=3, max_size=8))
def test_polygon(points: list[tuple[float, float]]) -> None:
    corners = [exact(*point) for point in points]
    edges = [[*one, *other] for one, other in zip(corners, corners[1:] + corners[:1], strict=True)]

    def inside(y: Fraction, x: Fraction) -> bool:
        if any(on_segment(y, x, edge, Fraction(0)) for edge in edges):
            return True
        to_the_left = 0
        for y0, x0, y1, x1 in edges:
            if min(y0, y1) <= y < max(y0, y1):
                to_the_left += x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x
        return to_the_left % 2 == 1

    assert np.array_equal(DrawnMask(FRAME).polygon(points).array, by_pixel(inside))


@quick
@given(st.lists(places, min_size=1, max_size=5), lengths)
def test_brush(points: list[tuple[float, float]], radius: float) -> None:
    line = [exact(*point) for point in points]
    ends = [[*one, *other] for one, other in zip(line[:-1] or line, line[1:] or line, strict=True)]
    (reach,) = exact(radius)
    drawn = DrawnMask(FRAME).brush(points, radius)
    assert np.array_equal(drawn.array, by_pixel(lambda y, x: any(on_segment(y, x, each, reach) for each in ends)))


def test_threshold_pixel_and_pixels() -> None:
    image = np.arange(12.0).reshape(3, 4)
    image[0, 0] = np.nan
    mask = DrawnMask((3, 4)).threshold(image, above=9, below=2)
    assert np.array_equal(np.argwhere(mask.array), [[0, 1], [2, 2], [2, 3]])
    assert mask.shapes[0].numbers["said"] == "counts above 9 or below 2"
    assert np.array_equal(np.argwhere(mask.pixel(1, 1).pixel(2, 3, erase=True).array), [[0, 1], [1, 1], [2, 2]])
    assert np.array_equal(DrawnMask((3, 4)).pixels(image > 4).array, image > 4)


steps = st.lists(st.tuples(st.sampled_from(["draw", "erase", "undo", "redo"]), places, places), min_size=1, max_size=12)


@quick
@given(steps)
def test_a_history_of_steps_is_the_pixels_drawn_one_after_the_other(
    chosen: list[tuple[str, tuple[float, float], tuple[float, float]]],
) -> None:
    mask = DrawnMask(FRAME)
    done: list[tuple[bool, NDArray[np.bool_]]] = []
    undone: list[tuple[bool, NDArray[np.bool_]]] = []
    for what, one, other in chosen:
        if what == "undo":
            undone += [done.pop()] if done else []
            mask = mask.undo()
        elif what == "redo":
            done += [undone.pop()] if undone else []
            mask = mask.redo()
        else:
            before = mask
            mask = mask.rectangle(*one, *other, erase=what == "erase")
            assert before.undo() is not mask
            done.append((what == "erase", DrawnMask(FRAME).rectangle(*one, *other).array))
            undone = []
        expected = np.zeros(FRAME, bool)
        for erase, pixels in done:
            expected = expected & ~pixels if erase else expected | pixels
        assert np.array_equal(mask.array, expected)
    assert len(mask.shapes) == len(done)


def test_a_mask_is_not_changed_by_what_is_drawn_on_it() -> None:
    first = DrawnMask(FRAME).rectangle(0, 0, 2, 2)
    second = first.rectangle(5, 5, 6, 6)
    assert first.array.sum() == 9
    assert second.array.sum() == 13
    with pytest.raises(ValueError, match="read-only"):
        first.array[0, 0] = False


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda mask: mask.rectangle(0, 0, math.nan, 3), "y nan: must be a number"),
        (lambda mask: mask.rectangle(0, "a", 2, 3), "is not what it needs"),
        (lambda mask: mask.ellipse((2, 2), (0, 3)), "radii 0: must be above 0"),
        (lambda mask: mask.ellipse((2, 2, 2), (1, 3)), "is not what it needs"),
        (lambda mask: mask.ring((2, 2), 3, 2), "inner 3: must be from 0 to outer, 2"),
        (lambda mask: mask.polygon([(0, 0), (1, 1)]), "points: 2 given, must be at least 3"),
        (lambda mask: mask.brush([], 2), "points: 0 given, must be at least 1"),
        (lambda mask: mask.brush([(0, 0)], -1), "radius -1: must be above 0"),
        (lambda mask: mask.pixel(13, 0), r"\(13, 0\) is no pixel of a frame of 13 × 17"),
        (lambda mask: mask.pixel(0.5, 0), "is no pixel"),
        (lambda mask: mask.threshold(np.zeros((2, 2)), above=1), r"image has shape \(2, 2\), the mask \(13, 17\)"),
        (lambda mask: mask.threshold(np.zeros(FRAME)), "needs above or below"),
        (lambda mask: mask.pixels(np.zeros((2, 2))), r"pixels: has shape \(2, 2\)"),
        (lambda mask: mask.with_shape("star", False), "shape 'star': is unknown; must be one of rectangle"),
        (lambda _: DrawnMask((0, 3)), r"shape \(0, 3\): must be"),
    ],
)
def test_a_shape_that_is_none_is_refused(draw: Callable[[DrawnMask], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        draw(DrawnMask(FRAME))
