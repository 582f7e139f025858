"""The pictures of a report, each with its caption."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from braggflow.frames import OpenedSeries
from braggflow.peak_table import Flag
from braggflow.results import RunFolder, SearchedFrame, open_run_frames, read_run_frame
from braggflow.show.drawing import DPI, png
from braggflow.show.plots import (
    count_bars,
    disagreement_histogram,
    error_against_frame,
    peaks_per_frame,
    widths_and_snr,
)
from braggflow.show.projection import project
from braggflow.show.searched_pictures import (
    detected,
    frame_pair,
    gallery_panel,
    located,
    patch_gallery,
    peaks_of_series,
    projections,
)
from braggflow.show.series_axis import SeriesAxis, coordinates

#: Dots of the picture of all peaks of a series, at most, spread evenly over them.
DOTS = 20_000
#: Coordinates that turn back, as a voltage does, are drawn below the curve of the series: the first so many.
_STRIPS = 2


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with its caption."""

    caption: str
    png: bytes
    """The file."""
    width: int
    """Of the picture on the page: it has two dots for each of the page's pixels."""


@dataclass(slots=True)
class Drawn:
    """What a report draws: a run's table, a sample of its peaks, its axis, and its frames, each read once."""

    folder: RunFolder
    table: xr.Dataset
    sample: xr.Dataset
    """Every `step`-th peak of the table, its main columns."""
    step: int
    axis: SeriesAxis
    _series: OpenedSeries | None = None
    _seen: dict[int, SearchedFrame] = field(default_factory=dict)

    @property
    def series(self) -> OpenedSeries:
        """The frames' series; raises `InputError` where it cannot be opened."""
        if self._series is None:
            self._series = open_run_frames(self.folder)
        return self._series

    def frame(self, number: int) -> SearchedFrame:
        """A frame as the run saw it; raises `InputError` where it cannot be read."""
        if number not in self._seen:
            self._seen[number] = read_run_frame(self.series, number)
        return self._seen[number]

    def peaks(self, number: int) -> xr.Dataset:
        """The peaks of a frame, which may be none."""
        return self.table.sel(peak_frame=number).load()

    def of_sample(self) -> str:
        """What a caption says of the peaks that were left out."""
        n = self.sample.sizes["peak"]
        return "" if n == self.table.sizes["peak"] else f" From {n:,} peaks spread evenly over the table."


def frame_pictures(drawn: Drawn, chosen: Sequence[int]) -> list[Picture]:
    """The frames that were chosen, or the typical one and the fullest; example patches; nothing where no frame is."""
    if chosen:
        pictures = [picture for number in chosen for picture in _one_frame(drawn, number, f"Frame {number}")]
        return pictures + _gallery(drawn)
    numbers = _example_frames(drawn.table)
    if not numbers:
        return []
    n = drawn.peaks(numbers[0]).sizes["peak"]
    which = (
        f"Frame {numbers[0]}: of the frames with peaks, the one with the median number of them, {n:,}"
        if n
        else f"Frame {numbers[0]}: the middle of the series, in which no frame has a peak"
    )
    pictures = _one_frame(drawn, numbers[0], which)
    if len(numbers) > 1:
        caption = f"Frame {numbers[1]}, the frame with the most peaks, as in the picture above."
        pictures.append(_picture(located(drawn.frame(numbers[1]), drawn.peaks(numbers[1])), caption))
    return pictures + _gallery(drawn)


def _example_frames(table: xr.Dataset) -> list[int]:
    """The frame with the median number of peaks (of those that have some), and the one with the most if another."""
    numbers = table["frame"].values[table["frame_failed"].values == 0]
    counts = table["peak_count"].values[table["frame_failed"].values == 0]
    if not len(numbers):
        return []
    filled = np.flatnonzero(counts)
    if not len(filled):
        return [int(numbers[len(numbers) // 2])]
    ranked = filled[np.argsort(counts[filled], kind="stable")]
    middle, most = ranked[len(ranked) // 2], int(np.argmax(counts))
    return [int(numbers[middle])] if counts[middle] == counts[most] else [int(numbers[middle]), int(numbers[most])]


def _one_frame(drawn: Drawn, number: int, which: str) -> list[Picture]:
    seen, peaks, background = drawn.frame(number), drawn.peaks(number), drawn.series.config.detect.background
    done = ["ignored pixels are blue"]
    if seen.bin > 1:
        done.append(f"{seen.bin} × {seen.bin} pixels are summed")
    if background != "none":
        source = "its own local background" if background == "local" else background
        done.append(f"{source} is subtracted")
    level = "the noise of their place" if seen.floor.ndim else f"minval ({seen.floor:.4g} counts)"
    done.append(f"pixels below {level} are set to 0")
    pair = _picture(
        frame_pair(seen),
        f"{which}. Left as recorded, right as searched: {', '.join(done)}. Grey values are linear near the background "
        "and logarithmic above it; of pixels too small to draw, the highest is shown.",
    )
    if not peaks.sizes["peak"]:
        return [pair]
    maxima = _picture(
        detected(seen, peaks),
        f"Frame {number} with its {np.count_nonzero(peaks['score'] > 0):,} detected maxima: the larger the circle, the "
        "higher the maximum stands above the saddle to a higher one (its persistence, column score).",
    )
    positions = _picture(
        located(seen, peaks),
        f"Frame {number} with its peaks at the positions to use, y and x, coloured by the method that placed them; "
        "squares carry a flag. Right, the peaks marked a to f, from the highest ratio of signal to noise (SNR) to the "
        "lowest, with their flags: 13 × 13 searched pixels, the highest pixel framed in green, the cross at the "
        "position with its standard uncertainty where that is known.",
    )
    return [pair, maxima, positions]


def _gallery(drawn: Drawn) -> list[Picture]:
    chosen = example_peaks(drawn.sample)
    if not chosen:
        return []
    examples = []
    for title, i in chosen.items():
        peak = drawn.table.isel(peak=i * drawn.step).load()
        examples.append(gallery_panel(title, drawn.frame(int(peak["peak_frame"])), peak))
    size = drawn.series.config.patches.size
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
    return [_picture(patch_gallery(examples, size=size), caption)]


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


def projection_pictures(drawn: Drawn) -> list[Picture]:
    """Maximum and sum over the frames, and all peaks on the maximum; nothing of a series of one frame."""
    n_good = int(np.count_nonzero(drawn.table["frame_failed"].values == 0))
    if n_good < 2:
        return []
    found, scale = project(drawn.series, drawn.table), drawn.series.config.frames.bin
    of = (
        f"all {found.frames:,} frames"
        if found.frames == n_good
        else (f"{found.frames:,} frames, spread evenly over the {n_good:,} that were processed")
    )
    lost = f"; {found.unreadable:,} more could not be read now" if found.unreadable else ""
    pictures = [
        _picture(
            projections(found, scale),
            f"Projections over {of}{lost}: the highest count of each pixel, and the sum of its counts, corrected, "
            "without subtraction of a background. Ignored pixels are blue.",
        )
    ]
    n = drawn.sample.sizes["peak"]
    if n:
        dots = drawn.sample.isel(peak=slice(None, None, -(-n // DOTS)))
        shown = dots.sizes["peak"]
        of_all = "All" if shown == drawn.table.sizes["peak"] else f"{shown:,} peaks, spread evenly over the"
        pictures.append(
            _picture(
                peaks_of_series(found.highest, scale, dots, drawn.axis),
                f"{of_all} {drawn.table.sizes['peak']:,} peaks of the series on its highest counts (drawn pale), "
                f"coloured by {drawn.axis.label}.",
            )
        )
    return pictures


def series_pictures(drawn: Drawn) -> dict[str, Any]:
    """Pictures of the whole series; those about peaks only where there are some."""
    table, axis = drawn.table, drawn.axis
    failed = table["frame_failed"].values != 0
    crosses = " Crosses: frames that could not be processed." if failed.any() else ""
    strips = [of for name, of in coordinates(table).items() if not of.ordered and name != axis.name][:_STRIPS]
    against = "" if axis.whole else f" against {axis.label}, frame numbers along the upper border"
    if not axis.ordered:
        against = f" against {axis.label}, in the order of the frames; --axis frame draws against their numbers"
        strips = []
    per_frame = [
        _picture(
            peaks_per_frame(axis, table["peak_count"].values, failed, strips), f"Peaks in each frame{against}.{crosses}"
        )
    ]
    return {
        # One point is no curve.
        "series_pictures": per_frame if len(axis.values) > 1 else [],
        "disagreement_pictures": _disagreement_pictures(drawn),
        "profile_pictures": _profile_pictures(drawn),
    }


def _disagreement_pictures(drawn: Drawn) -> list[Picture]:
    known = np.isfinite(drawn.sample["disagreement"].values)
    if not known.any():
        return []
    frame, distance = drawn.sample["peak_frame"].values[known], drawn.sample["disagreement"].values[known]
    histogram = _picture(
        disagreement_histogram(distance),
        f"How often the network's and the fit's position lie so far apart: {np.count_nonzero(known):,} peaks that have "
        f"both.{drawn.of_sample()}",
    )
    if len(drawn.axis.values) < 2:
        return [histogram]
    curve = _picture(
        error_against_frame(drawn.axis, frame, distance),
        f"The same distance through the series, against {drawn.axis.label}.{drawn.of_sample()}",
    )
    return [histogram, curve]


def _profile_pictures(drawn: Drawn) -> list[Picture]:
    sample = drawn.sample
    if not sample.sizes["peak"]:
        return []
    figure = widths_and_snr(*(sample[name].values for name in ("fwhm_major", "fwhm_minor", "snr")))
    caption = (
        "Left, how wide the fitted peaks are (up to the 99.5th percentile); right, the ratio of signal to noise (SNR) "
        f"of those above 0.{drawn.of_sample()}"
    )
    return [_picture(figure, caption)]


def count_pictures(counts: dict[str, Any]) -> list[Picture]:
    """What was filtered and flagged as bars; nothing where nothing was."""
    if not any(counts["removed"].values()) and not any(counts["flags"].values()):
        return []
    return [_picture(count_bars(counts["removed"], counts["flags"]), "The two tables below, drawn.")]


def _picture(figure: Figure, caption: str) -> Picture:
    width = round(100 * figure.get_figwidth())
    return Picture(caption, png(figure, dpi=DPI), width)
