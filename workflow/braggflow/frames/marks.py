"""What pixels say of themselves: marks that stand in place of counts, and a level at which counts pile up.

A series is judged by a few frames, the same ones however it is kept (`frames_looked_at`), so that a store, a file and
an array of the same frames are treated alike. The rules are tabled in docs/ingest.md.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Frames, spread over the series, by which it is judged.
MAX_LOOKED_AT = 16
#: Marks are few: detectors have one value for gaps, one for dead pixels, and perhaps one more.
_MAX_MARKS = 3
#: Share of pixels below 0 in some of the frames looked at up to which they can be marks wherever they stand.
_STRAY_SHARE = 0.01
#: Pixels that chance may be expected to make look like marks.
_BY_CHANCE = 0.5
#: A pixel at a type's largest value is saturated and no mark where what surrounds it rises above the background by
#: this share of the way up: the flank of a peak does, the surroundings of a gap or dead pixel do not.
_FLANK = 1 / 8
#: No detector saturates below this, and few counts pile up anywhere.
_MIN_SATURATION = 127


def frames_looked_at(n_frames: int) -> NDArray[np.int64]:
    """Positions (n,) of the frames by which a series of `n_frames` is judged, in order."""
    return np.unique(np.linspace(0, n_frames - 1, min(MAX_LOOKED_AT, n_frames)).round().astype(np.int64))


@dataclass(frozen=True, slots=True)
class Marks:
    """What the frames that were looked at say; images are (y, x), True = so."""

    frames: int
    """How many were looked at."""
    negative: str
    """`mark`, `count`, or `none` where no pixel is below 0."""
    negative_share: float
    """Share of the pixels outside the known mask that are below 0, in the mean over the frames."""
    negative_marks: NDArray[np.bool_]
    """Pixels that are below 0 in every frame, and are taken for marks."""
    top_marks: NDArray[np.bool_]
    """Pixels at the type's largest value in every frame, and not on top of a peak."""
    pile_up: float | None
    """Counts at which pixels saturate as it seems, None where nothing says so."""
    pile_up_pixels: int = 0


@dataclass(slots=True, eq=False)
class Look:
    """What was seen of a series, frame by frame, outside a mask (y, x) that is known."""

    known: NDArray[np.bool_]
    frames: int = 0
    lowest: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0)))
    highest: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0)))
    negative_share: float = 0.0
    example: NDArray[Any] | None = None
    """The frame with the most pixels below 0."""
    most: float = 0.0
    """Their share in it."""

    def add(self, frame: NDArray[Any]) -> None:
        """Look at a frame, shape (y, x); NaN says nothing."""
        if self.frames == 0:
            self.lowest, self.highest = frame.copy(), frame.copy()
        else:
            np.fmin(self.lowest, frame, out=self.lowest)
            np.fmax(self.highest, frame, out=self.highest)
        self.frames += 1
        if frame.dtype.kind != "u":
            negative = (frame < 0) & ~self.known
            share = _count(negative) / max(1, _count(~self.known))
            self.negative_share += (share - self.negative_share) / self.frames
            if share > self.most:
                self.example, self.most = frame.copy(), share

    def marks(self) -> Marks:
        """What follows from what was seen."""
        nowhere = np.zeros(self.known.shape, bool)
        if self.frames == 0:
            return Marks(0, "none", 0.0, nowhere, nowhere, None)
        kind, negative = self._negative()
        top = self._top(self.known | negative)
        pile_up, pixels = _pile_up(np.where(self.known | negative | top, 0, self.highest))
        return Marks(self.frames, kind, self.negative_share, negative, top, pile_up, pixels)

    def _negative(self) -> tuple[str, NDArray[np.bool_]]:
        """How pixels below 0 are to be taken, and those of them that are marks in every frame."""
        nowhere = np.zeros(self.known.shape, bool)
        if self.example is None:
            return "none", nowhere
        valid = ~self.known
        if self.lowest.dtype.kind == "i":  # the type's lowest value is a mark whatever the others are
            valid &= self.lowest != np.iinfo(self.lowest.dtype).min
        valid &= np.isfinite(self.lowest)
        always = (self.highest < 0) & ~self.known
        constant = valid & always & (self.lowest == self.highest)
        same = bool((self.lowest == self.highest)[valid].all())  # one frame, or copies of it: nothing can vary
        settled = nowhere if same else constant
        loose = valid & (self.lowest < 0) & ~settled
        few = len(np.unique(np.concatenate([self.lowest[loose], self.highest[loose & (self.highest < 0)]])))
        stray = _count(loose) <= _STRAY_SHARE * _count(valid)
        if not loose.any() or (few <= _MAX_MARKS and (stray or _in_blocks((self.example < 0) & loose))):
            return "mark", always
        # Noise around 0. A pixel that never changes is a mark all the same where chance would hardly make one.
        values = self.example[(self.example < 0) & loose]
        shares = np.unique(values, return_counts=True)[1] / max(1, _count(valid & ~settled))
        by_chance = float((shares**self.frames).sum()) * _count(valid)
        return "count", (always & ~valid) | (settled if by_chance < _BY_CHANCE else nowhere)

    def _top(self, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Pixels at or next to the largest value of the type, or of a narrower one, in every frame."""
        dtype = self.highest.dtype
        limit = np.iinfo(dtype).max if dtype.kind in "iu" else 2**32
        largest = np.max(self.highest, where=~known & np.isfinite(self.highest), initial=0)
        narrower = {top for top in (2**32 - 1, 2**16 - 1) if top < limit and largest == dtype.type(top)}
        tops = narrower | ({limit} if dtype.kind in "iu" else set())
        found = np.zeros(known.shape, bool)
        for top in tops:
            # Next to it too: DECTRIS detectors have one value for gaps, one below it for dead pixels.
            level = top - 1 if top >= 2**15 - 1 else top
            candidates = (self.lowest >= dtype.type(level)) & ~known
            if candidates.any():
                found |= _without_peaks(candidates, self.lowest, known, float(top))
        return found


def _count(pixels: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(pixels))


def _in_blocks(pixels: NDArray[np.bool_]) -> bool:
    """Whether pixels lie side by side, as gaps do, and not each by itself as noise does."""
    share = pixels.mean()
    beside = (
        _count(pixels[:, :-1] & pixels[:, 1:]) / max(1, _count(pixels[:, :-1])),
        _count(pixels[:-1] & pixels[1:]) / max(1, _count(pixels[:-1])),
    )
    return bool(max(beside) > (1 + share) / 2)


def _without_peaks(
    candidates: NDArray[np.bool_], image: NDArray[Any], known: NDArray[np.bool_], top: float
) -> NDArray[np.bool_]:
    """Those of the `candidates`, islands of pixels at `top`, that do not crown a peak."""
    from scipy import ndimage

    labels, n_islands = ndimage.label(candidates, np.ones((3, 3)))
    around = ndimage.maximum_filter(labels, 3)
    around[candidates | known] = 0
    level = float(np.median(image[~candidates & ~known])) if not (candidates | known).all() else 0.0
    index = np.arange(1, n_islands + 1)
    beside = np.bincount(around.ravel(), minlength=n_islands + 1)[1:] > 0
    flank = np.full(n_islands, level)
    flank[beside] = ndimage.median(image, around, index[beside])
    crowns = flank - level >= (top - level) * _FLANK
    crowned: NDArray[np.bool_] = np.concatenate([[False], crowns])[labels]
    return candidates & ~crowned


def _pile_up(highest: NDArray[Any]) -> tuple[float | None, int]:
    """The level at which the highest counts of pixels (y, x) pile up, and how many do; None where they do not.

    Counts that are not cut off thin out towards their largest. Cut off, many pixels share the largest, side by side on
    the tops of peaks: more than the counts below it let expect, or some at a power of 2 less 1, a converter's limit.
    """
    top = float(np.max(highest, where=np.isfinite(highest), initial=0))
    if top < _MIN_SATURATION:
        return None, 0
    at_top = highest == top
    n_top = _count(at_top)
    if not ((at_top[:, :-1] & at_top[:, 1:]).any() or (at_top[:-1] & at_top[1:]).any()):
        return None, 0
    expected = _count((highest >= top / 2) & ~at_top) / (top / 2)
    limit = (top + 1) == 2 ** round(np.log2(top + 1))
    return (top, n_top) if n_top >= (2 if limit else 5) and n_top > 4 * expected else (None, 0)
