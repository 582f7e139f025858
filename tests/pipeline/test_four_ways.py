"""The same frames give the same table by all four ways in: a file, a store made of it, a store of others, an array."""

import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import braggflow
from tests.stores import spots

TYPES = ["u1", "u2", "u4", "u8", "i2", "i4", "i8", "f4", "f8", ">u2", ">i4", ">f4"]
AXES = ("frame", "y", "x")
CONFIG = {"detect": {"minval": 25, "minscore": 10}, "locate": {"network": "none"}}


@st.composite
def series(draw):
    """Frames (frame, y, x) as detectors write them, with what is stated of them."""
    n = draw(st.sampled_from([1, 2, 3, 17, 19]))
    shape = draw(st.integers(20, 40)), draw(st.integers(20, 40))
    seed = draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    background = draw(st.sampled_from([0.05, 4.0, 30.0]))
    frames = np.stack([spots(shape, 2, seed=seed + k, background=background) for k in range(n)]).astype(np.int64)
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    if draw(st.booleans()):
        frames = np.minimum(frames, draw(st.sampled_from([127, 200, 255])))
    if dtype.kind != "u" and draw(st.booleans()):
        frames = frames - draw(st.sampled_from([1, 4, 100]))
    frames = np.clip(frames, *(((lambda i: (i.min, i.max))(np.iinfo(dtype))) if dtype.kind in "iu" else (-1e9, 1e9)))
    frames = frames.astype(dtype)
    marks = {"u": [np.iinfo("u1").max], "i": [-1, -2], "f": [-1, np.nan, 2**32 - 1]}[dtype.kind]
    if dtype.kind in "iu":
        marks += [np.iinfo(dtype).max] + ([np.iinfo(dtype).min] if dtype.kind == "i" else [])
    for _ in range(draw(st.integers(0, 2))):
        y, x = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
        of = slice(None) if draw(st.booleans()) else rng.integers(0, n)
        where = draw(st.sampled_from([np.s_[y], np.s_[:, x], np.s_[y, x], np.s_[y : y + 4, x : x + 4]]))
        view = frames[of]
        view[(..., *where) if isinstance(where, tuple) and len(where) == 2 else (..., where, slice(None))] = draw(
            st.sampled_from(marks)
        )
    mask = rng.random(shape) < 0.02 if draw(st.booleans()) else None
    saturation = draw(st.sampled_from([None, None, 150, 0, -1]))
    omega = rng.random(n) if draw(st.booleans()) else None
    return frames, mask, saturation, omega, draw(st.permutations(AXES))


def check(given_series, folder):
    frames, mask, saturation, omega, axes = given_series
    with h5py.File(folder / "scan.nxs", "w") as file:
        file["entry/data/data"] = frames
        detector = file.create_group("entry/detector")
        detector.attrs["NX_class"] = "NXdetector"
        if mask is not None:
            detector["pixel_mask"] = mask.astype("u4") * 2
        if saturation is not None:
            detector["saturation_value"] = saturation
        if omega is not None:
            file["entry/omega"] = omega
    order = [AXES.index(axis) for axis in axes]
    data = xr.Dataset({"frames": (axes, frames.transpose(order))})
    if mask is not None:
        of_mask = [axis for axis in axes if axis != "frame"]
        data["mask"] = (of_mask, mask if of_mask == ["y", "x"] else mask.T)
    if saturation is not None:
        data.attrs["saturation"] = saturation
    if omega is not None:
        data = data.assign_coords(omega=("frame", omega))
    data.to_zarr(folder / "theirs.zarr", zarr_format=3, consolidated=False)
    asked = {} if omega is None else {"omega": "/entry/omega"}
    made = braggflow.ingest([folder / "scan.nxs"], folder / "made.zarr", coords=asked, workers=1)
    ways = {
        "file": braggflow.open_frames(folder / "scan.nxs"),
        "store": braggflow.open_frames(made),
        "store of others": braggflow.open_frames(folder / "theirs.zarr"),
        "Dataset": data,
    }
    if mask is None and saturation is None:
        ways["DataArray"] = data["frames"] if omega is None else data["frames"].assign_coords(omega=("frame", omega))
        ways["array"] = frames
    tables = {}
    for way, source in ways.items():
        try:
            table = braggflow.find_peaks(source, config=CONFIG)
            if "omega" in table:
                np.testing.assert_array_equal(table["omega"], omega)
            tables[way] = table.drop_vars("omega", errors="ignore")
        except braggflow.InputError as error:
            tables[way] = str(error)
    first = tables.pop("file")
    for way, table in tables.items():
        if isinstance(first, str):
            assert table == first, way
        else:
            assert isinstance(table, xr.Dataset), (way, table)
            xr.testing.assert_identical(table, first)


def run_examples(n):
    @settings(max_examples=n, suppress_health_check=list(HealthCheck))
    @given(series())
    def examples(one):
        with tempfile.TemporaryDirectory() as folder:
            check(one, Path(folder))

    examples()


def test_the_same_frames_give_the_same_table_by_all_four_ways():
    run_examples(15)


@pytest.mark.slow
def test_the_same_frames_give_the_same_table_by_all_four_ways_in_many_examples():
    run_examples(500)
