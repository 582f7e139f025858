import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow import assemble, fit, patches, peaks
from braggflow.config import FitConfig
from braggflow.peaks import Flag, Method


def case(n=3, size=11):
    table = peaks.empty(n)
    table["peak_frame"] = np.arange(n)
    table["y_pixel"], table["x_pixel"] = 20 + np.arange(n), 30
    cut = patches.Patches(np.zeros((n, size, size), np.float32), np.ones((n, size, size), bool), np.full((n, 2), 5.1))
    fits = np.zeros(n, fit.FIT_DTYPE)
    fits["converged"] = True
    fits["y"], fits["x"], fits["y_std"], fits["x_std"] = 5.25, 4.5, 0.01, 0.02
    fits["amplitude"], fits["fwhm_major"], fits["angle"] = 400, 3, 30
    located = assemble.Located(Method.compact, np.full((n, 2), [5.5, 5.0]), np.full((n, 2), 0.05, np.float32))
    return table, cut, fits, located


def assembled(table, cut, fits, located, *, method="auto", factor=1, fitted=None):
    fitted = np.ones(len(table), bool) if fitted is None else fitted
    return assemble.assemble(
        table, cut, located=located, fitted=fitted, fits=fits, fit_method=Method.gaussian, method=method, bin=factor
    )


def test_patch_coordinates_become_detector_coordinates():
    table, cut, fits, located = case()
    result = assembled(table, cut, fits, located)
    np.testing.assert_allclose(result["y_fit"], 20 + np.arange(3) + 0.25)
    np.testing.assert_allclose(result["x_fit"], 29.5)
    np.testing.assert_allclose(result["y_network"], 20 + np.arange(3) + 0.5)
    np.testing.assert_allclose(result["disagreement"], np.hypot(0.25, 0.5))


def test_binned_results_are_in_pixels_of_the_detector():
    table, cut, fits, located = case(1)
    result = assembled(table, cut, fits, located, factor=4)
    # Binned pixel i is centred at 4 i + 1.5.
    assert result["y_fit"][0] == 20.25 * 4 + 1.5
    assert (result["y_pixel"][0], result["x_pixel"][0]) == (81, 121)
    assert result["fwhm_major"][0] == 12
    assert result["y_fit_std"][0] == pytest.approx(0.04)
    assert result["amplitude"][0] == 25  # counts per detector pixel
    assert result["disagreement"][0] == pytest.approx(4 * np.hypot(0.25, 0.5))


@pytest.mark.parametrize(
    ("method", "flags", "expected"),
    [
        ("auto", 0, Method.compact),
        ("auto", Flag.low_snr, Method.compact),
        ("auto", Flag.edge, Method.gaussian),
        ("auto", Flag.masked, Method.gaussian),
        ("auto", Flag.saturated, Method.gaussian),
        ("auto", Flag.overlap, Method.compact),
        ("compact", Flag.edge, Method.compact),
    ],
)
def test_which_position_is_used(method, flags, expected):
    table, cut, fits, located = case(1)
    table["flags"] = flags
    result = assembled(table, cut, fits, located, method=method)
    assert result["method"][0] == expected
    source = "network" if expected == Method.compact else "fit"
    assert (result["y"][0], result["x"][0]) == (result[f"y_{source}"][0], result[f"x_{source}"][0])
    assert result["y_std"][0] == pytest.approx(0.05 if source == "network" else 0.01)


def test_without_a_network_the_fit_and_then_the_centroid_and_then_the_pixel_are_used():
    table, cut, fits, _ = case()
    fits["converged"] = [True, False, False]
    cut.centroid[2] = np.nan
    result = assembled(table, cut, fits, None, method="none")
    assert result["method"].tolist() == [Method.gaussian, Method.centroid, Method.pixel]
    np.testing.assert_allclose(result["y"], [20.25, 21.1, 22])
    assert np.isnan(result["y_std"][1:]).all()
    assert np.isnan(result["y_network"]).all()
    assert (result["flags"] & Flag.fit_failed != 0).tolist() == [False, True, True]


def test_a_failed_fit_leaves_no_numbers_and_the_network_position():
    table, cut, fits, located = case(1)
    fits["converged"] = False
    table["flags"] = Flag.edge
    result = assembled(table, cut, fits, located)
    assert result["method"][0] == Method.compact
    assert result["flags"][0] == Flag.edge | Flag.fit_failed
    assert np.isnan([result[name][0] for name in ("y_fit", "amplitude", "fwhm_major", "chi2", "disagreement")]).all()


def test_a_fit_that_ran_away_to_something_else_has_failed():
    table, cut, fits, located = case()
    fits["y"][1] = 9.5
    result = assembled(table, cut, fits, located, method="none")
    assert (result["flags"] & Flag.fit_failed != 0).tolist() == [False, True, False]
    assert np.isnan(result["y_fit"]).tolist() == [False, True, False]


def test_peaks_that_were_not_fitted_are_not_failures():
    table, cut, fits, located = case()
    fitted = np.array([True, False, True])
    result = assembled(table, cut, fits[:2], located, fitted=fitted)
    assert (result["flags"] == 0).all()
    assert np.isnan(result["y_fit"]).tolist() == [False, True, False]


def test_a_network_position_far_from_the_maximum_is_flagged_and_not_used():
    table, cut, fits, located = case(1)
    located.positions[0] = [9.0, 5.0]
    result = assembled(table, cut, fits, located)
    assert result["flags"][0] & Flag.out_of_domain
    assert result["method"][0] == Method.gaussian


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(0, 1000), st.integers(0, 1000))
def test_the_fitted_sample_depends_on_the_peak_and_the_seed_alone(fraction, seed, shuffle):
    table = peaks.empty(2000)
    table["peak_frame"] = np.arange(2000) // 10
    table["y_pixel"], table["x_pixel"] = np.arange(2000) % 37, np.arange(2000) % 41
    config = FitConfig(fraction=fraction, seed=seed)
    chosen = assemble.sample(table, config)
    assert abs(chosen.mean() - fraction) < 0.06
    some = np.random.default_rng(shuffle).permutation(2000)[:300]
    np.testing.assert_array_equal(assemble.sample(table[some], config), chosen[some])
    assert (assemble.sample(table, FitConfig(fraction=fraction, seed=seed + 1)) != chosen).any()


def test_fraction_zero_fits_none_and_one_fits_all():
    table = peaks.empty(5)
    assert not assemble.sample(table, FitConfig(fraction=0)).any()
    assert assemble.sample(table, FitConfig(fraction=1)).all()
