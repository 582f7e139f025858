"""The peak table written for other programs, in memory that does not grow with it: CSV, Parquet, HDF5."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError, not_written
from braggflow.files import written_whole
from braggflow.peak_rows import column_names, rows_of
from braggflow.results.peaks import TABLE_CHUNK, open_stored_peaks

#: Suffixes that stand for each format; the first is the usual one.
SUFFIXES = {"csv": (".csv",), "parquet": (".parquet", ".pq"), "hdf5": (".h5", ".hdf5")}
#: What an HDF5 file needs beside its columns, bytes.
_HDF5_RESERVE = 2**19
_NANOSECONDS = "nanoseconds since 1970-01-01T00:00:00"


class _Rows(NamedTuple):
    """A table to be written: its columns, and their values chunk by chunk."""

    n: int
    names: Sequence[str]
    attributes: Mapping[str, Mapping[str, Any]]
    """Of each column: units, long_name, ..."""
    chunks: Callable[[], Iterator[xr.Dataset]]
    stored: xr.Dataset

    @property
    def empty(self) -> xr.Dataset:
        """The columns without a row, for their dtypes."""
        return rows_of(self.stored.isel(peak=slice(0)))


def export_peaks(
    run: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the peak table of a run to a file for other programs: the rows of `braggflow.to_dataframe`.

    Parameters
    ----------
    run : str or pathlib.Path
        A run folder, ``OUT/DATASET``, or the ``peaks.zarr`` in it.
    out : str or pathlib.Path
        The file to write. It is there whole or not at all.
    to : {"csv", "parquet", "hdf5"}, optional
        The format; default: by the suffix of `out` (.csv, .parquet, .h5, .hdf5). Parquet needs pyarrow:
        ``pip install "braggflow[table]"``.
    overwrite : bool, default False
        Replace a file at `out`.
    progress : callable, optional
        Called with (rows written, rows in all).

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputError
        Where the run has no peak table, the format is not known or its library not installed, a file is there already,
        or `out` cannot be written.

    Examples
    --------
    >>> from braggflow.results import export_peaks
    >>> export_peaks("runs/scan", "peaks.csv").read_text().split(",")[:4]
    ['peak_frame', 'capacity', 'time', 'voltage']
    """
    out = Path(out)
    write = _WRITERS[_format(out, to)]
    if out.is_dir() or (out.exists() and not overwrite):
        what = "is a folder; name a file in it" if out.is_dir() else "exists; choose another name or add --overwrite"
        raise InputError(f"--out {out}: {what}")
    rows = _rows(open_stored_peaks(run), progress or (lambda _done, _total: None))
    try:
        with written_whole(out) as temporary:
            write(temporary, rows)
    except OSError as error:
        raise not_written(f"--out {out}", error) from error
    return out


def _format(out: Path, to: str | None) -> str:
    if to is None:
        found = next((name for name, suffixes in SUFFIXES.items() if out.suffix.lower() in suffixes), None)
        if found is None:
            listed = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
            raise InputError(f"--out {out}: its suffix names no format; must be one of {listed}, or add --to csv")
        to = found
    if to not in SUFFIXES:
        raise InputError(f"--to {to}: is not a format; must be {', '.join(SUFFIXES)}")
    if to == "parquet":
        try:
            import pyarrow  # noqa: F401 - whether it is there
        except ImportError as error:
            raise InputError(
                '--to parquet: needs pyarrow, which is not installed: pip install "braggflow[table]"'
            ) from error
    return to


def _rows(stored: xr.Dataset, progress: Callable[[int, int], None]) -> _Rows:
    n = stored.sizes["peak"]
    head = rows_of(stored.isel(peak=slice(0)))

    def chunks() -> Iterator[xr.Dataset]:
        for start in range(0, n, TABLE_CHUNK):
            yield rows_of(stored.isel(peak=slice(start, start + TABLE_CHUNK)).load())
            progress(min(start + TABLE_CHUNK, n), n)

    names = column_names(head)
    return _Rows(n, names, {name: dict(head[name].attrs) for name in names}, chunks, stored)


def _write_csv(path: Path, rows: _Rows) -> None:
    """A line of names, then a row a peak; numbers as short as they can be and be read back the same."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(rows.names) + "\n")
        for chunk in rows.chunks():
            chunk.to_dataframe()[rows.names].to_csv(file, header=False, index=False, lineterminator="\n")


def _write_parquet(path: Path, rows: _Rows) -> None:
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
    schema = pa.schema(fields, metadata={"braggflow": _text(_plain_attributes(rows.stored))})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for chunk in rows.chunks():
            writer.write_table(pa.Table.from_arrays(arrays(chunk), schema=schema))


def _write_hdf5(path: Path, rows: _Rows) -> None:
    """Group `peaks`: a data set a column; group `frames`: the same for frames, also those without a peak."""
    import h5py

    # HDF5 that finds no room while it closes a file brings the process down later on: it must have all, not compressed.
    need = _HDF5_RESERVE + rows.n * sum(column.dtype.itemsize for column in rows.empty.variables.values())
    if shutil.disk_usage(path.parent).free < need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    with h5py.File(path, "w") as file:
        file.attrs["braggflow"] = _text(_plain_attributes(rows.stored))
        file.attrs["columns"] = list(rows.names)
        peaks, frames = file.create_group("peaks"), file.create_group("frames")
        for name in rows.names:
            values, attributes = _for_hdf5(rows.empty[name])
            packed = {
                "chunks": (min(TABLE_CHUNK, rows.n),),
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


_WRITERS = {"csv": _write_csv, "parquet": _write_parquet, "hdf5": _write_hdf5}
