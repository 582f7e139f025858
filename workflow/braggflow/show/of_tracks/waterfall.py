"""The peaks of a series by q, one frame above the other."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.geometry import Geometry, geometry_of
from braggflow.show.drawing import WIDTH, NotebookFigure, axes_at
from braggflow.show.series_axis import SeriesAxis, axis_of_series
from braggflow.show.shown_run import Shown, shown_run

#: Steps of q, and rows of frames, at most.
_STEPS, _ROWS = 600, 400
#: The picture's height, and room left of it and below, inches.
_HEIGHT, _LEFT, _BELOW = 4.6, 0.85, 0.6


def plot_waterfall(
    run: Shown,
    geometry: Geometry | dict[str, Any] | str | Path | None = None,
    *,
    of: Literal["intensity", "peaks"] = "intensity",
    axis: str | None = None,
) -> NotebookFigure:
    """Draw the peaks of a series against q, one frame above the other: how rings and reflections move.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.
    geometry : Geometry, mapping, str or pathlib.Path, optional
        Where the detector stands, as for `add_q`. Default: what the run knows.
    of : {"intensity", "peaks"}, default "intensity"
        What is summed in each step of q: the peaks' intensities (counts), or the peaks themselves.
    axis : str, optional
        The coordinate of the frames along the side, or ``"frame"``; by default omega, time, voltage or the like. One
        that turns back is left for the frames' numbers.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide; 600 steps of q, and a row for each frame (of more than 400 for several).

    Raises
    ------
    InputError
        Where there is no run, `of` is something else, the geometry is missing, incomplete or wrong, or the frames have
        no such coordinate.

    Examples
    --------
    >>> from braggflow.show import plot_waterfall
    >>> geometry = {"distance_mm": 200, "beam_centre_px": [32, -400], "pixel_size_um": [75, 75], "energy_kev": 17.4}
    >>> figure = plot_waterfall("runs/scan", geometry)
    >>> figure.axes[0].get_xlabel()
    'q (1/Å)'
    """
    if of not in ("intensity", "peaks"):
        raise InputError(f"of: {of!r} is not accepted; must be intensity or peaks")
    shown = shown_run(run, axis)
    against = shown.axis if shown.axis.ordered else axis_of_series(shown.table, "frame")
    table = shown.table
    q = geometry_of(table, geometry).q(table["y"].values, table["x"].values)
    figure = NotebookFigure(figsize=(WIDTH, _HEIGHT + _BELOW + 0.3))
    axes = axes_at(figure, _LEFT, _BELOW, WIDTH - _LEFT - 1.3, _HEIGHT, ylabel=0.55)
    edges, sides = _edges(q), _sides(against)
    weights = np.nan_to_num(table["intensity"].values) if of == "intensity" else None
    heights = np.histogram2d(against.of(table["peak_frame"].values), q, [sides, edges], weights=weights)[0]
    filled = heights[heights > 0]
    low, high = (float(np.percentile(filled, p)) for p in (1, 99.5)) if len(filled) else (0.1, 1.0)
    norm = LogNorm(low, max(high, 1.001 * low))
    mesh = axes.pcolormesh(edges, sides, np.where(heights > 0, heights, np.nan), cmap="viridis", norm=norm)
    mesh.set_rasterized(True)
    axes.set_facecolor("#f4f4f4")
    axes.set(xlabel="q (1/Å)", ylabel=against.label)
    axes.yaxis.set_major_locator(MaxNLocator(8, integer=against.whole))
    side = axes_at(figure, WIDTH - 1.15, _BELOW, 0.16, _HEIGHT)
    figure.colorbar(mesh, cax=side)
    side.set_title("counts" if of == "intensity" else "peaks", fontsize=9, y=1.0)
    side.tick_params(labelsize=9)
    return figure


def _edges(q: NDArray[np.float64]) -> NDArray[np.float64]:
    known = q[np.isfinite(q)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = 0.01 * (high - low) or 0.01
    return np.linspace(low - room, high + room, _STEPS + 1)


def _sides(axis: SeriesAxis) -> NDArray[np.float64]:
    """Where rows of frames end: half-way between values; of many frames each row is of several."""
    values = np.sort(axis.values)
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    middle = (values[1:] + values[:-1]) / 2
    sides = np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])
    step = -(-len(values) // _ROWS)
    return np.unique(np.append(sides[::step], sides[-1]))
