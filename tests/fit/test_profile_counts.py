"""Intensities: the counts of fitted profiles, as they are summed and as they are true."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import braggflow
from braggflow.config import FitConfig
from braggflow.fit import deblend, fit_patches, profile_counts
from braggflow.fit.patch_fits import FIT_DTYPE
from braggflow.patches import others
from braggflow.peak_table import Flag
from braggflow.simulate import CLASSES, DISK_DTYPE, expected_disks, simulate_patches
from braggflow.simulate.profiles import PROFILE_DTYPE, render


def fits_of(n=1, **columns):
    fits = np.zeros(n, FIT_DTYPE)
    for name, value in columns.items():
        fits[name] = value
    return fits


@given(st.floats(0.5, 2.5), st.floats(1.0, 2.0), st.floats(-90, 90), st.floats(0, 1))
def test_counts_are_the_profile_summed_on_a_fine_grid(minor, ratio, angle, eta):
    fwhm = 2 * np.sqrt(2 * np.log(2)) * np.array([minor * ratio, minor])
    at, step = np.linspace(-30, 30, 1201, retstep=True)
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along, across = cosine * at + sine * at[:, None], cosine * at[:, None] - sine * at
    q = (along / (minor * ratio)) ** 2 + (across / minor) ** 2
    size = 11
    lorentzian = np.where(q <= size**2 / (np.pi * minor**2 * ratio), 1 / (1 + q / (2 * np.log(2))), 0)
    expected = 70 * ((1 - eta) * np.exp(-q / 2) + eta * lorentzian).sum() * step**2
    fits = fits_of(amplitude=70, fwhm_major=fwhm[0], fwhm_minor=fwhm[1], angle=angle, eta=eta)
    assert profile_counts(fits, size)[0] == pytest.approx(expected, rel=2e-3)


def test_counts_of_a_disk_are_those_within_its_edge():
    disk = np.array([(15.2, 14.8, 6.0, 0.3, 50.0, 0.0)], DISK_DTYPE)
    fits = fits_of(amplitude=50, fwhm_major=12, fwhm_minor=12, eta=np.nan)
    assert profile_counts(fits, 15)[0] == pytest.approx(expected_disks(disk, 31).sum(), rel=0.01)


def test_without_a_fit_there_are_none():
    assert np.isnan(profile_counts(fits_of(amplitude=np.nan, fwhm_major=np.nan, fwhm_minor=np.nan, eta=np.nan), 11))


@pytest.mark.parametrize("sigma", [0.8, 1.6, 2.4, 3.2])
@pytest.mark.parametrize(("background", "binned"), [(1.0, 1), (60.0, 1), (8.0, 2)])
def test_intensities_are_true_whatever_the_width(sigma, background, binned):
    rng = np.random.default_rng(2)
    peaks = np.zeros(64, PROFILE_DTYPE)
    at = np.stack(np.meshgrid(*[np.arange(8) * 40 + 40] * 2), axis=-1).reshape(-1, 2)
    peaks["y"], peaks["x"] = (at + rng.uniform(-2, 2, at.shape)).T
    peaks["sigma_major"] = peaks["sigma_minor"] = sigma * binned
    peaks["height"] = rng.uniform(10, 60, 64) * np.sqrt(background + 4)
    frame = rng.poisson(render((360, 360), peaks, background=background)).astype(np.uint16)
    found = braggflow.find_peaks(frame, config={"frames": {"bin": binned}})
    apart = np.hypot(*(found[axis].values[:, None] - peaks[axis] for axis in "yx"))
    row, true = apart.argmin(axis=0), 2 * np.pi * peaks["sigma_major"] ** 2 * peaks["height"]
    assert apart.min(axis=0).max() < 2
    intensity, std = found["intensity"].values[row], found["intensity_std"].values[row]
    assert np.median(intensity / true) == pytest.approx(1, abs=0.02)
    assert 0.5 < np.mean(np.abs(intensity - true) < std) < 0.85


def test_of_two_that_are_told_apart_each_has_its_own():
    peaks = np.zeros(2, PROFILE_DTYPE)
    peaks["y"], peaks["x"] = 32, (31, 34)
    peaks["sigma_major"] = peaks["sigma_minor"] = 1.5
    peaks["height"] = 4000, 1500
    frame = np.random.default_rng(0).poisson(render((64, 64), peaks, background=4)).astype(np.uint16)
    found = braggflow.find_peaks(frame)
    assert (found["flags"].values & np.uint16(Flag.deblended)).all()
    np.testing.assert_allclose(np.sort(found["intensity"].values)[::-1], 2 * np.pi * 2.25 * peaks["height"], rtol=0.05)


def test_where_not_all_are_fitted_intensity_is_the_sum_of_the_patch():
    peaks = np.zeros(1, PROFILE_DTYPE)
    peaks["y"] = peaks["x"] = 32
    peaks["sigma_major"] = peaks["sigma_minor"] = 1.0
    peaks["height"] = 500
    frame = np.random.default_rng(0).poisson(render((64, 64), peaks, background=4)).astype(np.uint16)
    summed = [
        *braggflow.find_peaks(frame, config={"fit": {"fraction": 0}})["intensity"].values,
        *braggflow.find_peaks(frame, config={"fit": {"fraction": 0.999999}})["intensity"].values,
    ]
    patch = frame[27:38, 27:38].astype(float)
    border = np.concatenate([patch[0], patch[-1], patch[1:-1, 0], patch[1:-1, -1]])
    np.testing.assert_allclose(summed, (patch - np.median(border)).sum())


FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


def within(error, std):
    """Share of errors within one stated standard error: 0.683 where they are right."""
    return np.mean(np.abs(error) < std)


@pytest.mark.parametrize(
    ("kind", "model"),
    [*((kind, "gaussian") for kind in ("sharp", "sampled", "broad", "elongated")), ("pseudo_voigt", "pseudo_voigt")],
)
@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_counts_and_widths_are_as_certain_as_they_say(kind, model, gain):
    drawn = simulate_patches(2000, rng=np.random.default_rng(3), config=CLASSES[kind])
    counts = drawn.counts * np.float32(gain)
    fits = fit_patches(counts, drawn.state, drawn.maxima, FitConfig(model=model), counts_per_photon=gain)
    # Of a faint peak whose width is hardly known the logarithm, if anything, is as a normal number is.
    good = fits["converged"] & (fits["fwhm_minor_std"] < 0.15 * fits["fwhm_minor"])
    fits, true = fits[good], drawn.profiles[good]
    assert good.mean() > 0.8
    shapes = fits_of(*true.shape, amplitude=gain * true["height"], eta=true["eta"])
    for axis in ("major", "minor"):
        shapes[f"fwhm_{axis}"] = FWHM_PER_SIGMA * true[f"sigma_{axis}"]
    assert within(profile_counts(fits, 11) - profile_counts(shapes, 11), fits["counts_std"]) == pytest.approx(
        0.683, abs=0.04
    )
    elongated = true["sigma_major"] > 1.2 * true["sigma_minor"]  # of round ones the longer axis is one of noise
    for name in ("fwhm_major", "fwhm_minor"):
        error = (fits[name] - shapes[name])[elongated]
        assert within(error, fits[f"{name}_std"][elongated]) == pytest.approx(0.683, abs=0.07)


def test_a_disks_counts_and_diameter_are_as_certain_as_they_say():
    rng = np.random.default_rng(4)
    disks = np.zeros(800, DISK_DTYPE)
    disks["y"], disks["x"] = 7 + rng.uniform(-0.5, 0.5, (2, 800))
    disks["radius"], disks["edge"], disks["amplitude"], disks["background"] = 4.0, 0.4, rng.uniform(20, 200, 800), 6.0
    counts = rng.poisson(expected_disks(disks, 15)).astype(np.float32)
    state, alone = np.zeros(counts.shape, np.uint8), np.full((800, 3, 2), np.nan, np.float32)
    fits = fit_patches(counts, state, alone, FitConfig(model="disk"))
    assert fits["converged"].all()
    true = np.pi * disks["radius"] ** 2 * disks["amplitude"]
    assert within(profile_counts(fits, 15) - true, fits["counts_std"]) == pytest.approx(0.683, abs=0.05)
    assert within(fits["fwhm_major"] - 8, fits["fwhm_major_std"]) == pytest.approx(0.683, abs=0.05)


def test_counts_of_peaks_told_apart_are_as_certain_as_they_say():
    rng = np.random.default_rng(5)
    peaks = np.zeros(2, PROFILE_DTYPE)
    peaks["y"], peaks["x"], peaks["sigma_major"], peaks["sigma_minor"] = 5, (4.6, 7.8), 1.3, 1.1
    peaks["height"] = 1500, 700
    counts = rng.poisson(np.repeat(render((11, 11), peaks, background=6)[None], 400, axis=0)).astype(np.float32)
    state, alone = np.zeros(counts.shape, np.uint8), np.full((400, 3, 2), np.nan, np.float32)
    found = deblend(counts, state, alone, FitConfig(), fit_patches(counts, state, alone, FitConfig()))
    assert found.split.mean() > 0.97
    true = 2 * np.pi * 1.3 * 1.1 * peaks["height"]
    for fits, expected in ((found.fits[found.patch], true[0]), (found.further, true[1])):
        assert within(profile_counts(fits, 11) - expected, fits["counts_std"]) == pytest.approx(0.683, abs=0.09)
        assert within(fits["fwhm_minor"] - FWHM_PER_SIGMA * 1.1, fits["fwhm_minor_std"]) == pytest.approx(
            0.683, abs=0.09
        )


@pytest.mark.parametrize("likelihood", ["poisson", "least_squares"])
def test_an_eta_that_noise_put_to_a_bound_does_not_make_counts_surer(likelihood):
    rng = np.random.default_rng(6)
    peaks = np.zeros(1, PROFILE_DTYPE)
    peaks["y"], peaks["x"], peaks["sigma_major"], peaks["sigma_minor"], peaks["height"] = 5, 5, 1.6, 1.1, 100
    peaks["eta"] = 0.1
    counts = rng.poisson(np.repeat(render((11, 11), peaks, background=4)[None], 1500, axis=0)).astype(np.float32)
    state, alone = np.zeros(counts.shape, np.uint8), np.full((1500, 3, 2), np.nan, np.float32)
    fits = fit_patches(counts, state, alone, FitConfig(model="pseudo_voigt", likelihood=likelihood))
    held = fits["converged"] & (fits["eta"] == 0)
    assert 0.1 < held.mean() < 0.4
    true = fits_of(amplitude=100, fwhm_major=FWHM_PER_SIGMA * 1.6, fwhm_minor=FWHM_PER_SIGMA * 1.1, eta=0.1)
    error = (profile_counts(fits, 11) - profile_counts(true, 11))[held] / fits["counts_std"][held]
    assert 0.55 < np.mean(np.abs(error) < 1) < 0.95
    assert np.mean(np.abs(error) < 2) > 0.95


def test_the_error_of_a_sum_is_stated_where_nothing_is_fitted():
    rng = np.random.default_rng(7)
    peaks = np.zeros(64, PROFILE_DTYPE)
    at = np.stack(np.meshgrid(*[np.arange(8) * 40 + 40] * 2), axis=-1).reshape(-1, 2)
    peaks["y"], peaks["x"] = (at + rng.uniform(-2, 2, at.shape)).T
    peaks["sigma_major"] = peaks["sigma_minor"] = 1.0
    peaks["height"] = rng.uniform(100, 600, 64)
    frame = rng.poisson(render((360, 360), peaks, background=20)).astype(np.uint16)
    found = braggflow.find_peaks(frame, config={"fit": {"fraction": 0}})
    row = np.hypot(*(found[axis].values[:, None] - peaks[axis] for axis in "yx")).argmin(axis=0)
    error = found["intensity"].values[row] - 2 * np.pi * peaks["height"]
    assert 0.6 < within(error, found["intensity_std"].values[row]) < 0.85
    assert np.isnan(found["fwhm_major_std"].values).all()


@pytest.mark.parametrize(("sigma", "share"), [(0.3, 0.9), (0.5, 0.7)])
def test_sharp_spots_on_no_background_are_not_surer_than_their_photons(sigma, share):
    rng = np.random.default_rng(8)
    peaks = np.zeros(1, PROFILE_DTYPE)
    peaks["sigma_major"] = peaks["sigma_minor"] = sigma
    peaks["height"] = 400 / (2 * np.pi * sigma**2)
    at, counts = 5 + rng.uniform(-0.5, 0.5, (400, 2)), []
    for y, x in at:
        peaks["y"], peaks["x"] = y, x
        counts.append(rng.poisson(render((11, 11), peaks, background=0)))
    state, alone = np.zeros((400, 11, 11), np.uint8), np.full((400, 3, 2), np.nan, np.float32)
    fits = fit_patches(np.array(counts, np.float32), state, alone, FitConfig())
    good = fits["converged"]
    assert good.mean() > 0.8
    assert (fits["counts_std"][good] > share * 20).mean() > 0.98  # of 400 photons
    assert within(profile_counts(fits[good], 11) - 400, fits["counts_std"][good]) > 0.6
    for axis, true in zip("yx", at.T, strict=True):
        assert within((fits[axis] - true)[good], fits[f"{axis}_std"][good]) > 0.6


@pytest.mark.parametrize("apart", [3, 4, 5])
def test_a_listed_neighbour_that_is_not_there_leaves_all_errors_known(apart):
    rng = np.random.default_rng(9)
    peaks = np.zeros(1, PROFILE_DTYPE)
    peaks["y"], peaks["x"], peaks["sigma_major"], peaks["sigma_minor"], peaks["height"] = 5, 5, 1.4, 1.2, 300
    counts = rng.poisson(np.repeat(render((11, 11), peaks, background=6)[None], 300, axis=0)).astype(np.float32)
    neighbours = np.full((300, 3, 2), np.nan, np.float32)
    neighbours[:, 0] = 0, apart
    state = others(neighbours, 11).astype(np.uint8)
    fits = fit_patches(counts, state, neighbours, FitConfig(model="pseudo_voigt"))
    good = fits["converged"]
    assert good.mean() > 0.8
    for name in ("y_std", "counts_std", "fwhm_major_std", "fwhm_minor_std"):
        assert np.isfinite(fits[name][good]).all(), name


def test_the_error_of_a_sum_is_that_of_the_pixels_in_it():
    rng = np.random.default_rng(10)
    peaks = np.zeros(1, PROFILE_DTYPE)
    peaks["y"], peaks["x"], peaks["sigma_major"], peaks["sigma_minor"], peaks["height"] = 32, 32, 1.2, 1.2, 3000
    frame = rng.poisson(render((64, 64), peaks, background=20)).astype(np.uint16)
    config = {"fit": {"fraction": 0}, "frames": {"saturation": 600}}
    (clipped,) = braggflow.find_peaks(np.minimum(frame, 600), config=config)["intensity_std"].values
    patch = frame[27:38, 27:38].astype(float)
    own = patch < 600
    border = np.concatenate([patch[0], patch[-1], patch[1:-1, 0], patch[1:-1, -1]])
    level = np.median(border)
    scatter = max(1.4826 * np.median(np.abs(border - level)), np.sqrt(level))
    n, summed = own.sum(), (patch - level)[own].sum()
    assert clipped == pytest.approx(np.sqrt(summed + n * scatter**2 + n**2 * np.pi / 2 * scatter**2 / 40), rel=1e-3)


def test_where_not_all_are_fitted_peaks_told_apart_have_their_profiles_counts_and_errors():
    peaks = np.zeros(3, PROFILE_DTYPE)
    peaks["y"], peaks["x"] = (32, 32, 70), (31, 34, 70)
    peaks["sigma_major"] = peaks["sigma_minor"] = 1.5
    peaks["height"] = 4000, 1500, 2000
    frame = np.random.default_rng(0).poisson(render((100, 100), peaks, background=4)).astype(np.uint16)
    whole, shared = (braggflow.find_peaks(frame, config={"fit": {"fraction": share}}) for share in (1, 0.999999))
    apart = shared["flags"].values & np.uint16(Flag.deblended) > 0
    assert apart.sum() == 2
    for name in ("intensity", "intensity_std"):
        np.testing.assert_array_equal(shared[name].values[apart], whole[name].values[apart], err_msg=name)
        assert (shared[name].values != whole[name].values)[~apart].all(), name
