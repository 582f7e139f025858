"""Files that are there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from braggflow.errors import InputError

#: What a file system says that has no room, or none for this user.
_FULL, _NO_ROOM = (errno.ENOSPC, errno.EDQUOT), os.strerror(errno.ENOSPC)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name to write a file under, in the same folder and with the same suffix, that is renamed at the end.

    Readers of `path` see all of it or nothing. Where the block raises, what it wrote is removed.
    """
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}.wip{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # as of a disk that is full: it would name no file
            error.filename = str(path)
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under a temporary name of its own, then rename it into place: readers see all of it or nothing."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, is that of a disk without room."""
    seen: BaseException | None = error
    while seen is not None:
        # HDF5 and Arrow give no number, but the system's words.
        if isinstance(seen, OSError) and (seen.errno in _FULL or _NO_ROOM in str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def not_written(what: object, error: Exception) -> InputError:
    """What a user is told where `what`, a path or an option with one, could not be written."""
    if is_full(error):
        return InputError(f"{what}: cannot be written, the disk is full; make room and run the same command again")
    return InputError(f"{what}: cannot be written ({getattr(error, 'strerror', None) or error})")
