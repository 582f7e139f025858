"""CSV, Parquet, HDF5 and DuckDB with our own columns: written chunk by chunk, and read again.

The rows of `braggflow.to_dataframe`. A CSV of another program is read too, where its columns have one of the names in
`NAMES`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.exchange.lists import PeakList, numbers_of_text, own_columns
from braggflow.exchange.rows import ROWS_AT_ONCE, Rows, refuse_without_room
from braggflow.peak_table import VARIABLES

#: What an HDF5 file needs beside its columns, bytes.
_HDF5_RESERVE = 2**19
_NANOSECONDS = "nanoseconds since 1970-01-01T00:00:00"
#: Names that others give what we call `peak_frame`, `y`, `x`, `intensity`, `birth`.
NAMES = {
    "frame": "peak_frame",
    "row_px": "y",
    "row": "y",
    "col_px": "x",
    "col": "x",
    "column": "x",
    "sum_int": "intensity",
    "max_int": "birth",
}


def _write_csv(path: Path, rows: Rows) -> None:
    """A line of names, then a row a peak; numbers as short as they can be and be read back the same."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(rows.names) + "\n")
        for chunk in rows.chunks():
            chunk.to_dataframe()[rows.names].to_csv(file, header=False, index=False, lineterminator="\n")


def _write_parquet(path: Path, rows: Rows) -> None:
    """A row group a chunk; units and long_name are metadata of each field, the table's attributes of the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def arrays(chunk: xr.Dataset) -> list[Any]:
        # Of texts the type is not to be guessed from those that happen to be there, which may be none.
        text = {name: pa.string() for name in rows.names if chunk[name].dtype.kind in "OUT"}
        return [pa.array(chunk[name].values, text.get(name)) for name in rows.names]

    fields = [
        pa.field(name, array.type, metadata={key: _text(value) for key, value in rows.attributes[name].items()})
        for name, array in zip(rows.names, arrays(rows.empty), strict=True)
    ]
    schema = pa.schema(fields, metadata={"braggflow": _text(_plain_attributes(rows.empty))})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for chunk in rows.chunks():
            writer.write_table(pa.Table.from_arrays(arrays(chunk), schema=schema))


def _write_hdf5(path: Path, rows: Rows) -> None:
    """Group `peaks`: a data set a column; group `frames`: the same for frames, also those without a peak."""
    import h5py

    row_size = sum(column.dtype.itemsize for column in rows.empty.variables.values())
    refuse_without_room(path, _HDF5_RESERVE + rows.n * row_size)
    with h5py.File(path, "w") as file:
        file.attrs["braggflow"] = _text(_plain_attributes(rows.empty))
        file.attrs["columns"] = list(rows.names)
        peaks, frames = file.create_group("peaks"), file.create_group("frames")
        for name in rows.names:
            values, attributes = _for_hdf5(rows.empty[name])
            packed = {
                "chunks": (min(ROWS_AT_ONCE, rows.n),),
                "compression": "gzip",
                "compression_opts": 1,
                "shuffle": True,
            }
            data_set = peaks.create_dataset(name, (rows.n,), values.dtype, **(packed if rows.n else {}))
            data_set.attrs.update(attributes)
        start = 0
        for chunk in rows.chunks():
            stop = start + chunk.sizes["peak"]
            for name in rows.names:
                peaks[name][start:stop] = _for_hdf5(chunk[name])[0]
            start = stop
        for of_frames, column in rows.stored.variables.items():
            if column.dims == ("frame",):
                values, attributes = _for_hdf5(rows.stored[of_frames])
                frames.create_dataset(str(of_frames), data=values, dtype=values.dtype).attrs.update(attributes)


def _for_hdf5(column: xr.DataArray) -> tuple[NDArray[Any], dict[str, Any]]:
    """Values of a type that HDF5 has, and attributes: times are whole numbers with their unit, as CF has it."""
    import h5py

    values, attributes = column.values, {key: value for key, value in column.attrs.items() if value is not None}
    if values.dtype.kind == "M":
        return values.astype("M8[ns]").astype(np.int64), attributes | {"units": _NANOSECONDS}
    if values.dtype.kind == "m":
        return values.astype("m8[ns]").astype(np.int64), attributes | {"units": "ns"}
    if values.dtype.kind in "OUT":
        return values.astype(object).astype(h5py.string_dtype()), attributes
    return values, attributes


def _plain_attributes(stored: xr.Dataset) -> dict[str, Any]:
    return {str(key): value.tolist() if hasattr(value, "tolist") else value for key, value in stored.attrs.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _read_csv(path: Path) -> PeakList:
    """Columns of our own names or of those in `NAMES`; a line of names, which may begin with #."""
    with path.open(encoding="utf-8", errors="replace") as file:
        names = [name.strip() for name in file.readline().lstrip("#").split(",")]
    wanted = {name: NAMES.get(name, name) for name in names}
    known = {name: ours for name, ours in wanted.items() if ours in VARIABLES}
    columns = numbers_of_text(path, names, ",", 1, list(known))
    return PeakList(
        {known[name]: values for name, values in columns.items()},
        unread=[name for name in names if name not in known],
        row_name="line",
        first_row=2,
    )


def _read_parquet(path: Path) -> PeakList:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error})") from error
    return own_columns({name: table[name].to_numpy() for name in table.column_names})


def _read_hdf5(path: Path) -> PeakList:
    import h5py

    with h5py.File(path, "r") as file:
        if "peaks" not in file:
            raise InputError(f"{path}: has no group peaks; must be what braggflow export writes")
        found = own_columns({name: column[:] for name, column in file["peaks"].items()})
        frames = file["frames/frame"][:] if "frames/frame" in file else None
    return found._replace(frames=frames)


def _write_duckdb(path: Path, rows: Rows) -> None:
    """Tables `peaks` (units and meanings are comments of its columns), `frames` and `attributes`."""
    import duckdb

    with duckdb.connect(str(path)) as database:
        database.begin()
        _insert(database, "peaks", _frame(rows.empty, rows.names), new=True)
        for chunk in rows.chunks():
            _insert(database, "peaks", _frame(chunk, rows.names), new=False)
        for name in rows.names:
            said = {key: rows.attributes[name].get(key, "") for key in ("long_name", "units", "flag_meanings")}
            text = "; ".join(str(part) for part in said.values() if part).replace("'", "''")
            database.execute(f"COMMENT ON COLUMN peaks.\"{name}\" IS '{text}'")
        of_frames = [str(name) for name, values in rows.stored.variables.items() if values.dims == ("frame",)]
        if of_frames:
            _insert(database, "frames", rows.stored[of_frames].reset_coords().to_dataframe().reset_index(), new=True)
        database.execute("CREATE TABLE attributes (name VARCHAR, value VARCHAR)")
        stated = [(str(name), json.dumps(value, default=str)) for name, value in rows.stored.attrs.items()]
        if stated:
            database.executemany("INSERT INTO attributes VALUES (?, ?)", stated)
        database.commit()


def _frame(chunk: Any, names: Any) -> Any:
    return chunk.to_dataframe()[list(names)]


def _insert(database: Any, table: str, frame: Any, *, new: bool) -> None:
    database.register("handed_over", frame)
    database.execute(f"{f'CREATE TABLE {table} AS' if new else f'INSERT INTO {table}'} SELECT * FROM handed_over")
    database.unregister("handed_over")


def _read_duckdb(path: Path) -> PeakList:
    import duckdb

    try:
        with duckdb.connect(str(path), read_only=True) as database:
            columns = database.execute("SELECT * FROM peaks").fetchnumpy()
            tables = {name for (name,) in database.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
            numbers = database.execute("SELECT frame FROM frames").fetchall() if "frames" in tables else None
    except duckdb.Error as error:
        raise InputError(f"{path}: cannot be read as a DuckDB database with a table peaks ({error})") from error
    frames = None if numbers is None else np.array([number for (number,) in numbers], np.int64)
    return own_columns({name: _filled(values) for name, values in columns.items()})._replace(frames=frames)


def _filled(values: Any) -> Any:
    """Numbers with NaN where the database has NULL."""
    return values.astype(np.float64).filled(np.nan) if np.ma.is_masked(values) and values.dtype.kind == "f" else values


WRITERS = {"csv": _write_csv, "parquet": _write_parquet, "hdf5": _write_hdf5, "duckdb": _write_duckdb}
READERS = {"csv": _read_csv, "parquet": _read_parquet, "hdf5": _read_hdf5, "duckdb": _read_duckdb}
