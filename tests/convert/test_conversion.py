import errno
import gzip
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import braggflow
from braggflow.convert import ingest
from braggflow.convert import units as units_module
from braggflow.convert.units import copy_unit
from braggflow.errors import InputError
from braggflow.formats import detector_marks, expand_sources
from braggflow.frames import open_frames, unfinished_path
from braggflow.frames import store as store_module
from tests.patience import PATIENCE

SHAPE = (20, 30)


def series(n: int = 5, dtype: Any = np.uint16, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 120, (n, *shape)).astype(dtype)


def copied(source: Any, folder: Path, **options: Any) -> Any:
    """Ingest in this process and open the result."""
    given_sources = source if isinstance(source, list) else [source]
    return open_frames(ingest(given_sources, folder / "out.zarr", workers=1, **options))


def refusal(source: Any, folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        copied(source, folder, **options)
    assert not (folder / "out.zarr").exists()
    return str(caught.value)


# ---------------------------------------------------------------- formats: one writer each, all read back alike


def h5_filter(folder: Path, data: np.ndarray) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("scan/x", data=data, chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4"))
    return folder / "a.h5"


def h5_several(folder: Path, data: np.ndarray) -> Path:
    for number, part in ((2, data[:2]), (10, data[2:])):
        with h5py.File(folder / f"scan_{number}.nxs", "w") as file:
            file["entry/data"] = part
    return folder


def h5_virtual(folder: Path, data: np.ndarray) -> Path:
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    for index, frame in enumerate(data):
        with h5py.File(folder / f"part{index}.h5", "w") as file:
            file["x"] = frame[np.newaxis]
        layout[index] = h5py.VirtualSource(f"part{index}.h5", "x", (1, *SHAPE))[0]
    with h5py.File(folder / "virtual.h5", "w") as file:
        file.create_virtual_dataset("entry/data", layout)
    return folder / "virtual.h5"


def h5_external(folder: Path, data: np.ndarray) -> Path:
    (folder / "frames.raw").write_bytes(data.tobytes())
    with h5py.File(folder / "external.h5", "w") as file:
        file.create_dataset("x", data.shape, data.dtype, external=[("frames.raw", 0, h5py.h5f.UNLIMITED)])
    return folder / "external.h5"


def h5_signal(folder: Path, data: np.ndarray) -> Path:
    with h5py.File(folder / "nexus.h5", "w") as file:
        group = file.create_group("entry/measurement")
        group.attrs.update({"NX_class": "NXdata", "signal": "counts"})
        group["counts"] = data
        file["entry/other"] = data[::-1]
    return folder / "nexus.h5"


def eiger(folder: Path, data: np.ndarray) -> Path:
    with h5py.File(folder / "s_master.h5", "w") as master:
        for number, part in ((1, data[:2]), (2, data[2:4]), (3, data[4:])):
            with h5py.File(folder / f"s_data_{number:06d}.h5", "w") as file:
                file["entry/data/data"] = part
            master[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(f"s_data_{number:06d}.h5", "entry/data/data")
        master["entry/data"].attrs.update({"NX_class": "NXdata", "signal": "data_000001"})
    return folder


def tiff_pages(folder: Path, data: np.ndarray) -> Path:
    with tifffile.TiffWriter(folder / "pages.tif") as tiff:
        for frame in data:
            tiff.write(frame, contiguous=False, metadata=None, compression="zlib")
    return folder / "pages.tif"


def tiff_files(folder: Path, data: np.ndarray) -> str:
    for index, frame in enumerate(data):
        tifffile.imwrite(folder / f"frame_{index * 3}.tif", frame)
    return str(folder / "frame_*.tif")


def tiff_stack(**options: Any) -> Callable[[Path, np.ndarray], Path]:
    def write(folder: Path, data: np.ndarray) -> Path:
        tifffile.imwrite(folder / "stack.tiff", data, **({"photometric": "minisblack"} | options))
        return folder / "stack.tiff"

    return write


def tiff_big_endian(folder: Path, data: np.ndarray) -> Path:
    tifffile.imwrite(folder / "big.tif", data.astype(data.dtype.newbyteorder(">")), byteorder=">")
    return folder / "big.tif"


def fabio_files(suffix: str, kind: Any) -> Callable[[Path, np.ndarray], Path]:
    def write(folder: Path, data: np.ndarray) -> Path:
        for index, frame in enumerate(data):
            kind(data=frame).write(str(folder / f"f{index + 8}.{suffix}"))
        return folder

    return write


def edf_frames(folder: Path, data: np.ndarray) -> Path:
    image = fabio.edfimage.EdfImage(data=data[0])
    for frame in data[1:]:
        image.append_frame(data=frame)
    image.write(str(folder / "many.edf"))
    return folder / "many.edf"


def edf_gz(folder: Path, data: np.ndarray) -> Path:
    plain = edf_frames(folder, data)
    with gzip.open(folder / "many.edf.gz", "wb") as file:
        file.write(plain.read_bytes())
    return folder / "many.edf.gz"


def ge(folder: Path, data: np.ndarray) -> Path:
    entries = {
        "ImageFormat": b"ADEPT",
        "StandardHeaderSizeInBytes": 8192,
        "NumberOfFrames": len(data),
        "NumberOfRowsInFrame": SHAPE[0],
        "NumberOfColsInFrame": SHAPE[1],
        "ImageDepthInBits": 16,
    }
    header = b""
    for name, size, code in fabio.GEimage.GE_HEADER_INFO:
        value = entries.get(name, 0)
        header += bytes(value or b"").ljust(size, b"\0") if code is None else struct.pack(code, value)
    (folder / "scan.ge2").write_bytes(header.ljust(8192, b"\0") + data.astype("<u2").tobytes())
    return folder / "scan.ge2"


def marccd(folder: Path, data: np.ndarray) -> Path:
    """A TIFF whose values start at 4096, after a header of 3072 bytes that begins at 1024."""
    for index, frame in enumerate(data):
        entries = [(256, SHAPE[1]), (257, SHAPE[0]), (258, 16), (259, 1), (262, 1), (273, 4096), (277, 1)]
        entries += [(278, SHAPE[0]), (279, frame.nbytes)]
        directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in entries)
        tiff = (b"II*\0" + struct.pack("<I", 8) + directory).ljust(1024, b"\0")
        header = struct.pack("<I16s", 2, b"MMX").ljust(80, b"\0") + struct.pack("<III", SHAPE[1], SHAPE[0], 2)
        (folder / f"m.{index:04d}.mccd").write_bytes(tiff + header.ljust(3072, b"\0") + frame.tobytes())
    return folder


def npy(folder: Path, data: np.ndarray) -> Path:
    np.save(folder / "a.npy", data)
    return folder / "a.npy"


def npz(folder: Path, data: np.ndarray) -> Path:
    np.savez_compressed(folder / "a.npz", omega=np.arange(len(data)), stack=data)
    return folder / "a.npz"


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
        (np.zeros((2, 3, 4, 5)), r"\(2, 3, 4, 5\), must be \(frame, y, x\)"),
        (np.zeros((0, 4, 5)), "the series is empty"),
        (np.array([["a"]]), "must be integers"),
    ],
)
def test_what_is_no_series_of_numeric_frames_is_refused(tmp_path: Path, data: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        copied(npy(tmp_path, data), tmp_path)


# ---------------------------------------------------------------- which files, in which order


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@pytest.mark.parametrize("damage", ["file", "data set", "length"])
def test_incomplete_virtual_data_set_is_refused_instead_of_filled(tmp_path: Path, damage: str) -> None:
    source = h5_virtual(tmp_path, series())
    (tmp_path / "part3.h5").unlink()
    if damage != "file":
        with h5py.File(tmp_path / "part3.h5", "w") as file:
            file["y" if damage == "data set" else "x"] = series(1)[:, :10]
    message = refusal(source, tmp_path)
    assert "part3.h5" in message
    assert ("missing" if damage != "length" else "only shape (1, 10, 30)") in message


def test_missing_or_short_external_file_is_refused_instead_of_filled(tmp_path: Path) -> None:
    source = h5_external(tmp_path, series())
    os.truncate(tmp_path / "frames.raw", 100)
    assert "frames.raw, which is missing or too short" in refusal(source, tmp_path)
    (tmp_path / "frames.raw").unlink()
    assert "frames.raw, which is missing or too short" in refusal(source, tmp_path)


def test_missing_eiger_data_file_is_refused(tmp_path: Path) -> None:
    eiger(tmp_path, series())
    (tmp_path / "s_data_000003.h5").unlink()
    assert "links to s_data_000003.h5:entry/data/data, which is missing" in refusal(tmp_path / "s_master.h5", tmp_path)


# ---------------------------------------------------------------- coordinates


def with_omega(folder: Path, data: np.ndarray, **data_sets: Any) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file["entry/data/data"] = data
        for name, values in {"omega": np.arange(len(data)) * 0.5, **data_sets}.items():
            file[f"entry/data/{name}"] = values
        file["entry/data/omega"].attrs["units"] = "degree"
    return folder / "a.h5"


def test_coordinates_carry_values_and_units(tmp_path: Path) -> None:
    source = with_omega(tmp_path, series(), voltage=3.7)
    elsewhere = tmp_path / "log.h5"
    with h5py.File(elsewhere, "w") as file:
        file["capacity"] = np.arange(5, dtype=">i4")
    coords = {"omega": "/entry/data/omega", "voltage": "/entry/data/voltage", "capacity": f"{elsewhere}:/capacity"}
    result = copied(source, tmp_path, coords=coords)
    np.testing.assert_array_equal(result["omega"], np.arange(5) * 0.5)
    assert result["omega"].attrs["units"] == "degree"
    np.testing.assert_array_equal(result["voltage"], np.full(5, 3.7))
    np.testing.assert_array_equal(result["capacity"], np.arange(5))


def test_coordinates_of_an_eiger_master_are_shared_out_over_its_data_files(tmp_path: Path) -> None:
    eiger(tmp_path, series())
    with h5py.File(tmp_path / "s_master.h5", "a") as file:
        file["omega"] = np.arange(5.0)
    result = copied(tmp_path / "s_master.h5", tmp_path, coords={"omega": "/omega"})
    np.testing.assert_array_equal(result["omega"], np.arange(5.0))


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ({"omega": "/entry/data/short"}, r"shape \(3,\).*one for each of the 5 frames"),
        ({"omega": "/entry/gone"}, "has no such data set"),
        ({"mask": "/entry/data/omega"}, "the name is taken"),
        ({"omega": "/gone/log.h5:/omega"}, "/gone/log.h5: cannot be read"),
    ],
)
def test_wrong_coordinates_are_refused(tmp_path: Path, coords: dict[str, str], message: str) -> None:
    source = with_omega(tmp_path, series(), short=np.arange(3))
    with pytest.raises(InputError, match=message):
        copied(source, tmp_path, coords=coords)


def test_coordinate_of_a_format_without_data_sets_is_refused(tmp_path: Path) -> None:
    assert "FILE.h5:/PATH" in refusal(npy(tmp_path, series()), tmp_path, coords={"omega": "/omega"})


# ---------------------------------------------------------------- masks, dark, flat, saturation


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["i2", "i4", "u1", "u2", "u4"]), n=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_marks_of_a_series_do_not_depend_on_how_it_is_cut(seed: int, kind: str, n: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 3, (n, 4, 5)).astype(kind)
    data[rng.random(data.shape) < 0.6] = -1 if kind[0] == "i" else np.iinfo(kind).max
    cut = rng.integers(0, n + 1)
    always, ever = detector_marks(data)
    first, second = detector_marks(data[:cut]), detector_marks(data[cut:])
    np.testing.assert_array_equal(always, first[0] & second[0])
    np.testing.assert_array_equal(ever, first[1] | second[1])
    marked = data < 0 if kind[0] == "i" else data == np.iinfo(kind).max
    np.testing.assert_array_equal(always, marked.all(axis=0))


def test_mask_joins_detector_marks_user_file_and_pixel_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MIN_CHUNKS", 1)
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 2 * SHAPE[0] * SHAPE[1] * 4)
    data = series(5, "u4")
    data[:, 4] = 2**32 - 1
    data[1, 7, 7] = 2**32 - 1  # one frame only: saturated, not masked
    pixel_mask, own = np.zeros(SHAPE, "u4"), np.zeros(SHAPE, "u1")
    pixel_mask[0, 0], own[19, 29] = 8, 1
    tifffile.imwrite(tmp_path / "own.tif", own)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/data"] = data
        file["entry/detector/pixel_mask"] = pixel_mask
        file["entry/detector"].attrs["NX_class"] = "NXdetector"
    result = copied(tmp_path / "a.h5", tmp_path, mask=tmp_path / "own.tif")
    expected = np.zeros(SHAPE, bool)
    expected[4], expected[0, 0], expected[19, 29] = True, True, True
    np.testing.assert_array_equal(result["mask"], expected)
    assert result.attrs["mask_pixels"] == {"file": 1, "pixel_mask": 1, "detector marks": 30}
    assert result.attrs["saturation"] == 2**32 - 1
    assert result.attrs["saturation_source"].startswith("largest value of uint32")
    assert "masked_below" not in result.attrs


def test_any_negative_mark_of_signed_frames_is_handed_on(tmp_path: Path) -> None:
    data = series(3, "i4")
    data[:, 2, 3] = -1
    data[1, 5, 6] = -2
    result = copied(npy(tmp_path, data), tmp_path)
    assert np.argwhere(result["mask"].values).tolist() == [[2, 3]]
    assert result.attrs["masked_below"] == 0
    assert "saturation" not in result.attrs


def test_unsigned_frames_that_never_reach_their_limit_have_no_saturation(tmp_path: Path) -> None:
    result = copied(npy(tmp_path, series()), tmp_path)
    assert "saturation" not in result.attrs
    assert "mask" not in result


def test_dark_and_flat_are_stored_from_image_or_hdf5(tmp_path: Path) -> None:
    fabio.edfimage.EdfImage(data=series(1)[0]).write(str(tmp_path / "dark.edf"))
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["flat"] = np.full(SHAPE, 1.5, "f4")
    result = copied(npy(tmp_path, series()), tmp_path, dark=tmp_path / "dark.edf", flat=f"{tmp_path}/flat.h5:/flat")
    np.testing.assert_array_equal(result["dark"], series(1)[0])
    np.testing.assert_array_equal(result["flat"], np.full(SHAPE, 1.5))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("small.npy", r"--dark: .*small.npy has shape \(3, 4\), the frames are \(20, 30\)"),
        ("gone.npy", "--dark: .*gone.npy does not exist"),
        ("gone.h5:/dark", "--dark: .*gone.h5 does not exist"),
        ("broken.edf", "broken.edf.* cannot be read"),
    ],
)
def test_wrong_dark_is_refused(tmp_path: Path, extra: str, message: str) -> None:
    np.save(tmp_path / "small.npy", np.zeros((3, 4)))
    (tmp_path / "broken.edf").write_bytes(b"{ nothing")
    with pytest.raises(InputError, match=message):
        copied(npy(tmp_path, series()), tmp_path, dark=f"{tmp_path}/{extra}")


# ---------------------------------------------------------------- what headers say


def pilatus(path: Path, angle: float, second: int) -> None:
    lines = [
        "# Detector: PILATUS",
        f"# 2024-01-05T10:20:{second:02d}.250",
        "# Pixel_size 172e-6 m x 100e-6 m",
        "# Exposure_time 0.5 s",
        "# Count_cutoff 1000 counts",
        "# Wavelength 0.5 A",
        "# Detector_distance 0.25 m",
        "# Beam_xy (12.5, 7.25) pixels",
        f"# Start_angle {angle} deg.",
        "# Angle_increment 0.1 deg.",
    ]
    header = {"_array_data.header_convention": "PILATUS_1.2", "_array_data.header_contents": "\r\n".join(lines)}
    fabio.cbfimage.CbfImage(data=series(1, "i4")[0], header=header).write(str(path))


def test_pilatus_header_gives_geometry_saturation_angle_and_time(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3):
        pilatus(tmp_path / "in" / f"p_{index}.cbf", 10 + index * 0.1, 2 * index)
    result = copied(tmp_path / "in", tmp_path)
    geometry = result.attrs["geometry"]
    assert geometry["wavelength_angstrom"] == 0.5
    assert geometry["distance_mm"] == 250
    assert geometry["pixel_size_um"] == pytest.approx([100, 172])
    assert geometry["beam_centre_px"] == [7.25, 12.5]
    assert (result.attrs["saturation"], result.attrs["saturation_source"]) == (1000, "Count_cutoff")
    np.testing.assert_allclose(result["rotation_angle"], [10, 10.1, 10.2])
    np.testing.assert_allclose(result["time"], [0, 2, 4])
    np.testing.assert_allclose(result["exposure"], 0.5)
    assert result["rotation_angle"].attrs["units"] == "degree"


def test_geometry_on_which_files_disagree_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(2):
        pilatus(tmp_path / "in" / f"p_{index}.cbf", 10, 0)
    text = (tmp_path / "in" / "p_1.cbf").read_bytes()
    (tmp_path / "in" / "p_1.cbf").write_bytes(text.replace(b"Detector_distance 0.25", b"Detector_distance 0.35"))
    geometry = copied(tmp_path / "in", tmp_path).attrs["geometry"]
    assert "distance_mm" not in geometry
    assert geometry["wavelength_angstrom"] == 0.5


def test_nexus_groups_give_geometry_in_our_units(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file["entry/instrument/detector/data"] = series()
        detector, beam = file["entry/instrument/detector"], file.create_group("entry/instrument/beam")
        detector.attrs["NX_class"], beam.attrs["NX_class"] = "NXdetector", np.bytes_("NXbeam")
        for name, value, units in [
            ("distance", 120.0, "mm"),
            ("x_pixel_size", 75e-6, "m"),
            ("y_pixel_size", 50.0, "um"),
            ("beam_center_x", 0.75, "mm"),
            ("beam_center_y", 11.5, "pixel"),
        ]:
            detector[name] = value
            detector[name].attrs["units"] = units
        detector["saturation_value"] = 5000
        beam["incident_energy"] = 12.398419843
        beam["incident_energy"].attrs["units"] = "keV"
    attrs = copied(tmp_path / "a.nxs", tmp_path).attrs
    assert attrs["geometry"]["distance_mm"] == pytest.approx(120)
    assert attrs["geometry"]["pixel_size_um"] == pytest.approx([50, 75])
    assert attrs["geometry"]["beam_centre_px"] == pytest.approx([11.5, 9.5])  # 0.75 mm from the edge: 10 px, minus 0.5
    assert attrs["geometry"]["wavelength_angstrom"] == pytest.approx(1)
    assert (attrs["saturation"], attrs["saturation_source"]) == (5000, "saturation_value")


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("writer", "dtype", "name"),
    [
        (h5_filter, "u2", "a.h5"),
        (tiff_stack(), "u2", "stack.tiff"),
        (tiff_stack(imagej=True), "u2", "stack.tiff"),
        (tiff_pages, "u2", "pages.tif"),
        (edf_frames, "u2", "many.edf"),
        (npy, "u2", "a.npy"),
        (npz, "u2", "a.npz"),
        (ge, "u2", "scan.ge2"),
        (fabio_files("cbf", fabio.cbfimage.CbfImage), "i4", "f9.cbf"),
        (fabio_files("img", fabio.adscimage.AdscImage), "u2", "f9.img"),
        (marccd, "u2", "m.0001.mccd"),
    ],
)
@pytest.mark.parametrize("keep", [0.9, 0.4, 0.02])
def test_truncated_file_is_named_and_nothing_gets_the_final_name(
    tmp_path: Path, writer: Any, dtype: str, name: str, keep: float
) -> None:
    (tmp_path / "in").mkdir()
    source = writer(tmp_path / "in", series(3, dtype))
    path = tmp_path / "in" / name
    os.truncate(path, int(path.stat().st_size * keep))
    message = refusal(source, tmp_path)
    assert name in message
    assert "cannot be read" in message


def test_flipped_bit_in_a_cbf_is_found_by_its_checksum(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    fabio_files("cbf", fabio.cbfimage.CbfImage)(tmp_path / "in", series(2, "i4"))
    path = tmp_path / "in" / "f9.cbf"
    content = bytearray(path.read_bytes())
    content[content.index(b"\x0c\x1a\x04\xd5") + 100] ^= 1
    path.write_bytes(content)
    message = refusal(tmp_path / "in", tmp_path)
    assert "f9.cbf" in message
    assert "Checksum" in message


def damaged_chunks(path: Path, chunks: list[int]) -> None:
    with h5py.File(path) as file:
        offsets = [file["scan/x"].id.get_chunk_info(index).byte_offset for index in chunks]
    content = bytearray(path.read_bytes())
    for offset in offsets:
        content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(content)


def small_units(monkeypatch: pytest.MonkeyPatch, n_frames: int = 2) -> None:
    monkeypatch.setattr(store_module, "MIN_CHUNKS", 1)
    monkeypatch.setattr(store_module, "CHUNK_BYTES", n_frames * SHAPE[0] * SHAPE[1] * 2)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the units that are copied from now on."""
    numbers: list[int] = []
    original = copy_unit

    def copy(unit: Any) -> Any:
        numbers.append(unit.number)
        return original(unit)

    monkeypatch.setattr(units_module, "copy_unit", copy)
    return numbers


def test_damaged_frames_are_all_named_while_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    source = h5_filter(tmp_path, series(12))
    damaged_chunks(source, [3, 6, 7, 8])
    message = refusal(source, tmp_path)
    assert "4 of 12 frames" in message
    assert "frame 3, 6-8: " in message
    numbers = counted(monkeypatch)
    assert "4 of 12 frames" in refusal(source, tmp_path)
    assert numbers == [1, 3, 4]  # the units 0, 2 and 5 were kept


def test_full_disk_says_so_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    source = h5_filter(tmp_path, series(12))
    with monkeypatch.context() as patch:
        written = 0

        def full(file: int, sync: Any = os.fsync) -> None:
            nonlocal written
            written += 1
            if written > 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(file)

        patch.setattr(os, "fsync", full)
        message = refusal(source, tmp_path)
    assert "the disk is full" in message
    assert unfinished_path(tmp_path / "out.zarr").exists()
    numbers = counted(monkeypatch)
    np.testing.assert_array_equal(copied(source, tmp_path)["frames"], series(12))
    assert numbers == [2, 3, 4, 5]  # the plan and the records of units 0 and 1 had been written


def test_frames_that_read_back_differently_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = npy(tmp_path, series())
    original = zarr.Array.__getitem__

    def faulty(self: Any, selection: Any) -> Any:
        values = np.array(original(self, selection))
        values.flat[0] += 1
        return values

    monkeypatch.setattr(zarr.Array, "__getitem__", faulty)
    assert "a.npy, frame 0-4: read back from the store, the frames differ" in refusal(source, tmp_path)


def test_source_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    source = npy(tmp_path, series())

    def touch(done: int, total: int) -> None:
        os.utime(source, ns=(1, 1))

    assert "changed while it was read" in refusal(source, tmp_path, progress=touch)


# ---------------------------------------------------------------- resume, overwrite, workers


KILLED = """
import os, signal, sys
from braggflow.frames import store
from braggflow.convert import ingest
store.CHUNK_BYTES, store.MIN_CHUNKS = 2 * 20 * 30 * 2, 1
def stop(done, total):
    if done >= 20:
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    ingest([sys.argv[1]], sys.argv[2], workers=2, progress=stop)
"""


def test_after_kill_9_only_unfinished_units_are_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    data = series(200)
    source = h5_filter(tmp_path, data)
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    out = tmp_path / "out.zarr"
    environment = {**os.environ, "PYTHONPATH": str(Path(braggflow.__file__).parents[1])}
    killed = subprocess.run([sys.executable, script, source, out], env=environment, timeout=PATIENCE, check=False)
    assert killed.returncode == -9
    assert not out.exists()
    numbers, seen = counted(monkeypatch), []
    result = copied(source, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert 20 <= seen[0][0] < 200
    assert len(numbers) == (200 - seen[0][0]) // 2
    assert seen[-1] == (200, 200)
    np.testing.assert_array_equal(result["frames"], data)


def test_changed_source_or_settings_start_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    source = h5_filter(tmp_path, series(8))
    damaged_chunks(source, [0])
    refusal(source, tmp_path)
    source.unlink()
    h5_filter(tmp_path, series(8) + np.uint16(1))
    numbers = counted(monkeypatch)
    np.testing.assert_array_equal(copied(source, tmp_path)["frames"], series(8) + np.uint16(1))
    assert numbers == [0, 1, 2, 3]


def test_existing_output_is_replaced_only_when_asked_and_only_if_it_is_a_store(tmp_path: Path) -> None:
    source = npy(tmp_path, series())
    copied(source, tmp_path)
    with pytest.raises(InputError, match="exists; choose another name, or --overwrite"):
        copied(source, tmp_path)
    np.save(source, series(3))
    assert copied(source, tmp_path, overwrite=True).sizes["frame"] == 3
    (tmp_path / "notes.zarr").mkdir()
    with pytest.raises(InputError, match="is no frames store"):
        ingest([source], tmp_path / "notes.zarr", overwrite=True)
    with pytest.raises(InputError, match=r"must end in \.zarr"):
        ingest([source], tmp_path / "out.h5")
    with pytest.raises(InputError, match="--workers: 0"):
        ingest([source], tmp_path / "new.zarr", workers=0)


def test_checksum_of_a_source_is_that_of_its_frames_however_the_store_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = series(7)
    source = h5_filter(tmp_path, data)
    expected = sha256(b"".join(sha256(frame.tobytes()).digest() for frame in data)).hexdigest()
    for n_frames in (1, 3, 7):
        small_units(monkeypatch, n_frames)
        (entry,) = copied(source, tmp_path, overwrite=True).attrs["sources"]
        assert entry == {
            "name": "a.h5:/scan/x",
            "bytes": source.stat().st_size,
            "sha256": expected,
            "frames": 7,
        }


def test_worker_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    source = with_omega(tmp_path, series(9))
    alone = copied(source, tmp_path, coords={"omega": "/entry/data/omega"})
    path = ingest([source], tmp_path / "two.zarr", coords={"omega": "/entry/data/omega"}, workers=2)
    assert alone.identical(open_frames(path))


# ---------------------------------------------------------------- real detectors


@pytest.fixture
def real() -> Path:
    folder = os.environ.get("BRAGGFLOW_REAL_DATA")
    if not folder:
        pytest.skip("BRAGGFLOW_REAL_DATA is not set: no real data")
    return Path(folder)


def test_real_ge_series_equals_its_source(tmp_path: Path, real: Path) -> None:
    source = real / "zr_ge2" / "zr_ge2.h5"
    result = copied(source, tmp_path, coords={"omega": "/entry/data/omega"})
    with h5py.File(source) as file:
        np.testing.assert_array_equal(result["omega"], file["entry/data/omega"][()])
        for index in range(0, 100, 9):
            np.testing.assert_array_equal(result["frames"][index], file["entry/data/data"][index])
    assert result["frames"].shape == (100, 2048, 2048)
    assert result["omega"].attrs["units"] == "degree"


def test_real_adsc_frames_equal_their_files_with_angle_and_geometry(tmp_path: Path, real: Path, capfd: Any) -> None:
    result = copied(real / "snase_ccd", tmp_path)
    assert capfd.readouterr().err == ""
    for index in range(6):
        content = (real / "snase_ccd" / f"snc_newhead_{index + 1:05d}.img").read_bytes()
        np.testing.assert_array_equal(result["frames"][index], np.frombuffer(content[512:], "<u2").reshape(1024, 1024))
    np.testing.assert_array_equal(result["phi"], np.arange(6.0))
    assert result.attrs["saturation"] == 65535
    # The background's centre of symmetry, found by inverting the median frame, is (499, 532) within 1 pixel.
    assert result.attrs["geometry"]["beam_centre_px"] == pytest.approx([499, 532], abs=1)


def test_real_pilatus_frame_equals_its_file_and_its_gaps_are_masked(tmp_path: Path, real: Path) -> None:
    source = real / "pilatus300k" / "in16c_010001.cbf"
    result = copied(source, tmp_path)
    with fabio.open(str(source)) as image:
        np.testing.assert_array_equal(result["frames"][0], image.data)
        np.testing.assert_array_equal(result["mask"], image.data < 0)
    gap_rows = np.flatnonzero(result["mask"].values.all(axis=1))
    assert gap_rows.tolist() == [*range(195, 212), *range(407, 424)]
    assert result.attrs["saturation"] == 1302749
    assert result.attrs["geometry"]["pixel_size_um"] == pytest.approx([172, 172])
