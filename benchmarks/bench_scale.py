"""What grows with the number of data sets, and with the number of peaks.

`data-sets [N]`: N real, tiny data sets (4 frames of 64², copies of one) in one run on two workers, and a tenth of them:
time and CPU time of the client for each, and the client's memory at the end.

`join [N]`: the table of a series of N peaks joined from its parts, and of a tenth of them: time of a million peaks, and
the memory of the process above what it had before. Peaks are drawn, parts are as runs write them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import xarray as xr

import braggflow
from braggflow import peak_table
from braggflow.results import Part, RunFolder, consolidate, write_part
from braggflow.simulate import simulate_series

#: Peaks of a frame, and frames of a part.
PEAKS, FRAMES = 1000, 100
SETTINGS = {"output": {"report": False}, "compute": {"workers": 2}}


class Peak:
    """The most resident memory that a block had above what was there before, MB."""

    megabytes = 0.0


@contextmanager
def watched() -> Iterator[Peak]:
    process, found, stopped = psutil.Process(), Peak(), threading.Event()
    before = process.memory_info().rss

    def look() -> None:
        while not stopped.wait(0.05):
            found.megabytes = max(found.megabytes, (process.memory_info().rss - before) / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        stopped.set()
        thread.join()


# ---- many data sets ----


def data_sets(n: int) -> None:
    """Each number in a process of its own, whose memory is only what it took."""
    print("| data sets | wall, s each | client CPU, s each | client, MB at the end |\n|---|---|---|---|", flush=True)
    for number in (n // 10, n):
        subprocess.run([sys.executable, __file__, "one-run", str(number)], check=True)


def one_run(n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "data" / "scan_00000.zarr"
        first.parent.mkdir()
        simulate_series(first, n_frames=4, shape=(64, 64), peaks=2)
        for number in range(1, n):
            shutil.copytree(first, first.with_name(f"scan_{number:05d}.zarr"))
        process = psutil.Process()
        start, before = time.perf_counter(), process.cpu_times()
        outcomes = braggflow.run(SETTINGS, [first.parent], out=Path(folder) / "runs")
        wall, after = time.perf_counter() - start, process.cpu_times()
        assert [outcome.status for outcome in outcomes] == ["complete"] * n
        cpu = after.user + after.system - before.user - before.system
        memory = process.memory_info().rss / 1e6
        print(f"| {n:,} | {wall / n:.3f} | {cpu / n:.3f} | {memory:.0f} |", flush=True)


# ---- a large table ----


def parts_of(n: int) -> Iterator[tuple[Part, int]]:
    random = np.random.default_rng(1)
    for first in range(0, n // PEAKS, FRAMES):
        frames = np.arange(first, min(first + FRAMES, n // PEAKS))
        table = peak_table.empty(len(frames) * PEAKS)
        table["peak_frame"] = np.repeat(frames, PEAKS)
        for name in peak_table.VARIABLES:
            if np.issubdtype(table.dtype[name], np.floating):
                table[name] = random.uniform(0, 2048, len(table))
        yield Part(int(frames[0]), int(frames[-1]) + 1, table), len(frames)


def join(n: int) -> None:
    print(
        "| peaks | join, s a million | memory, MB | table, bytes a peak | parts, bytes a peak |\n|---|---|---|---|---|"
    )
    for number in (n // 10, n):
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as out:
            folder = RunFolder(Path(out))
            folder.parts.mkdir()
            summaries = [write_part(folder, part, "run") for part, _ in parts_of(number)]
            coords = xr.Dataset(coords={"frame": np.arange(number // PEAKS)})
            start = time.perf_counter()
            with watched() as peak:
                consolidate(folder, summaries, coords, [], {"run": "run", "source": "none"})
            took = time.perf_counter() - start
            sizes = [sum(path.stat().st_size for path in of.rglob("*")) for of in (folder.peaks, folder.parts)]
            print(
                f"| {number:,} | {took / number * 1e6:.1f} | {peak.megabytes:.0f} | {sizes[0] / number:.0f} "
                f"| {sizes[1] / number:.0f} |",
                flush=True,
            )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=("data-sets", "one-run", "join"))
    options.add_argument("n", type=int, nargs="?")
    given = options.parse_args()
    if given.what == "join":
        join(given.n or 10**7)
    elif given.what == "one-run":
        one_run(given.n or 200)
    else:
        data_sets(given.n or 2000)


if __name__ == "__main__":
    main()
