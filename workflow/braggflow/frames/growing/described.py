"""What the frames of a growing series are taken for: decided once by the first of them, and kept."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import xarray as xr

from braggflow.errors import InputError
from braggflow.frames.data_sets import names_files
from braggflow.frames.description import described
from braggflow.frames.opening import opened_store

#: What `described` adds to a Dataset.
_FOUND = ("mask", "negative_marks")


def growing_data(path: str | Path, looked_at: Sequence[int], *, anew: bool = False) -> xr.Dataset:
    """The series as it is now, as `open_frames` gives it, described by the frames at the positions `looked_at`.

    The same for every process and however much the series has grown since; with `anew`, those frames are read again,
    of whatever series is at `path` now. Raises `InputError` as `open_frames` does.
    """
    if anew:
        _description.cache_clear()
    data = undescribed(path)
    known = _description(str(path), tuple(looked_at))
    missing = {key: data.attrs[key] for key in ("missing_frames",) if key in data.attrs}
    attributes = {key: value for key, value in known.attrs.items() if key != "missing_frames"}
    return data.assign({name: known[name] for name in _FOUND if name in known}).assign_attrs(attributes | missing)


def undescribed(path: str | Path) -> xr.Dataset:
    """The series as it is now, by its headers alone; its files may be written to."""
    if not names_files(path):
        return opened_store(Path(path))
    from braggflow.frames.file_series import series_of, stacks_of  # here, because it loads the readers of files

    return series_of(stacks_of(path), growing=True)


@lru_cache(maxsize=4)
def _description(path: str, looked_at: tuple[int, ...]) -> xr.Dataset:
    data = undescribed(path)
    if max(looked_at, default=0) >= data.sizes["frame"]:
        raise InputError(f"{path}: has {data.sizes['frame']} frames now, it had more before")
    found = described(data, looked_at)
    images = found[[name for name in _FOUND if name in found]].drop_vars("frame", errors="ignore").load()
    return images.drop_vars(list(images.coords)).assign_attrs(found.attrs)
