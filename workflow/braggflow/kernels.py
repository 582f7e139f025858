"""How kernels are compiled, and where their machine code is kept for the next process.

numba's own cache is not safe where many processes start at once on a shared file system, and fails where it cannot
write: numbers of data files are used again, so that an index may name another kernel's code, that of an older source or
of another type of CPU; a change of a kernel that others call from another module goes unnoticed; and what cannot be
written or read is an error of the call. Here every data file has a name of its own, each state of a module its own
folder, and a cache that cannot be used is none: kernels are compiled again.
"""

# mypy: allow-untyped-calls

import ast
import errno
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, InTreeCacheLocator

logger = logging.getLogger(__name__)

#: Folders of other states of the sources, to which nothing was written for so long, are removed.
_KEPT_SECONDS = 30 * 24 * 3600
#: What a cache file that is cut off or damaged raises when it is loaded.
_DAMAGED = (EOFError, pickle.UnpicklingError, ValueError, TypeError, AttributeError, ImportError, IndexError, KeyError)
_HOLDS_KERNELS = re.compile(rb"^(import|from) (numba|llvmlite|braggflow\.kernels)\b", re.MULTILINE)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(**options: Any) -> Callable[[_Function], _Function]:
    """`numba.njit` with these options, its machine code kept between processes where a folder for it can be had."""

    def compiled(function: _Function) -> _Function:
        dispatcher = numba.njit(**options)(function)
        if folder() is not None:
            dispatcher._cache = _Cache(function)  # as numba's enable_caching does
        return dispatcher  # type: ignore[no-any-return]

    return compiled


@cache
def folder() -> Path | None:
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
    _hint("; ".join(tried))
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
    """A folder for this user alone; raises `OSError` where it is another's, or cannot be written in."""
    made.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = made.lstat()
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == _user() and not found.st_mode & 0o022
    if hasattr(os, "getuid") and not own:
        raise PermissionError(errno.EPERM, "is not a folder that only you can write in")
    tempfile.TemporaryFile(dir=made).close()
    return made


@cache
def _folder_of(source: Path) -> Path:
    """Where the kernels of one module are kept, in the state that it and the modules with kernels it imports have."""
    kept = folder()
    assert kept is not None
    content = sha256(b"".join(path.read_bytes() for path in sorted(_with_imported(source, {source}))))
    made = kept / f"{source.stem}-{content.hexdigest()[:16]}"
    if not made.exists():
        for old in kept.iterdir():
            with suppress(OSError):
                if old.stat().st_mtime < time.time() - _KEPT_SECONDS:
                    shutil.rmtree(old)
        with suppress(OSError):  # what is saved there will say so
            made.mkdir(exist_ok=True, mode=0o700)
    return made


def _with_imported(source: Path, found: set[Path]) -> set[Path]:
    """`found` and the modules with kernels that `source` imports: numba itself watches only the outermost one."""
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module).rpartition(".")[2], *(alias.name for alias in node.names)]
            for path in {source.with_name(f"{name}.py") for name in names} - found:
                if path.is_file() and _HOLDS_KERNELS.search(path.read_bytes()):
                    found = _with_imported(path, found | {path})
    return found


def _hint(reason: str) -> None:
    if multiprocessing.parent_process() is None:
        logger.warning(
            "compiled kernels cannot be kept, and each process compiles them again, for about half a minute: %s. "
            "Set NUMBA_CACHE_DIR to a folder of yours that can be written in",
            reason,
        )


class _Locator(InTreeCacheLocator):
    def get_cache_path(self) -> str:
        return str(_folder_of(Path(self._py_file)))

    def ensure_cache_path(self) -> None:
        """Nothing: `folder` has tried it, once and not for each kernel."""


class _Content(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012


class _Files(IndexDataCacheFile):
    """One index, and a file for each signature. numba numbers them from 1: two processes would write the same one."""

    def _data_name(self, number: int) -> str:  # noqa: ARG002
        return str(self._data_name_pattern.format(number=uuid4().int))


class _Cache(FunctionCache):
    """numba's cache of one function, safe among processes, and none the worse for a file that cannot be used."""

    _impl_class = _Content
    saves = True
    """Until a file cannot be written: the next could not be either, and the user has been told."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _Files(self.cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except OSError:
            return None
        except _DAMAGED:
            with suppress(OSError):
                self.flush()  # else what is saved next would not be found either
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if not _Cache.saves:
            return
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _Cache.saves = False
            _hint(f"{folder()} ({error.strerror})")
