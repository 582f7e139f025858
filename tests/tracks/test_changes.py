"""Changes of a course are found, and noise makes no more of them than is stated."""

import numpy as np
import pytest

from braggflow.tracks import change_points


@pytest.mark.parametrize("n", [20, 60, 200])
def test_noise_alone_is_parted_no_more_often_than_stated(n):
    rng = np.random.default_rng(n)
    time = np.arange(float(n))
    alarms = sum(bool(change_points(time, 3 + 0.2 * time + rng.normal(0, 1, n), 0.05)) for _ in range(400))
    # Four sigma of a binomial above 5 %.
    assert alarms <= 400 * 0.05 + 4 * np.sqrt(400 * 0.05)


@pytest.mark.parametrize(
    "course",
    [lambda t: np.where(t < 40, 0.0, 2.0), lambda t: np.maximum(t - 40, 0) * 0.2, lambda t: np.abs(t - 40) * 0.1],
)
def test_steps_and_kinks_are_found_where_they_are(course):
    time = np.arange(100.0)
    found = change_points(time, course(time) + np.random.default_rng(1).normal(0, 0.3, 100))
    assert len(found) == 1
    assert abs(found[0][0] - 40) <= 4
    assert found[0][1] < 0.01


def test_several_changes_come_in_order_and_missing_values_are_left_out():
    time = np.arange(120.0)
    value = np.where(time < 30, 0.0, np.where(time < 80, 3.0, 1.0)) + np.random.default_rng(2).normal(0, 0.2, 120)
    value[[5, 50, 51]] = np.nan
    assert [at for at, _ in change_points(time, value)] == [30, 80]


@pytest.mark.parametrize("value", [np.zeros(0), np.zeros(9), np.full(30, np.nan), np.zeros(30), np.arange(30.0)])
def test_short_empty_and_perfectly_straight_courses_have_none(value):
    assert change_points(np.arange(float(len(value))), value) == []
