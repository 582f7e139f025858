"""One description of a series, whichever way it comes: a store of ours or of others, a file, an array in memory.

`described` adds to what is stated of a series what its frames say of themselves; everything that treats pixels by it
(`correction_of`) reads it from the Dataset's mask and attributes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.frames.marks import Look, Marks, frames_looked_at
from braggflow.frames.store import FRAMES_FORMAT, UNREADABLE, read_raw

#: Version of the rules of `marks`: a store that was described by others is described anew.
RULES = 1

T = TypeVar("T")


def described(data: xr.Dataset, looked_at: Sequence[int] | None = None) -> xr.Dataset:
    """The Dataset of a series with its marks joined to `mask`, and the attributes that say how pixels are taken.

    `looked_at` are the positions of the frames that say so, by default some that are spread over those that are there.

    Attributes: `saturation` and its source; `masked_below` (counts, pixels below are ignored); `marks`, the record of
    what was found, with which a Dataset is returned as it is; `notes`. `negative_marks` (y, x) are the pixels of the
    mask that only their negative values put there.
    """
    record = data.attrs.get("marks")
    if isinstance(record, Mapping) and record.get("rules") == RULES:
        return data
    stated, notes = _believed(data.attrs)
    if data.attrs.get("format") == FRAMES_FORMAT:
        stated.pop("masked_below", None)  # of a store of version 0.1.0: whatever is below 0
    shape = data["frames"].shape[1:]
    known = data["mask"].values != 0 if "mask" in data else np.zeros(shape, bool)
    marks = _look(data, known, frames_to_look_at(data) if looked_at is None else looked_at)
    mask = known | marks.negative_marks | marks.top_marks
    own = mask & ~known
    stated["marks"] = {
        "rules": RULES,
        "frames_looked_at": marks.frames,
        "negative": marks.negative,
        "negative_share": round(marks.negative_share, 6),
    }
    if own.any():
        stated["mask_pixels"] = {**_of_type(stated, "mask_pixels", dict), "detector marks": int(own.sum())}
    if (below := _masked_below(data["frames"].dtype, marks, stated)) is not None:
        stated["masked_below"] = below
    if "saturation" not in stated:
        stated.update(_saturation(data["frames"].dtype, marks))
    if notes:
        stated["notes"] = [*_of_type(stated, "notes", list), *notes]
    images = {"mask": mask, "negative_marks": marks.negative_marks & ~known}
    found = {name: (("y", "x"), image) for name, image in images.items() if image.any()}
    result = data.drop_vars(["negative_marks"], errors="ignore").assign(found)
    result.attrs = stated
    return result


def missing_frames(data: xr.Dataset) -> dict[int, str]:
    """Why each frame that was never written is missing, by its position in the series."""
    stated = data.attrs.get("missing_frames", [])
    try:
        return {
            position: str(reason)
            for first, stop, reason in stated
            for position in range(max(0, int(first)), min(int(stop), data.sizes["frame"]))
        }
    except (TypeError, ValueError) as error:
        raise InputError(
            f"attribute missing_frames: is {stated!r}, must be a list of [first, the one after the last, reason]"
        ) from error


def refuse_incomplete(missing: Mapping[int, str], n_frames: int, key: str) -> None:
    """Raise `InputError`, beginning with the `key` that asks for it, where frames were never written."""
    if missing:
        raise InputError(
            f"{key}: {len(missing)} of {n_frames} frames were never written ({next(iter(missing.values()))})"
        )


def _of_type(attrs: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """An attribute of a type; an empty one where another was written under its name."""
    value = attrs.get(name)
    return value if isinstance(value, kind) else kind()


def frames_to_look_at(data: xr.Dataset) -> list[int]:
    """Positions of the frames by which a series is judged, of those that were written."""
    missing = missing_frames(data)
    there = np.array([at for at in range(data.sizes["frame"]) if at not in missing], np.int64)
    found: list[int] = there[frames_looked_at(len(there))].tolist() if len(there) else []
    return found


def _look(data: xr.Dataset, known: NDArray[np.bool_], positions: Sequence[int]) -> Marks:
    look = Look(known)
    for position in positions:
        try:
            look.add(read_raw(data, np.array([position]))[0])
        except UNREADABLE:
            continue  # whoever processes the frame records it
    return look.marks()


def _masked_below(dtype: np.dtype[Any], marks: Marks, stated: Mapping[str, Any]) -> float | int | None:
    """Counts below which a pixel is ignored."""
    if "masked_below" in stated:
        return float(stated["masked_below"])
    levels = [stated["underload"]] if "underload" in stated else []
    if marks.negative == "count":
        levels += [int(np.iinfo(dtype).min) + 1] if dtype.kind == "i" else []
    elif marks.negative == "mark" or dtype.kind == "i":  # also where only frames that were not looked at have any
        levels.append(0)
    return max(levels, default=None)


def _saturation(dtype: np.dtype[Any], marks: Marks) -> dict[str, Any]:
    if marks.pile_up is not None:
        source = f"counts pile up there: {marks.pile_up_pixels} pixels in the {marks.frames} frames looked at"
        return {"saturation": marks.pile_up, "saturation_source": source}
    if dtype.kind == "u" and dtype.itemsize <= np.dtype(np.uint32).itemsize:
        return {"saturation": int(np.iinfo(dtype).max), "saturation_source": f"largest value of {dtype}"}
    return {}


def _believed(attrs: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The attributes without those that cannot be true, and a sentence on each of these."""
    stated, notes = {str(key): value for key, value in attrs.items()}, []
    for name, accepted in (("saturation", "above 0"), ("masked_below", "a number"), ("underload", "a number")):
        if name not in stated:
            continue
        try:
            value = float(stated[name])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value) or (name == "saturation" and value <= 0):
            notes.append(f"{name}: {stated.pop(name)!r} is stated, must be {accepted}; not used")
    return stated, notes
