"""The record of outcomes, and how runs stand."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context

import pytest

from braggflow.cli import app
from braggflow.cli import terminal as terminal_module
from braggflow.cli.terminal import show_status
from braggflow.config import RunConfig
from braggflow.errors import InputError
from braggflow.results import (
    OUTCOMES,
    RunFolder,
    append_outcome,
    begin_run,
    data_set_statuses,
    read_run_info,
    run_lock,
    write_end_in_place,
    write_run_info,
)
from braggflow.results.status import MAX_REASONS, read_outcomes
from tests.patience import PATIENCE

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
    assert re.search(rf"\ntorn: {folder.info}: (cannot be read|is not a braggflow run|is damaged)", out)


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


def test_runs_are_found_below_any_folder_and_named_by_their_way(tmp_path):
    for name in ("monday/runs/scan", "tuesday/scan"):
        write_run(tmp_path / name)
    (tmp_path / "frames.zarr" / "inner").mkdir(parents=True)
    (tmp_path / "frames.zarr" / "inner" / "run.json").write_text("{}")
    assert [state.name for state in data_set_statuses(tmp_path)] == ["monday/runs/scan", "tuesday/scan"]
    assert [state.name for state in data_set_statuses(tmp_path / "tuesday")] == ["scan"]


def test_a_run_that_has_not_begun_is_waited_for(tmp_path):
    words = [sys.executable, "-m", "braggflow", "status", str(tmp_path), "--watch"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == f"waiting for a run to begin in {tmp_path}\n"
        write_run(tmp_path / "scan")
        told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert told.startswith("1 data set: 1 complete")


def test_json_has_every_data_set(tmp_path):
    write_run(tmp_path / "scan", "partial", failed=1)
    words = [sys.executable, "-m", "braggflow", "status", str(tmp_path), "--json"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    (state,) = json.loads(told)
    assert (state["name"], state["status"], state["ended"]) == ("scan", "partial", True)


def test_an_end_is_written_in_the_room_that_is_there_or_nothing_is(tmp_path):
    folder = RunFolder(tmp_path)
    write_run_info(folder, {"identity": {}, "status": "running", "frames": list(range(50))})
    before = folder.info.read_bytes()
    write_end_in_place(folder, {"status": "failed", "error": "the disk is full", "other": "is not written"})
    assert len(folder.info.read_bytes()) == len(before)
    found = read_run_info(folder)
    assert (found["status"], found["error"]) == ("failed", "the disk is full")
    assert found["frames"] == list(range(50))
    assert "other" not in found
    before = folder.info.read_bytes()
    with pytest.raises(InputError, match=r"run\.json: cannot be written, the disk is full"):
        write_end_in_place(folder, {"status": "failed", "error": "x" * 500})
    assert folder.info.read_bytes() == before
