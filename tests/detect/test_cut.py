import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow import patches, peak_table
from braggflow.config import PatchesConfig
from braggflow.detect import cut_patches
from braggflow.frames import CorrectedFrame
from braggflow.patches import MAX_NEIGHBOURS, State
from braggflow.peak_table import Flag

NONE = (np.nan, np.nan)


def table_at(*positions):
    table = peak_table.empty(len(positions))
    table["y_pixel"], table["x_pixel"] = np.array(sorted(positions)).reshape(-1, 2).T
    return table


def gaussian(shape, *spots, background=10.0, sigma=1.2):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, float(background))
    for cy, cx, height in spots:
        image += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2))
    return image.astype(np.float32)


def frame_of(image, mask=None, saturated=None):
    return CorrectedFrame(image, np.zeros(image.shape, bool) if mask is None else mask, saturated)


def cut_at(*positions, image, **config):
    return cut_patches(frame_of(image), table_at(*positions), PatchesConfig(**config))


def centre(*offsets, **config):
    """The patch of a peak at (30, 30) with further maxima at `offsets`: counts, state, neighbours, flags."""
    positions = sorted([(30, 30), *[(30 + dy, 30 + dx) for dy, dx in offsets]])
    image = np.random.default_rng(3).poisson(gaussian((60, 60), (30, 30, 2000), background=50))
    cut, table = cut_at(*positions, image=image, **config)
    i = positions.index((30, 30))
    return cut.counts[i], cut.state[i], cut.neighbours[i], table["flags"][i]


@pytest.mark.parametrize("size", [9, 11, 13, 15])
def test_interior_patch_is_the_frame_around_the_maximum(size):
    image = gaussian((40, 50), (20.2, 30.4, 500))
    cut, table = cut_patches(frame_of(image), table_at((20, 30)), PatchesConfig(size=size))
    half = size // 2
    np.testing.assert_array_equal(cut.counts[0], image[20 - half : 21 + half, 30 - half : 31 + half])
    assert (cut.state == State.OWN).all()
    assert np.isnan(cut.neighbours).all()
    assert table["flags"][0] == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_any_dtype_gives_the_same_counts(dtype):
    image = np.round(gaussian((40, 40), (20, 20, 200)))
    expected, _ = cut_patches(frame_of(image), table_at((20, 20)), PatchesConfig())
    cut, _ = cut_patches(frame_of(image.astype(dtype)), table_at((20, 20)), PatchesConfig())
    np.testing.assert_array_equal(cut.counts, expected.counts)


def test_pixels_beyond_the_edge_are_missing_and_flagged():
    image = gaussian((40, 40), (1.0, 20.0, 500))
    cut, table = cut_patches(frame_of(image), table_at((1, 20)), PatchesConfig())
    assert table["flags"][0] == Flag.edge
    assert (cut.state[0, :4] == State.MISSING).all()
    assert (cut.state[0, 4:] == State.OWN).all()
    assert (cut.counts[0, :4] == 0).all()


def test_masked_pixels_are_missing_and_flagged_whatever_they_hold():
    image = gaussian((40, 40), (20, 20, 500))
    mask = np.zeros(image.shape, bool)
    mask[18, 17] = True
    image[18, 17] = np.nan
    cut, table = cut_patches(frame_of(image, mask, saturated=mask), table_at((20, 20)), PatchesConfig())
    assert table["flags"][0] == Flag.masked
    assert cut.state[0, 3, 2] == State.MISSING
    assert cut.counts[0, 3, 2] == 0
    assert np.count_nonzero(cut.state) == 1


def test_saturated_pixels_keep_their_counts_and_are_told_apart():
    image = np.minimum(gaussian((40, 40), (20, 20, 500)), 300)
    cut, table = cut_patches(frame_of(image, saturated=image >= 300), table_at((20, 20)), PatchesConfig())
    assert table["flags"][0] == Flag.saturated
    np.testing.assert_array_equal(cut.state[0] == State.FULL, image[15:26, 15:26] >= 300)
    np.testing.assert_array_equal(cut.counts[0], image[15:26, 15:26])
    assert cut.centroid[0] == pytest.approx([5, 5], abs=1e-6)
    by_level = CorrectedFrame(image, np.zeros(image.shape, bool), None, saturation=300)
    again, table = cut_patches(by_level, table_at((20, 20)), PatchesConfig())
    np.testing.assert_array_equal(again.state, cut.state)
    assert table["flags"][0] == Flag.saturated


@pytest.mark.parametrize("size", [9, 11, 15])
@given(
    st.lists(st.tuples(*[st.integers(-20, 20)] * 2).filter(any), max_size=4, unique=True),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40)
def test_others_are_the_pixels_nearer_to_a_neighbour_than_to_the_centre(size, offsets, random):
    half = size // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    nearest = np.min([np.full((size, size), 10**6), *[(y - dy) ** 2 + (x - dx) ** 2 for dy, dx in offsets]], axis=0)
    given_as = [*offsets, NONE]
    random.shuffle(given_as)
    marked = patches.others(np.array([given_as, [NONE] * len(given_as)]), size)
    np.testing.assert_array_equal(marked[0], nearest < y**2 + x**2)
    assert not marked[1].any()


def test_pixels_of_a_listed_neighbour_keep_their_counts_and_are_told_apart():
    image = gaussian((40, 40), (20, 20, 500), (20, 24, 5000))
    cut, table = cut_at((20, 20), (20, 24), image=image)
    assert (table["flags"] == Flag.overlap).all()
    np.testing.assert_array_equal(cut.counts[0], image[15:26, 15:26])
    np.testing.assert_array_equal(cut.state[0] == State.OTHER, np.broadcast_to(np.arange(11) > 7, (11, 11)))
    np.testing.assert_array_equal(cut.state != State.OWN, patches.others(cut.neighbours, 11))
    np.testing.assert_array_equal(cut.neighbours[:, 0], [[0, 4], [0, -4]])


@pytest.mark.parametrize(
    ("offsets", "listed"),
    [
        ([(0, 4)], [(0, 4)]),
        ([(4, 4), (0, 5), (-3, 0)], [(-3, 0), (0, 5), (4, 4)]),
        ([(0, 5), (5, 0), (3, 4), (-3, 4)], [(-3, 4), (0, 5), (3, 4)]),  # one distance: by dy, then dx
        ([(4, -3), (4, 3), (0, 5)], [(0, 5), (4, -3), (4, 3)]),
        ([(0, 3), (0, 4), (0, -3), (5, 0), (-5, 0)], [(0, -3), (0, 3), (0, 4)]),  # the nearest three
        ([(0, 8)], [(0, 8)]),  # half + 3
        ([(0, 9)], []),  # owns pixels, but shows too little
        ([(8, 8)], [(8, 8)]),  # the corner pixel
        ([(0, 10)], []),
        ([(8, -3), (9, 3)], [(8, -3)]),
    ],
)
def test_which_neighbours_are_listed_and_in_which_order(offsets, listed):
    _, state, neighbours, flags = centre(*offsets)
    np.testing.assert_array_equal(neighbours, [*listed, *[NONE] * (MAX_NEIGHBOURS - len(listed))])
    assert flags == (0 if offsets == [(0, 10)] else Flag.overlap)
    unlisted = set(offsets) - set(listed)
    assert (state == State.OTHER).any() == bool(listed)
    assert (state == State.MISSING).any() == (bool(unlisted) and offsets != [(0, 10)])


def test_pixels_nearest_to_an_unlisted_neighbour_are_missing():
    counts, state, neighbours, flags = centre((0, 9), (0, -4))
    assert neighbours[0].tolist() == [0, -4]
    np.testing.assert_array_equal(state[0], [1] * 3 + [0] * 7 + [3])
    assert (counts[:, 10] == 0).all()
    assert (counts[:, :10] > 0).all()
    assert flags == Flag.overlap
    # Between a listed and an unlisted one the nearer decides; at the same distance the listed one.
    _, state, neighbours, _ = centre((0, 2), (0, -2), (2, 0), (4, 2))
    assert neighbours.tolist() == [[0, -2], [0, 2], [2, 0]]
    np.testing.assert_array_equal(state[5:, 7], [1, 1, 1, 3, 3, 3])


def test_a_corner_pixel_may_belong_to_a_maximum_more_than_a_patch_away():
    _, state, neighbours, flags = centre((5, 12))
    assert np.argwhere(state == State.MISSING).tolist() == [[10, 10]]
    assert np.isnan(neighbours).all()
    assert flags == Flag.overlap
    _, state, _, flags = centre((5, 13))
    assert (state == State.OWN).all()
    assert flags == 0


def test_excluded_neighbours_are_missing_and_kept_ones_are_ignored():
    offsets = [(0, 4), (-9, 0), (5, 5)]
    counts, state, neighbours, flags = centre(*offsets, neighbours="mask")
    np.testing.assert_array_equal(state == State.MISSING, patches.others(np.array([offsets]), 11)[0])
    assert (state[counts > 0] == State.OWN).all()
    assert np.isnan(neighbours).all()
    assert flags == Flag.overlap
    counts, state, neighbours, flags = centre(*offsets, neighbours="ignore")
    assert (state == State.OWN).all()
    assert (counts > 0).all()
    assert np.isnan(neighbours).all()
    assert flags == Flag.overlap


def test_saturated_pixels_of_neighbours_do_not_draw_the_centroid():
    image = np.minimum(gaussian((40, 40), (20, 20, 200), (20, 25, 1000)), 400)
    frame = frame_of(image, saturated=image >= 400)
    cut, table = cut_patches(frame, table_at((20, 20), (20, 25)), PatchesConfig())
    np.testing.assert_array_equal(cut.state[0] == State.FULL, image[15:26, 15:26] >= 400)
    assert table["flags"][0] == Flag.overlap | Flag.saturated
    assert cut.centroid[0] == pytest.approx([5, 5], abs=0.25)
    excluded, _ = cut_patches(frame, table_at((20, 20), (20, 25)), PatchesConfig(neighbours="mask"))
    assert not (excluded.state[0] == State.FULL).any()
    np.testing.assert_array_equal(excluded.centroid, cut.centroid)


def test_filled_holds_mirror_images_where_pixels_are_missing_or_a_neighbours():
    image = gaussian((40, 40), (1.0, 20.0, 500), (3.0, 24.0, 900))
    cut, _ = cut_at((1, 20), (3, 24), image=image)
    state, full = cut.state[0], patches.filled(cut.counts, cut.state)[0]
    hole = np.isin(state, (State.OTHER, State.MISSING))
    np.testing.assert_array_equal(full[~hole], cut.counts[0][~hole])
    mirrored = hole & ~hole[::-1, ::-1]
    assert mirrored.any()
    np.testing.assert_array_equal(full[mirrored], cut.counts[0, ::-1, ::-1][mirrored])
    both = hole & hole[::-1, ::-1]
    border = np.ones((11, 11), bool)
    border[1:-1, 1:-1] = False
    assert both.any()
    assert (full[both] == np.median(cut.counts[0][border & (state == State.OWN)])).all()


def test_filled_keeps_saturated_pixels_and_what_it_was_given():
    rng = np.random.default_rng(1)
    counts = rng.poisson(30, (20, 11, 11)).astype(np.float32)
    state = rng.choice([0, 0, 0, 1, 2, 3], counts.shape).astype(np.uint8)
    before = counts.copy()
    full = patches.filled(counts, state)
    np.testing.assert_array_equal(counts, before)
    kept = np.isin(state, (State.OWN, State.FULL))
    np.testing.assert_array_equal(full[kept], counts[kept])
    mirror = np.isin(state, (State.OTHER, State.MISSING)) & kept[:, ::-1, ::-1]
    np.testing.assert_array_equal(full[mirror], counts[:, ::-1, ::-1][mirror])
    assert (patches.filled(counts[:1], np.full((1, 11, 11), State.MISSING, np.uint8)) == 0).all()


def test_intensity_snr_and_centroid_of_a_lone_peak():
    rng = np.random.default_rng(0)
    height, sigma, background, n = 400.0, 1.2, 10.0, 400
    image = gaussian((30 * n, 30), *[(30 * i + 15.3, 14.8, height) for i in range(n)], background=background)
    photons = rng.poisson(image)
    positions = [(30 * i + 15, 15) for i in range(n)]
    for gain, read_noise in ((1.0, 0.0), (8.0, 0.0), (0.2, 0.0), (1.0, 3.0)):
        noisy = (gain * photons + rng.normal(0, read_noise, image.shape)).astype(np.float32)
        cut, table = cut_patches(
            frame_of(noisy), table_at(*positions), PatchesConfig(), counts_per_photon=gain, read_noise=read_noise
        )
        assert table["intensity"].mean() == pytest.approx(gain * 2 * np.pi * sigma**2 * height, rel=0.02)
        # The aperture chosen shows the peak no worse than all pixels, whose scatter is seen, and not much better.
        stated = (table["intensity"] / table["snr"]).mean()
        assert 0.55 < stated / table["intensity"].std() < 1.1
        assert cut.centroid.mean(axis=0) == pytest.approx([5.3, 4.8], abs=0.02)


def test_a_background_without_scatter_has_the_read_noise():
    image = np.zeros((30, 30), np.uint16)
    image[15, 15] = 400
    _, quiet = cut_patches(frame_of(image), table_at((15, 15)), PatchesConfig())
    _, noisy = cut_patches(frame_of(image), table_at((15, 15)), PatchesConfig(), read_noise=2.0)
    assert quiet["snr"][0] == pytest.approx(20)
    # The smallest aperture has 9 pixels of variance 4, and the level's error: 9² (π/2) 4 / 40 border pixels.
    assert noisy["snr"][0] == pytest.approx(400 / np.sqrt(400 + 36 + 9**2 * np.pi / 20))


@pytest.mark.parametrize(("gain", "read_noise"), [(1.0, 0.0), (8.0, 0.0), (0.2, 0.0), (1.0, 6.0)])
def test_the_noise_in_the_aperture_is_the_scatter_that_repeated_measurements_show(gain, read_noise):
    n = 600
    rng = np.random.default_rng(5)
    # So sharp a spot on so strong a background that the smallest aperture, 3 x 3 pixels, shows most of it.
    image = gaussian((30 * n, 30), *[(30 * i + 15.0, 15.0, 400) for i in range(n)], sigma=0.6, background=300.0)
    noisy = (gain * rng.poisson(image) + rng.normal(0, read_noise, image.shape)).astype(np.float32)
    positions = [(30 * i + 15, 15) for i in range(n)]
    cut, table = cut_patches(
        frame_of(noisy), table_at(*positions), PatchesConfig(), counts_per_photon=gain, read_noise=read_noise
    )
    border = np.ones(cut.counts.shape[1:], bool)
    border[1:-1, 1:-1] = False
    inside = cut.counts[:, 4:7, 4:7].sum(axis=(1, 2)) - 9 * np.median(cut.counts[:, border], axis=1)
    assert np.mean(inside / table["snr"]) == pytest.approx(inside.std(), rel=0.1)


def test_snr_of_a_sharp_weak_spot_is_that_of_its_own_few_pixels():
    n = 200
    image = gaussian((30 * n, 30), *[(30 * i + 15.1, 14.9, 60) for i in range(n)], sigma=0.6, background=30.0)
    photons = np.random.default_rng(1).poisson(image)
    _, table = cut_patches(frame_of(photons), table_at(*[(30 * i + 15, 15) for i in range(n)]), PatchesConfig())
    # 136 counts, of which 92 % lie in 9 pixels of 30 counts.
    assert np.median(table["snr"]) == pytest.approx(125 / np.sqrt(125 + 270), rel=0.1)
    assert np.mean(table["flags"] & Flag.low_snr == 0) > 0.7


@pytest.mark.parametrize("mean", [0.0, 0.02, 0.3, 1.0, 2.5])
def test_the_level_under_a_peak_of_few_counts_is_their_mean(mean):
    n = 100
    image = gaussian((30 * n, 30), *[(30 * i + 15.1, 14.9, 40) for i in range(n)], background=mean)
    photons = np.random.default_rng(2).poisson(image)
    _, table = cut_patches(frame_of(photons), table_at(*[(30 * i + 15, 15) for i in range(n)]), PatchesConfig())
    # The median of the border would be 0 or 2, and 121 pixels have that.
    assert table["intensity"].mean() == pytest.approx(2 * np.pi * 1.2**2 * 40, rel=0.05)


def test_flat_patch_has_no_intensity_and_low_snr():
    image = np.full((30, 30), 12, np.uint16)
    cut, table = cut_patches(frame_of(image), table_at((15, 15)), PatchesConfig())
    assert (table["intensity"][0], table["snr"][0]) == (0, 0)
    assert table["flags"][0] == Flag.low_snr
    assert np.isnan(cut.centroid).all()


POSITIONS = st.lists(st.tuples(st.integers(0, 24), st.integers(0, 30)), min_size=1, max_size=8, unique=True)


@settings(max_examples=30)
@given(POSITIONS, st.integers(0, 9), st.sampled_from(["fit_together", "mask", "ignore"]))
def test_a_patch_depends_on_its_neighbourhood_only(positions, shift, rule):
    rng = np.random.default_rng(5)
    image = rng.poisson(20, (25, 31)).astype(np.uint16)
    padded = np.zeros((25 + 40 + shift, 31 + 40), np.uint16)
    mask = np.ones(padded.shape, bool)
    inner = np.s_[20 + shift : 45 + shift, 20:51]
    padded[inner], mask[inner] = image, False
    config = PatchesConfig(neighbours=rule)
    cut, table = cut_patches(frame_of(image), table_at(*positions), config)
    moved = [(y + 20 + shift, x + 20) for y, x in positions]
    cut2, table2 = cut_patches(frame_of(padded, mask), table_at(*moved), config)
    for name in ("state", "counts", "neighbours", "centroid"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(cut2, name))

    # Beyond the edge is masked there: the same pixels are missing, under the other name.
    def without(flags):
        return flags & ~np.uint16(Flag.edge | Flag.masked)

    np.testing.assert_array_equal(without(table["flags"]), without(table2["flags"]))


@settings(max_examples=50)
@given(POSITIONS, st.sampled_from([9, 11]))
def test_every_pixel_belongs_to_the_nearest_maximum(positions, size):
    image = np.random.default_rng(6).poisson(20, (25, 31)).astype(np.uint16)
    cut, table = cut_at(*positions, image=image, size=size)
    half = size // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    for i, (row, column) in enumerate(sorted(positions)):
        own = y**2 + x**2
        offsets = [(r - row, c - column) for r, c in sorted(positions) if (r, c) != (row, column)]
        near = sorted((dy**2 + dx**2, dy, dx) for dy, dx in offsets if ((y - dy) ** 2 + (x - dx) ** 2 < own).any())
        listed = [(dy, dx) for _, dy, dx in near if max(abs(dy), abs(dx)) <= half + 3][:MAX_NEIGHBOURS]
        unlisted = [(dy, dx) for _, dy, dx in near if (dy, dx) not in listed]
        to_listed, to_unlisted = (
            np.min([(y - dy) ** 2 + (x - dx) ** 2 for dy, dx in some] or [np.full(own.shape, 9999)], axis=0)
            for some in (listed, unlisted)
        )
        expected = np.where(to_listed < own, State.OTHER, State.OWN)
        expected[to_unlisted < np.minimum(own, to_listed)] = State.MISSING
        expected[(row + y < 0) | (row + y >= 25) | (column + x < 0) | (column + x >= 31)] = State.MISSING
        np.testing.assert_array_equal(cut.state[i], expected)
        np.testing.assert_array_equal(cut.neighbours[i], [*listed, *[NONE] * (MAX_NEIGHBOURS - len(listed))])
        assert bool(table["flags"][i] & Flag.overlap) == bool(near)


def test_no_peaks_give_no_patches():
    cut, table = cut_patches(frame_of(np.zeros((20, 20), np.uint16)), peak_table.empty(), PatchesConfig(size=9))
    assert cut.counts.shape == cut.state.shape == (0, 9, 9)
    assert cut.neighbours.shape == (0, MAX_NEIGHBOURS, 2)
    assert len(table) == 0
    joined = patches.concatenate([cut, patches.empty(PatchesConfig(size=9))])
    assert len(joined.counts) == len(joined.neighbours) == 0
    assert patches.filled(cut.counts, cut.state).shape == (0, 9, 9)
    assert patches.others(cut.neighbours, 9).shape == (0, 9, 9)


def test_selecting_takes_every_part_of_a_patch():
    cut, _ = cut_at((10, 10), (10, 14), (40, 40), image=np.random.default_rng(4).poisson(9, (60, 60)))
    some = patches.select(cut, np.array([False, True, True]))
    for name in ("counts", "state", "neighbours", "centroid"):
        np.testing.assert_array_equal(getattr(some, name), getattr(cut, name)[1:])
