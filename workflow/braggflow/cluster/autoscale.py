"""Keeps each group of batch jobs as large as the work needs: submits, replaces what is lost, lets idle ones go.

How much work is left is known exactly (`Demand`), so nothing is guessed from the scheduler's queues: CPU workers follow
the time that the open groups still take, GPU workers the share of it that the network takes.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Client, Security

from braggflow.cluster.batch_systems import JobKind, JobState, UnavailableError
from braggflow.cluster.session import Session
from braggflow.cluster.steps import BatchSystem
from braggflow.cluster.worker import WorkerDescription, check_worker, describe_worker
from braggflow.errors import InputError

logger = logging.getLogger(__name__)


_TICK_SECONDS = 0.5
#: How often the batch system is asked: soon after a change, and when nothing happens (it serves all users).
_POLL_SECONDS, _CALM_POLL_SECONDS, _CALM_AFTER_SECONDS = 2.0, 15.0, 60.0
#: A job that runs without a worker is given up after this time, beyond that in which its workers give up: what they
#: import from a slow file system takes minutes.
_SILENT_SECONDS = 300.0
#: Fewer jobs must be enough for this time before one is let go.
_SURPLUS_SECONDS = 5.0
#: Jobs in succession that end before a worker came, or submissions that fail, after which the run is refused.
_ATTEMPTS = 3
#: Of what such a job printed, the last lines are shown.
_LINES = 8
_RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Demand:
    """The work that is left."""

    groups: int = 0
    cpu_seconds: float = 0.0
    """Of one group, on CPU workers."""
    gpu_seconds: float = 0.0
    """Of one group, on a GPU worker."""


@dataclass(slots=True)
class _Job:
    id: str
    name: str
    state: JobState = field(default_factory=lambda: JobState(running=False))
    since: float = field(default_factory=time.monotonic)
    """When its state or its workers last changed."""
    workers: dict[str, str] = field(default_factory=dict)
    """Addresses of its workers by name."""
    had_workers: bool = False


@dataclass(slots=True)
class _Pool:
    kind: JobKind
    jobs: dict[str, _Job] = field(default_factory=dict)
    submitted: int = 0
    failures: int = 0
    """Submissions that failed, or jobs that ended without a worker, in succession."""
    pause_until: float = 0.0
    surplus_since: float | None = None

    @property
    def workers(self) -> dict[str, str]:
        """Addresses by name; asked for by other threads too."""
        return {name: address for job in list(self.jobs.values()) for name, address in job.workers.items()}


class Autoscaler:
    """A thread of the client that keeps the groups; `problem` holds what makes going on impossible."""

    def __init__(
        self,
        client: Client,
        batch: BatchSystem,
        kinds: Sequence[JobKind],
        session: Session,
        security: Security,
        *,
        seconds_per_worker: float,
        paths: Sequence[str] = (),
        gpu_needed: bool = False,
    ) -> None:
        self.problem: InputError | None = None
        self.notes: list[str] = []
        self.demand = Demand()
        self._address = str(client.scheduler_info(n_workers=0)["address"])
        self._client, self._batch, self._session, self._security = client, batch, session, security
        self._seconds_per_worker = seconds_per_worker
        self._paths, self._gpu_needed = tuple(paths), gpu_needed
        self._pools = {kind.name: _Pool(kind) for kind in kinds}
        self._verified: dict[str, WorkerDescription] = {}
        """By address."""
        self._changed = time.monotonic()
        self._polled = 0.0
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="braggflow-autoscaler", daemon=True)

    def start(self) -> None:
        """Begin to keep the groups."""
        self._thread.start()

    def close(self) -> None:
        """Cancel all jobs. Quick: this is what must not be left undone."""
        self._stopping.set()
        with self._lock:  # a submission under way ends first, and its job is cancelled with the others
            ids = [job for pool in self._pools.values() for job in pool.jobs]
            try:
                self._batch.cancel(ids)
            except UnavailableError as error:
                raise InputError(
                    f"jobs {' '.join(ids)}: could not be cancelled ({error}); cancel them yourself"
                ) from error

    def wait_until_gone(self, seconds: float) -> None:
        """Wait until the queue holds none of the jobs."""
        self._thread.join(seconds)
        deadline = time.monotonic() + seconds
        ids = [job for pool in self._pools.values() for job in pool.jobs]
        while time.monotonic() < deadline:
            try:
                if not self._batch.states(ids):
                    return
            except UnavailableError:
                pass
            time.sleep(0.2)

    def verified(self, group: str) -> int:
        """How many workers of a group can take tasks."""
        return sum(address in self._verified for address in self._pools[group].workers.values())

    def descriptions(self, group: str) -> list[WorkerDescription]:
        """What the workers of a group say of themselves."""
        addresses = list(self._pools[group].workers.values())
        return [self._verified[address] for address in addresses if address in self._verified]

    def summary(self) -> str:
        """Workers there are and jobs that wait, with the reason, in one line."""
        facts = []
        for name, pool in self._pools.items():
            facts.append(f"{len(pool.workers)} {name} workers")
            waiting = [job for job in list(pool.jobs.values()) if not job.state.running]
            if waiting:
                reasons = Counter(job.state.reason for job in waiting if job.state.reason)
                why = f" ({', '.join(reasons)})" if reasons else ""
                facts.append(f"{len(waiting)} {name} jobs wait{why}")
        return ", ".join(facts)

    # ---- the thread ----

    def _keep(self) -> None:
        while not self._stopping.wait(_TICK_SECONDS):
            try:
                self._tick()
            except InputError as error:
                self.problem = error
                return
            except UnavailableError as error:
                logger.debug("%s", error)  # asked again at the next tick
            except Exception as error:  # noqa: BLE001 - the run must hear of whatever ends this thread
                if self._stopping.is_set():
                    return
                self.problem = InputError(f"cluster: keeping its jobs failed ({type(error).__name__}: {error})")
                return

    def _tick(self) -> None:
        self._look_at_workers()
        self._look_at_jobs()
        for pool in self._pools.values():
            wanted = self._wanted(pool)
            if len(pool.jobs) < wanted:
                pool.surplus_since = None
                self._submit(pool, wanted - len(pool.jobs))
            elif len(pool.jobs) > wanted:
                self._let_go(pool, len(pool.jobs) - wanted)
            else:
                pool.surplus_since = None

    def _wanted(self, pool: _Pool) -> int:
        """Jobs that the work left needs."""
        demand, kind = self.demand, pool.kind
        workers = 0
        if demand.groups and kind.gpu:
            share = demand.gpu_seconds / demand.cpu_seconds if demand.cpu_seconds else 0.0
            workers = max(1, math.ceil(share * len(self._pools["cpu"].workers) - 0.1))
        elif demand.groups:
            work = demand.groups * demand.cpu_seconds
            workers = min(demand.groups, max(1, math.ceil(work / self._seconds_per_worker)))
        return min(max(math.ceil(workers / kind.workers), kind.minimum), kind.maximum)

    def _look_at_workers(self) -> None:
        known: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        there = {str(info["name"]): address for address, info in known.items()}
        for pool in self._pools.values():
            for job in pool.jobs.values():
                names = [job.name] if pool.kind.workers == 1 else [f"{job.name}-{i}" for i in range(pool.kind.workers)]
                now = {name: there[name] for name in names if name in there}
                if now != job.workers:
                    job.workers, job.since, self._changed = now, time.monotonic(), time.monotonic()
                if now:
                    job.had_workers, pool.failures = True, 0
            self._verify(pool)

    def _verify(self, pool: _Pool) -> None:
        new = {address: name for name, address in pool.workers.items() if address not in self._verified}
        if not new:
            return
        said = self._client.run(describe_worker, self._paths, gpu=pool.kind.gpu, workers=list(new), on_error="return")
        for address, found in said.items():
            if isinstance(found, ImportError | AttributeError | TypeError):
                raise InputError(f"worker {new[address]}: has no braggflow like this one ({found})")
            if isinstance(found, Exception):
                continue  # it has left: the next tick shows
            check_worker(new[address], found, gpu_needed=self._gpu_needed)
            self._verified[address] = found
            if found.gpu == "":
                self._note(f"GPU workers: torch sees no CUDA device on {found.host}; their CPUs do its work")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _look_at_jobs(self) -> None:
        now = time.monotonic()
        calm = now - self._changed > _CALM_AFTER_SECONDS
        if now - self._polled < (_CALM_POLL_SECONDS if calm else _POLL_SECONDS):
            return
        ids = [job for pool in self._pools.values() for job in pool.jobs]
        states = self._batch.states(ids) if ids else {}
        self._polled = now
        for pool in self._pools.values():
            for job in list(pool.jobs.values()):
                state = states.get(job.id)
                if state is None:
                    self._gone(pool, job)
                elif state.hopeless:
                    raise InputError(
                        f"{pool.kind.name}: job {job.id} will never start ({state.reason}); change what it asks for"
                    )
                elif state != job.state:
                    job.state, job.since, self._changed = state, now, now
                elif state.running and not job.workers and now - job.since > _SILENT_SECONDS + pool.kind.death_timeout:
                    self._batch.cancel([job.id])
                    self._gone(pool, job)

    def _gone(self, pool: _Pool, job: _Job) -> None:
        del pool.jobs[job.id]
        self._changed = time.monotonic()
        if job.had_workers:
            return
        printed = self._printed(pool, job)
        cancelled = [line for line in printed if "CANCELLED AT" in line]
        if cancelled and "DUE TO TIME LIMIT" not in cancelled[-1]:
            return  # by somebody, or for somebody's sake
        self._session.keep_logs = True
        pool.failures += 1
        if pool.failures >= _ATTEMPTS:
            # Of what Python says, the error and not where it was.
            told = [line for line in printed if not line.startswith(("Traceback ", "  "))]
            said = "\n".join(f"  {line}" for line in told[-_LINES:]) or "nothing"
            raise InputError(
                f"{pool.kind.name}: {pool.failures} jobs in succession ended before a worker came up. Job {job.id} "
                f"said:\n{said}"
            )

    def _printed(self, pool: _Pool, job: _Job) -> list[str]:
        """The lines that a job printed."""
        lines: list[str] = []
        for path in sorted(Path(pool.kind.log_directory).glob(f"{job.name}[-.]*")):
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines

    def _submit(self, pool: _Pool, n: int) -> None:
        if time.monotonic() < pool.pause_until:
            return
        for _ in range(n):
            with self._lock:
                if self._stopping.is_set():
                    return
                name = f"braggflow-{self._session.tag}-{pool.kind.name}-{pool.submitted}"
                try:
                    job = self._batch.submit(pool.kind, name, self._address, self._security)
                except (UnavailableError, InputError) as error:
                    if isinstance(error, InputError) and not pool.jobs:
                        raise
                    self._not_accepted(pool, error)  # what others of the group were given is not impossible
                    return
                self._session.remember(job)
                pool.jobs[job] = _Job(job, name)
                pool.submitted += 1
                self._changed = time.monotonic()

    def _not_accepted(self, pool: _Pool, error: Exception) -> None:
        pool.failures += 1
        pool.pause_until = time.monotonic() + _RETRY_SECONDS * 2 ** min(pool.failures, 5)
        if pool.failures >= _ATTEMPTS and not pool.submitted:
            raise InputError(f"{pool.kind.name}: no job could be submitted; {error}") from error
        self._note(f"{pool.kind.name}: a job was not accepted, and is tried again ({error})")

    def _let_go(self, pool: _Pool, n: int) -> None:
        """Cancel jobs that wait, then retire workers of jobs in which none has a task."""
        now = time.monotonic()
        pool.surplus_since = pool.surplus_since or now
        if now - pool.surplus_since < _SURPLUS_SECONDS:
            return
        waiting = [job.id for job in pool.jobs.values() if not job.state.running and not job.workers][:n]
        if waiting:
            self._batch.cancel(waiting)
            for cancelled in waiting:
                del pool.jobs[cancelled]
        if n == len(waiting):
            return
        busy = {address for address, keys in self._client.processing().items() if keys}
        idle = [job for job in pool.jobs.values() if job.workers and not busy & set(job.workers.values())][
            : n - len(waiting)
        ]
        if idle:
            # Results that they hold go to others first.
            self._client.retire_workers([address for job in idle for address in job.workers.values()])
            self._batch.cancel([job.id for job in idle])
            for job in idle:
                del pool.jobs[job.id]
