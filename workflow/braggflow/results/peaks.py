"""The peak table on disk: joined from the parts, opened lazily."""

import json
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

import braggflow.peak_rows  # noqa: F401 - it registers itself with xarray
from braggflow import peak_table
from braggflow.errors import InputError
from braggflow.frames import CHECKSUMS, COMPRESSORS, GuardedStore, damage_of_store, guarded_encoding, seal, sealed
from braggflow.peak_table import PEAKS_FORMAT, per_frame_variables, with_frame_index
from braggflow.results.folder import RunFolder
from braggflow.results.followed import followed_columns
from braggflow.results.parts import PartSummary, read_part_table
from braggflow.results.so_far import peaks_so_far
from braggflow.version import __version__

#: Peaks per chunk of the table: a few MB a variable.
TABLE_CHUNK = 262_144


def consolidate(
    folder: RunFolder,
    parts: list[PartSummary],
    frame_coords: xr.Dataset,
    failed: Collection[int],
    attributes: Mapping[str, Any],
    means: Mapping[int, float] = MappingProxyType({}),
) -> dict[str, dict[str, int]]:
    """Join the parts into `peaks.zarr`, in memory that does not grow with the number of peaks.

    `frame_coords` holds the index coordinate `frame` of the processed frames, in any order, and their coordinates;
    `failed` the numbers of those that could not be processed, `means` the mean counts of the others. Returns the
    counts of peaks by flag and by method.
    """
    frame_coords = frame_coords.sortby("frame")
    numbers = frame_coords["frame"].values
    counts = np.zeros(len(numbers), np.int64)
    flags, methods = Counter[str](), Counter[str]()
    for part in parts:
        table = read_part_table(folder, part)
        counts += np.bincount(np.searchsorted(numbers, table["peak_frame"]), minlength=len(numbers))
        flags.update({str(flag.name): int(np.count_nonzero(table["flags"] & flag)) for flag in peak_table.Flag})
        methods.update({method.name: int(np.count_nonzero(table["method"] == method)) for method in peak_table.Method})
    starts = np.concatenate([[0], np.cumsum(counts)])

    name = f"peaks.wip.{uuid4().hex}"
    target, scratch = folder.path / f"{name}.zarr", folder.path / f"{name}.rows"
    # Frames may be stored in any order: each part goes to its place in a file on disk, which is then read in order.
    with scratch.open("w+b") as joined:
        for part in parts:
            table = read_part_table(folder, part)
            changes = np.flatnonzero(np.diff(table["peak_frame"])) + 1
            for begin, end in pairwise([0, *changes.tolist(), len(table)]):
                if begin < end:
                    start = starts[np.searchsorted(numbers, table["peak_frame"][begin])]
                    peaks = table[begin:end]
                    # A parent lies in the same frame; its row was one of the part.
                    peaks["parent"][peaks["parent"] >= 0] += start - begin
                    joined.seek(int(start) * peak_table.PEAK_DTYPE.itemsize)
                    joined.write(peaks.tobytes())
        per_frame = per_frame_variables(frame_coords, counts, np.isin(numbers, list(failed)), attributes, means)
        # Chunks of zeros are written too, so that a chunk that is missing later is known to be lost.
        with zarr.config.set({"array.write_empty_chunks": True}):
            per_frame.to_zarr(
                target,
                mode="w",
                zarr_format=3,
                consolidated=False,
                encoding=guarded_encoding(per_frame),
                write_empty_chunks=True,
            )
            joined.seek(0)
            _write_table(target, joined, int(starts[-1]))
    seal(target)
    scratch.unlink()
    for old in (folder.peaks, folder.tracks):
        shutil.rmtree(old, ignore_errors=True)
    target.rename(folder.peaks)
    return {"flags": dict(flags), "methods": dict(methods)}


def _write_table(target: Path, rows: BinaryIO, n: int) -> None:
    """Write `n` peaks, read from a file of records, as one array a variable."""
    group = zarr.open_group(target, mode="r+")
    arrays = {
        name: group.create_array(
            name,
            shape=(n,),
            dtype=variable.dtype,
            chunks=(min(TABLE_CHUNK, max(1, n)),),
            compressors=COMPRESSORS,
            dimension_names=("peak",),
            attributes=peak_table.cf_attributes(name) | _labelled_by(name),  # type: ignore[arg-type]  # plain JSON
        )
        for name, variable in peak_table.VARIABLES.items()
    }
    for start in range(0, n, TABLE_CHUNK):
        block = np.frombuffer(rows.read(TABLE_CHUNK * peak_table.PEAK_DTYPE.itemsize), peak_table.PEAK_DTYPE)
        for name, array in arrays.items():
            array[start : start + len(block)] = block[name]


def _labelled_by(name: str) -> dict[str, object]:
    """What makes xarray keep the frame's number with every column that is taken out of the table."""
    return {} if name == "peak_frame" else {"coordinates": "peak_frame"}


def open_peaks(path: str | Path) -> xr.Dataset:
    """Open the peak table of a run, read lazily.

    Parameters
    ----------
    path : str or pathlib.Path
        The run folder, ``OUT/DATASET``, or the ``peaks.zarr`` in it.

    Returns
    -------
    xarray.Dataset
        On dimension `peak` one row a peak, sorted by (peak_frame, y_pixel, x_pixel): `y`, `x` (pixels, 0-based, pixel
        centres at whole numbers) with `y_std`, `x_std`, and the other columns of docs/table.md, each with its units.
        On dimension `frame` the number of peaks, `peak_count`, and `frame_failed`. Columns that an older version's
        table lacks hold their missing value. Where the peaks were followed (`braggflow.track`), each has its `track_id`
        (-1: none) and what all positions of its track say of its own. `peak_frame` is an index: see the examples.
        Of a run that follows a series while that is written (``run --follow``), the frames done so far, in memory;
        asked again, it has those done since. Coordinates of frames come with the table at the end.

    Raises
    ------
    InputError
        Where there is no peak table (a run that did not finish has none), or it is a newer version's, or something
        else.

    Examples
    --------
    >>> import braggflow
    >>> peaks = braggflow.open_peaks("runs/scan")
    >>> peaks["peak_count"].sizes["frame"]
    4

    The peaks of one frame, and those of frames 1 to 2:

    >>> int(peaks.sel(peak_frame=1).sizes["peak"]) == int(peaks["peak_count"].sel(frame=1))
    True
    >>> sorted(set(peaks.sel(peak_frame=slice(1, 2))["peak_frame"].values.tolist()))
    [1, 2]
    >>> peaks["y_std"].attrs["units"]
    'pixel'

    A row a peak, with its frame's number and coordinates; what else the accessor `bragg` has: docs/table.md:

    >>> peaks.bragg.to_dataframe(["y", "x"]).columns.to_list()
    ['peak_frame', 'capacity', 'time', 'voltage', 'y', 'x']
    """
    if not table_path(path).exists() and (so_far := peaks_so_far(RunFolder(Path(path)))) is not None:
        return so_far
    return with_frame_index(open_stored_peaks(path).assign(followed_columns(table_path(path))))


def table_path(path: str | Path) -> Path:
    """The peak table of a run folder, or the table itself."""
    path = Path(path)
    return path if path.suffix == ".zarr" else RunFolder(path).peaks


def open_stored_peaks(path: str | Path) -> xr.Dataset:
    """As `open_peaks`, without the index `peak_frame`, which takes memory for each peak; raises as that does."""
    path, table = Path(path), table_path(path)
    if not (table.exists() and any(table.iterdir())):
        how = "empty" if table.exists() else "missing"
        raise InputError(f"{path}: holds no peak table ({table.name} is {how}; a run that did not finish has none)")
    _refuse_newer(table)
    damaged = damage_of_table(table, content=False)
    if damaged:
        raise InputError(damaged_table(table, damaged))
    try:
        store = GuardedStore(table, error=InputError) if sealed(table) else table
        data: xr.Dataset = xr.open_zarr(store, consolidated=False, chunks=None)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"{table}: cannot be read as a peak table ({error})") from error
    if data.attrs.get("format") != PEAKS_FORMAT:
        raise InputError(f"{table}: is not a braggflow peak table")
    data.attrs.pop(CHECKSUMS, None)
    data = data.drop_vars(peak_table.FORMER_COLUMNS, errors="ignore")
    data.encoding["source"] = str(table.absolute())  # where its frames can be looked up, for a picture
    version = data.attrs["format_version"]
    later = [name for name in peak_table.VARIABLES if name not in data]
    lost = [name for name in later if version >= peak_table.ADDED.get(name, 1)]
    if lost:
        raise InputError(damaged_table(table, [f"{name} is missing" for name in lost]))
    if later:
        unknown = peak_table.empty(data.sizes["peak"])
        data = data.assign({name: ("peak", unknown[name].copy(), peak_table.cf_attributes(name)) for name in later})
    return data


def stored_columns(folder: RunFolder, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some columns of a run's peak table, without opening all of it, which takes ten times as long.

    Those that an older version's table lacks are left out. Raises `InputError` as `open_peaks` does.
    """
    table = folder.peaks
    if not table.exists():
        raise InputError(f"{folder.path}: holds no peak table ({table.name} is missing)")
    _refuse_newer(table)
    if damaged := damage_of_table(table, content=False):
        raise InputError(damaged_table(table, damaged))
    try:
        store = GuardedStore(table, error=InputError) if sealed(table) else table
        group = zarr.open_group(store, mode="r", use_consolidated=False)
        there = [name for name in names if (table / name).is_dir()]
        return {name: np.asarray(group[name][:]) for name in there}  # type: ignore[index]
    except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise InputError(f"{table}: cannot be read as a peak table ({error})") from error


def _refuse_newer(table: Path) -> None:
    try:
        attributes = json.loads((table / "zarr.json").read_bytes())["attributes"]
        stated, version = attributes.get("format"), attributes.get("format_version")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # whoever opens it says what is wrong with it
    if stated == PEAKS_FORMAT and version not in range(1, peak_table.SCHEMA_VERSION + 1):
        raise InputError(
            f"{table}: has format_version {version}, this braggflow ({__version__}) reads 1 to "
            f"{peak_table.SCHEMA_VERSION}; update it"
        )


def damage_of_table(table: Path, *, content: bool) -> list[str]:
    """What does not fit the checksums of a peak table: a file in it each time, and what is wrong with it.

    With `content`, all of it is read; without it, only what describes it and the ends of its chunks.
    """
    return [*damage_of_store(table, since=peak_table.GUARDED_SINCE, content=content)]


def damaged_table(table: Path, damaged: Sequence[str]) -> str:
    """What a user is told of a table that is damaged."""
    more = f" and {len(damaged) - 1} others" if len(damaged) > 1 else ""
    return f"{table}: {damaged[0]}{more}; the run's command, given again, joins the table anew from its parts"
