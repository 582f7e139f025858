"""An evaluation shown: as text, and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.evaluate.evaluation import PHASES, ClassFigures, Evaluation
from braggflow.evaluate.scoring import Score
from braggflow.show import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, WIDTH

#: What the goals allow: a bias, px, and the share of errors within 1 and 2 stated standard errors.
_BIAS_GOAL = 0.01
_CALIBRATION_GOALS = ((0.66, 0.71), (0.94, 0.97))
#: The class whose bias depends on the phase most: a sharp peak is all in a few pixels.
_SHARPEST = "sharp"
_HEADER = ("class", "median", "75 %", "95 %", "bias y", "bias x", "±", "by phase", "noise", "1 σ", "2 σ")
_COLOURS = {
    "compact": BLUE,
    "braggnn": PURPLE,
    "fit": VERMILLION,
    "fit_excluding": ORANGE,
    "centroid": GREEN,
}
_OTHER_COLOURS = (BLACK, "#56B4E9", "#7F7F7F", "#8C564B")
_MARKERS = "osD^vPX<>"
#: Errors over the limit, on a logarithmic axis.
_FINE_TICKS = (0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 8, 10)
_COARSE_TICKS = (0.5, 1, 1.5, 2, 3, 5, 10, 20, 30, 50, 100)
Styles = Mapping[str, dict[str, Any]]


def accuracy_table(evaluation: Evaluation) -> str:
    """The figures as text for a terminal: methods side by side, then a table for each method."""
    names = list(evaluation.patches_per_second)
    figures = evaluation.figures
    return "\n".join(
        [
            f"{evaluation.size} × {evaluation.size} pixels, {evaluation.peaks} peaks a class, seed {evaluation.seed}",
            "",
            "RMS error over the Cramér–Rao limit's, both clipped at 2 px [95 % interval]",
            *_aligned(
                ["class", "limit, px", *names],
                *(
                    [kind, f"{evaluation.limits[kind]:.4f}", *(_ratio(by_method[name]) for name in names)]
                    for kind, by_method in figures.items()
                ),
            ),
            *(line for name in names for line in _details(name, {kind: of[name] for kind, of in figures.items()})),
            "",
            "Share of outliers flagged, or without a position",
            *_aligned(
                ["kind", *names],
                *([kind, *(_share(of[name]) for name in names)] for kind, of in evaluation.outliers.items()),
            ),
            "",
            "Patches a second; cpu: one core",
            *_aligned(
                ["method", "device", "patches/s"],
                *(
                    [name, device, f"{rate:.0f}"]
                    for name, rates in evaluation.patches_per_second.items()
                    for device, rate in rates.items()
                ),
            ),
            *_on_frames(evaluation.frames),
        ]
    )


def _details(name: str, by_class: Mapping[str, ClassFigures]) -> list[str]:
    rows = [
        [
            kind,
            *(f"{length:.4f}" for length in (one.median, one.p75, one.p95)),
            *(f"{length:+.4f}" for length in (one.bias_y, one.bias_x)),
            *(f"{length:.4f}" for length in (one.bias_std, one.phase_bias, one.phase_noise)),
            *(_share(share) for share in (one.within_1_std, one.within_2_std, one.flagged)),
            f"{one.failed:.4f}",
        ]
        for kind, one in by_class.items()
    ]
    title = f"{name}: distances; bias, also by sub-pixel phase, in px; share within 1 and 2 stated σ, flagged, failed"
    return ["", title, *_aligned([*_HEADER, "flagged", "failed"], *rows)]


def _on_frames(scores: Mapping[str, Score]) -> list[str]:
    """Network by network, then the fit, then what `auto` makes of the first network and the fit."""
    if not scores:
        return []
    first = next(iter(scores.values()))
    columns = {name: score.errors["network"] for name, score in scores.items() if score.errors["network"]["all"].n}
    columns |= {"fit": first.errors["fit"], "used": first.errors["used"]}
    rows = [
        [kind, str(recall.true), _share(recall.share)]
        + [f"{of[kind].median:.4f} {of[kind].p95:.4f}" if of[kind].n else "–" for of in columns.values()]
        for kind, recall in first.recall.items()
    ]
    title = f"{first.frames} simulated frames: true peaks, recall; median and 95 % of the distance, px (used: "
    return ["", title + f"{next(iter(scores))} and fit, auto)", *_aligned(["class", "true", "found", *columns], *rows)]


def _aligned(*rows: Sequence[str]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _ratio(one: ClassFigures) -> str:
    return f"{one.rms_over_limit:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _share(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.3f}"


def check_plot_path(path: Path) -> None:
    """Raise `InputError` where no picture can be written to `path`."""
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"--plot {path}: must end in .png, .pdf or .svg")


def plot_accuracy(evaluation: Evaluation, path: Path) -> None:
    """Draw the figures to a PNG, PDF or SVG: error over the limit, bias by phase, calibration, accuracy against cost.

    Raises `InputError` for a file of another kind.
    """
    check_plot_path(path)
    names = list(evaluation.patches_per_second)
    others = iter(_OTHER_COLOURS * len(names))
    styles: Styles = {
        name: {"color": _COLOURS.get(name) or next(others), "marker": _MARKERS[k % len(_MARKERS)]}
        for k, name in enumerate(names)
    }
    figure = Figure(figsize=(WIDTH, 8.6), layout="constrained")
    (top_left, top_right), (bottom_left, bottom_right) = figure.subplots(2, 2, width_ratios=(1.45, 1))
    _draw_ratios(top_left, evaluation, styles)
    _draw_phase(top_right, evaluation, styles)
    _draw_calibration(bottom_left, evaluation, styles)
    _draw_cost(bottom_right, evaluation, styles)
    figure.legend(*top_left.get_legend_handles_labels(), loc="outside upper center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=130)


def _draw_ratios(axes: Axes, evaluation: Evaluation, styles: Styles) -> None:
    places = _class_axis(axes, evaluation)
    for (name, style), shift in zip(styles.items(), _spread(len(styles)), strict=True):
        of = [by_method[name] for by_method in evaluation.figures.values()]
        ratio = np.array([one.rms_over_limit for one in of])
        bars = np.abs(np.array([[one.low for one in of], [one.high for one in of]]) - ratio)
        axes.errorbar(places + shift, ratio, bars, linestyle="", markersize=5, label=name, **style)
    axes.axhline(1, color=BLACK, linewidth=0.8)
    _logarithmic(axes)
    axes.set(title="Error over the limit, with 95 % intervals", ylabel="RMS error / RMS of the Cramér–Rao limit")


def _draw_phase(axes: Axes, evaluation: Evaluation, styles: Styles) -> None:
    phase = (np.arange(PHASES) + 0.5) / PHASES - 0.5
    for name, style in styles.items():
        for bias, line in zip(evaluation.figures[_SHARPEST][name].bias_by_phase, ("-", ":"), strict=True):
            axes.plot(phase, bias, line, markersize=4, **style)
    axes.axhspan(-_BIAS_GOAL, _BIAS_GOAL, color=BLACK, alpha=0.08, linewidth=0)
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set_yscale("symlog", linthresh=2 * _BIAS_GOAL)
    ticks = np.array([0, 0.5, 1, 2, 5, 10, 20, 50]) * _BIAS_GOAL
    axes.yaxis.set_major_locator(FixedLocator([*-ticks[:0:-1], *ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set(
        title=f"Bias of {_SHARPEST} peaks by sub-pixel phase",
        xlabel="centre's place in its pixel (px); y solid, x dotted",
        ylabel=f"mean error (px); grey: within {_BIAS_GOAL} px",
    )


def _draw_calibration(axes: Axes, evaluation: Evaluation, styles: Styles) -> None:
    places = _class_axis(axes, evaluation)
    for low, high in _CALIBRATION_GOALS:
        axes.axhspan(low, high, color=BLACK, alpha=0.08, linewidth=0)
    for (name, style), shift in zip(styles.items(), _spread(len(styles)), strict=True):
        of = [by_method[name] for by_method in evaluation.figures.values()]
        for shares, face in (([one.within_1_std for one in of], "none"), ([one.within_2_std for one in of], None)):
            axes.plot(places + shift, shares, linestyle="", markersize=5, markerfacecolor=face, **style)
    lowest, highest = axes.get_ylim()
    axes.set(
        title="Calibration of the stated errors",
        ylabel="share of errors within 1 σ (open), 2 σ (filled)",
        ylim=(min(lowest, 0.55), max(highest, 1)),
    )


def _draw_cost(axes: Axes, evaluation: Evaluation, styles: Styles) -> None:
    for k, (name, style) in enumerate(styles.items()):
        side, align = ((8, "left"), (-8, "right"))[k % 2]
        ratios = [by_method[name].rms_over_limit for by_method in evaluation.figures.values()]
        error = float(np.exp(np.mean(np.log(ratios))))
        for device, rate in evaluation.patches_per_second[name].items():
            axes.plot(rate, error, linestyle="", markersize=8, **style)
            label = name if device == "cpu" else f"{name}, {device}"
            axes.annotate(label, (rate, error), xytext=(side, 0), textcoords="offset points", ha=align, va="center")
    axes.margins(0.45, 0.15)
    axes.set_xscale("log")
    _logarithmic(axes)
    axes.grid(axis="x", alpha=0.3)
    axes.set(
        title="Accuracy against cost",
        xlabel="patches a second, of one core if not said otherwise",
        ylabel="RMS error / limit, mean of the classes",
    )


def _class_axis(axes: Axes, evaluation: Evaluation) -> NDArray[np.float64]:
    places = np.arange(len(evaluation.figures), dtype=np.float64)
    axes.set_xticks(places, [kind.replace("_", "-") for kind in evaluation.figures], rotation=35, ha="right")
    axes.set_xlim(-0.6, len(places) - 0.4)
    for edge in places[:-1] + 0.5:
        axes.axvline(edge, color=BLACK, alpha=0.12, linewidth=0.6)
    return places


def _spread(n: int) -> NDArray[np.float64]:
    """Shifts that put the marks of n methods side by side."""
    return np.asarray((np.arange(n) - (n - 1) / 2) * min(0.17, 0.8 / n), np.float64)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(FixedLocator(_FINE_TICKS if high < 6 * low else _COARSE_TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(axis="y", alpha=0.3)
