import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# No example is timed, as a machine may be busy; all else is as hypothesis has it.
settings.register_profile("suite", settings(), deadline=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def the_same_networks() -> None:
    """Untrained networks are drawn with the same weights in every run of a test."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """A test that calls the command line in this process leaves no signal ignored: processes of later tests inherit it.

    Nor is Ctrl-C ignored from the start, as it is where the tests run in the background of a shell.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hooks = sys.unraisablehook, threading.excepthook
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.unraisablehook, threading.excepthook = hooks


@pytest.fixture(autouse=True)
def no_client_is_left() -> Iterator[None]:
    """A client that stays the default has all that Dask computes in later tests wait for its scheduler, for ever."""

    def default() -> object:
        distributed = sys.modules.get("distributed.client")
        return None if distributed is None else distributed._get_global_client()

    before = default()  # that of a module's fixture
    yield
    assert default() is before


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real frames and reference lists."""
    folder = os.environ.get("BRAGGFLOW_REAL_DATA")
    if not folder:
        pytest.skip("BRAGGFLOW_REAL_DATA is not set: no real frames to test on")
    return Path(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
