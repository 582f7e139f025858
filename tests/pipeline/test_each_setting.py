"""One frame by many settings: the tables are those of the whole chain with each setting, bit for bit."""

import numpy as np
import pytest
import xarray as xr

from braggflow import peak_table
from braggflow.config import resolve_config
from braggflow.frames import frames_from_array, open_series
from braggflow.pipeline import complete_peaks, locate_peaks, look_by_each, search_chunk
from tests.stores import spots

LEVELS = [
    (minval, minscore, false_peaks)
    for minval in (None, 30, 150)
    for minscore in (None, 60)
    for false_peaks in (0.001, 0.1, 10, None)
]


def series(config, images=None):
    if images is None:
        images = np.stack([spots((96, 96), 16, seed=5), spots((96, 96), 30, seed=6)])
        images[1] += np.arange(96, dtype=images.dtype)  # patches are rid of the slope of a local background
    mask = np.zeros(images.shape[1:], bool)
    mask[:, 40:42] = True
    data = frames_from_array(xr.Dataset({"frames": (("frame", "y", "x"), images), "mask": (("y", "x"), mask)}))
    return open_series(data, resolve_config(config))


def alone(opened, position, setting):
    config = opened.config.model_copy(update={"detect": setting})
    found = search_chunk(series(config.model_dump(mode="json")), position, position + 1)
    table, _ = complete_peaks(config, [found], locate_peaks(config, [found]))
    return table, "".join(failure["reason"] for failure in found.failures)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"frames": {"bin": 2}},
        {"detect": {"min_snr": 9, "min_neighbour_distance": 6, "background": "none"}},
        {"detect": {"min_area": 5}, "patches": {"neighbours": "mask"}},
        {"patches": {"neighbours": "ignore"}, "locate": {"network": "braggnn", "position": "network"}},
        {"fit": {"fraction": 0.4, "seed": 3}, "locate": {"network": "none"}},
        {"fit": {"model": "disk"}, "patches": {"size": 15}},
        {"detect": {"max_peaks_per_frame": 25}, "fit": {"fraction": 0}},
    ],
    ids=str,
)
def test_tables_are_those_of_the_whole_chain_with_each_setting(config):
    opened = series(config)
    detect = opened.config.detect
    settings = [
        resolve_config(
            {"detect": {**detect.model_dump(mode="json"), "minval": m, "minscore": s, "false_peaks": f}}
        ).detect
        for m, s, f in LEVELS
    ]
    areas = detect.min_area > 1
    different = set()
    for position in range(2):
        frame = look_by_each(opened, position, settings)
        for setting, table, failure, rows in zip(settings, frame.tables, frame.failures, frame.rows, strict=True):
            expected, reason = alone(opened, position, setting)
            assert failure == reason
            for name in peak_table.VARIABLES:
                if name != "area" or areas:
                    np.testing.assert_array_equal(table[name], expected[name], err_msg=name)
            assert len(rows) == np.count_nonzero(table["parent"] < 0)
            different.add(len(table))
        assert len(frame.patches.counts) < sum(map(len, frame.rows))
        assert frame.pixels == 94 * 96 // opened.config.frames.bin**2
    assert len(different) > 2


def test_a_frame_that_cannot_be_read_fails_by_every_setting():
    opened = series({})
    opened.missing[1] = "was never written"
    frame = look_by_each(opened, 1, [opened.config.detect] * 3)
    assert frame.failures == ["OSError: was never written"] * 3
    assert [len(table) for table in frame.tables] == [0, 0, 0]


def test_a_setting_that_a_frame_refuses_fails_alone():
    images = np.zeros((1, 64, 64), np.uint16)
    images[0, 30:33, 30:33] = 500
    opened = series({}, images)
    settings = [
        resolve_config({"detect": {"minval": m, "false_peaks": None, "minscore": 9}}).detect for m in ("6 sigma", 40)
    ]
    refused, found = look_by_each(opened, 0, settings).failures
    assert "the frame has no noise" in refused
    assert found == ""
