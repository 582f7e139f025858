"""Worker processes of this machine are forked from one process that has imported what their tasks need.

Each would else import it by itself: seconds of computing, and thousands of files looked for, for every worker.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, resource_tracker
from pathlib import Path

import dask
import distributed  # noqa: F401 - its settings are read below

from braggflow.config import RunConfig

#: How worker processes are made, in distributed's words. Elsewhere, system libraries do not stand being forked.
METHOD = "forkserver" if sys.platform == "linux" else "spawn"
#: Settings of glibc for worker processes: freed memory up to the first is kept, and used for arrays up to the second
#: (the highest that it takes). Dask has its workers give back nearly all at once, for theirs hold results; ours hold
#: frames for an instant, and being given zeroed memory again and again took as long as decoding them.
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**27), "MALLOC_MMAP_THRESHOLD_": str(2**25)}


def task_modules(*, network: bool) -> list[str]:
    """What tasks of a run import; `network`: those of its networks too, with torch."""
    return ["distributed", "braggflow.flow", *(["braggflow.locate.networks"] if network else [])]


def start_worker_server(config: RunConfig | None = None) -> None:
    """Start the process that imports what tasks of a run need (None: other tasks), and do not wait for it.

    Where it runs already, it stays as it is.
    """
    start_import_server(task_modules(network=config.locate.asks_network) if config is not None else ["distributed"])


def start_import_server(modules: Sequence[str], *, wait: bool = False) -> None:
    """Start the process that imports `modules`; with `wait` return when it has, however long that takes."""
    if METHOD != "forkserver":
        return
    forkserver.set_forkserver_preload(list(modules))
    # What a nanny gives to its worker (one thread for linear algebra), before that can begin.
    settings = dask.config.get("distributed.nanny.pre-spawn-environ") | KEPT_MEMORY
    changes = {name: os.environ.get(name, str(value)) for name, value in settings.items() if value is not None}
    changes |= {
        "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "6640"),  # also a nanny's: the same in all workers
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "PYTHONSAFEPATH": "1",  # or else modules in the current directory would come first
    }
    with _environment(changes), ctrl_c_ignored():
        # It tidies up what a process leaves behind that ends at once, and would warn that it had to. What it is not to
        # warn of it takes from here.
        sys.warnoptions.append("ignore")
        try:
            resource_tracker.ensure_running()
        finally:
            sys.warnoptions.pop()
        forkserver.ensure_running()
        if wait:
            forked = get_context("forkserver").Process(target=_nothing)
            forked.start()
            forked.join()


def _nothing() -> None:
    pass


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def ctrl_c_ignored() -> Iterator[None]:
    """Ctrl-C does nothing until the end of the block, nor ever to processes that are started in it.

    Whether workers stop is for the client to say.
    """
    with _ignored(signal.SIGINT):
        yield


@contextmanager
def sigterm_ignored() -> Iterator[None]:
    """Nor does a batch system's request to end; not for where processes are started, which that must end."""
    with _ignored(signal.SIGTERM):
        yield


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
