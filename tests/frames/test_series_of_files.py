"""Detector files that are one series, read as they are: the same frames and peaks as by ingest."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr
from fabio.cbfimage import CbfImage

import braggflow
from braggflow.convert import ingest, inspect_series
from braggflow.errors import InputError
from braggflow.frames import data_set_name, expand_data_sets, file_series, open_frames
from braggflow.results import frames_identity
from tests.stores import spots

FRAMES = np.stack([spots((72, 64), 5, seed=seed) for seed in range(12)])
SECTIONS = {"detect": {"minval": 15, "minscore": 10}, "locate": {"network": "none"}}


@pytest.fixture
def cbf(tmp_path: Path) -> Path:
    """A folder of files of a frame each; the second is named so that text and number sort differently."""
    folder = tmp_path / "night"
    folder.mkdir()
    for number, frame in enumerate(FRAMES):
        CbfImage(data=frame.astype(np.int32)).write(folder / f"scan_{number}.cbf")
    (folder / "notes.txt").write_text("12 frames")
    return folder


def same_frames(path: Path | str) -> xr.Dataset:
    data = open_frames(path)
    np.testing.assert_array_equal(data["frames"].values, FRAMES)
    return data


def test_a_folder_a_pattern_and_what_a_shell_makes_of_it_are_one_data_set(cbf: Path) -> None:
    pattern = cbf / "scan_*.cbf"
    assert expand_data_sets([cbf]) == [cbf]
    assert expand_data_sets([pattern]) == expand_data_sets(sorted(cbf.glob("*.cbf"))) == [pattern]
    assert list(map(data_set_name, (cbf, pattern, cbf / "*.cbf", cbf / "scan_1.cbf.gz"))) == [
        *("night", "scan", "night", "scan_1"),
    ]
    for path in (cbf, pattern):
        same_frames(path)


def test_some_files_of_a_series_are_no_series(cbf: Path) -> None:
    with pytest.raises(
        InputError, match=r"scan_3\.cbf, \.\.\. \(2 files\): each holds one frame\..*'.*/night/scan_\*\.cbf'"
    ):
        expand_data_sets([cbf / "scan_3.cbf", cbf / "scan_4.cbf"])
    assert expand_data_sets([cbf / "scan_3.cbf"]) == [cbf / "scan_3.cbf"]


def test_files_that_are_a_series_each_stay_so(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, FRAMES, photometric="minisblack")
    np.save(tmp_path / "c.npy", FRAMES)
    files = [tmp_path / name for name in ("a.tif", "b.tif", "c.npy")]
    assert expand_data_sets(files) == files
    assert [data_set_name(path) for path in files] == ["a", "b", "c"]
    for path in files:
        same_frames(path)


def test_a_folder_gives_the_peaks_of_the_store_that_ingest_makes_of_it(cbf: Path, tmp_path: Path) -> None:
    store = ingest([cbf], tmp_path / "made.zarr", workers=1)
    mine, theirs = (braggflow.find_peaks(open_frames(path), config=SECTIONS) for path in (cbf, store))
    assert mine.sizes["peak"] > 20
    xr.testing.assert_identical(mine, theirs)


def test_a_series_of_files_is_known_by_their_names_sizes_and_times(cbf: Path) -> None:
    before = frames_identity(cbf, open_frames(cbf))
    assert before == frames_identity(cbf, open_frames(cbf))
    assert [source["name"] for source in before["origin"]] == [f"scan_{number}.cbf" for number in range(12)]
    os.utime(cbf / "scan_5.cbf", ns=(1, 1))
    assert frames_identity(cbf, open_frames(cbf)) != before
    (cbf / "scan_11.cbf").unlink()
    assert open_frames(cbf).sizes["frame"] == 11


def test_a_file_that_changes_after_it_was_opened_is_not_read(cbf: Path) -> None:
    data = open_frames(cbf)
    os.utime(cbf / "scan_7.cbf", ns=(1, 1))
    with pytest.raises(OSError, match=r"scan_7\.cbf: has changed since it was opened"):
        data["frames"][7].load()


def test_a_file_that_cannot_be_read_is_named_with_its_frames(cbf: Path) -> None:
    data, file = open_frames(cbf), cbf / "scan_7.cbf"
    stamp = file.stat()
    file.write_bytes(bytes(stamp.st_size))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(OSError, match=r"^frames 0 to 0 of .*scan_7\.cbf"):
        data["frames"][7].load()


def test_inspect_tells_the_same_of_a_folder(cbf: Path) -> None:
    (facts,) = inspect_series([cbf])
    assert (facts.kind, facts.frames, len(facts.sources)) == ("fabio", 12, 12)


def test_of_too_many_files_the_command_is_named_that_makes_a_store(cbf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_series, "MOST_FILES", 11)
    with pytest.raises(
        InputError, match=r"has 12 files, more than the 11 .*braggflow ingest .*night --out night\.zarr"
    ):
        open_frames(cbf)


def test_a_damaged_file_is_named(cbf: Path) -> None:
    (cbf / "scan_3.cbf").write_bytes(b"###CBF: nothing")
    with pytest.raises(InputError, match=r"scan_3\.cbf"):
        open_frames(cbf)
