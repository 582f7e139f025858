"""Pixels that a series' own frames show to be no good: hot, noisy and dead ones, rows and columns without counts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.config import RunConfig
from braggflow.errors import InputError
from braggflow.frames import (
    UNREADABLE,
    OpenedSeries,
    find_bad_pixels,
    frames_from_array,
    frames_looked_at,
    open_series,
)

#: Pixels of a typical row or column that must change from frame to frame, for one in which none does to be a gap.
_LEAST_CHANGING = 20
#: Share of the rows or columns beyond which it is no gap that never changes.
_MOST = 0.5

_WORDS = {
    "hot": "stand far above all of their neighbours in nearly every frame",
    "noisy": "jump from frame to frame far more than their surroundings",
    "dead": "never change, where those around them do",
}


@dataclass(frozen=True, eq=False)
class Proposal:
    """Pixels that could be ignored, and why.

    Attributes
    ----------
    kind : {"hot", "noisy", "dead", "gaps"}
        What they are.
    words : str
        A sentence: how many, and what shows it; or why nothing can be said.
    array : numpy.ndarray of bool
        (y, x), True = these; none that the series' mask has already.
    """

    kind: str
    words: str
    array: NDArray[np.bool_]

    def __repr__(self) -> str:
        return f"<braggflow proposal of {self.kind}: {self.words}>"


def propose(opened: OpenedSeries | xr.Dataset | xr.DataArray) -> list[Proposal]:
    """Pixels of a series that could be ignored, for someone to look at: nothing is masked.

    Parameters
    ----------
    opened : OpenedSeries, xarray.Dataset or xarray.DataArray
        The series, its detector's constants settled; or frames as `open_frames` returns them, or in memory.

    Returns
    -------
    list of Proposal
        Hot, noisy and dead pixels, by the rules of `frames.find_bad_pixels` (up to 64 frames are looked at), and rows
        and columns in which no pixel changes in up to 16 frames. Kinds that cannot be told have an empty array, and
        say why.

    Raises
    ------
    InputError
        Where what is given holds no frames.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> from braggflow.masks import propose
    >>> counts = np.random.default_rng(0).poisson(20, (16, 64, 64))
    >>> counts[:, 10, 12] += 300
    >>> counts[:, 30:33] = 0
    >>> for proposal in propose(xr.DataArray(counts, dims=("frame", "y", "x"))):
    ...     print(proposal.kind, int(proposal.array.sum()))
    hot 1
    noisy 0
    dead 0
    gaps 192
    """
    series = opened if isinstance(opened, OpenedSeries) else open_series(frames_from_array(opened), RunConfig())
    gaps = _gaps(series)
    # What lies in a gap never changes: it is no dead pixel of its own.
    masked = replace(series, correction=replace(series.correction, mask=series.correction.mask | gaps.array))
    return [*_bad_pixels(masked), gaps]


def _bad_pixels(series: OpenedSeries) -> Iterator[Proposal]:
    shape = series.correction.mask.shape
    try:
        found = find_bad_pixels(series)
    except InputError as error:
        for kind in _WORDS:
            yield Proposal(kind, f"{kind} pixels cannot be told: {error}", np.zeros(shape, bool))
        return
    for kind, words in _WORDS.items():
        pixels = np.zeros(shape, bool)
        pixels[tuple(np.array(found[kind], int).reshape(-1, 2).T)] = True
        n = len(found[kind])
        yield Proposal(
            kind, f"{n:,} {kind} pixel{'s' * (n != 1)}: they {words} ({found['frames']} frames looked at).", pixels
        )


def _gaps(series: OpenedSeries) -> Proposal:
    """Rows and columns of which no pixel changes, though a typical one's do."""
    valid = ~series.correction.mask
    gaps = np.zeros(valid.shape, bool)
    changes, frames = _changing(series)
    if frames < 2:
        return Proposal("gaps", f"gaps cannot be told: needs 2 frames, {frames} can be read.", gaps)
    told = []
    for axis, name in ((1, "row"), (0, "column")):
        changing, known = (changes & valid).sum(axis=axis), valid.any(axis=axis)
        typical = float(np.median(changing[known])) if known.any() else 0.0
        still = known & (changing == 0)
        if typical < _LEAST_CHANGING:
            told.append(f"{name}s cannot be told: too few pixels of one change from frame to frame")
            continue
        if still.sum() > _MOST * known.sum():
            continue
        gaps |= still[:, None] if axis == 1 else still[None]
        told.append(f"{(n := int(still.sum())):,} {name}{'s' * (n != 1)}")
    return Proposal("gaps", f"{', '.join(told)} in which nothing changes ({frames} frames looked at).", gaps & valid)


def _changing(series: OpenedSeries) -> tuple[NDArray[np.bool_], int]:
    """Pixels (y, x) that are not the same in all frames looked at, and how many these are."""
    first, frames = None, 0
    changes = np.zeros(series.correction.mask.shape, bool)
    for position in frames_looked_at(len(series.numbers)).tolist():
        try:
            frame = series.raw(position)
        except UNREADABLE:
            continue  # whoever processes the frame records it
        frames += 1
        if first is None:
            first = frame.copy()
        changes |= frame != first
    return changes, frames
