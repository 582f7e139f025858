"""One run over data sets on one cluster: a bounded window of groups, shared fairly; an orderly end.

Data sets are opened when their turn comes and forgotten when they are concluded, so that memory and the amount lost to
a crash stay the same for any number of frames and data sets.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any, Literal
from uuid import uuid4

from distributed import Future, KilledWorker
from distributed.scheduler import NoWorkerError

from braggflow.cluster import Cluster, RerunCounter
from braggflow.config import RunConfig
from braggflow.errors import InputError, is_full
from braggflow.flow.conclusion import conclude, failures_of
from braggflow.flow.data_set import DataSetRun
from braggflow.flow.lifecycle import Lifecycle, full_disk, reason_of
from braggflow.flow.outcome import Outcome, Progress
from braggflow.flow.poison import PoisonSearch
from braggflow.flow.tally import Tally
from braggflow.flow.tasks import GroupTask, submit_groups, submit_probe
from braggflow.flow.unchanged import OtherSourcesError
from braggflow.pipeline import Group
from braggflow.version import versions

#: Groups in flight per worker thread: one running, one waiting behind it, and some slack for those that end together.
WINDOW_PER_THREAD = 3
#: Data sets that take turns, where there are as many.
TAKING_TURNS = 4
_WAIT_SECONDS = 0.5
#: How long the result of a task, less than a kilobyte, may take to come.
_RESULT_SECONDS = 5.0
_CONNECTION_LOST = "cluster: the connection to its scheduler is lost"


@dataclass(frozen=True, slots=True)
class _Flight:
    """A task that was submitted, and what it is for."""

    kind: Literal["group", "probe", "conclude"]
    work: DataSetRun
    future: "Future[Any]"
    group: Group | None = None


class Dispatcher:
    """One run over all data sets that `source` gives; `total` is their number as far as it is known.

    `source` gives opened data sets, outcomes of those that need no work, and None where there is nothing yet. `record`
    is called with each outcome.
    """

    def __init__(
        self,
        cluster: Cluster,
        resolved: RunConfig,
        source: Iterator[DataSetRun | Outcome | None],
        *,
        total: Callable[[], int],
        record: Callable[[Outcome], None],
        progress: Callable[[Progress], None] | None,
        notes: Sequence[str] = (),
    ) -> None:
        self.cluster, self.client, self.pools = cluster, cluster.client, cluster.pools
        self.config, self.source, self.total = resolved, source, total
        self.record, self.progress, self.notes = record, progress, notes
        self.active: dict[str, DataSetRun] = {}
        self.turns: deque[tuple[DataSetRun, Iterator[Group]]] = deque()
        self.in_flight: dict[Any, _Flight] = {}
        self.finished: SimpleQueue[Future[Any]] = SimpleQueue()
        self.lost: list[Future[Any]] = []
        """Tasks that finished, but whose worker was lost with their result: the scheduler runs them again."""
        self.poison = PoisonSearch()
        self.reruns, self.life = RerunCounter(self.client), Lifecycle(versions())
        self.outcomes: list[Outcome] = []
        self.exhausted = self.stopping = False
        self.threads = 0
        """CPU tasks that ran at a time when the cluster was last asked: a scheduler that is lost would answer late."""
        self.submitted = 0
        self.tally = Tally(resolved.compute.task_seconds, on_gpu=self.pools.gpu)

    def run(self) -> list[Outcome]:
        """Work until every data set is concluded. Ctrl-C, or a cluster that is lost, leaves a resumable state.

        Where nothing was begun, Ctrl-C is passed on, and `InputError` raised where the cluster cannot do the work.
        """
        try:
            self._wait_for_workers()
            self._report("")
            while True:
                self._check_cluster()
                self._feed()
                if not self.in_flight and self.exhausted:
                    break
                self._take_finished()
        except KeyboardInterrupt:
            if not (self.active or self.outcomes):
                raise
            self._finish_running()
        except InputError as error:
            if not self.tally.data_sets:
                raise
            self._leave(str(error))
        finally:
            with suppress(OSError):  # a scheduler that is lost counts no more
                self.reruns.close()
        return self.outcomes

    # ---- what is submitted ----

    def _wait_for_workers(self) -> None:
        """Nothing is begun before a worker has shown that it can work."""
        self._report("", "waiting for workers")
        while not self.cluster.ready:
            self._demand()
            self._check_cluster()
            time.sleep(_WAIT_SECONDS)
            self._report("", "waiting for workers")

    def _feed(self) -> None:
        self.threads = self.cluster.threads()
        self.life.workers = {"threads": self.threads, **asdict(self.pools)}
        window = WINDOW_PER_THREAD * max(1, self.threads)
        turns: list[tuple[DataSetRun, Group]] = []
        while len(self.in_flight) + len(turns) < window and (turn := self._next_group()) is not None:
            turns.append(turn)
        self._submit(turns)
        self._demand()

    def _next_group(self) -> tuple[DataSetRun, Group] | None:
        """The next group of the data set whose turn it is."""
        while len(self.turns) < TAKING_TURNS and not self.exhausted:
            try:
                item = next(self.source)
            except StopIteration:
                self.exhausted = True
                break
            if item is None:
                break
            if isinstance(item, Outcome):
                self._end(item)
            else:
                self._begin(item)
        while self.turns:
            work, groups = self.turns.popleft()
            group = next(groups, None)
            if group is not None:
                self.turns.append((work, groups))
                return work, group
        return None

    def _begin(self, work: DataSetRun) -> None:
        refused = self.life.begin(work, self.cluster.workers())
        if refused is not None:
            self._end(refused)
            return
        self.active[work.name] = work
        self.tally.opened(work)
        if work.todo:
            self.turns.append((work, iter(work.todo)))
        else:
            self._conclude(work)

    def _submit(
        self, turns: Sequence[tuple[DataSetRun, Group]], skip: Mapping[int, str] = MappingProxyType({})
    ) -> None:
        futures = submit_groups(
            self.client,
            [GroupTask(work.series, group, skip) for work, group in turns],
            self.pools,
            retries=self.config.compute.retries,
            priority=-self.submitted,  # the oldest first
        )
        self.submitted += len(turns)
        for (work, group), future in zip(turns, futures, strict=True):
            self._launch(_Flight("group", work, future, group))

    def _launch(self, flight: _Flight) -> None:
        self.in_flight[flight.future.key] = flight
        flight.future.add_done_callback(self.finished.put)

    def _demand(self) -> None:
        """Tell the cluster how much is left; data sets not opened yet count as much as those that were."""
        unopened = 0 if self.exhausted else max(0, self.total() - len(self.outcomes) - len(self.active))
        others = sum(flight.kind != "group" for flight in self.in_flight.values())
        self.cluster.need(self.tally.demand(self.active.values(), unopened=unopened, others=others))

    # ---- what comes back ----

    def _take_finished(self) -> None:
        """Take what has finished, waiting for the first for a moment."""
        for future in [future for future in self.lost if future.done()]:
            self.lost.remove(future)
            self.finished.put(future)
        futures, dataset = [], ""
        with suppress(Empty):
            futures.append(self.finished.get(timeout=_WAIT_SECONDS))
            while True:
                futures.append(self.finished.get_nowait())
        take = {"group": self._take_group, "probe": self._take_probe, "conclude": self._take_table}
        for future, result, error in self._ended([future for future in futures if future.key in self.in_flight]):
            flight = self.in_flight.pop(future.key, None)
            if flight is not None:  # else of a data set that was given up a moment ago
                take[flight.kind](flight, result, error)
                dataset = flight.work.name
        self._report(dataset)

    def _ended(self, futures: "Sequence[Future[Any]]") -> "list[tuple[Future[Any], Any, Exception | None]]":
        """Each with what it returned or failed with; none where the results are not to be had yet.

        They are asked for together: that costs the scheduler, and takes, no longer than one alone. Never waits for a
        task that runs again: that may need a worker that the batch system does not give for hours.
        """
        done = {future.key: future for future in futures if future.status == "finished"}
        ask = partial(self.client.gather, done, errors="skip", asynchronous=True)
        try:
            results = self.client.sync(ask, callback_timeout=_RESULT_SECONDS) if done else {}
        except TimeoutError:
            self.lost += futures  # those whose worker was lost run again, the others are asked for again
            return []
        except OSError as reason:
            raise InputError(_CONNECTION_LOST) from reason
        ended: list[tuple[Future[Any], Any, Exception | None]] = []
        for future in futures:
            error = future.exception() if future.status == "error" else None
            if isinstance(error, NoWorkerError):
                raise InputError("cluster: all its workers are lost, and no others came in time")
            if future.status == "cancelled":
                raise InputError(_CONNECTION_LOST)  # as all futures are, with the connection
            if error is not None or (future.key in results and future.status == "finished"):
                ended.append((future, results.get(future.key), error))
            else:
                self.lost.append(future)
        return ended

    def _take_group(self, flight: _Flight, part: Any, error: Exception | None) -> None:
        work, group = flight.work, flight.group
        assert group is not None
        if error is None:
            work.done[group.first, group.stop] = part
            self.tally.made(part)
        elif self.stopping:
            return
        elif isinstance(error, OtherSourcesError):
            raise error  # this worker is not like the client: nothing it says can be used
        elif isinstance(error, InputError):
            self._give_up(work, error)
            return
        elif is_full(error):
            raise InputError(full_disk(work))  # the others would find no room either
        elif isinstance(error, KilledWorker) and self._search(flight):
            return
        else:
            self._fail(work, group, reason_of(error))
        self._finished(work, group)

    def _fail(self, work: DataSetRun, group: Group, reason: str) -> None:
        self.tally.frames_failed += group.stop - group.first
        work.group_failed(group, reason)

    def _finished(self, work: DataSetRun, group: Group) -> None:
        frames = group.stop - group.first
        work.part_made(frames)
        self.tally.frames_processed += frames
        if work.finished == len(work.todo):
            self._conclude(work)

    def _give_up(self, work: DataSetRun, error: InputError) -> None:
        """Leave a data set that cannot go on, as where its frames are others now; the rest goes on."""
        self.turns = deque(turn for turn in self.turns if turn[0] is not work)
        of_work = {key: flight for key, flight in self.in_flight.items() if flight.work is work}
        for key in of_work:
            del self.in_flight[key]
        self.client.cancel([flight.future for flight in of_work.values()])
        self.poison.forget(work)
        if any(flight.kind == "probe" for flight in of_work.values()):
            self._probe()
        self._close(work, self.life.left(work, error))

    def _search(self, flight: _Flight) -> bool:
        """Process each frame of a group that kills workers alone; False where that has not helped before."""
        assert flight.group is not None
        if not self.poison.add(flight.work, flight.group):
            return False
        if self.poison.just_begun:
            self._probe()
        return True

    def _probe(self) -> None:
        """Process the next suspected frame; a group that is through is submitted again without those that kill."""
        while (search := self.poison.next_frame()) is None:
            if (searched := self.poison.take_searched()) is None:
                return
            work, group, poison = searched
            self._submit([(work, group)], poison)
        future = submit_probe(self.client, search.work.series, search.position, self.pools, priority=1)
        self._launch(_Flight("probe", search.work, future, search.group))

    def _take_probe(self, _: _Flight, __: Any, error: Exception | None) -> None:
        if self.stopping:
            return
        if isinstance(error, KilledWorker):
            self.poison.blame(reason_of(error))
        self._probe()

    def _conclude(self, work: DataSetRun) -> None:
        """Join the parts and write the report, on a worker, so that the window goes on being fed."""
        info = self.life.info(work, "partial" if failures_of(work) else "complete")
        with _connected():
            info["tasks_rerun"] = self.reruns.of(work.name)
        future = self.client.submit(
            conclude,
            work.folder,
            list(work.done.values()),
            work.coords,
            info,
            series=work.series,
            stamp=work.stamp,
            report=self.config.output.report,
            key=("conclude", work.name, uuid4().hex[:8]),
            pure=False,
            priority=2,  # before a probe, which may kill the worker that both wait for
            **({"resources": {"CPU": 1}} if self.pools.cpu else {}),
        )
        self._launch(_Flight("conclude", work, future))

    def _take_table(self, flight: _Flight, info: Any, error: Exception | None) -> None:
        if error is None:
            self._close(flight.work, self.life.ended(flight.work, info))
        elif not self.stopping:
            self._close(flight.work, self.life.without_table(flight.work, error))

    def _close(self, work: DataSetRun, outcome: Outcome) -> None:
        del self.active[work.name]
        self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.record(outcome)

    # ---- the end before the end ----

    def _check_cluster(self) -> None:
        self.cluster.check()
        if self.client.status != "running":
            raise InputError(_CONNECTION_LOST)

    def _finish_running(self) -> None:
        """After Ctrl-C: let running tasks end, and cancel those that wait. Ctrl-C again: leave at once."""
        self.stopping = True
        try:
            self.cluster.notes.append("stopping when the running tasks are done; Ctrl-C again leaves at once")
            self._report("")
            # What runs is known by the group: a key is (kind, data set, first, ...).
            with _connected():
                stacks = self.client.call_stack() if self.in_flight else {}
            running = {key[1:4] for keys in stacks.values() for key in keys if isinstance(key, tuple)}
            waiting = {
                key: flight
                for key, flight in self.in_flight.items()
                if flight.kind == "probe" or (flight.kind == "group" and key[1:4] not in running)
            }
            for key in waiting:
                del self.in_flight[key]
            self.client.cancel([flight.future for flight in waiting.values()])
            while self.in_flight:
                self._check_cluster()
                self._take_finished()
        except (KeyboardInterrupt, InputError):
            pass
        self._leave("")

    def _leave(self, message: str) -> None:
        """Write down how far every data set is, then cancel what is left."""
        self.stopping = True
        for work in list(self.active.values()):
            self._close(work, self.life.interrupted(work, message))
        # Last, because it takes the longest: who presses Ctrl-C again has lost nothing.
        if self.client.status == "running":
            self.client.cancel([flight.future for flight in self.in_flight.values()])

    def _report(self, dataset: str, stage: str = "") -> None:
        if self.progress is None:
            return
        self.progress(
            self.tally.progress(
                self.active.values(),
                ended=len(self.outcomes),
                total=self.total(),
                dataset=dataset,
                stage=stage,
                dashboard=self.cluster.dashboard,
                cluster=self.cluster.summary(),
                notes=(*self.notes, *self.cluster.notes),
            )
        )


@contextmanager
def _connected() -> Iterator[None]:
    """Where the scheduler is asked."""
    try:
        yield
    except OSError as error:
        raise InputError(_CONNECTION_LOST) from error
