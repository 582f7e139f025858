"""Fits of one peak keep their promises: unbiased, at the Poisson optimum, honest errors, independent of the batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import least_squares

from braggflow.config import FitConfig
from braggflow.errors import InputError
from braggflow.fit import fit_patches
from braggflow.fit.patch_fits import FIT_DTYPE
from braggflow.fit.solver import MIN_SIGMA
from braggflow.patches import State
from braggflow.simulate import (
    CLASSES,
    PROFILE_DTYPE,
    SimulatedPatches,
    expected_patches,
    limit_of_patches,
    sample_profiles,
    simulate_patches,
)
from braggflow.simulate.information_limit import cramer_rao

GAUSSIAN = FitConfig(model="gaussian")
VOIGT = FitConfig(model="pseudo_voigt")
FWHM = 2 * np.sqrt(2 * np.log(2))
NUMBERS = [name for name in FIT_DTYPE.names if name not in ("iterations", "converged", "at_bound", "voigt")]
NODES, WEIGHTS = (part / 2 for part in np.polynomial.legendre.leggauss(10))


def integrated(profiles: NDArray[np.void], size: int = 11) -> NDArray[np.float32]:
    """Pixel integrals by 10 × 10 Gauss–Legendre nodes, written out from the definition of the profile."""
    pixel = (np.arange(size)[:, None] + NODES).ravel()
    weights = np.tile(WEIGHTS, size)
    patches = np.empty((len(profiles), size, size))
    for patch, p in zip(patches, profiles, strict=True):
        dy, dx = (pixel - p["y"])[:, None], (pixel - p["x"])[None, :]
        along_x, along_y = np.cos(np.radians(p["angle"])), np.sin(np.radians(p["angle"]))
        along, across = dx * along_x + dy * along_y, dy * along_x - dx * along_y
        q = (along / p["sigma_major"]) ** 2 + (across / p["sigma_minor"]) ** 2
        profile = (1 - p["eta"]) * np.exp(-q / 2) + p["eta"] / (1 + q / (2 * np.log(2)))
        means = (profile * weights[:, None] * weights).reshape(size, len(NODES), size, len(NODES)).sum(axis=(1, 3))
        patch[:] = p["height"] * means + p["background"]
    return patches


def profile(**values: object) -> NDArray[np.void]:
    """Profiles of the given values, others at a default; arrays set the number of profiles."""
    default = {"y": 5.2, "x": 4.7, "height": 800.0, "sigma_major": 1.6, "sigma_minor": 1.1, "angle": 30.0}
    given = np.broadcast_arrays(*(default | {"eta": 0.0, "background": 12.0} | values).values())
    profiles = np.empty(given[0].shape, PROFILE_DTYPE).ravel()
    for name, value in zip(default | {"eta": 0.0, "background": 12.0} | values, given, strict=True):
        profiles[name] = value.ravel()
    return profiles


def fitted(
    counts: NDArray[np.floating],
    config: FitConfig = GAUSSIAN,
    usable: NDArray[np.bool_] | None = None,
    **noise: float,
) -> NDArray[np.void]:
    """Fits of peaks without neighbours; pixels that are not usable are missing."""
    counts = np.asarray(counts, np.float32)
    state = np.full(counts.shape, State.OWN, np.uint8)
    if usable is not None:
        state[~usable] = State.MISSING
    return fit_patches(counts, state, np.empty((len(counts), 0, 2), np.float32), config, **noise)


def simulated(
    n: int, kind: str, seed: int, config: FitConfig = GAUSSIAN, **noise: float
) -> tuple[NDArray[np.void], SimulatedPatches]:
    """Fits of simulated patches of a class of `simulate.CLASSES`, and those patches."""
    patches = simulate_patches(n, rng=np.random.default_rng(seed), config=CLASSES[kind])
    return fit_patches(patches.counts, patches.state, patches.maxima, config, **noise), patches


def rms_over_limit(
    found: NDArray[np.void], truth: NDArray[np.void], deviations: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Root mean square of the errors, a failed fit's being 2 px, over the limit's; and the errors (n, 2)."""
    error = np.stack([found["y"] - truth["y"], found["x"] - truth["x"]], axis=1)
    clipped = np.where(found["converged"][:, None], np.clip(np.abs(error), 0, 2), 2)
    return float(np.sqrt(np.mean(clipped**2) / np.mean(deviations**2))), error


def check_calibration(found: NDArray[np.void], error: NDArray[np.float64]) -> None:
    pull = np.abs(error / np.stack([found["y_std"], found["x_std"]], axis=1))[found["converged"]]
    assert np.mean(pull < 1) == pytest.approx(0.683, abs=0.025)
    assert np.mean(pull < 2) == pytest.approx(0.954, abs=0.015)


@pytest.mark.parametrize("angle", [-89.0, -60.0, -45.0, -10.0, 0.0, 20.0, 45.0, 80.0, 90.0])
@pytest.mark.parametrize(("config", "eta"), [(GAUSSIAN, 0.0), (VOIGT, 0.4)])
def test_every_parameter_of_a_noise_free_peak_is_recovered(config: FitConfig, eta: float, angle: float) -> None:
    truth = profile(angle=angle, eta=eta)
    found = fitted(integrated(truth), config)
    assert found["converged"].all()
    for name in ("y", "x"):
        assert found[name] == pytest.approx(truth[name], abs=1e-4)
    assert found["amplitude"] == pytest.approx(truth["height"], rel=1e-3)
    assert found["background"] == pytest.approx(truth["background"], abs=0.05)
    assert found["fwhm_major"] == pytest.approx(FWHM * truth["sigma_major"], rel=1e-3)
    assert found["fwhm_minor"] == pytest.approx(FWHM * truth["sigma_minor"], rel=1e-3)
    assert abs((found["angle"] - angle + 90) % 180 - 90) < 0.05
    assert (found["angle"] > -90).all()
    assert (found["angle"] <= 90).all()
    assert found["eta"] == pytest.approx(truth["eta"], abs=1e-3)


def test_the_angle_runs_from_x_towards_y() -> None:
    counts = np.full((1, 11, 11), 1.0)
    for step, height in zip(range(-3, 4), (10, 40, 80, 100, 80, 40, 10), strict=True):
        counts[0, 5 + step, 5 + step] += height  # to larger y with larger x
        counts[0, 5 + step, 4 + step] += height / 2
        counts[0, 4 + step, 5 + step] += height / 2
    assert fitted(counts)["angle"] == pytest.approx(45, abs=0.1)


@pytest.mark.parametrize(("config", "eta"), [(GAUSSIAN, 0.0), (VOIGT, 0.5)])
@pytest.mark.parametrize(("sigma", "ratio"), [(0.5, 1.0), (0.5, 2.0), (0.8, 1.3), (1.1, 1.0)])
def test_no_sub_pixel_phase_or_angle_biases_a_sharp_peak(
    config: FitConfig, eta: float, sigma: float, ratio: float
) -> None:
    phase = np.linspace(-0.5, 0.5, 7)
    y, x, angle = (a.ravel() for a in np.meshgrid(5 + phase, 5 + phase, [-45.0, 0.0, 20.0], indexing="ij"))
    truth = profile(y=y, x=x, angle=angle, sigma_minor=sigma, sigma_major=sigma * ratio, eta=eta)
    found = fitted(integrated(truth), config)
    assert found["converged"].all()
    assert np.hypot(found["y"] - y, found["x"] - x).max() < 5e-4
    assert np.abs(found["fwhm_minor"] / (FWHM * sigma) - 1).max() < 2e-3


@pytest.mark.parametrize(("config", "eta"), [(GAUSSIAN, 0.0), (VOIGT, 0.5)])
def test_noisy_fits_lie_at_the_optimum_of_the_poisson_likelihood(config: FitConfig, eta: float) -> None:
    rng = np.random.default_rng(3)
    truth = profile(y=5 + rng.uniform(-0.5, 0.5, 8), height=600.0, eta=eta)
    counts = rng.poisson(integrated(truth)).astype(float)
    found = fitted(counts, config)
    n_free = 8 if eta else 7

    def profile_of(v: NDArray[np.float64]) -> NDArray[np.void]:
        minor, major = np.linalg.eigvalsh([[v[2], v[3]], [v[3], v[4]]])
        return profile(
            y=v[0],
            x=v[1],
            sigma_major=np.sqrt(major),
            sigma_minor=np.sqrt(minor),
            angle=np.degrees(np.arctan2(2 * v[3], v[2] - v[4])) / 2,
            height=v[5],
            background=v[6],
            eta=v[7] if n_free == 8 else 0.0,
        )

    for patch, one in zip(counts, found, strict=True):

        def signed_deviance(v: NDArray[np.float64], patch: NDArray[np.float64] = patch) -> NDArray[np.float64]:
            model = integrated(profile_of(v))[0]
            with np.errstate(divide="ignore", invalid="ignore"):
                log = np.where(patch > 0, patch * np.log(patch / model), 0)
            return (np.sign(model - patch) * np.sqrt(2 * np.maximum(model - patch + log, 0))).ravel()

        start = np.array([one["y"] + 0.05, one["x"] - 0.05, 2.0, 0.3, 1.6, 600.0, 12.0, 0.4])[:n_free]
        best = least_squares(signed_deviance, start, x_scale=np.abs(start), xtol=1e-10, ftol=1e-12).x
        assert one["converged"]
        assert (one["y"], one["x"]) == pytest.approx(best[:2], abs=1e-3)
        assert one["amplitude"] == pytest.approx(best[5], rel=5e-3)


@pytest.mark.parametrize(
    ("kind", "worst"),
    [
        ("sharp", 1.1),
        ("sampled", 1.1),
        ("broad", 1.1),
        ("elongated", 1.1),
        ("pseudo_voigt", 1.1),
        ("faint", 1.2),
        ("edge", 1.3),
        ("saturated", 1.5),
    ],
)
def test_errors_reach_the_cramer_rao_limit_and_are_what_the_fit_says(kind: str, worst: float) -> None:
    found, patches = simulated(3000, kind, 11, VOIGT if kind == "pseudo_voigt" else GAUSSIAN)
    ratio, error = rms_over_limit(found, patches.profiles, limit_of_patches(patches))
    assert ratio < worst
    assert np.abs(np.nanmean(error, axis=0)).max() < 0.01
    assert np.nanmedian(found["chi2"]) == pytest.approx(1, abs=0.02)
    check_calibration(found, error)


@pytest.mark.parametrize("gain", [0.05, 1.0, 40.0])
@pytest.mark.parametrize("read_noise", [5.0, 15.0])
def test_read_noise_that_is_told_is_weighed_as_it_deserves(read_noise: float, gain: float) -> None:
    rng = np.random.default_rng(12)
    truth = sample_profiles(3000, rng=rng, config=CLASSES["sampled"])
    photons = rng.poisson(expected_patches(truth, 11)) + rng.normal(0, read_noise, (3000, 11, 11))
    found = fitted(gain * photons, counts_per_photon=gain, read_noise=gain * read_noise)
    deviations = cramer_rao(truth, read_noise=read_noise)
    ratio, error = rms_over_limit(found, truth, deviations)
    assert ratio < 1.1
    check_calibration(found, error)
    assert np.median(found["chi2"]) == pytest.approx(1, abs=0.02)
    assert np.median(found["amplitude"] / truth["height"]) == pytest.approx(gain, rel=0.02)
    assert np.median(found["background"] / gain - truth["background"]) == pytest.approx(0, abs=0.2)
    assert rms_over_limit(fitted(gain * photons, counts_per_photon=gain), truth, deviations)[0] > ratio + 0.03


def test_least_squares_finds_the_minimum_of_the_squares_and_its_errors_hold_for_equal_noise() -> None:
    rng = np.random.default_rng(13)
    truth = profile(y=5 + rng.uniform(-0.5, 0.5, 2000), height=300.0)
    expected = integrated(truth)
    counts = (expected + rng.normal(0, 20.0, expected.shape)).astype(np.float32)
    found = fitted(counts, FitConfig(likelihood="least_squares"))
    assert found["converged"].all()
    check_calibration(found, np.stack([found["y"] - truth["y"], found["x"] - truth["x"]], axis=1))
    assert np.median(found["chi2"]) == pytest.approx(20.0**2 / expected.mean(), rel=0.05)
    for one, patch in zip(found[:5], counts[:5].astype(float), strict=True):

        def residuals(v: NDArray[np.float64], patch: NDArray[np.float64] = patch) -> NDArray[np.float64]:
            minor, major = np.linalg.eigvalsh([[v[2], v[3]], [v[3], v[4]]])
            angle = np.degrees(np.arctan2(2 * v[3], v[2] - v[4])) / 2
            shape = {"sigma_major": np.sqrt(major), "sigma_minor": np.sqrt(minor), "angle": angle}
            return (integrated(profile(y=v[0], x=v[1], height=v[5], background=v[6], **shape))[0] - patch).ravel()

        best = least_squares(
            residuals, [one["y"], one["x"], 2.0, 0.3, 1.6, 300.0, 12.0], x_scale=[1, 1, 1, 1, 1, 300, 10]
        )
        assert (one["y"], one["x"]) == pytest.approx(best.x[:2], abs=2e-3)


def test_a_gaussian_peak_fitted_with_a_pseudo_voigt_is_good_and_said_to_be_at_its_bound() -> None:
    patches = simulate_patches(2000, rng=np.random.default_rng(14), config=CLASSES["sampled"])
    found = fitted(patches.counts, VOIGT)
    assert found["converged"].all()
    assert (found["at_bound"] == (found["eta"] == 0)).all()
    assert 0.3 < found["at_bound"].mean() < 0.7  # the noise makes the tails of half of them look too weak
    ratio, error = rms_over_limit(found, patches.profiles, limit_of_patches(patches))
    assert ratio < 1.1
    check_calibration(found[found["at_bound"]], error[found["at_bound"]])
    assert not fitted(patches.counts)["at_bound"].any()


def test_unusable_pixels_are_ignored_whatever_they_hold() -> None:
    rng = np.random.default_rng(5)
    patches = simulate_patches(300, rng=rng, config=CLASSES["sampled"])
    counts, truth = patches.counts, patches.profiles
    usable = rng.random(counts.shape) > 0.15
    results = [fitted(np.where(usable, counts, junk), usable=usable) for junk in (0, np.nan, np.inf, -1e30, 65535)]
    for other in results[1:]:
        assert other.tobytes() == results[0].tobytes()
    assert results[0]["converged"].mean() > 0.99
    error = results[0]["y"] - truth["y"]
    assert np.sqrt(np.nanmean(error**2) / np.mean(cramer_rao(truth, usable=usable)[:, 0] ** 2)) < 1.2


def test_a_peak_cut_by_the_frame_edge_is_still_located() -> None:
    truth = profile(x=4.6 + np.linspace(0, 1, 20))
    counts = integrated(truth)
    usable = np.ones(counts.shape, bool)
    usable[:, :, :5] = False
    found = fitted(counts, usable=usable)
    assert found["converged"].all()
    assert np.hypot(found["y"] - truth["y"], found["x"] - truth["x"]).max() < 1e-3


def test_a_centre_beyond_the_patch_is_accepted_up_to_one_pixel() -> None:
    for x, accepted in ((-1.2, True), (-2.5, False)):
        truth = profile(x=x, sigma_major=2.5, sigma_minor=2.5)
        assert fitted(integrated(truth))["converged"] == accepted


@given(seed=st.integers(0, 2**32 - 1), model=st.sampled_from(["gaussian", "pseudo_voigt"]))
@settings(max_examples=20)
def test_a_fit_does_not_depend_on_its_batch_to_the_last_bit(seed: int, model: str) -> None:
    rng = np.random.default_rng(seed)
    counts = simulate_patches(40, rng=rng).counts
    usable = rng.random(counts.shape) > rng.choice([0, 0.1, 0.5, 0.95], (40, 1, 1))
    config = FitConfig(model=model)
    whole = fitted(counts, config, usable)
    order = rng.permutation(40)[: rng.integers(1, 41)]
    assert fitted(counts[order], config, usable[order]).tobytes() == whole[order].tobytes()


@given(
    seed=st.integers(0, 2**32 - 1),
    model=st.sampled_from(["gaussian", "pseudo_voigt"]),
    likelihood=st.sampled_from(["poisson", "least_squares"]),
)
@settings(max_examples=30)
def test_any_input_gives_a_peak_inside_sane_bounds_or_all_nan(seed: int, model: str, likelihood: str) -> None:
    rng = np.random.default_rng(seed)
    size = rng.choice([3, 5, 9, 11, 15])
    counts = rng.normal(0, 1, (30, size, size)) * 10.0 ** rng.uniform(-6, 6, (30, 1, 1))
    counts[rng.random(counts.shape) < 0.1] *= 1000
    counts[rng.random(counts.shape) < 0.05] = rng.choice([np.nan, np.inf, 0, 3e38])
    usable = rng.random(counts.shape) > rng.choice([0, 0.5])
    read_noise = rng.choice([0.0, 3.0])
    found = fitted(
        counts, FitConfig(model=model, likelihood=likelihood), usable, counts_per_photon=0.5, read_noise=read_noise
    )
    for one in found:
        values = np.array([one[name] for name in NUMBERS])
        if not one["converged"]:
            assert np.isnan(values).all()
            continue
        assert np.isfinite(values).all()
        assert min(one["y"], one["x"]) >= -1.5
        assert max(one["y"], one["x"]) <= size + 0.5
        assert one["amplitude"] > 0
        assert MIN_SIGMA * FWHM * 0.999 <= one["fwhm_minor"] <= one["fwhm_major"] <= size * FWHM * 1.001
        assert 0 <= one["eta"] <= 1
        assert min(one["y_std"], one["x_std"]) >= 0


@pytest.mark.parametrize("config", [GAUSSIAN, VOIGT])
def test_hopeless_patches_do_not_converge(config: FitConfig) -> None:
    zero, constant, hot, dip = (np.full((11, 11), level, np.float32) for level in (0, 7, 3, 50))
    hot[5, 5] = 5000
    dip[4:7, 4:7] = 10
    counts = np.stack([zero, constant, hot, dip])
    found = fitted(counts, config)
    assert not found["converged"].any()
    assert all(np.isnan(found[name]).all() for name in NUMBERS)
    ramp = np.tile(20.0 + 20.0 * np.arange(11), (1, 11, 1))  # the best peak has its centre beyond the patch
    beyond = fitted(ramp, config)
    assert not beyond["converged"].any()
    assert beyond["at_bound"].all()
    good = integrated(profile())
    none = np.zeros(good.shape, bool)
    assert not fitted(good, config, none)["converged"].any()
    few = none.copy()
    few[0, 4:6, 3:7] = True  # 8 pixels
    assert not fitted(good, config, few)["converged"].any()


def test_a_flat_top_left_out_as_saturated_does_not_move_the_peak() -> None:
    truth = profile(sigma_minor=1.4)
    counts = integrated(truth)
    usable = counts < 500
    found = fitted(np.minimum(counts, 500), usable=usable)
    assert found["converged"].all()
    assert (found["y"], found["x"]) == (pytest.approx(truth["y"], abs=1e-3), pytest.approx(truth["x"], abs=1e-3))
    kept = fitted(np.minimum(counts, 500))
    assert kept["converged"].all()
    assert np.hypot(kept["y"] - truth["y"], kept["x"] - truth["x"]) < 0.1


@pytest.mark.parametrize("background", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("gain", [0.01, 10.0])
def test_a_gain_changes_neither_position_nor_its_error(background: float, gain: float) -> None:
    rng = np.random.default_rng(8)
    truth = profile(y=5 + rng.uniform(-0.5, 0.5, 200), background=background)
    counts = rng.poisson(integrated(truth)).astype(np.float32)
    one, other = fitted(counts), fitted(counts * np.float32(gain))
    assert one["converged"].all()
    assert other["converged"].all()
    for name in ("y", "x", "fwhm_major"):
        assert other[name] == pytest.approx(one[name], abs=1e-4)
    assert other["y_std"] == pytest.approx(one["y_std"], rel=1e-3)
    assert other["chi2"] == pytest.approx(gain * one["chi2"], rel=1e-3)
    assert other["amplitude"] == pytest.approx(gain * one["amplitude"], rel=1e-3)


def test_pixels_set_to_zero_by_a_threshold_leave_the_peak_in_place() -> None:
    rng = np.random.default_rng(9)
    truth = profile(y=5 + rng.uniform(-0.5, 0.5, 1000), background=0.5)
    counts = rng.poisson(integrated(truth))
    found = fitted(np.where(counts < 6, 0, counts))
    assert found["converged"].all()
    error = found["y"] - truth["y"]
    assert abs(error.mean()) < 0.002
    assert np.sqrt(np.mean(error**2) / np.mean(cramer_rao(truth)[:, 0] ** 2)) < 1.15


def test_max_iterations_is_kept_to() -> None:
    found, _ = simulated(50, "sampled", 1, FitConfig(max_iterations=1))
    assert not found["converged"].any()
    assert (found["iterations"] == 1).all()


def test_no_patches_give_no_fits() -> None:
    assert fitted(np.empty((0, 11, 11))).shape == (0,)


@pytest.mark.parametrize(
    ("counts", "state", "neighbours"),
    [
        ((2, 11, 9), (2, 11, 9), (2, 0, 2)),
        ((2, 17, 17), (2, 17, 17), (2, 0, 2)),
        ((2, 11, 11), (3, 11, 11), (2, 0, 2)),
        ((9, 9), (9, 9), (9, 0, 2)),
        ((2, 11, 11), (2, 11, 11), (2, 4, 2)),
        ((2, 11, 11), (2, 11, 11), (3, 1, 2)),
        ((2, 11, 11), (2, 11, 11), (2, 1, 3)),
    ],
)
def test_a_wrong_shape_is_refused_by_name(
    counts: tuple[int, ...], state: tuple[int, ...], neighbours: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match=r"(counts|state|neighbours): has shape \("):
        fit_patches(np.zeros(counts, np.float32), np.zeros(state, np.uint8), np.zeros(neighbours), GAUSSIAN)


@pytest.mark.parametrize(
    "noise", [{"counts_per_photon": 0.0}, {"counts_per_photon": np.nan}, {"read_noise": -1.0}, {"read_noise": np.inf}]
)
def test_an_impossible_gain_or_read_noise_is_refused_by_name(noise: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(noise))}: is "):
        fitted(np.zeros((1, 11, 11)), **noise)
