"""Mask and attributes of a series: what its files say of the frames, and what the frames say by their marks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.formats.readers import Stack
from braggflow.formats.stacks import read_image


def detector_marks(frames: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels, shape (y, x), that carry the detector's mark in every frame and in any frame of (frame, y, x).

    The mark is a negative value in signed integers and the largest value of unsigned ones; floats have none (NaN
    pixels are ignored frame by frame wherever a store is read).
    """
    always = np.full(frames.shape[1:], frames.dtype.kind != "f")
    ever = np.zeros(frames.shape[1:], bool)
    if frames.dtype.kind != "f":
        for frame in frames:
            marked = frame < 0 if frame.dtype.kind == "i" else frame == np.iinfo(frame.dtype).max
            always &= marked
            ever |= marked
    return always, ever


def stated_pixel_mask(stacks: Sequence[Stack], shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """The union of the files' own NeXus pixel_mask, or None where no file has one."""
    places = dict.fromkeys(stack.facts.pixel_mask for stack in stacks if stack.facts.pixel_mask is not None)
    found = [read_image("pixel_mask", ":".join(place), shape) != 0 for place in places]
    return np.any(found, axis=0) if found else None


def saturation_attributes(stacks: Sequence[Stack], dtype: np.dtype[Any], *, reached: bool) -> dict[str, Any]:
    """Saturation in counts and who says so; `reached`: pixels outside the mask are at the dtype's largest value."""
    stated = {(s.facts.saturation, s.facts.saturation_source) for s in stacks if s.facts.saturation is not None}
    if stated:
        value, source = min(stated)
        return {"saturation": value, "saturation_source": source}
    if reached and dtype.kind == "u" and dtype.itemsize <= 4:
        return {"saturation": int(np.iinfo(dtype).max), "saturation_source": f"largest value of {dtype}"}
    return {}


def geometry_attributes(stacks: Sequence[Stack]) -> dict[str, Any]:
    """The attribute `geometry`, as far as all files agree on it; nothing where they agree on nothing."""
    first = stacks[0].facts.geometry
    agreed = {key: value for key, value in first.items() if all(s.facts.geometry.get(key) == value for s in stacks)}
    return {"geometry": agreed} if agreed else {}
