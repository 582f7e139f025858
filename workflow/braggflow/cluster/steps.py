"""Workers as steps of the SLURM job that this process is in: `srun` on its nodes, and nothing submitted from inside.

dask-jobqueue's `SLURMRunner` does not serve here: it wants the whole program under one `srun`, a task each for client
and scheduler, and what is lost of it stays lost. A step for each node is kept by the autoscaler like a job of its own.
Needs SLURM 20.11 or later (`--overlap`).
"""

import math
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeAlias

import psutil
from distributed import Security

from braggflow.cluster.batch_systems import JobKind, JobState, Pbs, Slurm, UnavailableError, call_command
from braggflow.cluster.profiles import AllocationProfile, BatchProfile, GpuGroup, JobGroup
from braggflow.errors import InputError

#: Set in a job that has its node for itself: the first workers run there too.
SHARED_NODE = "BRAGGFLOW_SHARED_NODE"
#: Memory of each node that is left to client and scheduler, MiB: docs/scaling.md has what they take.
_CLIENT_MEMORY = 1024


@dataclass(frozen=True, slots=True)
class _Step:
    group: str
    node: str
    srun: "subprocess.Popen[bytes]"

    @property
    def runs(self) -> bool:
        return self.srun.poll() is None


class Steps:
    """Steps of a SLURM job, one at a time for each group on each of its nodes.

    `nodes` are those of each group. What finds none of them free is submitted by `others`, or else waits.
    """

    def __init__(
        self,
        job: str,
        nodes: Mapping[str, Sequence[str]],
        *,
        cores: int,
        options: Sequence[str] = (),
        others: Slurm | None = None,
    ) -> None:
        self._job, self._nodes, self._cores, self._options = job, nodes, cores, tuple(options)
        self._others, self._slurm = others, others or Slurm()
        self._steps: dict[str, _Step] = {}
        self._numbers = count()

    def refuse_impossible(self, kind: JobKind) -> None:
        """As SLURM does for jobs; the nodes of this one are there."""
        if self._others is not None:
            self._others.refuse_impossible(kind)

    def submit(self, kind: JobKind, name: str, scheduler: str, security: Security | None) -> str:
        """Start workers on a free node; the step's name here."""
        busy = {step.node for step in self._steps.values() if step.group == kind.name and step.runs}
        free = [node for node in self._nodes.get(kind.name, ()) if node not in busy]
        if not free and self._others is not None:
            return self._others.submit(kind, name, scheduler, security)
        if not free:
            raise UnavailableError(f"no node of job {self._job} is free")
        script = kind.script(name, scheduler, security)
        step = f"step-{next(self._numbers)}"
        self._steps[step] = _Step(kind.name, free[0], self._start(kind, free[0], name, script))
        return step

    def _start(self, kind: JobKind, node: str, name: str, script: str) -> "subprocess.Popen[bytes]":
        command = [
            *("srun", f"--jobid={self._job}", f"--nodelist={node}", "--nodes=1", "--ntasks=1", "--mpi=none"),
            # Steps, the client among them, share cores and memory of a node: their workers are as many as it has.
            *("--overlap", f"--cpus-per-task={self._cores}", "--cpu-bind=none", "--mem=0"),
            f"--gres=gpu:{kind.gpus}" if kind.gpu else "--gres=none",
            *self._options,
            *("bash", "-c", script),
        ]
        # What sbatch says of the job's own size would be taken for the step's.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        if "SLURM_CONF" in os.environ:
            environment["SLURM_CONF"] = os.environ["SLURM_CONF"]
        with (Path(kind.log_directory) / f"{name}.out").open("wb") as log:
            try:
                return subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for the run to handle
                )
            except FileNotFoundError:
                raise InputError(
                    "srun: is not a command here; a container needs SLURM's commands from outside, or start the run "
                    "outside and the workers in the container (python of the cluster profile)"
                ) from None

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """States of those steps that run, and of the jobs that the queue still holds."""
        running = {step: JobState(running=True) for step in ids if step in self._steps and self._steps[step].runs}
        return {**running, **self._slurm.states(_jobs(ids))}

    def cancel(self, ids: Sequence[str]) -> None:
        """End steps, and cancel jobs; those that have ended are no error."""
        for step in ids:
            if step in self._steps and self._steps[step].runs:
                self._steps[step].srun.terminate()
        self._slurm.cancel(_jobs(ids))


BatchSystem: TypeAlias = Slurm | Pbs | Steps
"""What submits, watches and cancels the jobs that bring workers."""


def _jobs(ids: Sequence[str]) -> list[str]:
    """The ids that are not of steps."""
    return [job for job in ids if not job.startswith("step-")]


def batch_system(profile: BatchProfile) -> BatchSystem:
    """Submits the jobs of a profile; the first CPU job is a step of our own, where that has a node for itself."""
    if profile.kind == "pbs":
        return Pbs()
    job, node = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURMD_NODENAME")
    if not (os.environ.get(SHARED_NODE) and job and node):
        return Slurm()
    cores = int(os.environ.get("SLURM_CPUS_ON_NODE") or len(os.sched_getaffinity(0)))
    return Steps(job, {"cpu": [node]}, cores=cores, others=Slurm())


def of_allocation(profile: AllocationProfile) -> tuple[BatchProfile, Steps]:
    """The groups that fill the nodes of this process's job, and what starts them.

    Raises `InputError` where this process is in no SLURM job, or the job's nodes are too small.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        raise InputError(
            "kind: allocation: this process is in no SLURM job (SLURM_JOB_ID is not set); start it in one, by sbatch "
            "or salloc, or take a profile with kind: slurm"
        )
    listed = os.environ.get("SLURM_JOB_NODELIST", "")
    nodes = call_command(["scontrol", "show", "hostnames", listed]).split()
    cores = min(map(int, re.findall(r"(?:^|,)(\d+)", os.environ.get("SLURM_JOB_CPUS_PER_NODE", "1"))))
    gpus = profile.gpus if profile.gpus is not None else int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)
    if cores <= gpus:
        raise InputError(
            f"kind: allocation: job {job} has {cores} cores on a node for {gpus} GPUs; must have one more than GPUs"
        )
    of_core = max(_memory(cores) // 2, _memory(cores) - _CLIENT_MEMORY) / cores
    options = profile.model_dump(
        include={"interface", "local_directory", "log_directory", "python", "death_timeout"}
        | {"job_script_prologue", "worker_extra_args"},
        exclude_none=True,
    )

    def size(share: int) -> dict[str, object]:
        return {
            "cores": share,
            "memory": f"{math.floor(share * of_core)}MiB",
            "minimum": len(nodes),
            "maximum": len(nodes),
        }

    filled = BatchProfile.model_validate(
        {
            **options,
            "kind": "slurm",
            "directory": profile.directory,
            "cpu": JobGroup.model_validate({**size(cores - gpus), "processes": profile.processes}),
            "gpu": GpuGroup.model_validate({**size(gpus), "gpus": gpus}) if gpus else None,
        }
    )
    groups = {"cpu": nodes, "gpu": nodes if gpus else []}
    return filled, Steps(job, groups, cores=cores, options=profile.srun_options)


def _memory(cores: int) -> int:
    """Memory of the job on a node, MiB: what was asked for, or else all that this node has."""
    node, core = (int(os.environ.get(f"SLURM_MEM_PER_{unit}") or 0) for unit in ("NODE", "CPU"))
    return node or core * cores or psutil.virtual_memory().total // 2**20
