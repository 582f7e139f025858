from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from braggflow.patches import State
from braggflow.simulate import PROFILE_DTYPE, PatchSimulation, expected_patches, limit_of_patches, simulate_patches
from braggflow.simulate.information_limit import cramer_rao


def profile(**values: float) -> NDArray[np.void]:
    """One profile, round and of height 1 at (5, 5) unless said."""
    row = np.zeros(1, PROFILE_DTYPE)
    for name, value in ({"y": 5, "x": 5, "height": 1, "sigma_major": 1, "sigma_minor": 1} | values).items():
        row[name] = value
    return row


@pytest.mark.parametrize(("sigma", "height"), [(1.5, 1000.0), (2.0, 50.0)])
def test_the_limit_of_a_well_sampled_peak_without_background_is_sigma_over_root_counts(
    sigma: float, height: float
) -> None:
    # A pixel's own width adds 1/12 px² to the variance of the positions counted (Sheppard's correction).
    p = profile(y=12, x=12, height=height, sigma_major=sigma, sigma_minor=sigma)
    counts = 2 * np.pi * sigma**2 * height
    expected = np.sqrt(sigma**2 + 1 / 12) / np.sqrt(counts)
    np.testing.assert_allclose(cramer_rao(p, size=25), expected, rtol=0.01)


def test_the_limit_of_an_elongated_peak_turns_with_it() -> None:
    values = {"y": 12, "x": 12, "height": 500, "sigma_major": 3, "sigma_minor": 1.5}
    along_x, along_y, slanted = (cramer_rao(profile(**values, angle=angle), size=25)[0] for angle in (0.0, 90.0, 45.0))
    assert along_x[1] == pytest.approx(2 * along_x[0], rel=0.03)
    np.testing.assert_allclose(along_x, along_y[::-1], rtol=1e-6)
    np.testing.assert_allclose(slanted**2, (along_x**2).mean(), rtol=1e-3)


def test_the_limit_grows_with_background_read_noise_missing_pixels_and_free_eta() -> None:
    def bound(usable: Any = None, read_noise: float = 0.0, **values: float) -> float:
        p = profile(height=300, sigma_major=1.2, **values)
        return float(cramer_rao(p, usable=usable, read_noise=read_noise)[0, 0])

    usable = np.ones((1, 11, 11), bool)
    assert bound(usable) == bound()
    usable[0, 6:] = False
    assert bound(background=10) > 1.02 * bound(background=1)
    assert bound(background=10, read_noise=5) > 1.02 * bound(background=10)
    assert bound(usable, background=10) > 1.2 * bound(background=10)
    assert bound(background=10, eta=1e-6, y=5.6) > bound(background=10, y=5.6)


def test_pixels_that_do_not_determine_the_position_give_an_infinite_limit() -> None:
    usable = np.zeros((2, 11, 11), bool)
    usable[1, 5, 3:8] = True
    bound = cramer_rao(np.repeat(profile(height=100, background=1), 2), usable=usable)
    assert np.isinf(bound[0]).all()
    assert np.isinf(bound[1, 0])
    assert 0.05 < bound[1, 1] < 0.5  # the row through the centre still shows where the peak is along x


def test_maximum_likelihood_fits_scatter_as_the_limit_says() -> None:
    rng = np.random.default_rng(5)
    truth = profile(y=5.2, x=4.9, height=400, sigma_major=1.6, sigma_minor=1.1, angle=30, background=5)
    expected = expected_patches(truth, 11)[0]
    names = ("y", "x", "height", "sigma_major", "sigma_minor", "angle", "background")
    start = np.array([truth[name][0] for name in names])
    scale = np.array([0.05, 0.05, 20, 0.05, 0.05, 5, 0.3])

    def misfit(parameters: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
        p = profile(**dict(zip(names, start + scale * parameters, strict=True)))
        mean = np.maximum(expected_patches(p, 11)[0], 1e-9)
        return float((mean - counts * np.log(mean)).sum())

    fits = [minimize(misfit, np.zeros(7), rng.poisson(expected), method="BFGS").x[:2] for _ in range(150)]
    bound = cramer_rao(truth)[0]
    np.testing.assert_allclose(np.std(fits, axis=0) * scale[:2], bound, rtol=0.2)  # 150 fits: 6% each


def test_a_neighbour_far_away_changes_nothing_and_a_near_one_costs_precision() -> None:
    own = profile(height=300, sigma_major=1.2, background=3)
    alone = cramer_rao(own)[0]
    bounds = []
    for distance in (30.0, 4.0, 3.0):
        near = profile(height=500, x=5 + distance)[:, None]
        bounds.append(cramer_rao(own, neighbours=near)[0])
    np.testing.assert_allclose(bounds[0], alone, rtol=1e-3)
    assert bounds[1][1] > 1.02 * alone[1]
    assert bounds[2][1] > 1.2 * bounds[1][1]
    none = profile(height=0, x=8)[:, None]
    np.testing.assert_allclose(cramer_rao(own, neighbours=none)[0], alone, rtol=1e-12)


def test_two_equal_peaks_have_equal_limits_whichever_is_called_the_neighbour() -> None:
    left, right = (profile(height=400, x=x, sigma_major=1.3, angle=20, background=2) for x in (3.5, 6.5))
    bounds = [cramer_rao(one, neighbours=other[:, None])[0] for one, other in ((left, right), (right, left))]
    np.testing.assert_allclose(bounds[0], bounds[1], rtol=1e-6)


def test_the_limit_of_scenes_is_that_of_their_usable_pixels_and_noise() -> None:
    drawn = simulate_patches(300, rng=np.random.default_rng(3), config=PatchSimulation(outlier_share=0))
    bounds = limit_of_patches(drawn)
    for k in (0, 7, 150, 299):
        one = cramer_rao(
            drawn.profiles[k : k + 1],
            neighbours=drawn.neighbours[k : k + 1],
            usable=drawn.state[k : k + 1] <= State.OTHER,
            read_noise=drawn.read_noise[k],
        )[0]
        np.testing.assert_allclose(bounds[k], one, rtol=1e-9)
