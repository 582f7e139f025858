"""A chunk of frames is searched in a few calls for all of them, and gives what its frames give one by one."""

import numpy as np
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow import peak_table
from braggflow.config import resolve_config
from braggflow.frames import frames_from_array, open_series
from braggflow.pipeline import search_chunk
from tests.stores import spots

SHAPE, FRAMES = (64, 70), 5
SECTIONS = {
    "by significance": {},
    "without a background": {"detect": {"background": "none", "min_area": 4}},
    "by levels": {"detect": {"false_peaks": None, "background": "none", "minval": 14, "minscore": 9, "max_area": 60}},
    "by levels in sigma": {"detect": {"false_peaks": None, "minval": "4 sigma", "min_neighbour_distance": 9}},
    "many": {"detect": {"false_peaks": 900.0, "minval": 9, "min_snr": 3.0, "min_edge_distance": 2}},
}


def opened(images, mask, sections, **attributes):
    data = xr.Dataset({"frames": (("frame", "y", "x"), images), "mask": (("y", "x"), mask.astype(np.uint8))})
    settings = resolve_config({"locate": {"network": "none"}, **sections})
    return open_series(frames_from_array(data.assign_attrs(attributes)), settings)


def assert_same(whole, alone):
    """Check that a chunk gives what its frames give, bit for bit."""
    assert whole.table.tobytes() == peak_table.concatenate([each.table for each in alone]).tobytes()
    for name in ("counts", "state", "neighbours", "centroid"):
        np.testing.assert_array_equal(
            getattr(whole.patches, name), np.concatenate([getattr(each.patches, name) for each in alone])
        )
    assert whole.failures == [failure for each in alone for failure in each.failures]
    np.testing.assert_equal(whole.means, {number: mean for each in alone for number, mean in each.means.items()})
    for key in {key for each in alone for key in each.removed}:
        assert whole.removed[key] == sum(each.removed.get(key, 0) for each in alone)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["uint16", "int32"]),
    kind=st.sampled_from(sorted(SECTIONS)),
    marked=st.booleans(),
)
def test_a_chunk_gives_what_its_frames_give_one_by_one(seed, dtype, kind, marked):
    rng = np.random.default_rng(seed)
    images = np.stack([spots(SHAPE, 7, seed=seed + k) for k in range(FRAMES)]).astype(dtype)
    images[1] = rng.poisson([4, 0.2, 300][seed % 3], SHAPE)
    mask = rng.random(SHAPE) < 0.002
    mask[:, 33:35] = mask[50:56, :20] = True
    attributes = {"saturation": 600.0}
    if marked and dtype == "int32":  # those of one frame alone, too
        images[:, mask] = images[3, 9, 9:12] = -1
        attributes["masked_below"] = 0.0
    series = opened(images, mask, SECTIONS[kind], **attributes)
    whole = search_chunk(series, 0, FRAMES, {2: "left out"})
    alone = [search_chunk(series, at, at + 1, {2: "left out"}) for at in range(FRAMES)]
    assert len(whole.table) > 5
    assert whole.failures == [{"frame": 2, "reason": "left out"}]
    assert_same(whole, alone)


def test_a_frame_that_fails_leaves_the_others_of_its_chunk():
    images = np.stack([spots(SHAPE, 2 + 14 * (k == 2), seed=k) for k in range(FRAMES)])
    series = opened(images, np.zeros(SHAPE, bool), {"detect": {"max_peaks_per_frame": 6}})
    whole = search_chunk(series, 0, FRAMES)
    assert [failure["frame"] for failure in whole.failures] == [2]
    assert "detect.max_peaks_per_frame is 6" in whole.failures[0]["reason"]
    assert set(whole.table["peak_frame"]) == set(whole.means) == {0, 1, 3, 4}
    assert_same(whole, [search_chunk(series, at, at + 1) for at in range(FRAMES)])
