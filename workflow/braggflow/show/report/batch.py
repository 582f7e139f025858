"""The report of many data sets: one page with a row for each, and a link to its own report."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.files import write_atomic
from braggflow.results import Alarm, DataSetStatus, RunFolder, data_set_statuses, read_run_info, stored_columns
from braggflow.show.report.page import page_environment, page_parts

#: The page, in the folder that it is of.
BATCH = "batch.html"
TEMPLATE = "batch.html.j2"
#: Points of a sparkline at most, and the size of its picture.
POINTS, WIDE, HIGH = 100, 104, 26


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A small curve: `points` as SVG has them, and its range in words."""

    points: Sequence[str]
    """One for each stretch without a gap."""
    told: str


@dataclass(frozen=True, slots=True)
class Row:
    """A data set on the page; what is not known of it is None."""

    state: DataSetStatus
    link: str
    """To its report, relative to the page; "" where it has none."""
    peaks: Sparkline | None = None
    means: Sparkline | None = None
    snr: float | None = None
    flagged: float | None = None
    found: float | None = None
    """Share of the self-check's peaks that was found."""
    verdict: str = ""
    alarms: Sequence[str] = ()
    problem: str = ""
    """Why what is in the table cannot be shown."""

    @property
    def told(self) -> list[str]:
        """What is to be known of it, in sentences."""
        state = self.state
        more = [f"and {state.more:,} more frames"] if state.more else []
        return [*state.reasons, *more, *filter(None, [self.problem])]


def write_batch_report(runs: "str | Path | Sequence[str | Path]", out: str | Path | None = None) -> Path:
    """Write one page on many data sets: counts, sparklines, self-check and alarms of each, and a link to its report.

    Parameters
    ----------
    runs : str, pathlib.Path or a sequence of them
        Run folders ``OUT/DATASET``, or folders of them, as ``OUT``.
    out : str or pathlib.Path, optional
        The file; by default `batch.html` in the folder that is given, or the one that holds all that are.

    Returns
    -------
    pathlib.Path
        The page: one file that loads nothing else. Runs that failed, are under way or were refused have a row too. The
        reports of the runs are linked as they are, and not written again.

    Raises
    ------
    InputError
        Where one of the folders holds no run, nor does a folder below it.

    Examples
    --------
    >>> from braggflow.show import write_batch_report
    >>> write_batch_report(["runs/scan"]).name
    'batch.html'
    """
    given = [Path(runs)] if isinstance(runs, str | Path) else [Path(path) for path in runs]
    if not given:
        raise InputError("runs: none is given; must be run folders, or folders of them")
    found = {state.path.absolute(): state for path in given for state in data_set_statuses(path)}
    holding = Path(
        os.path.commonpath([path.absolute() if len(given) == 1 else path.absolute().parent for path in given])
    )
    page = holding / BATCH if out is None else Path(out)
    if not page.parent.is_dir():
        raise InputError(f"batch report {page}: there is no folder {page.parent}")
    names = {path: os.path.relpath(path, holding) for path in found}
    rows = [
        _row(state, page.parent.absolute(), names[path] if names[path] != "." else state.name)
        for path, state in found.items()
    ]
    write_atomic(page, _page(holding.name or str(holding), rows).encode())
    return page


def _page(name: str, rows: Sequence[Row]) -> str:
    statuses = Counter(row.state.status for row in rows)
    contents = {
        "name": name,
        "rows": rows,
        "statuses": [f"{n:,} {status}" for status, n in statuses.most_common()],
        "frames": sum(row.state.frames for row in rows),
        "failed": sum(row.state.frames_failed for row in rows),
        "peaks": sum(row.state.peaks for row in rows),
        "alarms": sum(len(row.alarms) for row in rows),
        "wide": WIDE,
        "high": HIGH,
        **page_parts(),
    }
    return page_environment().get_template(TEMPLATE).render(contents)


def _row(state: DataSetStatus, beside: Path, name: str) -> Row:
    """A data set's row on a page in the folder `beside`; what is damaged of it is said there, and stops no other."""
    state, folder = replace(state, name=name), RunFolder(state.path)
    link = quote(os.fsencode(os.path.relpath(folder.report, beside))) if folder.report.is_file() else ""
    try:
        info = read_run_info(folder)
        told = _told(info)
    except (InputError, KeyError, TypeError, AttributeError, ValueError):
        return Row(state, link)  # the status says why it cannot be read, or that there is no run
    try:
        return Row(state, link, **told, **_of_table(folder))
    except (InputError, OSError, LookupError, ValueError) as error:
        ended = state.status in ("complete", "partial")
        return Row(state, link, **told, problem=f"{error}" if ended else "")


def _told(info: dict[str, Any]) -> dict[str, Any]:
    """What `run.json` says of the self-check and of changes."""
    check = info.get("check", {})
    alarms = [str(Alarm(**alarm)) for alarm in info.get("alarms", [])]
    share = check.get("limit", {}).get("recall", {}).get("share")
    found = float(share) if isinstance(share, int | float) else None
    return {"alarms": alarms, "found": found, "verdict": str(check.get("verdict", check.get("left_out", "")))}


def _of_table(folder: RunFolder) -> dict[str, Any]:
    """What the peak table says; raises `InputError` where there is none."""
    table = stored_columns(folder, ("frame_failed", "peak_count", "frame_mean", "snr", "flags"))
    failed, snr, flags = table["frame_failed"] != 0, table["snr"], table["flags"]
    means = table.get("frame_mean", np.full(len(failed), np.nan))
    return {
        "peaks": _sparkline(np.where(failed, np.nan, table["peak_count"]), "peaks in a frame"),
        "means": _sparkline(np.where(failed, np.nan, means), "counts a pixel"),
        "snr": float(np.nanmedian(snr)) if np.isfinite(snr).any() else None,
        "flagged": float(np.mean(flags != 0)) if len(flags) else None,
    }


def _sparkline(values: NDArray[np.float64], units: str) -> Sparkline | None:
    """A curve (n,) from 0 to its highest value, in groups of consecutive frames where it is long; NaN is a gap."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    together = -(-len(values) // POINTS)
    padded = np.full(-(-len(values) // together) * together, np.nan)
    padded[: len(values)] = values
    groups = padded.reshape(-1, together)
    n = np.isfinite(groups).sum(axis=1)
    means = np.nansum(groups, axis=1) / np.where(n, n, 1)
    x = (np.arange(len(means)) + 0.5) / len(means) * WIDE
    y = HIGH - 2 - (HIGH - 4) * np.clip(means / max(float(np.nanmax(means)), 1e-12), 0, 1)
    stretches = np.split(np.arange(len(means)), np.flatnonzero(np.diff(n > 0)) + 1)
    points = [
        " ".join(f"{x[i]:.1f},{y[i]:.1f}" for i in ([at[0], at[0]] if len(at) == 1 else at))
        for at in stretches
        if n[at[0]]
    ]
    low, middle, high = (float(f"{value:.3g}") for value in (known.min(), np.median(known), known.max()))
    return Sparkline(points, f"{low:,g} to {high:,g} {units}, median {middle:,g}")
