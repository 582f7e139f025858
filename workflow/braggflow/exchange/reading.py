"""Lists of peaks of other programs, as peak tables."""

import shutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.errors import InputError, not_written
from braggflow.exchange.conventions import format_of
from braggflow.exchange.lists import PeakList
from braggflow.exchange.rows import Detector
from braggflow.exchange.writing import MODULES, size_of_pixels
from braggflow.frames import open_frames
from braggflow.peak_rows import frame_coordinates
from braggflow.results import Part, RunFolder, consolidate, open_stored_peaks, read_run_info, write_part

#: Attributes that a table's own writer sets.
_OWN_ATTRIBUTES = ("format", "format_version", "Conventions")
#: A spot lies in the frame whose omega is nearest, no further from it than so many steps.
_OMEGA_STEPS = 0.51


def import_peaks(
    path: str | Path,
    frames: int | str | Path | xr.Dataset | None = None,
    *,
    kind: str | None = None,
    pixel_size: float | None = None,
) -> xr.Dataset:
    """Read a list of peaks of another program as a peak table.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    frames : int, str, pathlib.Path or xarray.Dataset, optional
        The frames that the list is of: how many (numbered from 0), a frames store or detector files, a run folder, or
        a peak table. Their numbers and coordinates are the table's; default: the frames that the list names.
    kind : {"csv", "parquet", "hdf5", "duckdb", "nexus", "flt", "refl", "stream", "cxi", "midas", "hexrd"}, optional
        The format; default: by the suffix of `path`.
    pixel_size : float, optional
        Pitch of the pixels, micrometres, for lists in millimetres (HEXRD); default: what `frames` states.

    Returns
    -------
    xarray.Dataset
        A peak table as `open_peaks` returns it: `y`, `x` in pixels, 0-based, pixel centres at whole numbers; columns
        that the list does not have hold their missing value, `y_pixel` and `x_pixel` the nearest pixel. The attribute
        `not_read` names the list's columns that the table has no place for.

    Raises
    ------
    InputError
        Where the format is not known or its library not installed, the file cannot be read (with the row and the value
        that is wrong), or a peak lies in a frame that `frames` does not have.

    Examples
    --------
    >>> from pathlib import Path
    >>> import braggflow
    >>> text = "frame,row_px,col_px,sum_int\\n0,20.25,31.5,900\\n2,22,30.5,850\\n"
    >>> _ = Path("spots.csv").write_text(text)
    >>> spots = braggflow.import_peaks("spots.csv", 4)
    >>> spots["peak_count"].values.tolist(), spots["y"].values.tolist()
    ([1, 0, 1, 0], [20.25, 22.0])
    """
    path = Path(path)
    kind = format_of(f"{path}", path.suffix, kind, "--from")
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'does not exist'}; must be a list of peaks")
    coordinates, detector = _frames(frames, pixel_size)
    read: Callable[..., PeakList] = import_module(f"{__package__}.{MODULES[kind]}").READERS[kind]
    try:
        # The only format that says nothing in pixels.
        found = read(path, detector) if kind == "hexrd" else read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as {kind} ({error})") from error
    table = _table(path, found, coordinates)
    if coordinates is None:
        known = table["peak_frame"] if found.frames is None else np.union1d(found.frames, table["peak_frame"])
        coordinates = xr.Dataset(coords={"frame": np.unique(known)})
    attributes = {"source": str(path), "imported_as": kind, "not_read": list(found.unread)}
    return peak_table.to_dataset(table, coordinates, [], attributes)


def _frames(
    frames: int | str | Path | xr.Dataset | None, pixel_size: float | None
) -> tuple[xr.Dataset | None, Detector]:
    """The coordinate `frame` with all that belongs to frames, and what is known of the detector."""
    shape = None
    if frames is None:
        return None, Detector(None, size_of_pixels(None, pixel_size))
    if isinstance(frames, int):
        if frames < 1:
            raise InputError(f"--frames {frames}: must be 1 or more, or a frames store")
        return xr.Dataset(coords={"frame": np.arange(frames)}), Detector(None, size_of_pixels(None, pixel_size))
    if isinstance(frames, xr.Dataset):
        data = frames
    elif RunFolder(Path(frames)).peaks.exists():
        data = open_stored_peaks(frames)
        if RunFolder(Path(frames)).info.exists():
            shape = tuple(read_run_info(RunFolder(Path(frames)))["dataset"]["shape"])
    else:
        data = open_frames(frames)
    if "frame" not in data.coords:
        raise InputError("--frames: has no coordinate frame; must be a frames store, a run or a peak table")
    if "frames" in data:
        shape = data["frames"].shape[1:]
    coordinates = data[["frame"]].assign_coords({name: data[name] for name in frame_coordinates(data)}).load()
    of_peaks = [name for name, values in coordinates.coords.items() if values.dims != ("frame",)]
    return coordinates.drop_vars(of_peaks), Detector(shape, size_of_pixels(data.attrs.get("geometry"), pixel_size))


def _table(path: Path, found: PeakList, coordinates: xr.Dataset | None) -> peak_table.Table:
    """The list as a table in its canonical order, each column checked."""
    columns = dict(found.columns)
    if missing := [name for name in ("y", "x") if name not in columns]:
        raise InputError(f"{path}: has no column for {' and '.join(missing)}")
    if "peak_frame" not in columns:
        columns["peak_frame"] = _frames_by_omega(path, columns, coordinates)

    def place(row: int) -> str:
        return f"{path}: {found.row_name} {found.first_row + row}"

    numbers = np.asarray(columns["peak_frame"], np.float64)
    for name, values in (("y", columns["y"]), ("x", columns["x"]), ("the frame", numbers)):
        wrong = ~np.isfinite(values) if name != "the frame" else ~(numbers == np.rint(numbers)) | ~np.isfinite(numbers)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(f"{place(row)}: {name} is {values[row]}, must be a {'whole ' * (name[0] == 't')}number")
    if coordinates is not None:
        strange = ~np.isin(numbers, coordinates["frame"].values)
        if strange.any():
            row, known = int(np.argmax(strange)), coordinates["frame"].values
            raise InputError(
                f"{place(row)}: lies in frame {numbers[row]:.0f}, which the frames do not have; "
                f"theirs are {known.min()} to {known.max()}, {len(known):,} in all"
            )
    table = peak_table.empty(len(numbers))
    for name, variable in peak_table.VARIABLES.items():
        if name in columns:
            table[name] = _column(columns[name], variable, place, name)
        elif name in ("y_pixel", "x_pixel"):
            table[name] = np.rint(columns[name[0]])
    # A parent that the list does not have says nothing.
    table["parent"][table["parent"] >= len(table)] = -1
    return peak_table.sort(table)


def _column(
    values: NDArray[Any], variable: peak_table.Variable, place: Callable[[int], str], name: str
) -> NDArray[Any]:
    """Values as the table has them; raises `InputError` where a whole number does not fit."""
    dtype = np.dtype(variable.dtype)
    if dtype.kind == "f" or np.asarray(values).dtype == dtype:
        return values
    there = np.isfinite(values)
    limits = np.iinfo(dtype)
    wrong = there & ((values < limits.min) | (values > limits.max))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{place(row)}: {name} is {values[row]}, must be {limits.min} to {limits.max}")
    return np.where(there, values, variable.missing).astype(dtype)


def _frames_by_omega(
    path: Path, columns: Mapping[str, NDArray[Any]], coordinates: xr.Dataset | None
) -> NDArray[np.int64]:
    """The frame of each peak by its rotation angle, degrees, which may be off by whole turns."""
    if "omega" not in columns:
        raise InputError(f"{path}: has no column for the frame")
    if coordinates is None or "omega" not in coordinates or len(coordinates["frame"]) < 2:
        raise InputError(f"{path}: tells frames by omega; needs --frames STORE, whose frames have the coordinate omega")
    omega = coordinates["omega"].values.astype(np.float64)
    order = np.argsort(omega)
    step = float(np.median(np.diff(omega[order])))
    start = omega[order[0]] - step / 2
    turned = start + np.mod(columns["omega"] - start, 360)
    after = np.clip(np.searchsorted(omega[order], turned), 1, len(omega) - 1)
    before = turned - omega[order][after - 1] < omega[order][after] - turned
    nearest = order[np.where(before, after - 1, after)]
    far = ~(np.abs(turned - omega[nearest]) <= _OMEGA_STEPS * step)
    if far.any():
        row = int(np.argmax(far))
        raise InputError(
            f"{path}: row {row}: omega is {columns['omega'][row]:g}, the frames' are {omega.min():g} to {omega.max():g}"
        )
    numbers: NDArray[np.int64] = coordinates["frame"].values[nearest]
    return numbers


def write_imported(peaks: xr.Dataset, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a table that `import_peaks` returned to disk, for `open_peaks`; returns where it is.

    `out` is the table, ``NAME.zarr``, or a folder that is to hold it as ``peaks.zarr``. Raises `InputError` where a
    table is there already, or it cannot be written.
    """
    out = Path(out)
    target = out if out.suffix == ".zarr" else out / "peaks.zarr"
    if target.exists() and not overwrite:
        raise InputError(f"--out {out}: exists; choose another name or add --overwrite")
    if RunFolder(out).info.exists():
        raise InputError(f"--out {out}: is a run folder, whose table is its own; choose another name")
    table = peak_table.empty(peaks.sizes["peak"])
    for name in peak_table.VARIABLES:
        table[name] = peaks[name].values
    coordinates = peaks[["frame"]].assign_coords({name: peaks[name] for name in frame_coordinates(peaks)})
    coordinates = coordinates.drop_vars([name for name, values in coordinates.coords.items() if "peak" in values.dims])
    attributes = {str(key): value for key, value in peaks.attrs.items() if key not in _OWN_ATTRIBUTES}
    work = RunFolder(target.parent / f".{target.stem}.{uuid4().hex}.wip")
    try:
        work.parts.mkdir(parents=True)
        part = write_part(work, Part(0, coordinates.sizes["frame"], table), "imported")
        consolidate(work, [part], coordinates, [], attributes)
        shutil.rmtree(target, ignore_errors=True)
        work.peaks.rename(target)
    except OSError as error:
        raise not_written(f"--out {out}", error) from error
    finally:
        shutil.rmtree(work.path, ignore_errors=True)
    return target
