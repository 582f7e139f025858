import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from braggflow.simulate import FWHM_PER_SIGMA, PROFILE_DTYPE, expected_patches, sample_profiles
from braggflow.simulate.profiles import render


def profile(**values: float) -> NDArray[np.void]:
    """One profile, round and of height 1 at (5, 5) unless said."""
    row = np.zeros(1, PROFILE_DTYPE)
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
    half_width = FWHM_PER_SIGMA / 2
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
@settings(max_examples=30)
def test_pixels_hold_the_integral_of_the_curve_to_a_ten_thousandth_of_its_height(
    sigma: float, ratio: float, angle: float, eta: float, y: float, x: float
) -> None:
    p = profile(sigma_minor=sigma, sigma_major=sigma * ratio, angle=angle, eta=eta, y=y, x=x, background=3)
    np.testing.assert_allclose(expected_patches(p, 7)[0], subsampled(p[0], 7), rtol=0, atol=1.1e-4)


def test_a_sharp_peak_of_half_a_pixel_is_within_a_ten_thousandth_in_every_position() -> None:
    for offset in (0, 0.25, 0.5):
        for eta in (0.0, 1.0):
            p = profile(sigma_minor=0.5, sigma_major=0.5, y=4 + offset, x=4 - offset, eta=eta)
            np.testing.assert_allclose(expected_patches(p, 9)[0], subsampled(p[0], 9, m=201), atol=1e-4)


@given(sigma=st.floats(0.3, 4), ratio=st.floats(1, 3), angle=st.floats(-90, 90), y=st.floats(50, 51))
@settings(max_examples=30)
def test_all_counts_of_a_gaussian_are_on_the_frame(sigma: float, ratio: float, angle: float, y: float) -> None:
    p = profile(height=100, y=y, x=50.3, sigma_minor=sigma, sigma_major=sigma * ratio, angle=angle)
    volume = 2 * np.pi * sigma**2 * ratio * 100
    assert render((101, 101), p).sum() == pytest.approx(volume, rel=2e-5 + 1e-3 * (sigma < 0.5))


@given(sigma=st.floats(0.3, 3), ratio=st.floats(1, 3), angle=st.floats(-90, 90), eta=st.sampled_from([0.0, 0.5]))
@settings(max_examples=30)
def test_mirrored_and_turned_peaks_give_mirrored_and_turned_patches(
    sigma: float, ratio: float, angle: float, eta: float
) -> None:
    def patch(**changed: float) -> NDArray[np.float64]:
        values = {"y": 5.3, "x": 4.8, "angle": angle} | changed
        return expected_patches(profile(sigma_minor=sigma, sigma_major=sigma * ratio, eta=eta, **values), 11)[0]

    np.testing.assert_allclose(patch()[:, ::-1], patch(x=5.2, angle=-angle), atol=1e-9)
    np.testing.assert_allclose(patch()[::-1], patch(y=4.7, angle=-angle), atol=1e-9)
    np.testing.assert_allclose(patch().T, patch(y=4.8, x=5.3, angle=90 - angle), atol=1e-9)


def test_the_angle_turns_from_x_towards_y() -> None:
    patch = expected_patches(profile(sigma_major=3, angle=30), 11)[0]
    y, x = np.mgrid[:11, :11] - 5
    assert np.degrees(np.arctan2(2 * (patch * x * y).sum(), (patch * (x**2 - y**2)).sum())) / 2 == pytest.approx(
        30, abs=3
    )


def test_a_frame_is_the_sum_of_its_peaks_wherever_they_lie() -> None:
    rng = np.random.default_rng(1)
    profiles = sample_profiles(30, rng=rng)
    profiles["y"], profiles["x"] = rng.uniform(-15, 55, 30), rng.uniform(-15, 75, 30)
    single = [render((40, 60), profiles[k : k + 1]) for k in range(30)]
    np.testing.assert_allclose(render((40, 60), profiles, background=5.0), 5 + sum(single), rtol=1e-12)


def test_frame_and_patch_agree_where_the_patch_lies_in_the_frame() -> None:
    profiles = sample_profiles(50, rng=np.random.default_rng(2))
    patches = expected_patches(profiles, 11)
    for k in range(50):
        p = profiles[k : k + 1].copy()
        p["y"] += 20
        p["x"] += 30
        frame = render((60, 60), p, background=p["background"][0])
        np.testing.assert_allclose(frame[20:31, 30:41], patches[k], atol=1e-7 * p["height"][0])


def test_no_profiles_render_as_background() -> None:
    none = np.empty(0, PROFILE_DTYPE)
    image = np.arange(12.0).reshape(3, 4)
    assert (render((3, 4), none, background=image) == image).all()
    assert expected_patches(none, 11).shape == (0, 11, 11)
