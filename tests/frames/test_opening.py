"""Stores of others and arrays, as people have them: axes by name, fill values, optional parts, what is refused."""

import numpy as np
import pytest
import xarray as xr
import zarr

import braggflow
from braggflow.errors import InputError
from braggflow.frames import frames_from_array, open_frames, read_raw
from tests.stores import spots

LEVELS = {"minval": 40, "minscore": 20}
AXES = ("frame", "y", "x")


@pytest.fixture
def frames():
    """Three frames of (48, 64), each another."""
    return np.stack([spots((48, 64), 4, seed=seed) for seed in range(3)])


def positions(table):
    return np.stack([table[name].values for name in ("peak_frame", "y", "x")], axis=1)


@pytest.mark.parametrize(
    "dims",
    [("y", "x", "frame"), ("frame", "x", "y"), ("x", "y", "frame"), ("y", "x", "time"), ("frame", "x", "row")],
)
def test_named_axes_are_taken_by_their_names(frames, dims, tmp_path):
    stands_for = [{"time": "frame", "row": "y"}.get(dim, dim) for dim in dims]
    array = xr.DataArray(frames.transpose([AXES.index(axis) for axis in stands_for]), dims=dims)
    expected = positions(braggflow.find_peaks(frames, **LEVELS))
    np.testing.assert_array_equal(positions(braggflow.find_peaks(array, **LEVELS)), expected)
    array.to_dataset(name="frames").to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    data = open_frames(tmp_path / "a.zarr")
    np.testing.assert_array_equal(positions(braggflow.find_peaks(data, **LEVELS)), expected)
    for at in ([0], [1, 2], [0, 2]):
        np.testing.assert_array_equal(read_raw(data, np.array(at)), frames[at])
    np.testing.assert_array_equal(data["frames"][1, 3:5, 7].values, frames[1, 3:5, 7])


@pytest.mark.parametrize("dims", [("time", "row", "col"), ("frame", "row", "col"), ("row", "y", "x"), ("a", "b", "x")])
def test_other_names_stand_for_the_axes_of_their_places(frames, dims):
    array = xr.DataArray(frames, dims=dims)
    expected = positions(braggflow.find_peaks(frames, **LEVELS))
    np.testing.assert_array_equal(positions(braggflow.find_peaks(array, **LEVELS)), expected)


@pytest.mark.parametrize("dims", [("x", "row", "col"), ("row", "frame", "col"), ("row", "x", "col")])
def test_names_and_places_that_contradict_each_other_are_refused(frames, dims):
    with pytest.raises(InputError, match=r"has dimensions .*'row'.*must be \('frame', 'y', 'x'\)"):
        braggflow.find_peaks(xr.DataArray(frames, dims=dims), **LEVELS)


def test_one_frame_may_lie_across_too(frames):
    expected = positions(braggflow.find_peaks(frames[0], **LEVELS))
    across = xr.DataArray(frames[0].T, dims=("x", "y"))
    np.testing.assert_array_equal(positions(braggflow.find_peaks(across, **LEVELS)), expected)
    one = xr.DataArray(frames, dims=AXES, coords={"frame": [7, 8, 9]}).sel(frame=8)
    assert (braggflow.find_peaks(one, **LEVELS)["peak_frame"] == 8).all()


@pytest.mark.parametrize("image", ["mask", "dark", "flat"])
def test_images_are_taken_by_the_names_of_their_axes(image):
    square = spots((48, 48), 5, seed=1)[None]
    values = np.random.default_rng(0).random((48, 48)) * 2 + (1 if image == "flat" else 0)
    values = values > 1 if image == "mask" else values
    data = xr.Dataset({"frames": (AXES, square), image: (("y", "x"), values)}, coords={"frame": [0]})
    across = xr.Dataset({"frames": (AXES, square), image: (("x", "y"), values.T)}, coords={"frame": [0]})
    xr.testing.assert_identical(braggflow.find_peaks(across, **LEVELS), braggflow.find_peaks(data, **LEVELS))
    with pytest.raises(InputError, match=rf"{image} has shape \(1, 48, 48\).*must be \(y, x\)"):
        braggflow.find_peaks(data.assign({image: (("one", "y", "x"), values[None])}), **LEVELS)


def test_zeros_of_a_store_in_the_old_format_are_counts(frames, tmp_path):
    group = zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    array = group.create_array("frames", shape=frames.shape, dtype=frames.dtype, chunks=(1, 48, 64))
    array[:] = np.maximum(frames, 4) - 4
    array.attrs["_ARRAY_DIMENSIONS"] = list(AXES)
    data = open_frames(tmp_path / "old.zarr")
    assert data["frames"].dtype == np.uint16
    np.testing.assert_array_equal(data["frames"].values, array[:])


@pytest.mark.parametrize(("fill", "missing"), [(0, 0), (7, None), (65535, None)])
def test_a_fill_value_is_a_sign_of_missing_pixels_unless_it_is_0(frames, tmp_path, fill, missing):
    frames[1, 10:12, 20:30] = fill
    data = xr.Dataset({"frames": (AXES, frames, {"_FillValue": np.uint16(fill)})})
    data.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    opened = open_frames(tmp_path / "a.zarr")
    np.testing.assert_array_equal(opened["frames"].values, frames)
    assert opened["frames"].dtype == np.uint16
    plain = open_frames_of(frames, tmp_path / "b.zarr")
    found = braggflow.find_peaks(opened, **LEVELS)
    if missing == 0:
        xr.testing.assert_identical(found, braggflow.find_peaks(plain, **LEVELS))
    else:
        nan = np.where(frames == fill, np.nan, frames.astype("f4"))
        np.testing.assert_array_equal(found["flags"], braggflow.find_peaks(nan, **LEVELS)["flags"])


def open_frames_of(frames, path):
    xr.Dataset({"frames": (AXES, frames)}).to_zarr(path, zarr_format=3, consolidated=False)
    return open_frames(path)


def test_a_store_that_keeps_scaled_numbers_is_read_as_its_numbers(frames, tmp_path):
    scaled = xr.Dataset({"frames": (AXES, frames.astype("f4") * 0.5)})
    encoding = {"frames": {"dtype": "i4", "scale_factor": 0.5, "add_offset": 0.0, "_FillValue": -9}}
    scaled.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    np.testing.assert_allclose(open_frames(tmp_path / "a.zarr")["frames"].values, frames * 0.5)


def test_frames_without_numbers_are_counted_and_pixels_may_have_coordinates(frames, tmp_path):
    data = xr.Dataset(
        {"frames": (AXES, frames)}, coords={"y": np.arange(48) * 0.1, "x": np.arange(64), "omega": ("frame", [1, 2, 3])}
    )
    data.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    for source in (open_frames(tmp_path / "a.zarr"), data):
        found = braggflow.find_peaks(source, **LEVELS)
        assert found["frame"].values.tolist() == [0, 1, 2]
        assert found["omega"].values.tolist() == [1, 2, 3]


def test_a_dimension_may_be_known_by_numbers_of_any_kind(frames):
    timed = xr.DataArray(frames, dims=("time", "y", "x"), coords={"time": [0.1, 0.2, 0.4]})
    found = braggflow.find_peaks(timed, **LEVELS)
    assert found["time"].dims == ("frame",)
    assert found["frame"].values.tolist() == [0, 1, 2]
    numbered = xr.DataArray(frames, dims=("time", "y", "x"), coords={"frame": ("time", [5, 6, 9])})
    assert braggflow.find_peaks(numbered, **LEVELS)["frame"].values.tolist() == [5, 6, 9]


@pytest.mark.parametrize("name", ["score", "flags", "intensity", "peak_count", "y", "x"])
def test_coordinates_of_frames_with_names_of_the_table_are_refused_everywhere(frames, tmp_path, name):
    data = xr.Dataset({"frames": (AXES, frames)}).assign_coords({"frame": np.arange(3)})
    data = data.assign_coords({name: ("frame", [1.0, 2.0, 3.0])})
    data.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    for ask in (lambda: braggflow.find_peaks(data, **LEVELS), lambda: open_frames(tmp_path / "a.zarr")):
        with pytest.raises(InputError, match=f"coordinate '{name}' is a name of the peak table"):
            ask()


def test_zarr_arrays_that_are_no_store_are_refused_with_what_they_are(frames, tmp_path):
    zarr.save(tmp_path / "root.zarr", frames)
    with pytest.raises(InputError, match=r"root\.zarr: is a Zarr array of shape \(3, 48, 64\).*dimensions frame, y, x"):
        open_frames(tmp_path / "root.zarr")
    zarr.open_group(tmp_path / "bare.zarr", mode="w").create_array("frames", data=frames)
    with pytest.raises(InputError, match=r"its arrays: frames \(3, 48, 64\).*dimensions frame, y, x"):
        open_frames(tmp_path / "bare.zarr")
    with pytest.raises(InputError, match="whole numbers"):
        frames_from_array(xr.DataArray(frames, dims=AXES, coords={"frame": [0.5, 1, 2]}))


@pytest.mark.parametrize("name", ["marks", "mask_pixels", "notes", "saturation", "masked_below", "underload"])
@pytest.mark.parametrize("value", ["text", 3, [1, "two"], {"a": 1}, None, True])
def test_attributes_of_others_with_names_of_ours_do_no_harm(frames, name, value):
    marked = frames.astype("i4")
    marked[:, :5] = -1
    data = xr.Dataset({"frames": (AXES, marked)}, attrs={name: value, "sources": 3, "geometry": "none"})
    found = braggflow.find_peaks(data, **LEVELS)
    if name not in ("saturation", "masked_below", "underload") or not isinstance(value, int):
        expected = braggflow.find_peaks(marked, **LEVELS)
        np.testing.assert_array_equal(found["flags"], expected["flags"])


@pytest.mark.parametrize("value", ["text", 3, [1, 2], [[0, "two", "x"]], [[0, 1]]])
def test_missing_frames_that_are_none_are_refused(frames, value):
    data = xr.Dataset({"frames": (AXES, frames)}, attrs={"missing_frames": value})
    with pytest.raises(InputError, match="missing_frames"):
        braggflow.find_peaks(data, **LEVELS)
