"""Enlarged peaks side by side: small squares of a frame, each with its own words and marks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from braggflow.results import SearchedFrame
from braggflow.show.drawing import GREEN, Image, add_image, axes_at

#: Free room beside and below a panel, and for each line of words above it, inches.
GAP, LINE = 0.22, 0.17


@dataclass(frozen=True, slots=True)
class Mark:
    """A position drawn in a panel, in pixels of the detector; one that is NaN or lies outside is not drawn."""

    y: float
    x: float
    marker: str
    colour: str
    y_std: float = np.nan
    """Standard uncertainty; NaN where it is unknown."""
    x_std: float = np.nan


@dataclass(frozen=True, slots=True)
class Panel:
    """One enlarged peak."""

    lines: Sequence[str]
    """Words above it."""
    seen: SearchedFrame
    """The frame that it was found in."""
    peak: xr.Dataset
    """Its variables, without dimension."""
    marks: Sequence[Mark] = ()


def around(seen: SearchedFrame, peak: xr.Dataset, half: int) -> tuple[Image, tuple[float, float, float, float]]:
    """The square of `half` searched pixels on each side of a peak's maximum, NaN beyond the frame, and its extent.

    `peak` holds `y_pixel` and `x_pixel` without dimension; the extent (left, right, bottom, top) is in detector pixels.
    """
    row, column = (int(peak[name]) // seen.bin for name in ("y_pixel", "x_pixel"))
    side = 2 * half + 1
    window = np.full((side, side), np.nan, np.float32)
    top, left = row - half, column - half
    inside = seen.searched[max(0, top) : top + side, max(0, left) : left + side]
    window[max(0, -top) :, max(0, -left) :][: inside.shape[0], : inside.shape[1]] = inside
    upper, outer = (start * seen.bin - 0.5 for start in (top, left))
    return window, (outer, outer + side * seen.bin, upper + side * seen.bin, upper)


def panels_height(n_rows: int, side: float, lines: int) -> float:
    """Inches that rows of panels of a `side` take, with so many lines of words above each."""
    return n_rows * (side + GAP + lines * LINE)


def draw_panels(
    figure: Figure,
    panels: Sequence[Panel],
    *,
    left: float,
    top: float,
    side: float,
    columns: int,
    half: int,
    norm: Normalize | None = None,
    lines: int = 1,
    maxima: bool = False,
) -> Axes:
    """Draw panels in rows of `columns`, downwards from a corner (`left`, `top`), all in inches.

    A panel shows `half` searched pixels on each side of its peak's maximum; without a `norm` from white at its lowest
    pixel to black at the maximum, so that a brighter neighbour does not set the scale. All lie in one axes, in inches
    from its upper left corner: many axes would take most of the time of a report. With `maxima` the pixel of the
    maximum is framed.
    """
    rows = -(-len(panels) // columns)
    pitch = side + GAP, side + GAP + lines * LINE
    width, height = columns * pitch[0], rows * pitch[1]
    axes = axes_at(figure, left, top - height, width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    borders, bars = [], []
    for i, panel in enumerate(panels):
        x, y = i % columns * pitch[0], i // columns * pitch[1] + lines * LINE
        window, (outer, right, bottom, upper) = around(panel.seen, panel.peak, half)
        scale = side / (right - outer)
        own = _own_norm(window, half) if norm is None else norm
        add_image(axes, window, (x, x + side, y + side, y), own)
        borders.append(_square(x, y, side))
        words = "\n".join(panel.lines)
        axes.text(x + side / 2, y - 0.05, words, ha="center", va="bottom", fontsize=9, linespacing=1.15)
        if maxima:
            pixel = side / (2 * half + 1)
            bars.append((_square(x + half * pixel, y + half * pixel, pixel), GREEN))
        for mark in panel.marks:
            if outer <= mark.x <= right and upper <= mark.y <= bottom:
                at = np.array([x + (mark.x - outer) * scale, y + (mark.y - upper) * scale])
                for thick, colour in ((3.0, "white"), (1.5, mark.colour)):
                    axes.scatter(at[0], at[1], s=90, marker=mark.marker, color=colour, linewidths=thick)
                for std, direction in ((mark.x_std, (1, 0)), (mark.y_std, (0, 1))):
                    if np.isfinite(std):
                        reach = np.multiply(direction, min(std * scale, side))
                        bars.append(([tuple(at - reach), tuple(at + reach)], mark.colour))
    axes.add_collection(LineCollection(borders, colors="black", linewidths=0.8, clip_on=False))
    if bars:
        drawn, colours = zip(*bars, strict=True)
        axes.add_collection(LineCollection(drawn, colors=colours, linewidths=1.5))
    return axes


def _own_norm(window: Image, half: int) -> Normalize:
    finite = window[np.isfinite(window)]
    low = float(finite.min()) if finite.size else 0.0
    high = float(window[half, half])
    return Normalize(low, high if high > low else low + 1)


def _square(x: float, y: float, side: float) -> list[tuple[float, float]]:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)]
