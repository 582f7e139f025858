"""Pictures of frames as a run searched them, its peaks on them, enlarged examples, and projections of the series."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from braggflow.peak_table import Flag, Method
from braggflow.results import SearchedFrame
from braggflow.show.colours import BLUE, GREEN, METHOD_COLOURS, VERMILLION
from braggflow.show.drawing import (
    PIXELS_PER_INCH,
    WIDTH,
    Image,
    Mark,
    NotebookFigure,
    Panel,
    axes_at,
    draw_frame,
    draw_panels,
    fitted_size,
    intensity_norm,
    panels_height,
    scale_bar,
)
from braggflow.show.labels import place_labels
from braggflow.show.projection import Projection
from braggflow.show.series_axis import SeriesAxis

#: Room around frames, inches: numbers and name of the y axis, of the x axis, words above, scale of counts.
_LEFT, _BOTTOM, _TOP, _SCALE = 0.75, 0.6, 0.35, 0.95
#: Peaks that are enlarged beside a frame, in two columns of panels of this side (inches).
_ENLARGED, _SIDE = 6, 1.75


def frame_pair(seen: SearchedFrame) -> NotebookFigure:
    """The raw frame beside what was searched in it: corrected, binned, and 0 below its floor."""
    raw = seen.raw.astype(np.float32)
    # Ignored pixels are drawn in the raw frame, but do not set its scale.
    raw_norm = intensity_norm(np.where(seen.ignored, np.float32(np.nan), raw))
    kept = np.where(seen.searched < seen.floor, np.float32(0), seen.searched)
    level = "above the noise" if seen.floor.ndim else f"at least {seen.floor:.4g} counts"
    return _two_frames((raw, 1, raw_norm, "as recorded"), (kept, seen.bin, None, f"searched: {level}"))


def projections(found: Projection, bin: int) -> NotebookFigure:  # noqa: A002
    """The highest count of each pixel over the frames of a series, beside the sum of its counts."""
    return _two_frames((found.highest, bin, None, "highest count"), (found.total, bin, None, "sum of counts"))


def _two_frames(*frames: tuple[Image, int, Any, str]) -> NotebookFigure:
    room = WIDTH / 2 - _LEFT - _SCALE
    _, height = fitted_size(frames[0][0].shape, room, 6.0)
    figure = NotebookFigure(figsize=(WIDTH, height + _BOTTOM + _TOP))
    for i, (image, bin_, norm, title) in enumerate(frames):
        width, height = fitted_size(image.shape, room, 6.0)
        left = i * WIDTH / 2 + _LEFT
        axes = axes_at(figure, left, _BOTTOM, width, height)
        norm = draw_frame(axes, image, bin_, norm, longest=_longest(width, height))
        axes.set_title(title, fontsize=11, y=1.0)
        scale_bar(figure, (left + width + 0.1, _BOTTOM, 0.14, height), norm)
    return figure


def detected(seen: SearchedFrame, table: xr.Dataset) -> NotebookFigure:
    """A searched frame with a circle around each detected maximum, its size by score (on a logarithmic scale).

    `table` holds the frame's peaks: `y_pixel`, `x_pixel`, `score` (0: no maximum, no circle).
    """
    table = table.isel(peak=table["score"].values > 0)
    width, height = fitted_size(seen.searched.shape, WIDTH - _LEFT - _SCALE - 0.4, 6.8)
    figure = NotebookFigure(figsize=(_LEFT + width + _SCALE, height + _BOTTOM + 0.75))
    axes = axes_at(figure, _LEFT, _BOTTOM, width, height)
    norm = draw_frame(axes, seen.searched, seen.bin, longest=_longest(width, height))
    scale_bar(figure, (_LEFT + width + 0.1, _BOTTOM, 0.16, height), norm)
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
        legend_above(axes, handles, columns=4, title="height above the saddle (counts)")
    return figure


def _areas(score: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    """Marker areas in points² for scores between `low` and `high`, all above 0."""
    if high <= low:
        return np.full(len(score), 100.0)
    return np.asarray(30 + 270 * np.clip(np.log(score / low) / np.log(high / low), 0, 1))


def located(seen: SearchedFrame, table: xr.Dataset, *, half: int = 6) -> NotebookFigure:
    """A searched frame with its located peaks, coloured by method, and up to six of them enlarged.

    `table` holds the frame's peaks. The enlarged ones are spread evenly over the peaks' SNR; they show `half` searched
    pixels on each side of the maximum, the maximum (square) and the located position with its standard uncertainty.
    """
    beside = 2 * _SIDE + 0.75 if table.sizes["peak"] else 0.0
    width, height = fitted_size(seen.searched.shape, WIDTH - _LEFT - 0.1 - beside, 7.5)
    panels = panels_height(3, _SIDE, 3) if beside else 0.0
    room = max(height + _BOTTOM + 0.75, panels + 0.2)
    figure = NotebookFigure(figsize=(_LEFT + width + 0.1 + beside, room))
    axes = axes_at(figure, _LEFT, room - height - 0.75, width, height)
    norm = draw_frame(axes, seen.searched, seen.bin, longest=_longest(width, height))
    method, flagged = table["method"].values, table["flags"].values != 0
    handles = []
    for value in Method:
        for where, marker, words in ((~flagged, "o", ""), (flagged, "s", ", flagged")):
            chosen = table.isel(peak=np.flatnonzero((method == value) & where))
            if n := chosen.sizes["peak"]:
                ring: dict[str, Any] = {"facecolors": "none", "edgecolors": METHOD_COLOURS[value], "marker": marker}
                handles.append(
                    axes.scatter(chosen["x"], chosen["y"], s=55, label=f"{value.name}{words}: {n:,}", **ring)
                )
    if not handles:
        return figure
    legend_above(axes, handles, columns=3 if width > 5 else 2)
    ranked = np.argsort(-table["snr"].values, kind="stable")
    examples = ranked[np.unique(np.linspace(0, len(ranked) - 1, _ENLARGED).round().astype(int))]
    shown = [
        _located_panel(letter, seen, table.isel(peak=int(i))) for letter, i in zip("abcdef", examples, strict=False)
    ]
    left = _LEFT + width + 0.5
    draw_panels(
        figure, shown, left=left, top=room - 0.05, side=_SIDE, columns=2, half=half, norm=norm, lines=3, maxima=True
    )
    points = np.column_stack([table["x"].values, table["y"].values])
    place_labels(axes, points[examples], list("abcdef"[: len(examples)]), markers=points)
    return figure


def _located_panel(letter: str, seen: SearchedFrame, peak: xr.Dataset) -> Panel:
    flags = " ".join(str(flag.name) for flag in Flag if int(peak["flags"]) & flag)
    y, x, y_std, x_std = (float(peak[name]) for name in ("y", "x", "y_std", "x_std"))
    mark = Mark(y, x, "+", METHOD_COLOURS[Method(int(peak["method"]))], y_std, x_std)
    lines = [f"{letter}: SNR {float(peak['snr']):.3g}", *wrap(flags, 26)[:2]]
    return Panel(lines, seen, peak, [mark])


def gallery_panel(title: str, seen: SearchedFrame, peak: xr.Dataset) -> Panel:
    """A peak that stands for its kind, with the network's and the fit's position, and words on both."""
    values = {name: float(peak[name]) for name in ("snr", "fwhm_major", "fwhm_minor", "disagreement")}
    lines = [title, f"frame {int(peak['peak_frame'])}, SNR {values['snr']:.3g}"]
    if np.isfinite(values["fwhm_major"]):
        lines.append(f"FWHM {values['fwhm_major']:.2f} × {values['fwhm_minor']:.2f} px")
    if np.isfinite(values["disagreement"]):
        lines.append(f"network to fit {values['disagreement']:.3f} px")
    marks = [
        Mark(float(peak[f"y_{by}"]), float(peak[f"x_{by}"]), marker, colour)
        for by, marker, colour in (("network", "x", BLUE), ("fit", "+", VERMILLION))
    ]
    return Panel(lines, seen, peak, marks)


def patch_gallery(examples: Sequence[Panel], *, size: int) -> NotebookFigure:
    """Patches of `size` searched pixels with maximum, network's and fit's positions; each on its own linear scale."""
    columns, side, lines = 4, 2.3, 4
    height = panels_height(-(-len(examples) // columns), side, lines) + 0.3
    figure = NotebookFigure(figsize=(WIDTH, height))
    draw_panels(
        figure, examples, left=0.3, top=height, side=side, columns=columns, half=size // 2, lines=lines, maxima=True
    )
    alone: dict[str, Any] = {"linestyle": "none", "markersize": 9, "markeredgewidth": 1.8}
    handles = [
        Line2D([], [], marker="x", color=BLUE, label="network", **alone),
        Line2D([], [], marker="+", color=VERMILLION, label="fit", **alone),
        Line2D([], [], marker="s", color=GREEN, label="highest pixel", fillstyle="none", **alone),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, borderaxespad=0.1)
    return figure


def peaks_of_series(highest: Image, bin: int, peaks: xr.Dataset, axis: SeriesAxis) -> NotebookFigure:  # noqa: A002
    """All peaks of a series on its highest counts, drawn pale, as dots coloured by what the series is drawn against.

    `peaks` holds `y`, `x` and `peak_frame`, each (peak,).
    """
    width, height = fitted_size(highest.shape, WIDTH - _LEFT - _SCALE - 0.4, 6.8)
    figure = NotebookFigure(figsize=(_LEFT + width + _SCALE + 0.2, height + _BOTTOM + 0.2))
    axes = axes_at(figure, _LEFT, _BOTTOM, width, height)
    draw_frame(axes, highest, bin, longest=_longest(width, height))
    axes.images[0].set_alpha(0.35)
    axes.images[0].set_rasterized(True)
    values = axis.of(peaks["peak_frame"].values)
    order = np.random.default_rng(0).permutation(len(values))  # no frame lies over the others
    known = axis.values[np.isfinite(axis.values)]
    norm = Normalize(float(known.min()), float(known.max()))
    size = float(np.clip(40_000 / max(1, len(values)), 2, 24))
    shown: dict[str, Any] = {"c": values[order], "norm": norm, "cmap": "plasma", "s": size, "linewidths": 0}
    axes.scatter(peaks["x"].values[order], peaks["y"].values[order], **shown)
    bar = axes_at(figure, _LEFT + width + 0.1, _BOTTOM, 0.16, height)
    ramp = np.linspace(0, 1, 128)[:, None]
    span = (0.0, 1.0, float(known.min()), float(known.max()))
    bar.imshow(ramp, cmap=matplotlib.colormaps["plasma"], extent=span, origin="lower", aspect="auto")
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.yaxis.set_major_locator(MaxNLocator(6, integer=axis.whole))
    bar.yaxis.set_label_coords(0.85 / 0.16, 0.5)
    bar.set_ylabel(axis.label)
    return figure


def legend_above(axes: Axes, handles: Sequence[Any], *, columns: int, title: str | None = None) -> None:
    """A legend above the axes, where it hides nothing."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderpad": 0.2, "borderaxespad": 0.1}
    axes.legend(handles=handles, title=title, ncols=columns, frameon=False, fontsize=9, **place)


def _longest(width: float, height: float) -> int:
    return round(PIXELS_PER_INCH * max(width, height))
