"""What the other tests of this folder take for granted of the SLURM they run on."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.slurm.conftest import SCRIPT, Slurm, command, wait_until


def sbatch(*options: str, run: str = "sleep 60", output: Path | str = "/dev/null") -> subprocess.CompletedProcess[str]:
    """Submit a shell command; standard output is the job's number."""
    call = ["sbatch", "--parsable", f"--output={output}", f"--wrap={run}", *options]
    return subprocess.run(call, capture_output=True, text=True, timeout=PATIENCE, check=False)


def processes_of(folder: Path) -> list[str]:
    """Command lines of the daemons and job processes of the cluster in a state folder."""
    setting = f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is not to be looked at
            if setting in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
    return found


@pytest.fixture
def second_folder() -> Iterator[Path]:
    """State folder of another cluster, which is stopped and removed after the test."""
    folder = Path(tempfile.mkdtemp(prefix="bf-slurm-", dir="/tmp"))
    yield folder
    command(str(SCRIPT), "stop", str(folder))
    shutil.rmtree(folder)


def test_it_has_two_cpu_nodes_and_one_node_with_a_gpu(slurm: Slurm) -> None:
    nodes = command("sinfo", "--noheader", "--Node", "--partition=cpu,gpu", "--format=%N %P %c %m %G").splitlines()

    assert sorted(nodes) == ["cpu1 cpu* 4 8000 (null)", "cpu2 cpu* 4 8000 (null)", "gpu1 gpu 4 8000 gpu:1"]


def test_only_a_job_that_asks_for_the_gpu_is_given_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: Slurm
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    show = 'echo "$SLURMD_NODENAME ${CUDA_VISIBLE_DEVICES-none}"'

    for name, options in {"cpu": ["-p", "cpu"], "gpu": ["-p", "gpu"], "asked": ["-p", "gpu", "--gres=gpu:1"]}.items():
        assert sbatch(*options, run=show, output=tmp_path / name).returncode == 0

    assert wait_until(lambda: not slurm.queue())
    assert (tmp_path / "cpu").read_text().split()[1] == "none"
    assert (tmp_path / "gpu").read_text() == "gpu1 none\n"
    assert (tmp_path / "asked").read_text() == "gpu1 0\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--partition=nosuch", "invalid partition specified: nosuch"),
        ("--account=nosuch", "Invalid account or account/partition combination specified"),
        ("--cpus-per-task=5", "CPU count per node can not be satisfied"),
        ("--mem=900G", "Memory specification can not be satisfied"),
        ("--partition=cpu --gres=gpu:1", "Requested node configuration is not available"),
        ("--partition=gpu --gres=gpu:5", "Requested node configuration is not available"),
    ],
)
def test_sbatch_refuses_what_no_node_or_account_offers(options: str, message: str, slurm: Slurm) -> None:
    refused = sbatch(*options.split())

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert message in refused.stderr
    assert slurm.queue() == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--cpus-per-task=64", "PartitionConfig"),
        ("--partition=short --time=01:00:00", "PartitionTimeLimit"),
        ("--partition=restricted --account=beam", "Job's account not known, so it can't use this partition"),
    ],
)
def test_a_job_that_can_never_run_pends_with_its_reason(options: str, reason: str, slurm: Slurm) -> None:
    job_id = sbatch(*options.split()).stdout.strip()

    assert wait_until(lambda: reason in slurm.queue()[0].reason), slurm.queue()
    assert [(job.job_id, job.state) for job in slurm.queue()] == [(job_id, "PENDING")]
    slurm.cancel(job_id)


def test_a_job_waits_for_a_drained_node_and_runs_when_it_is_back(slurm: Slurm) -> None:
    slurm.drain("gpu1")
    job_id = sbatch("--partition=gpu", "--job-name=waits|here").stdout.strip()

    assert wait_until(lambda: "DOWN, DRAINED" in slurm.queue()[0].reason), slurm.queue()
    assert slurm.queue()[0].name == "waits|here"
    slurm.resume("gpu1")
    assert wait_until(lambda: slurm.queue()[0].state == "RUNNING"), slurm.queue()
    slurm.cancel(job_id)


def test_sbatch_fails_while_a_partition_is_inactive(slurm: Slurm) -> None:
    slurm.set_partition("cpu", "INACTIVE")
    assert "Required partition not available" in sbatch().stderr

    slurm.set_partition("cpu", "UP")
    slurm.cancel(sbatch().stdout.strip())


def test_a_job_left_in_the_queue_is_found_and_cancelled(slurm: Slurm) -> None:
    job_id = sbatch("--job-name=forgotten").stdout.strip()

    left = slurm.empty_queue(0.5)

    assert [(job.job_id, job.name) for job in left] == [(job_id, "forgotten")]
    assert slurm.queue() == []


def test_starting_it_again_keeps_jobs_and_brings_nodes_and_partitions_back(slurm: Slurm) -> None:
    job_id = sbatch().stdout.strip()
    slurm.drain("gpu1")
    slurm.set_partition("gpu", "DOWN")

    command(str(SCRIPT), "start", str(slurm.folder))

    assert [job.job_id for job in slurm.queue()] == [job_id]
    assert command("sinfo", "--noheader", "--partition=gpu", "--format=%a %T") == "up idle\n"
    slurm.cancel(job_id)


def test_a_second_cluster_takes_ports_of_its_own(slurm: Slurm, second_folder: Path) -> None:
    command(str(SCRIPT), "start", str(second_folder))

    settings = [set((folder / "slurm.conf").read_text().split()) for folder in (slurm.folder, second_folder)]
    ports = [{word for word in words if "Port=" in word} for words in settings]
    assert len(ports[0]) == len(ports[1]) == 4
    assert ports[0].isdisjoint(ports[1])


def test_stop_ends_jobs_that_outlived_their_daemons(
    second_folder: Path, monkeypatch: pytest.MonkeyPatch, slurm: Slurm
) -> None:
    command(str(SCRIPT), "start", str(second_folder))
    monkeypatch.setenv("SLURM_CONF", str(second_folder / "slurm.conf"))
    assert sbatch(run="setsid sleep 300 & wait").returncode == 0
    assert wait_until(lambda: "sleep 300" in processes_of(second_folder))

    for daemon in ("slurmctld", "slurmd-cpu1", "slurmd-cpu2"):
        os.kill(int((second_folder / "run" / f"{daemon}.pid").read_text()), signal.SIGKILL)
    assert "sleep 300" in processes_of(second_folder)
    command(str(SCRIPT), "stop", str(second_folder))

    assert wait_until(lambda: not processes_of(second_folder)), processes_of(second_folder)


def test_start_says_what_to_do_when_it_cannot(slurm: Slurm) -> None:
    def refusal(folder: str, *before: str, **settings: str) -> str:
        call = [*before, str(SCRIPT), "start", folder]
        result = subprocess.run(
            call, env=os.environ | settings, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert result.returncode == 1
        return result.stderr

    folder = "/tmp/bf-slurm-never"
    port = next(line for line in (slurm.folder / "slurm.conf").read_text().split() if line.startswith("SlurmctldPort="))
    taken = port.partition("=")[2]
    assert "must run as root" in refusal(folder, "setpriv", "--reuid=nobody", "--clear-groups")
    assert f"port {taken} is in use" in refusal(folder, SLURM_TEST_PORT=taken)
    assert "SLURM_TEST_CPUS=many: must be a whole number" in refusal(folder, SLURM_TEST_CPUS="many")
    assert "at most 60 characters" in refusal(f"{folder}{'x' * 60}")
    assert not list(Path("/tmp").glob("bf-slurm-never*"))
