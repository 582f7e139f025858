"""Parts of the detector by q and azimuth, which as masks hold no peaks."""

from pathlib import Path

import numpy as np
import pytest

import braggflow
from braggflow.errors import InputError
from braggflow.geometry import Geometry, region
from tests.geometry.places import tilted
from tests.stores import spots

SHAPE = (300, 320)
GEOMETRY = Geometry.from_config({**tilted(), "beam_centre_px": [140.0, 150.0]})


def test_a_region_is_where_q_and_azimuth_are() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    q, azimuth = GEOMETRY.q(y, x), GEOMETRY.azimuth(y, x)
    found = region(GEOMETRY, SHAPE, q=(0.2, 0.4), azimuth=(170, -100))
    np.testing.assert_array_equal(found, (q >= 0.2) & (q <= 0.4) & ((azimuth >= 170) | (azimuth <= -100)))
    assert found.any()
    both = region(GEOMETRY, SHAPE, two_theta=(1, 2)) & region(GEOMETRY, SHAPE, azimuth=(-20, 20))
    np.testing.assert_array_equal(region(GEOMETRY, SHAPE, two_theta=(1, 2), azimuth=(-20, 20)), both)


def test_as_a_mask_it_holds_no_peak(tmp_path: Path) -> None:
    frame = spots(SHAPE, 60, seed=1)
    np.save(tmp_path / "ring.npy", region(GEOMETRY, SHAPE, q=(0.2, 0.4)))
    settings = {"locate": {"network": "none"}, "frames": {"mask": str(tmp_path / "ring.npy")}}
    peaks = braggflow.find_peaks(frame, config=settings)
    q = GEOMETRY.q(peaks["y_pixel"].values, peaks["x_pixel"].values)
    assert len(q)
    assert not ((q >= 0.2) & (q <= 0.4)).any()


def test_what_is_empty_is_refused() -> None:
    with pytest.raises(InputError, match="region: has no range"):
        region(GEOMETRY, SHAPE)
    with pytest.raises(InputError, match=r"q: \(2, 1\) is not accepted"):
        region(GEOMETRY, SHAPE, q=(2, 1))
