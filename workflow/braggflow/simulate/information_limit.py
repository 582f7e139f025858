"""The information limit: how precisely the photons of a patch determine a peak's position (Cramér–Rao bound)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braggflow.patches import State
from braggflow.simulate.profiles import Profiles, difference_patches, expected_patches, quadrature
from braggflow.simulate.simulated_patches import SimulatedPatches

#: Least variance of a pixel in the Fisher information, counts²: a pixel that expects nothing would else count for ever.
_LEAST_VARIANCE = 1e-6
#: Added to the eigenvalues of the scaled information matrix: what the pixels say nothing of (a neighbour outside the
#: patch) then costs nothing, unless the position hangs on it.
_RIDGE = 1e-10
#: A position with a larger standard deviation, px, is not determined.
_UNDETERMINED = 1e3
_BATCH = 1000


def limit_of_patches(patches: SimulatedPatches) -> NDArray[np.float64]:
    """The limit (y, x) of simulated peaks, shape (n, 2), pixels: of their usable pixels, their noise and neighbours."""
    return cramer_rao(
        patches.profiles,
        size=patches.counts.shape[1],
        neighbours=patches.neighbours,
        usable=patches.state <= State.OTHER,
        read_noise=patches.read_noise,
    )


def cramer_rao(
    profiles: Profiles,
    *,
    size: int = 11,
    neighbours: Profiles | None = None,
    usable: NDArray[np.bool_] | None = None,
    read_noise: ArrayLike = 0.0,
) -> NDArray[np.float64]:
    """Smallest standard deviations (y, x) that any unbiased estimate can have from one patch, shape (n, 2), pixels.

    Square roots of the diagonal of the inverse Fisher information, I_ab = Σ (∂m/∂a)(∂m/∂b) / (m + read_noise²) over
    the usable pixels (bool, shape (n, size, size); None: all) with m the expected photons and `read_noise` in photons,
    one number or (n,). Free are y, x, height, three shape parameters, background, eta where it is above 0, and the same
    of each of the `neighbours` (shape (n, k), background not counted; height 0: none). Infinite where the pixels do not
    determine the position.
    Source: Kay, Fundamentals of Statistical Signal Processing: Estimation Theory (1993), section 3.9.
    """
    n = len(profiles)
    others = np.empty((n, 0), profiles.dtype) if neighbours is None else neighbours
    noise = np.broadcast_to(np.asarray(read_noise, float), (n,))
    deviations = np.empty((n, 2))
    # Most patches have no neighbour, and these need the smaller matrix.
    number = np.count_nonzero(others["height"] > 0, axis=1)
    for k in np.unique(number):
        rows = np.flatnonzero(number == k)
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            near = np.take_along_axis(others[part], np.argsort(-others[part]["height"], axis=1)[:, :k], axis=1)
            chosen = None if usable is None else usable[part]
            deviations[part] = _cramer_rao(profiles[part], near, size, chosen, noise[part])
    return deviations


def _cramer_rao(
    profiles: Profiles,
    neighbours: Profiles,
    size: int,
    usable: NDArray[np.bool_] | None,
    read_noise: NDArray[np.float64],
) -> NDArray[np.float64]:
    n = len(profiles)
    peaks = [profiles, *(neighbours[:, k] for k in range(neighbours.shape[1]))]
    means = [expected_patches(peak, size) for peak in peaks]
    derivatives = np.concatenate(
        [_derivatives(peak, size, mean) for peak, mean in zip(peaks, means, strict=True)]
        + [np.ones((n, 1, size, size))],
        axis=1,
    ).reshape(n, -1, size * size)
    information = 1 / np.maximum(sum(means) + read_noise[:, None, None] ** 2, _LEAST_VARIANCE)
    if usable is not None:
        information *= usable
    weighted = derivatives * information.reshape(n, 1, -1)
    fisher = weighted @ derivatives.transpose(0, 2, 1)
    # Unit diagonal first: the parameters' units differ by orders of magnitude.
    scale = np.sqrt(np.maximum(np.einsum("naa->na", fisher), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(fisher / scale[:, :, None] / scale[:, None, :])
    variance = (vectors[:, :2] ** 2 / (np.maximum(values, 0) + _RIDGE)[:, None]).sum(axis=2)
    deviation = np.sqrt(variance) / scale[:, :2]
    return np.where(deviation < _UNDETERMINED, deviation, np.inf)


def _derivatives(profiles: Profiles, size: int, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Derivatives of the expected patches by y, x, three of shape, height, eta: (n, 7, size, size).

    The shape is varied by the elements of its covariance matrix: unlike an angle, they mean something for round peaks.
    A known parameter, eta of a Gaussian, has derivative 0.
    """
    nodes = quadrature(profiles)  # the same for both sides of a difference, or the rule's own error would show
    derivatives = np.empty((len(profiles), 7, size, size))
    covariance = _covariance(profiles)
    variance = profiles["sigma_minor"] ** 2
    for column, name in enumerate(("y", "x")):
        step = 1e-3 * profiles["sigma_minor"]
        sides = [_with(profiles, **{name: profiles[name] + sign * step}) for sign in (1, -1)]
        derivatives[:, column] = difference_patches(sides[0], sides[1], size, nodes) / (2 * step)[:, None, None]
    for column in range(3):
        step = 1e-3 * variance
        sides = []
        for sign in (1, -1):
            moved = [element + sign * step * (column == k) for k, element in enumerate(covariance)]
            sides.append(_with(profiles, **_shape(*moved)))
        derivatives[:, 2 + column] = difference_patches(sides[0], sides[1], size, nodes) / (2 * step)[:, None, None]
    derivatives[:, 5] = (mean - profiles["background"][:, None, None]) / profiles["height"][:, None, None]
    by_eta = difference_patches(_with(profiles, eta=1.0), _with(profiles, eta=0.0), size, nodes)
    derivatives[:, 6] = by_eta * (profiles["eta"] > 0)[:, None, None]
    return derivatives


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
