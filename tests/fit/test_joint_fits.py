"""Joint fits of a peak with its neighbours: at the information limit, unhurt by neighbours that tell little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from braggflow.config import FitConfig
from braggflow.fit import fit_patches
from braggflow.patches import State, others
from braggflow.simulate import (
    CLASSES,
    FWHM_PER_SIGMA,
    PROFILE_DTYPE,
    PatchSimulation,
    expected_patches,
    limit_of_patches,
    simulate_patches,
)
from braggflow.simulate.information_limit import cramer_rao

SIZE, CENTRE = 11, 5
GAUSSIAN = FitConfig(model="gaussian")
VOIGT = FitConfig(model="pseudo_voigt")
VALUES = {"y": 5.2, "x": 4.7, "height": 800.0, "sigma_major": 1.5, "sigma_minor": 1.1, "angle": 30.0, "eta": 0.0}


def profiles(n: int, **values: object) -> NDArray[np.void]:
    peaks = np.zeros(n, PROFILE_DTYPE)
    for name, value in (VALUES | values).items():
        peaks[name] = value
    return peaks


def fitted(
    counts: NDArray[np.floating], neighbours: object, config: FitConfig = GAUSSIAN, **noise: float
) -> NDArray[np.void]:
    """Fits of patches whose neighbours (k, 2) or (n, k, 2), (dy, dx), own the pixels that are nearer to them."""
    neighbours = np.broadcast_to(np.asarray(neighbours, np.float32), (len(counts), *np.shape(neighbours)[-2:]))
    state = np.where(others(neighbours, counts.shape[1]), np.uint8(State.OTHER), np.uint8(State.OWN))
    return fit_patches(np.asarray(counts, np.float32), state, neighbours, config, **noise)


def errors(found: NDArray[np.void], truth: NDArray[np.void]) -> NDArray[np.float64]:
    return np.stack([found["y"] - truth["y"], found["x"] - truth["x"]], axis=1)


def rms(error: NDArray[np.float64]) -> float:
    """Root mean square; errors above 2 px and fits that failed (NaN) count as 2 px."""
    return float(np.sqrt(np.mean(np.nan_to_num(np.minimum(np.abs(error), 2), nan=2) ** 2)))


@pytest.mark.parametrize(("config", "eta"), [(GAUSSIAN, 0.0), (VOIGT, 0.4)])
@pytest.mark.parametrize("places", [[(4, 0)], [(-3, 4), (5, -1)], [(0, 5), (-5, -2), (5, -4)]])
def test_every_parameter_of_a_noise_free_peak_among_others_is_recovered(
    places: list[tuple[int, int]], config: FitConfig, eta: float
) -> None:
    truth = profiles(1, eta=eta, background=12.0)
    counts = expected_patches(truth, SIZE)
    for k, (dy, dx) in enumerate(places):
        other = {"height": (1500.0, 300.0, 700.0)[k], "sigma_major": (1.2, 1.7, 1.4)[k], "angle": -50.0 * k}
        counts += expected_patches(profiles(1, y=CENTRE + dy + 0.3, x=CENTRE + dx - 0.4, eta=eta, **other), SIZE)
    found = fitted(counts, places, config)
    assert found["converged"].all()
    assert np.abs(errors(found, truth)).max() < 2e-3
    assert found["amplitude"] == pytest.approx(800, rel=0.01)
    assert found["background"] == pytest.approx(12, abs=0.5)
    assert found["fwhm_major"] == pytest.approx(FWHM_PER_SIGMA * 1.5, rel=0.01)
    assert found["eta"] == pytest.approx(eta, abs=0.01)


@pytest.mark.parametrize(
    ("model", "gain", "read_noise"),
    [("gaussian", 1.0, 0.0), ("gaussian", 20.0, 10.0), ("pseudo_voigt", 1.0, 0.0)],
)
def test_errors_beside_neighbours_reach_the_cramer_rao_limit_and_are_what_the_fit_says(
    model: str, gain: float, read_noise: float
) -> None:
    eta = (0.2, 0.8) if model == "pseudo_voigt" else (0.0, 0.0)
    config = CLASSES["neighbour"].model_copy(update={"eta": eta})
    rng = np.random.default_rng(21)
    patches = simulate_patches(2000, rng=rng, config=config)
    counts = gain * (patches.counts + read_noise * rng.standard_normal(patches.counts.shape, np.float32))
    noise = {"counts_per_photon": gain, "read_noise": gain * read_noise}
    found = fit_patches(counts, patches.state, patches.maxima, FitConfig(model=model), **noise)
    deviations = cramer_rao(patches.profiles, neighbours=patches.neighbours, read_noise=read_noise)
    error = errors(found, patches.profiles)
    assert rms(error) / rms(deviations) < 1.3
    assert np.abs(np.nanmean(error, axis=0)).max() < 0.01
    assert np.nanmedian(found["chi2"]) == pytest.approx(1, abs=0.05)
    pull = np.abs(error / np.stack([found["y_std"], found["x_std"]], axis=1))[found["converged"]]
    assert np.mean(pull < 1) == pytest.approx(0.683, abs=0.025)
    assert np.mean(pull < 2) == pytest.approx(0.954, abs=0.015)
    left_out = np.where(patches.state == State.OTHER, np.uint8(State.MISSING), patches.state)
    alone = fit_patches(counts, left_out, np.full_like(patches.maxima, np.nan), FitConfig(model=model), **noise)
    assert rms(errors(alone, patches.profiles)) > 2 * rms(error)


def test_the_prior_leaves_the_position_to_the_pixels_where_these_tell_enough() -> None:
    rng = np.random.default_rng(22)
    truth = profiles(500, y=CENTRE + rng.uniform(-0.5, 0.5, 500), background=10.0)
    # Half as wide as the prior expects, and told to be a pixel beside where it is.
    other = profiles(500, y=CENTRE + 1.3, x=CENTRE + 4.4, sigma_major=0.7, sigma_minor=0.6, height=1500.0)
    counts = rng.poisson(expected_patches(truth, SIZE) + expected_patches(other, SIZE))
    found, misled = fitted(counts, [(1, 4)]), fitted(counts, [(2, 5)])
    deviations = cramer_rao(truth, neighbours=other[:, None])
    for one in (found, misled):
        error = errors(one, truth)
        assert rms(error) / rms(deviations) < 1.05
        assert np.abs(error.mean(axis=0)).max() < 0.003
    assert np.abs((found["y"] - misled["y"]) / found["y_std"]).max() < 0.1
    assert np.abs((found["x"] - misled["x"]) / found["x_std"]).max() < 0.1


@pytest.mark.parametrize("place", [(0, 8), (-8, 8), (7, -2)])
def test_a_neighbour_of_which_the_patch_shows_next_to_nothing_does_no_harm(place: tuple[int, int]) -> None:
    rng = np.random.default_rng(23)
    truth = profiles(1000, y=CENTRE + rng.uniform(-0.5, 0.5, 1000), height=rng.uniform(50, 1000, 1000), background=5.0)
    other = profiles(1000, y=CENTRE + place[0], x=CENTRE + place[1], height=2000.0)
    counts = rng.poisson(expected_patches(truth, SIZE) + expected_patches(other, SIZE))
    found = fitted(counts, [place])
    assert found["converged"].all()
    assert rms(errors(found, truth)) / rms(cramer_rao(truth)) < 1.15


def test_a_neighbour_that_is_not_there_does_no_harm() -> None:
    rng = np.random.default_rng(24)
    patches = simulate_patches(2000, rng=rng, config=CLASSES["sampled"])
    angle, distance = rng.uniform(0, 2 * np.pi, 2000), rng.uniform(4, 8, 2000)
    invented = np.round(np.stack([distance * np.sin(angle), distance * np.cos(angle)], axis=1))[:, None, :]
    found = fitted(patches.counts, invented)
    assert found["converged"].mean() > 0.999
    assert rms(errors(found, patches.profiles)) / rms(limit_of_patches(patches)) < 1.2


def test_a_saturated_neighbour_and_a_saturated_peak_are_fitted_together() -> None:
    rng = np.random.default_rng(25)
    truth = profiles(500, y=CENTRE + rng.uniform(-0.5, 0.5, 500), background=10.0)
    other = profiles(500, y=CENTRE - 4.2, x=CENTRE + 2.9, height=3000.0)
    counts = rng.poisson(expected_patches(truth, SIZE) + expected_patches(other, SIZE))
    neighbours = np.full((500, 1, 2), (-4, 3), np.float32)
    state = np.where(others(neighbours, SIZE), np.uint8(State.OTHER), np.uint8(State.OWN))
    state[counts > 400] = State.FULL
    results = [
        fit_patches(np.where(counts > 400, held, counts).astype(np.float32), state, neighbours, GAUSSIAN)
        for held in (400, 0, np.nan)
    ]
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
    deviations = cramer_rao(truth, neighbours=other[:, None], usable=state <= State.OTHER)
    assert rms(errors(results[0], truth)) / rms(deviations) < 1.2


def test_without_a_finite_neighbour_the_fit_is_that_of_one_peak_to_the_last_bit() -> None:
    counts = simulate_patches(300, rng=np.random.default_rng(26)).counts
    alone = fitted(counts, np.empty((0, 2)))
    assert fitted(counts, [(np.nan, np.nan)] * 3).tobytes() == alone.tobytes()
    assert fitted(counts, [(np.nan, 3.0), (2.0, np.nan)]).tobytes() == alone.tobytes()


@given(seed=st.integers(0, 2**32 - 1), model=st.sampled_from(["gaussian", "pseudo_voigt"]))
@settings(max_examples=15)
def test_a_joint_fit_does_not_depend_on_its_batch_to_the_last_bit(seed: int, model: str) -> None:
    rng = np.random.default_rng(seed)
    config = PatchSimulation(neighbour_share=0.6, saturated_share=0.3)
    patches = simulate_patches(30, rng=rng, config=config)
    order = rng.permutation(30)[: rng.integers(1, 31)]
    whole = fit_patches(patches.counts, patches.state, patches.maxima, FitConfig(model=model))
    part = fit_patches(patches.counts[order], patches.state[order], patches.maxima[order], FitConfig(model=model))
    assert part.tobytes() == whole[order].tobytes()


def test_turning_or_mirroring_a_patch_turns_its_result() -> None:
    patches = simulate_patches(500, rng=np.random.default_rng(27), config=CLASSES["neighbour"])
    here = fit_patches(patches.counts, patches.state, patches.maxima, GAUSSIAN)
    turned = fit_patches(
        patches.counts.transpose(0, 2, 1)[:, ::-1],
        patches.state.transpose(0, 2, 1)[:, ::-1],
        patches.maxima[..., ::-1] * np.float32([-1, 1]),
        GAUSSIAN,
    )
    assert np.abs((SIZE - 1 - turned["y"] - here["x"]) / here["x_std"]).max() < 0.1
    assert np.abs((turned["x"] - here["y"]) / here["y_std"]).max() < 0.1


@given(seed=st.integers(0, 2**32 - 1), likelihood=st.sampled_from(["poisson", "least_squares"]))
@settings(max_examples=30)
def test_any_input_gives_numbers_or_all_nan(seed: int, likelihood: str) -> None:
    rng = np.random.default_rng(seed)
    size, n_neighbours = rng.choice([3, 5, 9, 11, 15]), rng.integers(1, 4)
    counts = rng.normal(0, 1, (30, size, size)) * 10.0 ** rng.uniform(-6, 6, (30, 1, 1))
    counts[rng.random(counts.shape) < 0.1] *= 1000
    counts[rng.random(counts.shape) < 0.05] = rng.choice([np.nan, np.inf, 0, 3e38])
    state = rng.choice(4, counts.shape, p=rng.dirichlet([3, 2, 1, 1])).astype(np.uint8)
    neighbours = rng.integers(-size // 2 - 3, size // 2 + 4, (30, n_neighbours, 2)).astype(np.float32)
    neighbours[rng.random((30, n_neighbours)) < 0.3] = np.nan
    config = FitConfig(model=str(rng.choice(["gaussian", "pseudo_voigt"])), likelihood=likelihood)
    found = fit_patches(counts.astype(np.float32), state, neighbours, config, counts_per_photon=3.0, read_noise=2.0)
    for one in found:
        values = np.array([one[name] for name in found.dtype.names[:11]])
        assert np.isfinite(values).all() if one["converged"] else np.isnan(values).all()
