from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from braggflow.errors import InputError
from braggflow.patches import MAX_NEIGHBOURS, State
from braggflow.simulate import (
    CLASSES,
    MAX_SIGMA_MAJOR,
    OUTLIERS,
    PatchSimulation,
    expected_patches,
    outlier_class,
    sample_profiles,
    simulate_patches,
)
from braggflow.simulate.simulated_patches import Outlier, missing_pixels


def plain(**changed: Any) -> PatchSimulation:
    """Isolated, whole, constant background, photon noise only; unless said."""
    return PatchSimulation(**{**CLASSES["sampled"].model_dump(), **changed})


@pytest.mark.parametrize("config", [PatchSimulation(), *CLASSES.values()], ids=["training", *CLASSES])
def test_profiles_keep_to_the_ranges_of_their_class(config: PatchSimulation) -> None:
    p = sample_profiles(5000, rng=np.random.default_rng(3), config=config, size=13)
    tolerance = 1e-9
    for name, values in (
        ("sigma", p["sigma_minor"]),
        ("height", p["height"]),
        ("background", p["background"][p["background"] > 0]),
        ("eta", p["eta"][p["eta"] > 0]),
    ):
        low, high = getattr(config, name)
        assert ((values >= low - tolerance) & (values <= high + tolerance)).all(), name
    ratio = p["sigma_major"] / p["sigma_minor"]
    assert ratio.min() >= 1
    assert ratio.max() <= config.ratio[1] + tolerance
    assert p["sigma_major"].max() <= MAX_SIGMA_MAJOR
    assert ((p["angle"] > -90) & (p["angle"] <= 90)).all()
    for axis in "yx":
        assert 0.95 * config.offset < abs(p[axis] - 6).max() <= config.offset
        within_half = (abs(p[axis] - 6) <= config.offset / 2).mean()
        assert within_half == pytest.approx(0.5 + config.centred_share / 2, abs=0.03)
    assert (p["eta"] == 0).mean() == pytest.approx(config.gaussian_share if config.eta[1] else 1, abs=0.03)
    assert (p["background"] == 0).mean() == pytest.approx(config.dark_share, abs=0.03)


def test_the_training_distribution_is_wider_than_every_class() -> None:
    training = PatchSimulation()
    for config in CLASSES.values():
        assert training.offset > config.offset
        for name in ("sigma", "ratio", "height", "eta", "background", "neighbour_distance", "saturation"):
            assert getattr(training, name)[0] <= getattr(config, name)[0]
            assert getattr(training, name)[1] >= getattr(config, name)[1]


def test_the_same_generator_state_gives_the_same_patches_and_another_gives_others() -> None:
    one, same, other = (simulate_patches(2500, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert len(one) == 2500
    for name in ("counts", "state", "profiles", "neighbours", "outlier"):
        assert getattr(one, name).tobytes() == getattr(same, name).tobytes()
    assert (one.counts != other.counts).any()


@pytest.mark.parametrize("noisy_share", [0.0, 1.0])
@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_noise_has_the_mean_and_variance_of_photons_and_readout(noisy_share: float, gain: float) -> None:
    config = plain(noisy_share=noisy_share, counts_per_photon=(gain, gain))
    drawn = simulate_patches(4000, rng=np.random.default_rng(4), config=config)
    assert drawn.counts.dtype == np.float32
    assert drawn.plain.all()
    assert (drawn.state == State.OWN).all()
    mean = expected_patches(drawn.profiles, 11)
    normal = (drawn.counts / gain - mean) / np.sqrt(mean + drawn.read_noise[:, None, None] ** 2)
    assert normal.mean() == pytest.approx(0, abs=5 / np.sqrt(normal.size))
    assert normal.var() == pytest.approx(1, abs=0.02)


def test_neighbours_stand_where_they_are_said_to_and_are_peaks_of_their_own() -> None:
    drawn = simulate_patches(3000, rng=np.random.default_rng(5), config=CLASSES["neighbour"])
    there = drawn.neighbours["height"] > 0
    assert there[:, 0].all()
    assert 0.1 < there[:, 1].mean() < 0.4
    distance = np.hypot(*(drawn.neighbours[axis] - drawn.profiles[axis][:, None] for axis in "yx"))[there]
    assert 4 <= distance.min() < 4.3
    assert 7.7 < distance.max() <= 8
    assert drawn.maxima.shape == (3000, MAX_NEIGHBOURS, 2)
    listed = np.isfinite(drawn.maxima).all(axis=2)
    np.testing.assert_array_equal(listed.sum(axis=1), there.sum(axis=1))
    lengths = np.where(listed, np.hypot(*np.moveaxis(drawn.maxima, 2, 0)), np.inf)
    assert (np.diff(lengths[:, :2], axis=1) >= 0).all()  # nearest first
    # Noise-free, the own maximum is the highest pixel of the own ones near the centre, and lower ones lie between.
    total = expected_patches(drawn.profiles, 11)
    for k in range(2):
        total += expected_patches(drawn.neighbours[:, k], 11)
    own = np.where(drawn.state == State.OWN, total, -np.inf)[:, 3:8, 3:8].reshape(3000, -1)
    peak_row, peak_column = np.divmod(own.argmax(axis=1), 5)
    assert (np.hypot(peak_row - 2, peak_column - 2) <= 1.5).mean() > 0.98


def test_two_peaks_too_close_for_two_maxima_are_never_drawn_as_neighbours() -> None:
    close = plain(neighbour_share=1.0, neighbour_distance=(1.5, 8.0))
    drawn = simulate_patches(1000, rng=np.random.default_rng(6), config=close)
    there = drawn.neighbours["height"] > 0
    distance = np.hypot(*(drawn.neighbours[axis] - drawn.profiles[axis][:, None] for axis in "yx"))
    assert (distance / drawn.profiles["sigma_minor"][:, None])[there].min() > 2  # two equal Gaussians: one maximum


def test_neighbours_that_can_never_be_told_apart_are_refused() -> None:
    merged = plain(sigma=(3.0, 3.0), neighbour_share=1.0, neighbour_distance=(1.0, 2.0))
    with pytest.raises(InputError, match=r"neighbour_distance: \(1\.0, 2\.0\) px leaves peaks of sigma"):
        simulate_patches(5, rng=np.random.default_rng(6), config=merged)


def test_an_edge_cuts_every_patch_along_an_axis_at_the_said_distance() -> None:
    drawn = simulate_patches(500, rng=np.random.default_rng(7), config=CLASSES["edge"])
    missing = drawn.state == State.MISSING
    assert (drawn.counts[missing] == 0).all()
    lost = np.stack([missing.all(axis=2).sum(axis=1), missing.all(axis=1).sum(axis=1)], axis=1)  # rows, columns
    assert ((lost > 0).sum(axis=1) == 1).all()
    assert set(lost.max(axis=1)) == {1, 2, 3, 4}  # beyond 4, 3, 2, 1 px
    assert not missing[:, 5, 5].any()


def test_saturated_pixels_are_marked_and_hold_the_level() -> None:
    drawn = simulate_patches(500, rng=np.random.default_rng(8), config=CLASSES["saturated"])
    full = drawn.state == State.FULL
    assert (full.sum(axis=(1, 2)) > 0).mean() > 0.99
    for counts, where in zip(drawn.counts, full, strict=True):
        assert len(np.unique(counts[where])) <= 1
        assert where.all() or counts[~where].max() < counts[where].min(initial=np.inf)


@pytest.mark.parametrize("kind", OUTLIERS)
def test_an_outlier_has_no_position_and_no_neighbours(kind: Outlier) -> None:
    drawn = simulate_patches(300, rng=np.random.default_rng(9), config=outlier_class(kind))
    assert (drawn.outlier == OUTLIERS.index(kind)).all()
    assert np.isnan(drawn.position).all()
    assert np.isnan(drawn.maxima).all()
    assert not drawn.plain.any()


def test_a_hot_pixel_is_one_pixel_and_an_empty_patch_has_its_highest_in_the_centre() -> None:
    hot = simulate_patches(300, rng=np.random.default_rng(10), config=outlier_class("hot_pixel")).counts
    centre = hot[:, 5, 5].copy()
    hot[:, 5, 5] = 0
    assert (centre > hot.max(axis=(1, 2))).mean() > 0.99
    empty = simulate_patches(300, rng=np.random.default_rng(10), config=outlier_class("empty")).counts
    assert (empty[:, 5, 5] == empty[:, 3:8, 3:8].max(axis=(1, 2))).all()
    assert empty.mean(axis=0).std() < 0.3 * empty.mean(axis=0)[5, 5]


def test_a_tail_draws_the_position_to_the_centre_of_mass() -> None:
    config = plain(tail_share=1.0, tail=0.1, sigma=(0.9, 1.2), background=(0.001, 0.001), height=(1e5, 1e5))
    drawn = simulate_patches(200, rng=np.random.default_rng(11), config=config, size=15)
    y, x = np.mgrid[:15, :15]
    mass = drawn.counts.sum(axis=(1, 2))
    centroid = np.stack([(drawn.counts * axis).sum(axis=(1, 2)) / mass for axis in (y, x)], axis=1)
    truth = np.stack([drawn.profiles["y"], drawn.profiles["x"]], axis=1)
    assert np.abs(centroid - drawn.position).mean() < 0.1 * np.abs(centroid - truth).mean()


def test_shares_are_met() -> None:
    drawn = simulate_patches(8000, rng=np.random.default_rng(12))
    config = PatchSimulation()
    peak = drawn.outlier < 0
    assert peak.mean() == pytest.approx(1 - config.outlier_share, abs=0.02)
    assert (drawn.neighbours["height"][peak, 0] > 0).mean() == pytest.approx(config.neighbour_share, abs=0.02)
    assert (drawn.read_noise > 0).mean() == pytest.approx(config.noisy_share, abs=0.02)
    assert (drawn.state == State.FULL).any(axis=(1, 2)).mean() == pytest.approx(config.saturated_share, abs=0.02)
    assert np.bincount(drawn.outlier[~peak], minlength=5).min() > 150


def test_missing_pixels_never_take_the_centre() -> None:
    missing = missing_pixels(2000, rng=np.random.default_rng(13), config=PatchSimulation(missing_share=1), size=9)
    assert not missing[:, 4, 4].any()
    assert missing.any(axis=(1, 2)).mean() > 0.9


def test_no_patches_are_patches_too() -> None:
    drawn = simulate_patches(0, rng=np.random.default_rng(0), size=9)
    assert drawn.counts.shape == (0, 9, 9)


@pytest.mark.parametrize("bad", [{"sigma": (2, 1)}, {"outliers": ("dust",)}, {"tail_share": 1.2}, {"fuzz": 1}])
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        PatchSimulation(**bad)


def test_a_scene_is_the_sum_of_its_parts() -> None:
    config = plain(neighbour_share=1.0, height=(1e6, 1e6), neighbour_distance=(5.0, 7.0))
    drawn = simulate_patches(50, rng=np.random.default_rng(14), config=config)
    mean: NDArray[np.float64] = expected_patches(drawn.profiles, 11)
    for k in range(2):
        mean = mean + expected_patches(drawn.neighbours[:, k], 11)
    np.testing.assert_allclose(drawn.counts, mean, rtol=0.05, atol=60)
