"""A mask that is drawn, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braggflow.errors import InputError
from braggflow.masks.shapes import Shape, checked_shape, packed


@dataclass(frozen=True, eq=False)
class DrawnMask:
    """A mask drawn by hand: each step returns a new one, with the steps before it.

    Coordinates are (y, x) in pixels, 0-based, pixel centres at whole numbers. A pixel is in a shape where its centre
    is, borders included. With ``erase=True`` a shape takes its pixels out of the mask again.

    Attributes
    ----------
    shape : tuple of int
        Of the frames, (y, x), pixels.
    shapes : tuple of Shape
        The steps so far.
    undone : tuple of Shape
        Steps that were undone, the last one first.
    drawn_by, drawn_at : str
        Who saved it and when (ISO 8601, UTC), where it comes from a file.

    Examples
    --------
    >>> import braggflow
    >>> mask = braggflow.DrawnMask((64, 80)).rectangle(0, 0, 9, 79).ring((32, 40), 10, 12).pixel(50, 5)
    >>> mask = mask.ellipse((32, 40), (20, 8), angle=30, erase=True)
    >>> int(mask.array.sum()), int(mask.undo().array.sum())
    (873, 937)
    """

    shape: tuple[int, int]
    shapes: tuple[Shape, ...] = ()
    undone: tuple[Shape, ...] = ()
    drawn_by: str = ""
    drawn_at: str = ""

    def __post_init__(self) -> None:
        if len(self.shape) != 2 or any(int(n) != n or n < 1 for n in self.shape):
            raise InputError(f"shape {self.shape}: must be (y, x), the pixels of a frame")

    @cached_property
    def array(self) -> NDArray[np.bool_]:
        """The mask, bool (y, x), True = ignore; not to be written to."""
        mask = np.zeros(self.shape, bool)
        for shape in self.shapes:
            _draw(mask, shape)
        mask.flags.writeable = False
        return mask

    def rectangle(self, y0: float, x0: float, y1: float, x1: float, *, erase: bool = False) -> "DrawnMask":
        """With the pixels between two opposite corners (y0, x0) and (y1, x1)."""
        return self.with_shape("rectangle", erase, y0=y0, x0=x0, y1=y1, x1=x1)

    def ellipse(
        self, centre: Sequence[float], radii: Sequence[float], angle: float = 0.0, *, erase: bool = False
    ) -> "DrawnMask":
        """With an ellipse of radii (y, x) about a centre (y, x), turned by an angle, degrees from +x towards +y."""
        return self.with_shape("ellipse", erase, centre=centre, radii=radii, angle=angle)

    def polygon(self, points: Sequence[Sequence[float]], *, erase: bool = False) -> "DrawnMask":
        """With a polygon of corners (y, x); where its edges cross, what they enclose twice is not in it."""
        return self.with_shape("polygon", erase, points=points)

    def ring(self, centre: Sequence[float], inner: float, outer: float, *, erase: bool = False) -> "DrawnMask":
        """With what lies from `inner` to `outer` pixels from a centre (y, x); inner 0: a disc."""
        return self.with_shape("ring", erase, centre=centre, inner=inner, outer=outer)

    def brush(self, points: Sequence[Sequence[float]], radius: float, *, erase: bool = False) -> "DrawnMask":
        """With what lies within a radius of the line through points (y, x)."""
        return self.with_shape("brush", erase, points=points, radius=radius)

    def pixel(self, y: int, x: int, *, erase: bool = False) -> "DrawnMask":
        """With one pixel."""
        return self.with_shape("pixel", erase, y=y, x=x)

    def threshold(
        self, image: ArrayLike, *, above: float | None = None, below: float | None = None, erase: bool = False
    ) -> "DrawnMask":
        """With the pixels of an image (y, x) that are above one level, or below another."""
        counts = np.asarray(image)
        if above is None and below is None:
            raise InputError("threshold: needs above or below, or both")
        if counts.shape != tuple(self.shape):
            raise InputError(f"threshold: image has shape {counts.shape}, the mask {self.shape}")
        pixels = np.zeros(self.shape, bool)
        if above is not None:
            pixels |= counts > above
        if below is not None:
            pixels |= counts < below
        levels = [f"{word} {level:g}" for word, level in (("above", above), ("below", below)) if level is not None]
        return self.pixels(pixels, said=f"counts {' or '.join(levels)}", erase=erase)

    def pixels(self, pixels: ArrayLike, *, said: str = "", erase: bool = False) -> "DrawnMask":
        """With the pixels that are True in an array (y, x), as a proposal has one; `said`: what they are."""
        array = np.asarray(pixels)
        if array.shape != tuple(self.shape):
            raise InputError(f"pixels: has shape {array.shape}, the mask {self.shape}")
        return self.with_shape("pixels", erase, packed=packed(array != 0), said=said)

    def with_shape(self, kind: str, erase: bool, **numbers: Any) -> "DrawnMask":
        """With one more shape of a kind, its numbers as the method of that name takes them."""
        shape = checked_shape(kind, {name: _plain(value) for name, value in numbers.items()}, erase, self.shape)
        result = replace(self, shapes=(*self.shapes, shape), undone=())
        if "array" in self.__dict__:  # only the new shape need be drawn
            mask = self.array.copy()
            _draw(mask, shape)
            mask.flags.writeable = False
            result.__dict__["array"] = mask
        return result

    def undo(self) -> "DrawnMask":
        """Without the last step; the same where there is none."""
        return replace(self, shapes=self.shapes[:-1], undone=(*self.shapes[-1:], *self.undone))

    def redo(self) -> "DrawnMask":
        """With the step that was undone last; the same where none was."""
        return replace(self, shapes=(*self.shapes, *self.undone[:1]), undone=self.undone[1:])

    def __repr__(self) -> str:
        n = int(self.array.sum())
        by = f", by {self.drawn_by} at {self.drawn_at}" if self.drawn_by else ""
        size = f"{self.shape[0]} × {self.shape[1]} pixels"
        return f"<braggflow mask of {size}: {n:,} ignored, {len(self.shapes)} shapes{by}>"


def _draw(mask: NDArray[np.bool_], shape: Shape) -> None:
    where, pixels = shape.block((mask.shape[0], mask.shape[1]))
    if shape.erase:
        mask[where] &= ~pixels
    else:
        mask[where] |= pixels


def _plain(value: Any) -> Any:
    """Numbers, and lists of them, as JSON has them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
