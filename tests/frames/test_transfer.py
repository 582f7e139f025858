"""The parts of the photon transfer line: sides of blocks, thresholds at the source, how sure a variance is."""

import numpy as np
import pytest

from braggflow.frames.detector.transfer import block_side, points_of_frame, points_of_frames, source_threshold


def test_a_block_is_the_smallest_in_which_enough_pixels_differ_and_of_large_frames_no_smallest():
    assert block_side(1.0, (64, 64)) == 8
    assert block_side(0.2, (64, 64)) == 32
    assert block_side(1.0, (256, 256)) == 16
    assert block_side(1e-6, (512, 512)) == 128


@pytest.mark.parametrize(("threshold", "step"), [(2, 1), (3, 1), (8, 2), (0, 1), (1, 1), (0, 2)])
def test_counts_that_are_set_to_0_below_a_level_tell_it(threshold, step):
    counts = step * np.random.default_rng(0).poisson(5, (200, 200))
    cut = np.where(counts < threshold, 0, counts).astype(np.uint16)
    assert source_threshold(cut, np.zeros(cut.shape, bool)) == (threshold if threshold > step else 0)


@pytest.mark.parametrize("alone", [True, False])
def test_variances_scatter_as_much_as_they_are_said_to(alone):
    rng, valid = np.random.default_rng(1), np.ones((512, 512), bool)
    frames = [rng.normal(100, 3, valid.shape).astype(np.float32) for _ in range(3)]
    points = points_of_frame(frames[0], valid, 16) if alone else points_of_frames(frames, valid, 16)
    used = points.pixels > 0
    variance, pixels = points.variance[used], points.pixels[used]
    assert variance.mean() == pytest.approx(9, rel=0.02)
    # That of a sample's variance is 2 sigma^4 over its size.
    assert np.var(variance) == pytest.approx(np.mean(2 * 81 / pixels) * points.share, rel=0.12)
