"""What a sweep measures of each setting, frame by frame: counts, persistence, distances, repeatability."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from braggflow.config import RunConfig
from braggflow.peak_table import Table
from braggflow.pipeline import FrameByEach
from braggflow.show import halves_of_patches, single_profiles

#: Distributions are kept as counts of bins, each so much wider than the one below, from the first of these values to
#: the last: quantiles are known to 1 %, however many values there were.
_WIDER, _LOWEST, _HIGHEST = 1.01, 1e-5, 1e4
_BINS = int(np.ceil(np.log(_HIGHEST / _LOWEST) / np.log(_WIDER)))
#: Share of a normal distribution within one standard deviation.
_ONE_SIGMA = 0.6827
#: Of fewer deviations no repeatability is stated.
_LEAST = 40


class Distributions:
    """Distributions of values above 0 of several settings, in memory that does not grow with the number of values."""

    def __init__(self, n: int) -> None:
        self._counts = np.zeros((n, _BINS), np.int64)

    def add(self, at: int, values: NDArray[np.floating]) -> None:
        """Add values of the setting `at`; NaN is left out."""
        known = values[np.isfinite(values)].astype(np.float64)
        bins = np.log(np.clip(known, _LOWEST, _HIGHEST) / _LOWEST) / np.log(_WIDER)
        self._counts[at] += np.bincount(np.minimum(bins.astype(np.int64), _BINS - 1), minlength=_BINS)

    def quantile(self, share: float, *, least: int = 1) -> NDArray[np.float64]:
        """A quantile of each setting, shape (n,), to 1 %; NaN where there are fewer values than `least`."""
        total = self._counts.sum(axis=1)
        reached = np.cumsum(self._counts, axis=1) >= np.maximum(share * total, 1)[:, None]
        middle = _LOWEST * _WIDER ** (np.argmax(reached, axis=1) + 0.5)
        return np.where(total >= least, middle, np.nan)


@dataclass
class _Seen:
    """What is kept of a frame until the next one was looked at."""

    position: int
    places: list[NDArray[np.float64]]
    """(y, x) of the peaks by each setting, shape (n, 2); of equal ones the same array."""
    failed: NDArray[np.bool_]


@dataclass
class Measured:
    """The measures of `n` settings in `frames` frames; each is filled as the frames are looked at, in their order."""

    n: int
    frames: int
    radius: float
    """Pixels within which a peak of the next frame is the same."""
    counts: NDArray[np.int32] = field(init=False)
    """(n, frames) peaks."""
    failed: NDArray[np.bool_] = field(init=False)
    """(n, frames)."""
    persisting: NDArray[np.float32] = field(init=False)
    """(n, frames) share of the peaks that are there in the next frame, NaN where that is not known."""
    distance: NDArray[np.float32] = field(init=False)
    """(n, frames) median distance of network and fit, pixels; NaN where there is none."""
    persisted: NDArray[np.float64] = field(init=False)
    """(n, 3) sums over all frames that have a next one: peaks, those that persist, those that would by chance."""
    distances: Distributions = field(init=False)
    deviations: Distributions = field(init=False)
    """Of the positions of two halves of a peak's pixels, in their stated uncertainty."""
    pixels: list[int] = field(init=False)
    """Pixels of each frame, as searched, that are not ignored."""

    def __post_init__(self) -> None:
        shape = self.n, self.frames
        self.counts, self.failed = np.zeros(shape, np.int32), np.zeros(shape, bool)
        self.persisting, self.distance = (np.full(shape, np.nan, np.float32) for _ in range(2))
        self.persisted = np.zeros((self.n, 3))
        self.distances, self.deviations = Distributions(self.n), Distributions(self.n)
        self.pixels = []
        self._before: _Seen | None = None

    @property
    def repeatability(self) -> NDArray[np.float64]:
        """(n,) scatter of the positions of two halves of the pixels, over what is stated; NaN of too few."""
        return self.deviations.quantile(_ONE_SIGMA, least=_LEAST)

    def add(self, position: int, frame: FrameByEach, config: RunConfig) -> None:
        """Add the next frame, which is the one at this position of the series."""
        at = len(self.pixels)
        self.pixels.append(frame.pixels)
        self.failed[:, at] = [bool(failure) for failure in frame.failures]
        self.counts[:, at] = [len(table) for table in frame.tables]
        apart = np.abs(halves_of_patches(frame.patches, config))
        for setting, (table, rows) in enumerate(zip(frame.tables, frame.rows, strict=True)):
            known = table["disagreement"][np.isfinite(table["disagreement"])]
            if len(known):
                self.distance[setting, at] = np.median(known)
                self.distances.add(setting, known)
            maxima = table[table["parent"] < 0]
            self.deviations.add(setting, apart[rows[single_profiles(maxima)]].ravel())
        seen = _Seen(position, _places(frame.tables), self.failed[:, at])
        if self._before is not None and self._before.position == position - 1:
            area = max(1, frame.pixels) * config.frames.bin**2
            self._compare(at - 1, self._before, seen, area)
        self._before = seen

    def _compare(self, at: int, frame: _Seen, following: _Seen, area: int) -> None:
        """How many peaks of a frame, the one `at`, persist into the following one."""
        found: dict[tuple[int, int], int] = {}
        for setting, (before, after) in enumerate(zip(frame.places, following.places, strict=True)):
            if frame.failed[setting] or following.failed[setting]:
                continue
            pair = id(before), id(after)
            if pair not in found:
                found[pair] = persisting(before, after, self.radius)
            by_chance = -np.expm1(-len(after) * np.pi * self.radius**2 / area)
            self.persisted[setting] += len(before), found[pair], len(before) * by_chance
            if len(before):
                self.persisting[setting, at] = found[pair] / len(before)


def _places(tables: list[Table]) -> list[NDArray[np.float64]]:
    """(y, x) of the peaks of each table, shape (n, 2); equal ones are the same array."""
    known: dict[bytes, NDArray[np.float64]] = {}
    found = []
    for table in tables:
        places = np.column_stack([table["y"], table["x"]])
        found.append(known.setdefault(places.tobytes(), places))
    return found


def persisting(before: NDArray[np.float64], after: NDArray[np.float64], radius: float) -> int:
    """Peaks (n, 2) of which one of the next frame (m, 2) is the nearest, and has them as its own nearest."""
    from scipy.spatial import KDTree

    if not len(before) or not len(after):
        return 0
    distance, there = KDTree(after).query(before)
    back = np.asarray(KDTree(before).query(after)[1])
    return int(np.count_nonzero((distance <= radius) & (back[there] == np.arange(len(before)))))
