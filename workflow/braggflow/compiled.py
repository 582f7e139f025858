# mypy: allow-untyped-calls
"""How kernels are compiled, and where their machine code is kept for the next process.

numba's own cache (`cache=True`) keeps it, in a folder of ours: one for each state of the sources and each type of CPU,
so that code of other sources or another CPU is never used. numba's cache is not made for processes that write at the
same time (both may take one file name for different code), so that a lock is held while one of them loads or compiles;
the others then find what it compiled. Where no folder can be had, each process compiles for itself, which is said.
"""

import errno
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
from typing import Any, TypeVar

import llvmlite.binding
import numba
from filelock import FileLock
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
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            tried.append(f"{candidate} ({getattr(error, 'strerror', None) or error})")
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
    with FileLock(made / ".lock"):
        for path in made.rglob("*.nb?"):
            if not path.stat().st_size:  # what a power cut leaves
                path.unlink()
    event.register("numba:compiler_lock", _OneProcessAtATime(made / ".lock"))
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


class _OneProcessAtATime(event.Listener):
    """Holds a lock file as long as numba holds its own lock: while it loads, compiles and saves."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        """A lock of this process: workers are forked from one that has its own."""
        self._lock, self._counting = FileLock(self._path, thread_local=False), threading.Lock()

    def on_start(self, _: Any) -> None:
        with self._counting:
            self._lock.acquire()

    def on_end(self, _: Any) -> None:
        with self._counting:
            self._lock.release()
