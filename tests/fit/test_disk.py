"""Disks are fitted at the information limit, with honest errors, by their own pixels alone."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from braggflow.config import FitConfig
from braggflow.fit import fit_patches
from braggflow.patches import State
from braggflow.simulate import DISK_DTYPE, expected_disks, limit_of_disks

DISK = FitConfig(model="disk")


def disks(n: int, seed: int, *, radius: float, size: int, amplitude: tuple[float, float]) -> NDArray[np.void]:
    """Disks whose centres lie within 0.7 px of a patch's, on backgrounds of 0.5 to 30."""
    rng = np.random.default_rng(seed)
    drawn = np.empty(n, DISK_DTYPE)
    drawn["radius"], drawn["edge"] = radius, rng.uniform(0.2, 0.8, n)
    for name in ("y", "x"):
        drawn[name] = size // 2 + rng.uniform(-0.7, 0.7, n)
    for name, (low, high) in {"amplitude": amplitude, "background": (0.5, 30)}.items():
        drawn[name] = np.exp(rng.uniform(np.log(low), np.log(high), n))
    return drawn


def fitted(counts: NDArray[Any], config: FitConfig = DISK, **noise: float) -> NDArray[np.void]:
    state = np.full(counts.shape, State.OWN, np.uint8)
    return fit_patches(counts.astype(np.float32), state, np.empty((len(counts), 0, 2), np.float32), config, **noise)


def errors(found: NDArray[np.void], truth: NDArray[np.void]) -> NDArray[np.float64]:
    return np.stack([found["y"] - truth["y"], found["x"] - truth["x"]], axis=1)


def check_calibration(found: NDArray[np.void], error: NDArray[np.float64]) -> None:
    pull = np.abs(error / np.stack([found["y_std"], found["x_std"]], axis=1))
    assert np.mean(pull < 1) == pytest.approx(0.683, abs=0.035)
    assert np.mean(pull < 2) == pytest.approx(0.954, abs=0.02)


@pytest.mark.parametrize(
    ("radius", "size"),
    [
        (3.0, 11),
        pytest.param(4.0, 13, marks=pytest.mark.slow),
        pytest.param(5.0, 15, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("amplitude", [(20.0, 100.0), (100.0, 2000.0)])
def test_disks_are_placed_at_the_limit_with_honest_errors(
    radius: float, size: int, amplitude: tuple[float, float]
) -> None:
    truth = disks(600, 1, radius=radius, size=size, amplitude=amplitude)
    found = fitted(np.random.default_rng(2).poisson(expected_disks(truth, size)))
    assert found["converged"].all()
    error, limit = errors(found, truth), limit_of_disks(truth, size)
    assert np.sqrt(np.mean(error**2) / np.mean(limit**2)) < 1.08
    check_calibration(found, error)
    assert found["chi2"].mean() == pytest.approx(1, abs=0.15)


def test_both_widths_are_the_diameter_and_there_is_no_eta() -> None:
    truth = disks(50, 3, radius=4.0, size=13, amplitude=(100, 2000))
    found = fitted(expected_disks(truth, 13))
    assert found["converged"].all()
    assert np.abs(errors(found, truth)).max() < 0.003
    assert found["fwhm_major"] == pytest.approx(8.0, abs=0.1)
    assert (found["fwhm_minor"] == found["fwhm_major"]).all()
    assert found["amplitude"] == pytest.approx(truth["amplitude"], rel=0.02)
    assert np.abs((found["background"] - truth["background"]) / truth["amplitude"]).max() < 0.003
    assert (found["angle"] == 0).all()
    assert np.isnan(found["eta"]).all()


def test_a_hard_edge_is_fitted_as_one() -> None:
    truth = disks(300, 4, radius=4.0, size=13, amplitude=(100, 500))
    truth["edge"] = 0.02
    found = fitted(np.random.default_rng(4).poisson(expected_disks(truth, 13)))
    assert found["converged"].all()
    check_calibration(found, errors(found, truth))


def test_gain_and_read_noise_leave_the_errors_honest() -> None:
    truth = disks(600, 5, radius=4.0, size=13, amplitude=(20, 500))
    rng = np.random.default_rng(6)
    counts = rng.poisson(expected_disks(truth, 13)) * 2.5 + rng.normal(0, 5.0, (600, 13, 13))
    found = fitted(counts, counts_per_photon=2.5, read_noise=5.0)
    assert found["converged"].mean() > 0.99
    ok = found["converged"]
    error, limit = errors(found, truth), limit_of_disks(truth, 13, read_noise=2.0)
    assert np.sqrt(np.mean(error[ok] ** 2) / np.mean(limit[ok] ** 2)) < 1.1
    check_calibration(found[ok], error[ok])
    assert np.median(found["amplitude"][ok] / truth["amplitude"][ok]) == pytest.approx(2.5, rel=0.02)


def test_equal_weights_find_the_disk_too() -> None:
    truth = disks(200, 7, radius=3.0, size=11, amplitude=(100, 2000))
    counts = np.random.default_rng(8).poisson(expected_disks(truth, 11))
    found = fitted(counts, FitConfig(model="disk", likelihood="least_squares"))
    assert found["converged"].mean() > 0.98
    assert np.nanmedian(np.abs(errors(found, truth))) < 0.02


def test_pixels_that_are_not_the_disks_own_are_left_out() -> None:
    truth = disks(400, 9, radius=4.0, size=13, amplitude=(200, 2000))
    counts = np.random.default_rng(10).poisson(expected_disks(truth, 13)).astype(np.float32)
    state = np.full(counts.shape, State.OWN, np.uint8)
    state[:, :, 11:], state[:, 4, :], state[:, 6, 6] = State.OTHER, State.MISSING, State.FULL
    alone = np.empty((400, 0, 2), np.float32)
    first = fit_patches(counts, state, alone, DISK)
    counts[state != State.OWN] = np.nan
    second = fit_patches(counts, state, alone, DISK)
    assert first.tobytes() == second.tobytes()
    assert first["converged"].mean() > 0.98
    check_calibration(first[first["converged"]], errors(first, truth)[first["converged"]])


def test_a_result_does_not_depend_on_the_batch() -> None:
    truth = disks(40, 11, radius=3.0, size=11, amplitude=(20, 2000))
    counts = np.random.default_rng(12).poisson(expected_disks(truth, 11))
    together = fitted(counts)
    assert together.tobytes() == b"".join(fitted(counts[k : k + 1]).tobytes() for k in range(40))


@pytest.mark.parametrize("what", ["nothing", "flat", "few pixels", "a lone pixel"])
def test_what_is_no_disk_fails_without_numbers(what: str) -> None:
    counts = np.zeros((1, 11, 11))
    if what == "flat":
        counts += 7
    if what == "few pixels":
        counts[:] = np.nan
        counts[0, 5, 3:8] = 9
    if what == "a lone pixel":
        counts[0, 5, 5] = 1000
    found = fitted(counts)
    assert not found["converged"][0]
    assert all(np.isnan(found[name][0]) for name in ("y", "x", "y_std", "amplitude", "fwhm_major", "chi2"))
