"""A Dask cluster to run on: a local one, or the client of one that is there already."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from braggflow.config import ComputeConfig, InputError

#: How long a cluster may be without any worker before the run says so.
NO_WORKERS_SECONDS = 60
#: A terminal sends Ctrl-C to workers too; whether they stop is for the client to decide.
_IGNORE_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"


@dataclass(frozen=True, slots=True)
class Pools:
    """Which resources the workers offer, and so where tasks must be sent."""

    cpu: bool
    gpu: bool


@contextmanager
def local(config: ComputeConfig) -> Iterator[Client]:
    """A cluster of single-threaded worker processes on this machine, reachable from this machine only."""
    try:
        # Workers that cannot start are an error after this time, and not a wait without end.
        dask.config.set({"distributed.scheduler.no-workers-timeout": f"{NO_WORKERS_SECONDS}s"})
        cluster = LocalCluster(
            n_workers=config.workers or CPU_COUNT,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=config.memory_limit,
            preload=[_IGNORE_CTRL_C],
            silence_logs=logging.ERROR,  # that a worker took long to end is no news for a user
        )
    except ValueError as error:
        raise InputError(f"compute.memory_limit: {config.memory_limit!r} is not accepted ({error})") from error
    with cluster, Client(cluster) as client:
        try:
            client.wait_for_workers(1, timeout=NO_WORKERS_SECONDS)
        except TimeoutError:
            raise InputError(
                f"cluster: no worker process came up within {NO_WORKERS_SECONDS} s; what they said stands above"
            ) from None
        yield client


def pools(client: Client, *, network: bool) -> Pools:
    """Which resources the cluster's workers offer; raises `InputError` where the work has nowhere to go."""
    offered = [worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
    if not offered:
        raise InputError("cluster: has no workers; start some, or wait until they are up, and run again")
    cpu, gpu = any("CPU" in names for names in offered), any("GPU" in names for names in offered)
    if gpu and not cpu:
        raise InputError("cluster: workers offer the resource GPU but none offers CPU; start the others with CPU=1000")
    return Pools(cpu=cpu, gpu=gpu and network)
