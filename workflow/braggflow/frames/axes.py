"""The axes of a series in their order, (frame, y, x), whatever the order that it comes in."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from braggflow.errors import InputError
from braggflow.frames.store import reading_store

_AXES = ("frame", "y", "x")


def axes_in_order(data: xr.Dataset, images: Sequence[str], what: str) -> xr.Dataset:
    """The Dataset with `frames` as (frame, y, x), its `images` as (y, x), and what else it has along `frame`.

    Axes are known by their names. A name that is none of these stands for the axis that is missing or, where several
    are, for that of its place; coordinates of such a dimension keep their names. What lies along y or x beside frames
    and images is left out. Raises `InputError`, beginning with `what`, where names and places contradict each other.
    """
    data = data.drop_indexes(list(data.xindexes))
    if data["frames"].ndim == len(_AXES) - 1 and "frame" not in data["frames"].dims:
        data = data.assign(frames=data["frames"].expand_dims("frame"))
    frames = data["frames"]
    if frames.ndim != len(_AXES):
        raise InputError(
            f"{what}: frames has shape {frames.shape} and dimensions {frames.dims}, must be (frame, y, x) or (y, x)"
        )
    for axis, dim in _roles(frames.dims, _AXES, f"{what}: frames").items():
        if dim != axis:
            # A coordinate that has the axis' name already is what the dimension is to be known by.
            data = data.swap_dims({dim: axis}) if axis in data.variables else data.rename_dims({dim: axis})
    shape = tuple(data.sizes[axis] for axis in ("y", "x"))
    found = {name: _image(data[name], shape, f"{what}: {name}") for name in images if name in data}
    kept = {
        name: variable
        for name, variable in data.drop_indexes(list(data.xindexes)).variables.items()
        if name not in ("frames", *images) and not {"y", "x"} & set(variable.dims)
    }
    result = xr.Dataset({"frames": _in_order(data["frames"].variable), **found}, kept, data.attrs)
    result.encoding = data.encoding
    return result


def _roles(dims: Sequence[Hashable], axes: Sequence[str], what: str) -> dict[str, Hashable]:
    """The dimension that each axis is."""
    others = [dim for dim in dims if dim not in axes]
    left = [axis for axis in axes if axis not in dims]
    misplaced = any(dim in axes and dim != axis for dim, axis in zip(dims, axes, strict=True))
    if (len(others) > 1 and misplaced) or "frame" in others:
        raise InputError(f"{what} has dimensions {tuple(dims)}, must be {tuple(axes)}")
    # One is left, or each stands in its place.
    return {axis: axis for axis in axes if axis not in left} | dict(zip(left, others, strict=True))


def _image(image: xr.DataArray, shape: tuple[int, ...], what: str) -> xr.Variable:
    if image.ndim != len(_AXES) - 1:
        raise InputError(f"{what} has shape {image.shape} and dimensions {image.dims}, must be (y, x)")
    roles = _roles(image.dims, _AXES[1:], what)
    variable: xr.Variable = image.variable.transpose(roles["y"], roles["x"])
    if variable.shape != shape:
        raise InputError(f"{what} has shape {variable.shape}, the frames are {shape}")
    with reading_store(what):
        return xr.Variable(("y", "x"), variable.values, image.attrs)


def _in_order(frames: xr.Variable) -> xr.Variable:
    """`frames` as (frame, y, x), read no sooner than before."""
    order = tuple(frames.dims.index(axis) for axis in _AXES)
    if order == (0, 1, 2):
        return frames
    encoding = dict(frames.encoding)
    chunks = encoding.get("chunks")
    encoding = {"chunks": tuple(chunks[at] for at in order)} if chunks else {}
    return xr.Variable(_AXES, indexing.LazilyIndexedArray(_Reordered(frames, order)), frames.attrs, encoding)


class _Reordered(BackendArray):
    """An array with its axes in another order; xarray itself would read it pixel by pixel."""

    def __init__(self, source: xr.Variable, order: tuple[int, ...]) -> None:
        self.source = source
        self.order = order
        self.shape = tuple(source.shape[at] for at in order)
        self.dtype = source.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._indexed)

    def _indexed(self, key: tuple[Any, ...]) -> NDArray[Any]:
        # Numbers would drop their axis, and with it the order.
        kept = [np.atleast_1d(part) if isinstance(part, int | np.integer) else part for part in key]
        of_source = [kept[self.order.index(at)] for at in range(len(kept))]
        values: NDArray[Any] = self.source[tuple(of_source)].values.transpose(self.order)
        return values[tuple(0 if isinstance(part, int | np.integer) else slice(None) for part in key)]
