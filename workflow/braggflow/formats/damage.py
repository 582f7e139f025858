"""What readers raise, or only log, about a damaged file becomes one message that names it."""

import logging
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from braggflow.errors import InputError

#: What readers of damaged files raise; everything else is a defect of ours and must not be hidden.
READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    RuntimeError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
#: fabio and tifffile log these and go on with zeros or fewer frames.
_DAMAGE = re.compile(
    r"checksum|incomplete|too small|smaller than|truncat|invalid page offset|invalid or corrupted|corrupted IFD", re.I
)


@contextmanager
def reading_errors(name: str) -> Iterator[None]:
    """Turn what readers raise, or only log, about a damaged file into an `InputError`; other log messages are held."""
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
    except READ_ERRORS as error:
        reason = " ".join(str(error).split()) or damage_text([r.getMessage() for r in held]) or type(error).__name__
        raise InputError(f"{name}: cannot be read; damaged, incomplete or of another format? ({reason})") from error
    finally:
        for logger, propagate in before:
            logger.removeHandler(handler)
            logger.propagate = propagate


def damage_text(messages: Sequence[str]) -> str:
    """Each message once, in one line."""
    return "; ".join(dict.fromkeys(" ".join(message.split()) for message in messages))
