"""What is known of a series before it is read, and what a user should be told of it."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import xarray as xr
import zarr

from braggflow.convert import SeriesFacts, ingest, inspect_series
from braggflow.errors import InputError
from braggflow.frames import open_frames
from tests.formats.writers import eiger, with_omega
from tests.stores import make_store, spots

SHAPE = (64, 80)


def frames(n: int = 3, dtype: Any = "u2") -> np.ndarray:
    return np.stack([spots(SHAPE, 3, seed=seed) for seed in range(n)]).astype(dtype)


def facts_of(data: np.ndarray, folder: Path) -> SeriesFacts:
    np.save(folder / "a.npy", data)
    (facts,) = inspect_series([folder / "a.npy"])
    return facts


def test_it_says_what_the_opened_series_says_and_what_its_ends_hold(tmp_path: Path) -> None:
    data = frames(5, "i4")
    data[:, 10:12] = -1
    path = with_omega(tmp_path, data)
    (facts,) = inspect_series([path], coords={"omega": "/entry/data/omega"})
    opened = open_frames(ingest([path], tmp_path / "a.zarr", coords={"omega": "/entry/data/omega"}, workers=1))
    assert (facts.frames, facts.shape, facts.dtype) == (5, SHAPE, "int32")
    assert facts.masked == int(opened["mask"].sum()) == 160
    for name in ("mask_pixels", "marks", "masked_below"):
        assert getattr(facts, name) == opened.attrs[name]
    assert facts.coordinates == {"omega": {"first": 0.0, "last": 2.0, "units": "degree"}}
    counted = data[:, [y for y in range(64) if y not in (10, 11)]]
    for end, frame in ((facts.first, 0), (facts.last, 4)):
        assert end is not None
        assert end.frame == frame
        assert end.mean == pytest.approx(counted[frame].mean())
        assert end.maximum == counted[frame].max()
    assert facts.sources[0]["name"] == "a.h5:/entry/data/data"


def test_the_facts_are_json_as_they_stand(tmp_path: Path) -> None:
    data = frames(2, "f4")
    data[0] = np.nan
    facts = facts_of(data, tmp_path)
    text = json.dumps(asdict(facts), allow_nan=False)
    assert json.loads(text)["first"] == {"frame": 0, "mean": None, "maximum": None, "unreadable": ""}
    assert math.isclose(json.loads(text)["last"]["mean"], data[1].mean(), rel_tol=1e-5)


def test_a_conversion_begins_with_the_same_facts(tmp_path: Path) -> None:
    data = frames(4, "i2")
    data[:, 3, 3:9] = -2
    path = with_omega(tmp_path, data)
    said: list[SeriesFacts] = []
    store = tmp_path / "out.zarr"
    ingest([path], store, coords={"omega": "/entry/data/omega"}, workers=1, opened=said.append)
    assert said == inspect_series([path], coords={"omega": "/entry/data/omega"})


FILTERS = {
    "gzip-4, shuffle": ({"compression": "gzip", "shuffle": True}, ("shuffle", "gzip-4")),
    "lzf": ({"compression": "lzf"}, ("lzf",)),
    "bitshuffle lz4": (hdf5plugin.Bitshuffle(cname="lz4"), ("bitshuffle lz4",)),
    "bitshuffle zstd": (hdf5plugin.Bitshuffle(cname="zstd"), ("bitshuffle zstd",)),
    "lz4": (hdf5plugin.LZ4(), ("lz4",)),
    "none": ({}, ()),
}


@pytest.mark.parametrize("case", FILTERS)
def test_chunks_and_filters_of_hdf5_are_named(case: str, tmp_path: Path) -> None:
    options, names = FILTERS[case]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=frames(4), chunks=(2, *SHAPE), **options)
    (facts,) = inspect_series([tmp_path / "a.h5"])
    assert (facts.kind, facts.chunks, facts.filters) == ("hdf5", (2, *SHAPE), names)


def test_a_series_whose_first_file_is_gone_is_told_from_the_next(tmp_path: Path) -> None:
    eiger(tmp_path, frames(5)[:, :20, :30])
    (tmp_path / "s_data_000001.h5").unlink()
    (facts,) = inspect_series([tmp_path / "s_master.h5"])
    assert (facts.frames, [(first, stop) for first, stop, _ in facts.missing_frames]) == (5, [(0, 2)])
    assert facts.first is not None
    assert facts.first.frame == 2


def test_a_series_whose_first_link_is_missing_is_told_without_chunks(tmp_path: Path) -> None:
    eiger(tmp_path, frames(5)[:, :20, :30])
    with h5py.File(tmp_path / "s_master.h5", "a") as master:
        del master["entry/data/data_000001"]
    (facts,) = inspect_series([tmp_path / "s_master.h5"])
    assert (facts.chunks, facts.missing_frames[0][0]) == (None, 0)


def test_a_panel_of_a_data_set_has_its_chunks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "d/panels", data=np.stack([frames(3)] * 2, axis=1), chunks=(1, 1, *SHAPE), compression="lzf"
        )
    (facts,) = inspect_series([f"{tmp_path / 'a.h5'}:/d/panels/panel_1"])
    assert (facts.frames, facts.shape, facts.chunks, facts.filters) == (3, SHAPE, (1, 1, *SHAPE), ("lzf",))


@pytest.mark.parametrize("version", [2, 3])
def test_of_a_store_of_others_chunks_that_are_not_there_are_told(version: int, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=version)
    names = {"dimension_names": ("frame", "y", "x")} if version == 3 else {}
    array = group.create_array("frames", shape=(6, *SHAPE), dtype="u2", chunks=(2, *SHAPE), **names)
    if version == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = ["frame", "y", "x"]
    array[:2] = frames(2)
    (facts,) = inspect_series([tmp_path / "v.zarr"])
    assert (facts.kind, facts.chunks) == ("Zarr store", (2, *SHAPE))
    assert facts.missing_frames == []
    assert any(said.startswith("2 of 3 chunks of frames are not stored: they are read as 0") for said in facts.warnings)


def test_of_a_frames_store_of_ours_frames_whose_file_is_gone_are_missing(tmp_path: Path) -> None:
    path = ingest([Path(np.save(tmp_path / "a.npy", frames(6)) or tmp_path / "a.npy")], tmp_path / "a.zarr", workers=1)
    for index in (2, 3):
        (path / "frames" / "c" / str(index) / "0" / "0").unlink()
        (path / "frames" / "c" / str(index) / "0").rmdir()
        (path / "frames" / "c" / str(index)).rmdir()
    (facts,) = inspect_series([path])
    assert [(first, stop) for first, stop, _ in facts.missing_frames] == [(2, 3), (3, 4)]
    assert facts.kind == "frames store"
    assert "2 of 6 frames are missing: 2 (chunk frames/c/2/0/0 is missing)" in facts.warnings[0]


ODD = {
    "negative counts": (lambda a: a.astype("i4") - 1000 * (np.arange(80) < 4), "5 % of the pixels looked at"),
    "noise": (lambda a: (a - 4 + np.random.default_rng(0).normal(size=a.shape)).astype("f4"), "taken for counts"),
    "NaN": (lambda a: np.where(np.arange(80) < 8, np.nan, a + 0.5).astype("f4"), "10 % of the pixels of frame 0 are"),
    "no saturation": (lambda a: a.astype("f4") + 0.5, "No saturation is stated or seen"),
    "pile-up": (lambda a: np.minimum(a, 255), "No saturation is stated; 255 is used, as counts pile up there"),
    "empty first": (lambda a: a * (np.arange(3) > 0).astype("u2")[:, None, None], "Frame 0 is empty: all its"),
    "empty last": (lambda a: a * (np.arange(3) < 2).astype("u2")[:, None, None], "Frame 2 is empty"),
    "whole floats": (lambda a: a.astype("f4"), "Frame 0 holds whole numbers only, stored as float32"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_is_said_in_a_sentence(case: str, tmp_path: Path) -> None:
    change, sentence = ODD[case]
    assert any(sentence in said for said in facts_of(change(frames()), tmp_path).warnings)


def test_nothing_is_said_of_a_plain_series(tmp_path: Path) -> None:
    assert facts_of(frames(), tmp_path).warnings == []


def test_counts_above_the_stated_saturation_and_large_masks_are_told(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[:, :60] = True
    data = frames(2)
    make_store(
        tmp_path / "a.zarr", data, chunk=1, mask=mask, attributes={"saturation": 50, "saturation_source": "guess"}
    )
    (facts,) = inspect_series([tmp_path / "a.zarr"])
    n = int((data[0, :, 60:] > 50).sum())
    assert any(f"{n} pixels of frame 0 are above the saturation of 50 (guess)" in said for said in facts.warnings)
    assert "The mask covers 75 % of the frame." in facts.warnings


def test_a_header_value_that_cannot_be_true_is_told(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", frames(2), chunk=1, attributes={"saturation": 0})
    (facts,) = inspect_series([tmp_path / "a.zarr"])
    assert any(said.startswith("Saturation: 0 is stated, must be above 0") for said in facts.warnings)


def test_files_are_one_series_and_stores_one_each(tmp_path: Path) -> None:
    for name in ("b", "a"):
        np.save(tmp_path / f"{name}.npy", frames(2))
        make_store(tmp_path / f"{name}.zarr", frames(3), chunk=1)
    found = inspect_series([tmp_path / "*.npy", tmp_path / "b.zarr", tmp_path / "a.zarr"])
    assert [facts.frames for facts in found] == [4, 3, 3]
    assert [source["name"] for source in found[0].sources] == ["a.npy", "b.npy"]
    (tmp_path / "only").mkdir()
    make_store(tmp_path / "only" / "x.zarr", frames(2), chunk=1)
    assert [Path(facts.name).name for facts in inspect_series([tmp_path / "only"])] == ["x.zarr"]


def test_what_ingest_refuses_is_refused_with_its_message(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", frames(2))
    np.save(tmp_path / "b.npy", frames(2, "f4"))
    (tmp_path / "c.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    for sources in ([tmp_path / "a.npy", tmp_path / "b.npy"], [tmp_path / "c.h5"], [tmp_path / "gone.h5"], []):
        with pytest.raises(InputError) as of_ingest:
            ingest(sources, tmp_path / "x.zarr", workers=1)
        with pytest.raises(InputError) as of_inspect:
            inspect_series(sources)
        assert str(of_inspect.value) == str(of_ingest.value)
    with pytest.raises(InputError, match="--coord"):
        inspect_series([xr.Dataset().to_zarr(tmp_path / "e.zarr") and tmp_path / "e.zarr"], coords={"a": "/b"})
