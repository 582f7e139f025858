"""The peak table in files for other programs, read back by these programs."""

import builtins
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from braggflow import peak_table
from braggflow.errors import InputError
from braggflow.exchange import export_peaks, rows
from braggflow.results import RunFolder, open_peaks
from tests.test_first_hour import FIRST, run

# Older releases of zarr warn of texts, which later ones read as they are.
pytestmark = pytest.mark.filterwarnings("ignore:The codec `vlen-utf8` is currently not part:UserWarning")

__all__ = ["run"]


@pytest.fixture
def table(run: Path) -> pd.DataFrame:
    return open_peaks(run).bragg.to_dataframe().reset_index(drop=True)


@pytest.fixture(params=[2, 4, 262_144])
def rows_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the six rows, how many are held at once."""
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", request.param)
    return request.param


def test_pandas_reads_the_csv_as_the_same_table(
    run: Path, tmp_path: Path, table: pd.DataFrame, rows_at_once: int
) -> None:
    path = export_peaks(run, tmp_path / "peaks.csv")
    dtypes = {name: variable.dtype for name, variable in peak_table.VARIABLES.items()}
    # From 3.1 on pandas reads numbers exactly, and warns who asks for it.
    exactly = {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
    read = pd.read_csv(path, parse_dates=["time"], dtype=dtypes, **exactly)
    pd.testing.assert_frame_equal(read, table, check_dtype=False, check_exact=True)
    assert path.read_text().splitlines()[0] == ",".join(table.columns)


def test_pyarrow_and_pandas_read_the_parquet_file_as_the_same_table_with_units(
    run: Path, tmp_path: Path, table: pd.DataFrame, rows_at_once: int
) -> None:
    path = export_peaks(run, tmp_path / "peaks.parquet")
    texts = {"phase": object}  # releases differ in what they take texts for
    pd.testing.assert_frame_equal(pd.read_parquet(path).astype(texts), table.astype(texts), check_exact=True)
    file = pq.ParquetFile(path)
    assert file.num_row_groups == -(-6 // rows_at_once)
    field = file.schema_arrow.field("y_std")
    assert field.metadata[b"units"] == b"pixel"
    assert file.schema_arrow.field("omega").metadata[b"units"] == b"degree"
    assert b"deblended" in file.schema_arrow.field("flags").metadata[b"flag_meanings"]
    assert json.loads(file.schema_arrow.metadata[b"braggflow"])["format"] == "braggflow-peaks"


def test_h5py_reads_a_data_set_a_column_with_units_and_all_frames(
    run: Path, tmp_path: Path, table: pd.DataFrame, rows_at_once: int
) -> None:
    path = export_peaks(run, tmp_path / "peaks.h5")
    with h5py.File(path) as file:
        assert file.attrs["columns"].tolist() == table.columns.tolist()
        assert set(file["peaks"]) == set(table.columns)
        for name in table.columns.drop(["time", "phase"]):
            np.testing.assert_array_equal(file["peaks"][name][:], table[name].to_numpy())
            assert file["peaks"][name].dtype == table[name].dtype
        assert file["peaks/phase"].asstr()[:].tolist() == table["phase"].tolist()
        assert file["peaks/time"].attrs["units"] == "nanoseconds since 1970-01-01T00:00:00"
        assert pd.to_datetime(file["peaks/time"][:]).tolist() == table["time"].tolist()
        assert (file["peaks/y"].attrs["units"], file["peaks/omega"].attrs["units"]) == ("pixel", "degree")
        assert file["peaks/method"].attrs["flag_meanings"].split()[2] == "gaussian"
        assert file["frames/frame"][:].tolist() == [10, 11, 12, 13, 14]
        assert file["frames/peak_count"][:].tolist() == [3, 0, 2, 1, 0]
        assert file["frames/frame_failed"][:].tolist() == [0, 0, 0, 0, 1]
        assert file["frames/omega"][:].tolist() == [0, 0.25, 0.5, 0.75, 1]
        as_table = pd.DataFrame({name: file["peaks"][name][:] for name in ("peak_frame", "y", "x")})
    pd.testing.assert_frame_equal(as_table, table[["peak_frame", "y", "x"]])


@pytest.mark.parametrize("suffix", ["csv", "parquet", "h5"])
def test_a_run_without_peaks_gives_a_file_with_columns(tmp_path: Path, suffix: str) -> None:
    from braggflow.results import consolidate
    from tests.test_first_hour import coordinates

    folder = RunFolder(tmp_path / "none")
    folder.path.mkdir()
    consolidate(folder, [], coordinates(), [], {})
    path = export_peaks(folder.path, tmp_path / f"peaks.{suffix}")
    if suffix == "h5":
        with h5py.File(path) as file:
            assert file["peaks/y"].shape == (0,)
    else:
        read = pd.read_csv(path) if suffix == "csv" else pd.read_parquet(path)
        assert list(read.columns)[:4] == FIRST
        assert len(read) == 0


def test_a_file_is_there_whole_or_not_at_all(run: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(_done: int, _total: int) -> None:
        raise StoppedError

    for suffix in ("csv", "parquet", "h5"):
        with pytest.raises(StoppedError):
            export_peaks(run, tmp_path / f"peaks.{suffix}", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_when_asked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "peaks.csv"
    out.write_text("mine")
    with pytest.raises(InputError, match=r"--out .*peaks\.csv: exists; choose another name or add --overwrite"):
        export_peaks(run, out)
    assert out.read_text() == "mine"
    export_peaks(run, out, overwrite=True)
    assert out.read_text().startswith("peak_frame,omega")


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        (
            "peaks.xlsx",
            None,
            r"--out .*peaks\.xlsx: its suffix names no format; must be one of \.csv, \.parquet, .*\.h5",
        ),
        ("peaks.csv", "excel", "--to excel: is not a format; must be csv, parquet, hdf5, duckdb"),
        ("", "csv", "--out .*: is a folder; name a file in it"),
        ("nowhere/peaks.csv", None, r"--out .*nowhere/peaks\.csv: cannot be written \(No such file or directory\)"),
        ("nowhere/peaks.h5", None, r"--out .*nowhere/peaks\.h5: cannot be written"),
        ("nowhere/peaks.parquet", None, r"--out .*nowhere/peaks\.parquet: cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused(run: Path, tmp_path: Path, name: str, to: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_peaks(run, tmp_path / name, to=to)
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return found(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r'--to parquet: needs pyarrow, .*: pip install "braggflow\[table\]"'):
        export_peaks(run, tmp_path / "peaks.parquet")


def test_a_format_may_be_named_where_the_suffix_says_nothing(run: Path, tmp_path: Path) -> None:
    assert export_peaks(run, tmp_path / "peaks.txt", to="csv").read_text().startswith("peak_frame,omega")
