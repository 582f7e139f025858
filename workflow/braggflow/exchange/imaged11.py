"""ImageD11's column files, `.flt`.

A line of names after #, then a row of numbers a peak; lines `# name = value` are parameters: ImageD11, columnfile.py
and docs/file_formats. `s` is the slow axis (y) and `f` the fast one (x), in indices of pixels: the middle of the first
pixel is 0, as here. `sigs`, `sigf` and `covsf` are the widths of the spot (not uncertainties of its position) and their
correlation; `sc` and `fc`, corrected for distortions of a lens, equal the raw ones. What ImageD11 has no name for has
ours: `frame`, `s_std`, `f_std`, `sum_intensity_std`, `snr`, `flags`, which its reader takes as any other column.
"""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.exchange.lists import PeakList, numbers_of_text
from braggflow.exchange.rows import WRITER, Rows, values_of
from braggflow.peak_rows import intensity_errors

_SIGMAS_OF_FWHM = 1 / (2 * np.sqrt(2 * np.log(2)))
#: What a column is called there and here, where the numbers are the same.
_SAME = {
    "s_raw": "y",
    "f_raw": "x",
    "Number_of_pixels": "area",
    "sum_intensity": "intensity",
    "IMax_int": "birth",
    "IMax_s": "y_pixel",
    "IMax_f": "x_pixel",
    "frame": "peak_frame",
    "s_std": "y_std",
    "f_std": "x_std",
    "snr": "snr",
    "flags": "flags",
    "bg": "background",
}
#: Columns that are there where the table knows them: omega of a frame, and what tracks and a geometry add.
_MORE = {"omega": "omega", "track_id": "track_id", "tth": "two_theta", "ds": "q"}


def _write_flt(path: Path, rows: Rows) -> None:
    import pandas as pd

    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# written_by = {WRITER}\n")
        names = list(_columns(rows.empty))
        file.write("#  " + "  ".join(names) + "\n")
        for chunk in rows.chunks():
            table = pd.DataFrame(_columns(chunk))
            table.to_csv(file, sep=" ", header=False, index=False, na_rep="nan", lineterminator="\n")


def _columns(rows: xr.Dataset) -> dict[str, NDArray[Any]]:
    y, x = rows["y"].values, rows["x"].values
    columns = {"sc": y, "fc": x}
    columns |= {name: rows[ours].values for name, ours in _SAME.items() if ours in rows.variables}
    columns["sum_intensity_std"] = intensity_errors(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns["avg_intensity"] = values_of(rows, "intensity") / values_of(rows, "area")
    columns |= dict(zip(("sigs", "sigf", "covsf"), _widths(rows), strict=True))
    columns |= {name: rows[ours].values for name, ours in _MORE.items() if ours in rows.variables}
    if "ds" in columns:
        columns["ds"] = columns["ds"] / (2 * np.pi)  # 1 / d
    return columns


def _widths(rows: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Standard deviations of the fitted profile along both axes, pixels, and their correlation."""
    major, minor = (_SIGMAS_OF_FWHM * values_of(rows, f"fwhm_{axis}") for axis in ("major", "minor"))
    angle = np.radians(values_of(rows, "angle"))
    along_y = np.hypot(major * np.sin(angle), minor * np.cos(angle))
    along_x = np.hypot(major * np.cos(angle), minor * np.sin(angle))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = (major**2 - minor**2) * np.sin(angle) * np.cos(angle) / (along_y * along_x)
    return along_y, along_x, correlation


def _read_flt(path: Path) -> PeakList:
    names, skip = _names(path)
    same = {**_SAME, "omega": "omega", "sum_intensity_std": "intensity_std"}
    if "s_raw" not in names:
        same |= {"sc": "y", "fc": "x"}
    known = {name: ours for name, ours in same.items() if name in names}
    if not {"y", "x"} <= {*known.values()}:
        raise InputError(f"{path}: has no columns s_raw and f_raw, or sc and fc; its columns: {', '.join(names)}")
    columns = numbers_of_text(path, names, r"\s+", skip, list(known))
    derived = {"sc", "fc", "avg_intensity", "sigs", "sigf", "covsf"}
    return PeakList(
        {known[name]: values for name, values in columns.items()},
        unread=[name for name in names if name not in known and name not in derived],
        row_name="line",
        first_row=skip + 1,
    )


def _names(path: Path) -> tuple[list[str], int]:
    """Names of the columns, and the number of lines before the first row."""
    names: list[str] = []
    before = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                break
            before += 1
            if line.startswith("#") and "=" not in line:
                names = line[1:].split()
    if not names:
        raise InputError(f"{path}: has no line of names (# sc fc ...); must be a column file of ImageD11")
    return names, before


WRITERS = {"flt": _write_flt}
READERS = {"flt": _read_flt}
