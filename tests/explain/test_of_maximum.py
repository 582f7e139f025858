"""The maximum into which another merges is the one that a falling water level shows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from braggflow.detect.persistence import persistence
from braggflow.explain.of_maximum import higher_maximum


def by_falling_water(image: NDArray[np.int64], maximum: tuple[int, int]) -> tuple[int, int] | None:
    """Pixels rise one by one, from the highest; the first time that a higher maximum is in the island, it is that."""
    order = np.argsort(image.ravel(), kind="stable")[::-1]
    rank = np.empty(image.size, int)
    rank[order] = np.arange(image.size)
    own = rank[np.ravel_multi_index(maximum, image.shape)]
    for level in range(image.size):
        if image.ravel()[order[level]] == 0:
            return None
        labels, _ = ndimage.label((rank <= level).reshape(image.shape), np.ones((3, 3)))
        island = np.flatnonzero(labels == labels[maximum])
        if level >= own and labels[maximum] and rank[island].min() < own:
            return divmod(int(order[rank[island].min()]), image.shape[1])
    return None


@settings(max_examples=60)
@given(st.integers(0, 100_000))
def test_the_higher_maximum_is_that_of_the_falling_water(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 9, (7, 8))  # with many ties
    for one in persistence(image, np.zeros(image.shape, bool), 1):
        expected = by_falling_water(image, (int(one["y_pixel"]), int(one["x_pixel"])))
        found = higher_maximum(image, one) if one["saddle"] >= 0 else None
        assert found == expected
