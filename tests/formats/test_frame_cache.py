"""Frame caches of HEXRD, written as its own writer does (tests/formats/writers.py says by which source)."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from braggflow.formats import inspect_source
from tests.convert.conversions import copied, series
from tests.formats.writers import found, frame_cache_fch5, frame_cache_npz, refused

DATA = series(4)
OMEGA = np.stack([np.arange(4) * 0.25, np.arange(1, 5) * 0.25], axis=1)
ABOVE = np.where(DATA > 60, DATA, 0)


@pytest.fixture(params=["a.npz", "a.fch5", "a.h5"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write = frame_cache_npz if request.param == "a.npz" else frame_cache_fch5
    return write(tmp_path / request.param, DATA, 60, omega=OMEGA, panel_id="ge1")


def test_frames_are_what_was_above_the_threshold_with_their_angles(cache: Path, tmp_path: Path) -> None:
    np.testing.assert_array_equal(found(cache), ABOVE)
    (stack,) = inspect_source(str(cache))
    assert (stack.kind, stack.frames, stack.shape, np.dtype(stack.dtype)) == ("frame_cache", 4, (20, 30), DATA.dtype)
    result = copied(cache, tmp_path)
    np.testing.assert_array_equal(result["frames"], ABOVE)
    np.testing.assert_array_equal(result["omega"], OMEGA[:, 0])
    np.testing.assert_array_equal(result["omega_end"], OMEGA[:, 1])
    assert result["omega"].attrs["units"] == "degree"


def test_frames_without_a_pixel_above_the_threshold_are_zero(tmp_path: Path) -> None:
    data = DATA.copy()
    data[[0, 2]] = 0
    for path in (frame_cache_npz(tmp_path / "a.npz", data, 60), frame_cache_fch5(tmp_path / "a.fch5", data, 60)):
        np.testing.assert_array_equal(found(path), np.where(data > 60, data, 0))
        assert not inspect_source(str(path))[0].facts.coords


def test_the_older_form_states_neither_number_nor_type(tmp_path: Path) -> None:
    arrays = dict(np.load(frame_cache_npz(tmp_path / "new.npz", DATA.astype("f4"), 60)))
    np.savez(
        tmp_path / "old.npz", **{name: value for name, value in arrays.items() if name not in ("nframes", "dtype")}
    )
    np.testing.assert_array_equal(found(tmp_path / "old.npz"), ABOVE.astype("f4"))


def test_angles_that_are_not_one_for_each_frame_are_not_taken(tmp_path: Path) -> None:
    path = frame_cache_npz(tmp_path / "a.npz", DATA, 60, omega=np.zeros((1440, 2)))
    assert not inspect_source(str(path))[0].facts.coords


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"3_row": None}, "frame 3 of 4 is not in it"),
        ({"nframes": 9}, "frame 4 of 9 is not in it"),
        ({"shape": (20, 5)}, r"frame 0 has pixels beyond (20, 5)"),
        ({"shape": (20, 10)}, r"frame 0 has pixels beyond (20, 10)"),
        ({"1_data": np.zeros(3, "u2")}, "frame 1 has pixels beyond"),
        ({"dtype": b"counts"}, "states the dtype 'counts'"),
        ({"shape": (10**6, 10**6)}, "its header states"),
    ],
)
def test_a_damaged_cache_is_refused(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    arrays = dict(np.load(frame_cache_npz(tmp_path / "whole.npz", DATA, 60))) | changed
    np.savez(tmp_path / "a.npz", **{name: value for name, value in arrays.items() if value is not None})
    if changed.get("shape") == (20, 5):
        said = "smaller than a patch"
    assert said in refused(tmp_path / "a.npz")


def test_a_damaged_hdf5_cache_is_refused(tmp_path: Path) -> None:
    path = frame_cache_fch5(tmp_path / "a.fch5", DATA, 60)
    with h5py.File(path, "a") as file:
        file["frame_ids"][-1] += 5
    assert "entries beyond" in refused(path)
    with h5py.File(path, "a") as file:
        file["nframes"][()] = 7
    assert "states 7 frames" in refused(path)
    with h5py.File(path, "a") as file:
        file.attrs["HEXRD_FRAMECACHE_VERSION"] = 2
    assert "version 2, must be 1" in refused(path)
    with h5py.File(tmp_path / "other.fch5", "w") as file:
        file["x"] = DATA
    np.testing.assert_array_equal(found(tmp_path / "other.fch5"), DATA)  # HDF5 by its content
