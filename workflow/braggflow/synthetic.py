"""Simulated peaks with known truth: pixel-integrated profiles, noisy patches, the information limit.

A profile's height is that of the continuous curve at its centre, above background; a pixel holds the integral of the
curve over its area (pixel centres at whole numbers), so the brightest pixel of a sharp peak lies below the height.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

#: One peak. y, x, sigma_major, sigma_minor in pixels, angle in degrees from +x towards +y in (-90, 90], height and
#: background in counts, eta the Lorentzian fraction. A pseudo-Voigt's sigma is its common FWHM / `FWHM_PER_SIGMA`.
PROFILE_DTYPE = np.dtype(
    [(name, "f8") for name in ("y", "x", "height", "sigma_major", "sigma_minor", "angle", "eta", "background")]
)
Profiles = NDArray[np.void]

FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))
#: Beyond this many sigma a Gaussian (1.5e-8 of its height there) is not drawn.
GAUSSIAN_RADIUS = 6.0
#: Beyond this many sigma a Lorentzian (5.5e-4 of its height there) is not drawn on frames; patches hold all of it.
LORENTZIAN_RADIUS = 50.0

# Gauss–Legendre nodes per pixel and axis by sigma_minor: (lowest sigma, Gaussian's nodes, Lorentzian's nodes). They
# keep the pixel integral within 1e-4 of the height. A Lorentzian is rougher than the Gaussian of its FWHM.
_NODES_BY_SIGMA = ((2.0, 2, 3), (1.2, 3, 3), (0.8, 3, 4), (0.6, 4, 5), (0.45, 4, 6), (0.3, 6, 7), (0.0, 16, 16))


def _gauss_legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights on a pixel (-0.5 to 0.5); row n holds the rule of n nodes, padded with zeros."""
    nodes, weights = np.zeros((17, 16)), np.zeros((17, 16))
    for n in range(1, 17):
        nodes[n, :n], weights[n, :n] = np.polynomial.legendre.leggauss(n)
    return nodes / 2, weights / 2


_NODES, _WEIGHTS = _gauss_legendre()


@numba.njit(inline="always")
def _exp_minus(u: float) -> float:
    """exp(-u) for u >= 0, to 1e-8 relative up to u = 40 and held at exp(-40) beyond.

    A polynomial and eight squarings: unlike a call of exp, the compiler can do several pixels at a time.
    """
    t = min(u, 40.0) * (-1 / 256)
    p = 1.0 + t * (1.0 + t * (1 / 2 + t * (1 / 6 + t * (1 / 24 + t * (1 / 120 + t * (1 / 720 + t * (1 / 5040)))))))
    return p**256


@numba.njit(cache=True, fastmath={"contract"})
def _add_profile(
    image: NDArray[np.float64], p: Any, gaussian_nodes: int, lorentzian_nodes: int, lorentzian_radius: float
) -> None:
    """Add one pixel-integrated profile to the image, its own background left out."""
    cosine, sine = np.cos(np.radians(p.angle)), np.sin(np.radians(p.angle))
    along, across = 1 / p.sigma_major**2, 1 / p.sigma_minor**2
    extent_y = np.sqrt((p.sigma_major * sine) ** 2 + (p.sigma_minor * cosine) ** 2)
    extent_x = np.sqrt((p.sigma_major * cosine) ** 2 + (p.sigma_minor * sine) ** 2)
    for lorentzian in range(2):
        height = p.height * (p.eta if lorentzian else 1 - p.eta)
        if height == 0:
            continue
        n = lorentzian_nodes if lorentzian else gaussian_nodes
        radius = lorentzian_radius if lorentzian else GAUSSIAN_RADIUS
        top = int(max(0.0, np.ceil(p.y - radius * extent_y - 0.5)))
        bottom = int(min(image.shape[0] - 1.0, np.floor(p.y + radius * extent_y + 0.5)))
        left = int(max(0.0, np.ceil(p.x - radius * extent_x - 0.5)))
        right = int(min(image.shape[1] - 1.0, np.floor(p.x + radius * extent_x + 0.5)))
        if bottom < top or right < left:
            continue
        # All pixels of the window in one line: long enough for the compiler to do several at a time.
        width = right - left + 1
        dy0, dx0 = np.empty((bottom - top + 1) * width), np.empty((bottom - top + 1) * width)
        for k in range(len(dy0)):
            dy0[k], dx0[k] = top + k // width - p.y, left + k % width - p.x
        counts = np.zeros(len(dy0))
        # u = a dx² + b dx dy + c dy²: half the squared radius in sigma, or the squared radius in half widths.
        unit = 1 / (2 * np.log(2)) if lorentzian else 0.5
        a = unit * (cosine**2 * along + sine**2 * across)
        b = unit * 2 * cosine * sine * (along - across)
        c = unit * (sine**2 * along + cosine**2 * across)
        for j in range(n):
            for i in range(n):
                weight = height * _WEIGHTS[n, j] * _WEIGHTS[n, i]
                shift_y, shift_x = _NODES[n, j], _NODES[n, i]
                if lorentzian:
                    for k in range(len(counts)):
                        dy, dx = dy0[k] + shift_y, dx0[k] + shift_x
                        counts[k] += weight / (1 + a * dx * dx + b * dx * dy + c * dy * dy)
                else:
                    for k in range(len(counts)):
                        dy, dx = dy0[k] + shift_y, dx0[k] + shift_x
                        counts[k] += weight * _exp_minus(a * dx * dx + b * dx * dy + c * dy * dy)
        image[top : bottom + 1, left : right + 1] += counts.reshape(bottom - top + 1, width)


@numba.njit(cache=True)
def _add_profiles(image: NDArray[np.float64], profiles: Profiles, nodes: NDArray[np.int64], radius: float) -> None:
    for k in range(len(profiles)):
        _add_profile(image, profiles[k], nodes[k, 0], nodes[k, 1], radius)


@numba.njit(cache=True)
def _fill_patches(patches: NDArray[np.float64], profiles: Profiles, nodes: NDArray[np.int64]) -> None:
    for k in range(len(profiles)):
        patches[k] = profiles[k].background
        _add_profile(patches[k], profiles[k], nodes[k, 0], nodes[k, 1], np.inf)


def _node_counts(profiles: Profiles) -> NDArray[np.int64]:
    """Nodes per pixel and axis, shape (n, 2): the Gaussian's, the Lorentzian's."""
    limits = np.array([row[0] for row in _NODES_BY_SIGMA])
    counts = np.array([row[1:] for row in _NODES_BY_SIGMA])
    return np.asarray(counts[np.argmax(profiles["sigma_minor"][:, None] >= limits, axis=1)])


def render(shape: tuple[int, int], profiles: Profiles, *, background: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Expected counts of a frame: the pixel-integrated profiles, summed, on a background.

    `profiles` has dtype `PROFILE_DTYPE`; their own `background` is not drawn. `background` is one number or an array
    of `shape`. Returns (y, x) counts. Each profile is (1 - eta) Gaussian + eta Lorentzian of one FWHM, a function of
    the elliptical radius, within 1e-4 of its height for sigma_minor >= 0.2. Gaussians are drawn out to
    `GAUSSIAN_RADIUS` sigma, Lorentzians to `LORENTZIAN_RADIUS`.
    """
    image = np.empty(shape)
    image[...] = background
    _add_profiles(image, profiles, _node_counts(profiles), LORENTZIAN_RADIUS)
    return image


def expected_patches(profiles: Profiles, size: int) -> NDArray[np.float64]:
    """Expected counts of one patch a profile, its background included, shape (n, size, size).

    Each profile's `y`, `x` are in pixels of its patch (0 to size - 1). Lorentzian tails are not cut.
    """
    return _patches(profiles, size, _node_counts(profiles))


def _patches(profiles: Profiles, size: int, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    patches = np.empty((len(profiles), size, size))
    _fill_patches(patches, profiles, nodes)
    return patches


class PeakClass(NamedTuple):
    """Ranges that a class of peaks is drawn from; sigma, height and background log-uniform, the rest uniform."""

    sigma: tuple[float, float]
    """sigma_minor, px."""
    ratio: tuple[float, float] = (1.0, 1.5)
    """sigma_major / sigma_minor."""
    height: tuple[float, float] = (100.0, 2000.0)
    eta: tuple[float, float] = (0.0, 0.0)
    gaussian_share: float = 0.0
    """Share of peaks whose eta is exactly 0."""
    background: tuple[float, float] = (0.5, 30.0)
    dark_share: float = 0.0
    """Share of peaks whose background is exactly 0."""
    offset: float = 0.7
    """Largest distance of the centre from the patch's centre along either axis, px."""


#: What localisers are tested on. The centre is within 0.7 px of the patch's: a detected maximum is the brightest pixel.
CLASSES: Mapping[str, PeakClass] = MappingProxyType(
    {
        "sharp": PeakClass(sigma=(0.5, 0.9)),
        "sampled": PeakClass(sigma=(0.9, 1.8)),
        "broad": PeakClass(sigma=(1.8, 3.0)),
        "elongated": PeakClass(sigma=(0.7, 1.4), ratio=(1.8, 2.5)),
        "pseudo_voigt": PeakClass(sigma=(0.7, 1.8), eta=(0.2, 0.8)),
        "faint": PeakClass(sigma=(0.7, 1.8), height=(20.0, 100.0)),
    }
)
#: What networks are trained on: wider than every class, so that no test peak lies at the rim of what was seen.
MIXED = PeakClass(
    sigma=(0.45, 3.2),
    ratio=(1.0, 2.7),
    height=(15.0, 6000.0),
    eta=(0.0, 1.0),
    gaussian_share=0.5,
    background=(0.3, 60.0),
    dark_share=0.1,
    offset=1.5,
)
#: Longest sigma_major drawn, px: a longer peak is flat across a patch.
MAX_SIGMA_MAJOR = 5.0


def sample_profiles(n: int, *, rng: np.random.Generator, kind: str = "mixed", size: int = 11) -> Profiles:
    """Draw `n` profiles of a class of `CLASSES`, or of `mixed`, the training distribution (`MIXED`).

    Positions are in pixels of a patch of `size`, around its centre. Returns shape (n,), dtype `PROFILE_DTYPE`.
    Raises `KeyError` for an unknown class.
    """
    spec = MIXED if kind == "mixed" else CLASSES[kind]
    profiles = np.empty(n, PROFILE_DTYPE)
    sigma = _log_uniform(rng, spec.sigma, n)
    profiles["sigma_minor"] = sigma
    profiles["sigma_major"] = np.maximum(sigma, np.minimum(sigma * rng.uniform(*spec.ratio, n), MAX_SIGMA_MAJOR))
    profiles["angle"] = 90 - 180 * rng.random(n)
    profiles["height"] = _log_uniform(rng, spec.height, n)
    profiles["eta"] = np.where(rng.random(n) < spec.gaussian_share, 0, rng.uniform(*spec.eta, n))
    profiles["background"] = np.where(rng.random(n) < spec.dark_share, 0, _log_uniform(rng, spec.background, n))
    profiles["y"] = (size - 1) / 2 + rng.uniform(-spec.offset, spec.offset, n)
    profiles["x"] = (size - 1) / 2 + rng.uniform(-spec.offset, spec.offset, n)
    return profiles


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float], n: int) -> NDArray[np.float64]:
    return np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), n))


#: Patches worked on at a time, so that what lies between is small enough to stay in the processor's cache.
_BATCH = 1000


def simulate_patches(
    n: int, *, rng: np.random.Generator, kind: str = "mixed", size: int = 11, read_noise: float = 0.0
) -> tuple[NDArray[np.float32], Profiles]:
    """Patches with Poisson noise, and Gaussian read noise of `read_noise` counts, with their true profiles.

    Returns counts, shape (n, size, size), and profiles as `sample_profiles` draws them. The same `rng` state gives the
    same patches.
    """
    profiles = sample_profiles(n, rng=rng, kind=kind, size=size)
    counts = np.empty((n, size, size), np.float32)
    for start in range(0, n, _BATCH):
        part = slice(start, start + _BATCH)
        counts[part] = rng.poisson(expected_patches(profiles[part], size))
    if read_noise > 0:
        counts += read_noise * rng.standard_normal(counts.shape, np.float32)
    return counts, profiles


#: Least variance of a pixel in the Fisher information, counts²: a pixel that expects nothing would else count for ever.
_LEAST_VARIANCE = 1e-6


def cramer_rao(
    profiles: Profiles, *, size: int = 11, usable: NDArray[np.bool_] | None = None, read_noise: float = 0.0
) -> NDArray[np.float64]:
    """Smallest standard deviations (y, x) that any unbiased estimate can have from one patch, shape (n, 2), pixels.

    Square roots of the diagonal of the inverse Fisher information, I_ab = Σ (∂m/∂a)(∂m/∂b) / (m + read_noise²) over
    the usable pixels (bool, shape (n, size, size); None: all) with m the expected counts; free are y, x, height, three
    shape parameters, background, and eta where it is above 0. Infinite where the pixels do not determine the position.
    Source: Kay, Fundamentals of Statistical Signal Processing: Estimation Theory (1993), section 3.9.
    """
    deviations = np.empty((len(profiles), 2))
    for start in range(0, len(profiles), _BATCH):
        part = slice(start, start + _BATCH)
        chosen = None if usable is None else usable[part]
        deviations[part] = _cramer_rao(profiles[part], size, chosen, read_noise)
    return deviations


def _cramer_rao(
    profiles: Profiles, size: int, usable: NDArray[np.bool_] | None, read_noise: float
) -> NDArray[np.float64]:
    n = len(profiles)
    mean = expected_patches(profiles, size)
    information = 1 / np.maximum(mean + read_noise**2, _LEAST_VARIANCE)
    if usable is not None:
        information *= usable
    derivatives = _derivatives(profiles, size, mean).reshape(n, 8, size * size)
    fisher = np.einsum("nap,nbp,np->nab", derivatives, derivatives, information.reshape(n, -1), optimize=True)
    known = np.flatnonzero(profiles["eta"] == 0)
    fisher[known, 6, :] = fisher[known, :, 6] = 0
    fisher[known, 6, 6] = 1
    # Unit diagonal first: the parameters' units differ by orders of magnitude.
    scale = np.sqrt(np.maximum(np.einsum("naa->na", fisher), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(fisher / scale[:, :, None] / scale[:, None, :])
    determined = values[:, :1] > 1e-12 * values[:, -1:]
    variance = (vectors[:, :2] ** 2 / np.where(determined, values, 1)[:, None]).sum(axis=2)
    return np.where(determined, np.sqrt(variance) / scale[:, :2], np.inf)


def _derivatives(profiles: Profiles, size: int, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Derivatives of the expected patches by y, x, three of shape, height, eta, background: (n, 8, size, size).

    The shape is varied by the elements of its covariance matrix: unlike an angle, they mean something for round peaks.
    """
    nodes = _node_counts(profiles)  # the same for both sides of a difference, or the rule's own error would show
    derivatives = np.empty((len(profiles), 8, size, size))
    covariance = _covariance(profiles)
    variance = profiles["sigma_minor"] ** 2
    for column, name in enumerate(("y", "x")):
        step = 1e-3 * profiles["sigma_minor"]
        sides = [_with(profiles, **{name: profiles[name] + sign * step}) for sign in (1, -1)]
        derivatives[:, column] = _difference(sides, size, nodes) / (2 * step)[:, None, None]
    for column in range(3):
        step = 1e-3 * variance
        sides = []
        for sign in (1, -1):
            moved = [element + sign * step * (column == k) for k, element in enumerate(covariance)]
            sides.append(_with(profiles, **_shape(*moved)))
        derivatives[:, 2 + column] = _difference(sides, size, nodes) / (2 * step)[:, None, None]
    derivatives[:, 5] = (mean - profiles["background"][:, None, None]) / profiles["height"][:, None, None]
    derivatives[:, 6] = _difference([_with(profiles, eta=1.0), _with(profiles, eta=0.0)], size, nodes)
    derivatives[:, 7] = 1
    return derivatives


def _difference(sides: list[Profiles], size: int, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    return _patches(sides[0], size, nodes) - _patches(sides[1], size, nodes)


def _with(profiles: Profiles, **values: ArrayLike) -> Profiles:
    changed = profiles.copy()
    for name, value in values.items():
        changed[name] = value
    return changed


def _covariance(profiles: Profiles) -> tuple[NDArray[np.float64], ...]:
    """Elements yy, xx, yx of the profiles' covariance matrices, px²."""
    cosine, sine = np.cos(np.radians(profiles["angle"])), np.sin(np.radians(profiles["angle"]))
    major, minor = profiles["sigma_major"] ** 2, profiles["sigma_minor"] ** 2
    return (
        major * sine**2 + minor * cosine**2,
        major * cosine**2 + minor * sine**2,
        (major - minor) * sine * cosine,
    )


def _shape(yy: NDArray[np.float64], xx: NDArray[np.float64], yx: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """sigma_major, sigma_minor and angle of covariance matrices."""
    middle, half = (yy + xx) / 2, np.hypot((xx - yy) / 2, yx)
    return {
        "sigma_major": np.sqrt(middle + half),
        "sigma_minor": np.sqrt(middle - half),
        "angle": np.degrees(np.arctan2(2 * yx, xx - yy)) / 2,
    }
