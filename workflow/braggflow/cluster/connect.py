"""A Dask cluster from a profile: worker processes of this machine, jobs of a batch system, or one that runs already."""

import json
import logging
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import psutil
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Scheduler, Security, SpecCluster

from braggflow.cluster.autoscale import Autoscaler, Demand
from braggflow.cluster.batch_systems import JobKind, UnavailableError
from braggflow.cluster.local_workers import METHOD, ctrl_c_ignored, sigterm_ignored, start_worker_server
from braggflow.cluster.profiles import AllocationProfile, BatchProfile, ExistingProfile, LocalProfile, Profile
from braggflow.cluster.session import open_session
from braggflow.cluster.steps import BatchSystem, batch_system, of_allocation
from braggflow.cluster.worker import check_worker, describe_worker
from braggflow.config import ComputeConfig, RunConfig
from braggflow.errors import InputError, is_full

logger = logging.getLogger(__name__)

#: How long a local cluster may be without any worker before the run says so.
NO_WORKERS_SECONDS = 60
_CONNECT_SECONDS = 10
#: How long the end of a run waits for its jobs to leave the queue.
_GONE_SECONDS = 15.0
_FORKED = {"distributed.worker.multiprocessing-method": METHOD}
#: What workers of this machine do first. A terminal sends Ctrl-C to them too; whether they stop is for the client to
#: decide. Their scheduler lives in the client's process: that a heartbeat met its end is no news, and no error. A task
#: that failed is told once, by the run, with its reason.
_PRELOAD = """
import logging, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
told = ("during heartbeat", "Compute Failed")
logging.getLogger("distributed.worker").addFilter(lambda record: not any(text in record.getMessage() for text in told))
"""
#: Dask serves pages over HTTP, to every user of the machine, also where no dashboard is asked for: they are left out,
#: and who would serve them is stopped as soon as it is there.
_NO_PAGES: dict[str, list[str]] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
_NO_SERVER = """
def dask_setup(worker):
    worker.http_server.stop()
"""


@dataclass(frozen=True, slots=True)
class Pools:
    """Which resources the workers offer, and so where tasks must be sent."""

    cpu: bool
    gpu: bool


@dataclass(slots=True)
class Cluster:
    """A cluster that a run computes on; `autoscaler` where its size follows the work."""

    client: Client
    pools: Pools
    autoscaler: Autoscaler | None = None
    dashboard: str = ""
    notes: list[str] = field(default_factory=list)
    """What the user should know, each once."""
    _threads: tuple[float, int] = (0.0, 0)

    def check(self) -> None:
        """Raise `InputError` where the cluster cannot go on."""
        if self.autoscaler is not None:
            self.notes += [note for note in self.autoscaler.notes if note not in self.notes]
            if self.autoscaler.problem is not None:
                raise self.autoscaler.problem

    @property
    def ready(self) -> bool:
        """Whether a worker of each group is there and agrees with this client."""
        groups = ("cpu", "gpu") if self.pools.gpu else ("cpu",)
        return self.autoscaler is None or all(self.autoscaler.verified(group) for group in groups)

    def need(self, demand: Demand) -> None:
        """Say how much work is left."""
        if self.autoscaler is not None:
            self.autoscaler.demand = demand

    def summary(self) -> str:
        """Workers and waiting jobs in one line; "" where their number is fixed."""
        return "" if self.autoscaler is None else self.autoscaler.summary()

    def workers(self) -> set[tuple[int, int]]:
        """What kinds of workers there are now: their memory limit (bytes, 0: none) and number of threads."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return {(info["memory_limit"] or 0, info["nthreads"]) for info in workers}

    def threads(self) -> int:
        """How many CPU tasks can run at a time (asked at most once a second)."""
        asked, known = self._threads
        if time.monotonic() - asked > 1:
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
            offered = [info["resources"].get("CPU", 0) if self.pools.cpu else info["nthreads"] for info in workers]
            known = sum(int(min(cpu, info["nthreads"])) for cpu, info in zip(offered, workers, strict=True))
            self._threads = time.monotonic(), known
        return known


@contextmanager
def open_cluster(profile: Profile | None, config: RunConfig, paths: Sequence[str] = ()) -> Iterator[Cluster]:
    """The cluster of a profile (None: local), for a run with this configuration; ended afterwards if made here.

    `paths` are files and folders that workers must see. Raises `InputError` where the cluster cannot do the work.
    """
    if profile is None or isinstance(profile, LocalProfile):
        start_worker_server(config)  # with all that its tasks import
        with local_cluster(config.compute, profile) as client:
            yield cluster_of_client(client, config)
    elif isinstance(profile, ExistingProfile):
        with _existing(profile) as client:
            yield cluster_of_client(client, config, paths)
    elif isinstance(profile, AllocationProfile):
        with _batch(*of_allocation(profile), config, paths, limited=False) as cluster:
            yield cluster
    else:
        with _batch(profile, batch_system(profile), config, paths, limited=True) as cluster:
            yield cluster


def cluster_of_client(client: Client, config: RunConfig, paths: Sequence[str] = ()) -> Cluster:
    """The cluster of a connected client, its workers checked."""
    needing = gpu_keys(config)
    gpu_needed = any(value.startswith("cuda") for value in needing.values())
    made = Cluster(client, pools_of(client, gpu_work=bool(needing)), dashboard=client.dashboard_link)
    if gpu_needed or not _is_local(client):
        verify_workers(client, paths, gpu_needed=gpu_needed)
    if not _is_local(client) and (address := _address(client)).startswith("tcp://"):
        made.notes.append(f"{address}: listens without authentication; who reaches it can run code as you")
    return made


def _not_told_by_the_run(record: logging.LogRecord) -> bool:
    """Leaves out that a task killed its workers: the run says so, and of which frame."""
    return "workers died" not in record.getMessage()


@contextmanager
def local_cluster(config: ComputeConfig, profile: LocalProfile | None = None) -> Iterator[Client]:
    """A cluster of single-threaded worker processes on this machine, which no other user of it gets into."""
    profile = profile or LocalProfile(kind="local")
    security = Security.temporary() if profile.tls else None
    made = _FORKED if profile.dashboard else {**_FORKED, **_NO_PAGES}
    start_worker_server()
    logging.getLogger("distributed.scheduler").addFilter(_not_told_by_the_run)
    try:
        # Workers that cannot start are an error after this time, and not a wait without end.
        with dask.config.set({**made, "distributed.scheduler.no-workers-timeout": f"{NO_WORKERS_SECONDS}s"}):
            cluster = LocalCluster(
                n_workers=profile.workers or config.workers or CPU_COUNT,
                threads_per_worker=1,
                host="127.0.0.1",
                protocol="tls://" if security else "tcp://",
                security=security,
                dashboard_address="127.0.0.1:0" if profile.dashboard else None,
                scheduler_kwargs={} if profile.dashboard else {"dashboard_address": "127.0.0.1:0"},
                memory_limit=profile.memory_limit or config.memory_limit,
                preload=[_PRELOAD if profile.dashboard else _PRELOAD + _NO_SERVER],
                silence_logs=logging.ERROR,  # that a worker took long to end is no news for a user
            )
    except ValueError as error:
        own = profile.memory_limit
        where = f"memory_limit: {own!r}" if own else f"compute.memory_limit: {config.memory_limit!r}"
        raise InputError(f"{where} is not accepted ({error})") from error
    except (OSError, RuntimeError) as error:
        raise InputError(_not_started(error)) from error
    if not profile.dashboard:
        scheduler: Any = cluster.scheduler
        scheduler.http_server.stop()
        del scheduler.services["dashboard"]  # nobody is told of it
    # A frame that kills its worker does so several times: its place must not be given up while it starts again.
    lifelong = {**made, "distributed.deploy.lost-worker-timeout": "1000h"}
    with dask.config.set(lifelong), cluster, Client(cluster) as client:
        try:
            client.wait_for_workers(1, timeout=NO_WORKERS_SECONDS)
        except TimeoutError:
            raise InputError(
                f"cluster: no worker process came up within {NO_WORKERS_SECONDS} s; what they said stands above"
            ) from None
        yield client


def _not_started(error: Exception) -> str:
    """What a user is told where worker processes of this machine could not start."""
    if is_full(error):
        place = dask.config.get("temporary-directory", None) or tempfile.gettempdir()
        return f"{place}: the disk is full, on which worker processes keep their files; make room, or set TMPDIR"
    return f"cluster: its worker processes cannot start ({error.__cause__ or error})"


@contextmanager
def _existing(profile: ExistingProfile) -> Iterator[Client]:
    address = profile.address or _written_address(Path(str(profile.scheduler_file)))
    security = None
    if profile.tls_cert is not None:
        for key in ("tls_ca_file", "tls_cert", "tls_key"):
            if not Path(getattr(profile, key)).is_file():
                raise InputError(f"{key}: {getattr(profile, key)} does not exist")
        security = Security(
            require_encryption=True,
            tls_ca_file=profile.tls_ca_file,
            tls_client_cert=profile.tls_cert,
            tls_client_key=profile.tls_key,
        )
    try:
        # One that cannot connect would else stay the default, for which all that Dask computes here waits for ever.
        client = Client(address, security=security, timeout=_CONNECT_SECONDS, set_as_default=False)
    except TypeError as error:  # so distributed says that tls:// was given no certificate
        raise InputError(f"address: {address} needs tls_ca_file, tls_cert and tls_key ({error})") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cluster: no scheduler answers at {address} ({error})") from error
    with client, client.as_current():
        try:
            yield client
        finally:
            if client.status != "running":  # that it cannot connect again is no news
                logging.getLogger("distributed.client").setLevel(logging.CRITICAL)


def _written_address(file: Path) -> str:
    """The address in the file of a scheduler."""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["address"])
    except OSError as error:
        raise InputError(
            f"scheduler_file: {file} cannot be read ({error.strerror}); is the scheduler running?"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"scheduler_file: {file} is not one that dask scheduler --scheduler-file wrote") from error


@contextmanager
def _batch(
    profile: BatchProfile, batch: BatchSystem, config: RunConfig, paths: Sequence[str], *, limited: bool
) -> Iterator[Cluster]:
    """`limited`: jobs have a time limit of their own, before which their workers leave."""
    needing = gpu_keys(config)
    needed = {key: value for key, value in needing.items() if value.startswith("cuda")}
    if needed and profile.gpu is None:
        key, value = next(iter(needed.items()))
        raise InputError(
            f"{key}: {value}, but the cluster profile has no `gpu` group; add one, or set {key} to auto or cpu"
        )
    with open_session(Path(profile.directory), batch) as held:
        names = ("cpu", "gpu") if profile.gpu is not None and needing else ("cpu",)
        network = config.locate.asks_network
        kinds = [
            JobKind(
                profile,
                name,
                log_directory=str(held.logs),
                network=network and name == names[-1],
                limited=limited,
            )
            for name in names
        ]
        try:
            for kind in kinds:
                batch.refuse_impossible(kind)
        except UnavailableError as error:
            raise InputError(f"cluster: {profile.kind} does not answer ({error})") from error
        security = held.security()
        with (
            _scheduler(profile, kinds[0], security) as spec,
            Client(spec, security=security) as client,
        ):
            autoscaler = Autoscaler(
                client,
                batch,
                kinds,
                held,
                security,
                seconds_per_worker=profile.seconds_per_worker,
                paths=paths,
                gpu_needed=bool(needed),
            )
            port = client.scheduler_info(n_workers=0)["services"]["dashboard"]
            made = Cluster(client, Pools(cpu=True, gpu=len(kinds) == 2), autoscaler, f"http://127.0.0.1:{port}/status")
            made.notes.append(f"from elsewhere: ssh -N -L {port}:127.0.0.1:{port} {socket.gethostname()}")
            autoscaler.start()
            try:
                yield made
            finally:
                with ctrl_c_ignored(), sigterm_ignored():
                    try:
                        autoscaler.close()
                    except InputError as error:  # the results are none the worse for it
                        logger.warning("%s", error)
                autoscaler.wait_until_gone(_GONE_SECONDS)


def _scheduler(profile: BatchProfile, kind: JobKind, security: Security) -> SpecCluster:
    """A scheduler in this process, with no workers of its own."""
    options = {"interface": kind.option("interface"), "port": 0, **(kind.option("scheduler_options") or {})}
    if profile.scheduler_interface is not None:
        options["interface"] = profile.scheduler_interface
    interfaces = psutil.net_if_addrs()
    if options["interface"] is not None and options["interface"] not in interfaces:
        raise InputError(
            f"interface: {options['interface']} is not a network interface of this machine; there are: "
            f"{', '.join(interfaces)}. Where nodes call theirs otherwise, give this one as scheduler_interface"
        )
    # Whatever is configured elsewhere: nobody gets in without the certificate.
    options |= {"protocol": "tls://", "security": security, "dashboard_address": "127.0.0.1:0"}
    try:
        # Jobs may wait for hours; that none will ever start is for the autoscaler to see.
        with dask.config.set({"distributed.scheduler.no-workers-timeout": None}):
            return SpecCluster(
                scheduler={"cls": Scheduler, "options": options},
                workers={},
                security=security,
                silence_logs=logging.ERROR,
            )
    except RuntimeError as error:
        raise InputError(f"cluster: its scheduler cannot start ({error.__cause__ or error})") from error


def gpu_keys(config: RunConfig) -> dict[str, str]:
    """The keys of what GPU workers do with this configuration, and their devices; none where that is nothing."""
    network = {"locate.device": config.locate.device} if config.locate.asks_network else {}
    return network | ({"fit.device": config.fit.device} if config.fit.asks_gpu else {})


def pools_of(client: Client, *, gpu_work: bool) -> Pools:
    """Which resources the cluster's workers offer; raises `InputError` where the work has nowhere to go.

    Without `gpu_work` GPU workers are left alone.
    """
    offered = [info["resources"] for info in client.scheduler_info(n_workers=-1)["workers"].values()]
    if not offered:
        raise InputError("cluster: has no workers; start some, or wait until they are up, and run again")
    cpu, gpu = any("CPU" in names for names in offered), any("GPU" in names for names in offered)
    if gpu and not cpu:
        raise InputError("cluster: workers offer the resource GPU but none offers CPU; start the others with CPU=1000")
    return Pools(cpu=cpu, gpu=gpu and gpu_work)


def verify_workers(client: Client, paths: Sequence[str] = (), *, gpu_needed: bool = False) -> None:
    """Raise `InputError` where a worker has other versions than this client, or does not see `paths`.

    With `gpu_needed` also where one that does a GPU's work has none.
    """
    known = client.scheduler_info(n_workers=-1)["workers"]
    names = {address: str(info["name"]) for address, info in known.items()}
    with_gpu = [address for address, info in known.items() if "GPU" in info["resources"]]
    others = [address for address in known if address not in with_gpu]
    for gpu, addresses in ((gpu_needed and not with_gpu, others), (gpu_needed, with_gpu)):
        if not addresses:
            continue
        said = client.run(describe_worker, tuple(paths), gpu=gpu, workers=addresses, on_error="return")
        for address, found in said.items():
            if isinstance(found, Exception):
                raise InputError(f"worker {names[address]}: has no braggflow like this one ({found})")
            check_worker(names[address], found, gpu_needed=gpu)


def _is_local(client: Client) -> bool:
    return isinstance(client.cluster, LocalCluster) or _address(client).startswith("inproc://")


def _address(client: Client) -> str:
    return str(client.scheduler_info(n_workers=0)["address"])
