"""Who processes the groups of a series that is followed: this process, or the workers of a cluster."""

from collections.abc import Iterator
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING

from braggflow.errors import InputError
from braggflow.flow.tasks import GroupTask, TaskSeries, process_group, submit_groups
from braggflow.pipeline import Group, compile_ahead
from braggflow.results import PartSummary

if TYPE_CHECKING:
    from distributed import Future

    from braggflow.cluster import Cluster

#: Groups in flight per thread: one that runs, and one that waits behind it.
_WINDOW = 2
#: How long the result of a task, less than a kilobyte, may take to come.
_RESULT_SECONDS = 10.0

Result = PartSummary | Exception


class Here:
    """This process: a group is done when it is submitted."""

    workers = MappingProxyType({"threads": 1, "cpu": False, "gpu": False})
    summary = dashboard = ""

    def __init__(self) -> None:
        self._done: list[tuple[Group, Result]] = []

    @property
    def busy(self) -> int:
        """Groups whose results were not asked for yet."""
        return len(self._done)

    def kinds(self) -> set[tuple[int, int]]:
        """Memory limits and threads of workers: there are none."""
        return set()

    def free(self) -> int:
        """Groups that may be submitted now."""
        return 1 - len(self._done)

    def submit(self, series: TaskSeries, group: Group) -> None:
        """Have a group processed."""
        try:
            result: Result = process_group(series, group, {}, {"process here": 1})
        except Exception as error:  # noqa: BLE001 - as a task on a worker would return it
            result = error
        self._done.append((group, result))

    def finished(self) -> Iterator[tuple[Group, Result]]:
        """Groups that are done since this was last asked, each with its part or why there is none."""
        while self._done:
            yield self._done.pop(0)

    def tell(self, waiting: int) -> None:
        """Nothing: this process is as it is, however many groups wait."""

    def cancel(self) -> None:
        """Nothing runs but what this process does."""


class Workers:
    """The workers of a cluster."""

    def __init__(self, cluster: "Cluster", *, retries: int) -> None:
        self._cluster, self._retries = cluster, retries
        self._flying: dict[Group, Future[PartSummary]] = {}
        self._submitted = 0
        self._pools = asdict(cluster.pools)
        client = cluster.client
        there = client.scheduler_info(n_workers=-1)["workers"] if cluster.autoscaler is None else ()
        # What they load with the first frame takes a second: none need wait for it.
        self._warming = [client.submit(compile_ahead, workers=[address], pure=False) for address in there]

    @property
    def busy(self) -> int:
        """Groups that are not done."""
        return len(self._flying)

    @property
    def workers(self) -> dict[str, object]:
        """What `run.json` says of the workers."""
        return {"threads": self._cluster.threads(), **self._pools}

    @property
    def summary(self) -> str:
        """Workers there are and jobs that wait."""
        return self._cluster.summary()

    @property
    def dashboard(self) -> str:
        """Address of the dashboard."""
        return self._cluster.dashboard

    def kinds(self) -> set[tuple[int, int]]:
        """Memory limits (bytes, 0: none) and threads of the workers."""
        return self._cluster.workers()

    def free(self) -> int:
        """Groups that may be submitted now."""
        return _WINDOW * self._cluster.threads() - len(self._flying) if self._cluster.ready else 0

    def submit(self, series: TaskSeries, group: Group) -> None:
        """Have a group processed."""
        order = GroupTask(series, group)
        client, pools = self._cluster.client, self._cluster.pools
        (future,) = submit_groups(client, [order], pools, retries=self._retries, priority=-self._submitted)
        self._submitted += 1
        self._flying[group] = future

    def finished(self) -> Iterator[tuple[Group, Result]]:
        """Groups that are done since this was last asked, each with its part or why there is none."""
        for group, future in [(group, future) for group, future in self._flying.items() if future.done()]:
            if future.status == "cancelled":
                raise InputError("cluster: the connection to its scheduler is lost")
            try:
                result: Result = future.result(timeout=_RESULT_SECONDS)
            except TimeoutError:
                continue  # its worker was lost with the result: it runs again
            except Exception as error:  # noqa: BLE001 - handed on
                result = error
            del self._flying[group]
            yield group, result

    def tell(self, waiting: int) -> None:
        """Say how many groups wait, so that the cluster has workers; one at least, that they stay warm."""
        from braggflow.cluster import Demand

        self._cluster.check()
        if self._cluster.client.status != "running":
            raise InputError("cluster: the connection to its scheduler is lost")
        self._cluster.need(Demand(max(1, waiting + len(self._flying)), 1.0, 0.0))

    def cancel(self) -> None:
        """Drop what waits; what runs may end within a few seconds."""
        if self._cluster.client.status == "running":
            self._cluster.client.cancel(list(self._flying.values()))
        self._flying.clear()
