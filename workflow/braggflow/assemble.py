"""From the stages' answers to the columns of the peak table: detector coordinates, and which position to use."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow import peaks
from braggflow.config import FitConfig
from braggflow.frames import unbinned
from braggflow.patches import Patches
from braggflow.peaks import Flag, Method

#: A network or fit that places a peak further than this from its maximum (pixels) found something else: the fit has
#: failed, the network was shown what it was not trained on.
MAX_OFFSET = 3.0
#: With `localise.method: auto`, the fit (which leaves unusable pixels out) takes over where one of these is set. Not
#: for overlap: there the network, which sees the mirrored half of the peak, had two thirds of the fit's error.
FIT_INSTEAD = np.uint16(Flag.edge | Flag.masked | Flag.saturated | Flag.out_of_domain)


class Located(NamedTuple):
    """A network's answer for n patches."""

    method: Method
    positions: NDArray[np.float64]
    """(n, 2) as (y, x) in patch coordinates (0 is the first pixel's centre)."""
    std: NDArray[np.float32]
    """(n, 2) standard uncertainties, NaN where the network does not know."""


def sample(table: peaks.Table, config: FitConfig) -> NDArray[np.bool_]:
    """Which peaks are fitted: a share `config.fraction`, chosen by frame, pixel and seed alone."""
    if config.fraction in (0.0, 1.0):
        return np.full(len(table), config.fraction == 1.0)
    state = np.full(len(table), config.seed, np.uint64)
    for name in ("peak_frame", "y_pixel", "x_pixel"):
        state = _mix(state ^ table[name].astype(np.uint64))
    return state < np.uint64(config.fraction * 2.0**64)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of the SplitMix64 generator (Steele, Lea & Flood, 2014, OOPSLA, doi:10.1145/2660193.2660195)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def assemble(
    table: peaks.Table,
    patches: Patches,
    *,
    located: Located | None,
    fitted: NDArray[np.bool_],
    fits: NDArray[np.void],
    fit_method: Method,
    method: str,
    bin: int,  # noqa: A002 - the configuration's word
) -> peaks.Table:
    """Fill the positions and the fit's variables of `table` (n,), in pixels of the detector.

    `located` is the network's answer (None: not asked), `fitted` (n,) says which peaks were fitted and `fits` holds
    their results in that order (`fit.FIT_DTYPE`); `method` is `localise.method` and `bin` is `frames.bin`.
    """
    result = table.copy()
    half = patches.counts.shape[1] // 2
    corner = np.column_stack([table["y_pixel"], table["x_pixel"]]).astype(np.float64) - half
    scale = float(bin)

    position = unbinned(corner + np.where(np.isnan(patches.centroid), half, patches.centroid), bin)
    std = np.full(position.shape, np.nan, np.float32)
    chosen = np.where(np.isnan(patches.centroid).any(axis=1), Method.pixel, Method.centroid)

    near = np.hypot(fits["y"] - half, fits["x"] - half) <= MAX_OFFSET
    good = fits[fits["converged"] & near]
    converged = np.zeros(len(table), bool)
    converged[fitted] = fits["converged"] & near
    fit_position = np.full(position.shape, np.nan)
    fit_position[converged] = unbinned(corner[converged] + np.column_stack([good["y"], good["x"]]), bin)
    result["y_fit"], result["x_fit"] = fit_position.T
    for name, factor in {
        "y_fit_std": scale,
        "x_fit_std": scale,
        "fwhm_major": scale,
        "fwhm_minor": scale,
        "amplitude": scale**-2,  # binned pixels are sums of bin² pixels
        "background": scale**-2,
        "angle": 1.0,
        "eta": 1.0,
        "chi2": 1.0,
    }.items():
        result[name][converged] = good[name.replace("_fit", "")] * factor
    _flag(result, fitted & ~converged, Flag.fit_failed)
    use_fit = converged

    if located is not None:
        network = unbinned(corner + located.positions, bin)
        result["y_network"], result["x_network"] = network.T
        result["disagreement"] = np.linalg.norm(network - fit_position, axis=1)
        _flag(result, np.linalg.norm(located.positions - half, axis=1) > MAX_OFFSET, Flag.out_of_domain)
        position, std, chosen = network, located.std * scale, np.full(len(table), located.method)
        use_fit = converged & ((result["flags"] & FIT_INSTEAD) != 0) & (method == "auto")

    position[use_fit] = fit_position[use_fit]
    std[use_fit] = np.column_stack([result["y_fit_std"], result["x_fit_std"]])[use_fit]
    chosen[use_fit] = fit_method
    result["y"], result["x"] = position.T
    result["y_std"], result["x_std"] = std.T
    result["method"] = chosen
    for name in ("y_pixel", "x_pixel"):
        result[name] = table[name] * bin + (bin - 1) // 2
    result["area"] = table["area"] * bin**2
    return result


def _flag(table: peaks.Table, where: NDArray[np.bool_], flag: Flag) -> None:
    table["flags"][where] |= np.uint16(flag)
