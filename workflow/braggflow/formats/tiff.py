"""TIFF files: pages, stacks, several series of one shape and dtype, in the order of their pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.readers import Layout, Stack, check_frame_size, check_stated_size, is_image_stack
from braggflow.formats.sources import is_compressed, opened

#: What tifffile calls the small pictures beside the image.
_PREVIEWS = {"thumbnail", "label", "macro"}


def open_tiff(path: str, _: str) -> Layout:
    """The frames of all image series of a file, which must be alike; previews are left out."""
    with _opened(path) as tiff:
        frames, others = _frames_of(tiff, path)
        first = frames[0]
        _check_sizes(path, frames)
        shapes = [series.shape for series in frames]
        shape = shapes[0] if len(frames) == 1 else (sum(_count(series) for series in frames), *first.shape[-2:])
        text = tiff.pages[0].description
        # Pilatus and EIGER TIFFs carry the header lines of a CBF here.
        header = {"_array_data.header_contents": text} if text.lstrip().startswith("#") else {}
        return Layout(shape, first.dtype, header=header, others=others)


def read_tiff(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi, from whichever series they lie in."""
    with _opened(stack.path) as tiff:
        parts: list[NDArray[Any]] = []
        start = 0
        for series in _frames_of(tiff, stack.path)[0]:
            count = _count(series)
            first, last = max(lo - start, 0), min(hi - start, count)
            if first < last:
                parts.append(_read_series(stack.path, tiff, series, first, last))
            start += count
        return np.concatenate(parts)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    import tifffile

    with opened(path) as file, tifffile.TiffFile(file) as tiff:
        yield tiff


def _frames_of(tiff: Any, path: str) -> tuple[list[Any], tuple[str, ...]]:
    """The series that are frames, in the order of their pages, and what else may be some."""
    all_series = [series for series in tiff.series if not _is_preview(series)]
    frames = [s for s in all_series if s.axes.endswith("YX") and is_image_stack(s.shape, s.dtype)]
    others = [f"/series_{n} {s.shape}" for n, s in enumerate(tiff.series) if s in all_series and s not in frames]
    if not frames:
        found = all_series or tiff.series
        if len(found) == 1 and found[0].axes.endswith("YX"):
            return [found[0]], ()  # what is wrong with it is said where all formats are checked
        listed = ", ".join(_described(series) for series in found[:5]) or "none"
        raise InputError(f"source {path}: its images are {listed}; frames must have axes that end in YX (no colours)")
    if len({(series.shape[-2:], series.dtype) for series in frames}) > 1:
        listed = ", ".join(_described(series) for series in frames[:5])
        raise InputError(
            f"source {path}: holds {len(frames)} image series that are not alike ({listed}); "
            "all frames of a file must have one shape and type"
        )
    frames.sort(key=lambda series: series.pages[0].index)
    return frames, tuple(others)


def _is_preview(series: Any) -> bool:
    page = series.pages[0]
    return page is not None and (bool(page.subfiletype & 1) or series.name.lower() in _PREVIEWS)


def _described(series: Any) -> str:
    return f"{series.axes} {series.shape} of {series.dtype}"


def _count(series: Any) -> int:
    return prod(series.shape[:-2])


def _check_sizes(path: str, frames: list[Any]) -> None:
    """Refuse sizes that the file cannot hold before anything of such a size is made."""
    for series in frames:
        check_frame_size(path, series.shape, series.dtype)
        if series.dataoffset is not None and not is_compressed(path):
            check_stated_size(path, prod(series.shape) * series.dtype.itemsize, series.dataoffset)


def _read_series(path: str, tiff: Any, series: Any, lo: int, hi: int) -> NDArray[Any]:
    count, shape = _count(series), series.shape[-2:]
    if series.dataoffset is not None and not is_compressed(path):
        dtype = series.dtype.newbyteorder(tiff.byteorder)
        whole = np.memmap(path, dtype, "r", series.dataoffset, (count, *shape))
        return np.array(whole[lo:hi])
    if len(series.pages) == count:
        pages = [series.pages[index] for index in range(lo, hi)]
        if None in pages:
            raise ValueError(f"frame {lo + pages.index(None)} has no page")
        return np.stack([page.asarray() for page in pages])
    return np.asarray(series.asarray().reshape(count, *shape)[lo:hi])
