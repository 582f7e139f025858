"""What fits of saturated peaks can be believed: under a flat top, two peaks look like one."""

import numpy as np

from braggflow.fit import Deblended
from braggflow.patches import Patches, State

#: A fit whose height above 0 is below this share of the counts that the maximum was clipped at is not of this peak.
_LEAST_HEIGHT = 0.9
#: Length of a top over its width from which on it may be that of two peaks, where the fit's chi2 is above the limit.
_LONG, _POOR = 1.3, 2.0


def doubted(apart: Deblended, patches: Patches) -> Deblended:
    """The fits of n patches, those of saturated maxima judged by their tops.

    One that lies below the clipped counts has not converged. Where a top is longer than wide and its flanks do not fit
    one profile, there may be two peaks, anywhere under it: a blend, whose standard errors include the spread of the
    top's pixels.
    """
    half = patches.counts.shape[1] // 2
    rows = np.flatnonzero(patches.state[:, half, half] == State.FULL)
    if not len(rows):
        return apart
    fits, blend = apart.fits.copy(), apart.blend.copy()
    with np.errstate(invalid="ignore"):
        low = fits["amplitude"][rows] + fits["background"][rows] < _LEAST_HEIGHT * patches.counts[rows, half, half]
    fits["converged"][rows[low]] = False
    at = np.arange(-half, half + 1, dtype=np.float64)
    of_others = patches.neighbours[rows, :, :, None, None] - np.stack(np.meshgrid(at, at, indexing="ij"))
    nearest = np.nanmin((of_others**2).sum(axis=2), axis=1, initial=np.inf)  # squared distance to a neighbour
    full = ((patches.state[rows] == State.FULL) & (at[:, None] ** 2 + at**2 <= nearest)).astype(np.float64)
    number = full.sum(axis=(1, 2))
    along = {"y": full.sum(axis=2), "x": full.sum(axis=1)}
    mean = {axis: pixels @ at / number for axis, pixels in along.items()}
    # With the variance within a pixel.
    yy, xx = (along[axis] @ at**2 / number - mean[axis] ** 2 + 1 / 12 for axis in "yx")
    xy = np.einsum("nyx,y,x->n", full, at, at) / number - mean["y"] * mean["x"]
    middle, off = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    doubtful = (middle + off > _LONG**2 * (middle - off)) & (fits["chi2"][rows] > _POOR) & fits["converged"][rows]
    blend[rows[doubtful]] = True
    for axis, variance in (("y", yy), ("x", xx)):
        fits[f"{axis}_std"][rows[doubtful]] = np.hypot(fits[f"{axis}_std"][rows[doubtful]], np.sqrt(variance[doubtful]))
    return apart._replace(fits=fits, blend=blend)
