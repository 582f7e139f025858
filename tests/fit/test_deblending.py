"""Several peaks in one patch: told apart where the counts say so, and single ones left alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from braggflow.config import FitConfig
from braggflow.fit import Deblended, deblend, fit_patches
from braggflow.fit.deblending import SUSPECT
from braggflow.patches import State, others
from braggflow.simulate import CLASSES, PROFILE_DTYPE, expected_patches, simulate_patches

SIZE, CENTRE = 11, 5
GAUSSIAN, VOIGT = FitConfig(), FitConfig(model="pseudo_voigt")
VALUES = {"sigma_major": 1.2, "sigma_minor": 1.0, "angle": 30.0, "eta": 0.0, "background": 0.0}


def expected(*peaks: tuple[float, float, float], background: float = 8.0, **shape: float) -> NDArray[np.float64]:
    """A patch (1, y, x) of peaks (y, x, height) of one shape."""
    mean = np.full((1, SIZE, SIZE), background)
    for y, x, height in peaks:
        profile = np.zeros(1, PROFILE_DTYPE)
        for name, value in (VALUES | shape | {"y": y, "x": x, "height": height}).items():
            profile[name] = value
        mean += expected_patches(profile, SIZE)
    return mean


def noisy(mean: NDArray[np.float64], n: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).poisson(np.repeat(mean, n, axis=0)).astype(np.float32)


def judged(
    counts: NDArray[np.floating],
    config: FitConfig = GAUSSIAN,
    *,
    state: NDArray[np.uint8] | None = None,
    neighbours: NDArray[np.float32] | None = None,
    **noise: float,
) -> Deblended:
    n = len(counts)
    neighbours = np.full((n, 3, 2), np.nan, np.float32) if neighbours is None else neighbours
    state = np.where(others(neighbours, SIZE), np.uint8(State.OTHER), np.uint8(State.OWN)) if state is None else state
    counts = np.asarray(counts, np.float32)
    fits = fit_patches(counts, state, neighbours, config, **noise)
    return deblend(counts, state, neighbours, config, fits, **noise)


@pytest.mark.parametrize("config", [GAUSSIAN, VOIGT])
@pytest.mark.parametrize("ratio", [1, 3, 10])
def test_a_pair_is_two_peaks_each_as_certain_as_it_says(config: FitConfig, ratio: float) -> None:
    first, second = (5.2, 4.4, 1500.0), (4.9, 6.9, 1500.0 / ratio)
    found = judged(noisy(expected(first, second), 300), config)
    assert found.split.mean() > 0.97
    assert found.blend.sum() + found.split.sum() <= 300
    main = found.fits[found.patch]
    swapped = main["x"] > found.further["x"]  # of two equal peaks either may be the main one
    assert ratio == 1 or not swapped.any()
    for fits, at in ((main, first), (found.further, second)):
        right = fits[~swapped]
        errors = np.column_stack([right["y"] - at[0], right["x"] - at[1]])
        std = np.column_stack([right["y_std"], right["x_std"]])
        assert abs(np.mean(np.abs(errors / std) < 1) - 0.683) < 0.08
        assert np.median(right["amplitude"]) == pytest.approx(at[2], rel=0.05)
        assert np.median(right["fwhm_major"]) == pytest.approx(1.2 * 2.3548, rel=0.05)


@pytest.mark.parametrize(
    "name", ["sharp", "sampled", "broad", "elongated", "pseudo_voigt", "faint", "neighbour", "edge"]
)
def test_single_peaks_stay_single(name: str) -> None:
    drawn = simulate_patches(3000, rng=np.random.default_rng(4), config=CLASSES[name])
    fits = fit_patches(drawn.counts, drawn.state, drawn.maxima, GAUSSIAN)
    found = deblend(drawn.counts, drawn.state, drawn.maxima, GAUSSIAN, fits)
    assert found.split.mean() <= 0.001
    assert found.blend.mean() <= 0.01
    unchanged = ~found.split & ~found.blend & ~found.fits["voigt"]
    assert found.fits[unchanged].tobytes() == fits[unchanged].tobytes()
    assert name == "pseudo_voigt" or unchanged.mean() > 0.99


def test_a_pseudo_voigt_peak_fitted_with_a_gaussian_gets_the_pseudo_voigts_numbers() -> None:
    found = judged(noisy(expected((5.2, 4.7, 1500.0), eta=0.5), 200))
    assert not found.split.any()
    assert found.fits["voigt"].mean() > 0.95
    chosen = found.fits[found.fits["voigt"]]
    assert np.median(chosen["eta"]) == pytest.approx(0.5, abs=0.1)
    assert np.median(chosen["chi2"]) == pytest.approx(1, abs=0.1)
    deviations = np.abs((chosen["y"] - 5.2) / chosen["y_std"])
    assert abs(np.mean(deviations < 1) - 0.683) < 0.12


def test_a_pair_of_pseudo_voigts_is_two() -> None:
    found = judged(noisy(expected((5.1, 4.6, 3000.0), (5.4, 7.4, 1500.0), eta=0.5), 50))
    assert found.split.mean() > 0.9
    assert found.further["voigt"].mean() > 0.9
    assert np.median(found.further["x"]) == pytest.approx(7.4, abs=0.05)


def test_three_peaks_are_three() -> None:
    found = judged(noisy(expected((5.0, 4.4, 3000.0), (5.4, 7.2, 1500.0), (7.6, 4.6, 1200.0)), 30))
    number = np.bincount(found.patch, minlength=30)
    assert np.mean(number == 2) > 0.9
    of_three = found.further[number[found.patch] == 2].reshape(-1, 2)
    assert np.all(of_three["amplitude"][:, 0] >= of_three["amplitude"][:, 1])
    np.testing.assert_allclose(np.median(np.sort(of_three["x"], axis=1), axis=0), [4.6, 7.2], atol=0.1)


def test_what_cannot_be_told_apart_is_a_blend_and_says_how_far_off_it_may_be() -> None:
    mean = expected((5.0, 4.3, 300.0), (5.1, 6.1, 300.0), sigma_major=1.1, sigma_minor=1.1)
    found = judged(noisy(mean, 600))
    blend = found.fits[found.blend]
    assert len(blend) > 20
    off = np.minimum(np.abs(blend["x"] - 4.3), np.abs(blend["x"] - 6.1)) / blend["x_std"]
    assert np.mean(off < 3) > 0.95


def test_a_pair_beside_a_listed_neighbour_is_two_and_the_neighbour_is_none_of_them() -> None:
    neighbours = np.full((40, 3, 2), np.nan, np.float32)
    neighbours[:, 0] = (5, -1)
    counts = noisy(expected((5.1, 4.2, 2000.0), (4.8, 7.0, 900.0), (10.1, 3.9, 1500.0)), 40)
    found = judged(counts, neighbours=neighbours)
    assert found.split.mean() > 0.9
    np.testing.assert_allclose(np.median(found.further["x"]), 7.0, atol=0.05)
    assert np.all(found.further["y"] < 7)


def test_a_second_peak_is_never_on_pixels_that_are_not_the_peaks_own() -> None:
    counts = noisy(expected((5.1, 4.4, 2000.0), (4.9, 7.2, 900.0)), 20)
    state = np.zeros(counts.shape, np.uint8)
    state[:, 4:7, 7] = State.MISSING
    assert not judged(counts, state=state).split.any()


def test_patches_with_saturated_pixels_are_not_tested() -> None:
    counts = noisy(expected((5.1, 4.4, 2000.0), (4.9, 7.2, 900.0)), 5)
    state = np.zeros(counts.shape, np.uint8)
    state[:, 5, 4] = State.FULL
    found = judged(counts, state=state)
    assert not found.split.any()
    assert np.isnan(found.fits["misfit"]).all()


@pytest.mark.parametrize("config", [FitConfig(deblend=False), FitConfig(likelihood="least_squares")])
def test_nothing_is_told_apart_where_that_was_not_asked_for_or_the_noise_is_not_known(config: FitConfig) -> None:
    counts = noisy(expected((5.1, 4.4, 2000.0), (4.9, 7.2, 900.0)), 5)
    found = judged(counts, config)
    assert not found.split.any()
    assert not found.blend.any()
    assert not len(found.further)


def test_no_patches_are_no_peaks() -> None:
    found = judged(np.empty((0, SIZE, SIZE)))
    assert len(found.fits) == len(found.further) == len(found.patch) == 0


def test_gain_and_read_noise_change_units_and_not_what_is_found() -> None:
    rng = np.random.default_rng(2)
    photons = noisy(expected((5.1, 4.4, 1500.0), (4.9, 7.0, 700.0)), 30) + rng.normal(0, 3, (30, SIZE, SIZE))
    plain, gained = judged(photons, read_noise=3.0), judged(2.5 * photons, counts_per_photon=2.5, read_noise=7.5)
    np.testing.assert_array_equal(plain.patch, gained.patch)
    np.testing.assert_allclose(gained.further["x"], plain.further["x"], atol=1e-3)
    np.testing.assert_allclose(gained.further["amplitude"], 2.5 * plain.further["amplitude"], rtol=1e-3)
    np.testing.assert_allclose(gained.further["background"], 2.5 * plain.further["background"], atol=0.2)
    assert len(plain.patch) > 25


def test_a_wrong_gain_splits_no_single_peaks() -> None:
    drawn = simulate_patches(2000, rng=np.random.default_rng(6), config=CLASSES["sampled"])
    found = judged(4 * drawn.counts, state=drawn.state)
    assert found.split.mean() <= 0.001
    assert found.blend.mean() <= 0.01


@settings(max_examples=15)
@given(st.permutations(range(24)), st.integers(1, 24))
def test_what_is_found_in_a_patch_does_not_depend_on_the_others(order: list[int], first: int) -> None:
    mean = np.concatenate([expected((5.1, 4.6, 1200.0), (5.0, 6.6, h)) for h in (0.0, 150.0, 500.0, 1200.0)])
    counts = noisy(mean, 6)
    whole, part = judged(counts), judged(counts[order[:first]])
    chosen = np.array(order[:first])
    np.testing.assert_array_equal(part.split, whole.split[chosen])
    np.testing.assert_array_equal(part.blend, whole.blend[chosen])
    assert part.fits.tobytes() == whole.fits[chosen].tobytes()
    for k, patch in enumerate(chosen):
        np.testing.assert_array_equal(part.further[part.patch == k], whole.further[whole.patch == patch])


def test_scores_of_residuals_are_as_large_as_noise_makes_them_and_larger_for_pairs() -> None:
    single = judged(noisy(expected((5.2, 4.7, 800.0)), 2000)).fits
    assert 4 < single["misfit"].mean() < 9
    assert np.mean(single["misfit"] > SUSPECT * np.fmax(single["chi2"], 1)) < 0.01
    pair = fit_patches(
        noisy(expected((5.2, 4.2, 1500.0), (5.0, 6.8, 500.0)), 100),
        np.zeros((100, SIZE, SIZE), np.uint8),
        np.full((100, 3, 2), np.nan, np.float32),
        GAUSSIAN,
    )
    assert np.median(pair["misfit"]) > 2 * SUSPECT
