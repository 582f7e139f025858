"""The plan of a conversion: the stacks of all sources, their coordinates, and the units that are copied."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.cluster import RunTasks
from braggflow.convert.units import CopyUnit
from braggflow.errors import InputError
from braggflow.formats import Stack, expand_sources, inspect_source, open_hdf5, read_coord, reading_errors, split_name
from braggflow.frames import check_alike
from braggflow.peak_table import RESERVED

#: Files whose headers are read in one task.
INSPECT_BATCH = 100
Coords = dict[str, tuple[NDArray[Any], dict[str, str]]]


def inspect_all(
    sources: Sequence[str | Path], dataset: str | None, coords: Mapping[str, str], run_tasks: RunTasks[Any, Any]
) -> list[Stack]:
    """The stacks of all sources in order, of one shape and dtype, none twice."""
    inside_coords = {name: place for name, place in coords.items() if not split_name(place)[1]}
    files = [(path, inside or dataset or "") for path, inside in expand_sources(sources)]
    batches = [(start, files[start : start + INSPECT_BATCH]) for start in range(0, len(files), INSPECT_BATCH)]
    found = sorted(run_tasks(partial(_inspect_batch, coords=inside_coords), batches), key=itemgetter(0))
    refusals = [message for _, _, refused in found for message in refused]
    if refusals:
        raise InputError("\n  ".join(refusals))
    stacks: list[Stack] = [stack for _, described, _ in found for stack in described]
    check_alike(stacks)
    names: set[str] = set()
    for stack in stacks:
        if stack.name in names:
            raise InputError(
                f"source {stack.name}: is named twice (once by itself, once through a file that links to it)"
            )
        names.add(stack.name)
    return stacks


def _inspect_batch(
    batch: tuple[int, Sequence[tuple[str, str]]], *, coords: Mapping[str, str]
) -> tuple[int, list[Stack], list[str]]:
    """The stacks of some files, and a message for each file that is refused, so that all can be named at once."""
    start, files = batch
    stacks: list[Stack] = []
    refused: list[str] = []
    for path, inside in files:
        try:
            stacks += inspect_source(path, inside, coords=coords)
        except InputError as error:
            refused.append(str(error))
    return start, stacks, refused


def asked_coords(asked: Mapping[str, str], stacks: Sequence[Stack]) -> Coords:
    """The coordinates of the whole series that are asked for, those in files of their own read from there."""
    coords: Coords = {}
    for name, place in asked.items():
        if name in RESERVED | {"frame", "frames", "mask", "dark", "flat", "negative_marks"}:
            raise InputError(f"--coord {name}: the name is taken; choose another, e.g. {name}_of_frame")
        if not re.fullmatch(r"[^\s/.][^\s/]*", name):
            raise InputError(f"--coord {name!r}: is no name of a coordinate; must be without spaces and /")
        path, inside = split_name(place)
        if inside:
            n_frames = sum(stack.frames for stack in stacks)
            with reading_errors(f"--coord {name}: {path}"), open_hdf5(str(path)) as file:
                coords[name] = read_coord(file, str(path), name, inside, n_frames)
        else:
            parts = [stack.facts.coords[name] for stack in stacks]
            coords[name] = (np.concatenate([values for values, _ in parts]), parts[0][1])
    return coords


def plan_units(stacks: Sequence[Stack], size: int, out: str) -> list[CopyUnit]:
    """The series cut into units of `size` frames; the last may be smaller."""
    units: list[CopyUnit] = []
    pieces: list[tuple[Stack, int, int]] = []
    room = size
    for stack in stacks:
        lo = 0
        while lo < stack.frames:
            hi = min(stack.frames, lo + room)
            pieces.append((stack, lo, hi))
            room -= hi - lo
            lo = hi
            if room == 0:
                units.append(CopyUnit(len(units), len(units) * size, tuple(pieces), out))
                pieces, room = [], size
    if pieces:
        units.append(CopyUnit(len(units), len(units) * size, tuple(pieces), out))
    return units
