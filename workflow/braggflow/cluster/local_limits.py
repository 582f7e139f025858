"""What worker processes of this machine may take: checked before any is started."""

import logging
import os

from braggflow.cluster.profiles import LocalProfile
from braggflow.config import ComputeConfig
from braggflow.errors import InputError

logger = logging.getLogger(__name__)

#: More worker processes a core than this only take memory and time from each other.
_PER_CORE = 4


def memory_limit_asked(config: ComputeConfig, profile: LocalProfile | None) -> str:
    """The memory of each worker as it is asked for: a profile's stands above the configuration's."""
    return (profile.memory_limit if profile is not None else None) or config.memory_limit


def memory_of_worker(config: ComputeConfig, profile: LocalProfile | None) -> int:
    """The memory limit of each worker, bytes (0: none), as Dask reads it; raises `InputError` where it cannot."""
    from distributed.worker_memory import parse_memory_limit  # Dask takes most of a second

    asked = memory_limit_asked(config, profile)
    try:
        return parse_memory_limit(asked, 1, len(os.sched_getaffinity(0)), logger=logger) or 0
    except ValueError as error:
        own = profile is not None and profile.memory_limit is not None
        key = "memory_limit" if own else "compute.memory_limit"
        raise InputError(f"{key}: {asked!r} is not accepted ({error}); must be auto or a size, as in 4GiB") from error


def refuse_crowd(workers: int | None, key: str) -> None:
    """Raise `InputError`, about what `key` says, where many more workers are asked for than there are cores."""
    cores = len(os.sched_getaffinity(0))
    if workers is not None and workers > _PER_CORE * cores:
        raise InputError(
            f"{key}: {workers:,} worker processes would hinder each other on {cores} core{'s' * (cores != 1)}; must be "
            f"{_PER_CORE * cores} or fewer here, best {cores}"
        )
