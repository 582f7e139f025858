"""The maximum and the sum of a series over its frames, in one pass and in the memory of four frames."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.frames import UNREADABLE, OpenedSeries
from braggflow.show.drawing import Image

#: Frames that are read at most, and pixels of them in all: of 2048 × 2048 pixels 23 frames are read.
MAX_FRAMES, MAX_PIXELS = 64, 100_000_000


@dataclass(frozen=True, slots=True)
class Projection:
    """What was seen of a series over some of its frames."""

    highest: Image
    """(y, x) the highest count of each pixel, corrected; NaN where it was ignored in every frame."""
    total: Image
    """(y, x) the sum of its counts; NaN as above."""
    frames: int
    """Frames that were read."""
    unreadable: int
    """Frames that could not be read now."""


def project(series: OpenedSeries, table: xr.Dataset) -> Projection:
    """Maximum and sum over frames spread evenly over those that a run has processed.

    `table` is the run's peak table. Counts are those after correction and binning, without subtraction of a background.
    Raises `InputError` where none of the frames can be read.
    """
    numbers = table["frame"].values[table["frame_failed"].values == 0]
    n_pixels = int(np.prod(series.data["frames"].shape[1:]))
    n = min(len(numbers), MAX_FRAMES, max(4, MAX_PIXELS // n_pixels))
    chosen = numbers[np.unique(np.linspace(0, len(numbers) - 1, n).round().astype(int))].tolist() if n else []
    highest = total = np.empty((0, 0), np.float32)
    seen: NDArray[np.bool_] = np.empty((0, 0), np.bool_)
    done, reason = 0, "the run has processed none"
    for number in chosen:
        try:
            frame = series.corrected(series.raw(series.position_of(number)))
        except UNREADABLE as error:
            reason = f"frame {number}: {error}"
            continue
        good = ~frame.mask
        if not done:
            highest = np.full(good.shape, -np.inf, np.float32)
            total = np.zeros(good.shape, np.float32)
            seen = np.zeros(good.shape, np.bool_)
        np.maximum(highest, frame.counts, out=highest, where=good)
        np.add(total, frame.counts, out=total, where=good)
        seen |= good
        done += 1
    if not done:
        raise InputError(f"frames: none can be read to be projected ({reason})")
    for image in (highest, total):
        image[~seen] = np.nan
    return Projection(highest, total, done, len(chosen) - done)
