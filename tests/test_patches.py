import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow import patches, peaks
from braggflow.config import PatchesConfig
from braggflow.frames import CorrectedFrame
from braggflow.peaks import Flag


def table_at(*positions):
    table = peaks.empty(len(positions))
    table["y_pixel"], table["x_pixel"] = np.array(sorted(positions)).reshape(-1, 2).T
    return table


def gaussian(shape, *spots, background=10.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, float(background))
    for cy, cx, height in spots:
        image += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.2**2))
    return image.astype(np.float32)


def frame_of(image, mask=None, saturated=None):
    return CorrectedFrame(image, np.zeros(image.shape, bool) if mask is None else mask, saturated)


@pytest.mark.parametrize("size", [9, 11, 13, 15])
def test_interior_patch_is_the_frame_around_the_maximum(size):
    image = gaussian((40, 50), (20.2, 30.4, 500))
    cut, table = patches.cut(frame_of(image), table_at((20, 30)), PatchesConfig(size=size))
    half = size // 2
    np.testing.assert_array_equal(cut.counts[0], image[20 - half : 21 + half, 30 - half : 31 + half])
    assert cut.usable.all()
    assert table["flags"][0] == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_any_dtype_gives_the_same_counts(dtype):
    image = np.round(gaussian((40, 40), (20, 20, 200)))
    expected, _ = patches.cut(frame_of(image), table_at((20, 20)), PatchesConfig())
    cut, _ = patches.cut(frame_of(image.astype(dtype)), table_at((20, 20)), PatchesConfig())
    np.testing.assert_array_equal(cut.counts, expected.counts)


def test_pixels_beyond_the_edge_are_mirrored_through_the_maximum_and_flagged():
    image = gaussian((40, 40), (1.0, 20.0, 500))
    cut, table = patches.cut(frame_of(image), table_at((1, 20)), PatchesConfig())
    assert table["flags"][0] == Flag.edge
    assert not cut.usable[0, :4].any()
    assert cut.usable[0, 4:].all()
    np.testing.assert_array_equal(cut.counts[0, :4], cut.counts[0, :6:-1, ::-1])


def test_masked_pixels_are_mirrored_and_flagged():
    image = gaussian((40, 40), (20, 20, 500))
    mask = np.zeros(image.shape, bool)
    mask[18, 17] = True
    image[18, 17] = np.nan
    cut, table = patches.cut(frame_of(image, mask), table_at((20, 20)), PatchesConfig())
    assert table["flags"][0] == Flag.masked
    assert not cut.usable[0, 3, 2]
    assert cut.counts[0, 3, 2] == image[22, 23]
    assert np.isfinite(cut.counts).all()


def test_where_the_mirror_image_is_missing_too_the_background_stands():
    image = gaussian((40, 40), (20, 20, 500), background=7)
    mask = np.zeros(image.shape, bool)
    mask[16, 16] = mask[24, 24] = True
    image[mask] = 9999
    cut, _ = patches.cut(frame_of(image, mask), table_at((20, 20)), PatchesConfig())
    assert cut.counts[0, 1, 1] == cut.counts[0, 9, 9] == pytest.approx(7, abs=0.1)


def test_saturated_pixels_keep_their_counts_but_are_not_usable():
    image = np.minimum(gaussian((40, 40), (20, 20, 500)), 300)
    cut, table = patches.cut(frame_of(image, saturated=image >= 300), table_at((20, 20)), PatchesConfig())
    assert table["flags"][0] == Flag.saturated
    np.testing.assert_array_equal(cut.usable[0], cut.counts[0] < 300)
    by_level = CorrectedFrame(image, np.zeros(image.shape, bool), None, saturation=300)
    again, table = patches.cut(by_level, table_at((20, 20)), PatchesConfig())
    np.testing.assert_array_equal(again.usable, cut.usable)
    assert table["flags"][0] == Flag.saturated


def test_pixels_nearer_to_another_maximum_are_excluded_and_flagged():
    image = gaussian((40, 40), (20, 20, 500), (20, 24, 5000))
    cut, table = patches.cut(frame_of(image), table_at((20, 20), (20, 24)), PatchesConfig())
    assert (table["flags"] == Flag.overlap).all()
    np.testing.assert_array_equal(cut.usable[0], np.broadcast_to(np.arange(11) <= 7, (11, 11)))
    np.testing.assert_array_equal(cut.counts[0, :, 8:], cut.counts[0, ::-1, 2::-1])
    kept, _ = patches.cut(frame_of(image), table_at((20, 20), (20, 24)), PatchesConfig(neighbours="keep"))
    assert kept.usable.all()


def test_a_maximum_beyond_the_patch_owns_pixels_of_it_and_is_an_overlap():
    image = gaussian((40, 40), (20, 18, 500), (20, 26, 500))
    cut, table = patches.cut(frame_of(image), table_at((20, 18), (20, 26)), PatchesConfig())
    assert (table["flags"] == Flag.overlap).all()
    assert not cut.usable[0, :, 10].any()
    assert cut.usable[0, :, 9].all()
    image = gaussian((40, 40), (20, 12, 500), (20, 23, 500))
    _, table = patches.cut(frame_of(image), table_at((20, 12), (20, 23)), PatchesConfig())
    assert (table["flags"] == 0).all()


def test_intensity_snr_and_centroid_of_a_lone_peak():
    rng = np.random.default_rng(0)
    height, sigma, background, n = 400.0, 1.2, 10.0, 400
    image = gaussian((30 * n, 30), *[(30 * i + 15.3, 14.8, height) for i in range(n)], background=background)
    noisy = rng.poisson(image).astype(np.float32)
    positions = [(30 * i + 15, 15) for i in range(n)]
    cut, table = patches.cut(frame_of(noisy), table_at(*positions), PatchesConfig())
    expected = 2 * np.pi * sigma**2 * height
    assert table["intensity"].mean() == pytest.approx(expected, rel=0.01)
    # The stated noise is the scatter that repeated measurements show.
    stated = (table["intensity"] / table["snr"]).mean()
    assert stated == pytest.approx(table["intensity"].std(), rel=0.2)
    assert cut.centroid.mean(axis=0) == pytest.approx([5.3, 4.8], abs=0.02)


def test_flat_patch_has_no_intensity_and_low_snr():
    image = np.full((30, 30), 12, np.uint16)
    cut, table = patches.cut(frame_of(image), table_at((15, 15)), PatchesConfig())
    assert (table["intensity"][0], table["snr"][0]) == (0, 0)
    assert table["flags"][0] == Flag.low_snr
    assert np.isnan(cut.centroid).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 24), st.integers(0, 30)), min_size=1, max_size=8, unique=True), st.integers(0, 9)
)
def test_a_patch_depends_on_its_neighbourhood_only(positions, shift):
    rng = np.random.default_rng(5)
    image = rng.poisson(20, (25, 31)).astype(np.uint16)
    padded = np.zeros((25 + 40 + shift, 31 + 40), np.uint16)
    mask = np.ones(padded.shape, bool)
    inner = np.s_[20 + shift : 45 + shift, 20:51]
    padded[inner], mask[inner] = image, False
    cut, table = patches.cut(frame_of(image), table_at(*positions), PatchesConfig())
    moved = [(y + 20 + shift, x + 20) for y, x in positions]
    cut2, table2 = patches.cut(frame_of(padded, mask), table_at(*moved), PatchesConfig())
    np.testing.assert_array_equal(cut.usable, cut2.usable)
    np.testing.assert_array_equal(cut.counts, cut2.counts)

    # Beyond the edge is masked there: the same pixels are missing, under the other name.
    def without(flags):
        return flags & ~np.uint16(Flag.edge | Flag.masked)

    np.testing.assert_array_equal(without(table["flags"]), without(table2["flags"]))


def test_no_peaks_give_no_patches():
    cut, table = patches.cut(frame_of(np.zeros((20, 20), np.uint16)), peaks.empty(), PatchesConfig(size=9))
    assert cut.counts.shape == (0, 9, 9)
    assert len(table) == 0
    assert len(patches.concatenate([cut, patches.empty(PatchesConfig(size=9))]).counts) == 0
