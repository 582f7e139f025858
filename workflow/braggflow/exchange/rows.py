"""A peak table as the rows that are written, a chunk at a time."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.peak_rows import column_names, rows_of
from braggflow.version import __version__

#: Rows that are held at a time.
ROWS_AT_ONCE = 262_144
#: Who wrote a file, where a format has a place for that.
WRITER = f"braggflow {__version__}"


class Detector(NamedTuple):
    """What a format needs to know of the detector beside its peaks."""

    shape: tuple[int, int] | None
    """Pixels (y, x)."""
    pixel_size: tuple[float, float] | None
    """Pitch (y, x), mm."""


class Rows(NamedTuple):
    """A table to be written: its columns, and their values chunk by chunk."""

    n: int
    names: Sequence[str]
    attributes: Mapping[str, Mapping[str, Any]]
    """Of each column: units, long_name, ..."""
    chunks: Callable[[], Iterator[xr.Dataset]]
    stored: xr.Dataset
    empty: xr.Dataset
    """The columns without a row, for their dtypes."""
    detector: Detector

    @property
    def frames(self) -> NDArray[np.int64]:
        """Numbers of all frames, also those without a peak, ascending."""
        of = self.stored["frame" if "frame" in self.stored.dims else "peak_frame"].values
        return np.unique(of).astype(np.int64)


def rows_to_write(
    stored: xr.Dataset,
    detector: Detector,
    derived: Callable[[xr.Dataset], xr.Dataset] | None,
    progress: Callable[[int, int], None] | None,
) -> Rows:
    """The rows of a table in the order of their frames; `derived` adds columns to some of them."""
    told = progress or (lambda _done, _total: None)
    more = derived or (lambda found: found)
    stored = _plain(stored)
    n = stored.sizes["peak"]
    numbers = stored["peak_frame"].values
    if np.any(numbers[1:] < numbers[:-1]):
        stored = stored.isel(peak=np.argsort(numbers, kind="stable"))
    empty = rows_of(more(stored.isel(peak=slice(0))))

    def chunks() -> Iterator[xr.Dataset]:
        for start in range(0, n, ROWS_AT_ONCE):
            yield rows_of(more(stored.isel(peak=slice(start, start + ROWS_AT_ONCE)).load()))
            told(min(start + ROWS_AT_ONCE, n), n)

    names = column_names(empty)
    attributes = {name: dict(empty[name].attrs) for name in names}
    return Rows(n, names, attributes, chunks, stored, empty, detector)


def _plain(table: xr.Dataset) -> xr.Dataset:
    """A table as it is on disk: `peak_frame` a column, no index of peaks."""
    if "peak" not in table.dims or "peak_frame" not in table.variables:
        raise InputError("peaks: is no peak table (dimension peak, column peak_frame)")
    of_peaks = [name for name in table.xindexes if table[name].dims == ("peak",)]
    table = table.drop_indexes(of_peaks).drop_vars("peak", errors="ignore")
    return table.reset_coords("peak_frame") if "peak_frame" in table.coords else table


def frame_blocks(rows: Rows, most_frames: int) -> Iterator[tuple[NDArray[np.int64], xr.Dataset]]:
    """Numbers of consecutive frames, all of them in turn, with all the peaks that lie in these."""
    frames, left = rows.frames, rows.empty
    begin = 0
    for chunk in rows.chunks():
        left = xr.concat([left, chunk], "peak", join="outer") if left.sizes["peak"] else chunk
        # The last frame of a chunk may go on in the next one.
        whole = int(np.searchsorted(frames, left["peak_frame"].values[-1]))
        while begin < whole:
            stop = min(whole, begin + most_frames)
            split = int(np.searchsorted(left["peak_frame"].values, frames[stop - 1], side="right"))
            yield frames[begin:stop], left.isel(peak=slice(split))
            left, begin = left.isel(peak=slice(split, None)), stop
    while begin < len(frames):
        stop = min(len(frames), begin + most_frames)
        split = int(np.searchsorted(left["peak_frame"].values, frames[stop - 1], side="right"))
        yield frames[begin:stop], left.isel(peak=slice(split))
        left, begin = left.isel(peak=slice(split, None)), stop


def peak_counts(rows: Rows) -> NDArray[np.int64]:
    """Peaks of each frame."""
    frames = rows.frames
    at = np.searchsorted(frames, rows.stored["peak_frame"].values)
    return np.bincount(at, minlength=len(frames))


def values_of(rows: xr.Dataset, name: str, missing: float = np.nan) -> NDArray[np.float64]:
    """A column as numbers, or the missing value for all rows where the table has none."""
    if name not in rows.variables:
        return np.full(rows.sizes["peak"], missing)
    return np.asarray(rows[name].values, np.float64)


def refuse_without_room(path: Path, need: int) -> None:
    """Raise `OSError` where the disk has no room for `need` bytes.

    HDF5 that finds no room while it closes a file brings the process down later on: it must have all, not compressed.
    """
    if shutil.disk_usage(path.parent).free < need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
