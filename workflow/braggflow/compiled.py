# mypy: allow-untyped-calls
"""How kernels are compiled, and where their machine code is kept for the next process.

numba's own cache (`cache=True`) keeps it, in a folder of ours: one for each state of the sources and each type of CPU,
so that code of other sources or another CPU is never used. numba's cache is not made for processes that write at the
same time (both may take one file name for different code): a lock on a file lets one save while no other loads. Where
no folder can be had, each process compiles for itself, which is said.

Compiling is said on standard error while it lasts (`announce` for another way), but in worker processes, whose client
says it. `compile_once` has one process compile for all that start at the same time.
"""

import atexit
import errno
import fcntl
import logging
import multiprocessing
import os
import platform
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

import llvmlite.binding
import numba
from numba import types
from numba.core import config as numba_config
from numba.core import event

from braggflow.version import sources_hash, sources_of

logger = logging.getLogger(__name__)

#: Folders of other states of the sources, to which nothing was written for so long, are removed.
_KEPT_SECONDS = 30 * 24 * 3600
#: What a folder must have room for, to be taken.
_ROOM_BYTES = 64 * 2**10
#: numba's setting is one of the process: it is changed for the moment in which a function is decorated.
_decorating = threading.Lock()

#: What compiles sooner is not said; a pause between two kernels is none; lines of a log are so far apart. Seconds.
_UNSAID, _PAUSE, _LINES_APART = 0.5, 0.2, 10.0

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(**options: Any) -> Callable[[_Function], _Function]:
    """`numba.njit` with these options, its machine code kept between processes where a folder for it can be had."""

    def compiled(function: _Function) -> _Function:
        kept = _state_folder(_wing(function.__module__))
        if kept is None:
            return _one_version(numba.njit(**options)(function))  # type: ignore[no-any-return]
        with _decorating:
            before, numba_config.CACHE_DIR = numba_config.CACHE_DIR, str(kept)  # type: ignore[attr-defined]
            try:
                return _one_version(numba.njit(cache=True, **options)(function))  # type: ignore[no-any-return]
            finally:
                numba_config.CACHE_DIR = before  # type: ignore[attr-defined]

    return compiled


def inner(**options: Any) -> Callable[[_Function], _Function]:
    """As `kernel`, of a function that only kernels call: its machine code is a part of theirs."""

    def compiled(function: _Function) -> _Function:
        return _one_version(numba.njit(**{"no_cpython_wrapper": True, **options})(function))  # type: ignore[no-any-return]

    return compiled


def _one_version(dispatcher: Any) -> Any:
    """The function, compiled once for all constants that its callers in compiled code pass for an argument.

    numba would compile it anew for each number or truth value that stands in the source of a caller, and each of those
    callers with it: four fifths of the time to compile the fits.
    """
    template = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return template(
            tuple(types.unliteral(kind) for kind in args), {name: types.unliteral(kind) for name, kind in kws.items()}
        )

    dispatcher.get_call_template = get_call_template
    return dispatcher


@cache
def cache_folder() -> Path | None:
    """Where machine code is kept: in NUMBA_CACHE_DIR, the user's cache folder, or else that for temporary files.

    Only a folder that belongs to this user alone is taken: who writes in it decides what code runs. None where there is
    none, which is said once (worker processes leave that to their client).
    """
    event.register("numba:compile", _Telling())
    tried = []
    for candidate in _candidates():
        try:
            return _taken(candidate / f"braggflow-{_user()}")
        except OSError as error:
            tried.append(f"{candidate} ({error.strerror})")
    if multiprocessing.parent_process() is None:
        logger.warning(
            "compiled kernels cannot be kept, and each process compiles them again, for about half a minute: %s. "
            "Set NUMBA_CACHE_DIR to a folder of yours that can be written in",
            "; ".join(tried),
        )
    return None


def _candidates() -> Iterator[Path]:
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(given)
    with suppress(RuntimeError):  # a user without a home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with suppress(FileNotFoundError):  # none that can be written in
        yield Path(tempfile.gettempdir())


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # Windows gives each user a cache folder and a temporary one


def _taken(made: Path) -> Path:
    """A folder for this user alone; raises where it is another's, cannot be written in or locked, or has no room."""
    made.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = made.lstat()
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == _user() and not found.st_mode & 0o022
    if hasattr(os, "getuid") and not own:
        raise PermissionError(errno.EPERM, "is not a folder that only you can write in")
    with tempfile.TemporaryFile(dir=made) as file:  # a full disk would be an error of a kernel's call
        file.write(bytes(_ROOM_BYTES))
    lock = _CacheLock(made / ".lock")
    lock.enter()  # raises where the file system has no locks
    for path in made.rglob("*.nb?"):
        if not path.stat().st_size:  # what a power cut leaves
            path.unlink(missing_ok=True)
    lock.leave()
    event.register("numba:compiler_lock", _NumbasLock(lock))
    event.register("numba:compile", _Compiling(lock))
    return made


def _wing(module: str) -> tuple[str, ...]:
    """The wing of the package that a module belongs to; none for one of the ground floor."""
    package, *inner = module.split(".")
    return (inner[0],) if package == "braggflow" and len(inner) > 1 else ()


@cache
def _state_folder(wing: tuple[str, ...]) -> Path | None:
    """The folder for kernels of a wing: they call none but those of their own wing and of the ground floor."""
    kept = cache_folder()
    if kept is None:
        return None
    made = kept / "-".join((*wing, sources_hash(*wing), llvmlite.binding.get_host_cpu_name()))
    if not made.exists():
        for old in kept.iterdir():
            with suppress(OSError):
                if old.is_dir() and old.stat().st_mtime < time.time() - _KEPT_SECONDS:
                    shutil.rmtree(old)
        made.mkdir(exist_ok=True, mode=0o700)
    return made


class _CacheLock:
    """The lock on a file under which this process loads (shared with others) and saves (alone); it compiles without it.

    numba tells of its own lock, within which it loads, compiles and saves, and of compiling. That of a kernel which
    another one calls lies within the other's compiling.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """A state of this process's own: workers are forked from one that has loaded kernels."""
        self._owner = threading.RLock()
        self._file: TextIO | None = None

    def enter(self) -> None:
        """Before numba takes its own lock, which other threads wait for too: they wait here."""
        self._owner.acquire()
        self.hold(fcntl.LOCK_SH)

    def hold(self, mode: int) -> None:
        """Change to `mode`, of fcntl's."""
        if self._file is None:
            self._file = self._path.open("w")
        fcntl.flock(self._file, mode)

    def leave(self) -> None:
        """After numba has given back its own lock."""
        if self._file is not None:  # else it was that of a kernel called by one that did not compile
            self._file.close()
            self._file = None
        self._owner.release()


class _NumbasLock(event.Listener):
    def __init__(self, lock: _CacheLock) -> None:
        self._lock = lock

    def on_start(self, _: Any) -> None:
        self._lock.enter()

    def on_end(self, _: Any) -> None:
        self._lock.leave()


class _Compiling(event.Listener):
    def __init__(self, lock: _CacheLock) -> None:
        self._lock = lock

    def on_start(self, _: Any) -> None:
        self._lock.hold(fcntl.LOCK_UN)

    def on_end(self, _: Any) -> None:
        self._lock.hold(fcntl.LOCK_EX)


class Compiling(NamedTuple):
    """How far compiling has come."""

    seconds: float
    """Since it began."""
    about: float | None
    """Seconds that it takes in all, about, where that is known."""
    done: bool
    """Whether it has ended."""


def announce(show: Callable[[Compiling], None] | None) -> None:
    """Have `show` called, from a thread, about once a second while this process compiles and once at its end.

    None: as it is without, by a line on standard error that counts the seconds on a terminal and in Jupyter, and by
    lines 10 s apart in a log.
    """
    _ticker.show = show or _Lines()


Line = Callable[[str, float | None, str], None]


@contextmanager
def compiling_told(line: Line) -> Iterator[Line]:
    """A line like `line`, of `console.moving_line`, that also says when kernels are compiled, and then what it said."""
    last: tuple[str, float | None, str] | None = None

    def show(title: str, share: float | None, facts: str) -> None:
        nonlocal last
        last = (title, share, facts)
        line(*last)

    def told(state: Compiling) -> None:
        if not state.done:
            about = f": about {state.about:.0f} s" if state.about else ""
            line(f"compiling, once after an installation{about}", None, "")
        elif last is not None:
            line(*last)

    announce(told)
    try:
        yield show
    finally:
        announce(None)


@contextmanager
def compiling(about: float | None = None) -> Iterator[None]:
    """Announce that compiling goes on in this block, in whatever process, and its end before the block is left."""
    _ticker.begin(about)
    try:
        yield
    finally:
        _ticker.end()
        _ticker.wait()


def compile_once(wings: Sequence[str], work: Callable[[], bool], *, about: float) -> None:
    """Do `work`, which compiles all kernels of these wings, unless that was done by this or another process.

    It returns whether it has done so. Of processes that come here at once one works, the others wait for it. Does
    nothing where machine code cannot be kept.
    """
    folders = [_state_folder(wing) for wing in ((), *((name,) for name in wings))]
    done = f"ahead-{platform.python_version()}-{numba.__version__}-{_place_and_time(wings)}"
    kept = [folder / done for folder in folders if folder]
    if len(kept) < len(folders) or all(marker.exists() for marker in kept):
        return
    with compiling(about), (kept[0].with_name("ahead.lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(marker.exists() for marker in kept) and work():
            for marker in kept:
                marker.touch()


def _place_and_time(wings: Sequence[str]) -> str:
    """A digest of where the sources of wings lie and when they were written.

    numba keeps machine code by both: of the same sources that were installed again, or elsewhere, it knows none.
    """
    stated = [(str(path), path.stat().st_mtime_ns) for path in sources_of(*wings)]
    return sha256(repr(stated).encode()).hexdigest()[:16]


class _Lines:
    """Lines on standard error, one that is written over where that can be done."""

    def __init__(self) -> None:
        self._last: float | None = None

    def __call__(self, state: Compiling) -> None:
        stream = sys.stderr
        if stream is None:
            return
        over = stream.isatty() or type(stream).__module__.startswith("ipykernel")
        what = "braggflow: compiling its kernels, once"
        about = f" of about {state.about:.0f} s" if state.about else ""
        if state.done:
            line = f"braggflow: its kernels are compiled, {state.seconds:.0f} s"
            stream.write(f"\r{line:<{len(what) + 25}}\n" if over else f"{line}\n")
            self._last = None
        elif over:
            stream.write(f"\r{what}: {state.seconds:.0f} s{about}")
        elif self._last is None:
            stream.write(f"{what}: {about.removeprefix(' of ') or 'some seconds'}\n")
            self._last = state.seconds
        elif state.seconds >= self._last + _LINES_APART:
            stream.write(f"{what}: {state.seconds:.0f} s{about}\n")
            self._last = state.seconds
        stream.flush()


class _Ticker:
    """A thread for as long as this process compiles, which shows that."""

    def __init__(self) -> None:
        self.show: Callable[[Compiling], None] = _Lines()
        self._begin()
        os.register_at_fork(after_in_child=self._begin)
        atexit.register(self.wait)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._depth, self._about = 0, None  # type: tuple[int, float | None]
        self._thread: threading.Thread | None = None

    def begin(self, about: float | None = None) -> None:
        if multiprocessing.parent_process() is not None:
            return
        with self._changed:
            self._depth += 1
            self._about = about or self._about
            if self._thread is None:
                self._thread = threading.Thread(target=self._tell, name="braggflow-compiling", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._depth = max(self._depth - 1, 0)  # of 0 in a process that was forked meanwhile
            self._changed.notify_all()

    def wait(self) -> None:
        """Until the end is told, where compiling has ended."""
        thread = self._thread
        if thread is not None and not self._depth:
            thread.join()

    def _tell(self) -> None:
        begun = time.monotonic()
        told: float | None = None
        while True:
            with self._changed:
                ended = self._changed.wait_for(lambda: not self._depth, 1.0 if told is not None else _UNSAID)
                seconds = time.monotonic() - begun
                if ended and not self._changed.wait_for(lambda: self._depth > 0, _PAUSE):
                    about, self._about, self._thread = self._about, None, None
                    break
                about = self._about
            if seconds >= (_UNSAID if told is None else told + 0.95):
                told = seconds
                self.show(Compiling(seconds, about, done=False))
        if told is not None:
            self.show(Compiling(seconds, about, done=True))


_ticker = _Ticker()


class _Telling(event.Listener):
    """Announces the compiling of this package's functions, none of its caller's own."""

    def on_start(self, told: Any) -> None:
        if told.data["dispatcher"].py_func.__module__.startswith("braggflow."):
            _ticker.begin()

    def on_end(self, told: Any) -> None:
        if told.data["dispatcher"].py_func.__module__.startswith("braggflow."):
            _ticker.end()
