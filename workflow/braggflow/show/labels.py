"""Labels beside points of a picture that lie over no other label, and over as few other points as can be."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from numpy.typing import NDArray

#: Distances of a label's centre from its point that are tried, nearest first, in points (1/72 inch).
_DISTANCES = (13.0, 16.0, 20.0, 25.0, 32.0, 42.0, 54.0, 70.0, 90.0, 120.0)
_DIRECTIONS = np.deg2rad(45 + np.arange(0, 360, 15))
#: Free room around a label, and half the width of a marker, in points.
_MARGIN, _MARKER = 1.0, 4.5
#: What a peak below a label, and a marker that only reaches below it, cost in points of distance.
_HIDDEN, _TOUCHED = 60.0, 8.0
_BOX: dict[str, Any] = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}


def place_labels(
    axes: Axes, points: NDArray[Any], texts: Sequence[str], *, markers: NDArray[Any], fontsize: float = 10
) -> list[Annotation]:
    """Write each text beside its point, without lying over another one.

    `points` (n, 2) and `markers` (m, 2), what labels should leave free, are (x, y) in the axes' data, whose limits and
    place are final. Of the places around a point the nearest is taken that covers no earlier label, lies within the
    axes, and hides no marker; where all hide some, the one that hides fewest. A line leads from each label to its
    point.
    """
    inch = axes.figure.dpi / 72
    renderer = FigureCanvasAgg(axes.figure.figure).get_renderer()  # type: ignore[no-untyped-call]
    at, obstacles = (axes.transData.transform(np.asarray(of, float).reshape(-1, 2)) / inch for of in (points, markers))
    frame = np.array(axes.bbox.extents) / inch
    taken = np.empty((0, 4))
    placed = []
    for (x, y), point, text in zip(points, at, texts, strict=True):
        label = axes.annotate(
            text,
            (float(x), float(y)),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=fontsize,
            fontweight="bold",
            bbox=_BOX,
            zorder=5,
        )
        half = np.array(label.get_window_extent(renderer).size) / inch / 2 + 0.1 * fontsize + _MARGIN
        offset, box = _free_place(point, half, taken, obstacles, frame)
        label.set_position(tuple(offset))
        axes.annotate(
            "",
            (float(x), float(y)),
            xytext=tuple(offset),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "linewidth": 0.9, "shrinkA": 5, "shrinkB": 0},
            zorder=4,
        )
        taken = np.vstack([taken, box])
        placed.append(label)
    return placed


def _free_place(
    point: NDArray[Any], half: NDArray[Any], taken: NDArray[Any], obstacles: NDArray[Any], frame: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The offset of the cheapest place for a label of `half` its size, and its box (left, bottom, right, top)."""
    distance, angle = (grid.ravel() for grid in np.meshgrid(_DISTANCES, _DIRECTIONS, indexing="ij"))
    offsets = distance[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    centres = point + offsets
    boxes = np.hstack([centres - half, centres + half])
    near = obstacles[(np.abs(obstacles - point) <= _DISTANCES[-1] + half + _MARKER).all(axis=1)]
    apart = np.abs(centres[:, None] - near[None])
    hidden, touched = (np.count_nonzero((apart < half + room).all(axis=2), axis=1) for room in (0.0, _MARKER))
    cost = distance + _HIDDEN * hidden + _TOUCHED * touched
    over = np.hstack([boxes[:, :2], -boxes[:, 2:]])[:, None] < np.hstack([taken[:, 2:], -taken[:, :2]])[None]
    outside = np.hstack([boxes[:, :2], -boxes[:, 2:]]) < np.hstack([frame[:2], -frame[2:]])
    cost += 1e6 * np.any(np.all(over, axis=2), axis=1) + 1e3 * np.any(outside, axis=1)
    best = int(np.argmin(cost))
    return offsets[best], boxes[best]
