"""What a peak table can be asked in one line: the xarray accessor `bragg`. It is there once this module is imported."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from braggflow.errors import InputError
from braggflow.peak_rows import Comparison, frame_positions, matched, near, rows_of, to_dataframe

if TYPE_CHECKING:
    import pandas as pd

#: Maxima that noise makes in a megapixel: what `detect.false_peaks` is a share of (docs/detection.md).
MAXIMA_PER_MEGAPIXEL = 1e5


@xr.register_dataset_accessor("bragg")  # type: ignore[no-untyped-call]
class BraggAccessor:
    """What a peak table can be asked: `peaks.bragg`, of what `open_peaks` and `find_peaks` return and of parts of it.

    Rows that are returned are Datasets on the dimension `peak` alone, each peak with its frame's coordinates (omega,
    time, ...), so that xarray's own plots and tables have them.

    Examples
    --------
    >>> import braggflow
    >>> peaks = braggflow.open_peaks("runs/scan")
    >>> peaks.bragg.frame(2)["voltage"].dims
    ('peak',)

    One reflection through the series, here within 3 pixels of the first peak:

    >>> y, x = float(peaks["y"][0]), float(peaks["x"][0])
    >>> reflection = peaks.bragg.near(y, x, radius=3)
    >>> reflection.bragg.to_dataframe(["y", "x", "intensity"]).columns.to_list()
    ['peak_frame', 'capacity', 'time', 'voltage', 'y', 'x', 'intensity']

    Two settings, and what stricter ones would leave:

    >>> peaks.bragg.compare(peaks.isel(peak=slice(1, None)))
    <4 frames compared: ... peaks in both, 0 px apart (median); 1 only in the first, 0 only in the second; radius 1 px>
    >>> sorted(peaks.bragg.levels_for(1))
    ['false_peaks', 'minscore', 'minval']
    >>> int(peaks.bragg.count(minscore=peaks.bragg.levels_for(1)["minscore"]).sum())
    4
    """

    def __init__(self, peaks: xr.Dataset) -> None:
        self._peaks = peaks

    def to_dataframe(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """One row a peak with its frame's number and coordinates: `braggflow.to_dataframe`."""
        return to_dataframe(self._peaks, columns)

    def rows(self) -> xr.Dataset:
        """All peaks, on the dimension `peak` alone."""
        return rows_of(self._peaks)

    def frame(self, number: int) -> xr.Dataset:
        """The peaks of one frame, which may be none; raises `InputError` where the table knows no such frame."""
        numbers = self._peaks["frame" if "frame" in self._peaks.dims else "peak_frame"].values
        if number not in numbers:
            known = (
                f"{numbers.min()} to {numbers.max()}, {np.unique(numbers).size:,} in all" if len(numbers) else "none"
            )
            raise InputError(f"frame: {number!r} is not in the table; its frames: {known}")
        return rows_of(self._peaks.isel(peak=np.flatnonzero(self._peaks["peak_frame"].values == number)))

    def near(self, y: float, x: float, radius: float = 5.0) -> xr.Dataset:
        """The peaks of all frames within `radius` pixels of (y, x): one reflection through the series."""
        return near(self._peaks, y, x, radius)

    def compare(self, other: xr.Dataset, radius: float = 1.0) -> Comparison:
        """This table and another of the same frames: peaks that both have, and those that only one has.

        A peak is in both where the nearest in the other table, in the same frame and no more than `radius` pixels away,
        has it as its own nearest. Frames that only one table has are left out.
        """
        return matched(self._peaks, other, radius)

    def count(
        self, *, false_peaks: float | None = None, minval: float | None = None, minscore: float | None = None
    ) -> xr.DataArray:
        """Peaks of each frame that a search by stricter levels would have found; nothing is searched.

        Levels as those of the configuration, `minval` and `minscore` in counts. Looser ones than the table was made
        with give what it holds. Counted are maxima: rows with a `parent` have none of their own. Filters by area, edge
        and neighbour stay as they were. Raises `InputError` where the table is of a version without `significance`.
        """
        birth, death = self._maxima("birth"), self._maxima("death")
        there = np.ones(len(birth), bool)
        if minval is not None:
            there &= birth >= minval
            death = np.where(death < minval, 0, death)
        if minscore is not None:
            there &= birth - death > minscore
        if false_peaks is not None:
            least = -special.ndtri(min(_positive("false_peaks", false_peaks) / MAXIMA_PER_MEGAPIXEL, 0.5))
            there &= self._significance() >= least
        at = frame_positions(self._peaks, self._maxima("peak_frame")[there].astype(np.int64))
        counts = np.bincount(at, minlength=self._peaks.sizes["frame"])
        coords = {name: values for name, values in self._peaks.coords.items() if values.dims == ("frame",)}
        return xr.DataArray(counts, coords, ["frame"], "peak_count", {"long_name": "peaks in the frame"})

    def levels_for(self, peaks_per_frame: float) -> dict[str, float]:
        """Levels of which each, alone, leaves so many peaks a frame, on average: `false_peaks`, `minval`, `minscore`.

        The last two in counts; frames that failed are not counted. Raises `InputError` where the table has fewer: make
        one by looser levels first, e.g. `detect.false_peaks: 100` (docs/detection.md).
        """
        per_frame = _positive("peaks_per_frame", peaks_per_frame)
        scores = self._maxima("birth") - self._maxima("death")
        frames = int((self._peaks["frame_failed"] == 0).sum()) if "frame_failed" in self._peaks else 0
        wanted = round(per_frame * frames)
        if not 0 < wanted <= len(scores):
            raise InputError(
                f"peaks_per_frame: {peaks_per_frame:g} is not accepted; {len(scores)} maxima in {frames} frames give "
                f"{len(scores) / max(1, frames):.3g} at most: search by looser levels, e.g. detect.false_peaks: 100"
            )
        significance = _between(self._significance(), wanted)
        return {
            "false_peaks": float(special.ndtr(-significance) * MAXIMA_PER_MEGAPIXEL),
            "minval": _between(self._maxima("birth"), wanted),
            "minscore": _between(scores, wanted, least=0.0),
        }

    def _maxima(self, name: str) -> NDArray[Any]:
        """A column of the rows that are maxima of their own."""
        values: NDArray[Any] = self._peaks[name].values[self._peaks["parent"].values < 0]
        return values

    def _significance(self) -> NDArray[np.float64]:
        found = self._maxima("significance").astype(np.float64)
        if np.isnan(found).any():
            raise InputError("false_peaks: the table has no significance (made by an older version); run it again")
        return found


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise InputError(f"{name}: {value} is not accepted; must be above 0")
    return value


def _between(values: NDArray[np.float64], n: int, *, least: float | None = None) -> float:
    """A level that the `n` highest values are above and no other is, ties aside; `least` where all are to be."""
    ordered = np.sort(values)[::-1]
    below = ordered[n] if n < len(ordered) else ordered[-1] if least is None else least
    return float((ordered[n - 1] + below) / 2)
