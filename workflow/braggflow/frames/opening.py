"""A series of frames opened with checks: from a frames store, from an HDF5 file, or from an array in memory.

All ways end in `described`, so that the same frames are treated alike however they come.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.frames.axes import axes_in_order
from braggflow.frames.data_sets import names_files
from braggflow.frames.description import described
from braggflow.frames.seals import CHECKSUMS, GuardedStore, damage_of_store, read_json, seal, sealed
from braggflow.frames.store import FRAMES_FORMAT, FRAMES_VERSION, GUARDED_SINCE, reading_store, unfinished_path
from braggflow.peak_table import RESERVED

#: Images that a series may bring beside its frames.
_IMAGES = ("mask", "dark", "flat")
#: Of more files that are damaged, the first are named.
_NAMED = 4
#: Files that describe the groups and arrays of a Zarr store, in version 3 and 2.
_DESCRIPTIONS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def open_frames(path: str | Path) -> xr.Dataset:
    """Open a series of frames lazily and check it: a frames store, or detector files as they are.

    Parameters
    ----------
    path : str or pathlib.Path
        A frames store ``NAME.zarr``; or a detector file, ``FILE`` or ``FILE.h5:/path/in/it``; or a folder or pattern
        whose files (CBF, TIFF, ...) are one series. Data set, pixel mask, saturation and geometry are found as by
        `ingest`.

    Returns
    -------
    xarray.Dataset
        `frames` with dimensions (frame, y, x), of an integer type, float32 or float64, in counts; the coordinate
        `frame` with whole numbers, each once; further coordinates along `frame`, if there are any. Where they are
        known: `mask` (y, x), non-zero = ignore, `dark` and `flat` (y, x), and the attributes `saturation` (counts),
        `masked_below` (counts) and `geometry`; `marks`, what the frames themselves showed (up to 16, spread over the
        series, are looked at). Frames are read when they are asked for.

    Raises
    ------
    InputError
        Where there is nothing, or something else, at `path`; where the series is empty, of another dtype or other
        dimensions, or of a newer version; of detector files also where one is damaged or ambiguous. The message names
        the store, what was found and what is accepted.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.simulate import simulate_series
    >>> truth = simulate_series("scan.zarr", n_frames=3, shape=(64, 80), peaks=2)
    >>> data = braggflow.open_frames("scan.zarr")
    >>> dict(data["frames"].sizes), str(data["frames"].dtype)
    ({'frame': 3, 'y': 64, 'x': 80}, 'uint16')
    >>> image = data["frames"].sel(frame=2).values
    >>> image.shape
    (64, 80)
    """
    if names_files(path):
        from braggflow.frames.file_series import open_files  # here, because it loads the readers of detector files

        return open_files(path)
    with reading_store(f"frames store {path}"):
        return described(opened_store(Path(path)))


def opened_store(path: Path) -> xr.Dataset:
    """The Dataset of a frames store, checked, and not yet described by its frames; raises as `open_frames` does."""
    if not path.exists():
        hint = (
            f"; {unfinished_path(path).name} is there: the command that makes it did not finish"
            if unfinished_path(path).exists()
            else ""
        )
        raise InputError(f"frames store {path}: does not exist{hint}")
    with reading_store(f"frames store {path}"):
        refuse_damaged(path)
        return _prepared(_open_zarr(path), f"frames store {path}")


def frames_from_array(images: xr.Dataset | xr.DataArray | NDArray[Any]) -> xr.Dataset:
    """An array (frame, y, x), or one frame (y, x), as the Dataset that `open_frames` returns, with the same checks.

    The axes of a DataArray or Dataset are taken by their names where these are among frame, y, x.
    """
    if isinstance(images, xr.Dataset):
        # It may be a part of a store, whose files say nothing of it.
        attrs = {key: value for key, value in images.attrs.items() if key != "format"}
        return described(_prepared(images.drop_attrs(deep=False).assign_attrs(attrs), "dataset"))
    array = images if isinstance(images, xr.DataArray) else xr.DataArray(np.asarray(images))
    if array.ndim not in (2, 3):
        raise InputError(f"array: frames has shape {array.shape}, must be (frame, y, x) or (y, x)")
    return described(_prepared(array.to_dataset(name="frames", promote_attrs=False), "array"))


def refuse_damaged(path: Path) -> None:
    """Raise `InputError` where what describes a frames store of ours, or an array beside its frames, does not fit."""
    found = [*islice(damage_of_frames_store(path), _NAMED + 1)]
    if found:
        listed = "; ".join([*found[:_NAMED], *(["..."] if len(found) > _NAMED else [])])
        raise InputError(
            f"frames store {path}: {listed}. It is not as it was made: restore it or make it again; "
            f"if the change is meant, braggflow verify --accept {path} takes it as it is"
        )


def accept_store(path: Path) -> None:
    """Take a frames store of ours that was changed on purpose as it is now: its checksums are written anew.

    Raises `InputError` where there is none, or where it cannot be read.
    """
    with reading_store(f"frames store {path}"):
        array = read_json(path / "frames" / "zarr.json") or {}
        if _attributes(array).get("format") != FRAMES_FORMAT:
            raise InputError(f"--accept {path}: is no frames store that braggflow made")
        # Whoever appends with xarray leaves the root without attributes.
        stated: dict[str, Any] = {"format": FRAMES_FORMAT, "format_version": FRAMES_VERSION}
        zarr.open_group(path, mode="r+").attrs.update(stated)
        seal(path)


def damage_of_frames_store(path: Path) -> Iterator[str]:
    """What does not fit the checksums of the frames store at `path`, without its frames; nothing of a store of others.

    Each is a file in the store, and what is wrong with it.
    """
    root, array = (read_json(file) or {} for file in (path / "zarr.json", path / "frames" / "zarr.json"))
    stated, of_array = (_attributes(described) for described in (root, array))
    if of_array.get("format") == FRAMES_FORMAT and root and not {"format", CHECKSUMS} & {*stated}:
        yield "zarr.json was changed (the attributes of the store are gone; xarray's to_zarr in mode 'a' replaces them)"
    elif FRAMES_FORMAT in (stated.get("format"), of_array.get("format")) or CHECKSUMS in stated:
        yield from damage_of_store(path, since=GUARDED_SINCE)


def _attributes(described: Mapping[str, Any]) -> Mapping[str, Any]:
    found = described.get("attributes")
    return found if isinstance(found, dict) else {}


def _open_zarr(path: Path) -> xr.Dataset:
    """A Zarr store as xarray reads it, but for `frames`, whose numbers stay as they are stored."""

    def opened(*, scaled: bool) -> xr.Dataset:
        data: xr.Dataset = xr.open_dataset(
            GuardedStore(path) if sealed(path) else path,  # type: ignore[arg-type]  # Zarr's stores are taken too
            engine="zarr",
            consolidated=False,
            chunks=None,
            # A fill value is what was never written, and no sign that a pixel was not measured: 0 by default.
            use_zarr_fill_value_as_mask=False,
            mask_and_scale={"frames": scaled},
        )
        return data

    try:
        data = opened(scaled=False)
        if "frames" in data and {"scale_factor", "add_offset"} & set(data["frames"].attrs):
            data = opened(scaled=True)
        data.encoding["source"] = str(path)
        if "frames" in data:
            data["frames"].attrs.pop("format", None)
        data.attrs.pop(CHECKSUMS, None)  # of the store, and no more of what is made of its Dataset
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"frames store {path}: {_why_not_a_store(path, error)}") from error
    return data


def _why_not_a_store(path: Path, error: Exception) -> str:
    """What is at `path`, where xarray opens no Dataset there, and what to do."""
    try:
        node = zarr.open(path, mode="r")
        arrays = {} if isinstance(node, zarr.Array) else {name: array.shape for name, array in node.arrays()}
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AssertionError):
        if damaged := _damaged_description(path):
            return f"cannot be read; its {damaged} is damaged ({error})"
        return f"is not a Zarr store ({error}); make one with: braggflow ingest"
    how = (
        "must be a group with an array 'frames' that names its dimensions frame, y, x (xarray writes such: "
        'xr.Dataset({"frames": (("frame", "y", "x"), array)}).to_zarr(...))'
    )
    if isinstance(node, zarr.Array):
        return f"is a Zarr array of shape {node.shape}, {how}"
    listed = ", ".join(f"{name} {shape}" for name, shape in arrays.items()) or "none"
    return f"is a Zarr group that xarray does not read ({error}; its arrays: {listed}), {how}"


def _damaged_description(path: Path) -> str:
    """The first file that describes a Zarr group or array and is no JSON, or an empty text."""
    for file in sorted(found for name in _DESCRIPTIONS for place in (name, f"*/{name}") for found in path.glob(place)):
        try:
            json.loads(file.read_bytes())
        except (OSError, ValueError):
            return str(file.relative_to(path))
    return ""


def _prepared(data: xr.Dataset, what: str) -> xr.Dataset:
    """A Dataset with `frames` and images in order, numbered and checked."""
    if "frames" not in data:
        found = ", ".join(map(str, data.variables)) or "nothing"
        raise InputError(f"{what}: has no array 'frames' (has: {found})")
    version = data.attrs.get("format_version", FRAMES_VERSION)
    if version > FRAMES_VERSION:
        raise InputError(
            f"{what}: format_version {version} is newer than {FRAMES_VERSION}, the newest this version reads"
        )
    data = axes_in_order(data, _IMAGES, what)
    data = _coordinates_read(data, what)
    if "frame" not in data.coords:
        data = data.assign_coords(frame=np.arange(data.sizes["frame"]))
    _check(data, what)
    fill = data["frames"].attrs.get("_FillValue", data["frames"].attrs.get("missing_value"))
    if "missing_value" not in data.attrs and _says_missing(fill):
        data = data.assign_attrs(missing_value=np.asarray(fill).item())
    return data


def _coordinates_read(data: xr.Dataset, what: str) -> xr.Dataset:
    """The Dataset with its coordinates in memory, and without how their store encodes them, which no table can use."""
    read = {}
    for name in data.coords:
        with reading_store(f"{what}: {name}"):
            read[name] = xr.Variable(data[name].dims, data.variables[name].values, data[name].attrs)
    return data.assign_coords(read)


def _says_missing(fill: Any) -> bool:
    """Whether a fill value can be the sign of a pixel that was not measured: 0 counts are a measurement."""
    value = np.asarray(fill) if fill is not None else np.asarray(np.nan)
    return value.size == 1 and value.dtype.kind in "iuf" and bool(np.isfinite(value).all()) and bool(value != 0)


def _check(data: xr.Dataset, what: str) -> None:
    def refuse(found: str) -> InputError:
        return InputError(f"{what}: {found}")

    frames = data["frames"]
    if frames.dtype.kind not in "iuf" or frames.dtype.itemsize > 8 or frames.dtype == np.float16:
        raise refuse(f"frames has dtype {frames.dtype}, must be an integer type, float32 or float64")
    if 0 in frames.shape:
        raise refuse(f"frames has shape {frames.shape}: the series is empty")
    if data["frame"].dims != ("frame",):
        raise refuse(f"coordinate 'frame' has dimensions {data['frame'].dims}, must be ('frame',)")
    numbers = data["frame"].values
    if numbers.dtype.kind not in "iu" or len(np.unique(numbers)) != len(numbers):
        raise refuse(
            "coordinate 'frame' must hold whole numbers, each once; keep other values as another coordinate along frame"
        )
    taken = sorted(
        str(name) for name, variable in data.variables.items() if name in RESERVED and "frame" in variable.dims
    )
    if taken:
        raise refuse(f"its coordinate {taken[0]!r} is a name of the peak table; rename it")
