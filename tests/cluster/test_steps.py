"""Workers as steps of this process's own SLURM job. Commands that note how they are called stand in for SLURM's."""

import os
import re
import shlex
from pathlib import Path

import pytest

from braggflow.cluster.batch_systems import JobKind, Slurm, UnavailableError
from braggflow.cluster.profiles import AllocationProfile, BatchProfile, resolve_profile
from braggflow.cluster.steps import SHARED_NODE, Steps, batch_system, of_allocation
from braggflow.errors import InputError
from tests.cluster.test_job_scripts import PROFILE, kind_of
from tests.slurm.conftest import wait_until


@pytest.fixture(autouse=True)
def in_a_job(monkeypatch):
    """The environment of a job on two nodes with 8 cores and 2 GPUs each, and 16 GiB of memory."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    for name, value in {
        "JOB_ID": "4711",
        "JOB_NODELIST": "n[1-2]",
        "JOB_CPUS_PER_NODE": "8(x2)",
        "MEM_PER_NODE": "16384",
        "GPUS_ON_NODE": "2",
        "CPUS_PER_TASK": "8",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def of(**keys) -> tuple[BatchProfile, Steps]:
    profile = resolve_profile({"kind": "allocation", **keys})
    assert isinstance(profile, AllocationProfile)
    return of_allocation(profile)


@pytest.fixture
def nodes(install):
    """`scontrol`, which names the nodes, and `srun`, which runs until it is ended; what it was called with."""
    install("scontrol", out="n1\nn2\n")
    calls = install("srun")
    srun = calls.with_name("srun")
    srun.write_text(f'#!/bin/sh\nenv > {calls}.env\nwords=$(echo "$@")\necho $words >> {calls}\nexec sleep 60\n')
    return calls


def test_groups_fill_the_nodes_of_the_job(nodes):
    profile, _ = of(python="apptainer exec image.sif python")
    assert profile.gpu is not None
    assert (profile.cpu.cores, profile.cpu.minimum, profile.cpu.maximum) == (6, 2, 2)
    assert (profile.gpu.cores, profile.gpu.gpus, profile.gpu.minimum) == (2, 2, 2)
    # A gibibyte is left to the client.
    assert (profile.cpu.memory, profile.gpu.memory) == ("11520MiB", "3840MiB")
    assert profile.python == "apptainer exec image.sif python"
    assert of(gpus=0)[0].gpu is None
    assert of(gpus=0, processes=4)[0].cpu.processes == 4


@pytest.mark.parametrize(("cores", "least"), [("8(x2)", 8), ("72,36(x3)", 36), ("4", 4)])
def test_nodes_of_different_size_get_as_many_workers_as_the_smallest_has_cores(cores, least, nodes, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", cores)
    assert of(gpus=0)[0].cpu.cores == least


def test_a_node_has_a_step_of_each_group_which_shares_what_the_job_has(nodes, tmp_path):
    profile, steps = of()
    cpu, gpu = (JobKind(profile, name, log_directory=str(tmp_path), limited=False) for name in ("cpu", "gpu"))
    ids = [
        steps.submit(kind, f"braggflow-0a1b2c-{kind.name}-{i}", "tls://head:1", None)
        for kind in (cpu, gpu)
        for i in range(2)
    ]
    try:
        assert wait_until(lambda: nodes.exists() and nodes.read_text().count("\n") == 4)
        calls = [shlex.split(line) for line in nodes.read_text().splitlines()]
        assert sorted((words[1], "--gres=gpu:2" in words) for words in calls) == [
            (f"--nodelist=n{n}", gpu) for n in (1, 2) for gpu in (False, True)
        ]
        for words in calls:
            assert {"--jobid=4711", "--overlap", "--cpus-per-task=8", "--mem=0"} <= set(words)
            assert "--lifetime" not in words
        inherited = re.findall(r"^SLURM_\w+", Path(f"{nodes}.env").read_text(), flags=re.MULTILINE)
        assert inherited == []
        assert set(steps.states(ids)) == set(ids)
        with pytest.raises(UnavailableError, match="no node of job 4711 is free"):
            steps.submit(cpu, "braggflow-0a1b2c-cpu-2", "tls://head:1", None)
        steps.cancel(ids[:1])
        assert wait_until(lambda: set(steps.states(ids)) == set(ids[1:]))
        ids.append(steps.submit(cpu, "braggflow-0a1b2c-cpu-2", "tls://head:1", None))
    finally:
        steps.cancel(ids)
    assert wait_until(lambda: not steps.states(ids))


def test_outside_of_a_job_an_allocation_is_refused(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(InputError, match=r"this process is in no SLURM job .* start it in one, by sbatch or salloc"):
        of()


def test_as_many_gpus_as_cores_are_refused(nodes):
    with pytest.raises(InputError, match="job 4711 has 8 cores on a node for 8 GPUs; must have one more"):
        of(gpus=8)


def test_without_srun_what_to_do_in_a_container_is_said(install, tmp_path, monkeypatch):
    install("scontrol", out="n1\n")
    _, steps = of()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InputError, match="srun: is not a command here; a container needs SLURM's commands"):
        steps.submit(kind_of(PROFILE, logs=tmp_path), "braggflow-0a1b2c-cpu-0", "tls://head:1", None)


def test_on_a_node_of_its_own_the_first_cpu_job_is_a_step_and_the_others_are_submitted(
    nodes, install, tmp_path, monkeypatch
):
    profile = resolve_profile(PROFILE)
    assert isinstance(profile, BatchProfile)
    assert isinstance(batch_system(profile), Slurm)
    monkeypatch.setenv(SHARED_NODE, "1")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    install("sbatch", out="Submitted batch job 815\n")
    install("squeue", out="815|RUNNING|None\n")
    install("scancel")
    batch = batch_system(profile)
    assert isinstance(batch, Steps)
    kinds = [kind_of(PROFILE, name, logs=tmp_path) for name in ("cpu", "cpu", "gpu")]
    ids = [batch.submit(kind, f"braggflow-0a1b2c-{i}", "tls://head:1", None) for i, kind in enumerate(kinds)]
    assert ids[0].startswith("step-")
    assert ids[1:] == ["815", "815"]
    assert set(batch.states(ids)) == {ids[0], "815"}
    batch.cancel(ids)
    assert wait_until(lambda: set(batch.states(ids)) == {"815"})
