"""Strain and other changes of reflections, with errors that hold."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import kstest

from braggflow.errors import InputError
from braggflow.geometry import add_q, change, place_groups, strain, strain_of
from tests.geometry import strained
from tests.geometry.places import PLAIN, table_of

TRACKS, FRAMES = 1600, 40


def test_strain_is_the_relative_difference_with_its_uncertainty_by_monte_carlo() -> None:
    found, std = strain_of(2.001, 2e-4, 2.0, 1e-4)
    rng = np.random.default_rng(0)
    drawn = rng.normal(2.001, 2e-4, 200_000) / rng.normal(2.0, 1e-4, 200_000) - 1
    assert float(found) == pytest.approx(5e-4)
    assert float(std) == pytest.approx(drawn.std(), rel=0.01)
    with pytest.raises(InputError, match=r"reference: 0\.0 is not accepted"):
        strain_of(1, 0.1, 0)


def series(step: float, *, seed: int = 1, geometry: dict | None = None) -> xr.Dataset:
    """Tracks whose spacing changes by `step` after half of the frames, with noise of the stated size."""
    rng = np.random.default_rng(seed)
    d = np.repeat(rng.uniform(1.5, 3, TRACKS), FRAMES)
    frames = np.tile(np.arange(FRAMES), TRACKS)
    std = d * rng.uniform(2e-5, 8e-5, len(d))
    measured = rng.normal(d * (1 + step * (frames >= FRAMES // 2)), std)
    order = np.lexsort((np.arange(len(d)), frames))
    table = table_of(np.arange(len(d)), np.zeros(len(d)), frames=frames)
    columns = {"d": measured, "d_std": std, "track_id": np.repeat(np.arange(TRACKS), FRAMES)}
    return table.assign({name: ("peak", values[order]) for name, values in columns.items()})


def deviates(found: np.ndarray, std: np.ndarray, truth: np.ndarray | float) -> tuple[float, float]:
    """Of (found - truth) / std, mean and sum of squares as deviates whose own error is 1 if these pulls are normal."""
    pull = (found - truth) / std
    n = len(pull)
    return float(pull.mean() * np.sqrt(n)), float((np.square(pull).sum() - n) / np.sqrt(2 * n))


def test_a_lattice_change_is_recovered_within_the_stated_errors() -> None:
    peaks = strain(series(1e-4), first=10)
    late = peaks["peak_frame"].values >= FRAMES // 2
    # Peaks of one track share its reference: the first late one of each is independent of all others.
    late &= peaks["peak_frame"].values == FRAMES // 2
    for deviate in deviates(peaks["strain"].values[late], peaks["strain_std"].values[late], 1e-4):
        assert abs(deviate) < 3
    early = peaks["peak_frame"].values == 5  # these are among what the reference is the mean of
    for deviate in deviates(peaks["strain"].values[early], peaks["strain_std"].values[early], 0):
        assert abs(deviate) < 3


def test_the_change_of_each_track_is_recovered_within_its_stated_error() -> None:
    found = change(series(1e-4), "d", before=slice(0, FRAMES // 2 - 1), after=slice(FRAMES // 2, None))
    assert found.sizes["track"] == TRACKS
    for deviate in deviates(found["change"].values, found["change_std"].values, 1e-4):
        assert abs(deviate) < 3
    assert (found["n_before"] == FRAMES // 2).all()


def test_a_change_without_stated_errors_is_judged_by_its_scatter() -> None:
    peaks = series(0)
    rng = np.random.default_rng(5)
    width = np.where(peaks["peak_frame"].values < 20, 1.0, 1.05) * rng.normal(1, 0.02, peaks.sizes["peak"])
    found = change(peaks.assign(fwhm_q=("peak", width)), "fwhm_q", before=slice(0, 19), after=slice(20, 39))
    # Of two means of 20 values, by their own scatter.
    pull = (found["change"].values - 0.05) / found["change_std"].values
    assert kstest(pull, "t", args=(2 * 19,)).pvalue > 0.05


@pytest.mark.parametrize("column", ["intensity", "fwhm_major"])
def test_changes_of_brightness_and_width_are_judged_by_their_scatter_whatever_photons_say(column: str) -> None:
    peaks = series(0)
    rng = np.random.default_rng(6)
    n, late = peaks.sizes["peak"], peaks["peak_frame"].values >= 20
    values = np.where(late, 60.0, 20.0) * rng.normal(1, 0.3, n)
    for std in (np.sqrt(values.clip(1)), np.full(n, np.nan)):  # those of a table of before are not known
        table = peaks.assign({column: ("peak", values), f"{column}_std": ("peak", std)})
        found = change(table, column, before=slice(0, 19), after=slice(20, 39))
        assert np.mean(found["change"].values) == pytest.approx(2, abs=0.03)
        assert np.mean(np.abs(found["change"].values - 2) < found["change_std"].values) == pytest.approx(0.68, abs=0.04)


def test_references_that_are_given() -> None:
    peaks = series(1e-4)
    xr.testing.assert_allclose(strain(peaks, d0=2.0)["strain"], peaks["d"] / 2 - 1)
    uncertain = strain(peaks, d0=(2.0, 0.01))
    np.testing.assert_allclose(uncertain["strain_std"], peaks["d"] / 2 * 0.005, rtol=1e-2)
    standard = series(0, seed=1)
    of_standard = strain(peaks, standard=standard)
    np.testing.assert_allclose(
        np.nanmean(of_standard["strain"].values[peaks["peak_frame"].values >= FRAMES // 2]), 1e-4, atol=3e-6
    )
    gone = strain(peaks, standard=standard.isel(peak=standard["track_id"].values > 0))
    np.testing.assert_array_equal(np.isnan(gone["strain"]), peaks["track_id"] == 0)


def test_what_all_peaks_owe_to_the_geometry_cancels_but_against_a_spacing_that_is_given() -> None:
    keys = {**PLAIN, "std": {"distance_mm": 1.0}}
    y, x = np.tile([100.0, 200.0], 5), np.tile([300.0, 50.0], 5)
    table = table_of(y, x, frames=np.repeat(np.arange(5), 2), y_std=0.01, x_std=0.01)
    labels = place_groups(table, radius=1)
    exact, vague = (strain(add_q(table, geometry), first=2, labels=labels) for geometry in (PLAIN, keys))
    np.testing.assert_allclose(vague["strain_std"], exact["strain_std"], rtol=1e-4)
    assert (strain(add_q(table, keys), d0=2.0)["strain_std"] > 10 * exact["strain_std"]).all()


def test_peaks_without_a_track_or_an_uncertainty_have_no_strain_and_spoil_none() -> None:
    peaks = series(0)
    peaks["track_id"][5] = -1
    unknown = (peaks["track_id"].values == 3) & (peaks["peak_frame"].values == 0)
    peaks["d_std"][unknown] = np.nan
    found = strain(peaks, first=10)
    assert np.isnan(found["strain"].values[5])
    assert np.isfinite(found["strain"].values[(peaks["track_id"].values == 3)]).all()
    assert np.isnan(found["strain_std"].values[unknown]).all()


def test_groups_by_place_follow_steps_and_are_numbered_by_their_first_peak() -> None:
    table = table_of([10, 50, 11, 50.5, 12, 80], [0] * 6, frames=[0, 0, 1, 1, 2, 2])
    assert place_groups(table, radius=2).tolist() == [0, 1, 0, 1, 0, 2]
    assert place_groups(table_of([], []), radius=2).tolist() == []
    with pytest.raises(InputError, match="radius: 0"):
        place_groups(table, radius=0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "reference: none is given; must be one of first, mean, d0, standard, tracks"),
        ({"first": 2, "d0": 1.0}, "reference: first and d0 is given"),
        ({"first": 0}, "first: 0 is not accepted"),
        ({"d0": -1.0}, "reference: -1.0 is not accepted"),
        ({"first": 2, "labels": "reflection"}, "the table has no column reflection"),
        ({"first": 2, "labels": [1, 2]}, "labels: of shape (2,)"),
        ({"first": 2, "labels": np.zeros(TRACKS * FRAMES)}, "type float64"),
    ],
)
def test_what_is_missing_or_wrong_is_named(given: dict, said: str) -> None:
    with pytest.raises(InputError) as error:
        strain(series(0), **given)
    assert said in str(error.value)


def test_a_table_without_d_and_parts_that_overlap_are_refused() -> None:
    with pytest.raises(InputError, match=r"peaks: has no column d; add_q\(peaks\) adds it"):
        strain(table_of([1], [1]), d0=1.0)
    with pytest.raises(InputError, match="have frames in common"):
        change(series(0), "d", before=slice(0, 20), after=slice(20, None))


def test_a_simulated_series_searched_and_fitted_shows_its_strain_and_its_broadening() -> None:
    found = strained.pulls_of(strained.series(7))
    pulls_of_strain = found["strain of each peak"]
    assert len(found["found strain"]) == 100
    assert abs(pulls_of_strain.mean()) < 0.1
    assert abs(pulls_of_strain.std() - 1) < 0.1
    for name, truth in (("strain", strained.STRAIN), ("broadening", strained.BROADER)):
        for deviate in deviates(found[f"found {name}"], found[f"stated {name}"], truth):
            assert abs(deviate) < 2.5, name
