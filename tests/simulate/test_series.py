from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.frames import open_frames
from braggflow.frames import store as store_module
from braggflow.simulate import PROFILE_DTYPE, TRUTH_CLASSES, simulate_series
from braggflow.simulate.profiles import render
from braggflow.simulate.series import SATURATION, _detectable, _profiles_at, _tracks

SERIES: dict[str, Any] = {"n_frames": 24, "shape": (128, 160), "peaks": 12, "hot_pixels": 3}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, xr.Dataset]:
    """A simulated series and its truth."""
    out = tmp_path_factory.mktemp("series") / "a.zarr"
    truth = simulate_series(out, **SERIES)
    return open_frames(out).load(), xr.open_zarr(truth, consolidated=False, chunks=None).load()


def peaks_of(truth: xr.Dataset, number: int) -> NDArray[np.void]:
    """The true profiles of one frame."""
    chosen = truth["peak_frame"].values == number
    profiles = np.empty(int(chosen.sum()), PROFILE_DTYPE)
    for name in PROFILE_DTYPE.names or ():
        profiles[name] = truth[name].values[chosen]
    return profiles


def test_the_frames_are_the_rendered_truth_plus_its_noise(series: tuple[xr.Dataset, xr.Dataset]) -> None:
    data, truth = series
    used = ~data["mask"].values
    used[truth["hot_y"].values, truth["hot_x"].values] = False
    residuals = []
    for number in range(SERIES["n_frames"]):
        expected = render(SERIES["shape"], peaks_of(truth, number), background=truth["background_image"].values)
        residuals.append(((data["frames"].values[number] - expected) / np.sqrt(expected + 1 + 1 / 12))[used])
    normal = np.concatenate(residuals)
    assert normal.mean() == pytest.approx(0, abs=0.01)
    assert normal.std() == pytest.approx(1, abs=0.01)
    assert abs(normal).max() < 9


def test_the_truth_counts_its_peaks_and_knows_its_classes(series: tuple[xr.Dataset, xr.Dataset]) -> None:
    _, truth = series
    count = np.bincount(truth["peak_frame"].values, minlength=SERIES["n_frames"])
    assert (truth["peak_count"].values == count).all()
    assert abs(count.mean() - SERIES["peaks"]) < 3
    assert truth["class"].attrs["flag_meanings"].split() == list(TRUTH_CLASSES)
    named = np.array(TRUTH_CLASSES)[truth["class"].values]
    assert set(named) >= {"sharp", "sampled", "elongated", "faint", "overlap", "edge"}
    assert (truth["edge"].values == (named == "edge")).all()
    y, x = np.rint(truth["y"].values), np.rint(truth["x"].values)
    near = np.minimum.reduce([y, x, SERIES["shape"][0] - 1 - y, SERIES["shape"][1] - 1 - x]) < 5
    assert (near == truth["edge"].values).all()
    plain = named == "sharp"
    assert (truth["sigma_minor"].values[plain] < 0.9).all()
    assert not truth["overlap"].values[plain].any()
    assert truth["detectable"].values.mean() > 0.8


def test_peaks_move_broaden_split_appear_and_vanish(series: tuple[xr.Dataset, xr.Dataset]) -> None:
    _, truth = series
    table = truth[["peak_id", "peak_frame", "y", "x", "sigma_minor", "height"]].to_dataframe()
    tracks = table.groupby("peak_id")
    length = tracks.size()
    assert (length == SERIES["n_frames"]).any()
    assert (length < SERIES["n_frames"]).any()  # visitors, children of splits
    assert (tracks["y"].agg(np.ptp) > 1).any()
    assert (tracks["sigma_minor"].agg(np.ptp) > 0.1).any()
    ends = table.set_index(["peak_frame", "peak_id"])["sigma_minor"]
    both = ends.loc[0].index.intersection(ends.loc[SERIES["n_frames"] - 1].index)
    np.testing.assert_allclose(ends.loc[0][both], ends.loc[SERIES["n_frames"] - 1][both])  # a closed cycle


def test_paths_are_smooth_over_a_full_series() -> None:
    tracks = _tracks(np.random.default_rng(0), (512, 512), 100)
    paths = np.array([_profiles_at(tracks, number / 479) for number in range(480)])
    steps = np.hypot(np.diff(paths["y"], axis=0), np.diff(paths["x"], axis=0))
    assert steps.max() < 1
    assert np.ptp(paths["y"], axis=0).max() > 5
    assert abs(np.diff(np.log(paths["sigma_major"]), axis=0)).max() < 0.01


def test_masked_peaks_are_flagged_and_the_mask_covers_gap_and_dead_pixels(
    series: tuple[xr.Dataset, xr.Dataset],
) -> None:
    data, truth = series
    mask, counts = data["mask"].values, data["frames"].values
    assert mask.any(axis=0).all()  # a gap from side to side
    assert not mask.all(axis=0).any()
    assert set(np.unique(counts[:, mask])) == {0, SATURATION}
    for k in range(truth.sizes["peak"]):
        y, x = (int(np.rint(truth[axis].values[k])) for axis in "yx")
        assert truth["masked"].values[k] == mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()


def test_hot_pixels_burn_in_some_frames_and_not_in_others(series: tuple[xr.Dataset, xr.Dataset]) -> None:
    data, truth = series
    burning = data["frames"].values[:, truth["hot_y"].values, truth["hot_x"].values] > 60
    share = burning[:, ~data["mask"].values[truth["hot_y"].values, truth["hot_x"].values]].mean(axis=0)
    assert ((share > 0.1) & (share < 0.9)).all()


def test_two_peaks_without_two_maxima_are_not_both_detectable() -> None:
    def detectable(distance: float, height: float = 500.0) -> list[bool]:
        profiles = np.zeros(2, PROFILE_DTYPE)
        profiles["y"], profiles["x"], profiles["height"] = 20, (20, 20 + distance), (500, height)
        profiles["sigma_major"], profiles["sigma_minor"], profiles["background"] = 1, 1, 8
        expected = render((40, 40), profiles, background=8.0)
        pixel = np.stack([np.rint(profiles[axis]).astype(int) for axis in "yx"], axis=1)
        return _detectable(profiles, pixel, expected, 1.0).tolist()

    assert detectable(1.0, 400) == [True, False]
    assert detectable(6.0) == [True, True]
    assert detectable(10.0, 15) == [True, False]


def test_cycle_coordinates_come_with_the_frames(series: tuple[xr.Dataset, xr.Dataset]) -> None:
    data, _ = series
    assert data["time"].attrs["units"] == "s"
    assert data["capacity"].values[0] == data["capacity"].values[-1] == 0
    assert 10 < data["capacity"].values.argmax() < 13
    assert data["voltage"].values[5] > data["voltage"].values[-6]  # charge above discharge
    assert data.attrs["saturation"] == SATURATION


def test_chunk_size_changes_neither_frames_nor_truth(
    series: tuple[xr.Dataset, xr.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MIN_CHUNKS", 1)
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 5 * 128 * 160 * 2)
    done: list[tuple[int, int]] = []
    path = simulate_series(tmp_path / "b.zarr", **SERIES, progress=lambda *state: done.append(state))
    assert done == [(5, 24), (10, 24), (15, 24), (20, 24), (24, 24)]
    xr.testing.assert_identical(open_frames(tmp_path / "b.zarr").load(), series[0])
    xr.testing.assert_identical(xr.open_zarr(path, consolidated=False, chunks=None).load(), series[1])


def test_another_seed_gives_another_series(series: tuple[xr.Dataset, xr.Dataset], tmp_path: Path) -> None:
    simulate_series(tmp_path / "b.zarr", **SERIES | {"n_frames": 1}, seed=1)
    other = open_frames(tmp_path / "b.zarr")["frames"].values[0]
    assert (other != series[0]["frames"].values[0]).mean() > 0.5


def test_existing_output_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    small: dict[str, Any] = {"n_frames": 2, "shape": (64, 64), "peaks": 2}
    out = tmp_path / "a.zarr"
    truth = simulate_series(out, **small)
    assert truth == tmp_path / "a.truth.zarr"
    before = open_frames(out)["frames"].values
    with pytest.raises(InputError, match=r"a\.zarr: exists; .* --overwrite"):
        simulate_series(out, **small, seed=1)
    assert (open_frames(out)["frames"].values == before).all()
    simulate_series(out, **small, seed=1, overwrite=True)
    assert (open_frames(out)["frames"].values != before).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.truth.zarr", "a.zarr"]


@pytest.mark.parametrize(
    ("name", "settings_", "message"),
    [
        ("a.h5", {}, "must be named NAME.zarr"),
        ("a.truth.zarr", {}, "must be named NAME.zarr"),
        ("a.zarr", {"n_frames": 0}, "frames: 0 is not accepted; must be at least 1"),
        ("a.zarr", {"shape": (32, 512)}, "shape: 32 is not accepted; must be at least 64"),
        ("a.zarr", {"peaks": 0}, "peaks: 0 is not accepted; must be at least 1"),
        ("a.zarr", {"background": -1.0}, "background: -1.0 is not accepted; must be at least 0"),
        ("a.zarr", {"read_noise": float("nan")}, "read_noise: nan is not accepted; must be at least 0"),
        ("a.zarr", {"hot_pixels": -1}, "hot_pixels: -1 is not accepted; must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused_and_nothing_is_written(
    tmp_path: Path, name: str, settings_: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        simulate_series(tmp_path / name, **settings_)
    assert not list(tmp_path.iterdir())
