"""What is sent of an image: the window, in as few pixels as the screen has, every spot in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braggflow.view.windows import Extent, Picture, covered, reduced


@given(rows=st.integers(1, 60), columns=st.integers(1, 60), factor=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_reduced_pixel_is_the_highest_of_its_own(rows: int, columns: int, factor: int, seed: int) -> None:
    image = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    image[np.random.default_rng(seed + 1).random(image.shape) < 0.3] = np.nan
    small = reduced(image, factor)
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            block = image[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
            highest = np.nan if np.isnan(block).all() else np.nanmax(block)
            assert np.array_equal(small[y, x], highest, equal_nan=True)


@given(
    binned=st.integers(1, 3),
    top=st.floats(-50, 150),
    left=st.floats(-50, 150),
    side=st.floats(0.5, 300),
    height=st.integers(1, 80),
    width=st.integers(1, 80),
)
def test_a_window_holds_what_it_shows_in_no_more_pixels_than_the_screen(
    binned: int, top: float, left: float, side: float, height: int, width: int
) -> None:
    image = np.arange(70 * 90, dtype=np.float32).reshape(70, 90)
    picture = Picture(image, binned)
    window = picture.window(Extent(top, top + side, left, left + side), height, width)
    rows, columns = window.image.shape
    assert 1 <= rows <= height + 2
    assert 1 <= columns <= width + 2
    size = window.factor * binned
    extent, whole = window.extent, picture.extent
    assert (extent.bottom - extent.top, extent.right - extent.left) == pytest.approx((rows * size, columns * size))
    for shown, start, end, its_start, its_end in (
        (top, extent.top, extent.bottom, whole.top, whole.bottom),
        (left, extent.left, extent.right, whole.left, whole.right),
    ):
        if its_start < shown + side and shown < its_end:  # it reaches into the image
            assert start <= max(shown, its_start)
            assert end >= min(shown + side, its_end)


def test_the_place_of_a_spot_is_kept_at_every_reduction() -> None:
    image = np.zeros((100, 120), np.float32)
    image[41, 77] = 9
    for screen in (200, 50, 30, 10, 3):
        window = Picture(image).window(Picture(image).extent, screen, screen)
        (y, x) = np.argwhere(window.image == 9)[0]
        assert (y, x) == (41 // window.factor, 77 // window.factor)
        assert window.extent.top == window.extent.left == -0.5


@pytest.mark.parametrize("binned", [1, 2, 3])
def test_a_drawn_mask_covers_the_pixels_of_the_window_that_hold_one_of_its_own(binned: int) -> None:
    mask = np.zeros((65, 83), bool)
    mask[64, 5] = mask[30, 40] = True
    picture = Picture(np.zeros((65 // binned, 83 // binned), np.float32), binned)
    for shown in (picture.extent, Extent(20.0, 45.0, 30.0, 60.0)):
        window = picture.window(shown, 20, 20)
        over = covered(mask, window)
        assert over.shape == window.image.shape
        size = window.factor * binned
        expected = {
            (int((y + 0.5 - (window.extent.top + 0.5)) // size), int((x + 0.5 - (window.extent.left + 0.5)) // size))
            for y, x in np.argwhere(mask)
        }
        rows, columns = over.shape
        inside = {(y, x) for y, x in expected if 0 <= y < rows and 0 <= x < columns}
        assert {(int(y), int(x)) for y, x in np.argwhere(over)} == inside
