"""The filter and the smoother against the solution of the whole least-squares problem."""

import numpy as np
import pytest
from numpy.typing import NDArray

from braggflow.tracks.motion_model import likeliest_wander, misfit, smooth_tracks


def dense(
    time: NDArray[np.float64], places: NDArray[np.float64], q: float, speed_variance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States (n, 4) and covariances (n, 4, 4) from the normal equations of all states at once."""
    n = len(time)
    matrix, right = np.zeros((4 * n, 4 * n)), np.zeros(4 * n)
    matrix[2, 2] = matrix[3, 3] = 1 / speed_variance
    for k in range(n):
        here = slice(4 * k, 4 * k + 4)
        yy, yx, xx = places[k, 2:]
        weight = np.linalg.inv([[yy, yx], [yx, xx]])
        matrix[4 * k : 4 * k + 2, 4 * k : 4 * k + 2] += weight
        right[4 * k : 4 * k + 2] += weight @ places[k, :2]
        if k:
            dt = time[k] - time[k - 1]
            step = np.eye(4) + dt * np.eye(4, k=2)
            walk = np.linalg.inv(q * np.kron([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]], np.eye(2)))
            before = slice(4 * k - 4, 4 * k)
            matrix[here, here] += walk
            matrix[before, before] += step.T @ walk @ step
            matrix[here, before] -= walk @ step
            matrix[before, here] -= step.T @ walk
    covariance = np.linalg.inv(matrix)
    return (covariance @ right).reshape(n, 4), np.array(
        [covariance[4 * k : 4 * k + 4, 4 * k : 4 * k + 4] for k in range(n)]
    )


def course(n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.integers(1, 5, n)).astype(np.float64)
    places = np.zeros((n, 5))
    places[:, 2], places[:, 4] = rng.uniform(0.001, 0.4, (2, n))
    places[:, 3] = rng.uniform(-0.9, 0.9, n) * np.sqrt(places[:, 2] * places[:, 4])
    places[:, :2] = np.sin(time / 40)[:, None] + np.sqrt(places[:, 2:5:2]) * rng.standard_normal((n, 2)) * 0.5
    return time, places


@pytest.mark.parametrize(("n", "q"), [(1, 0.1), (2, 0.1), (7, 0.01), (60, 0.3), (60, 1e-5)])
def test_a_track_is_smoothed_as_all_its_positions_at_once_say(n, q):
    time, places = course(n, seed=n)
    states, covariances = smooth_tracks(np.array([0, n]), time, places, np.array([q]), 0.04)
    expected, of_states = dense(time, places, q, 0.04)
    np.testing.assert_allclose(states, expected, atol=1e-8)
    np.testing.assert_allclose(covariances, of_states, atol=1e-8)


def test_variances_stay_positive_where_precise_and_vague_positions_alternate():
    time, places = course(400, seed=5)
    places[::2, 2:] *= 1e-3
    places[7::11, 2:] *= 300
    _, covariances = smooth_tracks(np.array([0, 400]), time, places, np.array([0.3]), 0.03)
    assert (np.linalg.eigvalsh(covariances) > 0).all()
    assert (covariances[:, 0, 0] <= places[:, 2] * (1 + 1e-9)).all()


def test_tracks_do_not_see_each_other():
    pieces = [course(n, seed=n) for n in (5, 1, 30)]
    starts = np.array([0, 5, 6, 36])
    together = smooth_tracks(
        starts, np.concatenate([t for t, _ in pieces]), np.concatenate([p for _, p in pieces]), np.full(3, 0.1), 1.0
    )
    for (time, places), first, stop in zip(pieces, starts[:-1], starts[1:], strict=True):
        alone = smooth_tracks(np.array([0, len(time)]), time, places, np.array([0.1]), 1.0)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a[first:stop], b)


def test_one_position_far_off_does_not_bend_the_path():
    time = np.arange(41.0)
    places = np.tile([0.0, 0.0, 0.01, 0.0, 0.01], (41, 1))
    places[20, :2] = 5, -5
    states, _ = smooth_tracks(np.array([0, 41]), time, places, np.array([1e-3]), 1.0)
    assert np.abs(states[:, :2]).max() < 0.1


@pytest.mark.parametrize("q", [1e-4, 1e-2, 1.0])
def test_the_strength_of_the_walk_is_found(q):
    rng = np.random.default_rng(3)
    n = 400
    velocity = np.cumsum(np.sqrt(q) * rng.standard_normal((n, 2)), axis=0)
    places = np.full((n, 5), 0.0025)
    places[:, 3] = 0
    places[:, :2] = np.cumsum(velocity, axis=0) + 0.05 * rng.standard_normal((n, 2))
    found = likeliest_wander(np.array([0, n]), np.arange(float(n)), places, 1e-2, 1.0, 3.0)[0]
    assert 0.5 < found / q < 2
    assert misfit(np.arange(float(n)), places, found, 1.0) <= misfit(np.arange(float(n)), places, 5 * q, 1.0)
