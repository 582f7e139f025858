"""Drawn masks on disk: a TIFF file that other programs read too, or the mask of a frames store."""

import getpass
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.files import written_whole
from braggflow.formats import inspect_source, read_frames, split_name
from braggflow.frames import (
    FRAMES_FORMAT,
    damage_of_frames_store,
    guarded_encoding,
    open_frames,
    seal,
    sealed,
    unfinished_path,
)
from braggflow.masks.drawn import DrawnMask

_FORMAT, _VERSION = "braggflow-mask", 1
_TIFF = (".tif", ".tiff")
#: What the values of a store's mask say, bit by bit: any is ignored.
_SERIES, _DRAWN = 1, 2
#: Attributes of a store's mask.
_BY, _AT, _SHAPES = "drawn_by", "drawn_at", "drawn_shapes"


def save_mask(mask: DrawnMask, path: str | Path) -> DrawnMask:
    """Save a drawn mask with who drew it, when, and its shapes.

    Parameters
    ----------
    mask : DrawnMask
        The mask.
    path : str or pathlib.Path
        A file ``NAME.tif``, for the key `frames.mask` and for other programs: one 8-bit image, 1 = ignore, whose
        description holds the rest as JSON. Or a frames store made by braggflow: what is drawn is joined with the mask
        that the store has, in place of what was drawn in it before.

    Returns
    -------
    DrawnMask
        The mask with `drawn_by`, the name of the user, and `drawn_at`, the time.

    Raises
    ------
    InputError
        Where the path is neither; where a file is there that is no mask drawn with braggflow; where the store has
        frames of another shape, is damaged, not guarded by checksums, or still being written.

    Examples
    --------
    >>> import braggflow
    >>> saved = braggflow.save_mask(braggflow.DrawnMask((64, 80)).ring((32, 40), 0, 5), "beam_stop.tif")
    >>> braggflow.load_mask("beam_stop.tif")
    <braggflow mask of 64 × 80 pixels: 81 ignored, 1 shapes, by ... at ...>
    """
    path = Path(path)
    signed = replace(mask, drawn_by=_user(), drawn_at=datetime.now(UTC).isoformat(timespec="seconds"))
    if path.suffix == ".zarr":
        _save_in_store(signed, path)
    elif path.suffix.lower() in _TIFF:
        _save_as_file(signed, path)
    else:
        raise InputError(f"mask {path}: must be a file NAME.tif, or a frames store NAME.zarr")
    return signed


def load_mask(path: str | Path) -> DrawnMask:
    """Open a drawn mask again, with its shapes.

    Parameters
    ----------
    path : str or pathlib.Path
        A file that `save_mask` wrote; a frames store, of which what was drawn in it is taken; or any other image that
        `frames.mask` accepts (also ``FILE.h5:/path/in/it``), non-zero = ignore, whose pixels become one shape.

    Returns
    -------
    DrawnMask
        The mask, with its shapes, who drew it and when.

    Raises
    ------
    InputError
        Where there is no such file, or it cannot be read.

    Examples
    --------
    >>> import braggflow
    >>> saved = braggflow.save_mask(braggflow.DrawnMask((64, 80)).rectangle(0, 0, 3, 79).pixel(20, 7), "gap.tif")
    >>> mask = braggflow.load_mask("gap.tif")
    >>> [shape.kind for shape in mask.shapes], mask.undo().array.sum() == mask.array.sum() - 1
    (['rectangle', 'pixel'], np.True_)
    """
    path = Path(path)
    if path.suffix == ".zarr":
        data = open_frames(path)
        shape = (data.sizes["y"], data.sizes["x"])
        _, kept = _stored_mask(path, shape)
        return _with_shapes(kept, shape, f"frames store {path}") if _SHAPES in kept else DrawnMask(shape)
    file, inside = split_name(str(path))
    if not file.is_file():
        raise InputError(f"mask {path}: does not exist")
    stacks = inspect_source(str(file), inside)
    frames = sum(stack.frames for stack in stacks)
    if len(stacks) != 1 or frames != 1:
        raise InputError(f"mask {path}: holds {frames} frames, must be one image")
    image = read_frames(stacks[0], 0, 1)[0] != 0
    mask = DrawnMask((image.shape[0], image.shape[1]))
    described = _description(path)
    if described is None:
        return mask.pixels(image, said=f"from {path.name}")
    mask = _with_shapes(described, mask.shape, f"mask {path}")
    if not np.array_equal(mask.array, image):
        return replace(mask, shapes=(), undone=()).pixels(image, said="as another program left it")
    return mask


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # as in a container that knows no names
        return f"user {os.getuid()}"


def _described(mask: DrawnMask) -> dict[str, Any]:
    """Who, when, and the shapes, as attributes."""
    shapes = [{"kind": shape.kind, **shape.numbers, "erase": shape.erase} for shape in mask.shapes]
    return {_BY: mask.drawn_by, _AT: mask.drawn_at, _SHAPES: shapes}


def _with_shapes(described: Mapping[str, Any], shape: tuple[int, int], what: str) -> DrawnMask:
    """The mask that attributes describe; raises `InputError` beginning with `what` where they make none."""
    mask = DrawnMask(shape, drawn_by=str(described.get(_BY, "")), drawn_at=str(described.get(_AT, "")))
    try:
        for one in described[_SHAPES]:
            numbers = {name: value for name, value in one.items() if name not in ("kind", "erase")}
            mask = mask.with_shape(one["kind"], one["erase"], **numbers)
    except (InputError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{what}: its drawn shapes cannot be read ({error})") from error
    return mask


def _description(path: Path) -> dict[str, Any] | None:
    """What the description of a TIFF file says of its shapes; None where it says nothing of them."""
    if path.suffix.lower() not in _TIFF:
        return None
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            found = json.loads(file.pages[0].description)  # type: ignore[union-attr]  # one page is there
    except (ValueError, IndexError):  # no JSON: of another program
        return None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        return None
    if found.get("format_version") != _VERSION:
        raise InputError(f"mask {path}: format_version {found.get('format_version')} is not {_VERSION}, which is read")
    return found


def _save_as_file(mask: DrawnMask, path: Path) -> None:
    import tifffile

    if path.exists() and _description(path) is None:
        raise InputError(f"mask {path}: is there, and no mask that was drawn with braggflow; choose another name")
    text = json.dumps({"format": _FORMAT, "format_version": _VERSION, **_described(mask)})
    with written_whole(path) as temporary:
        # Not compressed: so it is read by programs with readers of their own.
        tifffile.imwrite(
            temporary, mask.array.astype(np.uint8), photometric="minisblack", description=text, metadata=None
        )


def _save_in_store(mask: DrawnMask, path: Path) -> None:
    if unfinished_path(path).exists() or not path.exists():
        raise InputError(f"frames store {path}: is being written, or not there; save once it is finished")
    data = open_frames(path)
    if data.attrs.get("format") != FRAMES_FORMAT or not sealed(path):
        raise InputError(
            f"frames store {path}: was not made by this version of braggflow; save to a file NAME.tif, and name that "
            "in frames.mask"
        )
    shape = (data.sizes["y"], data.sizes["x"])
    if shape != tuple(mask.shape):
        raise InputError(f"frames store {path}: has frames of {shape}, the mask is {mask.shape}")
    made = path.with_name(path.name + ".mask.wip")
    try:
        made.mkdir()
    except FileExistsError:
        raise InputError(f"{made}: is there: another mask is being saved; if none is, remove it") from None
    try:
        series, kept = _stored_mask(path, shape)
        attributes = {**kept, **_described(mask), "flag_masks": [_SERIES, _DRAWN], "flag_meanings": "series drawn"}
        _write_mask((_SERIES * series + _DRAWN * mask.array).astype(np.uint8), attributes, made)
        _put_in_place(made, path)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _stored_mask(path: Path, shape: tuple[int, int]) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    """The mask that a store has without what was drawn in it, and the attributes of both."""
    with xr.open_dataset(path, engine="zarr", consolidated=False, chunks=None, mask_and_scale=False) as data:
        if "mask" not in data:
            return np.zeros(shape, bool), {}
        values, attributes = data["mask"].values, data["mask"].attrs
    return (values & _SERIES if _SHAPES in attributes else values) != 0, attributes


def _write_mask(values: NDArray[np.uint8], attributes: Mapping[str, Any], folder: Path) -> None:
    small = xr.Dataset({"mask": (("y", "x"), values, dict(attributes))})
    small.to_zarr(
        folder / "made.zarr",
        zarr_format=3,
        consolidated=False,
        encoding=guarded_encoding(small),
        write_empty_chunks=True,
    )


def _put_in_place(made: Path, path: Path) -> None:
    """Put a new mask into the store. In between, its checksums do not fit, so that nobody reads it by mistake."""
    if damage := next(damage_of_frames_store(path), ""):
        raise InputError(f"frames store {path}: {damage}")
    mask, old, new = path / "mask", made / "old", made / "made.zarr" / "mask"
    if mask.exists():
        mask.rename(old)
    try:
        new.rename(mask)
        seal(path)
    except BaseException:
        if mask.exists():
            mask.rename(new)
        if old.exists():
            old.rename(mask)
        raise
