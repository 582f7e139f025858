"""Frames stores of a folder as they are finished during a beam time."""

import time
from dataclasses import dataclass
from pathlib import Path

import zarr

from braggflow.errors import InputError
from braggflow.frames.data_sets import is_named_as_store

_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")


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
            present = [path for path in self.folder.iterdir() if is_named_as_store(path)]
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
        """When all that the last `poll` saw will have been unchanged for long enough, monotonic s; 0: nothing seen."""
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
