import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from braggflow.config import DetectConfig, NoiseMultiple
from braggflow.detect import detect
from braggflow.detect.background import local_background
from braggflow.detect.filters import filter_peaks
from braggflow.detect.findpeaks_engine import persistence_findpeaks
from braggflow.detect.levels import levels_in_counts
from braggflow.detect.persistence import at_minval, persistence
from braggflow.detect.searching import subtract_background
from braggflow.errors import InputError
from tests.stores import spots

PERSISTENCE = ["y_pixel", "x_pixel", "birth", "death", "score"]


def canonical(table):
    return np.sort(table[PERSISTENCE], order=PERSISTENCE)


def no_mask(image):
    return np.zeros(image.shape, bool)


def random_frame(seed):
    """Frames that are hard on ties: few levels, plateaus, zeros; and noisy spots; of several dtypes and sizes."""
    rng = np.random.default_rng(seed)
    size = (64, 96, 128)[seed % 3] if seed < 48 else (256, 512)[seed % 2]
    shape = (size, size - seed % 5)
    kind = seed % 4
    if kind == 0:
        image = rng.integers(0, 4, shape)
    elif kind == 1:
        image = np.kron(rng.integers(0, 50, (shape[0] // 8 + 1, shape[1] // 8 + 1)), np.ones((8, 8)))
        image = image[: shape[0], : shape[1]]
    elif kind == 2:
        image = spots(shape, 12, seed=seed)
    else:
        image = rng.gamma(0.5, 20, shape)
    dtype = (np.uint16, np.float32, np.int32, np.float64)[(seed // 4) % 4]
    mask = rng.random(shape) < (0.05 if seed % 3 == 0 else 0)
    return image.astype(dtype), mask, float(rng.uniform(0.5, 3 if kind == 0 else 12))


@pytest.mark.parametrize("seed", range(52))
def test_native_engine_equals_findpeaks(seed):
    image, mask, minval = random_frame(seed)
    native = canonical(persistence(image, mask, minval))
    reference = canonical(persistence_findpeaks(image, mask, minval))
    assert len(native) > 0
    np.testing.assert_array_equal(native[["y_pixel", "x_pixel"]], reference[["y_pixel", "x_pixel"]])
    for name in ("birth", "death", "score"):
        np.testing.assert_allclose(native[name], reference[name], rtol=0, atol=1e-6)


@settings(max_examples=60)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=9), elements=st.integers(0, 5)),
    st.integers(1, 4),
)
def test_native_engine_equals_findpeaks_on_tiny_frames_full_of_ties(image, minval):
    native = persistence(image, no_mask(image), float(minval))
    reference = persistence_findpeaks(image, no_mask(image), float(minval))
    np.testing.assert_array_equal(canonical(native), canonical(reference))


@settings(max_examples=40)
@given(
    hnp.arrays(np.uint16, (12, 11), elements=st.integers(0, 30)),
    st.floats(1, 15),
    st.floats(0, 15),
    st.floats(0, 10),
)
def test_one_run_gives_every_higher_minval_and_minscore(image, minval, more, minscore):
    lowest = persistence(image, no_mask(image), minval)
    derived = at_minval(lowest, minval + more)
    fresh = persistence(image, no_mask(image), minval + more)
    for threshold in (0.0, minscore):
        np.testing.assert_array_equal(
            canonical(derived[derived["score"] > threshold]), canonical(fresh[fresh["score"] > threshold])
        )


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(0, 7), st.integers(0, 7))
def test_shifting_the_frame_shifts_the_peaks(seed, dy, dx):
    image = spots((40, 36), 5, seed=seed)
    shifted = np.zeros((48, 44), image.dtype)
    shifted[dy : dy + 40, dx : dx + 36] = image
    before = persistence(image, no_mask(image), 20)
    after = persistence(shifted, no_mask(shifted), 20)
    before["y_pixel"] += dy
    before["x_pixel"] += dx
    np.testing.assert_array_equal(canonical(before), canonical(after))


def test_area_counts_the_pixels_down_to_the_one_at_which_a_peak_merges():
    image = np.zeros((5, 9))
    image[2, 1:8] = [3, 9, 3, 2, 4, 6, 4]
    table = persistence(image, no_mask(image), 1)
    high, low = table[np.argsort(table["birth"])[::-1]]
    assert (high["death"], high["area"]) == (0, 7)
    assert (low["birth"], low["death"], low["area"]) == (6, 2, 4)


def test_masked_pixels_are_never_peaks_and_separate_islands():
    image = np.zeros((5, 7))
    image[2] = [0, 5, 4, 9, 4, 6, 0]
    mask = no_mask(image)
    mask[:, 3] = True
    table = persistence(image, mask, 1)
    assert {(row["x_pixel"], row["score"]) for row in table} == {(1, 5), (5, 6)}


def test_nan_pixels_are_below_every_threshold():
    image = np.full((6, 6), np.nan, np.float32)
    image[3, 3] = 7
    table = persistence(image, no_mask(image), 1)
    assert len(table) == 1
    assert table["score"][0] == 7


@pytest.mark.parametrize("minval", [70_000, 65_535.5])
def test_threshold_above_the_dtype_finds_nothing(minval):
    image = np.full((8, 8), 65_535, np.uint16)
    assert len(persistence(image, no_mask(image), minval)) == 0
    assert len(persistence_findpeaks(image, no_mask(image), minval)) == 0


def test_frame_without_foreground_gives_an_empty_table():
    image = np.zeros((8, 8), np.uint16)
    for engine in ("native", "findpeaks"):
        found = detect(image, no_mask(image), DetectConfig(engine=engine, minval=5, minscore=1))
        assert len(found.table) == 0


def test_engines_give_the_same_table_through_the_filters():
    image = spots((90, 80), 15, seed=3)
    tables = [
        detect(image, no_mask(image), DetectConfig(engine=engine, minval=15, minscore=20, min_edge_distance=3)).table[
            PERSISTENCE
        ]
        for engine in ("native", "findpeaks")
    ]
    assert len(tables[0]) > 3
    np.testing.assert_array_equal(*tables)


@pytest.mark.parametrize(
    ("settings_", "kept", "reason"),
    [
        ({"minscore": 25}, {(5, 5), (20, 20), (20, 24)}, "minscore"),
        ({"min_area": 2}, {(0, 12), (20, 20)}, "min_area"),
        ({"max_area": 8}, {(0, 12), (5, 5), (20, 24)}, "max_area"),
        ({"min_edge_distance": 1}, {(5, 5), (20, 20), (20, 24)}, "min_edge_distance"),
        ({"min_neighbour_distance": 4.5}, {(0, 12), (5, 5), (20, 20)}, "min_neighbour_distance"),
    ],
)
def test_filters_drop_and_count(settings_, kept, reason):
    image = np.zeros((30, 30))
    image[5, 5] = 50  # a hot pixel
    image[0, 11:14] = [10, 20, 10]  # weak, at the edge
    image[19:22, 19:22] = [[20, 30, 20], [30, 100, 30], [20, 30, 20]]
    image[20, 24] = 60  # near the one before
    config = DetectConfig(false_peaks=None, background="none", minval=5, **{"minscore": 1, **settings_})
    found = detect(image, no_mask(image), config)
    assert {(int(y), int(x)) for y, x in found.table[["y_pixel", "x_pixel"]]} == kept
    assert found.removed[reason] == 4 - len(kept)


def test_levels_in_noise_multiples_follow_the_frame():
    rng = np.random.default_rng(1)
    config = DetectConfig(
        false_peaks=None, background="none", minval=NoiseMultiple(sigma=6), minscore=NoiseMultiple(sigma=3)
    )
    for level, sigma in ((100, 5), (1000, 40)):
        image = rng.normal(level, sigma, (200, 200)).astype(np.float32)
        image[50, 50] = level + 30 * sigma
        minval, minscore = levels_in_counts(image, no_mask(image), config)
        assert minval == pytest.approx(level + 6 * sigma, rel=0.02)
        assert minscore == pytest.approx(3 * sigma, rel=0.03)
        assert len(detect(image, no_mask(image), config).table) == 1


def test_noise_multiples_on_a_frame_whose_noise_was_cut_off_are_refused():
    image = np.zeros((50, 50), np.uint16)
    image[20:25, 20:25] = 100
    with pytest.raises(InputError, match=r"no noise.*detect\.minval"):
        detect(image, no_mask(image), DetectConfig(false_peaks=None))
    assert len(detect(image, no_mask(image), DetectConfig()).table) == 1


@pytest.mark.parametrize("background", ["none", "local"])
@pytest.mark.parametrize("mean", [0.0, 1e-5, 0.001, 0.02, 0.05, 0.1, 0.3])
def test_noise_multiples_hold_for_frames_of_few_counts(mean, background):
    y, x = np.mgrid[:256, :256]
    spot = 60 * np.exp(-((y - 100) ** 2 + (x - 150) ** 2) / (2 * 1.2**2))
    config = DetectConfig(false_peaks=None, background=background)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        empty = rng.poisson(mean, (256, 256)).astype(np.uint16)
        assert len(detect(empty, no_mask(empty), config).table) <= 1
        found = detect(rng.poisson(mean + spot).astype(np.uint32), no_mask(empty), config).table
        near = np.hypot(found["y_pixel"] - 100, found["x_pixel"] - 150) < 4
        assert near.sum() == 1
        assert len(found) <= 2


def test_wholly_masked_frame_is_refused():
    image = np.ones((50, 50), np.uint16)
    for config in (DetectConfig(), DetectConfig(background="local", minval=3.0, minscore=1.0)):
        with pytest.raises(InputError, match="every pixel"):
            detect(image, np.ones(image.shape, bool), config)


def test_local_background_follows_a_gradient_and_ignores_peaks_and_masked_pixels():
    y, x = np.mgrid[:200, :180]
    level = 300 + 2.0 * x + 1.0 * y
    image = level.copy()
    image[60:66, 60:66] += 5000
    mask = no_mask(image)
    image[:, 100:140], mask[:, 100:140] = -1, True
    found = local_background(image.astype(np.float32), mask, cell=20)
    inside = np.zeros(image.shape, bool)
    inside[:, :90] = True
    assert np.abs(found - level)[inside].max() < 6
    assert found.dtype == np.float32
    assert found.shape == image.shape


def test_local_background_of_a_constant_frame_is_exact_for_any_cell():
    image = np.full((37, 53), 600, np.uint16)
    for cell in (8, 32, 100):
        np.testing.assert_array_equal(local_background(image, no_mask(image), cell=cell), 600)


@settings(max_examples=60)
@given(
    hnp.arrays(
        np.int16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70), elements=st.integers(-9, 60)
    ),
    st.sampled_from([8, 9, 16, 32]),
    st.integers(0, 5),
)
def test_searching_above_the_local_background_equals_searching_an_image_of_it(image, cell, seed):
    mask = np.random.default_rng(seed).random(image.shape) < 0.1 * (seed % 3)
    if mask.all():
        return
    config = DetectConfig(false_peaks=None, minval=7.0, minscore=2.0, background="local", background_cell=cell)
    above = subtract_background(image[None], mask, config)[0]
    expected = filter_peaks(persistence(above, mask, 7.0), image.shape, 2.0, config)
    found = detect(image, mask, config)
    assert found.removed == expected.removed
    np.testing.assert_array_equal(found.table[[*PERSISTENCE, "area"]], expected.table[[*PERSISTENCE, "area"]])
    relative = config.model_copy(update={"minval": NoiseMultiple(sigma=3)})
    try:
        minval, _ = levels_in_counts(above, mask, relative)
    except InputError:  # no noise
        return
    expected = filter_peaks(persistence(above, mask, minval), image.shape, 2.0, config)
    assert detect(image, mask, relative).removed == expected.removed


def test_background_frame_is_subtracted():
    image = spots((60, 60), 4, seed=2).astype(np.float32)
    config = DetectConfig(minval=20.0, minscore=10.0)
    plain = detect(image, no_mask(image), config).table
    ramp = np.linspace(0, 500, 60, dtype=np.float32)[None, :] * np.ones((60, 1), np.float32)
    config = DetectConfig(minval=20.0, minscore=10.0, background="ramp.npy")
    found = detect(image + ramp, no_mask(image), config, background_frame=ramp).table
    np.testing.assert_array_equal(plain[["y_pixel", "x_pixel"]], found[["y_pixel", "x_pixel"]])


def test_the_reference_engine_is_quiet(capfd):
    image = spots((30, 30), 2, seed=1)
    persistence_findpeaks(image, no_mask(image), 10)
    captured = capfd.readouterr()
    # That kernels are compiled, which other tests may have left to this one, is ours to say.
    others = [line for line in captured.err.splitlines() if not line.startswith("braggflow: ")]
    assert (captured.out, others) == ("", [])


def test_the_reference_engine_has_no_other_library_tell_of_what_it_does():
    script = """
import logging, numpy as np
from braggflow.detect.findpeaks_engine import persistence_findpeaks
assert len(persistence_findpeaks(np.pad([[9.0]], 3), np.zeros((7, 7), bool), 1)) == 1
print(logging.getLogger().handlers, logging.getLogger().level)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["[]", "30"]  # WARNING, as Python begins
