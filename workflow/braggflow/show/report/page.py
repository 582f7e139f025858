"""The report of one run: a single HTML file with pictures, counts, settings and timings, for people."""

import base64
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braggflow.errors import InputError, printable
from braggflow.files import write_atomic
from braggflow.results import RunFolder, provenance, read_run_info, write_run_info
from braggflow.show.report import words
from braggflow.show.report.followed import followed, waterfall_pictures
from braggflow.show.report.halves import repeatability
from braggflow.show.report.pictures import count_pictures, frame_pictures, projection_pictures, series_pictures
from braggflow.show.report.zoom import mark_colours
from braggflow.show.shown_run import ShownRun, shown_run

if TYPE_CHECKING:
    import xarray as xr
    from jinja2 import Environment

#: The page, in the folder `templates` beside this module.
TEMPLATE = "report.html.j2"
#: What makes its pictures zoom, in the same folder.
SCRIPT = "page.js"


def write_report(
    run: Path, *, frames: Sequence[int] = (), axis: str | None = None, peaks: "xr.Dataset | None" = None
) -> Path:
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
    peaks : xarray.Dataset, optional
        The run's peak table with more coordinates of its frames, as `join_log` returns it: these are drawn too.

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
    with _without_collector():
        shown = shown_run(folder.path, axis, peaks)
        contents = page_contents(shown, info, frames=[shown.chosen(number) for number in frames])
        page = page_environment().get_template(TEMPLATE).render(contents)
    write_atomic(folder.report, page.encode())
    write_run_info(folder, info)
    return folder.report


def page_parts() -> dict[str, Any]:
    """What pages need beside what they show: how pictures are embedded, and the hash of the one script that may run."""
    script = resources.files("braggflow.show.report").joinpath("templates", SCRIPT).read_bytes()
    return {
        "encode": lambda png: base64.b64encode(png).decode(),
        "mark_colours": mark_colours(),
        "script_hash": base64.b64encode(sha256(script).digest()).decode(),
    }


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
        loader=PackageLoader("braggflow.show.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def page_contents(shown: ShownRun, info: dict[str, Any], *, frames: Sequence[int]) -> dict[str, Any]:
    """All that the page shows, by the names that its template uses; every text is plain, escaped by the template.

    What is measured on the way is put into `info` (`repeatability`).
    """
    folder = shown.folder
    info["repeatability"] = _repeatability(shown)
    return {
        "name": info["dataset"]["name"],
        "status": info["status"],
        "warnings": words.warnings(info),
        "headline": words.headline(info),
        **_frames(shown, frames),
        **series_pictures(shown),
        **followed(shown, info),
        "waterfall_pictures": waterfall_pictures(shown),
        **words.counted(info),
        "count_pictures": count_pictures(shown, info["counts"]),
        **words.checked(info),
        **words.repeated(info["repeatability"]),
        **words.failures(info),
        **words.made_from(provenance(folder.path)),
        "settings": folder.settings.read_text(encoding="utf-8"),
        "stages": words.stages(info),
        "versions": info["versions"],
        "run_path": repr(str(folder.path.resolve())),
        "example_frame": frames[0] if frames else int(shown.table["frame"].values[0]),
        **page_parts(),
    }


def _frames(shown: ShownRun, frames: Sequence[int]) -> dict[str, Any]:
    """The pictures that need frames, or why these cannot be read."""
    try:
        found = {"frame_pictures": frame_pictures(shown, frames), "projection_pictures": projection_pictures(shown)}
        return {**found, "frames_unreadable": ""}
    except InputError as error:
        return {"frame_pictures": [], "projection_pictures": [], "frames_unreadable": str(error)}


def _repeatability(shown: ShownRun) -> dict[str, Any]:
    """How well positions repeat, or the `reason` why that is not known."""
    try:
        return repeatability(shown.folder, shown.table, shown.series)
    except InputError as error:
        return {"reason": str(error)}
