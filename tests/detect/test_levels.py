"""Levels in counts, from the frame's noise."""

import numpy as np
import pytest

from braggflow.config import resolve_config
from braggflow.detect import detect
from braggflow.detect.levels import levels_in_counts, levels_of_sample
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


@pytest.mark.parametrize(("share", "height"), [(0.0, 0), (0.2, 24), (0.3, 30), (0.3, 300), (0.3, 30_000)])
def test_a_third_of_a_frame_may_be_peaks_and_sigma_is_still_that_of_its_noise(share: float, height: float) -> None:
    rng = np.random.default_rng(1)
    sample = rng.normal(20, 3, 16_384)
    sample[: int(share * len(sample))] += height * rng.uniform(0.7, 1.3, int(share * len(sample)))
    config = resolve_config({"detect": {"minval": "6 sigma", "minscore": "4 sigma"}}).detect
    minval, minscore = levels_of_sample(rng.permutation(sample), config)
    assert minval == pytest.approx(20 + 6 * 3, rel=0.03)
    assert minscore == pytest.approx(4 * 3, rel=0.03)


def test_few_counts_less_their_level_have_the_levels_of_few_counts_however_they_are_searched() -> None:
    image, mask = np.random.default_rng(3).poisson(0.5, (600, 600)).astype(np.uint16), np.zeros((600, 600), bool)
    for false_peaks in (None, 0.1):
        detect_keys = {"false_peaks": false_peaks, "minval": "6 sigma", "minscore": "4 sigma", "background": "local"}
        assert len(detect(image, mask, resolve_config({"detect": detect_keys}).detect).table) == 0
