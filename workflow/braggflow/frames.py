"""Frames stores: the schema of `NAME.zarr`, opening with checks, and the correction of one frame.

A frames store holds `frames(frame, y, x)` in its raw dtype, optional `mask(y, x)` (True = ignore), `dark(y, x)` and
`flat(y, x)`, the index coordinate `frame`, and any per-frame coordinates.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import ArrayLike, NDArray
from zarr.codecs import BloscCodec

from braggflow.config import FramesConfig, InputError, RunConfig

FORMAT = "braggflow-frames"
FORMAT_VERSION = 1
#: Aimed-at size of one chunk before compression: long enough to amortise a read, short enough to hold a few.
CHUNK_BYTES = 16 * 2**20
#: What is compressed at a time. In Blosc's own choice for this codec, 32 KiB, frames take more space and twice as long
#: to decode; bits shuffled in place of bytes do so too (docs/benchmarks.md).
BLOCK_BYTES = 2**20
#: A short series of small frames is cut finer, so that several workers share it and damage to a file costs little.
MIN_CHUNKS = 32
#: Above this many chunks, they are packed into shards so that file systems need not hold a file for each.
MAX_CHUNK_FILES = 10_000


def chunk_frames(n_frames: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> int:
    """Whole frames per chunk, for about `CHUNK_BYTES` a chunk and at least `MIN_CHUNKS` chunks."""
    return max(1, min(-(-n_frames // MIN_CHUNKS), CHUNK_BYTES // (shape[0] * shape[1] * dtype.itemsize)))


def wip(path: Path) -> Path:
    """The name under which a store is built before it is complete."""
    return path.with_name(path.name + ".wip")


def create(
    path: Path,
    *,
    n_frames: int,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    coords: Mapping[str, tuple[ArrayLike, Mapping[str, Any]]] | None = None,
    images: Mapping[str, ArrayLike] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> zarr.Array[Any]:
    """Begin a frames store at `wip(path)`; return its `frames` array, to be filled chunk by chunk, then `finish(path)`.

    `coords` are per-frame coordinates as (values of shape (n_frames,), attributes); `frame` among them replaces the
    default numbering from 0. `images` may hold `mask`, `dark` and `flat`, each of shape (y, x). `attributes` may hold
    `saturation` (counts), `masked_below` (counts: pixels below it are ignored), `sources` and `geometry`.
    """
    target = wip(path)
    if target.exists():
        shutil.rmtree(target)
    coords = dict(coords or {})
    numbers, number_attributes = coords.pop("frame", (np.arange(n_frames), {}))
    small = xr.Dataset(
        {name: (("y", "x"), np.asarray(image)) for name, image in (images or {}).items()},
        coords={
            "frame": ("frame", np.asarray(numbers, np.int64), dict(number_attributes)),
            **{name: ("frame", np.asarray(values), dict(attrs)) for name, (values, attrs) in coords.items()},
        },
        attrs={"format": FORMAT, "format_version": FORMAT_VERSION, **(attributes or {})},
    )
    small.to_zarr(target, mode="w", zarr_format=3, consolidated=False)
    step = chunk_frames(n_frames, shape, dtype)
    n_chunks = -(-n_frames // step)
    per_shard = -(-n_chunks // MAX_CHUNK_FILES)
    zarr.open_group(target, mode="r+").create_array(
        "frames",
        shape=(n_frames, *shape),
        dtype=dtype,
        chunks=(step, *shape),
        shards=(step * per_shard, *shape) if per_shard > 1 else None,
        compressors=BloscCodec(
            cname="zstd", clevel=1, shuffle="shuffle", typesize=dtype.itemsize, blocksize=BLOCK_BYTES
        ),
        dimension_names=("frame", "y", "x"),
        attributes={"units": "count", "coordinates": " ".join(coords)} if coords else {"units": "count"},
    )
    return open_unfinished(path)


def open_unfinished(path: Path) -> "zarr.Array[Any]":
    """The `frames` array of the store that `create` began at `wip(path)`, for writing, from any process."""
    # Chunks of zeros are written too, so that a chunk that is missing later is known to be lost.
    with zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.open_array(wip(path), path="frames", mode="r+")


def finish(path: Path) -> None:
    """Give the complete store at `wip(path)` its name; an older store of that name is replaced."""
    old = path.with_name(path.name + ".old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    wip(path).rename(path)
    shutil.rmtree(old, ignore_errors=True)


def write_unit(frames: "zarr.Array[Any]") -> int:
    """Frames per file of a store: writers must keep to multiples of it, lest two of them share a file."""
    return int((frames.shards or frames.chunks)[0])


def open_frames(path: str | Path) -> xr.Dataset:
    """Open a frames store lazily and check it against the schema; or an HDF5 file, `FILE` or `FILE:/path/in/it`.

    Raises `InputError` naming the store, what was found and what is accepted.
    """
    from braggflow import direct, sources  # here, because few runs read HDF5 files

    if sources.is_hdf5(path):
        return direct.open_frames(path)
    path = Path(path)
    if not path.exists():
        hint = f"; {wip(path).name} is there: the command that makes it did not finish" if wip(path).exists() else ""
        raise InputError(f"frames store {path}: does not exist{hint}")
    try:
        data: xr.Dataset = xr.open_zarr(path, consolidated=False, chunks=None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"frames store {path}: is not a Zarr store ({error}); make one with: braggflow ingest"
        ) from error
    _check(path, data)
    return data


def from_array(images: xr.Dataset | xr.DataArray | NDArray[Any]) -> xr.Dataset:
    """An array (frame, y, x), or one frame (y, x), as the Dataset that `open_frames` returns, with the same checks."""
    if isinstance(images, xr.Dataset):
        _check("dataset", images)
        # It may be a part of a store, whose files say nothing of it.
        return images.drop_attrs(deep=False).assign_attrs({k: v for k, v in images.attrs.items() if k != "format"})
    array = images if isinstance(images, xr.DataArray) else xr.DataArray(images)
    if array.ndim not in (2, 3):
        raise InputError(f"frames: array has shape {array.shape}, must be (frame, y, x) or (y, x)")
    if array.ndim == 2:
        array = array.expand_dims("frame")
    array = array.rename(dict(zip(array.dims, ("frame", "y", "x"), strict=True))).drop_vars(["y", "x"], errors="ignore")
    if "frame" not in array.coords:
        array = array.assign_coords(frame=np.arange(array.sizes["frame"]))
    data = array.to_dataset(name="frames")
    _check("array", data)
    return data


def _check(path: str | Path, data: xr.Dataset) -> None:
    def refuse(found: str) -> InputError:
        return InputError(f"frames store {path}: {found}")

    version = data.attrs.get("format_version", FORMAT_VERSION)
    if version > FORMAT_VERSION:
        raise refuse(f"format_version {version} is newer than {FORMAT_VERSION}, the newest this version reads")
    if "frames" not in data:
        raise refuse(f"has no array 'frames' (has: {', '.join(map(str, data.variables)) or 'nothing'})")
    frames = data["frames"]
    if frames.dims != ("frame", "y", "x"):
        raise refuse(f"frames has dimensions {frames.dims}, must be ('frame', 'y', 'x')")
    if frames.dtype.kind not in "iuf" or frames.dtype.itemsize > 8 or frames.dtype == np.float16:
        raise refuse(f"frames has dtype {frames.dtype}, must be an integer type, float32 or float64")
    if 0 in frames.shape:
        raise refuse(f"frames has shape {frames.shape}: the series is empty")
    numbers = data["frame"].values
    if numbers.dtype.kind not in "iu" or len(np.unique(numbers)) != len(numbers):
        raise refuse("coordinate 'frame' must hold whole numbers, each once")
    for name in ("mask", "dark", "flat"):
        if name in data and data[name].shape != frames.shape[1:]:
            raise refuse(f"{name} has shape {data[name].shape}, the frames are {frames.shape[1:]}")


def read(data: xr.Dataset, positions: NDArray[np.int64]) -> NDArray[Any]:
    """The raw frames at ascending `positions` (n,) of an open store, shape (n, y, x).

    Raises `FileNotFoundError` where a chunk of a store of ours is missing (Zarr itself would read it as zeros), and
    `ValueError` or `OSError` where one is damaged or cannot be read.
    """
    if data.attrs.get("format") == FORMAT:
        folder, unit = Path(data.encoding["source"]) / "frames" / "c", _file_frames(data)
        for index in np.unique(positions // unit):
            if not (folder / str(index) / "0" / "0").exists():
                raise FileNotFoundError(f"chunk frames/c/{index}/0/0 is missing")
    consecutive = positions[-1] - positions[0] == len(positions) - 1
    try:
        values = data["frames"][slice(positions[0], positions[-1] + 1) if consecutive else positions].values
    except RuntimeError as error:  # a codec's, which does not say where
        chunks = np.unique(positions // int(data["frames"].encoding["chunks"][0]))
        raise ValueError(f"chunk {', '.join(map(str, chunks))} of frames is damaged ({error})") from error
    native: NDArray[Any] = values.astype(values.dtype.newbyteorder("="), copy=False)
    return native


def _file_frames(data: xr.Dataset) -> int:
    encoding = data["frames"].encoding
    return int((encoding.get("shards") or encoding["chunks"])[0])


@dataclass(frozen=True, slots=True)
class Correction:
    """What is done to each raw frame before detection; made once per data set by `prepare`."""

    mask: NDArray[np.bool_]
    """(y, x), True = ignore."""
    dark: NDArray[np.float32] | None
    """(y, x) counts, subtracted first."""
    flat: NDArray[np.float32] | None
    """(y, x) relative response, divided by; mean 1 over unmasked pixels."""
    bin: int
    saturation: float
    """Raw counts at and above which a pixel is saturated (inf: never)."""
    masked_below: float
    """Raw counts below which a pixel is ignored (-inf: none)."""


@dataclass(frozen=True, slots=True)
class CorrectedFrame:
    """One frame, ready to be searched; shapes are those after binning."""

    counts: NDArray[Any]
    """(y, x), the raw dtype if nothing had to be corrected, else float32."""
    mask: NDArray[np.bool_]
    """(y, x), True = ignore: the series' mask, and this frame's NaN or marked pixels."""
    saturated: NDArray[np.bool_] | None
    """(y, x), or None where no pixel is, or where `saturation` says it."""
    saturation: float = np.inf
    """Counts at and above which a pixel is saturated: for frames that were passed through as they are."""


def prepare(data: xr.Dataset, config: FramesConfig) -> Correction:
    """The correction of a frames store's frames: the store's own mask, dark and flat, joined with the configuration's.

    Raises `InputError` naming the key or file where an image cannot be read, has another shape or makes no sense.
    """
    shape = data["frames"].shape[1:]
    mask = np.zeros(shape, bool) if "mask" not in data else data["mask"].values != 0
    if config.mask is not None:
        mask = mask | (_image("frames.mask", config.mask, shape) != 0)
    dark = _correction_image(data, "dark", config.dark)
    flat = _correction_image(data, "flat", config.flat)
    if dark is not None:
        mask = mask | ~np.isfinite(dark)
    if flat is not None:
        useless = ~(np.isfinite(flat) & (flat > 0))
        if useless[~mask].all():
            raise InputError("frames.flat: has no positive pixel outside the mask")
        mask = mask | useless
        flat = np.where(mask, np.float32(1), flat / flat[~mask].mean(dtype=np.float64)).astype(np.float32)
    if mask.all():
        raise InputError(f"frames.mask: {config.mask or 'the mask in the store'} leaves no pixel to search")
    if config.bin > min(shape):
        raise InputError(f"frames.bin: {config.bin} is larger than the frames, {shape}")
    saturation = config.saturation if config.saturation is not None else data.attrs.get("saturation")
    masked_below = data.attrs.get("masked_below")
    return Correction(
        mask=mask,
        dark=dark,
        flat=flat,
        bin=config.bin,
        saturation=np.inf if saturation is None else float(saturation),
        masked_below=-np.inf if masked_below is None else float(masked_below),
    )


def background_frame(data: xr.Dataset, config: RunConfig) -> NDArray[np.float32] | None:
    """The frame that `detect.background` names, binned like the frames; None where it names none.

    Raises `InputError` naming the key or file.
    """
    if config.detect.background in ("none", "local"):
        return None
    image = _image("detect.background", config.detect.background, data["frames"].shape[1:]).astype(np.float32)
    if not np.isfinite(image).all():
        raise InputError(f"detect.background: {config.detect.background} has pixels that are NaN or infinite")
    return np.asarray(_blocks(image, config.frames.bin).sum(axis=(1, 3)))


def _correction_image(data: xr.Dataset, name: str, choice: str) -> NDArray[np.float32] | None:
    if choice == "none" or (choice == "store" and name not in data):
        return None
    shape = data["frames"].shape[1:]
    image = data[name].values if choice == "store" else _image(f"frames.{name}", choice, shape)
    return image.astype(np.float32)


def _image(key: str, source: str, shape: tuple[int, ...]) -> NDArray[Any]:
    from braggflow.sources import read_image  # here, because few runs name an image

    return read_image(key, source, shape)


def correct(raw: NDArray[Any], correction: Correction) -> CorrectedFrame:
    """Apply mask, dark, flat and binning to one raw frame, shape (y, x).

    An integer frame with nothing to correct is passed through without a copy. Binned pixels are sums; one is masked or
    saturated if any of its pixels is. Rows and columns beyond the last whole bin are left out.
    """
    mask = correction.mask
    if raw.dtype.kind == "f":
        mask = _join(mask, ~np.isfinite(raw))
    if correction.masked_below > -np.inf:
        mask = _join(mask, raw < correction.masked_below)
    if correction.dark is None and correction.flat is None and correction.bin == 1:
        return CorrectedFrame(raw, mask, None, correction.saturation)
    saturated = None
    if correction.saturation < np.inf:
        at_limit = raw >= correction.saturation
        saturated = at_limit if at_limit.any() else None
    counts = raw
    if correction.dark is not None:
        counts = counts.astype(np.float32) - correction.dark
    if correction.flat is not None:
        counts = counts.astype(np.float32, copy=False) / correction.flat
    if correction.bin > 1:
        b = correction.bin
        counts = _blocks(np.where(mask, 0, counts), b).sum(axis=(1, 3), dtype=np.float32)
        mask = np.logical_or.reduce(_blocks(mask, b), axis=(1, 3))
        saturated = None if saturated is None else np.logical_or.reduce(_blocks(saturated, b), axis=(1, 3))
    return CorrectedFrame(counts, mask, saturated)


def _join(mask: NDArray[np.bool_], more: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask | more if more.any() else mask


def _blocks(image: NDArray[Any], b: int) -> NDArray[Any]:
    rows, columns = image.shape[0] // b, image.shape[1] // b
    return image[: rows * b, : columns * b].reshape(rows, b, columns, b)


def unbinned(position: NDArray[np.float64], b: int) -> NDArray[np.float64]:
    """Detector coordinate of a coordinate on the binned frame: binned pixel i is centred at b·i + (b - 1)/2."""
    return position * b + (b - 1) / 2
