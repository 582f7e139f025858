"""Whatever is odd in a store or in a run folder is its own refusal, or made good: no other data set is stopped."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from braggflow import InputError, find_peaks
from braggflow.cli.entry import command_line
from braggflow.flow import in_process, run
from braggflow.flow.unchanged import NO_STORE, store_stamp
from braggflow.frames import open_frames
from braggflow.results import RunFolder, data_set_statuses, open_peaks, read_run_info
from tests.fuzz.data_sets import SETTINGS, campaign
from tests.stores import assert_same_table, make_store, spots

pytestmark = pytest.mark.faults

#: Of stores and run folders that are odd in ways drawn at random; `make fuzz-odd` tries 2,000.
CASES = 12


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    images = np.stack([spots((48, 48), 3, seed=seed) for seed in range(2)])
    return make_store(tmp_path_factory.mktemp("good") / "good.zarr", images, mask=np.zeros((48, 48), bool))


def attribute(name, value):
    return lambda store: zarr.open_group(store).attrs.update({name: value})


def array(name, **changes):
    def change(store):
        path = store / name / "zarr.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def coordinate(name, values):
    def change(store):
        shutil.rmtree(store / name, ignore_errors=True)
        values_ = np.asarray(values)
        zarr.open_group(store).create_array(name, data=values_, dimension_names=("frame",))

    return change


def content(file, data):
    return lambda store: (store / file).write_bytes(data)


def instead(make):
    def change(store):
        shutil.rmtree(store)
        make(store)

    return change


def renamed(name):
    return lambda store: os.rename(os.fsencode(store), os.path.join(os.fsencode(store.parent), name))  # noqa: PTH104, PTH118


CHUNKS = {"name": "regular", "configuration": {"chunk_shape": [0, 48, 48]}}
ODD = {
    "version null": attribute("format_version", None),
    "version text": attribute("format_version", "one"),
    "version list": attribute("format_version", [1]),
    "version newer": attribute("format_version", 99),
    "missing number": attribute("missing_frames", 7),
    "missing texts": attribute("missing_frames", [["a", "b", "c"]]),
    "chunks of nothing": array("frames", chunk_grid=CHUNKS),
    "negative shape": array("frames", shape=[-1, 48, 48]),
    "empty series": array("frames", shape=[0, 48, 48]),
    "shape null": array("frames", shape=None),
    "complex": array("frames", data_type="complex128"),
    "unknown type": array("frames", data_type="spots"),
    "unknown codec": array("frames", codecs=[{"name": "magic"}]),
    "other axes": array("frames", dimension_names=["v", "u", "w"]),
    "two axes": array("frames", dimension_names=["y", "x"]),
    "mask of other size": array("mask", shape=[9, 9]),
    "frame twice": coordinate("frame", [1, 1]),
    "frame halves": coordinate("frame", [0.5, 1.5]),
    "reserved name": coordinate("intensity", [1.0, 2.0]),
    "description cut": content("frames/zarr.json", b'{"zarr_format": 3, "node_ty'),
    "description a list": content("zarr.json", b"[]"),
    "description nested": content("zarr.json", b"[" * 100_000),
    "description no text": content("zarr.json", b'{"a": "\xff\xfe"}'),
    "frames gone": lambda store: shutil.rmtree(store / "frames"),
    "a file": instead(lambda store: store.write_text("frames")),
    "a link to nothing": instead(lambda store: store.symlink_to("nowhere")),
    "a link to itself": instead(lambda store: store.symlink_to(store.name)),
    "an empty folder": instead(Path.mkdir),
    "control": renamed(b"z control\x1b[2J\nx.zarr"),
    "no text": renamed(b"z no text \xff.zarr"),
}


def test_thirty_odd_stores_among_thirty_good_ones(tmp_path, good, monkeypatch, capfd):
    data, config = tmp_path / "data", tmp_path / "run.yaml"
    config.write_text(json.dumps(SETTINGS))
    for number, (name, change) in enumerate(ODD.items()):
        shutil.copytree(good, data / f"scan{number}.zarr")
        shutil.copytree(good, data / f"{name}.zarr")
        change(data / f"{name}.zarr")
    monkeypatch.setattr(sys, "argv", ["braggflow", "run", str(config), str(data), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        command_line()
    shown = "".join(capfd.readouterr())
    assert ended.value.code == 3, shown
    assert "Traceback" not in shown
    assert "\x1b" not in shown
    states = data_set_statuses(tmp_path / "out")
    assert {state.name for state in states if state.status == "complete"} == {f"scan{n}" for n in range(len(ODD))}
    refused = [state for state in states if state.status == "refused"]
    assert len(refused) == len(ODD) == 30
    for state in refused:
        assert state.reasons, state


def test_what_is_odd_at_random_is_refused_or_made_good_and_nothing_else(tmp_path):
    counts, findings = campaign(range(CASES), tmp_path)
    assert findings == []
    assert sum(counts.values()) == CASES


RUN_FOLDERS = {
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
    "no record": lambda folder: (folder / "run.json").unlink(),
    "record null": lambda folder: (folder / "run.json").write_text("null"),
    "record of nothing": lambda folder: (folder / "run.json").write_text('{"identity": {}}'),
    "record no text": lambda folder: (folder / "run.json").write_bytes(b"\xff\xfe{}"),
    "record nested": lambda folder: (folder / "run.json").write_bytes(b"[" * 100_000),
    "parts a file": lambda folder: (shutil.rmtree(folder / "parts"), (folder / "parts").write_text("x")),
}


def test_odd_run_folders_stop_no_other_and_are_made_good_from_their_parts(tmp_path, good):
    stores = [tmp_path / f"{name}.zarr" for name in (*RUN_FOLDERS, "z")]
    for store in stores:
        shutil.copytree(good, store)
    out = tmp_path / "out"
    run(SETTINGS, stores, out=out)
    whole = open_peaks(out / "z").load()
    for name, change in RUN_FOLDERS.items():
        change(out / name)
    found = {outcome.name: outcome for outcome in run(SETTINGS, stores, out=out)}
    assert found.pop("z").status == "complete"
    # Whose parts are gone, or what it is, nobody knows: not ours to replace.
    for name in ("a file", "parts a file"):
        refused = found.pop(name)
        assert refused.status == "refused", refused
        assert str(out / name) in refused.message
    for outcome in found.values():
        assert outcome.status == "complete", outcome
        assert "run.json was" in outcome.message
        np.testing.assert_array_equal(open_peaks(outcome.folder)["y"], whole["y"])


def test_a_store_that_is_replaced_while_it_is_processed_leaves_no_table(tmp_path, good, monkeypatch):
    for name in ("scan", "z"):
        shutil.copytree(good, tmp_path / f"{name}.zarr")
    stores, process, replaced = [tmp_path / "scan.zarr", tmp_path / "z.zarr"], in_process.process_group, []

    def replace_at_the_first(*arguments):
        part = process(*arguments)
        if not replaced:
            other = make_store(tmp_path / "other.zarr", np.stack([spots((48, 48), 3, seed=9)] * 2))
            shutil.copytree(other / "frames" / "c", stores[0] / "frames" / "c", dirs_exist_ok=True)
            replaced.append(part)
        return part

    monkeypatch.setattr(in_process, "process_group", replace_at_the_first)
    left, other = run(SETTINGS, stores, out=tmp_path / "out")
    assert (left.status, other.status) == ("interrupted", "complete")
    assert "scan.zarr: its files have changed since the run began" in left.message
    assert not RunFolder(left.folder).peaks.exists()
    assert left.message in data_set_statuses(left.folder)[0].reasons
    (again,) = run(SETTINGS, stores[:1], out=tmp_path / "out")
    assert (again.status, again.frames_processed) == ("complete", 2)
    assert_same_table(open_peaks(again.folder), run(SETTINGS, stores[:1], out=tmp_path / "new").peaks.load())


def test_a_store_is_the_same_whatever_way_it_is_named(tmp_path, good, monkeypatch):
    shutil.copytree(good, tmp_path / "scan.zarr")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.zarr").symlink_to("scan.zarr")
    assert [outcome.status for outcome in run(SETTINGS, ["scan.zarr", "link.zarr"], out="out")] == ["complete"]
    assert store_stamp(Path("link.zarr")) == store_stamp(tmp_path / "scan.zarr") != NO_STORE


def test_a_report_that_is_missing_is_made_and_what_killed_runs_left_goes(tmp_path, good):
    settings = SETTINGS | {"output": {"report": True}}
    (first,) = run(settings, [good], out=tmp_path)
    folder = RunFolder(first.folder)
    left = [folder.path / ".run.0f.wip.json", folder.path / "peaks.wip.0f.zarr", folder.parts / ".part-1.0f.wip.npz"]
    for path in left:
        path.write_text("x")
    (again,) = run(settings, [good], out=tmp_path)
    assert (again.status, again.frames_processed) == ("complete", 0)
    assert not any(path.exists() for path in left)
    before = folder.report.stat().st_mtime_ns
    run(settings, [good], out=tmp_path)
    assert folder.report.stat().st_mtime_ns == before
    folder.report.unlink()
    (made,) = run(settings, [good], out=tmp_path)
    assert (made.status, made.frames_processed) == ("complete", 0)
    assert folder.report.exists()
    assert read_run_info(folder)["status"] == "complete"


@pytest.mark.parametrize(
    "settings",
    [
        {"frames": {"start": 2}},
        {"frames": {"mask": "nowhere.npy"}},
        {"frames": {"dark": "nowhere.npy"}},
        {"frames": {"counts_per_photon": "auto"}},
        {"detect": {"background": "nowhere.npy"}},
        {"detect": {"minval": "6 sigma"}},
        {"detect": {"minval": 0}},
        {"locate": {"network": "nowhere.pth"}},
        {"locate": {"network": "braggnn"}, "patches": {"size": 13}},
        {"fit": {"model": "voigt"}},
    ],
    ids=str,
)
def test_find_peaks_refuses_what_run_refuses(tmp_path, settings):
    # Frames whose noise was cut off, so that no level can be a multiple of it.
    images = np.stack([spots((40, 40), 3, seed=seed, background=0) for seed in range(2)])
    store = make_store(tmp_path / "scan.zarr", np.where(images < 50, 0, images))
    base = {"detect": {"background": "none"}, "locate": {"network": "none"}, "output": {"report": False}}
    given = {section: {**base.get(section, {}), **settings.get(section, {})} for section in {**base, **settings}}
    with pytest.raises(InputError) as by_run:
        run(given, [store], out=tmp_path / "out")
    with pytest.raises(InputError) as by_find_peaks:
        find_peaks(open_frames(store), config=given)
    key = str(by_run.value).removeprefix("configuration: ").split(":")[0]
    assert key in str(by_find_peaks.value)
