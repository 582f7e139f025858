"""Inputs in the shape of public reports on other programs, each with its right value.

More of each kind in the tests of the wings; stores without frame numbers (f7) in tests/flow/test_incomplete.py,
terminals that lack characters (f21) in tests/cli/test_streams.py.
"""

from pathlib import Path

import fabio
import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

import braggflow
from braggflow.errors import InputError
from braggflow.formats import inspect_source, read_frames
from braggflow.formats.metadata import facts_from_text
from braggflow.peak_table import Flag

LEVELS = {"minval": 20, "minscore": 10}


def spots(shape=(64, 128), at=((30.3, 58.6, 200, 1.5),), bg=2.0, seed=0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    mean = np.full(shape, float(bg))
    for cy, cx, height, s in at:
        mean += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s * s))
    return np.random.default_rng(seed).poisson(mean)


FRAME = spots().astype("u2")
THREE = np.stack([FRAME] * 3)
SQUARE = spots((64, 64), ((20, 40, 200, 1.5),)).astype("u2")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def chosen(path, inside=""):
    return [(stack.inside, stack.frames, stack.shape) for stack in inspect_source(str(Path(path).resolve()), inside)]


def refusal(path):
    with pytest.raises(InputError) as error:
        chosen(path)
    assert "damaged" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("link", ["external", "soft"])
def test_f1_a_file_of_an_eiger_series_that_is_linked_twice_is_read_once_and_in_order(link):
    for k in (1, 2):
        with h5py.File(f"s_data_{k:06d}.h5", "w") as file:
            file["entry/data/data"] = np.stack([FRAME, FRAME])
    with h5py.File("s_master.h5", "w") as file:
        group = file.create_group("entry/data")
        group["data"] = (
            h5py.ExternalLink("s_data_000001.h5", "/entry/data/data")
            if link == "external"
            else h5py.SoftLink("/entry/data/data_000001")
        )
        for k in (1, 2):
            group[f"data_{k:06d}"] = h5py.ExternalLink(f"s_data_{k:06d}.h5", "/entry/data/data")
    stacks = inspect_source(str(Path("s_master.h5").resolve()))
    assert [(Path(stack.path).name, stack.frames) for stack in stacks] == [(f"s_data_{k:06d}.h5", 2) for k in (1, 2)]


def test_f2_marks_of_a_signed_array_are_no_counts():
    errors = []
    for k in range(20):
        x = 58 + k / 20
        frame = spots(at=((30.3, x, 200, 1.5),), seed=k).astype("i4")
        frame[:, 60:67] = -1
        table = braggflow.find_peaks(frame, **LEVELS)
        with_nan = braggflow.find_peaks(np.where(frame < 0, np.nan, frame), **LEVELS)
        assert table["x"].values.tolist() == pytest.approx(with_nan["x"].values.tolist(), abs=1e-3)
        assert (table["flags"] & int(Flag.masked)).all()
        errors.append(float(table["x"][0]) - x)
    assert abs(np.mean(errors)) < 0.1


def test_f3_an_array_that_is_no_image_is_never_taken():
    with h5py.File("gone.h5", "w") as file:
        file["entry/data/data"] = h5py.ExternalLink("nowhere.h5", "/entry/data/data")
        file["entry/sums"] = np.zeros((5, 5))
    assert "nowhere.h5" in refusal("gone.h5")
    with h5py.File("ub.h5", "w") as file:
        file["entry/sample/orientation_matrix"] = np.eye(3)[None]
    assert "orientation_matrix (1, 3, 3)" in refusal("ub.h5")
    np.savez("cache.npz", shape=np.array([64, 64]), omega=np.zeros((1440, 2)), data_0=np.zeros(3))
    assert "omega (1440, 2)" in refusal("cache.npz")
    with h5py.File("s_master.h5", "w") as file:
        file.create_group("entry/data")
        file["entry/instrument/detector/detectorSpecific/pixel_mask"] = np.zeros((64, 128), "u4")
    assert "pixel_mask (64, 128)" in refusal("s_master.h5")


@pytest.mark.parametrize("mean", [0.02, 0.05, 0.1])
def test_f4_levels_in_sigma_hold_for_few_counts(mean):
    table = braggflow.find_peaks(spots((512, 512), ((200, 300, 60, 1.2),), mean))
    assert np.hypot(table["y"] - 200, table["x"] - 300).min() < 0.5
    assert table.sizes["peak"] <= 4
    assert braggflow.find_peaks(np.zeros((512, 512), "u2")).sizes["peak"] == 0


def test_f5_axes_are_taken_by_name():
    last = xr.DataArray(THREE.transpose(1, 2, 0), dims=("y", "x", "frame"))
    assert braggflow.find_peaks(last, **LEVELS).sizes["frame"] == 3
    across = braggflow.find_peaks(xr.DataArray(THREE.transpose(0, 2, 1), dims=("frame", "x", "y")), **LEVELS)
    assert np.abs(across["y"] - 30.3).max() < 0.2
    assert np.abs(across["x"] - 58.6).max() < 0.2
    mask = np.zeros((64, 64), bool)
    mask[15:26, 35:46] = True
    data = {"frames": (("frame", "y", "x"), SQUARE[None]), "mask": (("x", "y"), mask.T)}
    assert braggflow.find_peaks(xr.Dataset(data, coords={"frame": [0]}), **LEVELS).sizes["peak"] == 0


def test_f6_zeros_of_a_store_of_version_2_are_counts():
    array = zarr.open_group("v2.zarr", mode="w", zarr_format=2).create_array(
        "frames", shape=THREE.shape, dtype="u2", chunks=(1, 64, 128)
    )
    array[:] = THREE
    array.attrs["_ARRAY_DIMENSIONS"] = ["frame", "y", "x"]
    frames = braggflow.open_frames("v2.zarr")["frames"]
    assert frames.dtype == np.uint16
    np.testing.assert_array_equal(frames, THREE)


def test_f8_the_peaks_of_a_frame_are_selected_where_they_are_one_or_none():
    table = braggflow.find_peaks(np.stack([spots(), spots(at=())]), **LEVELS)
    assert table.sel(peak_frame=0)["y"].shape == (1,)
    assert table.sel(peak_frame=1)["y"].shape == (0,)
    assert table.sel(peak_frame=slice(0, 0))["y"].shape == (1,)


def test_f9_any_exception_of_a_reader_becomes_a_message():
    fabio.cbfimage.CbfImage(data=np.zeros((32, 32), "i4")).write("p.cbf")
    content = Path("p.cbf").read_bytes().replace(b"x-CBF_BYTE_OFFSET", b"x-CBF_PACKED_V2")
    Path("p.cbf").write_bytes(content)
    message = refusal("p.cbf")
    assert "p.cbf" in message
    assert "PACKED" in message


def nexus(name, **detector):
    with h5py.File(name, "w") as file:
        group = file.create_group("entry/det")
        group.attrs["NX_class"] = "NXdetector"
        group["data"] = SQUARE[None]
        for key, value in detector.items():
            group[key] = value


def test_f10_what_a_header_states_is_used_if_it_can_be_true_or_said():
    nexus("a.nxs", pixel_mask=np.ones((1, 64, 64), "u4"))
    (stack,) = inspect_source(str(Path("a.nxs").resolve()), "/entry/det/data")
    assert stack.facts.pixel_mask is not None
    with pytest.raises(InputError, match="leaves no pixel"):
        braggflow.find_peaks(braggflow.open_frames("a.nxs"), **LEVELS)
    nexus("b.nxs", pixel_mask=np.zeros((64, 64), "u4"), saturation_value=0)
    (stack,) = inspect_source(str(Path("b.nxs").resolve()), "/entry/det/data")
    assert stack.facts.saturation is None
    assert "saturation_value" in stack.facts.notes[0]
    nexus("c.nxs", pixel_mask=np.zeros((64, 60), "u4"))
    message = refusal("c.nxs")
    assert "(64, 60)" in message
    assert "c.nxs" in message


def test_f11_frames_that_were_never_written_are_missing():
    with h5py.File("aborted.h5", "w") as file:
        file.create_dataset("d", (10, 64, 128), "u2", chunks=(1, 64, 128))[:2] = FRAME
    (stack,) = inspect_source(str(Path("aborted.h5").resolve()))
    assert [(first, stop) for first, stop, _ in stack.missing] == [(2, 10)]


def test_f12_frames_of_one_file_that_differ_in_type_are_refused():
    image = fabio.edfimage.EdfImage(data=FRAME)
    image.append_frame(data=FRAME.astype("f4") - 3.4)
    image.write("mix.edf")
    assert "frame 1" in refusal("mix.edf")


def test_f13_a_beam_centre_in_pixels_is_not_taken_for_mm():
    header = {"OSC_START": "0", "PIXEL_SIZE": "0.055", "BEAM_CENTER_X": "246", "BEAM_CENTER_Y": "240"}
    facts = facts_from_text(header, 1, (512, 512))
    assert "beam_centre_px" not in facts.geometry
    assert "BEAM_CENTER_X" in facts.notes[0]


def test_f14_pages_that_were_written_one_by_one_are_one_series():
    for _ in range(3):
        tifffile.imwrite("app.tif", FRAME, append=True)
    assert chosen("app.tif") == [("", 3, (64, 128))]
    (stack,) = inspect_source(str(Path("app.tif").resolve()))
    np.testing.assert_array_equal(read_frames(stack, 0, 3), THREE)


def test_f15_the_default_is_followed_through_a_soft_link():
    with h5py.File("soft.h5", "w") as file:
        file.attrs["default"] = "e"
        entry = file.create_group("e")
        entry.attrs["default"] = "plot"
        for name in ("eiger", "other"):
            entry[f"instrument/{name}/data"] = THREE
        plot = entry.create_group("plot")
        plot.attrs["NX_class"] = "NXdata"
        plot.attrs["signal"] = "eiger"
        plot["eiger"] = h5py.SoftLink("/e/instrument/eiger/data")
    assert chosen("soft.h5") == [("/e/instrument/eiger/data", 3, (64, 128))]


def test_f16_a_grid_of_scan_points_is_numbered_along_the_scan():
    with h5py.File("g4.h5", "w") as file:
        file["d"] = np.stack([THREE, THREE + 1])
    data = braggflow.open_frames("g4.h5")
    assert data["frames"].shape == (6, 64, 128)
    assert data["scan_y"].values.tolist() == [0, 0, 0, 1, 1, 1]
    assert data["scan_x"].values.tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(data["frames"][4], FRAME + 1)


def test_f17_a_signal_that_leads_nowhere_is_named():
    with h5py.File("sig.h5", "w") as file:
        plot = file.create_group("entry/data")
        plot.attrs["NX_class"] = "NXdata"
        plot.attrs["signal"] = "data"
        plot["data"] = h5py.ExternalLink("nowhere.h5", "/d")
    message = refusal("sig.h5")
    assert "/entry/data/data" in message
    assert "nowhere.h5" in message


def test_f18_names_of_coordinates():
    taken = xr.DataArray(THREE, dims=("frame", "y", "x"), coords={"score": ("frame", [1.0, 2.0, 3.0])})
    with pytest.raises(InputError, match="'score'"):
        braggflow.find_peaks(taken, **LEVELS)
    with h5py.File("s.h5", "w") as file:
        file["d"] = THREE
        file["ok"] = [1.0, 2.0, 3.0]
    for name in ("a b", "a/b"):
        with pytest.raises(InputError, match="is no name of a coordinate"):
            braggflow.ingest(["s.h5"], "s.zarr", coords={name: "/ok"}, workers=1)


def test_f19_zarr_arrays_and_float_coordinates():
    zarr.save("root.zarr", THREE)
    with pytest.raises(InputError, match="is a Zarr array of shape"):
        braggflow.open_frames("root.zarr")
    timed = xr.DataArray(THREE, dims=("time", "y", "x"), coords={"time": [0.5, 1.0, 1.5]})
    assert braggflow.find_peaks(timed, **LEVELS)["time"].values.tolist() == [0.5, 1.0, 1.5]


def test_f20_compressed_tiff_is_read():
    for compression in ("lzw", "zstd", "packbits"):
        tifffile.imwrite(f"{compression}.tif", THREE, compression=compression, photometric="minisblack")
        (stack,) = inspect_source(str(Path(f"{compression}.tif").resolve()))
        np.testing.assert_array_equal(read_frames(stack, 0, 3), THREE)
