# mypy: allow-untyped-calls
"""How kernels are compiled, and where their machine code is kept for the next process.

numba's own cache (`cache=True`) keeps it, in a folder of ours: one for each state of the sources and each type of CPU,
so that code of other sources or another CPU is never used. numba's cache is not made for processes that write at the
same time (both may take one file name for different code): a lock on a file lets one save while no other loads. Where
no folder can be had, each process compiles for itself, which is said.
"""

import errno
import fcntl
import logging
import multiprocessing
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TextIO, TypeVar

import llvmlite.binding
import numba
from numba.core import config as numba_config
from numba.core import event

from braggflow.version import sources_hash

logger = logging.getLogger(__name__)

#: Folders of other states of the sources, to which nothing was written for so long, are removed.
_KEPT_SECONDS = 30 * 24 * 3600
#: What a folder must have room for, to be taken.
_ROOM_BYTES = 64 * 2**10
#: numba's setting is one of the process: it is changed for the moment in which a function is decorated.
_decorating = threading.Lock()

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(**options: Any) -> Callable[[_Function], _Function]:
    """`numba.njit` with these options, its machine code kept between processes where a folder for it can be had."""

    def compiled(function: _Function) -> _Function:
        kept = _state_folder(_wing(function.__module__))
        if kept is None:
            return numba.njit(**options)(function)  # type: ignore[no-any-return]
        with _decorating:
            before, numba_config.CACHE_DIR = numba_config.CACHE_DIR, str(kept)  # type: ignore[attr-defined]
            try:
                return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
            finally:
                numba_config.CACHE_DIR = before  # type: ignore[attr-defined]

    return compiled


@cache
def cache_folder() -> Path | None:
    """Where machine code is kept: in NUMBA_CACHE_DIR, the user's cache folder, or else that for temporary files.

    Only a folder that belongs to this user alone is taken: who writes in it decides what code runs. None where there is
    none, which is said once (worker processes leave that to their client).
    """
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
