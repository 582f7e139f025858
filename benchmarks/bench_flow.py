"""The flow against only reading the same chunks, on the same two workers in the same run.

Frames of 2048² with 500 peaks each, and the study's case, 512² with 14 peaks. Every variant goes through the same Dask
graph in the same groups; part files are written; the cluster is warm (kernels compiled, files cached).
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from data import frames_store
from distributed import Client, wait

from braggflow import cluster, frames, graph, store
from braggflow.config import ComputeConfig, RunConfig, resolve

WORKERS, REPEATS = 2, 5
BASE = {"detect": {"minval": 30, "minscore": 15, "min_area": 3}, "localise": {"method": "none"}, "fit": {"fraction": 0}}
CASES = {
    "detection": {},
    "detection, local background, levels in sigma": {
        "detect": {"minval": {"sigma": 6}, "minscore": {"sigma": 4}, "background": "local"}
    },
    "detection + Gaussian fit of every peak": {"fit": {"fraction": 1}},
    "detection + compact network": {"localise": {"method": "compact"}},
    "detection + BraggNN": {"localise": {"method": "braggnn"}},
    "detection + BraggNN + Gaussian fit": {"localise": {"method": "braggnn"}, "fit": {"fraction": 1}},
}


def read_group(series: graph.Series, chunks: tuple[tuple[int, int], ...]) -> int:
    opened = graph._opened(series)
    return sum(int(frames.read(opened.data, opened.positions[first:stop])[0, 0, 0]) for first, stop in chunks)


def seconds(submit: Callable[[], list]) -> float:
    start = time.perf_counter()
    futures = submit()
    wait(futures)
    assert all(future.status == "finished" for future in futures)
    return time.perf_counter() - start


def compare(client: Client, path: Path, n_frames: int, out: Path) -> None:
    base = resolve(BASE)
    series = graph.Series(str(path), "", base.model_dump_json(), "bench", store.code_version()["sources"])
    groups = graph.plan(frames.open_frames(path), base)

    def read() -> list:
        return [client.submit(read_group, series, group.chunks, pure=False) for group in groups]

    seconds(read)  # fill the file cache
    for name, changes in CASES.items():
        config = resolve({key: {**BASE.get(key, {}), **changes.get(key, {})} for key in {*BASE, *changes}})
        seconds(lambda config=config: submit(client, path, config, out))  # compile, load the network
        # In turns, so that what else the machine does falls on both.
        pairs = [
            (seconds(read), seconds(lambda config=config: submit(client, path, config, out))) for _ in range(REPEATS)
        ]
        reading, whole = (n_frames / statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(first / second for first, second in pairs)
        print(f"  {name:45s} {whole:7.1f} frames/s, only reading {reading:7.1f}: {ratio:5.2f}", flush=True)


def submit(client: Client, path: Path, config: RunConfig, out: Path) -> list:
    (out / "parts").mkdir(exist_ok=True)
    series = graph.Series(str(path), str(out), config.model_dump_json(), "bench", store.code_version()["sources"])
    pools = cluster.Pools(cpu=False, gpu=False)
    orders = [graph.Order(series, group) for group in graph.plan(frames.open_frames(path), config)]
    return graph.submit(client, orders, pools, retries=0, priority=0)


def main() -> None:
    with cluster.local(ComputeConfig(workers=WORKERS)) as client:
        for size, peaks, n_frames in ((2048, 500, 48), (512, 14, 480)):
            path = frames_store(size=size, peaks=peaks, n_frames=n_frames)
            print(f"{n_frames} frames of {size}², about {peaks} peaks each, {WORKERS} workers (medians of {REPEATS})")
            with tempfile.TemporaryDirectory() as out:
                compare(client, path, n_frames, Path(out))


if __name__ == "__main__":
    main()
