"""What a cluster does to jobs, done to them by a real SLURM: the table is that of an undisturbed run every time."""

import os
import random
import re
import shutil
import signal
from pathlib import Path

from braggflow.flow import Progress, run
from braggflow.results import RunFolder, open_peaks, read_run_info
from tests.slurm.conftest import Slurm, wait_until
from tests.slurm.slow_runs import SETTINGS, WITHOUT_NETWORK, Series, started, write_profile
from tests.stores import assert_same_table


def running(slurm: Slurm, group: str = "") -> list[str]:
    """Ids of the running jobs (of a group)."""
    return [job.job_id for job in slurm.queue() if job.state == "RUNNING" and group in job.name]


def test_a_run_whose_jobs_are_cancelled_every_few_seconds_completes_with_the_same_table(
    slurm: Slurm, tmp_path: Path, series: Series
) -> None:
    second = shutil.copytree(series.data, tmp_path / "second.zarr")
    chosen, cancelled, before = random.Random(4), 0, 0
    with started(series, write_profile(tmp_path), second) as run:
        while not wait_until(lambda: run.ended, 3.0):
            # Only when there was progress: on a busy machine, workers would be cancelled faster than they come up.
            done = len(list(run.out.glob("*/parts/part-*")))
            if done > before and (jobs := running(slurm, "" if cancelled else "-cpu-")):
                slurm.cancel(chosen.choice(jobs))
                cancelled, before = cancelled + 1, done
        output = run.end(0)
    assert cancelled >= 2
    assert slurm.queue() == []
    rerun = 0
    for folder in (run.out / "scan", run.out / "second"):
        assert_same_table(open_peaks(folder), series.table)
        rerun += read_run_info(RunFolder(folder))["tasks_rerun"]
    told = re.search(r"tasks run again after their worker was lost or a read failed: (\d+)", output)
    assert told is not None, output
    assert int(told[1]) == rerun > 0


def test_after_the_client_was_killed_the_same_command_clears_up_and_goes_on_with_the_same_table(
    slurm: Slurm, tmp_path: Path, series: Series
) -> None:
    # A job takes a whole node, so that the third one waits.
    profile = write_profile(tmp_path, cpu={"cores": 4, "processes": 1, "maximum": 3}, seconds_per_worker=1)
    with started(series, profile) as run:
        run.wait_for_parts(2)
        assert wait_until(lambda: any(job.state == "PENDING" for job in slurm.queue())), run.output
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
        assert run.info["status"] == "running"
        left = {job.job_id for job in slurm.queue()}
        assert len(left) == 4
        assert list((tmp_path / "shared").glob("*/tls/key.pem"))
    with started(series, profile) as run:
        assert wait_until(lambda: not left & {job.job_id for job in slurm.queue()}), run.output
        assert not run.ended
        run.assert_complete(series.table)
        parts = run.info["parts"]
        assert parts["redone"] <= parts["total"] - 2
    assert slurm.queue() == []
    assert list((tmp_path / "shared").iterdir()) == []


def test_workers_whose_client_was_killed_end_by_themselves(slurm: Slurm, tmp_path: Path, series: Series) -> None:
    profile = write_profile(tmp_path, death_timeout=15)
    with started(series, profile, *WITHOUT_NETWORK) as run:
        run.wait_until_begun()
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
    assert len(running(slurm)) > 0
    assert wait_until(lambda: not slurm.queue()), slurm.queue()


def test_jobs_that_are_not_accepted_for_a_while_are_submitted_again(
    slurm: Slurm, tmp_path: Path, series: Series
) -> None:
    done: list[str] = []

    def disturb(state: Progress) -> None:
        if not done and state.peaks:
            slurm.set_partition("cpu", "INACTIVE")
            slurm.cancel(*(job.job_id for job in slurm.queue() if "-cpu-" in job.name))
            done.append("closed")
        elif len(done) == 1 and any("cpu: a job was not accepted" in note for note in state.notes):
            slurm.set_partition("cpu", "UP")
            done.append("opened")

    profile = write_profile(tmp_path)
    (outcome,) = run(SETTINGS, [series.data], out=tmp_path / "out", cluster=profile, progress=disturb)

    assert done == ["closed", "opened"]
    assert outcome.status == "complete"
    assert_same_table(open_peaks(outcome.folder), series.table)


def test_a_worker_that_reaches_its_lifetime_is_replaced(slurm: Slurm, tmp_path: Path, series: Series) -> None:
    later = tmp_path / "later"
    later.mkdir()
    profile = write_profile(tmp_path, worker_extra_args=["--lifetime", "60s"], cpu={"minimum": 1, "maximum": 1})
    names: set[str] = set()

    def replaced() -> bool:
        names.update(job.name for job in slurm.queue() if "-cpu-" in job.name)
        return len(names) > 1

    with started(series, profile, "--follow", later) as run:  # so that it waits, if it was faster than the lifetime
        assert wait_until(lambda: run.ended or replaced()), run.output
        assert wait_until(lambda: run.info["status"] == "complete"), run.output
        run.ctrl_c()
        run.assert_complete(series.table)
