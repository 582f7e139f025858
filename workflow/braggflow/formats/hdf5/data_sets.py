"""Series of frames in HDF5 and NeXus files: which data set is meant, where its data lie, what the file says of them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.hdf5.choice import Choice, choose
from braggflow.formats.hdf5.holes import Missing, find_cells, runs
from braggflow.formats.hdf5.layout import (
    Layout,
    axis_coords,
    checked_panels,
    frames_in_chunk,
    layout_of,
    read_layout,
    split_panel,
)
from braggflow.formats.hdf5.nexus import facts_from_nexus
from braggflow.formats.hdf5.tree import LINK_ERRORS, Tree, located, open_hdf5, read_tree, why_broken
from braggflow.formats.metadata import Facts, text_of


@dataclass(frozen=True, slots=True)
class FoundDataSet:
    """A data set of frames."""

    path: str
    """The file it lies in."""
    inside: str
    shape: tuple[int, int, int]
    """(frame, y, x)"""
    dtype: np.dtype[Any]
    files: list[str]
    """Every file that its data lie in."""
    missing: Missing = ()
    facts: Facts = field(default_factory=Facts)
    others: tuple[str, ...] = ()
    promised: int = 0
    """Frames that the series was to have, as an EIGER master file states it; 0 where nothing is stated."""


def inspect_hdf5(path: str, inside: str, coords: Mapping[str, str], *, calibration: bool = False) -> list[FoundDataSet]:
    """The data sets of frames in a file: the one named or found, or the linked series of an EIGER master file.

    `calibration`: a mask, dark or flat is meant, not frames: what the file says of its frames is not asked. Raises
    `InputError` if there are none or several, or if all their frames are missing.
    """
    inside = "/" + inside.strip("/") if inside else ""
    with open_hdf5(path) as file:
        tree = read_tree(file)
        name, panel = split_panel(file, inside)
        choice = Choice(name) if panel is not None else choose(file, path, inside, tree, calibration=calibration)
        if choice.series:
            found, layout, own = _series(file, path, choice.series, tree), None, {}
            first = next(name for name in choice.series.values() if tree.find(file, name))
        else:
            first, name = choice.name, f"source {path}:{choice.name}"
            data_set, node = file[first], tree.find(file, first)
            layout = checked_panels(file, tree, node, data_set, layout_of(data_set, name, panel), name)
            own = axis_coords(file, tree, node, data_set, layout)
            found = [_found(data_set, layout)]
        n_frames = sum(part.shape[0] for part in found)
        _refuse_if_all_missing(path, found, n_frames)
        if calibration:
            return found
        own |= {
            name: read_coord(file, path, name, place, n_frames, layout.grid if layout else ())
            for name, place in coords.items()
        }
        facts = facts_from_nexus(file, tree, first, found[0].shape[1:], None if layout is None else layout.panel)
        promised = (_stated_frames(file, tree) or 0) if choice.series else 0
        notes = _series_notes(path, choice.series, n_frames, promised) if choice.series else ()
        described = []
        start = 0
        for part in found:
            stop = start + part.shape[0]
            of_part = {name: (values[start:stop], attrs) for name, (values, attrs) in own.items()}
            of_part_facts = replace(facts, coords=of_part, notes=facts.notes + notes)
            described.append(replace(part, facts=of_part_facts, others=choice.others, promised=promised))
            start = stop
        return described


def read_hdf5(path: str, inside: str, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi of a data set; a 2-D one is one frame, a grid of scan points is read along the scan."""
    import h5py

    with open_hdf5(path) as file:
        name, panel = split_panel(file, inside)
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        # HDF5 looks for external files from the current folder, where a user would not think to be.
        access.set_efile_prefix(b"${ORIGIN}")
        data_set = h5py.Dataset(h5py.h5d.open(file.id, name.encode(errors="surrogateescape"), access))
        return read_layout(data_set, _layout(data_set, path, name, panel), lo, hi)


def frames_per_chunk(path: str, inside: str) -> int:
    """Frames that are decoded together; 1 where a data set is not chunked, or is not there at all."""
    if not Path(path).is_file():
        return 1
    with open_hdf5(path) as file:
        name, panel = split_panel(file, inside)
        try:
            data_set = file[name]
        except LINK_ERRORS:
            return 1
        return frames_in_chunk(data_set.chunks, _layout(data_set, path, name, panel)) if data_set.chunks else 1


def read_coord(
    file: Any, path: str, name: str, place: str, n_frames: int, grid: tuple[int, ...] = ()
) -> tuple[NDArray[Any], dict[str, str]]:
    """A per-frame coordinate, shape (frame,), and its attributes; a single value holds for every frame of the file.

    Of a `grid` of scan points, the values may have its shape.
    """
    try:
        data_set = file[place]
        shape, kind = data_set.shape, data_set.dtype.kind
    except (AttributeError, *LINK_ERRORS) as error:
        raise InputError(f"--coord {name}={place}: {path} has no such data set") from error
    values = np.ravel(data_set[()]) if kind in "iuf" and data_set.size in (1, n_frames) else np.empty(0)
    if values.size == 0 or (len(shape) > 1 and max(shape) != values.size and shape != grid):
        raise InputError(
            f"--coord {name}={place}: in {path} it has shape {shape} and type {data_set.dtype}, "
            f"must be one number, or one for each of the {n_frames} frames"
        )
    attrs = {key: text_of(data_set.attrs[key]) for key in ("units", "long_name") if key in data_set.attrs}
    return np.broadcast_to(values, n_frames).astype(values.dtype.newbyteorder("=")), attrs


def _layout(data_set: Any, path: str, name: str, panel: int | None) -> Layout:
    return layout_of(data_set, f"source {path}:{name}", panel)


def _found(data_set: Any, layout: Layout) -> FoundDataSet:
    """A data set that is there, whole or in part."""
    holder = str(Path(data_set.file.filename).resolve())
    inside = data_set.name if layout.panel is None else f"{data_set.name}/panel_{layout.panel}"
    if data_set.dtype.kind not in "biuf":
        return FoundDataSet(holder, inside, (layout.frames, *data_set.shape[-2:]), data_set.dtype, [holder])
    cells = find_cells(data_set)
    missing = runs(layout.of_cells(cells.why), cells.reasons)
    shape = (layout.frames, *data_set.shape[-2:])
    return FoundDataSet(holder, inside, shape, data_set.dtype, cells.files, missing)


def _refuse_if_all_missing(path: str, found: list[FoundDataSet], n_frames: int) -> None:
    missing = [(stop - first, reason) for part in found for first, stop, reason in part.missing]
    if n_frames and sum(n for n, _ in missing) == n_frames:
        reasons = list(dict.fromkeys(reason for _, reason in missing))
        more = f", and {len(reasons) - 3} reasons more" if len(reasons) > 3 else ""
        raise InputError(f"source {path}: none of its {n_frames} frames is there: {'; '.join(reasons[:3])}{more}")


# ---------------------------------------------------------------- EIGER series


def _series(file: Any, path: str, names: Mapping[int, str], tree: Tree) -> list[FoundDataSet]:
    """The members of an EIGER series in order; those that are not there have all their frames missing."""
    present: dict[int, FoundDataSet] = {}
    absent: dict[int, tuple[str, str, str]] = {}  # file, path in it, reason
    met: dict[int, str] = {}
    for number, name in names.items():
        node = tree.find(file, name)
        if node is None:
            absent[number] = (*_link_target(file, path, name), f"in no file: {why_broken(file, name)}")
            continue
        if id(node) in met:
            raise InputError(f"source {path}: {name} and {met[id(node)]} are one data set, must be two of the series")
        met[id(node)] = name
        data_set = file[name]
        if node.is_numeric and len(node.shape) in (2, 3) and 0 not in node.shape:
            present[number] = _found(data_set, layout_of(data_set, f"source {path}:{name}"))
        else:
            at = str(Path(data_set.file.filename).resolve())
            what = "no frame yet" if node.is_numeric and 0 in node.shape else f"no frames but {node.dtype} {node.shape}"
            absent[number] = (at, data_set.name, f"in {Path(at).name}:{data_set.name}, which holds {what}")
    if not present:
        reasons = "; ".join(reason for _, _, reason in list(absent.values())[:3])
        raise InputError(f"source {path}: none of the {len(names)} data sets of its series is there: {reasons}")
    group = next(iter(names.values())).rpartition("/")[0]
    own = str(Path(path).resolve())
    for first, stop in _holes(names):
        links = f"{group}/data_{first:06d}" + (f" to data_{stop - 1:06d}" if stop - first > 1 else "")
        absent[first] = (own, f"{group}/data_{first:06d}", f"in no file: {Path(path).name} has no link {links}")
    length = _lengths(path, names, present, absent, _stated_frames(file, tree))
    _, y, x = next(iter(present.values())).shape
    dtype = next(iter(present.values())).dtype
    found = dict(present)
    for number, (at, inside, reason) in absent.items():
        files = [at] if Path(at).is_file() else []
        shape = (length[number], y, x)
        found[number] = FoundDataSet(at, inside, shape, dtype, files, ((0, length[number], reason),))
    return [found[number] for number in sorted(found)]


def _link_target(file: Any, path: str, name: str) -> tuple[str, str]:
    """File and path that a broken link names."""
    link = file.get(name, getlink=True)
    if hasattr(link, "filename"):
        return str(located(path, link.filename).resolve()), "/" + link.path.strip("/")
    return str(Path(path).resolve()), name


def _holes(numbers: Collection[int]) -> list[tuple[int, int]]:
    """Runs of numbers (first, the one after the last) that lie between the members, or before the first after 1.

    A series that begins far from 1 has more before it than there is of it: that is taken for another way of counting.
    """
    first = min(numbers)
    before = 0 if 0 < first <= len(numbers) + 1 else first - 1
    return [(a + 1, b) for a, b in pairwise([before, *sorted(numbers)]) if b - a > 1]


def _lengths(
    path: str,
    names: Collection[int],
    present: Mapping[int, FoundDataSet],
    absent: Mapping[int, tuple[str, str, str]],
    stated: int | None,
) -> dict[int, int]:
    """How many frames each absent member, or run of them, has.

    All members are of one length but the last, which may be shorter; the count in the master file tells the rest.
    """
    if not absent:
        return {}
    last = max(names)
    widths = {first: stop - first for first, stop in _holes(names)}
    n_absent = sum(widths.get(number, 1) for number in absent)
    left = 0 if stated is None else stated - sum(part.shape[0] for part in present.values())
    full = {part.shape[0] for number, part in present.items() if number != last}
    if len(full) != 1 and left > 0 and left % n_absent == 0:
        each = left // n_absent
    elif len(full) <= 1:
        each = full.pop() if full else present[last].shape[0]
    else:
        raise InputError(
            f"source {path}: how many frames are missing cannot be told, as its data sets have {sorted(full)} frames; "
            f"missing: {'; '.join(reason for _, _, reason in absent.values())}"
        )
    lengths = {number: each * widths.get(number, 1) for number in absent}
    if last in absent:
        rest = left - sum(n for number, n in lengths.items() if number != last)
        lengths[last] = rest if 0 < rest <= each else each
    return lengths


def _stated_frames(file: Any, tree: Tree) -> int | None:
    """How many frames an EIGER master file was to have."""
    counts = []
    for key in ("nimages", "ntrigger"):
        found = [name for name in tree.by_name if name.endswith(f"/detectorSpecific/{key}")]
        item = file[found[0]] if len(found) == 1 else None
        if item is None or not hasattr(item, "dtype") or item.dtype.kind not in "iu" or item.size != 1:
            return None
        counts.append(int(np.ravel(item[()])[0]))
    return counts[0] * counts[1] if min(counts) > 0 else None


def _series_notes(path: str, numbers: Collection[int], n_frames: int, promised: int) -> tuple[str, ...]:
    """Where a series is not what its master file was to have, as after an abort, or begins elsewhere than at 1."""
    notes = []
    if promised > n_frames:
        notes.append(f"{path} was to have {promised} frames (nimages x ntrigger), its data files have {n_frames}")
    if min(numbers) > len(numbers) + 1:
        notes.append(f"the series of {path} begins with data_{min(numbers):06d}, which is counted as its first")
    return tuple(notes)
