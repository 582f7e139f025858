"""Levels in counts, from the frame's noise."""

import numpy as np
import pytest

from braggflow.config import resolve_config
from braggflow.detect.levels import levels_in_counts
from braggflow.errors import InputError


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (
            [40, 55, 310],
            r"; its lowest count above 0 is 40\).*, or give them in counts, such as minval: 40, minscore: 40$",
        ),
        ([], r"detector\?\), so levels .*or give them in counts$"),
    ],
)
def test_on_a_frame_without_noise_multiples_are_refused_with_counts_of_the_frame(counts: list[int], said: str) -> None:
    image = np.full((64, 64), 0 if counts else 1000, np.uint16)
    image[10, : 4 * len(counts)] = counts * 4
    config = resolve_config({"detect": {"minval": "6 sigma"}}).detect
    with pytest.raises(InputError, match=rf"^the frame has no noise .*{said}"):
        levels_in_counts(image, np.zeros(image.shape, bool), config)
