"""Stand-ins for the commands of batch systems."""

from pathlib import Path

import pytest


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a command in front of PATH that prints given text; what it was called with is in the file returned."""

    def installed(name: str, out: str = "", err: str = "", status: int = 0) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for stream, text in (("out", out), ("err", err)):
            (folder / f"{name}.{stream}").write_text(text)
        calls = folder / f"{name}.calls"
        (folder / name).write_text(
            f'#!/bin/sh\necho "$@" >> {calls}\ncat {folder}/{name}.out\ncat {folder}/{name}.err >&2\nexit {status}\n'
        )
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return calls

    return installed
