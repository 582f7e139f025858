"""Runs on HDF5 files themselves: the same bits as from the stores that ingest makes of them."""

import os

import h5py
import hdf5plugin
import numpy as np
import pytest
import xarray as xr

import braggflow
from braggflow.cluster.connect import local_cluster
from braggflow.config import ComputeConfig, resolve_config
from braggflow.convert import ingest
from braggflow.errors import InputError
from braggflow.flow import run
from braggflow.frames import data_set_names, expand_data_sets, open_frames, open_series
from braggflow.frames import store as store_module
from braggflow.frames.marks import MAX_LOOKED_AT
from braggflow.peak_table import Flag
from braggflow.pipeline import search_chunk
from braggflow.results import RunFolder, open_peaks, read_run_info
from tests.stores import spots

SHAPE = (72, 64)
SECTIONS = {"detect": {"minval": 15, "minscore": 10}, "locate": {"network": "none"}}


def images(n=20):
    return np.stack([spots(SHAPE, 5, seed=seed) for seed in range(n)])


def write(path, data, *, pixel_mask=None, saturation=None, **options):
    """A NeXus file of one data set, a frame in each chunk, compressed as detectors do."""
    with h5py.File(path, "w") as file:
        options = {"chunks": (1, *data.shape[1:]), **hdf5plugin.Bitshuffle(cname="lz4")} | options
        file.create_dataset("entry/data", data=data, **options)
        detector = file.create_group("entry/detector")
        detector.attrs["NX_class"] = "NXdetector"
        detector["distance"] = 0.25
        if pixel_mask is not None:
            detector["pixel_mask"] = pixel_mask.astype(np.uint32)
        if saturation is not None:
            detector["saturation_value"] = saturation
    return path


def found(path):
    return braggflow.find_peaks(open_frames(path), config=SECTIONS)


def assert_same_bits(path, folder):
    """The table of the file's peaks is that of its store's, of which there are some."""
    mine, theirs = found(path), found(ingest([path], folder / "made.zarr", workers=1))
    assert mine.sizes["peak"] > 20
    xr.testing.assert_identical(mine, theirs)
    return mine


def test_dead_pixels_of_the_files_mask_and_its_saturation_count_as_in_a_store(tmp_path):
    data = images()
    dead = np.zeros(SHAPE, bool)
    dead[30:33] = dead[:, 40] = True
    data[:, dead] = 65535
    data[3, 10:13, 10:13] = 700  # above what the file calls saturated
    path = write(tmp_path / "scan.h5", data, pixel_mask=dead, saturation=600)
    table = assert_same_bits(path, tmp_path)
    assert (table["flags"] & int(Flag.saturated)).any()
    opened = open_frames(path)
    np.testing.assert_array_equal(opened["mask"].values, dead)
    assert (opened.attrs["saturation"], opened.attrs["geometry"]) == (600, {"distance_mm": 250.0})


def test_pixels_at_the_limit_in_some_frames_are_saturated_as_in_a_store(tmp_path):
    data = images()
    data[::2, 10:12, 20:22] = 65535
    table = assert_same_bits(write(tmp_path / "scan.nxs", data), tmp_path)
    assert (table["flags"] & int(Flag.saturated)).any()


def test_negative_marks_in_all_frames_and_in_one_count_as_in_a_store(tmp_path):
    data = images().astype(np.int32)
    data[:, 20:24] = -1
    data[5, :, 50] = -2
    table = assert_same_bits(write(tmp_path / "scan.hdf5", data), tmp_path)
    assert not table["y_pixel"].isin([20, 21, 22, 23]).any()


def test_dead_pixels_of_a_short_series_are_masked_as_in_a_store(tmp_path):
    data = images(MAX_LOOKED_AT)
    data[:, 20:22, 30] = 65535
    assert_same_bits(write(tmp_path / "scan.h5", data), tmp_path)


def test_dead_pixels_of_a_long_series_are_masked_as_in_a_store(tmp_path):
    data = images(MAX_LOOKED_AT + 7)
    data[:, 20, 30:33] = 65535
    assert_same_bits(write(tmp_path / "scan.h5", data), tmp_path)
    assert np.argwhere(open_frames(tmp_path / "scan.h5")["mask"].values).tolist() == [[20, 30], [20, 31], [20, 32]]


def test_an_eiger_master_and_floats_are_read_like_their_stores(tmp_path):
    data = images().astype(np.float32)
    data[:, 5] = np.nan
    with h5py.File(tmp_path / "s_master.h5", "w") as master:
        for number, part in ((1, data[:7]), (2, data[7:])):
            name = f"s_data_{number:06d}.h5"
            with h5py.File(tmp_path / name, "w") as file:
                file.create_dataset("entry/data/data", data=part, chunks=(3, *SHAPE))
            master[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(name, "entry/data/data")
    assert_same_bits(tmp_path / "s_master.h5", tmp_path)
    opened = open_frames(tmp_path / "s_master.h5")["frames"]
    for key in (slice(5, 9), [0, 6, 7, 19], 7, slice(None, None, 6)):
        np.testing.assert_array_equal(opened[key].values, data[key])
    np.testing.assert_array_equal(opened[:, 3, 8:12].values, data[:, 3, 8:12])
    assert opened[2:2].shape == opened[2:2].values.shape == (0, *SHAPE)


def test_a_task_reads_whole_chunks_of_the_file_and_about_as_many_bytes_as_from_a_store(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MIN_CHUNKS", 1)
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 7 * SHAPE[0] * SHAPE[1] * 2)
    path = write(tmp_path / "scan.h5", images(), chunks=(3, 36, 64))
    assert open_frames(path)["frames"].encoding["chunks"] == (6, *SHAPE)


def test_which_hdf5_files_are_data_sets(tmp_path):
    for name in ("s_2.h5", "s_10.h5", "e_master.h5", "e_data_000001.h5"):
        write(tmp_path / name, images(1))
    names = [path.name for path in expand_data_sets([tmp_path / "*.h5"])]
    assert names == ["e_master.h5", "s_2.h5", "s_10.h5"]
    (tmp_path / "list.txt").write_text("s_2.h5\ns_2.h5:/entry/data\n")
    assert data_set_names(expand_data_sets([tmp_path / "list.txt"])) == ["s_2", "s_2_entry_data"]
    with pytest.raises(InputError, match="the folder holds HDF5 files, which may be a series each"):
        expand_data_sets([tmp_path])
    (tmp_path / "broken.h5").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"broken\.h5: cannot be read"):
        open_frames(tmp_path / "broken.h5")


@pytest.fixture(scope="module")
def client():
    with local_cluster(ComputeConfig(workers=1)) as client:
        yield client


def test_a_run_on_the_file_is_resumed_until_the_file_changes(tmp_path, client):
    path = write(tmp_path / "scan.h5", images())
    settings = SECTIONS | {"output": {"report": False}, "compute": {"task_seconds": 0.01}}
    (first,) = run(settings, [f"{path}:/entry/data"], out=tmp_path / "runs", client=client)
    assert (first.name, first.status) == ("scan_entry_data", "complete")
    np.testing.assert_array_equal(open_peaks(first.folder)["y"].values, found(path)["y"].values)
    (again,) = run(settings, [f"{path}:/entry/data"], out=tmp_path / "runs", client=client)
    assert again.frames_processed == 0
    os.utime(path, (1, 1))
    with pytest.raises(InputError, match="results are never mixed"):
        run(settings, [f"{path}:/entry/data"], out=tmp_path / "runs", client=client)


def test_a_damaged_chunk_costs_its_frames_only_and_is_named(tmp_path, client):
    path = write(tmp_path / "scan.h5", images(40), fletcher32=True)
    with h5py.File(path) as file:
        offset = file["entry/data"].id.get_chunk_info(33).byte_offset
    with path.open("r+b") as file:
        file.seek(offset + 50)
        file.write(b"damage")
    settings = SECTIONS | {"output": {"report": False}, "compute": {"retries": 0}}
    (outcome,) = run(settings, [path], out=tmp_path / "runs", client=client)
    failures = read_run_info(RunFolder(tmp_path / "runs" / "scan"))["failures"]
    assert outcome.status == "partial"
    assert 33 in {failure["frame"] for failure in failures}
    assert len(failures) <= 2
    assert all("scan.h5:/entry/data: cannot be read" in failure["reason"] for failure in failures)


def test_a_file_that_changes_while_it_is_read_is_not_read_on(tmp_path):
    path = write(tmp_path / "scan.h5", images())
    opened = open_series(open_frames(path), resolve_config(SECTIONS))
    write(path, images(21))
    result = search_chunk(opened, 0, 1)
    assert "has changed since it was opened" in result.failures[0]["reason"]
