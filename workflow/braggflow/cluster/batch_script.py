"""A batch script for a run without a terminal: scheduler and client on a compute node, workers in jobs of their own."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from braggflow.cluster.batch_systems import JobKind, Slurm
from braggflow.cluster.profiles import BatchProfile, Profile, walltime_seconds
from braggflow.cluster.steps import SHARED_NODE
from braggflow.errors import InputError

#: The run is told to end this long before the time limit: running tasks finish, and jobs are cancelled.
NOTICE_SECONDS = 180
#: What client and scheduler need, which neither read frames nor hold results.
CORES, MEMORY = 2, "4G"


def sbatch_script(
    profile: Profile, profile_path: Path, run_arguments: Sequence[str], *, walltime: str | None = None
) -> str:
    """An sbatch script that runs `braggflow run` with these arguments on the cluster of a SLURM profile.

    Where jobs have whole nodes, it asks for as much as a CPU job, and the first workers share its node. Before its time
    limit it ends in order; submitted again, it goes on. Paths in it are absolute or relative to the
    present folder, to which it changes. Raises `InputError` for profiles of other kinds.
    """
    if not isinstance(profile, BatchProfile) or profile.kind != "slurm":
        raise InputError(
            f"cluster profile {profile_path}: kind is {profile.kind}, must be slurm to write an sbatch script"
        )
    kind = JobKind(profile, "cpu", log_directory="")
    limit = walltime or kind.option("walltime")
    if limit is not None and walltime_seconds(str(limit)) <= 2 * NOTICE_SECONDS:
        raise InputError(
            f"walltime: {limit} is too short for a run that ends {NOTICE_SECONDS} s before it; give --walltime"
        )
    whole = Slurm().gives_whole_nodes(kind)
    header = {
        "--job-name": "braggflow",
        "--partition": kind.option("queue"),
        "--account": kind.option("account"),
        "--time": limit,
        "--ntasks": 1,
        "--cpus-per-task": kind.option("cores") if whole else CORES,
        "--mem": kind.memory if whole else MEMORY,
        "--output": "braggflow-%j.log",
        "--signal": f"B:INT@{NOTICE_SECONDS}",
    }
    # Requests of the worker jobs that this one must not repeat: their size and their GPUs.
    kept = [
        line
        for line in kind.option("job_extra_directives") or ()
        if not re.search(r"gpu|gres|mem|cpus" if whole else r"gpu|gres|exclusive|mem|cpus", line)
    ]
    command = ["-m", "braggflow", "run", *run_arguments, "--cluster", str(profile_path.resolve())]
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *(f"#SBATCH {option}={value}" for option, value in header.items() if value is not None),
            *(f"#SBATCH {line}" for line in kept),
            "# Written by `braggflow cluster script`. Submit it again to go on where it ended.",
            # Before the shell is made strict: `module` and `conda` use variables that are not set.
            *(kind.option("job_script_prologue") or ()),
            "set -euo pipefail",
            *([f"export {SHARED_NODE}=1  # the node is this job's alone: the first workers run there too"] * whole),
            f"cd {shlex.quote(str(Path.cwd()))}",
            # The batch system signals this shell alone: the run must be in its place. With env, for `python` may be as
            # in a shell, and begin with settings of variables.
            f"exec env {kind.python} {shlex.join(command)}",
            "",
        ]
    )
