"""The end of following: the folder becomes that of an ordinary run of the whole series, broken off just before its end.

What was found of the series while it grew (marks, saturation, constants of the detector) is found once more from all of
it. Parts that the ordinary run would make bit for bit the same are kept; it makes the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from braggflow.config import RunConfig
from braggflow.flow.data_set import DataSetRun
from braggflow.flow.following.stamp_record import StampRecord
from braggflow.frames import DetectorConstants, OpenedSeries, open_frames, open_series, settled_constants
from braggflow.pipeline import Group, plan_groups, refuse_no_frames
from braggflow.results import (
    PartSummary,
    described_alike,
    frames_identity,
    part_files,
    read_run_info,
    relabel_part,
    run_digest,
    run_identity,
    write_run_info,
)


def hand_over(
    work: DataSetRun,
    resolved: RunConfig,
    model: Mapping[str, Any] | None,
    stamps: StampRecord,
    *,
    killed: bool,
) -> None:
    """Make the folder of a series that was followed that of an ordinary run.

    `stamps` are those of the frames when they arrived; `killed`: frames may have killed workers, and are for other
    workers. Raises `InputError` as `open_frames` does.
    """
    path, folder = Path(work.series.path), work.folder
    data = open_frames(path)
    opened, constants = settled_constants(open_series(data, resolved), None, judge=True)
    refuse_no_frames(opened, str(path))
    identity = run_identity(resolved, frames_identity(path, data), model, opened.geometry)
    alike = described_alike(work.identity, identity) and _numbers(work.constants) == _numbers(constants)
    changed, places = stamps.changed(), opened.positions.tolist()
    anew = {at for at, place in enumerate(places) if place in changed}
    lacking = stamps.lacking([place for at, place in enumerate(places) if at not in opened.missing])
    kept = [part for part in work.done.values() if alike and _holds(part, opened, anew)]
    told = []
    if not alike and work.done:
        told.append(
            "what its first frames said of the detector (marks, saturation, constants) is not what all of them say, so "
            "that all were processed again"
        )
    if anew:
        told.append(f"{_frames(len(anew))} written again after their peaks were found; the last counts")
    if lacking:
        told.append(f"{_frames(len(lacking))} never written to the store, which holds its fill value there")
    spans = tiled([(part.first, part.stop) for part in kept], plan_groups(data, resolved))
    info = read_run_info(folder) | {
        "identity": identity,
        "run": run_digest(identity),
        "plan": spans,
        "status": "running" if killed else "interrupted",
        "detector": constants.record(),
        "following": work.following
        | {
            "rewritten": len(anew),
            "kept": sum(part.stop - part.first for part in kept),
            "told": told,
        },
    }
    # In this order: until a part has its new label it is made again, and never taken for what it is not.
    write_run_info(folder, info)
    kept_files = {folder.part(part.first, part.stop) for part in kept}
    for file in part_files(folder):
        if file in kept_files:
            relabel_part(file, info["run"])
        else:
            file.unlink()
    folder.stamps.unlink(missing_ok=True)


def _frames(n: int) -> str:
    return f"{n:,} frames were" if n > 1 else "1 frame was"


def _numbers(constants: DetectorConstants) -> tuple[object, ...]:
    """What of the detector's constants decides results."""
    return constants.counts_per_photon, constants.read_noise, constants.bad_pixels


def _holds(part: PartSummary, opened: OpenedSeries, anew: set[int]) -> bool:
    """Whether a part is of the frames that the series has at its place now, and of all of them."""
    numbers = opened.numbers[part.first : part.stop]
    return (
        not part.failures
        and part.states["frame"].tolist() == numbers
        and anew.isdisjoint(range(part.first, part.stop))
        and opened.missing.keys().isdisjoint(range(part.first, part.stop))
    )


def tiled(kept: Iterable[tuple[int, int]], groups: Sequence[Group]) -> list[tuple[int, int]]:
    """A plan of all frames with the spans `kept` in it, and between them those of `groups`, as far as there is room."""
    found, end = [], groups[-1].stop
    edges = [0, *(edge for span in sorted(kept) for edge in span), end]
    for at, (first, stop) in enumerate(pairwise(edges)):
        if at % 2:
            found.append((first, stop))
        elif first < stop:
            found += [(max(first, g.first), min(stop, g.stop)) for g in groups if g.first < stop and first < g.stop]
    return found
