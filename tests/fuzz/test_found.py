"""The smallest inputs of what the fuzzer found, each mended."""

import json
from pathlib import Path
from typing import Any

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest
import xarray as xr
import zarr
from numcodecs import BZ2, LZMA, Blosc, GZip, Zlib

import braggflow
from braggflow.convert import inspect_series
from braggflow.errors import InputError
from tests.stores import make_store, spots


def store(folder: Path) -> Path:
    frames = np.stack([spots((48, 56), 2, seed=seed) for seed in range(2)])
    return make_store(folder / "a.zarr", frames, chunk=1, mask=np.eye(48, 56, dtype=bool))


@pytest.mark.parametrize("name", ["mask", "time"])
def test_a_small_array_of_a_store_that_is_damaged_is_named(name: str, tmp_path: Path) -> None:
    path = store(tmp_path)
    (file,) = (found for found in (path / name / "c").rglob("*") if found.is_file())
    file.write_bytes(file.read_bytes()[:5])
    with pytest.raises(
        InputError, match=rf"^frames store .*a\.zarr: {name}: cannot be read; damaged or incomplete\? \("
    ):
        braggflow.open_frames(path)


@pytest.mark.parametrize("version", [2, 3])
def test_a_table_takes_no_encoding_over_from_the_store_of_its_frames(version: int, tmp_path: Path) -> None:
    frames = np.stack([spots((48, 56), 2, seed=seed) for seed in range(2)])
    data = xr.Dataset({"frames": (("frame", "y", "x"), frames)}, {"frame": [0, 1], "time": ("frame", [0.5, 1.0])})
    data.to_zarr(tmp_path / "a.zarr", zarr_format=version, consolidated=False)
    table = braggflow.find_peaks(braggflow.open_frames(tmp_path / "a.zarr"), network="none")
    table.to_zarr(tmp_path / "peaks.zarr", zarr_format=3, consolidated=False)
    np.testing.assert_array_equal(braggflow.open_frames(tmp_path / "a.zarr")["time"], [0.5, 1.0])


@pytest.mark.parametrize("codec", [Blosc(), Zlib(), GZip(), BZ2(), LZMA()])
def test_a_damaged_chunk_of_any_codec_is_a_failed_frame(codec: Any, tmp_path: Path) -> None:
    frames = np.stack([spots((48, 56), 2, seed=seed) for seed in range(2)])
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    array = group.create_array("frames", shape=frames.shape, dtype="u2", chunks=(1, 48, 56), compressors=codec)
    array.attrs["_ARRAY_DIMENSIONS"] = ["frame", "y", "x"]
    array[:] = frames
    file = tmp_path / "a.zarr" / "frames" / "1.0.0"
    whole = file.read_bytes()
    for damaged in (whole[:30], np.random.default_rng(0).bytes(200), b"\0"):
        file.write_bytes(damaged)
        (facts,) = inspect_series([tmp_path / "a.zarr"])
        assert facts.last is not None
        assert facts.last.unreadable
        with pytest.raises(InputError, match="frame 1: "):
            braggflow.find_peaks(braggflow.open_frames(tmp_path / "a.zarr"), network="none")


def test_a_bitshuffle_filter_of_elements_of_no_bytes_ends_no_process(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options = hdf5plugin.Bitshuffle(cname="lz4")
        data_set = file.create_dataset("d", data=np.zeros((2, 48, 56), "u4"), chunks=(1, 48, 56), **options)
        stated = b"".join(int(value).to_bytes(4, "little") for value in data_set.id.get_create_plist().get_filter(0)[2])
    content = (tmp_path / "a.h5").read_bytes()
    lie = stated[:8] + bytes(4) + stated[12:]
    (tmp_path / "a.h5").write_bytes(content.replace(stated, lie))
    with pytest.raises(InputError, match=r"a\.h5:/d: is damaged: its filter, bitshuffle, states elements of 0 bytes"):
        inspect_series([tmp_path / "a.h5"])


def test_an_edf_file_of_billions_of_dimensions_is_refused(tmp_path: Path) -> None:
    fabio.edfimage.EdfImage(data=spots((48, 56), 2, seed=0)).write(str(tmp_path / "a.edf"))
    content = (tmp_path / "a.edf").read_bytes()
    (tmp_path / "a.edf").write_bytes(content.replace(b"Dim_2", b"Dim_2147483648"))
    with pytest.raises(InputError, match="its header states 2147483648 dimensions of a frame"):
        inspect_series([tmp_path / "a.edf"])


def test_a_length_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = store(tmp_path)
    described = json.loads((path / "mask" / "zarr.json").read_text())
    described["chunk_grid"]["configuration"]["chunk_shape"] = [2**63 - 1, 56]
    (path / "mask" / "zarr.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"mask: cannot be read"):
        braggflow.open_frames(path)


@pytest.mark.parametrize("name", ["zarr.json", "frames/zarr.json", "time/zarr.json"])
def test_a_description_of_a_store_that_is_damaged_is_named(name: str, tmp_path: Path) -> None:
    path = store(tmp_path)
    (path / name).write_bytes((path / name).read_bytes()[:-9])
    with pytest.raises(InputError, match=rf"^frames store .*a\.zarr: cannot be read; its {name} is damaged \("):
        braggflow.open_frames(path)


def test_a_fill_value_that_its_type_does_not_hold_is_refused(tmp_path: Path) -> None:
    path = store(tmp_path)
    described = json.loads((path / "frames" / "zarr.json").read_text())
    described["fill_value"] = 2**63 - 1
    (path / "frames" / "zarr.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"^frames store .*a\.zarr: "):
        braggflow.open_frames(path)


def test_numbers_of_frames_that_lie_along_something_else_are_refused(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.create_array("frames", data=np.zeros((2, 48, 56), "u2"), dimension_names=("frame", "y", "x"))
    group.create_array("frame", data=np.arange(2), dimension_names=("framu",))
    with pytest.raises(InputError, match=r"coordinate 'frame' has dimensions \('framu',\), must be \('frame',\)"):
        braggflow.open_frames(tmp_path / "a.zarr")


def test_a_store_without_dimension_names_or_with_an_array_at_its_root_says_what_it_needs(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "root.zarr", data=np.zeros((2, 48, 56), "u2"))
    zarr.open_group(tmp_path / "bare.zarr", mode="w").create_array("frames", data=np.zeros((2, 48, 56), "u2"))
    for name in ("root", "bare"):
        with pytest.raises(InputError, match=r"must be a group with an array 'frames' that names its dimensions"):
            inspect_series([tmp_path / f"{name}.zarr"])
    data = xr.DataArray(np.zeros((2, 48, 56), "u2"), dims=("time", "y", "x"), coords={"time": [0.5, 1.5]})
    assert braggflow.find_peaks(data, network="none").sizes["frame"] == 2
