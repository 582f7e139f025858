"""The one schema of the peak table: names, dtypes, units and flags.

Between stages a table is a numpy structured array of dtype `PEAK_DTYPE`, one record a peak (so that selecting,
sorting and joining tables are numpy's own operations); on disk and for users it is the xarray Dataset of the same
variables.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core.indexing import IndexSelResult
from xarray.indexes import Index, PandasIndex

from braggflow.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

#: Of the table on disk. 2 added `domain_probability` and the flags disagree and at_bound; 3 `significance`, `parent`,
#: the method disk and the flags deblended, blend and ring; 4 checksums; 5 has no `track`, which was -1 everywhere;
#: 6 added `intensity_std`, `fwhm_major_std` and `fwhm_minor_std`.
SCHEMA_VERSION = 6
GUARDED_SINCE = 4
#: Columns that tables of earlier versions do not have, and the version that added them.
ADDED = {
    "domain_probability": 2,
    "significance": 3,
    "parent": 3,
    **dict.fromkeys(("fwhm_major_std", "fwhm_minor_std", "intensity_std"), 6),
}
#: Columns that only tables of earlier versions have.
FORMER_COLUMNS = ("track",)


class Method(IntEnum):
    """Which localiser gave a peak's `y`, `x`."""

    braggnn = 0
    compact = 1
    gaussian = 2
    pseudo_voigt = 3
    centroid = 4
    pixel = 5
    disk = 6


class Flag(IntFlag):
    """What a user should know before trusting a peak; several may hold at once."""

    edge = 1
    masked = 2
    saturated = 4
    overlap = 8
    fit_failed = 16
    out_of_domain = 32
    low_snr = 64
    disagree = 128
    at_bound = 256
    deblended = 512
    blend = 1024
    ring = 2048


FLAG_MEANINGS: dict[Flag, str] = {
    Flag.edge: "the patch reaches beyond the frame",
    Flag.masked: "masked or NaN pixels in the patch",
    Flag.saturated: "saturated pixels in the patch",
    Flag.overlap: "another peak's maximum lies in the patch, or is nearer to some of its pixels",
    Flag.fit_failed: "the fit did not converge, or found something else; the fit's variables are NaN",
    Flag.out_of_domain: "outside what the localiser was made for",
    Flag.low_snr: "snr below flag_snr_below",
    Flag.disagree: "network and fit are further apart than max_disagreement times their joint uncertainty",
    Flag.at_bound: "the fit failed at a bound of centre, width or height",
    Flag.deblended: "one of several peaks without maxima of their own, told apart by the fit",
    Flag.blend: "no single profile, and not separable: y_std and x_std include what the model misses",
    Flag.ring: "on a ridge: part of a powder ring, an arc or a streak",
}


class Variable(NamedTuple):
    """One column of the peak table; `missing` stands where a stage gave no value."""

    dtype: str
    units: str
    long_name: str
    missing: float = np.nan


VARIABLES: dict[str, Variable] = {
    "peak_frame": Variable("i8", "1", "frame number (coordinate of dimension frame)", -1),
    "y_pixel": Variable("i4", "pixel", "row of the detected maximum, of a saturated peak of the middle of its top", -1),
    "x_pixel": Variable("i4", "pixel", "column of the same", -1),
    "birth": Variable("f8", "count", "level of the maximum in the searched frame"),
    "death": Variable("f8", "count", "level at which the peak merges into a higher one (0 if never)"),
    "score": Variable("f8", "count", "persistence, birth - death"),
    "significance": Variable("f4", "1", "of the maximum against the noise of its place, as sigma of a normal deviate"),
    "area": Variable("i4", "pixel2", "pixels of the peak, down to the one at which it merges", 0),
    "y": Variable("f8", "pixel", "row of the peak: the position to use, by method"),
    "x": Variable("f8", "pixel", "column of the peak: the position to use, by method"),
    "y_std": Variable("f4", "pixel", "standard uncertainty of y (NaN where unknown)"),
    "x_std": Variable("f4", "pixel", "standard uncertainty of x (NaN where unknown)"),
    "method": Variable("i1", "1", "localiser that gave y and x", Method.pixel),
    "y_network": Variable("f8", "pixel", "row by the network (NaN where not asked)"),
    "x_network": Variable("f8", "pixel", "column by the network (NaN where not asked)"),
    "domain_probability": Variable(
        "f4", "1", "probability that the peak is of the kind the network was made for (NaN where it states none)"
    ),
    "y_fit": Variable("f8", "pixel", "row by the fit"),
    "x_fit": Variable("f8", "pixel", "column by the fit"),
    "amplitude": Variable("f4", "count", "height of the fitted profile above background"),
    "background": Variable("f4", "count", "fitted background"),
    "fwhm_major": Variable("f4", "pixel", "full width at half maximum of the fitted profile, long axis"),
    "fwhm_minor": Variable("f4", "pixel", "full width at half maximum of the fitted profile, short axis"),
    "fwhm_major_std": Variable("f4", "pixel", "standard error of fwhm_major"),
    "fwhm_minor_std": Variable("f4", "pixel", "standard error of fwhm_minor"),
    "angle": Variable("f4", "degree", "direction of the long axis from +x towards +y, in (-90, 90]"),
    "eta": Variable("f4", "1", "Lorentzian fraction of the pseudo-Voigt (0 for a Gaussian)"),
    "chi2": Variable("f4", "1", "reduced chi-square of the fit"),
    "y_fit_std": Variable("f4", "pixel", "standard error of y_fit"),
    "x_fit_std": Variable("f4", "pixel", "standard error of x_fit"),
    "intensity": Variable("f4", "count", "counts above background: of the fitted profile, else in the patch"),
    "intensity_std": Variable("f4", "count", "standard error of intensity"),
    "snr": Variable("f4", "1", "counts over their noise, in the aperture that shows most"),
    "disagreement": Variable("f4", "pixel", "distance between network and fit"),
    "parent": Variable("i8", "1", "row of the peak whose residual held this one (-1: a maximum of its own)", -1),
    "flags": Variable("u2", "1", "quality flags", 0),
}

#: What a table opened from a run has beside these once its peaks were followed: docs/tracks.md.
FOLLOWED: dict[str, Variable] = {
    "track_id": Variable("i4", "1", "track of the peak (-1: none)", -1),
    "y_smooth": Variable("f8", "pixel", "row by all positions of the track"),
    "x_smooth": Variable("f8", "pixel", "column by all positions of the track"),
    "y_smooth_std": Variable("f4", "pixel", "standard uncertainty of y_smooth"),
    "x_smooth_std": Variable("f4", "pixel", "standard uncertainty of x_smooth"),
    "yx_smooth_cov": Variable("f4", "pixel2", "covariance of y_smooth and x_smooth"),
    "y_velocity": Variable("f4", "pixel/frame", "velocity along y, by all positions of the track"),
    "x_velocity": Variable("f4", "pixel/frame", "velocity along x, by all positions of the track"),
}

#: Names that a per-frame coordinate cannot have: the table has them already.
RESERVED = frozenset({*VARIABLES, *FOLLOWED, *FORMER_COLUMNS, "peak", "peak_count", "frame_failed", "frame_mean"})

PEAK_DTYPE = np.dtype([(name, variable.dtype) for name, variable in VARIABLES.items()])

_MISSING = np.array(tuple(variable.missing for variable in VARIABLES.values()), PEAK_DTYPE).tobytes()

Table = NDArray[np.void]


def empty(n: int = 0) -> Table:
    """A table of `n` peaks with every variable at its missing value (shape (n,), dtype `PEAK_DTYPE`)."""
    return np.frombuffer(bytearray(_MISSING * n), PEAK_DTYPE)


def concatenate(tables: Sequence[Table]) -> Table:
    """Join tables in the order given; no tables give an empty table."""
    return np.concatenate([empty(), *tables])


def sort(table: Table) -> Table:
    """The whole table in its canonical order, by `peak_frame`, then `y_pixel`, then `x_pixel`; `parent` goes along."""
    order = np.lexsort((table["x_pixel"], table["y_pixel"], table["peak_frame"]))
    result = table[order]
    row = np.empty(len(table), np.int64)
    row[order] = np.arange(len(table))
    found = result["parent"] >= 0
    result["parent"][found] = row[result["parent"][found]]
    return result


def cf_attributes(name: str) -> dict[str, object]:
    """CF attributes of variable `name`: `units` and `long_name`, and the flag tables of `method` and `flags`."""
    variable = VARIABLES[name]
    attributes: dict[str, object] = {"units": variable.units, "long_name": variable.long_name}
    if name == "method":
        attributes["flag_values"] = [int(method) for method in Method]
        attributes["flag_meanings"] = " ".join(method.name for method in Method)
    if name == "flags":
        attributes["flag_masks"] = [int(flag) for flag in Flag]
        attributes["flag_meanings"] = " ".join(str(flag.name) for flag in Flag)
    return attributes


PEAKS_FORMAT = "braggflow-peaks"


def per_frame_variables(
    frame_coords: xr.Dataset,
    counts: NDArray[np.int64],
    failed: NDArray[np.bool_],
    attributes: Mapping[str, Any],
    means: Mapping[int, float] = MappingProxyType({}),
) -> xr.Dataset:
    """The variables on dimension `frame` and the attributes of a table; arguments as for `to_dataset`."""
    mean = [means.get(number, np.nan) for number in frame_coords["frame"].values.tolist()]
    per_frame = frame_coords.assign(
        frame_mean=(
            "frame",
            np.array(mean, np.float32),
            {"units": "count", "long_name": "mean count of the frame's valid pixels (of about 65,536 of them)"},
        ),
        peak_count=("frame", counts, {"sample_dimension": "peak", "long_name": "peaks in the frame"}),
        frame_failed=("frame", failed.astype(np.int8), {"long_name": "1: could not be processed, see run.json"}),
    )
    per_frame.attrs = {
        "format": PEAKS_FORMAT,
        "format_version": SCHEMA_VERSION,
        "Conventions": "CF-1.11",
        **attributes,
    }
    return per_frame


def to_dataset(
    table: Table,
    frame_coords: xr.Dataset,
    failed: Collection[int],
    attributes: Mapping[str, Any],
    means: Mapping[int, float] = MappingProxyType({}),
) -> xr.Dataset:
    """A table in memory as the Dataset that `open_peaks` returns; arguments as for `consolidate`."""
    frame_coords = frame_coords.sortby("frame")
    numbers = frame_coords["frame"].values
    counts = np.bincount(np.searchsorted(numbers, table["peak_frame"]), minlength=len(numbers))
    ordered = sort(table)
    columns = {name: ("peak", ordered[name].copy(), cf_attributes(name)) for name in VARIABLES}
    return with_frame_index(
        per_frame_variables(frame_coords, counts, np.isin(numbers, list(failed)), attributes, means).assign(columns)
    )


class PeakFrameIndex(PandasIndex):
    """Selection of peaks by the frame they lie in: any number of them, 1 and 0 too, for one frame."""

    def sel(self, labels: dict[Any, Any], method: Any = None, tolerance: Any = None) -> IndexSelResult:
        """As of any index; but frames' numbers select all of their peaks, whether these are many, one or none."""
        (label,) = labels.values()
        if isinstance(label, slice) or method is not None:
            return super().sel(labels, method=method, tolerance=tolerance)
        numbers = np.asarray(getattr(label, "values", label))
        if numbers.ndim == 0 and self.index.is_monotonic_increasing:
            first, stop = (int(self.index.searchsorted(numbers.item(), side)) for side in ("left", "right"))
            return IndexSelResult({self.dim: slice(first, stop)})
        return IndexSelResult({self.dim: np.flatnonzero(np.isin(self.index, numbers))})


class PeakRowIndex(Index):
    """The row of each peak in the whole table, for the coordinate `peak`, together with the number of its frame.

    Tables that xarray makes (`peaks[["y", "x"]].to_dataframe()`) are labelled by the index of their dimension, and
    leave out coordinates that have an index of their own, as `peak_frame` has: this one labels them by both.
    """

    def __init__(self, dim: str, rows: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
        self.dim = dim
        self.rows = rows
        self.numbers = numbers

    @classmethod
    def from_variables(cls, variables: Mapping[Any, xr.Variable], *, options: Mapping[str, Any]) -> Self:
        """The index of a coordinate of rows; option `numbers`: those of the frames, shape (n,)."""
        ((name, rows),) = variables.items()
        return cls(name, rows.values, options["numbers"])

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Any, positions: Any = None) -> Self:
        """Of tables one after the other, or each at its positions."""
        rows, numbers = (np.concatenate([getattr(index, name) for index in indexes]) for name in ("rows", "numbers"))
        order = slice(None) if positions is None else np.argsort(np.concatenate(positions), kind="stable")
        return cls(dim, rows[order], numbers[order])

    def create_variables(self, variables: Mapping[Any, xr.Variable] | None = None) -> dict[Any, xr.Variable]:
        """The coordinate, with the attributes that it had."""
        known = (variables or {}).get(self.dim)
        return {self.dim: xr.Variable((self.dim,), self.rows, None if known is None else known.attrs)}

    def to_pandas_index(self) -> "pd.MultiIndex":
        """Frame and row."""
        import pandas as pd

        return pd.MultiIndex.from_arrays([self.numbers, self.rows], names=["peak_frame", self.dim])

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Of some of the peaks; none where they are put into other dimensions."""
        chosen = indexers[self.dim]
        if isinstance(chosen, xr.Variable):
            if chosen.dims != (self.dim,):
                return None
            chosen = chosen.values
        return (
            None
            if np.ndim(chosen) == 0 and not isinstance(chosen, slice)
            else type(self)(self.dim, self.rows[chosen], self.numbers[chosen])
        )

    def sel(self, labels: dict[Any, Any]) -> IndexSelResult:
        """The peaks with a row, or one of several, of the whole table."""
        (label,) = labels.values()
        if isinstance(label, slice):
            return super().sel(labels)
        return IndexSelResult(
            {self.dim: np.flatnonzero(np.isin(self.rows, np.asarray(getattr(label, "values", label))))}
        )

    def equals(self, other: Index, **options: Any) -> bool:  # noqa: ARG002 - xarray's
        """Whether another index is of the same peaks."""
        return isinstance(other, PeakRowIndex) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in ("rows", "numbers")
        )

    def join(self, other: Self, how: str = "inner") -> Self:  # noqa: ARG002 - xarray's
        """Refused: rows of different tables are different peaks, however they are counted."""
        raise InputError(
            f"peaks: {len(self.rows)} rows and {len(other.rows)} others are not the same peaks, and cannot be combined "
            "row by row; one.bragg.compare(other) finds those that are"
        )

    def rename(self, name_dict: Mapping[Any, Any], dims_dict: Mapping[Any, Any]) -> Self:  # noqa: ARG002 - xarray's
        """The same under another name."""
        return type(self)(name_dict.get(self.dim, self.dim), self.rows, self.numbers)


def with_frame_index(data: xr.Dataset) -> xr.Dataset:
    """The table with its indexes: `peaks.sel(peak_frame=17)`; `peak` is the row in the whole table."""
    rows = xr.Coordinates({"peak": ("peak", np.arange(data.sizes["peak"]), {"long_name": "row of the table"})}, {})
    indexed = data.set_coords("peak_frame").set_xindex("peak_frame", PeakFrameIndex)
    numbers = indexed["peak_frame"].values
    return indexed.assign_coords(rows).set_xindex("peak", PeakRowIndex, numbers=numbers)
