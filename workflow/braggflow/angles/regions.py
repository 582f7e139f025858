"""Parts of the detector by q, two-theta and azimuth: for masks of ice, powder rings and shadows."""

import numpy as np
from numpy.typing import NDArray

from braggflow.angles.detector_geometry import Geometry, Range
from braggflow.errors import InputError


def region(
    geometry: Geometry,
    shape: tuple[int, int],
    *,
    q: Range | None = None,
    two_theta: Range | None = None,
    azimuth: Range | None = None,
) -> NDArray[np.bool_]:
    """Which pixels lie within ranges of q (1/Å), two-theta and azimuth (degree), of all that are given.

    Parameters
    ----------
    geometry : Geometry
        Where the detector stands.
    shape : tuple of int
        (y, x) of the frames.
    q, two_theta, azimuth : tuple of float, optional
        From and to. Azimuths go round: from 170 to -170 are 20 degrees.

    Returns
    -------
    numpy.ndarray of bool
        Shape (y, x), True inside. Saved as a file, it is a mask (`frames.mask`): no peak is found there.

    Raises
    ------
    InputError
        Where no range is given, or one is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.geometry import Geometry, region
    >>> geometry = Geometry.from_config(
    ...     {"distance_mm": 200, "beam_centre_px": [32, 32], "pixel_size_um": [75, 75], "energy_kev": 17.4}
    ... )
    >>> ice = region(geometry, (64, 64), q=(0.05, 0.06))
    >>> np.save("ice.npy", ice)
    >>> ice.shape, bool(ice[32, 32])
    ((64, 64), False)
    """
    if q is None and two_theta is None and azimuth is None:
        raise InputError("region: has no range; must have one of q, two_theta, azimuth")
    for name, limits in (("q", q), ("two_theta", two_theta)):
        if limits is not None and not limits[0] < limits[1]:
            raise InputError(
                f"{name}: ({limits[0]}, {limits[1]}) is not accepted; must be from a value to a higher one"
            )
    y, x = np.ogrid[: shape[0], : shape[1]]
    return geometry.within(y, x, q=q, two_theta=two_theta, azimuth=azimuth)
