"""From frames on disk to a table of fitted peaks on disk, on two processes: midas-peakfit and braggflow's flow."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numcodecs
import numpy as np
import zarr
from data import task_series
from distributed import Client, wait
from numpy.typing import NDArray

from braggflow.cluster import Pools
from braggflow.cluster.connect import local_cluster
from braggflow.config import ComputeConfig
from braggflow.flow.tasks import GroupTask, submit_groups
from braggflow.frames import open_frames
from braggflow.pipeline import plan_groups
from braggflow.results import RunFolder
from braggflow.results.parts import read_part_table

from .cases import Case

PROCESSES = 2
FOLDER = Path(__file__).parents[2] / "build" / "peers"
MIDAS = FOLDER / "midas" / "bin" / "peakfit_torch"
#: Columns of midas-peakfit's peak rows: the fast and the slow axis of the frame.
_X, _Y, _COLUMNS = 3, 4, 29
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Positions = list[NDArray[np.float64]]


# ---- midas-peakfit ----


def midas_settings(case: Case) -> dict[str, NDArray[np.generic]]:
    """braggflow's threshold and least area; at most two peaks a region: faster, and more precise, than its 400."""
    height, width = case.mask.shape
    settings = {
        "YCen": width / 2,
        "ZCen": height / 2,
        "PixelSize": 200.0,
        "Lsd": 1e6,
        "UpperBoundThreshold": 65000.0,
        "MinNrPx": 2,  # regions have more pixels than that
        "MaxNrPx": 10_000,
        "MaxNPeaks": 2,
        "DoFullImage": 1,
    }
    thresholds = np.array([[1.0, 30.0]])
    return {"RingThresh": thresholds, **{name: np.array([value]) for name, value in settings.items()}}


def write_midas_zip(case: Case, path: Path) -> None:
    """The case's frames in a MIDAS archive: Zarr 2 in a zip, a frame a chunk."""
    blosc = numcodecs.Blosc(cname="zstd", clevel=3, shuffle=numcodecs.Blosc.BITSHUFFLE)
    with zarr.storage.ZipStore(path, mode="w") as target:
        root = zarr.create_group(target, zarr_format=2)

        def put(name: str, values: NDArray[np.generic], chunks: tuple[int, ...]) -> None:
            array = root.create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=blosc, fill_value=0
            )
            array[...] = values

        put("exchange/data", case.counts, (1, *case.mask.shape))
        put("exchange/mask", case.mask[None].astype(np.uint16), (1, *case.mask.shape))
        for name, value in {"start": 0.0, "step": 1.0, "doPeakFit": 1}.items():
            put(f"measurement/process/scan_parameters/{name}", np.array([value]), (1,))
        for name, values in midas_settings(case).items():
            put(f"analysis/process/analysis_parameters/{name}", values, values.shape)


def midas(case: Case) -> Callable[[], tuple[float, Positions]]:
    """A run in two processes, each with half of the frames: seconds a frame without start-up, and the positions.

    Seconds are the slower process's own, which begin when its libraries are imported.
    """
    if case.diffuse:
        raise NotImplementedError(
            "its background subtraction needs ring radii, which these frames lack; made-up rings were not tried"
        )
    if not MIDAS.exists():
        raise FileNotFoundError(f"{MIDAS.relative_to(FOLDER.parents[1])} is not installed")
    archive = FOLDER / f"{case.path.stem}.MIDAS.zip"
    archive.unlink(missing_ok=True)
    write_midas_zip(case, archive)
    environment = os.environ | dict.fromkeys(_THREADS, "1")

    def run() -> tuple[float, Positions]:
        with tempfile.TemporaryDirectory() as folder:
            words = [[str(MIDAS), str(archive), str(k), str(PROCESSES), "1", f"{folder}/{k}"] for k in range(PROCESSES)]
            running = [
                subprocess.Popen(
                    [*word, "1", "--device", "cpu", "--producer", "thread"],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                for word in words
            ]
            said = [process.communicate()[0] for process in running]
            for process, text in zip(running, said, strict=True):
                if process.returncode:
                    raise RuntimeError(f"peakfit_torch: {text.strip().splitlines()[-1]}")
            seconds = max(float(re.findall(r"time elapsed: ([0-9.]+) seconds", text)[-1]) for text in said)
            halves = [read_midas_peaks(Path(folder) / str(k) / "Temp" / "AllPeaks_PS.bin") for k in range(PROCESSES)]
        return seconds / len(case.numbers), [np.concatenate(both) for both in zip(*halves, strict=True)]

    return run


def read_midas_peaks(path: Path) -> Positions:
    """Positions (peak, 2) as (y, x) of each frame in an `AllPeaks_PS.bin`."""
    content = path.read_bytes()
    n = int(np.frombuffer(content, np.int32, 1)[0])
    counts = np.frombuffer(content, np.int32, n, 4)
    rows = np.frombuffer(content, np.float64, int(counts.sum()) * _COLUMNS, 4 + 12 * n).reshape(-1, _COLUMNS)
    return np.split(rows[:, [_Y, _X]], np.cumsum(counts)[:-1])


# ---- braggflow ----


def flow(case: Case, client: Client) -> Callable[[], tuple[float, Positions]]:
    """The flow on a warm cluster over the whole series: seconds a frame, and the positions in the case's frames."""
    stored = open_frames(case.path)
    groups = plan_groups(stored, case.config)

    def run() -> tuple[float, Positions]:
        with tempfile.TemporaryDirectory() as folder:
            out = RunFolder(Path(folder))
            (out.path / "parts").mkdir()
            series = task_series(case.path, case.config, out.path)
            orders = [GroupTask(series, group) for group in groups]
            start = time.perf_counter()
            futures = submit_groups(client, orders, Pools(cpu=False, gpu=False), retries=0, priority=0)
            wait(futures)
            seconds = time.perf_counter() - start
            table = np.concatenate([read_part_table(out, part) for part in client.gather(futures)])
        positions = [np.column_stack([t["y"], t["x"]]) for t in (table[table["peak_frame"] == k] for k in case.numbers)]
        return seconds / stored.sizes["frame"], positions

    return run


def two_workers() -> AbstractContextManager[Client]:
    return local_cluster(ComputeConfig(workers=PROCESSES))
