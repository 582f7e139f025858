"""Which frames of a series that is still being written have arrived."""

import os

import h5py
import numpy as np
import pytest
import zarr

from braggflow.errors import InputError
from braggflow.frames import GrowingSeries, done_mark, frame_stamps, growing_data, is_growing_series, open_frames
from braggflow.frames.growing import arrival
from braggflow.results import described_alike, frames_identity, growing_identity
from tests.growing import NAMES, Writer
from tests.stores import make_store, spots

IMAGES = np.stack([spots((40, 48), 3, seed=seed) for seed in range(12)])


@pytest.fixture
def writer(tmp_path, request):
    made = Writer(request.param, tmp_path / NAMES[request.param], IMAGES)
    yield made
    made.kill()


def arrived(series):
    return np.flatnonzero(series.look().there).tolist()


@pytest.mark.parametrize("writer", ["swmr"], indirect=True)
def test_of_a_file_that_is_written_a_frame_is_there_when_its_chunk_is(writer):
    series = GrowingSeries(writer.path)
    with pytest.raises(InputError, match=r"empty|no frames|shape"):
        series.look()
    for position in (0, 1, 4):
        writer.put(position)
    assert arrived(series) == [0, 1, 4]
    writer.put(2)
    assert arrived(series) == [0, 1, 2, 4]
    assert series.look().whole == ""
    before = frame_stamps(writer.path, range(5))
    assert [bool(stamp) for stamp in before] == [True, True, True, False, True]
    writer.put(1, 7)
    writer.put(2)
    changed = [a != b for a, b in zip(frame_stamps(writer.path, range(5)), before, strict=True)]
    assert changed == [False, True, False, False, False]
    writer.close()
    series.look()
    assert series.look().whole == ""  # frame 3 may still come, from another writer
    np.testing.assert_array_equal(growing_data(writer.path, [0])["frames"][4].values, IMAGES[4])


@pytest.mark.parametrize("writer", ["swmr_in_chunks"], indirect=True)
def test_of_chunks_of_several_frames_one_is_there_once_a_later_one_is_begun(writer):
    series = GrowingSeries(writer.path)
    for position in range(5):
        writer.put(position)
    assert arrived(series) == [0, 1, 2]
    writer.put(6)
    assert arrived(series) == [0, 1, 2, 3, 4, 5]
    writer.put(5)
    writer.close()
    series.look()
    assert arrived(series) == [0, 1, 2, 3, 4, 5, 6]
    assert "closed" in series.look().whole


@pytest.mark.parametrize("writer", ["eiger"], indirect=True)
def test_of_an_eiger_series_the_frames_of_a_file_come_together_and_late_ones_at_their_place(writer):
    series = GrowingSeries(writer.path)
    for position in (0, 1, 2):
        writer.put(position)
    with pytest.raises(InputError, match="none of the 3 data sets of its series is there"):
        series.look()
    for position in (3, *range(8, 12)):
        writer.put(position)
    assert arrived(series) == []  # what changed since the last look may still be written to
    assert arrived(series) == [0, 1, 2, 3, 8, 9, 10, 11]
    for position in range(4, 8):
        writer.put(position)
    series.look()
    assert series.look().there.all()
    assert "closed" in series.look().whole


@pytest.mark.parametrize("writer", ["zarr"], indirect=True)
def test_of_a_zarr_store_a_frame_is_there_when_its_chunk_no_longer_changes(writer, monkeypatch):
    series = GrowingSeries(writer.path)
    assert arrived(series) == []
    for position in (0, 5):
        writer.put(position)
    assert arrived(series) == []
    assert arrived(series) == [0, 5]
    chunk = writer.path / "frames" / "c" / "1" / "0" / "0"
    chunk.parent.mkdir(parents=True)
    for size in (1, 2, 3):
        chunk.write_bytes(b"x" * size)
        assert arrived(series) == [0, 5]
    for position in range(12):
        writer.put(position)
    series.look()
    assert series.look().there.all()
    assert series.look().whole == ""
    monkeypatch.setattr(arrival, "SETTLE_SECONDS", 0.0)
    assert "have been there" in series.look().whole


def test_a_zarr_array_that_is_lengthened_is_never_whole_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(arrival, "SETTLE_SECONDS", 0.0)
    array = zarr.open_group(tmp_path / "scan.zarr", mode="w").create_array(
        "frames", shape=(1, 40, 48), chunks=(1, 40, 48), dtype="u2", dimension_names=("frame", "y", "x")
    )
    series, told = GrowingSeries(tmp_path / "scan.zarr"), GrowingSeries(tmp_path / "scan.zarr", promised=5)
    for position in range(5):
        array.resize((position + 1, 40, 48))
        array[position] = IMAGES[position]
        assert [series.look().whole, told.look().whole] == ["", ""]
    assert arrived(series) == [0, 1, 2, 3, 4]
    assert told.look().whole == "all of its 5 frames are there"
    assert series.look().whole == ""
    done_mark(tmp_path / "scan.zarr").touch()
    assert series.look().whole == "scan.zarr.done is there"


@pytest.mark.parametrize("encoding", ["default", "v2"])
@pytest.mark.parametrize("separator", [".", "/"])
def test_chunks_are_found_however_they_are_named(tmp_path, encoding, separator):
    keys = {"name": encoding, "separator": separator}
    array = zarr.open_group(tmp_path / "scan.zarr", mode="w").create_array(
        "frames",
        shape=(12, 40, 48),
        chunks=(2, 20, 48),
        dtype="u2",
        dimension_names=("frame", "y", "x"),
        chunk_key_encoding=keys,
    )
    series = GrowingSeries(tmp_path / "scan.zarr")
    array[:2], array[10:, :20] = 1, 1
    series.look()
    assert arrived(series) == []  # of the last, half is lacking; of the first, no later one is whole
    array[4:6] = 1
    # What else lies there is no chunk.
    strays = {(".", "default"): "c.99", (".", "v2"): "99", ("/", "default"): "c/99.0", ("/", "v2"): "99.0"}
    (tmp_path / "scan.zarr" / "frames" / strays[separator, encoding]).touch()
    series.look()
    assert arrived(series) == [0, 1]


def test_what_is_followed_as_a_series_and_what_as_a_folder(tmp_path):
    (tmp_path / "beamtime").mkdir()
    zarr.open_group(tmp_path / "plain", mode="w")
    named = ["scan.h5", "scan.zarr", "scan.nxs:/entry/data", "plain", "beamtime", "none", "scan.truth.zarr"]
    assert [is_growing_series(tmp_path / name) for name in named] == [True] * 4 + [False] * 3
    assert done_mark(tmp_path / "scan.nxs:/entry/data").name == "scan.nxs.done"


def test_a_file_whose_writer_was_killed_says_so_for_ever(tmp_path):
    made = Writer("swmr", tmp_path / "scan.h5", IMAGES)
    made.put(0)
    made.kill()
    assert arrival.is_being_written(str(made.path))
    assert arrived(GrowingSeries(made.path)) == [0]
    assert not arrival.is_being_written(os.devnull)


def test_a_series_that_grew_is_the_same_whole_and_no_other(tmp_path):
    def identity(images, name):
        path = make_store(tmp_path / name, images)
        return path, open_frames(path)

    path, data = identity(IMAGES[:4], "begun.zarr")
    growing = {"frames": growing_identity(path, data, [0, 2])}
    assert growing["frames"]["frame_shape"] == [40, 48]
    assert described_alike(growing, {"frames": frames_identity(*identity(IMAGES, "whole.zarr"))})
    for number, other in enumerate((IMAGES[:, :, :-1], IMAGES[:, 1:], IMAGES.astype("u4"))):
        assert not described_alike(growing, {"frames": frames_identity(*identity(other, f"{number}.zarr"))})


def test_a_growing_series_is_described_as_the_same_series_when_it_is_whole(tmp_path):
    stated = {"beamline": "7-ID", "missing_frames": [[1, 2, "lost"]], "wavelength": 0.4, "zone": "A"}
    path = make_store(tmp_path / "scan.zarr", IMAGES, attributes=stated)
    growing, whole = growing_data(path, [0, 3], anew=True), open_frames(path)
    assert growing.attrs.keys() == whole.attrs.keys()
    assert {key: growing.attrs[key] for key in stated} == stated


def test_an_image_that_is_no_stack_has_a_stamp_too(tmp_path):
    path = tmp_path / "single.h5"

    def written(image):
        with h5py.File(path, "w") as file:
            file.create_dataset("entry/data", data=image, chunks=(20, 24))
        return frame_stamps(path, [0])

    first = written(IMAGES[0])
    assert first != [""]
    assert written(IMAGES[1]) != first
    assert written(IMAGES[0]) == first
