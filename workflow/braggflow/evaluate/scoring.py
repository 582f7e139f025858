"""Compare a peak table with the truth of a simulated series: recall, precision and position error by class."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from braggflow.errors import InputError
from braggflow.frames import CHECKSUMS, damage_of_store, sealed
from braggflow.selfcheck import match_places
from braggflow.simulate import TRUTH_CLASSES, TRUTH_FORMAT, TRUTH_VERSION

#: Where a position comes from: y, x, y_std, x_std of the peak table (None: has no uncertainty of its own).
POSITIONS: dict[str, tuple[str, str, str | None, str | None]] = {
    "used": ("y", "x", "y_std", "x_std"),
    "network": ("y_network", "x_network", None, None),
    "fit": ("y_fit", "x_fit", "y_fit_std", "x_fit_std"),
}
#: A false peak this near to a hot pixel, px, is laid to it.
_HOT_RADIUS = 1.5
_NEEDED = ("peak_frame", "y", "x", "class", "masked", "detectable")


class Recall(NamedTuple):
    """How many of the true peaks of a class were found."""

    found: int
    true: int

    @property
    def share(self) -> float:
        """found / true (NaN where there are none)."""
        return self.found / self.true if self.true else np.nan


class PositionError(NamedTuple):
    """How far positions lie from the truth, in pixels; NaN where there are none."""

    n: int
    median: float
    p75: float
    p95: float
    rms: float
    """Of the distance: root of the mean of dy² + dx²."""
    bias_y: float
    bias_x: float
    within_1: float
    """Share of the errors along either axis within one stated standard uncertainty; 0.68 if that is right."""
    within_2: float
    """Within two; 0.95 if that is right."""


@dataclass(frozen=True, slots=True)
class Score:
    """What `score` found; classes are those of `TRUTH_CLASSES` and `all`."""

    radius: float
    """Largest distance of a match, px."""
    frames: int
    peaks: int
    """In the table, those of `excused` included."""
    excused: int
    """Peaks that match a masked or undetectable true peak: neither right nor false."""
    false: int
    """Peaks that match no true peak."""
    false_at_hot_pixels: int
    """Of these, those at a hot pixel."""
    masked: int
    """True peaks left out of recall for masked pixels in their core."""
    undetectable: int
    """Unmasked true peaks left out of recall: too low, or without a maximum of their own."""
    recall: dict[str, Recall]
    errors: dict[str, dict[str, PositionError]]
    """By position (`POSITIONS`), then by class."""

    @property
    def precision(self) -> float:
        """Share of true ones among the peaks that are not excused (NaN where there are none)."""
        counted = self.peaks - self.excused
        return (counted - self.false) / counted if counted else np.nan

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain data for JSON; what is unknown is None."""
        plain = asdict(self)
        plain["precision"] = self.precision
        plain["recall"] = {name: {**r._asdict(), "share": r.share} for name, r in self.recall.items()}
        plain["errors"] = {
            source: {name: error._asdict() for name, error in by_class.items()}
            for source, by_class in self.errors.items()
        }
        return {key: _without_nan(value) for key, value in plain.items()}

    def table(self) -> str:
        """The figures as text for a terminal."""
        lines = [
            f"{self.peaks} peaks in {self.frames} frames, matched within {self.radius:g} px",
            f"precision {_cell(self.precision, 0, 4)}: {self.false} false ({self.false_at_hot_pixels} at hot pixels); "
            f"{self.excused} match a masked or undetectable true peak and are not counted",
            f"left out of recall: {self.masked} masked, {self.undetectable} undetectable true peaks",
            "",
            f"{'class':<10}{'true':>8}{'found':>8}{'recall':>9}",
        ]
        for name, recall in self.recall.items():
            lines.append(f"{name:<10}{recall.true:>8}{recall.found:>8}{_cell(recall.share, 9, 4)}")
        for source, by_class in self.errors.items():
            if not by_class["all"].n:
                continue
            header = "".join(f"{title:>8}" for title in ("n", "median", "75%", "95%", "rms"))
            lines += ["", f"position error, px: {source}"]
            lines.append(f"{'class':<10}{header}{'bias y':>9}{'bias x':>9}{'in 1 σ':>8}{'in 2 σ':>8}")
            for name, error in by_class.items():
                distances = "".join(_cell(value, 8, 4) for value in (error.median, error.p75, error.p95, error.rms))
                bias = _cell(error.bias_y, 9, 4) + _cell(error.bias_x, 9, 4)
                shares = _cell(error.within_1, 8, 2) + _cell(error.within_2, 8, 2)
                lines.append(f"{name:<10}{error.n:>8}{distances}{bias}{shares}")
        return "\n".join(lines)


def _cell(value: float, width: int, digits: int) -> str:
    return f"{'–':>{width}}" if np.isnan(value) else f"{value:>{width}.{digits}f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def load_truth(path: str | Path) -> xr.Dataset:
    """The truth that `simulate_series` wrote, in memory.

    Raises `InputError` where there is none, or it is something else.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"truth {path}: does not exist; braggflow simulate NAME.zarr writes NAME.truth.zarr")
    damaged = next(damage_of_store(path, since=TRUTH_VERSION + 1), "") if sealed(path) else ""
    if damaged:
        raise InputError(f"truth {path}: {damaged}; simulate the series again")
    try:
        truth: xr.Dataset = xr.open_zarr(path, consolidated=False, chunks=None).load()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"truth {path}: is not a Zarr store ({error})") from error
    truth.attrs.pop(CHECKSUMS, None)
    if truth.attrs.get("format") != TRUTH_FORMAT:
        raise InputError(
            f"truth {path}: has format {truth.attrs.get('format')!r}, must be {TRUTH_FORMAT!r} (NAME.truth.zarr)"
        )
    if truth.attrs.get("format_version") != TRUTH_VERSION:
        raise InputError(
            f"truth {path}: has format_version {truth.attrs.get('format_version')!r}, must be {TRUTH_VERSION}"
        )
    missing = [name for name in (*_NEEDED, "frame") if name not in truth.variables]
    if missing:
        raise InputError(f"truth {path}: lacks {', '.join(missing)}")
    return truth


def score(peaks: xr.Dataset, truth: xr.Dataset, *, radius: float = 3.0) -> Score:
    """Match peaks with true peaks one to one, frame by frame, and compare.

    Pairs within `radius` (by the position used) are taken in order of distance, each peak and each true peak once. True
    peaks that are masked or not detectable are matched last, with the peaks left over; they count neither in recall nor
    in precision. Only frames that the table covers are counted.

    Parameters
    ----------
    peaks : xarray.Dataset
        A peak table, as `braggflow.open_peaks` and `braggflow.find_peaks` return it.
    truth : xarray.Dataset
        The truth, as `load_truth` returns it.
    radius : float, default 3.0
        Largest distance of a match, pixels.

    Returns
    -------
    Score
        Recall, precision and position errors by class; `table` is them as text, `as_dict` as plain data.

    Raises
    ------
    InputError
        Where the table has frames that the truth lacks.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.evaluate import load_truth, score
    >>> from braggflow.simulate import simulate_series
    >>> truth = load_truth(simulate_series("scan.zarr", n_frames=4, shape=(128, 128), peaks=4))
    >>> peaks = braggflow.find_peaks(braggflow.open_frames("scan.zarr"), background="local", min_area=2)
    >>> result = score(peaks, truth)
    >>> result.frames, result.peaks == peaks.sizes["peak"]
    (4, True)
    >>> result.recall["all"].share > 0.9, result.errors["used"]["all"].median < 0.2
    (True, True)
    """
    covered, known = peaks["frame"].values, truth["frame"].values
    unknown = np.setdiff1d(covered, known)
    if len(unknown):
        raise InputError(
            f"truth: has frames {known.min()} to {known.max()}, the peak table also has {unknown[0]}: "
            "it is of another series"
        )
    truth = truth.isel(peak=np.isin(truth["peak_frame"].values, covered))
    masked = truth["masked"].values
    counted = ~masked & truth["detectable"].values
    found, true, excused = _match_all(peaks, truth, counted, radius)
    n = peaks.sizes["peak"]
    free = np.ones(n, bool)
    free[found] = free[excused] = False

    classes = truth["class"].values
    members = {name: classes == code for code, name in enumerate(TRUTH_CLASSES)} | {"all": np.ones(len(classes), bool)}
    matched = np.zeros(len(classes), bool)
    matched[true] = True
    return Score(
        radius=radius,
        frames=len(covered),
        peaks=n,
        excused=len(excused),
        false=int(free.sum()),
        false_at_hot_pixels=_at_hot_pixels(peaks, truth, free),
        masked=int(masked.sum()),
        undetectable=int((~masked & ~counted).sum()),
        recall={name: Recall(int((matched & m).sum()), int((counted & m).sum())) for name, m in members.items()},
        errors={
            source: {name: _position_error(peaks, truth, source, found, true, m[true]) for name, m in members.items()}
            for source in POSITIONS
        },
    )


def _match_all(
    peaks: xr.Dataset, truth: xr.Dataset, counted: NDArray[np.bool_], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Peaks and their counted true peaks, in pairs; then the peaks that match a true peak that is not counted."""
    places, true_places = _places(peaks, radius), _places(truth, radius)
    placed = np.flatnonzero(np.isfinite(places).all(axis=1))
    wanted = np.flatnonzero(counted)
    found, true = match_places(places[placed], true_places[wanted], radius)
    left = np.delete(placed, found)
    excused, _ = match_places(places[left], true_places[~counted], radius)
    return placed[found], wanted[true], left[excused]


def _places(data: xr.Dataset, radius: float) -> NDArray[np.float64]:
    """Positions (frame, y, x), shape (n, 3), with the frames too far apart for a match between two of them."""
    apart = data["peak_frame"].values * (4.0 * radius)
    return np.stack([apart, data["y"].values, data["x"].values], axis=1)


def _at_hot_pixels(peaks: xr.Dataset, truth: xr.Dataset, false: NDArray[np.bool_]) -> int:
    if "hot_y" not in truth or not truth.sizes["hot_pixel"]:
        return 0
    hot = np.stack([truth["hot_y"].values, truth["hot_x"].values], axis=1)
    position = np.stack([peaks["y"].values[false], peaks["x"].values[false]], axis=1)
    return int(np.count_nonzero(cKDTree(hot).query(position)[0] <= _HOT_RADIUS))


def _position_error(
    peaks: xr.Dataset,
    truth: xr.Dataset,
    source: str,
    found: NDArray[np.int64],
    true: NDArray[np.int64],
    chosen: NDArray[np.bool_],
) -> PositionError:
    """The error of one position over the `chosen` of the matched pairs."""
    y, x, y_std, x_std = POSITIONS[source]
    found, true = found[chosen], true[chosen]
    error = np.stack([peaks[n].values[found] - truth[t].values[true] for n, t in ((y, "y"), (x, "x"))], axis=1)
    known = np.isfinite(error).all(axis=1)
    error = error[known]
    if not len(error):
        return PositionError(0, *[np.nan] * 8)
    distance = np.hypot(error[:, 0], error[:, 1])
    within_1 = within_2 = np.nan
    if y_std is not None and x_std is not None:
        std = np.stack([peaks[y_std].values[found], peaks[x_std].values[found]], axis=1)[known]
        stated = np.isfinite(std)
        if stated.any():
            within_1, within_2 = (float(np.mean(abs(error[stated]) <= k * std[stated])) for k in (1, 2))
    median, p75, p95 = np.percentile(distance, (50, 75, 95)).tolist()
    return PositionError(
        len(error),
        median,
        p75,
        p95,
        float(np.sqrt(np.mean(distance**2))),
        float(error[:, 0].mean()),
        float(error[:, 1].mean()),
        within_1,
        within_2,
    )
