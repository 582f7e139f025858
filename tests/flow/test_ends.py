"""However a run is ended, on a real terminal: our sentence, none of the libraries, and the same run goes on."""

import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from braggflow.results import RunFolder, data_set_statuses, open_peaks, read_run_info, write_run_info
from tests.patience import PATIENCE
from tests.stores import assert_same_table, make_store, spots

pytestmark = pytest.mark.faults

#: What no user should read, whoever prints it.
NOISE = re.compile(
    r"Traceback|Error\b|Exception|distributed|tornado|asyncio|Nanny|leaked|KeyboardInterrupt|Aborted|core dumped"
)
SENTENCES = ("stopped; run the same command again to go on", "stopped; the same command goes on from here.")
STAGES = ("loading", "opening scan", "looking at a few frames", "compiling", "starting workers", "frames/s", "joining")


class Ended(NamedTuple):
    """What a command that was sent a signal left on its terminal."""

    status: int
    shown: str
    signalled: bool


def on_a_terminal(
    words: list[str | Path],
    *,
    sign: str = "",
    delay: float = 0.0,
    number: int | Callable[[int], None] = signal.SIGTERM,
    again: float | None = None,
) -> Ended:
    """Run braggflow on a terminal; signal it some time after it shows `sign`, and once more `again` seconds later.

    `number` is a signal, or what is done to the process of this id.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [sys.executable, "-m", "braggflow", *map(str, words)]
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    shown, when, deadline = b"", None if sign else time.monotonic() + delay, time.monotonic() + PATIENCE
    signalled = False
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.01)[0]:
            try:
                content = os.read(ours, 65536)
            except OSError:  # so a terminal says that its last program has ended
                break
            if not content:
                break
            shown += content
        now = time.monotonic()
        if when is None and sign.encode() in shown:
            when = now + delay
        if when is not None and now >= when:
            number(process.pid) if callable(number) else os.kill(process.pid, number)
            signalled, when = True, np.inf if again is None else now + again
            again = None
    os.close(ours)
    status = process.wait(timeout=PATIENCE)
    return Ended(status, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="replace")), signalled)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A series that takes a few seconds (the reference engine), its configuration, and its undisturbed table."""
    folder = tmp_path_factory.mktemp("series")
    data = make_store(folder / "scan.zarr", np.stack([spots((72, 64), 6, seed=seed) for seed in range(24)]), chunk=1)
    settings = {
        "detect": {"minval": 15, "minscore": 10, "background": "none", "engine": "findpeaks"},
        "locate": {"network": "none", "position": "fit"},
        "compute": {"task_seconds": 0.01, "retries": 0},
        "output": {"report": False},
    }
    config = folder / "run.yaml"
    config.write_text(json.dumps(settings))
    words = ["run", config, data, "--out"]
    ended = on_a_terminal([*words, folder / "whole"], sign="no such words")
    assert ended.status == 0, ended.shown
    return words, open_peaks(folder / "whole" / "scan").load()


def interrupt_and_go_on(words, out, whole, moments):
    """Interrupt one run again and again, each time taken up where it was, and compare its table at the end."""
    folder = RunFolder(out / "scan")
    for sign, delay, number in moments:
        ended = on_a_terminal(words, sign=sign, delay=delay, number=number)
        where = f"{number!r} {delay:.2f} s after {sign!r}:\n{ended.shown[-3000:]}"
        assert not NOISE.search(ended.shown), where
        assert ended.status in (0, 3), where
        if ended.status == 3:
            assert ended.shown.strip().splitlines()[-1].endswith(SENTENCES), where
        elif folder.info.exists():  # it was done before: leave work for the next
            for part in sorted(folder.parts.glob("*.npz"))[::2]:
                part.unlink()
            write_run_info(folder, read_run_info(folder) | {"status": "interrupted"})
    ended = on_a_terminal(words, sign="no such words")
    assert ended.status == 0, ended.shown
    assert_same_table(open_peaks(folder.path), whole)


@pytest.mark.parametrize(
    "moments",
    [
        [("loading", 0.3, signal.SIGTERM), ("looking at", 0.1, signal.SIGINT), ("frames/s", 0.05, signal.SIGTERM)],
        [("starting workers", 0.5, signal.SIGTERM), ("frames/s", 0.2, signal.SIGTERM), ("joining", 0.0, signal.SIGINT)],
    ],
    ids=["in its own process", "on workers"],
)
def test_a_run_that_is_stopped_says_so_in_a_sentence_and_goes_on(tmp_path, series, moments, request):
    words, whole = series
    workers = ["--workers", 2] if "workers" in request.node.callspec.id else []
    interrupt_and_go_on([*words, tmp_path, *workers], tmp_path, whole, moments)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["--workers", 2]], ids=["in its own process", "on workers"])
def test_forty_random_moments(tmp_path, series, workers):
    words, whole = series
    draw = random.Random(7)
    moments = [
        (draw.choice(STAGES), draw.expovariate(2.0), draw.choice([signal.SIGTERM, signal.SIGINT])) for _ in range(20)
    ]
    interrupt_and_go_on([*words, tmp_path, *workers], tmp_path, whole, moments)


def test_asked_twice_a_run_leaves_at_once_and_has_lost_no_part(tmp_path, series):
    words, whole = series
    command, folder = [*words, tmp_path, "--workers", 2], RunFolder(tmp_path / "scan")
    ended = on_a_terminal(command, sign="frames/s", number=signal.SIGINT, again=0.0)
    assert ended.status == 3, ended.shown
    assert not NOISE.search(ended.shown), ended.shown
    # On a busy machine it is left before it could write down that it was interrupted.
    (status,) = data_set_statuses(tmp_path)
    assert status.status in ("interrupted", "stopped")
    parts = {path.name: path.stat().st_mtime_ns for path in folder.parts.glob("*.npz")}
    assert parts
    assert on_a_terminal(command, sign="no such words").status == 0
    assert_same_table(open_peaks(folder.path), whole)
    assert parts.items() <= {path.name: path.stat().st_mtime_ns for path in folder.parts.glob("*.npz")}.items()


@pytest.mark.parametrize(
    ("words", "sign"),
    [
        (["simulate", "sim.zarr", "--size", 512, "--frames", 2000], "simulate"),
        (["status", ".", "--watch"], "waiting for a run"),
        (["train", "--out", "w.safetensors", "--device", "cpu"], "loading"),
    ],
    ids=["simulate", "status", "train"],
)
def test_other_commands_that_are_stopped_say_so_in_a_sentence(tmp_path, monkeypatch, words, sign):
    monkeypatch.chdir(tmp_path)
    ended = on_a_terminal(words, sign=sign, delay=0.3)
    assert ended.signalled
    assert ended.status == 3, ended.shown
    assert not NOISE.search(ended.shown), ended.shown
    assert ended.shown.strip().splitlines()[-1].endswith(SENTENCES[0])
