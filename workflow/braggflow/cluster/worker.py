"""What runs on a worker beside the tasks: the choice of its GPU, and what it tells of itself.

`dask worker --preload braggflow.cluster.worker` calls `dask_setup` before the worker takes tasks. A node where
braggflow cannot be imported so fails at its start, with the reason in the output of its job.
"""

import os
import platform
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import distributed

from braggflow.errors import InputError
from braggflow.locate import cuda_device_name
from braggflow.version import code_version

#: The name of a worker that shares its job with others: JOB-I.
_SHARING = re.compile(r"-\d+-(?P<index>\d+)$")


@dataclass(frozen=True, slots=True)
class WorkerDescription:
    """A worker's side of what must agree with the client's."""

    host: str
    python: str
    packages: Mapping[str, str]
    """Versions that must be equal to the client's; `sources` is a hash of the modules that decide the numbers."""
    missing: tuple[str, ...]
    """Paths asked for that the worker does not see."""
    gpu: str | None
    """Name of the GPU that torch sees; "" where it sees none; None: not asked."""
    allocated: str
    """GPUs that the batch system gave (CUDA_VISIBLE_DEVICES); "" for none."""


def dask_setup(worker: distributed.Worker) -> None:
    """Of the GPUs of its job, leave each worker of a job its own."""
    devices = allocated_gpus()
    shares = _SHARING.search(str(worker.name))
    if shares is not None and devices and "GPU" in worker.state.total_resources:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(shares["index"]) % len(devices)]


def allocated_gpus() -> list[str]:
    """Devices in CUDA_VISIBLE_DEVICES: numbers or names; none where the variable is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [name for name in named if name not in ("", "-1", "NoDevFiles")]


def describe_worker(paths: Sequence[str] = (), *, gpu: bool = False) -> WorkerDescription:
    """What this process is, and which of `paths` it does not see; with `gpu` also which GPU (loads torch)."""
    return WorkerDescription(
        host=socket.gethostname(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        packages={
            **{f"braggflow {key}": value for key, value in code_version().items()},
            "distributed": metadata.version("distributed"),
        },
        missing=tuple(path for path in paths if not Path(path).exists()),
        gpu=cuda_device_name() if gpu else None,
        allocated=",".join(allocated_gpus()),
    )


def check_worker(name: str, found: WorkerDescription, *, gpu_needed: bool) -> None:
    """Raise `InputError` where worker `name` cannot work with this client."""
    own, where = describe_worker(), f"worker {name} on {found.host}"
    if found.python != own.python:
        raise InputError(
            f"{where}: runs Python {found.python}, this is {own.python} ({platform.python_implementation()}); "
            "set `python` or `job_script_prologue` of the cluster profile"
        )
    for package, version in own.packages.items():
        if found.packages.get(package) != version:
            raise InputError(
                f"{where}: has {package} {found.packages.get(package)}, here it is {version}; results would be mixed. "
                "Install the same on both, or set `python` or `job_script_prologue` of the cluster profile"
            )
    if found.missing:
        raise InputError(
            f"{where}: does not see {found.missing[0]}; frames and results must be on a file system that it shares"
        )
    if found.gpu is not None and not found.gpu and (gpu_needed or not found.allocated):
        raise InputError(
            f"{where}: has no GPU (CUDA_VISIBLE_DEVICES: {found.allocated or 'not set'}, torch sees none); "
            "ask for one in the profile's `gpu` group, or do without: locate.device auto or cpu, and no `gpu` group"
        )
