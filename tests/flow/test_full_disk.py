"""A disk that is full: a sentence that names the path and says what to do, and the same command goes on."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from braggflow.cli.entry import command_line
from braggflow.flow import run
from braggflow.results import RunFolder, data_set_statuses, open_peaks, read_run_info, write_run_info
from tests.stores import assert_same_table, make_store, spots

pytestmark = pytest.mark.faults

SETTINGS = {
    "detect": {"minval": 15, "minscore": 10, "background": "none"},
    "locate": {"network": "none"},
    "compute": {"task_seconds": 0.001, "retries": 0},
    "output": {"report": False},
}
#: Bytes that are left on the disk, so that a run begins and finds no room on its way.
LITTLE = 64 * 1024


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images = np.stack([spots((72, 64), 6, seed=seed) for seed in range(64)])
    return make_store(tmp_path_factory.mktemp("data") / "scan.zarr", images, chunk=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """A run that nothing disturbed."""
    (outcome,) = run(SETTINGS, [data], out=tmp_path_factory.mktemp("whole"))
    return outcome.folder


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - left))
    return ballast


def say_of(monkeypatch, capfd, *words) -> tuple[int, str]:
    """Exit status and output of a command."""
    monkeypatch.setattr(sys, "argv", ["braggflow", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        command_line()
    shown = "".join(capfd.readouterr())
    assert "Traceback" not in shown, shown
    return ended.value.code, shown


@pytest.mark.parametrize("workers", [None, 2], ids=["in its own process", "on workers"])
def test_a_run_stops_says_it_and_goes_on_when_there_is_room(
    small_disk, tmp_path, data, whole, workers, monkeypatch, capfd
):
    ballast = fill(small_disk, LITTLE)
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(SETTINGS))
    words = ["run", config, data, "--out", small_disk / "out", *([] if workers is None else ["--workers", workers])]
    status, shown = say_of(monkeypatch, capfd, *words)
    folder = small_disk / "out" / "scan"
    sentence = f"{folder}: the disk is full; make room and run the same command again, it goes on from here"
    assert status == 3
    assert shown.count(sentence) == 1, shown
    assert "distributed" not in shown
    (state,) = data_set_statuses(small_disk / "out")
    assert state.status == "interrupted"
    assert sentence in state.reasons
    assert 0 < state.parts_done < state.parts_total
    ballast.unlink()
    assert say_of(monkeypatch, capfd, *words)[0] == 0
    assert data_set_statuses(folder)[0].reasons == ()
    assert_same_table(open_peaks(folder), open_peaks(whole).load())


def test_a_run_is_refused_at_once_where_there_is_no_room_at_all(small_disk, tmp_path, data, monkeypatch, capfd):
    fill(small_disk, 4096)
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(SETTINGS))
    status, shown = say_of(monkeypatch, capfd, "run", config, data, "--out", small_disk / "out")
    assert status == 2
    assert f"{small_disk / 'out' / 'scan'}: the disk is full (" in shown
    assert "looking at a few frames" not in shown
    assert not (small_disk / "out").exists()


def test_a_table_that_finds_no_room_is_joined_by_the_next_run(small_disk, data, whole):
    shutil.copytree(whole, small_disk / "scan")
    folder = RunFolder(small_disk / "scan")
    shutil.rmtree(folder.peaks)
    write_run_info(folder, read_run_info(folder) | {"status": "interrupted"})
    ballast = fill(small_disk, 20 * 1024)
    (outcome,) = run(SETTINGS, [data], out=small_disk)
    assert (outcome.status, outcome.frames_processed) == ("partial", 0)
    assert "the parts are done, but the table could not be written: " in outcome.message
    assert "the disk is full; make room and run the same command again" in outcome.message
    assert outcome.message in data_set_statuses(folder.path)[0].reasons
    ballast.unlink()
    (again,) = run(SETTINGS, [data], out=small_disk)
    assert (again.status, again.message) == ("complete", "")
    assert_same_table(open_peaks(folder.path), open_peaks(whole).load())


def test_a_report_that_finds_no_room_spoils_no_table(small_disk, data, whole, monkeypatch):
    folder = RunFolder(small_disk / "scan")

    def fill_first(_path):
        fill(small_disk, 0)
        folder.report.write_text("pictures" * 1000)

    monkeypatch.setattr("braggflow.show.write_report", fill_first)
    (outcome,) = run(SETTINGS | {"output": {"report": True}}, [data], out=small_disk)
    assert outcome.status == "complete"
    assert f"{folder.report}: cannot be written, the disk is full; make room" in outcome.message
    assert f"{folder.report}: cannot be written" in data_set_statuses(folder.path)[0].reasons[0]
    assert_same_table(open_peaks(folder.path), open_peaks(whole).load())


@pytest.mark.parametrize("out", ["preview.png", "peaks.csv", "peaks.h5", "copy.zarr", "sim.zarr", "movie.gif"])
def test_what_is_written_for_others_is_there_whole_or_not_at_all(
    small_disk, tmp_path, data, whole, out, monkeypatch, capfd
):
    fill(small_disk, 4096)
    target = small_disk / out
    images = tmp_path / "frames.npy"
    np.save(images, np.random.default_rng(0).poisson(900, (4, 128, 128)).astype(np.uint16))
    words = {
        "preview.png": ["preview", data, "--set", "locate.network=none", "--out", target],
        "peaks.csv": ["export", whole, "--out", target],
        "peaks.h5": ["export", whole, "--out", target],
        "copy.zarr": ["ingest", images, "--out", target, "--workers", 1],
        "sim.zarr": ["simulate", target, "--size", 128, "--frames", 8],
        "movie.gif": ["movie", whole, "--out", target],
    }
    status, shown = say_of(monkeypatch, capfd, *words[out])
    assert status == 2
    assert f"{target}: " in shown
    assert "the disk is full; make room and run the same command again" in shown
    assert not target.exists()
    left = {path.name for path in small_disk.iterdir()} - {"ballast"}
    assert left <= {f"{out}.wip"}  # what a store is made as, for the same command to go on with
