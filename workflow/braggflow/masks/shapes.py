"""Which pixels lie in a shape: those whose centre does, borders included.

Pixel centres are at whole numbers. Every test is a comparison of sums and products of the shape's numbers, without a
division: where these are not rounded (multiples of 1/8, and angles of 90 degrees, say), a centre on the border is in.
"""

import base64
import binascii
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, cos, floor, isfinite, radians, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError

Block = tuple[tuple[slice, slice], NDArray[np.bool_]]
"""Rows and columns of a frame, and which of their pixels lie in a shape."""
#: Distances and coordinates up to this are accepted, pixels: their products must stay exact enough.
_LARGEST = 1e6


@dataclass(frozen=True, slots=True)
class Shape:
    """One step of a drawing: the kind of shape, its numbers as JSON has them, and whether it takes pixels away.

    Attributes
    ----------
    kind : str
        rectangle, ellipse, polygon, ring, brush, pixel, or pixels (listed, as a threshold or a proposal gives them).
    numbers : mapping
        What the method of this name of `DrawnMask` is given.
    erase : bool
        True: its pixels are counted again.
    """

    kind: str
    numbers: Mapping[str, Any]
    erase: bool = False

    def block(self, shape: tuple[int, int]) -> Block:
        """The part of a frame (rows, columns) that the shape may reach, and its pixels."""
        return _KINDS[self.kind](shape, **self.numbers)


def checked_shape(kind: str, numbers: Mapping[str, Any], erase: bool, frame: tuple[int, int]) -> Shape:
    """A shape of these numbers; raises `InputError` where it has others than it needs, or ones that make no sense."""
    if kind not in _KINDS:
        raise InputError(f"shape {kind!r}: is unknown; must be one of {', '.join(_KINDS)}")
    try:
        shape = Shape(kind, numbers, bool(erase))
        shape.block(frame)
    except InputError as error:
        raise InputError(f"{kind}: {error}") from error
    except (TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise InputError(f"{kind}: {dict(numbers)} is not what it needs ({error})") from error
    return shape


def packed(pixels: NDArray[np.bool_]) -> str:
    """Pixels (y, x) as a short text."""
    return base64.b64encode(zlib.compress(np.packbits(pixels).tobytes(), 6)).decode()


def _rectangle(shape: tuple[int, int], y0: float, x0: float, y1: float, x1: float) -> Block:
    (y0, y1), (x0, x1) = sorted(_numbers("y", y0, y1)), sorted(_numbers("x", x0, x1))
    where = _part(shape, y0, x0, y1, x1)
    return where, np.ones(_size(where), bool)


def _ellipse(shape: tuple[int, int], centre: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> Block:
    (y, x), (radius_y, radius_x) = _numbers("centre", *centre), _lengths("radii", *radii)
    (angle,) = _numbers("angle", angle)
    cosine, sine = _turned(angle)
    reach = max(radius_y, radius_x)
    where = _part(shape, y - reach, x - reach, y + reach, x + reach)
    dy, dx = _offsets(where, y, x)
    along, across = cosine * dx + sine * dy, cosine * dy - sine * dx
    return where, (along * radius_y) ** 2 + (across * radius_x) ** 2 <= (radius_x * radius_y) ** 2


def _turned(angle: float) -> tuple[float, float]:
    """Cosine and sine of an angle in degrees, exact for quarters of a turn."""
    if angle % 90 == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(angle // 90) % 4]
    return cos(radians(angle)), sin(radians(angle))


def _ring(shape: tuple[int, int], centre: Sequence[float], inner: float, outer: float) -> Block:
    (y, x), (inner,), (outer,) = _numbers("centre", *centre), _numbers("inner", inner), _lengths("outer", outer)
    if not 0 <= inner <= outer:
        raise InputError(f"inner {inner:g}: must be from 0 to outer, {outer:g}")
    where = _part(shape, y - outer, x - outer, y + outer, x + outer)
    dy, dx = _offsets(where, y, x)
    squared = dy**2 + dx**2
    return where, (squared >= inner**2) & (squared <= outer**2)


def _polygon(shape: tuple[int, int], points: Sequence[Sequence[float]]) -> Block:
    """By the number of edges to one side of a pixel's centre: odd is in; where edges cross, parts may be out."""
    corners = _points(points, 3)
    where = _part(shape, *corners.min(axis=0), *corners.max(axis=0))
    inside, on_edge = np.zeros(_size(where), bool), np.zeros(_size(where), bool)
    ys, xs = _offsets(where, 0, 0)
    for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = slice(*(max(0, int(at) - where[0].start) for at in (ceil(min(y0, y1)), floor(max(y0, y1)) + 1)))
        y = ys[rows]
        side = (x1 - x0) * (y - y0) - (xs - x0) * (y1 - y0)
        crossed = (y >= min(y0, y1)) & (y < max(y0, y1))
        inside[rows] ^= crossed & (side * (1 if y1 > y0 else -1) > 0)
        on_edge[rows] |= (side == 0) & (xs >= min(x0, x1)) & (xs <= max(x0, x1))
    return where, inside | on_edge


def _brush(shape: tuple[int, int], points: Sequence[Sequence[float]], radius: float) -> Block:
    """Pixels within a radius of the line through the points."""
    line, (radius,) = _points(points, 1), _lengths("radius", radius)
    where = _part(shape, *(line.min(axis=0) - radius), *(line.max(axis=0) + radius))
    touched = np.zeros(_size(where), bool)
    for (y0, x0), (y1, x1) in zip(
        line[:-1] if len(line) > 1 else line, line[1:] if len(line) > 1 else line, strict=True
    ):
        near = _part(shape, min(y0, y1) - radius, min(x0, x1) - radius, max(y0, y1) + radius, max(x0, x1) + radius)
        inside = tuple(slice(n.start - w.start, n.stop - w.start) for n, w in zip(near, where, strict=True))
        dy, dx = _offsets(near, y0, x0)
        length = (y1 - y0) ** 2 + (x1 - x0) ** 2
        way = dy * (y1 - y0) + dx * (x1 - x0)
        beside = (dy * (x1 - x0) - dx * (y1 - y0)) ** 2 <= radius**2 * length
        ends = (dy**2 + dx**2 <= radius**2) | ((dy + y0 - y1) ** 2 + (dx + x0 - x1) ** 2 <= radius**2)
        touched[inside] |= ends | (beside & (way > 0) & (way < length))
    return where, touched


def _pixel(shape: tuple[int, int], y: int, x: int) -> Block:
    if int(y) != y or int(x) != x or not (0 <= y < shape[0] and 0 <= x < shape[1]):
        raise InputError(f"({y}, {x}) is no pixel of a frame of {shape[0]} × {shape[1]}")
    return (slice(int(y), int(y) + 1), slice(int(x), int(x) + 1)), np.ones((1, 1), bool)


def _pixels(shape: tuple[int, int], packed: str, said: str = "") -> Block:  # noqa: ARG001 - what is said is for people
    bits = np.frombuffer(zlib.decompress(base64.b64decode(packed, validate=True)), np.uint8)
    n = shape[0] * shape[1]
    if len(bits) != -(-n // 8):
        raise InputError(f"its pixels are not those of a frame of {shape[0]} × {shape[1]}")
    return (slice(0, shape[0]), slice(0, shape[1])), np.unpackbits(bits, count=n).astype(bool).reshape(shape)


_KINDS: dict[str, Callable[..., Block]] = {
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "polygon": _polygon,
    "ring": _ring,
    "brush": _brush,
    "pixel": _pixel,
    "pixels": _pixels,
}


def _numbers(name: str, *values: float) -> tuple[float, ...]:
    for value in values:
        if isinstance(value, bool) or not isfinite(value) or abs(value) > _LARGEST:
            raise InputError(f"{name} {value}: must be a number of pixels or degrees, up to {_LARGEST:g}")
    return tuple(float(value) for value in values)


def _lengths(name: str, *values: float) -> tuple[float, ...]:
    for value in _numbers(name, *values):
        if value <= 0:
            raise InputError(f"{name} {value:g}: must be above 0")
    return tuple(float(value) for value in values)


def _points(points: Sequence[Sequence[float]], least: int) -> NDArray[np.float64]:
    array = np.array(points, np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < least:
        raise InputError(f"points: {len(points)} given, must be at least {least}, each (y, x)")
    _numbers("points", *array.ravel().tolist())
    return array


def _part(shape: tuple[int, int], top: float, left: float, bottom: float, right: float) -> tuple[slice, slice]:
    """Rows and columns of a frame whose pixels' centres lie within limits."""
    rows, columns = (
        slice(min(n, max(0, ceil(low))), min(n, max(0, floor(high) + 1)))
        for n, low, high in ((shape[0], top, bottom), (shape[1], left, right))
    )
    return slice(rows.start, max(rows.start, rows.stop)), slice(columns.start, max(columns.start, columns.stop))


def _size(where: tuple[slice, slice]) -> tuple[int, int]:
    return where[0].stop - where[0].start, where[1].stop - where[1].start


def _offsets(where: tuple[slice, slice], y: float, x: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(rows, 1) and (1, columns): distances of pixels' centres from a place."""
    rows, columns = (np.arange(part.start, part.stop, dtype=np.float64) for part in where)
    return (rows - y)[:, None], (columns - x)[None]
