import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow.config import FitConfig
from braggflow.fit import fit_patches
from braggflow.simulate import CLASSES, PatchSimulation, limit_of_patches, simulate_patches
from braggflow.train.examples import _FINEST, TrainingExamples, simulate_examples, turned


def draw(n: int = 400, seed: int = 0, config: PatchSimulation | None = None) -> TrainingExamples:
    return simulate_examples(n, rng=np.random.default_rng(seed), config=config or PatchSimulation(), size=11)


def test_a_lesson_is_finite_and_decided_by_its_generator() -> None:
    one, same = draw(), draw()
    for part, other in zip(one, same, strict=True):
        assert np.isfinite(part).all()
        assert part.tobytes() == other.tobytes()
    assert one.photons.shape == one.state.shape == (400, 11, 11)
    assert one.truth.shape == one.target.shape == one.unit.shape == (400, 2)
    assert 0.05 < 1 - one.peak.mean() < 0.3
    assert (one.truth[~one.peak] == 0).all()
    assert one.telling[~one.peak].all()


def test_bright_peaks_are_taught_the_fit_and_faint_ones_more_of_the_truth() -> None:
    rng = np.random.default_rng(1)
    drawn = simulate_patches(500, rng=rng, config=CLASSES["sampled"])
    fits = fit_patches(drawn.counts, drawn.state, drawn.maxima, FitConfig())
    position = np.stack([fits["y"], fits["x"]], axis=1) - 5
    taught = draw(500, 1, CLASSES["sampled"])
    share = (taught.target - taught.truth) / (position - taught.truth)
    well_placed = np.abs(position - taught.truth) > 1e-3
    bright = well_placed & (taught.unit < 0.025)
    faint = well_placed & (taught.unit > 0.07)
    assert 0.9 < np.median(share[bright]) < 1
    assert 0.4 < np.median(share[faint]) < 0.7


def test_units_are_about_the_limit() -> None:
    for kind in ("sampled", "neighbour", "edge", "saturated"):
        drawn = simulate_patches(500, rng=np.random.default_rng(2), config=CLASSES[kind])
        taught = draw(500, 2, CLASSES[kind])
        ratio = taught.unit / np.hypot(limit_of_patches(drawn), _FINEST)
        assert np.median(ratio) == pytest.approx(1, abs=0.1), kind


def test_what_a_fit_does_not_describe_is_taught_the_truth() -> None:
    sloping = PatchSimulation(**{**CLASSES["sampled"].model_dump(), "gradient_share": 1.0})
    taught = draw(200, 3, sloping)
    np.testing.assert_array_equal(taught.truth, taught.target)


def test_peaks_that_cannot_be_told_from_noise_say_nothing_of_the_domain() -> None:
    hopeless = PatchSimulation(**{**CLASSES["faint"].model_dump(), "height": (1.0, 2.0), "background": (30.0, 30.0)})
    assert draw(200, 4, hopeless).telling.mean() < 0.5
    assert draw(200, 4, CLASSES["sampled"]).telling.all()


@given(st.integers(0, 7), st.integers(0, 20))
@settings(max_examples=20)
def test_a_turned_lesson_is_the_same_lesson_seen_from_another_side(view: int, seed: int) -> None:
    one = draw(20, seed, CLASSES["sharp"])
    other = turned(one, view)

    def centroid(seen: TrainingExamples) -> np.ndarray:
        y, x = np.mgrid[:11, :11] - 5
        weight = np.maximum(seen.photons - np.median(seen.photons, axis=(1, 2), keepdims=True), 0)
        return np.stack([(weight * axis).sum(axis=(1, 2)) for axis in (y, x)], 1) / weight.sum(axis=(1, 2))[:, None]

    before, after = centroid(one) - one.truth, centroid(other) - other.truth
    np.testing.assert_allclose(np.hypot(*before.T), np.hypot(*after.T), rtol=1e-3, atol=1e-4)
    distance = (one.target - one.truth) / one.unit
    np.testing.assert_allclose(
        np.hypot(*distance.T), np.hypot(*((other.target - other.truth) / other.unit).T), atol=1e-3
    )
    assert turned(one, 0).photons.tobytes() == one.photons.tobytes()


def test_the_eight_views_are_all_different() -> None:
    one = draw(1, 5)
    assert len({turned(one, view).photons.tobytes() for view in range(8)}) == 8
