"""Runs on a Dask scheduler that somebody else started, as sites do that have no use for dask-jobqueue."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr

from braggflow.flow import Progress, run
from braggflow.results import RunFolder, open_peaks, read_run_info
from tests.patience import PATIENCE
from tests.stores import assert_same_table, make_store, spots

pytestmark = pytest.mark.faults

SETTINGS = {
    "detect": {"engine": "findpeaks", "minval": 15, "minscore": 10},
    "locate": {"network": "none"},
    "output": {"report": False},
    "compute": {"task_seconds": 0.01},
}


@dataclass(frozen=True)
class Started:
    """A process and what it prints."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@contextmanager
def start(log: Path, *command: str | Path) -> Iterator[Started]:
    """Start a Python module as a command; it is killed at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], start_new_session=True, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield Started(process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[Started, Started]]:
    """A scheduler, on loopback, and a worker of it; `folder` holds scheduler.json and the profile that names it."""
    folder.mkdir()
    file = folder / "scheduler.json"
    (folder / "profile.yaml").write_text(json.dumps({"kind": "existing", "scheduler_file": str(file)}))
    common = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", file)
    with (
        start(folder / "scheduler.log", "dask", "scheduler", "--port", "0", *common) as scheduler,
        start(folder / "worker.log", "dask", "worker", "--nthreads", "1", "--resources", "CPU=1", *common) as worker,
    ):
        worker.wait_for(lambda: "Starting established connection" in worker.log.read_text())
        yield scheduler, worker


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.stack([spots((64, 64), 5, seed=seed) for seed in range(24)])
    return make_store(tmp_path_factory.mktemp("data") / "scan.zarr", images, chunk=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> xr.Dataset:
    (outcome,) = run(SETTINGS, [data], out=tmp_path_factory.mktemp("undisturbed"))
    return open_peaks(outcome.folder).load()


def test_it_runs_on_a_scheduler_that_is_there_and_leaves_it_alone(
    tmp_path: Path, data: Path, undisturbed: xr.Dataset
) -> None:
    with cluster(tmp_path / "cluster") as (scheduler, _):
        (outcome,) = run(SETTINGS, [data], out=tmp_path, cluster=tmp_path / "cluster" / "profile.yaml")
        assert scheduler.process.poll() is None
    assert outcome.status == "complete"
    assert_same_table(open_peaks(outcome.folder), undisturbed)


def test_results_that_were_lost_with_their_worker_are_made_again(
    tmp_path: Path, data: Path, undisturbed: xr.Dataset
) -> None:
    with cluster(tmp_path / "cluster") as (scheduler, worker):
        killed: list[int] = []

        def kill(state: Progress) -> None:
            """While the run waits here, tasks finish and their worker is killed before it can ask for the results."""
            if killed or not state.peaks:
                return
            done = len(list((tmp_path / "scan" / "parts").glob("part-*")))
            worker.wait_for(lambda: len(list((tmp_path / "scan" / "parts").glob("part-*"))) > done)
            for child in psutil.Process(worker.process.pid).children():
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()
                    killed.append(child.pid)
            scheduler.wait_for(lambda: "Remove worker" in scheduler.log.read_text())
            time.sleep(1)

        (outcome,) = run(SETTINGS, [data], out=tmp_path, cluster=tmp_path / "cluster" / "profile.yaml", progress=kill)
    assert len(killed) == 1
    assert outcome.status == "complete"
    assert outcome.tasks_rerun > 0
    assert_same_table(open_peaks(outcome.folder), undisturbed)


def test_a_scheduler_that_is_killed_leaves_a_run_that_goes_on_with_another(
    tmp_path: Path, data: Path, undisturbed: xr.Dataset
) -> None:
    settings, out = tmp_path / "run.yaml", tmp_path / "out"
    settings.write_text(json.dumps(SETTINGS))

    def command(folder: str) -> tuple[str | Path, ...]:
        return "braggflow", "run", settings, data, "--out", out, "--cluster", tmp_path / folder / "profile.yaml"

    with cluster(tmp_path / "first") as (scheduler, _), start(tmp_path / "log", *command("first")) as run:
        run.wait_for(lambda: len(list((out / "scan" / "parts").glob("part-*"))) >= 2)
        os.kill(scheduler.process.pid, signal.SIGKILL)
        assert run.process.wait(timeout=PATIENCE) == 3, run.log.read_text()
        said = run.log.read_text()
    assert "scan: cluster: the connection to its scheduler is lost" in said
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    before = read_run_info(RunFolder(out / "scan"))
    assert before["status"] == "interrupted"

    with cluster(tmp_path / "second"), start(tmp_path / "log", *command("second")) as run:
        assert run.process.wait(timeout=PATIENCE) == 0, run.log.read_text()
    after = read_run_info(RunFolder(out / "scan"))
    assert after["parts"]["redone"] <= after["parts"]["total"] - before["parts"]["done"]
    assert_same_table(open_peaks(out / "scan"), undisturbed)
