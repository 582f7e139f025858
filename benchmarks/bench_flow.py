"""The flow against only reading the same chunks, and against the same stages without Dask, in one run.

Frames of 2048² with 500 peaks each, and the study's case, 512² with 14 peaks. Every variant goes through the same Dask
graph in the same groups on two workers; part files are written; all is warm (kernels compiled, files cached). What it
is compared with, in turns with it:

- reading with xarray, as one would write it without braggflow, on two workers of a Dask cluster as Dask starts them;
- reading as the flow does, on the flow's workers;
- the same stages, part files included, in two processes that share the groups, without Dask.

Then ten times as many frames: the time a frame, and the memory of a worker.

    python benchmarks/bench_flow.py
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr
from data import FOLDER, frames_store, task_series
from distributed import Client, LocalCluster, wait

from braggflow.cluster import Pools
from braggflow.cluster.connect import local_cluster
from braggflow.config import ComputeConfig, RunConfig, resolve_config
from braggflow.flow.tasks import GroupTask, TaskSeries, _write, opened_series, submit_groups
from braggflow.frames import create_store, finish_store, frames_per_file, open_frames
from braggflow.pipeline import Group, locate_peaks, plan_groups, search_chunk
from braggflow.pipeline.stages import _read

WORKERS, REPEATS = 2, 5
#: By levels alone, as `findpeaks` searches.
LEVELS = {"false_peaks": None, "background": "none", "minval": 30, "minscore": 15, "min_area": 3}
BASE = {"detect": LEVELS, "locate": {"network": "none"}, "fit": {"fraction": 0}}
CASES = {
    "detection": {},
    "detection with no level given": {
        "detect": {"false_peaks": 0.1, "background": "local", "minval": None, "minscore": None}
    },
    "detection + Gaussian fit of every peak": {"fit": {"fraction": 1}},
    "detection, local background, levels in sigma": {
        "detect": {"minval": {"sigma": 6}, "minscore": {"sigma": 4}, "background": "local"}
    },
    "detection + compact": {"locate": {"network": "compact", "position": "network"}},
    "detection + BraggNN": {"locate": {"network": "braggnn", "position": "network"}},
    "detection + BraggNN + Gaussian fit": {
        "locate": {"network": "braggnn", "position": "network"},
        "fit": {"fraction": 1},
    },
}
SERIES = ((2048, 500, 48), (512, 14, 480))
Call = Callable[[], None]


def configuration(changes: dict[str, Any]) -> RunConfig:
    return resolve_config({key: {**BASE.get(key, {}), **changes.get(key, {})} for key in {*BASE, *changes}})


def series_of(path: Path, config: RunConfig, out: Path) -> TaskSeries:
    (out / "parts").mkdir(exist_ok=True)
    return task_series(path, config, out)


def read_plain(path: Path, chunks: Sequence[tuple[int, int]]) -> int:
    array = xr.open_zarr(path, consolidated=False, chunks=None)["frames"]
    return sum(int(array[first:stop].values[0, 0, 0]) for first, stop in chunks)


def read_group(series: TaskSeries, chunks: Sequence[tuple[int, int]]) -> int:
    opened = opened_series(series)
    following = [first for first, _ in chunks[1:]] + [None]
    return sum(
        int(_read(opened, range(first, stop), after)[0, 0, 0])
        for (first, stop), after in zip(chunks, following, strict=True)
    )


def process(series: TaskSeries, group: Group) -> None:
    """What a task does, without Dask."""
    opened = opened_series(series)
    found = [search_chunk(opened, first, stop) for first, stop in group.chunks]
    _write(series, group, found, locate_peaks(opened.config, found), {})


def seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def finish(futures: Sequence[Any]) -> None:
    wait(futures)
    assert all(future.status == "finished" for future in futures)


class Bench:
    """A series by one configuration on the flow's workers, on plain ones, and in plain processes.

    It is opened once, before: a short series would be timed for that more than for its frames.
    """

    def __init__(
        self, client: Client, plain: Client, pool: ProcessPoolExecutor, path: Path, out: Path, config: RunConfig
    ) -> None:
        self.client, self.plain, self.pool, self.path = client, plain, pool, path
        self.series = series_of(path, config, out)
        self.groups = plan_groups(open_frames(path), config)

    def run(self) -> None:
        orders = [GroupTask(self.series, group) for group in self.groups]
        finish(submit_groups(self.client, orders, Pools(cpu=False, gpu=False), retries=0, priority=0))

    def read(self) -> None:
        finish([self.client.submit(read_group, self.series, g.chunks, pure=False) for g in self.groups])

    def read_plain(self) -> None:
        finish([self.plain.submit(read_plain, self.path, g.chunks, pure=False) for g in self.groups])

    def loop(self) -> None:
        list(self.pool.map(partial(process, self.series), self.groups))


def rows(make: Callable[[RunConfig], Bench], n_frames: int) -> list[dict[str, Any]]:
    found = []
    for name, changes in CASES.items():
        bench = make(configuration(changes))
        calls = (bench.run, bench.read_plain, bench.read, bench.loop)
        for call in calls:
            call()  # compile, load the network, fill the file cache
        # In turns, so that what else the machine does falls on all.
        times = [[seconds(call) for call in calls] for _ in range(REPEATS)]
        run, plain, *_ = (statistics.median(column) for column in zip(*times, strict=True))
        ratios = [statistics.median(turn[k] / turn[0] for turn in times) for k in (1, 2, 3)]
        found.append(
            {
                "series": bench.path.stem,
                "case": name,
                "frames_per_s": n_frames / run,
                "reading_with_xarray_frames_per_s": n_frames / plain,
                "of_reading_with_xarray": ratios[0],
                "of_own_reading": ratios[1],
                "dask_overhead": 1 / ratios[2] - 1,
            }
        )
    return found


def ten_times(client: Client, pool: ProcessPoolExecutor, path: Path, n_frames: int, out: Path) -> dict[str, Any]:
    """Time and memory of a worker with ten times as many frames, over those with as many as there are."""
    config = configuration(CASES["detection + Gaussian fit of every peak"])
    longer = FOLDER / f"{path.stem}_ten_times.zarr"
    if not longer.exists():
        data = open_frames(path)
        shape, dtype = data["frames"].shape[1:], data["frames"].dtype
        array = create_store(longer, n_frames=10 * n_frames, shape=shape, dtype=dtype)
        step = frames_per_file(array)
        for start in range(0, 10 * n_frames, step):
            positions = np.arange(start, min(start + step, 10 * n_frames)) % n_frames
            array[start : start + step] = data["frames"][positions].values
        finish_store(longer)
    times, memory, overheads = [], [], []
    for one in (path, longer):
        bench = Bench(client, client, pool, one, out, config)
        bench.run()
        bench.loop()
        turns = [(seconds(bench.run), seconds(bench.loop)) for _ in range(REPEATS)]
        times.append(statistics.median(run for run, _ in turns))
        overheads.append(statistics.median(run / loop for run, loop in turns) - 1)
        memory.append(max(client.run(lambda: psutil.Process().memory_info().rss).values()))
    return {
        "series": path.stem,
        "frames": 10 * n_frames,
        "frames_per_s": 10 * n_frames / times[1],
        "time": times[1] / times[0],
        "memory": memory[1] / memory[0],
        "worker_MB": memory[1] / 1e6,
        "dask_overhead": overheads[1],
    }


def measure() -> dict[str, list[dict[str, Any]]]:
    flow, longer = [], []
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as spec,
        Client(spec) as plain,
        local_cluster(ComputeConfig(workers=WORKERS)) as client,
        ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool,
    ):
        for size, peaks, n_frames in SERIES:
            path = frames_store(size=size, peaks=peaks, n_frames=n_frames)
            out = Path(tempfile.mkdtemp())
            try:
                flow += rows(partial(Bench, client, plain, pool, path, out), n_frames)
                longer.append(ten_times(client, pool, path, n_frames, out))
            finally:
                shutil.rmtree(out)
    return {"flow": flow, "ten times as many frames": longer}


def main() -> None:
    for title, rows in measure().items():
        print(title)
        for row in rows:
            print("  " + ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
