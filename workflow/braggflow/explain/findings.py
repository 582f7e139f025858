"""What was found at a place of a frame: the arrays and numbers that are told and drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.peak_table import Flag, Method

Image = NDArray[np.float32]
Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Maximum:
    """A maximum of the searched frame, a peak or not; places (y, x) are in pixels of the detector.

    Attributes
    ----------
    place : tuple of float
        Of its pixel; of a binned one the middle.
    birth, death, score : float
        Counts of the searched frame: of the maximum, of the saddle where it merges into a higher one (0 if never, or
        below `minval`), and the difference.
    significance : float
        Sigma; NaN where it is below the cut and no number is known.
    least : float
        Significance from which on a maximum counts; NaN where levels alone decide.
    area : int
        Pixels of the detector, down to the saddle.
    saddle, into : tuple of float or None
        Where it merges, and the higher maximum that it merges into; None where it merges with none above the noise.
    dropped_by : str
        Key of the filter that dropped it, `floor` where it is not above the noise at all, "" for a peak.
    value, limit : float
        What that filter asks for, and what it accepts; NaN where nothing was dropped.
    """

    place: Place
    birth: float
    death: float
    score: float
    significance: float
    least: float
    area: int
    saddle: Place | None = None
    into: Place | None = None
    dropped_by: str = ""
    value: float = np.nan
    limit: float = np.nan


@dataclass(frozen=True, repr=False, eq=False)
class Findings:
    """What an `Explanation` holds, whose attributes say what it is."""

    kind: Literal["peak", "maximum", "no maximum", "masked"]
    words: list[str]
    source: str
    frame: int
    asked: Place
    place: Place
    counts: float
    level: float
    deviation: float
    patch: Image
    corner: Place
    bin: int = 1
    state: NDArray[np.uint8] | None = None
    model: Image | None = None
    residual: Image | None = None
    before: Image | None = None
    after: Image | None = None
    maximum: Maximum | None = None
    peak: xr.Dataset | None = None
    neighbours: xr.Dataset | None = None
    network_std: Place = (np.nan, np.nan)

    @property
    def row(self) -> dict[str, Any]:
        """The peak's row as plain values, `method` and `flags` as words; empty where there is no peak."""
        if self.peak is None:
            return {}
        row = {str(name): column.values[0].item() for name, column in self.peak.variables.items() if column.ndim}
        flags = " ".join(str(flag.name) for flag in Flag if row["flags"] & flag)
        return {**row, "method": Method(row["method"]).name, "flags": flags}

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge of the patch, pixels of the detector."""
        size, edge = len(self.patch) * self.bin, self.bin / 2
        top, left = self.corner[0] - edge, self.corner[1] - edge
        return left, left + size, top + size, top

    @cached_property
    def cuts(self) -> Mapping[str, tuple[NDArray[Any], Image, Image | None]]:
        """Cuts through `place` along "y" and "x": coordinates in pixels of the detector, counts, and the model's."""
        last = len(self.patch) - 1
        offsets = [(at - first) / self.bin for at, first in zip(self.place, self.corner, strict=True)]
        at = [min(max(round(offset), 0), last) for offset in offsets]
        steps = np.arange(len(self.patch)) * self.bin
        return {
            "y": (
                self.corner[0] + steps,
                self.patch[:, at[1]],
                None if self.model is None else self.model[:, at[1]],
            ),
            "x": (self.corner[1] + steps, self.patch[at[0]], None if self.model is None else self.model[at[0]]),
        }
