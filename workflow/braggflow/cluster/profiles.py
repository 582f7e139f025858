"""Cluster profiles: where a run computes, as one YAML file. The run configuration stays the same everywhere.

Keys of batch jobs carry the names of dask-jobqueue, with underscores or hyphens. A key that a profile leaves out is
taken from dask-jobqueue's own configuration (`jobqueue.slurm.*`, or the section that `config_name` names).
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from braggflow.config import Section
from braggflow.config_messages import validation_messages
from braggflow.errors import InputError
from braggflow.yaml_text import read_yaml

#: SLURM's forms of a time limit (sbatch(1), --time); PBS's h:m:s is one of them.
_WALLTIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
#: With less there is no time to start workers and to let them leave.
_SHORTEST_WALLTIME = 60
_MEMORY = re.compile(r"\d+(\.\d+)? ?[kMGT]i?B?", re.IGNORECASE)
#: Job scripts hold these paths unquoted, and SLURM replaces %.
_PLAIN_PATH = re.compile(r"[\w./@+=:,-]+")


def walltime_seconds(text: str) -> int:
    """A time limit in seconds. As SLURM counts: minutes, m:s, h:m:s, days-h, days-h:m, days-h:m:s."""
    matched = _WALLTIME.fullmatch(text)
    if matched is None:
        raise InputError(f'walltime: {text!r} is not accepted; must be h:m:s in quotes, as in "2:00:00"')
    parts = [int(part) for part in matched["parts"].split(":")]
    if matched["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return int(matched["days"]) * 86_400 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 3:
        return parts[0] * 3600 + parts[1] * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)


def _walltime(value: object) -> object:
    if isinstance(value, int):  # YAML 1.1 reads 1:00:00 as the number 3600, which a batch system takes for minutes
        raise PydanticCustomError("walltime", 'put it in quotes, as in "1:00:00": YAML reads it as a number')
    if not isinstance(value, str) or not _WALLTIME.fullmatch(value):
        raise PydanticCustomError("walltime", 'must be h:m:s in quotes, as in "2:00:00", or days-h:m:s')
    if walltime_seconds(value) < _SHORTEST_WALLTIME:
        raise PydanticCustomError("walltime", "must be a minute at least")
    return value


def _memory(value: object) -> object:
    if not isinstance(value, str) or not _MEMORY.fullmatch(value):
        raise PydanticCustomError("memory", "must be a number with its unit, as in 64GB")
    return value


def _path(value: object) -> object:
    # Absolute, because jobs start in other folders.
    return os.path.abspath(os.path.expandvars(Path(value).expanduser())) if isinstance(value, str) else value  # noqa: PTH100


def _plain_path(value: object) -> object:
    path = _path(value)
    if isinstance(path, str) and not _PLAIN_PATH.fullmatch(path):
        raise PydanticCustomError(
            "path", "must be a path of letters, digits and _ . / @ + = : , - (job scripts do not take others)"
        )
    return path


FilePath: TypeAlias = Annotated[str, BeforeValidator(_path)]
SharedPath: TypeAlias = Annotated[str, BeforeValidator(_plain_path)]
Walltime: TypeAlias = Annotated[str, BeforeValidator(_walltime)]
Memory: TypeAlias = Annotated[str, BeforeValidator(_memory)]


class JobOptions(Section):
    """What a job asks for; null: as dask-jobqueue is configured."""

    queue: str | None = Field(None, description="partition or queue of the batch system (partition: is read too)")
    account: str | None = Field(None, description="project that is charged")
    walltime: Walltime | None = Field(None, description='time limit of a job, in quotes: "2:00:00"')
    cores: int | None = Field(None, ge=1, description="cores of a job")
    memory: Memory | None = Field(None, description="memory of a job, e.g. 64GB")
    processes: int | None = Field(
        None, ge=1, description="workers of a job, each doing one task at a time (null: one per core)"
    )
    interface: str | None = Field(None, description="network interface, e.g. ib0 (null: the one to the outside)")
    # Not expanded here: $TMPDIR and the like have another value in a job.
    local_directory: str | None = Field(None, description="fast scratch directory of a node, e.g. $TMPDIR")
    log_directory: SharedPath | None = Field(None, description="what jobs print (null: in directory, until the end)")
    python: str | None = Field(
        None,
        description="command that starts the Python of the workers, as in a shell: ~/env/bin/python, or apptainer exec "
        "image.sif python (null: the one that submits)",
    )
    job_script_prologue: tuple[str, ...] | None = Field(None, description="shell commands before the worker starts")
    job_extra_directives: tuple[str, ...] | None = Field(None, description="more of the batch system's options")
    job_directives_skip: tuple[str, ...] | None = Field(None, description="directives to leave out, by their text")
    worker_extra_args: tuple[str, ...] | None = Field(None, description="more options of dask worker")
    death_timeout: int | None = Field(
        None,
        ge=5,
        description="seconds after which a worker without scheduler ends (null: 300, or dask-jobqueue's if longer)",
    )
    resource_spec: str | None = Field(
        None,
        description="PBS only: what follows -l (null: select=1:ncpus=...:ngpus=...:mem=... from cores, gpus, memory)",
    )
    config_name: str | None = Field(None, description="section of dask-jobqueue's configuration (null: slurm or pbs)")


class JobGroup(JobOptions):
    """Jobs of one kind; keys left out are the profile's."""

    minimum: int = Field(0, ge=0, description="jobs kept, also when there is little to do")
    maximum: int = Field(1, ge=1, description="jobs at most")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum: {self.minimum} must not be above maximum: {self.maximum}")
        return self


class GpuGroup(JobGroup):
    """Jobs with GPUs: a worker for each (`processes` of this group alone changes that)."""

    gpus: int = Field(1, ge=1, description="GPUs of a job")


class LocalProfile(Section):
    """Worker processes on this machine.

    Examples
    --------
    >>> from braggflow.cluster.profiles import LocalProfile
    >>> profile = LocalProfile(kind="local", workers=4)
    >>> profile.tls, profile.dashboard
    (True, False)
    """

    kind: Literal["local"] = Field(description="local")
    workers: int | None = Field(None, ge=1, description="worker processes (null: compute.workers)")
    memory_limit: str | None = Field(None, description="per worker (null: compute.memory_limit)")
    tls: bool = Field(True, description="false: let every user of this machine run code as you")
    dashboard: bool = Field(False, description="true: Dask's dashboard, which every user of this machine can look at")


class ExistingProfile(Section):
    """A Dask scheduler that runs already; exactly one of `address` and `scheduler_file` is given.

    Examples
    --------
    >>> from braggflow.cluster.profiles import ExistingProfile
    >>> ExistingProfile(kind="existing", address="tcp://127.0.0.1:8786").address
    'tcp://127.0.0.1:8786'
    """

    kind: Literal["existing"] = Field(description="existing")
    address: str | None = Field(None, description="tls://host:port or tcp://host:port")
    scheduler_file: FilePath | None = Field(None, description="file that dask scheduler --scheduler-file wrote")
    tls_ca_file: FilePath | None = Field(None, description="certificate authority")
    tls_cert: FilePath | None = Field(None, description="certificate of this client")
    tls_key: FilePath | None = Field(None, description="key of this client")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.address is None) == (self.scheduler_file is None):
            raise ValueError(
                f"address: {self.address} and scheduler_file: {self.scheduler_file}; exactly one must be given"
            )
        if self.address is not None and not re.fullmatch(r"(tls|tcp)://\S+:\d+", self.address):
            raise ValueError(f"address: {self.address} is not accepted; must be tls://host:port or tcp://host:port")
        if len({value is None for value in (self.tls_ca_file, self.tls_cert, self.tls_key)}) > 1:
            raise ValueError("tls_ca_file: must be given together with tls_cert and tls_key, or none of them")
        return self


class BatchProfile(JobOptions):
    """Jobs of a batch system: a group of CPU workers and, where there are GPUs, one of GPU workers.

    Examples
    --------
    >>> from braggflow.cluster.profiles import BatchProfile, JobGroup
    >>> profile = BatchProfile(
    ...     kind="slurm", queue="day", walltime="2:00:00", cores=8, memory="32GB", cpu=JobGroup(maximum=10)
    ... )
    >>> profile.options(profile.cpu)
    {'queue': 'day', 'walltime': '2:00:00', 'cores': 8, 'memory': '32GB'}
    """

    kind: Literal["slurm", "pbs"] = Field(description="slurm or pbs: the batch system")
    directory: SharedPath = Field(
        "~/.braggflow",
        validate_default=True,
        description="on a file system that the nodes share: keys and output of jobs, removed at the end",
    )
    scheduler_interface: str | None = Field(
        None, description="network interface of this machine, where its name is another than on the nodes"
    )
    seconds_per_worker: float = Field(
        30, gt=0, description="a worker is asked for when there is this much work for it, seconds"
    )
    cpu: JobGroup = Field(description="jobs without GPUs")
    gpu: GpuGroup | None = Field(None, description="null: networks and fits run on the CPU workers")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        groups: tuple[JobOptions, ...] = (self, self.cpu) if self.gpu is None else (self, self.cpu, self.gpu)
        for options in groups:
            if self.kind == "slurm" and options.resource_spec:
                raise ValueError(f"resource_spec: {options.resource_spec} is of PBS; must be null with kind: slurm")
            if self.kind == "pbs" and not re.fullmatch(r"\d+:\d+:\d+", options.walltime or "0:0:0"):
                raise ValueError(f"walltime: {options.walltime} is not accepted by PBS; must be h:m:s")
        return self

    def options(self, group: JobGroup) -> dict[str, Any]:
        """The job options of a group: its own, else the profile's; those that neither gives are left out."""
        merged = {}
        for name in JobOptions.model_fields:
            own = getattr(group, name)
            value = getattr(self, name) if own is None else own
            if value is not None:
                merged[name] = list(value) if isinstance(value, tuple) else value
        return merged


class AllocationProfile(Section):
    """All nodes of the SLURM job that the run is started in: workers by `srun`, and no job is submitted.

    Examples
    --------
    >>> from braggflow.cluster.profiles import AllocationProfile
    >>> profile = AllocationProfile(kind="allocation", python="apptainer exec image.sif python")
    >>> profile.gpus is None, profile.srun_options
    (True, ())
    """

    kind: Literal["allocation"] = Field(description="allocation")
    directory: SharedPath = Field(
        "~/.braggflow",
        validate_default=True,
        description="on a file system that the nodes share: keys and output of workers, removed at the end",
    )
    processes: int | None = Field(
        None, ge=1, description="CPU workers of a node, each doing one task at a time (null: one per core)"
    )
    gpus: int | None = Field(
        None,
        ge=0,
        description="GPUs of a node, each with a core and a worker for the network (null: those that the job has)",
    )
    interface: str | None = Field(None, description="network interface, e.g. ib0 (null: the one to the outside)")
    local_directory: str | None = Field(None, description="fast scratch directory of a node, e.g. $TMPDIR")
    log_directory: SharedPath | None = Field(None, description="what workers print (null: in directory, until the end)")
    python: str | None = Field(
        None, description="command that starts the Python of the workers, as in a shell (null: that of the run)"
    )
    job_script_prologue: tuple[str, ...] | None = Field(None, description="shell commands before the workers start")
    srun_options: tuple[str, ...] = Field((), description="more options of srun")
    worker_extra_args: tuple[str, ...] | None = Field(None, description="more options of dask worker")
    death_timeout: int | None = Field(
        None, ge=5, description="seconds after which a worker without scheduler ends (null: 300)"
    )


Profile: TypeAlias = LocalProfile | ExistingProfile | BatchProfile | AllocationProfile
"""A cluster profile, of the class that its `kind` names: `LocalProfile`, `ExistingProfile`, `BatchProfile` or
`AllocationProfile`."""
KINDS: dict[str, type[LocalProfile | ExistingProfile | BatchProfile | AllocationProfile]] = {
    "local": LocalProfile,
    "existing": ExistingProfile,
    "allocation": AllocationProfile,
    "slurm": BatchProfile,
    "pbs": BatchProfile,
}


def load_profile(path: str | Path) -> Profile:
    """Read a cluster profile: where a run computes.

    Parameters
    ----------
    path : str or pathlib.Path
        The YAML file: a mapping with `kind`, one of local, existing, allocation, slurm and pbs, and the keys of that
        kind. Keys may be written with hyphens; `partition` is another word for `queue`.

    Returns
    -------
    Profile
        The profile, checked; nothing is started.

    Raises
    ------
    InputError
        Where the file cannot be read, is no YAML or no mapping, and for keys or values that are not accepted. The
        message names the file or key, its value and what is accepted.

    Examples
    --------
    >>> from pathlib import Path
    >>> import braggflow
    >>> _ = Path("here.yaml").write_text("{kind: local, workers: 2, memory_limit: 4GiB}")
    >>> profile = braggflow.load_profile("here.yaml")
    >>> profile.kind, profile.workers, profile.memory_limit
    ('local', 2, '4GiB')
    """
    return resolve_profile(read_yaml(Path(path), "cluster profile"), source=f"cluster profile {path}")


def resolve_profile(data: object, *, source: str = "cluster profile") -> Profile:
    """Check plain data (as from YAML) against the schema."""
    kinds = ", ".join(KINDS)
    if not isinstance(data, dict):
        raise InputError(f"{source}: is {type(data).__name__}, must be a mapping that begins with kind ({kinds})")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{source}: kind: {kind!r} is not accepted; must be one of {kinds}")
    try:
        return KINDS[kind].model_validate(_named(data, source))
    except ValidationError as error:
        raise InputError(f"{source}: " + "\n  ".join(validation_messages(error, KINDS[kind]))) from error


def _named(data: dict[str, Any], source: str) -> dict[str, Any]:
    """The keys by their names: hyphens as underscores, SLURM's word partition as queue."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        name = str(key).replace("-", "_")
        name = "queue" if name == "partition" else name
        if name in found:
            raise InputError(
                f"{source}: {key}: {value!r} is given beside {name}: {found[name]!r}, which is the same key"
            )
        found[name] = _named(value, source) if isinstance(value, dict) else value
    return found
