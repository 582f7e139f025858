"""What readers raise, or only log, about a file becomes one message that names it and says what is wrong with it."""

import errno
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from braggflow.errors import InputError
from braggflow.formats.sources import content_of

#: fabio and tifffile log these and go on with zeros or fewer frames.
_DAMAGE = re.compile(
    r"checksum|incomplete|too small|smaller than|truncat|invalid page offset|invalid or corrupted|corrupted IFD", re.I
)
#: What HDF5 and tifffile say of a compression that they have no code for.
_HDF5_FILTER = re.compile(r"required filter|can't open directory|unable to load plugin", re.I)
_MISSING_PACKAGE = re.compile(r"requires the '(\w+)' package", re.I)
_PACKAGE = Path(__file__).parents[1]


@contextmanager
def reading_errors(name: str, path: str = "") -> Iterator[None]:
    """Turn what readers raise, or only log, about a file into an `InputError`; other log messages are held.

    `path` is the file whose content tells a damaged file from one of another kind. Readers raise anything, a bare
    `Exception` too; only a `NameError` of our own code is surely ours, and goes on.
    """
    held: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = held.append  # type: ignore[method-assign, assignment]
    loggers = [logging.getLogger("fabio"), logging.getLogger("tifffile")]
    before = [(logger, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
        damage = [r.getMessage() for r in held if r.levelno >= logging.ERROR or _DAMAGE.search(r.getMessage())]
        if damage:
            raise OSError(damage_text(damage))
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, NameError) and _is_ours(error):
            raise
        reason = " ".join(str(error).split()) or damage_text([r.getMessage() for r in held]) or type(error).__name__
        raise InputError(f"{name}: cannot be read{_what_is_wrong(error, reason, path)} ({reason})") from error
    finally:
        for logger, propagate in before:
            logger.removeHandler(handler)
            logger.propagate = propagate


def _what_is_wrong(error: Exception, reason: str, path: str) -> str:
    """What kind of failure this is, as the middle of a sentence."""
    package = _MISSING_PACKAGE.search(reason)
    if package or isinstance(error, ImportError):
        missing = package[1] if package else getattr(error, "name", None) or "the package"
        return f": its compression or format needs a package that is missing; `pip install {missing}` brings it"
    if _HDF5_FILTER.search(reason):
        return (
            ": its compression needs an HDF5 filter that is not installed; a newer hdf5plugin may have it, "
            "or HDF5_PLUGIN_PATH names the folder of the detector's own"
        )
    if isinstance(error, MemoryError):
        return ": it needs more memory than there is; does its header state a wrong size?"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR):
        return ""
    if not path or not Path(path).is_file():
        return "; damaged or cut off?"
    content = content_of(Path(path))
    if content is None:
        return "; its content has no mark of a kind that is known here"
    return f"; its content is {content.what}{', damaged or cut off?' if content.kind else ''}"


def _is_ours(error: BaseException) -> bool:
    """Whether code of this package itself raised it, and not a library that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(_PACKAGE)


def damage_text(messages: Sequence[str]) -> str:
    """Each message once, in one line."""
    return "; ".join(dict.fromkeys(" ".join(message.split()) for message in messages))
