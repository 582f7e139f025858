"""What is told of all maxima is what `detect` does: those kept are its table, those dropped are counted alike."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from braggflow.config import DetectConfig
from braggflow.detect import detect, judge_maxima

SHAPE = (48, 56)


def random_frame(seed: int, *, dtype: str = "uint16", gap: bool = False) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A frame with peaks that touch, noise, and ties; with a gap that is bridged and one that is not."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mean = np.full(SHAPE, float(rng.choice([0.05, 2, 12])))
    for _ in range(6):
        row, column = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1])
        mean += rng.uniform(5, 300) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * rng.uniform(0.7, 2.5) ** 2))
    mask = np.zeros(SHAPE, bool)
    if gap:
        mask[:, 20] = mask[30:34] = True
    return rng.poisson(mean).astype(dtype), mask


configs = st.fixed_dictionaries(
    {
        "false_peaks": st.sampled_from([None, 1e-6, 0.1, 300.0]),
        "background": st.sampled_from(["local", "none"]),
        "minval": st.sampled_from([None, 8.0, 40.0]),
        "minscore": st.sampled_from([None, 5.0, 60.0]),
        "min_area": st.sampled_from([1, 4]),
        "max_area": st.sampled_from([None, 30]),
        "min_edge_distance": st.sampled_from([0, 5]),
        "min_neighbour_distance": st.sampled_from([0.0, 7.5]),
    }
)


@settings(max_examples=60)
@given(st.integers(0, 10_000), configs, st.sampled_from(["uint16", "float32"]), st.booleans(), st.sampled_from([1, 2]))
def test_the_maxima_kept_are_the_table_and_those_dropped_are_counted_alike(
    seed: int, keys: dict[str, Any], dtype: str, gap: bool, bin_: int
) -> None:
    if keys["false_peaks"] is None:
        keys |= {"minval": keys["minval"] or 20.0, "minscore": keys["minscore"] or 5.0}
    config = DetectConfig(**keys)
    counts, mask = random_frame(seed, dtype=dtype, gap=gap)
    found = detect(counts, mask, config, bin=bin_)
    judged = judge_maxima(counts, mask, config, near=(20, 20), bin=bin_)
    kept = judged.table[judged.dropped_by == ""]
    kept = kept[np.lexsort((kept["x_pixel"], kept["y_pixel"]))]
    for name in ("y_pixel", "x_pixel", "birth", "death", "score", "significance", "area"):
        np.testing.assert_array_equal(kept[name], found.table[name], err_msg=name)
    counted = Counter(judged.dropped_by.tolist())
    for key, n in found.removed.items():
        assert counted.get(key, 0) == n, key
    assert set(counted) - {"", "floor", "minval"} <= set(found.removed)


def test_maxima_dropped_as_noise_are_below_the_cut_and_nearly_all_have_a_number() -> None:
    noise = []
    for seed in range(60):
        counts, mask = random_frame(seed, gap=seed % 2 == 0)
        judged = judge_maxima(counts, mask, DetectConfig(), near=(20, 20))
        near = np.hypot(judged.table["y_pixel"] - 20, judged.table["x_pixel"] - 20) <= 32
        noise.append(judged.table["significance"][(judged.dropped_by == "false_peaks") & near])
        assert not (noise[-1] >= judged.least).any()
    # The others do not even rise above the coarse level, which settles them.
    assert len(np.concatenate(noise)) > 400
    assert np.isnan(np.concatenate(noise)).mean() < 0.01


def test_every_local_maximum_near_a_pixel_is_listed_once() -> None:
    counts, mask = random_frame(3)
    judged = judge_maxima(counts, mask, DetectConfig(background="none"), near=(24, 28))
    listed = list(zip(judged.table["y_pixel"].tolist(), judged.table["x_pixel"].tolist(), strict=True))
    assert len(listed) == len(set(listed))
    # Ordered by (value, place), so that of equal neighbours the later one is the maximum.
    rank = np.empty(counts.size, int)
    rank[np.argsort(counts.ravel(), kind="stable")] = np.arange(counts.size)
    rank = rank.reshape(counts.shape)
    for y in range(18, 31):
        for x in range(22, 35):
            is_maximum = rank[y, x] == rank[y - 1 : y + 2, x - 1 : x + 2].max()
            if is_maximum and counts[y, x] > judged.level[y, x]:
                assert (y, x) in listed


@pytest.mark.parametrize("engine", ["native", "findpeaks"])
def test_both_engines_are_judged_alike(engine: str) -> None:
    counts, mask = random_frame(11)
    config = DetectConfig(engine=engine, background="none")
    judged = judge_maxima(counts[:24, :24], mask[:24, :24], config, near=(10, 10))
    found = detect(counts[:24, :24], mask[:24, :24], config)
    kept = judged.table[judged.dropped_by == ""]
    assert sorted(kept[["y_pixel", "x_pixel"]].tolist()) == found.table[["y_pixel", "x_pixel"]].tolist()
