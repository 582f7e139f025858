"""What became of each data set: the record of outcomes, and how every run folder stands now."""

import errno
import fcntl
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from braggflow.errors import InputError
from braggflow.results.folder import RunFolder, read_run_info, with_digest
from braggflow.results.watch import Alarm

#: The record in the folder of run folders.
OUTCOMES = "outcomes.jsonl"
RUN_INFO = "run.json"
#: Failed frames of a data set that a status names.
MAX_REASONS = 10
_KEYS = ("dataset", "path", "status", "message", "frames", "frames_failed", "peaks", "seconds")


def append_outcome(folder: Path, entry: Mapping[str, Any]) -> None:
    """Add what became of a data set to the record in `folder`, the folder of run folders.

    `entry` holds `dataset`, `path`, `status`, `message`, `frames`, `frames_failed`, `peaks` and `seconds`; `written`
    (UTC) is added. Each entry is one line, written at once, so that two runs may share the record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    line = {key: entry[key] for key in _KEYS} | {"written": datetime.now(UTC).isoformat(timespec="seconds")}
    content = json.dumps(line, default=str).encode() + b"\n"
    file = os.open(folder / OUTCOMES, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        with suppress(OSError):  # a file system without locks: at worst an empty line, where another is writing
            fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            content = b"\n" + content  # a crash left half a line: keep apart from it
        if os.write(file, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / OUTCOMES))
    finally:
        os.close(file)


def read_outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """The last entry of each data set in the record of `folder`, by name; empty where there is no record.

    Lines that a crash cut short are left out. Raises `InputError` where the file cannot be read or is no record.
    """
    path = folder / OUTCOMES
    try:
        *whole, torn = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    found = {}
    for line in (*whole, torn):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {*_KEYS, "written"} <= entry.keys():
            found[str(entry["dataset"])] = entry
    if whole and not found:
        raise InputError(f"{path}: is not braggflow's record of outcomes; move it away")
    return found


def write_end_in_place(folder: RunFolder, info: Mapping[str, Any]) -> None:
    """Write status, errors and counts of `info` over the `run.json` that is there, in the room that it has.

    For a disk that is full. A record of the same size needs no room: what is there is written with blanks between, and
    is written again without. Raises `InputError` where it would be longer all the same, or nothing is there.
    """
    kept = {key: info[key] for key in ("status", "error", "report_error", "counts", "parts", "written") if key in info}
    content = json.dumps(with_digest(read_run_info(folder) | kept), separators=(",", ":")).encode()
    room = folder.info.stat().st_size
    if len(content) > room:
        raise InputError(f"{folder.info}: cannot be written, the disk is full")
    with folder.info.open("r+b") as file:
        file.write(content.ljust(room))
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class DataSetStatus:
    """How one data set stands."""

    name: str
    path: Path
    """Its run folder; where it was refused there may be none."""
    status: str
    """complete, partial, interrupted, running; stopped (killed while it ran), unclear (perhaps stopped, which cannot be
    seen from this machine), refused, or damaged (`run.json` cannot be read)."""
    parts_done: int = 0
    parts_total: int = 0
    frames: int = 0
    frames_failed: int = 0
    peaks: int = 0
    written: str = ""
    """UTC, ISO 8601."""
    reasons: tuple[str, ...] = ()
    """Why it is not complete: what is wrong with all of it, then with its failed frames, `REASONS` of them at most."""
    more: int = 0
    """Failed frames beyond those."""

    @property
    def ended(self) -> bool:
        """Whether it stays as it is until somebody starts it again."""
        return self.status not in ("running", "unclear")


def data_set_statuses(folder: Path) -> list[DataSetStatus]:
    """Say how the data sets of a run folder, or of a folder of them, stand.

    Nothing is written and no run is disturbed.

    Parameters
    ----------
    folder : pathlib.Path
        A run folder ``OUT/DATASET``, the folder ``OUT`` of run folders, or any folder above.

    Returns
    -------
    list of DataSetStatus
        One for each data set; complete ones first, then by status and name.

    Raises
    ------
    InputError
        Where there is no run, or the record of outcomes cannot be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> from braggflow.results import data_set_statuses
    >>> [(found.name, found.status, found.frames) for found in data_set_statuses(Path("runs/scan"))]
    [('scan', 'complete', 4)]
    """
    if (folder / RUN_INFO).exists():
        return [_status_of(RunFolder(folder), None)]
    found = []
    for outer, runs in _runs_below(folder).items():
        found += _statuses_in(outer, runs, prefix="" if outer == folder else f"{outer.relative_to(folder)}/")
    if not found:
        raise InputError(
            f"{folder}: holds no run, nor does a folder below{'' if folder.is_dir() else ': is no folder'}"
        )
    return sorted(found, key=lambda state: (state.status != "complete", state.status, state.name))


def _runs_below(folder: Path) -> dict[Path, list[RunFolder]]:
    """The run folders below a folder, by the folder that they lie in; that of an `outcomes.jsonl` may have none."""
    found: dict[Path, list[RunFolder]] = {}
    for path, inner, files in os.walk(folder):
        here = Path(path)
        # Neither what a run holds nor what frames stores hold can be a run.
        inner[:] = [] if RUN_INFO in files else sorted(name for name in inner if not name.endswith(".zarr"))
        if RUN_INFO in files:
            found.setdefault(here.parent, []).append(RunFolder(here))
        elif OUTCOMES in files:
            found.setdefault(here, [])
    return found


def _statuses_in(folder: Path, runs: Sequence[RunFolder], *, prefix: str) -> list[DataSetStatus]:
    """The data sets of the folder `OUT`: those that have a run folder, and those that the record alone knows."""
    recorded = read_outcomes(folder)
    found = [_status_of(run, recorded.get(run.path.name)) for run in runs]
    known = {run.path.name for run in runs}
    for key, entry in recorded.items():
        status, reason = str(entry["status"]), str(entry["message"])
        # A complete one without a run folder was removed by the user.
        if key not in known and status not in ("complete", "partial"):
            reasons = (reason,) if reason else ()
            found.append(DataSetStatus(key, folder / key, status, written=str(entry["written"]), reasons=reasons))
    return [replace(state, name=prefix + state.name) for state in found]


def _status_of(folder: RunFolder, entry: Mapping[str, Any] | None) -> DataSetStatus:
    try:
        info = read_run_info(folder)
        status, counts, failures = str(info["status"]), info["counts"], info["failures"]
        reasons = [str(info[key]) for key in ("error", "report_error") if key in info]
        if entry is not None and entry["status"] == "refused" and entry["written"] >= info["written"]:
            reasons.append(f"refused since: {entry['message']}")
        reasons += [str(Alarm(**alarm)) for alarm in info.get("alarms", [])]
        done = info["parts"]["done"]
        if status == "running":
            status, reason = _running(folder, info["machine"].get("host"))
            reasons += [reason] if reason else []
            done = sum(1 for _ in folder.parts.glob("part-*.npz"))
        reasons += [f"frame {failure['frame']}: {failure['reason']}" for failure in failures[:MAX_REASONS]]
        return DataSetStatus(
            name=folder.path.name,
            path=folder.path,
            status=status,
            parts_done=done,
            parts_total=int(info["parts"]["total"]),
            frames=int(counts["frames"]),
            frames_failed=int(counts["frames_failed"]),
            peaks=int(counts["peaks"]),
            written=str(info["written"]),
            reasons=tuple(reasons),
            more=max(0, len(failures) - MAX_REASONS),
        )
    except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = (
            str(error)
            if isinstance(error, InputError)
            else f"{folder.info}: is damaged, or no record of a run ({type(error).__name__}: {error})"
        )
        return DataSetStatus(folder.path.name, folder.path, "damaged", reasons=(reason,))


def _running(folder: RunFolder, host: str | None) -> tuple[str, str]:
    """Whether a run that began, on the machine `host` if that is known, still runs: status, and what to say of it."""
    here = platform.node()
    try:
        # Neither made nor changed. The lock is shared, so that several may look at once, and given back immediately.
        with (folder.path / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running", ""
    except FileNotFoundError:
        host = here
    except OSError:  # another user's, or a file system without locks
        return "unclear", "runs, or was killed: its lock cannot be read from here"
    if host in (None, here):
        return "stopped", ""
    # Not every network file system shows the locks of one machine to others.
    return "unclear", f"runs on {host}, or was killed there: braggflow status says which on that machine"
