"""Killed anywhere, in any way: one more undisturbed run ends with the same table, a report, and nothing left over.

`make test-kills KILLS=200` tries so many moments; `KILLS="1 17"` the seventeenth alone.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from braggflow import open_frames
from braggflow.results import RunFolder, open_peaks, read_run_info
from tests.flow.test_ends import on_a_terminal
from tests.stores import assert_same_table, make_store, spots

#: Moments, and the number of the first: `BRAGGFLOW_KILLS="40"` or `"40 100"`.
MOMENTS, FIRST = [*map(int, os.environ.get("BRAGGFLOW_KILLS", "40").split()), 0][:2]
STAGES = ("loading", "opening scan", "looking at a few frames", "starting workers", "frames/s", "frames/s", "joining")
#: What a finished run folder holds.
KEPT = re.compile(r"\.lock|run\.(json|yaml)|report\.html|parts(/part-\d{8}-\d{8}\.npz)?|(peaks|tracks)\.zarr(/.*)?")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def ask(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def stop_and_kill(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)


def kill_a_worker(pid: int) -> None:
    """One of the processes that were forked to work; where there is none yet, nothing."""
    with suppress(psutil.NoSuchProcess):
        helpers = psutil.Process(pid).children()
        workers = [worker for helper in helpers for worker in helper.children()]
        if workers:
            workers[-1].kill()


WAYS = {way.__name__: way for way in (kill, ask, stop_and_kill, kill_a_worker)}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A series that takes a second or two (the reference engine), its configuration, its table; an array to ingest."""
    folder = tmp_path_factory.mktemp("series")
    images = np.stack([spots((64, 56), 5, seed=seed) for seed in range(12)])
    data = make_store(folder / "scan.zarr", images, chunk=1)
    np.save(folder / "frames.npy", np.tile(images, (10, 6, 6)))
    settings = {
        "detect": {"minval": 15, "minscore": 10, "background": "none", "engine": "findpeaks"},
        "locate": {"network": "none", "position": "fit"},
        "compute": {"task_seconds": 0.01},
    }
    config = folder / "run.yaml"
    config.write_text(json.dumps(settings))
    words = ["run", config, data, "--out"]
    ended = on_a_terminal([*words, folder / "whole"], sign="no such words")
    assert ended.status == 0, ended.shown
    ended = on_a_terminal(["ingest", folder / "frames.npy", "--out", folder / "whole.zarr"], sign="no such words")
    assert ended.status == 0, ended.shown
    return words, open_peaks(folder / "whole" / "scan").load(), folder


def whole_at_last(words, out, whole, where) -> None:
    """One more run, undisturbed, and what it leaves."""
    ended = on_a_terminal(words, sign="no such words")
    where = f"{where}\nthe run after it:\n{ended.shown[-2000:]}"
    assert ended.status == 0, where
    assert "Traceback" not in ended.shown, where
    folder = RunFolder(out / "scan")
    assert_same_table(open_peaks(folder.path), whole)
    assert read_run_info(folder)["status"] == "complete", where
    assert folder.report.exists(), where
    found = [str(path.relative_to(folder.path)) for path in folder.path.rglob("*")]
    assert [path for path in found if not KEPT.fullmatch(path)] == [], where
    assert [path.name for path in out.iterdir()] == ["scan"], where


def disturbed(draw: random.Random, words, **options):
    """A command that something is done to at some moment, and how that may be told."""
    way, sign, delay = draw.choice(sorted(WAYS)), draw.choice(STAGES), draw.expovariate(2.0)
    ended = on_a_terminal(words, sign=options.get("sign", sign), delay=delay, number=WAYS[way])
    where = f"{way} {delay:.2f} s after {options.get('sign', sign)!r} ({ended.status}):\n{ended.shown[-2000:]}"
    assert "Traceback" not in ended.shown, where
    return where


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(FIRST, FIRST + MOMENTS))
def test_a_run_that_was_killed_is_made_whole_by_the_next(tmp_path, series, moment):
    words, whole, folder = series
    draw = random.Random(moment)
    kind = draw.choice(("here", "workers", "workers", "workers", "ingest", "full disk"))
    workers = ["--workers", 2] if kind != "here" and draw.random() < 0.8 else []
    if kind == "ingest":
        out = tmp_path / "scan.zarr"
        command = ["ingest", folder / "frames.npy", "--out", out, *workers]
        where = disturbed(draw, command, sign=draw.choice(("ingest", "starting", "frames")))
        if not out.exists():
            ended = on_a_terminal(command, sign="no such words")
            assert ended.status == 0, f"{where}\nthe one after it:\n{ended.shown[-2000:]}"
        assert open_frames(out).equals(open_frames(folder / "whole.zarr")), where
        assert [path.name for path in tmp_path.iterdir()] == ["scan.zarr"], where
        return
    if kind == "full disk":
        _on_a_small_disk(tmp_path, draw, words, workers, whole)
        return
    where = disturbed(draw, [*words, tmp_path, *workers])
    whole_at_last([*words, tmp_path, *workers], tmp_path, whole, where)


def _on_a_small_disk(tmp_path: Path, draw: random.Random, words, workers, whole) -> None:
    """The disk is full at some moment; then there is room."""
    disk, size = tmp_path / "disk", draw.choice((48, 96, 160, 224, 320, 480))
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        ended = on_a_terminal([*words, disk / "out", *workers], sign="no such words")
        where = f"a disk of {size} kB ({ended.status}):\n{ended.shown[-3000:]}"
        assert "Traceback" not in ended.shown, where
        assert ended.status == 0 or "disk is full" in " ".join(ended.shown.split()), where
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        whole_at_last([*words, disk / "out", *workers], disk / "out", whole, where)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
        shutil.rmtree(disk, ignore_errors=True)
