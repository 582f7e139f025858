"""Where a run computes: cluster profiles, batch systems, worker processes, the autoscaler."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braggflow.cluster.autoscale import Demand
    from braggflow.cluster.batch_script import sbatch_script
    from braggflow.cluster.connect import Cluster, Pools, cluster_of_client, open_cluster
    from braggflow.cluster.local_limits import memory_limit_asked, memory_of_worker, refuse_crowd
    from braggflow.cluster.local_workers import start_worker_server
    from braggflow.cluster.profile_check import check_profile, job_scripts
    from braggflow.cluster.profiles import Profile, load_profile
    from braggflow.cluster.rerun_counter import RerunCounter
    from braggflow.cluster.worker_pool import RunTasks, task_pool

__all__ = [
    "Cluster",
    "Demand",
    "Pools",
    "Profile",
    "RerunCounter",
    "RunTasks",
    "check_profile",
    "cluster_of_client",
    "job_scripts",
    "load_profile",
    "memory_limit_asked",
    "memory_of_worker",
    "open_cluster",
    "refuse_crowd",
    "sbatch_script",
    "start_worker_server",
    "task_pool",
]

_MODULES = {
    "Cluster": "connect",
    "Demand": "autoscale",
    "Pools": "connect",
    "Profile": "profiles",
    "RerunCounter": "rerun_counter",
    "RunTasks": "worker_pool",
    "check_profile": "profile_check",
    "cluster_of_client": "connect",
    "job_scripts": "profile_check",
    "load_profile": "profiles",
    "memory_limit_asked": "local_limits",
    "memory_of_worker": "local_limits",
    "open_cluster": "connect",
    "refuse_crowd": "local_limits",
    "sbatch_script": "batch_script",
    "start_worker_server": "local_workers",
    "task_pool": "worker_pool",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used: Dask takes most of a second, and what is done in one process needs none of it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
