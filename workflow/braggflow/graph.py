"""Wiring only: what runs where, on which resource, in what order.

A series is processed in groups of consecutive chunks. Where workers offer the resource GPU, a group is

    find (CPU, one task a chunk) ──► locate (GPU, one task) ──► finish (CPU: fit, assemble, write the part)

and else one CPU task that does the same in that order. Frames never leave the worker that read them; results leave as
part files, and only their summaries travel.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import numpy as np
import xarray as xr
from distributed import Client, Future, get_worker
from numpy.typing import NDArray

from braggflow import assemble, detect, fit, frames, localise, patches, peaks, store
from braggflow.cluster import Pools
from braggflow.config import InputError, RunConfig
from braggflow.reading import Reader, keep_memory

#: Time that a task is expected to take per pixel (reading and searching) and per frame; measured on one core.
SECONDS_PER_PIXEL, SECONDS_PER_FRAME = 2e-9, 3e-4
#: A series is cut into at least this many groups, so that workers end together and little is lost to a crash.
MIN_GROUPS = 16
_RETRY_PAUSE_SECONDS = 0.2
#: What reading a damaged chunk raises: file system errors, the codecs' own, and what a length made of nonsense does.
UNREADABLE = (OSError, ValueError, RuntimeError, MemoryError)
#: What may have passed a moment later.
_TRANSIENT = (OSError, MemoryError)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Series:
    """One data set's work, as every task needs it."""

    path: str
    folder: str
    settings: str
    """The configuration as JSON: a key for the workers' caches."""
    run: str
    """Digest of the run's identity."""
    sources: str
    """Hash of the client's modules that decide the numbers: a worker with others refuses."""


@dataclass(frozen=True, slots=True)
class Group:
    """Positions [first, stop) of the series' selected frames, and their chunks."""

    first: int
    stop: int
    chunks: tuple[tuple[int, int], ...]


class Order(NamedTuple):
    """A group of a series to be processed."""

    series: Series
    group: Group
    skip: Mapping[int, str] = MappingProxyType({})
    """Positions of frames that are not to be touched, and the reasons that are recorded for their failure."""


@dataclass(frozen=True, slots=True)
class Found:
    """The peaks of one chunk, with their patches: what the locating and finishing tasks need."""

    table: peaks.Table
    patches: patches.Patches
    removed: dict[str, int]
    failures: list[dict[str, Any]]
    seconds: dict[str, float]
    tasks: dict[str, int] = field(default_factory=dict)
    """Tasks by kind and worker: where this was made."""


class Answer(NamedTuple):
    """A network's answer for a group (None: not asked), and the time it took."""

    located: localise.Located | None
    seconds: float
    tasks: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Opened:
    """A series as a worker holds it between tasks."""

    data: xr.Dataset
    reader: Reader
    config: RunConfig
    correction: frames.Correction
    background_frame: NDArray[np.float32] | None
    positions: NDArray[np.int64]
    """Of the selected frames in the store."""
    numbers: list[int]
    """Of the selected frames."""


def plan(data: xr.Dataset, config: RunConfig) -> list[Group]:
    """Groups of whole chunks whose tasks last about `compute.task_seconds`; the same for any number of workers."""
    chunk_of = selected(data, config) // int(data["frames"].encoding["chunks"][0])
    edges = [0, *(np.flatnonzero(np.diff(chunk_of)) + 1).tolist(), len(chunk_of)]
    chunks = list(pairwise(edges)) if len(chunk_of) else []
    height, width = data["frames"].shape[1:]
    per_frame = SECONDS_PER_FRAME + SECONDS_PER_PIXEL * height * width
    wanted = min(config.compute.task_seconds / per_frame, len(chunk_of) / MIN_GROUPS)
    step = max(1, round(wanted * len(chunks) / max(1, len(chunk_of))))
    grouped = [tuple(chunks[first : first + step]) for first in range(0, len(chunks), step)]
    return [Group(group[0][0], group[-1][1], group) for group in grouped]


def regroup(groups: Sequence[Group], spans: Sequence[tuple[int, int]]) -> list[Group]:
    """The same chunks in groups of other spans (an earlier run's), which hold whole chunks too."""
    chunks = [chunk for group in groups for chunk in group.chunks]
    return [Group(first, stop, tuple(c for c in chunks if first <= c[0] < stop)) for first, stop in spans]


def selected(data: xr.Dataset, config: RunConfig) -> NDArray[np.int64]:
    """Positions in the store of the frames that `frames.start`, `stop` and `step` select."""
    return np.arange(data.sizes["frame"])[config.frames.start : config.frames.stop : config.frames.step]


def submit(
    client: Client, orders: Sequence[Order], pools: Pools, *, retries: int, priority: int
) -> "list[Future[store.PartSummary]]":
    """Submit groups, the first to be done first; a future's result is the `PartSummary` of the part that it wrote.

    Together, because one message for many costs the scheduler half of what one for each does.
    """
    if not orders:
        return []
    options: dict[str, Any] = {"priority": priority, "retries": retries, "pure": False}
    on_cpu = options | _on_cpu(pools)
    series, groups = [order.series for order in orders], [order.group for order in orders]
    skips = [dict(order.skip) for order in orders]
    keys = [_key(order.series, order.group.first) for order in orders]

    def named(kind: str) -> list[tuple[Any, ...]]:
        # Tuples, so that the scheduler sees a handful of kinds of task and not one per data set.
        return [(kind, *key) for key in keys]

    if not pools.gpu:
        return list(client.map(_process, series, groups, skips, key=named("process"), **on_cpu))
    chunks = [(at, first, stop) for at, group in enumerate(groups) for first, stop in group.chunks]
    finding = client.map(
        _find,
        [series[at] for at, *_ in chunks],
        [first for _, first, _ in chunks],
        [stop for *_, stop in chunks],
        [skips[at] for at, *_ in chunks],
        key=[("find", *keys[at], first) for at, first, _ in chunks],
        **on_cpu,
    )
    found: list[list[Future[Found]]] = [[] for _ in groups]
    for (at, *_), future in zip(chunks, finding, strict=True):
        found[at].append(future)
    located = client.map(_locate, series, found, key=named("locate"), resources={"GPU": 1}, **options)
    return list(client.map(_finish, series, groups, found, located, key=named("finish"), **on_cpu))


def submit_probe(client: Client, series: Series, position: int, pools: Pools, *, priority: int) -> "Future[None]":
    """Process the one frame at a position and throw the result away: does it kill its worker?"""
    key = ("probe", *_key(series, position))
    return client.submit(_probe, series, position, key=key, priority=priority, pure=False, **_on_cpu(pools))


def _key(series: Series, first: int) -> tuple[str, int, str]:
    # The last part makes it new: a key that the cluster still knows would give the old result.
    return Path(series.folder).name, first, uuid4().hex[:8]


def _on_cpu(pools: Pools) -> dict[str, Any]:
    return {"resources": {"CPU": 1}} if pools.cpu else {}


def _process(series: Series, group: Group, skip: Mapping[int, str]) -> store.PartSummary:
    opened = _opened(series)
    following = [first for first, _ in group.chunks[1:]] + [None]
    found = [
        search(opened, first, stop, skip, following=after)
        for (first, stop), after in zip(group.chunks, following, strict=True)
    ]
    return _write(series, group, found, locate(opened.config, found), _here("process"))


def _find(series: Series, first: int, stop: int, skip: Mapping[int, str]) -> Found:
    return replace(search(_opened(series), first, stop, skip), tasks=_here("find"))


def _locate(series: Series, found: Sequence[Found]) -> Answer:
    return locate(_opened(series).config, found)._replace(tasks=_here("locate"))


def _finish(series: Series, group: Group, found: Sequence[Found], answer: Answer) -> store.PartSummary:
    return _write(series, group, found, answer, _here("finish"))


def _probe(series: Series, position: int) -> None:
    opened = _opened(series)
    found = [search(opened, position, position + 1)]
    complete(opened.config, found, locate(opened.config, found))


def _here(kind: str) -> dict[str, int]:
    return {f"{kind} {get_worker().name}": 1}


def _write(
    series: Series, group: Group, found: Sequence[Found], answer: Answer, tasks: Mapping[str, int]
) -> store.PartSummary:
    table, seconds = complete(_opened(series).config, found, answer)
    part = store.Part(
        group.first,
        group.stop,
        table,
        removed=store.total(chunk.removed for chunk in found),
        failures=[failure for chunk in found for failure in chunk.failures],
        seconds=seconds,
        tasks=store.total([*(chunk.tasks for chunk in found), answer.tasks, tasks]),
        notes=dict(answer.located.notes) if answer.located is not None else {},
    )
    return store.write_part(store.RunFolder(Path(series.folder)), part, series.run)


def search(
    opened: Opened,
    first: int,
    stop: int,
    skip: Mapping[int, str] = MappingProxyType({}),
    *,
    following: int | None = None,
) -> Found:
    """Read, correct, detect and cut the selected frames at positions [first, stop) that are not in `skip`.

    The chunk with the selected frame at position `following` is read from its file meanwhile.
    """
    config = opened.config
    positions = [position for position in range(first, stop) if position not in skip]
    numbers = [opened.numbers[position] for position in positions]
    seconds = dict.fromkeys(("read", "correct", "detect", "patches"), 0.0)
    tables, cuts, removed = [], [patches.empty(config.patches)], Counter[str]()
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
        return Found(peaks.empty(), patches.empty(config.patches), {}, failures, seconds)
    for number, pixels in zip(numbers, raw, strict=True):
        try:
            detection, cut, table = _persist(config, partial(_peaks_of, opened, pixels, seconds))
        except Exception as error:  # noqa: BLE001 - recorded; its neighbours are none the worse
            failures.append(_failure(number, error))
            continue
        kept = table["snr"] >= config.detect.min_snr
        table["peak_frame"] = number
        tables.append(table[kept])
        cuts.append(patches.select(cut, kept))
        removed.update(detection.removed, min_snr=int(np.count_nonzero(~kept)))
    return Found(peaks.concatenate(tables), patches.concatenate(cuts), dict(removed), failures, seconds)


def _peaks_of(
    opened: Opened, pixels: NDArray[Any], seconds: dict[str, float]
) -> tuple[detect.Detection, patches.Patches, peaks.Table]:
    """What is found in one raw frame, the patches of its peaks, and their rows of the table; adds to `seconds`."""
    config = opened.config
    with _timed(seconds, "correct"):
        frame = frames.correct(pixels, opened.correction)
    with _timed(seconds, "detect"):
        detection = detect.detect(frame.counts, frame.mask, config.detect, background_frame=opened.background_frame)
    with _timed(seconds, "patches"):
        cut, table = patches.cut(frame, detection.table, config.patches, **_noise(config))
    return detection, cut, table


def locate(config: RunConfig, found: Sequence[Found]) -> Answer:
    """The network's positions of all peaks found, and the time it took."""
    start = time.perf_counter()
    if config.localise.method == "none":
        return Answer(None, 0.0)
    localiser = localise.load(config.localise, config.patches.size)
    cut = patches.concatenate([chunk.patches for chunk in found])
    located = localise.locate(
        localiser, cut.counts, cut.state, gain=config.frames.gain, batch_size=config.localise.batch_size
    )
    return Answer(located, time.perf_counter() - start)


def complete(config: RunConfig, found: Sequence[Found], answer: Answer) -> tuple[peaks.Table, dict[str, float]]:
    """Fit and assemble: the sorted table of all peaks found, and the time spent by stage."""
    seconds = {"localise": answer.seconds, "fit": 0.0}
    table = peaks.concatenate([chunk.table for chunk in found])
    cut = patches.concatenate([chunk.patches for chunk in found])
    with _timed(seconds, "fit"):
        chosen = assemble.sample(table, config.fit)
        shown = patches.select(cut, chosen)
        fits = fit.fit_patches(shown.counts, shown.state, shown.neighbours, config.fit, **_noise(config))
    table = assemble.assemble(table, cut, config, located=answer.located, fitted=chosen, fits=fits)
    return peaks.sort(table), store.total([*(chunk.seconds for chunk in found), seconds])


def _noise(config: RunConfig) -> dict[str, float]:
    """Noise of a pixel of the searched frames: a binned pixel is a sum, whose read noise adds up in squares."""
    return {"gain": config.frames.gain, "read_noise": config.frames.read_noise * config.frames.bin}


def open_series(data: xr.Dataset, config: RunConfig) -> Opened:
    """What tasks need of a series; raises `InputError` where an image that the configuration names does not fit."""
    positions = selected(data, config)
    return Opened(
        data,
        Reader(data),
        config,
        frames.prepare(data, config.frames),
        frames.background_frame(data, config),
        positions,
        data["frame"].values[positions].tolist(),
    )


def compile_kernels(opened: Opened) -> None:
    """Process one frame in this process, so that workers find all kernels compiled in numba's cache on disk."""
    native = opened.config.model_copy(update={"detect": opened.config.detect.model_copy(update={"engine": "native"})})
    found = search(replace(opened, config=native), 0, 1)
    patches.filled(found.patches.counts, found.patches.state)
    complete(native, [found], Answer(None, 0.0))


@lru_cache(maxsize=4)
def _opened(series: Series) -> Opened:
    own = store.code_version()
    if own["sources"] != series.sources:
        raise InputError(
            f"worker: has braggflow {own['version']} (sources {own['sources']}), the client has other sources "
            f"({series.sources}); results would be mixed. Install the same on both"
        )
    keep_memory()
    return open_series(frames.open_frames(series.path), RunConfig.model_validate_json(series.settings))


def _read(opened: Opened, selected: Sequence[int], following: int | None) -> NDArray[Any]:
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
