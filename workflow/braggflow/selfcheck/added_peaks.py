"""Peaks of known place, drawn after those that a run found, and added with their photons' noise to copies of frames."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.config import RunConfig
from braggflow.detect import cut_patches
from braggflow.frames import CorrectedFrame, Correction, unbinned
from braggflow.patches import State
from braggflow.peak_table import Flag, empty
from braggflow.simulate import (
    CLASSES,
    DISK_DTYPE,
    FWHM_PER_SIGMA,
    MAX_SIGMA_MAJOR,
    PROFILE_DTYPE,
    expected_disks,
    expected_patches,
    sample_profiles,
)

#: Rows whose shapes are taken: of a peak by itself, fitted well, of the highest of these SNR that so many rows have
#: (the fainter a peak, the more of its shape is noise). Where too few have the lowest, shapes are simulated ones.
_LEAST_ROWS = {40.0: 100, 20.0: 50, 10.0: 10}
_NOT_TAKEN = (
    Flag.edge
    | Flag.masked
    | Flag.saturated
    | Flag.overlap
    | Flag.fit_failed
    | Flag.at_bound
    | Flag.deblended
    | Flag.blend
    | Flag.ring
)
#: Columns that are looked at, of a table, with the places of its peaks.
NEEDED = ("y", "x", "snr", "flags", "area", "fwhm_major", "fwhm_minor", "angle", "eta")
#: Rows that are looked at, spread over the table.
_ROWS = 50_000
#: The SNR of added peaks is log-uniform from here, where next to none is found, to that of this share of the rows, and
#: to this at least.
_FAINTEST, _SHARE, _BRIGHTEST = 2.5, 0.95, 50.0
#: Radius and blur of the edge of disks where the run found none, pixels; of those found the edge is not in the table.
_DISK_RADIUS, _DISK_EDGE = 3.5, 0.5
#: Profiles are drawn out to so many sigma (6: Gaussians), or to where this many photons a pixel are left.
_GAUSSIAN, _LORENTZIAN, _PHOTONS_LEFT = 6.0, 50.0, 0.02
#: Least share of a peak's height that an aperture is taken to show, and height of a peak at most, counts.
_LEAST_LIGHT, _HIGHEST = 1e-6, 1e8


class Seen(NamedTuple):
    """What a run found, as peaks are drawn after it; lengths in pixels of the searched frame."""

    shapes: NDArray[np.void]
    """(n,) dtype `PROFILE_DTYPE`, of height 1."""
    highest_snr: float


def seen_in(table: xr.Dataset, config: RunConfig) -> Seen:
    """Shapes and SNR of the peaks of a run's table; of a run that found few, those of simulated ones."""
    step = -(-table.sizes["peak"] // _ROWS) or 1
    rows = table.isel(peak=slice(None, None, step)).load()
    snr, scale = rows["snr"].values, config.frames.bin
    alone = (rows["flags"].values & np.uint16(_NOT_TAKEN) == 0) & np.isfinite(rows["fwhm_minor"].values)
    alone &= rows["area"].values > scale**2  # of one pixel: a hot one
    least = next((least for least, n in _LEAST_ROWS.items() if np.count_nonzero(alone & (snr >= least)) >= n), np.inf)
    taken = alone & (snr >= least)
    highest = float(np.quantile(snr, _SHARE)) if len(snr) else 0.0
    n = int(np.count_nonzero(taken))
    if not n:
        shapes = sample_profiles(100, rng=np.random.default_rng(0), config=CLASSES["sampled"])
        if config.fit.model == "disk":
            shapes["sigma_major"] = shapes["sigma_minor"] = 2 * _DISK_RADIUS / FWHM_PER_SIGMA
    else:
        shapes = np.zeros(n, PROFILE_DTYPE)
        for axis in ("major", "minor"):
            shapes[f"sigma_{axis}"] = rows[f"fwhm_{axis}"].values[taken] / (FWHM_PER_SIGMA * scale)
        shapes["sigma_major"] = np.minimum(shapes["sigma_major"], MAX_SIGMA_MAJOR)
        shapes["sigma_minor"] = np.clip(shapes["sigma_minor"], 0.2, shapes["sigma_major"])
        for name in ("angle", "eta"):
            shapes[name] = np.nan_to_num(rows[name].values[taken])
    shapes["height"], shapes["background"] = 1, 0
    return Seen(shapes, max(highest, _BRIGHTEST))


class Drawn(NamedTuple):
    """Peaks for one frame."""

    profiles: NDArray[np.void]
    """(n,) dtype `PROFILE_DTYPE`, in pixels and counts of the detector, background 0."""
    snr: NDArray[np.float64]
    """(n,) as expected."""
    limit_height: NDArray[np.float64]
    """(n,) counts: the height at which each would have the SNR `limit`."""


def draw_peaks(
    at: NDArray[np.float64],
    seen: Seen,
    frame: CorrectedFrame,
    config: RunConfig,
    rng: np.random.Generator,
    limit: float,
) -> Drawn:
    """Peaks at the places (n, 2) of a searched frame, of shapes that were seen, their SNR log-uniform."""
    shapes = seen.shapes[rng.integers(len(seen.shapes), size=len(at))]
    snr = np.exp(rng.uniform(np.log(_FAINTEST), np.log(seen.highest_snr), len(at)))
    pixel = np.rint(at).astype(np.int64)
    table = empty(len(at))
    table["y_pixel"], table["x_pixel"] = pixel.T
    order = np.lexsort((table["x_pixel"], table["y_pixel"]))
    cut, measured = cut_patches(frame, table[order], config.patches, level=None, **config.frames.noise)
    back = np.argsort(order)
    counts, state, intensity = cut.counts[back], cut.state[back], measured["intensity"][back]
    # What `cut_patches` calls intensity is that of the own pixels above their level.
    own = state == State.OWN
    level = (counts.sum(axis=(1, 2), where=own) - intensity) / np.maximum(own.sum(axis=(1, 2)), 1)
    shapes["y"], shapes["x"] = (at - pixel + config.patches.size // 2).T
    unit = profile_patches(shapes, config.patches.size, config.fit.model)
    height, at_limit = (
        height_of_snr(of, unit, level, state, **config.frames.noise) for of in (snr, np.full_like(snr, limit))
    )
    scale = config.frames.bin
    shapes["y"], shapes["x"] = unbinned(at, scale).T
    for name in ("sigma_major", "sigma_minor"):
        shapes[name] *= scale
    shapes["height"] = height / scale**2
    return Drawn(shapes, snr, at_limit / scale**2)


def profile_patches(profiles: NDArray[np.void], size: int, model: str) -> NDArray[np.float64]:
    """Expected counts (n, size, size) of profiles in pixels of their patches, as disks where `model` is disk."""
    if model != "disk":
        return expected_patches(profiles, size)
    disks = np.zeros(len(profiles), DISK_DTYPE)
    disks["y"], disks["x"], disks["edge"] = profiles["y"], profiles["x"], _DISK_EDGE
    disks["radius"] = profiles["sigma_major"] * (FWHM_PER_SIGMA / 2)
    disks["amplitude"], disks["background"] = profiles["height"], profiles["background"]
    return expected_disks(disks, size)


def expected_snr(
    signal: NDArray[np.float64],
    level: NDArray[np.float64],
    state: NDArray[np.uint8],
    *,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
) -> NDArray[np.float64]:
    """The counts of peaks over their noise, in the aperture that shows most, where light and background are known.

    The apertures are those of the table's `snr`, which of a broad peak is lower: its tails pass for background.

    Parameters
    ----------
    signal : numpy.ndarray of float64
        Shape (n, size, size), expected counts above the background, the maxima in the middle.
    level : numpy.ndarray of float64
        Shape (n,), counts a pixel of the background.
    state : numpy.ndarray of uint8
        Shape (n, size, size), a `braggflow.patches.State` each: a peak's own pixels count.
    counts_per_photon : float, default 1.0
        Counts of one photon.
    read_noise : float, default 0.0
        Standard deviation of a pixel without light, counts.

    Returns
    -------
    numpy.ndarray of float64
        Shape (n,).

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.selfcheck import expected_snr
    >>> y, x = np.mgrid[-5:6, -5:6]
    >>> peak = 100 * np.exp(-(y**2 + x**2) / 3)
    >>> expected_snr(peak[None], np.array([4.0]), np.zeros((1, 11, 11), np.uint8)).round()
    array([28.])
    """
    light, noise = _apertures(signal, level, state, counts_per_photon, read_noise)
    variance = counts_per_photon * light + noise
    return np.asarray((light / np.sqrt(np.where(variance > 0, variance, np.inf))).max(axis=1))


def _apertures(
    signal: NDArray[np.float64],
    level: NDArray[np.float64],
    state: NDArray[np.uint8],
    counts_per_photon: float,
    read_noise: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts of the signal, and variance of the background, in apertures of 1.5, 2.5, ... px and of all own pixels."""
    half = signal.shape[1] // 2
    window = np.arange(-half, half + 1)
    aperture = np.ceil(np.maximum(np.hypot(window[:, None], window) - 1.5, 0)).clip(0, half)
    inside = (aperture <= np.arange(half + 1)[:, None, None]) & (state == State.OWN)[:, None]
    light = np.where(inside, signal[:, None], 0).sum(axis=(2, 3))
    variance = counts_per_photon * np.maximum(level, 0) + read_noise**2
    return light, inside.sum(axis=(2, 3)) * variance[:, None]


def height_of_snr(
    snr: NDArray[np.float64],
    unit: NDArray[np.float64],
    level: NDArray[np.float64],
    state: NDArray[np.uint8],
    *,
    counts_per_photon: float = 1.0,
    read_noise: float = 0.0,
) -> NDArray[np.float64]:
    """Heights (n,) at which peaks, `unit` (n, size, size) at height 1, have an SNR: `expected_snr` the other way."""
    light, noise = _apertures(unit, level, state, counts_per_photon, read_noise)
    wanted = snr[:, None]
    counts = (wanted**2 * counts_per_photon + wanted * np.sqrt((wanted * counts_per_photon) ** 2 + 4 * noise)) / 2
    # One that lies behind masked pixels shows at no height: this one is beyond any saturation.
    return np.asarray(np.where(light > 0, counts / np.maximum(light, _LEAST_LIGHT), np.inf).min(axis=1)).clip(
        0, _HIGHEST
    )


def add_peaks(
    raw: NDArray[Any],
    profiles: NDArray[np.void],
    correction: Correction,
    rng: np.random.Generator,
    *,
    model: str,
    counts_per_photon: float,
) -> NDArray[Any]:
    """A copy of a raw frame (y, x) with the photons of profiles on it, of the frame's type.

    Each pixel gets a Poisson number of photons, of `counts_per_photon` counts each, through the flat field.
    Pixels that are ignored stay as they are; none is raised beyond saturation, nor beyond what its type holds.
    """
    result = raw.copy()
    kind = raw.dtype.kind
    limit = min(correction.saturation, np.inf if kind == "f" else float(np.iinfo(raw.dtype).max))
    for profile in profiles:
        reach = _reach(profile, model, counts_per_photon)
        top, left = (int(np.rint(profile[axis])) - reach for axis in "yx")
        centred = profile.reshape(1).copy()
        centred["y"], centred["x"] = profile["y"] - top, profile["x"] - left
        window = tuple(
            slice(max(first, 0), min(first + 2 * reach + 1, n)) for first, n in zip((top, left), raw.shape, strict=True)
        )
        inside = tuple(slice(w.start - first, w.stop - first) for w, first in zip(window, (top, left), strict=True))
        mean = profile_patches(centred, 2 * reach + 1, model)[0][inside]
        if correction.flat is not None:
            mean = mean * correction.flat[window]
        photons = rng.poisson(np.maximum(mean, 0) / counts_per_photon)
        before = result[window]
        counts = before.astype(np.float64)
        after = np.maximum(np.minimum(counts + counts_per_photon * photons, limit), counts)
        after = after if kind == "f" else np.rint(after)
        lit = (photons > 0) & ~_ignored(before, window, correction)
        before[lit] = after[lit].astype(raw.dtype)
    return result


def _reach(profile: Any, model: str, counts_per_photon: float) -> int:
    """Pixels from a profile's middle to where nothing is left of it."""
    sigma = float(profile["sigma_major"])
    if model == "disk":
        return int(np.ceil(sigma * FWHM_PER_SIGMA / 2 + _GAUSSIAN * _DISK_EDGE)) + 1
    reach = _GAUSSIAN * sigma
    tail = float(profile["height"] * profile["eta"]) / counts_per_photon
    if tail > _PHOTONS_LEFT:
        half_width = sigma * FWHM_PER_SIGMA / 2
        reach = max(reach, min(half_width * np.sqrt(tail / _PHOTONS_LEFT), _LORENTZIAN * sigma))
    return int(np.ceil(reach)) + 1


def _ignored(before: NDArray[Any], window: tuple[slice, ...], correction: Correction) -> NDArray[np.bool_]:
    """Pixels that the search leaves out."""
    ignored = correction.mask[window] | (before < correction.masked_below)
    if before.dtype.kind == "f":
        ignored = ignored | ~np.isfinite(before)
    if correction.missing_value is not None:
        ignored = ignored | (before == correction.missing_value)
    return np.asarray(ignored)
