"""The one error that a user's mistake is, and a disk that is full."""

import errno
import os

#: What a file system says that has no room, or none for this user.
_FULL, _NO_ROOM = (errno.ENOSPC, errno.EDQUOT), os.strerror(errno.ENOSPC)


class InputError(ValueError):
    """Something the user gave is refused: the message names it, its value and what is accepted.

    Every function of the package raises it for a mistake in its input. The command line prints the message and ends
    with exit status 2.

    Examples
    --------
    >>> import braggflow
    >>> try:
    ...     braggflow.open_run("nowhere")
    ... except braggflow.InputError as error:
    ...     print(error)
    nowhere: holds no run (no run.json)
    """


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
