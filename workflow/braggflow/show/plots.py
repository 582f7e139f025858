"""Pictures of frames and peaks: arrays and tables in, matplotlib figures out.

Frames are drawn as on the detector: `x (pixel)` to the right, `y (pixel)` downwards, pixel centres at whole numbers, in
pixels of the detector also where `bin` × `bin` of them were summed. Low counts are white, high ones black, ignored
pixels (NaN) pale blue. Markers are in the colours of Okabe & Ito (Color Universal Design, 2008), which colour-blind
eyes tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from braggflow.peak_table import Flag, Method
from braggflow.results import SearchedFrame
from braggflow.show.drawing import (
    BLUE,
    GREEN,
    METHOD_COLOURS,
    VERMILLION,
    WIDTH,
    draw_around,
    draw_frame,
    intensity_norm,
    mark,
)

#: Frames are drawn with at most this many pixels along their longer side.
FRAME_PIXELS = 700
#: A curve against frame number is drawn through at most this many points.
CURVE_POINTS = 400
#: White around thin coloured markers keeps them visible on dark pixels.
_HALO = (withStroke(linewidth=3, foreground="white"),)


def frame_pair(seen: SearchedFrame) -> Figure:
    """The raw frame beside what was searched in it: corrected, binned, and 0 below its floor."""
    figure = _frame_figure(seen, 0.37, extra=0.9)
    raw = seen.raw.astype(np.float32)
    # Ignored pixels are drawn in the raw frame, but do not set its scale.
    raw_norm = intensity_norm(np.where(seen.ignored, np.float32(np.nan), raw))
    kept = np.where(seen.searched < seen.floor, np.float32(0), seen.searched)
    left, right = figure.subplots(1, 2)
    draw_frame(left, raw, 1, raw_norm, longest=340)
    _scale_bar(figure, left, left.images[0], raw_norm)
    left.set_title("raw")
    norm = intensity_norm(kept)
    draw_frame(right, kept, seen.bin, norm, longest=340)
    _scale_bar(figure, right, right.images[0], norm)
    level = "above the noise" if seen.floor.ndim else f"at least {seen.floor:.4g} counts"
    right.set_title(f"searched: {level}")
    return figure


def detected(seen: SearchedFrame, table: xr.Dataset) -> Figure:
    """A searched frame with a circle around each detected maximum, its size by score (on a logarithmic scale).

    `table` holds the frame's peaks: `y_pixel`, `x_pixel`, `score` (0: no maximum, no circle).
    """
    table = table.isel(peak=table["score"].values > 0)
    figure = _frame_figure(seen, 0.75, extra=0.6)
    axes = figure.subplots()
    norm = intensity_norm(seen.searched)
    draw_frame(axes, seen.searched, seen.bin, norm, longest=FRAME_PIXELS)
    _scale_bar(figure, axes, axes.images[0], norm)
    score = table["score"].values
    if len(score):
        low, high = float(score.min()), float(score.max())
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": VERMILLION}
        axes.scatter(table["x_pixel"], table["y_pixel"], s=_areas(score, low, high), **ring)
        shown = np.unique([float(f"{value:.2g}") for value in np.geomspace(low, high, 4)])
        handles = [
            axes.scatter([], [], s=area, label=f"{value:g}", **ring)
            for value, area in zip(shown, _areas(shown, low, high), strict=True)
        ]
        _legend_above(axes, handles, title="score (counts)")
    return figure


def _areas(score: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    """Marker areas in points² for scores between `low` and `high`, all above 0."""
    if high <= low:
        return np.full(len(score), 100.0)
    return np.asarray(30 + 270 * np.clip(np.log(score / low) / np.log(high / low), 0, 1))


def located(seen: SearchedFrame, table: xr.Dataset, *, zoom: int = 6) -> Figure:
    """A searched frame with its located peaks, coloured by method, and up to six of them enlarged.

    `table` holds the frame's peaks. The enlarged ones are spread evenly over the peaks' SNR; they show `zoom` searched
    pixels on each side of the maximum, the maximum (square) and the located position with its standard uncertainty.
    """
    figure = _frame_figure(seen, 0.48, extra=1.0, least=6.4)
    left, right = figure.subfigures(1, 2, width_ratios=(0.57, 0.43), squeeze=False).ravel()
    axes = left.subplots()
    norm = intensity_norm(seen.searched)
    draw_frame(axes, seen.searched, seen.bin, norm, longest=500)
    method, flagged = table["method"].values, table["flags"].values != 0
    handles = []
    for value in Method:
        for where, marker, name in ((~flagged, "o", value.name), (flagged, "s", f"{value.name}, flagged")):
            chosen = table.isel(peak=np.flatnonzero((method == value) & where))
            if n := chosen.sizes["peak"]:
                ring: dict[str, Any] = {"facecolors": "none", "edgecolors": METHOD_COLOURS[value], "marker": marker}
                handles.append(axes.scatter(chosen["x"], chosen["y"], s=60, label=f"{name}: {n}", **ring))
    if not handles:
        return figure
    _legend_above(axes, handles)
    ranked = np.argsort(-table["snr"].values, kind="stable")
    examples = ranked[np.unique(np.linspace(0, len(ranked) - 1, 6).round().astype(int))]
    panels = right.subplots(3, 2, squeeze=False).ravel()
    for letter, panel, i in zip("abcdef", panels, examples, strict=False):
        peak = table.isel(peak=int(i))
        draw_around(panel, seen, peak, zoom, norm=norm)
        _mark_maximum(panel, peak)
        colour = METHOD_COLOURS[Method(int(peak["method"]))]
        mark(panel, peak["x"], peak["y"], "+", colour)
        panel.errorbar(
            float(peak["x"]), float(peak["y"]), xerr=float(peak["x_std"]), yerr=float(peak["y_std"]), color=colour
        )
        flags = " ".join(str(flag.name) for flag in Flag if int(peak["flags"]) & flag)
        panel.set_title("\n".join([f"{letter}: SNR {float(peak['snr']):.3g}", *wrap(flags, 24)]), fontsize=9)
        offset: dict[str, Any] = {"xytext": (7, 5), "textcoords": "offset points"}
        axes.annotate(letter, (float(peak["x"]), float(peak["y"])), fontweight="bold", path_effects=_HALO, **offset)
    for panel in panels[len(examples) :]:
        panel.remove()
    return figure


@dataclass(frozen=True, slots=True)
class Example:
    """One peak for the gallery."""

    title: str
    seen: SearchedFrame
    """The frame that it was found in."""
    peak: xr.Dataset
    """Its variables, without dimension."""


def patch_gallery(examples: Sequence[Example], *, size: int) -> Figure:
    """Patches of `size` searched pixels with maximum, network's and fit's positions; each on its own linear scale."""
    columns = 4
    rows = -(-len(examples) // columns)
    figure = Figure(figsize=(WIDTH, 3.45 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for example, axes in zip(examples, panels, strict=False):
        peak = example.peak
        draw_around(axes, example.seen, peak, size // 2, norm=None)
        _mark_maximum(axes, peak)
        mark(axes, peak["x_network"], peak["y_network"], "x", BLUE)
        mark(axes, peak["x_fit"], peak["y_fit"], "+", VERMILLION)
        lines = [example.title, f"frame {int(peak['peak_frame'])}, SNR {float(peak['snr']):.3g}"]
        if np.isfinite(peak["fwhm_major"]):
            lines.append(f"FWHM {float(peak['fwhm_major']):.2f} × {float(peak['fwhm_minor']):.2f} px")
        if np.isfinite(peak["disagreement"]):
            lines.append(f"network to fit {float(peak['disagreement']):.3f} px")
        axes.set_title("\n".join(lines), fontsize=9)
    for axes in panels[len(examples) :]:
        axes.remove()
    alone: dict[str, Any] = {"linestyle": "none", "markersize": 10, "markeredgewidth": 2}
    handles = [
        Line2D([], [], marker="x", color=BLUE, label="network", **alone),
        Line2D([], [], marker="+", color=VERMILLION, label="fit", **alone),
        Line2D([], [], marker="s", color=GREEN, label="maximum", fillstyle="none", **alone),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def peaks_per_frame(numbers: NDArray[Any], counts: NDArray[Any], failed: NDArray[np.bool_]) -> Figure:
    """Number of peaks (n,) against frame number (n,), ascending; frames that `failed` are marked below the axis.

    A long series is drawn in groups of consecutive frames: their median, and the range from lowest to highest.
    """
    figure, axes = _curve("peaks in the frame")
    good = np.flatnonzero(~failed)
    groups = [group for group in np.array_split(good, CURVE_POINTS) if len(group)]
    middle = [float(numbers[group].mean()) for group in groups]
    middle_counts = [float(np.median(counts[group])) for group in groups]
    axes.plot(middle, middle_counts, color=BLUE, linewidth=1.2, marker=_dot(groups), label="peaks")
    if len(good) > CURVE_POINTS:
        axes.lines[0].set_label(f"median of {len(groups[0])} frames")
        axes.fill_between(
            middle,
            [counts[group].min() for group in groups],
            [counts[group].max() for group in groups],
            color=BLUE,
            alpha=0.25,
            linewidth=0,
            label="lowest to highest",
        )
    axes.set_ylim(0, max(1.0, 1.08 * float(counts.max(initial=0))))
    if failed.any():
        axes.plot(
            numbers[failed],
            np.zeros(np.count_nonzero(failed)),
            linestyle="none",
            marker="x",
            color=VERMILLION,
            clip_on=False,
            label="failed frame",
        )
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.14), ncols=3)
    return figure


def error_against_frame(peak_frame: NDArray[Any], disagreement: NDArray[Any]) -> Figure:
    """Median, 75th and 95th percentile of the network–fit distance against frame number.

    `peak_frame` (n,) ascending, `disagreement` (n,) in pixels, none NaN. A long series is drawn in groups of
    consecutive frames.
    """
    figure, axes = _curve("network–fit distance (pixel)")
    frames, first = np.unique(peak_frame, return_index=True)
    together = -(-len(frames) // CURVE_POINTS)
    groups = np.split(disagreement, first[together::together])
    middle = [float(frames[i : i + together].mean()) for i in range(0, len(frames), together)]
    quantiles = np.array([np.percentile(group, (50, 75, 95)) for group in groups])
    for values, colour, line, name in zip(
        quantiles.T,
        (BLUE, GREEN, VERMILLION),
        ("-", "--", ":"),
        ("median", "75th percentile", "95th percentile"),
        strict=True,
    ):
        axes.plot(middle, values, color=colour, linestyle=line, linewidth=1.5, marker=_dot(groups), label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.14), ncols=3)
    if together > 1:
        axes.set_xlabel(f"frame number (each point: {together} frames)")
    return figure


def disagreement_histogram(disagreement: NDArray[Any]) -> Figure:
    """How often the network and the fit lie so far apart: (n,) in pixels, none NaN, on a logarithmic axis."""
    figure, axes = _curve("peaks")
    values = np.maximum(disagreement.astype(np.float64), 1e-4)
    axes.hist(values, np.geomspace(values.min() / 1.1, values.max() * 1.1, 60).tolist(), color="#9ecae1")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("network–fit distance (pixel)")
    for percent, colour, line in ((50, BLUE, "-"), (75, GREEN, "--"), (95, VERMILLION, ":")):
        value = float(np.percentile(values, percent))
        name = "median" if percent == 50 else f"{percent}th percentile"
        axes.axvline(value, color=colour, linestyle=line, linewidth=2, label=f"{name}: {value:.3f} px")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.14), ncols=3)
    return figure


def widths_and_snr(fwhm_major: NDArray[Any], fwhm_minor: NDArray[Any], snr: NDArray[Any]) -> Figure:
    """Distributions of the fitted widths (pixels, NaN left out) and of SNR, each (n,)."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    fitted = np.isfinite(fwhm_major)
    if fitted.any():
        edges = np.linspace(0, 1.05 * float(np.percentile(fwhm_major[fitted], 99.5)), 60)
        for values, colour, name in ((fwhm_minor, BLUE, "short axis"), (fwhm_major, VERMILLION, "long axis")):
            left.hist(values[fitted], edges.tolist(), histtype="step", color=colour, linewidth=1.5, label=name)
        left.legend(frameon=False)
    left.set(xlabel="full width at half maximum (pixel)", ylabel="peaks")
    positive = snr[snr > 0]
    if len(positive):
        right.hist(positive, np.geomspace(positive.min() / 1.1, positive.max() * 1.1, 60).tolist(), color="#9ecae1")
        right.set_xscale("log")
        right.xaxis.set_major_formatter("{x:g}")
    right.set(xlabel="SNR", ylabel="peaks")
    return figure


def count_bars(removed: Mapping[str, int], flagged: Mapping[str, int]) -> Figure:
    """How many peaks each filter removed and how many carry each flag."""
    figure = Figure(figsize=(WIDTH, 0.8 + 0.34 * max(len(removed), len(flagged), 2)), layout="constrained")
    for axes, counts, title in zip(
        figure.subplots(1, 2), (removed, flagged), ("removed by filter", "kept, with flag"), strict=True
    ):
        bars = axes.barh(list(counts), list(counts.values()), color="#9ecae1")
        axes.bar_label(bars, [f"{count:,}" for count in counts.values()], padding=4)
        axes.set_ylim(max(len(removed), len(flagged)) - 0.5, -0.5)
        axes.set_xlim(0, 1.25 * max([1, *counts.values()]))
        axes.set(title=title, xlabel="peaks")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _frame_figure(seen: SearchedFrame, share: float, *, extra: float, least: float = 3.0) -> Figure:
    """A figure in which a frame takes `share` of the width, with `extra` inches of height for titles."""
    height = share * WIDTH * seen.searched.shape[0] / seen.searched.shape[1] + extra
    return Figure(figsize=(WIDTH, min(max(height, least), 10.0)), layout="constrained")


def _curve(ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="frame number", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _dot(points: Sequence[Any]) -> str:
    """A marker that shows lone points, which lines do not."""
    return "o" if len(points) <= 30 else ""


def _scale_bar(figure: Figure, axes: Axes, drawn: AxesImage, norm: FuncNorm) -> None:
    ticks = np.unique([float(f"{counts:.2g}") for counts in np.asarray(norm.inverse(np.linspace(0.02, 0.98, 5)))])
    figure.colorbar(drawn, ax=axes, label="counts", ticks=ticks, format="{x:g}", fraction=0.05, pad=0.02, extend="both")


def _legend_above(axes: Axes, handles: Sequence[Any], title: str | None = None) -> None:
    axes.legend(
        handles=handles,
        title=title,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=3 if title is None else 4,
        frameon=False,
        fontsize=9,
    )


def _mark_maximum(axes: Axes, peak: xr.Dataset) -> None:
    place = [int(peak["x_pixel"])], [int(peak["y_pixel"])]
    axes.scatter(*place, s=120, marker="s", facecolors="none", edgecolors=GREEN)
