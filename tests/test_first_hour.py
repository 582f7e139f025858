"""What somebody asks a peak table in the first hour, each in one line. The README's own: tests/test_documents.py."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import braggflow
from braggflow import peak_table
from braggflow.detect.significance import least_significance
from braggflow.errors import InputError
from braggflow.peak_rows import MAXIMA_PER_MEGAPIXEL
from braggflow.results import Part, RunFolder, consolidate, open_peaks, write_part

#: Frames 10 to 14; 11 has no peak, 13 has one, and 14 could not be processed.
NUMBERS = np.arange(10, 15)
PEAKS = {10: 3, 12: 2, 13: 1}
OMEGA = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


def peaks_of(frames: dict[int, int], *, seed: int = 0) -> peak_table.Table:
    rng = np.random.default_rng(seed)
    table = peak_table.empty(sum(frames.values()))
    table["peak_frame"] = np.repeat(list(frames), list(frames.values()))
    for name in ("y", "x"):
        table[name] = rng.uniform(5, 60, len(table))
        table[f"{name}_pixel"] = np.rint(table[name])
    for name in ("intensity", "birth", "significance", "y_std"):
        table[name] = rng.uniform(10, 30, len(table))
    table["death"] = 2.5
    table["score"] = table["birth"] - table["death"]
    table["flags"] = rng.integers(0, 4096, len(table))
    return peak_table.sort(table)


def coordinates() -> xr.Dataset:
    return xr.Dataset(
        coords={
            "frame": NUMBERS,
            "omega": ("frame", OMEGA, {"units": "degree", "long_name": "rotation"}),
            "time": ("frame", np.datetime64("2026-01-02T03:04:05", "ns") + np.arange(5) * np.timedelta64(1, "s")),
            "phase": ("frame", np.array(["charge", "charge", "rest", "rest", "rest"], object)),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a peak table that was joined from a part, as runs join theirs."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "scan")
    folder.parts.mkdir(parents=True)
    part = write_part(folder, Part(0, 5, peaks_of(PEAKS)), "run")
    consolidate(folder, [part], coordinates(), [14], {"scale_std": 1.0})
    return folder.path


@pytest.fixture
def peaks(run: Path) -> xr.Dataset:
    return open_peaks(run)


# One row a peak.

FIRST = ["peak_frame", "omega", "phase", "time"]


def test_a_table_is_one_row_a_peak_with_frame_and_coordinates_in_the_documented_order(peaks: xr.Dataset) -> None:
    table = braggflow.to_dataframe(peaks)
    assert list(table.columns) == [*FIRST, *(name for name in peak_table.VARIABLES if name != "peak_frame")]
    assert table["peak_frame"].tolist() == [10, 10, 10, 12, 12, 13]
    assert table["omega"].tolist() == [0, 0, 0, 0.5, 0.5, 0.75]
    assert table["phase"].tolist() == ["charge"] * 3 + ["rest"] * 3
    assert table["time"].iloc[3] == pd.Timestamp("2026-01-02T03:04:07")
    assert {name: table[name].dtype for name in peak_table.VARIABLES} == {
        name: np.dtype(variable.dtype) for name, variable in peak_table.VARIABLES.items()
    }
    pd.testing.assert_frame_equal(peaks.bragg.to_dataframe(), table)


def test_wanted_columns_come_with_frame_and_coordinates_whatever_order_they_are_named_in(peaks: xr.Dataset) -> None:
    table = peaks.bragg.to_dataframe(["x", "omega", "y"])
    assert list(table.columns) == [*FIRST, "y", "x"]
    with pytest.raises(InputError, match=r"columns: 'intensty' is not in the table; it has .*Did you mean intensity\?"):
        peaks.bragg.to_dataframe(["intensty"])


def test_parts_of_a_table_make_tables_too(peaks: xr.Dataset) -> None:
    good = peaks.isel(peak=(peaks["flags"] & peak_table.Flag.ring == 0).values)
    whole = peaks.bragg.to_dataframe()
    kept = whole[whole["flags"] & int(peak_table.Flag.ring) == 0]  # each labelled by its row in the whole table
    assert 0 < len(kept) < len(whole)
    pd.testing.assert_frame_equal(good.bragg.to_dataframe(), kept)
    assert list(peaks[["y", "x"]].bragg.to_dataframe().columns) == ["peak_frame", "y", "x"]
    assert list(peaks.assign(d=peaks["y"] * 2).bragg.to_dataframe().columns[-2:]) == ["flags", "d"]
    assert len(peaks.isel(peak=[]).bragg.to_dataframe()) == 0


def test_an_array_in_memory_gives_a_table_that_can_be_asked_the_same() -> None:
    image = np.random.default_rng(0).poisson(3, (2, 48, 48))
    image[:, 20:23, 30:33] += 90
    frames = xr.DataArray(image, dims=("frame", "y", "x"), coords={"omega": ("frame", [0.0, 0.5])})
    table = braggflow.find_peaks(frames, network="none").bragg.near(21, 31).bragg.to_dataframe(["y"])
    assert table[["peak_frame", "omega"]].values.tolist() == [[0, 0], [1, 0.5]]


@pytest.mark.parametrize("what", [xr.Dataset(), xr.Dataset({"y": ("peak", [1.0])})])
def test_what_is_no_peak_table_is_refused(what: xr.Dataset) -> None:
    with pytest.raises(InputError, match=r"peaks: is no peak table .*must be what open_peaks or find_peaks"):
        braggflow.to_dataframe(what)


def test_peaks_whose_frames_were_taken_away_are_refused(peaks: xr.Dataset) -> None:
    for some in (peaks.isel(frame=slice(2)), peaks.isel(frame=[])):
        with pytest.raises(InputError, match=r"peaks: one lies in frame 1[02], of which dimension frame knows nothing"):
            braggflow.to_dataframe(some)


# xarray's own calls: with the table as open_peaks gives it, and as xarray alone opens it.


@pytest.mark.parametrize("opened", ["by braggflow", "by xarray"])
def test_xarrays_own_calls_keep_the_frame_of_each_peak(run: Path, opened: str) -> None:
    z = open_peaks(run) if opened == "by braggflow" else xr.open_zarr(run / "peaks.zarr", consolidated=False)
    numbers = [10, 10, 10, 12, 12, 13]
    for table in (z[["y", "x"]].to_dataframe(), z["y"].to_dataframe(), z.drop_dims("frame").to_dataframe()):
        # As a column or as a label, by the version of xarray and the one that opened it.
        found = table["peak_frame"] if "peak_frame" in table else table.index.get_level_values("peak_frame")
        assert found.tolist() == numbers
    assert "peak_frame" in z[["flags"]].isel(peak=slice(2, 4)).to_dataframe().to_csv().splitlines()[0].split(",")


def test_xarrays_own_csv_has_the_frame_of_each_peak_and_its_row(peaks: xr.Dataset) -> None:
    csv = peaks[["area"]].isel(peak=[1, 3]).to_dataframe().to_csv()
    assert [line.split(",")[:2] for line in csv.splitlines()] == [["peak_frame", "peak"], ["10", "1"], ["12", "3"]]


def test_the_peaks_of_a_frame_are_selected_whether_they_are_many_one_or_none(peaks: xr.Dataset) -> None:
    for number, n in {**PEAKS, 11: 0}.items():
        assert peaks.sel(peak_frame=number)["y"].shape == (n,)
        assert peaks.bragg.frame(number).sizes == {"peak": n}
        assert len(peaks.bragg.frame(number).bragg.to_dataframe()) == n
    assert peaks.bragg.frame(12)["omega"].values.tolist() == [0.5, 0.5]
    with pytest.raises(InputError, match="frame: 17 is not in the table; its frames: 10 to 14, 5 in all"):
        peaks.bragg.frame(17)


# One reflection against omega.


def test_one_reflection_is_followed_through_the_series(peaks: xr.Dataset) -> None:
    y, x = float(peaks["y"][3]), float(peaks["x"][3])
    followed = peaks.bragg.near(y + 0.3, x - 0.4, radius=0.5001)
    assert followed["peak_frame"].values.tolist() == [12]
    assert followed["omega"].values.tolist() == [0.5]
    assert followed["omega"].attrs["units"] == "degree"
    assert peaks.bragg.near(y + 0.3, x - 0.4, radius=0.4999).sizes["peak"] == 0
    assert peaks.bragg.near(30, 30, radius=100).sizes["peak"] == 6
    with pytest.raises(InputError, match="radius: 0 is not accepted; must be above 0"):
        peaks.bragg.near(y, x, radius=0)


# Two settings compared.


def test_two_tables_are_compared_frame_by_frame(peaks: xr.Dataset) -> None:
    other = peaks.load().copy(deep=True)
    other["y"][1:] += 0.25
    other = other.isel(peak=[5, 4, 3, 1])
    found = peaks.bragg.compare(other)
    assert found.first["peak_frame"].values.tolist() == [10, 12, 12, 13]
    np.testing.assert_array_equal(found.second["y"].values, found.first["y"].values + 0.25)
    np.testing.assert_allclose(found.distance, 0.25)
    np.testing.assert_array_equal(found.only_first["y"].values, peaks["y"].values[[0, 2]])
    assert found.only_second.sizes["peak"] == 0
    assert repr(found) == (
        "<5 frames compared: 4 peaks in both, 0.25 px apart (median); 2 only in the first, 0 only in the second; "
        "radius 1 px>"
    )
    assert len(peaks.bragg.compare(other, radius=0.24).distance) == 0
    assert peaks.bragg.compare(peaks.isel(peak=[])).only_first.sizes["peak"] == 6
    with pytest.raises(InputError, match=r"radius: -1\.0 is not accepted"):
        peaks.bragg.compare(other, radius=-1.0)


def test_no_peak_is_matched_twice_and_frames_of_one_table_only_are_left_out() -> None:
    def table(y: list[float], frames: list[int]) -> xr.Dataset:
        rows = peak_table.empty(len(y))
        rows["peak_frame"], rows["y"], rows["x"] = frames[: len(y)], y, 7
        return peak_table.to_dataset(rows, xr.Dataset(coords={"frame": sorted({*frames})}), [], {})

    one, two = table([10.0, 10.6, 50.0], [0, 0, 3]), table([10.5], [0])
    found = one.bragg.compare(two)
    assert (found.first["y"].item(), found.only_first["y"].item(), found.frames) == (10.6, 10.0, 1)
    # Peaks at one place of two frames are two.
    assert len(table([10.0], [0, 1]).bragg.compare(table([10.0], [1, 0])).distance) == 0


# Which settings give so many peaks.


@pytest.fixture(scope="module")
def searched() -> tuple[np.ndarray, xr.Dataset]:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:128, :128]
    images = np.full((3, 128, 128), 4.0)
    for image in images:
        for height in rng.uniform(3, 60, 40):
            cy, cx = rng.uniform(4, 124, 2)
            image += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 4)
    frames = rng.poisson(images)
    loose = {"detect": {"false_peaks": 100}, "fit": {"fraction": 0}}
    return frames, braggflow.find_peaks(frames, network="none", config=loose)


@pytest.mark.parametrize("levels", [{"minval": 30.0}, {"minscore": 25.0}, {"minval": 25.0, "minscore": 20.0}])
def test_a_search_by_loose_levels_counts_what_stricter_ones_find(searched: tuple, levels: dict[str, float]) -> None:
    frames, _ = searched
    loose, found = (
        braggflow.find_peaks(frames, network="none", config={"detect": keys, "fit": {"fraction": 0}})
        for keys in ({"false_peaks": 0.1}, {"false_peaks": 0.01, **levels})
    )
    # Above 0.1 fainter pixels are searched, in which a maximum may merge with a higher one.
    counted = loose.bragg.count(false_peaks=0.01, **levels)
    np.testing.assert_array_equal(counted.values, found["peak_count"].values)
    assert 0 < counted.sum() < loose.bragg.count().sum()


def test_levels_that_are_proposed_leave_so_many_peaks(searched: tuple) -> None:
    frames, loose = searched
    levels = loose.bragg.levels_for(12)
    for name in ("false_peaks", "minscore"):
        assert loose.bragg.count(**{name: levels[name]}).sum() == 36, name
    # Counts are whole numbers, and several maxima may be as high.
    assert (
        loose.bragg.count(minval=levels["minval"]).sum() >= 36 >= loose.bragg.count(minval=levels["minval"] + 1).sum()
    )
    found = braggflow.find_peaks(frames, network="none", minscore=levels["minscore"], false_peaks=100)
    assert found["parent"].values.tolist().count(-1) == 36


def test_where_many_share_the_highest_significance_no_false_peaks_is_proposed(searched: tuple) -> None:
    _, loose = searched
    own = np.sort(loose["significance"].values[loose["parent"].values < 0])[::-1]
    capped = loose.assign(significance=np.minimum(loose["significance"], own[17]))
    assert "false_peaks" not in capped.bragg.levels_for(4)  # 12 of the 18 that share it
    assert capped.bragg.count(false_peaks=capped.bragg.levels_for(8)["false_peaks"]).sum() == 24


def test_a_table_with_fewer_peaks_than_are_wanted_says_so(peaks: xr.Dataset) -> None:
    assert peaks.bragg.levels_for(1.5)["minscore"] < float(peaks["score"].min())
    with pytest.raises(InputError, match=r"peaks_per_frame: 2 .*6 maxima in 4 frames give 1\.5 at most: search by loo"):
        peaks.bragg.levels_for(2)
    with pytest.raises(InputError, match="peaks_per_frame: 0 is not accepted; must be above 0"):
        peaks.bragg.levels_for(0)
    with pytest.raises(InputError, match="false_peaks: -1 is not accepted"):
        peaks.bragg.count(false_peaks=-1)
    with pytest.raises(InputError, match="false_peaks: the table has no significance"):
        peaks.assign(significance=peaks["significance"] * np.nan).bragg.count(false_peaks=1)


def test_false_peaks_means_what_the_search_means_by_it() -> None:
    assert least_significance(MAXIMA_PER_MEGAPIXEL / 10) == pytest.approx(1.2816, abs=1e-4)
