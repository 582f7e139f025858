"""Intensities: the counts of fitted profiles, as they are summed and as they are true."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import braggflow
from braggflow.fit import profile_counts
from braggflow.fit.patch_fits import FIT_DTYPE
from braggflow.peak_table import Flag
from braggflow.simulate import DISK_DTYPE, expected_disks
from braggflow.simulate.profiles import PROFILE_DTYPE, render


def fits_of(**columns):
    fits = np.zeros(1, FIT_DTYPE)
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
    intensity, snr = found["intensity"].values[row], found["snr"].values[row]
    assert np.median(intensity / true) == pytest.approx(1, abs=0.02)
    assert 0.4 < np.mean(np.abs(intensity - true) < intensity / snr) < 0.85


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
