"""What a campaign of 10^6 frames of 2048² in 2,000 data sets costs its scheduler and its client: stages do nothing.

The runner, its window, its files and the tasks are real, but for what the tasks compute. The scheduler has a process of
its own, and so have two workers, all on the loopback interface, so that its time and its memory are its own. Time is
CPU time, and compared with what plain Dask takes for as many tasks that do nothing, in the same run.

`--quick` takes a tenth of the data sets; `--gpu` cuts groups into the tasks of a cluster with GPU workers; `--slurm
PROFILE` computes on the jobs of a cluster profile, whose scheduler is in the client's process; `--stages` measures
instead what real stages take for a frame on one worker, and what they read.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr
from data import frames_store, task_series
from distributed import Client

from braggflow.cluster import Cluster, Demand, Pools, cluster_of_client, load_profile, open_cluster
from braggflow.cluster.connect import local_cluster
from braggflow.cluster.profiles import BatchProfile
from braggflow.config import ComputeConfig, RunConfig, resolve_config
from braggflow.flow import Outcome, dispatch, tasks
from braggflow.flow.data_set import DataSetRun, prepare_data_set
from braggflow.flow.dispatch import Dispatcher
from braggflow.flow.tasks import GroupTask, TaskSeries, submit_groups
from braggflow.flow.unchanged import store_stamp
from braggflow.frames import open_frames
from braggflow.frames.store import chunk_frames
from braggflow.pipeline import Group, plan_groups, sum_counts
from braggflow.results import PartSummary, RunFolder
from braggflow.simulate import simulate_series

DATASETS, FRAMES, SHAPE = 2000, 500, (2048, 2048)
#: Several threads a worker, for they wait more than they work: 48 groups are in flight.
WORKERS, THREADS = 2, 8
STAGES = ("read", "correct", "detect", "patches", "locate", "fit")
#: Where the campaign is looked at.
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


# ---- the stages ----


def process(_: TaskSeries, group: Group, *__: Any) -> PartSummary:
    return PartSummary(group.first, group.stop, 0, {"minscore": 0}, [], dict.fromkeys(STAGES, 0.1))


def find(_: TaskSeries, first: int, *__: Any) -> int:
    return first


def locate(_: TaskSeries, found: Sequence[int]) -> int:
    return len(found)


def conclude(_: RunFolder, __: Any, ___: Any, info: dict[str, Any], **____: Any) -> dict[str, Any]:
    return {**info, "alarms": []}


def replace_stages() -> None:
    import bench_scheduler as importable  # workers find the functions under this name, not under __main__

    tasks._process = tasks._complete = importable.process
    tasks._search, tasks._locate, dispatch.conclude = importable.find, importable.locate, importable.conclude


# ---- the campaign ----


def campaign(config: RunConfig, n: int) -> Iterator[DataSetRun]:
    """Data sets that exist by name only, with the groups that real ones of this size have."""
    store = Path(config.output.folder).parent / "scan.zarr"
    simulate_series(store, n_frames=2, shape=(64, 64), peaks=2, overwrite=True)
    one = prepare_data_set("scan", store, open_frames(store), config, None, stamp=store_stamp(store))
    data = xr.Dataset(
        {"frames": (("frame", "y", "x"), np.broadcast_to(np.uint16(0), (FRAMES, *SHAPE)))},
        coords={"frame": np.arange(FRAMES)},
    )
    data["frames"].encoding["chunks"] = (chunk_frames(FRAMES, SHAPE, np.dtype("uint16")), *SHAPE)
    groups = plan_groups(data, config)
    for number in range(n):
        name = f"scan_{number:05d}"
        folder = Path(config.output.folder) / name
        yield replace(
            one,
            name=name,
            folder=RunFolder(folder),
            series=replace(one.series, path=f"/data/beamtime/{name}.zarr", folder=str(folder)),
            dataset={**one.dataset, "name": name, "path": f"/data/beamtime/{name}.zarr", "frames": FRAMES},
            numbers=list(range(FRAMES)),
            coords=data[["frame"]],
            groups=groups,
            done={},
            todo=[],
            failures=[],
            searched={},
            warnings=[],
            repaired=[],
            alarms={},
            resources=ExitStack(),
        )


@contextmanager
def processes(folder: Path, *, gpu: bool) -> Iterator[tuple[Client, psutil.Process]]:
    """A client of a scheduler and its workers, each a process, and the scheduler's."""
    file = folder / "scheduler.json"
    with ExitStack() as stack:

        def start(*words: str) -> psutil.Process:
            started = subprocess.Popen(
                [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1", "--scheduler-file", file],
                cwd=Path(__file__).parent,  # on the path that workers import from
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(started.wait)
            stack.callback(started.terminate)
            return psutil.Process(started.pid)

        scheduler = start("scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        while not file.exists():
            time.sleep(0.1)
        for resources in ("CPU=1000", "GPU=1") if gpu else ("",) * WORKERS:
            offered = ("--resources", resources) if resources else ()
            options = ("--no-nanny", "--no-dashboard", "--nthreads", str(THREADS), "--local-directory", str(folder))
            start("worker", *options, *offered)
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(WORKERS)
            client.run(_import_the_package)
            yield client, scheduler


def _import_the_package() -> None:
    import braggflow.flow  # noqa: F401 - once a process, and not what is measured


@contextmanager
def jobs(profile: Path, config: RunConfig) -> Iterator[Cluster]:
    """The jobs of a profile; their Python finds this module."""
    loaded = load_profile(profile)
    assert isinstance(loaded, BatchProfile)
    path = f"export PYTHONPATH={Path(__file__).parent}:$PYTHONPATH"
    found = loaded.model_copy(update={"job_script_prologue": (path, *(loaded.job_script_prologue or ()))})
    with open_cluster(found, config) as opened:
        opened.need(Demand(groups=10**6, cpu_seconds=1e6))
        while not opened.ready:
            opened.check()
            time.sleep(0.5)
        yield opened


@dataclass(frozen=True)
class Look:
    """At the scheduler and the client: CPU seconds since they began, memory in MB."""

    seconds: Mapping[str, float]
    memory: Mapping[str, float]

    @classmethod
    def at(cls, watched: Mapping[str, psutil.Process]) -> "Look":
        times = {name: process.cpu_times() for name, process in watched.items()}
        return cls(
            {name: time.user + time.system for name, time in times.items()},
            {name: process.memory_info().rss / 2**20 for name, process in watched.items()},
        )

    def milliseconds_since(self, before: "Look", tasks: int, name: str) -> float:
        return (self.seconds[name] - before.seconds[name]) / tasks * 1e3


def measure(n: int, *, gpu: bool, profile: Path | None = None) -> None:
    replace_stages()
    with ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryDirectory())
        config = resolve_config({"output": {"folder": f"{out}/runs", "report": False}})
        if profile is None:
            client, scheduler = stack.enter_context(processes(Path(out), gpu=gpu))
            used = cluster_of_client(client, config)
        else:
            used = stack.enter_context(jobs(profile, config))
            client, scheduler = used.client, psutil.Process()  # one process: both columns are of it
        groups = next(campaign(config, 1)).groups
        tasks = 1 + (sum(len(group.chunks) + 2 for group in groups) if gpu else len(groups))
        watched = {"scheduler": scheduler, "client": psutil.Process()}
        print(
            f"{n * FRAMES:,} frames of {SHAPE[0]}² in {n:,} data sets: {n * tasks:,} tasks of {len(groups)} groups each"
        )
        client.run_on_scheduler(_import_the_package)
        before = Look.at(watched)
        client.gather(client.map(_nothing, range(n), pure=False, **({"resources": {"CPU": 1}} if gpu else {})))
        plain = Look.at(watched).milliseconds_since(before, n, "scheduler")

        looks, done, start = [Look.at(watched)], 0, time.perf_counter()
        print("| done | scheduler, ms a task | of plain Dask | MB | client, ms a task | MB | tasks/s |")
        print("|---|---|---|---|---|---|---|")

        def record(outcome: Outcome) -> None:
            nonlocal done, start
            assert outcome.status == "complete", outcome
            done += 1
            marks = [round(share * n) for share in SHARES]
            if done not in marks:
                return
            look, now, passed = Look.at(watched), time.perf_counter(), tasks * n / len(SHARES)
            took = [look.milliseconds_since(looks[-1], passed, name) for name in watched]
            print(
                f"| {done / n:.0%} | {took[0]:.2f} | {took[0] / plain:.1f} | {look.memory['scheduler']:.0f} "
                f"| {took[1]:.2f} | {look.memory['client']:.0f} | {passed / (now - start):.0f} |",
                flush=True,
            )
            looks.append(look)
            start = now

        Dispatcher(used, config, campaign(config, n), total=lambda: n, record=record, progress=None).run()
        total = [looks[-1].milliseconds_since(looks[0], tasks * n, name) for name in watched]
        print(f"all: scheduler {total[0]:.2f} ms a task (plain Dask {plain:.2f}), client {total[1]:.2f} ms")
        print(f"keys that dask remembers in the scheduler: {client.run_on_scheduler(_keys_remembered):,}")


def measure_stages(client: Client, size: int, peaks: int, n: int, **sections: Any) -> None:
    """What the stages of one real series take, seconds a frame, when its files are in memory; medians of three."""
    path = frames_store(size=size, peaks=peaks, n_frames=n)
    config = resolve_config(
        {
            "detect": {"false_peaks": None, "background": "none", "minval": 30, "minscore": 15, "min_area": 3},
            **sections,
        }
    )
    groups, looks = plan_groups(open_frames(path), config), []
    for _ in range(4):  # the first compiles, loads the network and fills the file cache
        with tempfile.TemporaryDirectory() as out:
            (Path(out) / "parts").mkdir()
            series = task_series(path, config, Path(out))
            pools, start = Pools(cpu=False, gpu=False), time.perf_counter()
            orders = [GroupTask(series, group) for group in groups]
            parts = client.gather(submit_groups(client, orders, pools, retries=0, priority=0))
            took = sum_counts(part.seconds for part in parts) | {"whole": time.perf_counter() - start}
            looks.append(took | {"peaks": sum(part.peaks for part in parts)})
    found = {key: statistics.median(look[key] for look in looks[1:]) / n for key in looks[0]}
    stored = sum(file.stat().st_size for file in (path / "frames" / "c").rglob("*") if file.is_file())
    times = " | ".join(f"{1e3 * found[key]:.1f}" for key in (*STAGES, "whole"))
    print(f"| {size}² | {found['peaks']:.0f} | {times} | {stored / n / 1e6:.2f} |", flush=True)


def stages() -> None:
    print(f"ms a frame, one worker | {' | '.join(STAGES)} | whole | MB read")
    with local_cluster(ComputeConfig(workers=1)) as client:
        for method, fraction in (("none", 0), ("none", 1), ("compact", 1), ("braggnn", 1)):
            print(f"network: {method}, share of peaks fitted: {fraction}")
            for size, peaks, n in ((2048, 500, 48), (4096, 2000, 16)):
                sections = {"locate": {"network": method}, "fit": {"fraction": fraction}}
                measure_stages(client, size, peaks, n, **sections)


def _nothing(_: int) -> None:
    pass


def _keys_remembered() -> int:
    from dask.utils import key_split

    return int(key_split.cache_info().currsize)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a tenth of the data sets")
    options.add_argument("--gpu", action="store_true", help="tasks as on a cluster with GPU workers; implies --quick")
    options.add_argument("--slurm", type=Path, metavar="PROFILE", help="on the jobs of a cluster profile")
    options.add_argument("--stages", action="store_true", help="real stages instead")
    given = options.parse_args()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("dask", "distributed"))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {psutil.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    if given.stages:
        stages()
        return
    measure(DATASETS // 10 if given.quick or given.gpu else DATASETS, gpu=given.gpu, profile=given.slurm)


if __name__ == "__main__":
    main()
