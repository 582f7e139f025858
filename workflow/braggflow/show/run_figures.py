"""The pictures of a run, each by one call: those that its report shows, and those that a study shows."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.peak_table import Flag
from braggflow.results import read_run_info
from braggflow.show.drawing import NotebookFigure
from braggflow.show.plots import (
    count_bars,
    disagreement_histogram,
    error_against_frame,
    peaks_per_frame,
    widths_and_snr,
)
from braggflow.show.searched_pictures import (
    detected,
    frame_pair,
    gallery_panel,
    located,
    patch_gallery,
    peaks_of_series,
    projections,
)
from braggflow.show.series_axis import coordinates
from braggflow.show.shown_run import Shown, ShownRun, shown_run

#: Dots of the picture of all peaks of a series, at most, spread evenly over them.
DOTS = 20_000
#: Other coordinates, as voltage and current, are drawn below the curve of the series: the first so many.
_STRIPS = 5


def plot_searched(run: Shown, frame: int | None = None) -> NotebookFigure:
    """A frame as recorded, beside what was searched in it: pixels below the threshold are 0.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.
    frame : int, optional
        The number of the frame; by default, of the frames with peaks, the one with the median number of them.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide. A notebook shows it; `savefig` writes it.

    Raises
    ------
    InputError
        Where there is no run, for a frame that it has not processed, and where its frames cannot be read.

    Examples
    --------
    >>> from braggflow.show import plot_searched
    >>> plot_searched("runs/scan", 2).savefig("searched.png")
    """
    shown = shown_run(run)
    return frame_pair(shown.frame(shown.chosen(frame)))


def plot_maxima(run: Shown, frame: int | None = None) -> NotebookFigure:
    """A searched frame with its detected maxima: the larger the circle, the higher the persistence.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.
    frame : int, optional
        The number of the frame; by default, of the frames with peaks, the one with the median number of them.

    Returns
    -------
    matplotlib.figure.Figure
        Up to 11 inches wide.

    Raises
    ------
    InputError
        As `plot_searched`.

    Examples
    --------
    >>> from braggflow.show import plot_maxima
    >>> plot_maxima("runs/scan", 2).savefig("maxima.png")
    """
    shown = shown_run(run)
    number = shown.chosen(frame)
    return detected(shown.frame(number), shown.peaks(number))


def plot_located(run: Shown, frame: int | None = None) -> NotebookFigure:
    """A searched frame with its peaks at `y`, `x`, coloured by method; six of them enlarged with their uncertainties.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.
    frame : int, optional
        The number of the frame; by default, of the frames with peaks, the one with the median number of them.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide; enlarged are peaks from the highest to the lowest SNR.

    Raises
    ------
    InputError
        As `plot_searched`.

    Examples
    --------
    >>> from braggflow.show import plot_located
    >>> plot_located("runs/scan", 2).savefig("located.png")
    """
    shown = shown_run(run)
    number = shown.chosen(frame)
    return located(shown.frame(number), shown.peaks(number))


def plot_examples(run: Shown) -> NotebookFigure:
    """Patches that stand for each kind of peak, with the network's and the fit's positions.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.

    Returns
    -------
    matplotlib.figure.Figure
        One patch each: sharp, elongated, broad, faint, near another peak, at the edge, saturated, and the one whose
        network and fit are furthest apart; kinds without a peak are left out.

    Raises
    ------
    InputError
        Where there is no run, it has no peak, and where its frames cannot be read.

    Examples
    --------
    >>> from braggflow.show import plot_examples
    >>> plot_examples("runs/scan").savefig("examples.png")
    """
    shown = shown_run(run)
    return _gallery(shown, list(example_peaks(shown.sample).items()))


def plot_ranked(run: Shown, n: int = 4) -> NotebookFigure:
    """Good and bad examples: patches whose network and fit are nearest to each other, and furthest apart.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.
    n : int, default 4
        How many of each; must be at least 1.

    Returns
    -------
    matplotlib.figure.Figure
        The nearest first, from the smallest distance on, then the furthest, from the largest on.

    Raises
    ------
    InputError
        Where there is no run, no peak has both positions, and where its frames cannot be read.

    Examples
    --------
    >>> from braggflow.show import plot_ranked
    >>> plot_ranked("runs/scan", n=2).savefig("ranked.png")
    """
    if n < 1:
        raise InputError(f"n: {n} is not accepted; must be at least 1")
    shown = shown_run(run)
    distance = shown.sample["disagreement"].values
    ranked = np.argsort(distance, kind="stable")[: np.count_nonzero(np.isfinite(distance))]
    if not len(ranked):
        raise InputError("disagreement: no peak has both a network's and a fit's position, so they cannot be ranked")
    worst = ranked[::-1][: min(n, len(ranked) // 2)]
    best = ranked[: min(n, len(ranked) - len(worst))]
    chosen = [(f"nearest, {rank}", at) for rank, at in enumerate(best.tolist(), 1)]
    return _gallery(shown, chosen + [(f"furthest, {rank}", at) for rank, at in enumerate(worst.tolist(), 1)])


def _gallery(shown: ShownRun, chosen: list[tuple[str, int]]) -> NotebookFigure:
    """Patches of peaks of the sample, by their titles and positions in it."""
    if not chosen:
        raise InputError("peaks: the run has none, so there is none to draw")
    panels = []
    for title, at in chosen:
        peak = shown.peak(at)
        panels.append(gallery_panel(title, shown.frame(int(peak["peak_frame"])), peak))
    return patch_gallery(panels, size=shown.series.config.patches.size)


def example_peaks(sample: xr.Dataset) -> dict[str, int]:
    """Positions in `sample` of peaks that stand for their kind, by the kind's name; kinds without a peak are left out.

    Of `sample` are used `fwhm_major`, `fwhm_minor`, `snr`, `flags` and `disagreement`, each (peak,).
    """
    columns = {name: sample[name].values for name in ("fwhm_major", "fwhm_minor", "snr", "flags", "disagreement")}
    major, minor, snr, flags, disagreement = columns.values()
    clean = flags == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        width, ratio = np.sqrt(major * minor), major / minor
    kinds: dict[str, tuple[NDArray[np.bool_], NDArray[Any], float]] = {
        "sharp": (clean, width, 0.05),
        "elongated": (clean, ratio, 0.95),
        "broad": (clean, width, 0.95),
        "faint": (snr > 0, snr, 0.05),
        "near another peak": (flags & Flag.overlap != 0, snr, 0.5),
        "at the frame's edge": (flags & Flag.edge != 0, snr, 0.5),
        "saturated": (flags & Flag.saturated != 0, snr, 0.5),
        "network and fit furthest apart": (np.ones(len(snr), bool), disagreement, 1.0),
    }
    chosen = {}
    for name, (where, key, share) in kinds.items():
        candidates = np.flatnonzero(where & np.isfinite(key))
        if len(candidates):
            ranked = candidates[np.argsort(key[candidates], kind="stable")]
            chosen[name] = int(ranked[round(share * (len(ranked) - 1))])
    return chosen


def plot_projections(run: Shown) -> NotebookFigure:
    """The highest count of each pixel over the series, beside the sum of its counts.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide, over at most 64 frames spread evenly over those that were processed.

    Raises
    ------
    InputError
        Where there is no run, and where none of its frames can be read.

    Examples
    --------
    >>> from braggflow.show import plot_projections
    >>> plot_projections("runs/scan").savefig("projections.png")
    """
    shown = shown_run(run)
    return projections(shown.projection, shown.series.config.frames.bin)


def plot_all_peaks(run: Shown, axis: str | None = None) -> NotebookFigure:
    """All peaks of a series on its highest counts, coloured by what the series is drawn against.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.
    axis : str, optional
        The coordinate of the frames that colours them, or ``"frame"``; by default omega, time, voltage or the like.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide; of more than 20,000 peaks so many, spread evenly over them.

    Raises
    ------
    InputError
        Where there is no run, its frames have no such coordinate, and where none of them can be read.

    Examples
    --------
    >>> from braggflow.show import plot_all_peaks
    >>> plot_all_peaks("runs/scan", axis="voltage").savefig("all_peaks.png")
    """
    shown = shown_run(run, axis)
    scale = shown.series.config.frames.bin
    return peaks_of_series(shown.projection.highest, scale, dots_of(shown), shown.axis)


def dots_of(shown: ShownRun) -> xr.Dataset:
    """The peaks of the sample that the picture of all peaks has a dot for."""
    return shown.sample.isel(peak=slice(None, None, -(-shown.sample.sizes["peak"] // DOTS) or 1))


def plot_peaks_per_frame(run: Shown, axis: str | None = None) -> NotebookFigure:
    """The number of peaks in each frame of a series; below it, what else is known of the frames: voltage, current, ...

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.
    axis : str, optional
        The coordinate of the frames it is drawn against, or ``"frame"``; by default omega, time, voltage or the like.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide. A long series is drawn in groups of frames: their median, lowest and highest number. Below are
        the coordinates of the frames that are no straight line against the axis, five at most.

    Raises
    ------
    InputError
        Where there is no run, and where its frames have no such coordinate.

    Examples
    --------
    >>> from braggflow.show import plot_peaks_per_frame
    >>> plot_peaks_per_frame("runs/scan", axis="voltage").savefig("peaks_per_frame.png")
    """
    shown = shown_run(run, axis)
    table, against = shown.table, shown.axis
    others = [of for name, of in coordinates(table).items() if name != against.name and not against.straight(of.values)]
    strips = others[:_STRIPS] if against.ordered else []
    return peaks_per_frame(against, table["peak_count"].values, table["frame_failed"].values != 0, strips)


def plot_disagreement(run: Shown) -> NotebookFigure:
    """How often the network's and the fit's position lie so far apart: a histogram, with its percentiles.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide; the distance in pixels is on a logarithmic axis.

    Raises
    ------
    InputError
        Where there is no run, and where no peak has both positions.

    Examples
    --------
    >>> from braggflow.show import plot_disagreement
    >>> plot_disagreement("runs/scan").savefig("disagreement.png")
    """
    _, distance = _distances(shown_run(run))
    return disagreement_histogram(distance)


def plot_disagreement_of_frames(run: Shown, axis: str | None = None) -> NotebookFigure:
    """The distance between the network's and the fit's position through the series: median, 75th and 95th percentile.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.
    axis : str, optional
        The coordinate of the frames it is drawn against, or ``"frame"``; by default omega, time, voltage or the like.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide; the distance in pixels is on a logarithmic axis.

    Raises
    ------
    InputError
        Where there is no run, no peak has both positions, and where its frames have no such coordinate.

    Examples
    --------
    >>> from braggflow.show import plot_disagreement_of_frames
    >>> plot_disagreement_of_frames("runs/scan", axis="frame").savefig("disagreement_of_frames.png")
    """
    shown = shown_run(run, axis)
    return error_against_frame(shown.axis, *_distances(shown))


def _distances(shown: ShownRun) -> tuple[NDArray[Any], NDArray[Any]]:
    """Frame number, and distance of network and fit, of the peaks of the sample that have both."""
    known = np.isfinite(shown.sample["disagreement"].values)
    if not known.any():
        raise InputError("disagreement: no peak has both a network's and a fit's position, so they cannot be compared")
    return shown.sample["peak_frame"].values[known], shown.sample["disagreement"].values[known]


def plot_widths(run: Shown) -> NotebookFigure:
    """How wide the fitted peaks are, and their signal to noise: two histograms.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide; full widths at half maximum in pixels.

    Raises
    ------
    InputError
        Where there is no run.

    Examples
    --------
    >>> from braggflow.show import plot_widths
    >>> plot_widths("runs/scan").savefig("widths.png")
    """
    sample = shown_run(run).sample
    return widths_and_snr(*(sample[name].values for name in ("fwhm_major", "fwhm_minor", "snr")))


def plot_removed_and_flagged(run: Shown) -> NotebookFigure:
    """How many peaks each filter removed, and how many carry each flag: two bar charts.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or the run folder.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide.

    Raises
    ------
    InputError
        Where there is no run.

    Examples
    --------
    >>> from braggflow.show import plot_removed_and_flagged
    >>> plot_removed_and_flagged("runs/scan").savefig("removed_and_flagged.png")
    """
    counts = read_run_info(shown_run(run).folder)["counts"]
    return count_bars(counts["removed"], counts["flags"])
