"""Frames of a finished run as its stages saw them: read again from the frames store, for pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow import detect, frames, store
from braggflow.config import InputError, RunConfig


@dataclass(frozen=True, slots=True)
class Seen:
    """One frame: shapes (y, x); with binning, `searched` has fewer pixels than `raw`."""

    raw: NDArray[Any]
    ignored: NDArray[np.bool_]
    """Pixels of `raw` that the series' mask leaves out."""
    searched: NDArray[np.float32]
    """Counts after correction, binning and background subtraction, NaN = ignored."""
    minval: float
    """Counts below which the search set pixels of `searched` to 0."""
    bin: int
    """Detector pixels along each side of a pixel of `searched`."""


@dataclass(frozen=True, slots=True)
class Series:
    """The frames of a run, to be read by `read_frame`."""

    data: xr.Dataset
    config: RunConfig
    correction: frames.Correction
    background_frame: NDArray[np.float32] | None
    positions: dict[int, int]
    """Position in the store, by frame number."""


def open_series(folder: store.RunFolder) -> Series:
    """Open the frames store that a run was made from.

    Raises `InputError` where the store, or a file that corrects it, is no longer there, or where the store holds
    another series than the run saw.
    """
    info, config = store.read_info(folder), store.read_settings(folder)
    path = info["dataset"]["path"]
    data = frames.open_frames(path)
    now, then = store.frames_identity(Path(path), data), info["identity"]["frames"]
    # Where a store lies may change; what it holds may not.
    changed = [key for key in ("shape", "dtype", "frame") if now[key] != then[key]]
    if changed:
        raise InputError(f"frames store {path}: is not the one that the run saw ({', '.join(changed)} changed)")
    return Series(
        data,
        config,
        frames.prepare(data, config.frames),
        frames.background_frame(data, config),
        {number: position for position, number in enumerate(data["frame"].values.tolist())},
    )


def read_frame(series: Series, number: int) -> Seen:
    """Read frame `number` and prepare it as the run did.

    Raises `InputError` naming the frame where it cannot be read or prepared.
    """
    config = series.config
    try:
        raw = frames.read(series.data, np.array([series.positions[number]]))[0]
        frame = frames.correct(raw, series.correction)
        image = detect.subtract_background(
            frame.counts, frame.mask, config.detect, background_frame=series.background_frame
        )
        minval, _ = detect.levels(image, frame.mask, config.detect)
    except (OSError, ValueError, RuntimeError, ArithmeticError) as error:  # as the run itself records them
        raise InputError(f"frame {number}: {error}") from error
    searched = np.where(frame.mask, np.float32(np.nan), image).astype(np.float32)
    return Seen(raw, series.correction.mask, searched, minval, config.frames.bin)
