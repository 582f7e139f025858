"""How soon after its frame is written can a peak be read, and is the table that of a run of the finished series?

Another process writes an HDF5 file in SWMR mode at a steady rate (1,000 frames of 512², about 14 peaks, 50 a second)
once the run waits for the first frame. Every 97th frame comes 40 frames late, every 101st is written again with other
content, every 103rd as it was. A third process asks `braggflow.open_peaks` for the frames done so far, all the time.
Delays are from the end of writing a frame to its being in what that returned.

    python benchmarks/bench_follow.py [--frames 1000] [--rate 50] [--size 512] [--workers N]
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

import braggflow
from braggflow.simulate import simulate_series

PEAKS, LATE, AGAIN, SAME, BEHIND = 14, 97, 101, 103, 40


def write(source: str, path: str, rate: float) -> None:
    """Write the frames of a store, and beside the file when each was written, s."""
    import h5py

    images = braggflow.open_frames(source)["frames"].values
    written: dict[int, float] = {}
    steps = [(number, number) for number in range(len(images)) if number % LATE != LATE - 1]
    for number in range(LATE - 1, len(images), LATE):
        steps.insert(min(number + BEHIND, len(steps)), (number, number))
    for number in range(AGAIN - 1, len(images), AGAIN):
        steps.insert(min(number + BEHIND, len(steps)), (number, number - 1))
    for number in range(SAME - 1, len(images), SAME):
        steps.insert(min(number + BEHIND, len(steps)), (number, number))
    with h5py.File(path, "w", libver="latest") as file:
        shape = images.shape[1:]
        data = file.create_dataset(
            "entry/data/data", shape=(0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype=images.dtype
        )
        file.swmr_mode = True
        began = time.time()
        for at, (number, image) in enumerate(steps):
            time.sleep(max(0.0, began + at / rate - time.time()))
            if number >= len(data):
                data.resize(number + 1, axis=0)
            data[number] = images[image]
            data.flush()
            written.setdefault(number, time.time())
    Path(path + ".json").write_text(json.dumps({"written": written, "seconds": time.time() - began}))


def read(run: str, seen_file: str) -> None:
    """Ask for the peaks so far, again and again; write down when each frame was first there."""
    seen: dict[int, float] = {}
    while not Path(seen_file + ".stop").exists():
        try:
            frames = braggflow.open_peaks(run)["frame"].values.tolist()
        except braggflow.InputError:
            frames = []
        now = time.time()
        new = [number for number in frames if number not in seen]
        seen |= dict.fromkeys(new, now)
        time.sleep(0.1)
    Path(seen_file).write_text(json.dumps(seen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50.0, help="frames/s")
    parser.add_argument("--size", type=int, default=512, help="pixels on a side")
    parser.add_argument("--workers", type=int, help="worker processes from the beginning (default: as the run decides)")
    given = parser.parse_args()
    settings = {
        "output": {"report": False},
        "check": {"fraction": 0},
        "track": {"enabled": False},
        "compute": {"workers": given.workers},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        series, seen = folder / "scan.h5", str(folder / "seen.json")
        size = (given.size, given.size)
        simulate_series(folder / "source.zarr", n_frames=given.frames, shape=size, peaks=PEAKS)
        context = multiprocessing.get_context("spawn")
        reader = context.Process(target=read, args=(str(folder / "runs" / "scan"), seen))
        writer = context.Process(target=write, args=(str(folder / "source.zarr"), str(series), given.rate))
        reader.start()

        def begin(state: braggflow.Progress) -> None:
            if writer.pid is None and state.stage.startswith("waiting"):
                writer.start()

        (live,) = braggflow.run(settings, follow=series, out=folder / "runs", progress=begin)
        Path(seen + ".stop").touch()
        writer.join()
        reader.join()
        (offline,) = braggflow.run(settings, [series], out=folder / "offline")
        tables = [braggflow.open_peaks(outcome.folder).load().drop_attrs() for outcome in (live, offline)]
        record = live.open().info["following"]
        wrote = json.loads(Path(f"{series}.json").read_text())
        first = json.loads(Path(seen).read_text())
        delays = np.array([first[number] - at for number, at in wrote["written"].items() if number in first])
        told = " ".join(f"{np.quantile(delays, q):.2f}" for q in (0.5, 0.9, 0.99, 1))
        print(f"{given.frames} frames of {given.size}², {given.frames / wrote['seconds']:.0f} frames/s as written")
        print(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; peaks {live.peaks:,}")
        print(f"frame to peaks, seconds: median, 90 %, 99 %, most: {told} ({len(delays)} frames)")
        print(f"late {record['late']}, written again {record['rewritten']}, kept {record['kept']}; {record['ended']}")
        print(f"the table is that of the finished series: {xr.Dataset.identical(*tables)}")


if __name__ == "__main__":
    main()
