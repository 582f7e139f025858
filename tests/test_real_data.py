"""The whole flow on real detector frames: found peaks against what others found on them."""

import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial
import xarray as xr
from numpy.typing import NDArray

import braggflow
from braggflow.config import load_config
from braggflow.convert import ingest
from braggflow.detect.searching import subtract_background
from braggflow.frames import open_frames, open_series
from braggflow.peak_table import Flag, Table, to_dataset
from braggflow.pipeline import complete_peaks, locate_peaks, search_chunk

CONFIGS = Path(__file__).parent.parent / "configs"


def found(data: xr.Dataset, name: str, *overrides: str, fit: bool = False, network: bool = False) -> Table:
    """The peaks of a frames store, in this process, by a configuration of the project."""
    asked = "compact" if network else "none"
    settings = load_config(CONFIGS / name, [f"locate.network={asked}", f"fit.fraction={float(fit)}", *overrides])
    opened = open_series(data, settings)
    chunks = [search_chunk(opened, i, i + 1) for i in range(len(opened.numbers))]
    assert not [failure for chunk in chunks for failure in chunk.failures]
    return complete_peaks(settings, chunks, locate_peaks(settings, chunks))[0]


def of_frame(table: Table, number: int) -> NDArray[np.float64]:
    """Detected maxima (y, x) of one frame."""
    rows = table[table["peak_frame"] == number]
    return np.column_stack([rows["y_pixel"], rows["x_pixel"]]).astype(np.float64)


@pytest.fixture(scope="module")
def zirconium(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    path = tmp_path_factory.mktemp("zirconium") / "zr_ge2.zarr"
    source = real_data / "zr_ge2" / "zr_ge2.h5"
    return open_frames(ingest([source], path, coords={"omega": "/entry/data/omega"}, workers=1))


@pytest.fixture(scope="module")
def zirconium_peaks(zirconium: xr.Dataset) -> Table:
    return found(zirconium, "rotation.yaml", fit=True, network=True)


@pytest.fixture(scope="module")
def hexrd_spots(real_data: Path) -> NDArray[np.float64]:
    """(n, 3) frame, y, x of the spots that HEXRD measured with max_int > 50; pixel centres at whole numbers."""
    with (real_data / "zr_ge2" / "hexrd_spots.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line.removeprefix("# ") for line in file))
    columns = ("frame", "row_px", "col_px")
    return np.array([[float(row[name]) for name in columns] for row in rows if float(row["max_int"]) > 50])


@pytest.fixture(scope="module")
def protein(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    path = tmp_path_factory.mktemp("protein") / "snase.zarr"
    return open_frames(ingest([real_data / "snase_ccd" / "*.img"], path, workers=1))


@pytest.fixture(scope="module")
def protein_mask(protein: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CCD's dead borders and overflown column, with a margin: a frame's worth of what never changes."""
    counts = protein["frames"].values
    border = scipy.ndimage.binary_dilation((counts == 0).all(axis=0), iterations=4)
    column = scipy.ndimage.binary_dilation((counts > 30_000).all(axis=0), iterations=2)
    path = tmp_path_factory.mktemp("mask") / "mask.npy"
    np.save(path, border | column)
    return path


@pytest.fixture(scope="module")
def protein_peaks(protein: xr.Dataset, protein_mask: Path) -> Table:
    settings = [f"frames.mask={protein_mask}", "frames.saturation=50000"]
    return found(protein, "laue.yaml", *settings, fit=True, network=True)


@pytest.fixture(scope="module")
def pilatus_store(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pilatus") / "pilatus.zarr"
    return ingest([real_data / "pilatus300k" / "in16c_010001.cbf"], path, workers=1)


@pytest.fixture(scope="module")
def pilatus_peaks(pilatus_store: Path) -> Table:
    return found(open_frames(pilatus_store), "pilatus.yaml", fit=True, network=True)


def distances(spots: NDArray[np.float64], table: Table, y: str, x: str) -> NDArray[np.float64]:
    """Distance (pixels) of each spot to the nearest peak in its frame or a neighbouring one."""
    nearest = []
    for frame, row, column in spots:
        near = table[np.abs(table["peak_frame"] - frame) <= 1]
        nearest.append(np.hypot(near[y] - row, near[x] - column).min(initial=np.inf))
    return np.array(nearest)


@pytest.mark.parametrize("columns", [("y", "x"), ("y_pixel", "x_pixel")], ids=["position", "maximum"])
def test_hexrd_spots_have_a_peak_beside_them(
    zirconium_peaks: Table, hexrd_spots: NDArray[np.float64], columns: tuple[str, str]
) -> None:
    distance = distances(hexrd_spots, zirconium_peaks, *columns)
    assert len(distance) == 261
    assert (distance <= 3).mean() >= 0.96
    assert (distance <= 5).mean() >= 0.99


def test_hexrd_spots_are_not_met_by_chance(zirconium_peaks: Table, hexrd_spots: NDArray[np.float64]) -> None:
    elsewhere = hexrd_spots + np.array([0, 25, 25])
    assert (distances(elsewhere, zirconium_peaks, "y", "x") <= 3).mean() < 0.1


def of_nearest_maximum(spots: NDArray[np.float64], table: Table) -> NDArray[np.float64]:
    """Distance (pixels) of each spot to the position of the peak whose maximum is nearest, frames as above."""
    found = []
    for frame, row, column in spots:
        near = table[np.abs(table["peak_frame"] - frame) <= 1]
        best = near[np.hypot(near["y_pixel"] - row, near["x_pixel"] - column).argmin()]
        found.append(np.hypot(best["y"] - row, best["x"] - column))
    return np.array(found)


def test_positions_match_hexrd_no_worse_than_intensity_centroids_do(
    zirconium: xr.Dataset, zirconium_peaks: Table, hexrd_spots: NDArray[np.float64]
) -> None:
    ours = of_nearest_maximum(hexrd_spots, zirconium_peaks)
    centroids = of_nearest_maximum(hexrd_spots, found(zirconium, "rotation.yaml"))
    both = (ours <= 3) & (centroids <= 3)
    assert both.mean() > 0.9
    # HEXRD's spots are predictions, whose own scatter is nearly all of the distance.
    assert np.mean(ours[both]) <= 1.08 * np.mean(centroids[both])
    assert np.median(ours[both]) <= 1.08 * np.median(centroids[both])


@pytest.mark.parametrize("name", ["protein_peaks", "pilatus_peaks"])
def test_network_and_fit_agree_on_strong_unflagged_peaks(name: str, request: pytest.FixtureRequest) -> None:
    table: Table = request.getfixturevalue(name)
    strong = table[(table["snr"] > 20) & (table["flags"] == 0)]
    assert len(strong) >= 10
    assert np.median(strong["disagreement"]) < 0.05


def test_the_rotation_angle_of_each_frame_is_read(zirconium: xr.Dataset) -> None:
    omega = zirconium["omega"].values
    assert omega.shape == (100,)
    assert np.allclose(np.delete(np.diff(omega), 49), 1)  # two sweeps of 50 degrees
    assert (omega[0], omega[-1]) == (-114.5, 114.5)


def test_a_fit_leaves_a_strong_peak_near_its_maximum(
    zirconium_peaks: Table, protein_peaks: Table, pilatus_peaks: Table
) -> None:
    for table in (zirconium_peaks, protein_peaks, pilatus_peaks):
        strong = table[(table["snr"] > 20) & (table["flags"] & ~np.uint16(Flag.fit_failed) == 0)]
        assert len(strong) >= 10
        assert (strong["flags"] & Flag.fit_failed == 0).mean() > 0.95
        offset = np.hypot(strong["y_fit"] - strong["y_pixel"], strong["x_fit"] - strong["x_pixel"])
        assert np.nanmedian(offset) < 0.71  # half a pixel's diagonal


def test_protein_spots_stand_on_a_flat_background(protein: xr.Dataset, protein_mask: Path) -> None:
    mask = np.load(protein_mask)
    counts = protein["frames"].values[0]
    settings = load_config(CONFIGS / "laue.yaml").detect
    flat = subtract_background(counts[None], mask, settings)[0]
    y, x = np.indices(counts.shape)
    radius = np.hypot(y - 500, x - 530)
    rings = [~mask & (radius >= r) & (radius < r + 25) for r in range(50, 450, 25)]
    before = np.ptp([np.median(counts[ring]) for ring in rings])
    after = np.ptp([np.median(flat[ring]) for ring in rings])
    assert before > 1000
    assert after < before / 15


def test_protein_frames_give_more_spots_than_others_count(protein_peaks: Table, protein: xr.Dataset) -> None:
    # 270 to 390 of them are strong. That the others are spots too says the test of consecutive frames.
    counts = np.bincount(protein_peaks["peak_frame"][protein_peaks["parent"] < 0], minlength=6)
    strong = np.bincount(protein_peaks["peak_frame"][protein_peaks["snr"] > 20], minlength=6)
    assert counts.min() >= 800
    assert counts.max() <= 1100
    assert strong.min() >= 270


def test_faint_protein_spots_last_over_consecutive_frames_as_bright_ones_do(protein_peaks: Table) -> None:
    faint, met, by_chance = 0, 0.0, 0.0
    for number in range(5):
        of_now = protein_peaks[(protein_peaks["peak_frame"] == number) & (protein_peaks["significance"] < 8)]
        now = np.column_stack([of_now["y_pixel"], of_now["x_pixel"]]).astype(np.float64)
        later = scipy.spatial.KDTree(of_frame(protein_peaks, number + 1))
        faint += len(now)
        met += np.count_nonzero(later.query(now)[0] <= 2)
        by_chance += np.count_nonzero(later.query(now + 15.0)[0] <= 2)
    assert faint > 300
    assert met > 0.25 * faint
    assert met > 10 * by_chance


def test_protein_spots_need_the_local_background(protein: xr.Dataset, protein_mask: Path, protein_peaks: Table) -> None:
    first = protein.isel(frame=[0])
    first["frames"].encoding = protein["frames"].encoding
    without = found(first, "laue.yaml", f"frames.mask={protein_mask}", "detect.background=none")
    y, x = of_frame(protein_peaks, 0).T
    # Inside the bright ring no frame-wide level separates spots from it.
    inside = np.hypot(y - 500, x - 530) < 300
    distance, _ = scipy.spatial.KDTree(of_frame(without, 0)).query(of_frame(protein_peaks, 0)[inside])
    assert (distance <= 1).mean() < 0.9


def test_protein_spots_last_over_consecutive_frames(protein_peaks: Table) -> None:
    # The crystal turns by 1 degree a frame: most spots change, but many times more stay than would meet by chance.
    for number in range(5):
        now, later = of_frame(protein_peaks, number), of_frame(protein_peaks, number + 1)
        distance, _ = scipy.spatial.KDTree(later).query(now)
        elsewhere, _ = scipy.spatial.KDTree(later).query(now + 15.0)
        assert (distance <= 2).mean() > 0.15
        assert (distance <= 2).mean() > 3 * (elsewhere <= 2).mean()


def test_no_protein_spot_lies_on_the_dead_border(protein_peaks: Table, protein_mask: Path) -> None:
    assert not np.load(protein_mask)[protein_peaks["y_pixel"], protein_peaks["x_pixel"]].any()


def test_pilatus_spots_are_as_many_as_others_count(pilatus_peaks: Table) -> None:
    maxima = pilatus_peaks["parent"] < 0
    assert 330 <= np.count_nonzero(maxima) <= 420  # 240 by eye, without the faint ones


def test_the_pilatus_gaps_yield_no_peaks(pilatus_store: Path, pilatus_peaks: Table) -> None:
    mask = open_frames(pilatus_store)["mask"].values != 0
    to_gap = scipy.ndimage.distance_transform_edt(~mask)
    at_peaks = to_gap[pilatus_peaks["y_pixel"], pilatus_peaks["x_pixel"]]
    assert at_peaks.min() > 0
    # The diffraction is densest near the gaps, so the strip along them is compared with the strip beside it.
    beside, along = (to_gap > 2) & (to_gap <= 20), (to_gap > 0) & (to_gap <= 2)
    expected = np.count_nonzero((at_peaks > 2) & (at_peaks <= 20)) * along.sum() / beside.sum()
    assert np.count_nonzero(at_peaks <= 2) <= 2 * expected


def test_peaks_near_a_gap_are_flagged(pilatus_store: Path, pilatus_peaks: Table) -> None:
    mask = open_frames(pilatus_store)["mask"].values != 0
    reach = scipy.ndimage.binary_dilation(mask, np.ones((9, 9), bool))
    near = reach[pilatus_peaks["y_pixel"], pilatus_peaks["x_pixel"]]
    assert near.any()
    of_maxima = pilatus_peaks["parent"] < 0  # a peak told apart in a patch has the patch's flags
    np.testing.assert_array_equal((pilatus_peaks["flags"] & Flag.masked != 0)[of_maxima], near[of_maxima])


def test_network_and_fit_agree_on_a_pilatus_frame_run_whole(
    pilatus_store: Path, pilatus_peaks: Table, tmp_path: Path
) -> None:
    settings = load_config(
        CONFIGS / "pilatus.yaml", [f"data=[{pilatus_store}]", f"output.folder={tmp_path}", "compute.workers=1"]
    )
    (outcome,) = braggflow.run(settings)
    assert outcome.status == "complete", outcome.message
    table = braggflow.open_peaks(outcome.folder / "peaks.zarr").load()
    np.testing.assert_array_equal(table["x_pixel"].values, pilatus_peaks["x_pixel"])
    clean = (table["flags"].values == 0) & (table["snr"].values > 10)
    assert clean.sum() > 20
    assert np.median(table["disagreement"].values[clean]) < 0.05
    assert (outcome.folder / "report.html").stat().st_size > 100_000


def test_joined_reflections_are_where_hexrd_has_them(
    zirconium: xr.Dataset, zirconium_peaks: Table, real_data: Path
) -> None:
    with (real_data / "zr_ge2" / "hexrd_spots.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line.removeprefix("# ") for line in file))
    columns = ("row_px", "col_px", "omega_deg")
    spots = np.array([[float(row[name]) for name in columns] for row in rows if float(row["max_int"]) > 50])
    table = to_dataset(zirconium_peaks, zirconium.coords.to_dataset(), [], {})
    tracks = braggflow.track(table)
    assert tracks.attrs["kind"] == "rotation"
    places = np.stack([tracks[name].values for name in ("y_mean", "x_mean", "omega")], axis=1)
    scale = np.array([3, 3, 2])  # pixels, pixels, degrees
    distance, nearest = scipy.spatial.KDTree(places / scale).query(spots / scale)
    near = distance < 1
    offset = np.median(places[nearest[near]] - spots[near], axis=0)
    print(
        f"{np.count_nonzero(near)} of {len(spots)} spots, median offset {offset}, {tracks.sizes['track']} reflections"
    )
    assert np.count_nonzero(near) > 0.9 * len(spots)
    assert (np.abs(offset) < (0.1, 0.1, 0.2)).all()


def test_spots_of_six_protein_frames_are_linked_in_phi(protein: xr.Dataset, protein_peaks: Table) -> None:
    tracks = braggflow.track(to_dataset(protein_peaks, protein.coords.to_dataset(), [], {}), kind="rotation")
    assert tracks.attrs["rotation_axis"] == "phi"
    reflection, several = tracks["track_id"].values, tracks["length"].values > 1
    assert tracks["length"].values.sum() == len(protein_peaks)
    linked = several[reflection]
    places = np.stack([protein_peaks["y"], protein_peaks["x"]], axis=1)[linked]
    middle = np.stack([tracks[name].values for name in ("y_mean", "x_mean")], axis=1)[reflection[linked]]
    off = np.hypot(*(places - middle).T)
    assert linked.mean() > 0.4
    assert np.median(off) < 0.8
