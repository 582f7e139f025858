"""Pixel-integrated peak profiles: the expected counts of frames and patches.

A profile's height is that of the continuous curve at its centre, above background; a pixel holds the integral of the
curve over its area (pixel centres at whole numbers), so the brightest pixel of a sharp peak lies below the height.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from braggflow.compiled import kernel

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


@kernel(fastmath={"contract"})
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


@kernel()
def _add_profiles(image: NDArray[np.float64], profiles: Profiles, nodes: NDArray[np.int64], radius: float) -> None:
    for k in range(len(profiles)):
        _add_profile(image, profiles[k], nodes[k, 0], nodes[k, 1], radius)


@kernel()
def _fill_patches(patches: NDArray[np.float64], profiles: Profiles, nodes: NDArray[np.int64]) -> None:
    for k in range(len(profiles)):
        patches[k] = profiles[k].background
        _add_profile(patches[k], profiles[k], nodes[k, 0], nodes[k, 1], np.inf)


def quadrature(profiles: Profiles) -> NDArray[np.int64]:
    """Nodes per pixel and axis that `expected_patches` uses, shape (n, 2): the Gaussian's, the Lorentzian's."""
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
    _add_profiles(image, profiles, quadrature(profiles), LORENTZIAN_RADIUS)
    return image


def expected_patches(profiles: Profiles, size: int) -> NDArray[np.float64]:
    """Expected counts of one patch a profile, its background included, shape (n, size, size).

    Each profile's `y`, `x` are in pixels of its patch (0 to size - 1). Lorentzian tails are not cut.
    """
    return _patches(profiles, size, quadrature(profiles))


def difference_patches(first: Profiles, second: Profiles, size: int, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """`expected_patches` of first − second, both by the same `quadrature`, for numerical derivatives."""
    return _patches(first, size, nodes) - _patches(second, size, nodes)


def _patches(profiles: Profiles, size: int, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    patches = np.empty((len(profiles), size, size))
    _fill_patches(patches, profiles, nodes)
    return patches
