"""Parts: the result of each finished task.

A part gets its name only when it is whole, and carries the identity of the run that made it (settings, code, model,
frames), so that existence is completion and runs are never mixed.
"""

import json
import struct
import zlib
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.files import write_atomic
from braggflow.results.folder import RunFolder
from braggflow.results.watch import FRAME_STATE

#: What a damaged archive raises beside; a length made of nonsense is none that could be decoded.
_OF_ZIP = (BadZipFile, zlib.error, NotImplementedError, struct.error)


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
    states: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, FRAME_STATE))
    """Of each frame that was processed, dtype `FRAME_STATE`."""


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
    states: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, FRAME_STATE), compare=False)
    digest: str = ""
    """Of its table; "" where an older version wrote it."""


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
        states=part.states,
        digest=_digest(part.table),
    )
    meta = {key: value for key, value in asdict(summary).items() if key != "states"}
    encoded = json.dumps({"run": run, **meta}).encode()
    content = BytesIO()
    np.savez(content, meta=np.frombuffer(encoded, np.uint8), peaks=part.table, states=part.states)
    write_atomic(folder.part(part.first, part.stop), content.getvalue())
    return summary


def relabel_part(path: Path, run: str) -> None:
    """Make a part one of another run, of which it holds the very same results."""
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        members = {name: file[name] for name in file.files}
    meta = json.loads(members["meta"].tobytes()) | {"run": run}
    content = BytesIO()
    np.savez(content, **members | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)})
    write_atomic(path, content.getvalue())


def read_parts(folder: RunFolder, run: str) -> dict[tuple[int, int], PartSummary]:
    """Summaries of the finished parts of run `run`, by (first, stop). Parts of other runs and broken files are not."""
    found = (look_at_part(path) for path in part_files(folder))
    return {(part.first, part.stop): part for of_run, part in filter(None, found) if of_run == run}


def part_files(folder: RunFolder) -> list[Path]:
    """The files of the parts that are there, in order, whole or not."""
    return sorted(folder.parts.glob("part-*.npz"))


def look_at_part(path: Path) -> tuple[str, PartSummary] | None:
    """The run that a part is of, and its summary; None where the file is damaged: such a part is made again.

    All of it is read, and compared with the checksums in it.
    """
    try:
        with path.open("rb") as raw, ZipFile(raw) as archive:
            if archive.testzip() is not None:
                return None
            meta = json.loads(_member(archive, "meta").tobytes())
            # Parts of before the watch have none.
            watched = "states.npy" in archive.namelist()
            states = _member(archive, "states") if watched else np.zeros(0, FRAME_STATE)
        return str(meta.pop("run")), PartSummary(**meta, states=states)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, *_OF_ZIP):
        return None


def _digest(table: peak_table.Table) -> str:
    return sha256(np.ascontiguousarray(table).data).hexdigest()


def _member(archive: ZipFile, name: str) -> NDArray[Any]:
    member: NDArray[Any] = np.load(BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
    return member


def read_part_table(folder: RunFolder, part: PartSummary) -> peak_table.Table:
    """The peaks of one part; raises `ValueError` where the file is not the part that was summed up."""
    path = folder.part(part.first, part.stop)
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        table: peak_table.Table = file["peaks"]
    if len(table) != part.peaks:
        raise ValueError(f"{path}: holds {len(table)} peaks, {part.peaks} were written; another run is writing here")
    if part.digest and _digest(table) != part.digest:
        raise ValueError(f"{path}: does not hold what was written; another run is writing here, or it is damaged")
    return table
