"""What is stated of a detector's place, checked."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from braggflow.errors import InputError

#: Keys that hold numbers: how many, and whether each must be above 0.
_NUMBERS = {
    "distance_mm": (1, True),
    "wavelength_angstrom": (1, True),
    "energy_kev": (1, True),
    "beam_centre_px": (2, False),
    "poni_mm": (2, False),
    "pixel_size_um": (2, True),
    "rotation_degree": (3, False),
}
_HAVE_STD = ("distance_mm", "beam_centre_px", "rotation_degree", "wavelength_angstrom")
_SIZE = 7


def as_mapping(attributes: object) -> object:
    """What a table holds as JSON; anything else as it is."""
    if isinstance(attributes, str):
        with suppress(ValueError):  # text that is no JSON is refused by whoever reads it
            return json.loads(attributes)
    return attributes


def checked_facts(attributes: object) -> dict[str, Any]:
    """The keys of a geometry with values that can be true: floats, or tuples of them; raises `InputError` naming one.

    A photon energy becomes a wavelength.
    """
    attributes = as_mapping(attributes)
    if not isinstance(attributes, Mapping):
        raise InputError(f"geometry: {attributes!r} is not accepted; must be a mapping ({', '.join(_NUMBERS)}, poni)")
    known = {*_NUMBERS, "poni", "std", "flipped", "covariance"}
    for key in attributes:
        if key not in known:
            raise InputError(f"geometry.{key}: is not a key of a geometry; must be one of {', '.join(sorted(known))}")
    facts: dict[str, Any] = {key: attributes[key] for key in ("poni",) if key in attributes}
    for key, (n, positive) in _NUMBERS.items():
        if key in attributes:
            values = _numbers(f"geometry.{key}", attributes[key], n, least=0.0 if positive else None)
            facts[key] = values if n > 1 else values[0]
    if "energy_kev" in facts:
        if "wavelength_angstrom" in facts:
            raise InputError("geometry.energy_kev: is not accepted beside wavelength_angstrom; give one of them")
        from braggflow.formats import HC_KEV_ANGSTROM  # here, as it loads the readers of detector files

        facts["wavelength_angstrom"] = HC_KEV_ANGSTROM / facts.pop("energy_kev")
    if "flipped" in attributes:
        facts["flipped"] = tuple(bool(flag) for flag in attributes["flipped"])
    if "covariance" in attributes:
        rows = attributes["covariance"]
        facts["covariance"] = tuple(_numbers("geometry.covariance", row, _SIZE) for row in rows)
        if len(rows) != _SIZE:
            raise InputError(f"geometry.covariance: has {len(rows)} rows; must have {_SIZE}")
    if attributes.get("std"):
        facts["std"] = _checked_std(attributes["std"])
    return facts


def _checked_std(std: object) -> dict[str, tuple[float, ...]]:
    found = {}
    for key, value in std.items() if isinstance(std, Mapping) else [("", std)]:
        if key not in _HAVE_STD:
            raise InputError(f"geometry.std.{key}: is not accepted; must be one of {', '.join(_HAVE_STD)}")
        found[key] = _numbers(f"geometry.std.{key}", value, _NUMBERS[key][0])
        if min(found[key]) < 0:
            raise InputError(f"geometry.std.{key}: {value} is not accepted; must be 0 or more")
    return found


def _numbers(key: str, value: Any, n: int, *, least: float | None = None) -> tuple[float, ...]:
    listed = [value] if n == 1 and not isinstance(value, list | tuple) else value
    try:
        numbers = () if isinstance(listed, str) else tuple(float(one) for one in listed)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != n or not all(map(math.isfinite, numbers)) or (least is not None and min(numbers) <= least):
        what = "a number" if n == 1 else f"{n} numbers"
        more = "" if least is None else f" above {least:g}"
        raise InputError(f"{key}: {value!r} is not accepted; must be {what}{more}")
    return numbers
