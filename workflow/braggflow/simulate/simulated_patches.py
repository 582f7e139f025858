"""Simulated patches: what a detector shows around a maximum, with known truth. For training and for evaluation alike.

A patch holds a peak on a background, and, as often as the settings say: neighbouring peaks, a sloping background, a
weak tail, missing pixels (a frame's edge, a module gap, dead pixels), a saturated core, read noise, a gain, and pixels
cut off below a threshold. Some patches hold no peak of that kind at all: an outlier (`OUTLIERS`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from braggflow.config import Section
from braggflow.errors import InputError
from braggflow.patches import MAX_NEIGHBOURS, State, others
from braggflow.simulate.profiles import PROFILE_DTYPE, Profiles, expected_patches


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"must be (low, high), is {limits}")
    return limits


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Share = Annotated[float, Field(ge=0, le=1)]

#: What is no single peak: a stretch of a powder ring, a hot pixel, a cosmic ray's track, the highest pixel of nothing
#: but background, two peaks within 2 px of each other that are two to the eye.
Outlier = Literal["arc", "hot_pixel", "zinger", "empty", "double"]
OUTLIERS: tuple[Outlier, ...] = get_args(Outlier)
#: Longest sigma_major drawn, px: a longer peak is flat across a patch.
MAX_SIGMA_MAJOR = 5.0
#: Neighbours drawn in one patch, at most.
_NEIGHBOURS = 2
#: Two peaks are two maxima where the line between them dips by this share of the lower one, and by this many standard
#: deviations of the noise there.
_DIP_SHARE, _DIP_SIGMA = 0.1, 3.0
#: Times that peak and neighbours are drawn again before that is taken for hopeless.
_ROUNDS = 500
#: Patches worked on at a time, so that what lies between is small enough to stay in the processor's cache.
_BATCH = 1000


class PatchSimulation(Section):
    """What patches are drawn from. The defaults are what networks are trained on.

    They are wider than every class of `CLASSES`, so that no test peak lies at the rim of what was seen. Ranges are
    (low, high): sigma, height and background are log-uniform in them, the rest uniform.
    """

    sigma: Range = Field((0.45, 3.2), description="sigma_minor, px")
    ratio: Range = Field((1.0, 2.7), description="sigma_major / sigma_minor")
    height: Range = Field((15.0, 6000.0), description="photons above background, of the peak and of its neighbours")
    eta: Range = Field((0.0, 1.0), description="Lorentzian fraction")
    gaussian_share: Share = Field(0.5, description="of peaks with eta 0")
    background: Range = Field((0.3, 60.0), description="photons a pixel")
    dark_share: Share = Field(0.1, description="of peaks with background 0")
    offset: float = Field(1.5, gt=0, description="largest distance of the centre from the patch's along an axis, px")
    centred_share: Share = Field(0.75, description="of peaks within half of that: a maximum is the brightest pixel")
    neighbour_share: Share = Field(0.2, description="of patches with one or two more peaks, all of them resolved")
    neighbour_distance: Range = Field((3.0, 8.0), description="of neighbours, px")
    gradient_share: Share = Field(0.1, description="of patches whose background slopes")
    gradient: float = Field(0.05, ge=0, description="largest slope, share of the background a pixel")
    tail_share: Share = Field(0.05, description="of peaks with a weak tail")
    tail: float = Field(0.1, ge=0, description="largest height of the tail, share of the peak's, one sigma beside it")
    missing_share: Share = Field(0.12, description="of patches with missing pixels: beyond a line, in a band, or dead")
    edge: Range | None = Field(None, description="cut every patch at this distance from its centre, px")
    saturated_share: Share = Field(0.06, description="of patches with a saturated core")
    saturation: Range = Field((0.3, 0.9), description="level of saturation, share of the highest pixel")
    noisy_share: Share = Field(0.25, description="of patches with read noise")
    read_noise: float = Field(5.0, ge=0, description="largest standard deviation of the read noise, photons")
    counts_per_photon: Range = Field((1.0, 1.0), description="counts per photon, log-uniform")
    cut_off_share: Share = Field(0.1, description="of patches whose low pixels are 0, as detectors that threshold give")
    outlier_share: Share = Field(0.18, description="of patches with no peak of this kind")
    outliers: tuple[Outlier, ...] = Field(
        (*OUTLIERS, "double", "double"), min_length=1, description="kinds of them: each entry equally often"
    )


_PLAIN: dict[str, Any] = {name: 0.0 for name in PatchSimulation.model_fields if name.endswith("_share")}
_PLAIN |= {"ratio": (1.0, 1.5), "height": (100.0, 2000.0), "background": (0.5, 30.0), "offset": 0.7, "eta": (0.0, 0.0)}
_OF_CLASS: dict[str, dict[str, Any]] = {
    "sharp": {"sigma": (0.5, 0.9)},
    "sampled": {"sigma": (0.9, 1.8)},
    "broad": {"sigma": (1.8, 3.0)},
    "elongated": {"sigma": (0.7, 1.4), "ratio": (1.8, 2.5)},
    "pseudo_voigt": {"sigma": (0.7, 1.8), "eta": (0.2, 0.8)},
    "faint": {"sigma": (0.7, 1.8), "height": (20.0, 100.0)},
    "neighbour": {"sigma": (0.7, 1.8), "neighbour_share": 1.0, "neighbour_distance": (4.0, 8.0)},
    "edge": {"sigma": (0.7, 1.8), "edge": (1.0, 5.0)},
    "saturated": {"sigma": (0.7, 1.8), "saturated_share": 1.0},
}
#: What localisers are tested on. The centre is within 0.7 px of the patch's: a detected maximum is the brightest pixel.
CLASSES: Mapping[str, PatchSimulation] = MappingProxyType(
    {name: PatchSimulation(**{**_PLAIN, **changed}) for name, changed in _OF_CLASS.items()}
)


def outlier_class(kind: Outlier) -> PatchSimulation:
    """Patches of one kind of outlier only, otherwise drawn as the classes are."""
    return PatchSimulation(**{**_PLAIN, "sigma": (0.7, 1.8), "outlier_share": 1.0, "outliers": (kind,)})


@dataclass(frozen=True, slots=True)
class SimulatedPatches:
    """n simulated patches and their truth; positions in pixels of the patch (0 is the first pixel's centre)."""

    counts: NDArray[np.float32]
    """(n, s, s) detector counts, 0 where missing."""
    state: NDArray[np.uint8]
    """(n, s, s), as `patches.State`."""
    maxima: NDArray[np.float32]
    """(n, `patches.MAX_NEIGHBOURS`, 2) pixels (dy, dx) of the neighbours' maxima from the centre pixel; NaN: none."""
    position: NDArray[np.float64]
    """(n, 2) centre of mass (y, x) of the peak, its tail included; NaN for an outlier."""
    profiles: Profiles
    """(n,) of the peak (an outlier: of what it was drawn from), heights in photons."""
    neighbours: Profiles
    """(n, 2) of the neighbours, background 0; height 0: none."""
    outlier: NDArray[np.int8]
    """(n,) index into `OUTLIERS`; -1: a peak."""
    plain: NDArray[np.bool_]
    """(n,) True where the patch is profiles on a constant background, as a fit assumes."""
    read_noise: NDArray[np.float64]
    """(n,) standard deviation, photons."""
    counts_per_photon: NDArray[np.float64]
    """(n,) counts per photon."""

    def __len__(self) -> int:
        return len(self.counts)


def simulate_patches(
    n: int, *, rng: np.random.Generator, config: PatchSimulation | None = None, size: int = 11
) -> SimulatedPatches:
    """Draw `n` patches of `size` pixels on a side; the same state of `rng` gives the same patches."""
    config = PatchSimulation() if config is None else config
    blocks = [_simulate(min(_BATCH, n - start), rng, config, size) for start in range(0, n, _BATCH)]
    return _join(blocks or [_simulate(0, rng, config, size)])


def _join(blocks: Sequence[SimulatedPatches]) -> SimulatedPatches:
    if len(blocks) == 1:
        return blocks[0]
    return SimulatedPatches(
        *(np.concatenate([getattr(block, field.name) for block in blocks]) for field in fields(SimulatedPatches))
    )


def _simulate(n: int, rng: np.random.Generator, config: PatchSimulation, size: int) -> SimulatedPatches:
    profiles = sample_profiles(n, rng=rng, config=config, size=size)
    expected = expected_patches(profiles, size)
    neighbours = np.zeros((n, _NEIGHBOURS), PROFILE_DTYPE)
    crowded = np.flatnonzero(rng.random(n) < config.neighbour_share)
    _add_neighbours(crowded, profiles, neighbours, expected, rng, config, size)
    position = np.stack([profiles["y"], profiles["x"]], axis=1)

    plain = np.ones(n, bool)
    tailed = np.flatnonzero(rng.random(n) < config.tail_share)
    _add_tails(tailed, profiles, position, expected, rng, config, size)
    sloping = np.flatnonzero(rng.random(n) < config.gradient_share)
    plane = _coordinates(size) * rng.uniform(-config.gradient, config.gradient, (len(sloping), 2, 1, 1))
    expected[sloping] += profiles["background"][sloping, None, None] * plane.sum(axis=1)
    plain[tailed] = plain[sloping] = False

    maxima = np.full((n, MAX_NEIGHBOURS, 2), np.nan, np.float32)
    places = np.stack([neighbours["y"], neighbours["x"]], axis=2)
    there = neighbours["height"] > 0
    maxima[:, :_NEIGHBOURS][there] = np.round(places[there]) - size // 2
    # Nearest first, as `patches` lists them.
    order = np.argsort(np.where(np.isnan(maxima[..., 0]), np.inf, (maxima**2).sum(axis=2)), axis=1, kind="stable")
    maxima = np.take_along_axis(maxima, order[..., None], axis=1)

    outlier = np.full(n, -1, np.int8)
    odd = np.flatnonzero(rng.random(n) < config.outlier_share)
    outlier[odd] = [OUTLIERS.index(config.outliers[k]) for k in rng.integers(len(config.outliers), size=len(odd))]
    expected[odd] = _outliers(outlier[odd], profiles[odd], rng, size)
    neighbours["height"][odd] = 0
    maxima[odd] = np.nan
    position[odd] = np.nan
    plain[odd] = False

    photons = rng.poisson(np.maximum(expected, 0)).astype(np.float32)
    read_noise = np.where(rng.random(n) < config.noisy_share, rng.uniform(0, config.read_noise, n), 0)
    noisy = np.flatnonzero(read_noise)
    photons[noisy] += read_noise[noisy, None, None] * rng.standard_normal((len(noisy), size, size), np.float32)
    _put_maximum_in_centre(photons, np.flatnonzero(outlier == OUTLIERS.index("empty")))
    counts_per_photon = _log_uniform(rng, config.counts_per_photon, n)
    counts = photons * counts_per_photon[:, None, None].astype(np.float32)

    state = np.where(others(maxima, size), np.uint8(State.OTHER), np.uint8(State.OWN))
    full = np.flatnonzero(rng.random(n) < config.saturated_share)
    level = rng.uniform(*config.saturation, len(full)) * (
        counts_per_photon[full] * expected[full].max(axis=(1, 2), initial=0)
    )
    counts[full] = np.minimum(counts[full], level[:, None, None])
    state[full] = np.where(counts[full] >= level[:, None, None].astype(np.float32), State.FULL, state[full])
    cut = np.flatnonzero(rng.random(n) < config.cut_off_share)
    counts[cut] = _cut_off(counts[cut], rng)
    plain[cut] = False
    state[missing_pixels(n, rng=rng, config=config, size=size)] = State.MISSING
    counts[state == State.MISSING] = 0
    return SimulatedPatches(
        counts, state, maxima, position, profiles, neighbours, outlier, plain, read_noise, counts_per_photon
    )


def sample_profiles(
    n: int, *, rng: np.random.Generator, config: PatchSimulation | None = None, size: int = 11
) -> Profiles:
    """Draw the profiles of `n` peaks, positions in pixels of a patch of `size`; shape (n,), dtype `PROFILE_DTYPE`."""
    config = PatchSimulation() if config is None else config
    profiles = np.empty(n, PROFILE_DTYPE)
    sigma = _log_uniform(rng, config.sigma, n)
    profiles["sigma_minor"] = sigma
    profiles["sigma_major"] = np.maximum(sigma, np.minimum(sigma * rng.uniform(*config.ratio, n), MAX_SIGMA_MAJOR))
    profiles["angle"] = 90 - 180 * rng.random(n)
    profiles["height"] = _log_uniform(rng, config.height, n)
    profiles["eta"] = np.where(rng.random(n) < config.gaussian_share, 0, rng.uniform(*config.eta, n))
    profiles["background"] = np.where(rng.random(n) < config.dark_share, 0, _log_uniform(rng, config.background, n))
    reach = np.where(rng.random(n) < config.centred_share, config.offset / 2, config.offset)
    for axis in "yx":
        profiles[axis] = (size - 1) / 2 + reach * rng.uniform(-1, 1, n)
    return profiles


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float], n: int) -> NDArray[np.float64]:
    return np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), n))


def _add_neighbours(
    rows: NDArray[np.int64],
    profiles: Profiles,
    neighbours: Profiles,
    expected: NDArray[np.float64],
    rng: np.random.Generator,
    config: PatchSimulation,
    size: int,
) -> None:
    """Give patches one or two neighbours of the peak's kind; where they hide it, or it them, draw all of them again."""
    for _ in range(_ROUNDS):
        if not len(rows):
            return
        shape = (len(rows), _NEIGHBOURS)
        drawn = np.repeat(profiles[rows, None], _NEIGHBOURS, axis=1)
        drawn["background"] = 0
        drawn["height"] = _log_uniform(rng, config.height, drawn.size).reshape(shape)
        drawn["height"][:, 1:] *= rng.random((len(rows), _NEIGHBOURS - 1)) < 0.25
        distance, direction = rng.uniform(*config.neighbour_distance, shape), rng.uniform(0, 2 * np.pi, shape)
        drawn["y"] += distance * np.sin(direction)
        drawn["x"] += distance * np.cos(direction)
        drawn["angle"] = 90 - 180 * rng.random(shape)
        drawn["sigma_minor"] = np.clip(drawn["sigma_minor"] * np.exp(rng.uniform(-0.2, 0.2, shape)), *config.sigma)
        longest = drawn["sigma_minor"] * rng.uniform(*config.ratio, shape)
        drawn["sigma_major"] = np.maximum(drawn["sigma_minor"], np.minimum(longest, MAX_SIGMA_MAJOR))
        together = expected_patches(profiles[rows], size)
        for k in range(_NEIGHBOURS):
            together += expected_patches(drawn[:, k], size)
        good = _resolved(together, profiles[rows], drawn, size)
        neighbours[rows[good]], expected[rows[good]] = drawn[good], together[good]
        rows = rows[~good]
        profiles[rows] = sample_profiles(len(rows), rng=rng, config=config, size=size)
    raise InputError(
        f"neighbour_distance: {config.neighbour_distance} px leaves peaks of sigma {config.sigma} px and height "
        f"{config.height} hardly ever two maxima; neighbours must be further away, peaks sharper or higher"
    )


def _resolved(expected: NDArray[np.float64], profiles: Profiles, neighbours: Profiles, size: int) -> NDArray[np.bool_]:
    """Whether the peak, and each neighbour within the patch, are maxima of their own (n,)."""
    own = np.stack([profiles["y"], profiles["x"]], axis=1)
    background = profiles["background"]
    good = np.ones(len(profiles), bool)
    for k in range(neighbours.shape[1]):
        there = neighbours[:, k]["height"] > 0
        other = np.stack([neighbours[:, k]["y"], neighbours[:, k]["x"]], axis=1)
        line = own[:, None] + np.linspace(0, 1, 17)[:, None] * (other - own)[:, None]  # (n, 17, 2)
        pixel = np.round(line).astype(int)
        inside = ((pixel >= 0) & (pixel < size)).all(axis=2)
        pixel = pixel.clip(0, size - 1)
        level = np.where(inside, expected[np.arange(len(own))[:, None], pixel[..., 0], pixel[..., 1]], np.inf)
        saddle = level.min(axis=1)
        lower = np.where(inside[:, -1], np.minimum(level[:, 0], level[:, -1]), level[:, 0])
        dip = np.maximum(_DIP_SHARE * (lower - background), _DIP_SIGMA * np.sqrt(saddle))
        good &= ~there | (lower - saddle > dip)
    return good


def _add_tails(
    rows: NDArray[np.int64],
    profiles: Profiles,
    position: NDArray[np.float64],
    expected: NDArray[np.float64],
    rng: np.random.Generator,
    config: PatchSimulation,
    size: int,
) -> None:
    """Add a weak copy of the peak beside it and move the position to their centre of mass."""
    tails = profiles[rows]
    share, direction = rng.uniform(0, config.tail, len(rows)), rng.uniform(0, 2 * np.pi, len(rows))
    shift = tails["sigma_minor"] * np.stack([np.sin(direction), np.cos(direction)])
    tails["height"] *= share
    tails["background"] = 0
    tails["y"] += shift[0]
    tails["x"] += shift[1]
    expected[rows] += expected_patches(tails, size)
    position[rows] += (share / (1 + share) * shift).T


def _outliers(kinds: NDArray[np.int8], profiles: Profiles, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Expected photons of outliers (n, size, size), each with height and background of a profile."""
    n = len(kinds)
    background, height = profiles["background"], profiles["height"]
    # Below this nothing tells a hot pixel or a track from noise.
    bright = np.maximum(height, 10 * np.sqrt(background + 1))
    offset = _coordinates(size) - (np.stack([profiles["y"], profiles["x"]], axis=1) - (size - 1) / 2)[:, :, None, None]
    expected = np.broadcast_to(background[:, None, None], (n, size, size)).copy()

    of = np.flatnonzero(kinds == OUTLIERS.index("arc"))
    radius, direction = _log_uniform(rng, (30, 500), len(of)), rng.uniform(0, 2 * np.pi, len(of))
    centre = radius[:, None] * np.stack([np.sin(direction), np.cos(direction)], axis=1)
    from_ring = np.hypot(*np.moveaxis(offset[of] - centre[:, :, None, None], 1, 0)) - radius[:, None, None]
    width = _log_uniform(rng, (0.7, 2.5), len(of))[:, None, None]
    expected[of] += bright[of, None, None] * np.exp(-0.5 * (from_ring / width) ** 2)

    of = np.flatnonzero(kinds == OUTLIERS.index("hot_pixel"))
    expected[of, size // 2, size // 2] += bright[of]

    of = np.flatnonzero(kinds == OUTLIERS.index("zinger"))
    direction, length = rng.uniform(0, np.pi, len(of)), rng.uniform(2, 8, len(of))
    along = length[:, None] * np.linspace(-0.5, 0.5, 17) + rng.uniform(-1, 1, (len(of), 1))
    y, x = (
        np.clip(np.round(size // 2 + along * part[:, None]).astype(int), 0, size - 1)
        for part in (np.sin(direction), np.cos(direction))
    )
    # A pixel that the track crosses gets an energy of its own.
    energy = bright[of, None, None] * rng.exponential(1, (len(of), size, size))
    crossed = np.zeros((len(of), size, size), bool)
    crossed[np.arange(len(of))[:, None], y, x] = True
    expected[of] += np.where(crossed, np.maximum(energy, 0.3 * bright[of, None, None]), 0)

    of = np.flatnonzero(kinds == OUTLIERS.index("double"))
    first = profiles[of].copy()
    distance, direction = rng.uniform(1.2, 2.0, len(of)), rng.uniform(0, 2 * np.pi, len(of))
    # Two to the eye: 2.4 sigma apart or more.
    first["sigma_minor"] = distance / rng.uniform(2.4, 4.0, len(of))
    first["sigma_major"] = first["sigma_minor"] * rng.uniform(1, 1.2, len(of))
    first["height"], first["eta"], first["background"] = np.maximum(bright[of], 100), 0, 0
    for axis in "yx":  # the brighter one is the maximum that was detected
        first[axis] = (size - 1) / 2 + rng.uniform(-0.5, 0.5, len(of))
    second = first.copy()
    second["height"] *= rng.uniform(0.4, 1, len(of))
    second["y"] += distance * np.sin(direction)
    second["x"] += distance * np.cos(direction)
    expected[of] += expected_patches(first, size) + expected_patches(second, size)
    return expected


def _coordinates(size: int) -> NDArray[np.float64]:
    """(2, size, size): y and x of the pixels from the patch's centre."""
    return np.mgrid[:size, :size] - (size - 1) / 2


def _put_maximum_in_centre(photons: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    """Swap the centre pixel with the highest of the 5 × 5 around it: what a detection of noise looks like."""
    half = photons.shape[1] // 2
    core = photons[rows, half - 2 : half + 3, half - 2 : half + 3].reshape(-1, 25)
    place, row = core.argmax(axis=1), np.arange(len(core))
    core[row, 12], core[row, place] = core[row, place], core[row, 12]
    photons[rows, half - 2 : half + 3, half - 2 : half + 3] = core.reshape(-1, 5, 5)


def _cut_off(counts: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Patches with the pixels below a level, at most 0.3 of each patch's range, set to 0."""
    low, high = counts.min((1, 2), keepdims=True), counts.max((1, 2), keepdims=True)
    level = low + rng.uniform(0, 0.3, low.shape) * (high - low)
    return np.where(counts < level, np.float32(0), counts)


def missing_pixels(n: int, *, rng: np.random.Generator, config: PatchSimulation, size: int) -> NDArray[np.bool_]:
    """Which pixels of n patches are missing, (n, size, size): beyond a line, in a band, or dead; never the centre.

    Half of the lines are along an axis (a frame's edge, a module gap), the others any way (a beam stop). With
    `config.edge`, every patch is cut along an axis at such a distance, and nothing else is missing.
    """
    half = size // 2
    y, x = _coordinates(size)
    chosen = rng.random((n, 1, 1)) < config.missing_share
    angle = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    along_axis = (rng.random((n, 1, 1)) < 0.5) | (config.edge is not None)
    angle = np.where(along_axis, np.round(angle / (np.pi / 2)) * (np.pi / 2), angle)
    distance = y * np.sin(angle) + x * np.cos(angle)
    if config.edge is not None:
        return np.asarray(distance > rng.uniform(*config.edge, (n, 1, 1)))
    near = rng.uniform(0.5, half, (n, 1, 1))
    width = np.where(rng.random((n, 1, 1)) < 0.3, rng.integers(1, 4, (n, 1, 1)), np.inf)
    missing = (distance > near) & (distance <= near + width)
    dead = (rng.random((n, 1, 1)) < 0.2) & (rng.random(missing.shape) < 0.02)
    dead[:, half, half] = False
    return np.asarray(chosen & (missing | dead))
