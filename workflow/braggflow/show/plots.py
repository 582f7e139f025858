"""Curves and distributions of a whole series: arrays in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.geometry import Phases, Rings, rings_of
from braggflow.show.colours import BLACK, BLUE, GREEN, ORANGE, VERMILLION
from braggflow.show.drawing import WIDTH, NotebookFigure, axes_at
from braggflow.show.series_axis import SeriesAxis

#: A curve through a series is drawn through at most this many points.
CURVE_POINTS = 400
#: Room around a curve, inches: left, bottom, right, top.
_ROOM = 0.85, 0.6, 0.25, 0.6
_PALE = "#9ecae1"
#: A row of reflections above a picture, and the room that the name of one takes along it, inches.
_RING_NAMES, _RING_LINE = 0.42, 0.11


def peaks_per_frame(
    axis: SeriesAxis, counts: NDArray[Any], failed: NDArray[np.bool_], strips: Sequence[SeriesAxis] = ()
) -> NotebookFigure:
    """Number of peaks (n,) against the series' axis; frames that `failed` are marked below the curve.

    A long series is drawn in groups of consecutive frames: their median, and the range from lowest to highest. Against
    values that turn back, as a voltage does, the curve is a path in the order of frames. `strips` are drawn below, each
    against the same axis.
    """
    figure, axes = _curve(axis, "peaks in the frame", strips=len(strips))
    good = np.flatnonzero(~failed & np.isfinite(axis.values))
    size = max(1, -(-len(good) // CURVE_POINTS))
    groups = [good[first : first + size] for first in range(0, len(good), size)]
    middle = np.array([axis.values[group].mean() for group in groups])
    middle_counts = np.array([np.median(counts[group]) for group in groups])
    name = f"median of {size} frames" if size > 1 else "peaks"
    if axis.ordered:
        axes.plot(middle, middle_counts, color=BLUE, linewidth=1.2, marker=_dot(groups), label=name)
        if len(good) > CURVE_POINTS:
            low, high = ([find(counts[group]) for group in groups] for find in (np.min, np.max))
            axes.fill_between(middle, low, high, color=BLUE, alpha=0.25, linewidth=0, label="lowest to highest")
    else:
        _path(axes, axis, middle, middle_counts)
    axes.set_ylim(0, max(1.0, 1.08 * float(counts.max(initial=0))))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    lost = failed & np.isfinite(axis.values)
    if lost.any():
        cross: dict[str, Any] = {"linestyle": "none", "marker": "x", "color": VERMILLION, "clip_on": False}
        axes.plot(axis.values[lost], np.zeros(np.count_nonzero(lost)), label="failed frame", **cross)
    numbered = not axis.whole and axis.ordered and len(axis.values) > 1
    if len(axes.get_legend_handles_labels()[0]) > 1:
        _legend(axes, above=0.26 if numbered else 0.06)
    if numbered:
        _frame_numbers(axes, axis)
    for i, strip in enumerate(strips):
        below = axes_at(
            figure, _ROOM[0], 0.55 + 1.05 * (len(strips) - 1 - i), WIDTH - _ROOM[0] - _ROOM[2], 0.85, ylabel=0.42
        )
        step = -(-len(axis.values) // CURVE_POINTS)
        below.plot(axis.values[::step], strip.values[::step], color=ORANGE, linewidth=1.2)
        below.set(xlim=axes.get_xlim())
        below.set_ylabel(strip.label.replace(" (", "\n("), fontsize=9)
        below.yaxis.set_major_locator(MaxNLocator(3))
        below.spines[["top", "right"]].set_visible(False)
        last = i == len(strips) - 1
        below.tick_params(labelbottom=last)
        if last:
            below.set_xlabel(axis.label)
    if strips:
        axes.set_xlabel("")
        axes.tick_params(labelbottom=False)
    return figure


def _path(axes: Axes, axis: SeriesAxis, x: NDArray[Any], y: NDArray[Any]) -> None:
    """A curve in the order of frames, in one colour where the values rise and in another where they fall."""
    rising = np.gradient(x) >= 0 if len(x) > 1 else np.ones(len(x), bool)
    for where, colour, name in ((rising, BLUE, "rising"), (~rising, VERMILLION, "falling")):
        shown = where | np.roll(where, 1)  # up to the first point of the other branch, so that no gap is left
        shown[0] = where[0]
        label = f"{axis.name} {name}"
        axes.plot(x, np.where(shown, y, np.nan), color=colour, linewidth=1.2, marker=_dot(x), markersize=4, label=label)


def _frame_numbers(axes: Axes, axis: SeriesAxis) -> None:
    """The numbers of frames along the upper border."""
    upper = axes.twiny()
    ticks = MaxNLocator(8, integer=True).tick_values(float(axis.numbers[0]), float(axis.numbers[-1]))
    ticks = ticks[(ticks >= axis.numbers[0]) & (ticks <= axis.numbers[-1])]
    upper.set_xlim(axes.get_xlim())
    upper.set_xticks(np.interp(ticks, axis.numbers, axis.values), [f"{tick:.0f}" for tick in ticks])
    upper.tick_params(length=3, labelsize=8, colors="#666666", pad=2)
    upper.set_title("frame number", fontsize=8, color="#666666", loc="right", pad=16)
    upper.spines[["top", "right"]].set_visible(False)


def error_against_frame(axis: SeriesAxis, peak_frame: NDArray[Any], disagreement: NDArray[Any]) -> NotebookFigure:
    """Median, 75th and 95th percentile of the network–fit distance against the series' axis.

    `peak_frame` (n,) ascending, `disagreement` (n,) in pixels, none NaN. A long series is drawn in groups of
    consecutive frames.
    """
    figure, axes = _curve(axis, "network–fit distance (pixel)")
    frames, first = np.unique(peak_frame, return_index=True)
    together = -(-len(frames) // CURVE_POINTS)
    groups = np.split(disagreement, first[together::together])
    values = axis.of(frames)
    middle = [float(values[i : i + together].mean()) for i in range(0, len(frames), together)]
    quantiles = np.array([np.percentile(group, (50, 75, 95)) for group in groups])
    lines = ((BLUE, "-", "median"), (GREEN, "--", "75th percentile"), (VERMILLION, ":", "95th percentile"))
    for of, (colour, line, name) in zip(quantiles.T, lines, strict=True):
        axes.plot(middle, of, color=colour, linestyle=line, linewidth=1.5, marker=_dot(groups), label=name)
    _logarithmic(axes.yaxis, axes.set_yscale)
    _legend(axes)
    if together > 1:
        axes.set_xlabel(f"{axis.label}; each point: {together} frames")
    return figure


def disagreement_histogram(disagreement: NDArray[Any]) -> NotebookFigure:
    """How often the network and the fit lie so far apart: (n,) in pixels, none NaN, on a logarithmic axis."""
    figure, axes = _plain("network–fit distance (pixel)", "peaks")
    values = np.maximum(disagreement.astype(np.float64), 1e-4)
    _steps(axes, values, np.geomspace(values.min() / 1.1, values.max() * 1.1, 60))
    _logarithmic(axes.xaxis, axes.set_xscale)
    for percent, colour, line in ((50, BLUE, "-"), (75, GREEN, "--"), (95, VERMILLION, ":")):
        value = float(np.percentile(values, percent))
        name = "median" if percent == 50 else f"{percent}th percentile"
        axes.axvline(value, color=colour, linestyle=line, linewidth=2, label=f"{name}: {value:.3f} pixel")
    _legend(axes)
    return figure


def widths_and_snr(fwhm_major: NDArray[Any], fwhm_minor: NDArray[Any], snr: NDArray[Any]) -> NotebookFigure:
    """Distributions of the fitted widths (pixels, NaN left out) and of SNR, each (n,)."""
    figure = NotebookFigure(figsize=(WIDTH, 3.4))
    left, right = _side_by_side(figure)
    fitted = np.isfinite(fwhm_major)
    if fitted.any():
        edges = np.linspace(0, 1.05 * float(np.percentile(fwhm_major[fitted], 99.5)), 60)
        for values, colour, name in ((fwhm_minor, BLUE, "short axis"), (fwhm_major, VERMILLION, "long axis")):
            left.stairs(np.histogram(values[fitted], edges)[0], edges, color=colour, linewidth=1.5, label=name)
        left.legend(frameon=False)
    left.set(xlabel="full width at half maximum (pixel)", ylabel="peaks")
    positive = snr[snr > 0]
    if len(positive):
        _steps(right, positive, np.geomspace(positive.min() / 1.1, positive.max() * 1.1, 60))
        _logarithmic(right.xaxis, right.set_xscale)
    right.set(xlabel="signal to noise ratio, SNR", ylabel="peaks")
    for axes in (left, right):
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def count_bars(removed: Mapping[str, int], flagged: Mapping[str, int]) -> NotebookFigure:
    """How many peaks each filter removed and how many carry each flag."""
    figure = NotebookFigure(figsize=(WIDTH, 1.1 + 0.3 * max(len(removed), len(flagged), 2)))
    for axes, counts, title in zip(
        _side_by_side(figure, left=1.95), (removed, flagged), ("removed by filter", "kept, with flag"), strict=True
    ):
        bars = axes.barh(list(counts), list(counts.values()), color=_PALE)
        axes.bar_label(bars, [f"{count:,}" for count in counts.values()], padding=4, fontsize=9)
        axes.set_ylim(max(len(removed), len(flagged)) - 0.5, -0.5)
        axes.set_xlim(0, 1.25 * max([1, *counts.values()]))
        axes.set_title(title, fontsize=11, y=1.0)
        axes.set_xlabel("peaks")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return figure


def plot_q(peaks: xr.Dataset, phases: Phases | None = None) -> NotebookFigure:
    """Draw peaks by their q and azimuth, with the rings of known phases.

    Parameters
    ----------
    peaks : xarray.Dataset
        Peaks with the columns `q`, `azimuth` and `intensity`, as `add_q` returns them. The more intense, the darker.
    phases : mapping, optional
        Phases by name, as of `add_rings`; their rings are lines, named by one of their reflections where there is room.

    Returns
    -------
    matplotlib.figure.Figure
        Of a page's width; `figure.savefig(...)` keeps it.

    Raises
    ------
    InputError
        Where the peaks have no `q`, or a phase is wrong.

    Examples
    --------
    >>> import braggflow
    >>> geometry = {"distance_mm": 200, "beam_centre_px": [32, -400], "pixel_size_um": [75, 75], "energy_kev": 17.4}
    >>> silicon = {"cell": [5.431, 5.431, 5.431, 90, 90, 90], "space_group": "F d -3 m"}
    >>> figure = braggflow.plot_q(braggflow.add_q("runs/scan", geometry), {"silicon": silicon})
    >>> figure.axes[0].get_ylabel()
    'azimuth (degree)'
    """
    if "q" not in peaks:
        raise InputError("peaks: has no column q; add_q(peaks) adds it")
    q, azimuth, intensity = (np.asarray(peaks[name].values, np.float64) for name in ("q", "azimuth", "intensity"))
    phases = phases or {}
    left, bottom, right, top = _ROOM[0], _ROOM[1], 1.1 if phases else _ROOM[2], 0.3 + _RING_NAMES * len(phases)
    figure = NotebookFigure(figsize=(WIDTH, bottom + 4.4 + top))
    axes = axes_at(figure, left, bottom, WIDTH - left - right, 4.4, ylabel=0.52)
    axes.set(xlabel="q (1/Å)", ylabel="azimuth (degree)", xlim=_with_room(q, 0.03), ylim=_with_room(azimuth, 0.03))
    axes.spines[["top", "right"]].set_visible(False)
    depth = np.log10(np.maximum(np.nan_to_num(intensity), 1))
    order = np.argsort(depth, kind="stable")  # the intense ones above the others
    size = float(np.clip(4e4 / max(1, len(q)), 1, 16))
    colours = LinearSegmentedColormap.from_list("intensity", ["#c9c9c9", BLACK])
    axes.scatter(q[order], azimuth[order], s=size, c=depth[order], cmap=colours, linewidths=0)
    if phases:
        found = rings_of(phases, axes.get_xlim()[1])
        for row, (colour, rings) in enumerate(zip(cycle((VERMILLION, BLUE, GREEN, ORANGE)), found, strict=False)):
            _draw_rings(axes, rings, colour, 0.06 + _RING_NAMES * row)
    return figure


def _with_room(values: NDArray[np.float64], share: float) -> tuple[float, float]:
    """From the lowest to the highest value, and a share of that on either side."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = share * (high - low) or 1.0
    return low - room, high + room


def _draw_rings(axes: Axes, rings: Rings, colour: str, above: float) -> None:
    """A line at each ring within sight, named so many inches `above` the axes where there is room; the phase beside."""
    low, high = axes.get_xlim()
    last, inches = -np.inf, axes.get_position().width * WIDTH
    style: dict[str, Any] = {"textcoords": "offset points", "color": colour, "va": "bottom", "annotation_clip": False}
    for at, hkl in zip(rings.q.tolist(), rings.hkl.tolist(), strict=True):
        if not low <= at <= high:
            continue
        axes.axvline(at, color=colour, linewidth=0.7, alpha=0.7, zorder=0)
        if (at - last) / (high - low) * inches >= _RING_LINE:
            last = at
            name = " ".join(map(str, hkl))
            place: dict[str, Any] = {
                "xycoords": ("data", "axes fraction"),
                "rotation": 90,
                "ha": "center",
                "fontsize": 7,
            }
            axes.annotate(name, (at, 1), (0, 72 * above), **style, **place)
    axes.annotate(rings.name, (1, 1), (6, 72 * above), **style, xycoords="axes fraction", ha="left", fontsize=9)


def _side_by_side(figure: NotebookFigure, *, left: float = _ROOM[0]) -> tuple[Axes, Axes]:
    width, height = WIDTH / 2 - left - _ROOM[2], figure.get_figheight() - _ROOM[1] - 0.4
    found = tuple(axes_at(figure, start + left, _ROOM[1], width, height, ylabel=0.52) for start in (0, WIDTH / 2))
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
    return found[0], found[1]


def _plain(xlabel: str, ylabel: str, *, below: float = 0.0) -> tuple[NotebookFigure, Axes]:
    figure = NotebookFigure(figsize=(WIDTH, 3.4 + below))
    left, bottom, right, top = _ROOM
    axes = axes_at(figure, left, bottom + below, WIDTH - left - right, 3.4 - bottom - top, ylabel=0.52)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curve(axis: SeriesAxis, ylabel: str, *, strips: int = 0) -> tuple[NotebookFigure, Axes]:
    figure, axes = _plain(axis.label, ylabel, below=1.05 * strips)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=axis.whole))
    if len(axis.values) == 1:
        axes.set_xlim(axis.values[0] - 1, axis.values[0] + 1)
    return figure, axes


def _steps(axes: Axes, values: NDArray[Any], edges: NDArray[np.float64]) -> None:
    axes.stairs(np.histogram(values, edges)[0], edges, fill=True, color=_PALE)
    axes.set_ylim(bottom=0)


def _logarithmic(axis: Any, set_scale: Any) -> None:
    set_scale("log")
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 2000 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _dot(points: Sequence[Any] | NDArray[Any]) -> str:
    """A marker that shows lone points, which lines do not."""
    return "o" if len(points) <= 30 else ""


def _legend(axes: Axes, *, above: float = 0.06) -> None:
    """A legend so many inches above the axes."""
    height = axes.get_position().height * axes.figure.figure.get_figheight()
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1 + above / height), "borderaxespad": 0.0}
    axes.legend(frameon=False, ncols=3, fontsize=9, **place)
