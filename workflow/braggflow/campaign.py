"""Many data sets: which ones a user means, which appear during a beam time, and what became of each."""

import errno
import fcntl
import glob
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zarr

from braggflow import frames, store
from braggflow.config import InputError

#: The record in the folder of run folders.
OUTCOMES = "outcomes.jsonl"
#: Larger files are no lists of data sets, and not worth reading to the end.
_LIST_BYTES = 16 * 2**20
#: Failed frames of a data set that a status names.
REASONS = 10
_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
_KEYS = ("dataset", "path", "status", "message", "frames", "frames_failed", "peaks", "seconds")


def expand(names: Sequence[str | Path]) -> list[Path]:
    """The data sets that a user names, in the order named, each once.

    A name is one of:

    - a frames store, `NAME.zarr` (or any folder that is a Zarr store);
    - an HDF5 file, `NAME.h5`, `.nxs`, ..., or a data set in it, `NAME.h5:/path/in/it`;
    - a folder: the `*.zarr` directly in it, scan_2 before scan_10; never its HDF5 files, which may hold anything;
    - a pattern, `'cycle_*/scan_?.zarr'`: the `*.zarr` that match, in the same order; `**` stands for folders at any
      depth (those inside stores are searched too, which takes its time). One that ends like an HDF5 file,
      `'scan_*.h5'`, stands for such files, the data files of EIGER series left to their masters;
    - a list, any text file: one of the former a line, relative to the list's own folder. Blank lines are left out, and
      what follows a `#` at the start of a line or after a space.

    Folders and patterns leave out hidden names, unfinished stores (`NAME.zarr.wip`) and truths (`NAME.truth.zarr`).
    A link is another name of its store; the first name given counts. Whether a `NAME.zarr` is there and whole is for
    its opening to say, so that it stops no other. Raises `InputError` for what cannot be a data set at all: other names
    that do not exist, folders and patterns without a store, lists that are empty or no text, and other detector files.
    """
    found: dict[str, Path] = {}
    for name in names:
        if not str(name).strip():
            raise InputError("data: '' is no name of a data set")
        for path in _named(str(name), f"data: {name}"):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _named(text: str, what: str, base: Path | None = None) -> list[Path]:
    """The data sets of one name; in a list file, whose folder is `base`, it cannot be another list."""
    path = Path(text) if base is None else base / text
    try:
        pattern = glob.has_magic(text) and not path.exists()
        if pattern:
            # Path.glob takes hidden names too, and no absolute patterns.
            matches = glob.glob(text, root_dir=base, recursive=True)  # noqa: PTH207
            matching = [Path(match) if base is None else base / match for match in matches]
            found = _stores(matching) or _hdf5_files(matching, path.suffix)
            if not found:
                raise InputError(f"{what}: no frames store (*.zarr) has such a name")
            return found
        if path.suffix == ".zarr":
            return [path]
        if path.is_dir():
            if path.name.endswith(frames.wip(Path(".zarr")).name):
                raise InputError(f"{what}: is not finished; the command that makes it goes on when it is given again")
            if any((path / name).exists() for name in ("zarr.json", ".zgroup")):
                return [path]
            stores = _stores(path.iterdir())
            if not stores:
                raise InputError(f"{what}: the folder holds no frames store (*.zarr); braggflow ingest makes one")
            return stores
        return _file(path, what, listed=base is not None)
    except OSError as error:
        raise InputError(f"{what}: cannot be read ({error.strerror})") from error


def _file(path: Path, what: str, *, listed: bool) -> list[Path]:
    from braggflow import sources  # here, because it loads the readers of detector files

    file, _ = sources.split_name(str(path))  # it may name a data set inside
    if not file.exists():
        raise InputError(f"{what}: does not exist")
    if sources.is_hdf5(path):
        return [path]
    suffix = file.name.lower().removesuffix(".gz").removesuffix(".bz2").rpartition(".")[2]
    if suffix in sources.FOLDER_SUFFIXES:
        raise InputError(f"{what}: is a detector file; braggflow ingest makes a frames store of it")
    if listed:
        raise InputError(f"{what}: is a file; a list may name frames stores, folders and patterns")
    return _listed(path, what)


def _listed(path: Path, what: str) -> list[Path]:
    with path.open("rb") as file:
        content = file.read(_LIST_BYTES + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or len(content) > _LIST_BYTES:
        raise InputError(
            f"{what}: is neither a frames store nor a text file that lists them; "
            "if it comes from a detector, braggflow ingest makes a frames store of it"
        )
    found: list[Path] = []
    for number, line in enumerate(text.splitlines(), 1):
        if entry := re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip():
            found += _named(entry, f"{what}, line {number}: {entry}", path.parent)
    if not found:
        raise InputError(f"{what}: is a list that names no data set")
    return found


def _stores(paths: Iterable[Path]) -> list[Path]:
    from braggflow.sources import natural_key

    return sorted(filter(_named_as_store, paths), key=lambda path: natural_key(str(path)))


def _hdf5_files(paths: Iterable[Path], suffix: str) -> list[Path]:
    """Those that a pattern of such a suffix stands for."""
    from braggflow import sources

    if suffix.lower().removeprefix(".") not in sources.HDF5_SUFFIXES:
        return []
    found = sources.without_eiger_data([path for path in paths if sources.is_hdf5(path)])
    return sorted(found, key=lambda path: sources.natural_key(str(path)))


def _named_as_store(path: Path) -> bool:
    return path.name.endswith(".zarr") and not path.name.startswith(".") and not path.name.endswith(".truth.zarr")


def name(path: str | Path) -> str:
    """The name of a data set, and of its run folder: its store's without `.zarr`, its HDF5 file's without suffix.

    `scan.h5:/entry/data` is named `scan_entry_data`.
    """
    from braggflow import sources

    path = Path(path)
    file, inside = sources.split_name(str(path))
    if inside or file.suffix.lower().removeprefix(".") in sources.HDF5_SUFFIXES:
        return file.stem + inside.replace("/", "_")
    found = (path if path.name not in ("", "..") else path.resolve()).name.removesuffix(".zarr")
    if not found:
        raise InputError(f"data: {path}: has no name to give its results")
    return found


def names(paths: Sequence[str | Path]) -> list[str]:
    """The names of data sets, in order; raises `InputError` where two are the same, as their results would be mixed."""
    found: dict[str, None] = {}
    for path in paths:
        if (known := name(path)) in found:
            raise InputError(f"data: {path}: another data set is named {known} too; their results would be mixed")
        found[known] = None
    return list(found)


class Follower:
    """The frames stores (`*.zarr`) of a folder as they are finished, each given out once; for a beam time.

    A store is finished when its last chunk is there, and neither it nor the store's folders and metadata have changed
    for `settle_seconds`, as seen from here: clocks are not compared. So a series that is filled in place, however
    slowly, is not taken before its end. One whose writer lengthens the array as it goes looks finished whenever it
    pauses: give it more seconds than its longest pause, and more than 60 where the folder is on NFS, which shows
    changes late. A series that was broken off keeps `waiting`; it can be run by its name.

    Raises `InputError` where the folder does not exist. Later it may vanish and return.
    """

    def __init__(self, folder: Path, *, settle_seconds: float = 10.0) -> None:
        if not folder.is_dir():
            raise InputError(f"--follow {folder}: is not a folder that exists")
        self.folder = folder
        self.settle_seconds = settle_seconds
        self._given: set[str] = set()
        self._seen: dict[str, _Seen] = {}

    def poll(self) -> list[Path]:
        """The stores that are finished and were not given out before, those finished first in front.

        Costs a few `stat` calls for each store that is waiting, whatever the number of its chunks, none for others.
        """
        try:
            present = [path for path in self.folder.iterdir() if _named_as_store(path)]
        except OSError:  # a network file system may be away for a moment
            return []
        now = time.monotonic()
        waiting = {path.name: path for path in present if path.name not in self._given}
        self._seen = {key: _look(path, self._seen.get(key), now) for key, path in waiting.items()}
        ready = [key for key, seen in self._seen.items() if not self._reason(seen)]
        ready.sort(key=lambda key: (self._seen[key].changed, key))
        self._given.update(ready)
        return [self.folder / key for key in ready]

    @property
    def settled(self) -> float:
        """When all that the last `poll` saw will have been unchanged long enough, monotonic s; 0 for nothing."""
        return max((seen.since + self.settle_seconds for seen in self._seen.values()), default=0.0)

    def waiting(self) -> dict[Path, str]:
        """The stores that were there at the last `poll` and are not finished, and why not."""
        return {self.folder / key: reason for key, seen in self._seen.items() if (reason := self._reason(seen))}

    def _reason(self, seen: "_Seen") -> str:
        if seen.missing:
            return seen.missing
        return "" if seen.checked - seen.since >= self.settle_seconds else "may still be written to"


Stat = tuple[int, int, int, int] | None
"""inode, bytes, times of content and inode in ns; None where there is nothing."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A store as a poll saw it."""

    checked: float
    """When, on this machine's monotonic clock, s."""
    since: float
    """When it was first seen like this, s."""
    metadata: tuple[Stat, ...]
    """Of the array of frames."""
    last: tuple[Path, ...]
    """The last chunk of that array, and the folders above it."""
    stats: tuple[Stat, ...]
    missing: str
    """What is not there yet."""

    @property
    def changed(self) -> int:
        """The latest change of content, by the file server's clock, ns."""
        return max((stat[2] for stat in self.stats if stat is not None), default=0)


def _look(path: Path, before: _Seen | None, now: float) -> _Seen:
    array = path / "frames"
    metadata = tuple(_stat(array / name) for name in _METADATA)
    last = before.last if before is not None and before.metadata == metadata else _last_chunk(array)
    above = (path, array, *(path / name for name in _METADATA), *last)
    stats = (*metadata, *map(_stat, above))
    missing = ""
    if not any(metadata):
        missing = "has no array 'frames' yet"
    elif last and stats[-1] is None:
        missing = f"its last chunk, {last[-1].relative_to(path)}, is not written yet"
    since = before.since if before is not None and before.stats == stats else now
    return _Seen(now, since, metadata, last, stats, missing)


def _stat(path: Path) -> Stat:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _last_chunk(path: Path) -> tuple[Path, ...]:
    """The file with the last frames of an array, after the folders between; empty where the array cannot be read."""
    try:
        array = zarr.open_array(path, mode="r")
        grid = zip(array.shape, array.shards or array.chunks, strict=True)
        file = path / array.metadata.encode_chunk_key(tuple((size - 1) // step for size, step in grid))
    except (OSError, ValueError, KeyError, TypeError):
        return ()  # if it stays like this, its opening says what is wrong
    between = [folder for folder in reversed(file.parents) if path in folder.parents]
    return (*between, file)


def append(folder: Path, entry: Mapping[str, Any]) -> None:
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


def read(folder: Path) -> dict[str, dict[str, Any]]:
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


@dataclass(frozen=True, slots=True)
class State:
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


def states(folder: Path) -> list[State]:
    """How the data sets of a run folder, or of a folder of them, stand; complete ones first.

    Nothing is written and no run is disturbed. Raises `InputError` where there is no run.
    """
    if (folder / "run.json").exists():
        return [_state(store.RunFolder(folder), None)]
    recorded = read(folder)
    runs = {path.parent.name: store.RunFolder(path.parent) for path in folder.glob("*/run.json")}
    found = [_state(run, recorded.get(key)) for key, run in runs.items()]
    for key, entry in recorded.items():
        status, reason = str(entry["status"]), str(entry["message"])
        # A complete one without a run folder was removed by the user.
        if key not in runs and status not in ("complete", "partial"):
            reasons = (reason,) if reason else ()
            found.append(State(key, folder / key, status, written=str(entry["written"]), reasons=reasons))
    if not found:
        raise InputError(f"{folder}: holds no run")
    return sorted(found, key=lambda state: (state.status != "complete", state.status, state.name))


def _state(folder: store.RunFolder, entry: Mapping[str, Any] | None) -> State:
    try:
        info = store.read_info(folder)
        status, counts, failures = str(info["status"]), info["counts"], info["failures"]
        reasons = [str(info[key]) for key in ("error", "report_error") if key in info]
        if entry is not None and entry["status"] == "refused" and entry["written"] >= info["written"]:
            reasons.append(f"refused since: {entry['message']}")
        done = info["parts"]["done"]
        if status == "running":
            status, reason = _running(folder, info["machine"].get("host"))
            reasons += [reason] if reason else []
            done = sum(1 for _ in folder.parts.glob("part-*.npz"))
        reasons += [f"frame {failure['frame']}: {failure['reason']}" for failure in failures[:REASONS]]
        return State(
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
            more=max(0, len(failures) - REASONS),
        )
    except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error) if isinstance(error, InputError) else f"{folder.info}: is not a braggflow run ({error!r})"
        return State(folder.path.name, folder.path, "damaged", reasons=(reason,))


def _running(folder: store.RunFolder, host: str | None) -> tuple[str, str]:
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
