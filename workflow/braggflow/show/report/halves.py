"""Are the stated uncertainties those of these data? Peaks located twice, on the two halves of their own pixels.

A patch is split like a checkerboard. Each half has its own photons and its own noise, so that the two positions differ
by what noise does to each, and by nothing else: over the root of the sum of both stated variances, the differences
scatter by 1 where the fit's uncertainties are honest, by more where they are too small. No truth is needed. What both
halves have in common is not seen: a wrong profile, pixels that are not where they should be; and where neighbouring
pixels share noise, the halves do too, and the scatter is too small.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow import patches, peak_table
from braggflow.config import RunConfig
from braggflow.detect import cut_patches
from braggflow.errors import InputError
from braggflow.fit import fit_patches
from braggflow.frames import UNREADABLE, OpenedSeries
from braggflow.patches import State
from braggflow.peak_table import Flag
from braggflow.pipeline import MAX_OFFSET, on_cpu
from braggflow.results import RunFolder, open_run_frames

#: Peaks from which on no further frame is read, and frames that are read at most; which ones, a fixed seed decides.
ENOUGH_PEAKS, MAX_FRAMES, SEED = 3000, 32, 0
#: Classes by the geometric mean of the fitted FWHM, pixels of the searched frame: sigma below 0.9, and 1.8 and above.
CLASSES = {"sharp": (0.0, 2.12), "sampled": (2.12, 4.24), "broad": (4.24, np.inf)}
#: Stated standard error of a half, pixels of the searched frame, above which a peak does not count: no position can be
#: off by more than the peak's own pixels let it, so that such errors are no longer normal (on sharp simulated peaks
#: whose halves state more, they scatter by a tenth to a half of it).
LARGEST_STD = 0.25
#: Limits of the bins of SNR.
SNR = (0.0, 10.0, 20.0, 50.0, 100.0, np.inf)
#: Peaks that a bin must have to be listed.
LEAST_PEAKS = 20
#: Peaks that are not asked: their fit is no single profile, or has no core.
_NOT_ASKED = Flag.saturated | Flag.deblended | Flag.blend | Flag.ring | Flag.fit_failed
#: Share of a normal distribution within one standard deviation, and the relative standard error of that quantile of
#: n absolute deviations, times sqrt(n): sqrt(p (1 - p)) / (2 φ(1)).
_ONE_SIGMA, _QUANTILE_ERROR = 0.6827, 0.962
_NEEDED = ("peak_frame", "y_pixel", "x_pixel", "y_fit", "fwhm_major", "fwhm_minor", "snr", "flags", "parent")


def repeatability(folder: RunFolder, table: xr.Dataset, series: OpenedSeries | None = None) -> dict[str, Any]:
    """Scatter of the halves' positions over the stated one, for `run.json`.

    Parameters
    ----------
    folder : RunFolder
        The run; its frames are read again.
    table : xarray.Dataset
        Its peak table, as `open_peaks` returns it.
    series : OpenedSeries, optional
        The run's series, where it has been opened already.

    Returns
    -------
    dict
        `peaks` that were located twice, `failed` those of which a half was not fitted, or to no better than
        `LARGEST_STD`, `frames` read; `ratio` with its
        standard error `ratio_std` (None of too few); `bins`, the same by `class` and SNR (`snr`: [from, below]), each
        with the `peaks` in it.

    Raises
    ------
    InputError
        Where the run's frames cannot be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> from braggflow.results import RunFolder, open_peaks
    >>> from braggflow.show import repeatability
    >>> run = Path("runs/scan")
    >>> repeatability(RunFolder(run), open_peaks(run))["ratio"]  # doctest: +SKIP
    1.01
    """
    rows = peak_table.empty(table.sizes["peak"])
    for name in _NEEDED:
        rows[name] = table[name].values
    single = single_profiles(rows)
    series = open_run_frames(folder) if series is None else series
    numbers = np.random.default_rng(SEED).permutation(np.unique(rows["peak_frame"][single]))[:MAX_FRAMES]
    deviations, peaks, failed, n_frames = [np.empty((0, 2))], [rows[:0]], 0, 0
    for number in numbers.tolist():
        of_frame = rows["peak_frame"] == number
        found = halves_apart(series, rows[of_frame & (rows["parent"] < 0)])
        wanted = single[of_frame & (rows["parent"] < 0)]
        good = wanted & np.isfinite(found).all(axis=1)
        failed += int(np.count_nonzero(wanted & ~good))
        deviations.append(found[good])
        peaks.append(rows[of_frame & (rows["parent"] < 0)][good])
        n_frames += 1
        if sum(map(len, peaks)) >= ENOUGH_PEAKS:
            break
    return {**_by_bins(np.concatenate(deviations), np.concatenate(peaks), series), "failed": failed, "frames": n_frames}


def halves_apart(series: OpenedSeries, rows: peak_table.Table) -> NDArray[np.float64]:
    """(y, x) of one half less that of the other, in their joint standard errors, for all peaks of one frame.

    `rows` (n,) are the peaks of one frame as the table has them. Returns (n, 2), NaN where a half has no fit, or one
    that states more than `LARGEST_STD`. Raises `InputError` where the frame cannot be read.
    """
    number = int(rows["peak_frame"][0])
    config, scale = series.config, series.config.frames.bin
    searched = peak_table.sort(rows)
    for name in ("y_pixel", "x_pixel"):
        searched[name] = (searched[name] - (scale - 1) // 2) // scale
    try:
        frame = series.corrected(series.raw(series.position_of(number)))
    except UNREADABLE as error:
        raise InputError(f"frame {number}: {error}") from error
    cut, _ = cut_patches(frame, searched, config.patches, level=None, **config.frames.noise)
    return halves_of_patches(cut, config)


def halves_of_patches(cut: patches.Patches, config: RunConfig) -> NDArray[np.float64]:
    """As `halves_apart`, of n patches: (n, 2)."""
    size, settings = config.patches.size, on_cpu(config).fit
    colour = np.add.outer(np.arange(size), np.arange(size)) % 2
    halves = []
    for other in (1, 0):
        counts, state = _without(cut, colour == other)
        halves.append(fit_patches(counts, state, cut.neighbours, settings, **config.frames.noise))
    apart = np.full((len(cut.counts), 2), np.nan)
    good = np.ones(len(apart), bool)
    for fits in halves:
        good &= fits["converged"] & (np.maximum(fits["y_std"], fits["x_std"]) <= LARGEST_STD)
        good &= np.hypot(fits["y"] - size // 2, fits["x"] - size // 2) <= MAX_OFFSET
    first, second = (fits[good] for fits in halves)
    for axis, name in enumerate("yx"):
        std = np.hypot(first[f"{name}_std"], second[f"{name}_std"])
        apart[good, axis] = (first[name] - second[name]) / std
    return apart


def single_profiles(rows: peak_table.Table) -> NDArray[np.bool_]:
    """Which peaks of a table are located twice: those that a single profile was fitted to."""
    wanted: NDArray[np.bool_] = np.isfinite(rows["y_fit"]) & (rows["flags"] & np.uint16(_NOT_ASKED) == 0)
    return wanted


def _without(cut: patches.Patches, where: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Counts and states of the patches with the pixels `where` (size, size) missing."""
    return np.where(where, np.float32(0), cut.counts), np.where(where, np.uint8(State.MISSING), cut.state)


def scatter(deviations: NDArray[np.float64]) -> tuple[float, float] | None:
    """The scatter of deviations (n, 2), which few far ones do not move, and its standard error; None of too few."""
    if len(deviations) < LEAST_PEAKS:
        return None
    ratio = float(np.quantile(np.abs(deviations), _ONE_SIGMA))
    return round(ratio, 4), round(ratio * _QUANTILE_ERROR / float(np.sqrt(deviations.size)), 4)


def _by_bins(deviations: NDArray[np.float64], peaks: peak_table.Table, series: OpenedSeries) -> dict[str, Any]:
    width = np.sqrt(peaks["fwhm_major"] * peaks["fwhm_minor"]) / series.config.frames.bin
    bins = []
    for name, (narrow, wide) in CLASSES.items():
        for low, high in pairwise(SNR):
            within = (width >= narrow) & (width < wide) & (peaks["snr"] >= low) & (peaks["snr"] < high)
            found = scatter(deviations[within])
            if found is not None:
                limits = [low, high if np.isfinite(high) else None]
                n = int(np.count_nonzero(within))
                bins.append({"class": name, "snr": limits, "peaks": n, "ratio": found[0], "ratio_std": found[1]})
    ratio, std = scatter(deviations) or (None, None)
    return {"peaks": len(peaks), "ratio": ratio, "ratio_std": std, "bins": bins}
