"""What is written is read by the other program's own reader, with the same positions after its convention.

`make test-exchange` installs these programs in an environment of its own; else what is not there is skipped.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from braggflow.exchange import export_peaks
from tests.exchange.tables import FRAMES, filled

pytestmark = pytest.mark.filterwarnings("ignore")  # of others' modules


def program(name: str) -> Any:
    return pytest.importorskip(name, exc_type=ImportError)


@pytest.fixture
def peaks() -> xr.Dataset:
    return filled(30, 3)


def test_imaged11_reads_a_column_file(peaks: xr.Dataset, tmp_path: Path) -> None:
    read = program("ImageD11.columnfile").columnfile(str(export_peaks(peaks, tmp_path / "peaks.flt")))
    assert read.nrows == 30
    for name, ours in (("s_raw", "y"), ("f_raw", "x"), ("sc", "y"), ("fc", "x"), ("sum_intensity", "intensity")):
        # ImageD11 has double numbers; ours of single ones are written as short as they can be.
        np.testing.assert_allclose(getattr(read, name), peaks[ours].values, rtol=1e-7 * (ours == "intensity"))
    np.testing.assert_array_equal(read.frame, peaks["peak_frame"].values)
    np.testing.assert_array_equal(read.omega, peaks["omega"].sel(frame=peaks["peak_frame"]).values)


def test_reciprocalspaceship_reads_a_reflection_table(peaks: xr.Dataset, tmp_path: Path) -> None:
    dials = program("reciprocalspaceship.io.dials")
    path = export_peaks(peaks, tmp_path / "peaks.refl")
    extra = ["xyzobs.px.value", "xyzobs.px.variance", "bbox", "flags", "panel"]
    read = dials.read_dials_stills(
        str(path), unitcell=(9, 9, 9, 90, 90, 90), spacegroup="P1", extra_cols=extra, numjobs=1
    )
    assert len(read) == 30
    for axis, (name, middle) in enumerate((("x", 0.5), ("y", 0.5), ("peak_frame", 0.5))):
        np.testing.assert_array_equal(read[f"xyzobs.px.value.{axis}"], peaks[name].values + middle)
    np.testing.assert_allclose(read["xyzobs.px.variance.1"], peaks["y_std"].values.astype(float) ** 2)
    np.testing.assert_array_equal(read["intensity.sum.value"], peaks["intensity"].values)


def test_nexusformat_reads_and_accepts_a_file(peaks: xr.Dataset, tmp_path: Path, capsys: Any) -> None:
    nexus = program("nexusformat.nexus")
    path = export_peaks(peaks, tmp_path / "peaks.nxs")
    root = nexus.nxload(str(path))
    reflections = root["entry/reflections"]
    assert type(reflections).__name__ == "NXreflections"
    for name, ours in (("observed_px_y", "y"), ("observed_px_x", "x"), ("observed_frame", "peak_frame")):
        np.testing.assert_array_equal(reflections[name].nxvalue, peaks[ours].values + 0.5)
    assert reflections["bounding_box"].shape == (30, 6)
    # The definitions name no base class that NXreflections may stand in.
    warnings, errors = program("nexusformat.nexus.validate").validate_file(str(path))
    said = capsys.readouterr().out
    assert (warnings, errors) == (0, 1), said
    assert "NXreflections is an invalid class in NXentry" in said


def test_cfelpyutils_reads_a_stream(peaks: xr.Dataset, tmp_path: Path) -> None:
    stream = program("cfelpyutils.crystfel_stream")
    chunks = list(stream.parse_chunks(str(export_peaks(peaks, tmp_path / "peaks.stream"))))
    assert [chunk["Event"] for chunk in chunks] == [f"//{number}" for number in range(FRAMES)]
    for number, chunk in enumerate(chunks):
        here = peaks.sel(peak_frame=number)
        assert int(chunk["num_peaks"]) == len(chunk["peaks"]) == here.sizes["peak"]
        np.testing.assert_allclose(chunk["peaks"]["ss/px"], here["y"].values + 0.5, rtol=1e-15)
        np.testing.assert_allclose(chunk["peaks"]["fs/px"], here["x"].values + 0.5, rtol=1e-15)
        assert set(chunk["peaks"]["Panel"]) <= {"p0"}


def test_midas_reads_its_peaks(peaks: xr.Dataset, tmp_path: Path) -> None:
    read = program("midas_peakfit.compat.reference_decoder").read_ps(export_peaks(peaks, tmp_path / "AllPeaks_PS.bin"))
    assert read.n_frames == FRAMES
    for number, rows in enumerate(read.rows_per_frame):
        here = peaks.sel(peak_frame=number)
        np.testing.assert_array_equal(rows[:, [3, 4]], np.stack([here["x"].values, here["y"].values], axis=1))
        np.testing.assert_array_equal(rows[:, 0], np.arange(1, here.sizes["peak"] + 1))


def test_duckdb_answers_what_is_asked_of_a_table(peaks: xr.Dataset, tmp_path: Path) -> None:
    duckdb = program("duckdb")
    with duckdb.connect(str(export_peaks(peaks, tmp_path / "peaks.duckdb")), read_only=True) as database:
        asked = "SELECT frame, omega, peak_count FROM frames ORDER BY frame"
        assert database.execute(asked).fetchall() == [
            (number, number * 0.5 - 1, count) for number, count in enumerate(peaks["peak_count"].values.tolist())
        ]
        brightest = database.execute("SELECT y, x FROM peaks ORDER BY intensity DESC LIMIT 1").fetchone()
        comment = database.execute(
            "SELECT comment FROM duckdb_columns() WHERE table_name = 'peaks' AND column_name = 'y_std'"
        ).fetchone()
    best = peaks.isel(peak=int(peaks["intensity"].argmax()))
    assert brightest == (float(best["y"]), float(best["x"]))
    assert comment[0].startswith("standard uncertainty of y (NaN where unknown); pixel")


def test_numpy_reads_a_table_of_spots_as_hexrd_does(peaks: xr.Dataset, tmp_path: Path) -> None:
    path = export_peaks(peaks.assign_attrs(shape=[200, 300]), tmp_path / "spots.out", pixel_size=200)
    table = np.loadtxt(path)
    assert table.shape == (30, 17)
    # PlanarDetector.cartToPixel: from the upper left corner, half a pixel before the middle of the first one.
    row = (200 * 0.2 / 2 - table[:, 16]) / 0.2 - 0.5
    column = (table[:, 15] + 300 * 0.2 / 2) / 0.2 - 0.5
    np.testing.assert_allclose(row, peaks["y"].values, atol=1e-10)
    np.testing.assert_allclose(column, peaks["x"].values, atol=1e-10)
