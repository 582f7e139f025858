"""A cluster profile tried out: the job scripts, one job of each group, and what its workers say of themselves."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from braggflow.cluster.autoscale import Demand
from braggflow.cluster.batch_systems import JobKind
from braggflow.cluster.connect import Cluster, open_cluster
from braggflow.cluster.profiles import BatchProfile, Profile
from braggflow.cluster.worker import WorkerDescription, describe_worker
from braggflow.config import RunConfig

_LOOK_SECONDS = 0.5


def job_scripts(profile: Profile) -> Iterator[tuple[str, str]]:
    """Group and text of each script that a profile's jobs run; nothing is submitted."""
    if isinstance(profile, BatchProfile):
        with TemporaryDirectory() as logs:  # dask-jobqueue makes the folder that a script names
            for name in ("cpu", "gpu") if profile.gpu is not None else ("cpu",):
                script = JobKind(profile, name, log_directory=logs).script(
                    f"braggflow-SESSION-{name}-0", "tls://SCHEDULER:PORT", None
                )
                yield name, script.replace(logs, f"{profile.directory}/SESSION/logs")


def check_profile(
    profile: Profile, config: RunConfig, paths: Sequence[Path] = (), *, say: Callable[[str], None]
) -> None:
    """Start a worker of each group, see that it can do this client's work, and end it; `say` gets a line at a time.

    `paths` are files and folders that workers must see. Raises `InputError` where something is wrong.
    """
    if isinstance(profile, BatchProfile):
        groups = {name: getattr(profile, name) for name in ("cpu", "gpu")}
        profile = profile.model_copy(
            update={name: group.model_copy(update={"minimum": 0}) for name, group in groups.items() if group}
        )
    with open_cluster(profile, config, [str(path.resolve()) for path in paths]) as opened:
        start = time.monotonic()
        for description in _workers(opened, say):
            say(_line(description))
            for line in _start_up(description, longest=getattr(profile, "seconds_per_worker", math.inf)):
                say(line)
        say(f"all workers agree with this client; up after {time.monotonic() - start:.0f} s")
        for note in opened.notes:
            say(note)


def _workers(opened: Cluster, say: Callable[[str], None]) -> Iterator[WorkerDescription]:
    """What one worker of each group says, once they are up."""
    if opened.autoscaler is None:
        yield from opened.client.run(describe_worker, gpu=opened.pools.gpu).values()
        return
    opened.need(Demand(groups=1, cpu_seconds=1, gpu_seconds=1))
    groups = ("cpu", "gpu") if opened.pools.gpu else ("cpu",)
    said = ""
    while not all(opened.autoscaler.verified(group) for group in groups):
        opened.check()
        if (state := opened.summary()) != said:
            say(state)
            said = state
        time.sleep(_LOOK_SECONDS)
    for group in groups:
        yield opened.autoscaler.descriptions(group)[0]


def _start_up(found: WorkerDescription, *, longest: float) -> Iterator[str]:
    """What a worker's start took; advice where its imports took longer than the work that a worker is asked for."""
    took = found.start_up
    if took is None:
        return
    yield (
        f"{found.host}: ready {took.seconds:.0f} s after its job began: {took.before_python:.0f} s until Python, "
        f"{took.imports:.0f} s of imports, {took.after:.0f} s until it was a worker"
    )
    if took.imports > longest:
        yield (
            f"imports took longer than the {longest:.0f} s of work that a worker is asked for (seconds_per_worker): "
            "thousands of small files on a slow file system. Pack the environment into one file (conda-pack, an "
            "Apptainer or squashfs image), or copy it to the node's disk in `job_script_prologue`, and set `python`"
        )


def _line(found: WorkerDescription) -> str:
    gpu = (
        "" if found.gpu is None else f", GPU: {found.gpu or 'none seen by torch'} (given: {found.allocated or 'none'})"
    )
    packages = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    return f"{found.host}: Python {found.python}, {packages}{gpu}"
