"""A series as one image: exactly what numpy makes of all frames at once."""

from pathlib import Path

import numpy as np
import pytest

from braggflow.config import RunConfig
from braggflow.errors import InputError
from braggflow.frames import frames_from_array, open_frames, open_series
from braggflow.view.projections import PROJECTIONS, projected
from tests.stores import make_store

BY_NUMPY = {
    "maximum": np.nanmax,
    "mean": np.nanmean,
    "median": np.nanmedian,
    "variance": lambda images, axis: np.nanvar(images, axis=axis, ddof=1),
}


@pytest.mark.parametrize("kind", PROJECTIONS)
@pytest.mark.parametrize("n", [3, 5, 12])
def test_a_projection_is_that_of_all_frames(kind: str, n: int) -> None:
    images = np.random.default_rng(n).normal(20, 4, (n, 130, 70)).astype(np.float32)
    images[0, 5, 6] = np.nan
    images[1:, 7, 8] = np.nan if kind != "variance" else images[1:, 7, 8]
    opened = open_series(frames_from_array(images), RunConfig())
    told: list[tuple[int, int]] = []
    image, read = projected(opened, kind, told=lambda done, of: told.append((done, of)))
    assert read == n
    assert told[-1] == (n, n)
    expected = BY_NUMPY[kind](images, axis=0)
    good = np.isfinite(images).sum(axis=0) > 1
    np.testing.assert_allclose(image[good], expected[good], rtol=2e-4)


def test_what_is_ignored_in_every_frame_is_nothing(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), bool)
    mask[3] = True
    store = make_store(tmp_path / "a.zarr", np.ones((4, 40, 50), np.uint16), mask=mask)
    opened = open_series(open_frames(store), RunConfig())
    for kind in PROJECTIONS:
        image, _ = projected(opened, kind)
        assert np.isnan(image[3]).all()
        assert np.isfinite(np.delete(image, 3, axis=0)).all()


def test_long_series_are_sampled_and_damaged_frames_left_out(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.zarr", np.ones((200, 16, 16), np.uint16))
    opened = open_series(open_frames(store), RunConfig())
    assert projected(opened, "mean")[1] == 64
    assert projected(opened, "median")[1] == 15
    chunk = store / "frames" / "c" / "0" / "0" / "0"
    chunk.write_bytes(b"no chunk")
    assert projected(opened, "mean")[1] < 64


def test_another_projection_is_refused() -> None:
    opened = open_series(frames_from_array(np.ones((2, 16, 16))), RunConfig())
    with pytest.raises(
        InputError, match="projection: 'sum' is not accepted; accepted: maximum, mean, median, variance"
    ):
        projected(opened, "sum")
