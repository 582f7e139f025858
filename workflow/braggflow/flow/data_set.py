"""One data set checked against the configuration and against what an earlier run of it left; nothing is written."""

import json
import os
import shutil
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from braggflow.config import RunConfig, digest
from braggflow.errors import InputError
from braggflow.flow.tasks import TaskSeries
from braggflow.flow.unchanged import StoreStamp
from braggflow.frames import FRAMES_FORMAT, DetectorConstants, open_series, sealed, settled_constants
from braggflow.geometry import known_geometry
from braggflow.pipeline import Group, MemoryNeed, memory_need, plan_groups, refuse_levels, refuse_no_frames, regroup
from braggflow.results import (
    FRAME_STATE,
    PartSummary,
    RunFolder,
    damage_of_run,
    find_alarms,
    frames_identity,
    growing_identity,
    identity_changes,
    look_at_part,
    part_files,
    read_run_info,
    recorded_inputs,
    run_digest,
    run_identity,
)

#: What run.json says of a frames store that was made before checksums were.
UNGUARDED = "not by checksums: made before they were"
#: Bytes that must be free when a run begins: about its settings and its record.
LEAST_FREE = 16 * 1024


@dataclass(slots=True, eq=False)
class DataSetRun:
    """One data set on its way."""

    name: str
    folder: RunFolder
    config: RunConfig
    """As it was asked for."""
    resolved: RunConfig
    """With the detector's constants as numbers: what the tasks work with."""
    series: TaskSeries
    stamp: StoreStamp
    """Of the files that the frames are read from, when they were opened."""
    identity: dict[str, Any]
    dataset: dict[str, Any]
    numbers: list[int]
    coords: xr.Dataset
    constants: DetectorConstants
    groups: list[Group]
    need: MemoryNeed
    done: dict[tuple[int, int], PartSummary] = field(default_factory=dict)
    todo: list[Group] = field(default_factory=list)
    redone: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Frames of groups that left no part, as {frame, reason}."""
    searched: dict[int, int] = field(default_factory=dict)
    """How often the frames of a group (by its first) were tried alone, because it killed workers."""
    finished: int = 0
    processed: int = 0
    """Frames, in this run."""
    started: float = 0.0
    last_part: float = 0.0
    """When the last part was made, in the clock of `started`."""
    killed: bool = False
    """Whether an earlier run of it did not end in order: its frames may be what killed it."""
    warnings: list[str] = field(default_factory=list)
    """What a look at a few of its frames showed."""
    repaired: list[str] = field(default_factory=list)
    """What was damaged or missing of an earlier run and is made again."""
    following: dict[str, Any] = field(default_factory=dict)
    """What run.json says of a run that followed its series while that was written; empty for any other."""
    watched: int = 0
    """Groups that the watch has seen, from the first on."""
    alarms: dict[tuple[int, str], str] = field(default_factory=dict)
    """What the watch has seen so far, by frame and cause, as it was first told."""
    resources: ExitStack = field(default_factory=ExitStack)

    def group_failed(self, group: Group, reason: str) -> None:
        """Record that a group left no part, for all of its frames."""
        self.failures += [{"frame": number, "reason": reason} for number in self.numbers[group.first : group.stop]]

    def watch(self) -> None:
        """Look at the frames from the first on, as far as their parts are there, for what should be told at once."""
        states, done = [np.zeros(0, FRAME_STATE)], 0
        for group in self.groups:
            part = self.done.get((group.first, group.stop))
            if part is None:
                break
            states.append(part.states)
            done += 1
        if done > self.watched:
            self.watched = done
            joined = np.concatenate(states)
            try:
                found = find_alarms(joined[np.argsort(joined["frame"])])
            except Exception:  # noqa: BLE001 - told where the data set ends, which is looked at again then
                return
            for alarm in found:
                self.alarms.setdefault((alarm.frame, alarm.cause), f"{self.name}: {alarm}")

    def part_made(self, frames: int) -> None:
        """Count a group of so many frames that is done, or given up."""
        self.finished += 1
        self.redone += 1
        self.processed += frames
        self.last_part = time.monotonic()


@contextmanager
def only_this(path: Path, folder: Path) -> Iterator[None]:
    """Turn whatever is raised about one data set, and what an earlier run left in its `folder`, into `InputError`.

    The one place where what is odd in a store or a run folder is caught, whatever that is, so that it stops no other.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        where = error.filename if error.filename is not None else path
        raise InputError(f"{where}: {error.strerror or error}") from error
    except Exception as error:
        raise InputError(
            f"{path}: cannot be used, or what an earlier run left in {folder} ({type(error).__name__}: {error})"
        ) from error


def prepare_data_set(
    name: str,
    path: Path,
    data: xr.Dataset,
    resolved: RunConfig,
    model: Mapping[str, Any] | None,
    *,
    stamp: StoreStamp,
    looked_at: tuple[int, ...] = (),
) -> DataSetRun:
    """Check one opened data set against the configuration and an earlier run; nothing is written.

    `stamp` is that of its files before it was opened; `looked_at`, of a series that is still being written, are the
    positions of the frames by which it was described.
    """
    for key, checked in (("data", path), ("output.folder", Path(resolved.output.folder))):
        _check_is_text(key, checked.resolve())
    opened = open_series(data, resolved, growing=bool(looked_at))
    refuse_no_frames(opened, str(path))
    frames = growing_identity(path, data, looked_at) if looked_at else frames_identity(path, data)
    identity = run_identity(resolved, frames, model, opened.geometry)
    folder = RunFolder(Path(resolved.output.folder).resolve() / name)
    check_run_folder(folder, identity, overwrite=resolved.output.overwrite)
    opened, constants = settled_constants(opened, _kept_constants(folder, identity), judge=True)
    refuse_levels(opened)
    named = {"data": (str(path.resolve()),)}
    settings, resolved = resolved.model_copy(update=named), opened.config.model_copy(update=named)
    shape, dtype = list(data["frames"].shape), str(data["frames"].dtype)
    groups = plan_groups(data, resolved)
    return DataSetRun(
        name=name,
        folder=folder,
        config=settings,
        resolved=resolved,
        series=TaskSeries(
            str(path.resolve()),
            str(folder.path),
            resolved.model_dump_json(),
            run_digest(identity),
            json.dumps(constants.bad_pixels),
            identity["code"]["sources"],
            digest(identity["frames"]),
            looked_at,
        ),
        stamp=stamp,
        identity=identity,
        dataset={
            "name": name,
            "path": str(path.resolve()),
            "frames": shape[0],
            "shape": shape[1:],
            "dtype": dtype,
            "guarded": _guarded(path, data),
            "geometry": known_geometry(data.attrs.get("geometry"), resolved.geometry),
            "inputs": recorded_inputs(path, data, resolved, size=stamp.bytes, changed_ns=stamp.changed_ns),
        },
        numbers=opened.numbers,
        coords=data[["frame"]].isel(frame=opened.positions).load(),
        constants=constants,
        groups=groups,
        need=memory_need(opened, groups),
    )


def _guarded(path: Path, data: xr.Dataset) -> str:
    """Whether checksums guard the frames, as run.json says it."""
    if sealed(path):
        return "by checksums"
    return UNGUARDED if data.attrs.get("format") == FRAMES_FORMAT else "not by checksums of braggflow's"


def _kept_constants(folder: RunFolder, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The detector's constants that a run of this identity was begun with."""
    info = known_run(folder) or {}
    kept = info.get("detector") if info.get("run") == run_digest(identity) else None
    return kept if isinstance(kept, dict) else None


def known_run(folder: RunFolder) -> dict[str, Any] | None:
    """The record of the run in a folder; None where there is none, or where it is damaged."""
    try:
        info = read_run_info(folder)
    except InputError:
        return None
    # One of before they had digests may hold anything.
    kinds = {"identity": dict, "run": str, "status": str, "plan": list}
    return info if all(isinstance(info.get(key), kind) for key, kind in kinds.items()) else None


def is_growing(info: Mapping[str, Any]) -> bool:
    """Whether a record is of a run that follows a series which is still being written, or was broken off."""
    return "growing" in info["identity"].get("frames", {})


def _check_is_text(key: str, path: Path) -> None:
    """Refuse a path that cannot be written into run.json and run.yaml, which are UTF-8, or breaks lines of a record."""
    if any(unicodedata.category(letter) == "Cc" for letter in str(path)):
        raise InputError(f"{key}: {path}: has control characters in its name; rename it")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{key}: {path}: is no text in this locale, which results could name; "
            "rename it, or set a locale of UTF-8 (LC_ALL=C.UTF-8)"
        ) from error


def check_run_folder(folder: RunFolder, identity: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse a run folder that cannot be used, or that holds a run of another identity."""
    if not folder.path.exists():
        above = existing_folder(folder.path)
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            raise InputError(f"output.folder: {above} is not a folder that can be written in; choose another --out")
        return
    if not folder.path.is_dir():
        raise InputError(f"{folder.path}: is a file; choose another --out")
    info = known_run(folder)
    if info is None:
        _check_without_record(folder, run_digest(identity), overwrite=overwrite)
        return
    if is_growing(info) and "growing" not in identity["frames"] and not overwrite:
        raise InputError(
            f"{folder.path}: holds a run that followed its series while that was written, and has not ended; the same "
            "command with --follow goes on with it, and ends it"
        )
    changes = identity_changes(info["identity"], identity)
    if changes and not overwrite:
        raise InputError(
            f"{folder.path}: holds a run made with other settings, and results are never mixed:\n  "
            + "\n  ".join(changes)
            + "\nChoose another --out, or throw the old run away with --set output.overwrite=true"
        )


def _check_without_record(folder: RunFolder, run: str, *, overwrite: bool) -> None:
    """Refuse a folder whose run has lost its record, or that holds none, unless its parts are of this very run."""
    runs = {found[0] for path in part_files(folder) if (found := look_at_part(path)) is not None}
    if runs == {run}:
        return
    if not folder.info.exists():
        if any(path.name != ".lock" for path in folder.path.iterdir()):
            raise InputError(f"{folder.path}: is not empty and holds no run; choose another --out")
        return
    if not overwrite:
        raise InputError(
            f"{folder.info}: is damaged, or no record of braggflow's, and there are no parts of a run with these very "
            "settings and frames to write it anew from; choose another --out, or throw away what is there with --set "
            "output.overwrite=true"
        )


def refuse_full_disk(work: DataSetRun) -> None:
    """Raise `InputError` where there is no room for even the record of a run."""
    free = shutil.disk_usage(existing_folder(work.folder.path)).free
    if free < LEAST_FREE:
        raise InputError(
            f"{work.folder.path}: the disk is full ({free:,} bytes are free); make room, or choose another --out"
        )


def existing_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(above for above in (path, *path.parents) if above.exists())


def take_up_parts(work: DataSetRun) -> bool:
    """Find which parts an earlier run has finished, and which groups are left; True where nothing is left at all."""
    folder, run = work.folder, work.series.run
    info, files = known_run(folder), part_files(folder)
    work.repaired, complete = [], info is not None and info["run"] == run and info["status"] == "complete"
    if info is None and files:
        work.repaired.append(f"{folder.info.name} {'was damaged' if folder.info.exists() else 'was missing'}")
    if info is None or info["run"] == run:
        # The groups of the first run hold, whatever task length is asked for now.
        planned = _planned(work, info) if info is not None else None
        if planned is not None:
            work.groups = planned
        work.killed = info is not None and info["status"] == "running"
        work.following = dict(info.get("following", {})) if info is not None else {}
        spans = {(group.first, group.stop) for group in work.groups}
        looked = {path.name: look_at_part(path) for path in files}
        work.done = {
            span: part
            for of_run, part in filter(None, looked.values())
            if of_run == run and (span := (part.first, part.stop)) in spans and not part.failures
        }
        work.repaired += [f"parts/{name} was damaged" for name, found in looked.items() if found is None]
    work.todo = [group for group in work.groups if (group.first, group.stop) not in work.done]
    if complete and info is not None:
        if info["dataset"].get("geometry", {}) != work.dataset["geometry"]:
            work.repaired.append("the geometry was another one")
        gone = [folder.part(group.first, group.stop) for group in work.todo]
        work.repaired += [f"parts/{path.name} was missing" for path in gone if not path.exists()]
        damaged, report = damage_of_run(folder, info), folder.report.name
        if not work.config.output.report:
            damaged = [each for each in damaged if not each.startswith(report)]
        elif not folder.report.exists() and f"{report} is missing" not in damaged:  # killed before it was drawn
            damaged.append(f"{report} is missing")
        work.repaired += damaged
    return complete and not work.todo and not work.repaired


def _planned(work: DataSetRun, info: Mapping[str, Any]) -> list[Group] | None:
    """The groups that an earlier run was begun with; None where its record of them cannot be true."""
    try:
        spans = sorted((int(first), int(stop)) for first, stop in info["plan"])
        groups = regroup(work.groups, spans)
    except (KeyError, TypeError, ValueError):
        return None
    # Each frame once.
    ends = [0, *(stop for _, stop in spans)]
    whole = ends[-1] == len(work.numbers) and all(
        first == end < stop for end, (first, stop) in zip(ends, spans, strict=False)
    )
    if not whole:
        work.repaired.append(f"{work.folder.info.name} had a plan that cannot be true")
    return groups if whole else None
