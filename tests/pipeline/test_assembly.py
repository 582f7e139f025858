import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow import patches, peak_table
from braggflow.config import FitConfig, resolve_config
from braggflow.fit.patch_fits import FIT_DTYPE
from braggflow.locate import Located
from braggflow.peak_table import Flag, Method
from braggflow.pipeline.assembly import assemble, joint_deviations, sample


def case(n=3, size=11, network=Method.compact):
    """n peaks in a column, all with the same answers: network 5.5, 5.0 ± 0.05; fit 5.25, 4.5 ± 0.01, 0.02."""
    table = peak_table.empty(n)
    table["peak_frame"] = np.arange(n)
    table["y_pixel"], table["x_pixel"] = 20 + np.arange(n), 30
    cut = patches.Patches(
        np.zeros((n, size, size), np.float32),
        np.zeros((n, size, size), np.uint8),
        np.full((n, patches.MAX_NEIGHBOURS, 2), np.nan, np.float32),
        np.full((n, 2), 5.1),
    )
    fits = np.zeros(n, FIT_DTYPE)
    fits["converged"] = True
    fits["y"], fits["x"], fits["y_std"], fits["x_std"] = 5.25, 4.5, 0.01, 0.02
    fits["amplitude"], fits["fwhm_major"], fits["angle"] = 400, 3, 30
    fits["fwhm_major_std"], fits["fwhm_minor_std"], fits["counts_std"] = 0.1, 0.2, 50
    domain = np.full(n, np.nan if network == Method.braggnn else 0.9, np.float32)
    std = np.full((n, 2), np.nan if network == Method.braggnn else 0.05, np.float32)
    located = Located(network, np.full((n, 2), [5.5, 5.0]), std, domain)
    return table, cut, fits, located


def assembled(table, cut, fits, located, *, factor=1, fitted=None, **locate):
    fitted = np.ones(len(table), bool) if fitted is None else fitted
    settings = resolve_config({"frames": {"bin": factor}, "locate": locate})
    return assemble(table, cut, settings, located=located, fitted=fitted, fits=fits)


def has(result, flag):
    return (result["flags"] & flag != 0).tolist()


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
    assert [result[f"fwhm_{axis}_std"][0] for axis in ("major", "minor")] == pytest.approx([0.4, 0.8])
    assert result["intensity_std"][0] == 50  # counts of the peak, however they are binned
    assert result["amplitude"][0] == 25  # counts per detector pixel
    assert result["disagreement"][0] == pytest.approx(4 * np.hypot(0.25, 0.5))


EDGE, MASKED, SATURATED, OVERLAP = Flag.edge, Flag.masked, Flag.saturated, Flag.overlap


@pytest.mark.parametrize(
    ("position", "network", "flags", "answers", "expected"),
    [
        # The fit where it converged, whatever the patch.
        *(
            ("auto", network, flag, {}, Method.gaussian)
            for network in (Method.compact, Method.braggnn)
            for flag in (0, EDGE, MASKED, SATURATED, OVERLAP, Flag.low_snr)
        ),
        # The network where the fit failed.
        ("auto", Method.compact, EDGE, {"converged": False}, Method.compact),
        ("auto", Method.braggnn, EDGE, {"converged": False}, Method.braggnn),
        # Or where the network is clearly surer, and agrees. One that states no uncertainty never is.
        ("auto", Method.compact, SATURATED, {"fit_std": 0.5}, Method.compact),
        ("auto", Method.compact, 0, {"fit_std": 0.064}, Method.compact),
        ("auto", Method.compact, 0, {"fit_std": 0.061}, Method.gaussian),
        ("auto", Method.compact, 0, {"fit_std": 0.5, "at": 7.95}, Method.gaussian),
        ("auto", Method.compact, 0, {"fit_std": 0.064, "chi2": 1.1}, Method.gaussian),
        ("auto", Method.compact, 0, {"fit_std": 0.064, "chi2": 0.5}, Method.compact),
        ("auto", Method.braggnn, 0, {"fit_std": 0.5}, Method.gaussian),
        # Out of its domain: the fit, then the centroid, then the pixel.
        ("auto", Method.compact, 0, {"domain": 0.49, "fit_std": 0.5}, Method.gaussian),
        ("auto", Method.compact, 0, {"domain": 0.5, "fit_std": 0.5}, Method.compact),
        ("auto", Method.compact, 0, {"domain": 0.1, "converged": False}, Method.centroid),
        ("auto", Method.compact, 0, {"domain": 0.1, "converged": False, "centroid": np.nan}, Method.pixel),
        ("auto", Method.compact, 0, {"at": 8.1, "fit_std": 0.5}, Method.gaussian),
        ("auto", Method.compact, 0, {"at": 8.1, "converged": False}, Method.centroid),
        ("auto", Method.compact, 0, {"at": np.nan, "fit_std": 0.5}, Method.gaussian),
        # A network that was asked for by name is used whatever it says.
        ("network", Method.compact, EDGE, {"domain": 0.1, "std": 0.9, "at": 8.1}, Method.compact),
        ("network", Method.braggnn, OVERLAP, {"at": 8.1}, Method.braggnn),
        # The fit that was asked for; where there is none the network, and out of its domain the centroid.
        ("fit", Method.compact, 0, {"fit_std": 0.9}, Method.gaussian),
        ("fit", Method.compact, EDGE, {"converged": False}, Method.compact),
        ("fit", Method.compact, 0, {"domain": 0.1, "converged": False}, Method.centroid),
    ],
)
def test_which_position_is_used(position, network, flags, answers, expected):
    table, cut, fits, located = case(1, network=network)
    table["flags"] = flags
    located.positions[:, 0] = answers.get("at", 5.5)
    located.std[:, 1] = answers.get("std", located.std[0, 1])
    located.domain[:] = answers.get("domain", located.domain[0])
    fits["converged"] = answers.get("converged", True)
    fits["x"] = 5.0
    fits["y_std"], fits["chi2"] = answers.get("fit_std", 0.01), answers.get("chi2", 1.0)
    cut.centroid[:] = answers.get("centroid", 5.1)
    result = assembled(table, cut, fits, located, position=position)[0]
    assert Method(result["method"]) == expected
    std = result["y_std"], result["x_std"]
    if expected == network:
        assert (result["y"], result["x"]) == (result["y_network"], result["x_network"])
        np.testing.assert_array_equal(std, located.std[0])
    elif expected == Method.gaussian:
        assert (result["y"], result["x"]) == (result["y_fit"], result["x_fit"])
        assert std == (result["y_fit_std"], result["x_fit_std"])
    else:
        assert (result["y"], result["x"]) == ((20.1, 30.1) if expected == Method.centroid else (20, 30))
        assert np.isnan(std).all()
    outside = answers.get("domain", 1) < 0.5 or not answers.get("at", 5.5) <= 8
    assert bool(result["flags"] & Flag.out_of_domain) == outside
    assert result["flags"] & flags == flags


@pytest.mark.parametrize(("chi2", "factor"), [(0.5, 1.0), (1.0, 1.0), (4.0, 2.0), (np.nan, 1.0)])
@pytest.mark.parametrize("bins", [1, 3])
def test_the_uncertainty_of_a_networks_position_knows_how_well_the_counts_are_a_peak(chi2, factor, bins):
    table, cut, fits, located = case(1)
    fits["chi2"] = chi2
    result = assembled(table, cut, fits, located, factor=bins, position="network")
    np.testing.assert_allclose(result["y_std"], 0.05 * factor * bins, rtol=1e-6)


def test_peaks_that_were_not_fitted_have_the_networks_position():
    table, cut, fits, located = case()
    result = assembled(table, cut, fits[:1], located, fitted=np.arange(3) == 1)
    assert result["method"].tolist() == [Method.compact, Method.gaussian, Method.compact]
    np.testing.assert_allclose(result["y_std"], [0.05, 0.01, 0.05])


@pytest.mark.parametrize(
    ("difference", "std", "fit_std", "expected"),
    [
        ((0.03, 0.04), (0.0, 0.0), (0.0, 0.0), 0.05 / 0.02),  # the floor alone
        ((0.3, 0.0), (0.3, 9.0), (0.4, 9.0), 0.3 / np.sqrt(0.25 + 4e-4)),
        ((0.3, 0.4), (0.1, 0.2), (0.0, 0.0), np.hypot(0.3 / np.hypot(0.1, 0.02), 0.4 / np.hypot(0.2, 0.02))),
        ((0.3, 0.0), (np.nan, np.nan), (0.1, 0.1), 0.3 / np.sqrt(0.02 + 4e-4)),  # states none: as sure as the fit
        ((np.nan, np.nan), (0.1, 0.1), (np.nan, np.nan), np.nan),
    ],
)
def test_distance_of_network_and_fit_in_joint_deviations(difference, std, fit_std, expected):
    found = joint_deviations(np.array([difference]), np.array([std]), np.array([fit_std]), floor=0.02)
    np.testing.assert_allclose(found, [expected])


@pytest.mark.parametrize("factor", [1, 4])
@pytest.mark.parametrize("position", ["auto", "network"])
def test_network_and_fit_far_apart_are_flagged(factor, position):
    table, cut, fits, located = case(4)
    fits["x"] = located.positions[:, 1]
    located.std[:], fits["y_std"] = 0.03, 0.04  # with the floor of 0.02: 0.0539
    fits["y"] = located.positions[:, 0] + np.array([0.26, 0.28, -0.28, 0])
    fits["converged"][2] = False
    assert has(assembled(table, cut, fits, located, factor=factor, position=position), Flag.disagree) == [0, 1, 0, 0]
    wider = assembled(table, cut, fits, located, factor=factor, position=position, max_disagreement=5.3)
    assert not any(has(wider, Flag.disagree))


def test_what_the_network_thinks_of_its_domain_is_kept():
    table, cut, fits, located = case()
    located.domain[:] = [0.2, 0.7, np.nan]
    result = assembled(table, cut, fits, located)
    np.testing.assert_array_equal(result["domain_probability"], located.domain)
    assert has(result, Flag.out_of_domain) == [True, False, False]
    assert np.isnan(assembled(table, cut, fits, None, network="none")["domain_probability"]).all()


def test_a_fit_that_failed_at_a_bound_is_flagged_and_one_with_eta_at_its_end_is_used():
    table, cut, fits, _ = case(4)
    fits["at_bound"] = [True, True, False, True]
    fits["converged"][1] = False
    result = assembled(table, cut, fits[:3], None, network="none", fitted=np.arange(4) < 3)
    assert has(result, Flag.at_bound) == [False, True, False, False]
    assert has(result, Flag.fit_failed) == [False, True, False, False]
    assert result["method"].tolist() == [Method.gaussian, Method.centroid, Method.gaussian, Method.centroid]


def test_without_a_network_the_fit_and_then_the_centroid_and_then_the_pixel_are_used():
    table, cut, fits, _ = case()
    fits["converged"] = [True, False, False]
    cut.centroid[2] = np.nan
    result = assembled(table, cut, fits, None, network="none")
    assert result["method"].tolist() == [Method.gaussian, Method.centroid, Method.pixel]
    np.testing.assert_allclose(result["y"], [20.25, 21.1, 22])
    assert np.isnan(result["y_std"][1:]).all()
    assert np.isnan(result["y_network"]).all()
    assert has(result, Flag.fit_failed) == [False, True, True]


def test_a_failed_fit_leaves_no_numbers():
    table, cut, fits, located = case(1)
    fits["converged"] = False
    result = assembled(table, cut, fits, located)
    assert result["method"][0] == Method.compact
    assert result["flags"][0] == Flag.fit_failed
    assert np.isnan([result[name][0] for name in ("y_fit", "amplitude", "fwhm_major", "chi2", "disagreement")]).all()


def test_a_fit_that_ran_away_to_something_else_has_failed():
    table, cut, fits, located = case()
    fits["y"][1] = 9.5
    result = assembled(table, cut, fits, located, position="fit")
    assert has(result, Flag.fit_failed) == [False, True, False]
    assert np.isnan(result["y_fit"]).tolist() == [False, True, False]


def test_peaks_that_were_not_fitted_are_not_failures():
    table, cut, fits, located = case()
    fitted = np.array([True, False, True])
    result = assembled(table, cut, fits[:2], located, fitted=fitted)
    assert not any(has(result, Flag.fit_failed))
    assert has(result, Flag.disagree) == [True, False, True]
    assert np.isnan(result["y_fit"]).tolist() == [False, True, False]


def test_no_peaks_are_assembled_to_no_peaks():
    assert len(assembled(*case(0))) == 0


@settings(max_examples=30)
@given(st.floats(0.05, 0.95), st.integers(0, 1000), st.integers(0, 1000))
def test_the_fitted_sample_depends_on_the_peak_and_the_seed_alone(fraction, seed, shuffle):
    table = peak_table.empty(2000)
    table["peak_frame"] = np.arange(2000) // 10
    table["y_pixel"], table["x_pixel"] = np.arange(2000) % 37, np.arange(2000) % 41
    config = FitConfig(fraction=fraction, seed=seed)
    chosen = sample(table, config)
    assert abs(chosen.mean() - fraction) < 0.06
    some = np.random.default_rng(shuffle).permutation(2000)[:300]
    np.testing.assert_array_equal(sample(table[some], config), chosen[some])
    assert (sample(table, FitConfig(fraction=fraction, seed=seed + 1)) != chosen).any()


def test_fraction_zero_fits_none_and_one_fits_all():
    table = peak_table.empty(5)
    assert not sample(table, FitConfig(fraction=0)).any()
    assert sample(table, FitConfig(fraction=1)).all()
