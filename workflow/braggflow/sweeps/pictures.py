"""Pictures of a sweep: the map with its plateau, and settings against the number of the frame."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from braggflow.show import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, WIDTH
from braggflow.sweeps.levels import NAMES, Level, Levels, shown

#: Where a setting stands in the map.
Place: TypeAlias = tuple[int, ...]
#: Of more levels of `false_peaks` those around the recommended one have a panel of the map.
_PANELS = 5
#: A curve is drawn through at most this many points, each the median of consecutive frames.
_POINTS = 400
_WORDS = {"minval": "minval", "minscore": "minscore", "false_peaks": "false_peaks, a megapixel"}


def map_figure(
    found: xr.Dataset, levels: Levels, *, recommended: Place | None, own: Place | None, title: str
) -> Figure:
    """The number of peaks over all levels, and three measures along each level through the recommended setting.

    `found` is the map of a sweep; `own` is where the configuration's setting stands in it.
    """
    shape, place = levels.shape, recommended or (0, 0, 0)
    varied = [axis for axis in range(3) if shape[axis] > 1] or [2]
    panels = _panels(shape[2], place[2]) if max(shape[:2]) > 1 else []
    heights = [0.5 + 0.32 * max(shape[0], 4)] * bool(panels) + [6.0]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    figure.suptitle(title, fontsize=11)
    if panels:
        _draw_map(found["peaks_median"].values, levels, recommended, parts[0], panels)
    axes = parts[-1].subplots(3, len(varied), squeeze=False, sharex="col", sharey="row")
    for column, axis in zip(axes.T, varied, strict=True):
        _draw_along(found, column, axis, place)
        names = getattr(levels, NAMES[axis])
        _ticks(column[2].set_xticks, names, null="null" if axis == 2 else "none", rotation=45 * (len(names) > 8))
        column[2].set_xlabel(_WORDS[NAMES[axis]])
        _mark(column, axis, recommended, own)
    for row, name in zip(axes[:, 0], ("peaks a frame", "persist, %", "network–fit distance, px"), strict=True):
        row.set_ylabel(name)
        row.legend(frameon=False, fontsize=8)
    _limits(axes[0, 0], axes[1, 0])
    if np.isfinite(found["distance_median"].values[place]):  # no logarithms of nothing
        axes[2, 0].set_yscale("log")
        axes[2, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[2, 0].yaxis.set_major_formatter("{x:g}")
        axes[2, 0].yaxis.set_minor_locator(NullLocator())
    return figure


def _limits(peaks: Axes, persisting: Axes) -> None:
    """From 0 on, of all curves that are drawn."""
    peaks.autoscale()
    peaks.set_ylim(0, 1.05 * peaks.get_ylim()[1])
    persisting.set_ylim(0, 105)


def _panels(n: int, recommended: int) -> list[int]:
    first = int(np.clip(recommended - _PANELS // 2, 0, max(0, n - _PANELS)))
    return list(range(first, min(n, first + _PANELS)))


def _draw_map(peaks: NDArray[Any], levels: Levels, recommended: Place | None, part: Any, panels: Sequence[int]) -> None:
    """The median number of peaks by `minval` and `minscore`, a panel for each `false_peaks`."""
    high = max(1.0, float(np.nanmax(peaks, initial=1.0)))
    above = peaks[peaks > 0]
    norm = LogNorm(min(float(above.min()) if above.size else 1.0, high / 1.01), high)
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="white", under="white")
    all_axes = part.subplots(1, max(3, len(panels)), squeeze=False, sharey=True)[0]
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    for axes, k in zip(all_axes, panels, strict=False):
        axes.imshow(peaks[:, :, k], cmap=colours, norm=norm, aspect="auto")
        for i, j in np.ndindex(*peaks.shape[:2]):
            if np.isfinite(value := peaks[i, j, k]):
                colour = "black" if value <= 0 or norm(value) > 0.55 else "white"
                axes.text(j, i, f"{value:.4g}", ha="center", va="center", fontsize=8, color=colour)
        if recommended is not None and recommended[2] == k:
            i, j = recommended[:2]
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=VERMILLION, linewidth=3))
        _ticks(axes.set_xticks, levels.minscore, rotation=90)
        _ticks(axes.set_yticks, levels.minval)
        axes.set_title(f"false_peaks {shown(levels.false_peaks[k]).replace('–', 'null')}", fontsize=10)
        axes.set_xlabel("minscore")
    all_axes[0].set_ylabel("minval")


def _ticks(set_ticks: Any, levels: Sequence[Level], *, null: str = "none", **style: Any) -> None:
    names = [null if level is None else shown(level).replace(" sigma", "σ") for level in levels]
    set_ticks(range(len(levels)), names, fontsize=8, **style)


def _draw_along(found: xr.Dataset, column: NDArray[Any], axis: int, place: Sequence[int]) -> None:
    """Peaks, persistence and distance along one level, the others as they are recommended."""
    line: list[Any] = list(place)
    line[axis] = slice(None)
    values = {name: of.values[tuple(line)] for name, of in found.data_vars.items() if "frame" not in of.dims}
    x = np.arange(found.sizes[NAMES[axis]])
    peaks, persisting, distance = column
    peaks.fill_between(x, values["peaks_low"], values["peaks_high"], color=BLUE, alpha=0.2, linewidth=0, label="5–95 %")
    peaks.plot(x, values["peaks_median"], color=BLUE, marker="o", markersize=4, label="median")
    persisting.plot(x, 100 * values["persistence"], color=GREEN, marker="o", markersize=4, label="less chance")
    for name, style, label in (("distance_median", "-", "median"), ("distance_95", ":", "95th percentile")):
        distance.plot(x, values[name], color=PURPLE, linestyle=style, marker="o", markersize=4, label=label)
    for axes in column:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(-0.4, len(x) - 0.6)


def _mark(column: NDArray[Any], axis: int, recommended: Place | None, own: Place | None) -> None:
    """Lines at the recommended level and at the configuration's own, named in the uppermost axes."""
    for axes in column:
        for place, colour, line, name in (
            (own if own != recommended else None, "#888888", ":", "as configured"),
            (recommended, VERMILLION, "--", "recommended"),
        ):
            if place is not None:
                label = name if axes is column[0] else ""
                axes.axvline(place[axis], color=colour, linestyle=line, linewidth=1.5, zorder=0, label=label)


def settings_figure(found: xr.Dataset, places: Mapping[Place, str]) -> Figure:
    """Peaks, persistence and distance of each frame against its number, a curve for each setting, by its name."""
    figure = Figure(figsize=(WIDTH, 7.0 + 0.22 * len(places)), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    numbers = found["frame"].values
    for k, (place, words) in enumerate(places.items()):
        failed = found["frame_failed"].values[place] == 1
        style = _style(k)
        for panel, (name, factor) in zip(
            axes, (("peak_count", 1), ("persistence_of_frame", 100), ("distance_of_frame", 1)), strict=True
        ):
            values = np.where(failed, np.nan, factor * found[name].values[place].astype(float))
            x, y = _thinned(numbers[np.isfinite(values)], values[np.isfinite(values)])
            panel.plot(x, y, **(style if len(x) <= 60 else {**style, "marker": ""}), label=words)
    for panel, name in zip(axes, ("peaks in the frame", "persist, %", "median distance, px"), strict=True):
        panel.set_ylabel(name)
        panel.set_ylim(0, 1.08 * panel.get_ylim()[1])
        panel.spines[["top", "right"]].set_visible(False)
    axes[1].set_ylim(0, 105)
    axes[2].set_xlabel("frame number")
    axes[2].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", frameon=False, fontsize=9)
    return figure


def _style(k: int) -> dict[str, Any]:
    """Of the k-th curve, told apart by colour, line and marker."""
    colours = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK)
    lines = ("-", "--", "-.", ":", "-", "--")
    of, markers = k % len(colours), ("o", "s", "^", "D", "v", "x")
    # The first are larger: where curves coincide, all of them are seen.
    size = {"markersize": 9 - of, "markerfacecolor": "none", "linewidth": 2.4 - 0.3 * of}
    return {"color": colours[of], "linestyle": lines[of], "marker": markers[of], **size}


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A curve through medians of consecutive frames, where there are too many to be drawn."""
    size = max(1, -(-len(x) // _POINTS))
    groups = [np.s_[first : first + size] for first in range(0, len(x), size)]
    return np.array([x[group].mean() for group in groups]), np.array([np.median(y[group]) for group in groups])
