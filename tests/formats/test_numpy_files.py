"""Arrays of NumPy: every layout has the right values or one message; no header makes the program take memory."""

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from braggflow.formats import inspect_source
from tests.convert.conversions import series
from tests.formats.writers import found, npy_header, refused

DATA = series(5)


def saved(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        np.savez_compressed(path, omega=np.zeros((1440, 2)), frames=array)
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", ">i4", ">f8", "?", "f2", "u1", "<u8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(20, 30), (5, 20, 30), (1, 5, 20, 30)])
def test_every_layout_of_an_array_gives_its_values(
    tmp_path: Path, name: str, dtype: str, order: str, shape: tuple[int, ...]
) -> None:
    data = DATA[: int(np.prod(shape[:-2]))].astype(dtype).reshape(shape)
    path = saved(tmp_path / name, np.array(data, order=order))
    frames = found(path)
    np.testing.assert_array_equal(frames, data.reshape(-1, 20, 30).astype(frames.dtype))
    assert frames.dtype.isnative


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_frames_of_a_scan_are_numbered_row_by_row(tmp_path: Path, name: str, order: str) -> None:
    data = series(6).reshape(2, 3, 20, 30)
    path = saved(tmp_path / name, np.array(data, order=order))
    np.testing.assert_array_equal(found(path), data.reshape(6, 20, 30))
    coords = inspect_source(str(path))[0].facts.coords
    assert coords["scan_y"][0].tolist() == [0, 0, 0, 1, 1, 1]
    assert coords["scan_x"][0].tolist() == [0, 1, 2, 0, 1, 2]
    assert coords["scan_y"][0].dtype.kind == "i"


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize(
    ("array", "said"),
    [
        (DATA.astype("c8"), "complex64"),
        (DATA.astype("M8[s]"), "datetime64"),
        (DATA.astype("longdouble"), "float128"),
        (np.full((20, 30), None), "Python objects"),
        (np.zeros((5, 20, 30), [("counts", "u2"), ("error", "f4")]), "counts, error"),
        (np.zeros((5, 20, 30), [("frame", "O")]), "frame"),
        (np.full((20, 30), "a"), "<U1"),
        (np.zeros((2, 2, 2, 20, 30)), r"(2, 2, 2, 20, 30)"),
        (np.zeros((0, 20, 30)), "(0, 20, 30)"),
        (np.zeros((1440, 2)), "(1440, 2)"),
        (np.zeros(2000), "(2000,)"),
        (np.array(3), "()"),
    ],
)
def test_what_is_no_series_of_frames_is_refused_in_one_message(
    tmp_path: Path, name: str, array: np.ndarray, said: str
) -> None:
    if name == "a.npz":
        np.savez(tmp_path / name, array)
    else:
        np.save(tmp_path / name, array, allow_pickle=True)
    message = refused(tmp_path / name)
    assert said in message
    assert "damaged" not in message


def test_arrays_that_are_no_images_are_never_taken_for_the_frames(tmp_path: Path) -> None:
    np.savez(tmp_path / "cache.npz", shape=np.array([64, 64]), omega=np.zeros((1440, 2)), data_0=np.zeros(3))
    message = refused(tmp_path / "cache.npz")
    assert "none of its arrays can be frames" in message
    assert all(name in message for name in ("shape (2,)", "omega (1440, 2)", "data_0 (3,)"))
    assert "smaller than a patch" in refused(tmp_path / "cache.npz", "/omega")
    np.savez(tmp_path / "ub.npz", ub=np.eye(3)[None], tth=np.zeros(1440), names=np.array(["a", "b"]))
    assert "ub (1, 3, 3)" in refused(tmp_path / "ub.npz")


def test_several_series_are_listed_and_the_named_one_is_taken(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=DATA, b=DATA[::-1], omega=np.arange(5))
    message = refused(tmp_path / "two.npz")
    assert "2 of its arrays may be the frames" in message
    assert all(name in message for name in ("a (5, 20, 30)", "b (5, 20, 30)", "omega (5,)"))
    np.testing.assert_array_equal(found(tmp_path / "two.npz", "/b"), DATA[::-1])
    assert "has no array c" in refused(tmp_path / "two.npz", "/c")


def test_a_series_is_taken_before_single_images_which_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", dark=DATA[0], stack=DATA, centre=np.zeros((2, 2)))
    np.testing.assert_array_equal(found(tmp_path / "a.npz"), DATA)
    (stack,) = inspect_source(str(tmp_path / "a.npz"))
    assert (stack.inside, stack.others) == ("/stack", ("/dark (20, 30)",))


@pytest.mark.parametrize("shape", [(10**12, 20, 30), (-1, 20, 30), (-1, -20, 30), (10**6, 10**6), (2, 10**9, 10**9)])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "packed.npz"])
def test_a_header_that_lies_about_its_size_takes_no_memory(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    content = npy_header(shape) + DATA.tobytes()
    if name.endswith(".npz"):
        packed = zipfile.ZIP_DEFLATED if name == "packed.npz" else zipfile.ZIP_STORED
        with zipfile.ZipFile(tmp_path / name, "w", packed) as archive:
            archive.writestr("frames.npy", content)
    else:
        (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    message = refused(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "state" in message
    assert peak < 2**24


def test_a_member_with_more_values_than_its_header_states_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", npy_header((5, 20, 30)) + bytes(10**7))
    assert "it has 10,000,000" in refused(tmp_path / "bomb.npz")


def test_one_huge_frame_of_nothing_in_a_small_archive_is_refused(tmp_path: Path) -> None:
    side = 2**16
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", npy_header((side, side), "u1"))
        archive.filelist[0].file_size += side * side  # as the directory of the archive would state it
    assert "cannot be read" in refused(tmp_path / "a.npz")
