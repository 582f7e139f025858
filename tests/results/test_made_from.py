"""A run, and its table alone, say what they were made of."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256

import h5py
import numpy as np
import pytest
import xarray as xr

import braggflow
from braggflow.errors import InputError
from braggflow.frames import sealed
from braggflow.results import RunFolder, made_from, read_run_info
from braggflow.version import code_version
from tests.stores import make_store, spots

SETTINGS = {"detect": {"minval": 30}, "locate": {"network": "none"}, "output": {"report": False}}


@pytest.fixture(scope="module")
def images():
    return np.stack([spots((64, 72), 4, seed=seed) for seed in range(3)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory, images):
    """Run folders, by name: of a store that was ingested, with a mask of the user's; and of the HDF5 file itself."""
    folder = tmp_path_factory.mktemp("made")
    with h5py.File(folder / "scan.h5", "w") as file:
        file["entry/data"] = images
    braggflow.ingest([folder / "scan.h5"], folder / "stored.zarr", workers=1)
    np.save(folder / "mask.npy", np.eye(64, 72, dtype=np.uint8))
    masked = SETTINGS | {"frames": {"mask": str(folder / "mask.npy")}, "check": {"fraction": 0}}
    stored = braggflow.run(masked, [folder / "stored.zarr"], out=folder / "runs")
    direct = braggflow.run(SETTINGS | {"check": {"fraction": 0}}, [folder / "scan.h5"], out=folder / "runs")
    return {"stored": stored[0].folder, "direct": direct[0].folder}


def test_a_run_names_settings_code_and_each_input_with_size_time_and_checksum(runs, images):
    made = braggflow.provenance(runs["stored"])
    folder = runs["stored"].parent.parent
    info = read_run_info(RunFolder(runs["stored"]))
    assert (made.data_set, made.run, made.status, made.model) == ("stored", info["run"], "complete", None)
    assert made.code == code_version()
    assert made.changed_settings["detect.minval"] == 30
    assert {*made.changed_settings} == {"detect.minval", "locate.network", "frames.mask"}
    store, source, mask = made.inputs
    assert (store.role, store.name) == ("frames", str(folder / "stored.zarr"))
    assert store.checksum == sealed(folder / "stored.zarr") != ""
    assert store.bytes == sum(file.stat().st_size for file in (folder / "stored.zarr").rglob("*") if file.is_file())
    assert store.changed.startswith("20")
    frames = sha256(b"".join(sha256(frame.tobytes()).digest() for frame in images)).hexdigest()
    size = (folder / "scan.h5").stat().st_size
    assert (source.role, source.bytes, source.checksum) == ("source", size, frames)
    assert source.name.startswith(str(folder / "scan.h5"))
    content = (folder / "mask.npy").read_bytes()
    assert (mask.role, mask.name, mask.bytes) == ("frames.mask", str(folder / "mask.npy"), len(content))
    assert mask.checksum == sha256(content).hexdigest()
    printed = repr(made)
    assert printed.startswith("data set     stored\nrun          ")
    assert f"\nframes.mask  {folder / 'mask.npy'}, {len(content):,} bytes, last changed 20" in printed
    assert "\nmodel        none\n" in printed


def test_files_that_are_read_directly_are_inputs_with_size_and_time(runs):
    made = braggflow.provenance(runs["direct"])
    file = runs["direct"].parent.parent / "scan.h5"
    (found,) = made.inputs
    assert (found.role, found.name, found.bytes, found.checksum) == ("frames", str(file), file.stat().st_size, "")
    assert found.changed.startswith("20")


@pytest.mark.parametrize("name", ["stored", "direct"])
def test_the_table_says_the_same_wherever_it_is(runs, name, tmp_path):
    made = braggflow.provenance(runs[name])
    moved = shutil.copytree(runs[name] / "peaks.zarr", tmp_path / "elsewhere.zarr")
    peaks = braggflow.open_peaks(runs[name])
    for found in (braggflow.provenance(moved), braggflow.provenance(peaks), braggflow.provenance(peaks.isel(peak=[0]))):
        assert (found.status, found.written) == ("", "")
        for key in ("data_set", "run", "code", "versions", "model", "settings", "inputs"):
            assert getattr(found, key) == getattr(made, key)


def test_a_table_carries_the_sum_of_many_inputs(runs):
    info = read_run_info(RunFolder(runs["direct"]))
    (source,) = info["identity"]["frames"]["origin"]
    info["identity"]["frames"]["origin"] = [
        source | {"files": [[f"scan_{number}.tif", 10, number]]} for number in range(made_from.MOST_IN_TABLE + 1)
    ]
    (found,) = json.loads(made_from.provenance_attribute(info))["inputs"]
    assert found["name"] == f"{made_from.MOST_IN_TABLE + 1} in {runs['direct'].parent.parent}"
    assert (found["role"], found["bytes"]) == ("frames", 10 * (made_from.MOST_IN_TABLE + 1))


@pytest.mark.parametrize("more", [0, 1, 31])
def test_of_many_inputs_the_first_are_shown_and_the_others_counted(runs, more):
    made = braggflow.provenance(runs["direct"])
    shown = made_from._SHOWN
    many = replace(made, inputs=made.inputs * (shown + more))
    told = [text for role, text in many.lines() if role == "frames"]
    assert told == [str(made.inputs[0])] * shown + [f"and {more} more"] * (more > 0)


def test_what_is_no_table_of_a_run_is_refused(images, runs, tmp_path):
    with pytest.raises(InputError, match="peaks: is no peak table of a run"):
        braggflow.provenance(braggflow.find_peaks(images, config=SETTINGS))
    with pytest.raises(InputError, match="peaks: is no peak table of a run"):
        braggflow.provenance(xr.Dataset())
    with pytest.raises(InputError, match="holds no run"):
        braggflow.provenance(tmp_path)
    with pytest.raises(InputError, match="holds no peak table"):
        braggflow.provenance(tmp_path / "none.zarr")
    with pytest.raises(InputError, match="is not a braggflow peak table"):
        braggflow.provenance(make_store(tmp_path / "frames.zarr", images))
    peaks = braggflow.open_peaks(runs["direct"]).assign_attrs(provenance='{"inputs": 3}')
    with pytest.raises(InputError, match="peaks: does not say how it was made"):
        braggflow.provenance(peaks)
