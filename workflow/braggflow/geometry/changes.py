"""How a spacing or a width changes along a series, against a reference, with the uncertainty of that."""

import json

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from braggflow.errors import InputError

Floats = NDArray[np.float64]
Labels = str | ArrayLike
#: Columns whose errors are those of photons alone: weighted by these, a mean is that of the faint frames.
_OF_PHOTONS = frozenset({"intensity", "fwhm_major", "fwhm_minor"})


def strain_of(
    d: ArrayLike, d_std: ArrayLike, reference: ArrayLike, reference_std: ArrayLike = 0.0, *, covariance: ArrayLike = 0.0
) -> tuple[Floats, Floats]:
    """Strain of lattice spacings against a reference, and its standard uncertainty.

    Parameters
    ----------
    d, d_std : array_like
        Lattice spacings and their standard uncertainties, Å.
    reference, reference_std : array_like
        That which they are compared with, and its standard uncertainty, Å; shapes broadcast.
    covariance : array_like, default 0
        Of spacing and reference, Å²: other than 0 where the spacing is one of those that the reference is a mean of.

    Returns
    -------
    tuple of numpy.ndarray
        d / reference - 1, and its standard uncertainty, to first order.

    Raises
    ------
    InputError
        Where a reference is not above 0.

    Examples
    --------
    >>> from braggflow.geometry import strain_of
    >>> strain, std = strain_of(2.0002, 1e-5, 2.0, 2e-5)
    >>> float(strain.round(9)), float(std.round(9))
    (0.0001, 1.1181e-05)
    """
    reference = np.asarray(reference, np.float64)
    if (reference <= 0).any():
        raise InputError(f"reference: {float(np.nanmin(reference))} is not accepted; must be above 0 (Å)")
    ratio = np.asarray(d, np.float64) / reference
    parts = np.square(d_std) + np.square(ratio * reference_std) - 2 * ratio * np.asarray(covariance)
    return ratio - 1, np.sqrt(np.maximum(parts, 0)) / reference


def strain(
    peaks: xr.Dataset,
    *,
    first: int | None = None,
    mean: bool = False,
    d0: float | tuple[float, float] | None = None,
    standard: xr.Dataset | None = None,
    tracks: xr.Dataset | None = None,
    labels: Labels = "track_id",
) -> xr.Dataset:
    """The peaks with their strain against a reference, as further columns.

    Parameters
    ----------
    peaks : xarray.Dataset
        Peaks with the columns `d` and `d_std`, as `add_q` returns them.
    first : int, optional
        The reference is the mean spacing of each reflection's own first so many peaks.
    mean : bool, default False
        The reference is the mean spacing of all peaks of each reflection.
    d0 : float or tuple of float, optional
        One spacing for all peaks, Å, or it and its standard uncertainty.
    standard : xarray.Dataset, optional
        Peaks with `d` and the same labels, of an unstrained state: the mean of each reflection there.
    tracks : xarray.Dataset, optional
        What `open_tracks` returns: of each track the spacing `d_reference` that its own strain is against.
    labels : str or array_like, default "track_id"
        Which reflection a peak belongs to, an integer each, negative: none: the name of a column, or the numbers of the
        rows of `peaks` (a name where there is a standard). `place_groups` makes some of where peaks lie.

    Returns
    -------
    xarray.Dataset
        The same peaks with `d_reference`, `strain` and `strain_std`; NaN where a reflection has no reference. The
        uncertainty that all peaks owe to the geometry alone (`d_std_geometry`) is left out where the reference is of
        the same geometry, which `d0` is not.

    Raises
    ------
    InputError
        Where not exactly one reference is given, or a column or the labels are missing or not accepted.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.geometry import place_groups
    >>> geometry = {"distance_mm": 200, "beam_centre_px": [32, -400], "pixel_size_um": [75, 75], "energy_kev": 17.4}
    >>> peaks = braggflow.add_q("runs/scan", geometry)
    >>> strained = braggflow.strain(peaks, first=2, labels=place_groups(peaks, radius=3))
    >>> strained["strain"].dims
    ('peak',)
    """
    references = {"first": first, "mean": mean or None, "d0": d0, "standard": standard, "tracks": tracks}
    given = [name for name, value in references.items() if value is not None]
    if len(given) != 1:
        raise InputError(f"reference: {' and '.join(given) or 'none'} is given; must be one of {', '.join(references)}")
    if tracks is not None:
        return _with_strain(peaks, *_against_tracks(peaks, tracks, label_numbers(peaks, labels)))
    d, own = _column(peaks, "d"), _own_std(peaks, "d")
    covariance: ArrayLike = 0.0
    if d0 is not None:
        reference, of_reference = (np.full(d.shape, value) for value in (d0 if isinstance(d0, tuple) else (d0, 0.0)))
        own = _column(peaks, "d_std")
    elif standard is not None:
        if not isinstance(labels, str):
            raise InputError("labels: must be the name of a column where a standard is given")
        theirs = label_numbers(standard, labels)
        known, means, std = weighted_means(_column(standard, "d"), _own_std(standard, "d"), theirs)
        reference, of_reference = _of_labels(known, label_numbers(peaks, labels), means, std)
    else:
        if first is not None and first < 1:
            raise InputError(f"first: {first} is not accepted; must be 1 or more")
        numbers = label_numbers(peaks, labels)
        among = numbers >= 0 if first is None else _first_of_each(numbers, peaks["peak_frame"].values, first)
        known, means, std = weighted_means(d, own, np.where(among, numbers, -1))
        reference, of_reference = _of_labels(known, numbers, means, std)
        # Of a weighted mean and one of its terms, the covariance is the variance of the mean, whatever the term.
        covariance = np.where(among, of_reference**2, 0.0)
    return _with_strain(peaks, own, reference, of_reference, covariance)


def _against_tracks(
    peaks: xr.Dataset, tracks: xr.Dataset, numbers: NDArray[np.int64]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Own uncertainties of spacings, and what `d_reference` of each peak's track says of its reference."""
    if "d_reference" not in tracks:
        raise InputError(
            "tracks: have no d_reference; where the geometry was not known when the peaks were followed, or they are "
            "of a rotation, give another reference: first, mean, d0"
        )
    names = ("d_reference", "d_reference_std", "first")
    columns = (np.asarray(tracks[name].values, np.float64) for name in names)
    reference, std, first = _of_labels(tracks["track"].values.astype(np.int64), numbers, *columns)
    kind = json.loads(tracks["d_reference"].attrs["strain_reference"])
    if kind not in ("first", "mean"):
        return _column(peaks, "d_std"), reference, std, np.zeros(len(std))
    among = np.ones(len(std), bool) if kind == "mean" else peaks["peak_frame"].values == first
    return _own_std(peaks, "d"), reference, std, np.where(among, std**2, 0.0)


def _with_strain(
    peaks: xr.Dataset, own: Floats, reference: Floats, of_reference: Floats, covariance: ArrayLike
) -> xr.Dataset:
    found, std = strain_of(_column(peaks, "d"), own, reference, of_reference, covariance=covariance)
    one = {"units": "1"}
    return peaks.assign(
        d_reference=("peak", reference, {"units": "angstrom", "long_name": "lattice spacing without strain"}),
        strain=("peak", found, one | {"long_name": "d / d_reference - 1"}),
        strain_std=("peak", std, one | {"long_name": "standard uncertainty of strain"}),
    )


def change(peaks: xr.Dataset, column: str, *, before: slice, after: slice, labels: Labels = "track_id") -> xr.Dataset:
    """How much a column of each reflection has changed between two parts of a series, with its uncertainty.

    Parameters
    ----------
    peaks : xarray.Dataset
        Peaks, as `add_q` returns them.
    column : str
        What is compared: `d`, `fwhm_q_sample`, `intensity`, ...
    before, after : slice
        The two parts, by frame numbers, both ends included: ``slice(0, 99)``.
    labels : str or array_like, default "track_id"
        As of `strain`.

    Returns
    -------
    xarray.Dataset
        On dimension `track`, with the labels as its coordinate: `change`, mean after / mean before - 1, and its
        standard uncertainty, `change_std`; `n_before`, `n_after`. Where the column has a `_std`, means are weighted by
        it (but for what all peaks owe to the geometry) and `change_std` follows from it; else, and of
        intensities and widths, which vary by more than their photons say, `change_std` is that of the scatter within
        each part, and NaN where one has fewer than 2 peaks.

    Raises
    ------
    InputError
        Where the column or the labels are missing, or the two parts overlap.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.geometry import change, place_groups
    >>> peaks = braggflow.open_peaks("runs/scan")
    >>> groups = place_groups(peaks, radius=3)
    >>> change(peaks, "intensity", before=slice(0, 1), after=slice(2, 3), labels=groups)["change"].dims
    ('track',)
    """
    values, numbers, frames = _column(peaks, column), label_numbers(peaks, labels), peaks["peak_frame"].values
    stated = f"{column}_std" in peaks and column not in _OF_PHOTONS
    std = _own_std(peaks, column) if stated else np.ones(len(values))
    inside = [_within(frames, part) for part in (before, after)]
    if (inside[0] & inside[1]).any():
        raise InputError(f"before, after: {before} and {after} have frames in common; must be two parts of the series")
    tracks = np.unique(numbers[numbers >= 0])
    means, stds, counts = (np.zeros((2, len(tracks))) for _ in range(3))
    for part, there in enumerate(inside):
        part_numbers = np.where(there, numbers, -1)
        known, mean, of_mean = weighted_means(values, std, part_numbers)
        of_mean = of_mean if stated else _scatter_of_mean(values, part_numbers, mean, known)
        means[part], stds[part] = _of_labels(known, tracks, mean, of_mean)
        counts[part] = np.bincount(np.searchsorted(tracks, numbers[there & (numbers >= 0)]), minlength=len(tracks))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = means[1] / means[0]
        uncertain = np.abs(ratio) * np.hypot(stds[0] / means[0], stds[1] / means[1])
    return xr.Dataset(
        {
            "change": ("track", ratio - 1, {"units": "1", "long_name": f"relative change of {column}"}),
            "change_std": ("track", uncertain, {"units": "1", "long_name": "standard uncertainty of change"}),
            "n_before": ("track", counts[0].astype(np.int64)),
            "n_after": ("track", counts[1].astype(np.int64)),
        },
        {"track": tracks},
    )


def place_groups(peaks: xr.Dataset, radius: float) -> NDArray[np.int64]:
    """Which reflection each peak belongs to, by place alone: peaks linked by steps of up to `radius` pixels.

    For series in which reflections stay apart and hardly move; where they do move, tracks tell more. Returns an integer
    for each row, from 0 on, in the order of each reflection's first row. Raises `InputError` where `radius` is not
    above 0.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    if not radius > 0:
        raise InputError(f"radius: {radius} is not accepted; must be above 0 (pixels)")
    places = np.column_stack([peaks["y"].values, peaks["x"].values])
    pairs = KDTree(places).query_pairs(radius, output_type="ndarray") if len(places) else np.zeros((0, 2), np.int64)
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (len(places), len(places)))
    _, groups = connected_components(links, directed=False)
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], np.int64)


def label_numbers(peaks: xr.Dataset, labels: Labels) -> NDArray[np.int64]:
    """The label of each row; raises `InputError` where there are none, or where they are no whole numbers."""
    if isinstance(labels, str):
        if labels not in peaks:
            raise InputError(
                f"labels: the table has no column {labels}; follow the peaks first (braggflow track RUN), or give "
                "labels=place_groups(peaks, radius=3)"
            )
        values = peaks[labels].values
    else:
        values = np.asarray(labels)
    if values.shape != (peaks.sizes["peak"],) or values.dtype.kind not in "iu":
        raise InputError(
            f"labels: of shape {values.shape} and type {values.dtype} are not accepted; must be a whole number for "
            f"each of {peaks.sizes['peak']} peaks"
        )
    return values.astype(np.int64)


def weighted_means(values: Floats, std: Floats, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Labels from 0 on, in order, and of each the mean weighted by 1 / std² and its standard uncertainty."""
    good = (numbers >= 0) & np.isfinite(values) & (std > 0)
    known, at = np.unique(numbers[good], return_inverse=True)
    weights = 1 / std[good] ** 2
    total = np.bincount(at, weights, len(known))
    return known, np.bincount(at, weights * values[good], len(known)) / total, 1 / np.sqrt(total)


def _scatter_of_mean(values: Floats, numbers: NDArray[np.int64], mean: Floats, known: NDArray[np.int64]) -> Floats:
    """Standard uncertainty of means from how the values scatter about them; NaN of a lone value."""
    good = (numbers >= 0) & np.isfinite(values)
    at = np.searchsorted(known, numbers[good])
    n = np.bincount(at, minlength=len(known))
    squares = np.bincount(at, (values[good] - mean[at]) ** 2, len(known))
    return np.sqrt(np.where(n > 1, squares / np.maximum(n - 1, 1) / np.maximum(n, 1), np.nan))


def _of_labels(known: NDArray[np.int64], wanted: NDArray[np.int64], *columns: Floats) -> tuple[Floats, ...]:
    """Columns by the labels that are wanted; NaN of those that are not known."""
    if not len(known):
        return tuple(np.full(wanted.shape, np.nan) for _ in columns)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return tuple(np.where(known[at] == wanted, column[at], np.nan) for column in columns)


def _first_of_each(numbers: NDArray[np.int64], frames: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Which rows are the first `n`, in the order of frames, of their label."""
    order = np.lexsort((frames, numbers))
    _, start, at = np.unique(numbers[order], return_index=True, return_inverse=True)
    among = np.zeros(len(numbers), bool)
    among[order] = np.arange(len(numbers)) - start[at] < n
    return among & (numbers >= 0)


def _within(frames: NDArray[np.int64], part: slice) -> NDArray[np.bool_]:
    low = -np.inf if part.start is None else part.start
    high = np.inf if part.stop is None else part.stop
    return np.asarray((frames >= low) & (frames <= high))


def _column(peaks: xr.Dataset, name: str) -> Floats:
    if name not in peaks:
        hint = "; add_q(peaks) adds it" if name.removesuffix("_std") in ("d", "q", "two_theta") else ""
        raise InputError(f"peaks: has no column {name}{hint}")
    return np.asarray(peaks[name].values, np.float64)


def _own_std(peaks: xr.Dataset, name: str) -> Floats:
    """A column's uncertainty without what all peaks owe to the geometry."""
    common = f"{name}_std_geometry"
    shared = _column(peaks, common) if common in peaks else 0.0
    return np.sqrt(np.maximum(_column(peaks, f"{name}_std") ** 2 - np.square(shared), 0))
