"""The watch: is a fault of the experiment named, with its cause, within 5 frames, and is a clean series left in peace?

Each series is simulated (480 frames of 256², 14 peaks a frame that drift, split, come and go), a fault is put into it
from some frame on, and `braggflow.run` processes it as a user would; the alarms are those of its run.json.

    python benchmarks/bench_watch.py [--series 20] [--frames 480]
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

import braggflow

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.faults import FAULTS, plain_series, write_faulty  # the same faults as in the tests

SHAPE, PEAKS, WITHIN = (256, 256), 14, 5


class Watched(NamedTuple):
    """What became of one series."""

    fault: str | None
    at: int
    alarms: list[dict[str, object]]
    seconds: float
    """Of the frames and of joining the table, without the report."""

    @property
    def right(self) -> bool:
        cause = FAULTS[self.fault][1] if self.fault else ""
        return any(
            alarm["cause"] == cause and 0 <= int(str(alarm["frame"])) - self.at <= WITHIN for alarm in self.alarms
        )

    @property
    def others(self) -> int:
        return len(self.alarms) - self.right


def watched(fault: str | None, seed: int, frames: int) -> Watched:
    at = int(np.random.default_rng(seed).integers(frames // 5, 4 * frames // 5))
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "series.zarr")
        series = plain_series(Path(folder), n_frames=frames, shape=SHAPE, peaks=PEAKS, seed=seed)
        write_faulty(store, *series, fault, at=at, seed=seed)
        (outcome,) = braggflow.run({"output": {"report": False}}, [store], out=Path(folder, "runs"))
        return Watched(fault, at, outcome.open().info["alarms"], outcome.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--frames", type=int, default=480)
    given = parser.parse_args()
    names = list(FAULTS)
    faulty = [watched(names[k % len(names)], k, given.frames) for k in range(given.series)]
    clean = [watched(None, 1000 + k, given.frames) for k in range(given.series)]
    print(f"{given.series} series with a fault and {given.series} without, {given.frames} frames of {SHAPE[0]}²")
    print("| fault | series | right cause within 5 frames | other alarms |")
    print("|---|---|---|---|")
    for name in names:
        of = [series for series in faulty if series.fault == name]
        print(f"| {name} | {len(of)} | {sum(s.right for s in of)} | {sum(s.others for s in of)} |")
    print(f"| all | {len(faulty)} | {sum(s.right for s in faulty)} | {sum(s.others for s in faulty)} |")
    print(f"| none | {len(clean)} | – | {sum(s.others for s in clean)} |")
    for series in [*faulty, *clean]:
        if series.others or (series.fault and not series.right):
            print(f"  {series.fault} at {series.at}: {[(alarm['frame'], alarm['cause']) for alarm in series.alarms]}")
    print(f"median time of a run: {statistics.median(series.seconds for series in clean):.1f} s")


if __name__ == "__main__":
    main()
