"""Jobs of a batch system: the script of a worker job (dask-jobqueue's), and the commands that submit, watch and cancel.

dask-jobqueue's clusters are not used: two of them cannot share a scheduler, and a failed submission leaves them with a
worker that never comes. Of dask-jobqueue (0.9) this module uses the `Job` classes and their documented options.
"""

import math
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.config
from dask.utils import parse_bytes
from distributed import Security

from braggflow.cluster.local_workers import KEPT_MEMORY, task_modules
from braggflow.cluster.profiles import BatchProfile, GpuGroup, walltime_seconds
from braggflow.cluster.worker import JOB_BEGAN
from braggflow.errors import InputError

_COMMAND_SECONDS = 30
#: A worker that finds no scheduler is given up after so long, where nothing longer is asked for: dask-jobqueue's minute
#: is too short for what a busy login node or network take now and then.
_DEATH_SECONDS = 300
#: What sbatch and qsub say to a request that will not be granted later either.
_NEVER = re.compile(
    "invalid|can ?not be satisfied|node configuration is not available|not permitted|unrecogni[sz]ed|exceeds|denied"
    "|illegal|unknown|unauthorized|violates|rejected",
    re.IGNORECASE,
)
_LATER = re.compile("timed out|temporarily|slurm controller|communicat|retry|submit limit|credential", re.IGNORECASE)
#: What is said of jobs that have ended, when they are asked for or cancelled.
_ENDED = re.compile("invalid job id|already complet|unknown job|job has finished", re.IGNORECASE)
#: Names of dask-jobqueue's options before 0.8, which its configuration files may still hold.
_FORMER_NAMES = {"job_extra_directives": "job-extra", "worker_extra_args": "extra"}
_ASKS_FOR_GPU = re.compile(r"--gres[= ]|--gpus|-G\b")
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

    def __init__(
        self, profile: BatchProfile, name: str, *, log_directory: str, network: bool = False, limited: bool = True
    ) -> None:
        group = profile.gpu if name == "gpu" else profile.cpu
        assert group is not None
        self.name, self.minimum, self.maximum = name, group.minimum, group.maximum
        self.gpus = group.gpus if isinstance(group, GpuGroup) else 0
        """GPUs of a job."""
        self._system, self._class = profile.kind, _job_class(profile.kind)
        self._options = profile.options(group)
        self._section = f"jobqueue.{self._options.get('config_name', profile.kind)}"
        if not isinstance(dask.config.get(self._section, None), Mapping):
            raise InputError(f"{name}.config_name: dask's configuration has no section {self._section}")
        for key in ("cores", "memory"):
            if self.option(key) is None:
                raise InputError(f"{name}.{key}: is not given, neither in the profile nor in {self._section}")
        cores = int(self.option("cores"))
        # A number of workers meant for the cores of CPU jobs must not put as many on a GPU.
        self.workers = int(group.processes or self.gpus or self.option("processes") or cores)
        if self.workers > cores:
            raise InputError(f"{name}.cores: {cores} is too few for {self.workers} workers, which need one each")
        self.death_timeout = int(
            self._options.get("death_timeout") or max(_DEATH_SECONDS, self.option("death_timeout") or 0)
        )
        """A worker that finds no scheduler ends after so many seconds."""
        self._limited = limited  # in time, by itself: a step ends with its job
        self._modules = [*task_modules(network=network), "braggflow.cluster.worker"]
        self.log_directory = str(self.option("log_directory") or log_directory)
        """Where its jobs write what they print."""
        self._job("", "", None, log_directory=None)  # what is wrong is better said before anything is begun

    @property
    def gpu(self) -> bool:
        """Whether its workers have GPUs."""
        return self.gpus > 0

    @property
    def memory(self) -> str:
        """Memory of a job, for sbatch."""
        return f"{math.ceil(parse_bytes(self.option('memory')) / 2**20)}M"

    @property
    def python(self) -> str:
        """The command that starts Python, for a shell: `apptainer exec image.sif python` is several words of it."""
        return str(self.option("python") or shlex.quote(sys.executable))

    def option(self, key: str) -> Any:
        """An option of the profile, or else of dask-jobqueue's configuration."""
        if key in self._options:
            return self._options[key]
        found = dask.config.get(f"{self._section}.{key.replace('_', '-')}", None)
        if not found and key in _FORMER_NAMES:
            return dask.config.get(f"{self._section}.{_FORMER_NAMES[key]}", None)
        return found

    def script(self, name: str, scheduler: str, security: Security | None) -> str:
        """The job script of job `name`, whose workers join `scheduler`."""
        return str(self._job(name, scheduler, security, self.log_directory).job_script())

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

    def _job(self, name: str, scheduler: str, security: Security | None, log_directory: str | None) -> Any:
        options = {
            **self._options,
            **self._directives(name, log_directory),
            "processes": self.workers,
            "python": self.python,
            "death_timeout": self.death_timeout,
            "worker_command": f"braggflow.cluster.worker {','.join(self._modules)}",
            "worker_extra_args": self._worker_arguments(),
            "job_script_prologue": [
                f"export {JOB_BEGAN}=$(date +%s)",
                *(self.option("job_script_prologue") or ()),
                *(f"export {name}=${{{name}:-{value}}}" for name, value in KEPT_MEMORY.items()),
            ],
            "log_directory": log_directory,
        }
        try:
            return self._class(
                scheduler=scheduler,
                name=name,
                job_name=name,
                security=security,
                protocol="tls://" if security else None,
                **options,
            )
        except KeyError as error:
            raise InputError(
                f"{self.name}.config_name: section {self._section} lacks the key {error}; it must hold all those of "
                f"jobqueue.{self._system}"
            ) from error
        except OSError as error:
            raise InputError(f"{self.name}.log_directory: {log_directory} cannot be made ({error.strerror})") from error
        except (ValueError, TypeError) as error:
            raise InputError(f"{self.name}: the profile or {self._section} cannot be used ({error})") from error

    def _directives(self, name: str, log_directory: str | None) -> dict[str, Any]:
        """What dask-jobqueue does not ask for: no second start of a job that was replaced, GPUs, and one known log."""
        given = list(self.option("job_extra_directives") or ())
        if self._system == "slurm":
            asked = not self.gpus or _ASKS_FOR_GPU.search(" ".join(given))
            return {"job_extra_directives": [*given, "--no-requeue", *([] if asked else [f"--gres=gpu:{self.gpus}"])]}
        options: dict[str, Any] = {
            "job_extra_directives": [*given, "-r n", "-j oe", f"-o {log_directory}/{name}.out"],
            "job_directives_skip": [*(self.option("job_directives_skip") or ()), "#PBS -e ", "#PBS -o "],
        }
        if self.gpus and not self.option("resource_spec"):
            memory = math.ceil(parse_bytes(self.option("memory")) / 2**20)
            options["resource_spec"] = f"select=1:ncpus={self.option('cores')}:ngpus={self.gpus}:mem={memory}mb"
        return options

    def _worker_arguments(self) -> list[str]:
        given = [str(argument) for argument in self.option("worker_extra_args") or ()]
        own = [
            *("--nworkers", str(self.workers)),  # dask-jobqueue says so to `dask worker` alone
            *("--resources", "GPU=1" if self.gpus else "CPU=1"),
            *("--preload", "braggflow.cluster.worker"),
            *("--dashboard-address", "127.0.0.1:0"),  # else it listens on all interfaces, without authentication
        ]
        walltime = self.option("walltime") if self._limited else None
        if walltime is not None and not re.search(r"--lifetime(?![\w-])", " ".join(given)):
            lifetime, stagger = lifetimes(walltime_seconds(str(walltime)))
            own += ["--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"]
        return given + own


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
        # -a: partitions may be hidden from those who may use them.
        rows = [line.split("|") for line in call_command(["sinfo", "-a", "-h", "-e", "-o", "%P|%c|%m|%l"]).splitlines()]
        known = {row[0].rstrip("*") for row in rows}
        asked = str(queue).split(",") if queue else [row[0].rstrip("*") for row in rows if row[0].endswith("*")]
        if not known.issuperset(asked):
            raise InputError(f"{kind.name}.queue: there is no partition {queue}; there are: {', '.join(sorted(known))}")
        nodes = [row for row in rows if row[0].rstrip("*") in asked]
        if not nodes:
            return  # no default partition: sbatch will say so
        where = f"a node of partition {queue or asked[0]}"
        cores, memory = int(kind.option("job_cpu") or kind.option("cores")), parse_bytes(kind.option("memory"))
        if math.ceil(memory / 2**20) > (most := max(int(row[2].rstrip("+")) for row in nodes)):
            raise InputError(f"{kind.name}.memory: {kind.option('memory')} is more than {where} has ({most} MiB)")
        if cores > (most := max(int(row[1].rstrip("+")) for row in nodes)):
            raise InputError(f"{kind.name}.cores: {cores} is more than {where} has ({most})")
        walltime, limits = kind.option("walltime"), [row[3] for row in nodes]
        if walltime is not None and all(limit[:1].isdigit() for limit in limits):  # else it is infinite
            longest = max(limits, key=walltime_seconds)
            if walltime_seconds(str(walltime)) > walltime_seconds(longest):
                raise InputError(f"{kind.name}.walltime: {walltime} is longer than {where} is given for ({longest})")

    def gives_whole_nodes(self, kind: JobKind) -> bool:
        """Whether each job has its nodes for itself; False where SLURM does not say."""
        if any(line.startswith("--exclusive") for line in kind.option("job_extra_directives") or ()):
            return True
        try:
            rows = [line.split("|") for line in call_command(["sinfo", "-a", "-h", "-o", "%P|%h"]).splitlines()]
        except (InputError, UnavailableError):
            return False
        asked = str(kind.option("queue") or "").split(",")
        return any(
            row[0].rstrip("*") in asked or (row[0].endswith("*") and asked == [""])
            for row in rows
            if row[1] == "EXCLUSIVE"
        )

    def submit(self, kind: JobKind, name: str, scheduler: str, security: Security | None) -> str:
        """Submit the job `name` of workers that join `scheduler`; its id."""
        return submit_job(kind, kind.script(name, scheduler, security))

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """States of those jobs that the queue still holds."""
        if not ids:
            return {}
        rows = call_command(["squeue", "-h", "-u", str(os.getuid()), "-o", "%i|%T|%r"]).splitlines()
        found = {row[0]: row for row in (line.split("|", 2) for line in rows)}
        return {
            job: JobState(state not in ("PENDING", "CONFIGURING"), "" if reason == "None" else reason)
            for job, state, reason in (found[job] for job in ids if job in found)
        }

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs; those that have ended are no error."""
        if ids:
            call_command(["scancel", "--quiet", *ids], harmless=_ENDED)


class Pbs:
    """The commands of PBS Professional and OpenPBS."""

    def refuse_impossible(self, kind: JobKind) -> None:
        """Nothing: qsub refuses what no queue can run."""

    def submit(self, kind: JobKind, name: str, scheduler: str, security: Security | None) -> str:
        """Submit the job `name` of workers that join `scheduler`; its id."""
        return submit_job(kind, kind.script(name, scheduler, security))

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """States of those jobs that the queue still holds."""
        if not ids:
            return {}
        # Fails where one of the jobs has ended, and tells the others all the same. Its JSON is not always valid.
        printed = call_command(["qstat", "-f", *ids], harmless=_ENDED).replace("\n\t", "")  # long lines are folded
        found = {}
        for text in re.split(r"^Job Id: ", printed, flags=re.MULTILINE)[1:]:
            number, state, comment = re.match(r"\d+", text), _attribute(text, "job_state"), _attribute(text, "comment")
            if number is not None and state not in ("F", "X"):
                found[number[0]] = JobState(state in ("R", "E"), comment)
        return {job: found[job] for job in ids if job in found}

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs; those that have ended are no error."""
        if ids:
            call_command(["qdel", *ids], harmless=_ENDED)


def _attribute(text: str, name: str) -> str:
    found = re.search(rf"^ +{name} = (.*)$", text, flags=re.MULTILINE)
    return found[1].strip() if found is not None else ""


def submit_job(kind: JobKind, script: str) -> str:
    """Submit a job; its id. `InputError`: it will never be granted; `UnavailableError`: perhaps later."""
    try:
        return kind.parse_id(call_command(shlex.split(kind.submit_command), text=script))
    except UnavailableError as error:
        said = str(error)
        if _NEVER.search(said) and not _LATER.search(said):
            raise InputError(f"{kind.name}: the job is refused; {said}") from error
        raise


def call_command(command: Sequence[str], *, text: str | None = None, harmless: re.Pattern[str] | None = None) -> str:
    """Standard output of a command of a batch system. A failure whose every line matches `harmless` is none."""
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
    errors = (done.stderr or done.stdout).strip().splitlines()
    if done.returncode and not (harmless and errors and all(harmless.search(line) for line in errors)):
        prefix = re.compile(rf"^{re.escape(command[0])}: (error: )?")
        said = "; ".join(prefix.sub("", line.strip()) for line in errors)
        raise UnavailableError(f"{command[0]}: {said or f'exit status {done.returncode}'}")
    return done.stdout
