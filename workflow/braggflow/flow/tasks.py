"""Wiring only: what runs where, on which resource, in what order.

A series is processed in groups of consecutive chunks. Where workers offer the resource GPU, a group is

    search (CPU, one task a chunk) ──► locate (GPU, one task) ──► complete (CPU: fit, assemble, write the part)

(`locate` fits too where `fit.device` says so), and else one CPU task that does the same in that order. Frames never
leave the worker that read them; results leave as part files, and only their summaries travel.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import xarray as xr

from braggflow.config import RunConfig, digest
from braggflow.flow.unchanged import OtherFramesError, OtherSourcesError
from braggflow.frames import OpenedSeries, growing_data, open_frames, open_series, without_bad_pixels
from braggflow.pipeline import (
    ChunkPeaks,
    Group,
    NetworkResult,
    complete_peaks,
    locate_peaks,
    on_cpu,
    search_chunk,
    sum_counts,
)
from braggflow.results import (
    Part,
    PartSummary,
    RunFolder,
    frame_states,
    frames_identity,
    growing_identity,
    write_part,
)
from braggflow.version import code_version

if TYPE_CHECKING:
    from distributed import Client, Future

    from braggflow.cluster import Pools


@dataclass(frozen=True, slots=True)
class TaskSeries:
    """One data set's work, as every task needs it."""

    path: str
    folder: str
    settings: str
    """The configuration as JSON: a key for the workers' caches."""
    run: str
    """Digest of the run's identity."""
    bad_pixels: str
    """What was found of them when the series was prepared, as JSON."""
    sources: str
    """Hash of the client's modules that decide the numbers: a worker with others refuses."""
    frames: str
    """Digest of the identity of the frames that the client opened: a worker that finds others refuses."""
    looked_at: tuple[int, ...] = ()
    """Of a series that is still being written: positions of the frames by which it was described."""
    look: int = 0
    """Which look at such a series it is opened as of: with another, it is opened anew."""


class GroupTask(NamedTuple):
    """A group of a series to be processed."""

    series: TaskSeries
    group: Group
    skip: Mapping[int, str] = MappingProxyType({})
    """Positions of frames that are not to be touched, and the reasons that are recorded for their failure."""


def submit_groups(
    client: "Client", orders: Sequence[GroupTask], pools: "Pools", *, retries: int, priority: int
) -> "list[Future[PartSummary]]":
    """Submit groups, the first to be done first; a future's result is the `PartSummary` of the part that it wrote.

    Together, because one message for many costs the scheduler half of what one for each does.
    """
    if not orders:
        return []
    options: dict[str, Any] = {"priority": priority, "retries": retries, "pure": False}
    on_cpus = options | _cpu_resource(pools)
    series, groups = [order.series for order in orders], [order.group for order in orders]
    skips = [dict(order.skip) for order in orders]
    keys = [_key(order.series, order.group.first) for order in orders]

    def named(kind: str) -> list[tuple[Any, ...]]:
        # Tuples, so that the scheduler sees a handful of kinds of task and not one per data set.
        return [(kind, *key) for key in keys]

    if not pools.gpu:
        return list(client.map(_process, series, groups, skips, key=named("process"), **on_cpus))
    chunks = [(at, first, stop) for at, group in enumerate(groups) for first, stop in group.chunks]
    finding = client.map(
        _search,
        [series[at] for at, *_ in chunks],
        [first for _, first, _ in chunks],
        [stop for *_, stop in chunks],
        [skips[at] for at, *_ in chunks],
        key=[("search", *keys[at], first) for at, first, _ in chunks],
        **on_cpus,
    )
    found: list[list[Future[ChunkPeaks]]] = [[] for _ in groups]
    for (at, *_), future in zip(chunks, finding, strict=True):
        found[at].append(future)
    located = client.map(_locate, series, found, key=named("locate"), resources={"GPU": 1}, **options)
    return list(client.map(_complete, series, groups, found, located, key=named("complete"), **on_cpus))


def submit_probe(
    client: "Client", series: TaskSeries, position: int, pools: "Pools", *, priority: int
) -> "Future[None]":
    """Process the one frame at a position and throw the result away: does it kill its worker?"""
    key = ("probe", *_key(series, position))
    return client.submit(_probe, series, position, key=key, priority=priority, pure=False, **_cpu_resource(pools))


def _key(series: TaskSeries, first: int) -> tuple[str, int, str]:
    # The last part makes it new: a key that the cluster still knows would give the old result.
    return Path(series.folder).name, first, uuid4().hex[:8]


def _cpu_resource(pools: "Pools") -> dict[str, Any]:
    return {"resources": {"CPU": 1}} if pools.cpu else {}


def _process(series: TaskSeries, group: Group, skip: Mapping[int, str]) -> PartSummary:
    return process_group(series, group, skip, _here("process"))


def process_group(series: TaskSeries, group: Group, skip: Mapping[int, str], tasks: Mapping[str, int]) -> PartSummary:
    """All that is done for a group, in this process: its part is written. `tasks` says where, as parts record it."""
    opened = opened_series(series)
    following = [first for first, _ in group.chunks[1:]] + [None]
    found = [
        search_chunk(opened, first, stop, skip, following=after)
        for (first, stop), after in zip(group.chunks, following, strict=True)
    ]
    return _write(series, group, found, locate_peaks(opened.config, found), tasks)


def _search(series: TaskSeries, first: int, stop: int, skip: Mapping[int, str]) -> ChunkPeaks:
    return replace(search_chunk(opened_series(series), first, stop, skip), tasks=_here("search"))


def _locate(series: TaskSeries, found: Sequence[ChunkPeaks]) -> NetworkResult:
    return locate_peaks(opened_series(series).config, found)._replace(tasks=_here("locate"))


def _complete(series: TaskSeries, group: Group, found: Sequence[ChunkPeaks], answer: NetworkResult) -> PartSummary:
    return _write(series, group, found, answer, _here("complete"))


def _probe(series: TaskSeries, position: int) -> None:
    opened = opened_series(series)
    config, found = on_cpu(opened.config), [search_chunk(opened, position, position + 1)]
    complete_peaks(config, found, locate_peaks(config, found))


def _here(kind: str) -> dict[str, int]:
    from distributed import get_worker  # a run in this process needs none of it

    return {f"{kind} {get_worker().name}": 1}


def _write(
    series: TaskSeries, group: Group, found: Sequence[ChunkPeaks], answer: NetworkResult, tasks: Mapping[str, int]
) -> PartSummary:
    table, seconds = complete_peaks(opened_series(series).config, found, answer)
    part = Part(
        group.first,
        group.stop,
        table,
        removed=sum_counts(chunk.removed for chunk in found),
        failures=[failure for chunk in found for failure in chunk.failures],
        seconds=seconds,
        tasks=sum_counts([*(chunk.tasks for chunk in found), answer.tasks, tasks]),
        notes=dict(answer.notes),
        states=frame_states(table, {number: mean for chunk in found for number, mean in chunk.means.items()}),
    )
    return write_part(RunFolder(Path(series.folder)), part, series.run)


@lru_cache(maxsize=4)
def opened_series(series: TaskSeries) -> OpenedSeries:
    """The series of a data set, as its tasks see it.

    Raises `OtherSourcesError` where this process has other sources than the client, `OtherFramesError` where it finds
    other frames, and as `open_frames` does.
    """
    own = code_version()
    if own["sources"] != series.sources:
        raise OtherSourcesError(
            f"worker: has braggflow {own['version']} (sources {own['sources']}), the client has other sources "
            f"({series.sources}); results would be mixed. Install the same on both"
        )
    config, growing = RunConfig.model_validate_json(series.settings), bool(series.looked_at)
    opened = open_series(_frames_of(series), config, growing=growing)
    return without_bad_pixels(opened, json.loads(series.bad_pixels))


def _frames_of(series: TaskSeries) -> xr.Dataset:
    """The frames of a series; raises `OtherFramesError` where they are not those that the client opened."""
    path = Path(series.path)
    if not series.looked_at:
        data = open_frames(path)
        if digest(frames_identity(path, data)) == series.frames:
            return data
    for anew in (False, True) if series.looked_at else ():  # this process may know another series of the same name
        data = growing_data(path, series.looked_at, anew=anew)
        if digest(growing_identity(path, data, series.looked_at)) == series.frames:
            return data
    raise OtherFramesError(
        f"{series.path}: holds other frames than when the run began; run again, so that no results are mixed"
    )
