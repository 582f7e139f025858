"""Naming data sets, following a folder, the record of outcomes, and the status of many runs."""

import numpy as np
import pytest

from braggflow.errors import InputError
from braggflow.frames import (
    create_store,
    data_set_name,
    data_set_names,
    expand_data_sets,
    open_frames,
)
from tests.stores import empty_stores, one_frame, relative

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
    "*_x.zarr": r"data: .*/\*_x\.zarr: no frames store \(\*\.zarr\) or detector file has such a name",
    "hdf5": r"the folder holds HDF5 files.*name them, or '.*/hdf5/\*\.h5'.*braggflow ingest .*/hdf5 --out hdf5\.z",
    "peaks.csv": r"peaks\.csv: is a table, and no list of data sets",
    "braggflow.yaml": r"braggflow\.yaml: is a configuration, which comes first \(braggflow run CONFIG\.yaml DATA\)",
    "*.cbf": r"\*\.cbf: no frames store \(\*\.zarr\) or detector file has such a name",
    "made.zarr.wip": r"data: .*/made\.zarr\.wip: is not finished",
    "frames.raw": r"data: .*/frames\.raw: is neither a frames store nor a text file that lists them",
    "latin.txt": r"data: .*/latin\.txt: is neither a frames store nor a text file",
    "empty.txt": r"data: .*/empty\.txt: is a list that names no data set",
    "typo.txt": r"data: .*/typo\.txt, line 3: scna: does not exist",
    "lists.txt": r"data: .*/lists\.txt, line 1: empty\.txt: is a file; a list may name frames stores, detector files,",
}


@pytest.mark.parametrize("name", NO_DATA_SETS)
def test_what_cannot_be_a_data_set_is_refused_by_name(tmp_path, name):
    empty_stores(tmp_path, "a.zarr", "empty", "made.zarr.wip")
    (tmp_path / "hdf5").mkdir()
    (tmp_path / "hdf5" / "a.h5").write_bytes(b"\x89HDF")
    (tmp_path / "peaks.csv").write_text("frame,y,x\n0,1,2\n")
    (tmp_path / "braggflow.yaml").write_text("data: []\n")
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
    for name in ("..zarr", "...zarr", "..h5"):
        with pytest.raises(InputError, match=r"has no name to give its results"):
            data_set_name(name)
    with pytest.raises(InputError, match=r"data: \.zarr: has no name"):
        data_set_name(".zarr")


def test_two_data_sets_of_one_name_are_refused():
    with pytest.raises(InputError, match=r"data: b/scan\.zarr: another data set is named scan too; their results"):
        data_set_names(["a/scan.zarr", "a/other.zarr", "b/scan.zarr"])
