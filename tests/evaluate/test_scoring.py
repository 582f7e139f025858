import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.evaluate import load_truth, score
from braggflow.peak_table import VARIABLES, empty
from braggflow.simulate import TRUTH_CLASSES, TRUTH_FORMAT, TRUTH_VERSION

N_FRAMES = 4


def truth_of(places: NDArray[np.float64], **values: object) -> xr.Dataset:
    """A truth of peaks at (frame, y, x), all detectable and sampled unless said."""
    n = len(places)
    columns = {"class": np.ones(n, np.int8), "masked": np.zeros(n, bool), "detectable": np.ones(n, bool)} | values
    columns |= {"peak_frame": places[:, 0].astype(np.int64), "y": places[:, 1], "x": places[:, 2]}
    return xr.Dataset(
        {name: ("peak", column) for name, column in columns.items()},
        coords={"frame": np.arange(N_FRAMES)},
        attrs={"format": TRUTH_FORMAT, "format_version": TRUTH_VERSION},
    )


def table_of(places: NDArray[np.float64], **values: object) -> xr.Dataset:
    """A peak table with peaks at (frame, y, x), the other variables missing unless given."""
    rows = empty(len(places))
    rows["peak_frame"], rows["y"], rows["x"] = places.T
    columns = {name: rows[name] for name in VARIABLES} | values
    data = {name: ("peak", column) for name, column in columns.items()}
    return xr.Dataset(data, coords={"frame": np.arange(N_FRAMES)})


@st.composite
def apart(draw: st.DrawFn) -> NDArray[np.float64]:
    """Places (frame, y, x) at least 10 px apart within a frame."""
    cells = draw(st.sets(st.tuples(st.integers(0, N_FRAMES - 1), st.integers(0, 5), st.integers(0, 5)), min_size=1))
    places = np.array(sorted(cells), float)
    places[:, 1:] = places[:, 1:] * 12 + np.array([draw(st.floats(-1, 1)) for _ in range(2)])
    return places


@given(apart())
@settings(max_examples=40)
def test_a_perfect_copy_scores_one_without_error(places: NDArray[np.float64]) -> None:
    result = score(table_of(places), truth_of(places))
    assert result.precision == 1
    assert result.recall["all"] == result.recall["sampled"] == (len(places), len(places))
    error = result.errors["used"]["all"]
    assert (error.n, error.median, error.p95, error.rms, error.bias_y) == (len(places), 0, 0, 0, 0)
    assert result.errors["network"]["all"].n == 0


@given(apart())
@settings(max_examples=40)
def test_the_order_of_peaks_and_truth_changes_nothing(places: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(len(places))
    shifted = places + np.array([0, 0.3, -0.2]) * rng.random((len(places), 1))
    peaks, truth = table_of(shifted), truth_of(places)
    order, other = rng.permutation(len(places)), rng.permutation(len(places))
    one = score(peaks, truth).as_dict()
    two = score(peaks.isel(peak=order), truth.isel(peak=other)).as_dict()
    for key in ("false", "excused", "precision", "recall"):
        assert one[key] == two[key]
    for name, value in one["errors"]["used"]["all"].items():
        assert two["errors"]["used"]["all"][name] == (None if value is None else pytest.approx(value, abs=1e-12))


@given(apart(), st.data())
@settings(max_examples=40)
def test_missing_and_spurious_peaks_are_counted(places: NDArray[np.float64], data: st.DataObject) -> None:
    missing = data.draw(st.integers(0, len(places)))
    spurious = data.draw(st.integers(0, 3))
    extra = np.array([[k % N_FRAMES, 500.0 + 20 * k, 3.0] for k in range(spurious)]).reshape(-1, 3)
    result = score(table_of(np.concatenate([places[missing:], extra])), truth_of(places))
    right = len(places) - missing
    assert result.recall["all"] == (right, len(places))
    assert result.false == spurious
    if right + spurious:
        assert result.precision == right / (right + spurious)
    else:
        assert np.isnan(result.precision)


def test_peaks_of_other_frames_never_match() -> None:
    result = score(table_of(np.array([[1.0, 5, 5]])), truth_of(np.array([[0.0, 5, 5]])))
    assert (result.false, result.recall["all"].found) == (1, 0)


def test_a_match_is_one_to_one_and_nearest_first() -> None:
    truth = truth_of(np.array([[0.0, 10, 10], [0, 10, 13]]))
    result = score(table_of(np.array([[0.0, 10, 12.5], [0, 10, 13.4]])), truth)
    # The first peak is nearer to the second truth than to the first, but that one's own peak is nearer still.
    assert result.recall["all"] == (2, 2)
    assert result.errors["used"]["all"].p95 == pytest.approx(np.percentile([2.5, 0.4], 95))


def test_a_match_beyond_the_radius_is_none() -> None:
    truth = truth_of(np.array([[0.0, 10, 10]]))
    assert score(table_of(np.array([[0.0, 10, 12.9]])), truth).false == 0
    assert score(table_of(np.array([[0.0, 10, 12.9]])), truth, radius=2.8).false == 1


@pytest.mark.parametrize("excuse", [{"masked": np.array([False, True])}, {"detectable": np.array([True, False])}])
def test_masked_and_undetectable_truth_counts_in_neither_recall_nor_precision(excuse: dict[str, object]) -> None:
    places = np.array([[0.0, 10, 10], [0, 30, 30]])
    both, one = table_of(places), table_of(places[:1])
    for peaks, excused in ((both, 1), (one, 0)):
        result = score(peaks, truth_of(places, **excuse))
        assert result.recall["all"] == (1, 1)
        assert (result.precision, result.false, result.excused) == (1, 0, excused)
        assert result.masked + result.undetectable == 1


def test_an_undetectable_neighbour_does_not_take_the_peak_of_a_detectable_one() -> None:
    truth = truth_of(np.array([[0.0, 10, 10], [0, 10, 11]]), detectable=np.array([True, False]))
    result = score(table_of(np.array([[0.0, 10, 10.8]])), truth)
    assert (result.recall["all"], result.excused) == ((1, 1), 0)


def test_frames_that_the_table_leaves_out_are_not_missed() -> None:
    peaks = table_of(np.array([[0.0, 10, 10]])).isel(frame=[0, 1])
    truth = truth_of(np.array([[0.0, 10, 10], [3, 10, 10]]))
    assert score(peaks, truth).recall["all"] == (1, 1)


def test_errors_and_their_stated_uncertainty_are_reported_by_class_and_position() -> None:
    n = 4000
    rng = np.random.default_rng(0)
    places = np.stack([np.repeat(np.arange(4.0), n // 4), np.tile(10.0 * np.arange(n // 4), 4), np.full(n, 7.0)], 1)
    code = rng.integers(0, len(TRUTH_CLASSES), n).astype(np.int8)
    spread = np.where(code == 0, 0.1, 0.2)
    noise = rng.normal(0, 1, (n, 2)) * spread[:, None] + np.array([0.05, 0])
    peaks = table_of(
        places + np.concatenate([np.zeros((n, 1)), noise], axis=1),
        y_std=spread.astype("f4"),
        x_std=spread.astype("f4"),
        y_network=places[:, 1] + 0.5,
        x_network=np.where(np.arange(n) < 100, np.nan, places[:, 2]),
    )
    result = score(peaks, truth_of(places, **{"class": code}))
    sharp, every = result.errors["used"]["sharp"], result.errors["used"]["all"]
    assert (sharp.n, every.n) == ((code == 0).sum(), n)
    assert sharp.rms == pytest.approx(np.sqrt(2 * 0.1**2 + 0.05**2), rel=0.1)
    assert every.bias_y == pytest.approx(0.05, abs=0.01)
    assert every.bias_x == pytest.approx(0, abs=0.01)
    assert every.within_1 == pytest.approx(0.68, abs=0.03)
    assert every.within_2 == pytest.approx(0.95, abs=0.02)
    network = result.errors["network"]["all"]
    assert (network.n, network.median, network.bias_y) == (n - 100, 0.5, 0.5)
    assert np.isnan(network.within_1)


def test_false_peaks_at_hot_pixels_are_told_apart() -> None:
    truth = truth_of(np.array([[0.0, 10, 10]])).assign(hot_y=("hot_pixel", [40]), hot_x=("hot_pixel", [41]))
    result = score(table_of(np.array([[0.0, 10, 10], [1, 40, 41], [1, 60, 60]])), truth)
    assert (result.false, result.false_at_hot_pixels) == (2, 1)


def test_no_peaks_at_all_is_a_score_too() -> None:
    result = score(table_of(np.empty((0, 3))), truth_of(np.array([[0.0, 10, 10]])))
    assert result.recall["all"] == (0, 1)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["precision"] is None
    assert "nan" not in result.table()


def test_the_table_and_the_plain_data_hold_the_figures() -> None:
    places = np.array([[0.0, 10, 10], [0, 30, 30], [1, 30, 30]])
    result = score(table_of(places[:2] + np.array([0, 0.25, 0])), truth_of(places))
    text = result.table()
    assert re.search(r"sampled +3 +2 +0\.6667", text)
    assert re.search(r"sampled +2 +0\.2500 +0\.2500 +0\.2500 +0\.2500 +0\.2500 +0\.0000 +– +–", text)
    assert "position error, px: fit" not in text
    plain = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert plain["recall"]["sampled"] == {"found": 2, "true": 3, "share": pytest.approx(2 / 3)}
    assert plain["errors"]["used"]["all"]["bias_y"] == 0.25


def test_a_truth_of_another_series_is_refused() -> None:
    peaks = table_of(np.array([[0.0, 10, 10]]))
    with pytest.raises(InputError, match="frames 0 to 1, the peak table also has 2: it is of another series"):
        score(peaks, truth_of(np.array([[0.0, 10, 10]])).isel(frame=[0, 1]))


def test_truth_is_loaded_as_it_was_written(tmp_path: Path) -> None:
    truth = truth_of(np.array([[0.0, 10, 10]]))
    truth.to_zarr(tmp_path / "a.truth.zarr", zarr_format=3, consolidated=False)
    xr.testing.assert_equal(load_truth(tmp_path / "a.truth.zarr"), truth)


def test_what_is_no_truth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; braggflow simulate"):
        load_truth(tmp_path / "a.truth.zarr")
    (tmp_path / "empty.truth.zarr").mkdir()
    with pytest.raises(InputError, match="is not a Zarr store"):
        load_truth(tmp_path / "empty.truth.zarr")
    truth = truth_of(np.array([[0.0, 10, 10]]))
    for name, other, message in (
        ("b", truth.assign_attrs(format="braggflow-frames"), "has format 'braggflow-frames', must be"),
        ("c", truth.assign_attrs(format_version=99), "has format_version 99, must be 1"),
        ("d", truth.drop_vars("masked"), "lacks masked"),
    ):
        other.to_zarr(tmp_path / f"{name}.zarr", zarr_format=3, consolidated=False)
        with pytest.raises(InputError, match=message):
            load_truth(tmp_path / f"{name}.zarr")
