"""Output on terminals that have not all characters, and of file names that are no text."""

import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from braggflow.cli.streams import never_stop_at_a_character
from braggflow.console import plain
from tests.patience import PATIENCE
from tests.stores import make_store, spots

pytestmark = pytest.mark.faults

ENVIRONMENTS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8"},
}
#: A sign that few encodings have, and a byte that is none in UTF-8.
NAME = os.fsdecode("scan_σ_".encode() + b"\xe9")


def call(folder: Path, environment: str, *words: str) -> "subprocess.CompletedProcess[bytes]":
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **ENVIRONMENTS[environment]}
    command = [sys.executable, "-m", "braggflow", *words]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, timeout=PATIENCE, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    encoding = ENVIRONMENTS[environment].get("PYTHONIOENCODING", "ascii")
    (done.stdout + done.stderr).decode(encoding)  # nothing that the terminal has not
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    frames = np.stack([spots((64, 64), 2, seed=seed) for seed in range(2)])
    with (folder / f"{NAME}.npy").open("wb") as file:
        np.save(file, frames)
    make_store(folder / f"{NAME}.zarr", frames, chunk=1)
    make_store(folder / "scan_σ.zarr", frames, chunk=1)
    (folder / "c.yaml").write_text("{detect: {minval: 20}, locate: {network: none}, output: {report: false}}\n")
    return folder


def test_every_terminal_shows_what_it_can_and_something_else_for_what_it_cannot(folder: Path) -> None:
    commands = [
        ("ascii", "inspect", f"{NAME}.npy"),
        ("cp1252", "inspect", f"{NAME}.npy"),
        ("C locale", "ingest", f"{NAME}.npy", "--out", f"{NAME}_2.zarr", "--workers", "1"),
        ("UTF-8", "run", "c.yaml", f"{NAME}.zarr", "--workers", "1"),
    ]
    with ThreadPoolExecutor(2) as pool:
        ascii_, cp1252, c_locale, utf8 = pool.map(lambda words: call(folder, *words), commands)
    assert [done.returncode for done in (ascii_, cp1252, c_locale, utf8)] == [0, 0, 0, 2]
    assert ascii_.stdout.startswith(b"scan_sigma_\\udce9.npy\n  frames       2 frames of 64 x 64 pixels")
    assert cp1252.stdout.startswith("scan_sigma_\\udce9.npy\n  frames       2 frames of 64 × 64".encode("cp1252"))
    assert b"_2.zarr: 2 x 64 x 64 uint16" in c_locale.stdout
    assert utf8.stderr.splitlines()[-1].startswith(b"braggflow: data: ")
    assert "scan_σ_\\udce9.zarr: is no text in this locale".encode() in utf8.stderr


def test_a_run_and_its_status_are_shown_on_an_ascii_terminal(folder: Path) -> None:
    run = call(folder, "ascii", "run", "c.yaml", "scan_σ.zarr", "--workers", "1")
    assert run.returncode == 0
    assert b"| scan_sigma " in run.stdout
    assert b"scan_sigma.zarr\n  frames       2 frames of 64 x 64 pixels" in run.stderr
    assert b"scan_sigma" in call(folder, "ascii", "status", "runs").stdout


def test_a_stream_that_is_no_file_of_text_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    never_stop_at_a_character()


def test_what_was_written_is_there_when_a_command_ends_at_once(folder: Path) -> None:
    with (folder / "told.txt").open("w") as file:
        command = [sys.executable, "-m", "braggflow", "config", "schema"]
        done = subprocess.run(command, cwd=folder, stdout=file, timeout=PATIENCE, check=False)
    assert done.returncode == 0
    assert "max_peaks_per_frame" in json.loads((folder / "told.txt").read_text())["$defs"]["DetectConfig"]["properties"]


def test_lines_that_belong_together_are_written_in_one_go() -> None:
    class Written(io.StringIO):
        calls = 0

        def write(self, text: str) -> int:
            self.calls += 1
            return super().write(text)

    file = Written()
    plain(Console(file=file, width=20), "a line longer than the terminal", "[red]and its next")
    assert file.getvalue() == "a line longer than the terminal\n[red]and its next\n"
    assert file.calls == 1


def test_no_library_tells_of_what_was_interrupted() -> None:
    program = (
        "import logging, os, signal\n"
        "import distributed\n"
        "from braggflow.cli import stopping\n"
        "stopping.listen()\n"
        "stopping.may_leave_at_once(False)\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    signal.pause()\n"
        "except KeyboardInterrupt:\n"
        "    pass\n"
        "for name in ('distributed', 'distributed.client', 'distributed.nanny', 'tornado.application', 'asyncio'):\n"
        "    logging.getLogger(name).critical('a callback failed')\n"
        "logging.getLogger('braggflow').warning('a part is lost')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode() == "a part is lost\n"
