"""The chain of stages, in one process: read, correct, detect, cut, locate, fit, assemble.

search_chunk (one chunk of frames) ──► locate_peaks (a group's patches) ──► complete_peaks (fit, table)
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from braggflow import patches, peak_table
from braggflow.config import RunConfig
from braggflow.detect import Detection, cut_patches, detect, on_disks
from braggflow.errors import InputError
from braggflow.fit import deblend, fit_patches
from braggflow.frames import UNREADABLE, CorrectedFrame, OpenedSeries
from braggflow.locate import Located, load_localiser, locate_patches
from braggflow.pipeline.ahead import compile_ahead
from braggflow.pipeline.assembly import assemble, sample
from braggflow.pipeline.deblended import add_further, further_peaks

_RETRY_PAUSE_SECONDS = 0.2
#: Pixels that the mean count of a frame is taken of, about, evenly spread: all of them take longer than they tell.
_MEAN_OF = 65_536
#: What may have passed a moment later.
_TRANSIENT = (OSError, MemoryError)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ChunkPeaks:
    """The peaks of one chunk, with their patches: what the locating and finishing tasks need."""

    table: peak_table.Table
    patches: patches.Patches
    removed: dict[str, int]
    failures: list[dict[str, Any]]
    seconds: dict[str, float]
    means: dict[int, float] = field(default_factory=dict)
    """The mean count of the valid pixels of each frame that was processed, by its number."""
    tasks: dict[str, int] = field(default_factory=dict)
    """Tasks by kind and worker: where this was made."""


class NetworkResult(NamedTuple):
    """A network's answer for a group (None: not asked), and the time it took."""

    located: Located | None
    seconds: float
    tasks: Mapping[str, int] = MappingProxyType({})


def search_chunk(
    opened: OpenedSeries,
    first: int,
    stop: int,
    skip: Mapping[int, str] = MappingProxyType({}),
    *,
    following: int | None = None,
) -> ChunkPeaks:
    """Read, correct, detect and cut the selected frames at positions [first, stop) that are not in `skip`.

    The chunk with the selected frame at position `following` is read from its file meanwhile.
    """
    config = opened.config
    skip = {**opened.missing, **skip} if opened.missing else skip
    positions = [position for position in range(first, stop) if position not in skip]
    numbers = [opened.numbers[position] for position in positions]
    seconds = dict.fromkeys(("read", "correct", "detect", "patches"), 0.0)
    tables, cuts, removed, means = [], [patches.empty(config.patches)], Counter[str](), {}
    failures = [
        {"frame": opened.numbers[position], "reason": skip[position]}
        for position in range(first, stop)
        if position in skip
    ]
    try:
        with _timed(seconds, "read"):
            raw: Iterable[NDArray[Any]] = _read(opened, positions, following) if positions else ()
    except UNREADABLE as error:
        failures += [_failure(number, error) for number in numbers]
        return ChunkPeaks(peak_table.empty(), patches.empty(config.patches), {}, failures, seconds)
    for number, pixels in zip(numbers, raw, strict=True):
        try:
            detection, cut, table, mean = _persist(config, partial(_peaks_of, opened, pixels, seconds))
        except Exception as error:  # noqa: BLE001 - recorded; its neighbours are none the worse
            failures.append(_failure(number, error))
            continue
        kept = table["snr"] >= config.detect.min_snr
        table["peak_frame"] = number
        means[number] = mean
        tables.append(table[kept])
        cuts.append(patches.select(cut, kept))
        removed.update(detection.removed, min_snr=int(np.count_nonzero(~kept)))
    table = peak_table.concatenate(tables)
    return ChunkPeaks(table, patches.concatenate(cuts), dict(removed), failures, seconds, means)


def _peaks_of(
    opened: OpenedSeries, pixels: NDArray[Any], seconds: dict[str, float]
) -> tuple[Detection, patches.Patches, peak_table.Table, float]:
    """What is found in one raw frame: patches of its peaks, their rows of the table, its mean; adds to `seconds`."""
    config = opened.config
    with _timed(seconds, "correct"):
        frame = opened.corrected(pixels)
        mean = _mean_count(frame)
    with _timed(seconds, "detect"):
        detection = detect(
            frame.counts,
            frame.mask,
            config.detect,
            background_frame=opened.background_frame,
            bin=config.frames.bin,
            **config.frames.noise,
        )
        most = config.detect.max_peaks_per_frame
        if len(detection.table) > most:
            raise InputError(
                f"{len(detection.table):,} peaks in one frame, detect.max_peaks_per_frame is {most:,}; are the levels "
                "in the noise? Raise detect.minval and detect.minscore, or leave detect.false_peaks at its default"
            )
        if config.fit.model == "disk":
            detection = on_disks(detection, frame.counts, frame.mask, size=config.patches.size)
    with _timed(seconds, "patches"):
        cut, table = cut_patches(frame, detection.table, config.patches, **config.frames.noise)
    return detection, cut, table, mean


def _mean_count(frame: CorrectedFrame) -> float:
    """The mean of valid pixels, about `_MEAN_OF` of them; NaN where none is valid."""
    step = max(1, round((frame.counts.size / _MEAN_OF) ** 0.5))
    counts, mask = frame.counts[::step, ::step], frame.mask[::step, ::step]
    valid = counts.size - np.count_nonzero(mask)
    return float(np.sum(counts, where=~mask, dtype=np.float64) / valid) if valid else float("nan")


def locate_peaks(config: RunConfig, found: Sequence[ChunkPeaks]) -> NetworkResult:
    """The network's positions of all peaks found, and the time it took."""
    start = time.perf_counter()
    if not config.locate.asks_network:
        return NetworkResult(None, 0.0)
    localiser = load_localiser(config.locate, config.patches.size)
    cut = patches.concatenate([chunk.patches for chunk in found])
    located = locate_patches(
        localiser,
        cut.counts,
        cut.state,
        counts_per_photon=config.frames.detector_constants[0],
        batch_size=config.locate.batch_size,
    )
    return NetworkResult(located, time.perf_counter() - start)


def complete_peaks(
    config: RunConfig, found: Sequence[ChunkPeaks], answer: NetworkResult
) -> tuple[peak_table.Table, dict[str, float]]:
    """Fit and assemble: the sorted table of all peaks found, and the time spent by stage."""
    seconds = {"locate": answer.seconds, "fit": 0.0}
    table = peak_table.concatenate([chunk.table for chunk in found])
    cut = patches.concatenate([chunk.patches for chunk in found])
    with _timed(seconds, "fit"):
        chosen = sample(table, config.fit)
        shown = patches.select(cut, chosen)
        fits = fit_patches(shown.counts, shown.state, shown.neighbours, config.fit, **config.frames.noise)
        apart = deblend(shown.counts, shown.state, shown.neighbours, config.fit, fits, **config.frames.noise)
    further = further_peaks(table, cut, chosen, apart)
    result = assemble(
        table, cut, config, located=answer.located, fitted=chosen, fits=apart.fits, split=apart.split, blend=apart.blend
    )
    result = add_further(result, table, cut, config, further, **config.frames.noise)
    return peak_table.sort(result), sum_counts([*(chunk.seconds for chunk in found), seconds])


def compile_kernels(opened: OpenedSeries) -> None:
    """Have all kernels compiled in numba's cache on disk, where workers find them, and process one frame here.

    That compiles what `compile_ahead` does not: kernels for frames and settings of a rare kind.
    """
    compile_ahead()
    native = opened.config.model_copy(update={"detect": opened.config.detect.model_copy(update={"engine": "native"})})
    there = next((position for position in range(len(opened.numbers)) if position not in opened.missing), 0)
    found = search_chunk(replace(opened, config=native), there, there + 1)
    patches.filled(found.patches.counts, found.patches.state)
    complete_peaks(native, [found], NetworkResult(None, 0.0))


def _read(opened: OpenedSeries, selected: Sequence[int], following: int | None) -> NDArray[Any]:
    """The raw frames at positions of the selected ones, until the next are read."""
    after = None if following is None else int(opened.positions[following])
    return _persist(opened.config, partial(opened.reader.read, opened.positions[list(selected)], following=after))


def _persist(config: RunConfig, attempt: Callable[[], _T]) -> _T:
    """What `attempt` returns, tried again `compute.retries` times where what it raises may pass."""
    for retry in range(config.compute.retries):
        try:
            return attempt()
        except _TRANSIENT:
            time.sleep(_RETRY_PAUSE_SECONDS * 2**retry)
    return attempt()


def _failure(number: int, error: Exception) -> dict[str, Any]:
    return {"frame": number, "reason": f"{type(error).__name__}: {error}"}


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - start


_Number = TypeVar("_Number", int, float)


def sum_counts(counts: Iterable[Mapping[str, _Number]]) -> dict[str, _Number]:
    """The sum of several counts by key."""
    result: dict[str, _Number] = {}
    for count in counts:
        for key, value in count.items():
            result[key] = result[key] + value if key in result else value
    return result
