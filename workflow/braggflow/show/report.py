"""The report of one run: a single HTML file with pictures, counts, settings and timings, for people."""

import base64
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from braggflow.errors import InputError, printable
from braggflow.files import write_atomic
from braggflow.results import RunFolder, open_peaks, provenance, read_run_info, write_run_info
from braggflow.show import report_words as words
from braggflow.show.frame_pictures import processed_frame
from braggflow.show.halves import repeatability
from braggflow.show.report_pictures import Drawn, count_pictures, frame_pictures, projection_pictures, series_pictures
from braggflow.show.series_axis import SeriesAxis, axis_of_series

if TYPE_CHECKING:
    from jinja2 import Environment

#: Distributions and examples are taken from at most this many peaks, spread evenly over the table.
SAMPLE_PEAKS = 1_000_000
#: A table of up to so many peaks is read at once: each column that is read by itself costs milliseconds.
READ_AT_ONCE = 300_000
#: The page, in the folder `templates` beside this module.
TEMPLATE = "report.html.j2"
_SAMPLED = ("peak_frame", "y", "x", "disagreement", "fwhm_major", "fwhm_minor", "snr", "flags")


def write_report(run: Path, *, frames: Sequence[int] = (), axis: str | None = None) -> Path:
    """Write `report.html` into a run folder, from what is in it and from its frames.

    How well positions repeat on halves of the pixels is measured for it, and put into `run.json` too (`repeatability`).

    Parameters
    ----------
    run : pathlib.Path or str
        The run folder, ``OUT/DATASET``.
    frames : sequence of int, optional
        Numbers of the frames to show; without any, the frame with the median number of peaks and the one with the most.
    axis : str, optional
        The coordinate that the series is drawn against, or ``"frame"`` for the frames' numbers; without it omega, time,
        voltage or the like where the frames have one that rises or falls all along.

    Returns
    -------
    pathlib.Path
        The report: one file with pictures, counts, settings and timings. Where frames can no longer be read, a sentence
        stands in for their pictures.

    Raises
    ------
    InputError
        Where the folder holds no run or no peak table, for a frame that the run does not have or could not process, and
        for an axis that its frames do not have.

    Examples
    --------
    >>> from pathlib import Path
    >>> from braggflow.show import write_report
    >>> write_report(Path("runs/scan"), frames=[1, 2])  # doctest: +SKIP
    PosixPath('runs/scan/report.html')
    """
    folder = RunFolder(Path(run))
    info = read_run_info(folder)
    with open_peaks(folder.path) as table, _without_collector():
        if table.sizes["peak"] <= READ_AT_ONCE:
            table = table.load()
        shown, against = [processed_frame(table, number) for number in frames], axis_of_series(table, axis)
        contents = page_contents(folder, info, table, frames=shown, axis=against)
        page = page_environment().get_template(TEMPLATE).render(contents)
    write_atomic(folder.report, page.encode())
    write_run_info(folder, info)
    return folder.report


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector of circles waits: with all that a run has imported, each of its rounds takes 0.3 s."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def page_environment() -> "Environment":
    """The template engine of the page: it escapes every value, and refuses a name or an attribute that has none."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here, because only a report needs it

    return Environment(
        loader=PackageLoader("braggflow.show", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def page_contents(
    folder: RunFolder, info: dict[str, Any], table: xr.Dataset, *, frames: Sequence[int], axis: SeriesAxis
) -> dict[str, Any]:
    """All that the page shows, by the names that its template uses; every text is plain, escaped by the template.

    What is measured on the way is put into `info` (`repeatability`).
    """
    step = -(-table.sizes["peak"] // SAMPLE_PEAKS) or 1
    sample = table[list(_SAMPLED)].isel(peak=slice(None, None, step)).load()
    drawn = Drawn(folder, table, sample, step, axis)
    info["repeatability"] = _repeatability(drawn)
    return {
        "name": info["dataset"]["name"],
        "status": info["status"],
        "warnings": words.warnings(info),
        "headline": words.headline(info),
        **_frames(drawn, frames),
        **series_pictures(drawn),
        **words.counted(info),
        "count_pictures": count_pictures(info["counts"]),
        **words.checked(info),
        **words.repeated(info["repeatability"]),
        **words.failures(info),
        **words.made_from(provenance(folder.path)),
        "settings": folder.settings.read_text(encoding="utf-8"),
        "stages": words.stages(info),
        "versions": info["versions"],
        "run_path": repr(str(folder.path.resolve())),
        "example_frame": frames[0] if frames else int(table["frame"].values[0]),
        "encode": lambda png: base64.b64encode(png).decode(),
    }


def _frames(drawn: Drawn, frames: Sequence[int]) -> dict[str, Any]:
    """The pictures that need frames, or why these cannot be read."""
    try:
        found = {"frame_pictures": frame_pictures(drawn, frames), "projection_pictures": projection_pictures(drawn)}
        return {**found, "frames_unreadable": ""}
    except InputError as error:
        return {"frame_pictures": [], "projection_pictures": [], "frames_unreadable": str(error)}


def _repeatability(drawn: Drawn) -> dict[str, Any]:
    """How well positions repeat, or the `reason` why that is not known."""
    try:
        return repeatability(drawn.folder, drawn.table, drawn.series)
    except InputError as error:
        return {"reason": str(error)}
