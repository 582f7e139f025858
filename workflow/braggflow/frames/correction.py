"""The correction of raw frames: mask, dark, flat, binning, saturation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from braggflow.angles import Geometry
from braggflow.config import FramesConfig, RunConfig
from braggflow.errors import InputError


@dataclass(frozen=True, slots=True)
class Correction:
    """What is done to each raw frame before detection; made once per data set by `correction_of`."""

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
    missing_value: float | None = None
    """Raw value that says that a pixel was not measured."""


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


def correction_of(data: xr.Dataset, config: FramesConfig) -> Correction:
    """The correction of a frames store's frames: the store's own mask, dark and flat, joined with the configuration's.

    Raises `InputError` naming the key or file where an image cannot be read, has another shape or makes no sense.
    """
    shape = data["frames"].shape[1:]
    mask = np.zeros(shape, bool) if "mask" not in data else data["mask"].values != 0
    if config.negative == "count" and "negative_marks" in data:
        mask = mask & (data["negative_marks"].values == 0)
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
    return Correction(
        mask=mask,
        dark=dark,
        flat=flat,
        bin=config.bin,
        saturation=np.inf if saturation is None else float(saturation),
        masked_below=_masked_below(data, config.negative),
        missing_value=data.attrs.get("missing_value"),
    )


def _masked_below(data: xr.Dataset, negative: str) -> float:
    if negative == "count":  # the lowest value of a type is no count in any case
        dtype = data["frames"].dtype
        return float(data.attrs.get("underload", np.iinfo(dtype).min + 1 if dtype.kind == "i" else -np.inf))
    level = float(data.attrs.get("masked_below", -np.inf))
    return max(level, 0.0) if negative == "mark" else level


def read_background_frame(data: xr.Dataset, config: RunConfig) -> NDArray[np.float32] | None:
    """The frame that `detect.background` names, binned like the frames; None where it names none.

    Raises `InputError` naming the key or file.
    """
    if config.detect.background in ("none", "local", "radial"):
        return None
    image = _image("detect.background", config.detect.background, data["frames"].shape[1:]).astype(np.float32)
    if not np.isfinite(image).all():
        raise InputError(f"detect.background: {config.detect.background} has pixels that are NaN or infinite")
    return np.asarray(_blocks(image, config.frames.bin).sum(axis=(1, 3)))


def searched_geometry(data: xr.Dataset, config: RunConfig) -> Geometry | None:
    """The geometry of the series' binned frames where the configuration decides by it, else None.

    Raises `InputError` where it is asked for and incomplete or wrong.
    """
    keys = config.detect.by_angles
    if not keys:
        return None
    try:
        geometry = Geometry.from_config(config.geometry, data.attrs.get("geometry"))
        if config.detect.q_range is not None or config.detect.exclude_q:
            geometry.q(0, 0)  # raises without a wavelength
    except InputError as error:
        raise InputError(f"detect.{', detect.'.join(keys)}: go{'es' * (len(keys) == 1)} by angles; {error}") from error
    return geometry.binned(config.frames.bin)


def _correction_image(data: xr.Dataset, name: str, choice: str) -> NDArray[np.float32] | None:
    if choice == "none" or (choice == "store" and name not in data):
        return None
    shape = data["frames"].shape[1:]
    image = data[name].values if choice == "store" else _image(f"frames.{name}", choice, shape)
    return image.astype(np.float32)


def _image(key: str, source: str, shape: tuple[int, ...]) -> NDArray[Any]:
    from braggflow.formats import read_image  # here, because few runs name an image

    return read_image(key, source, shape)


def passes_unchanged(raw: NDArray[Any], correction: Correction) -> bool:
    """Whether raw frames (n, y, x) pass `correct_frame` as they are, with no more masked than the series' mask."""
    if raw.dtype.kind == "f" or correction.dark is not None or correction.flat is not None or correction.bin > 1:
        return False
    if correction.masked_below > -np.inf and ((raw < correction.masked_below) & ~correction.mask).any():
        return False
    missing = correction.missing_value
    return missing is None or not ((raw == missing) & ~correction.mask).any()


def correct_frame(raw: NDArray[Any], correction: Correction) -> CorrectedFrame:
    """Apply mask, dark, flat and binning to one raw frame, shape (y, x).

    An integer frame with nothing to correct is passed through without a copy. Binned pixels are sums; one is masked or
    saturated if any of its pixels is. Rows and columns beyond the last whole bin are left out. Pixels that were clipped
    at the frame's highest count and touch stay equal: a flat top has one maximum, whatever dark and flat are.
    """
    mask = correction.mask
    if raw.dtype.kind == "f":
        mask = _join(mask, ~np.isfinite(raw))
    if correction.masked_below > -np.inf:
        mask = _join(mask, raw < correction.masked_below)
    if correction.missing_value is not None:
        mask = _join(mask, raw == correction.missing_value)
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
    if saturated is not None and counts is not raw and (full := saturated & ~mask).any():
        tops, n = ndimage.label(full & (raw == raw[full].max()), np.ones((3, 3)))
        clipped = tops > 0
        counts[clipped] = ndimage.maximum(counts, tops, range(1, n + 1))[tops[clipped] - 1]
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
