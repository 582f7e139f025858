"""Frames that an HDF5 file announces and does not have: missing with a reason, never filled; the others are read."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from braggflow.errors import InputError
from braggflow.formats import Stack, frames_per_chunk, inspect_source, read_frames
from tests.formats.test_hdf5_choice import SHAPE, eiger_files, frames, link, refused
from tests.formats.writers import h5_external


def inspected(path: Path, inside: str = "") -> Stack:
    (stack,) = inspect_source(str(path), inside)
    return stack


def missing(stack: Stack) -> list[int]:
    return [frame for first, stop, _ in stack.missing for frame in range(first, stop)]


def assert_read(stacks: list[Stack], expected: dict[int, int]) -> None:
    """Frames of the series, by number, carry these values; all others are refused with their reason."""
    at = 0
    for stack in stacks:
        assert all(Path(file).is_file() for file, _, _ in stack.files)
        assert pickle.loads(pickle.dumps(stack)) == stack
        for frame in range(stack.frames):
            if at in expected:
                assert (read_frames(stack, frame, frame + 1) == expected[at]).all()
            else:
                reason = next(why for first, stop, why in stack.missing if first <= frame < stop)
                with pytest.raises(InputError) as caught:
                    read_frames(stack, frame, frame + 1)
                assert reason in str(caught.value)
            at += 1
        assert len(missing(stack)) == sum(number not in expected for number in range(at - stack.frames, at))


# ---------------------------------------------------------------- plain data sets


def test_chunks_that_were_never_written_are_missing_frames(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("d", (10, *SHAPE), "u2", chunks=(1, *SHAPE), fillvalue=7)
        data[:2], data[5] = frames(2), 5
    stack = inspected(tmp_path / "a.h5")
    assert (stack.frames, missing(stack)) == (10, [2, 3, 4, 6, 7, 8, 9])
    assert "never written to a.h5:/d" in stack.missing[0][2]
    assert_read([stack], {0: 0, 1: 1, 5: 5})
    with pytest.raises(InputError, match=r"frames 2 to 4 are missing: never written"):
        read_frames(stack, 0, 10)


def test_a_frame_of_which_some_chunks_are_missing_is_missing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("d", (7, *SHAPE), "u2", chunks=(2, 10, 32), compression="gzip", maxshape=(None,) * 3)
        data[...] = frames(7)
        data.resize(12, 0)
        data[10, :10] = 1  # one of three chunks of frames 10 and 11
    assert missing(inspected(tmp_path / "a.h5")) == [8, 9, 10, 11]
    assert_read([inspected(tmp_path / "a.h5")], {**{n: n for n in range(7)}, 7: 0})  # 7 lies in a written chunk


def test_a_contiguous_data_set_without_any_data_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("d", (10, *SHAPE), "u2")
        file.create_dataset("chunked", (10, *SHAPE), "u2", chunks=(1, *SHAPE))
        file.create_dataset("image", SHAPE, "u2", chunks=SHAPE)
    for name in ("d", "chunked", "image"):
        assert f"never written to a.h5:/{name}" in refused(tmp_path / "a.h5", name)


def test_compact_and_contiguous_data_sets_are_whole(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((2, *SHAPE))
        compact = h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_UINT16, space, plist)
        h5py.Dataset(compact)[...] = frames(2)
        file["plain"] = frames(2)
    for name in ("compact", "plain"):
        assert inspected(tmp_path / "a.h5", name).missing == ()


def test_a_hundred_thousand_chunks_take_no_time(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        data = file.create_dataset("d", (100_000, 9, 9), "u1", chunks=(1, 9, 9))
        data[:5_000] = 1
    start = time.perf_counter()
    stack = inspected(tmp_path / "a.h5")
    assert time.perf_counter() - start < 10
    assert [(first, stop) for first, stop, _ in stack.missing] == [(5_000, 100_000)]


WRITING = """
import h5py, numpy as np, os, sys
file = h5py.File(sys.argv[1], "w", libver="latest")
data = file.create_dataset("entry/data", (6, 24, 32), "u2", chunks=(1, 24, 32))
file.swmr_mode = True
data[:4] = np.arange(4, dtype="u2")[:, None, None]
file.flush()
os._exit(9)
"""


def test_a_file_whose_writer_was_killed_gives_what_it_has(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITING, tmp_path / "a.h5"], check=False)
    assert_read([inspected(tmp_path / "a.h5")], {n: n for n in range(4)})


# ---------------------------------------------------------------- EIGER series


def master(folder: Path, numbers: list[int], images: int | None = None, broken: Any = ()) -> Path:
    with h5py.File(folder / "s_master.h5", "w") as file:
        for number in numbers:
            file[f"entry/data/data_{number:06d}"] = link(number)
        if images is not None:
            specific = file.create_group("entry/instrument/detector/detectorSpecific")
            specific["nimages"], specific["ntrigger"] = np.uint32(1), np.uint64(images)
    for number in broken:
        (folder / f"s_data_{number:06d}.h5").unlink()
    return folder / "s_master.h5"


def all_but(total: int, *absent: int) -> dict[int, int]:
    return {number: number for number in range(total) if number not in absent}


def test_a_missing_data_file_has_the_length_of_the_others(tmp_path: Path) -> None:
    eiger_files(tmp_path, (3, 3, 3, 1))
    stacks = inspect_source(str(master(tmp_path, [1, 2, 3, 4], broken=[2])))
    assert [stack.frames for stack in stacks] == [3, 3, 3, 1]
    assert stacks[1].name == f"{tmp_path}/s_data_000002.h5:/entry/data/data"
    assert (stacks[1].files, stacks[1].dtype, stacks[1].shape) == ((), "<u2", SHAPE)
    assert "links to s_data_000002.h5:/entry/data/data, which is missing" in stacks[1].missing[0][2]
    assert frames_per_chunk(stacks[1].path, stacks[1].inside) == 1
    assert_read(stacks, all_but(10, 3, 4, 5))


@pytest.mark.parametrize(("images", "length"), [(None, 3), (7, 1), (9, 3), (1000, 3), (0, 3)])
def test_a_missing_last_data_file_has_what_the_master_leaves_for_it(
    tmp_path: Path, images: int | None, length: int
) -> None:
    eiger_files(tmp_path, (3, 3, 1))
    stacks = inspect_source(str(master(tmp_path, [1, 2, 3], images, broken=[3])))
    assert [stack.frames for stack in stacks] == [3, 3, length]
    assert_read(stacks, all_but(6))


def test_only_the_last_data_file_is_left(tmp_path: Path) -> None:
    eiger_files(tmp_path, (3, 3, 1))
    stacks = inspect_source(str(master(tmp_path, [1, 2, 3], 7, broken=[1, 2])))
    assert [stack.frames for stack in stacks] == [3, 3, 1]
    assert_read(stacks, {6: 6})


@pytest.mark.parametrize("numbers", [[1, 4], [3, 4]])
def test_numbers_that_a_series_leaves_out_are_missing_files(tmp_path: Path, numbers: list[int]) -> None:
    eiger_files(tmp_path, (2, 2, 2, 2))
    stacks = inspect_source(str(master(tmp_path, numbers)))
    assert sum(stack.frames for stack in stacks) == 8
    hole = next(stack for stack in stacks if stack.missing)
    first = 2 if numbers == [1, 4] else 1
    assert hole.missing[0][2].endswith(f"s_master.h5 has no link /entry/data/data_{first:06d} to data_{first + 1:06d}")
    assert_read(stacks, {number: number for k in numbers for number in (2 * k - 2, 2 * k - 1)})


def test_a_series_that_counts_otherwise_is_read_and_the_count_noted(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data_000105"], file["data_000107"] = frames(2), frames(2, 4)
    stacks = inspect_source(str(tmp_path / "a.h5"))
    assert_read(stacks, all_but(6, 2, 3))
    assert "begins with data_000105" in stacks[0].facts.notes[0]
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data_000000"], file["data_000001"] = frames(2), frames(2, 2)
    assert_read(inspect_source(str(tmp_path / "b.h5")), all_but(4))


def test_a_length_that_nothing_tells_is_refused(tmp_path: Path) -> None:
    eiger_files(tmp_path, (3, 2, 3, 1))
    assert "how many frames are missing cannot be told" in refused(master(tmp_path, [1, 2, 3, 4], broken=[3]))
    stacks = inspect_source(str(master(tmp_path, [1, 2, 3, 4], 9)))
    assert [stack.frames for stack in stacks] == [3, 2, 3, 1]


def test_a_data_file_that_ended_early_or_has_nothing_yet_or_something_else(tmp_path: Path) -> None:
    eiger_files(tmp_path, (3, 3))
    for number in (3, 4, 5):
        with h5py.File(tmp_path / f"s_data_{number:06d}.h5", "w") as file:
            if number == 3:
                file.create_dataset("entry/data/data", (3, *SHAPE), "u2", chunks=(1, *SHAPE))[0] = 6
            elif number == 4:
                file["entry/data/data"] = np.arange(3)
            else:
                file.create_dataset("entry/data/data", (0, *SHAPE), "u2", maxshape=(None, *SHAPE))
    (tmp_path / "s_data_000006.h5").write_bytes(b"cut off")
    stacks = inspect_source(str(master(tmp_path, [1, 2, 3, 4, 5, 6])))
    assert_read(stacks, all_but(18, *range(7, 18)))
    reasons = [stack.missing[0][2] for stack in stacks[2:]]
    assert "holds no frames but int64 (3,)" in reasons[1]
    assert "holds no frame yet" in reasons[2]
    assert [Path(file).name for stack in stacks[3:] for file, _, _ in stack.files] == [
        f"s_data_{number:06d}.h5" for number in (4, 5, 6)
    ]


def test_a_master_that_was_to_have_more_frames_says_so(tmp_path: Path) -> None:
    eiger_files(tmp_path, (3, 2))
    stacks = inspect_source(str(master(tmp_path, [1, 2], 100)))
    assert [stack.frames for stack in stacks] == [3, 2]
    assert "was to have 100 frames (nimages x ntrigger), its data files have 5" in stacks[0].facts.notes[0]


def test_coordinates_count_the_missing_frames_too(tmp_path: Path) -> None:
    eiger_files(tmp_path, (2, 2, 2))
    path = master(tmp_path, [1, 2, 3], broken=[2])
    with h5py.File(path, "a") as file:
        file["omega"] = np.arange(6.0)
    stacks = inspect_source(str(path), coords={"omega": "/omega"})
    assert [stack.facts.coords["omega"][0].tolist() for stack in stacks] == [[0, 1], [2, 3], [4, 5]]


# ---------------------------------------------------------------- virtual data sets


def virtual(folder: Path, lengths: tuple[int, ...] = (2, 2, 2), total: int = 6, **layout: Any) -> Path:
    target = h5py.VirtualLayout((total, *SHAPE), "u2", **layout)
    at = 0
    for number, length in enumerate(lengths):
        with h5py.File(folder / f"p{number}.h5", "w") as file:
            file["x"] = frames(length, at)
        target[at : at + length] = h5py.VirtualSource(f"p{number}.h5", "x", (length, *SHAPE))
        at += length
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_virtual_dataset("d", target, fillvalue=9)
    return folder / "v.h5"


@pytest.mark.parametrize("damage", ["file", "data set", "no HDF5", "length", "width", "unwritten", "uncovered"])
def test_what_a_virtual_data_set_has_no_source_for_is_missing(tmp_path: Path, damage: str) -> None:
    path = virtual(tmp_path, total=7 if damage == "uncovered" else 6)
    source = tmp_path / "p1.h5"
    expected = {"length": [3], "unwritten": [2], "uncovered": [6]}.get(damage, [2, 3])
    if damage != "uncovered":
        source.unlink()
    if damage == "no HDF5":
        source.write_bytes(b"nothing")
    elif damage not in ("file", "uncovered"):
        with h5py.File(source, "w") as file:
            if damage == "unwritten":
                file.create_dataset("x", (2, *SHAPE), "u2", chunks=(1, *SHAPE))[1] = 3
            elif damage == "data set":
                file["y"] = frames(2)
            else:
                file["x"] = frames(1, 2) if damage == "length" else frames(2)[:, :, :20]
    stack = inspected(path)
    assert missing(stack) == expected
    assert ("no source" if damage == "uncovered" else "p1.h5") in stack.missing[0][2]
    assert_read([stack], all_but(stack.frames, *expected))


def test_a_virtual_data_set_without_any_source_is_refused(tmp_path: Path) -> None:
    path = virtual(tmp_path)
    for number in range(3):
        (tmp_path / f"p{number}.h5").unlink()
    assert "p0.h5, which is missing" in refused(path)


def test_modules_with_gaps_are_whole_and_a_missing_module_is_missing_frames(tmp_path: Path) -> None:
    target = h5py.VirtualLayout((3, 30, *SHAPE[1:]), "u2")
    for number in range(2):
        with h5py.File(tmp_path / f"m{number}.h5", "w") as file:
            file["x"] = frames(3 - number)[:, :12]
        target[: 3 - number, 16 * number : 16 * number + 12] = h5py.VirtualSource(
            f"m{number}.h5", "x", (3 - number, 12, SHAPE[1])
        )
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("d", target, fillvalue=9)
    assert missing(inspected(tmp_path / "v.h5")) == [2]  # of it the second module has nothing
    (tmp_path / "m1.h5").unlink()
    assert "m1.h5, which is missing" in refused(tmp_path / "v.h5")


def test_every_second_frame_of_a_source_and_a_source_in_the_file_itself(tmp_path: Path) -> None:
    target = h5py.VirtualLayout((6, *SHAPE), "u2")
    target[::2] = h5py.VirtualSource(".", "own", (6, *SHAPE))[::2]
    target[1::2] = h5py.VirtualSource("p.h5", "x", (3, *SHAPE))
    with h5py.File(tmp_path / "p.h5", "w") as file:
        data = file.create_dataset("x", (3, *SHAPE), "u2", chunks=(1, *SHAPE))
        data[0], data[2] = 1, 5
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["own"] = frames(6)
        file.create_virtual_dataset("d", target)
    assert_read([inspected(tmp_path / "v.h5", "d")], all_but(6, 3))


def test_a_virtual_data_set_of_virtual_data_sets_and_one_of_itself(tmp_path: Path) -> None:
    virtual(tmp_path)
    (tmp_path / "p1.h5").unlink()
    target = h5py.VirtualLayout((3, *SHAPE), "u2")
    target[...] = h5py.VirtualSource("v.h5", "d", (6, *SHAPE))[1:4]
    circle = h5py.VirtualLayout((3, *SHAPE), "u2")
    circle[...] = h5py.VirtualSource(".", "circle", (3, *SHAPE))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_virtual_dataset("d", target)
        file.create_virtual_dataset("circle", circle)
    stack = inspected(tmp_path / "w.h5", "d")
    assert [Path(file).name for file, _, _ in stack.files] == ["w.h5", "v.h5", "p0.h5", "p2.h5"]
    assert_read([stack], {0: 1})
    assert "which takes its values from itself" in refused(tmp_path / "w.h5", "circle")


def test_a_virtual_data_set_that_grows_with_its_sources(tmp_path: Path) -> None:
    unlimited = h5py.h5s.UNLIMITED
    target = h5py.VirtualLayout((6, *SHAPE), "u2", maxshape=(None, *SHAPE))
    for number, length in enumerate((3, 2)):
        with h5py.File(tmp_path / f"p{number}.h5", "w") as file:
            file.create_dataset("x", data=frames(length) * 2 + number, maxshape=(None, *SHAPE), chunks=(1, *SHAPE))
        source = h5py.VirtualSource(f"p{number}.h5", "x", (length, *SHAPE), maxshape=(None, *SHAPE))
        target[number:unlimited:2] = source[0:unlimited]
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("d", target)
        assert file["d"].shape[0] == 5
    assert_read([inspected(tmp_path / "v.h5")], all_but(5))


def test_sources_that_are_single_images_and_absolute_names_that_have_moved(tmp_path: Path) -> None:
    target = h5py.VirtualLayout((3, *SHAPE), "u2")
    for number in range(3):
        with h5py.File(tmp_path / f"p{number}.h5", "w") as file:
            file["x"] = frames(1, number)[0]
        target[number] = h5py.VirtualSource(f"/gone/p{number}.h5", "x", SHAPE)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("d", target)
    (tmp_path / "p2.h5").unlink()
    assert_read([inspected(tmp_path / "v.h5")], all_but(3, 2))


def test_printf_style_sources_are_refused(tmp_path: Path) -> None:
    target = h5py.VirtualLayout((2, *SHAPE), "u2", maxshape=(None, *SHAPE))
    target[0 : h5py.h5s.UNLIMITED : 1] = h5py.VirtualSource("p%b.h5", "x", (1, *SHAPE))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("d", target)
    for number in range(2):
        with h5py.File(tmp_path / f"p{number}.h5", "w") as file:
            file["x"] = frames(1)
    assert "p%b.h5 by number" in refused(tmp_path / "v.h5")


# ---------------------------------------------------------------- raw files


def test_a_raw_file_that_ends_early_leaves_the_frames_before_its_end(tmp_path: Path) -> None:
    data = frames(5)[:, :20, :30]
    source = h5_external(tmp_path, data)
    os.truncate(tmp_path / "frames.raw", data[0].nbytes * 3 + 100)
    stack = inspected(source)
    assert "frames.raw, which is missing or too short" in stack.missing[0][2]
    assert_read([stack], all_but(5, 3, 4))
    with h5py.File(tmp_path / "two.h5", "w") as file:
        size = data[0].nbytes
        parts = [("gone.raw", 0, size), ("frames.raw", 0, size)]
        file.create_dataset("x", data[:2].shape, data.dtype, external=parts)
    stack = inspected(tmp_path / "two.h5")
    assert missing(stack) == [0]
    assert sorted(Path(file).name for file, _, _ in stack.files) == ["frames.raw", "two.h5"]
