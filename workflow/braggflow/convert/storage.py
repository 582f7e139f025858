"""How the frames of a series lie on disk: in which chunks, through which filters, and which chunks are not there."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from braggflow.formats import Stack, open_hdf5
from braggflow.frames import FRAMES_FORMAT, UNREADABLE

#: Names of HDF5's own filters, and of those registered with it that detectors write.
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset"} | {
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32026: "blosc2",
}
_GZIP, _BITSHUFFLE = 1, 32008
#: Which of bitshuffle's values names the compressor that follows it, and what it names.
_BITSHUFFLE_VALUE, _BITSHUFFLE_COMPRESSORS = 4, {2: "lz4", 3: "zstd"}
#: Chunks are counted by their names: of more, it would take too long.
_MOST_COUNTED = 1_000_000


@dataclass(frozen=True, slots=True)
class Storage:
    """How frames lie on disk."""

    kind: str
    """frames store, Zarr store, or the kind of detector file: hdf5, tiff, npy, npz, fabio."""
    chunks: tuple[int, ...] | None = None
    """Shape of what is decoded at once, None where frames are not cut into chunks."""
    filters: tuple[str, ...] = ()
    """What a chunk is decoded with, in the order in which it was written."""
    lost: tuple[tuple[int, int, str], ...] = ()
    """Frames of a frames store whose file is gone, as (first, the one after the last, reason)."""
    absent: int = 0
    """Chunks of a Zarr store of others that are not there and are read as the fill value."""
    chunks_in_all: int = 0
    fill_value: Any = None


def storage_of_stacks(stacks: Sequence[Stack]) -> Storage:
    """How the first of detector files that is there keeps its frames."""
    stack = next((stack for stack in stacks if Path(stack.path).is_file()), stacks[0])
    if stack.kind != "hdf5":
        return Storage(stack.kind)
    try:
        with open_hdf5(stack.path) as file:
            # One panel of a data set is named as if it lay below it.
            return _of_data_set(file[stack.inside if stack.inside in file else stack.inside.rpartition("/")[0]])
    except (*UNREADABLE, LookupError):  # whoever reads the frames says so
        return Storage(stack.kind)


def _of_data_set(data_set: Any) -> Storage:
    if not hasattr(data_set, "chunks"):  # a series of which no data set is there
        return Storage("hdf5")
    if data_set.is_virtual:
        return Storage("hdf5", filters=(f"virtual, of {len(data_set.virtual_sources())} parts",))
    if data_set.external:
        return Storage("hdf5", filters=("values in external files",))
    properties = data_set.id.get_create_plist()
    filters = tuple(_hdf5_filter(*properties.get_filter(at)) for at in range(properties.get_nfilters()))
    return Storage("hdf5", data_set.chunks and tuple(map(int, data_set.chunks)), filters)


def _hdf5_filter(code: int, _flags: int, values: Sequence[int], name: bytes) -> str:
    found = _FILTERS.get(code) or name.decode(errors="replace").split(";")[0] or f"filter {code}"
    if code == _GZIP and values:
        return f"{found}-{values[0]}"
    if code == _BITSHUFFLE and len(values) > _BITSHUFFLE_VALUE:
        return " ".join(filter(None, (found, _BITSHUFFLE_COMPRESSORS.get(values[_BITSHUFFLE_VALUE]))))
    return found


def storage_of_store(data: xr.Dataset) -> Storage:
    """How a frames store, or a Zarr store of others, keeps its frames, and what of them is not there."""
    ours = data.attrs.get("format") == FRAMES_FORMAT
    path, encoding = Path(data.encoding["source"]), data["frames"].encoding
    chunks = tuple(map(int, encoding["chunks"]))
    codecs = [*(encoding.get("filters") or ()), *(encoding.get("compressors") or ())]
    filters = tuple(filter(None, map(_codec, codecs)))
    if shards := encoding.get("shards"):
        filters = (*filters, f"in shards of {' × '.join(map(str, shards))}")
    kind = "frames store" if ours else "Zarr store"
    if ours:
        lost = _lost(path / "frames" / "c", int((shards or chunks)[0]), data.sizes["frame"])
        return Storage(kind, chunks, filters, lost)
    absent, in_all, fill = _absent(path)
    return Storage(kind, chunks, filters, (), absent, in_all, fill)


def _lost(folder: Path, per_file: int, n_frames: int) -> tuple[tuple[int, int, str], ...]:
    """Frames whose files of chunks, of `per_file` frames each, are not in the folder."""
    there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    return tuple(
        (start, min(start + per_file, n_frames), f"chunk frames/c/{index}/0/0 is missing")
        for index, start in enumerate(range(0, n_frames, per_file))
        if str(index) not in there
    )


def _absent(path: Path) -> tuple[int, int, Any]:
    """How many chunks of a store's frames are not there, of how many, and what is read in their place."""
    try:
        array = zarr.open_array(path, path="frames", mode="r")
        in_all = array.nchunks
        absent = in_all - array.nchunks_initialized if in_all <= _MOST_COUNTED else 0
    except (*UNREADABLE, LookupError, TypeError):  # whoever reads the frames says so
        return 0, 0, None
    return max(0, absent), in_all, np.asarray(array.fill_value).item()


def _codec(codec: Any) -> str:
    stated: Mapping[str, Any] = codec.to_dict() if hasattr(codec, "to_dict") else codec.get_config()
    name = str(stated.get("name", stated.get("id", type(codec).__name__)))
    settings = stated.get("configuration", stated)
    return " ".join(filter(None, (name.removeprefix("numcodecs."), str(settings.get("cname", "")))))
