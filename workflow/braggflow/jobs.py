"""Jobs of a batch system: the script of a worker job (dask-jobqueue's), and the commands that submit, watch and cancel.

dask-jobqueue's clusters are not used: two of them cannot share a scheduler, and a failed submission leaves them with a
worker that never comes. Of dask-jobqueue (0.9) this module uses the `Job` classes and their documented options.
"""

import getpass
import json
import math
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import dask.config
from dask.utils import parse_bytes
from distributed import Security

from braggflow.config import InputError
from braggflow.profiles import BatchProfile, GpuGroup, walltime_seconds

_COMMAND_SECONDS = 30
#: What sbatch and qsub say to a request that will not be granted later either.
_NEVER = re.compile(
    "invalid|not (permitted|available)|unavailable|can not be satisfied|unrecogni[sz]ed|exceeds|denied|illegal|unknown",
    re.IGNORECASE,
)
_LATER = re.compile(r"timed out|temporarily|slurm controller|communicat|retry|submit limit", re.IGNORECASE)
#: Reasons of squeue for which a job waits for ever: limits of one job that it is over, and what does not exist.
_NEVER_RUNS = re.compile(
    r"^(BadConstraints|PartitionConfig|PartitionTimeLimit|PartitionNodeLimit|InvalidAccount|InvalidQOS"
    r"|AccountNotAllowed|QOSNotAllowed|(QOS|Assoc)Max\w*Per(Job|Node)\w*|QOSMin\w*|Job's account not .*)$"
)


class UnavailableError(RuntimeError):
    """The batch system did not answer, or refuses for now: to be tried again."""


@dataclass(frozen=True, slots=True)
class JobState:
    """What the batch system says of a job."""

    running: bool
    reason: str = ""
    """Why it waits, in the batch system's word."""

    @property
    def hopeless(self) -> bool:
        """Whether it will wait for ever."""
        return not self.running and _NEVER_RUNS.match(self.reason) is not None


class JobKind:
    """The jobs of one group of a profile: their script, and how many workers each brings."""

    def __init__(self, profile: BatchProfile, name: str, *, log_directory: str) -> None:
        group = profile.gpu if name == "gpu" else profile.cpu
        assert group is not None
        self.name, self.minimum, self.maximum = name, group.minimum, group.maximum
        self.gpu = isinstance(group, GpuGroup)
        self._class = _job_class(profile.kind)
        self._options = {"log_directory": log_directory, **profile.options(group)}
        self._section = f"jobqueue.{self._options.get('config_name', profile.kind)}"
        if dask.config.get(self._section, None) is None:
            raise InputError(f"{name}.config_name: dask's configuration has no section {self._section}")
        for key in ("cores", "memory"):
            if self.option(key) is None:
                raise InputError(f"{name}.{key}: is not given, neither in the profile nor in {self._section}")
        default = group.gpus if isinstance(group, GpuGroup) else int(self.option("cores"))
        self.workers = int(self.option("processes") or default)
        self._directives = list(self.option("job_extra_directives") or ())
        if profile.kind == "slurm":
            self._directives.append("--no-requeue")  # a job that is lost is replaced, and two would come back
            if isinstance(group, GpuGroup) and not re.search(r"--(gres|gpus)", " ".join(self._directives)):
                self._directives.append(f"--gres=gpu:{group.gpus}")
        elif self.gpu and "gpu" not in str(self.option("resource_spec")):
            raise InputError(
                f"gpu.resource_spec: {self.option('resource_spec')!r} asks for no GPU; must be such as "
                "'1:ncpus=8:ngpus=1:mem=64gb'"
            )

    def option(self, key: str) -> Any:
        """An option of the profile, or else of dask-jobqueue's configuration."""
        if key in self._options:
            return self._options[key]
        return dask.config.get(f"{self._section}.{key.replace('_', '-')}", None)

    @property
    def log_directory(self) -> str:
        """Where its jobs write what they print."""
        return str(self._options["log_directory"])

    def script(self, name: str, scheduler: str, security: Security | None) -> str:
        """The job script of job `name`, whose workers join `scheduler`."""
        return str(self._job(name, scheduler, security).job_script())

    def parse_id(self, printed: str) -> str:
        """The job's id from what the submitting command printed."""
        found = re.search(self._class.job_id_regexp, printed)
        if found is None:
            raise UnavailableError(f"{self.submit_command} printed no job id: {printed.strip()!r}")
        return found["job_id"]

    @property
    def submit_command(self) -> str:
        """Reads a script from standard input."""
        return str(self._class.submit_command)

    def _job(self, name: str, scheduler: str, security: Security | None) -> Any:
        arguments = [
            *(self.option("worker_extra_args") or ()),
            *("--resources", "GPU=1" if self.gpu else "CPU=1"),
            *("--preload", "braggflow.worker"),
            *("--dashboard-address", "127.0.0.1:0"),  # else it listens on all interfaces, without authentication
        ]
        walltime = self.option("walltime")
        if walltime is not None and "--lifetime" not in arguments:
            lifetime, stagger = lifetimes(walltime_seconds(str(walltime)))
            arguments += ["--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"]
        return self._class(
            scheduler=scheduler,
            name=name,
            job_name=name,
            security=security,
            protocol="tls://" if security else None,
            **{
                **self._options,
                "processes": self.workers,
                "job_extra_directives": self._directives,
                "worker_extra_args": arguments,
            },
        )


def _job_class(kind: str) -> Any:
    """dask-jobqueue's job of a batch system."""
    # Importing dask_jobqueue 0.9 replaces what Ctrl-C does to this process.
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    from dask_jobqueue.pbs import PBSJob
    from dask_jobqueue.slurm import SLURMJob

    if signal.getsignal(signal.SIGINT) is not on_ctrl_c:
        signal.signal(signal.SIGINT, on_ctrl_c)
    return {"slurm": SLURMJob, "pbs": PBSJob}[kind]


def lifetimes(walltime: int) -> tuple[int, int]:
    """Seconds after which a worker leaves by itself, and their scatter: together well below the time limit."""
    margin = max(min(walltime // 20, 300), min(walltime // 4, 60))
    stagger = min(walltime // 10, 300)
    return walltime - margin - stagger, stagger


class Slurm:
    """SLURM's commands."""

    def refuse_impossible(self, kind: JobKind) -> None:
        """Raise `InputError` where no node of the partition can ever run the job: SLURM lets some wait for ever."""
        queue = kind.option("queue")
        rows = [line.split("|") for line in _call(["sinfo", "-h", "-e", "-o", "%P|%c|%m|%l"]).splitlines()]
        known = sorted({row[0].rstrip("*") for row in rows})
        if queue is not None and not set(str(queue).split(",")) <= set(known):
            raise InputError(f"{kind.name}.queue: there is no partition {queue}; there are: {', '.join(known)}")
        asked = str(queue).split(",") if queue is not None else None
        nodes = [row for row in rows if (row[0].rstrip("*") in asked if asked else row[0].endswith("*"))]
        if not nodes:
            return  # no default partition: sbatch will say so
        memory = math.ceil(parse_bytes(kind.option("memory")) / 2**20)
        cores = int(kind.option("job_cpu") or kind.option("cores"))
        where = f"a node of partition {queue or nodes[0][0].rstrip('*')}"
        if memory > (most := max(int(row[2].rstrip("+")) for row in nodes)):
            raise InputError(f"{kind.name}.memory: {kind.option('memory')} is more than {where} has ({most} MiB)")
        if cores > (most := max(int(row[1].rstrip("+")) for row in nodes)):
            raise InputError(f"{kind.name}.cores: {cores} is more than {where} has ({most})")
        limits = [row[3] for row in nodes]
        walltime = kind.option("walltime")
        if walltime is not None and "infinite" not in limits and all(limit[:1].isdigit() for limit in limits):
            longest = max(limits, key=walltime_seconds)
            if walltime_seconds(str(walltime)) > walltime_seconds(longest):
                raise InputError(f"{kind.name}.walltime: {walltime} is longer than {where} is given for ({longest})")

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """States of those jobs that the queue still holds."""
        rows = _call(["squeue", "-h", "-u", getpass.getuser(), "-o", "%i|%T|%r"]).splitlines()
        found = {row[0]: row for row in (line.split("|", 2) for line in rows)}
        return {
            job: JobState(state not in ("PENDING", "CONFIGURING"), "" if reason == "None" else reason)
            for job, state, reason in (found[job] for job in ids if job in found)
        }

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs; those that have ended are no error."""
        if ids:
            _call(["scancel", "--quiet", *ids], accept_failure=True)


class Pbs:
    """The commands of PBS Professional and OpenPBS."""

    def refuse_impossible(self, kind: JobKind) -> None:
        """Nothing: qsub refuses what no queue can run."""

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """States of those jobs that the queue still holds."""
        if not ids:
            return {}
        # Fails where one of the jobs has ended, and tells the others all the same.
        printed = _call(["qstat", "-f", "-F", "json", *ids], accept_failure=True)
        try:
            jobs = json.loads(printed).get("Jobs", {}) if printed.strip() else {}
        except json.JSONDecodeError as error:
            raise UnavailableError(f"qstat printed no JSON: {printed[:200]!r}") from error
        numbers = {str(name).partition(".")[0]: job for name, job in jobs.items()}
        return {
            job: JobState(numbers[number]["job_state"] in "RE", str(numbers[number].get("comment", "")))
            for job in ids
            if (number := job.partition(".")[0]) in numbers and numbers[number]["job_state"] not in "FX"
        }

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs; those that have ended are no error."""
        if ids:
            _call(["qdel", *ids], accept_failure=True)


BatchSystem: TypeAlias = Slurm | Pbs
BATCH_SYSTEMS: Mapping[str, type[BatchSystem]] = {"slurm": Slurm, "pbs": Pbs}


def submit(kind: JobKind, script: str) -> str:
    """Submit a job; its id. `InputError`: it will never be granted; `UnavailableError`: perhaps later."""
    try:
        return kind.parse_id(_call(shlex.split(kind.submit_command), text=script))
    except UnavailableError as error:
        said = str(error)
        if _NEVER.search(said) and not _LATER.search(said):
            raise InputError(f"{kind.name}: the job is refused; {said}") from error
        raise


def _call(command: Sequence[str], *, text: str | None = None, accept_failure: bool = False) -> str:
    try:
        done = subprocess.run(
            command,
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
            start_new_session=True,  # Ctrl-C is for the run to handle, and must not lose the id of a job
        )
    except FileNotFoundError:
        raise InputError(
            f"{command[0]}: is not a command of this machine; run where jobs are submitted, a login node"
        ) from None
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]} did not answer within {_COMMAND_SECONDS} s") from error
    if done.returncode and not accept_failure:
        said = " ".join((done.stderr or done.stdout).split())
        raise UnavailableError(f"{command[0]}: {said}")
    return done.stdout
