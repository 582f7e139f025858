import numpy as np
import pytest

from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.results import RunFolder, open_peaks, open_run_frames
from braggflow.show import projection
from braggflow.show.projection import project
from tests.show.run_folders import simulate, write_frames, write_run

SETTINGS = {"detect": {"minval": 60.0, "minscore": 30.0}}


def _run(folder, images, config=SETTINGS, **keywords):
    source = write_frames(folder / "scan.zarr", images)
    run = write_run(folder / "run", source, resolve_config(config), **keywords)
    return open_run_frames(RunFolder(run)), open_peaks(run), source


def test_the_projection_is_maximum_and_sum_of_the_frames_that_were_processed(tmp_path):
    images = simulate(6)
    series, table, _ = _run(tmp_path, images, failed=[2])
    found = project(series, table)
    kept = np.delete(images, 2, axis=0)
    assert (found.frames, found.unreadable) == (5, 0)
    np.testing.assert_array_equal(found.highest[:-2], kept.max(axis=0)[:-2])
    np.testing.assert_array_equal(found.total[:-2], kept.sum(axis=0)[:-2])
    assert np.isnan(found.highest[-2:]).all()  # the store's mask
    assert np.isnan(found.total[-2:]).all()


def test_a_pixel_that_is_ignored_in_some_frames_is_that_of_the_others(tmp_path):
    images = simulate(3).astype(np.float32)
    images[1, 4, 5], images[:, 7, 8] = np.nan, np.nan
    series, table, _ = _run(tmp_path, images)
    found = project(series, table)
    assert found.highest[4, 5] == np.nanmax(images[:, 4, 5])
    assert found.total[4, 5] == np.nansum(images[:, 4, 5])
    assert np.isnan(found.highest[7, 8])


def test_of_a_long_series_evenly_spread_frames_are_read_and_of_large_frames_fewer(tmp_path, monkeypatch):
    images = np.zeros((100, 8, 8), np.uint16)
    images[:, 0, 0] = np.arange(100)
    series, table, _ = _run(tmp_path, images)
    found = project(series, table)
    assert found.frames == 64
    assert found.highest[0, 0] == 99
    monkeypatch.setattr(projection, "MAX_PIXELS", 10 * 64)
    assert project(series, table).frames == 10


def test_frames_are_binned_as_the_run_binned_them(tmp_path):
    images = simulate(2)
    series, table, _ = _run(tmp_path, images, {**SETTINGS, "frames": {"bin": 2}})
    assert project(series, table).highest.shape == (48, 64)


def test_frames_that_cannot_be_read_now_are_counted_and_none_at_all_is_refused(tmp_path):
    images = simulate(4)
    series, table, source = _run(tmp_path, images)
    chunks = sorted(path for path in (source / "frames" / "c").rglob("*") if path.is_file())
    chunks[0].write_bytes(b"no chunk")
    found = project(series, table)
    assert found.unreadable >= 1
    assert found.frames + found.unreadable == 4
    for chunk in chunks:
        chunk.write_bytes(b"no chunk")
    with pytest.raises(InputError, match="frames: none can be read to be projected"):
        project(series, table)
