"""What tracks say of the lattice, where it is known how the detector stands: q, spacing, strain."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.geometry import add_q, strain, strain_of
from braggflow.results import open_tracks
from braggflow.tracks.columns.lives import course_columns
from braggflow.tracks.linking import Joined
from braggflow.tracks.rows import AT_ONCE, room

Reference = Literal["first", "mean"] | float
#: Columns of peaks that q and its uncertainty come from.
_COLUMNS = ("y", "x", "y_std", "x_std", "fwhm_major", "fwhm_minor", "angle")


class Spacings(NamedTuple):
    """Of each row that was followed, (n,): q (1/Å), d (Å), and their variances without what the geometry adds."""

    q: NDArray[np.float64]
    q_variance: NDArray[np.float64]
    d: NDArray[np.float64]
    d_variance: NDArray[np.float64]
    d_geometry: NDArray[np.float64]
    """Variance of d by the geometry alone, common to all rows."""


def q_and_strain(run: str | Path, geometry: str | Path | None = None) -> Callable[[xr.Dataset], xr.Dataset]:
    """What adds q, d, ... to rows of a run's table, and strain where its peaks were followed by the run's own geometry.

    `geometry` is another one, a PONI file: of that the spacings that strain is against are not known.
    """
    try:
        tracks = open_tracks(run).load() if geometry is None else None
    except InputError:  # not followed
        tracks = None
    if tracks is None or "d_reference" not in tracks:
        return lambda rows: add_q(rows, geometry)
    return lambda rows: strain(add_q(rows), tracks=tracks)


def spacings_of_rows(peaks: xr.Dataset, at: NDArray[np.int64]) -> Spacings | None:
    """Of the rows `at` (n,) of a table of peaks; None where the table does not know how the detector stands."""
    if not peaks.attrs.get("geometry"):
        return None
    known = room(len(at), len(Spacings._fields))
    for first in range(0, max(1, len(at)), AT_ONCE):
        part = peaks[list(_COLUMNS)].isel(peak=at[first : first + AT_ONCE]).load()
        try:
            found = add_q(part)
        except InputError:  # what files state of their detector need not be whole: nobody asked for q
            return None
        common = {name: _square(found, f"{name}_std_geometry") for name in "qd"}
        own = {name: np.maximum(_square(found, f"{name}_std") - common[name], 0) for name in "qd"}
        for column, values in enumerate((found["q"].values, own["q"], found["d"].values, own["d"], common["d"])):
            known[first : first + AT_ONCE, column] = values
    return Spacings(*known.T)


def _square(found: xr.Dataset, name: str) -> NDArray[np.float64]:
    """The squares of a column; 0 where there is none."""
    return np.square(np.asarray(found[name].values, np.float64)) if name in found else np.zeros(found.sizes["peak"])


def spacing_columns(
    joined: Joined, time: NDArray[np.float64], spacings: Spacings, per: str, reference: Reference | None
) -> dict[str, xr.Variable]:
    """Mean and trend of q and d along each track; with a reference, that spacing and the strain against it.

    `reference` is `first`: the track's first peak, `mean`: all of its peaks, or a spacing, Å.
    """
    columns: dict[str, xr.Variable] = {}
    for name, value, variance in (
        ("q", spacings.q, spacings.q_variance),
        ("d", spacings.d, spacings.d_variance),
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.where(variance > 0, 1 / variance, 0.0)
        columns |= course_columns(joined, time, name, value, weight, per)
    return columns if reference is None else columns | _strain(joined, spacings, columns, per, reference)


def _strain(
    joined: Joined, spacings: Spacings, columns: Mapping[str, xr.Variable], per: str, reference: Reference
) -> dict[str, xr.Variable]:
    mean, mean_std, trend, trend_std = (
        columns[f"d_{name}"].values for name in ("mean", "mean_std", "trend", "trend_std")
    )
    first = joined.order[joined.starts[:-1]]
    with np.errstate(divide="ignore", invalid="ignore"):
        of_track = np.add.reduceat(
            np.where(spacings.d_variance > 0, 1 / spacings.d_variance, 0.0)[joined.order], joined.starts[:-1]
        )
        least = 1 / np.sqrt(of_track)  # of the mean, if the spacings scatter by what is stated
    if reference == "first":
        against, std, covariance = spacings.d[first], np.sqrt(spacings.d_variance[first]), least**2
    elif reference == "mean":
        against, std, covariance = mean, least, least**2
    else:
        against, std, covariance = np.full(len(first), float(reference)), np.zeros(len(first)), np.zeros(len(first))
        mean_std = np.hypot(mean_std, np.sqrt(spacings.d_geometry[first]))
    strain, strain_std = strain_of(mean, mean_std, against, std, covariance=covariance)
    said = {"strain_reference": json.dumps(reference)}
    of = "d_mean / d_reference - 1"
    return {
        "d_reference": _column(against, "angstrom", "lattice spacing that strain is against", said),
        "d_reference_std": _column(std, "angstrom", "standard error of d_reference"),
        "strain_mean": _column(strain, "1", of),
        "strain_mean_std": _column(strain_std, "1", "standard error of strain_mean"),
        "strain_trend": _column(trend / against, f"1/{per}", "slope of the strain along the track"),
        "strain_trend_std": _column(trend_std / against, f"1/{per}", "standard error of strain_trend"),
    }


def _column(
    values: NDArray[np.float64], units: str, long_name: str, said: Mapping[str, str] | None = None
) -> xr.Variable:
    return xr.Variable(("track",), values, {"units": units, "long_name": long_name, **(said or {})})
