"""Parts: the result of each finished task.

A part gets its name only when it is whole, and carries the identity of the run that made it (settings, code, model,
frames), so that existence is completion and runs are never mixed.
"""

import json
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from braggflow import peak_table
from braggflow.files import write_atomic
from braggflow.results.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Part:
    """What one task found, in the frames at positions [first, stop) of the series."""

    first: int
    stop: int
    table: peak_table.Table
    removed: dict[str, int] = field(default_factory=dict)
    """Peaks dropped, by filter."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Frames that could not be processed, as {frame, reason}."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time spent, by stage."""
    tasks: dict[str, int] = field(default_factory=dict)
    """Tasks by "kind worker": where it was made."""
    notes: dict[str, int] = field(default_factory=dict)
    """How often something unusual was done, by what it was (a batch halved for lack of memory, ...)."""


@dataclass(frozen=True, slots=True)
class PartSummary:
    """A part without its table: what travels to the client."""

    first: int
    stop: int
    peaks: int
    removed: dict[str, int]
    failures: list[dict[str, Any]]
    seconds: dict[str, float]
    tasks: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


def write_part(folder: RunFolder, part: Part, run: str) -> PartSummary:
    """Write one part, whole or not at all; `run` is the digest of the run's identity."""
    summary = PartSummary(
        part.first,
        part.stop,
        len(part.table),
        removed=part.removed,
        failures=part.failures,
        seconds=part.seconds,
        tasks=part.tasks,
        notes=part.notes,
    )
    meta = json.dumps({"run": run, **asdict(summary)}).encode()
    content = BytesIO()
    np.savez(content, meta=np.frombuffer(meta, np.uint8), peaks=part.table)
    write_atomic(folder.part(part.first, part.stop), content.getvalue())
    return summary


def read_parts(folder: RunFolder, run: str) -> dict[tuple[int, int], PartSummary]:
    """Summaries of the finished parts of run `run`, by (first, stop). Parts of other runs and broken files are not."""
    found = {}
    for path in sorted(folder.parts.glob("part-*.npz")):
        try:
            with path.open("rb") as raw, ZipFile(raw) as archive:
                if archive.testzip() is not None:
                    continue  # damaged on disk
                meta = _part_meta(archive)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            continue  # a broken file is an unfinished part: it is made again
        if meta.pop("run") == run:
            found[meta["first"], meta["stop"]] = PartSummary(**meta)
    return found


def _part_meta(archive: ZipFile) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(np.load(BytesIO(archive.read("meta.npy")), allow_pickle=False).tobytes())
    return meta


def read_part_table(folder: RunFolder, part: PartSummary) -> peak_table.Table:
    """The peaks of one part; raises `ValueError` where the file is not the part that was summed up."""
    path = folder.part(part.first, part.stop)
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        table: peak_table.Table = file["peaks"]
    if len(table) != part.peaks:
        raise ValueError(f"{path}: holds {len(table)} peaks, {part.peaks} were written; another run is writing here")
    return table
