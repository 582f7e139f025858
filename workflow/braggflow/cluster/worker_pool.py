"""Tasks mapped over items, in this process or on worker processes started on demand."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, TypeVar

from braggflow.config import ComputeConfig
from braggflow.errors import InputError

#: Tasks in flight per worker: one that runs, one that waits.
TASKS_PER_WORKER = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


RunTasks = Callable[[Callable[[Item], Result], Sequence[Item]], Iterator[Result]]


@contextmanager
def task_pool(workers: int | None) -> Iterator[Callable[..., Iterator[Any]]]:
    """A function that maps tasks over items, results in any order: in this process, or on a cluster made on demand."""
    most = workers or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        client: Any = None

        def run_tasks(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
            nonlocal client
            wanted = min(most, len(items))
            if wanted <= 1:
                yield from map(function, items)
                return
            if client is None:
                from braggflow.cluster.connect import local_cluster

                client = stack.enter_context(local_cluster(ComputeConfig(workers=wanted)))
            client.cluster.scale(wanted)
            yield from _in_window(client, function, items, TASKS_PER_WORKER * wanted)

        yield run_tasks


def _in_window(client: Any, function: Callable[[Item], Result], items: Sequence[Item], window: int) -> Iterator[Result]:
    """Results of the tasks as they finish, never more than `window` of them submitted."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    waiting = iter(items)
    first = [client.submit(function, item, pure=False) for item in islice(waiting, window)]
    running = as_completed(first)
    for future in running:
        try:
            result = future.result()
        except KilledWorker as error:
            raise InputError(
                "a worker process was killed several times on the same frames, perhaps for lack of memory; "
                "run the same command again with fewer --workers"
            ) from error
        for item in islice(waiting, 1):
            running.add(client.submit(function, item, pure=False))
        yield result
