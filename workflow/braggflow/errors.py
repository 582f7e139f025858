"""The one error that a user's mistake is, a disk that is full, and texts of others shown as they are."""

import errno
import os
import unicodedata

#: What a file system says that has no room, or none for this user.
_FULL, _NO_ROOM = (errno.ENOSPC, errno.EDQUOT), os.strerror(errno.ENOSPC)
#: Categories of characters that show nothing of their own, but change what a terminal or page shows of others: control
#: characters, marks of the direction of writing, lone halves of characters (bytes of names that are no text), breaks.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """A text with all that changes what is shown of others escaped, but for the ends of its lines.

    Names of files, keys and what files say of themselves are others' texts: what is shown to people goes through here.

    Examples
    --------
    >>> from braggflow.errors import printable
    >>> print(printable("scan\x1b[2J\u202e.zarr"))
    scan\\x1b[2J\\u202e.zarr
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter == "\n" or unicodedata.category(letter) not in _UNSEEN else repr(letter)[1:-1]
        for letter in text
    )


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

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


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
