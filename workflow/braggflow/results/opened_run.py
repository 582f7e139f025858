"""A run on disk as one object: its settings, its record, its table."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import xarray as xr

from braggflow.config import RunConfig
from braggflow.errors import InputError
from braggflow.results.folder import FILES, RunFolder, file_digests, read_run_config, read_run_info
from braggflow.results.followed import damage_of_tracks, open_tracks
from braggflow.results.made_from import html_pairs
from braggflow.results.peaks import damage_of_table, open_peaks, open_stored_peaks
from braggflow.results.watch import Alarm

#: Failed frames that a notebook shows.
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Run:
    """A run that `open_run` opened: its settings, its record, its peak table.

    Attributes
    ----------
    path : pathlib.Path
        The run folder.
    info : dict
        The content of `run.json`: status, counts by filter and flag, timings, versions, failures.
    config : RunConfig
        The whole configuration that it was made with.

    Examples
    --------
    >>> import braggflow
    >>> run = braggflow.open_run("runs/scan")
    >>> run
    <braggflow run scan: complete, 4 frames (0 failed), ... peaks, runs/scan>
    >>> run.peaks.sizes["peak"] == run.info["counts"]["peaks"]
    True
    """

    path: Path
    info: dict[str, Any]
    config: RunConfig

    @property
    def status(self) -> str:
        """How the run stands: complete, partial, interrupted, or running (also of a run that was killed)."""
        return str(self.info["status"])

    @property
    def peaks(self) -> xr.Dataset:
        """The peak table, read lazily; raises `InputError` where the run has none yet."""
        return open_peaks(self.path)

    @property
    def report(self) -> Path:
        """The report for people; the file may not have been asked for."""
        return RunFolder(self.path).report

    def __repr__(self) -> str:
        counts = self.info["counts"]
        return (
            f"<braggflow run {self.path.name}: {self.status}, {counts['frames']:,} frames "
            f"({counts['frames_failed']:,} failed), {counts['peaks']:,} peaks, {self.path}>"
        )

    def _repr_html_(self) -> str:
        counts, report = self.info["counts"], self.report
        rows = [
            ("run", f"{self.path.name} ({self.path})"),
            ("status", self.status),
            ("frames", f"{counts['frames']:,} ({counts['frames_failed']:,} failed)"),
            ("peaks", f"{counts['peaks']:,}"),
            ("self-check", str(self.info.get("check", {}).get("verdict", ""))),
            *(("changed", str(Alarm(**alarm))) for alarm in self.info.get("alarms", [])),
            *(("failed", f"frame {of['frame']}: {of['reason']}") for of in self.info["failures"][:_LISTED]),
        ]
        link = f'<a href="{escape(report.resolve().as_uri())}">report</a>' if report.exists() else ""
        return html_pairs((name, text) for name, text in rows if text) + link


def damage_of_run(folder: RunFolder, info: Mapping[str, Any]) -> list[str]:
    """What of a finished run's settings, table and report is not as it was written; its record is `info`.

    Each is a file in the run folder, and what is wrong with it.
    """
    stated, found = info.get(FILES, {}), file_digests(folder)
    damaged = [f"{folder.peaks.name}/{damage}" for damage in damage_of_table(folder.peaks, content=True)]
    if not (folder.peaks.exists() and any(folder.peaks.iterdir())):
        damaged = [f"{folder.peaks.name} is missing"]
    elif not damaged:
        try:
            open_stored_peaks(folder.path)
        except InputError as error:
            damaged = [str(error)]
    for name, digest in stated.items():
        if found.get(name) != digest and not (name == folder.peaks.name and damaged):
            damaged.append(f"{name} {'was changed' if (folder.path / name).exists() else 'is missing'}")
    return damaged or _damage_of_tracks(folder, info)


def _damage_of_tracks(folder: RunFolder, info: Mapping[str, Any]) -> list[str]:
    """What is wrong with the tracks beside a whole table."""
    if not folder.tracks.exists():
        made = info.get("tracks")
        return [f"{folder.tracks.name} is missing"] if made and "left_out" not in made else []
    damaged = [f"{folder.tracks.name}/{damage}" for damage in damage_of_tracks(folder.tracks)]
    if not damaged:
        try:
            open_tracks(folder.path)
        except InputError as error:
            damaged = [str(error)]
    return damaged


def open_run(path: str | Path) -> Run:
    """Open a run folder: what `braggflow run` left of one data set.

    Parameters
    ----------
    path : str or pathlib.Path
        The run folder, `OUT/DATASET`.

    Returns
    -------
    Run
        Its settings, its record, and its peak table, which is read when it is asked for.

    Raises
    ------
    InputError
        Where the folder holds no run, or one whose files cannot be read.

    Examples
    --------
    >>> import braggflow
    >>> run = braggflow.open_run("runs/scan")
    >>> run.status, run.info["counts"]["frames"], run.config.locate.network
    ('complete', 4, 'compact')
    """
    folder = RunFolder(Path(path))
    return Run(folder.path, read_run_info(folder), read_run_config(folder))
