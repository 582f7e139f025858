"""Little work is done in the process that asks for it: the same table, resume and record as on workers."""

import json
import subprocess
import sys

import numpy as np
import pytest

import braggflow
from braggflow.errors import InputError
from braggflow.flow import in_process, run
from braggflow.flow import running as running_module
from braggflow.flow.in_process import InProcess
from braggflow.flow.tasks import opened_series
from braggflow.results import RunFolder, open_peaks, read_run_info, write_run_info
from tests.patience import PATIENCE
from tests.stores import assert_same_table, make_store, spots

pytestmark = pytest.mark.faults

SETTINGS = {"locate": {"network": "none"}, "output": {"report": False}, "compute": {"task_seconds": 0.001}}
WITH_WORKERS = SETTINGS | {"compute": {"task_seconds": 0.001, "workers": 1}}


@pytest.fixture(scope="module")
def images():
    return np.stack([spots((72, 64), 5, seed=seed) for seed in range(12)])


@pytest.fixture
def data(tmp_path, images):
    return make_store(tmp_path / "scan.zarr", images, chunk=2)


@pytest.fixture
def no_workers(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("workers were started")

    monkeypatch.setattr("braggflow.cluster.connect.open_cluster", refuse)


def test_a_small_series_starts_no_worker_and_gives_the_table_of_workers(tmp_path, data, no_workers, monkeypatch):
    here = run(SETTINGS, [data], out=tmp_path / "here")
    info = read_run_info(RunFolder(here[0].folder))
    assert (info["status"], info["tasks"]) == ("complete", {"process here": info["parts"]["total"]})
    assert info["parts"]["total"] > 3
    monkeypatch.undo()
    workers = run(WITH_WORKERS, [data], out=tmp_path / "workers")
    assert "here" not in str(read_run_info(RunFolder(workers[0].folder))["tasks"])
    assert_same_table(here.peaks, workers.peaks)


def test_a_run_in_one_process_loads_no_dask_cluster(tmp_path, data):
    script = (
        "import sys, json, braggflow\n"
        f"settings = json.loads({json.dumps(json.dumps(SETTINGS))})\n"
        f"done = braggflow.run(settings, [{str(data)!r}], out={str(tmp_path)!r})\n"
        "print(done.status, 'distributed' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert told.stdout.split() == ["complete", "False"]


def test_a_run_on_workers_is_taken_up_here_and_the_other_way_round(tmp_path, data, images):
    whole = run(SETTINGS, [data], out=tmp_path / "whole").peaks
    for first, second in ((WITH_WORKERS, SETTINGS), (SETTINGS, WITH_WORKERS)):
        out = tmp_path / f"taken up {first is SETTINGS}"
        (begun,) = run(first, [data], out=out)
        folder = RunFolder(begun.folder)
        kept = sorted(folder.parts.glob("*.npz"))
        for part in kept[::2]:
            part.unlink()
        write_run_info(folder, read_run_info(folder) | {"status": "interrupted"})
        (again,) = run(second, [data], out=out)
        assert (again.status, again.frames_processed) == ("complete", len(images) - 2 * len(kept[1::2]))
        assert_same_table(open_peaks(again.folder), whole)


def test_ctrl_c_leaves_parts_and_a_record_and_the_same_call_goes_on(tmp_path, data, monkeypatch):
    whole = run(SETTINGS, [data], out=tmp_path / "whole").peaks
    made, process = [], in_process.process_group

    def stop_at_the_third(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(process(*arguments))
        return made[-1]

    monkeypatch.setattr(in_process, "process_group", stop_at_the_third)
    (stopped,) = run(SETTINGS, [data], out=tmp_path / "out")
    assert (stopped.status, stopped.frames_processed) == ("interrupted", 4)
    assert read_run_info(RunFolder(stopped.folder))["status"] == "interrupted"
    monkeypatch.undo()
    (again,) = run(SETTINGS, [data], out=tmp_path / "out")
    assert (again.status, again.frames_processed) == ("complete", 8)
    assert_same_table(open_peaks(again.folder), whole)


def test_a_group_that_cannot_be_processed_is_recorded_and_made_good_later(tmp_path, data, monkeypatch):
    process = in_process.process_group

    def fail_in_the_middle(series, group, *rest):
        if group.first == 4:
            raise MemoryError("no room")
        return process(series, group, *rest)

    monkeypatch.setattr(in_process, "process_group", fail_in_the_middle)
    (partial,) = run(SETTINGS, [data], out=tmp_path / "out")
    assert (partial.status, partial.frames_failed) == ("partial", 2)
    assert [failure["frame"] for failure in read_run_info(RunFolder(partial.folder))["failures"]] == [4, 5]
    monkeypatch.undo()
    (again,) = run(SETTINGS, [data], out=tmp_path / "out")
    assert (again.status, again.frames_failed, again.frames_processed) == ("complete", 0, 2)


def test_what_killed_a_run_before_is_left_to_workers(tmp_path, data):
    (begun,) = run(SETTINGS, [data], out=tmp_path)
    folder = RunFolder(begun.folder)
    next(folder.parts.glob("*.npz")).unlink()
    write_run_info(folder, read_run_info(folder) | {"status": "running"})
    run(SETTINGS, [data], out=tmp_path)
    assert any("process here" not in where for where in read_run_info(folder)["tasks"])


def test_much_work_is_for_workers(tmp_path, data, monkeypatch):
    monkeypatch.setattr(running_module, "MOST_SECONDS", 0.0)
    (outcome,) = run(SETTINGS, [data], out=tmp_path)
    assert "process here" not in read_run_info(RunFolder(outcome.folder))["tasks"]


def test_several_data_sets_and_a_bad_one_among_them(tmp_path, images, no_workers):
    paths = [make_store(tmp_path / f"scan_{k}.zarr", images[:4], chunk=2) for k in range(3)]
    (paths[1] / "frames" / "zarr.json").write_text("{")
    done = run(SETTINGS, paths, out=tmp_path / "out")
    assert [outcome.status for outcome in done] == ["complete", "refused", "complete"]
    assert done.status == "refused"
    with pytest.raises(InputError, match=r"peaks: the run was of 3 data sets; take one, as in outcomes\[0\]"):
        _ = done.peaks


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (
            {"workers": 1000},
            r"compute\.workers: 1,000 worker processes would hinder each other on \d+ cores?; must be \d+",
        ),
        ({"memory_limit": "100 MiB"}, r"a worker needs \d+ MiB, its limit is 100 MiB; raise compute\.memory_limit"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_before_anything_is_computed(
    tmp_path, data, no_workers, monkeypatch, compute, message
):
    monkeypatch.setattr(running_module, "look_at_frames", None)
    with pytest.raises(InputError, match=message):
        run(SETTINGS | {"compute": compute}, [data], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_frame_of_too_many_peaks_is_said_before_the_run_and_recorded_in_it(tmp_path, data, no_workers):
    seen = []
    detect = {"false_peaks": None, "background": "none", "minval": 1, "minscore": 0.5, "max_peaks_per_frame": 100}
    (outcome,) = run(SETTINGS | {"detect": detect}, [data], out=tmp_path / "out", progress=seen.append)
    info = read_run_info(RunFolder(outcome.folder))
    reason = r"peaks in one frame, detect\.max_peaks_per_frame is 100"
    assert (outcome.status, outcome.frames_failed) == ("partial", 12)
    assert all(reason.replace("\\", "") in failure["reason"] for failure in info["failures"])
    assert reason.replace("\\", "") in seen[-1].notes[0]
    assert info["warnings"] == [note.removeprefix("warning: scan: ") for note in seen[-1].notes]


def test_a_notebook_shows_what_became_of_a_run(tmp_path, data):
    done = braggflow.run(SETTINGS | {"output": {"report": True}}, [data], out=tmp_path)
    assert repr(done).startswith("<braggflow run: scan complete, 12 frames (0 failed), ")
    page = done._repr_html_()
    assert f'href="{done.report.resolve().as_uri()}"' in page
    assert done[0].open().peaks.sizes == done.peaks.sizes
    assert "<svg" not in page.replace("&lt;", "")
    assert done[:1] == done
    assert done[0].frames_per_second > 0


def test_names_of_data_sets_are_text_in_a_notebook(tmp_path, images):
    path = make_store(tmp_path / "<b>scan.zarr", images[:2], chunk=2)
    page = braggflow.run(SETTINGS, [path], out=tmp_path / "out")._repr_html_()
    assert "&lt;b&gt;scan" in page
    assert "<b>" not in page


def test_the_share_done_goes_from_0_to_1(tmp_path, data):
    seen = []
    run(SETTINGS, [data], out=tmp_path, progress=seen.append)
    shares = [state.share for state in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    stages = list(dict.fromkeys(state.stage for state in seen))
    assert stages == ["opening scan", "looking at a few frames", "", "joining the table"]


def test_what_is_refused_by_its_turn_is_no_crash(tmp_path, data, images, monkeypatch):
    other = make_store(tmp_path / "other.zarr", images[:2], chunk=2)
    begin = InProcess.run

    def with_a_foreign_folder(self):
        (tmp_path / "out" / "other").mkdir(parents=True)
        (tmp_path / "out" / "other" / "notes.txt").touch()
        return begin(self)

    monkeypatch.setattr(InProcess, "run", with_a_foreign_folder)
    done = run(SETTINGS, [data, other], out=tmp_path / "out")
    assert [outcome.status for outcome in done] == ["complete", "refused"]
    assert "is not empty and holds no run" in done[1].message


@pytest.mark.parametrize("sections", [SETTINGS, WITH_WORKERS], ids=["in this process", "on workers"])
def test_a_file_put_into_the_series_during_a_run_never_mixes_its_frames(tmp_path, images, sections):
    folder = tmp_path / "series"
    folder.mkdir()
    for k, image in enumerate(images[:6]):
        np.save(folder / f"scan_{2 * k:02d}.npy", image)

    def intrude(state):
        if state.stage.startswith("looking"):
            opened_series.cache_clear()
            np.save(folder / "scan_01.npy", images[0])

    with pytest.raises(InputError, match="holds other frames than when the run began; run again"):
        run(sections, [folder], out=tmp_path / "out", progress=intrude)
    assert not (tmp_path / "out").exists()


def test_a_series_that_changes_before_its_turn_is_left_as_it_is_and_the_others_go_on(tmp_path, images):
    folder = tmp_path / "series"
    folder.mkdir()
    for k, image in enumerate(images[:4]):
        np.save(folder / f"scan_{2 * k:02d}.npy", image)
    others = [make_store(tmp_path / f"{name}.zarr", images[:4], chunk=2) for name in ("first", "last")]

    def intrude(path, _data, _total):
        if path == folder:
            np.save(folder / "scan_01.npy", images[5])

    done = run(SETTINGS, [others[0], folder, others[1]], out=tmp_path / "out", opened=intrude)
    assert [outcome.status for outcome in done] == ["complete", "interrupted", "complete"]
    assert "holds other frames than when the run began" in done[1].message
    assert not list(RunFolder(done[1].folder).parts.glob("*.npz"))


def test_an_error_in_looking_for_changes_spoils_no_run(tmp_path, data, no_workers, monkeypatch):
    whole = run(SETTINGS, [data], out=tmp_path / "whole")

    def fails(*_, **__):
        raise IndexError("odd states")

    for module in ("conclusion", "data_set"):
        monkeypatch.setattr(f"braggflow.flow.{module}.find_alarms", fails)
    done = run(SETTINGS, [data], out=tmp_path / "odd")
    assert done.status == "complete"
    assert "changes between frames were not looked for (IndexError: odd states)" in done[0].message
    assert_same_table(done.peaks, whole.peaks)
