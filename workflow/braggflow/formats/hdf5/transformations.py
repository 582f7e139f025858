"""Where a NeXus file's transformations put the detector: its distance, foot of the normal and rotations.

NXdetector_module says where the first pixel's outer corner lies and which way pixels run, each along a chain of
NXtransformations. The file's axes are McStas': z along the beam. Out come the keys of a geometry (docs/geometry.md), in
pyFAI's convention; its axis 2 is that of the laboratory's axes x, -x, y, -y which rows of pixels run along.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.formats.hdf5.tree import LINK_ERRORS, attribute_text

Vector = NDArray[np.float64]

#: Longer chains than this are circles.
_LONGEST = 32
_BEAM = np.array([0.0, 0.0, 1.0])
_PER_UNIT = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "nm": 1e-9, "deg": 1.0, "degree": 1.0,
             "degrees": 1.0, "rad": 180 / np.pi, "radian": 180 / np.pi, "radians": 180 / np.pi}  # fmt: skip


class _NoPlaceError(Exception):
    """The transformations do not say where the detector stands."""


def placed_detector(file: Any, detector: Any) -> dict[str, Any]:
    """`distance_mm`, `poni_mm`, `pixel_size_um` [y, x], `rotation_degree` of a detector of one module.

    Empty where the file has no such module, or where a transformation is missing, not understood, or not one for all
    frames.
    """
    modules = [one for one in _members(detector) if attribute_text(one, "NX_class") == "NXdetector_module"]
    if len(modules) != 1:
        return {}
    try:
        return _place(file, modules[0])
    except (_NoPlaceError, AttributeError, *LINK_ERRORS):
        return {}


def _members(group: Any) -> list[Any]:
    found = []
    for name in group:
        try:
            found.append(group[name])
        except LINK_ERRORS:
            continue
    return found


def _place(file: Any, module: Any) -> dict[str, Any]:
    fast, slow = (_direction(file, module[f"{name}_pixel_direction"]) for name in ("fast", "slow"))
    corner = (_chain(file, module["module_offset"]) @ [0, 0, 0, 1])[:3]
    (size_x, along_x), (size_y, along_y) = fast, slow
    normal = np.cross(along_y, along_x)
    # Seen from the sample or from behind, rows and columns make a right-handed system or a left-handed one.
    hand = 1.0 if corner @ normal > 0 else -1.0
    distance = hand * float(corner @ normal)
    if abs(along_x @ along_y) > 1e-4 or distance <= 0:
        raise _NoPlaceError
    nearest = int(np.argmax(np.abs(along_x[:2])))
    second = np.eye(3)[nearest] * np.sign(along_x[nearest])
    axes = np.array([hand * np.cross(second, _BEAM), second, _BEAM])
    turned = axes @ np.column_stack([along_y, along_x, hand * normal])
    rotation = (
        np.arctan2(-turned[2, 1], turned[2, 2]),
        np.arcsin(np.clip(turned[2, 0], -1, 1)),
        np.arctan2(turned[1, 0], turned[0, 0]),
    )
    return {
        "distance_mm": distance * 1e3,
        "poni_mm": [float(-corner @ along_y) * 1e3, float(-corner @ along_x) * 1e3],
        "pixel_size_um": [size_y * 1e6, size_x * 1e6],
        "rotation_degree": np.degrees(rotation).tolist(),
    }


def _direction(file: Any, axis: Any) -> tuple[float, Vector]:
    """Pixel size, m, and direction in the laboratory of the pixels along an axis."""
    turned = _chain(file, axis)[:3, :3] @ _unit(axis.attrs["vector"])
    size = _value(axis)
    if size <= 0:
        raise _NoPlaceError
    return size, turned


def _chain(file: Any, axis: Any) -> NDArray[np.float64]:
    """The 4 × 4 matrix of an axis and all that it depends on."""
    matrix = np.eye(4)
    for _ in range(_LONGEST):
        matrix = _matrix(axis) @ matrix
        after = attribute_text(axis, "depends_on").strip()
        if after in ("", "."):
            return matrix
        axis = file[after] if after.startswith("/") else axis.parent[after]
    raise _NoPlaceError


def _matrix(axis: Any) -> NDArray[np.float64]:
    matrix = np.eye(4)
    vector, value = _unit(axis.attrs["vector"]), _value(axis)
    kind = attribute_text(axis, "transformation_type").strip()
    if kind == "rotation":
        turn, cross = np.radians(value), np.cross(np.eye(3), vector)
        matrix[:3, :3] = np.cos(turn) * np.eye(3) + np.sin(turn) * cross + (1 - np.cos(turn)) * np.outer(vector, vector)
    elif kind == "translation":
        matrix[:3, 3] = value * vector
    else:
        raise _NoPlaceError
    if "offset" in axis.attrs:
        offset = np.asarray(axis.attrs["offset"], np.float64)
        matrix[:3, 3] += offset * _scale(attribute_text(axis, "offset_units") or attribute_text(axis, "units"))
    return matrix


def _value(axis: Any) -> float:
    """The value of an axis, m or degree, if it is one for all frames."""
    values = np.unique(np.asarray(axis[()], np.float64))
    if values.size != 1 or not np.isfinite(values).all():
        raise _NoPlaceError
    return float(values[0]) * _scale(attribute_text(axis, "units"))


def _scale(units: str) -> float:
    try:
        return _PER_UNIT[units.strip().lower()]
    except KeyError:
        raise _NoPlaceError from None


def _unit(vector: Any) -> Vector:
    values = np.asarray(vector, np.float64)
    length = float(np.linalg.norm(values))
    if values.shape != (3,) or not length > 0:
        raise _NoPlaceError
    return values / length
