"""What networks learn from: simulated patches, each with the answer that it is to give.

The answer is not simply the truth. How far the truth lies from the best estimate that the photons allow is noise that
no network can learn, and it is far larger than the errors that training is to remove. So where a fit of the true kind
of profile reaches the information limit, the network is taught the fit's position; the fainter the peak, the more the
truth, because there an estimate that knows what peaks look like is better than the fit.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow.config import FitConfig
from braggflow.fit import fit_patches
from braggflow.simulate import PatchSimulation, SimulatedPatches, simulate_patches

#: Standard error of a fit, px, at which its position and the truth count the same.
_EQUAL_SHARES = 0.1
#: A fit further than this many standard errors from the truth found something else.
_NO_ERROR = 6.0
#: Added in quadrature to units of error, px, lest the brightest peaks rule; and the largest unit.
_FINEST, _COARSEST = 0.015, 1.0
#: Peaks that cannot be placed better than this, px, cannot be told from noise: they say nothing of the domain.
_HOPELESS = 0.5


class TrainingExamples(NamedTuple):
    """n patches with what is to be learned of them; offsets are (y, x) from the patch's centre, pixels."""

    photons: NDArray[np.float32]
    """(n, s, s)"""
    state: NDArray[np.uint8]
    """(n, s, s), as `patches.State`."""
    truth: NDArray[np.float32]
    """(n, 2) true offsets; 0 for an outlier."""
    target: NDArray[np.float32]
    """(n, 2) the offsets to learn."""
    unit: NDArray[np.float32]
    """(n, 2) about what the photons allow, px: what an error is measured in."""
    peak: NDArray[np.bool_]
    """(n,) False for an outlier."""
    telling: NDArray[np.bool_]
    """(n,) whether the patch says something of the domain."""


def simulate_examples(n: int, *, rng: np.random.Generator, config: PatchSimulation, size: int) -> TrainingExamples:
    """Simulate `n` patches of `size` and find what is to be learned of them; decided by the state of `rng` alone."""
    drawn = simulate_patches(n, rng=rng, config=config, size=size)
    photons = (drawn.counts / drawn.counts_per_photon[:, None, None]).astype(np.float32)
    peak = drawn.outlier < 0
    truth = np.where(peak[:, None], drawn.position, (size - 1) / 2)
    target, unit = _teach(drawn, photons, truth)
    centre = (size - 1) / 2
    return TrainingExamples(
        photons,
        drawn.state,
        (truth - centre).astype(np.float32),
        (target - centre).astype(np.float32),
        unit.astype(np.float32),
        peak,
        ~peak | (unit.max(axis=1) < _HOPELESS),
    )


def turned(examples: TrainingExamples, view: int) -> TrainingExamples:
    """The examples as seen from one of 8 sides: bit 0 of `view` exchanges y and x, bits 1 and 2 turn y and x round."""
    images: list[NDArray[Any]] = [examples.photons, examples.state]
    vectors, unit = [examples.truth, examples.target], examples.unit
    for axis in (0, 1):
        if view >> (axis + 1) & 1:
            images = [np.flip(image, axis + 1) for image in images]
            vectors = [vector * np.where(np.arange(2) == axis, -1, 1).astype(np.float32) for vector in vectors]
    if view & 1:
        images = [image.transpose(0, 2, 1) for image in images]
        vectors, unit = [vector[:, ::-1] for vector in vectors], unit[:, ::-1]
    photons, state, truth, target, unit = (np.ascontiguousarray(part) for part in (*images, *vectors, unit))
    return examples._replace(photons=photons, state=state, truth=truth, target=target, unit=unit)


def examples_from_fits(
    photons: NDArray[np.float32],
    state: NDArray[np.uint8],
    offset: NDArray[np.float64],
    std: NDArray[np.float64],
    *,
    rng: np.random.Generator,
) -> TrainingExamples:
    """A examples of n real peaks, of which fits are all that is known: `offset` and `std` (n, 2), as (y, x) in pixels.

    The fit's position is the target. The truth, which stated errors are held against, is drawn from what the fit says
    of it: an answer near the fit's proves no small error, as both saw the same photons.
    """
    truth = offset + std * rng.standard_normal(offset.shape)
    unit = np.hypot(std, _FINEST).clip(max=_COARSEST)
    return TrainingExamples(
        photons,
        state,
        truth.astype(np.float32),
        offset.astype(np.float32),
        unit.astype(np.float32),
        np.ones(len(photons), bool),
        unit.max(axis=1) < _HOPELESS,
    )


def join_examples(*examples: TrainingExamples) -> TrainingExamples:
    """The patches of several sets as one."""
    return TrainingExamples(*(np.concatenate(parts) for parts in zip(*examples, strict=True)))


def _teach(
    drawn: SimulatedPatches, photons: NDArray[np.float32], truth: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions to learn and units, each (n, 2)."""
    target, unit = truth.copy(), np.repeat(expected_error(drawn)[:, None], 2, axis=1)
    # With read noise of variance r² added to the photons, a pixel's variance is its mean again.
    shifted = photons + (drawn.read_noise**2)[:, None, None].astype(np.float32)
    for model in ("gaussian", "pseudo_voigt"):
        rows = np.flatnonzero(drawn.plain & ((drawn.profiles["eta"] > 0) == (model == "pseudo_voigt")))
        fits = fit_patches(shifted[rows], drawn.state[rows], drawn.maxima[rows], FitConfig(model=model))
        position = np.stack([fits["y"], fits["x"]], axis=1)
        std = np.stack([fits["y_std"], fits["x_std"]], axis=1)
        good = fits["converged"] & (np.abs(position - truth[rows]) <= _NO_ERROR * std).all(axis=1)
        rows, position, std = rows[good], position[good], std[good]
        trust = 1 / (1 + (std / _EQUAL_SHARES) ** 2)
        target[rows] = truth[rows] + trust * (position - truth[rows])
        unit[rows] = std
    return target, np.hypot(unit, _FINEST).clip(max=_COARSEST)


def expected_error(drawn: SimulatedPatches) -> NDArray[np.float64]:
    """About the standard error of a position, (n,) pixels, for whole patches.

    Source: Thompson, Larson & Webb (2002), Biophys. J. 82, 2775, eq. 14 with a pixel's variance left out.
    """
    profiles = drawn.profiles
    variance = profiles["sigma_major"] * profiles["sigma_minor"]
    total = 2 * np.pi * profiles["height"] * variance
    background = profiles["background"] + drawn.read_noise**2
    return np.asarray(np.sqrt(variance / total + 8 * np.pi * variance**2 * background / total**2))
