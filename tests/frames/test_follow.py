"""Frames stores of a folder, taken as they are finished."""

import os
import re
import time

import numpy as np
import pytest
import zarr

from braggflow.errors import InputError
from braggflow.frames import (
    Follower,
    create_store,
    finish_store,
    open_frames,
)
from braggflow.frames import follow as follow_module
from tests.stores import one_frame


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
