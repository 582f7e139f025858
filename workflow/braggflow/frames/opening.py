"""A series of frames opened with checks: from a frames store, from an HDF5 file, or from an array in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.frames.store import FRAMES_VERSION, unfinished_path


def open_frames(path: str | Path) -> xr.Dataset:
    """Open a series of frames lazily and check it: a frames store, or an HDF5 file as it is.

    Parameters
    ----------
    path : str or pathlib.Path
        A frames store ``NAME.zarr``; or an HDF5 file, ``FILE`` or ``FILE:/path/in/it``, whose data set, pixel mask,
        saturation and geometry are found as by `ingest`.

    Returns
    -------
    xarray.Dataset
        `frames` with dimensions (frame, y, x), of an integer type, float32 or float64, in counts; the coordinate
        `frame` with whole numbers, each once; further coordinates along `frame`, if there are any. Where they are
        known: `mask` (y, x), non-zero = ignore, `dark` and `flat` (y, x), and the attributes `saturation` (counts),
        `masked_below` (counts) and `geometry`. Frames are read when they are asked for.

    Raises
    ------
    InputError
        Where there is nothing, or something else, at `path`; where the series is empty, of another dtype or other
        dimensions, or of a newer version; of an HDF5 file also where it is damaged or ambiguous, and where only reading
        all frames would tell its dead pixels (then make a store of it with `ingest`). The message names the store, what
        was found and what is accepted.

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
    from braggflow.formats import is_hdf5
    from braggflow.frames.hdf5_series import open_frames  # here, because few runs read HDF5 files

    if is_hdf5(path):
        return open_frames(path)
    path = Path(path)
    if not path.exists():
        hint = (
            f"; {unfinished_path(path).name} is there: the command that makes it did not finish"
            if unfinished_path(path).exists()
            else ""
        )
        raise InputError(f"frames store {path}: does not exist{hint}")
    try:
        data: xr.Dataset = xr.open_zarr(path, consolidated=False, chunks=None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"frames store {path}: is not a Zarr store ({error}); make one with: braggflow ingest"
        ) from error
    _check(path, data)
    return data


def frames_from_array(images: xr.Dataset | xr.DataArray | NDArray[Any]) -> xr.Dataset:
    """An array (frame, y, x), or one frame (y, x), as the Dataset that `open_frames` returns, with the same checks."""
    if isinstance(images, xr.Dataset):
        _check("dataset", images)
        # It may be a part of a store, whose files say nothing of it.
        return images.drop_attrs(deep=False).assign_attrs({k: v for k, v in images.attrs.items() if k != "format"})
    array = images if isinstance(images, xr.DataArray) else xr.DataArray(images)
    if array.ndim not in (2, 3):
        raise InputError(f"frames: array has shape {array.shape}, must be (frame, y, x) or (y, x)")
    if array.ndim == 2:
        array = array.expand_dims("frame")
    array = array.rename(dict(zip(array.dims, ("frame", "y", "x"), strict=True))).drop_vars(["y", "x"], errors="ignore")
    if "frame" not in array.coords:
        array = array.assign_coords(frame=np.arange(array.sizes["frame"]))
    data = array.to_dataset(name="frames")
    _check("array", data)
    return data


def _check(path: str | Path, data: xr.Dataset) -> None:
    def refuse(found: str) -> InputError:
        return InputError(f"frames store {path}: {found}")

    version = data.attrs.get("format_version", FRAMES_VERSION)
    if version > FRAMES_VERSION:
        raise refuse(f"format_version {version} is newer than {FRAMES_VERSION}, the newest this version reads")
    if "frames" not in data:
        raise refuse(f"has no array 'frames' (has: {', '.join(map(str, data.variables)) or 'nothing'})")
    frames = data["frames"]
    if frames.dims != ("frame", "y", "x"):
        raise refuse(f"frames has dimensions {frames.dims}, must be ('frame', 'y', 'x')")
    if frames.dtype.kind not in "iuf" or frames.dtype.itemsize > 8 or frames.dtype == np.float16:
        raise refuse(f"frames has dtype {frames.dtype}, must be an integer type, float32 or float64")
    if 0 in frames.shape:
        raise refuse(f"frames has shape {frames.shape}: the series is empty")
    numbers = data["frame"].values
    if numbers.dtype.kind not in "iu" or len(np.unique(numbers)) != len(numbers):
        raise refuse("coordinate 'frame' must hold whole numbers, each once")
    for name in ("mask", "dark", "flat"):
        if name in data and data[name].shape != frames.shape[1:]:
            raise refuse(f"{name} has shape {data[name].shape}, the frames are {frames.shape[1:]}")
