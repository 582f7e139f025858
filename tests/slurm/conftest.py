"""A real SLURM of virtual nodes on this host, for every test of this folder; see cluster/test-slurm.sh."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.patience import PATIENCE

if TYPE_CHECKING:
    from tests.slurm.slow_runs import Series

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "cluster" / "test-slurm.sh"


class Job(NamedTuple):
    """A job in the queue: pending, running or just ending."""

    job_id: str
    state: str
    reason: str
    name: str


@dataclass(frozen=True)
class Slurm:
    """The running cluster: nodes cpu1, cpu2, gpu1; account beam; partitions cpu, gpu, short, whole, restricted."""

    folder: Path

    @property
    def logs(self) -> Path:
        """The folder of slurmctld.log, of each node's slurmd-NODE.log and of jobcomp.txt, a line for each ended job."""
        return self.folder / "log"

    def queue(self) -> list[Job]:
        """What `squeue` shows; ended jobs are not in it."""
        lines = command("squeue", "--noheader", "--format=%i|%T|%r|%j").splitlines()
        return [Job(*line.split("|", 3)) for line in lines]

    def cancel(self, *job_ids: str) -> None:
        """Cancel jobs as their owner would; returns before they have ended."""
        command("scancel", *job_ids)

    def drain(self, node: str) -> None:
        """Let a node take no more jobs, as an administrator would; what runs there goes on."""
        command("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")

    def resume(self, node: str) -> None:
        """Let a drained node take jobs again."""
        command("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def set_partition(self, partition: str, state: str) -> None:
        """State of a partition: UP, DOWN (jobs pend) or INACTIVE (sbatch fails)."""
        command("scontrol", "update", f"PartitionName={partition}", f"State={state}")

    def empty_queue(self, patience: float) -> list[Job]:
        """Wait at most `patience` seconds for the queue to be empty; then cancel and return the jobs that are left."""
        if wait_until(lambda: not self.queue(), patience):
            return []
        left = self.queue()
        if left:
            self.cancel(*(job.job_id for job in left))
            assert wait_until(lambda: not self.queue()), f"cancelled, and still in the queue: {self.queue()}"
        return left


def command(*arguments: str, timeout: float = PATIENCE) -> str:
    """Standard output of a command that must succeed."""
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)
    assert result.returncode == 0, f"{' '.join(arguments)}: exit status {result.returncode}\n{result.stderr}"
    return result.stdout


def wait_until(condition: Callable[[], object], patience: float = PATIENCE) -> bool:
    """Whether the condition came to hold within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # pytest hands over the tests of all folders, not only of this one.
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """The cluster, started for the session; sbatch, squeue and the others mean it as long as it lives."""
    # Not tmp_path: paths of unix sockets must be short, and the user munge must get in.
    folder = Path(tempfile.mkdtemp(prefix="bf-slurm-", dir="/tmp"))
    try:
        started = subprocess.run(
            [SCRIPT, "start", folder], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if started.returncode != 0:
            pytest.fail(f"These tests need a SLURM that they start themselves.\n{started.stderr}", pytrace=False)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield Slurm(folder)
    finally:
        if os.getuid() == 0:
            command(str(SCRIPT), "stop", str(folder))
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory) -> "Series":
    """A series slow enough for its run to be disturbed, with the table of an undisturbed run."""
    from tests.slurm.slow_runs import make_series  # imports from here

    return make_series(tmp_path_factory.mktemp("series"))


@pytest.fixture(autouse=True)
def no_job_is_left(slurm: Slurm) -> Iterator[None]:
    """A test that leaves a job in the queue fails; the next one finds no job, and all nodes and partitions up."""
    yield
    left = slurm.empty_queue(PATIENCE)
    command(str(SCRIPT), "start", str(slurm.folder))
    assert not left, f"jobs left in the queue, now cancelled: {left}"
