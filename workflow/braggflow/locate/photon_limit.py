"""The least uncertainty that the photons of a peak allow, for networks that were never shown a background as bright."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import kernel
from braggflow.patches import State, median, own_border

#: Variance of a pixel of the background, photons, up to which the networks in the package were trained. What they state
#: of peaks on brighter ones is up to three times too small (docs/accuracy.md): a patch scaled to its height hardly
#: shows it.
BRIGHT = 60.0

_OWN, _FULL = int(State.OWN), int(State.FULL)


def least_std(
    counts: NDArray[np.float32], state: NDArray[np.uint8], *, counts_per_photon: float, read_noise: float
) -> NDArray[np.float32]:
    """The least standard error of a position along an axis, by the photons of a round Gaussian, pixels.

    Of a height of h photons on a background whose pixels have a variance of b, both in photons, no estimate is surer
    than 1 / sqrt(2 pi h J(b / h)) (Cramér and Rao), whatever the width: J(u) is the integral of
    t exp(-2 t) / (exp(-t) + u) over t from 0 on, 1 + u Li2(-1 / u). Of a peak that is longer than wide it is the
    geometric mean of the errors along both axes.

    Parameters
    ----------
    counts : numpy.ndarray of float32
        Shape (n, size, size), axes (peak, y, x): the patches, counts.
    state : numpy.ndarray of uint8
        Shape (n, size, size), a `patches.State` each.
    counts_per_photon, read_noise : float
        Counts of one photon; standard deviation of a pixel without light, counts.

    Returns
    -------
    numpy.ndarray of float32
        Shape (n,); 0 of peaks on a background of up to `BRIGHT` photons, which networks know.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.locate import least_std
    >>> y, x = np.mgrid[:11, :11] - 5
    >>> peak = (300 + 400 * np.exp(-(y**2 + x**2) / 3.4)).astype(np.float32)[None]
    >>> least_std(peak, np.zeros(peak.shape, np.uint8), counts_per_photon=1, read_noise=0).round(3)
    array([0.043], dtype=float32)
    """
    level, height = _level_and_height(np.ascontiguousarray(counts, np.float32), np.ascontiguousarray(state))
    least = np.zeros(len(counts), np.float32)
    variance = np.maximum(level / counts_per_photon, 0) + (read_noise / counts_per_photon) ** 2
    bright = (variance > BRIGHT) & (height > 0)
    if bright.any():
        from scipy.special import spence  # the dilogarithm Li2(z) is spence(1 - z)

        photons = height[bright] / counts_per_photon
        u = variance[bright] / photons
        least[bright] = 1 / np.sqrt(2 * np.pi * photons * (1 + u * spence(1 + 1 / u)))
    return least


@kernel(nogil=True)
def _level_and_height(counts: Any, state: Any) -> Any:
    """Median of the peak's own pixels on the border, and how far its highest near the centre is above that, (n,)."""
    n, size = counts.shape[:2]
    half = size // 2
    level, height, border = np.zeros(n), np.zeros(n), np.empty(4 * (size - 1), np.float32)
    for i in range(n):
        level[i] = median(border[: own_border(counts[i], state[i], border)])
        for j in range(half - 1, half + 2):
            for k in range(half - 1, half + 2):
                if state[i, j, k] == _OWN or state[i, j, k] == _FULL:
                    height[i] = max(height[i], counts[i, j, k] - level[i])
    return level, height
