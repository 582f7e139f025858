"""Comparing two runs, or a run and a list: which rows are pairs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

from braggflow.errors import InputError
from braggflow.exchange.matches import TableComparison
from braggflow.exchange.reading import import_peaks
from braggflow.peak_rows import Comparison, matched
from braggflow.results import Run, RunFolder, identity_changes, open_stored_peaks, read_run_info

#: Columns that are held of both tables, where they have them.
_COLUMNS = ("y", "x", "y_std", "x_std", "intensity", "snr", "flags", "method")
#: The row of a table, while pairs are looked for.
_ROW = "row_of_table"


def compare(
    first: str | Path | Run | xr.Dataset,
    second: str | Path | Run | xr.Dataset,
    *,
    radius: float = 2.0,
    frames_apart: int = 0,
    kind: str | None = None,
    pixel_size: float | None = None,
) -> TableComparison:
    """Compare two runs, or a run and a list of another program.

    A peak is in both where each is the other's nearest in the same frame, no more than `radius` pixels away: as
    `peaks.bragg.compare` has it. Frames of which one knows nothing are left out.

    Parameters
    ----------
    first : str, pathlib.Path, Run or xarray.Dataset
        A run or its folder, a peak table, or a list that `import_peaks` reads.
    second : str, pathlib.Path, Run or xarray.Dataset
        The same; offsets are its positions less those of the first.
    radius : float, default 2
        Pixels. Shifts by half a pixel or a whole one, as between programs, are within the default.
    frames_apart : int, default 0
        Rows that have no partner in their own frame may have one so many frames before or after: for lists with a row
        a reflection, which may be strongest on a neighbouring frame.
    kind : str, optional
        The format of lists; default: by their suffix.
    pixel_size : float, optional
        Pitch of the pixels, micrometres, for lists in millimetres.

    Returns
    -------
    TableComparison
        Pairs, what only one has, offsets with their map, shares by intensity, settings that differ, picture.

    Raises
    ------
    InputError
        Where one of them cannot be read, both are lists that do not know their frames, `radius` is not above 0 or
        `frames_apart` is below 0, or they have no frame in common.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.exchange import export_peaks
    >>> _ = export_peaks("runs/scan", "theirs.refl")
    >>> found = braggflow.compare("runs/scan", "theirs.refl")
    >>> found
    <scan and theirs.refl, 4 frames: ... peaks in both, 0 only in the first, 0 only in the second; ...>
    >>> abs(found.offsets).max() < 1e-9
    np.True_
    """
    if frames_apart < 0:
        raise InputError(f"frames_apart: {frames_apart} is not accepted; must be 0 or more")
    one, other = _opened(first), _opened(second)
    # A list has the frames of the table that it is compared with.
    if one is None:
        one = import_peaks(_path(first), other, kind=kind, pixel_size=pixel_size)
    if other is None:
        # Of a run folder also the shape of the frames is known.
        is_run = not isinstance(first, xr.Dataset) and RunFolder(_path(first)).peaks.exists()
        other = import_peaks(_path(second), _path(first) if is_run else one, kind=kind, pixel_size=pixel_size)
    found = _pairs(one, other, radius, frames_apart)
    if not found.frames:
        raise InputError(f"{_name(first)} and {_name(second)}: have no frame in common")
    return TableComparison((_name(first), _name(second)), found, frames_apart, _settings(first, second))


def _opened(what: str | Path | Run | xr.Dataset) -> xr.Dataset | None:
    """The peak table, or None for a list."""
    if isinstance(what, xr.Dataset):
        return what
    path = _path(what)
    is_list = path.is_file() or (not path.exists() and path.suffix not in ("", ".zarr"))
    return None if is_list else open_stored_peaks(path)


def _path(what: str | Path | Run | xr.Dataset) -> Path:
    assert not isinstance(what, xr.Dataset)
    return what.path if isinstance(what, Run) else Path(what)


def _name(what: str | Path | Run | xr.Dataset) -> str:
    if isinstance(what, xr.Dataset):
        return Path(str(what.encoding.get("source") or what.attrs.get("source") or "table")).name
    return _path(what).name


def _settings(first: str | Path | Run | xr.Dataset, second: str | Path | Run | xr.Dataset) -> list[str]:
    """What differs in what decides the results of two runs: settings, files, code, model, frames."""
    identities = []
    for what in (first, second):
        if isinstance(what, xr.Dataset) or not RunFolder(_path(what)).info.exists():
            return []
        identities.append(read_run_info(RunFolder(_path(what)))["identity"])
    return identity_changes(*identities)


def _pairs(first: xr.Dataset, second: xr.Dataset, radius: float, frames_apart: int) -> Comparison:
    """Pairs of the same frame, then of those that are left over pairs of frames further and further apart."""
    one, other = (_slim(table) for table in (first, second))
    found = matched(one, other, radius)
    pairs = [(found.first, found.second, found.distance)]
    left_one, left_other = found.only_first, found.only_second
    for shift in _shifts(frames_apart):
        moved = left_other.assign_coords(peak_frame=("peak", left_other["peak_frame"].values + shift))
        again = matched(left_one, moved, radius)
        rows = again.second[_ROW].values
        places = np.searchsorted(left_other[_ROW].values, rows)
        pairs.append((again.first, left_other.isel(peak=places), again.distance))
        left_one, left_other = _without(left_one, again.first), _without(left_other, again.second)
    firsts, seconds, distances = zip(*pairs, strict=True)
    of_first, of_second = (
        (parts[0] if len(parts) == 1 else xr.concat(parts, "peak")).drop_vars(_ROW) for parts in (firsts, seconds)
    )
    return Comparison(
        of_first,
        of_second,
        np.concatenate(distances),
        left_one.drop_vars(_ROW),
        left_other.drop_vars(_ROW),
        found.frames,
        radius,
    )


def _shifts(frames_apart: int) -> Iterator[int]:
    for apart in range(1, frames_apart + 1):
        yield from (apart, -apart)


def _without(rows: xr.Dataset, taken: xr.Dataset) -> xr.Dataset:
    return rows.isel(peak=np.flatnonzero(~np.isin(rows[_ROW].values, taken[_ROW].values)))


def _slim(table: xr.Dataset) -> xr.Dataset:
    """The columns that a comparison needs, with the row of each peak."""
    if "peak_frame" not in table.variables:
        raise InputError("peaks: is no peak table (no column peak_frame)")
    columns = {name: ("peak", table[name].values) for name in _COLUMNS if name in table.variables}
    coordinates = {"peak_frame": ("peak", table["peak_frame"].values)}
    slim = xr.Dataset(columns | {_ROW: ("peak", np.arange(table.sizes["peak"]))}, coordinates)
    return slim.assign_coords(frame=table["frame"].values) if "frame" in table.dims else slim
