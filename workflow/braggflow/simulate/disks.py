"""Disks of convergent-beam electron diffraction: the expected counts of patches, and the information limit.

A disk is uniformly filled, with an edge blurred by a Gaussian: an amplitude × erfc((r - R) / (√2 σ)) / 2 above the
background at distance r from the centre. (The fit's template has a logistic edge: what it is tested on is not its own.)
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

#: One disk. y, x, radius and edge (the σ of its blur) in pixels, amplitude and background in counts.
DISK_DTYPE = np.dtype([(name, "f8") for name in ("y", "x", "radius", "edge", "amplitude", "background")])
Disks = NDArray[np.void]

#: Points of a pixel along an axis.
_POINTS = 16
_OFFSETS = (np.arange(_POINTS) + 0.5) / _POINTS - 0.5


def expected_disks(disks: Disks, size: int) -> NDArray[np.float64]:
    """Expected counts of one patch a disk, its background included.

    Parameters
    ----------
    disks : numpy.ndarray of dtype DISK_DTYPE
        Shape (n,); `y`, `x` in pixels of the patch, 0 is the first pixel's centre.
    size : int
        Pixels on a side of a patch.

    Returns
    -------
    numpy.ndarray of float64
        Shape (n, size, size), counts: each pixel holds the mean over its area.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.simulate import DISK_DTYPE, expected_disks
    >>> disk = np.array([(5.0, 5.0, 3.0, 0.3, 100.0, 2.0)], DISK_DTYPE)
    >>> expected_disks(disk, 11)[0, 5].round().tolist()
    [2.0, 3.0, 51.0, 101.0, 102.0, 102.0, 102.0, 101.0, 51.0, 3.0, 2.0]
    """
    points = (np.arange(size)[:, None] + _OFFSETS).ravel()
    patches = np.empty((len(disks), size, size))
    for patch, disk in zip(patches, disks, strict=True):
        r = np.hypot((points - disk["y"])[:, None], points - disk["x"])
        inside = erfc((r - disk["radius"]) / (np.sqrt(2) * disk["edge"])) / 2
        means = inside.reshape(size, _POINTS, size, _POINTS).mean(axis=(1, 3))
        patch[:] = disk["background"] + disk["amplitude"] * means
    return patches


def limit_of_disks(disks: Disks, size: int, *, read_noise: float = 0.0) -> NDArray[np.float64]:
    """Smallest standard deviations (y, x) that an unbiased estimate can have from one patch (Cramér–Rao bound).

    Parameters
    ----------
    disks : numpy.ndarray of dtype DISK_DTYPE
        Shape (n,), in photons; all six numbers of each are unknown to the estimate.
    size : int
        Pixels on a side of the patch.
    read_noise : float, default 0.0
        Standard deviation of a pixel without light, photons.

    Returns
    -------
    numpy.ndarray of float64
        Shape (n, 2), pixels.

    References
    ----------
    S. Kay, Fundamentals of Statistical Signal Processing: Estimation Theory (1993), section 3.9.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.simulate import DISK_DTYPE, limit_of_disks
    >>> disk = np.array([(5.0, 5.0, 3.0, 0.5, 100.0, 2.0)], DISK_DTYPE)
    >>> limit_of_disks(disk, 11).round(3)
    array([[0.027, 0.027]])
    """
    mean = expected_disks(disks, size)
    derivatives = []
    for name in DISK_DTYPE.names or ():
        step = 1e-3 * (disks["amplitude"] if name in ("amplitude", "background") else disks["edge"])
        sides = []
        for sign in (1, -1):
            moved = disks.copy()
            moved[name] += sign * step
            sides.append(expected_disks(moved, size))
        derivatives.append((sides[0] - sides[1]) / (2 * step[:, None, None]))
    by = np.stack(derivatives, axis=1).reshape(len(disks), len(derivatives), -1)
    information = (by / (mean + read_noise**2).reshape(len(disks), 1, -1)) @ by.transpose(0, 2, 1)
    # Unit diagonal first: the parameters' units differ by orders of magnitude.
    scale = np.sqrt(np.einsum("naa->na", information))
    inverse = np.linalg.inv(information / scale[:, :, None] / scale[:, None, :])
    return np.asarray(np.sqrt(np.einsum("naa->na", inverse))[:, :2] / scale[:, :2])
