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
from braggflow.detect import Detection, as_searched, cut_stack, detect_stack, mean_counts, on_disks, on_plateaus
from braggflow.errors import InputError
from braggflow.fit import Deblended, deblend, fit_patches
from braggflow.frames import UNREADABLE, CorrectedFrame, OpenedSeries, passes_unchanged
from braggflow.locate import Located, compute_device, load_localiser, locate_patches
from braggflow.pipeline.ahead import compile_ahead
from braggflow.pipeline.assembly import assemble, sample
from braggflow.pipeline.deblended import add_further, further_peaks
from braggflow.pipeline.saturated import doubted

_RETRY_PAUSE_SECONDS = 0.2
#: Pixels that the mean count of a frame is taken of, about, evenly spread: all of them take longer than they tell.
_MEAN_OF = 65_536
#: Bytes of the frames that are searched together, about: what is done once for each stack takes little of its time, and
#: they stay in the processor's cache from one step to the next.
STACK_BYTES = 2**24
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
    """What `locate_peaks` found of a group."""

    located: Located | None
    """None: no network was asked."""
    seconds: Mapping[str, float] = MappingProxyType({})
    """Of the stages that are done here: `locate`, `fit_on_gpu`."""
    tasks: Mapping[str, int] = MappingProxyType({})
    fits: NDArray[np.void] | None = None
    """Of the peaks that are fitted; None where no GPU is to do that (`fit.device`)."""
    notes: Mapping[str, int] = MappingProxyType({})
    """What was done on a GPU, and what one that ran out of memory led to."""


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
    skip = {**opened.missing, **skip} if opened.missing else skip
    positions = [position for position in range(first, stop) if position not in skip]
    numbers = [opened.numbers[position] for position in positions]
    seconds = {"read": 0.0}
    failures = [
        {"frame": opened.numbers[position], "reason": skip[position]}
        for position in range(first, stop)
        if position in skip
    ]
    try:
        with _timed(seconds, "read"):
            raw = _read(opened, positions, following) if positions else np.empty(0)
    except UNREADABLE as error:
        failures += [_failure(number, error) for number in numbers]
        return ChunkPeaks(peak_table.empty(), patches.empty(opened.config.patches), {}, failures, seconds)
    found = search_frames(opened, numbers, raw)
    return replace(found, failures=failures + found.failures, seconds=found.seconds | seconds)


def search_frames(
    opened: OpenedSeries,
    numbers: Sequence[int],
    raw: NDArray[Any],
    *,
    detector: Callable[..., Detection] | None = None,
    cut: bool = True,
) -> ChunkPeaks:
    """Correct, detect and cut raw frames (n, y, x) of these numbers, by another `detector` than `detect_stack`.

    Without `cut` there are no patches, and no row has what is measured in them, nor is any dropped for it.
    """
    config = opened.config
    seconds = dict.fromkeys(("read", "correct", "detect", "patches"), 0.0)
    tables, cuts, removed = [], [patches.empty(config.patches)], Counter[str]()
    means, failures = dict[int, float](), list[dict[str, Any]]()
    if opened.growing:
        written = np.array([pixels.min() != pixels.max() for pixels in raw], bool)
        unwritten = [number for number, there in zip(numbers, written, strict=True) if not there]
        failures += [{"frame": n, "reason": "not written yet: all of its pixels are equal"} for n in unwritten]
        numbers = [number for number in numbers if number not in unwritten]
        raw = raw[written] if unwritten else raw
    attempt = partial(_peaks_of, opened, seconds=seconds, detector=detector or detect_stack, cut=cut)
    for first_of, stack in _stacks(opened, raw):
        of_stack = numbers[first_of : first_of + len(stack)]
        for some, attempted in _attempts(config, attempt, stack):
            if isinstance(attempted, Exception):
                failures.append(_failure(of_stack[some.start], attempted))
                continue
            dropped, shown, table, of_frames = attempted
            kept = table["snr"] >= config.detect.min_snr if cut else np.ones(len(table), bool)
            table["peak_frame"] = np.array(of_stack[some])[table["peak_frame"]]
            means.update(zip(of_stack[some], of_frames, strict=True))
            removed.update(dropped, min_snr=int(np.count_nonzero(~kept)))
            if not kept.all():
                table, shown = table[kept], patches.select(shown, kept)
            tables.append(table)
            cuts.append(shown)
    table = peak_table.concatenate(tables)
    return ChunkPeaks(table, patches.concatenate(cuts), dict(removed), failures, seconds, means)


def _stacks(opened: OpenedSeries, raw: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Raw frames in stacks (n, y, x) that are searched together, and the position of the first of each.

    Those that nothing is done to, which have the series' mask; all others one by one, as each may have its own, and
    what is made of them takes memory.
    """
    together = max(1, STACK_BYTES // max(1, raw[0].nbytes)) if len(raw) else 1
    for first in range(0, len(raw), together):
        stack = raw[first : first + together]
        alone = opened.config.fit.model == "disk" or opened.config.detect.background == "radial"
        if not alone and passes_unchanged(stack, opened.correction):
            yield first, stack
        else:
            yield from ((first + at, stack[at : at + 1]) for at in range(len(stack)))


def _attempts(
    config: RunConfig, attempt: Callable[[NDArray[Any]], _T], stack: NDArray[Any]
) -> Iterator[tuple[slice, _T | Exception]]:
    """What is made of a stack; where that fails, of each of its frames alone, or why it fails."""
    try:
        yield slice(0, len(stack)), _persist(config, partial(attempt, stack))
    except Exception as error:  # noqa: BLE001 - recorded; its neighbours are none the worse
        if len(stack) == 1:
            yield slice(0, 1), error
            return
        for at in range(len(stack)):
            ((_, alone),) = _attempts(config, attempt, stack[at : at + 1])
            yield slice(at, at + 1), alone


def _peaks_of(
    opened: OpenedSeries,
    stack: NDArray[Any],
    *,
    seconds: dict[str, float],
    detector: Callable[..., Detection],
    cut: bool,
) -> tuple[dict[str, int], patches.Patches, peak_table.Table, list[float]]:
    """What is found in a stack of raw frames: what was dropped, patches of the peaks (none without `cut`), their rows
    of the table with the position of their frame, and the mean of each frame; adds to `seconds`.
    """
    config = opened.config
    with _timed(seconds, "correct"):
        frame = CorrectedFrame(stack, opened.correction.mask, None, opened.correction.saturation)
        if len(stack) == 1:
            corrected = opened.corrected(stack[0])
            frame = replace(corrected, counts=corrected.counts[None])
        counts, mask = as_searched(frame.counts, frame.mask)
        frame = replace(frame, counts=counts, mask=mask)
        means = _mean_counts(counts, mask)
    with _timed(seconds, "detect"):
        detection = detector(
            frame.counts,
            frame.mask,
            config.detect,
            bin=config.frames.bin,
            **opened.known,
        )
        detection = accepted(config, frame, detection)
    if not cut:
        return detection.removed, patches.empty(config.patches), detection.table.copy(), means
    with _timed(seconds, "patches"):
        shown, table = cut_stack(
            frame.counts,
            frame.mask,
            detection.table,
            config.patches,
            frame=np.ascontiguousarray(detection.table["peak_frame"]),
            saturated=frame.saturated,
            saturation=frame.saturation,
            level=detection.level,
            **config.frames.noise,
        )
    return detection.removed, shown, table, means


def accepted(config: RunConfig, frame: CorrectedFrame, detection: Detection) -> Detection:
    """What was detected in a frame or stack, each maximum where its patch is cut: one in the middle of a saturated
    plateau, or of each disk where disks are fitted (in one frame).

    Raises `InputError` where it is too much in one frame.
    """
    most = config.detect.max_peaks_per_frame
    n = int(np.bincount(detection.table["peak_frame"]).max(initial=0))
    if n > most:
        raise InputError(
            f"{n:,} peaks in one frame, detect.max_peaks_per_frame is {most:,}; are the levels "
            "in the noise? Raise detect.minval and detect.minscore, or leave detect.false_peaks at its default"
        )
    if config.fit.model == "disk":
        counts = frame.counts[0] if frame.counts.ndim == 3 else frame.counts
        return on_disks(detection, counts, frame.mask, size=config.patches.size)
    return on_plateaus(detection, frame.counts, frame.mask, saturated=frame.saturated, saturation=frame.saturation)


def _mean_counts(frames: NDArray[Any], mask: NDArray[np.bool_]) -> list[float]:
    """The mean of valid pixels of each frame of a stack, about `_MEAN_OF` of them; NaN where none is valid."""
    step = max(1, round((mask.size / _MEAN_OF) ** 0.5))
    if frames.dtype.kind != "f":
        return mean_counts(frames, mask, step).tolist()  # type: ignore[no-any-return]  # numba's
    ignored = mask[::step, ::step]
    valid = ignored.size - np.count_nonzero(ignored)
    totals = (np.sum(counts[::step, ::step], where=~ignored, dtype=np.float64) for counts in frames)
    return [float(total / valid) if valid else float("nan") for total in totals]


def on_cpu(config: RunConfig) -> RunConfig:
    """The same on the CPU alone: a few frames are done sooner than a GPU is ready, if there is one."""
    sections = {name: getattr(config, name).model_copy(update={"device": "cpu"}) for name in ("locate", "fit")}
    return config.model_copy(update=sections)


def locate_peaks(config: RunConfig, found: Sequence[ChunkPeaks]) -> NetworkResult:
    """What a GPU may do: the network's positions of all peaks found, and their fits if one is there for them."""
    fits_on_gpu = config.fit.asks_gpu and compute_device(config.fit.device, key="fit.device") != "cpu"
    if not config.locate.asks_network and not fits_on_gpu:
        return NetworkResult(None)
    seconds, notes = {"locate": 0.0}, dict[str, int]()
    cut = patches.concatenate([chunk.patches for chunk in found])
    located, fits = None, None
    if config.locate.asks_network:
        with _timed(seconds, "locate"):
            localiser = load_localiser(config.locate, config.patches.size)
            located = locate_patches(
                localiser,
                cut.counts,
                cut.state,
                counts_per_photon=config.frames.detector_constants[0],
                batch_size=config.locate.batch_size,
            )
        notes = located.notes | ({"located_on_gpu": len(cut.counts)} if localiser.device != "cpu" else {})
    if fits_on_gpu:
        seconds["fit_on_gpu"] = 0.0
        with _timed(seconds, "fit_on_gpu"):
            shown = patches.select(cut, sample(peak_table.concatenate([chunk.table for chunk in found]), config.fit))
            fits = fit_patches(shown.counts, shown.state, shown.neighbours, config.fit, **config.frames.noise)
        notes["fitted_on_gpu"] = len(fits)
    return NetworkResult(located, seconds, fits=fits, notes=notes)


def complete_peaks(
    config: RunConfig, found: Sequence[ChunkPeaks], answer: NetworkResult
) -> tuple[peak_table.Table, dict[str, float]]:
    """Fit and assemble: the sorted table of all peaks found, and the time spent by stage."""
    seconds = {"locate": 0.0, "fit": 0.0, **answer.seconds}
    table = peak_table.concatenate([chunk.table for chunk in found])
    cut = patches.concatenate([chunk.patches for chunk in found])
    with _timed(seconds, "fit"):
        chosen, apart = fit_peaks(config, table, cut, answer.fits)
    result = assembled(config, table, cut, answer.located, chosen, apart)
    return result, sum_counts([*(chunk.seconds for chunk in found), seconds])


def fit_peaks(
    config: RunConfig, table: peak_table.Table, cut: patches.Patches, fits: NDArray[np.void] | None = None
) -> tuple[NDArray[np.bool_], Deblended]:
    """Which of the peaks (n,) are fitted, and their fits, peaks without maxima of their own told apart.

    `fits` are those of a GPU, if one has made them.
    """
    chosen = sample(table, config.fit)
    shown = patches.select(cut, chosen)
    if fits is None:
        fits = fit_patches(shown.counts, shown.state, shown.neighbours, config.fit, **config.frames.noise)
    apart = deblend(shown.counts, shown.state, shown.neighbours, config.fit, fits, **config.frames.noise)
    return chosen, doubted(apart, shown)


def assembled(
    config: RunConfig,
    table: peak_table.Table,
    cut: patches.Patches,
    located: Located | None,
    chosen: NDArray[np.bool_],
    apart: Deblended,
) -> peak_table.Table:
    """The sorted table of all peaks found, with the positions of network and fit."""
    further = further_peaks(table, cut, chosen, apart)
    result = assemble(
        table,
        cut,
        config,
        located=located,
        fitted=chosen,
        fits=apart.fits,
        split=apart.split,
        blend=apart.blend,
        several_of=further.row,
    )
    return peak_table.sort(add_further(result, table, cut, config, further, **config.frames.noise))


def compile_kernels(opened: OpenedSeries) -> None:
    """Have all kernels compiled in numba's cache on disk, where workers find them, and process one frame here.

    That compiles what `compile_ahead` does not: kernels for frames and settings of a rare kind.
    """
    compile_ahead()
    native = opened.config.model_copy(update={"detect": opened.config.detect.model_copy(update={"engine": "native"})})
    there = next((position for position in range(len(opened.numbers)) if position not in opened.missing), 0)
    found = search_chunk(replace(opened, config=native), there, there + 1)
    patches.filled(found.patches.counts, found.patches.state)
    complete_peaks(native, [found], NetworkResult(None))


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
