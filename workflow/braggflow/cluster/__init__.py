"""Where a run computes: cluster profiles, batch systems, worker processes, the autoscaler."""

from braggflow.cluster.autoscale import Demand
from braggflow.cluster.batch_script import sbatch_script
from braggflow.cluster.connect import Cluster, Pools, cluster_of_client, open_cluster
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
    "open_cluster",
    "sbatch_script",
    "start_worker_server",
    "task_pool",
]
