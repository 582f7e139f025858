"""Whether a data set's frames, and the code that reads them, are those with which its run began."""

import os
from dataclasses import dataclass
from pathlib import Path

from braggflow.config import digest
from braggflow.errors import InputError

#: What the folder of a Zarr store holds, in version 3 and 2.
_OF_STORES = ("zarr.json", ".zgroup", ".zarray")


class OtherFramesError(InputError):
    """The frames of a data set are not those with which its run began: none of its results can be used."""


class OtherSourcesError(InputError):
    """A worker has another braggflow than the client: nothing that it makes can be used, of any data set."""


@dataclass(frozen=True, slots=True)
class StoreStamp:
    """What changes with any file of a frames store."""

    digest: str = ""
    """Of all names, sizes and times of change."""
    bytes: int = 0
    changed_ns: int = 0
    """When the last of the files was changed."""


#: Detector files have none: they are looked at whenever they are read.
NO_STORE = StoreStamp()


def store_stamp(path: Path) -> StoreStamp:
    """The stamp of a frames store as it is now; `NO_STORE` where there is none."""
    if not any((path / name).exists() for name in _OF_STORES):
        return NO_STORE
    found: dict[str, tuple[int, int]] = {}
    folders = [path]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                inner = folder / entry.name
                if entry.is_dir():
                    folders.append(inner)
                else:
                    stat = entry.stat()
                    found[str(inner.relative_to(path))] = stat.st_size, stat.st_mtime_ns
    return StoreStamp(
        digest(found),
        sum(size for size, _ in found.values()),
        max(changed for _, changed in found.values()),
    )


def refuse_other_frames(path: Path, stamp: StoreStamp) -> None:
    """Raise `OtherFramesError` where the store has another stamp than when its run began, or is gone."""
    try:
        now = store_stamp(path)
    except OSError:
        now = NO_STORE
    if now != stamp:
        raise OtherFramesError(
            f"{path}: its files have changed since the run began, so that its results may be of other frames; they are "
            "thrown away. Run again once it is whole"
        )
