"""The peaks that the live page shows: which are chosen, and where each is found again, however frames come."""

import numpy as np
import pytest

from braggflow import peak_table
from braggflow.flow.following.courses import Courses


def peaks(*rows):
    """A table of (frame, y, x, intensity)."""
    table = peak_table.empty(len(rows))
    for name, values in zip(("peak_frame", "y", "x", "intensity"), np.array(rows, float).T, strict=True):
        table[name] = values
    return table


def test_the_brightest_of_the_first_frame_that_stand_apart_are_chosen():
    courses = Courses(None)
    courses.add(
        peaks(
            (3, 50, 50, 900),
            (3, 50, 69, 800),  # 19 px from a brighter one
            (3, 50, 71, 700),
            (3, 10, 200, 1000),
            (3, 29, 200, 950),
            *((3, 300 + 30 * n, 40, 100 - n) for n in range(4)),
            (4, 400, 400, 5000),  # of another frame
        )
    )
    assert list(courses.courses()) == ["(10, 200)", "(50, 50)", "(50, 71)", "(300, 40)", "(330, 40)"]


def test_a_peak_is_looked_for_where_it_was_in_the_nearest_frame_that_is_known():
    courses = Courses([(20.0, 20.0)])
    courses.add(peaks((0, 21, 20, 10), (0, 24, 24, 99)))
    courses.add(peaks((8, 25.5, 20, 10), (8, 60, 60, 10)))
    courses.add(peaks((9, 30, 20, 10)))  # from the place of frame 8, not of frame 0
    courses.add(peaks((1, 21.5, 20, 10), (1, 27, 20, 99)))  # late: from that of frame 0
    (found,) = courses.courses().values()
    np.testing.assert_array_equal(found, [(0, 21, 20), (1, 21.5, 20), (8, 25.5, 20), (9, 30, 20)])


@pytest.mark.parametrize(("away", "taken"), [(5.0, True), (5.1, False)])
def test_one_that_is_further_away_is_another(away, taken):
    courses = Courses([(20.0, 20.0)])
    courses.add(peaks((0, 20, 20, 10)))
    courses.add(peaks((1, 20, 20 + away, 10)))
    assert len(courses.courses()["(20, 20)"]) == 1 + taken


def test_without_peaks_there_are_none():
    courses = Courses(None)
    courses.add(peak_table.empty())
    assert courses.courses() == {}
    assert Courses([(1.0, 2.0)]).courses()["(1, 2)"].shape == (0, 3)
