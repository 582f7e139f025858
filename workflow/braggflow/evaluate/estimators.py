"""The ways of placing a peak in its patch, all called alike: networks, fits, the centroid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow import patches
from braggflow.config import FitConfig, LocateConfig
from braggflow.detect import measure_patches
from braggflow.errors import InputError
from braggflow.fit import fit_patches
from braggflow.locate import IN_DOMAIN, NETWORKS, Localiser, load_localiser, locate_patches, shipped_sizes
from braggflow.patches import State
from braggflow.pipeline import MAX_OFFSET
from braggflow.simulate import SimulatedPatches


class Estimate(NamedTuple):
    """What a method says of n patches."""

    positions: NDArray[np.float64]
    """(n, 2) as (y, x) in pixels of the patch (0 is the first pixel's centre); NaN where it found none."""
    std: NDArray[np.floating[Any]]
    """(n, 2) stated standard errors, pixels; NaN where none is stated."""
    flagged: NDArray[np.bool_]
    """(n,) where it says that this is no peak of the kind it is for."""


@dataclass(frozen=True, slots=True)
class Estimator:
    """A way of placing peaks."""

    name: str
    locate: Callable[[SimulatedPatches], Estimate]
    localiser: Localiser | None = None
    """The network, where it is one."""


#: The networks; the fit together with the neighbours; the fit of the peak alone, the neighbours' pixels left out; the
#: centre of mass.
ESTIMATORS = (*NETWORKS, "fit", "fit_excluding", "centroid")


def select_estimators(
    names: Sequence[str], weights: Sequence[str], settings: LocateConfig, *, size: int
) -> list[Estimator]:
    """The estimators `names` (of `ESTIMATORS`), and the networks in the files `weights`, called as these.

    No names: the networks shipped for patches of `size`, the fit and the centroid. Of `settings`, `device` is used.
    Raises `InputError` for another name, one given twice, and weights that are not there or do not fit.
    """

    def loaded(name: str, network: str) -> Estimator:
        return network_estimator(name, load_localiser(settings.model_copy(update={"network": network}), size))

    by_name = {"fit": fitted, "fit_excluding": fitted_alone, "centroid": centroid}
    shipped = [name for name, sizes in shipped_sizes().items() if size in sizes]
    methods = []
    for name in names or (*reversed(shipped), "fit", "centroid"):
        if name not in ESTIMATORS:
            raise InputError(f"--method {name}: must be {', '.join(ESTIMATORS)}")
        methods.append(Estimator(name, by_name[name]) if name in by_name else loaded(name, name))
    methods += [loaded(Path(file).stem, file) for file in weights]
    taken = [method.name for method in methods]
    if twice := {name for name in taken if taken.count(name) > 1}:
        raise InputError(f"--method, --weights: {', '.join(sorted(twice))} is given twice; names must differ")
    return methods


def network_estimator(name: str, localiser: Localiser) -> Estimator:
    """A network as an estimator."""
    return Estimator(name, partial(_ask, localiser), localiser)


def _ask(localiser: Localiser, drawn: SimulatedPatches) -> Estimate:
    located = locate_patches(localiser, drawn.counts, drawn.state)
    flagged = _is_far(located.positions, localiser.size) | (located.domain < IN_DOMAIN)
    return Estimate(located.positions, located.std, flagged)


def _is_far(positions: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """Where a position is further from the maximum than the peak table accepts, (n,)."""
    return np.asarray(np.linalg.norm(positions - size // 2, axis=1) > MAX_OFFSET)


def fitted(drawn: SimulatedPatches) -> Estimate:
    """The fit of the true kind of profile, joint with the neighbours' profiles."""
    model = "pseudo_voigt" if (drawn.profiles["eta"] > 0).any() else "gaussian"
    fits = fit_patches(drawn.counts, drawn.state, drawn.maxima, FitConfig.model_validate({"model": model}))
    positions = np.stack([fits["y"], fits["x"]], axis=1)
    positions[~fits["converged"] | _is_far(positions, drawn.counts.shape[1])] = np.nan
    return Estimate(positions, np.stack([fits["y_std"], fits["x_std"]], axis=1), np.zeros(len(drawn), bool))


def fitted_alone(drawn: SimulatedPatches) -> Estimate:
    """The fit of the peak without its neighbours, to the pixels that are nearer to it than to one of them."""
    foreign = patches.others(drawn.maxima, drawn.counts.shape[1])
    counts = np.where(foreign, np.float32(0), drawn.counts)
    state = np.where(foreign, np.uint8(State.MISSING), drawn.state)
    return fitted(replace(drawn, counts=counts, state=state, maxima=np.full_like(drawn.maxima, np.nan)))


def centroid(drawn: SimulatedPatches) -> Estimate:
    """The centre of mass as in the peak table: of the peak's own pixels, above a fifth of the maximum."""
    *_, positions = measure_patches(drawn.counts, drawn.state, drawn.maxima, 1.0, 0.0)
    return Estimate(positions, np.full((len(drawn), 2), np.nan), np.zeros(len(drawn), bool))
