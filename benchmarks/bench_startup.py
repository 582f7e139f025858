"""Start-up of the command line: `--help`, and the time until `run` has written the first part of its results.

Medians of real processes, each beside a reference that alternates with it: importing dask.distributed, which any
program on Dask must do. The run is the study's case (512², 14 peaks, 2 local workers) with compiled kernels kept from a
run before. Wall time for what a user waits, and the CPU time of all its processes, which other load disturbs less.

    python benchmarks/bench_startup.py [--repeats 5]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from data import frames_store

REFERENCE = "import dask.distributed"
WORKERS = 2
SETTINGS = "detect: {false_peaks: null, background: none, minval: 30, minscore: 15, min_area: 3}\n"


def measure(repeats: int = 5) -> list[dict[str, Any]]:
    """Per command, medians: seconds of wall and CPU time, and the ratio to importing dask.distributed."""
    commands: dict[str, Callable[[], tuple[float, float]]] = {
        "braggflow --help": lambda: finished([sys.executable, "-m", "braggflow", "--help"]),
        "braggflow run, first part, no network": lambda: first_part("none"),
        "braggflow run, first part, compact": lambda: first_part("compact"),
    }
    rows = []
    for name, command in commands.items():
        command()  # kernels are compiled, files are cached
        pairs = [(command(), finished([sys.executable, "-c", REFERENCE])) for _ in range(repeats)]
        wall, cpu, reference = (
            statistics.median(values)
            for values in zip(*((own[0], own[1], other[0]) for own, other in pairs), strict=True)
        )
        rows.append({"command": name, "seconds": wall, "cpu seconds": cpu, "reference": REFERENCE})
        rows[-1] |= {"reference seconds": reference, "ratio": wall / reference}
    return rows


def finished(command: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    spent = 0.0
    while process.poll() is None:
        spent = max(spent, cpu_seconds(process))
        time.sleep(0.002)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}")
    return time.perf_counter() - start, spent


def first_part(network: str) -> tuple[float, float]:
    """Wall and CPU seconds of `braggflow run` from its start to its first part; the run is then ended."""
    store = frames_store(size=512, peaks=14, n_frames=480)
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder, "run.yaml"), Path(folder, "log")
        config.write_text(f"{SETTINGS}locate: {{network: {network}}}\n", encoding="utf-8")
        command = [sys.executable, "-m", "braggflow", "run", str(config), str(store), "--out", folder]
        with log.open("w", encoding="utf-8") as output:
            start = time.perf_counter()
            process = psutil.Popen([*command, "--workers", str(WORKERS)], stdout=output, stderr=output)
            try:
                while not any(Path(folder, store.stem, "parts").glob("part-*.npz")):
                    if process.poll() is not None:
                        raise RuntimeError(f"the run ended without a part:\n{log.read_text(encoding='utf-8')}")
                    time.sleep(0.005)
                return time.perf_counter() - start, cpu_seconds(process)
            finally:
                process.terminate()  # it ends in order, as after Ctrl-C
                process.wait()


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time so far of a process and all that it started and that are still there."""
    spent = 0.0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return spent
    for one in family:
        try:
            spent += sum(one.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    print(f"| command | s | CPU s | s of `{REFERENCE}` | ratio |\n|---|---|---|---|---|")
    for row in measure(parser.parse_args().repeats):
        seconds = (f"{row[name]:.2f}" for name in ("seconds", "cpu seconds", "reference seconds", "ratio"))
        print(f"| {row['command']} | {' | '.join(seconds)} |")


if __name__ == "__main__":
    main()
