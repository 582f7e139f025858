"""Peaks of a Dask array of frames, chunk by chunk: where the active client has it done, or else by Dask's threads."""

from collections.abc import Sequence
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any

import numpy as np
import xarray as xr

from braggflow import pipeline
from braggflow.frames import UNREADABLE, FrameReader, OpenedSeries
from braggflow.pipeline import PartPeaks, search_part, settings_of, table_of


@wraps(pipeline.find_peaks)
def find_peaks(frames: Any, **options: Any) -> xr.Dataset:
    """See `braggflow.pipeline.find_peaks`."""
    lazy = frames["frames"] if isinstance(frames, xr.Dataset) and "frames" in frames else frames
    if not isinstance(lazy, xr.DataArray) and hasattr(lazy, "__dask_graph__"):
        frames = lazy = xr.DataArray(lazy)
    if getattr(lazy, "chunks", None) is None or not isinstance(lazy, xr.DataArray):
        return pipeline.find_peaks(frames, **options)
    signature(pipeline.find_peaks).bind(frames, **options)  # refuses what it has no argument for
    return table_of(frames, settings_of(**options), _search_by_chunks)


def _search_by_chunks(opened: OpenedSeries) -> Sequence[PartPeaks]:
    """What is found in each chunk of a lazy series.

    Where one cannot be read, it is read again in this process, frame by frame, which says which of them cannot.
    """
    from dask.base import compute  # here, because frames in memory need none of it
    from dask.delayed import delayed

    chunks = opened.data["frames"].data.rechunk({1: -1, 2: -1})
    ends = np.cumsum(chunks.chunks[0])
    # One for all tasks: a worker is sent mask, dark and flat once.
    common = delayed(replace(opened, data=None, reader=None), traverse=False)  # type: ignore[arg-type]
    search, tasks, parts = delayed(_search_chunk), [], []
    for end, n, block in zip(ends, chunks.chunks[0], chunks.to_delayed().ravel(), strict=True):
        selected = np.flatnonzero((opened.positions >= end - n) & (opened.positions < end))
        if len(selected):
            parts.append(selected)
            tasks.append(search(common, block, selected, end - n))
    try:
        return list(compute(*tasks))
    except UNREADABLE:
        return [_again(opened, task, selected) for task, selected in zip(tasks, parts, strict=True)]


def _search_chunk(common: OpenedSeries, block: Any, selected: Any, first: int) -> PartPeaks:
    """What is found in the frames of `block`, which begins at position `first` of the array, that are `selected`."""
    data = xr.Dataset({"frames": (("frame", "y", "x"), np.asarray(block))})
    return search_part(_part(replace(common, data=data, reader=FrameReader(data)), selected, first))


def _part(opened: OpenedSeries, selected: Any, first: int = 0) -> OpenedSeries:
    """The frames at the positions `selected` of those of a series, whose data begin at position `first`."""
    return replace(
        opened,
        positions=opened.positions[selected] - first,
        numbers=[opened.numbers[at] for at in selected],
        missing={i: opened.missing[at] for i, at in enumerate(selected.tolist()) if at in opened.missing},
    )


def _again(opened: OpenedSeries, task: Any, selected: Any) -> PartPeaks:
    try:
        found: PartPeaks = task.compute()
    except UNREADABLE:
        return search_part(_part(opened, selected))
    return found
