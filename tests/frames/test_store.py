import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from braggflow.config import FramesConfig
from braggflow.errors import InputError
from braggflow.frames import (
    correct_frame,
    correction_of,
    create_store,
    frames_from_array,
    open_frames,
    read_raw,
    unbinned,
    unfinished_path,
)
from braggflow.frames import store as store_module
from braggflow.frames.store import chunk_frames
from tests.stores import make_store, spots


@pytest.fixture
def images():
    return np.stack([spots((24, 30), 3, seed=seed) for seed in range(7)])


def test_created_store_opens_with_everything_in_it(tmp_path, images):
    mask = np.zeros(images.shape[1:], bool)
    mask[3, 4] = True
    path = make_store(tmp_path / "a.zarr", images, mask=mask, attributes={"saturation": 500})
    data = open_frames(path)
    np.testing.assert_array_equal(data["frames"], images)
    np.testing.assert_array_equal(data["mask"], mask)
    assert data["time"].attrs["units"] == "s"
    assert data["frames"].dtype == images.dtype
    assert not unfinished_path(path).exists()


def test_unfinished_store_has_no_name(tmp_path, images):
    path = tmp_path / "a.zarr"
    create_store(path, n_frames=7, shape=images.shape[1:], dtype=images.dtype)
    with pytest.raises(InputError, match="did not finish"):
        open_frames(path)


def test_many_small_chunks_are_sharded(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_CHUNK_FILES", 4)
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 24 * 30 * 2)
    images = np.arange(10 * 24 * 30, dtype=np.uint16).reshape(10, 24, 30)
    path = make_store(tmp_path / "a.zarr", images)
    data = open_frames(path)
    assert data["frames"].encoding["shards"] == (3, 24, 30)
    assert len(list((path / "frames" / "c").iterdir())) == 4
    np.testing.assert_array_equal(read_raw(data, np.arange(2, 9)), images[2:9])


def test_large_chunks_are_compressed_in_blocks_that_threads_can_share(tmp_path):
    array = create_store(tmp_path / "series.zarr", n_frames=1, shape=(1024, 1024), dtype=np.dtype("u2"))
    array[0] = np.random.default_rng(0).poisson(5, (1024, 1024))
    stored = (unfinished_path(tmp_path / "series.zarr") / "frames" / "c" / "0" / "0" / "0").read_bytes()
    n_bytes, block_bytes = np.frombuffer(stored[4:12], "<u4")  # the header of Blosc 1
    assert n_bytes == 2 * 1024**2
    assert block_bytes == 2**20


def test_chunks_are_whole_frames_of_the_stated_size():
    assert chunk_frames(14_400, (512, 512), np.dtype("u2")) == 32
    assert chunk_frames(100, (4096, 4096), np.dtype("u4")) == 1
    assert chunk_frames(240, (96, 96), np.dtype("u2")) == 8
    assert chunk_frames(3, (512, 512), np.dtype("u2")) == 1


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"other": (("frame", "y", "x"), np.zeros((2, 4, 4)))}, "no array 'frames'"),
        ({"frames": (("a", "b", "y", "x"), np.zeros((2, 2, 4, 4)))}, r"must be \(frame, y, x\)"),
        ({"frames": (("frame", "y", "x"), np.zeros((2, 4, 4), complex))}, "dtype complex128"),
        ({"frames": (("frame", "y", "x"), np.zeros((0, 4, 4)))}, "the series is empty"),
        (
            {"frames": (("frame", "y", "x"), np.zeros((2, 4, 4))), "mask": (("b", "a"), np.zeros((4, 5), bool))},
            r"mask has shape \(4, 5\)",
        ),
        (
            {"frames": (("frame", "y", "x"), np.zeros((2, 4, 4))), "dark": (("b", "a"), np.zeros((3, 4)))},
            r"dark has shape \(3, 4\)",
        ),
    ],
)
def test_wrong_stores_are_refused_by_name(tmp_path, variables, part):
    path = tmp_path / "wrong.zarr"
    n = 0 if part == "the series is empty" else 2
    coords = {"frame": np.arange(n)} if "must be" not in part else {}
    xr.Dataset(variables, coords=coords).to_zarr(path, zarr_format=3, consolidated=False)
    with pytest.raises(InputError, match=part) as error:
        open_frames(path)
    assert "wrong.zarr" in str(error.value)


def test_missing_store_and_folders_that_are_no_store_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.zarr: does not exist"):
        open_frames(tmp_path / "gone.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a Zarr store"):
        open_frames(tmp_path / "empty")


def test_repeated_frame_numbers_are_refused(tmp_path, images):
    path = make_store(tmp_path / "a.zarr", images, numbers=np.array([0, 1, 2, 2, 4, 5, 6]))
    with pytest.raises(InputError, match="each once"):
        open_frames(path)


def test_newer_format_is_refused(tmp_path, images):
    path = make_store(tmp_path / "a.zarr", images, attributes={"format_version": 99})
    with pytest.raises(InputError, match="format_version 99"):
        open_frames(path)


def test_missing_chunk_of_our_store_is_an_error_and_not_zeros(tmp_path, images, monkeypatch):
    monkeypatch.setattr(store_module, "MIN_CHUNKS", 4)
    images[2:4] = 0  # all zero: written all the same
    path = make_store(tmp_path / "a.zarr", images)
    data = open_frames(path)
    np.testing.assert_array_equal(read_raw(data, np.arange(7)), images)
    (path / "frames" / "c" / "1" / "0" / "0").unlink()
    with pytest.raises(FileNotFoundError, match="frames/c/1/0/0"):
        read_raw(data, np.arange(1, 3))
    np.testing.assert_array_equal(read_raw(data, np.array([0, 4, 6])), images[[0, 4, 6]])


def dataset(images, **images2d):
    return frames_from_array(images).assign({name: (("y", "x"), image) for name, image in images2d.items()})


def test_integer_frame_with_nothing_to_correct_is_not_copied(images):
    correction = correction_of(dataset(images), FramesConfig())
    assert np.shares_memory(correct_frame(images[0], correction).counts, images[0])


def test_dark_and_flat_restore_the_true_counts(images):
    rng = np.random.default_rng(0)
    shape = images.shape[1:]
    truth = images[0].astype(np.float32)
    dark = rng.uniform(5, 10, shape).astype(np.float32)
    flat = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    flat /= flat.mean()
    data = dataset(images, dark=dark, flat=3 * flat)
    corrected = correct_frame(truth * flat + dark, correction_of(data, FramesConfig()))
    np.testing.assert_allclose(corrected.counts, truth, rtol=1e-5, atol=1e-3)
    plain = correction_of(data, FramesConfig(dark="none", flat="none"))
    np.testing.assert_array_equal(correct_frame(truth, plain).counts, truth)


def test_dead_pixels_of_the_flat_are_masked(images):
    flat = np.ones(images.shape[1:], np.float32)
    flat[2, 3], flat[4, 5] = 0, np.nan
    correction = correction_of(dataset(images, flat=flat), FramesConfig())
    assert set(map(tuple, np.argwhere(correction.mask))) == {(2, 3), (4, 5)}
    assert np.isfinite(correct_frame(images[0], correction).counts).all()


def test_pixels_that_are_not_finite_in_dark_or_flat_are_masked(images):
    dark, flat = np.zeros(images.shape[1:], np.float32), np.ones(images.shape[1:], np.float32)
    dark[1, 2], flat[3, 4], flat[5, 6] = np.nan, np.inf, np.nan
    correction = correction_of(dataset(images, dark=dark, flat=flat), FramesConfig())
    corrected = correct_frame(images[0], correction)
    assert set(map(tuple, np.argwhere(corrected.mask))) == {(1, 2), (3, 4), (5, 6)}
    np.testing.assert_allclose(corrected.counts[~corrected.mask], images[0][~corrected.mask])


def test_big_endian_frames_are_read_as_native(images):
    assert read_raw(frames_from_array(images.astype(">u2")), np.arange(2)).dtype.isnative


def test_masks_of_store_configuration_and_frame_are_joined(tmp_path, images):
    own = np.zeros(images.shape[1:], bool)
    own[0, 0] = True
    more = np.zeros(images.shape[1:], np.uint8)
    more[1, 1] = 1
    np.save(tmp_path / "more.npy", more)
    raw = images[0].astype(np.float32)
    raw[2, 2], raw[3, 3] = np.nan, -1
    data = dataset(images, mask=own)
    data.attrs["masked_below"] = 0
    correction = correction_of(data, FramesConfig(mask=str(tmp_path / "more.npy")))
    assert {(0, 0), (1, 1), (2, 2), (3, 3)} == set(map(tuple, np.argwhere(correct_frame(raw, correction).mask)))


def test_saturation_is_judged_on_raw_counts(images):
    data = dataset(images, dark=np.full(images.shape[1:], 50, np.float32))
    data.attrs["saturation"] = int(images[0].max())
    corrected = correct_frame(images[0], correction_of(data, FramesConfig()))
    np.testing.assert_array_equal(corrected.saturated, images[0] == images[0].max())
    untouched = correct_frame(images[0], correction_of(dataset(images), FramesConfig(saturation=99)))
    assert (untouched.saturated, untouched.saturation) == (None, 99)
    stricter = correction_of(data, FramesConfig(saturation=1e6))
    assert correct_frame(images[0], stricter).saturated is None


@given(st.integers(1, 6), st.integers(12, 30), st.integers(12, 30))
def test_binning_keeps_the_counts_and_their_centre(b, height, width):
    rng = np.random.default_rng(b * height * width)
    image = rng.integers(0, 50, (height, width)).astype(np.uint16)
    binned = correct_frame(image, correction_of(dataset(image[None]), FramesConfig(bin=b))).counts
    rows, columns = height // b * b, width // b * b
    assert binned.sum() == image[:rows, :columns].sum()
    if b > 1:
        weights = binned.sum(axis=1, dtype=float)
        centre = (unbinned(np.arange(len(binned), dtype=float), b) * weights).sum() / weights.sum()
        uniform = unbinned(np.arange(len(binned), dtype=float), b).mean()
        assert uniform == (rows - 1) / 2
        assert abs(centre - (image[:rows, :columns].sum(axis=1) * np.arange(rows)).sum() / weights.sum()) <= (b - 1) / 2


def test_a_bin_is_masked_and_saturated_if_any_of_its_pixels_is(images):
    mask = np.zeros(images.shape[1:], bool)
    mask[5, 5] = True
    raw = np.ones(images.shape[1:], np.uint16)
    raw[9, 9] = 1000
    correction = correction_of(dataset(images, mask=mask), FramesConfig(bin=2, saturation=900))
    corrected = correct_frame(raw, correction)
    assert np.argwhere(corrected.mask).tolist() == [[2, 2]]
    assert np.argwhere(corrected.saturated).tolist() == [[4, 4]]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"mask": "gone.npy"}, r"frames\.mask: .*gone\.npy does not exist"),
        ({"dark": "gone.tif"}, r"frames\.dark: .*gone\.tif does not exist"),
        ({"mask": "text.npy"}, r"frames\.mask: .*text\.npy: cannot be read"),
        ({"flat": "text.tif"}, r"frames\.flat: .*text\.tif: cannot be read"),
        ({"mask": "small.npy"}, r"frames\.mask: .*shape \(4, 4\), the frames are \(24, 30\)"),
        ({"dark": "cube.npy"}, r"frames\.dark: .*holds 2 frames, must be one 2-D image"),
        ({"mask": "all.npy"}, r"leaves no pixel"),
        ({"flat": "zero.npy"}, r"frames\.flat: has no positive pixel"),
        ({"bin": 16}, None),
    ],
)
def test_wrong_images_are_refused_by_key_and_file(tmp_path, images, settings, part, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shape = images.shape[1:]
    for name, content in {
        "small": np.zeros((4, 4)),
        "cube": np.zeros((2, *shape)),
        "all": np.ones(shape),
        "zero": np.zeros(shape),
    }.items():
        np.save(tmp_path / f"{name}.npy", content)
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "text.tif").write_text("not an image")
    if part is None:
        assert correction_of(dataset(images), FramesConfig(**settings)).bin == 16
        return
    with pytest.raises(InputError, match=part):
        correction_of(dataset(images), FramesConfig(**settings))


def test_arrays_become_series_with_their_coordinates(images):
    array = xr.DataArray(images, dims=("image", "row", "column"), coords={"time": ("image", np.arange(7.0))})
    data = frames_from_array(array)
    assert data["frames"].dims == ("frame", "y", "x")
    assert data["time"].dims == ("frame",)
    assert frames_from_array(images[0])["frames"].shape == (1, *images.shape[1:])
    with pytest.raises(InputError, match="must be \\(frame, y, x\\)"):
        frames_from_array(np.zeros(5))
