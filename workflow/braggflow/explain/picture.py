"""The picture of an explanation: patch, model and residual, cuts, the frames before and after."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.ticker import MaxNLocator

from braggflow.explain.findings import Findings, Image
from braggflow.patches import State
from braggflow.show import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, WIDTH, NotebookFigure, add_image, axes_at

#: Side of a panel, inches, and the room to its left, below it and above it; above all of them, and below.
_SIDE, _LEFT, _BOTTOM, _TOP, _HEAD, _FOOT = 1.95, 0.72, 0.5, 0.3, 0.4, 0.6
#: Residuals beyond so many standard deviations have the darkest colours.
_RESIDUAL = 5.0
#: Residuals from this on are written, standard deviations.
_TOLD = 2.5
_STATES = {
    State.OTHER: (ORANGE, "nearer to a neighbour"),
    State.FULL: (PURPLE, "saturated"),
    State.MISSING: (BLACK, "missing"),
}


def explanation_figure(why: Findings) -> NotebookFigure:
    """Draw an explanation: 11 inches wide, two rows of panels."""
    pitch = _SIDE + _BOTTOM + _TOP
    figure = NotebookFigure(figsize=(WIDTH, _HEAD + 2 * pitch + _FOOT))

    def panel(row: int, column: int, title: str) -> Axes:
        left, bottom = _LEFT + column * WIDTH / 4, _FOOT + (1 - row) * pitch + _BOTTOM
        axes = axes_at(figure, left, bottom, _SIDE, _SIDE)
        axes.set_title(title, fontsize=10, y=1.0)
        return axes

    y, x = why.place
    what = {"peak": "peak", "maximum": "maximum, but no peak", "masked": "ignored pixel"}.get(why.kind, why.kind)
    head = f"{Path(why.source).name}, frame {why.frame}: {what} at ({y:.2f}, {x:.2f})"
    figure.text(_LEFT / WIDTH, 1 - 0.12 / figure.get_size_inches()[1], head, fontsize=12, va="top")
    norm = _norm(why)
    axes = panel(0, 0, "counts")
    _draw(axes, why, why.patch, norm)
    _mark(axes, why)
    row = 0
    if why.model is not None and why.residual is not None:
        row = 1
        _draw(panel(0, 1, "model"), why, why.model, norm)
        _residual(panel(0, 2, "residual, standard deviations"), why, why.residual)
    if positions := _positions(why):
        axes = panel(0, 3 if row else 1, "positions, enlarged")
        _enlarged(axes, why, positions)
    first = 2 if positions else 1
    for column, image, title in ((first, why.before, "frame before"), (first + 1, why.after, "frame after")):
        axes = panel(row, column, title)
        if image is None:
            axes.text(0.5, 0.5, "there is none", ha="center", va="center", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
        else:
            _draw(axes, why, image, norm)
            axes.plot(x, y, "+", color=VERMILLION, markersize=10, markeredgewidth=1.2)
    for column, along in enumerate("yx"):
        _cut(panel(1, column, f"cut along {along}"), why, along, norm)
    _legend(figure, why)
    return figure


def _norm(why: Findings) -> Normalize:
    shown = why.patch[np.isfinite(why.patch)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    low = min(low, why.level)
    return Normalize(low, max(high, low + 6 * why.deviation, low + 1))


def _draw(axes: Axes, why: Findings, image: Image, norm: Normalize) -> None:
    left, right, bottom, top = why.extent
    add_image(axes, image, why.extent, norm)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="x (pixel)", ylabel="y (pixel)")
    _ticks(axes)


def _ticks(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))


def _mark(axes: Axes, why: Findings) -> None:
    """States of pixels, the maximum, and the positions with their error ellipses."""
    scale = why.bin
    if why.state is not None:
        for state, (colour, _) in _STATES.items():
            for j, i in np.argwhere(why.state == state):
                corner = (why.corner[1] + (i - 0.5) * scale + 0.08, why.corner[0] + (j - 0.5) * scale + 0.08)
                axes.add_patch(
                    Rectangle(
                        corner, scale - 0.16, scale - 0.16, fill=False, edgecolor=colour, linewidth=0.9, alpha=0.8
                    )
                )
    if why.maximum is not None:
        my, mx = why.maximum.place
        axes.add_patch(
            Rectangle((mx - scale / 2, my - scale / 2), scale, scale, fill=False, edgecolor=GREEN, linewidth=1.6)
        )
        for place, marker in ((why.maximum.saddle, "x"), (why.maximum.into, "^")):
            if place is not None and _inside(why, place):
                axes.plot(place[1], place[0], marker, color=GREEN, markersize=7, markeredgewidth=1.4)
    for y, x, _, _, marker, colour in _positions(why):
        if _inside(why, (y, x)):
            axes.plot(x, y, marker, color="white", markersize=8, markeredgewidth=3)
            axes.plot(x, y, marker, color=colour, markersize=7, markeredgewidth=1.4)
    if why.kind != "peak":
        axes.plot(why.asked[1], why.asked[0], "+", color=VERMILLION, markersize=10, markeredgewidth=1.2)


def _positions(why: Findings) -> list[tuple[float, float, float, float, str, str]]:
    """Positions of network and fit with their uncertainties, marker and colour."""
    row = why.row
    if not row:
        return []
    found = []
    for of, marker, colour in (("_network", "x", BLUE), ("_fit", "+", VERMILLION)):
        if np.isfinite(row[f"y{of}"]):
            std = why.network_std if of == "_network" else (row["y_fit_std"], row["x_fit_std"])
            found.append((row[f"y{of}"], row[f"x{of}"], *std, marker, colour))
    if not found:
        found.append((row["y"], row["x"], row["y_std"], row["x_std"], "+", GREEN))
    return found


def _enlarged(axes: Axes, why: Findings, positions: list[tuple[float, float, float, float, str, str]]) -> None:
    """The positions alone, so near that their error ellipses are seen."""
    y, x = why.place
    away = [
        max(abs(p[0] - y) + 1.5 * np.nan_to_num(p[2]), abs(p[1] - x) + 1.5 * np.nan_to_num(p[3])) for p in positions
    ]
    half = max(*away, 0.02)
    axes.set(xlim=(x - half, x + half), ylim=(y + half, y - half), xlabel="x (pixel)")  # beside y its numbers are long
    axes.xaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.ticklabel_format(useOffset=False)
    for row, column, y_std, x_std, marker, colour in positions:
        axes.plot(column, row, marker, color=colour, markersize=9, markeredgewidth=1.4)
        if np.isfinite(y_std) and np.isfinite(x_std):
            ellipse = Ellipse((column, row), 2 * x_std, 2 * y_std, fill=False, edgecolor=colour, linewidth=1.4)
            axes.add_patch(ellipse)


def _inside(why: Findings, place: tuple[float, float]) -> bool:
    left, right, bottom, top = why.extent
    return top <= place[0] <= bottom and left <= place[1] <= right


def _residual(axes: Axes, why: Findings, residual: Image) -> None:
    left, right, bottom, top = why.extent
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#d9d9d9")
    axes.imshow(residual, cmap=colours, vmin=-_RESIDUAL, vmax=_RESIDUAL, extent=why.extent, interpolation="nearest")
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="x (pixel)", ylabel="y (pixel)")
    _ticks(axes)
    for j, i in np.argwhere(np.abs(residual) >= _TOLD):
        at = why.corner[1] + i * why.bin, why.corner[0] + j * why.bin
        colour = "white" if abs(residual[j, i]) > 0.6 * _RESIDUAL else "black"
        axes.text(*at, f"{residual[j, i]:.0f}", ha="center", va="center", fontsize=6, color=colour)


def _cut(axes: Axes, why: Findings, along: str, norm: Normalize) -> None:
    at, counts, model = why.cuts[along]
    axes.step(at, counts, where="mid", color="black", linewidth=1.2)
    axes.axhline(why.level, color=BLUE, linewidth=1.0, linestyle=":")
    if model is not None:
        axes.plot(at, model, "o-", color=VERMILLION, linewidth=1.0, markersize=3)
    axes.axvline(why.place[0 if along == "y" else 1], color=GREEN, linewidth=0.9)
    low, top = norm.vmin or 0.0, max(norm.vmax or 1.0, 0.0 if model is None else float(model.max()))
    room, half = 0.06 * (top - low), why.bin / 2
    low = 0.0 if 0 <= low < 5 * room else low - room  # from 0 where that is not far
    axes.set(xlabel=f"{along} (pixel)", ylabel="counts", xlim=(at[0] - half, at[-1] + half), ylim=(low, top + room))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)  # longer ones hide the label
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _legend(figure: NotebookFigure, why: Findings) -> None:
    alone: dict[str, Any] = {"linestyle": "none", "markersize": 8, "markeredgewidth": 1.6}
    handles = []
    if why.maximum is not None:
        handles.append(Line2D([], [], marker="s", color=GREEN, label="maximum", fillstyle="none", **alone))
        if why.maximum.saddle is not None and _inside(why, why.maximum.saddle):
            handles.append(Line2D([], [], marker="x", color=GREEN, label="saddle, where it merges", **alone))
        if why.maximum.into is not None and _inside(why, why.maximum.into):
            handles.append(Line2D([], [], marker="^", color=GREEN, label="higher maximum it merges into", **alone))
    row = why.row
    if row and np.isfinite(row["y_network"]):
        handles.append(Line2D([], [], marker="x", color=BLUE, label="network, 1 sigma", **alone))
    if row and np.isfinite(row["y_fit"]):
        handles.append(Line2D([], [], marker="+", color=VERMILLION, label="fit, 1 sigma", **alone))
    if why.state is not None:
        for state, (colour, words) in _STATES.items():
            if (why.state == state).any():
                handles.append(Line2D([], [], marker="s", color=colour, label=words, fillstyle="none", **alone))
    if not row:
        handles.append(Line2D([], [], marker="+", color=VERMILLION, label="place asked for", **alone))
    handles += [
        Line2D([], [], color="black", linewidth=1.2, label="counts"),
        *([] if why.model is None else [Line2D([], [], marker="o", markersize=3, color=VERMILLION, label="model")]),
        Line2D([], [], color=BLUE, linestyle=":", label="local background"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=5, frameon=False, fontsize=9, borderaxespad=0.3)
