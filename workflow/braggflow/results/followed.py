"""`tracks.zarr` in a run folder: one row a track, and what each peak has of its track; bound to the table it is of."""

import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import xarray as xr
import zarr

from braggflow import peak_table
from braggflow.errors import InputError
from braggflow.frames import CHECKSUMS, GuardedStore, damage_of_store, guarded_encoding, read_json, seal, sealed
from braggflow.results.folder import RunFolder
from braggflow.version import __version__

TRACKS_FORMAT = "braggflow-tracks"
#: Of the table of tracks on disk.
TRACKS_VERSION = 1
#: The attribute that tells which peak table the tracks are of.
_OF_PEAKS = "peaks_digest"
_ANEW = "braggflow track RUN makes it anew"


def peaks_digest(table: Path) -> str:
    """What tells one peak table from another: the digest of its checksums, or of what describes it without them."""
    return sealed(table) or sha256((table / "zarr.json").read_bytes()).hexdigest()


def write_tracks(folder: RunFolder, data: xr.Dataset) -> None:
    """Replace `tracks.zarr`; `data` on dimensions `track`, `change`, `frame`, and `peak` as the run's table has it."""
    target = folder.path / f"tracks.wip.{uuid4().hex}.zarr"
    stated = {"format": TRACKS_FORMAT, "format_version": TRACKS_VERSION, _OF_PEAKS: peaks_digest(folder.peaks)}
    data = data.assign_attrs(stated)
    with zarr.config.set({"array.write_empty_chunks": True}):
        data.to_zarr(
            target,
            mode="w",
            zarr_format=3,
            consolidated=False,
            encoding=guarded_encoding(data),
            write_empty_chunks=True,
        )
    seal(target)
    shutil.rmtree(folder.tracks, ignore_errors=True)
    target.rename(folder.tracks)


def open_tracks(path: str | Path) -> xr.Dataset:
    """Open the tracks of a run: one row for each peak that was followed through the series.

    Parameters
    ----------
    path : str or pathlib.Path
        The run folder, ``OUT/DATASET``.

    Returns
    -------
    xarray.Dataset
        On dimension `track` the rows of docs/tracks.md, each with its units: `first`, `last`, `length`, `parent`,
        `why_ended`, mean and trend of `y`, `x` (pixels), `intensity` (counts), widths (pixels) and `angle` (degrees).
        On dimension `frame` the common shift `y_drift`, `x_drift`; on dimension `change` the changes of courses. What
        each peak has of its track is in `open_peaks`.

    Raises
    ------
    InputError
        Where the peaks were not followed, or the tracks are those of another peak table, damaged, or a newer version's.

    Examples
    --------
    >>> import braggflow
    >>> tracks = braggflow.open_tracks("runs/scan")
    >>> tracks["length"].dims, tracks["y_mean"].attrs["units"]
    (('track',), 'pixel')
    """
    folder = RunFolder(Path(path))
    data = _opened(folder.tracks, folder.peaks)
    return data.drop_dims("peak", errors="ignore")


def followed_columns(table: Path) -> dict[str, xr.DataArray]:
    """What the tracks beside a peak table add to it; nothing where there are none, or those of another table."""
    tracks = table.parent / RunFolder(table.parent).tracks.name
    if not tracks.exists() or (read_json(tracks / "zarr.json") or {}).get("attributes", {}).get(
        _OF_PEAKS
    ) != peaks_digest(table):
        return {}
    data = _opened(tracks, table)
    return {name: data[name].drop_vars(list(data[name].coords)) for name in peak_table.FOLLOWED}


def damage_of_tracks(tracks: Path) -> list[str]:
    """What does not fit the checksums of a table of tracks: a file in it each time, and what is wrong with it."""
    return [*damage_of_store(tracks, since=1)]


def _opened(tracks: Path, table: Path) -> xr.Dataset:
    if not tracks.exists():
        raise InputError(f"{tracks.parent}: holds no tracks ({tracks.name} is missing); braggflow track RUN makes them")
    if damaged := [*damage_of_store(tracks, since=1, content=False)]:
        raise InputError(f"{tracks}: {damaged[0]}; {_ANEW}")
    attributes: dict[str, Any] = (read_json(tracks / "zarr.json") or {}).get("attributes", {})
    if attributes.get("format") != TRACKS_FORMAT:
        raise InputError(f"{tracks}: is no table of tracks; {_ANEW}")
    if attributes.get("format_version") != TRACKS_VERSION:
        raise InputError(
            f"{tracks}: has format_version {attributes.get('format_version')}, this braggflow ({__version__}) reads "
            f"{TRACKS_VERSION}; update it"
        )
    if not (table / "zarr.json").is_file() or attributes.get(_OF_PEAKS) != peaks_digest(table):
        raise InputError(f"{tracks}: is of another peak table than {table.name} beside it; {_ANEW}")
    try:
        data: xr.Dataset = xr.open_zarr(GuardedStore(tracks, error=InputError), consolidated=False, chunks=None)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"{tracks}: cannot be read ({error}); {_ANEW}") from error
    data.attrs.pop(CHECKSUMS, None)
    return data
