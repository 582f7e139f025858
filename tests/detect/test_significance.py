"""What is a peak: chances that hold, saddles below the floor, constants that the frame contradicts, gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import spatial, special, stats

from braggflow.config import DetectConfig
from braggflow.detect import detect, searched_image
from braggflow.detect.gaps import bridges
from braggflow.detect.noise import Noise, frames_noise
from braggflow.detect.persistence import MAXIMUM_DTYPE, dead_below, persistence
from braggflow.detect.searching import in_frames
from braggflow.detect.significance import HIGHEST, least_significance, significance
from braggflow.errors import InputError
from braggflow.frames import CorrectedFrame
from braggflow.simulate.profiles import PROFILE_DTYPE, render
from braggflow.simulate.simulated_patches import CLASSES, sample_profiles
from tests.stores import spots

PERSISTENCE = ["y_pixel", "x_pixel", "birth", "death", "score", "significance"]


def no_mask(image):
    return np.zeros(image.shape, bool)


def profiles(*rows):
    """Profiles (y, x, height, sigma), round Gaussians."""
    table = np.zeros(len(rows), PROFILE_DTYPE)
    for row, (y, x, height, sigma) in zip(table, rows, strict=True):
        row["y"], row["x"], row["height"] = y, x, height
        row["sigma_major"] = row["sigma_minor"] = sigma
    return table


@pytest.mark.parametrize("mean", [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])
def test_noise_makes_as_many_false_peaks_as_are_accepted(mean):
    rng = np.random.default_rng(7)
    image = rng.poisson(mean, (1400, 1400)).astype(np.uint16)
    for accepted in (10.0, 40.0):
        found = detect(image, no_mask(image), DetectConfig(false_peaks=accepted)).table
        expected = accepted * image.size / 1e6  # 20 and 78
        assert expected / 2 <= len(found) <= 2 * expected


@pytest.mark.parametrize("mean", [0.02, 0.5, 8.0, 40.0])
def test_every_peak_of_six_classes_is_found_once_and_no_other(mean):
    rng = np.random.default_rng(int(100 * mean))
    shape, apart = (400, 400), 40
    found = lost = false = 0
    for _ in range(2):
        places = [(20 + apart * i, 20 + apart * j) for i in range(10) for j in range(10)]
        kinds = ["sharp", "sampled", "broad", "elongated", "pseudo_voigt"]
        table = np.concatenate(
            [sample_profiles(1, rng=rng, config=CLASSES[kinds[k % len(kinds)]]) for k in range(len(places))]
        )
        table["y"], table["x"] = (np.array(places) + rng.uniform(-5, 5, (len(places), 2))).T
        image = rng.poisson(render(shape, table, background=mean)).astype(np.uint16)
        peaks = detect(image, no_mask(image), DetectConfig()).table
        near = np.hypot(peaks["y_pixel"][:, None] - table["y"], peaks["x_pixel"][:, None] - table["x"]) < 3
        found, lost = found + len(peaks), lost + np.count_nonzero(~near.any(axis=0))
        false += len(peaks) - np.count_nonzero(near.any(axis=0))
    assert (lost, false) == (0, 0), (found, lost, false)


def test_noise_on_the_tail_of_a_bright_peak_is_no_peak_and_a_spot_there_is():
    table = profiles((60, 60, 20_000, 2.0), (60, 80, 320, 1.0))
    table["eta"][0] = 0.8
    tail = render((120, 120), table, background=5)
    for seed in range(5):
        image = np.random.default_rng(seed).poisson(tail).astype(np.uint16)
        found = detect(image, no_mask(image), DetectConfig()).table
        assert sorted(found["x_pixel"].tolist()) == pytest.approx([60, 80], abs=1)


def test_two_maxima_of_noise_on_one_broad_top_are_one_peak():
    expected = render((40, 40), profiles((20, 20, 100, 3.0)), background=2)
    several = 0
    for seed in range(60):
        image = np.random.default_rng(seed).poisson(expected).astype(np.uint16)
        by_levels = DetectConfig(false_peaks=None, minval=20.0, minscore=10.0)
        several += len(detect(image, no_mask(image), by_levels).table) > 1
        assert len(detect(image, no_mask(image), DetectConfig()).table) == 1
    assert several > 3  # what the levels alone make of them


def test_false_peaks_null_is_the_levels_alone_and_says_significance_too():
    image = spots((90, 80), 15, seed=3)
    config = DetectConfig(false_peaks=None, background="none", minval=15, minscore=20)
    found = detect(image, no_mask(image), config)
    assert "false_peaks" not in found.removed
    assert np.isfinite(found.table["significance"]).all()
    by_noise = detect(image, no_mask(image), DetectConfig(minval=15, minscore=20, background="none")).table
    assert set(map(tuple, by_noise[["y_pixel", "x_pixel"]])) <= set(map(tuple, found.table[["y_pixel", "x_pixel"]]))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["none", "local"]), st.floats(8, 60), st.floats(0, 40))
def test_one_run_gives_every_higher_minval_minscore_and_significance(seed, background, minval, minscore):
    image = spots((70, 64), 8, seed=seed)
    lowest = detect(image, no_mask(image), DetectConfig(background=background)).table
    higher = DetectConfig(background=background, minval=minval, minscore=minscore, false_peaks=1e-3)
    fresh = detect(image, no_mask(image), higher).table
    derived = dead_below(lowest[lowest["birth"] >= minval], minval)
    derived = derived[(derived["score"] > minscore) & (derived["significance"] >= least_significance(1e-3))]
    np.testing.assert_array_equal(derived[PERSISTENCE], fresh[PERSISTENCE])


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["none", "local"]), st.booleans())
def test_engines_judge_the_same_maxima(seed, background, gap):
    image = spots((40, 44), 5, seed=seed)
    mask = no_mask(image)
    if gap:
        mask[:, 20:22] = mask[11] = True
    native, reference = (
        detect(image, mask, DetectConfig(engine=engine, background=background)).table[PERSISTENCE]
        for engine in ("native", "findpeaks")
    )
    assert len(native) > 0
    np.testing.assert_array_equal(native, reference)


@pytest.mark.parametrize("mean", [0.001, 0.1, 1.0, 20.0])
@pytest.mark.parametrize("background", ["none", "local"])
def test_levels_in_sigma_are_further_cuts_at_any_mean(mean, background):
    expected = render((256, 256), profiles((100, 150, 60, 1.2)), background=mean)
    image = np.random.default_rng(3).poisson(expected).astype(np.uint16)
    config = DetectConfig(minval="6 sigma", minscore="3 sigma", background=background)
    found = detect(image, no_mask(image), config).table
    assert len(found) == 1
    assert np.hypot(found["y_pixel"][0] - 100, found["x_pixel"][0] - 150) < 2
    assert searched_image(CorrectedFrame(image, no_mask(image), None), config).floor.shape == image.shape


def test_areas_are_asked_for_in_pixels_of_the_detector():
    image = np.random.default_rng(0).poisson(render((60, 60), profiles((30, 30, 400, 0.5)), background=8)).astype(float)
    (area,) = detect(image, no_mask(image), DetectConfig()).table["area"]
    assert 1 < area < 12
    config = DetectConfig(min_area=int(area) + 1)
    assert len(detect(image, no_mask(image), config).table) == 0
    assert len(detect(image, no_mask(image), config, bin=2).table) == 1


def test_areas_are_those_above_minval():
    image = spots((90, 80), 15, seed=3)
    by_levels = DetectConfig(false_peaks=None, background="none", minval=15, minscore=20)
    by_noise = DetectConfig(background="none", minval=15, minscore=20)
    alone, found = (detect(image, no_mask(image), config).table for config in (by_levels, by_noise))
    alone = alone[np.isin(alone["y_pixel"] * 80 + alone["x_pixel"], found["y_pixel"] * 80 + found["x_pixel"])]
    np.testing.assert_array_equal(alone["area"], found["area"])


@pytest.mark.parametrize(
    ("gain", "read_noise", "dark"),
    [(5.0, 0.0, 0.0), (2.0, 8.0, 0.0), (1.0, 6.0, 40.0), (0.2, 0.0, 0.0)],
)
def test_constants_that_nobody_gave_are_taken_from_the_frame(gain, read_noise, dark):
    rng = np.random.default_rng(3)
    expected = render((500, 500), profiles((100.2, 90.1, 300, 1.2), (300.4, 260.7, 2000, 1.5)), background=40)
    false = 0
    for _ in range(8):
        counts = gain * rng.poisson(expected) + rng.normal(0, read_noise, expected.shape) - dark
        found = detect(counts.astype(np.float32), no_mask(expected), DetectConfig(false_peaks=1)).table
        near = np.hypot(found["y_pixel"][:, None] - [100.2, 300.4], found["x_pixel"][:, None] - [90.1, 260.7]) < 3
        assert near.any(axis=0).all()
        false += np.count_nonzero(~near.any(axis=1))
    assert false <= 8  # 2 are expected


def lattice(rng, shape, pitch, height):
    """Profiles on a lattice that is turned against the pixels, each up to half a pixel off."""
    steps = np.arange(-max(shape), max(shape), pitch)
    down, across = (each.ravel() for each in np.meshgrid(steps, steps, indexing="ij"))
    y = shape[0] / 2 + np.cos(0.3) * down - np.sin(0.3) * across + rng.uniform(-0.5, 0.5, down.size)
    x = shape[1] / 2 + np.sin(0.3) * down + np.cos(0.3) * across + rng.uniform(-0.5, 0.5, down.size)
    inside = (y > 8) & (y < shape[0] - 8) & (x > 8) & (x < shape[1] - 8)
    return profiles(*((*place, height, 1.2) for place in np.column_stack([y, x])[inside]))


@pytest.mark.parametrize("side", [75, 400])
@pytest.mark.parametrize("pitch", [8, 10, 14])
@pytest.mark.parametrize("mean", [0.1, 10, 1000])
def test_no_peak_is_taken_for_noise_where_there_are_many(side, pitch, mean):
    for height in (100, 1000, 10_000):
        if height < mean:
            continue
        rng = np.random.default_rng([side, pitch, height])
        truth = lattice(rng, (side, side), pitch, height)
        image = rng.poisson(render((side, side), truth, background=mean)).astype(np.uint16)
        found = detect(image, no_mask(image), DetectConfig()).table
        places = np.column_stack([found["y_pixel"], found["x_pixel"]]).astype(float)
        distance = spatial.KDTree(places).query(np.column_stack([truth["y"], truth["x"]]))[0]
        assert (distance < 1.5).mean() > 0.99
        assert len(found) <= 1.01 * len(truth) + 1


@pytest.mark.parametrize(
    ("gain", "dark", "shown"),
    [(1.0, 0.0, (1.0, 0.0)), (4.0, 0.0, (4.0, 0.0)), (1.0, 10.0, (1.0, 10.0))],
    ids=["stated", "gain", "less its dark"],
)
def test_what_a_crowded_frame_shows_of_its_noise_is_that_of_its_dark_places(gain, dark, shown):
    for pitch in (12, 16, 24):
        rng = np.random.default_rng(pitch)
        image = gain * rng.poisson(render((512, 512), lattice(rng, (512, 512), pitch, 500), background=10)) - dark
        noise = frames_noise(image[None].astype(np.float32), no_mask(image), 32, counts_per_photon=1.0, read_noise=0.0)
        assert noise.counts_per_photon[0] == pytest.approx(shown[0], rel=0.4)
        assert noise.shift[0] == pytest.approx(shown[1], rel=0.4)


@pytest.mark.parametrize(
    ("mean", "dark", "scale"),
    [(0.3, 0, 1e-3), (2, 0, 1e-3), (20, 0, 0.1), (20, 0, 1e-3), (20, 0, 1e-6), (500, 0, 1e-3), (20, 20, 1e-3),
     (500, 500, 1e-4), (500, 500, 1e-6)],
)  # fmt: skip
def test_frames_that_were_scaled_down_give_the_peaks_of_their_counts(mean, dark, scale):
    rng, shape, height = np.random.default_rng(9), (400, 400), max(40, 8 * np.sqrt(mean))
    places = 30 + 50 * np.argwhere(np.ones((7, 7))) + rng.uniform(-5, 5, (49, 2))
    peaks = profiles(*((y, x, height, 1.5) for y, x in places))
    counts = rng.poisson(render(shape, peaks, background=mean)).astype(np.float32)
    of_counts, scaled = (
        detect(image, no_mask(image), DetectConfig()).table
        for image in (counts - dark, np.float32(scale) * (counts - dark))
    )
    assert len(of_counts) >= 0.9 * len(peaks)
    if not dark:
        assert abs(len(scaled) - len(of_counts)) <= 1
    else:  # its level says nothing, so that its noise is taken for a photon
        assert len(of_counts) - 3 <= len(scaled) <= len(of_counts) + 1


@pytest.mark.parametrize("change", ["by the maximum", "crowded", "a negative pixel", "a border of 0"])
@pytest.mark.parametrize("dark", [0, 20])
def test_what_else_is_odd_of_a_frame_that_was_scaled_does_not_hide_its_photon(change, dark):
    rng, shape = np.random.default_rng(13), (224, 224)
    truth = lattice(rng, shape, 10 if change == "crowded" else 40, 500)
    image = rng.poisson(render(shape, truth, background=20)).astype(np.float32) - dark
    if change == "a negative pixel":
        image[5, ::7] = -3
    if change == "a border of 0":
        image[:, :12] = image[:, -12:] = 0
    scales = [1 / image.max()] if change == "by the maximum" else [0.1, 0.03, 0.01] if dark == 0 else [0.001]
    for scale in scales:
        scaled = (image * scale).astype(np.float32)
        noise = frames_noise(scaled[None], no_mask(scaled), 32, counts_per_photon=1.0, read_noise=0.0)
        deviation = noise.at(*np.array([[0], [112], [112]]))[1]
        # Peaks raise the level of a place, and with it the noise.
        assert deviation[0] == pytest.approx(scale * np.sqrt(20), rel=1 if change == "crowded" else 0.5)
        assert len(detect(scaled, no_mask(scaled), DetectConfig()).table) >= 0.99 * len(truth)


@pytest.mark.parametrize("mean", [0.0, 1e-5, 0.001, 0.01])
@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("cut", [False, True], ids=["", "from 0"])
def test_single_photons_of_an_integrating_detector_are_no_peaks(mean, noise, cut):
    rng = np.random.default_rng(11)
    image = (rng.poisson(mean, (1000, 1000)) + rng.normal(0, noise, (1000, 1000))).astype(np.float32)
    image = np.maximum(image, 0) if cut else image
    assert len(detect(image, no_mask(image), DetectConfig()).table) <= 3


@pytest.mark.parametrize("mean", [0.02, 0.2, 1, 2.5])
def test_few_photons_that_were_corrected_are_not_taken_for_scaled_ones(mean):
    rng = np.random.default_rng(5)
    photons = rng.poisson(mean, (1000, 1000))
    flat_fielded, less_mean = photons * rng.normal(1, 0.05, photons.shape), photons - rng.normal(mean, 0.01 * mean)
    moved = 0.6 * photons + 0.4 * np.roll(photons, 1, axis=1)
    spread = 0.7 * moved + 0.3 * np.roll(moved, 1, axis=0)
    for image in np.stack([flat_fielded, less_mean, moved, spread]).astype(np.float32):
        noise = frames_noise(image[None], no_mask(image), 32, counts_per_photon=1.0, read_noise=0.0)
        assert 0.75 <= noise.counts_per_photon[0] <= 1.2
        assert len(detect(image, no_mask(image), DetectConfig()).table) <= 3


def test_counts_that_a_detector_cut_off_are_no_photons_each():
    rng = np.random.default_rng(4)
    expected = render((512, 512), profiles((100, 100, 200, 1.2)), background=10)
    image = rng.poisson(expected).astype(np.uint16)
    image[image < 20] = 0  # 0.35 % of the background is left, in lone pixels
    found = detect(image, no_mask(image), DetectConfig()).table
    assert [(int(y), int(x)) for y, x in found[["y_pixel", "x_pixel"]]] == [(100, 100)]
    noise = frames_noise(image[None], no_mask(image), 32, counts_per_photon=1.0, read_noise=0.0)
    assert noise.counts_per_photon.tolist() == [20]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    mean=st.sampled_from([0.01, 0.1, 0.6, 3.0, 20.0, 300.0]),
    false_peaks=st.sampled_from([1e-4, 0.1, 10.0, 2000.0, 3e4]),
    stated=st.sampled_from([(1.0, 0.0), (2.5, 0.0), (1.0, 3.0)]),
)
def test_short_cuts_decide_as_the_whole_calculation_does(seed, mean, false_peaks, stated):
    rng, shape = np.random.default_rng(seed), (60, 70)
    mask = rng.random(shape) < 0.03
    mask[:, 30:33] = mask[40:52, 8:20] = mask[22] = True
    sloping = mean * (1 + np.linspace(0, 4, shape[1])) * np.linspace(1, 3, shape[0])[:, None]
    frames = np.stack(
        [rng.poisson(sloping + spots(shape, 6, seed=seed + k, background=0) * (mean / 40)) for k in (0, 1)]
    )
    constants = dict(zip(("counts_per_photon", "read_noise"), stated, strict=True))
    noise = frames_noise(frames.astype(np.int32), mask, 16, **constants)
    maxima = in_frames([persistence(image, mask, 1.0) for image in frames.astype(np.int32)])
    least = least_significance(false_peaks)
    quick, whole = (significance(frames.astype(np.int32), mask, maxima, noise, least=at) for at in (least, -np.inf))
    assert len(maxima) > 10
    np.testing.assert_array_equal(quick >= least, whole >= least)
    np.testing.assert_array_equal(quick[quick >= least], whole[whole >= least])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_significance_is_the_binomial_of_the_core_within_core_and_ring(dtype):
    rng, shape = np.random.default_rng(3), (90, 110)
    image, mask = rng.poisson(3000, shape).astype(dtype), np.zeros(shape, bool)
    image[20:25, 30:34] = 6000  # another peak in some of the rings; from 10,000 photons on no tie is drawn
    mask[:, 70:73] = mask[60, 15] = True
    y, x = (each.ravel() for each in np.mgrid[:90:3, :110:3])
    y, x = y[~mask[y, x]], x[~mask[y, x]]
    maxima = np.zeros(len(y), MAXIMUM_DTYPE)
    maxima["y_pixel"], maxima["x_pixel"], maxima["saddle"] = y, x, -1
    noise = Noise(np.full((1, 3, 4), 3000, np.float32), 32, np.ones(1), np.zeros(1))
    expected, clipped = [], 0
    for row, column in zip(y, x, strict=True):
        far = np.maximum(*(abs(axis - at) for axis, at in zip(np.ogrid[:90, :110], (row, column), strict=True)))
        core, ring = (image[near & ~mask].astype(float) for near in (far <= 1, (far > 3) & (far <= 7)))
        left, kept = np.empty(0), ring
        while len(left) != len(kept):
            left, mean = kept, kept.mean()
            kept = ring[ring <= mean + 4 * np.sqrt(mean) + 3]
        clipped += len(kept) < len(ring)
        binomial = stats.binom(core.sum() + kept.sum(), len(core) / (len(core) + len(kept)))
        expected.append(-special.ndtri(binomial.sf(core.sum()) + binomial.pmf(core.sum()) / 2))
    assert 0 < clipped < len(y) / 4
    found = significance(image[None], mask, maxima, noise)
    np.testing.assert_allclose(found, np.clip(expected, -HIGHEST, HIGHEST), atol=1e-4)


def test_significance_is_finite_sorted_out_at_edges_and_in_small_frames():
    for shape in ((9, 9), (1, 40), (40, 1), (12, 500)):
        image = np.random.default_rng(1).poisson(3, shape).astype(np.int32)
        image[shape[0] // 2, shape[1] // 2] = 60
        image[0, 0] = 45
        found = detect(image, no_mask(image), DetectConfig()).table
        assert {(0, 0), (shape[0] // 2, shape[1] // 2)} == set(map(tuple, found[["y_pixel", "x_pixel"]].tolist()))
        assert ((found["significance"] > 0) & (found["significance"] <= HIGHEST)).all()


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.001, 0.2), st.sampled_from(["none", "local"]))
def test_a_pixel_without_counts_is_never_a_peak(seed, mean, background):
    # Levels of cells of few counts differ by more than themselves, also where they are extrapolated to the corners.
    image = np.random.default_rng(seed).poisson(mean, (96, 128)).astype(np.uint16)
    found = detect(image, no_mask(image), DetectConfig(false_peaks=1000, background=background)).table
    assert (image[found["y_pixel"], found["x_pixel"]] > 0).all()


def test_a_wholly_masked_frame_is_refused_and_an_empty_one_has_no_peak():
    image = np.zeros((64, 64), np.uint16)
    assert len(detect(image, no_mask(image), DetectConfig()).table) == 0
    with pytest.raises(InputError, match="every pixel"):
        detect(image, np.ones(image.shape, bool), DetectConfig())


def test_the_searched_image_has_a_floor_for_each_place():
    image = np.random.default_rng(0).poisson(np.linspace(5, 200, 128)[None, :] * np.ones((128, 1))).astype(np.uint16)
    frame = CorrectedFrame(image, no_mask(image), None)
    searched = searched_image(frame, DetectConfig())
    assert searched.floor.shape == image.shape
    assert searched.floor[:, -8:].mean() > 3 * searched.floor[:, :8].mean()
    assert 0.0005 < np.mean(searched.image >= searched.floor) < 0.01
    assert searched_image(frame, DetectConfig(false_peaks=None, minval=30.0, minscore=1.0)).floor == 30


def gap(kind, width, at):
    mask = np.zeros((60, 60), bool)
    if kind in ("column", "cross"):
        mask[:, at : at + width] = True
    if kind in ("row", "cross"):
        mask[at : at + width] = True
    if kind == "pixels":
        mask[at : at + width, at : at + width] = True
    return mask


@pytest.mark.parametrize("kind", ["column", "row", "cross", "pixels"])
@pytest.mark.parametrize("width", [1, 2])
def test_a_spot_cut_by_a_narrow_gap_is_one_peak(kind, width):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        place = rng.uniform(29, 31, 2)
        expected = render((60, 60), profiles((*place, 300, rng.uniform(0.8, 2.5))), background=5)
        mask = gap(kind, width, int(rng.integers(28, 32)))
        image = np.where(mask, -1, rng.poisson(expected)).astype(np.int32)
        found = detect(image, mask, DetectConfig()).table
        assert len(found) == 1
        assert np.hypot(found["y_pixel"][0] - place[0], found["x_pixel"][0] - place[1]) < 4
        assert not mask[found["y_pixel"][0], found["x_pixel"][0]]


def test_a_wide_gap_is_a_wall():
    expected = render((60, 60), profiles((30, 30, 400, 3.0)), background=5)
    mask = gap("column", 3, 29)
    image = np.random.default_rng(0).poisson(expected).astype(np.uint16)
    assert len(detect(image, mask, DetectConfig()).table) == 2


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.floats(0, 0.4))
def test_bridged_pixels_are_masked_ones_and_never_above_their_surroundings(seed, share):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 50, (12, 13)).astype(np.float32)
    mask = rng.random(image.shape) < share
    pixels, values, _ = bridges(image[None], mask)
    assert mask.ravel()[pixels].all()
    assert (np.diff(pixels) > 0).all()
    for pixel, value in zip(pixels, values, strict=True):
        y, x = divmod(int(pixel), image.shape[1])
        around = image[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        assert value <= around[~mask[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]].max(initial=-np.inf) + 1e-4


def test_lines_across_columns_rows_and_their_crossing():
    image = np.add.outer(np.arange(8.0), 10 * np.arange(8.0)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[3], mask[:, 4:6] = True, True
    pixels, values, _ = bridges(np.where(mask, np.nan, image)[None], mask)
    assert sorted(pixels.tolist()) == np.flatnonzero(mask).tolist()
    np.testing.assert_allclose(values, image.ravel()[pixels], rtol=1e-5)
    mask[3:6] = True  # three rows are a wall
    assert not np.isin(np.flatnonzero(mask[3:6]) + 24, bridges(image[None], mask)[0]).any()
