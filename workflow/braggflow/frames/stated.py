"""What the files of a series state of it, joined: mask, saturation, geometry, coordinates, frames never written."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.formats import Stack, read_image

Coords = dict[str, tuple[NDArray[Any], dict[str, str]]]
"""Values, shape (frame,), and attributes, by name."""


def stated_mask(stacks: Sequence[Stack]) -> NDArray[np.bool_] | None:
    """The union of the files' own NeXus pixel_mask, or None where no file has one."""
    places = dict.fromkeys(stack.facts.pixel_mask for stack in stacks if stack.facts.pixel_mask is not None)
    found = [read_image("pixel_mask", ":".join(place), stacks[0].shape) != 0 for place in places]
    return np.any(found, axis=0) if found else None


def stated_attributes(stacks: Sequence[Stack]) -> dict[str, Any]:
    """Attributes of a series: what all files agree on of `geometry`, the lowest `saturation`, and what else is stated.

    `underload` (counts), `notes` (what is stated and cannot be true), `missing_frames` ([first, after the last,
    reason], positions in the series).
    """
    attributes: dict[str, Any] = {}
    saturation = {(s.facts.saturation, s.facts.saturation_source) for s in stacks if s.facts.saturation is not None}
    if saturation:
        attributes["saturation"], attributes["saturation_source"] = min(saturation)
    underload = {s.facts.underload for s in stacks if s.facts.underload is not None}
    if underload:
        attributes["underload"] = max(underload)
    first = stacks[0].facts.geometry
    agreed = {key: value for key, value in first.items() if all(s.facts.geometry.get(key) == value for s in stacks)}
    if agreed:
        attributes["geometry"] = agreed
    if notes := list(dict.fromkeys(note for stack in stacks for note in stack.facts.notes)):
        attributes["notes"] = notes
    missing, start = [], 0
    for stack in stacks:
        missing += [[start + lo, start + hi, reason] for lo, hi, reason in stack.missing]
        start += stack.frames
    if missing:
        attributes["missing_frames"] = missing
    return attributes


def stated_coords(stacks: Sequence[Stack]) -> Coords:
    """The per-frame coordinates that all files state; `time` counts from the first frame."""
    coords: Coords = {}
    for name in stacks[0].facts.coords:
        if all(name in stack.facts.coords for stack in stacks):
            parts = [stack.facts.coords[name] for stack in stacks]
            coords[name] = (np.concatenate([values for values, _ in parts]), parts[0][1])
    if "time" in coords:
        times, attrs = coords.pop("time")
        if len(times) == 1 or np.ptp(times) > 0:  # some headers carry one date for all frames
            attrs = {**attrs, "long_name": f"{attrs.get('long_name', 'time')}, since the first frame's"}
            coords["time"] = (times - times[0], attrs)
    return coords
