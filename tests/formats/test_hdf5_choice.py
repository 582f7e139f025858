"""Which data set of an HDF5 file is taken for the frames, and what is never taken."""

import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from braggflow.errors import InputError
from braggflow.formats import inspect_source, read_frames, read_image

SHAPE = (24, 32)


def frames(n: int = 3, start: int = 0) -> np.ndarray:
    """Frames that carry their number in every pixel."""
    return np.broadcast_to(np.arange(start, start + n, dtype="u2")[:, None, None], (n, *SHAPE)).copy()


def chosen(path: Path, inside: str = "") -> list[tuple[str, int, tuple[int, int]]]:
    return [(stack.inside, stack.frames, stack.shape) for stack in inspect_source(str(path), inside)]


def refused(path: Path, inside: str = "") -> str:
    with pytest.raises(InputError) as caught:
        inspect_source(str(path), inside)
    assert "damaged" not in str(caught.value)
    return str(caught.value)


def numbers(path: Path, inside: str = "") -> list[int]:
    """The numbers that the frames carry, read back."""
    stacks = inspect_source(str(path), inside)
    return [int(v) for stack in stacks for v in read_frames(stack, 0, stack.frames)[:, 0, 0]]


def nxdata(file: Any, name: str, signal: str | None = None) -> Any:
    group = file.create_group(name)
    group.attrs["NX_class"] = "NXdata"
    if signal is not None:
        group.attrs["signal"] = signal
    return group


def eiger_files(folder: Path, lengths: tuple[int, ...] = (2, 2)) -> None:
    start = 0
    for number, length in enumerate(lengths, 1):
        with h5py.File(folder / f"s_data_{number:06d}.h5", "w") as file:
            file["entry/data/data"] = frames(length, start)
        start += length


def link(number: int) -> h5py.ExternalLink:
    return h5py.ExternalLink(f"s_data_{number:06d}.h5", "/entry/data/data")


# ---------------------------------------------------------------- one object under two names


@pytest.mark.parametrize("second_name", ["external", "soft", "hard", "aliased group"])
def test_a_file_of_an_eiger_series_that_is_linked_twice_is_read_in_its_place(tmp_path: Path, second_name: str) -> None:
    eiger_files(tmp_path)
    with h5py.File(tmp_path / "s_master.h5", "w") as file:
        group = file.create_group("entry/data")
        for number in (2, 1):
            group[f"data_{number:06d}"] = link(number)
        if second_name == "external":
            group["data"] = link(1)
        elif second_name == "soft":
            group["data"] = h5py.SoftLink("data_000001")
        elif second_name == "hard":
            file["a"] = group
        else:
            file["a"] = h5py.SoftLink("/entry/data")
    assert numbers(tmp_path / "s_master.h5") == [0, 1, 2, 3]
    assert numbers(tmp_path / "s_master.h5", "/entry/data") == [0, 1, 2, 3]


def test_a_series_inside_one_file_that_also_has_a_soft_link_to_its_first_part(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/data/data_000001"], file["entry/data/data_000002"] = frames(2), frames(3, 2)
        file["entry/data/data"] = h5py.SoftLink("/entry/data/data_000002")
        file["entry/alias/data_000001"] = file["entry/data/data_000001"]
        file["entry/alias/data_000002"] = h5py.SoftLink("/entry/data/data_000002")
    assert numbers(tmp_path / "a.h5") == [0, 1, 2, 3, 4]


def test_two_numbers_of_a_series_that_are_one_data_set_are_refused(tmp_path: Path) -> None:
    eiger_files(tmp_path)
    with h5py.File(tmp_path / "s_master.h5", "w") as file:
        file["entry/data/data_000001"] = file["entry/data/data_000002"] = link(1)
    assert "data_000002 and /entry/data/data_000001 are one data set" in refused(tmp_path / "s_master.h5")


def test_two_different_series_are_not_joined(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for group in ("one", "two"):
            file[f"{group}/data_000001"], file[f"{group}/data_000002"] = frames(), frames()
    assert "2 series of data_NNNNNN (/one, /two)" in refused(tmp_path / "a.h5")
    assert chosen(tmp_path / "a.h5", "/two") == [("/two/data_000001", 3, SHAPE), ("/two/data_000002", 3, SHAPE)]


@pytest.mark.parametrize("first", ["soft", "hard", "external"])
def test_default_leads_to_an_object_by_whatever_link(tmp_path: Path, first: str) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["d"] = frames()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["default"] = "e"
        entry = file.create_group("e")
        entry.attrs["default"] = np.bytes_("a_plot")
        for name in ("eiger", "other"):
            entry[f"instrument/{name}/data"] = frames()
        plot = nxdata(entry, "a_plot", "eiger")
        if first == "soft":
            plot["eiger"] = h5py.SoftLink("/e/instrument/eiger/data")
        elif first == "hard":
            plot["eiger"] = entry["instrument/eiger/data"]
        else:
            plot["eiger"] = h5py.ExternalLink("other.h5", "/d")
    (found,) = inspect_source(str(tmp_path / "a.h5"))
    expected = {"soft": "/e/instrument/eiger/data", "hard": "/e/a_plot/eiger", "external": "/d"}[first]
    assert (found.inside, found.frames) == (expected, 3)
    left = ["/e/instrument/eiger/data", "/e/instrument/other/data"]
    assert found.others == tuple(f"{name} {(3, *SHAPE)}" for name in (left if first == "external" else left[1:]))


def test_a_signal_marked_as_before_2014_and_attributes_of_odd_types(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = nxdata(file, "entry/plot")
        group["counts"], file["entry/other"] = frames(), frames()
        group["counts"].attrs["signal"] = 1
        file.attrs["default"] = 7
        file["entry"].attrs["default"] = file["entry"].ref
        file["entry"].attrs["signal"] = np.array(["x", "y"], dtype=h5py.string_dtype())
        file["entry/other"].attrs["signal"] = h5py.Empty("f")
    assert chosen(tmp_path / "a.h5") == [("/entry/plot/counts", 3, SHAPE)]


# ---------------------------------------------------------------- what is no image


def test_where_the_frames_are_linked_to_a_missing_file_nothing_else_is_taken(tmp_path: Path) -> None:
    for number, other in enumerate([np.zeros((5, 5)), np.zeros((50, 50)), frames()]):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["entry/data/data"] = h5py.ExternalLink("nowhere.h5", "/entry/data/data")
            file["entry/sums"] = other
        message = refused(tmp_path / f"{number}.h5")
        assert "/entry/data/data links to nowhere.h5:/entry/data/data, which is missing" in message
    assert chosen(tmp_path / "2.h5", "/entry/sums") == [("/entry/sums", 3, SHAPE)]


@pytest.mark.parametrize("marked", ["signal", "default", "neither"])
def test_a_link_that_leads_nowhere_is_named_with_what_it_leads_to(tmp_path: Path, marked: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plot = nxdata(file, "entry/plot", "data" if marked != "neither" else None)
        if marked == "default":
            file.attrs["default"], file["entry"].attrs["default"] = "entry", "plot"
        plot["data"] = h5py.SoftLink("/entry/detector/data")
        file["entry/detector/data"] = h5py.ExternalLink("nowhere.h5", "/d")
        file["entry/other"] = frames()
    message = refused(tmp_path / "a.h5")
    assert "/entry/detector/data links to nowhere.h5:/d, which is missing or cannot be opened" in message
    named = refused(tmp_path / "a.h5", "/entry/plot/data")
    assert "/entry/plot/data links to /entry/detector/data, where /entry/detector/data links to nowhere.h5:/d" in named


def test_a_link_over_several_files_is_followed_to_where_it_breaks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["d"] = h5py.ExternalLink("gone.h5", "/d")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        nxdata(file, "entry", "d")["d"] = h5py.ExternalLink("b.h5", "/d")
    assert "links to b.h5:/d, where /d links to gone.h5:/d, which is missing" in refused(tmp_path / "a.h5")


@pytest.mark.parametrize("what", ["default", "signal"])
def test_a_default_or_signal_that_is_not_there_is_named_and_nothing_is_taken_for_it(tmp_path: Path, what: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/other"] = frames()
        file.attrs["default"] = "entry" if what == "signal" else "gone"
        nxdata(file["entry"], "plot", "gone" if what == "signal" else None)
        file["entry"].attrs["default"] = "plot"
    lost = "/entry/plot/gone" if what == "signal" else "/gone"
    assert f"the default that may be the frames leads nowhere: there is no {lost}. Mend it" in refused(
        tmp_path / "a.h5"
    )
    assert chosen(tmp_path / "a.h5", "/entry/other") == [("/entry/other", 3, SHAPE)]


def test_an_eiger_series_of_which_no_file_is_there_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s_master.h5", "w") as file:
        file["entry/data/data_000001"] = link(1)
        file["entry/instrument/detector/detectorSpecific/pixel_mask"] = np.zeros(SHAPE, "u4")
    assert "links to s_data_000001.h5:/entry/data/data, which is missing" in refused(tmp_path / "s_master.h5")


@pytest.mark.parametrize(
    "name",
    [
        "entry/instrument/detector/detectorSpecific/pixel_mask",
        "entry/instrument/detector/detectorSpecific/flatfield",
        "exchange/data_dark",
        "exchange/data_white_pre",
        "flatField/data",
        "mask",
        "bad_pixels",
        "BadPixelMask",
        "entry/data/errors",
    ],
)
def test_masks_darks_and_flats_are_no_frames_unless_named(tmp_path: Path, name: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name] = np.ones(SHAPE, "u4")
        file.require_group("entry/data")
    assert f"/{name} {SHAPE}" in refused(tmp_path / "a.h5")
    assert chosen(tmp_path / "a.h5", f"/{name}") == [(f"/{name}", 1, SHAPE)]
    assert read_image("--mask", tmp_path / "a.h5", SHAPE).all()  # as the user's mask it needs no name


@pytest.mark.parametrize("name", ["dark_subtracted", "entry/flattened/data", "masked", "entry_0000/measurement/data"])
def test_frames_with_such_a_word_among_others_are_frames(tmp_path: Path, name: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name] = frames()
    assert chosen(tmp_path / "a.h5") == [(f"/{name}", 3, SHAPE)]


def test_nothing_below_a_sample_and_nothing_smaller_than_a_patch_is_taken(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/sample/orientation_matrix"] = np.eye(3)[None]
        file["entry/table"] = np.zeros((1440, 8))
        file["entry/sample_2/image"] = frames()
        file["entry/sample_2"].attrs["NX_class"] = "NXsample"
    message = refused(tmp_path / "a.h5")
    assert "/entry/sample/orientation_matrix (1, 3, 3)" in message
    assert "/entry/table (1440, 8)" in message
    assert "smaller than a patch" in refused(tmp_path / "a.h5", "/entry/table")
    assert chosen(tmp_path / "a.h5", "/entry/sample_2/image") == [("/entry/sample_2/image", 3, SHAPE)]


def test_the_frames_are_taken_beside_a_mask_a_sample_and_a_table(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/pixel_mask"] = np.zeros((1, *SHAPE))
        file["a/data_errors"] = frames().astype("f4")
        file["b"] = np.zeros((3, 5, 100))
        file["z/data"] = frames()
    (found,) = inspect_source(str(tmp_path / "a.h5"))
    assert (found.inside, found.others) == ("/z/data", ())


# ---------------------------------------------------------------- odd files


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.arange(4), "must be"),
        (np.float32(1), "must be"),
        (np.zeros((0, *SHAPE)), "the series is empty"),
        (np.zeros((2, 2, 2, *SHAPE)), "must be"),
        (np.zeros((2, *SHAPE), "c8"), "complex64"),
        (np.zeros((2, *SHAPE), [("a", "f4"), ("b", "i2")]), "a table of a, b"),
        (np.full((2, *SHAPE), b"text"), "must be"),
        (h5py.Empty("f4"), "must be"),
    ],
)
def test_what_is_no_series_is_refused_when_named_and_when_not(tmp_path: Path, value: Any, message: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["d"] = value
        file["type"] = np.dtype("f4")
        file["refs"] = np.array([file.ref] * 3, dtype=h5py.ref_dtype)
    assert message in refused(tmp_path / "a.h5", "/d")
    assert "a.h5" in refused(tmp_path / "a.h5")
    assert "a.h5" in refused(tmp_path / "a.h5", "/type")
    assert "a.h5" in refused(tmp_path / "a.h5", "/refs")


def test_circles_of_links_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/b/d"] = frames()
        file["a/b/up"] = file["a"]
        file["a/b/soft"] = h5py.SoftLink("/a")
        file["a/b/outside"] = h5py.ExternalLink("a.h5", "/")
        file.attrs["default"], file["a"].attrs["default"] = "a", "/"
    assert chosen(tmp_path / "a.h5") == [("/a/b/d", 3, SHAPE)]
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["loop"] = h5py.SoftLink("/loop")
    assert "/loop links to /loop" in refused(tmp_path / "a.h5")
    assert "/loop links to /loop" in refused(tmp_path / "a.h5", "/loop")


def test_very_many_groups_and_very_deep_ones_take_no_time(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        for number in range(10_000):
            file.create_group(f"g{number}")
        deep = file.create_group("deep")
        for _ in range(1500):
            deep = deep.create_group("d")
        deep["frames"] = frames()
    start = time.perf_counter()
    assert chosen(tmp_path / "a.h5")[0][1:] == (3, SHAPE)
    assert time.perf_counter() - start < 20
