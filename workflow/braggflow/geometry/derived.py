"""What a peak's position and shape mean: two-theta, azimuth, q, d and widths, each with its uncertainty."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.angles import Geometry, stated_geometry
from braggflow.config import GeometryConfig
from braggflow.errors import InputError
from braggflow.geometry.instrument import instrument_width
from braggflow.geometry.rings import rings_of
from braggflow.results import Run, open_peaks

Floats = NDArray[np.float64]
#: Ways to name a table of peaks.
Peaks = xr.Dataset | Run | str | Path

_UNITS = {"two_theta": "degree", "azimuth": "degree", "q": "angstrom-1", "d": "angstrom"}
_NAMES = {
    "two_theta": "scattering angle",
    "azimuth": "angle about the beam, from +x towards +y",
    "q": "length of the scattering vector",
    "d": "lattice spacing",
}


def peak_table_of(peaks: Peaks) -> xr.Dataset:
    """The table of a run, given as it, as the run or as its folder; raises `InputError` where there is none."""
    if isinstance(peaks, Run):
        return peaks.peaks
    table = peaks if isinstance(peaks, xr.Dataset) else open_peaks(peaks)
    if "peak" not in table.dims or "y" not in table or "x" not in table:
        raise InputError(
            "peaks: is no peak table (dimension peak, columns y and x); must be a run, its folder, what open_peaks or "
            "find_peaks returns, or a part of it"
        )
    return table


def geometry_of(
    peaks: xr.Dataset, geometry: Geometry | GeometryConfig | Mapping[str, Any] | str | Path | None
) -> Geometry:
    """The geometry that is given, in any of its forms, or else the table's own.

    Raises `InputError` where it is incomplete or wrong, or the table has none.
    """
    if isinstance(geometry, Geometry):
        return geometry
    if isinstance(geometry, str | Path):
        return Geometry.from_poni(geometry)
    if geometry is not None:
        return Geometry.from_config(geometry, peaks.attrs.get("geometry"))
    if not peaks.attrs.get("geometry"):
        raise InputError(
            "geometry: the table has none, as its frames stated none; give a PONI file, or keys as of the section "
            "geometry of the configuration (docs/geometry.md)"
        )
    return Geometry.from_attributes(peaks.attrs["geometry"])


def known_geometry(found: object, settings: GeometryConfig) -> dict[str, Any]:
    """What is known of where a run's detector stands, as plain data: of its frames (`found`) and its configuration.

    Raises `InputError` where the configuration sets any of it and the whole is incomplete or wrong, or where one of its
    phases is. What frames alone state is taken as it is: it need not be complete, and whoever asks for q is told.
    """
    if settings.phases:
        rings_of(settings.phases, 1.0)
    asked = settings.model_dump(exclude={"phases"}, exclude_defaults=True)
    return Geometry.from_config(settings, found).to_attributes() if asked else stated_geometry(found, settings)


def add_q(
    peaks: Peaks,
    geometry: Geometry | GeometryConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    standard: xr.Dataset | None = None,
    polarization: float | None = None,
    solid_angle: bool = False,
) -> xr.Dataset:
    """The peaks with their scattering angles, q, d and widths, and the uncertainties of these, as further columns.

    Parameters
    ----------
    peaks : xarray.Dataset, Run, str or pathlib.Path
        A peak table, a part of one, or a run or its folder.
    geometry : Geometry, mapping, str or pathlib.Path, optional
        Where the detector stands: a PONI file of pyFAI, or keys as of the configuration's section `geometry`, which
        stand above what the table knows. Default: the table's own, which its run found in the frames or was given.
    standard : xarray.Dataset, optional
        Peaks of a standard, of which only the instrument makes the width, as `add_q` returns them. `fwhm_q_sample` and
        `fwhm_two_theta_sample` are the widths less the instrument's, taken off in squares; NaN where a peak is no
        broader, or outside the standard's range of two-theta.
    polarization : float, optional
        (Ih - Iv) / (Ih + Iv) of the beam, h along x; adds `polarization`, by which intensities are to be divided.
    solid_angle : bool, default False
        Add `solid_angle` of a pixel relative to one at the PONI, by which intensities are to be divided.

    Returns
    -------
    xarray.Dataset
        The same peaks with `two_theta`, `azimuth` (degree), `q` (1/Å), `d` (Å), each with `_std`; `fwhm_two_theta`,
        `fwhm_azimuth` (degree) and `fwhm_q` (1/Å), of the fitted ellipse along the two directions. Errors of y and x go
        together as the fitted ellipse has it (docs/geometry.md). Where the geometry has uncertainties of its own, they
        are part of `_std`, and alone in `_std_geometry`: these are common to all peaks, and mostly cancel in a strain.
        The attribute `geometry` holds what was used.

    Raises
    ------
    InputError
        Where there is no peak table, or the geometry is missing, incomplete or wrong.

    Examples
    --------
    >>> import braggflow
    >>> peaks = braggflow.add_q(
    ...     "runs/scan",
    ...     {"distance_mm": 200, "beam_centre_px": [32, -400], "pixel_size_um": [75, 75], "energy_kev": 17.4},
    ... )
    >>> peaks["q"].attrs["units"]
    'angstrom-1'
    >>> bool((peaks["d"] * peaks["q"] - 6.283185 < 1e-6).all())
    True
    """
    table = peak_table_of(peaks)
    found = geometry_of(table, geometry)
    y, x = (table[name].values.astype(np.float64) for name in ("y", "x"))
    values = {
        "two_theta": found.two_theta(y, x),
        "azimuth": found.azimuth(y, x),
        "q": found.q(y, x),
        "d": found.d(y, x),
    }
    slopes = _slopes(found, y, x, values)
    ellipse = _ellipse(table)
    covariance = _covariance(table, ellipse)
    columns: dict[str, Any] = {}
    for name, value in values.items():
        own = np.sqrt(_along(slopes[name].by_place, covariance))
        columns[name] = _column(value, name)
        columns[f"{name}_std"] = _column(own, name, "standard uncertainty of ")
        if found.covariance is not None:
            by = slopes[name].by_parameters
            common = np.sqrt(np.maximum(((by @ np.array(found.covariance)) * by).sum(-1), 0))
            columns[f"{name}_std"] = _column(np.hypot(own, common), name, "standard uncertainty of ")
            columns[f"{name}_std_geometry"] = _column(common, name, "that of the geometry alone, of ")
    widths = {name: np.sqrt(_along(slopes[name].by_place, ellipse)) for name in ("two_theta", "azimuth", "q")}
    if standard is not None:
        left = widths["two_theta"] ** 2 - instrument_width(standard, values["two_theta"]) ** 2
        widths["two_theta_sample"] = np.sqrt(np.where(left > 0, left, np.nan))
        widths["q_sample"] = widths["q"] * (widths["two_theta_sample"] / widths["two_theta"])
    for name, width in widths.items():
        columns[f"fwhm_{name}"] = _column(width, name.removesuffix("_sample"), "full width at half maximum in the ")
    if polarization is not None:
        columns["polarization"] = ("peak", found.polarization(y, x, polarization), {"units": "1"})
    if solid_angle:
        columns["solid_angle"] = (
            "peak",
            found.solid_angle(y, x),
            {"units": "1", "long_name": "relative to the PONI's"},
        )
    return table.assign(columns).assign_attrs(geometry=json.dumps(found.to_attributes()))


class _Slopes(NamedTuple):
    """Derivatives of one quantity."""

    by_place: Floats
    """(n, 2), by y and x."""
    by_parameters: Floats
    """(n, 7), by the geometry's parameters; (n, 0) where these have no covariance."""

    def times(self, factor: Floats) -> "_Slopes":
        """Of a function of this quantity, whose derivative by it is `factor` (n,)."""
        return _Slopes(*(slope * factor[:, None] for slope in self))


def _slopes(geometry: Geometry, y: Floats, x: Floats, values: Mapping[str, Floats]) -> dict[str, _Slopes]:
    known, by_place = geometry.covariance is not None, geometry.jacobian(y, x)
    by_parameters = geometry.parameter_jacobian(y, x) if known else np.zeros((len(y), 2, 0))
    two_theta, azimuth = (_Slopes(by_place[:, i], by_parameters[:, i]) for i in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        q = two_theta.times(values["q"] / np.tan(np.radians(values["two_theta"] / 2)) * (np.pi / 360))
        if known:
            q.by_parameters[:, -1] = -values["q"] / (geometry.wavelength_angstrom or np.nan)
        d = q.times(-values["d"] / values["q"])
    return {"two_theta": two_theta, "azimuth": azimuth, "q": q, "d": d}


def _column(values: Floats, name: str, before: str = "") -> tuple[str, Floats, dict[str, str]]:
    return "peak", values, {"units": _UNITS[name], "long_name": before + _NAMES[name]}


def _ellipse(table: xr.Dataset) -> Floats:
    """Squared full widths of the fitted ellipses as matrices by (y, x), pixel², shape (n, 2, 2)."""
    turn = np.radians(table["angle"].values.astype(np.float64))
    major, minor = (table[f"fwhm_{axis}"].values.astype(np.float64) ** 2 for axis in ("major", "minor"))
    sine, cosine = np.sin(turn), np.cos(turn)
    cross = (major - minor) * sine * cosine
    found = np.stack([major * sine**2 + minor * cosine**2, cross, cross, major * cosine**2 + minor * sine**2], -1)
    return found.reshape(-1, 2, 2)


def _covariance(table: xr.Dataset, ellipse: Floats) -> Floats:
    """Of the positions, pixel², shape (n, 2, 2), by (y, x).

    The table has its diagonal. Counts that are spread over an ellipse tell its centre with errors of the same ellipse's
    shape, whether the peak's own noise or the background's rules; without a fitted ellipse y and x are taken for
    independent.
    """
    y, x = (table[f"{axis}_std"].values.astype(np.float64) for axis in "yx")
    with np.errstate(invalid="ignore"):
        correlation = ellipse[:, 0, 1] / np.sqrt(ellipse[:, 0, 0] * ellipse[:, 1, 1])
    cross = np.where(np.isfinite(correlation), correlation, 0.0) * y * x
    return np.stack([y**2, cross, cross, x**2], -1).reshape(-1, 2, 2)


def _along(slope: Floats, matrix: Floats) -> Floats:
    """The quadratic forms of (n, 2) and symmetric (n, 2, 2); not below 0."""
    y, x = slope.T
    along: Floats = y**2 * matrix[:, 0, 0] + 2 * y * x * matrix[:, 0, 1] + x**2 * matrix[:, 1, 1]
    return np.maximum(along, 0)
