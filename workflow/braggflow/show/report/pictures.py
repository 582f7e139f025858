"""The pictures of a report, each with its caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from braggflow.show.drawing import DPI, png
from braggflow.show.report.zoom import ZoomedFrame, zoomed_frame
from braggflow.show.run_figures import (
    dots_of,
    example_peaks,
    plot_all_peaks,
    plot_disagreement,
    plot_disagreement_of_frames,
    plot_examples,
    plot_located,
    plot_maxima,
    plot_peaks_per_frame,
    plot_projections,
    plot_removed_and_flagged,
    plot_searched,
    plot_widths,
)
from braggflow.show.shown_run import ShownRun


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with its caption."""

    caption: str
    png: bytes
    """The file."""
    width: int
    """Of the picture on the page: it has two dots for each of the page's pixels."""


def frame_pictures(shown: ShownRun, chosen: Sequence[int]) -> list[Picture | ZoomedFrame]:
    """The frames that were chosen, or the typical one and the fullest; example patches; nothing where no frame is."""
    if chosen:
        pictures = [picture for number in chosen for picture in _one_frame(shown, number, f"Frame {number}")]
        return pictures + _gallery(shown)
    numbers = shown.examples()
    if not numbers:
        return []
    n = shown.peaks(numbers[0]).sizes["peak"]
    which = (
        f"Frame {numbers[0]}: of the frames with peaks, the one with the median number of them, {n:,}"
        if n
        else f"Frame {numbers[0]}: the middle of the series, in which no frame has a peak"
    )
    pictures = _one_frame(shown, numbers[0], which)
    if len(numbers) > 1:
        caption = f"Frame {numbers[1]}, the frame with the most peaks, as in the picture above."
        pictures += [picture_of(plot_located(shown, numbers[1]), caption), _zoomed(shown, numbers[1])]
    return pictures + _gallery(shown)


def _zoomed(shown: ShownRun, number: int) -> ZoomedFrame:
    return zoomed_frame(shown.frame(number), shown.peaks(number), f"Frame {number}")


def _one_frame(shown: ShownRun, number: int, which: str) -> list[Picture | ZoomedFrame]:
    seen, peaks, background = shown.frame(number), shown.peaks(number), shown.series.config.detect.background
    done = ["ignored pixels are blue"]
    if seen.bin > 1:
        done.append(f"{seen.bin} × {seen.bin} pixels are summed")
    if background != "none":
        own = {"local": "its own local background", "radial": "its own level by two-theta and azimuth"}
        source = own.get(background, background)
        done.append(f"{source} is subtracted")
    level = "the noise of their place" if seen.floor.ndim else f"minval ({seen.floor:.4g} counts)"
    done.append(f"pixels below {level} are set to 0")
    pair = picture_of(
        plot_searched(shown, number),
        f"{which}. Left as recorded, right as searched: {', '.join(done)}. Grey values are linear near the background "
        "and logarithmic above it; of pixels too small to draw, the highest is shown.",
    )
    if not peaks.sizes["peak"]:
        return [pair, _zoomed(shown, number)]
    maxima = picture_of(
        plot_maxima(shown, number),
        f"Frame {number} with its {np.count_nonzero(peaks['score'] > 0):,} detected maxima: the larger the circle, the "
        "higher the maximum stands above the saddle to a higher one (its persistence, column score).",
    )
    positions = picture_of(
        plot_located(shown, number),
        f"Frame {number} with its peaks at the positions to use, y and x, coloured by the method that placed them; "
        "squares carry a flag. Right, the peaks marked a to f, from the highest ratio of signal to noise (SNR) to the "
        "lowest, with their flags: 13 × 13 searched pixels, the highest pixel framed in green, the cross at the "
        "position with its standard uncertainty where that is known.",
    )
    return [pair, maxima, positions, _zoomed(shown, number)]


def _gallery(shown: ShownRun) -> list[Picture]:
    if not example_peaks(shown.sample):
        return []
    size = shown.series.config.patches.size
    caption = (
        f"Examples of each kind of peak: {size} × {size} searched pixels, each from white at its lowest pixel to "
        "black at its maximum; the full widths at half maximum (FWHM) of the fit and the distance from the network's "
        "position to the fit's are in pixels (px). Sharp and broad: the 5th and 95th percentile of the width among "
        "peaks without flags; "
        "elongated: the 95th percentile of the ratio of the axes; faint: the 5th percentile of SNR; near another peak, "
        "at the frame's edge, saturated: of the peaks flagged overlap, edge, saturated that of median SNR; network and "
        "fit furthest apart: of all peaks. Ignored pixels, and those beyond the frame, are blue; a position outside "
        "the square is not drawn."
    )
    return [picture_of(plot_examples(shown), caption)]


def projection_pictures(shown: ShownRun) -> list[Picture]:
    """Maximum and sum over the frames, and all peaks on the maximum; nothing of a series of one frame."""
    n_good = int(np.count_nonzero(shown.table["frame_failed"].values == 0))
    if n_good < 2:
        return []
    found = shown.projection
    of = (
        f"all {found.frames:,} frames"
        if found.frames == n_good
        else (f"{found.frames:,} frames, spread evenly over the {n_good:,} that were processed")
    )
    lost = f"; {found.unreadable:,} more could not be read now" if found.unreadable else ""
    pictures = [
        picture_of(
            plot_projections(shown),
            f"Projections over {of}{lost}: the highest count of each pixel, and the sum of its counts, corrected, "
            "without subtraction of a background. Ignored pixels are blue.",
        )
    ]
    n = shown.sample.sizes["peak"]
    if n:
        dots = dots_of(shown).sizes["peak"]
        of_all = "All" if dots == shown.table.sizes["peak"] else f"{dots:,} peaks, spread evenly over the"
        pictures.append(
            picture_of(
                plot_all_peaks(shown),
                f"{of_all} {shown.table.sizes['peak']:,} peaks of the series on its highest counts (drawn pale), "
                f"coloured by {shown.axis.label}.",
            )
        )
    return pictures


def series_pictures(shown: ShownRun) -> dict[str, Any]:
    """Pictures of the whole series; those about peaks only where there are some."""
    axis, failed = shown.axis, shown.table["frame_failed"].values != 0
    crosses = " Crosses: frames that could not be processed." if failed.any() else ""
    against = "" if axis.whole else f" against {axis.label}, frame numbers along the upper border"
    if not axis.ordered:
        against = f" against {axis.label}, in the order of the frames; --axis frame draws against their numbers"
    per_frame = [picture_of(plot_peaks_per_frame(shown), f"Peaks in each frame{against}.{crosses}")]
    return {
        # One point is no curve.
        "series_pictures": per_frame if len(axis.values) > 1 else [],
        "disagreement_pictures": _disagreement_pictures(shown),
        "profile_pictures": _profile_pictures(shown),
    }


def _disagreement_pictures(shown: ShownRun) -> list[Picture]:
    known = np.isfinite(shown.sample["disagreement"].values)
    if not known.any():
        return []
    histogram = picture_of(
        plot_disagreement(shown),
        f"How often the network's and the fit's position lie so far apart: {np.count_nonzero(known):,} peaks that have "
        f"both.{shown.of_sample()}",
    )
    if len(shown.axis.values) < 2:
        return [histogram]
    curve = picture_of(
        plot_disagreement_of_frames(shown),
        f"The same distance through the series, against {shown.axis.label}.{shown.of_sample()}",
    )
    return [histogram, curve]


def _profile_pictures(shown: ShownRun) -> list[Picture]:
    if not shown.sample.sizes["peak"]:
        return []
    caption = (
        "Left, how wide the fitted peaks are (up to the 99.5th percentile); right, the ratio of signal to noise (SNR) "
        f"of those above 0.{shown.of_sample()}"
    )
    return [picture_of(plot_widths(shown), caption)]


def count_pictures(shown: ShownRun, counts: dict[str, Any]) -> list[Picture]:
    """What was filtered and flagged as bars; nothing where nothing was."""
    if not any(counts["removed"].values()) and not any(counts["flags"].values()):
        return []
    return [picture_of(plot_removed_and_flagged(shown), "The two tables below, drawn.")]


def picture_of(figure: Figure, caption: str) -> Picture:
    """A figure as it stands on the page."""
    width = round(100 * figure.get_figwidth())
    return Picture(caption, png(figure, dpi=DPI), width)
