"""Many data sets on one local cluster: each for itself, in turns, in constant memory, also as they appear."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from braggflow.cluster.connect import local_cluster
from braggflow.config import ComputeConfig
from braggflow.errors import InputError
from braggflow.flow import data_set_queue as data_set_queue_module
from braggflow.flow import run
from braggflow.frames import Follower
from braggflow.results import RunFolder, data_set_statuses, read_run_info
from braggflow.results.status import read_outcomes
from tests.patience import PATIENCE
from tests.stores import make_store, spots

pytestmark = pytest.mark.faults

SETTINGS = {
    "detect": {"minval": 15, "minscore": 10},
    "locate": {"network": "none"},
    "fit": {"fraction": 0},
    "output": {"report": False},
    "compute": {"task_seconds": 0.01, "workers": 2, "retries": 0},
}
#: `braggflow` as a process of its own, which says at its end what memory it has used at most, kB. (getrusage would
#: count the process that started it.)
MEASURED = """
import re, sys
from braggflow.cli import main
try:
    main()
finally:
    print("VmHWM:", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


@pytest.fixture(scope="module")
def client():
    with local_cluster(ComputeConfig(workers=2)) as client:
        yield client


@pytest.fixture(scope="module")
def images():
    return np.stack([spots((48, 48), 3, seed=seed) for seed in range(24)])


def copies(folder: Path, n: int, images: np.ndarray) -> list[Path]:
    """Stores scan000.zarr, ... of the same images, in one chunk."""
    first = make_store(folder / "scan000.zarr", images, chunk=len(images))
    paths = [first, *(folder / f"scan{number:03d}.zarr" for number in range(1, n))]
    for path in paths[1:]:
        shutil.copytree(first, path)
    return paths


def corrupt(path: Path) -> None:
    (path / "frames" / "zarr.json").write_text('{"zarr_format": 3, "node_ty')


def give_bad_mask(path: Path) -> None:
    zarr.open_group(path).create_array("mask", data=np.zeros((9, 9), bool), dimension_names=("v", "u"))


def command(folder, *words):
    started = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in started.stderr, started.stderr
    return started


def peak_megabytes(process) -> float:
    return int(re.search(r"VmHWM: (\d+)", process.stderr)[1]) / 1024


def statuses(outcomes):
    return {outcome.name: outcome.status for outcome in outcomes}


# ---- a hundred ----


@pytest.mark.parametrize("n", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_a_bad_data_set_among_many_is_reported_and_stops_no_other(tmp_path, images, client, n):
    paths = copies(tmp_path / "data", n, images[:2])
    corrupt(paths[3])
    give_bad_mask(paths[7])
    (tmp_path / "run.yaml").write_text(json.dumps(SETTINGS))
    first = command(tmp_path, "run", "run.yaml", "data", "--out", "out")
    assert first.returncode == 3, first.stderr
    recorded = read_outcomes(tmp_path / "out")
    assert len(recorded) == n
    refused = {name: entry["message"] for name, entry in recorded.items() if entry["status"] != "complete"}
    assert list(refused) == ["scan003", "scan007"]
    assert "scan003.zarr" in refused["scan003"]
    assert re.search(r"scan007\.zarr: mask has shape \(9, 9\), the frames are \(48, 48\)", refused["scan007"])
    for message in refused.values():
        assert message in first.stdout

    status = command(tmp_path, "status", "out")
    assert status.stdout.startswith(f"{n} data sets: {n - 2} complete, 2 refused; {2 * (n - 2):,} frames, 0 failed")
    for name, message in refused.items():
        assert f"{name}: {message}\n" in status.stdout

    # Nothing is left to do, so that no cluster is needed.
    again = run(SETTINGS, [tmp_path / "data"], out=tmp_path / "out")
    assert [outcome.name for outcome in again if outcome.status == "refused"] == ["scan003", "scan007"]
    assert sum(outcome.frames_processed for outcome in again) == 0
    assert sum(outcome.status == "complete" for outcome in again) == n - 2

    shutil.rmtree(paths[3])
    shutil.copytree(paths[0], paths[3])
    mended = run(SETTINGS, [tmp_path / "data"], out=tmp_path / "out", client=client)
    assert [outcome.name for outcome in mended if outcome.frames_processed] == ["scan003"]
    assert read_outcomes(tmp_path / "out")["scan003"]["status"] == "complete"
    assert read_outcomes(tmp_path / "out")["scan000"] == recorded["scan000"]


def test_several_data_sets_leave_a_page_on_all_of_them(tmp_path, images, monkeypatch):
    paths = copies(tmp_path / "data", 3, images[:2])
    corrupt(paths[1])
    settings = {**SETTINGS, "output": {"report": True}, "compute": {}}
    seen = []
    run(settings, [tmp_path / "data"], out=tmp_path / "out", progress=seen.append)
    page = (tmp_path / "out" / "batch.html").read_text("utf-8")
    assert "3 data sets: 2 complete, 1 refused" in page
    assert re.findall('href="([^"]*)"', page) == ["scan000/report.html", "scan002/report.html"]
    assert (seen[-1].stage, seen[-1].share) == ("making the page on all data sets", 1.0)
    run(settings, [paths[0]], out=tmp_path / "one")
    run({**settings, "output": {"report": False}}, [paths[0], paths[2]], out=tmp_path / "none")
    assert not [*tmp_path.glob("*/batch.html")][1:]

    def broken(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr("braggflow.show.write_batch_report", broken)
    (tmp_path / "out" / "batch.html").unlink()
    again = run(settings, [tmp_path / "data"], out=tmp_path / "out")  # the page is no part of the results
    assert sorted(outcome.status for outcome in again) == ["complete", "complete", "refused"]


@pytest.mark.slow
def test_the_memory_of_client_and_scheduler_does_not_grow_with_the_number_of_data_sets(tmp_path, images, capsys):
    copies(tmp_path / "data", 100, images[:2])
    (tmp_path / "ten").mkdir()
    for number in range(10):
        shutil.copytree(tmp_path / "data" / f"scan{number:03d}.zarr", tmp_path / "ten" / f"scan{number:03d}.zarr")
    (tmp_path / "run.yaml").write_text(json.dumps(SETTINGS))
    peaks = {}
    for folder, n in (("ten", 10), ("data", 100)):
        done = command(tmp_path, "run", "run.yaml", folder, "--out", f"out_{folder}")
        assert done.returncode == 0, done.stderr
        peaks[n] = peak_megabytes(done)
    with capsys.disabled():
        print(f"\nclient and scheduler: {peaks[10]:.0f} MB for 10 data sets, {peaks[100]:.0f} MB for 100")
    assert peaks[100] < 1.2 * peaks[10]


def test_where_every_data_set_is_refused_nothing_is_written(tmp_path, images):
    paths = copies(tmp_path / "data", 3, images[:1])
    for path in paths:
        corrupt(path)
    with pytest.raises(InputError) as refused:
        run(SETTINGS, paths, out=tmp_path / "out")
    assert all(path.name in str(refused.value) for path in paths)
    assert not (tmp_path / "out").exists()


# ---- turns ----


def test_small_data_sets_end_long_before_the_large_one_named_first(tmp_path, images, client):
    # Large enough that opening and ending the small ones, in this process, takes little of its time.
    large = make_store(tmp_path / "large.zarr", np.tile(images, (30, 4, 4)), chunk=2)
    small = copies(tmp_path, 6, images[:2])
    outcomes = run(SETTINGS, [large, *small], out=tmp_path / "out", client=client)
    assert set(statuses(outcomes).values()) == {"complete"}
    assert list(statuses(outcomes)) == ["large", *(path.stem for path in small)]

    def written(name: str, files: str) -> list[int]:
        # By the files' times, which do not depend on when this process looks.
        return [path.stat().st_mtime_ns for path in (tmp_path / "out" / name).glob(files)]

    last_small = max(time for path in small for time in written(path.stem, "parts/part-*"))
    of_large = written("large", "parts/part-*")
    assert sum(time < last_small for time in of_large) < 0.5 * len(of_large)
    assert max(written(path.stem, "run.json")[0] for path in small) < written("large", "run.json")[0]


def test_a_run_that_is_stopped_says_which_data_sets_it_did_not_begin_and_goes_on_later(tmp_path, images, client):
    paths = copies(tmp_path, 9, images[:3])

    def press_ctrl_c(progress):
        if progress.datasets_done == 1 and "stopping" not in "".join(progress.notes):
            raise KeyboardInterrupt

    outcomes = run(SETTINGS, paths, out=tmp_path / "out", client=client, progress=press_ctrl_c)
    assert list(statuses(outcomes)) == [path.stem for path in paths]
    assert outcomes[0].status == "complete"
    assert (outcomes[-1].status, outcomes[-1].message) == ("interrupted", "was not begun")
    again = run(SETTINGS, paths, out=tmp_path / "out", client=client)
    assert set(statuses(again).values()) == {"complete"}
    done = {outcome.name for outcome in outcomes if outcome.status == "complete"}
    assert {outcome.name for outcome in again if outcome.frames_processed == 0} >= done


# ---- following a folder ----


def test_stores_that_appear_are_taken_until_none_comes_and_unfinished_ones_are_reported(
    tmp_path, images, client, monkeypatch
):
    monkeypatch.setattr(Follower.__init__, "__kwdefaults__", {"settle_seconds": 1.0})
    monkeypatch.setattr(data_set_queue_module, "POLL_SECONDS", 0.2)
    folder, made = tmp_path / "beamtime", tmp_path / "made"
    copies(folder, 1, images[:2])
    make_store(made / "later.zarr", images[:2], chunk=1)
    begun = zarr.open_group(folder / "broken_off.zarr", mode="w")
    begun.create_array("frames", shape=(4, 48, 48), chunks=(1, 48, 48), dtype="uint16")[0] = 1

    def arrive():
        time.sleep(3)
        (made / "later.zarr").rename(folder / "later.zarr")

    arriving = threading.Thread(target=arrive)
    arriving.start()
    start = time.monotonic()
    outcomes = run(
        SETTINGS, [folder / "scan000.zarr"], out=tmp_path / "out", client=client, follow=folder, idle_seconds=5
    )
    seconds = time.monotonic() - start
    arriving.join()
    assert statuses(outcomes) == {"scan000": "complete", "later": "complete", "broken_off": "refused"}
    assert "its last chunk, frames/c/3/0/0, is not written yet" in outcomes[-1].message
    assert seconds > 8  # idle since the last one appeared, not since the run began
    assert {name: entry["status"] for name, entry in read_outcomes(tmp_path / "out").items()} == statuses(outcomes)
    (state,) = (state for state in data_set_statuses(tmp_path / "out") if state.name == "broken_off")
    assert "is not written yet" in state.reasons[0]


# ---- the record ----


def test_a_data_set_with_a_frame_that_fails_is_recorded_as_partial_with_the_reason_in_its_status(
    tmp_path, images, client
):
    paths = copies(tmp_path, 2, images[:3])
    chunk = paths[1] / "frames" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    outcomes = run(SETTINGS, paths, out=tmp_path / "out", client=client)
    assert [(outcome.status, outcome.frames_failed) for outcome in outcomes] == [("complete", 0), ("partial", 3)]
    assert read_outcomes(tmp_path / "out")["scan001"]["frames_failed"] == 3
    (state,) = (state for state in data_set_statuses(tmp_path / "out") if state.name == "scan001")
    assert all(reason.startswith("frame ") for reason in state.reasons)
    assert read_run_info(RunFolder(outcomes[1].folder))["status"] == "partial"
