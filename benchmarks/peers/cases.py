"""The frames that all programs are given, what is true in them, and how what a program finds is scored."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from data import FOLDER, frames_store
from numpy.typing import NDArray

from braggflow.config import RunConfig, resolve_config
from braggflow.evaluate import load_truth, score
from braggflow.frames import OpenedSeries, frames_from_array, open_frames, open_series
from braggflow.simulate import simulate_series

#: Counts of the strong background without its halo; the study's frames have 8.
DIFFUSE = 300.0
#: Pixels; the same for all programs.
RADIUS = 3.0
IN_COUNTS = {"false_peaks": None, "background": "none", "minval": 30, "minscore": 15, "min_area": 3}
ABOVE_LOCAL = {
    **{"false_peaks": None, "background": "local"},
    **{"minval": {"sigma": 4}, "minscore": {"sigma": 4}, "min_area": 3},
}
_TABLE = ("y_std", "x_std", "y_network", "x_network", "y_fit", "x_fit", "y_fit_std", "x_fit_std")


@dataclass(frozen=True)
class Quality:
    """How a program's peaks compare with the truth."""

    recall: float
    precision: float
    error: float
    """Median distance of matched peaks from their true positions, pixels."""


@dataclass(frozen=True)
class Case:
    """Some frames of a simulated series, in memory."""

    name: str
    path: Path
    every: int
    """One frame in so many of the series is taken."""
    diffuse: bool = False

    @property
    def config(self) -> RunConfig:
        """braggflow's settings: a Gaussian fit of every peak, no network."""
        detect = ABOVE_LOCAL if self.diffuse else IN_COUNTS
        return resolve_config({"detect": detect, "locate": {"network": "none"}, "fit": {"fraction": 1}})

    @cached_property
    def data(self) -> xr.Dataset:
        return open_frames(self.path).isel(frame=slice(None, None, self.every)).load()

    @cached_property
    def opened(self) -> OpenedSeries:
        return open_series(frames_from_array(self.data), self.config)

    @cached_property
    def counts(self) -> NDArray[np.uint16]:
        """(frame, y, x) as the detector gave them."""
        return np.ascontiguousarray(self.data["frames"].values)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        return np.asarray(self.data["mask"].values != 0)

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """Of the frames in the series."""
        return np.asarray(self.data["frame"].values)

    @cached_property
    def truth(self) -> xr.Dataset:
        return load_truth(self.path.with_suffix(".truth.zarr"))

    @cached_property
    def background(self) -> NDArray[np.float32]:
        """The true background, (y, x)."""
        return np.asarray(self.truth["background_image"].values, np.float32)

    @cached_property
    def patched(self) -> NDArray[np.uint16]:
        """The frames with the true background in masked pixels, for programs that know no mask."""
        return np.where(self.mask, np.rint(self.background).astype(np.uint16), self.counts)

    def quality(self, positions: list[NDArray[np.float64]]) -> Quality:
        """Score positions (n, 2) as (y, x) of the first frames, one array a frame, as `braggflow score` does."""
        covered = self.numbers[: len(positions)]
        found = np.concatenate([np.empty((0, 2)), *positions])
        columns: dict[str, Any] = dict.fromkeys(_TABLE, np.full(len(found), np.nan))
        columns |= {"y": found[:, 0], "x": found[:, 1]}
        columns["peak_frame"] = np.repeat(covered, [len(one) for one in positions])
        table = xr.Dataset({name: ("peak", values) for name, values in columns.items()}, {"frame": covered})
        result = score(table, self.truth, radius=RADIUS)
        return Quality(result.recall["all"].share, result.precision, result.errors["used"]["all"].median)


def all_cases() -> tuple[Case, Case, Case]:
    """Simulated at the first call, kept in build/bench."""
    diffuse = FOLDER / "2048px_500peaks_diffuse.zarr"
    if not diffuse.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        simulate_series(diffuse, n_frames=8, shape=(2048, 2048), peaks=500, background=DIFFUSE, overwrite=True)
    return (
        Case("2048², about 500 peaks", frames_store(size=2048, peaks=500, n_frames=48), every=6),
        Case("512², about 14 peaks", frames_store(size=512, peaks=14, n_frames=480), every=20),
        Case("2048², about 500 peaks, strong diffuse background", diffuse, every=1, diffuse=True),
    )
