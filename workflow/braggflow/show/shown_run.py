"""A run as its pictures need it: table, axis, a sample of its peaks, and its frames, each read once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import xarray as xr

from braggflow.errors import InputError
from braggflow.frames import OpenedSeries
from braggflow.results import Run, RunFolder, SearchedFrame, open_peaks, open_run_frames, read_run_frame
from braggflow.show.frame_pictures import processed_frame
from braggflow.show.projection import Projection, project
from braggflow.show.series_axis import SeriesAxis, axis_of_series

#: Distributions and examples are taken from at most this many peaks, spread evenly over the table.
SAMPLE_PEAKS = 1_000_000
#: A table of up to so many peaks is read at once: each column that is read by itself costs milliseconds.
READ_AT_ONCE = 300_000
_SAMPLED = ("peak_frame", "y", "x", "disagreement", "fwhm_major", "fwhm_minor", "snr", "flags")


@dataclass(slots=True)
class ShownRun:
    """What is drawn of a run."""

    folder: RunFolder
    table: xr.Dataset
    sample: xr.Dataset
    """Every `step`-th peak of the table, its main columns."""
    step: int
    axis: SeriesAxis
    _series: OpenedSeries | None = None
    _projection: Projection | None = None
    _seen: dict[int, SearchedFrame] = field(default_factory=dict)

    @property
    def series(self) -> OpenedSeries:
        """The frames' series; raises `InputError` where it cannot be opened."""
        if self._series is None:
            self._series = open_run_frames(self.folder)
        return self._series

    @property
    def projection(self) -> Projection:
        """Maximum and sum over frames; raises `InputError` where none can be read."""
        if self._projection is None:
            self._projection = project(self.series, self.table)
        return self._projection

    def frame(self, number: int) -> SearchedFrame:
        """A frame as the run saw it; raises `InputError` where it cannot be read."""
        if number not in self._seen:
            self._seen[number] = read_run_frame(self.series, number)
        return self._seen[number]

    def peaks(self, number: int) -> xr.Dataset:
        """The peaks of a frame, which may be none."""
        return self.table.sel(peak_frame=number).load()

    def peak(self, at: int) -> xr.Dataset:
        """The peak of the sample at a position, with all its columns."""
        return self.table.isel(peak=at * self.step).load()

    def chosen(self, number: int | None) -> int:
        """A frame that the run has processed: `number`, or the one with the median number of peaks.

        Raises `InputError` where there is none.
        """
        if number is not None:
            return processed_frame(self.table, number)
        examples = self.examples()
        if not examples:
            raise InputError("frame: no frame of the run could be processed, so there is none to draw")
        return examples[0]

    def examples(self) -> list[int]:
        """The frame with the median number of peaks (of those that have some), and the one with the most if another."""
        good = self.table["frame_failed"].values == 0
        numbers, counts = self.table["frame"].values[good], self.table["peak_count"].values[good]
        if not len(numbers):
            return []
        filled = np.flatnonzero(counts)
        if not len(filled):
            return [int(numbers[len(numbers) // 2])]
        ranked = filled[np.argsort(counts[filled], kind="stable")]
        middle, most = ranked[len(ranked) // 2], int(np.argmax(counts))
        return [int(numbers[middle])] if counts[middle] == counts[most] else [int(numbers[middle]), int(numbers[most])]

    def of_sample(self) -> str:
        """What a caption says of the peaks that were left out."""
        n = self.sample.sizes["peak"]
        return "" if n == self.table.sizes["peak"] else f" From {n:,} peaks spread evenly over the table."


#: What pictures are drawn of: a run, its folder, or one whose pictures are drawn already.
Shown: TypeAlias = ShownRun | Run | str | Path


def shown_run(run: Shown, axis: str | None = None, peaks: xr.Dataset | None = None) -> ShownRun:
    """What is drawn of a run, against its usual axis or the one that is named.

    `peaks` is its table with more coordinates. Raises `InputError` where there is no peak table, that is another one,
    and for an axis that the frames do not have.
    """
    if isinstance(run, ShownRun):
        return run
    folder = RunFolder(run.path if isinstance(run, Run) else Path(run))
    table = open_peaks(folder.path)
    if peaks is not None:
        if peaks.sizes.get("peak") != table.sizes["peak"] or not np.array_equal(peaks["frame"], table["frame"]):
            raise InputError(f"peaks: are not the table of {folder.path}; must be that, with more coordinates")
        table = table.assign_coords({n: c for n, c in peaks.coords.items() if c.dims == ("frame",)})
    if table.sizes["peak"] <= READ_AT_ONCE:
        table = table.load()
    step = -(-table.sizes["peak"] // SAMPLE_PEAKS) or 1
    sample = table[list(_SAMPLED)].isel(peak=slice(None, None, step)).load()
    return ShownRun(folder, table, sample, step, axis_of_series(table, axis))
