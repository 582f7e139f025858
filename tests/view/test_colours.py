"""Counts as colours: what is brighter never looks darker, and what is ignored looks like nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braggflow.view.colours import IGNORED, MAPS, SCALES, coloured, contrast_of


def frame() -> np.ndarray:
    y, x = np.mgrid[:64, :80]
    expected = 6 + 900 * np.exp(-((y - 20) ** 2 + (x - 31) ** 2) / 4)
    return np.random.default_rng(0).poisson(expected).astype(np.float32)


@pytest.mark.parametrize("scale", SCALES)
@given(low=st.floats(0, 60), span=st.floats(1, 40))
def test_shades_rise_with_counts(scale: str, low: float, span: float) -> None:
    contrast = contrast_of(frame(), scale, (low, low + span))
    counts = np.sort(frame().ravel())
    shades = contrast.shades(counts[None])[0].astype(int)
    assert (np.diff(shades) >= 0).all()
    assert contrast.low < contrast.high


@pytest.mark.parametrize("scale", SCALES)
def test_a_spot_stands_out_and_the_background_does_not(scale: str) -> None:
    shades = contrast_of(frame(), scale).shades(frame())
    assert shades[20, 31] > 200
    assert np.median(shades) < 100


@pytest.mark.parametrize("image", [np.full((4, 5), np.nan), np.zeros((4, 5)), np.full((4, 5), 7.0), -np.ones((4, 5))])
@pytest.mark.parametrize("scale", SCALES)
def test_frames_without_anything_in_them_have_colours_too(image: np.ndarray, scale: str) -> None:
    pixels = coloured(image.astype(np.float32), contrast_of(image.astype(np.float32), scale), "viridis")
    assert pixels.shape == (4, 5)


@pytest.mark.parametrize("name", MAPS)
def test_ignored_and_drawn_pixels_have_colours_that_no_count_has(name: str) -> None:
    image, drawn = frame(), np.zeros((64, 80), bool)
    image[3, 4], drawn[10, 12] = np.nan, True
    pixels = coloured(image, contrast_of(image), name, drawn=drawn)
    assert np.count_nonzero(pixels == pixels[3, 4]) == 1
    assert np.count_nonzero(pixels == pixels[10, 12]) == 1
    bands = pixels[3, 4].tobytes()
    assert bands == bytes.fromhex(IGNORED[1:]) + b"\xff"


@pytest.mark.parametrize("name", MAPS)
def test_lightness_rises_or_falls_all_along_a_map(name: str) -> None:
    shades = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in MAPS[name]]) / 255
    luminance = (shades**2.2) @ (0.2126, 0.7152, 0.0722)
    steps = np.diff(luminance)
    assert (steps >= -2e-3).all() or (steps <= 2e-3).all()
