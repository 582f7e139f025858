"""A user's own peaks: what they look like, for simulated patches, and their patches with fits as labels.

A run's fits are labels where they can be trusted: see `untrusted`. Labels from files of the published BraggNN are made
in `labels_hdf5`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow import patches, peak_table
from braggflow.detect import cut_patches, detect
from braggflow.errors import InputError
from braggflow.frames import OpenedSeries, unbinned
from braggflow.peak_table import Flag
from braggflow.pipeline import accepted
from braggflow.results import RunFolder, open_peaks, open_run_frames, read_run_config
from braggflow.simulate import FWHM_PER_SIGMA, MAX_SIGMA_MAJOR, PatchSimulation

#: A label's standard error along an axis, px, at most: beyond it a fit says little that the network does not know.
MAX_STD = 0.2
#: Reduced chi-square of a label's fit, at most: noise, and a profile that is wrong by this share of its height. Bright
#: peaks show each flaw of the profile, which hardly moves its centre.
MAX_CHI2, MAX_MISFIT = 2.0, 0.1
#: Narrowest sigma of a label, px: all in one pixel is a hot pixel or a cosmic ray to every fit.
MIN_SIGMA = 0.4
#: Labels without which neither a training nor its verdict means anything; and more than about these are not read.
MIN_LABELS, MAX_LABELS = 200, 100_000
#: A series is divided into so many blocks of consecutive frames: frames that follow each other show the same peaks, and
#: are kept together when some are held out.
BLOCKS = 50

#: Fits from which ranges of peaks can be told, and their least signal-to-noise ratio.
MIN_FITS, GOOD_SNR = 100, 10.0
#: Ranges run from the 1st to the 99th percentile, and are made wider by these factors on either side: the network shall
#: not meet peaks at the rim of what it has seen, and heights vary more than shapes from one scan to the next.
WIDER_SHAPE, WIDER_LIGHT = 1.25, 2.0
#: Largest axis ratio simulated; the few fits beyond it are of streaks.
MAX_RATIO = 4.0
#: No less than this share of the simulated patches has neighbours, missing pixels, a saturated core.
LEAST_SHARE = 0.05
#: A fitted background below this, photons, is none.
_DARK = 0.05
#: Flags of peaks that say nothing of how an isolated, whole peak looks.
_DISTURBED = np.uint16(
    (Flag.edge | Flag.masked | Flag.saturated | Flag.overlap | Flag.low_snr | Flag.fit_failed)
    | (Flag.deblended | Flag.blend | Flag.ring)
)
_COLUMNS = (
    *("peak_frame", "y_pixel", "x_pixel", "y_fit", "x_fit", "y_fit_std", "x_fit_std", "amplitude", "background"),
    *("fwhm_major", "fwhm_minor", "eta", "chi2", "snr", "flags"),
)


@dataclass(frozen=True, slots=True)
class Labels:
    """Patches of n peaks with the positions to learn; lengths in pixels of the patch (binned, where frames were)."""

    photons: NDArray[np.float32]
    """(n, s, s), 0 where missing."""
    state: NDArray[np.uint8]
    """(n, s, s), as `patches.State`."""
    offset: NDArray[np.float64]
    """(n, 2) the label: (y, x) from the patch's centre."""
    std: NDArray[np.float64]
    """(n, 2) its standard error."""
    fwhm: NDArray[np.float64]
    """(n, 2) of the fitted profile, short axis and long axis."""
    snr: NDArray[np.float64]
    """(n,)"""
    overlap: NDArray[np.bool_]
    """(n,) whether another peak has pixels of the patch."""
    frame: NDArray[np.int64]
    """(n,) frame number."""
    block: NDArray[np.int64]
    """(n,) number of the block of consecutive frames, 0 to `BLOCKS` - 1."""

    def __len__(self) -> int:
        return len(self.photons)

    @property
    def size(self) -> int:
        """Pixels on a side of a patch."""
        return int(self.photons.shape[1])

    def select(self, rows: NDArray[Any]) -> "Labels":
        """The labels at `rows` (indices, or a mask)."""
        return Labels(*(getattr(self, field.name)[rows] for field in fields(self)))

    def digest(self) -> str:
        """SHA-256 of what is learned from them."""
        content = sha256()
        for part in (self.photons, self.state, self.offset, self.std, self.block):
            content.update(np.ascontiguousarray(part).tobytes())
        return content.hexdigest()


@dataclass(frozen=True, slots=True)
class Collected:
    """Labels and where they come from."""

    labels: Labels
    source: str
    dropped: dict[str, int]
    """Peaks that are no labels, by reason (the first that held)."""


def simulation_like(run: str | Path) -> PatchSimulation:
    """What patches like those of a run's peaks are drawn from, in photons (its counts over `frames.counts_per_photon`).

    Sigma, axis ratio, eta, height and background span the 1st to the 99th percentile of the fits of isolated, whole
    peaks (shape and background: of those with an SNR of `GOOD_SNR`), made wider by `WIDER_SHAPE`, height and background
    by `WIDER_LIGHT`. The shares of patches with neighbours, missing pixels and a saturated core are those of all peaks
    (at least `LEAST_SHARE`); read noise is the configuration's. A Gaussian fit says nothing of eta, which stays at its
    default, as does what no table tells: tails, sloping backgrounds, outliers.
    Raises `InputError` where the run has fewer than `MIN_FITS` such fits.
    """
    config = read_run_config(RunFolder(Path(run)))
    table, _ = _read_table(run)
    (counts_per_photon, read_noise), scale = config.frames.detector_constants, config.frames.bin
    clean = trusted(table, counts_per_photon=counts_per_photon, scale=scale)[0] & (table["flags"] & _DISTURBED == 0)
    bright = clean & (table["snr"] >= GOOD_SNR)
    if (n := np.count_nonzero(bright)) < MIN_FITS:
        raise InputError(
            f"{run}: {n} of its {len(table)} peaks are well fitted, isolated, whole and of SNR {GOOD_SNR:g} or more; "
            f"{MIN_FITS} are needed to tell what its peaks are like"
        )
    minor, major = (table[name][bright] / (FWHM_PER_SIGMA * scale) for name in ("fwhm_minor", "fwhm_major"))
    sigma = _span(minor, WIDER_SHAPE)
    height = _span(table["amplitude"][clean] * (scale**2 / counts_per_photon), WIDER_LIGHT)
    background = table["background"][bright] * (scale**2 / counts_per_photon)
    lit = background[background > _DARK]
    found: dict[str, Any] = {
        "sigma": sigma,
        "ratio": (1.0, min(MAX_RATIO, 1 + WIDER_SHAPE * (np.percentile(major / minor, 99) - 1))),
        "height": height,
        "dark_share": 1 - len(lit) / len(background),
        "missing_share": _share(table["flags"] & (Flag.edge | Flag.masked) != 0),
        "saturated_share": _share(table["flags"] & Flag.saturated != 0),
        "neighbour_share": _share(table["flags"] & Flag.overlap != 0),
        # Broad peaks are two to the eye only further apart: nearer ones would be drawn again and again.
        "neighbour_distance": (max(3.0, 2 * sigma[0]), max(8.0, 5 * sigma[0])),
        "noisy_share": float(read_noise > 0),
        "read_noise": WIDER_SHAPE * read_noise * scale / counts_per_photon,
    }
    if len(lit):
        found["background"] = _span(lit, WIDER_LIGHT)
        if height[1] < 10 * np.sqrt(found["background"][0]):
            found["neighbour_share"] = 0.0  # nor are two such faint peaks ever told apart on that background
    if config.fit.model == "pseudo_voigt":
        eta = table["eta"][bright]
        low, high = np.percentile(eta[eta > 0], (1, 99)) if (eta > 0).any() else (0.0, 0.0)
        found["eta"] = (max(0.0, 1 - WIDER_SHAPE * (1 - low)), min(1.0, WIDER_SHAPE * high))
        found["gaussian_share"] = _share(eta == 0)
    # Four digits: a card is read by people.
    return PatchSimulation.model_validate(
        {
            name: tuple(float(f"{v:.4g}") for v in value) if isinstance(value, tuple) else float(f"{value:.4g}")
            for name, value in found.items()
        }
    )


def _span(values: NDArray[Any], wider: float) -> tuple[float, float]:
    low, high = np.percentile(values, (1, 99))
    return float(low / wider), float(high * wider)


def _share(where: NDArray[np.bool_]) -> float:
    return max(LEAST_SHARE, float(where.mean()))


def untrusted(table: peak_table.Table, *, counts_per_photon: float, scale: int) -> dict[str, NDArray[np.bool_]]:
    """Which peaks of a table have no fit to learn from, (n,) by reason; `scale` is `frames.bin`.

    - `no_fit`: not fitted, or the fit failed.
    - `saturated`: its core is not seen.
    - `uncertain`: standard error above `MAX_STD`.
    - `misfit`: chi-square above `MAX_CHI2` + `MAX_MISFIT`² × height in photons.
    - `no_peak`: narrower than `MIN_SIGMA`, or longer than `MAX_SIGMA_MAJOR`.

    A fit at a bound counts: there eta is 0 or 1, or a neighbour is not there, which does not move the centre. So does
    one that the run's network took for an outlier or disagrees with: it may be for that network to learn.
    """
    std = np.maximum(table["y_fit_std"], table["x_fit_std"]) / scale
    photons = np.nan_to_num(table["amplitude"]) * (scale**2 / counts_per_photon)
    minor, major = (table[name] / (FWHM_PER_SIGMA * scale) for name in ("fwhm_minor", "fwhm_major"))
    return {
        "no_fit": ~np.isfinite(std) | (table["flags"] & Flag.fit_failed != 0),
        "saturated": table["flags"] & Flag.saturated != 0,
        "uncertain": std > MAX_STD,
        "misfit": table["chi2"] > MAX_CHI2 + MAX_MISFIT**2 * photons,
        "no_peak": (minor < MIN_SIGMA) | (major > MAX_SIGMA_MAJOR),
    }


def trusted(
    table: peak_table.Table, *, counts_per_photon: float, scale: int
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which peaks can be labels, (n,), and the number of the others by the first reason that holds."""
    left, dropped = np.ones(len(table), bool), {}
    for reason, where in untrusted(table, counts_per_photon=counts_per_photon, scale=scale).items():
        dropped[reason] = int(np.count_nonzero(left & where))
        left &= ~where
    return left, dropped


def labels_from_run(run: str | Path, *, progress: Callable[[int, int], None] | None = None) -> Collected:
    """The patches of a run's peaks, cut again from its frames with its configuration, and its fits as labels.

    Labels are the peaks with a fit that can be trusted (see `untrusted`); of more than `MAX_LABELS`, those in the first
    frames of each block. `progress` is called with (frames done, frames in all) after each. Raises `InputError` where
    labels are fewer than `MIN_LABELS`, and where the run's frames are no longer there or cannot be read.
    """
    series = open_run_frames(RunFolder(Path(run)))
    (counts_per_photon, _), scale = series.config.frames.detector_constants, series.config.frames.bin
    table, numbers = _read_table(run)
    place = np.searchsorted(numbers, table["peak_frame"])
    chosen, dropped = trusted(table, counts_per_photon=counts_per_photon, scale=scale)
    rows = np.flatnonzero(chosen)
    check_number(run, len(rows), dropped)
    read = rows[thinned(place[rows], len(numbers))]
    dropped["not_read"] = len(rows) - len(read)

    parts = []
    for own in by_frame(table["peak_frame"], read, progress):
        cut, found = _cut_again(series, int(table["peak_frame"][own[0]]))
        wanted, there = _key(*_pixels(table[own], scale).T), _key(found["y_pixel"], found["x_pixel"])
        same = np.isin(wanted, there)
        block = block_of(place[own[same]], len(numbers))
        rows_of_cut = np.searchsorted(there, wanted[same])
        parts.append(made(table[own[same]], cut, rows_of_cut, block, counts_per_photon=counts_per_photon, scale=scale))
    dropped["not_found_again"] = len(read) - sum(map(len, parts))
    return collected(str(run), parts, dropped)


def _read_table(run: str | Path) -> tuple[peak_table.Table, NDArray[np.int64]]:
    """The columns needed of a run's peaks, and the numbers of all its frames, ascending."""
    data = open_peaks(run)
    table = np.empty(data.sizes["peak"], [(name, peak_table.PEAK_DTYPE[name]) for name in _COLUMNS])
    for name in _COLUMNS:
        table[name] = data[name].values
    return table, data["frame"].values


def _cut_again(series: OpenedSeries, number: int) -> tuple[patches.Patches, peak_table.Table]:
    """All patches of a frame as the run cut them, also those of peaks that it then dropped for their SNR."""
    # The engines find the same peaks; the reference takes minutes a frame.
    settings = series.config.detect.model_copy(update={"engine": "native"})
    try:
        frame = series.corrected(series.raw(series.position_of(number)))
        found = detect(
            frame.counts,
            frame.mask,
            settings,
            bin=series.config.frames.bin,
            **series.known,
        )
        found = accepted(series.config, frame, found)
    except (OSError, ValueError, RuntimeError, ArithmeticError) as error:  # as the run itself records them
        raise InputError(f"frame {number}: {error}") from error
    return cut_patches(frame, found.table, series.config.patches, level=found.level, **series.config.frames.noise)


def _pixels(table: peak_table.Table, scale: int) -> NDArray[np.int64]:
    """Pixels (n, 2) of the searched frame at which a table's maxima lie."""
    unbinned = np.stack([table["y_pixel"], table["x_pixel"]], axis=1).astype(np.int64)
    return (unbinned - (scale - 1) // 2) // scale


def _key(y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.int64]:
    """One number a pixel, in the order of (y, x)."""
    return np.asarray(y.astype(np.int64) << 32 | x.astype(np.int64))


# What `labels_hdf5` shares.


def check_number(source: str | Path, n: int, dropped: Mapping[str, int]) -> None:
    """Raise `InputError` where a source has too few labels."""
    if n < MIN_LABELS:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "none"
        raise InputError(f"{source}: has {n} labels to learn from, at least {MIN_LABELS} are needed (left out: {why})")


def block_of(place: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Blocks of frames at `place` in a series of `n`, whichever of them have labels."""
    return np.asarray(place * min(BLOCKS, n) // n)


def thinned(place: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Which labels, in frames at `place` of a series of `n`, are read: all, or those at the beginning of each block."""
    blocks = min(BLOCKS, n)
    within = place * blocks % n  # of a block, in frames / blocks
    return np.asarray(within * len(place) <= n * MAX_LABELS)


def by_frame(
    number: NDArray[np.int64], rows: NDArray[np.int64], progress: Callable[[int, int], None] | None
) -> Iterator[NDArray[np.int64]]:
    """`rows`, which are in order of their frame's `number`, frame by frame; `progress` is told of each when done."""
    groups = np.split(rows, np.flatnonzero(np.diff(number[rows])) + 1) if len(rows) else []
    for done, group in enumerate(groups, 1):
        yield group
        if progress is not None:
            progress(done, len(groups))


def made(
    table: peak_table.Table,
    cut: patches.Patches,
    rows: NDArray[np.int64],
    block: NDArray[np.int64],
    *,
    counts_per_photon: float,
    scale: int,
) -> Labels:
    """The labels of `table` (n,), whose patches are at `rows` of `cut`."""
    position = np.stack([table["y_fit"], table["x_fit"]], axis=1)
    centre = unbinned(_pixels(table, scale).astype(np.float64), scale)
    return Labels(
        photons=cut.counts[rows] / np.float32(counts_per_photon),
        state=cut.state[rows],
        offset=(position - centre) / scale,
        std=np.stack([table["y_fit_std"], table["x_fit_std"]], axis=1).astype(np.float64) / scale,
        fwhm=np.stack([table["fwhm_minor"], table["fwhm_major"]], axis=1).astype(np.float64) / scale,
        snr=table["snr"].astype(np.float64),
        overlap=table["flags"] & Flag.overlap != 0,
        frame=table["peak_frame"].astype(np.int64),
        block=block,
    )


def collected(source: str, parts: list[Labels], dropped: dict[str, int]) -> Collected:
    """The labels of all frames, joined; raises `InputError` where they are too few."""
    check_number(source, sum(map(len, parts)), dropped)
    joined = (np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Labels))
    return Collected(Labels(*joined), source, {reason: count for reason, count in dropped.items() if count})
