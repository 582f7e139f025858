"""Whole runs on jobs of a real SLURM: who does what, how groups grow and shrink, and how a run is ended."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from braggflow.flow import Progress, run
from braggflow.frames import open_frames
from braggflow.results import RunFolder, open_peaks, read_run_info
from tests.slurm.conftest import Slurm, wait_until
from tests.slurm.slow_runs import SETTINGS, WITHOUT_NETWORK, Series, started, write_profile
from tests.stores import assert_same_table, make_store


def running(slurm: Slurm) -> list[str]:
    """Groups of the running worker jobs, sorted."""
    return sorted(job.name.split("-")[2] for job in slurm.queue() if job.state == "RUNNING")


def ended_jobs(slurm: Slurm) -> dict[str, str]:
    """Partition and node of the jobs that have ended, by name."""
    lines = (slurm.logs / "jobcomp.txt").read_text().splitlines()
    facts = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    return {job["Name"]: f"{job['Partition']} {job['NodeList']}" for job in facts}


def assert_nothing_is_left(slurm: Slurm, profile: Path) -> None:
    """Check that a run that has ended left neither jobs nor keys."""
    assert slurm.queue() == []
    assert list((profile.parent / "shared").iterdir()) == []


def test_each_group_does_its_own_tasks_and_the_table_is_that_of_a_local_run(
    slurm: Slurm, tmp_path: Path, series: Series
) -> None:
    profile = write_profile(tmp_path)
    seen: list[str] = []
    (outcome,) = run(
        SETTINGS,
        [series.data],
        out=tmp_path / "out",
        cluster=profile,
        progress=lambda state: seen.append(state.cluster),
    )

    assert_nothing_is_left(slurm, profile)
    assert next(filter(None, seen)) == "0 cpu workers, 0 gpu workers"
    assert outcome.status == "complete"
    assert_same_table(open_peaks(outcome.folder), series.table)

    info = read_run_info(RunFolder(outcome.folder))
    places: dict[str, set[str]] = {}
    for task, count in info["tasks"].items():
        kind, worker = task.split(" ")
        assert count > 0
        places.setdefault(kind, set()).add(worker)
    assert wait_until(lambda: set().union(*places.values()) <= ended_jobs(slurm).keys())
    # A worker bears the name of its job, and SLURM knows where that was.
    nodes = {kind: {ended_jobs(slurm)[worker] for worker in workers} for kind, workers in places.items()}
    assert nodes["locate"] == {"gpu gpu1"}
    assert nodes["search"] | nodes["complete"] <= {"cpu cpu1", "cpu cpu2"}
    counts = {kind: sum(n for task, n in info["tasks"].items() if task.startswith(kind)) for kind in places}
    groups = info["parts"]["total"]
    assert counts == {"search": 48, "locate": groups, "complete": groups}
    assert info["tasks_rerun"] == outcome.tasks_rerun == 0


def test_jobs_come_with_the_work_and_go_with_it_but_for_the_minimum(
    slurm: Slurm, tmp_path: Path, series: Series
) -> None:
    later = tmp_path / "later"
    later.mkdir()
    profile = write_profile(tmp_path, cpu={"minimum": 1})
    with started(series, profile, "--follow", later) as run:
        assert wait_until(lambda: running(slurm) == ["cpu", "cpu", "gpu"]), run.output
        assert wait_until(lambda: run.info["status"] == "complete"), run.output
        assert wait_until(lambda: running(slurm) == ["cpu"]), slurm.queue()
        time.sleep(6)
        assert running(slurm) == ["cpu"]
        assert not run.ended

        run.ctrl_c()
        run.end(0)
        assert slurm.queue() == []


def test_a_job_that_waits_is_shown_with_its_reason_and_starts_when_its_node_is_back(
    slurm: Slurm, tmp_path: Path, series: Series
) -> None:
    slurm.drain("gpu1")
    shown: list[str] = []

    def look(state: Progress) -> None:
        if not shown and "1 gpu jobs wait (Nodes required for job are DOWN, DRAINED" in state.cluster:
            shown.append(state.cluster)
            slurm.resume("gpu1")

    profile = write_profile(tmp_path)
    (outcome,) = run(SETTINGS, [series.data], out=tmp_path / "out", cluster=profile, progress=look)

    assert shown
    assert_same_table(open_peaks(outcome.folder), series.table)


# ---- an orderly end ----


def in_chunks(series: Series, folder: Path, n: int) -> Series:
    """The series in `n` chunks, each of them a task of several seconds."""
    images = open_frames(series.data)["frames"].values
    return replace(series, data=make_store(folder / "scan.zarr", images, chunk=len(images) // n))


def test_ctrl_c_finishes_the_running_task_and_the_same_command_does_the_other(
    slurm: Slurm, tmp_path: Path, series: Series
) -> None:
    profile = write_profile(tmp_path, cpu={"maximum": 1})
    two = in_chunks(series, tmp_path, 2)
    with started(two, profile) as run:
        run.wait_until_begun()
        time.sleep(2)
        run.ctrl_c()
        assert "scan: stopped; the same command goes on from here." in run.end(3)
        assert_nothing_is_left(slurm, profile)
        assert run.info["status"] == "interrupted"
        assert run.info["parts"] == {"total": 2, "done": 1, "redone": 1}
    with started(two, profile) as run:
        run.assert_complete(series.table)
        assert run.info["parts"] == {"total": 2, "done": 2, "redone": 1}


def test_the_end_of_the_job_that_runs_it_is_like_ctrl_c(slurm: Slurm, tmp_path: Path, series: Series) -> None:
    profile = write_profile(tmp_path)
    with started(series, profile, *WITHOUT_NETWORK) as run:
        run.wait_for_parts(1)
        os.kill(run.process.pid, signal.SIGTERM)
        assert "scan: stopped; the same command goes on from here." in run.end(3)
        assert_nothing_is_left(slurm, profile)
        assert run.info["status"] == "interrupted"


def test_ctrl_c_twice_leaves_at_once_and_leaves_no_job(slurm: Slurm, tmp_path: Path, series: Series) -> None:
    profile = write_profile(tmp_path)
    with started(in_chunks(series, tmp_path, 1), profile, *WITHOUT_NETWORK) as run:
        run.wait_until_begun()
        time.sleep(2)
        run.ctrl_c()
        assert wait_until(lambda: "Ctrl-C again leaves at once" in run.output), run.output
        time.sleep(1)
        assert not run.ended
        run.ctrl_c()
        run.end(3)
        assert_nothing_is_left(slurm, profile)
        assert run.info["status"] == "interrupted"


def test_ctrl_c_before_a_worker_came_writes_nothing_and_leaves_no_job(
    slurm: Slurm, tmp_path: Path, series: Series
) -> None:
    slurm.set_partition("cpu", "DOWN")
    profile = write_profile(tmp_path)
    with started(series, profile, *WITHOUT_NETWORK) as run:
        assert wait_until(lambda: any(job.state == "PENDING" for job in slurm.queue())), run.output
        run.ctrl_c()
        assert "run the same command again" in run.end(3)
    assert_nothing_is_left(slurm, profile)
    assert not run.out.exists()
