"""The report of one run: a single HTML file with pictures, counts, settings and timings, for people."""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    write_run_info,
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
from braggflow.show.repeatability import repeatability

if TYPE_CHECKING:
    from jinja2 import Environment

#: Distributions and examples are taken from at most this many peaks, spread evenly over the table.
SAMPLE_PEAKS = 1_000_000
#: Dots an inch of the pictures.
DPI = 100
#: Failures listed one by one.
LISTED_FAILURES = 50
#: The page, in the folder `templates` beside this module.
TEMPLATE = "report.html.j2"
_SAMPLED = ("peak_frame", "disagreement", "fwhm_major", "fwhm_minor", "snr", "flags")
_REMOVED_BY = {
    "false_peaks": "not significant against the noise of their place (detect.false_peaks)",
    "minscore": "persistence not above detect.minscore",
    "min_area": "fewer pixels than detect.min_area",
    "max_area": "more pixels than detect.max_area",
    "min_edge_distance": "maximum closer to the frame's edge than detect.min_edge_distance",
    "min_neighbour_distance": "maximum closer to a higher one than detect.min_neighbour_distance",
    "min_snr": "snr below detect.min_snr",
}


@dataclass(frozen=True)
class _Picture:
    """A picture with its caption: `png` is the file in base64, as a page takes it."""

    caption: str
    png: str


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder, from what is in it and from its frames.

    How well positions repeat on halves of the pixels is measured for it, and put into `run.json` too (`repeatability`).

    Parameters
    ----------
    run : pathlib.Path or str
        The run folder, ``OUT/DATASET``.

    Returns
    -------
    pathlib.Path
        The report: one file with pictures, counts, settings and timings. Where frames can no longer be read, a sentence
        stands in for their pictures.

    Raises
    ------
    InputError
        Where the folder holds no run or no peak table.

    Examples
    --------
    >>> from pathlib import Path
    >>> from braggflow.show import write_report
    >>> write_report(Path("runs/scan"))  # doctest: +SKIP
    PosixPath('runs/scan/report.html')
    """
    folder = RunFolder(Path(run))
    info = read_run_info(folder)
    with open_peaks(folder.path) as table:
        info["repeatability"] = _repeatability(folder, table)
        contents = page_contents(folder, info, table)
    page = page_environment().get_template(TEMPLATE).render(contents)
    write_atomic(folder.report, page.encode())
    write_run_info(folder, info)
    return folder.report


def page_environment() -> "Environment":
    """The template engine of the page: it escapes every value, and refuses a name or an attribute that has none."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here, because only a report needs it

    return Environment(
        loader=PackageLoader("braggflow.show", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def page_contents(folder: RunFolder, info: dict[str, Any], table: xr.Dataset) -> dict[str, Any]:
    """All that the page shows, by the names that its template uses; every text is plain, escaped by the template."""
    sample = _sample(table)
    return {
        "name": info["dataset"]["name"],
        "status": info["status"],
        "headline": _headline(info),
        **_frames(folder, table, sample),
        **_series(table, sample),
        **_counts(info),
        **_repeated(info["repeatability"]),
        **_failures(info),
        "settings": folder.settings.read_text(encoding="utf-8"),
        "stages": _stages(info),
        "versions": info["versions"],
        "run_path": repr(str(folder.path.resolve())),
        "first_frame": int(table["frame"].values[0]),
    }


def _sample(table: xr.Dataset) -> xr.Dataset:
    step = -(-table.sizes["peak"] // SAMPLE_PEAKS) or 1
    return table[list(_SAMPLED)].isel(peak=slice(None, None, step)).load()


def _headline(info: dict[str, Any]) -> list[tuple[str, str]]:
    dataset, counts, wall = info["dataset"], info["counts"], float(info["seconds"]["wall"])
    n_frames, n_failed = counts["frames"], counts["frames_failed"]
    shape = " × ".join(f"{n}" for n in dataset["shape"])
    rows = [
        ("Frames", f"{n_frames:,} of {shape} (frame, y, x), {dataset['dtype']}"),
        ("Failed frames", f"{n_failed:,}"),
        ("Peaks", f"{counts['peaks']:,} ({counts['peaks'] / max(1, n_frames - n_failed):.1f} a frame)"),
        ("Time", f"{wall:.1f} s" + (f" ({n_frames / wall:.1f} frames/s)" if wall > 0 else "")),
    ]
    rows += _detector(info)
    parts = info["parts"]
    if parts["redone"] < parts["total"]:
        rows.append(("Parts", f"{parts['done']:,} of {parts['total']:,}; {parts['redone']:,} made in the last session"))
    if "written" in info:
        rows.append(("Written", info["written"]))
    rows.append(("Frames store", dataset["path"]))
    return rows


def _detector(info: dict[str, Any]) -> list[tuple[str, str]]:
    """The detector's constants, how they were found, and what is to be known of them; of an older run nothing."""
    found = info.get("detector")
    if found is None:
        return []

    def number(key: str) -> str:
        std = found[f"{key}_std"]
        return f"{found[key]:.4g}" + ("" if std is None else f" ± {std:.2g}")

    told = f"{number('counts_per_photon')} counts a photon, read noise {number('read_noise')} counts: {found['how']}"
    bad = found.get("bad_pixels")
    if bad:
        kinds = ", ".join(f"{len(bad[kind]):,} {kind}" for kind in ("hot", "noisy", "dead"))
        spots = f"; {bad['persistent_spots']:,} other spots are there in nearly all of them"
        told += f"; bad pixels found in {bad['frames']:,} frames and ignored: {kinds}{spots}"
    return [("Detector", told), *(("", note) for note in found["notes"])]


def _frames(folder: RunFolder, table: xr.Dataset, sample: xr.Dataset) -> dict[str, Any]:
    """The pictures that need frames, or why these cannot be read."""
    try:
        return {"frame_pictures": _frame_pictures(folder, table, sample), "frames_unreadable": ""}
    except InputError as error:
        return {"frame_pictures": [], "frames_unreadable": str(error)}


def _frame_pictures(folder: RunFolder, table: xr.Dataset, sample: xr.Dataset) -> list[_Picture]:
    """The typical frame, the fullest one, example patches; nothing where no frame could be processed."""
    numbers = _example_frames(table)
    if not numbers:
        return []
    series = open_run_frames(folder)
    typical = read_run_frame(series, numbers[0])
    pictures = _typical_frame(typical, table, numbers[0], series.config.detect.background)
    if len(numbers) > 1:
        fullest = read_run_frame(series, numbers[1])
        pictures.append(
            _picture(
                located(fullest, _of_frame(table, numbers[1])),
                f"Frame {numbers[1]}, the frame with the most peaks, as in the picture above.",
            )
        )
    return pictures + _gallery(series, table, sample)


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
    return table.sel(peak_frame=number).load()


def _typical_frame(seen: SearchedFrame, table: xr.Dataset, number: int, background: str) -> list[_Picture]:
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
    level = "the noise of their place" if seen.floor.ndim else f"minval ({seen.floor:.4g} counts)"
    done.append(f"pixels below {level} are set to 0")
    pair = _picture(
        frame_pair(seen),
        f"{shown} Left as recorded, right as searched: {', '.join(done)}. Grey values are linear near the background "
        "and logarithmic above it; of pixels too small to draw, the highest is shown.",
    )
    if not n:
        return [pair]
    maxima = _picture(
        detected(seen, peaks),
        f"Frame {number} with its {np.count_nonzero(peaks['score'] > 0):,} detected maxima: the larger the circle, the "
        "higher the score.",
    )
    positions = _picture(
        located(seen, peaks),
        f"Frame {number} with its located peaks, coloured by the method that placed them. Right, the peaks marked "
        "a to f, from the highest SNR to the lowest: the green square is the detected maximum, the cross the "
        "located position with its standard uncertainty where that is known.",
    )
    return [pair, maxima, positions]


def _gallery(series: OpenedSeries, table: xr.Dataset, sample: xr.Dataset) -> list[_Picture]:
    chosen = example_peaks(sample)
    if not chosen:
        return []
    step = -(-table.sizes["peak"] // SAMPLE_PEAKS)
    examples, cache = [], dict[int, SearchedFrame]()
    for title, i in chosen.items():
        peak = table.isel(peak=i * step).load()
        number = int(peak["peak_frame"])
        if number not in cache:
            cache[number] = read_run_frame(series, number)
        examples.append(Example(title, cache[number], peak))
    gallery = _picture(
        patch_gallery(examples, size=series.config.patches.size),
        "Example patches, in detector pixels, each from white at its lowest pixel to black at its maximum. Sharp and "
        "broad: the 5th and 95th percentile of the width among peaks without flags; elongated: the 95th percentile of "
        "the ratio of the axes; faint: the 5th percentile of SNR; overlap, edge, saturated: the flagged peak of "
        "median SNR; worst disagreement: the largest network–fit distance. Ignored pixels, and those beyond the frame, "
        "are blue; a position outside the patch is not drawn.",
    )
    return [gallery]


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


def _series(table: xr.Dataset, sample: xr.Dataset) -> dict[str, Any]:
    """Pictures of the whole series; those about peaks only where there are some."""
    failed = table["frame_failed"].values != 0
    crosses = " Crosses: frames that could not be processed." if failed.any() else ""
    per_frame = peaks_per_frame(table["frame"].values, table["peak_count"].values, failed)
    n = sample.sizes["peak"]
    of = "" if n == table.sizes["peak"] else f" From {n:,} peaks spread evenly over the table."
    return {
        "series_pictures": [_picture(per_frame, f"Peaks in each frame.{crosses}")],
        "disagreement_pictures": _disagreement_pictures(sample, of),
        "profile_pictures": _profile_pictures(sample, of),
    }


def _disagreement_pictures(sample: xr.Dataset, of: str) -> list[_Picture]:
    known = np.isfinite(sample["disagreement"].values)
    if not known.any():
        return []
    frame, distance = sample["peak_frame"].values[known], sample["disagreement"].values[known]
    return [
        _picture(
            error_against_frame(frame, distance),
            f"Distance between the network's and the fit's position against frame number.{of}",
        ),
        _picture(
            disagreement_histogram(distance),
            f"How often they lie so far apart: {np.count_nonzero(known):,} peaks that have both.{of}",
        ),
    ]


def _profile_pictures(sample: xr.Dataset, of: str) -> list[_Picture]:
    if not sample.sizes["peak"]:
        return []
    drawn = widths_and_snr(*(sample[name].values for name in ("fwhm_major", "fwhm_minor", "snr")))
    caption = f"Widths of the fitted profiles (up to the 99.5th percentile), and SNR of the intensities above 0.{of}"
    return [_picture(drawn, caption)]


def _counts(info: dict[str, Any]) -> dict[str, Any]:
    counts = info["counts"]
    n_peaks = counts["peaks"]
    pictures = []
    if any(counts["removed"].values()) or any(counts["flags"].values()):
        pictures.append(_picture(count_bars(counts["removed"], counts["flags"]), "The two tables below, drawn."))
    return {
        "n_peaks": f"{n_peaks:,}",
        "count_pictures": pictures,
        "removed": [(name, f"{n:,}", _REMOVED_BY.get(name, "")) for name, n in counts["removed"].items()],
        "flags": [
            (str(flag.name), f"{n:,}", f"{n / max(1, n_peaks):.1%}", FLAG_MEANINGS[flag])
            for flag in Flag
            if (n := counts["flags"].get(flag.name)) is not None
        ],
        "methods": [(name, f"{n:,}", f"{n / max(1, n_peaks):.1%}") for name, n in counts["methods"].items() if n],
    }


def _repeatability(folder: RunFolder, table: xr.Dataset) -> dict[str, Any]:
    """How well positions repeat, or the `reason` why that is not known."""
    try:
        return repeatability(folder, table)
    except InputError as error:
        return {"reason": str(error)}


def _repeated(found: dict[str, Any]) -> dict[str, Any]:
    """The table of repeatability, and the sentence above it."""
    if "reason" in found:
        return {"repeated": [], "repeated_told": f"Not known: {found['reason']}"}
    if found["ratio"] is None:
        return {"repeated": [], "repeated_told": f"Not known: only {found['peaks']:,} peaks have fits of both halves."}
    told = (
        f"{found['peaks']:,} peaks of {found['frames']:,} frames, each fitted on both halves of its pixels, split like "
        f"a checkerboard: the positions differ by {found['ratio']:.2f} ± {found['ratio_std']:.2f} times what their "
        "stated uncertainties say (1: these are honest; above: they are too small; locate.scale_std takes the factor). "
        f"{found['failed']:,} more are left out: a half could not be fitted, or not well."
    )
    rows = [
        (
            of["class"],
            f"{of['snr'][0]:g} to {of['snr'][1]:g}" if of["snr"][1] is not None else f"{of['snr'][0]:g} and more",
            f"{of['peaks']:,}",
            f"{of['ratio']:.2f} ± {of['ratio_std']:.2f}",
        )
        for of in found["bins"]
    ]
    return {"repeated": rows, "repeated_told": told}


def _failures(info: dict[str, Any]) -> dict[str, Any]:
    failures = info["failures"]
    n = len(failures)
    return {
        "failures": [(f"{failure['frame']}", failure["reason"]) for failure in failures[:LISTED_FAILURES]],
        "failed_frames": f"{n:,} {'frame' if n == 1 else 'frames'}",
        "more_failures": n > LISTED_FAILURES,
    }


def _stages(info: dict[str, Any]) -> list[tuple[str, str, str]]:
    stages = info["seconds"]["stages"]
    total = sum(stages.values()) or 1.0
    return [(stage, f"{seconds:.2f}", f"{seconds / total:.0%}") for stage, seconds in stages.items()]


def _picture(figure: Figure, caption: str) -> _Picture:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    return _Picture(caption, base64.b64encode(content.getvalue()).decode())
