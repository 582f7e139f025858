"""A cluster profile tried out: the job scripts, one job of each group, and what its workers say of themselves."""

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


def _line(found: WorkerDescription) -> str:
    gpu = (
        "" if found.gpu is None else f", GPU: {found.gpu or 'none seen by torch'} (given: {found.allocated or 'none'})"
    )
    packages = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    return f"{found.host}: Python {found.python}, {packages}{gpu}"
