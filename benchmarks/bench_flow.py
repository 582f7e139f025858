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

from braggflow import cluster, frames, graph
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


def read_group(path: str, settings: str, chunks: tuple[tuple[int, int], ...]) -> int:
    opened = graph._open(path, settings, "bench")
    return sum(int(frames.read(opened.data, opened.positions[first:stop])[0, 0, 0]) for first, stop in chunks)


def frame_rate(n_frames: int, submit: Callable[[], list]) -> float:
    times = []
    for repeat in range(REPEATS + 1):
        start = time.perf_counter()
        futures = submit()
        wait(futures)
        assert all(future.status == "finished" for future in futures)
        if repeat:  # the first one warms up
            times.append(time.perf_counter() - start)
    return n_frames / statistics.median(times)


def compare(client: Client, path: Path, n_frames: int) -> None:
    def groups(config: RunConfig) -> tuple[list[graph.Group], str]:
        return graph.plan(frames.open_frames(path), config), config.model_dump_json()

    spans, settings = groups(resolve(BASE))
    reading = frame_rate(
        n_frames, lambda: [client.submit(read_group, str(path), settings, g.chunks, pure=False) for g in spans]
    )
    print(f"  {'only reading':45s} {reading:8.1f} frames/s")
    for name, changes in CASES.items():
        config = resolve({key: {**BASE.get(key, {}), **changes.get(key, {})} for key in {*BASE, *changes}})
        with tempfile.TemporaryDirectory() as out:
            rate = frame_rate(n_frames, lambda config=config, out=out: submit(client, path, config, Path(out)))
        print(f"  {name:45s} {rate:8.1f} frames/s   {rate / reading:5.2f} of reading")


def submit(client: Client, path: Path, config: RunConfig, out: Path) -> list:
    (out / "parts").mkdir(exist_ok=True)
    series = graph.Series(str(path), str(out), config.model_dump_json(), "bench")
    pools = cluster.Pools(cpu=False, gpu=False)
    return [
        graph.submit(client, series, group, pools, retries=0, priority=0)
        for group in graph.plan(frames.open_frames(path), config)
    ]


def main() -> None:
    with cluster.local(ComputeConfig(workers=WORKERS)) as client:
        for size, peaks, n_frames in ((2048, 500, 48), (512, 14, 480)):
            path = frames_store(size=size, peaks=peaks, n_frames=n_frames)
            print(f"{n_frames} frames of {size}², about {peaks} peaks each, {WORKERS} workers (medians of {REPEATS})")
            compare(client, path, n_frames)


if __name__ == "__main__":
    main()
