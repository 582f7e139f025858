from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from braggflow import synthetic


def profile(**values: float) -> NDArray[np.void]:
    """One profile, round and of height 1 at (5, 5) unless said."""
    row = np.zeros(1, synthetic.PROFILE_DTYPE)
    for name, value in ({"y": 5, "x": 5, "height": 1, "sigma_major": 1, "sigma_minor": 1} | values).items():
        row[name] = value
    return row


def subsampled(p: np.void, size: int, *, m: int = 101) -> NDArray[np.float64]:
    """The oracle: the mean of the curve over m × m points of each pixel, written out from its definition."""
    grid = (np.arange(size * m) + 0.5) / m - 0.5
    dy, dx = grid[:, None] - p["y"], grid[None] - p["x"]
    angle = np.radians(p["angle"])
    major, minor = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    r2 = (major / p["sigma_major"]) ** 2 + (minor / p["sigma_minor"]) ** 2
    half_width = synthetic.FWHM_PER_SIGMA / 2
    curve = (1 - p["eta"]) * np.exp(-r2 / 2) + p["eta"] / (1 + r2 / half_width**2)
    return p["background"] + p["height"] * curve.reshape(size, m, size, m).mean(axis=(1, 3))


@given(
    sigma=st.floats(0.2, 4),
    ratio=st.floats(1, 3),
    angle=st.floats(-90, 90),
    eta=st.sampled_from([0.0, 0.4, 1.0]),
    y=st.floats(2, 4),
    x=st.floats(2, 4),
)
@settings(deadline=None, max_examples=30)
def test_pixels_hold_the_integral_of_the_curve_to_a_ten_thousandth_of_its_height(
    sigma: float, ratio: float, angle: float, eta: float, y: float, x: float
) -> None:
    p = profile(sigma_minor=sigma, sigma_major=sigma * ratio, angle=angle, eta=eta, y=y, x=x, background=3)
    np.testing.assert_allclose(synthetic.expected_patches(p, 7)[0], subsampled(p[0], 7), rtol=0, atol=1.1e-4)


def test_a_sharp_peak_of_half_a_pixel_is_within_a_ten_thousandth_in_every_position() -> None:
    for offset in (0, 0.25, 0.5):
        for eta in (0.0, 1.0):
            p = profile(sigma_minor=0.5, sigma_major=0.5, y=4 + offset, x=4 - offset, eta=eta)
            np.testing.assert_allclose(synthetic.expected_patches(p, 9)[0], subsampled(p[0], 9, m=201), atol=1e-4)


@given(sigma=st.floats(0.3, 4), ratio=st.floats(1, 3), angle=st.floats(-90, 90), y=st.floats(50, 51))
@settings(deadline=None, max_examples=30)
def test_all_counts_of_a_gaussian_are_on_the_frame(sigma: float, ratio: float, angle: float, y: float) -> None:
    p = profile(height=100, y=y, x=50.3, sigma_minor=sigma, sigma_major=sigma * ratio, angle=angle)
    volume = 2 * np.pi * sigma**2 * ratio * 100
    assert synthetic.render((101, 101), p).sum() == pytest.approx(volume, rel=2e-5 + 1e-3 * (sigma < 0.5))


@given(sigma=st.floats(0.3, 3), ratio=st.floats(1, 3), angle=st.floats(-90, 90), eta=st.sampled_from([0.0, 0.5]))
@settings(deadline=None, max_examples=30)
def test_mirrored_and_turned_peaks_give_mirrored_and_turned_patches(
    sigma: float, ratio: float, angle: float, eta: float
) -> None:
    def patch(**changed: float) -> NDArray[np.float64]:
        values = {"y": 5.3, "x": 4.8, "angle": angle} | changed
        return synthetic.expected_patches(profile(sigma_minor=sigma, sigma_major=sigma * ratio, eta=eta, **values), 11)[
            0
        ]

    np.testing.assert_allclose(patch()[:, ::-1], patch(x=5.2, angle=-angle), atol=1e-9)
    np.testing.assert_allclose(patch()[::-1], patch(y=4.7, angle=-angle), atol=1e-9)
    np.testing.assert_allclose(patch().T, patch(y=4.8, x=5.3, angle=90 - angle), atol=1e-9)


def test_the_angle_turns_from_x_towards_y() -> None:
    patch = synthetic.expected_patches(profile(sigma_major=3, angle=30), 11)[0]
    y, x = np.mgrid[:11, :11] - 5
    assert np.degrees(np.arctan2(2 * (patch * x * y).sum(), (patch * (x**2 - y**2)).sum())) / 2 == pytest.approx(
        30, abs=3
    )


def test_a_frame_is_the_sum_of_its_peaks_wherever_they_lie() -> None:
    rng = np.random.default_rng(1)
    profiles = synthetic.sample_profiles(30, rng=rng)
    profiles["y"], profiles["x"] = rng.uniform(-15, 55, 30), rng.uniform(-15, 75, 30)
    single = [synthetic.render((40, 60), profiles[k : k + 1]) for k in range(30)]
    np.testing.assert_allclose(synthetic.render((40, 60), profiles, background=5.0), 5 + sum(single), rtol=1e-12)


def test_frame_and_patch_agree_where_the_patch_lies_in_the_frame() -> None:
    profiles = synthetic.sample_profiles(50, rng=np.random.default_rng(2))
    patches = synthetic.expected_patches(profiles, 11)
    for k in range(50):
        p = profiles[k : k + 1].copy()
        p["y"] += 20
        p["x"] += 30
        frame = synthetic.render((60, 60), p, background=p["background"][0])
        np.testing.assert_allclose(frame[20:31, 30:41], patches[k], atol=1e-7 * p["height"][0])


def test_no_profiles_render_as_background() -> None:
    none = np.empty(0, synthetic.PROFILE_DTYPE)
    image = np.arange(12.0).reshape(3, 4)
    assert (synthetic.render((3, 4), none, background=image) == image).all()
    assert synthetic.expected_patches(none, 11).shape == (0, 11, 11)


@pytest.mark.parametrize("kind", ["mixed", *synthetic.CLASSES])
def test_profiles_keep_to_the_ranges_of_their_class(kind: str) -> None:
    spec = synthetic.MIXED if kind == "mixed" else synthetic.CLASSES[kind]
    p = synthetic.sample_profiles(5000, rng=np.random.default_rng(3), kind=kind, size=13)
    tolerance = 1e-9
    for name, values in (
        ("sigma", p["sigma_minor"]),
        ("height", p["height"]),
        ("background", p["background"][p["background"] > 0]),
        ("eta", p["eta"][p["eta"] > 0]),
    ):
        low, high = getattr(spec, name)
        assert ((values >= low - tolerance) & (values <= high + tolerance)).all(), name
    ratio = p["sigma_major"] / p["sigma_minor"]
    assert ratio.min() >= 1
    assert ratio.max() <= spec.ratio[1] + tolerance
    assert p["sigma_major"].max() <= synthetic.MAX_SIGMA_MAJOR
    assert ((p["angle"] > -90) & (p["angle"] <= 90)).all()
    for axis in "yx":
        assert abs(p[axis] - 6).max() <= spec.offset
        assert abs(p[axis] - 6).max() > 0.95 * spec.offset
    assert (p["eta"] == 0).mean() == pytest.approx(spec.gaussian_share if spec.eta[1] else 1, abs=0.03)
    assert (p["background"] == 0).mean() == pytest.approx(spec.dark_share, abs=0.03)


def test_the_training_distribution_is_wider_than_every_class() -> None:
    mixed = synthetic.MIXED
    for spec in synthetic.CLASSES.values():
        assert mixed.offset > spec.offset
        for name in ("sigma", "ratio", "height", "eta", "background"):
            assert getattr(mixed, name)[0] <= getattr(spec, name)[0]
            assert getattr(mixed, name)[1] >= getattr(spec, name)[1]


def test_an_unknown_class_is_an_error() -> None:
    with pytest.raises(KeyError, match="fuzzy"):
        synthetic.sample_profiles(1, rng=np.random.default_rng(0), kind="fuzzy")


def test_the_same_generator_state_gives_the_same_patches_and_another_gives_others() -> None:
    def simulate(seed: int) -> tuple[NDArray[np.float32], NDArray[np.void]]:
        return synthetic.simulate_patches(2500, rng=np.random.default_rng(seed), read_noise=1.0)

    one, same, other = simulate(1), simulate(1), simulate(2)
    assert (one[0] == same[0]).all()
    assert (one[1] == same[1]).all()
    assert (one[0] != other[0]).any()


@pytest.mark.parametrize("read_noise", [0.0, 3.0])
def test_noise_has_the_mean_and_variance_of_photons_and_readout(read_noise: float) -> None:
    counts, profiles = synthetic.simulate_patches(
        4000, rng=np.random.default_rng(4), kind="sampled", read_noise=read_noise
    )
    assert counts.dtype == np.float32
    mean = synthetic.expected_patches(profiles, 11)
    normal = (counts - mean) / np.sqrt(mean + read_noise**2)
    assert normal.mean() == pytest.approx(0, abs=5 / np.sqrt(normal.size))
    assert normal.var() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("sigma", "height"), [(1.5, 1000.0), (2.0, 50.0)])
def test_the_limit_of_a_well_sampled_peak_without_background_is_sigma_over_root_counts(
    sigma: float, height: float
) -> None:
    # A pixel's own width adds 1/12 px² to the variance of the positions counted (Sheppard's correction).
    p = profile(y=12, x=12, height=height, sigma_major=sigma, sigma_minor=sigma)
    counts = 2 * np.pi * sigma**2 * height
    expected = np.sqrt(sigma**2 + 1 / 12) / np.sqrt(counts)
    np.testing.assert_allclose(synthetic.cramer_rao(p, size=25), expected, rtol=0.01)


def test_the_limit_of_an_elongated_peak_turns_with_it() -> None:
    values = {"y": 12, "x": 12, "height": 500, "sigma_major": 3, "sigma_minor": 1.5}
    along_x, along_y, slanted = (
        synthetic.cramer_rao(profile(**values, angle=angle), size=25)[0] for angle in (0.0, 90.0, 45.0)
    )
    assert along_x[1] == pytest.approx(2 * along_x[0], rel=0.03)
    np.testing.assert_allclose(along_x, along_y[::-1], rtol=1e-6)
    np.testing.assert_allclose(slanted**2, (along_x**2).mean(), rtol=1e-3)


def test_the_limit_grows_with_background_read_noise_missing_pixels_and_free_eta() -> None:
    def limit(usable: Any = None, read_noise: float = 0.0, **values: float) -> float:
        p = profile(height=300, sigma_major=1.2, **values)
        return float(synthetic.cramer_rao(p, usable=usable, read_noise=read_noise)[0, 0])

    usable = np.ones((1, 11, 11), bool)
    assert limit(usable) == limit()
    usable[0, 6:] = False
    assert limit(background=10) > 1.02 * limit(background=1)
    assert limit(background=10, read_noise=5) > 1.02 * limit(background=10)
    assert limit(usable, background=10) > 1.2 * limit(background=10)
    assert limit(background=10, eta=1e-6, y=5.6) > limit(background=10, y=5.6)


def test_pixels_that_do_not_determine_the_position_give_an_infinite_limit() -> None:
    usable = np.zeros((2, 11, 11), bool)
    usable[1, 5, 3:8] = True
    assert np.isinf(synthetic.cramer_rao(np.repeat(profile(height=100, background=1), 2), usable=usable)).all()


def test_maximum_likelihood_fits_scatter_as_the_limit_says() -> None:
    rng = np.random.default_rng(5)
    truth = profile(y=5.2, x=4.9, height=400, sigma_major=1.6, sigma_minor=1.1, angle=30, background=5)
    expected = synthetic.expected_patches(truth, 11)[0]
    names = ("y", "x", "height", "sigma_major", "sigma_minor", "angle", "background")
    start = np.array([truth[name][0] for name in names])
    scale = np.array([0.05, 0.05, 20, 0.05, 0.05, 5, 0.3])

    def misfit(parameters: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
        p = profile(**dict(zip(names, start + scale * parameters, strict=True)))
        mean = np.maximum(synthetic.expected_patches(p, 11)[0], 1e-9)
        return float((mean - counts * np.log(mean)).sum())

    fits = [minimize(misfit, np.zeros(7), rng.poisson(expected), method="BFGS").x[:2] for _ in range(150)]
    limit = synthetic.cramer_rao(truth)[0]
    np.testing.assert_allclose(np.std(fits, axis=0) * scale[:2], limit, rtol=0.2)  # 150 fits: 6% each
