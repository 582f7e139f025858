"""Naming data sets, following a folder, the record of outcomes, and the status of many runs."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context

import numpy as np
import pytest
import zarr

from braggflow.cli import app
from braggflow.cli import terminal as terminal_module
from braggflow.cli.terminal import show_status
from braggflow.config import RunConfig
from braggflow.errors import InputError
from braggflow.frames import (
    Follower,
    create_store,
    data_set_name,
    data_set_names,
    expand_data_sets,
    finish_store,
    open_frames,
)
from braggflow.frames import follow as follow_module
from braggflow.results import (
    OUTCOMES,
    RunFolder,
    append_outcome,
    begin_run,
    data_set_statuses,
    read_run_info,
    run_lock,
    write_run_info,
)
from braggflow.results.status import MAX_REASONS, read_outcomes
from tests.patience import PATIENCE
from tests.stores import make_store, spots


def empty_stores(folder, *names):
    """Folders that are named like stores: naming a data set does not open it."""
    for name in names:
        (folder / name).mkdir(parents=True)


def one_frame(path):
    return make_store(path, np.stack([spots((64, 64), 2, seed=1)]))


def relative(paths, folder):
    return [str(path.relative_to(folder)) for path in paths]


# What a user names.


def test_data_sets_come_in_the_order_they_are_named_each_once(tmp_path):
    empty_stores(tmp_path, "b.zarr", "a.zarr", "night/scan_2.zarr", "night/scan_10.zarr", "day/x.zarr")
    (tmp_path / "scans.txt").write_text("day\na.zarr\n")
    names = ["b.zarr", "night", "scans.txt", "*.zarr", "night/scan_10.zarr"]
    found = expand_data_sets([tmp_path / name for name in names])
    assert relative(found, tmp_path) == ["b.zarr", "night/scan_2.zarr", "night/scan_10.zarr", "day/x.zarr", "a.zarr"]


def test_names_are_relative_to_the_working_folder_and_patterns_reach_any_depth(tmp_path, monkeypatch):
    empty_stores(tmp_path, "a.zarr", "one/b.zarr", "one/two/c.zarr")
    monkeypatch.chdir(tmp_path)
    assert list(map(str, expand_data_sets(["**/*.zarr"]))) == ["a.zarr", "one/b.zarr", "one/two/c.zarr"]
    assert list(map(str, expand_data_sets(["."]))) == ["a.zarr"]


def test_folders_and_patterns_leave_out_what_is_hidden_unfinished_or_a_truth(tmp_path):
    one_frame(tmp_path / "scan.zarr")
    create_store(tmp_path / "later.zarr", n_frames=1, shape=(64, 64), dtype=np.dtype("u2"))
    empty_stores(tmp_path, ".hidden.zarr", "scan.truth.zarr")
    (tmp_path / "notes.txt").write_text("voltage was 4.2 V\n")
    for name in (tmp_path, tmp_path / "*", tmp_path / "*.zarr"):
        assert expand_data_sets([name]) == [tmp_path / "scan.zarr"]


def test_a_list_file_is_relative_to_its_own_folder_and_may_hold_comments(tmp_path):
    empty_stores(tmp_path, "a.zarr", "scan#1.zarr", "day/x.zarr", "list[1]/y.zarr")
    text = "\ufeff# cycling\r\n\r\n../a.zarr   # first\r\n../scan#1.zarr\r\n../day\r\n*.zarr\r\n"
    (tmp_path / "list[1]" / "scans.lst").write_bytes(text.encode())
    found = expand_data_sets([tmp_path / "list[1]" / "scans.lst"])
    assert [path.resolve().name for path in found] == ["a.zarr", "scan#1.zarr", "x.zarr", "y.zarr"]
    assert all(path.is_dir() for path in found)


def test_a_store_that_is_missing_or_damaged_stays_in_the_list_and_stops_no_other(tmp_path):
    good = one_frame(tmp_path / "good.zarr")
    (tmp_path / "file.zarr").write_bytes(b"\x00\xff")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "nowhere")
    wanted = [good, tmp_path / "gone.zarr", tmp_path / "file.zarr", tmp_path / "link.zarr"]
    (tmp_path / "scans.txt").write_text("\n".join(path.name for path in wanted))
    assert expand_data_sets(wanted) == expand_data_sets([tmp_path / "scans.txt"]) == wanted
    for path in wanted[1:]:
        with pytest.raises(InputError, match=path.name):
            open_frames(path)


def test_a_store_may_have_any_name_and_brackets_in_a_name_that_exists_are_no_pattern(tmp_path):
    odd = one_frame(tmp_path / "scan_7")
    empty_stores(tmp_path, "scan[1].zarr", "scan1.zarr")
    assert expand_data_sets([odd, tmp_path / "scan[1].zarr"]) == [odd, tmp_path / "scan[1].zarr"]


def test_a_store_named_through_a_link_too_is_one_data_set_under_the_first_name(tmp_path):
    empty_stores(tmp_path, "raw/0001.zarr")
    (tmp_path / "charge.zarr").symlink_to(tmp_path / "raw" / "0001.zarr")
    found = expand_data_sets([tmp_path / "charge.zarr", tmp_path / "raw"])
    assert data_set_names(found) == ["charge"]


NO_DATA_SETS = {
    "nothing": r"data: .*/nothing: does not exist",
    "empty": r"data: .*/empty: the folder holds no frames store \(\*\.zarr\)",
    "*_x.zarr": r"data: .*/\*_x\.zarr: no frames store \(\*\.zarr\) has such a name",
    "frame.TIF": r"is a detector file",
    "frame.cbf.gz": r"is a detector file",
    "made.zarr.wip": r"data: .*/made\.zarr\.wip: is not finished",
    "frames.raw": r"data: .*/frames\.raw: is neither a frames store nor a text file that lists them",
    "latin.txt": r"data: .*/latin\.txt: is neither a frames store nor a text file",
    "empty.txt": r"data: .*/empty\.txt: is a list that names no data set",
    "typo.txt": r"data: .*/typo\.txt, line 3: scna: does not exist",
    "lists.txt": r"data: .*/lists\.txt, line 1: empty\.txt: is a file; a list may name frames stores, folders and",
}


@pytest.mark.parametrize("name", NO_DATA_SETS)
def test_what_cannot_be_a_data_set_is_refused_by_name(tmp_path, name):
    empty_stores(tmp_path, "a.zarr", "empty", "made.zarr.wip")
    for file in ("scan.h5", "frame.TIF", "frame.cbf.gz"):
        (tmp_path / file).write_bytes(b"\x89HDF")
    (tmp_path / "frames.raw").write_bytes(bytes(100))
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9.zarr\n")
    (tmp_path / "empty.txt").write_text("# none yet\n\n")
    (tmp_path / "typo.txt").write_text("a.zarr\n\nscna\n")
    (tmp_path / "lists.txt").write_text("empty.txt\n")
    with pytest.raises(InputError, match=NO_DATA_SETS[name]):
        expand_data_sets([tmp_path / "a.zarr", tmp_path / name])


def test_an_empty_name_is_not_taken_for_the_working_folder():
    with pytest.raises(InputError, match="'' is no name of a data set"):
        expand_data_sets([""])


def test_a_data_set_is_named_like_its_store(tmp_path, monkeypatch):
    empty_stores(tmp_path, "in.zarr/deep")
    monkeypatch.chdir(tmp_path / "in.zarr" / "deep")
    assert data_set_names(["data/scan.zarr/", "x/night.2", ".."]) == ["scan", "night.2", "in"]
    with pytest.raises(InputError, match=r"data: \.zarr: has no name"):
        data_set_name(".zarr")


def test_two_data_sets_of_one_name_are_refused():
    with pytest.raises(InputError, match=r"data: b/scan\.zarr: another data set is named scan too; their results"):
        data_set_names(["a/scan.zarr", "a/other.zarr", "b/scan.zarr"])


# Following a folder.


class Clock:
    """This machine's monotonic clock, moved by hand."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def polls(self, follower, seconds):
        """Names of what is given out while `seconds` go by, one poll a second."""
        found = []
        for _ in range(seconds):
            found += [path.name for path in follower.poll()]
            self.now += 1
        return found


@pytest.fixture
def clock(monkeypatch):
    by_hand = Clock()
    monkeypatch.setattr(follow_module, "time", by_hand)
    return by_hand


def begun(path, *, n_frames=4, zarr_format=3):
    """The array of a store as a detector's own writer begins it: all frames promised, none there."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    return group.create_array("frames", shape=(n_frames, 16, 16), chunks=(1, 16, 16), dtype="uint16")


def test_stores_are_given_out_once_when_finished_also_those_that_were_there_before(tmp_path):
    one_frame(tmp_path / "b.zarr")
    one_frame(tmp_path / "a.zarr")
    follower = Follower(tmp_path, settle_seconds=0.1)
    assert follower.poll() == []
    assert follower.waiting() == {tmp_path / name: "may still be written to" for name in ("a.zarr", "b.zarr")}
    time.sleep(0.1)
    assert follower.poll() == [tmp_path / "b.zarr", tmp_path / "a.zarr"]
    assert follower.poll() == []
    assert follower.waiting() == {}


def test_a_store_that_ingest_is_making_is_given_out_when_it_has_its_name(tmp_path, clock):
    follower = Follower(tmp_path)
    array = create_store(tmp_path / "scan.zarr", n_frames=1, shape=(64, 64), dtype=np.dtype("u2"))
    array[:] = 1
    assert clock.polls(follower, 30) == []
    finish_store(tmp_path / "scan.zarr")
    assert clock.polls(follower, 10) == []
    assert clock.polls(follower, 30) == ["scan.zarr"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_that_is_filled_slowly_is_not_taken_before_its_last_frames_are_there(tmp_path, clock, zarr_format):
    follower = Follower(tmp_path)
    path = tmp_path / "slow.zarr"
    zarr.open_group(path, mode="w", zarr_format=zarr_format)
    assert clock.polls(follower, 30) == []
    assert follower.waiting() == {path: "has no array 'frames' yet"}
    array = begun(path, zarr_format=zarr_format)
    for number in range(3):
        array[number] = 1 + number
        assert clock.polls(follower, 30) == []
    assert re.fullmatch(r"its last chunk, frames/(c/3/0/0|3.0.0), is not written yet", follower.waiting()[path])
    array[3] = 4
    assert clock.polls(follower, 10) == []
    assert clock.polls(follower, 1) == ["slow.zarr"]


def test_a_store_that_grows_is_taken_once_nothing_in_it_has_changed_for_a_while(tmp_path, clock):
    follower = Follower(tmp_path)
    array = begun(tmp_path / "growing.zarr", n_frames=1)
    for number in range(8):
        array.resize((number + 1, 16, 16))
        array[number] = 1 + number
        assert clock.polls(follower, 8) == []
    assert follower.waiting() == {tmp_path / "growing.zarr": "may still be written to"}
    assert clock.polls(follower, 8) == ["growing.zarr"]


def test_a_last_chunk_that_is_still_written_to_is_waited_for(tmp_path, clock):
    begun(tmp_path / "copied.zarr", n_frames=2)[:] = 1
    follower = Follower(tmp_path)
    for _ in range(6):
        with (tmp_path / "copied.zarr" / "frames" / "c" / "1" / "0" / "0").open("ab") as file:
            file.write(b"\0")
        assert clock.polls(follower, 8) == []
    assert clock.polls(follower, 8) == ["copied.zarr"]


def test_shards_are_waited_for_like_chunks(tmp_path, clock):
    group = zarr.open_group(tmp_path / "packed.zarr", mode="w")
    array = group.create_array("frames", shape=(8, 16, 16), chunks=(1, 16, 16), shards=(4, 16, 16), dtype="uint16")
    follower = Follower(tmp_path)
    array[:4] = 1
    assert clock.polls(follower, 30) == []
    array[4:] = 1
    assert clock.polls(follower, 30) == ["packed.zarr"]


def test_the_clock_of_the_file_server_does_not_matter(tmp_path, clock):
    for name, stamp in (("future.zarr", time.time() + 1e6), ("past.zarr", 1.0)):
        one_frame(tmp_path / name)
        for path in (tmp_path / name, *(tmp_path / name).rglob("*")):
            os.utime(path, (stamp, stamp))
    assert clock.polls(Follower(tmp_path), 30) == ["past.zarr", "future.zarr"]


def test_a_folder_that_is_away_for_a_while_is_followed_on_and_one_that_never_was_is_refused(tmp_path, clock):
    folder, away = tmp_path / "beamtime", tmp_path / "away"
    with pytest.raises(InputError, match=r"--follow .*/beamtime: is not a folder that exists"):
        Follower(folder)
    folder.mkdir()
    one_frame(folder / "a.zarr")
    follower = Follower(folder)
    assert clock.polls(follower, 30) == ["a.zarr"]
    folder.rename(away)
    assert clock.polls(follower, 30) == []
    one_frame(away / "b.zarr")
    away.rename(folder)
    assert clock.polls(follower, 30) == ["b.zarr"]


def test_a_store_whose_metadata_are_damaged_is_given_out_to_be_refused(tmp_path, clock):
    begun(tmp_path / "broken.zarr")
    (tmp_path / "broken.zarr" / "frames" / "zarr.json").write_text("{")
    assert clock.polls(Follower(tmp_path), 30) == ["broken.zarr"]
    with pytest.raises(InputError, match="broken"):
        open_frames(tmp_path / "broken.zarr")


# The record of outcomes.


def entry(dataset, status="complete", **changes):
    counts = {"frames": 10, "frames_failed": 0, "peaks": 50, "seconds": 1.5}
    return {"dataset": dataset, "path": f"/raw/{dataset}.zarr", "status": status, "message": ""} | counts | changes


def append_many(folder, dataset):
    for number in range(200):
        append_outcome(folder, entry(f"{dataset}{number}", message="m" * 500))


def test_the_last_outcome_of_each_data_set_is_read_back(tmp_path):
    out = tmp_path / "runs"
    assert read_outcomes(out) == {}
    append_outcome(out, entry("a", "refused", message="zarr.json: is damaged"))
    append_outcome(out, entry("b µ\n"))
    append_outcome(out, entry("a", "partial", frames_failed=2))
    found = read_outcomes(out)
    assert list(found) == ["a", "b µ\n"]
    assert found["a"].pop("written").endswith("+00:00")
    assert found["a"] == entry("a", "partial", frames_failed=2)


def test_a_line_that_a_crash_cut_short_harms_no_other(tmp_path):
    file = tmp_path / OUTCOMES
    for number in range(2):
        append_outcome(tmp_path, entry(f"a{number}"))
        with file.open("ab") as torn:
            torn.write(b'{"dataset": "b", "pa')
        assert list(read_outcomes(tmp_path)) == [f"a{n}" for n in range(number + 1)]


def test_a_record_that_a_crash_cut_short_at_its_first_line_is_an_empty_one(tmp_path):
    (tmp_path / OUTCOMES).write_bytes(b'{"data')
    assert read_outcomes(tmp_path) == {}


def test_two_runs_may_write_the_record_at_the_same_time(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(append_many, [tmp_path] * 2, "ab"))
    assert sorted(read_outcomes(tmp_path)) == sorted(f"{run}{number}" for run in "ab" for number in range(200))
    assert (tmp_path / OUTCOMES).read_bytes().count(b"\n") == 400


def test_a_record_that_cannot_be_read_is_refused_by_name(tmp_path):
    (tmp_path / OUTCOMES).write_text("dataset,status\na,complete\n")
    with pytest.raises(InputError, match=r"outcomes\.jsonl: is not braggflow's record"):
        read_outcomes(tmp_path)
    (tmp_path / OUTCOMES).unlink()
    (tmp_path / OUTCOMES).mkdir()
    with pytest.raises(InputError, match=r"outcomes\.jsonl: cannot be read"):
        read_outcomes(tmp_path)


# The status of one run and of many.


def write_run(path, status="complete", *, frames=10, failed=0, done=2, host=None):
    """A run folder as a run leaves it: 2 parts, 50 peaks."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    info = {
        "status": status,
        "identity": {},
        "counts": {"frames": frames, "frames_failed": failed, "peaks": 50},
        "parts": {"total": 2, "done": done, "redone": 0},
        "failures": [{"frame": n, "reason": f"chunk {n} is [red]"} for n in range(failed)],
        "machine": {"host": host} if host else {},
        "written": "2026-01-02T03:04:05+00:00",
    }
    begin_run(folder, RunConfig(), info)
    return folder


def shown(capsys, folder, **options):
    show_status(folder, **options)
    return capsys.readouterr().out


def test_status_sums_up_and_shows_what_is_not_complete_last_with_the_reason(tmp_path, capsys):
    for number in range(30):
        write_run(tmp_path / f"scan{number}", frames=480)
    write_run(tmp_path / "bad", "partial", failed=2)
    append_outcome(tmp_path, entry("worse", "refused", message="frames.mask: has shape (2, 2)"))
    append_outcome(tmp_path, entry("scan7"))
    append_outcome(tmp_path, entry("deleted"))
    first, *lines = shown(capsys, tmp_path).splitlines()
    assert first == "32 data sets: 30 complete, 1 partial, 1 refused; 14,410 frames, 2 failed; 1,550 peaks"
    rows = [line.split()[1] for line in lines if line.startswith("│")]
    assert len(rows) == 32
    assert rows[-2:] == ["bad", "worse"]
    assert lines[-4:] == [
        "bad: frame 0: chunk 0 is [red]",
        "bad: frame 1: chunk 1 is [red]",
        "bad: the same braggflow run tries them again.",
        "worse: frames.mask: has shape (2, 2)",
    ]


def test_status_of_one_run_names_ten_failed_frames_and_says_where_the_rest_is(tmp_path, capsys):
    folder = write_run(tmp_path / "x" / "scan", "partial", failed=13)
    out = shown(capsys, folder.path)
    assert out.startswith("1 data set: 1 partial; 10 frames, 13 failed; 50 peaks\n")
    assert out.count("scan: frame ") == MAX_REASONS
    assert f"scan: and 3 more frames, see {folder.info}\n" in out


@pytest.mark.parametrize("content", ["{", "[]", '{"identity": {}}', '{"identity": {}, "status": "complete"}', "\x00"])
def test_a_damaged_run_is_shown_as_such_and_does_not_hide_the_others(tmp_path, capsys, content):
    write_run(tmp_path / "good")
    folder = write_run(tmp_path / "torn")
    folder.info.write_text(content)
    out = shown(capsys, tmp_path)
    assert out.startswith("2 data sets: 1 complete, 1 damaged; 10 frames, 0 failed; 50 peaks\n")
    assert re.search(rf"\ntorn: {folder.info}: (cannot be read|is not a braggflow run)", out)


def test_a_complete_run_that_was_refused_since_says_so(tmp_path):
    write_run(tmp_path / "scan")
    append_outcome(tmp_path, entry("scan", "refused", message="holds a run made with other settings"))
    (state,) = data_set_statuses(tmp_path)
    assert (state.status, state.reasons) == ("complete", ("refused since: holds a run made with other settings",))


def test_where_there_is_no_run_status_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        data_set_statuses(tmp_path)


def test_a_run_that_goes_on_is_told_from_one_that_was_killed(tmp_path, capsys):
    write_run(tmp_path / "killed", "running", done=0)
    folder = write_run(tmp_path / "working", "running", done=0)
    (folder.parts / "part-00000000-00000005.npz").touch()
    with run_lock(folder):
        out = shown(capsys, tmp_path)
        assert out.startswith("2 data sets: 1 running, 1 stopped; 20 frames, 0 failed; 1 of 4 parts done\n")
        assert re.search(r"working .*running .*1/2", out)
        assert "killed: was killed; the same braggflow run goes on from here.\n" in out
        with pytest.raises(InputError, match="another run writes here"), run_lock(folder):
            pass
    assert {state.status for state in data_set_statuses(tmp_path)} == {"stopped"}


def test_a_look_at_a_run_changes_nothing_in_its_folder_and_leaves_it_free(tmp_path):
    killed, working = (write_run(tmp_path / name, "running") for name in ("killed", "working"))
    (working.path / ".lock").write_text("17")
    before = sorted(tmp_path.rglob("*"))
    data_set_statuses(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert (working.path / ".lock").read_text() == "17"
    with run_lock(working), run_lock(killed):
        pass


def test_a_run_of_another_machine_whose_lock_cannot_be_seen_is_not_called_killed(tmp_path):
    folder = write_run(tmp_path / "scan", "running", host="node17")
    (folder.path / ".lock").touch()
    (state,) = data_set_statuses(tmp_path)
    assert (state.status, state.ended) == ("unclear", False)
    assert state.reasons == ("runs on node17, or was killed there: braggflow status says which on that machine",)
    with run_lock(folder):
        assert data_set_statuses(tmp_path)[0].status == "running"


def test_a_watched_status_ends_with_the_runs_and_tells_a_log_how_they_go(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(terminal_module, "_WATCH_SECONDS", 0.02)
    folder = write_run(tmp_path / "scan", "running", done=0)
    taken, let_go = threading.Event(), threading.Event()

    def work():
        with run_lock(folder):
            taken.set()
            let_go.wait(0.3)
            info = read_run_info(folder) | {"status": "complete"}
            write_run_info(folder, info)

    run = threading.Thread(target=work)
    run.start()
    taken.wait()
    lines = shown(capsys, tmp_path, watch=True).splitlines()
    run.join()
    assert lines[:2] == [
        "1 data set: 1 running; 10 frames, 0 failed; 0 of 2 parts done",
        "1 data set: 1 complete; 10 frames, 0 failed; 50 peaks",
    ]


def test_on_a_terminal_a_watched_status_stays_within_the_window_and_ctrl_c_ends_it(tmp_path):
    for number in range(60):
        write_run(tmp_path / f"scan{number:02}")
    folder = write_run(tmp_path / "working", "running")
    master, terminal = pty.openpty()
    environment = os.environ | {"LINES": "20", "COLUMNS": "120", "TERM": "xterm"}
    words = [sys.executable, "-m", "braggflow", "status", str(tmp_path), "--watch"]
    with run_lock(folder):
        process = subprocess.Popen(words, stdout=terminal, stderr=terminal, env=environment)
        os.close(terminal)
        seen = rest = b""
        while b"working" not in seen:
            seen += os.read(master, 65536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # Linux's way of saying that the other side is closed
            while chunk := os.read(master, 65536):
                rest += chunk
        os.close(master)
        assert process.wait(timeout=PATIENCE) == 0
    assert b"61 data sets: 60 complete, 1 running" in seen
    assert b"scan00" not in seen
    assert b"scan00" in rest
    assert b"Traceback" not in rest


def test_the_command_shows_refused_data_sets_when_nothing_else_is_there(tmp_path, capsys):
    append_outcome(tmp_path, entry("scan", "refused", message="frames store scan.zarr: does not exist"))
    with pytest.raises(SystemExit) as end:
        app(["status", str(tmp_path)])
    assert end.value.code == 0
    assert capsys.readouterr().out.endswith("scan: frames store scan.zarr: does not exist\n")
