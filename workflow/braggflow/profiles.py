"""Cluster profiles: where a run computes, as one YAML file. The run configuration stays the same everywhere.

Keys of batch jobs carry the names of dask-jobqueue, with underscores or hyphens. A key that a profile leaves out is
taken from dask-jobqueue's own configuration (`jobqueue.slurm.*`, or the section that `config_name` names).
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from braggflow.config import InputError, Section, messages, read_yaml

#: SLURM's forms of a time limit (sbatch(1), --time); PBS's hh:mm:ss is one of them.
_WALLTIME = re.compile(r"^(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})$")


def _expanded(value: object) -> object:
    return os.path.expandvars(Path(value).expanduser()) if isinstance(value, str) else value


def _time_text(value: object) -> object:
    if isinstance(value, int):  # YAML 1.1 reads 1:00:00 as the number 3600, which a batch system takes for minutes
        raise PydanticCustomError("walltime", 'put it in quotes, as in "1:00:00": YAML reads it as a number')
    return value


ExpandedPath: TypeAlias = Annotated[str, BeforeValidator(_expanded)]
Walltime: TypeAlias = Annotated[str, BeforeValidator(_time_text), Field(pattern=_WALLTIME.pattern)]


class JobOptions(Section):
    """What a job asks for; null: as dask-jobqueue is configured."""

    queue: str | None = Field(
        None, validation_alias=AliasChoices("queue", "partition"), description="partition or queue of the batch system"
    )
    account: str | None = Field(None, description="project that is charged")
    walltime: Walltime | None = Field(None, description='time limit of a job, in quotes: "2:00:00"')
    cores: int | None = Field(None, ge=1, description="cores of a job")
    memory: str | None = Field(None, description="memory of a job, e.g. 64GB")
    processes: int | None = Field(
        None, ge=1, description="workers of a job, each doing one task at a time (null: one per core, or per GPU)"
    )
    interface: str | None = Field(None, description="network interface, e.g. ib0 (null: the one to the outside)")
    local_directory: ExpandedPath | None = Field(None, description="fast scratch directory of a node")
    log_directory: ExpandedPath | None = Field(None, description="what jobs print (null: in directory, until the end)")
    python: str | None = Field(None, description="Python of the workers (null: the one that submits)")
    job_script_prologue: tuple[str, ...] | None = Field(None, description="shell commands before the worker starts")
    job_extra_directives: tuple[str, ...] | None = Field(None, description="more of the batch system's options")
    job_directives_skip: tuple[str, ...] | None = Field(None, description="directives to leave out, by their text")
    worker_extra_args: tuple[str, ...] | None = Field(None, description="more options of dask worker")
    death_timeout: int | None = Field(None, ge=5, description="seconds after which a worker without scheduler ends")
    resource_spec: str | None = Field(None, description="PBS only: what follows -l select=")
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
    """Jobs with GPUs: one worker each."""

    gpus: int = Field(1, ge=1, description="GPUs of a job")


class LocalProfile(Section):
    """Worker processes on this machine."""

    kind: Literal["local"]
    workers: int | None = Field(None, ge=1, description="worker processes (null: compute.workers)")
    memory_limit: str | None = Field(None, description="per worker (null: compute.memory_limit)")
    tls: bool = Field(False, description="true: keep other users of this machine out")


class ExistingProfile(Section):
    """A Dask scheduler that runs already."""

    kind: Literal["existing"]
    address: str | None = Field(None, description="tls://host:port or tcp://host:port")
    scheduler_file: ExpandedPath | None = Field(None, description="file that dask scheduler --scheduler-file wrote")
    tls_ca_file: ExpandedPath | None = Field(None, description="certificate authority")
    tls_cert: ExpandedPath | None = Field(None, description="certificate of this client")
    tls_key: ExpandedPath | None = Field(None, description="key of this client")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.address is None) == (self.scheduler_file is None):
            raise ValueError(
                f"address: {self.address} and scheduler_file: {self.scheduler_file}; exactly one must be given"
            )
        if len({value is None for value in (self.tls_ca_file, self.tls_cert, self.tls_key)}) > 1:
            raise ValueError("tls_ca_file: must be given together with tls_cert and tls_key, or none of them")
        return self


class BatchProfile(JobOptions):
    """Jobs of a batch system: a group of CPU workers and, where there are GPUs, one of GPU workers."""

    kind: Literal["slurm", "pbs"]
    directory: ExpandedPath = Field(
        default_factory=lambda: str(Path.home() / ".braggflow"),
        description="on a file system that the nodes share: keys and output of jobs, removed at the end",
    )
    seconds_per_worker: float = Field(
        30, gt=0, description="a worker is asked for when there is this much work for it, seconds"
    )
    cpu: JobGroup
    gpu: GpuGroup | None = Field(None, description="null: networks run on the CPU workers")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "slurm" and any(group.resource_spec for group in (self, self.cpu, self.gpu) if group):
            raise ValueError("resource_spec: is of PBS; must be null with kind: slurm")
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


Profile: TypeAlias = LocalProfile | ExistingProfile | BatchProfile
KINDS: dict[str, type[LocalProfile | ExistingProfile | BatchProfile]] = {
    "local": LocalProfile,
    "existing": ExistingProfile,
    "slurm": BatchProfile,
    "pbs": BatchProfile,
}


def load(path: str | Path) -> Profile:
    """Read a cluster profile; raises `InputError` naming the file or key, its value and what is accepted."""
    return check(read_yaml(Path(path), "cluster profile"), source=f"cluster profile {path}")


def check(data: object, *, source: str = "cluster profile") -> Profile:
    """Check plain data (as from YAML) against the schema."""
    kinds = ", ".join(KINDS)
    if not isinstance(data, dict):
        raise InputError(f"{source}: is {type(data).__name__}, must be a mapping that begins with kind ({kinds})")
    kind = data.get("kind")
    if kind not in KINDS:
        raise InputError(f"{source}: kind: {kind!r} is not accepted; must be one of {kinds}")
    try:
        return KINDS[kind].model_validate(_underscored(data))
    except ValidationError as error:
        raise InputError(f"{source}: " + "\n  ".join(messages(error, KINDS[kind]))) from error


def _underscored(data: dict[str, Any]) -> dict[str, Any]:
    return {
        str(key).replace("-", "_"): _underscored(value) if isinstance(value, dict) else value
        for key, value in data.items()
    }


def walltime_seconds(text: str) -> int:
    """A time limit in seconds. As SLURM counts: minutes, m:s, h:m:s, days-h, days-h:m, days-h:m:s."""
    matched = _WALLTIME.match(text)
    if matched is None:
        raise InputError(f'walltime: {text!r} is not accepted; must be h:m:s in quotes, as in "2:00:00"')
    parts = [int(part) for part in matched["parts"].split(":")]
    if matched["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return int(matched["days"]) * 86_400 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 3:
        return parts[0] * 3600 + parts[1] * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)
