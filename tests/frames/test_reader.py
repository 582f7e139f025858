"""The flow's reading of chunks, against `read_raw`."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
import zarr

from braggflow.frames import create_store, finish_store, frames_from_array, open_frames, unfinished_path
from braggflow.frames.reader import FrameReader
from braggflow.frames.seals import seal
from braggflow.frames.store import FRAMES_FORMAT


@pytest.fixture
def store(tmp_path):
    """Seven frames in chunks of two, the last chunk half empty."""
    images = np.random.default_rng(0).poisson(5, (7, 40, 30)).astype(np.uint16)
    path = tmp_path / "a.zarr"
    array = create_store(path, n_frames=7, shape=(40, 30), dtype=images.dtype)
    array = zarr.open_group(unfinished_path(path), mode="r+").create_array(
        "frames",
        shape=array.shape,
        dtype=array.dtype,
        chunks=(2, 40, 30),
        compressors=array.compressors,
        dimension_names=("frame", "y", "x"),
        overwrite=True,
    )
    array[:] = images
    finish_store(path)
    return path, images


def chunk(path, index):
    return path / "frames" / "c" / str(index) / "0" / "0"


@pytest.mark.parametrize("positions", [[0, 1], [2], [3], [6], [1, 2], [0, 1, 2, 3], [0, 6], [4, 5]])
def test_frames_are_those_of_the_store_within_a_chunk_and_across(store, positions):
    path, images = store
    reader = FrameReader(open_frames(path))
    for following in (None, 2, 6):
        found = reader.read(np.array(positions), following=following)
        np.testing.assert_array_equal(found, images[positions])
        assert found.dtype == images.dtype


def test_threads_that_share_a_reader_do_not_disturb_each_other(store):
    path, images = store
    reader = FrameReader(open_frames(path))

    def read(position):
        return reader.read(np.array([position]), following=(position + 2) % 7).copy()

    positions = [k % 7 for k in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for position, found in zip(positions, pool.map(read, positions), strict=True):
            np.testing.assert_array_equal(found[0], images[position])


def test_a_chunk_is_decoded_into_the_memory_of_the_one_before(store):
    path, _ = store
    reader = FrameReader(open_frames(path))
    assert np.shares_memory(reader.read(np.array([0, 1])), reader.read(np.array([2])))


def test_a_missing_chunk_is_named_whether_it_was_read_ahead_or_not(store):
    path, images = store
    chunk(path, 1).unlink()
    reader = FrameReader(open_frames(path))
    for following in (None, 2):
        np.testing.assert_array_equal(reader.read(np.array([0, 1]), following=following), images[:2])
        with pytest.raises(FileNotFoundError, match=r"chunk frames/c/1/0/0 is missing"):
            reader.read(np.array([2]))
    np.testing.assert_array_equal(reader.read(np.array([6])), images[6:])


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-5],
        lambda whole: whole + b"more",
        lambda whole: whole[:9],
        lambda _: b"",
        lambda whole: whole[:4] + (10**9).to_bytes(4, "little") + whole[8:],
        lambda whole: whole[:40] + bytes(len(whole) - 40),
    ],
    ids=["cut", "longer", "header cut", "empty", "other size", "zeros"],
)
def test_a_damaged_chunk_is_an_error_that_names_it_and_does_no_harm(store, damage):
    path, images = store
    file = chunk(path, 1)
    file.write_bytes(damage(file.read_bytes()))
    reader = FrameReader(open_frames(path))
    with pytest.raises(ValueError, match=r"chunk frames/c/1/0/0 is damaged"):
        reader.read(np.array([2, 3]))
    np.testing.assert_array_equal(reader.read(np.array([4, 5])), images[4:6])


@pytest.mark.parametrize("at", [4, 12], ids=["decoded", "encoded"])
@pytest.mark.parametrize("change", [-1, 1])
def test_sizes_of_a_header_that_are_not_true_are_damage_without_a_checksum_too(tmp_path, at, change):
    stated = {"format": FRAMES_FORMAT, "format_version": 1}
    array = zarr.open_group(tmp_path / "a.zarr", mode="w", attributes=stated).create_array(
        "frames",
        shape=(2, 40, 30),
        dtype="u2",
        chunks=(1, 40, 30),
        compressors=(zarr.codecs.BloscCodec(cname="zstd", typesize=2),),
        dimension_names=("frame", "y", "x"),
    )
    array[:] = np.random.default_rng(0).poisson(5, array.shape)
    file = chunk(tmp_path / "a.zarr", 1)
    whole = file.read_bytes()
    size = int.from_bytes(whole[at : at + 4], "little") + change
    file.write_bytes(whole[:at] + size.to_bytes(4, "little") + whole[at + 4 :])
    with pytest.raises(ValueError, match=rf"frames/c/1/0/0 is damaged.* {size}\b"):
        FrameReader(open_frames(tmp_path / "a.zarr")).read(np.array([1]))


def test_what_is_stored_in_another_way_is_left_to_zarr(store, tmp_path):
    path, images = store
    data = open_frames(path)
    others = {
        "shards": {"chunks": (1, 40, 30), "shards": (2, 40, 30)},
        "parts of frames": {"chunks": (2, 20, 30)},
        "another codec": {"chunks": (2, 40, 30), "compressors": (zarr.codecs.GzipCodec(),)},
        "not compressed": {"chunks": (2, 40, 30), "compressors": ()},
    }
    for name, encoding in others.items():
        copy = tmp_path / f"{name}.zarr"
        shutil.copytree(path, copy)
        array = zarr.open_group(copy, mode="r+").create_array(
            "frames", shape=(7, 40, 30), dtype="u2", dimension_names=("frame", "y", "x"), overwrite=True, **encoding
        )
        array[:] = images
        seal(copy)
        np.testing.assert_array_equal(FrameReader(open_frames(copy)).read(np.array([2, 3]), following=4), images[2:4])
    foreign = xr.Dataset({"frames": (("frame", "y", "x"), images)}, coords={"frame": np.arange(7)})
    np.testing.assert_array_equal(FrameReader(frames_from_array(foreign)).read(np.array([2, 3])), images[2:4])
    np.testing.assert_array_equal(FrameReader(frames_from_array(data)).read(np.array([2, 3])), images[2:4])
