"""Two tables side by side: what both have, what one has, how far apart, and where."""

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.peak_rows import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What draws it: a wing above, loaded by name when the picture is asked for.
_PICTURES = "braggflow.show"
#: Classes of intensity, each with as many peaks; cells of the map along the longer side, and peaks in each at least.
_CLASSES, _CELLS, _LEAST = 5, 8, 5
#: Of a normal distribution, standard deviation over median absolute deviation.
_SIGMA_OF_MAD = 1.4826


@dataclass(frozen=True, repr=False)
class TableComparison:
    """Two peak tables side by side, as `compare` gives them; a notebook shows figures and picture.

    Offsets are the second table's positions less the first's, (y, x), pixels.

    Attributes
    ----------
    names : tuple of str
        What the two are.
    peaks : Comparison
        `first` and `second` (row by row), `distance`, `only_first`, `only_second`, `frames`, `radius`.
    frames_apart : int
        By how many frames the two rows of a pair may differ.
    settings : list of str
        What differs in the settings of two runs, a line each.

    Examples
    --------
    >>> import braggflow
    >>> peaks = braggflow.open_peaks("runs/scan")
    >>> found = braggflow.compare(peaks, peaks.assign(x=peaks["x"] + 0.5))
    >>> found.figures["missed"], found.figures["extra"], found.figures["offset_x"]
    (0, 0, 0.5)
    >>> found.offsets.shape == (found.figures["matched"], 2)
    True
    """

    names: tuple[str, str]
    peaks: Comparison
    frames_apart: int
    settings: list[str]

    @cached_property
    def offsets(self) -> NDArray[np.float64]:
        """Of each pair (y, x), pixels, shape (n, 2)."""
        first, second = self.peaks.first, self.peaks.second
        return np.stack([second[name].values - first[name].values for name in "yx"], axis=1)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """Counts and offsets: medians, robust standard deviations, and quantiles of the distance, pixels."""
        n = len(self.offsets)
        middle = np.median(self.offsets, axis=0) if n else np.full(2, np.nan)
        spread = _SIGMA_OF_MAD * np.median(np.abs(self.offsets - middle), axis=0) if n else np.full(2, np.nan)
        half, most = np.quantile(self.peaks.distance, [0.5, 0.95]) if n else (np.nan, np.nan)
        extra, missed = self.peaks.only_first.sizes["peak"], self.peaks.only_second.sizes["peak"]
        apart = self.peaks.second["peak_frame"].values - self.peaks.first["peak_frame"].values
        return {
            "frames": self.peaks.frames,
            "radius": self.peaks.radius,
            "frames_apart": self.frames_apart,
            "matched": n,
            "missed": missed,
            "extra": extra,
            "matched_in_other_frame": int(np.count_nonzero(apart)),
            "offset_y": float(middle[0]),
            "offset_x": float(middle[1]),
            "scatter_y": float(spread[0]),
            "scatter_x": float(spread[1]),
            "distance_median": float(half),
            "distance_95": float(most),
        }

    @cached_property
    def by_intensity(self) -> list[dict[str, float]]:
        """Peaks of the second table in classes of its intensity (of the first's, where it has none), faint to bright.

        Each with the range of the class, the number of peaks, the share that the other table has too, and offsets.
        """
        ours = not np.isfinite(_intensity(self.peaks.second)).any()
        pairs = _intensity(self.peaks.first if ours else self.peaks.second)
        alone = _intensity(self.peaks.only_first if ours else self.peaks.only_second)
        everything = np.concatenate([pairs, alone])
        everything = everything[np.isfinite(everything)]
        if not len(everything):
            return []
        edges = np.unique(np.quantile(everything, np.linspace(0, 1, _CLASSES + 1)))
        classes = []
        for low, high in pairwise(edges.tolist()):
            last = high == edges[-1]
            here, left = ((low <= of) & ((of <= high) if last else (of < high)) for of in (pairs, alone))
            n = int(here.sum() + left.sum())
            middle = np.median(self.offsets[here], axis=0) if here.any() else np.full(2, np.nan)
            classes.append(
                {
                    "from": float(low),
                    "to": float(high),
                    "peaks": n,
                    "matched": float(here.sum() / n) if n else np.nan,
                    "offset_y": float(middle[0]),
                    "offset_x": float(middle[1]),
                    "distance_median": float(np.median(self.peaks.distance[here])) if here.any() else np.nan,
                }
            )
        return classes

    @cached_property
    def field(self) -> xr.Dataset:
        """The map of offsets: medians `offset_y`, `offset_x` and `peaks` on cells (y, x) of the detector, pixels.

        Cells with fewer than 5 pairs are NaN.
        """
        places = np.stack([self.peaks.first[name].values for name in "yx"], axis=1)
        high = places.max(axis=0, initial=1.0)
        low = np.minimum(places.min(axis=0, initial=np.inf), high)
        size = max(float((high - low).max()) / _CELLS, 1.0)
        cells = np.maximum(np.ceil((high - low) / size).astype(int), 1)
        at = np.minimum(((places - low) / size).astype(int), cells - 1)
        medians, counts = np.full((2, *cells), np.nan), np.zeros(cells, np.int64)
        flat = at[:, 0] * cells[1] + at[:, 1]
        for cell in np.unique(flat):
            inside = flat == cell
            row, column = divmod(int(cell), int(cells[1]))
            counts[row, column] = inside.sum()
            if counts[row, column] >= _LEAST:
                medians[:, row, column] = np.median(self.offsets[inside], axis=0)
        along = {name: low[axis] + size * (np.arange(cells[axis]) + 0.5) for axis, name in enumerate("yx")}
        dims = ("y", "x")
        values = {"offset_y": (dims, medians[0]), "offset_x": (dims, medians[1]), "peaks": (dims, counts)}
        return xr.Dataset(values, {name: (name, values, {"units": "pixel"}) for name, values in along.items()})

    @cached_property
    def figure(self) -> "Figure":
        """The picture: distances, offsets, their map over the detector, and shares by intensity."""
        figure: Figure = import_module(_PICTURES).plot_comparison(self)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data, for JSON: names, figures, classes of intensity, settings, map."""
        field = {name: values.values.tolist() for name, values in self.field.variables.items()}
        found = {
            "first": self.names[0],
            "second": self.names[1],
            **self.figures,
            "by_intensity": self.by_intensity,
            "settings": self.settings,
            "map": field,
        }
        plain: dict[str, Any] = _without_nan(found)
        return plain

    def __repr__(self) -> str:
        found = self.figures
        offset = (
            f"; the second less the first: y {found['offset_y']:+.3f}, x {found['offset_x']:+.3f} px (medians), "
            f"scatter {found['scatter_y']:.3f}, {found['scatter_x']:.3f} px"
            if found["matched"]
            else ""
        )
        return (
            f"<{self.names[0]} and {self.names[1]}, {found['frames']:,} frames: {found['matched']:,} peaks in both, "
            f"{found['extra']:,} only in the first, {found['missed']:,} only in the second{offset}>"
        )

    def _repr_png_(self) -> bytes:
        png: bytes = self.figure._repr_png_()  # type: ignore[attr-defined]  # show's figures have it
        return png


def _intensity(rows: xr.Dataset) -> NDArray[np.float64]:
    if "intensity" not in rows.variables:
        return np.full(rows.sizes["peak"], np.nan)
    return np.asarray(rows["intensity"].values, np.float64)


def _without_nan(found: Any) -> Any:
    """Plain data with null for NaN, which JSON has not."""
    return json.loads(json.dumps(found), parse_constant=lambda _: None)
