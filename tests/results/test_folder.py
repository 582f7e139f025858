import json
import multiprocessing
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow import files as files_module
from braggflow import peak_table
from braggflow.config import RunConfig
from braggflow.errors import InputError
from braggflow.files import write_atomic
from braggflow.frames import open_frames
from braggflow.peak_table import Flag, Method
from braggflow.results import (
    Part,
    RunFolder,
    begin_run,
    consolidate,
    frames_identity,
    identity_changes,
    open_peaks,
    read_parts,
    read_run_info,
    resume_run,
    run_identity,
    run_lock,
    write_part,
)
from braggflow.results import identity as identity_module
from braggflow.results import peaks as peaks_module
from tests.patience import PATIENCE
from tests.stores import make_store


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    begin_run(folder, RunConfig(), {"status": "running", "identity": {}})
    return folder


def table_of(frame_numbers, seed=0):
    rng = np.random.default_rng(seed)
    table = peak_table.empty(len(frame_numbers))
    table["peak_frame"] = frame_numbers
    table["y_pixel"], table["x_pixel"] = rng.integers(0, 1000, (2, len(table)))
    table["y"], table["x"] = rng.normal(size=(2, len(table)))
    table["flags"][::3] = Flag.edge
    table["method"] = rng.choice([*Method], len(table))
    return peak_table.sort(table)


def coords(numbers):
    return xr.Dataset(coords={"frame": np.asarray(numbers), "omega": ("frame", np.asarray(numbers) * 0.5)})


def joined(folder, tables, numbers, failed=()):
    """One part per table; the parts' spans are positions, which only order them."""
    summaries = [write_part(folder, Part(i, i + 1, peak_table.sort(table)), "id") for i, table in enumerate(tables)]
    counted = consolidate(folder, summaries, coords(numbers), failed, {"note": "x"})
    return counted, open_peaks(folder.path)


def test_the_table_has_the_schema_in_contiguous_ragged_form(folder):
    tables = [table_of([3, 3, 4]), table_of([5]), table_of([])]
    counted, data = joined(folder, tables, [3, 4, 5, 6], failed=[6])
    assert dict(data.sizes) == {"peak": 4, "frame": 4}
    assert data["peak_count"].values.tolist() == [2, 1, 1, 0]
    assert data["peak_count"].attrs["sample_dimension"] == "peak"
    assert data["frame_failed"].values.tolist() == [0, 0, 0, 1]
    assert data["omega"].values.tolist() == [1.5, 2, 2.5, 3]
    assert data.attrs["note"] == "x"
    expected = np.concatenate(tables)
    for name, variable in peak_table.VARIABLES.items():
        np.testing.assert_array_equal(data[name], expected[name])
        assert data[name].dtype == variable.dtype
        assert data[name].attrs == peak_table.cf_attributes(name)
    assert counted["flags"]["edge"] == (expected["flags"] & Flag.edge != 0).sum()
    assert counted["methods"] == {method.name: list(expected["method"]).count(method) for method in Method}
    assert not list(folder.path.glob("peaks.wip*"))


def test_one_frames_peaks_are_one_short_call(folder):
    _, data = joined(folder, [table_of([1, 1, 2, 4])], [0, 1, 2, 3, 4])
    assert data.sel(peak_frame=1).sizes["peak"] == 2
    assert data.sel(peak_frame=slice(2, 4)).sizes["peak"] == 2
    assert data.sel(peak_frame=slice(3, 3)).sizes["peak"] == 0


@settings(max_examples=20)
@given(st.permutations(range(12)), st.integers(1, 5), st.integers(0, 100))
def test_frames_stored_in_any_order_and_any_parts_give_the_same_table(tmp_path_factory, order, size, seed):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    begin_run(folder, RunConfig(), {})
    rng = np.random.default_rng(seed)
    whole = table_of(np.repeat(np.arange(12), rng.integers(0, 4, 12)), seed)
    parts = [whole[np.isin(whole["peak_frame"], order[i : i + size])] for i in range(0, 12, size)]
    _, data = joined(folder, parts, order)
    for name in peak_table.VARIABLES:
        np.testing.assert_array_equal(data[name], whole[name])
    assert data["frame"].values.tolist() == list(range(12))


def test_many_peaks_cross_the_chunks_of_the_table(folder, monkeypatch):
    monkeypatch.setattr(peaks_module, "TABLE_CHUNK", 7)
    tables = [table_of([i] * 5, seed=i) for i in range(6)]
    _, data = joined(folder, tables, range(6))
    np.testing.assert_array_equal(data["y"], np.concatenate(tables)["y"])


def test_a_table_in_memory_equals_the_table_on_disk(folder):
    table = table_of([3, 3, 4])
    _, data = joined(folder, [table], [3, 4, 5], failed=[5])
    xr.testing.assert_identical(data.load(), peak_table.to_dataset(table, coords([3, 4, 5]), [5], {"note": "x"}))


def test_a_table_of_an_older_version_is_read_and_lacks_only_values(folder):
    tables = [table_of([1, 1, 2])]
    _, data = joined(folder, tables, [0, 1, 2])
    group = zarr.open_group(folder.peaks)
    del group["domain_probability"]
    group.attrs["format_version"] = 1
    del group.attrs["checksums"]
    old = open_peaks(folder.path)
    assert set(old.variables) == set(data.variables)
    assert np.isnan(old["domain_probability"].values).all()
    assert old["domain_probability"].dtype == data["domain_probability"].dtype
    assert old["domain_probability"].attrs == peak_table.cf_attributes("domain_probability")
    np.testing.assert_array_equal(old.sel(peak_frame=1)["y"], tables[0]["y"][:2])


@pytest.mark.parametrize("version", [0, peak_table.SCHEMA_VERSION + 1, "two", None])
def test_a_table_of_an_unknown_version_is_refused(folder, version):
    joined(folder, [table_of([1])], [0, 1])
    zarr.open_group(folder.peaks).attrs["format_version"] = version
    known = f"reads 1 to {peak_table.SCHEMA_VERSION}"
    with pytest.raises(InputError, match=rf"peaks\.zarr: has format_version {version}, .* {known}"):
        open_peaks(folder.path)


def test_no_peaks_at_all_is_an_empty_table(folder):
    _, data = joined(folder, [table_of([])], [0, 1])
    assert data.sizes == {"peak": 0, "frame": 2}
    assert set(peak_table.VARIABLES) <= set(data.variables)


def test_parts_of_another_run_and_broken_files_are_not_finished(folder):
    write_part(folder, Part(0, 4, table_of([0])), "id")
    write_part(folder, Part(4, 8, table_of([5])), "other")
    whole = folder.part(0, 4).read_bytes()
    folder.part(8, 12).write_bytes(whole[: len(whole) // 2])
    folder.part(12, 16).write_bytes(b"")
    flipped = bytearray(whole)
    flipped[-len(whole) // 3] ^= 1  # in the table, not in what sums it up
    folder.part(16, 20).write_bytes(flipped)
    assert set(read_parts(folder, "id")) == {(0, 4)}


def test_a_part_that_another_run_wrote_over_ours_is_not_joined(folder):
    summary = write_part(folder, Part(0, 4, table_of([0, 1])), "id")
    write_part(folder, Part(0, 4, table_of([0])), "other")
    with pytest.raises(ValueError, match="another run"):
        consolidate(folder, [summary], coords([0, 1]), [], {})


class Trap:
    """What runs code as soon as it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


def test_nothing_that_a_part_holds_is_ever_run(folder, tmp_path):
    summary = write_part(folder, Part(0, 1, table_of([0])), "id")
    trapped = np.empty(1, object)
    trapped[0] = Trap(tmp_path / "sprung")
    np.savez(folder.part(0, 1), peaks=trapped, meta=trapped)
    assert read_parts(folder, "id") == {}
    with pytest.raises(ValueError, match="allow_pickle"):
        consolidate(folder, [summary], coords([0]), [], {})
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_table_names_a_file_and_how_many_others(folder):
    joined(folder, [table_of([3, 4])], [3, 4])
    chunks = [folder.peaks / name / "c" / "0" for name in ("y", "x", "snr", "flags")]
    for chunk in chunks:
        chunk.unlink()
    with pytest.raises(InputError, match=r"peaks.zarr: \w+/c/0 is missing and 3 others; the run's command"):
        open_peaks(folder.path)


def test_a_folder_is_a_run_from_its_first_file_on_and_leftovers_go(folder):
    for path in (
        folder.parts / ".part-1.ab.wip.npz",
        folder.path / "peaks.wip.ab.rows",
        folder.path / ".run.ab.wip.json",
    ):
        path.write_text("half")
    (folder.path / "peaks.wip.cd.zarr").mkdir()
    folder.settings.unlink()
    resume_run(folder, RunConfig(), {"identity": {}})
    assert {path.name for path in folder.path.iterdir()} == {"parts", "run.json", "run.yaml"}
    assert not list(folder.parts.iterdir())


def test_frames_identity_follows_origin_chunks_images_and_levels(tmp_path):
    def identity(name="a", *, chunk=2, mask=None, **attributes):
        images = np.ones((4, 6, 6), np.uint16)
        path = make_store(
            tmp_path / f"{uuid4().hex}" / f"{name}.zarr", images, chunk=chunk, mask=mask, attributes=attributes
        )
        return frames_identity(path, open_frames(path))

    known = {"simulation": {"seed": 1}}
    first = identity(**known)
    assert first == identity(**known)
    mask = np.zeros((6, 6), bool)
    others = [
        identity(simulation={"seed": 2}),
        identity(**known, chunk=3),
        identity(**known, mask=mask),
        identity(**known, mask=~mask),
        identity(**known, saturation=9),
        identity(**known, masked_below=0),
        identity(),
        identity(),  # another place
    ]
    assert len({json.dumps(other, sort_keys=True) for other in [first, *others]}) == 9


def test_a_failing_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomic(target, b"old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_module.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def _hold(path, ready, release):
    with run_lock(RunFolder(path)):
        ready.set()
        release.wait(30)


def test_two_runs_in_one_folder_are_refused_and_a_dead_one_frees_it(folder):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(folder.path, ready, release))
    holder.start()
    assert ready.wait(PATIENCE)
    with pytest.raises(InputError, match="another run writes here"), run_lock(folder):
        pass
    holder.kill()
    holder.join()
    with run_lock(folder):
        pass


def test_differences_are_named_by_key():
    old = {"settings": {"detect": {"minval": 5.0, "minscore": 1}}, "model": None}
    new = {"settings": {"detect": {"minval": 9.0, "minscore": 1}}, "model": {"name": "compact"}}
    assert identity_changes(old, new) == ["model: None → {'name': 'compact'}", "detect.minval: 5.0 → 9.0"]


def test_identity_follows_settings_code_and_named_files(tmp_path, monkeypatch):
    mask = tmp_path / "mask.npy"
    mask.write_bytes(b"a")
    config = RunConfig.model_validate({"frames": {"mask": str(mask)}})
    first = run_identity(config, {"origin": "here"}, None)
    assert first == run_identity(config, {"origin": "here"}, None)
    assert json.loads(json.dumps(first)) == first
    mask.write_bytes(b"b")
    assert identity_changes(first, run_identity(config, {"origin": "here"}, None))[0].startswith("files.frames.mask")
    monkeypatch.setattr(identity_module, "code_version", lambda: {"version": "9", "sources": "0"})
    assert any("code.version" in line for line in identity_changes(first, run_identity(config, {}, None)))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [("run.json", "{", "cannot be read"), ("run.json", "[]", "is not a braggflow run"), ("x", "", "holds no run")],
)
def test_folders_that_hold_no_run_are_refused(tmp_path, name, content, part):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=part):
        read_run_info(RunFolder(tmp_path))


def test_open_peaks_names_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"peaks\.zarr is missing"):
        open_peaks(tmp_path)
    xr.Dataset({"a": 1}).to_zarr(tmp_path / "peaks.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(InputError, match="is not a braggflow peak table"):
        open_peaks(tmp_path)
