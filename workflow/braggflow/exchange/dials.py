"""DIALS' reflection tables, `.refl`.

A file is one MessagePack document, [name, version, {identifiers, nrows, data}], whose columns are pairs of a C++ type
and the memory of its values, little-endian: DIALS, dials/array_family/reflection_table_msgpack_adapter.h. Columns are
those that dials.find_spots writes (documentation/data_files), without shoeboxes. In `xyzobs.px.value` the first pixel
spans 0 to 1 along the fast axis (x), the slow axis (y) and the frames (z): ours spans -0.5 to 0.5.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.exchange.conventions import CONVENTIONS
from braggflow.exchange.lists import PeakList
from braggflow.exchange.rows import Rows, values_of
from braggflow.peak_rows import intensity_errors
from braggflow.peak_table import Flag

_NAME, _VERSION = "dials::af::reflection_table", 1
#: Bits of DIALS' flags (dials/array_family/reflection_table.h), which NXreflections takes over.
OBSERVED, STRONG = 1 << 1, 1 << 5
#: The bits that say what our flags say.
SAME_FLAGS = {
    Flag.saturated: 1 << 10,  # overloaded
    Flag.overlap: 1 << 11,  # overlapped
    Flag.ring: 1 << 13,  # in_powder_ring
    Flag.masked: 1 << 14,  # foreground_includes_bad_pixels
}
#: Variance of a frame's number: any moment of the frame.
FRAME_VARIANCE = 1 / 12
#: Pixels on each side of the maximum in a bounding box, in standard deviations of the profile, and at least.
_BOX_SIGMAS, _BOX_LEAST = 3.0, 2
_SIGMAS_OF_FWHM = 1 / (2 * np.sqrt(2 * np.log(2)))


def status_flags(rows: xr.Dataset) -> NDArray[np.int64]:
    """DIALS' status flags of our rows."""
    ours = rows["flags"].values if "flags" in rows else np.zeros(rows.sizes["peak"], np.uint16)
    found = np.full(len(ours), OBSERVED | STRONG, np.int64)
    for flag, bit in SAME_FLAGS.items():
        found |= np.where(ours & flag, bit, 0)
    return found


def our_flags(status: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Those of our flags that DIALS' status flags say."""
    found = np.zeros(len(status), np.uint16)
    for flag, bit in SAME_FLAGS.items():
        found |= np.where(status & bit, np.uint16(flag), np.uint16(0))
    return found


def bounding_boxes(rows: xr.Dataset) -> NDArray[np.int32]:
    """Shape (n, 6): x, y and frame, each from and to (exclusive), of pixels where the peak is."""
    sigma = _SIGMAS_OF_FWHM * np.nan_to_num(values_of(rows, "fwhm_major"))
    reach = np.maximum(_BOX_LEAST, np.ceil(np.minimum(sigma, 50) * _BOX_SIGMAS)).astype(np.int32)
    y, x = (np.rint(rows[name].values).astype(np.int32) for name in ("y", "x"))
    frame = rows["peak_frame"].values.astype(np.int32)
    return np.stack([x - reach, x + reach + 1, y - reach, y + reach + 1, frame, frame + 1], axis=1)


def intensity_variance(rows: xr.Dataset) -> NDArray[np.float64]:
    """The square of what `peak_rows.intensity_errors` says."""
    return intensity_errors(rows) ** 2


def _positions(rows: xr.Dataset) -> NDArray[np.float64]:
    middle, frame_middle = CONVENTIONS["refl"].middle, CONVENTIONS["refl"].frame_middle
    return np.stack(
        [rows["x"].values + middle, rows["y"].values + middle, rows["peak_frame"].values + frame_middle], axis=1
    )


def _variances(rows: xr.Dataset) -> NDArray[np.float64]:
    frame = np.full(rows.sizes["peak"], FRAME_VARIANCE)
    return np.stack([values_of(rows, "x_std") ** 2, values_of(rows, "y_std") ** 2, frame], axis=1)


#: Columns: the C++ type, the type and number of the values of a row, and what they are.
_COLUMNS: dict[str, tuple[str, str, int, Callable[[xr.Dataset], NDArray[Any]]]] = {
    "id": ("int", "<i4", 1, lambda rows: np.zeros(rows.sizes["peak"])),
    "panel": ("std::size_t", "<u8", 1, lambda rows: np.zeros(rows.sizes["peak"])),
    "flags": ("std::size_t", "<u8", 1, status_flags),
    # Readers of indexed reflections ask for indices; (0, 0, 0) is DIALS' own for those that have none.
    "miller_index": ("cctbx::miller::index<>", "<i4", 3, lambda rows: np.zeros((rows.sizes["peak"], 3))),
    "xyzobs.px.value": ("vec3<double>", "<f8", 3, _positions),
    "xyzobs.px.variance": ("vec3<double>", "<f8", 3, _variances),
    "intensity.sum.value": ("double", "<f8", 1, lambda rows: values_of(rows, "intensity")),
    "intensity.sum.variance": ("double", "<f8", 1, intensity_variance),
    "background.mean": ("double", "<f8", 1, lambda rows: values_of(rows, "background")),
    "n_signal": ("int", "<i4", 1, lambda rows: values_of(rows, "area", 0)),
    "bbox": ("int6", "<i4", 6, bounding_boxes),
}


def _write_refl(path: Path, rows: Rows) -> None:
    """All columns at once, each at its place in the file, which is known beforehand."""
    import msgpack

    packer = msgpack.Packer()
    head = [packer.pack_array_header(3), packer.pack(_NAME), packer.pack(_VERSION), packer.pack_map_header(3)]
    head += [packer.pack("identifiers"), packer.pack_map_header(0), packer.pack("nrows"), packer.pack(rows.n)]
    head += [packer.pack("data"), packer.pack_map_header(len(_COLUMNS))]
    places = {}
    with path.open("wb") as file:
        file.write(b"".join(head))
        for name, (kind, dtype, width, _) in _COLUMNS.items():
            size = rows.n * width * np.dtype(dtype).itemsize
            if size >= 2**32:
                raise InputError(f"--to refl: {rows.n:,} peaks are too many, a column of this format is below 4 GiB")
            file.write(packer.pack(name) + packer.pack_array_header(2) + packer.pack(kind))
            file.write(packer.pack_array_header(2) + packer.pack(rows.n) + b"\xc6" + size.to_bytes(4, "big"))
            places[name] = file.tell()
            file.seek(size, 1)
        file.truncate()
        start = 0
        for chunk in rows.chunks():
            for name, (_, dtype, width, values) in _COLUMNS.items():
                file.seek(places[name] + start * width * np.dtype(dtype).itemsize)
                file.write(np.ascontiguousarray(values(chunk), dtype).tobytes())
            start += chunk.sizes["peak"]


def _read_refl(path: Path) -> PeakList:
    """Observed positions, variances, intensities and flags of one panel."""
    data = _document(path)
    found = {name: _column(path, data, name) for name in _COLUMNS if name in data}
    if "xyzobs.px.value" not in found:
        raise InputError(f"{path}: has no column xyzobs.px.value; must hold observed reflections (dials.find_spots)")
    if "panel" in found and len(panels := np.unique(found["panel"])) > 1:
        raise InputError(f"{path}: has {len(panels)} panels; must have one, whose pixels are those of the frames")
    middle, frame_middle = CONVENTIONS["refl"].middle, CONVENTIONS["refl"].frame_middle
    x, y, z = found["xyzobs.px.value"].T
    columns = {"x": x - middle, "y": y - middle, "peak_frame": np.rint(z - frame_middle)}
    if "xyzobs.px.variance" in found:
        x_variance, y_variance, _ = found["xyzobs.px.variance"].T
        columns |= {"x_std": np.sqrt(x_variance), "y_std": np.sqrt(y_variance)}
    for theirs, ours in (
        ("intensity.sum.value", "intensity"),
        ("background.mean", "background"),
        ("n_signal", "area"),
    ):
        if theirs in found:
            columns[ours] = found[theirs]
    if "intensity.sum.variance" in found and "intensity" in columns:
        with np.errstate(divide="ignore", invalid="ignore"):
            columns["intensity_std"] = np.sqrt(found["intensity.sum.variance"])
            columns["snr"] = np.abs(columns["intensity"]) / columns["intensity_std"]
    if "flags" in found:
        columns["flags"] = our_flags(found["flags"].astype(np.int64))
    read = {*_COLUMNS} - {"bbox", "miller_index"}
    # What says nothing is not missed.
    dull = {name for name in ("miller_index",) if name in found and not found[name].any()} | {"bbox"}
    return PeakList(columns, unread=[name for name in data if name not in read and name not in dull])


def _document(path: Path) -> dict[str, Any]:
    import msgpack

    try:
        document = msgpack.unpackb(path.read_bytes(), strict_map_key=False, max_bin_len=2**32)
        name, _, content = document
        data = content["data"]
    except (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException) as error:
        raise InputError(f"{path}: cannot be read as a reflection table of DIALS ({error})") from error
    if name != _NAME or not isinstance(data, dict):
        raise InputError(f"{path}: is {name!r}, must be {_NAME}")
    return data


def _column(path: Path, data: dict[str, Any], name: str) -> NDArray[Any]:
    expected, dtype, width, _ = _COLUMNS[name]
    try:
        kind, (n, content) = data[name]
        if kind != expected:
            raise InputError(f"{path}: column {name} is of type {kind}, must be {expected}")
        values = np.frombuffer(content, dtype)
        return values.reshape(n, width) if width > 1 else values.reshape(n)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: column {name} cannot be read ({error})") from error


WRITERS = {"refl": _write_refl}
READERS = {"refl": _read_refl}
