"""From the stages' answers to the columns of the peak table: detector coordinates, and which position to use.

`locate.position: network` uses the network's position of every peak. `fit` uses the converged fit's; where there is
none (it failed, or was not asked: `fit.fraction`) the network's, where it was asked and is in its domain; else the
centroid, where there is none either (no counts above background) the maximum's pixel. `auto` does what `fit` does, but
takes the network's also where that is clearly surer than the converged fit (`CLEARLY_SURER`) and agrees with it: not
flagged `disagree`. The fit is the nearer to the truth in every class of whole peaks; where a core is saturated or the
peak faint, it is now and then far off and says so by its uncertainty (docs/accuracy.md).

Out of its domain (its own verdict, or a position further than `MAX_OFFSET` from the maximum) a network counts as not
asked. The centroid of an arc or of a hot pixel says where the light is; what a network makes of what it has never seen
says nothing, and neither does its uncertainty. That knows the counts but not how well they are a peak: where there is a
converged fit, it is multiplied by the root of its chi2 where that is above 1, as the fit's own is. On backgrounds
brighter than those it knows it is at least what the peak's photons allow.

`intensity` is that of the converged fit, whichever position is used: the sum of a patch's counts above the median of
its border is too low for all but sharp peaks, whose flanks reach the border, and scatters more. Without a fit it is the
sum, and where only a share is fitted it is of all: two measures in one column would look like change.

No peak is dropped; `method` says which position it was, `y_network`, `x_network`, `y_fit` and `x_fit` keep both.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.config import FitConfig, RunConfig
from braggflow.fit import profile_counts
from braggflow.frames import unbinned
from braggflow.locate import IN_DOMAIN, Located, least_std
from braggflow.patches import Patches
from braggflow.peak_table import Flag, Method

#: A network or fit that places a peak further than this from its maximum (pixels) found something else: the fit has
#: failed, the network was shown what it was not trained on.
MAX_OFFSET = 3.0
#: A network is clearly surer than a fit where its uncertainty (of the two axes, the larger) is below this share of the
#: fit's. On simulated peaks of nine classes, 1 made the fit's positions of most classes up to 1 % worse; 0.8 made none
#: worse by more than 0.2 %, and 0.5 lost most of the gain in saturated ones (benchmarks/bench_position.py).
CLEARLY_SURER = 0.8
#: Uncertainty (pixels of the patch, along either axis) that network and fit are allowed beside their stated ones when
#: they are compared: twice the bias of 0.01 px that each may have. Else nearly every very bright peak would be flagged,
#: for whose shape neither has the exact model, and which its photons alone would place far better than that.
SHAPE_ERROR = 0.02


def sample(table: peak_table.Table, config: FitConfig) -> NDArray[np.bool_]:
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
    table: peak_table.Table,
    patches: Patches,
    config: RunConfig,
    *,
    located: Located | None,
    fitted: NDArray[np.bool_],
    fits: NDArray[np.void],
    split: NDArray[np.bool_] | None = None,
    blend: NDArray[np.bool_] | None = None,
    several_of: Sequence[int] | NDArray[np.int64] = (),
) -> peak_table.Table:
    """Fill the positions and the fit's variables of `table` (n,), in pixels of the detector.

    `located` is the network's answer (None: not asked), `fitted` (n,) says which peaks were fitted and `fits` holds
    their results in that order (`patch_fits.FIT_DTYPE`); `split` and `blend` say which of these are several peaks, told
    apart or not (None: none is), `several_of` which rows of the table have further ones. Of `config` are used
    `frames`, `fit` and `locate`.
    """
    result = table.copy()
    half, scale = patches.counts.shape[1] // 2, config.frames.bin
    corner = np.column_stack([table["y_pixel"], table["x_pixel"]]).astype(np.float64) - half

    profiled = np.full(len(table), config.fit.fraction == 1)
    profiled[np.asarray(several_of, np.int64)] = True
    converged = _enter_fits(result, fits, fitted, profiled, corner, half, scale)
    method = np.full(len(result), Method[config.fit.model])
    method[fitted] = np.where(fits["voigt"], Method.pseudo_voigt, method[fitted])
    several, blended = np.zeros(len(result), bool), np.zeros(len(result), bool)
    if split is not None and blend is not None:
        several[fitted], blended[fitted] = split | blend, blend
    _flag(result, blended, Flag.blend)
    fit_position = np.column_stack([result["y_fit"], result["x_fit"]])
    fit_std = np.column_stack([result["y_fit_std"], result["x_fit_std"]])

    network, network_std = np.full(corner.shape, np.nan), np.full(corner.shape, np.nan, np.float32)
    network_method, use_network = Method.pixel, np.zeros(len(table), bool)
    if located is not None:
        misfit = np.sqrt(np.fmax(result["chi2"], 1))  # 1 where there is no fit
        least = least_std(patches.counts, patches.state, **config.frames.noise)
        raised = np.fmax(least / np.sqrt(located.std.prod(axis=1)), 1)
        network = unbinned(corner + located.positions, scale)
        network_std = located.std * (raised * misfit * scale)[:, None]
        network_method = located.method
        result["y_network"], result["x_network"] = network.T
        result["domain_probability"] = located.domain
        near = np.linalg.norm(located.positions - half, axis=1) <= MAX_OFFSET
        _flag(result, ~near | (located.domain < IN_DOMAIN), Flag.out_of_domain)
        result["disagreement"] = np.linalg.norm(network - fit_position, axis=1)
        deviations = joint_deviations(network - fit_position, network_std, fit_std, floor=SHAPE_ERROR * scale)
        _flag(result, deviations > config.locate.max_disagreement, Flag.disagree)
        network_std = np.where(blended[:, None], np.fmax(network_std, fit_std), network_std)
        use_network = network_is_used(result["flags"], network_std, fit_std, converged, config.locate.position)
        # A network knows single peaks: of several it is no judge.
        use_network &= ~several | (config.locate.position == "network")

    no_light = np.isnan(patches.centroid[:, 0])
    centroid = unbinned(corner + np.where(no_light[:, None], half, patches.centroid), scale)
    chosen = [use_network, converged]  # the first that holds
    result["y"], result["x"] = np.select([c[:, None] for c in chosen], [network, fit_position], centroid).T
    result["y_std"], result["x_std"] = np.select([c[:, None] for c in chosen], [network_std, fit_std], np.nan).T
    for name in ("y_std", "x_std"):
        result[name] *= np.float32(config.locate.scale_std)
    result["method"] = np.select(chosen, [network_method, method], np.where(no_light, Method.pixel, Method.centroid))
    for name in ("y_pixel", "x_pixel"):
        result[name] = table[name] * scale + (scale - 1) // 2
    result["area"] = table["area"] * scale**2
    return result


def network_is_used(
    flags: NDArray[np.uint16],
    std: NDArray[np.float32],
    fit_std: NDArray[np.float32],
    converged: NDArray[np.bool_],
    position: Literal["auto", "network", "fit"],
) -> NDArray[np.bool_]:
    """Where `y`, `x` is the network's position, by the rules above, shape (n,).

    `std` and `fit_std` (n, 2) are the uncertainties of network and fit, `converged` (n,) says which peaks have a fit.
    """
    if position == "network":
        return np.ones(len(flags), bool)
    inside = flags & Flag.out_of_domain == 0
    used: NDArray[np.bool_] = inside & ~converged
    if position == "auto":
        surer = std.max(axis=1) < CLEARLY_SURER * fit_std.max(axis=1)
        used |= inside & surer & (flags & Flag.disagree == 0)
    return used


def joint_deviations(
    difference: NDArray[np.float64], std: NDArray[np.float32], fit_std: NDArray[np.float32], *, floor: float
) -> NDArray[np.float64]:
    """`difference` (n, 2) of network and fit in joint standard uncertainties, shape (n,); NaN where there is no fit.

    Along each axis the variances of both and the square of `floor` add up, as if their errors were independent. Both
    saw the same photons, so good positions differ by less. A network that states no `std` is taken to have the fit's.
    """
    variance = np.where(np.isnan(std), fit_std, std) ** 2 + fit_std**2 + floor**2
    deviations: NDArray[np.float64] = np.sqrt((difference**2 / variance).sum(axis=1))
    return deviations


def _enter_fits(
    result: peak_table.Table,
    fits: NDArray[np.void],
    fitted: NDArray[np.bool_],
    profiled: NDArray[np.bool_],
    corner: NDArray[np.float64],
    half: int,
    scale: int,
) -> NDArray[np.bool_]:
    """Fill the fit's variables and flags of `result`; return which peaks have a fit, shape (n,).

    `profiled` (n,) says which may have the intensity of their profile.
    """
    good = fits["converged"] & (np.hypot(fits["y"] - half, fits["x"] - half) <= MAX_OFFSET)
    converged = np.zeros(len(result), bool)
    converged[fitted] = good
    kept = fits[good]
    position = np.full(corner.shape, np.nan)
    position[converged] = unbinned(corner[converged] + np.column_stack([kept["y"], kept["x"]]), scale)
    result["y_fit"], result["x_fit"] = position.T
    for name, factor in {
        "y_fit_std": scale,
        "x_fit_std": scale,
        "fwhm_major": scale,
        "fwhm_minor": scale,
        "fwhm_major_std": scale,
        "fwhm_minor_std": scale,
        "amplitude": scale**-2,  # binned pixels are sums of bin² pixels
        "background": scale**-2,
        "angle": 1,
        "eta": 1,
        "chi2": 1,
    }.items():
        result[name][converged] = kept[name.replace("_fit", "")] * factor
    counted, rows = kept[profiled[converged]], np.flatnonzero(converged & profiled)
    result["intensity"][rows] = profile_counts(counted, 2 * half + 1)
    result["intensity_std"][rows] = counted["counts_std"]
    _flag(result, fitted & ~converged, Flag.fit_failed)
    # Not for a converged fit with eta at 0 or 1: half of all pseudo-Voigt fits of Gaussian peaks end there, and well.
    stuck = np.zeros(len(result), bool)
    stuck[fitted] = fits["at_bound"] & ~fits["converged"]
    _flag(result, stuck, Flag.at_bound)
    return converged


def _flag(table: peak_table.Table, where: NDArray[np.bool_], flag: Flag) -> None:
    table["flags"][where] |= np.uint16(flag)
