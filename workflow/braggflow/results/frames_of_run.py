"""Frames of a finished run as its stages saw them: read again from the frames store, for pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.frames import OpenedSeries, open_frames, open_series, without_bad_pixels
from braggflow.results.folder import RunFolder, read_run_config, read_run_info
from braggflow.results.identity import frames_identity


@dataclass(frozen=True, slots=True)
class SearchedFrame:
    """One frame: shapes (y, x); with binning, `searched` has fewer pixels than `raw`."""

    raw: NDArray[Any]
    ignored: NDArray[np.bool_]
    """Pixels of `raw` that the series' mask leaves out."""
    searched: NDArray[np.float32]
    """Counts after correction, binning and background subtraction, NaN = ignored."""
    floor: NDArray[np.float32]
    """Counts below which the search took pixels of `searched` for 0: of each, shape (y, x), or one level, shape ()."""
    bin: int
    """Detector pixels along each side of a pixel of `searched`."""


def open_run_frames(folder: RunFolder) -> OpenedSeries:
    """Open the series that a run was made from.

    Raises `InputError` where the store, or a file that corrects it, is no longer there, or where the store holds
    another series than the run saw.
    """
    info, config = read_run_info(folder), read_run_config(folder)
    path = info["dataset"]["path"]
    data = open_frames(path)
    now, then = frames_identity(Path(path), data), info["identity"]["frames"]
    # Where a store lies may change; what it holds may not.
    changed = [key for key in ("shape", "dtype", "frame") if key in then and now[key] != then[key]]
    if changed:
        raise InputError(f"frames store {path}: is not the one that the run saw ({', '.join(changed)} changed)")
    # A run of an older version has no record of bad pixels.
    return without_bad_pixels(open_series(data, config), info.get("detector", {}).get("bad_pixels", {}))


def read_run_frame(series: OpenedSeries, number: int, raw: NDArray[Any] | None = None) -> SearchedFrame:
    """Read frame `number`, unless its `raw` counts are at hand, and prepare it as the run did.

    Raises `InputError` naming the frame where it cannot be read or prepared.
    """
    from braggflow.detect import searched_image  # numba takes a second to load, which those who open a table need not

    config = series.config
    try:
        raw = series.raw(series.position_of(number)) if raw is None else raw
        frame = series.corrected(raw)
        image, floor = searched_image(frame, config.detect, **series.known)
    except (OSError, ValueError, RuntimeError, ArithmeticError) as error:  # as the run itself records them
        raise InputError(f"frame {number}: {error}") from error
    searched = np.where(frame.mask, np.float32(np.nan), image).astype(np.float32)
    return SearchedFrame(raw, series.correction.mask, searched, floor, config.frames.bin)
