"""One writer for each format: a small series as other programs write it."""

import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest
import tifffile

from braggflow.errors import InputError
from braggflow.formats import inspect_source, read_frames
from tests.convert.conversions import SHAPE

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


def with_omega(folder: Path, data: np.ndarray, **data_sets: Any) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file["entry/data/data"] = data
        for name, values in {"omega": np.arange(len(data)) * 0.5, **data_sets}.items():
            file[f"entry/data/{name}"] = values
        file["entry/data/omega"].attrs["units"] = "degree"
    return folder / "a.h5"


# ---------------------------------------------------------------- formats of which no library at hand is the writer


def merlin(
    path: Path, data: np.ndarray, *, kind: str = "U16", stored: str = ">u2", header: int = 384, layout: str = "1x1"
) -> Path:
    """A Merlin file as the manual of Quantum Detectors describes it: a text header before the values of each frame."""
    content = b""
    for number, frame in enumerate(data, 1):
        fields = f"MQ1,{number:06d},{header:05d},01,{frame.shape[1]:04d},{frame.shape[0]:04d},{kind},{layout:>6},01,"
        content += (fields + "2020-05-18 16:51:49.971626,0.000555,0,0,0,1.2E+2,MQ1A,").encode().ljust(header)
        content += frame.astype(stored).tobytes()
    path.write_bytes(content)
    return path


def frame_cache_npz(path: Path, data: np.ndarray, threshold: int, **metadata: Any) -> Path:
    """The arrays that hexrd's writer (imageseries/save.py) puts into a frame cache of the style npz."""
    arrays: dict[str, Any] = {}
    for number, frame in enumerate(data):
        rows, columns = np.nonzero(frame > threshold)
        arrays[f"{number}_row"], arrays[f"{number}_col"] = rows.astype(np.uint16), columns.astype(np.uint16)
        arrays[f"{number}_data"] = frame[rows, columns]
    arrays |= {"shape": data.shape[1:], "nframes": len(data), "dtype": str(data.dtype).encode()}
    np.savez_compressed(path, **(arrays | metadata))
    return path


def frame_cache_fch5(path: Path, data: np.ndarray, threshold: int, **metadata: Any) -> Path:
    """The data sets that hexrd's writer (imageseries/save.py) puts into a frame cache of the style fch5."""
    blosc = hdf5plugin.Blosc(cname="zstd", clevel=5)
    places = [np.argwhere(frame > threshold).astype(np.uint16) for frame in data]
    ends = np.cumsum([0, *(len(place) for place in places)])
    with h5py.File(path, "w") as file:
        file.attrs["HEXRD_FRAMECACHE_VERSION"] = 1
        file["shape"], file["nframes"], file["dtype"] = data.shape[1:], len(data), str(data.dtype).encode()
        values = np.concatenate([frame[frame > threshold] for frame in data])
        file.create_dataset("data", data=values[:, np.newaxis], **blosc)
        file.create_dataset("indices", data=np.concatenate(places), **blosc)
        file["frame_ids"] = np.stack([ends[:-1], ends[1:]], axis=1).ravel().astype(np.uint64)
        for name, entry in metadata.items():
            file[f"metadata/{name}"] = entry
    return path


def raxis(path: Path, frame: np.ndarray) -> Path:
    """An R-AXIS frame by the order of entries that fabio reads: big-endian, the header one record, each row another."""
    sizes = {"float": ("f", 0.0), "long": ("l", 0)}
    entries = {"X Pixels": frame.shape[1], "Y Pixels": frame.shape[0], "Photomultiplier Ratio": 8.0}
    entries["Record Length"] = 2 * frame.shape[1]
    header = b""
    for name, kind in fabio.raxisimage.RIGAKU_KEYS.items():
        if isinstance(kind, int):
            header += (b"R-AXIS4" if not header else b"").ljust(max(kind, 0), b"\0")
        else:
            code, value = sizes[kind]
            header += struct.pack(f">{code}", entries.get(name, value))
    path.write_bytes(header.ljust(2 * frame.shape[1], b"\0") + frame.astype(">u2").tobytes())
    return path


def npy_header(shape: tuple[int, ...], dtype: str = "<u2") -> bytes:
    """The header of a .npy file, which may lie."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def found(path: Path, inside: str = "") -> np.ndarray:
    """All frames of a file, as they are read in two parts."""
    (stack,) = inspect_source(str(path), inside)
    middle = stack.frames // 2
    parts = [read_frames(stack, lo, hi) for lo, hi in ((0, middle), (middle, stack.frames)) if lo < hi]
    return np.concatenate(parts)


def refused(path: Path, inside: str = "") -> str:
    """The message with which a file is refused when it is inspected or read."""
    with pytest.raises(InputError) as caught:
        found(path, inside)
    message = str(caught.value)
    assert path.name in message
    return message
