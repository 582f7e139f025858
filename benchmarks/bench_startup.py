"""Start-up: what a user waits for a first answer, beside an earlier version of this project on the same machine.

Medians of real processes from their start to their end, those of the two versions in turn. Each version has a cache of
compiled kernels of its own: an empty folder for the rows "nothing compiled yet", one that was filled for the others.
The earlier version is a worktree of this repository's revision `--before`. Runs are of 512² frames with 14 peaks, by
the defaults, with the report.

    python benchmarks/bench_startup.py [--before REVISION] [--repeats 5] [--cold 1]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from data import frames_store

REPOSITORY = Path(__file__).parent.parent
BEFORE = "7b26dac"
#: Searches one small frame, and prints how long the call took.
SEARCH = """
import time
import numpy as np, xarray, braggflow
y, x = np.mgrid[:64, :64]
frame = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 20.3) ** 2 + (x - 31.8) ** 2) / 3)).astype(np.uint16)
start = time.perf_counter()
braggflow.find_peaks(frame{options})
print(time.perf_counter() - start)
"""


class Version(NamedTuple):
    """One version of the package."""

    workflow: Path
    cache: Path

    def finished(self, *arguments: str, cache: Path | None = None, status: int = 0) -> tuple[float, str]:
        """Seconds from a process's start to its end, and the last line of its output."""
        environment = os.environ | {"PYTHONPATH": str(self.workflow), "NUMBA_CACHE_DIR": str(cache or self.cache)}
        start = perf_counter()
        ended = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
        seconds = perf_counter() - start
        if ended.returncode != status:
            raise RuntimeError(f"{' '.join(arguments)}: exit status {ended.returncode}\n{ended.stderr}")
        return seconds, ended.stdout.strip().rpartition("\n")[2]

    def command(self, *arguments: str, status: int = 0) -> float:
        """Seconds of a command of `braggflow`, which must end with `status`."""
        return self.finished("-m", "braggflow", *arguments, status=status)[0]

    def search(self, options: str = "", *, cache: Path | None = None) -> tuple[float, float]:
        """Seconds of a process that calls `find_peaks` once, and of the call."""
        whole, call = self.finished("-c", SEARCH.format(options=options), cache=cache)
        return whole, float(call)

    def cold_search(self) -> float:
        with tempfile.TemporaryDirectory() as nothing:
            return self.search(cache=Path(nothing))[0]

    def run(self, store: Path) -> float:
        with tempfile.TemporaryDirectory() as out:
            config = Path(out, "run.yaml")
            config.write_text("{}\n", encoding="utf-8")
            return self.command("run", str(config), str(store), "--out", out)

    def preview(self, store: Path) -> float:
        with tempfile.TemporaryDirectory() as out:
            config = Path(out, "run.yaml")
            config.write_text("{}\n", encoding="utf-8")
            return self.command("preview", str(config), str(store), "--frame", "0", "--out", f"{out}/frame.png")

    def refusal(self, store: Path, text: str) -> float:
        with tempfile.TemporaryDirectory() as out:
            config = Path(out, "run.yaml")
            config.write_text(text, encoding="utf-8")
            return self.command("run", str(config), str(store), "--out", out, status=2)

    def knows(self, verb: str) -> bool:
        try:
            self.command(verb, "--help")
        except RuntimeError:
            return False
        return True


@contextmanager
def worktree(revision: str, folder: Path) -> Iterator[Path]:
    """The repository at a revision, in a folder that is made for it and removed."""
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def measure(repeats: int = 5, cold: int = 1, before: str = BEFORE) -> list[dict[str, Any]]:
    """For each thing that is begun, median seconds of this version and of the one before, and the ratio."""
    one, many = (frames_store(size=512, peaks=14, n_frames=number) for number in (1, 480))
    rows = []
    with tempfile.TemporaryDirectory() as folder, worktree(before, Path(folder, "before")) as earlier:
        mask = Path(folder, "mask.npy")
        np.save(mask, np.zeros((5, 5), np.uint8))
        now = Version(REPOSITORY / "workflow", Path(folder, "cache"))
        then = Version(earlier / "workflow", Path(folder, "cache before"))
        waits: dict[str, tuple[Callable[[Version], float], int]] = {
            "find_peaks, nothing compiled yet": (Version.cold_search, cold),
            "find_peaks": (lambda version: version.search()[0], repeats),
            "find_peaks, the call alone": (lambda version: version.search()[1], repeats),
            "find_peaks, the call alone, no network": (
                lambda version: version.search(', network="none"')[1],
                repeats,
            ),
            "braggflow --help": (lambda version: version.command("--help"), repeats),
            "braggflow run, 1 frame": (lambda version: version.run(one), repeats),
            "braggflow run, 480 frames": (lambda version: version.run(many), repeats),
            "braggflow preview, 1 frame": (lambda version: version.preview(many), repeats),
            "refusal of a wrong key": (lambda version: version.refusal(one, "detect: {minvla: 5}\n"), repeats),
            "refusal of a mask of a wrong shape": (
                lambda version: version.refusal(one, f"frames: {{mask: {mask}}}\n"),
                repeats,
            ),
        }
        for version in (now, then):  # kernels are compiled, files are in memory
            version.search()
            version.run(one)
        for name, (wait, times) in waits.items():
            versions = [version for version in (now, then) if "preview" not in name or version.knows("preview")]
            taken: dict[Version, list[float]] = {version: [] for version in versions}
            for _ in range(times):
                for version in versions:
                    taken[version].append(wait(version))
            seconds, earlier_seconds = (
                statistics.median(taken[version]) if version in taken else None for version in (now, then)
            )
            ratio = seconds / earlier_seconds if seconds and earlier_seconds else None
            rows.append({"command": name, "seconds": seconds, "seconds before": earlier_seconds, "ratio": ratio})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cold", type=int, default=1, help="repeats of the row with nothing compiled")
    parser.add_argument("--before", default=BEFORE, help="revision to compare with")
    arguments = parser.parse_args()
    print("| command | s | s before | ratio |\n|---|---|---|---|")
    for row in measure(arguments.repeats, arguments.cold, arguments.before):
        cells = ("–" if row[name] is None else f"{row[name]:.2f}" for name in ("seconds", "seconds before", "ratio"))
        print(f"| {row['command']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
