"""Tracks smoothed, and whether stated uncertainties are those that they show."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from braggflow.tracks.motion_found import Motion
from braggflow.tracks.motion_model import likeliest_wander, smooth_tracks
from braggflow.tracks.segment_ends import ROW_TIME

#: Rows that are smoothed at once: a few hundred MB. A longer track is smoothed as a whole.
_AT_ONCE = 500_000
#: Width of the distribution of the logarithm of how strong the velocities of tracks wander.
SPREAD = 3.0
#: Differences of this order leave nothing of a smooth motion.
_WEIGHTS = np.array([1.0, -4.0, 6.0, -4.0, 1.0])
#: Fewer positions say nothing of scales; positions further off than so many sigma are another matter (blends).
_LEAST, _OFF = 200, 4.0
#: How far stated variances are believed to be wrong, at most, as a factor.
_MOST = 9.0


def groups(starts: NDArray[np.int64]) -> Iterator[slice]:
    """Tracks that are smoothed at once."""
    first = 0
    while first < len(starts) - 1:
        stop = max(first + 1, int(np.searchsorted(starts, starts[first] + _AT_ONCE, "right")) - 1)
        yield slice(first, stop)
        first = stop


def smoothed_groups(
    rows: NDArray[np.float64], starts: NDArray[np.int64], order: NDArray[np.int64], motion: Motion
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]]:
    """Groups of tracks: which, their bounds in the group, their rows, states (k, 4) and covariances (k, 4, 4)."""
    for group in groups(starts):
        bounds = starts[group.start : group.stop + 1] - starts[group.start]
        at = order[starts[group.start] : starts[group.stop]]
        own = rows[at]
        time, places = own[:, ROW_TIME].copy(), own[:, :5].copy()
        wander = likeliest_wander(bounds, time, places, motion.wander, motion.speed**2, SPREAD)
        yield group, bounds, at, *smooth_tracks(bounds, time, places, wander, motion.speed**2)


@dataclass(slots=True)
class Scales:
    """Sums over tracks, from which factors come that stated variances ought to be multiplied by."""

    step: float
    """Time from a frame to the next."""
    _sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))

    def add(
        self,
        bounds: NDArray[np.int64],
        time: NDArray[np.float64],
        places: NDArray[np.float64],
        smoothed: NDArray[np.float64],
        variance: NDArray[np.float64],
    ) -> None:
        """Take up some tracks, of which `bounds` (n_tracks + 1,) are the rows.

        `time` (n,); `places` (n, 5) positions y, x, and their variances yy, yx, xx; `smoothed` and `variance` (n, 2)
        what the smoother makes of them.
        """
        track = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        together = (track[4:] == track[:-4]) & np.isclose(time[4:] - time[:-4], 4 * self.step)
        for axis, of in ((0, 2), (1, 4)):
            own = places[:, of]
            left = (places[:, axis] - smoothed[:, axis]) ** 2 / own
            fine = left < _OFF**2
            parts = [slice(k, len(time) - 4 + k) for k in range(5)] if len(time) > 4 else []
            if parts:
                good = together & np.logical_and.reduce([fine[part] for part in parts])
                difference = sum(w * places[part, axis] for w, part in zip(_WEIGHTS, parts, strict=True))
                expected = sum(w * w * own[part] for w, part in zip(_WEIGHTS, parts, strict=True))
                squares = np.minimum((difference**2 / expected)[good], _OFF**2)
                self._sums[:2] += squares.sum(), len(squares)
            weight = variance[:, axis] / own
            fine &= weight < 0.5
            self._sums[2:] += left[fine].sum(), weight[fine].sum(), np.count_nonzero(fine)

    @property
    def of_positions(self) -> float:
        """For the variances of positions, from the fourth differences of five in neighbouring frames; 1: too few."""
        squares, count = self._sums[:2]
        return float(np.clip(squares / count, 1 / _MOST, _MOST)) if count >= _LEAST else 1.0

    @property
    def of_smoothed(self) -> float:
        """For the variances of smoothed positions; 1: too few.

        A smoother states what its errors would be if velocities wandered as it takes them to. How large they are is
        found without that, as the risk of any linear smoother is (Stein, Annals of Statistics 9, 1981): squared
        residuals, less the variance of the positions, plus twice that times the weight that each has in its own
        smoothed position, which is the ratio of both stated variances.
        """
        left, weight, count = self._sums[2:5]
        if count < _LEAST or not weight > 0:
            return 1.0
        own = self.of_positions
        return float(np.clip((left - own * count + 2 * own * weight) / weight, 1 / _MOST, _MOST))
