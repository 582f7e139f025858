"""The picture of two tables side by side."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from braggflow.show.colours import BLUE, GREEN, ORANGE, VERMILLION
from braggflow.show.drawing import WIDTH, NotebookFigure, axes_at

if TYPE_CHECKING:
    from braggflow.exchange import TableComparison

#: Height, inches; the side of the map and those of the panels beside it, the room to the left and below, that between.
_HEIGHT, _MAP, _ACROSS, _UP, _LEFT, _BOTTOM, _GAP = 6.4, 4.5, 1.85, 1.9, 0.8, 0.6, 0.85
_BINS = 40
#: Points that are drawn, of those that are many.
_POINTS = 20_000


def plot_comparison(found: "TableComparison") -> NotebookFigure:
    """Draw what `braggflow.compare` found: offsets, distances, their map over the detector, shares by intensity.

    Parameters
    ----------
    found : TableComparison
        What `braggflow.compare` returned.

    Returns
    -------
    matplotlib.figure.Figure
        The map and four panels beside it, 11 inches wide.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow import show
    >>> show.plot_comparison(braggflow.compare("runs/scan", "runs/scan")).savefig("compared.png")
    """
    figure = NotebookFigure(figsize=(WIDTH, _HEIGHT))
    numbers = found.figures
    head = f"{found.names[0]} and {found.names[1]}: {numbers['matched']:,} peaks in both"
    more = f"{numbers['extra']:,} only in the first, {numbers['missed']:,} only in the second"
    figure.text(_LEFT / WIDTH, 1 - 0.12 / _HEIGHT, head, fontsize=12, va="top")
    more = f"{more}; {numbers['frames']:,} frames; offsets: second less first"
    figure.text(_LEFT / WIDTH, 1 - 0.38 / _HEIGHT, more, fontsize=10, va="top")
    _map(axes_at(figure, _LEFT, _BOTTOM + 0.4, _MAP, _MAP, ylabel=0.55), found)
    for row, panels in enumerate(((_by_intensity, _histogram), (_offsets, _along))):
        for column, panel in enumerate(panels):
            left = _LEFT + _MAP + _GAP + column * (_ACROSS + _GAP)
            panel(axes_at(figure, left, _BOTTOM + row * (_UP + 1.0), _ACROSS, _UP), found)
    return figure


def _offsets(axes: Axes, found: "TableComparison") -> None:
    shown = found.offsets[:: max(1, len(found.offsets) // _POINTS)]
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.plot(shown[:, 1], shown[:, 0], ".", color=BLUE, markersize=2, alpha=0.4, rasterized=True)
    if len(shown):
        axes.plot(found.figures["offset_x"], found.figures["offset_y"], "+", color=VERMILLION, ms=12, mew=1.6)
    reach = max(1e-3, float(np.abs(shown).max(initial=0.0))) * 1.05
    axes.set(xlim=(-reach, reach), ylim=(reach, -reach), xlabel="offset x (pixel)", ylabel="offset y (pixel)")
    axes.set_title("offsets; + median", fontsize=10, y=1.0)


def _histogram(axes: Axes, found: "TableComparison") -> None:
    distance = found.peaks.distance
    top = max(1e-3, float(distance.max(initial=0.0)))
    axes.hist(distance, bins=np.linspace(0, top, _BINS + 1).tolist(), color=BLUE)
    if len(distance):
        median = found.figures["distance_median"]
        axes.axvline(median, color=VERMILLION, label=f"median {median:.3g}")
        axes.legend(fontsize=8, frameon=False)
    axes.set(xlabel="distance (pixel)", ylabel="peaks", xlim=(0, top))
    axes.set_title("distance", fontsize=10, y=1.0)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _along(axes: Axes, found: "TableComparison") -> None:
    reach = max(1e-3, float(np.abs(found.offsets).max(initial=0.0)))
    edges = np.linspace(-reach, reach, _BINS + 1).tolist()
    for axis, (name, colour) in enumerate((("y", ORANGE), ("x", GREEN))):
        axes.hist(found.offsets[:, axis], bins=edges, histtype="step", color=colour, linewidth=1.4, label=name)
    axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.legend(fontsize=8, frameon=False)
    axes.set(xlabel="offset (pixel)", ylabel="peaks", xlim=(-reach, reach))
    axes.set_title("offsets along y, x", fontsize=10, y=1.0)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _map(axes: Axes, found: "TableComparison") -> None:
    """Arrows of median offsets, and where peaks of one table only are."""
    for rows, colour, said in (
        (found.peaks.only_first, "0.7", "only in the first"),
        (found.peaks.only_second, VERMILLION, "only in the second"),
    ):
        step = max(1, rows.sizes["peak"] // _POINTS)
        y, x = rows["y"].values[::step], rows["x"].values[::step]
        axes.plot(x, y, ".", color=colour, markersize=2, alpha=0.5, label=said, rasterized=True)
    field = found.field
    x, y = np.meshgrid(field["x"].values, field["y"].values)
    length = np.hypot(field["offset_y"].values, field["offset_x"].values)
    title = "where"
    if np.isfinite(length).any():
        longest = float(np.nanmax(length))
        cell = float(np.diff(field["y"].values).mean()) if field.sizes["y"] > 1 else 1.0
        scale = max(longest, 1e-9) / (0.9 * cell)
        arrows = axes.quiver(
            x,
            y,
            field["offset_x"].values,
            field["offset_y"].values,
            angles="xy",
            scale_units="xy",
            scale=scale,
            color=BLUE,
            width=0.005,
            zorder=3,
        )
        axes.quiverkey(arrows, 0.8, -0.145, longest, f"{longest:.2g} px", labelpos="E", fontproperties={"size": 8})
        title = "median offsets by cell, and peaks of one table only"
    axes.set_title(title, fontsize=10, y=1.0, loc="left")
    axes.set(xlabel="x (pixel)", ylabel="y (pixel)")
    axes.set_aspect("equal", adjustable="box", anchor="NW")
    axes.invert_yaxis()
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.11), ncols=2, markerscale=4, frameon=False)


def _by_intensity(axes: Axes, found: "TableComparison") -> None:
    classes = found.by_intensity
    axes.set_title("share in both", fontsize=10, y=1.0)
    axes.set(ylabel="share", ylim=(0, 1.05), xlabel="intensity (count)")
    if not classes:
        axes.text(0.5, 0.5, "no intensities", ha="center", va="center", transform=axes.transAxes)
        return
    edges = [row["from"] for row in classes] + [classes[-1]["to"]]
    if min(edges) > 0 and max(edges) > 20 * min(edges):
        axes.set_xscale("log")
    axes.stairs([row["matched"] for row in classes], edges, color=BLUE, fill=True, alpha=0.3)
    axes.stairs([row["matched"] for row in classes], edges, color=BLUE, linewidth=1.4)
