"""One unit of a conversion: the frames of one file of the store, copied, read back and compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.cluster import RunTasks
from braggflow.errors import InputError
from braggflow.files import written_whole
from braggflow.formats import Stack, read_frames
from braggflow.frames import open_unfinished_store, unfinished_path

#: (stack, frame in it, why it cannot be read)
Failure = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class CopyUnit:
    """One task: the frames that share a file of the store."""

    number: int
    start: int
    """First frame in the store."""
    pieces: tuple[tuple[Stack, int, int], ...]
    """(stack, first frame, frame after the last) in order."""
    out: str

    @property
    def frames(self) -> int:
        """How many frames the unit holds."""
        return sum(hi - lo for _, lo, hi in self.pieces)

    @property
    def record(self) -> Path:
        """Exists when the unit is written and checked."""
        return unfinished_path(Path(self.out)) / "progress" / f"{self.number:06d}.npy"


def copy_units(units: Sequence[CopyUnit], run_tasks: RunTasks[Any, Any], progress: Callable[[int, int], None]) -> None:
    """Copy the units that have no record; raise naming every frame that cannot be read."""
    todo = [unit for unit in units if not unit.record.exists()]
    total = sum(unit.frames for unit in units)
    done = total - sum(unit.frames for unit in todo)
    progress(done, total)
    failures: list[Failure] = []
    for n_frames, failed in run_tasks(copy_unit, todo):
        failures += failed
        done += n_frames
        progress(done, total)
    if failures:
        raise InputError(_failure_text(failures, total))


def copy_unit(unit: CopyUnit) -> tuple[int, list[Failure]]:
    """Read a unit's frames, write them, read them back and compare; return how many were written and what failed."""
    stack = unit.pieces[0][0]
    block = np.zeros((unit.frames, *stack.shape), stack.dtype)
    failures: list[Failure] = []
    at = 0
    for stack, lo, hi in unit.pieces:
        for first, stop in _written(stack, lo, hi):
            part = block[at + first - lo : at + stop - lo]
            try:
                part[:] = read_frames(stack, first, stop)
            except InputError:
                failures += _read_singly(stack, first, stop, part)
        at += hi - lo
    if failures:
        return 0, failures
    store = open_unfinished_store(Path(unit.out))
    store[unit.start : unit.start + unit.frames] = block
    written = np.ascontiguousarray(store[unit.start : unit.start + unit.frames])
    if not np.array_equal(written.view(np.uint8), block.view(np.uint8)):
        reason = "read back from the store, the frames differ from the source: faulty memory or disk"
        return 0, [(stack.name, index, reason) for stack, lo, hi in unit.pieces for index in range(lo, hi)]
    hashes = np.frombuffer(b"".join(sha256(frame.data).digest() for frame in block), np.uint8).reshape(-1, 32)
    with written_whole(unit.record) as path:
        np.save(path, hashes)
    return unit.frames, []


def _written(stack: Stack, lo: int, hi: int) -> list[tuple[int, int]]:
    """The ranges of frames [lo, hi) of a stack that were ever written."""
    ranges, start = [], lo
    for first, stop, _ in sorted(stack.missing):
        if start < min(first, hi):
            ranges.append((start, min(first, hi)))
        start = max(start, min(stop, hi))
    return [*ranges, (start, hi)] if start < hi else ranges


def _read_singly(stack: Stack, lo: int, hi: int, block: NDArray[Any]) -> list[Failure]:
    """Read frame by frame where reading several failed, to keep and to name no more than what is damaged."""
    failures = []
    for index in range(lo, hi):
        try:
            block[index - lo] = read_frames(stack, index, index + 1)[0]
        except InputError as error:
            failures.append((stack.name, index, str(error).removeprefix(f"{stack.name}: ")))
    return failures


def _failure_text(failures: Sequence[Failure], total: int) -> str:
    """One line for each file and reason, with the frames as ranges."""
    grouped: dict[tuple[str, str], list[int]] = {}
    for name, index, reason in sorted(failures):
        grouped.setdefault((name, reason), []).append(index)
    lines = [f"{name}, frame {_ranges(indices)}: {reason}" for (name, reason), indices in grouped.items()]
    return (
        f"{len(failures)} of {total} frames could not be copied (counted from 0 in each file); "
        "the same command tries only their units again, unless a file changes\n  " + "\n  ".join(lines)
    )


def _ranges(indices: Sequence[int]) -> str:
    starts = [k for k, index in enumerate(indices) if k == 0 or index != indices[k - 1] + 1]
    parts = [(indices[a], indices[b - 1]) for a, b in zip(starts, [*starts[1:], len(indices)], strict=True)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
