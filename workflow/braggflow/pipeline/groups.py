"""The plan of a series: groups of consecutive chunks, one task each."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xarray as xr

from braggflow.config import RunConfig
from braggflow.frames import selected_positions

#: Time that a task is expected to take per pixel (reading and searching) and per frame; measured on one core.
SECONDS_PER_PIXEL, SECONDS_PER_FRAME = 2e-9, 3e-4
#: A series is cut into at least this many groups, so that workers end together and little is lost to a crash.
MIN_GROUPS = 16


@dataclass(frozen=True, slots=True)
class Group:
    """Positions [first, stop) of the series' selected frames, and their chunks."""

    first: int
    stop: int
    chunks: tuple[tuple[int, int], ...]


def plan_groups(data: xr.Dataset, config: RunConfig) -> list[Group]:
    """Groups of whole chunks whose tasks last about `compute.task_seconds`; the same for any number of workers."""
    chunk_of = selected_positions(data, config) // int(data["frames"].encoding["chunks"][0])
    edges = [0, *(np.flatnonzero(np.diff(chunk_of)) + 1).tolist(), len(chunk_of)]
    chunks = list(pairwise(edges)) if len(chunk_of) else []
    wanted = min(frames_in(config.compute.task_seconds, data["frames"].shape[1:]), len(chunk_of) / MIN_GROUPS)
    step = max(1, round(wanted * len(chunks) / max(1, len(chunk_of))))
    grouped = [tuple(chunks[first : first + step]) for first in range(0, len(chunks), step)]
    return [Group(group[0][0], group[-1][1], group) for group in grouped]


def frames_in(seconds: float, shape: tuple[int, ...]) -> float:
    """How many frames of a shape (y, x) a task is expected to do in so many seconds."""
    return seconds / (SECONDS_PER_FRAME + SECONDS_PER_PIXEL * shape[0] * shape[1])


def regroup(groups: Sequence[Group], spans: Sequence[tuple[int, int]]) -> list[Group]:
    """The same chunks in groups of other spans (an earlier run's), in order; one that a span divides is in two."""
    chunks = [chunk for group in groups for chunk in group.chunks]
    starts, stops = [first for first, _ in chunks], [stop for _, stop in chunks]
    found = []
    for first, stop in spans:
        inside = chunks[bisect_right(stops, first) : bisect_left(starts, stop)]
        found.append(Group(first, stop, tuple((max(a, first), min(b, stop)) for a, b in inside)))
    return found
