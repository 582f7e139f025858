"""The end of a data set: what `run.json` says, and the table joined from its parts."""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.config import RunConfig
from braggflow.errors import is_full, not_written
from braggflow.flow.data_set import UNGUARDED, DataSetRun
from braggflow.flow.tasks import TaskSeries, opened_series
from braggflow.flow.unchanged import StoreStamp, refuse_other_frames
from braggflow.frames import DetectorConstants
from braggflow.pipeline import sum_counts
from braggflow.results import (
    FRAME_STATE,
    Alarm,
    PartSummary,
    RunFolder,
    consolidate,
    find_alarms,
    open_peaks,
    provenance_attribute,
    write_end_in_place,
    write_run_info,
)


def run_info(
    work: DataSetRun, status: str, *, versions: Mapping[str, str], workers: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `run.json`; flags and methods are counted when the table is joined (`conclude`)."""
    parts = list(work.done.values())
    failures = failures_of(work)
    return {
        "status": status,
        "dataset": work.dataset,
        "identity": work.identity,
        "run": work.series.run,
        "plan": [(group.first, group.stop) for group in work.groups],
        "detector": work.constants.record(),
        "counts": {
            "frames": len(work.numbers),
            "frames_failed": len(failures),
            "frames_processed": work.processed,
            "peaks": sum(part.peaks for part in parts),
            "removed": sum_counts(part.removed for part in parts),
            "flags": {},
            "methods": {},
        },
        "seconds": {
            "wall": time.monotonic() - work.started,
            "processing": work.last_part - work.started,
            "stages": sum_counts(part.seconds for part in parts),
        },
        "parts": {"total": len(work.groups), "done": len(parts), "redone": work.redone},
        "failures": failures,
        "warnings": work.warnings,
        "repaired": work.repaired,
        "notes": sum_counts(part.notes for part in parts),
        "versions": dict(versions),
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "host": platform.node(),
        },
        "workers": dict(workers),
        "tasks": sum_counts(part.tasks for part in parts),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        **({"following": work.following} if work.following else {}),
    }


def failures_of(work: DataSetRun) -> list[dict[str, Any]]:
    """The frames that could not be processed, as {frame, reason}."""
    return [*(failure for part in work.done.values() for failure in part.failures), *work.failures]


def _watched(folder: RunFolder, states: NDArray[np.void]) -> dict[str, Any]:
    """What the frames' states and the table give cause to say, for `run.json`."""
    try:
        alarms = find_alarms(states[np.argsort(states["frame"])], open_peaks(folder.path))
    except Exception as error:  # noqa: BLE001 - the table is whole: whoever looks at it must not spoil it
        return {"alarms": [], "alarms_error": f"{type(error).__name__}: {error}"}
    return {"alarms": [asdict(alarm) for alarm in alarms]}


def what_to_know(info: Mapping[str, Any]) -> str:
    """What the user should know of a data set that ended, as one text."""
    report = [f"no report ({info['report_error']})"] if "report_error" in info else []
    if "alarms_error" in info:
        report.append(f"changes between frames were not looked for ({info['alarms_error']})")
    damaged = info.get("repaired", [])
    more = f" and {len(damaged) - 1} others" if len(damaged) > 1 else ""
    repaired = [f"of the run as it was found, {damaged[0]}{more}; made again"] if damaged else []
    old = info["dataset"].get("guarded") == UNGUARDED
    unguarded = ["the frames store was made before checksums were, and is not guarded"] if old else []
    alarms = [str(Alarm(**alarm)) for alarm in info["alarms"]]
    followed = info.get("following", {}).get("told", [])
    return "; ".join([*followed, *repaired, *unguarded, *report, *alarms, *info["detector"]["notes"]])


def conclude(
    folder: RunFolder,
    parts: Sequence[PartSummary],
    coords: xr.Dataset,
    info: dict[str, Any],
    *,
    series: TaskSeries,
    stamp: StoreStamp,
    report: bool,
) -> dict[str, Any]:
    """Join a data set's parts into its table, check it, follow its peaks; write `run.json` and the report.

    Returns the content of `run.json`.

    `stamp` is that of the frames' files when the run began; raises `OtherFramesError` where it is another now.
    """
    refuse_other_frames(Path(info["dataset"]["path"]), stamp)
    constants = DetectorConstants(**info["detector"])
    attributes = {
        "run": info["run"],
        "model": str(info["identity"]["model"]),
        "source": info["dataset"]["path"],
        **constants.attributes(),
        "provenance": provenance_attribute(info),
        "scale_std": info["identity"]["settings"]["locate"]["scale_std"],
    }
    if info["dataset"]["geometry"]:
        attributes["geometry"] = json.dumps(info["dataset"]["geometry"])
    failed = [failure["frame"] for failure in info["failures"]]
    states = np.concatenate([np.zeros(0, FRAME_STATE), *(part.states for part in parts)])
    means = dict(zip(states["frame"].tolist(), states["mean"].tolist(), strict=True))
    counted = consolidate(folder, list(parts), coords, failed, attributes, means)
    info["counts"] |= counted
    info |= _watched(folder, states)
    from braggflow.selfcheck import check_run  # here, as what it needs is loaded where a data set ends

    info["check"] = check_run(folder, opener=partial(opened_series, series))
    from braggflow.tracks import track_or_why_not

    info["tracks"] = track_or_why_not(folder, RunConfig.model_validate_json(series.settings).track)
    write_run_info(folder, info)
    if report:
        from braggflow.show import write_report

        try:
            write_report(folder.path)
        except Exception as error:  # noqa: BLE001 - the table is whole: whatever ails the pictures must not spoil it
            full = is_full(error)
            said = not_written(folder.report, error) if full else f"{type(error).__name__}: {error}"
            info["report_error"] = str(said)
            try:
                write_run_info(folder, info)
            except OSError:
                if not full:
                    raise
                write_end_in_place(folder, info)
    return info
