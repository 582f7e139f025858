"""A look at a few frames of a series before all of them are searched: what it will take, and what looks wrong."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.config import NoiseMultiple, RunConfig
from braggflow.detect import searched_image
from braggflow.frames import OpenedSeries
from braggflow.peak_table import Flag
from braggflow.pipeline.ahead import compile_ahead
from braggflow.pipeline.stages import complete_peaks, locate_peaks, search_chunk, sum_counts

#: Frames that are looked at, spread over the series, and the time after which no further one is begun.
MOST_FRAMES, MOST_SECONDS = 5, 1.0
#: A series of one frame that took longer is looked at again: kernels may have been loaded or compiled.
_ALONE_SECONDS = 0.5
#: A level lies in the noise where it is fewer than so many sigma above the median, and more than this share of the
#: pixels reach it. Sigma is 1.4826 times the median absolute deviation, and at least that of the photons.
_IN_NOISE, _FOREGROUND, _MAD = 3.0, 0.01, 1.4826
#: Shares above which a user is told: pixels below 0 that are ignored, peaks of one pixel, saturated peaks.
_NEGATIVE, _ONE_PIXEL, _SATURATED = 0.001, 0.5, 0.1
#: Of fewer peaks no share is judged.
_ENOUGH = 10


@dataclass(frozen=True, slots=True)
class SampledFrame:
    """What the whole chain made of one frame."""

    number: int
    table: peak_table.Table
    removed: dict[str, int]
    """Maxima that filters dropped, by filter."""
    failure: str
    """Why the frame failed; "" where it did not."""
    seconds: float
    foreground: float = 0.0
    """Share of the pixels that are not ignored at and above `minval`; 0 where the level is well above the noise."""
    negative: float = 0.0
    """Share of the pixels that are ignored because they are below 0, those of the mask not counted."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a look at a few frames of a series showed."""

    frames: list[SampledFrame]
    warnings: list[str] = field(default_factory=list)
    """What the user should know before all frames are searched, a sentence each."""

    @property
    def seconds_per_frame(self) -> float:
        """Seconds that one core takes for a frame, the first left out where there are more: it loads kernels too."""
        taken = [frame.seconds for frame in self.frames]
        return float(np.mean(taken[1:] or taken)) if taken else 0.0


def look_at_frames(opened: OpenedSeries, candidates: Sequence[int] | None = None) -> Sample:
    """Search, locate and fit a few frames of a series, spread over it, and say what looks wrong.

    Parameters
    ----------
    opened : OpenedSeries
        The series, its detector's constants settled.
    candidates : sequence of int, optional
        Positions of selected frames to choose from. Default: all.

    Returns
    -------
    Sample
        Up to 5 frames, fewer where a frame takes long, in the order in which they were looked at: the first, the last,
        then those between. Frames that were never written are left out.
    """
    positions = range(len(opened.numbers)) if candidates is None else candidates
    there = [position for position in positions if position not in opened.missing]
    frames: list[SampledFrame] = []
    for position in _spread(there):
        # The first frame has the kernels compiled or loaded, which says nothing of the others.
        if sum(frame.seconds for frame in frames[1:]) > MOST_SECONDS:
            break
        frames.append(look_at_frame(opened, position))
    if len(frames) == 1 and frames[0].seconds > _ALONE_SECONDS:
        frames = [look_at_frame(opened, there[0])]
    return Sample(frames, sample_warnings(opened.config, frames))


def _spread(positions: Sequence[int]) -> list[int]:
    """Up to `MOST_FRAMES` of the positions, evenly spread: the first and last first."""
    if not positions:
        return []
    at = np.unique(np.linspace(0, len(positions) - 1, MOST_FRAMES).round().astype(int)).tolist()
    return [positions[i] for i in ([at[0], at[-1], *at[1:-1]] if len(at) > 1 else at)]


def look_at_frame(opened: OpenedSeries, position: int) -> SampledFrame:
    """The selected frame at a position through the whole chain, in this process."""
    compile_ahead()
    start = time.perf_counter()
    found = search_chunk(opened, position, position + 1)
    failure = found.failures[0]["reason"] if found.failures else ""
    table, _ = complete_peaks(opened.config, [found], locate_peaks(opened.config, [found]))
    seconds = time.perf_counter() - start
    frame = SampledFrame(opened.numbers[position], table, found.removed, failure, seconds)
    if failure:
        return frame
    negative, foreground = _shares(opened, opened.raw(position))
    return replace(frame, negative=negative, foreground=foreground)


def _shares(opened: OpenedSeries, raw: NDArray[Any]) -> tuple[float, float]:
    """The shares of `SampledFrame`: pixels below 0, and foreground in the noise."""
    correction, settings = opened.correction, opened.config.detect
    below = (raw < min(correction.masked_below, 0)) & ~correction.mask
    negative = float(np.count_nonzero(below)) / raw.size
    if settings.false_peaks is not None:
        return negative, 0.0  # whether a maximum is noise is judged maximum by maximum
    frame = opened.corrected(raw)
    image, floor = searched_image(frame, settings, **opened.known)
    pixels = image[~frame.mask]
    median = float(np.median(pixels))
    noise = max(_MAD * float(np.median(np.abs(pixels - median))), np.sqrt(max(0.0, float(np.mean(pixels)))))
    in_noise = floor < median + _IN_NOISE * noise
    return negative, float(np.mean(pixels >= floor)) if in_noise else 0.0


def sample_warnings(config: RunConfig, frames: Sequence[SampledFrame]) -> list[str]:
    """What looks wrong in frames that were looked at, a sentence each, with what to do."""
    if not frames:
        return []
    whole = [frame for frame in frames if not frame.failure]
    told = [f"frame {frame.number} fails: {frame.failure}" for frame in frames if frame.failure]
    if not whole:
        return told
    table = peak_table.concatenate([frame.table for frame in whole])
    looked = f"the {len(whole)} frames looked at" if len(whole) > 1 else f"frame {whole[0].number}"
    told += _level_in_noise(config, whole)
    negative = max(frame.negative for frame in whole)
    if negative > _NEGATIVE:
        told.append(
            f"{negative:.2g} of the pixels are below 0 and ignored; where they are noise around 0, set "
            "frames.negative: count"
        )
    if not len(table):
        removed = sum_counts(frame.removed for frame in whole)
        dropped = ", ".join(f"{n:,} by {name}" for name, n in removed.items() if n)
        told.append(f"no peak in {looked}" + (f"; maxima were dropped: {dropped}" if dropped else ""))
    if len(table) < _ENOUGH:
        return told
    single = float(np.mean((table["area"] <= config.frames.bin**2) & (table["area"] > 0)))
    if single > _ONE_PIXEL:
        told.append(
            f"{single:.0%} of the peaks are of one pixel; are they hot pixels? Try frames.find_bad_pixels: true, or "
            "detect.min_area: 2"
        )
    saturated = float(np.mean(table["flags"] & Flag.saturated != 0))
    if saturated > _SATURATED:
        told.append(
            f"{saturated:.0%} of the peaks are saturated: their positions are less certain than those of others"
        )
    return told


def _level_in_noise(config: RunConfig, frames: Sequence[SampledFrame]) -> list[str]:
    """Whether `minval` is so low that much of the background is foreground."""
    settings = config.detect
    level = settings.levels()[0]
    share = float(np.median([frame.foreground for frame in frames]))
    if share < _FOREGROUND:
        return []
    shown = f"{level.sigma:g} sigma" if isinstance(level, NoiseMultiple) else f"{level:g}"
    return [
        f"detect.minval: {shown} lies in the noise: 1 pixel in {1 / share:.0f} is foreground; "
        "raise it, or leave it out (null)"
    ]
