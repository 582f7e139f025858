"""A small whole file of each kind, to be mutated."""

from collections.abc import Callable
from pathlib import Path

import fabio
import h5py
import hdf5plugin
import numpy as np
import tifffile
import xarray as xr
import zarr
from numcodecs import Zlib
from numpy.typing import NDArray

from tests.stores import make_store, spots

Write = Callable[[Path, NDArray[np.uint16]], Path]
SHAPE = (48, 56)


def frames() -> NDArray[np.uint16]:
    """Four frames (frame, y, x) with a few spots."""
    return np.stack([spots(SHAPE, 3, seed=seed) for seed in range(4)])


def _hdf5(folder: Path, data: NDArray[np.uint16]) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file["entry/data/data"] = data
        file["entry/data/sum"] = data.sum(0)
    return folder / "a.h5"


def _hdf5_chunks(folder: Path, data: NDArray[np.uint16]) -> Path:
    """With filters of HDF5's own, and with NeXus groups that say things of the detector."""
    with h5py.File(folder / "a.nxs", "w", libver="latest") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": "data"})
        group = entry.create_group("data")
        group.attrs.update({"NX_class": "NXdata", "signal": "data"})
        group.create_dataset("data", data=data, chunks=(2, *SHAPE), compression="gzip", shuffle=True, fletcher32=True)
        detector = entry.create_group("instrument/detector")
        detector.attrs["NX_class"] = "NXdetector"
        detector["pixel_mask"] = np.zeros(SHAPE, "u4")
        detector["saturation_value"] = 60000
        detector["x_pixel_size"], detector["y_pixel_size"] = 7.5e-5, 7.5e-5
        entry["omega"] = np.arange(len(data)) * 0.5
    return folder / "a.nxs"


def _hdf5_bitshuffle(folder: Path, data: NDArray[np.uint16]) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        options = hdf5plugin.Bitshuffle(cname="lz4")
        file.create_dataset("d", data=data.astype("u4"), chunks=(1, *SHAPE), maxshape=(None, *SHAPE), **options)
    return folder / "a.h5"


def _hdf5_links(folder: Path, data: NDArray[np.uint16]) -> Path:
    """An EIGER master file: its data files are whole."""
    with h5py.File(folder / "s_master.h5", "w") as master:
        for number, part in ((1, data[:2]), (2, data[2:])):
            with h5py.File(folder / f"s_data_{number:06d}.h5", "w") as file:
                file["entry/data/data"] = part
            master[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(f"s_data_{number:06d}.h5", "entry/data/data")
    return folder / "s_master.h5"


def _hdf5_virtual(folder: Path, data: NDArray[np.uint16]) -> Path:
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    for index, frame in enumerate(data):
        with h5py.File(folder / f"part{index}.h5", "w") as file:
            file["x"] = frame[np.newaxis]
        layout[index] = h5py.VirtualSource(f"part{index}.h5", "x", (1, *SHAPE))[0]
    with h5py.File(folder / "virtual.h5", "w") as file:
        file.create_virtual_dataset("entry/data", layout)
    return folder / "virtual.h5"


def _tiff(folder: Path, data: NDArray[np.uint16]) -> Path:
    tifffile.imwrite(folder / "a.tif", data, photometric="minisblack")
    return folder / "a.tif"


def _tiff_pages(folder: Path, data: NDArray[np.uint16]) -> Path:
    with tifffile.TiffWriter(folder / "a.tif") as tiff:
        for frame in data:
            tiff.write(frame, contiguous=False, metadata=None, compression="zlib", description="# Detector: P300K\n")
    return folder / "a.tif"


def _cbf(folder: Path, data: NDArray[np.uint16]) -> Path:
    contents = "# Detector: P300K\n# Count_cutoff 60000 counts\n# Start_angle 1.0 deg.\n# Angle_increment 0.1 deg.\n"
    header = {"_array_data.header_contents": contents}
    fabio.cbfimage.CbfImage(data=data[0].astype("i4"), header=header).write(str(folder / "a.cbf"))
    return folder / "a.cbf"


def _edf(folder: Path, data: NDArray[np.uint16]) -> Path:
    image = fabio.edfimage.EdfImage(data=data[0])
    for frame in data[1:]:
        image.append_frame(data=frame)
    image.write(str(folder / "a.edf"))
    return folder / "a.edf"


def _npy(folder: Path, data: NDArray[np.uint16]) -> Path:
    np.save(folder / "a.npy", data)
    return folder / "a.npy"


def _npz(folder: Path, data: NDArray[np.uint16]) -> Path:
    np.savez_compressed(folder / "a.npz", omega=np.arange(len(data)), stack=data)
    return folder / "a.npz"


def _zarr(version: int) -> Write:
    def write(folder: Path, data: NDArray[np.uint16]) -> Path:
        coords = {"frame": np.arange(len(data)), "time": ("frame", np.arange(len(data)) * 0.5)}
        mask = np.zeros(SHAPE, "u1")
        mask[3] = 1
        series = xr.Dataset({"frames": (("frame", "y", "x"), data), "mask": (("y", "x"), mask)}, coords)
        encoding = {"frames": {"chunks": (1, *SHAPE)}}
        series.to_zarr(folder / "a.zarr", zarr_format=version, consolidated=False, encoding=encoding)
        return folder / "a.zarr"

    return write


def _zarr_zlib(folder: Path, data: NDArray[np.uint16]) -> Path:
    group = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=2)
    array = group.create_array("frames", shape=data.shape, dtype=data.dtype, chunks=(1, *SHAPE), compressors=Zlib())
    array.attrs["_ARRAY_DIMENSIONS"] = ["frame", "y", "x"]
    array[:] = data
    return folder / "a.zarr"


def _zarr_shards(folder: Path, data: NDArray[np.uint16]) -> Path:
    group = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=3)
    array = group.create_array(
        "frames",
        shape=data.shape,
        dtype=data.dtype,
        chunks=(1, *SHAPE),
        shards=(2, *SHAPE),
        dimension_names=("frame", "y", "x"),
    )
    array[:] = data
    return folder / "a.zarr"


def _frames_store(folder: Path, data: NDArray[np.uint16]) -> Path:
    attributes = {"saturation": 60000, "masked_below": 0, "missing_frames": [[3, 4, "was never written"]]}
    return make_store(folder / "a.zarr", data, attributes=attributes)


KINDS: dict[str, Write] = {
    "hdf5": _hdf5,
    "hdf5, chunks": _hdf5_chunks,
    "hdf5, bitshuffle": _hdf5_bitshuffle,
    "hdf5, links": _hdf5_links,
    "hdf5, virtual": _hdf5_virtual,
    "tiff": _tiff,
    "tiff, pages": _tiff_pages,
    "cbf": _cbf,
    "edf": _edf,
    "npy": _npy,
    "npz": _npz,
    "zarr 2": _zarr(2),
    "zarr 2, zlib": _zarr_zlib,
    "zarr 3": _zarr(3),
    "zarr, shards": _zarr_shards,
    "frames store": _frames_store,
}
