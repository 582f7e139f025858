"""The report of one run: a single HTML file with pictures, counts, settings and timings, for people."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.files import write_atomic
from braggflow.frames import OpenedSeries
from braggflow.peak_table import FLAG_MEANINGS, Flag
from braggflow.results import (
    RunFolder,
    SearchedFrame,
    open_peaks,
    open_run_frames,
    read_run_frame,
    read_run_info,
)
from braggflow.show.plots import (
    Example,
    count_bars,
    detected,
    disagreement_histogram,
    error_against_frame,
    frame_pair,
    located,
    patch_gallery,
    peaks_per_frame,
    widths_and_snr,
)

#: Distributions and examples are taken from at most this many peaks, spread evenly over the table.
SAMPLE_PEAKS = 1_000_000
#: Dots an inch of the pictures.
DPI = 100
#: Failures listed one by one.
LISTED_FAILURES = 50
_SAMPLED = ("peak_frame", "disagreement", "fwhm_major", "fwhm_minor", "snr", "flags")
_REMOVED_BY = {
    "minscore": "persistence not above detect.minscore",
    "min_area": "fewer pixels than detect.min_area",
    "max_area": "more pixels than detect.max_area",
    "min_edge_distance": "maximum closer to the frame's edge than detect.min_edge_distance",
    "min_neighbour_distance": "maximum closer to a higher one than detect.min_neighbour_distance",
    "min_snr": "intensity below detect.min_snr times its noise",
}
_STYLE = """
body { max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff;
       font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .25em .9em .25em 0; text-align: left;
       vertical-align: top; border-bottom: 1px solid #e4e4e4; } td.number, th.number { text-align: right; }
figure { margin: 1.5em 0; } figure img { max-width: 100%; display: block; } figcaption { color: #444; }
pre { background: #f5f5f5; padding: .8em 1em; overflow-x: auto; font-size: 14px; } .partial { color: #a33c00; }
"""


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder, from what is in it and from its frames store; returns its path.

    Where frames can no longer be read, a sentence stands in for their pictures. Raises `InputError` where the folder
    holds no run or no peak table.
    """
    folder = RunFolder(Path(run))
    info = read_run_info(folder)
    with open_peaks(folder.path) as table:
        sample = _sample(table)
        body = [
            _headline(info),
            _frame_pictures(folder, table, sample),
            _series_pictures(table, sample),
            _counts(info),
            _failures(info),
            "<h2>Settings</h2>",
            f"<pre>{escape(folder.settings.read_text(encoding='utf-8'))}</pre>",
            _times_and_versions(info),
            _opening(folder, table),
        ]
    name = escape(info["dataset"]["name"])
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: Bragg peaks</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{chr(10).join(body)}\n</body></html>\n"
    )
    write_atomic(folder.report, page.encode())
    return folder.report


def _sample(table: xr.Dataset) -> xr.Dataset:
    step = -(-table.sizes["peak"] // SAMPLE_PEAKS) or 1
    return table[list(_SAMPLED)].isel(peak=slice(None, None, step)).load()


def _headline(info: dict[str, Any]) -> str:
    dataset, counts, wall = info["dataset"], info["counts"], float(info["seconds"]["wall"])
    n_frames, n_failed = counts["frames"], counts["frames_failed"]
    shape = " × ".join(f"{n}" for n in dataset["shape"])
    rows = [
        ("Frames", f"{n_frames:,} of {shape} (frame, y, x), {dataset['dtype']}"),
        ("Failed frames", f"{n_failed:,}"),
        ("Peaks", f"{counts['peaks']:,} ({counts['peaks'] / max(1, n_frames - n_failed):.1f} a frame)"),
        ("Time", f"{wall:.1f} s" + (f" ({n_frames / wall:.1f} frames/s)" if wall > 0 else "")),
    ]
    parts = info["parts"]
    if parts["redone"] < parts["total"]:
        rows.append(("Parts", f"{parts['done']:,} of {parts['total']:,}; {parts['redone']:,} made in the last session"))
    if "written" in info:
        rows.append(("Written", info["written"]))
    rows.append(("Frames store", dataset["path"]))
    status = info["status"]
    return (
        f"<h1>{escape(dataset['name'])}</h1>"
        f"<p>Bragg peaks by braggflow {escape(info['versions']['braggflow'])}; the run is "
        f'<strong class="{escape(status)}">{escape(status)}</strong>.</p>' + _table(("", ""), rows)
    )


def _frame_pictures(folder: RunFolder, table: xr.Dataset, sample: xr.Dataset) -> str:
    """Pictures that need frames: the typical frame, the fullest one, example patches."""
    title = "<h2>Frames and peaks</h2>"
    numbers = _example_frames(table)
    if not numbers:
        return f"{title}<p>No frame could be processed, so there is none to show.</p>"
    try:
        series = open_run_frames(folder)
        typical = read_run_frame(series, numbers[0])
        pictures = [_typical_frame(typical, table, numbers[0], series.config.detect.background)]
        if len(numbers) > 1:
            fullest = read_run_frame(series, numbers[1])
            pictures.append(
                _figure(
                    located(fullest, _of_frame(table, numbers[1])),
                    f"Frame {numbers[1]}, the frame with the most peaks, as in the picture above.",
                )
            )
        pictures.append(_gallery(series, table, sample))
    except InputError as error:
        return f"{title}<p>The pictures of frames are left out, for these cannot be read now: {escape(str(error))}</p>"
    return title + "".join(pictures)


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


def _of_frame(table: xr.Dataset, number: int) -> xr.Dataset:
    # A slice, for a frame without peaks is no error.
    return table.sel(peak_frame=slice(number, number)).load()


def _typical_frame(seen: SearchedFrame, table: xr.Dataset, number: int, background: str) -> str:
    peaks = _of_frame(table, number)
    n = peaks.sizes["peak"]
    if n:
        shown = f"Frame {number}: of the frames with peaks, the one with the median number of them, {n:,}."
    else:
        shown = f"Frame {number}: the middle of the series, in which no frame has a peak."
    done = ["ignored pixels are blue"]
    if seen.bin > 1:
        done.append(f"{seen.bin} × {seen.bin} pixels are summed")
    if background != "none":
        source = "its own local background" if background == "local" else background
        done.append(f"{source} is subtracted")
    done.append(f"pixels below minval ({seen.minval:.4g} counts) are set to 0")
    pair = _figure(
        frame_pair(seen),
        f"{shown} Left as recorded, right as searched: {', '.join(done)}. Grey values are linear near the background "
        "and logarithmic above it; of pixels too small to draw, the highest is shown.",
    )
    if not n:
        return pair
    return (
        pair
        + _figure(
            detected(seen, peaks),
            f"Frame {number} with its {n:,} detected maxima: the larger the circle, the higher the score.",
        )
        + _figure(
            located(seen, peaks),
            f"Frame {number} with its located peaks, coloured by the method that placed them. Right, the peaks marked "
            "a to f, from the highest SNR to the lowest: the green square is the detected maximum, the cross the "
            "located position with its standard uncertainty where that is known.",
        )
    )


def _gallery(series: OpenedSeries, table: xr.Dataset, sample: xr.Dataset) -> str:
    chosen = example_peaks(sample)
    if not chosen:
        return ""
    step = -(-table.sizes["peak"] // SAMPLE_PEAKS)
    examples, cache = [], dict[int, SearchedFrame]()
    for title, i in chosen.items():
        peak = table.isel(peak=i * step).load()
        number = int(peak["peak_frame"])
        if number not in cache:
            cache[number] = read_run_frame(series, number)
        examples.append(Example(title, cache[number], peak))
    return _figure(
        patch_gallery(examples, size=series.config.patches.size),
        "Example patches, in detector pixels, each from white at its lowest pixel to black at its maximum. Sharp and "
        "broad: the 5th and 95th percentile of the width among peaks without flags; elongated: the 95th percentile of "
        "the ratio of the axes; faint: the 5th percentile of SNR; overlap, edge, saturated: the flagged peak of "
        "median SNR; worst disagreement: the largest network–fit distance. Ignored pixels, and those beyond the frame, "
        "are blue; a position outside the patch is not drawn.",
    )


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
        "overlap": (flags & Flag.overlap != 0, snr, 0.5),
        "edge": (flags & Flag.edge != 0, snr, 0.5),
        "saturated": (flags & Flag.saturated != 0, snr, 0.5),
        "worst disagreement": (np.ones(len(snr), bool), disagreement, 1.0),
    }
    chosen = {}
    for name, (where, key, share) in kinds.items():
        candidates = np.flatnonzero(where & np.isfinite(key))
        if len(candidates):
            ranked = candidates[np.argsort(key[candidates], kind="stable")]
            chosen[name] = int(ranked[round(share * (len(ranked) - 1))])
    return chosen


def _series_pictures(table: xr.Dataset, sample: xr.Dataset) -> str:
    failed = table["frame_failed"].values != 0
    text = ["<h2>The series</h2>"]
    text.append(
        _figure(
            peaks_per_frame(table["frame"].values, table["peak_count"].values, failed),
            "Peaks in each frame." + (" Crosses: frames that could not be processed." if failed.any() else ""),
        )
    )
    n = sample.sizes["peak"]
    if not n:
        return "".join([*text, "<p>No peak was found, so there is nothing to draw about peaks.</p>"])
    of = "" if n == table.sizes["peak"] else f" From {n:,} peaks spread evenly over the table."
    known = np.isfinite(sample["disagreement"].values)
    if known.any():
        frame, distance = sample["peak_frame"].values[known], sample["disagreement"].values[known]
        text.append(
            _figure(
                error_against_frame(frame, distance),
                f"Distance between the network's and the fit's position against frame number.{of}",
            )
        )
        text.append(
            _figure(
                disagreement_histogram(distance),
                f"How often they lie so far apart: {np.count_nonzero(known):,} peaks that have both.{of}",
            )
        )
    else:
        text.append("<p>No peak has both a network's and a fit's position, so they cannot be compared.</p>")
    text.append(
        _figure(
            widths_and_snr(*(sample[name].values for name in ("fwhm_major", "fwhm_minor", "snr"))),
            f"Widths of the fitted profiles (up to the 99.5th percentile), and SNR of the intensities above 0.{of}",
        )
    )
    return "".join(text)


def _counts(info: dict[str, Any]) -> str:
    counts = info["counts"]
    n_peaks = counts["peaks"]
    removed = [(name, f"{n:,}", _REMOVED_BY.get(name, "")) for name, n in counts["removed"].items()]
    flags = [
        (str(flag.name), f"{n:,}", f"{n / max(1, n_peaks):.1%}", FLAG_MEANINGS[flag])
        for flag in Flag
        if (n := counts["flags"].get(flag.name)) is not None
    ]
    methods = [(name, f"{n:,}", f"{n / max(1, n_peaks):.1%}") for name, n in counts["methods"].items() if n]
    text = ["<h2>What was filtered and flagged</h2>"]
    if any(counts["removed"].values()) or any(counts["flags"].values()):
        text.append(_figure(count_bars(counts["removed"], counts["flags"]), "The two tables below, drawn."))
    return "".join(
        [
            *text,
            "<h3>Removed by filters</h3>",
            _table(("filter", "#peaks", "removed because"), removed),
            f"<h3>Flags of the {n_peaks:,} peaks kept (several may hold at once)</h3>",
            _table(("flag", "#peaks", "#share", "meaning"), flags),
            "<h3>Method that gave y and x</h3>",
            _table(("method", "#peaks", "#share"), methods),
        ]
    )


def _failures(info: dict[str, Any]) -> str:
    failures = info["failures"]
    if not failures:
        return "<h2>Failures</h2><p>None: every frame was processed.</p>"
    n = len(failures)
    more = f" The first {LISTED_FAILURES} are:" if n > LISTED_FAILURES else ""
    rows = [(f"{failure['frame']}", failure["reason"]) for failure in failures[:LISTED_FAILURES]]
    return f"<h2>Failures</h2><p>{n:,} {'frame' if n == 1 else 'frames'} could not be processed.{more}</p>" + _table(
        ("#frame", "reason"), rows
    )


def _times_and_versions(info: dict[str, Any]) -> str:
    stages = info["seconds"]["stages"]
    total = sum(stages.values()) or 1.0
    times = [(stage, f"{seconds:.2f}", f"{seconds / total:.0%}") for stage, seconds in stages.items()]
    return (
        "<h2>Time by stage</h2><p>Summed over all workers, so that it may exceed the run's own time.</p>"
        + _table(("stage", "#seconds", "#share"), times)
        + "<h2>Versions</h2>"
        + _table(("package", "version"), info["versions"].items())
    )


def _opening(folder: RunFolder, table: xr.Dataset) -> str:
    number = int(table["frame"].values[0])
    code = (
        f"import braggflow\n\npeaks = braggflow.open_peaks({str(folder.path.resolve())!r})\n"
        f"peaks.sel(peak_frame=slice({number}, {number}))  # the peaks of frame {number}\n"
        'peaks[["y", "x", "snr", "flags"]].to_dataframe()'
    )
    return f"<h2>The table in Python</h2><pre>{escape(code)}</pre>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; columns whose heading begins with # are numbers."""
    kinds = [' class="number"' if name.startswith("#") else "" for name in head]
    cells = ["".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) for row in rows]
    if not cells:
        return "<p>None.</p>"
    names = "".join(f"<th{kind}>{escape(name.lstrip('#'))}</th>" for kind, name in zip(kinds, head, strict=True))
    top = f"<tr>{names}</tr>" if any(head) else ""
    return f"<table>{top}{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _figure(figure: Figure, caption: str) -> str:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    image = base64.b64encode(content.getvalue()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{image}"><figcaption>{text}</figcaption></figure>\n'
