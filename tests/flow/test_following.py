"""A series is processed while another process writes it: its table is that of a run of the finished series."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import braggflow
from braggflow.errors import InputError
from braggflow.evaluate import verify
from braggflow.flow import run
from braggflow.flow.following import following
from braggflow.flow.following.handing_over import tiled
from braggflow.pipeline import Group
from braggflow.results import RunFolder, read_run_info
from tests.growing import NAMES, Writer
from tests.patience import PATIENCE
from tests.stores import spots

IMAGES = np.stack([spots((72, 64), 5, seed=seed) for seed in range(24)])
SETTINGS = {
    "locate": {"network": "none"},
    "output": {"report": False},
    "check": {"fraction": 0},
    "track": {"enabled": False},
}
#: Frame 5 comes late, 2 is written anew and 3 is written twice as it is.
ORDER = [*range(5), *range(6, 12), 5, (2, 20), 3, *range(12, 24)]


def writing(
    writer: Writer,
    order: Iterable[int | tuple[int, int] | threading.Event],
    *,
    close: bool = True,
) -> threading.Thread:
    """Have frames written beside what the test does; at an event the writer waits until it is set."""

    def write() -> None:
        for step in order:
            if isinstance(step, threading.Event):
                step.wait(PATIENCE)
                continue
            writer.put(*(step if isinstance(step, tuple) else (step,)))
            time.sleep(0.02)
        if close:
            writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.fixture
def started(tmp_path):
    """Starts a writer of a kind."""
    writers = []

    def start(kind: str, images: np.ndarray = IMAGES) -> Writer:
        writers.append(Writer(kind, tmp_path / NAMES[kind], images))
        return writers[-1]

    yield start
    for writer in writers:
        writer.kill()


def assert_is_that_of_the_whole(folder: Path, series: Path, settings: dict[str, object] = SETTINGS) -> None:
    """Check that a run folder is that of a run of the finished series, and that nothing is left to do in it."""
    (offline,) = run(settings, [series], out=folder.parent.parent / "offline")
    table, whole = (braggflow.open_peaks(path).load() for path in (folder, offline.folder))
    xr.testing.assert_identical(table.drop_attrs(), whole.drop_attrs())
    live, made = (read_run_info(RunFolder(path)) for path in (folder, offline.folder))
    assert (live["run"], live["status"], live["failures"]) == (made["run"], made["status"], made["failures"])
    assert not RunFolder(folder).stamps.exists()
    if made["status"] == "complete":
        (again,) = run(settings, [series], out=folder.parent)
        assert (again.status, again.frames_processed) == ("complete", 0)
    (found,) = verify(folder, frames=2)
    assert not found.damaged, found


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("swmr", {}),
        ("eiger", {}),
        ("zarr", {"follow": {"frames": 24, "peaks": [[20, 20]]}, "compute": {"workers": 1}}),
    ],
    ids=["SWMR", "EIGER", "Zarr on workers"],
)
def test_the_table_is_that_of_the_finished_series_with_late_and_repeated_frames(tmp_path, started, kind, more):
    writer = started(kind)
    seen, some_seen = list[int](), threading.Event()

    def look(_state: object) -> None:
        if not RunFolder(tmp_path / "runs" / writer.path.stem).info.exists():
            return
        peaks = braggflow.open_peaks(tmp_path / "runs" / writer.path.stem)
        assert peaks.sizes["peak"] == int(peaks["peak_count"].sum())
        seen.append(peaks.sizes["frame"])
        if seen[-1] >= 4:
            some_seen.set()

    order = [*ORDER[:12], some_seen, *ORDER[12:]]
    thread = writing(writer, [step for step in order if kind != "eiger" or not isinstance(step, tuple)])
    (outcome,) = run(SETTINGS | more, follow=writer.path, out=tmp_path / "runs", progress=look, idle_seconds=PATIENCE)
    thread.join()
    assert (outcome.status, outcome.frames) == ("complete", 24)
    assert max(seen) >= 4
    followed = read_run_info(RunFolder(outcome.folder))["following"]
    assert followed["rewritten"] == {"swmr": 1, "eiger": 4, "zarr": 2}[kind]  # of EIGER's, the file of frame 3
    assert 1 <= followed["kept"] <= 24 - followed["rewritten"]
    assert "all of its " in followed["ended"]
    here = "process here" in read_run_info(RunFolder(outcome.folder))["tasks"]
    assert here == ("compute" not in more)
    assert_is_that_of_the_whole(outcome.folder, writer.path)
    page = RunFolder(outcome.folder).live_page.read_text()
    assert "24 frames done of 24" in page
    assert "refresh" not in page


def test_a_run_that_is_killed_and_one_that_is_stopped_are_taken_up(tmp_path, started):
    writer, out = started("swmr"), tmp_path / "runs"
    folder = RunFolder(out / "scan")
    for position in range(8):
        writer.put(position)
    script = f"import braggflow; braggflow.run({SETTINGS!r}, follow={str(writer.path)!r}, out={str(out)!r})"
    killed = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + PATIENCE
    while not list(folder.parts.glob("part-*.npz")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert braggflow.open_peaks(folder.path).sizes["frame"] == 8
    with pytest.raises(InputError, match=r"holds a run that followed its series .* --follow goes on"):
        run(SETTINGS, [writer.path], out=out)

    def stop(state: braggflow.Progress) -> None:
        if state.frames_done >= 10:
            raise KeyboardInterrupt

    thread = writing(writer, range(8, 14), close=False)
    (stopped,) = run(SETTINGS, follow=writer.path, out=out, progress=stop)
    thread.join()
    assert stopped.status == "interrupted"
    assert read_run_info(folder)["status"] == "interrupted"
    writer.put(3, 17)  # while no one looks
    thread = writing(writer, range(14, 24))
    (outcome,) = run(SETTINGS, follow=writer.path, out=out)
    thread.join()
    assert outcome.status == "complete"
    assert_is_that_of_the_whole(outcome.folder, writer.path)


def test_frames_that_never_came_are_recorded_as_failed(tmp_path, started):
    writer = started("swmr")
    thread = writing(writer, [*range(6), *range(8, 20)])
    (outcome,) = run(SETTINGS, follow=writer.path, out=tmp_path / "runs", idle_seconds=1)
    thread.join()
    assert (outcome.status, outcome.frames, outcome.frames_failed) == ("partial", 20, 2)
    info = read_run_info(RunFolder(outcome.folder))
    assert [failure["frame"] for failure in info["failures"]] == [6, 7]
    assert all("never written" in failure["reason"] for failure in info["failures"])
    assert info["following"]["ended"] == "no frame came for 1 s"
    assert_is_that_of_the_whole(outcome.folder, writer.path)


def test_what_all_frames_say_of_the_detector_counts_and_not_what_the_first_said(tmp_path, started):
    images = IMAGES.copy()
    images[20:] = np.minimum(images[20:], 300)
    images[20:, 30:34, 30:34] = 8191  # counts pile up there: the detector saturates
    writer = started("swmr", images)
    for position in range(16):
        writer.put(position)
    thread = writing(writer, range(16, 24))
    (outcome,) = run(SETTINGS, follow=writer.path, out=tmp_path / "runs")
    thread.join()
    assert read_run_info(RunFolder(outcome.folder))["following"]["kept"] == 0
    assert_is_that_of_the_whole(outcome.folder, writer.path)


def test_groups_of_frames_that_wait_are_no_larger_than_memory_allows(tmp_path, started, monkeypatch):
    monkeypatch.setattr(following, "_GROUP_BYTES", 3 * IMAGES[0].nbytes + 1)
    writer = started("swmr")
    for position in range(20):
        writer.put(position)
    writer.close()
    (outcome,) = run(SETTINGS, follow=writer.path, out=tmp_path / "runs", idle_seconds=1)
    assert outcome.status == "complete"
    spans = read_run_info(RunFolder(outcome.folder))["plan"]
    assert max(stop - first for first, stop in spans) == 3


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.data())
def test_a_plan_around_what_is_kept_has_every_frame_once(lengths, data):
    edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    groups = [Group(first, stop, ((first, stop),)) for first, stop in pairwise(edges)]
    cuts = sorted(data.draw(st.sets(st.integers(0, edges[-1]), max_size=8)))
    kept = list(zip(cuts[::2], cuts[1::2], strict=False))
    found = tiled(data.draw(st.permutations(kept)), groups)
    assert [n for first, stop in found for n in range(first, stop)] == list(range(edges[-1]))
    assert set(kept) <= set(found)
    assert all(any(g.first <= first and stop <= g.stop for g in groups) for first, stop in set(found) - set(kept))


def test_what_cannot_be_followed_is_one_message(tmp_path):
    for path, data, message in (
        (tmp_path / "none", [], r"--follow .*/none: is not a folder that exists"),
        (tmp_path / "scan.h5", ["other.zarr"], r"--follow .*/scan\.h5: is one series, which is followed alone; leave"),
        (tmp_path / "scan.h5", [], r"--follow .*/scan\.h5: no frame came \(frames store .* does not exist\)"),
    ):
        with pytest.raises(InputError, match=message):
            run(SETTINGS, data, follow=path, out=tmp_path / "runs", idle_seconds=1.5)
    assert not (tmp_path / "runs").exists()
