"""What runs on a worker beside the tasks: its start in a job, the choice of its GPU, and what it tells of itself.

`python -m braggflow.cluster.worker MODULES ...` is `dask worker ...` whose worker processes are forked from one that
has imported the modules: once a node and not once a worker, and before anything waits for them. From a slow file system
that takes minutes, in which nobody may be given up. A node where braggflow cannot be imported fails at its start, with
the reason in the output of its job. `dask worker --preload braggflow.cluster.worker` calls `dask_setup` before the
worker takes tasks.
"""

import os
import platform
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import dask
import distributed
import psutil

from braggflow.cluster.local_workers import METHOD, start_import_server
from braggflow.errors import InputError
from braggflow.locate import cuda_device_name
from braggflow.version import code_version

#: The name of a worker that shares its job with others: JOB-I.
_SHARING = re.compile(r"-\d+-(?P<index>\d+)$")
#: When the job's script began, and when the Python of its workers did: seconds since 1970.
JOB_BEGAN, _PYTHON_BEGAN = "BRAGGFLOW_JOB_BEGAN", "BRAGGFLOW_PYTHON_BEGAN"


@dataclass(frozen=True, slots=True)
class StartUp:
    """What a worker took from the first line of its job's script until it was ready, seconds."""

    before_python: float
    """The commands of `job_script_prologue`."""
    imports: float
    """Python's start, and all that tasks import."""
    after: float
    """The start of the worker's process."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.before_python + self.imports + self.after


_start_up: StartUp | None = None
"""Of this process, where it is a worker of a job."""


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
    start_up: StartUp | None = None
    """None: not started by a job's script."""


def main() -> None:
    """`dask worker` with the arguments that follow the modules to be imported, which are separated by commas."""
    from distributed.cli.dask_worker import main as dask_worker

    modules = sys.argv.pop(1).split(",")
    os.environ[_PYTHON_BEGAN] = str(psutil.Process().create_time())
    start_import_server(modules, wait=True)
    dask.config.set({"distributed.worker.multiprocessing-method": METHOD})
    dask_worker()


def dask_setup(worker: distributed.Worker) -> None:
    """Of the GPUs of its job, leave each worker of a job its own."""
    global _start_up
    if JOB_BEGAN in os.environ and _PYTHON_BEGAN in os.environ:
        job, python = float(os.environ[JOB_BEGAN]), float(os.environ[_PYTHON_BEGAN])
        forked = psutil.Process().create_time()
        _start_up = StartUp(max(0.0, python - job), forked - python, time.time() - forked)
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
        start_up=_start_up,
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
            "ask for one in the profile's `gpu` group, or do without: locate.device and fit.device auto or cpu, and no "
            "`gpu` group"
        )


if __name__ == "__main__":
    main()
