"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


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
