"""Where the peaks of a frame came from: the last steps of their tracks, as lines."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray


class Segments(NamedTuple):
    """Steps of tracks, from one frame to a later one."""

    places: NDArray[np.float64]
    """(n, 2, 2): from and to, each (y, x), smoothed positions."""
    track: NDArray[np.int64]
    """(n,)."""
    age: NDArray[np.float64]
    """(n,) from 0, a step into the shown frame, towards 1."""


class Trails:
    """The tracks of a peak table, by frame; of a table that was not followed, none.

    Parameters
    ----------
    table : xarray.Dataset
        What `open_peaks` returns: its rows lie in the order of their frames.
    """

    def __init__(self, table: xr.Dataset) -> None:
        self.followed = "track_id" in table
        n = table.sizes["peak"] if self.followed else 0
        self._numbers = table["frame"].values
        self._at = np.searchsorted(self._numbers, table["peak_frame"].values[:n])
        self._track = table["track_id"].values.astype(np.int64) if self.followed else np.zeros(0, np.int64)
        names = ("y_smooth", "x_smooth") if self.followed else ("y", "x")
        self._places = np.stack([table[name].values[:n].astype(np.float64) for name in names], axis=1)

    def before(self, number: int, frames: int) -> Segments:
        """The steps of tracks that end in frame `number` or in one of the `frames` - 1 frames before it."""
        at = int(np.searchsorted(self._numbers, number))
        rows = slice(*np.searchsorted(self._at, (at - frames, at + 1)).tolist())
        track, frame = self._track[rows], self._at[rows]
        order = np.lexsort((frame, track))
        order = order[np.searchsorted(track[order], 0) :]
        same = np.flatnonzero(track[order][1:] == track[order][:-1])
        start, end = order[same], order[same + 1]
        places = self._places[rows]
        return Segments(np.stack([places[start], places[end]], axis=1), track[end], (at - frame[end]) / max(1, frames))
