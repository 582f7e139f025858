"""The peak table written for other programs, in memory that does not grow with it."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import xarray as xr

from braggflow.errors import InputError, not_written
from braggflow.exchange.conventions import format_of
from braggflow.exchange.rows import Detector, Rows, rows_to_write
from braggflow.files import written_whole
from braggflow.results import RunFolder, open_peaks, read_run_info

#: The module that writes and reads each format.
MODULES = {
    "csv": "plain_tables",
    "parquet": "plain_tables",
    "hdf5": "plain_tables",
    "duckdb": "plain_tables",
    "nexus": "nexus",
    "flt": "imaged11",
    "refl": "dials",
    "stream": "crystfel",
    "cxi": "crystfel",
    "midas": "hedm",
    "hexrd": "hedm",
}


def export_peaks(
    run: str | Path | xr.Dataset,
    out: str | Path,
    *,
    to: str | None = None,
    overwrite: bool = False,
    pixel_size: float | None = None,
    derived: Callable[[xr.Dataset], xr.Dataset] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a peak table to a file for other programs: its rows, in their names and conventions.

    Parameters
    ----------
    run : str, pathlib.Path or xarray.Dataset
        A run folder, ``OUT/DATASET``, or the ``peaks.zarr`` in it; or a peak table in memory.
    out : str or pathlib.Path
        The file to write. It is there whole or not at all.
    to : {"csv", "parquet", "hdf5", "duckdb", "nexus", "flt", "refl", "stream", "cxi", "midas", "hexrd"}, optional
        The format; default: by the suffix of `out`. docs/exchange.md says what each holds. Parquet and DuckDB need
        ``pip install "braggflow[table]"``.
    overwrite : bool, default False
        Replace a file at `out`.
    pixel_size : float, optional
        Pitch of the pixels, micrometres, for formats in millimetres (HEXRD); default: what the run knows.
    derived : callable, optional
        Adds columns to rows of the table, as `braggflow.add_q` does; called with some at a time.
    progress : callable, optional
        Called with (rows written, rows in all).

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputError
        Where the run has no peak table, the format is not known or its library not installed, the format needs what
        the table does not know, a file is there already, or `out` cannot be written.

    Examples
    --------
    >>> from braggflow.exchange import export_peaks
    >>> export_peaks("runs/scan", "peaks.csv").read_text().split(",")[:4]
    ['peak_frame', 'capacity', 'time', 'voltage']
    >>> export_peaks("runs/scan", "peaks.refl").name
    'peaks.refl'
    """
    out = Path(out)
    to = format_of(f"--out {out}", out.suffix, to, "--to")
    if out.is_dir() or (out.exists() and not overwrite):
        what = "is a folder; name a file in it" if out.is_dir() else "exists; choose another name or add --overwrite"
        raise InputError(f"--out {out}: {what}")
    stored = run if isinstance(run, xr.Dataset) else open_peaks(run)
    rows = rows_to_write(stored, _detector(run, stored, pixel_size), derived, progress)
    write: Callable[[Path, Rows], None] = import_module(f"{__package__}.{MODULES[to]}").WRITERS[to]
    try:
        with written_whole(out) as temporary:
            write(temporary, rows)
    except OSError as error:
        raise not_written(f"--out {out}", error) from error
    return out


def _detector(run: str | Path | xr.Dataset, stored: xr.Dataset, pixel_size: float | None) -> Detector:
    """What the run, or the table, says of the detector."""
    shape = stored.attrs.get("shape")
    if not isinstance(run, xr.Dataset) and RunFolder(Path(run)).info.exists():
        shape = read_run_info(RunFolder(Path(run)))["dataset"]["shape"]
    return Detector(
        None if shape is None else (shape[0], shape[1]), size_of_pixels(stored.attrs.get("geometry"), pixel_size)
    )


def size_of_pixels(geometry: Any, pixel_size: float | None) -> tuple[float, float] | None:
    """Pitch (y, x), mm: `pixel_size`, micrometres, where it is given, else what a `geometry` states.

    Raises `InputError` where `pixel_size` is not above 0.
    """
    if pixel_size is not None:
        if not pixel_size > 0:
            raise InputError(f"--pixel-size {pixel_size}: must be above 0 (micrometres)")
        return pixel_size / 1e3, pixel_size / 1e3
    stated = json.loads(geometry) if isinstance(geometry, str) else geometry or {}
    sizes = stated.get("pixel_size_um")
    return (sizes[0] / 1e3, sizes[1] / 1e3) if sizes else None
