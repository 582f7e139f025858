"""What became of a data set: what callers are told, what `run.json` says, and the table joined from its parts."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xarray as xr

from braggflow import store
from braggflow.prepare import Work


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; given to the `progress` callback about twice a second and after each finished group."""

    dataset: str
    """The one that last made a step; "" before the first."""
    datasets_done: int
    datasets_total: int
    frames_done: int
    """In the data sets opened so far, also by earlier runs."""
    frames_total: int
    """In the data sets opened so far."""
    frames_before: int
    """Done by earlier runs: not part of this run's rate."""
    frames_failed: int
    peaks: int
    dashboard: str
    cluster: str
    """Workers there are and jobs that wait; "" where their number is fixed."""
    notes: tuple[str, ...]
    """What the user should know, so far."""
    share: float
    """Of the whole, 0 to 1, each data set counting the same; falls only where `follow` finds more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one data set."""

    name: str
    folder: Path
    status: str
    """complete, partial (some frames failed), interrupted, or refused (nothing was written)."""
    frames: int = 0
    frames_failed: int = 0
    frames_processed: int = 0
    """In this run; 0 where all was done before."""
    peaks: int = 0
    seconds: float = 0.0
    tasks_rerun: int = 0
    """Tasks that had to be done again, because their worker was lost or a file could not be read."""
    message: str = ""


def describe(work: Work, status: str, *, versions: Mapping[str, str], workers: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `run.json`; flags and methods are counted when the table is joined (`conclude`)."""
    parts = list(work.done.values())
    failures = failures_of(work)
    return {
        "status": status,
        "dataset": work.dataset,
        "identity": work.identity,
        "run": work.series.run,
        "plan": [(group.first, group.stop) for group in work.groups],
        "counts": {
            "frames": len(work.numbers),
            "frames_failed": len(failures),
            "peaks": sum(part.peaks for part in parts),
            "removed": store.total(part.removed for part in parts),
            "flags": {},
            "methods": {},
        },
        "seconds": {"wall": time.monotonic() - work.started, "stages": store.total(part.seconds for part in parts)},
        "parts": {"total": len(work.groups), "done": len(parts), "redone": work.redone},
        "failures": failures,
        "notes": store.total(part.notes for part in parts),
        "versions": dict(versions),
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "host": platform.node(),
        },
        "workers": dict(workers),
        "tasks": store.total(part.tasks for part in parts),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def failures_of(work: Work) -> list[dict[str, Any]]:
    """The frames that could not be processed, as {frame, reason}."""
    return [*(failure for part in work.done.values() for failure in part.failures), *work.failures]


def conclude(
    folder: store.RunFolder,
    parts: Sequence[store.PartSummary],
    coords: xr.Dataset,
    info: dict[str, Any],
    *,
    report: bool,
) -> dict[str, Any]:
    """Join a data set's parts into its table, write `run.json` and the report; returns the content of `run.json`."""
    attributes = {"run": info["run"], "model": str(info["identity"]["model"]), "source": info["dataset"]["path"]}
    failed = [failure["frame"] for failure in info["failures"]]
    counted = store.consolidate(folder, list(parts), coords, failed, attributes)
    info["counts"] |= counted
    store.write_info(folder, info)
    if report:
        from braggflow.report import write_report

        try:
            write_report(folder.path)
        except Exception as error:  # noqa: BLE001 - the table is whole: whatever ails the pictures must not spoil it
            info["report_error"] = f"{type(error).__name__}: {error}"
            store.write_info(folder, info)
    return info
