"""What is in a file of each format: every value, in order, in native bytes; and what is refused."""

import os
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from braggflow.convert import ingest
from braggflow.errors import InputError
from braggflow.formats import expand_sources
from braggflow.frames import missing_frames, open_frames
from tests.convert.conversions import copied, refusal, series
from tests.formats.writers import (
    edf_frames,
    edf_gz,
    eiger,
    fabio_files,
    ge,
    h5_external,
    h5_filter,
    h5_several,
    h5_signal,
    h5_virtual,
    marccd,
    npy,
    npz,
    tiff_big_endian,
    tiff_files,
    tiff_pages,
    tiff_stack,
)

WRITERS = [
    pytest.param(writer, dtype, id=name)
    for name, writer, dtype in [
        ("hdf5-bitshuffle-lz4", h5_filter, "<u2"),
        ("hdf5-several-files", h5_several, "<u2"),
        ("hdf5-virtual", h5_virtual, "<u4"),
        ("hdf5-external", h5_external, "<u2"),
        ("hdf5-big-endian", h5_filter, ">u2"),
        ("hdf5-nxdata-signal", h5_signal, "<u2"),
        ("eiger-master", eiger, "<u4"),
        ("tiff-stack", tiff_stack(), "<u2"),
        ("tiff-imagej", tiff_stack(imagej=True), "<u2"),
        ("tiff-compressed", tiff_stack(compression="zlib"), "<i4"),
        ("tiff-pages", tiff_pages, "<u2"),
        ("tiff-big-endian", tiff_big_endian, "<u2"),
        ("tiff-files", tiff_files, "<f4"),
        ("cbf-files", fabio_files("cbf", fabio.cbfimage.CbfImage), "<i4"),
        ("edf-files", fabio_files("edf", fabio.edfimage.EdfImage), "<u2"),
        ("edf-frames", edf_frames, "<u2"),
        ("edf-gz", edf_gz, "<u2"),
        ("adsc-files", fabio_files("img", fabio.adscimage.AdscImage), "<u2"),
        ("ge", ge, "<u2"),
        ("marccd", marccd, "<u2"),
        ("npy", npy, "<f8"),
        ("npz", npz, "<u2"),
    ]
]


@pytest.mark.parametrize(("writer", "dtype"), WRITERS)
def test_every_format_arrives_value_by_value_in_native_byte_order(
    tmp_path: Path, writer: Any, dtype: str, capfd: Any
) -> None:
    (tmp_path / "in").mkdir()
    data = series(5, dtype)
    result = copied(writer(tmp_path / "in", data), tmp_path)
    np.testing.assert_array_equal(result["frames"].values, data)
    assert result["frames"].dtype == data.dtype.newbyteorder("=")
    assert sum(source["frames"] for source in result.attrs["sources"]) == 5
    assert capfd.readouterr().err == ""
    assert not list(tmp_path.glob("out.zarr.*"))
    assert not (tmp_path / "out.zarr" / "progress").exists()


@pytest.mark.parametrize(
    ("dtype", "stored"), [("?", "u1"), ("f2", "f4"), ("i8", "i8"), ("u8", "u8"), (">f4", "f4"), ("i1", "i1")]
)
def test_dtypes_are_stored_without_loss(tmp_path: Path, dtype: str, stored: str) -> None:
    data = series(2).astype(dtype)
    result = copied(npy(tmp_path, data), tmp_path)
    assert result["frames"].dtype == np.dtype(stored)
    np.testing.assert_array_equal(result["frames"].values, data.astype(stored))


def test_nan_is_kept(tmp_path: Path) -> None:
    data = series(2, "f4")
    data[1, 3, 4] = np.nan
    result = copied(npy(tmp_path, data), tmp_path)
    np.testing.assert_array_equal(result["frames"].values, data)
    assert "mask" not in result


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (series(2, "c8"), "complex64"),
        (np.zeros((2, 2, 2, 9, 9)), r"\(2, 2, 2, 9, 9\), must be \(frame, y, x\)"),
        (np.zeros((1440, 2)), r"\(1440, 2\), smaller than a patch"),
        (np.zeros((4, 20, 20, 3)), r"\(20, 3\), smaller than a patch"),
        (np.zeros((0, 4, 5)), "the series is empty"),
        (np.array([["a"]]), "must be integers"),
    ],
)
def test_what_is_no_series_of_numeric_frames_is_refused(tmp_path: Path, data: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        copied(npy(tmp_path, data), tmp_path)


# ---------------------------------------------------------------- which files, in which order


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations([f"frame_{number}.tif" for number in (1, 2, 9, 10, 11, 100)] + ["frame_010b.tif"]))
def test_order_is_natural_however_files_are_given(tmp_path: Path, order: list[str]) -> None:
    for name in order:
        (tmp_path / name).touch()
    names = [Path(path).name for path, _ in expand_sources([tmp_path / name for name in order])]
    numbered = [name for name in names if "b" not in name]
    assert numbered == [f"frame_{number}.tif" for number in (1, 2, 9, 10, 11, 100)]
    assert names == [Path(path).name for path, _ in expand_sources([tmp_path])]


def test_files_that_are_missing_or_named_twice_are_refused(tmp_path: Path) -> None:
    file = npy(tmp_path, series())
    assert "gone.npy: does not exist" in refusal(tmp_path / "gone.npy", tmp_path)
    assert "a.npy: is named twice" in refusal([file, tmp_path], tmp_path)
    assert "no file has such a name" in refusal(str(tmp_path / "*.cbf"), tmp_path)
    assert "none is given" in refusal([], tmp_path)


def test_folder_of_nothing_or_of_several_formats_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "LICENSE").touch()
    assert "holds no detector file" in refusal(tmp_path / "in", tmp_path)
    npy(tmp_path / "in", series())
    tiff_stack()(tmp_path / "in", series())
    assert "several formats (.npy, .tiff)" in refusal(tmp_path / "in", tmp_path)


def test_eiger_data_files_beside_their_master_are_refused_as_doubles(tmp_path: Path) -> None:
    eiger(tmp_path, series())
    message = refusal([tmp_path / "s_master.h5", tmp_path / "s_data_000001.h5"], tmp_path)
    assert "s_data_000001.h5:/entry/data/data: is named twice" in message


@pytest.mark.parametrize("second", [series(2, shape=(20, 31)), series(2, "i4")])
def test_frames_of_different_shape_or_dtype_are_refused_naming_both(tmp_path: Path, second: np.ndarray) -> None:
    np.save(tmp_path / "1.npy", series())
    np.save(tmp_path / "2.npy", second)
    message = refusal(str(tmp_path / "*.npy"), tmp_path)
    assert "2.npy" in message
    assert f"{second.shape[1:]} of {second.dtype}" in message
    assert "(20, 30) of uint16" in message


def test_ambiguous_hdf5_lists_its_data_sets_and_takes_the_named_one(tmp_path: Path) -> None:
    data = series()
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a/one"], file["b"] = data, data[:2]
    message = refusal(tmp_path / "two.h5", tmp_path)
    assert "/a/one, /b" in message
    assert "--dataset" in message
    assert "has no data set /c" in refusal(tmp_path / "two.h5", tmp_path, dataset="/c")
    assert copied(f"{tmp_path}/two.h5:/b", tmp_path).sizes["frame"] == 2
    assert copied(tmp_path / "two.h5", tmp_path, dataset="/a/one", overwrite=True).sizes["frame"] == 5


def test_hdf5_without_frames_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["spectrum"] = np.arange(4)
    assert "no 3-D or 2-D numeric data set" in refusal(tmp_path / "a.h5", tmp_path)


# ---------------------------------------------------------------- HDF5 whose data lie elsewhere


def incomplete(source: Path, data: np.ndarray, absent: set[int], reason: str) -> None:
    """Check that a source is read as far as it goes, directly and through a store, or refused if all of it is asked."""
    there = sorted(set(range(len(data))) - absent)
    store = ingest([source], source.parent / "part.zarr", workers=1)
    for opened in (open_frames(source), open_frames(store)):
        stated = missing_frames(opened)
        assert set(stated) == absent
        assert all(reason in why for why in stated.values())
        np.testing.assert_array_equal(opened["frames"][there].values, data[there])
    with pytest.raises(InputError, match=f"--require-complete: {len(absent)} of {len(data)} frames were never written"):
        ingest([source], source.parent / "whole.zarr", require_complete=True, workers=1)


@pytest.mark.parametrize("damage", ["file", "data set", "length"])
def test_incomplete_virtual_data_set_is_read_as_far_as_it_goes_and_not_filled(tmp_path: Path, damage: str) -> None:
    data = series()
    source = h5_virtual(tmp_path, data)
    (tmp_path / "part3.h5").unlink()
    if damage != "file":
        with h5py.File(tmp_path / "part3.h5", "w") as file:
            file["y" if damage == "data set" else "x"] = data[:1, :10]
    incomplete(source, data, {3}, "part3.h5")


def test_missing_or_short_external_file_is_refused_instead_of_filled(tmp_path: Path) -> None:
    source = h5_external(tmp_path, series())
    os.truncate(tmp_path / "frames.raw", 100)
    assert "frames.raw, which is missing or too short" in refusal(source, tmp_path)
    (tmp_path / "frames.raw").unlink()
    assert "frames.raw, which is missing or too short" in refusal(source, tmp_path)


@pytest.mark.parametrize(("number", "absent"), [(1, {0, 1}), (2, {2, 3}), (3, {4, 5})])
def test_missing_eiger_data_file_leaves_the_others(tmp_path: Path, number: int, absent: set[int]) -> None:
    data = series(6)
    eiger(tmp_path, data)
    (tmp_path / f"s_data_{number:06d}.h5").unlink()
    incomplete(tmp_path / "s_master.h5", data, absent, f"s_data_{number:06d}.h5")
