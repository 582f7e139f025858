"""The tracks of a run, as a page shows them: which a peak is on, the course of one, trails on a frame."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.geometry import add_q, strain
from braggflow.peak_rows import intensity_errors
from braggflow.results import Run, open_tracks
from braggflow.show import TRACK_COLOURS, Trails
from braggflow.view.windows import Extent

#: Frames that a trail goes back, and steps of trails that are sent, at most; of more the latest.
TRAIL, MOST_STEPS = 15, 20_000
#: A click is on a peak that lies no further off, pixels.
REACH = 6.0
#: Points of a course that are sent, at most.
_POINTS = 2_000

_COLUMNS = (
    *("y", "x", "y_std", "x_std", "y_smooth", "x_smooth", "intensity", "intensity_std", "snr"),
    *("fwhm_major", "fwhm_minor", "fwhm_major_std", "angle"),
)


class Course(NamedTuple):
    """One track: what it is, and the columns of its peaks, in the order of their frames."""

    title: str
    columns: dict[str, NDArray[Any]]
    """`frame` and, of each quantity, `NAME`, `NAME_std` and `NAME_smooth` as far as they are known, each (n,)."""


@dataclass(frozen=True)
class Followed:
    """The peaks and tracks of a run whose peaks were followed."""

    peaks: xr.Dataset
    tracks: xr.Dataset

    @property
    def has_strain(self) -> bool:
        """Whether tracks have a spacing that strain is against."""
        return "d_reference" in self.tracks

    @cached_property
    def _trails(self) -> Trails:
        return Trails(self.peaks)

    @cached_property
    def _order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows by their track, and where each track begins among them."""
        track = self.peaks["track_id"].values
        order = np.argsort(track, kind="stable")
        return order, np.searchsorted(track[order], np.arange(self.tracks.sizes["track"] + 1))

    def track_at(self, number: int, y: float, x: float) -> tuple[bool, int | None]:
        """Whether a peak of frame `number` lies within `REACH` of a place, and the track of the nearest; None: none."""
        here = self.peaks[["y", "x", "track_id"]].sel(peak_frame=number).load()
        if not here.sizes["peak"]:
            return False, None
        off = np.hypot(here["y"].values - y, here["x"].values - x)
        nearest = int(np.argmin(off))
        track = int(here["track_id"].values[nearest])
        return bool(off[nearest] <= REACH), track if track >= 0 and off[nearest] <= REACH else None

    def course(self, track: int) -> Course:
        """What a track's peaks are, frame by frame."""
        order, starts = self._order
        rows = np.sort(order[starts[track] : starts[track + 1]])
        rows = rows[:: -(-len(rows) // _POINTS)]
        own = self.peaks[list(_COLUMNS)].isel(peak=rows).load()
        found: dict[str, NDArray[Any]] = {"frame": own["peak_frame"].values.astype(np.int64)}
        found |= {name: own[name].values.astype(np.float64) for name in _COLUMNS}
        found["intensity_std"] = intensity_errors(own)
        if self.has_strain:
            there = strain(add_q(own.assign(track_id=("peak", np.full(len(rows), track)))), tracks=self.tracks)
            found |= {name: there[name].values for name in ("strain", "strain_std")}
        row = self.tracks.isel(track=track)
        said = f"track {track}: {int(row['length'])} peaks in frames {int(row['first'])} to {int(row['last'])}"
        for name, words in (("parent", "split off from"), ("merged_into", "went into")):
            said += f", {words} track {int(row[name])}" if int(row[name]) >= 0 else ""
        return Course(said, found)

    def trails(self, number: int, shown: Extent) -> dict[str, Any]:
        """The last steps of the tracks around frame `number` within a part of the detector, as columns of segments."""
        found = self._trails.before(number, TRAIL)
        (y0, x0), (y1, x1) = found.places[:, 0].T, found.places[:, 1].T
        within = (y1 >= shown.top) & (y1 <= shown.bottom) & (x1 >= shown.left) & (x1 <= shown.right)
        rows = np.flatnonzero(within)
        rows = rows[np.argsort(found.age[rows], kind="stable")[:MOST_STEPS]]
        return {
            **{name: at[rows] for name, at in (("y0", y0), ("x0", x0), ("y1", y1), ("x1", x1))},
            "colour": [TRACK_COLOURS[track % len(TRACK_COLOURS)] for track in found.track[rows].tolist()],
            "alpha": 0.9 * (1 - found.age[rows]),
        }


def no_trails() -> dict[str, Any]:
    """The columns of `trails`, without a row."""
    return {name: [] for name in ("y0", "x0", "y1", "x1", "colour", "alpha")}


def followed_of(run: Run | None) -> Followed | None:
    """The tracks of a run; None where there is no run, or its peaks were not followed."""
    if run is None:
        return None
    try:
        tracks = open_tracks(run.path).load()
    except InputError:
        return None
    return Followed(run.peaks, tracks) if "track_id" in run.peaks else None
