"""Ctrl-C and SIGTERM, at any moment: an orderly end, of which nothing is said but our own sentence."""

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

#: Exit status of what was stopped.
STOPPED = 3
_SENTENCE = "braggflow: stopped; run the same command again to go on"
#: Whoever asks twice is not kept longer than this, seconds.
_PATIENCE = 3.0
#: They would tell of tasks cancelled and connections closed: what a user who stops a run wants.
_TALKATIVE = ("asyncio", "distributed", "tornado")


#: Modules that have processes or threads of their own, and end them when Python does.
_ENDING_IN_ORDER = frozenset({"distributed", "torch"})


class _State:
    asked = 0
    nothing_begun = True
    """Nothing is written and no job is waited for: leaving at once loses nothing, and is surest while modules load."""


def listen() -> None:
    """From now on Ctrl-C and SIGTERM, by which batch systems end a process, are for this module."""
    signal.signal(signal.SIGTERM, _asked)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # of a process in the background
        signal.signal(signal.SIGINT, _asked)


def may_leave_at_once(yes: bool) -> None:
    """Say whether nothing is begun that must be ended in order."""
    _State.nothing_begun = yes


def was_asked() -> bool:
    """Whether somebody has asked this process to stop."""
    return _State.asked > 0


def nothing_left_to_stop() -> None:
    """From now on nobody listens: all is done, or the end is under way. Signals that are not for this module stay."""
    listening = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is _asked]
    for number in listening:
        signal.signal(number, signal.SIG_IGN)


def stopped() -> NoReturn:
    """End the process, and say that the same command goes on."""
    nothing_left_to_stop()
    _say()
    sys.exit(STOPPED)


def leave(code: object) -> None:
    """End the process with a status, at once; return where something may be left that must end in order.

    Taking apart all that was loaded takes Python most of a second, in which a user waits for the prompt.
    """
    if not isinstance(code, int) or _ENDING_IN_ORDER & sys.modules.keys():
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _asked(_number: int, _frame: FrameType | None) -> None:
    _State.asked += 1
    if _State.asked == 1:
        _hush()
    if _State.nothing_begun:
        _leave()
    if _State.asked == 2:
        leaving = threading.Timer(_PATIENCE, _leave_when_allowed)
        leaving.daemon = True
        leaving.start()
    raise KeyboardInterrupt


def _hush() -> None:
    """Have nobody tell of what is interrupted: neither libraries nor Python, where a destructor or thread is."""
    for name in (*_TALKATIVE, *logging.root.manager.loggerDict):  # some of theirs have a level of their own
        if name.split(".")[0] in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda _: None
    threading.excepthook = lambda _: None


def _leave_when_allowed() -> None:
    while signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what must not be left undone is being done
        threading.Event().wait(0.05)
    _leave()


def _leave() -> NoReturn:
    kept = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a line that moves is drawn by a thread, which would draw once more
    _say(kept)
    os._exit(STOPPED)


def _say(stream: int = 2) -> None:
    """The sentence; past Python's streams, which may be in the middle of a line of theirs."""
    ends = ("\r\x1b[K\x1b[31m", "\x1b[0m\x1b[?25h") if os.isatty(stream) else ("", "")  # a moving line hides the cursor
    try:
        os.write(stream, f"{ends[0]}{_SENTENCE}{ends[1]}\n".encode())
    except OSError:  # nobody reads it
        os._exit(STOPPED)
