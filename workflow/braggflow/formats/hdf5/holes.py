"""Frames of an HDF5 data set that were never written, or lie in files that are missing or too short.

HDF5 itself fills them with zeros in silence.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.hdf5.tree import LINK_ERRORS, located, open_hdf5

Missing = tuple[tuple[int, int, str], ...]
"""(first frame, the one after the last, reason)"""


@dataclass(slots=True)
class Cells:
    """Which (y, x) images of a data set are there, in C order of the axes before, and the files that they lie in."""

    why: NDArray[np.int64]
    """0 where an image is there, else the number of the reason why not."""
    reasons: dict[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def lose(self, cells: Any, reason: str) -> None:
        """Some images are not there; of several reasons the first is kept."""
        known = self.why[cells]
        if not known.all():
            self.why[cells] = np.where(known, known, self.reasons.setdefault(reason, len(self.reasons) + 1))


def runs(why: NDArray[np.int64], reasons: Iterable[str]) -> Missing:
    """Runs of frames that are missing for one reason."""
    texts = ["", *reasons]
    bounds = [0, *(np.flatnonzero(np.diff(why)) + 1).tolist(), why.size]
    return tuple((first, stop, texts[why[first]]) for first, stop in pairwise(bounds) if stop > first and why[first])


def find_cells(data_set: Any, met: tuple[tuple[str, str], ...] = ()) -> Cells:
    """What is there of a data set. `met`: the virtual data sets that lead to it, lest they lead in a circle."""
    holder = str(Path(data_set.file.filename).resolve())
    cells = Cells(np.zeros(math.prod(data_set.shape[:-2]), np.int64), files=[holder])
    if data_set.size == 0:
        return cells
    if data_set.is_virtual:
        _virtual(data_set, cells, (*met, (holder, data_set.name)))
    elif data_set.external:
        _external(data_set, cells)
    elif data_set.chunks is not None:
        _chunked(data_set, cells)
    elif _is_contiguous(data_set) and data_set.id.get_offset() is None:
        cells.lose(slice(None), _never_written(data_set))
    return cells


def _never_written(data_set: Any) -> str:
    return f"never written to {Path(data_set.file.filename).name}:{data_set.name}"


def _is_contiguous(data_set: Any) -> bool:
    import h5py

    return bool(data_set.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS)


def _chunked(data_set: Any, cells: Cells) -> None:
    """An image is there if all chunks that hold a part of it were written."""
    grid = [-(-length // chunk) for length, chunk in zip(data_set.shape, data_set.chunks, strict=True)]
    n_chunks = data_set.id.get_num_chunks()
    if n_chunks >= math.prod(grid):
        return
    offsets: list[tuple[int, ...]] = []
    if hasattr(data_set.id, "chunk_iter"):
        data_set.id.chunk_iter(lambda chunk: offsets.append(chunk.chunk_offset))
    else:
        offsets = [data_set.id.get_chunk_info(index).chunk_offset for index in range(n_chunks)]
    n_lead = len(grid) - 2
    lead, lead_chunks = tuple(grid[:n_lead]), data_set.chunks[:n_lead]
    places = np.array(offsets, np.int64).reshape(-1, len(grid))[:, :n_lead] // np.array(lead_chunks, np.int64)
    flat = np.ravel_multi_index(tuple(places.T), lead) if n_lead else np.zeros(len(places), np.int64)
    whole = (np.bincount(flat, minlength=math.prod(lead)) == math.prod(grid[n_lead:])).reshape(lead)
    for axis, chunk in enumerate(lead_chunks):
        whole = np.repeat(whole, chunk, axis)
    whole = whole[tuple(slice(length) for length in data_set.shape[:n_lead])]
    cells.lose(~whole.ravel(), _never_written(data_set))


def _external(data_set: Any, cells: Cells) -> None:
    """Images in raw files that follow each other."""
    holder = data_set.file.filename
    size = data_set.nbytes // cells.why.size
    at = 0
    for name, offset, length in data_set.external:
        file = located(holder, name)
        length = min(length, data_set.nbytes - at)
        found = file.stat().st_size if file.is_file() else 0
        there = min(max(found - offset, 0), length)
        if there < length:
            cells.lose(
                slice((at + there) // size, -(-(at + length) // size)), f"in {file}, which is missing or too short"
            )
        if file.is_file():
            cells.files.append(str(file.resolve()))
        at += length
    if at < data_set.nbytes:
        cells.lose(slice(at // size, None), f"in none of the raw files that {data_set.name} names")


@dataclass(slots=True)
class _Source:
    """A data set that a virtual one takes its values from, or why there is none."""

    shape: tuple[int, ...] = ()
    cells: Cells | None = None
    problem: str = ""
    files: list[str] = field(default_factory=list)


def _virtual(data_set: Any, cells: Cells, met: tuple[tuple[str, str], ...]) -> None:
    """An image is there if all its sources are, and if as much of it has a source as of the others (not the gaps)."""
    holder = data_set.file.filename
    covered = np.zeros(cells.why.size, np.int64)
    sources: dict[tuple[str, str], _Source] = {}
    for part in data_set.virtual_sources():
        if any(re.search(r"(?<!%)(%%)*%b", name) for name in (part.file_name, part.dset_name)):
            raise InputError(
                f"source {holder}:{data_set.name}: takes its frames from files {part.file_name} by number, of which "
                "HDF5 leaves out all after a missing one; name these files instead"
            )
        key = (part.file_name.replace("%%", "%"), part.dset_name.replace("%%", "%"))
        if key not in sources:
            sources[key] = _open_source(holder, *key, met)
        source = sources[key]
        mine, pixels = _selected(part.vspace, data_set.shape)
        if mine.size and mine[-1] >= cells.why.size:  # a selection without end goes on after the last image
            mine, pixels = mine[mine < cells.why.size], pixels[mine < cells.why.size]
        covered[mine] += pixels
        if source.cells is None:
            cells.lose(mine, source.problem)
        else:
            _lose_with_source(cells, mine, pixels, part.src_space, source)
    covered = np.minimum(covered, math.prod(data_set.shape[-2:]))
    partly = covered < max(int(covered.max(initial=0)), 1)
    cells.lose(
        partly, f"covered by no source of the virtual data set {Path(holder).name}:{data_set.name}, or not wholly"
    )
    cells.files = list(dict.fromkeys(cells.files + [file for source in sources.values() for file in source.files]))


def _open_source(holder: str, file_name: str, name: str, met: tuple[tuple[str, str], ...]) -> _Source:
    file = Path(holder) if file_name == "." else located(holder, file_name)
    if not file.is_file():
        return _Source(problem=f"in {file}, which is missing")
    own = [str(file.resolve())]
    if (own[0], "/" + name.strip("/")) in met:
        return _Source(problem=f"in {file}:{name}, which takes its values from itself", files=own)
    try:
        opened = open_hdf5(str(file))
    except OSError as error:
        return _Source(problem=f"in {file}, which cannot be opened ({error})", files=own)
    with opened:
        try:
            found = opened[name]
            shape = tuple(found.shape)
        except (AttributeError, *LINK_ERRORS):
            return _Source(problem=f"in {file}:{name}, which is missing", files=own)
        below = find_cells(found, met)
        return _Source(shape, below, f"in {file}:{name}, which has only shape {shape}", below.files)


def _lose_with_source(
    cells: Cells, mine: NDArray[np.int64], pixels: NDArray[np.int64], space: Any, source: _Source
) -> None:
    """Lose the images `mine`, of which a source gives so many `pixels`, where the source has not got its part."""
    assert source.cells is not None
    if _is_outside(space, source.shape):
        cells.lose(mine, source.problem)
        return
    theirs, of_each = _selected(space, source.shape)
    n_there = source.cells.why.size
    lost = theirs >= n_there
    why = source.cells.why[theirs[~lost]]
    if len(theirs) <= len(mine) and np.array_equal(pixels[: len(theirs)], of_each):  # image by image
        short = np.ones(len(mine), bool)
        short[: len(theirs)] = lost
        cells.lose(mine[short], source.problem)
        for reason, number in source.cells.reasons.items():
            cells.lose(mine[: len(theirs)][~lost][why == number], reason)
    elif lost.any() or why.any() or pixels.sum() != of_each.sum():
        cells.lose(mine, source.problem if lost.any() or not why.any() else list(source.cells.reasons)[why.max() - 1])


def _is_outside(space: Any, shape: tuple[int, ...]) -> bool:
    """Whether a selection goes beyond a data set otherwise than by its first axis of images."""
    import h5py

    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return False
    if space.get_simple_extent_ndims() != len(shape):
        return True
    if space.is_regular_hyperslab():
        ends = [start + stride * (count - 1) + block for start, stride, count, block in _axes(space, shape)]
    else:
        ends = [last + 1 for last in space.get_select_bounds()[1]]
    after = 1 if len(shape) > 2 else 0
    return any(end > length for end, length in zip(ends[after:], shape[after:], strict=True))


def _axes(space: Any, shape: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """(start, stride, count, block) for each axis of a regular selection; one without end goes as far as the shape."""
    import h5py

    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return [(0, 1, 1, length) for length in shape]
    found = []
    for start, stride, count, block, length in zip(*space.get_regular_hyperslab(), shape, strict=True):
        left = max(length - start, 0)
        count = -(-left // stride) if count == h5py.h5s.UNLIMITED else count
        found.append((start, stride, count, left if block == h5py.h5s.UNLIMITED else block))
    return found


def _selected(space: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images of a data set that a selection takes pixels of, in order, and how many of each."""
    import h5py

    n_lead = max(len(shape) - 2, 0)
    if space.get_select_type() == h5py.h5s.SEL_HYPERSLABS and not space.is_regular_hyperslab():
        tally: dict[int, int] = {}
        for first, last in space.get_select_hyper_blocklist():
            block = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
            pixels = math.prod(len(axis) for axis in block[n_lead:])
            for cell in _flat(block[:n_lead], shape).tolist():
                tally[cell] = tally.get(cell, 0) + pixels
        return np.array(sorted(tally), np.int64), np.array([tally[cell] for cell in sorted(tally)], np.int64)
    axes = _axes(space, shape)
    indices = [
        (start + stride * np.arange(count)[:, None] + np.arange(block)).ravel()
        for start, stride, count, block in axes[:n_lead]
    ]
    cells = _flat(indices, shape)
    return cells, np.full(cells.size, math.prod(count * block for _, _, count, block in axes[n_lead:]), np.int64)


def _flat(indices: list[NDArray[np.int64]], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Flat numbers of the images at a grid of indices; on the first axis they may go beyond its length."""
    flat = np.zeros(1, np.int64)
    for index, length in zip(indices, shape, strict=False):
        flat = (flat[:, None] * length + index).ravel()
    return flat
