"""An opened series: its frames can be read and corrected, and its background is known."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.angles import Geometry
from braggflow.config import RunConfig
from braggflow.frames.correction import (
    CorrectedFrame,
    Correction,
    correct_frame,
    correction_of,
    read_background_frame,
    searched_geometry,
)
from braggflow.frames.description import missing_frames, refuse_incomplete
from braggflow.frames.reader import FrameReader
from braggflow.frames.store import read_raw


@dataclass(frozen=True, slots=True)
class OpenedSeries:
    """A series whose frames can be read and corrected; positions count its selected frames from 0.

    What every stage that reads frames is given, and what a worker holds between tasks.
    """

    data: xr.Dataset
    reader: FrameReader
    config: RunConfig
    correction: Correction
    background_frame: NDArray[np.float32] | None
    geometry: Geometry | None
    """Of the searched frames, where the search decides by it."""
    positions: NDArray[np.int64]
    """(n,) positions of the selected frames in the store."""
    numbers: list[int]
    """Numbers of the selected frames."""
    missing: dict[int, str]
    """Why frames were never written, by their position."""
    growing: bool = False
    """Whether the series is still being written: a frame whose pixels are all equal may not be there yet."""

    @property
    def known(self) -> dict[str, Any]:
        """What a search is told beside counts, mask and settings: background, geometry, noise of pixels."""
        return {
            "background_frame": self.background_frame,
            "geometry": self.geometry,
            **self.config.frames.noise,
        }

    def raw(self, position: int) -> NDArray[Any]:
        """The frame at a position, (y, x), as it is stored; raises as `read_raw` does, `OSError` if never written."""
        if position in self.missing:
            raise OSError(self.missing[position])
        frame: NDArray[Any] = read_raw(self.data, self.positions[position : position + 1])[0]
        return frame

    def corrected(self, raw: NDArray[Any]) -> CorrectedFrame:
        """A raw frame with the series' correction applied."""
        return correct_frame(raw, self.correction)

    def position_of(self, number: int) -> int:
        """The position of the frame with a number; raises `ValueError` where none of the selected ones has it."""
        return self.numbers.index(number)


def selected_positions(data: xr.Dataset, config: RunConfig) -> NDArray[np.int64]:
    """Positions in the store of the frames that `frames.start`, `stop` and `step` select."""
    return np.arange(data.sizes["frame"])[config.frames.start : config.frames.stop : config.frames.step]


def open_series(data: xr.Dataset, config: RunConfig, *, growing: bool = False) -> OpenedSeries:
    """What tasks need of a series; raises `InputError` where an image that the configuration names does not fit.

    `growing`: it is still being written, so that what is missing may come.
    """
    positions = selected_positions(data, config)
    absent = missing_frames(data)
    missing = {at: absent[position] for at, position in enumerate(positions.tolist()) if position in absent}
    if config.frames.require_complete and not growing:
        refuse_incomplete(missing, len(positions), "frames.require_complete")
    return OpenedSeries(
        data,
        FrameReader(data),
        config,
        correction_of(data, config.frames),
        read_background_frame(data, config),
        searched_geometry(data, config),
        positions,
        data["frame"].values[positions].tolist(),
        missing,
        growing,
    )
