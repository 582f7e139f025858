"""Series of others, and such as ended early: what is there is processed, what is not is said."""

import h5py
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import braggflow
from braggflow.cli import app
from braggflow.cluster.connect import local_cluster
from braggflow.config import ComputeConfig, resolve_config
from braggflow.errors import InputError
from braggflow.flow import run
from braggflow.frames import open_series
from braggflow.pipeline import search_chunk, stages
from braggflow.results import RunFolder, open_peaks, read_run_info
from tests.stores import spots

pytestmark = pytest.mark.faults

SETTINGS = {
    "detect": {"minval": 40, "minscore": 20},
    "locate": {"network": "none", "position": "fit"},
    "compute": {"workers": 1, "task_seconds": 0.01},
}


@pytest.fixture(scope="module")
def client():
    with local_cluster(ComputeConfig(workers=1)) as client:
        yield client


@pytest.fixture(scope="module")
def images():
    return np.stack([spots((64, 72), 5, seed=seed) for seed in range(10)])


def store_of_others(path, images, **attrs):
    data = xr.Dataset({"frames": (("frame", "y", "x"), images)}, attrs=attrs)
    data.to_zarr(path, zarr_format=3, consolidated=False)
    return path


def test_a_store_without_frame_numbers_has_its_report_and_its_movie(tmp_path, images, client):
    store = store_of_others(tmp_path / "bare.zarr", images)
    (outcome,) = run(SETTINGS, [store], out=tmp_path / "runs", client=client)
    assert outcome.status == "complete"
    assert RunFolder(outcome.folder).report.stat().st_size > 10_000
    result = CliRunner().invoke(app, ["movie", str(outcome.folder)])
    assert result.exit_code == 0, result.output
    assert list(outcome.folder.glob("*.gif")) or list(outcome.folder.glob("*.mp4"))


def test_frames_never_written_are_failed_with_their_reason_and_the_others_are_processed(tmp_path, images, client):
    reason = "scan_data_000002.h5 is missing"
    store = store_of_others(tmp_path / "early.zarr", images, missing_frames=[[6, 10, reason]])
    (outcome,) = run(SETTINGS, [store], out=tmp_path / "runs", client=client)
    assert (outcome.status, outcome.frames_failed) == ("partial", 4)
    failures = read_run_info(RunFolder(outcome.folder))["failures"]
    assert [(failure["frame"], failure["reason"]) for failure in failures] == [(at, reason) for at in range(6, 10)]
    whole = braggflow.find_peaks(images, config=SETTINGS)
    np.testing.assert_array_equal(open_peaks(outcome.folder)["y"], whole.sel(peak_frame=slice(0, 5))["y"])
    in_memory = braggflow.find_peaks(braggflow.open_frames(store), config=SETTINGS)
    np.testing.assert_array_equal(in_memory["y"], open_peaks(outcome.folder)["y"])
    assert in_memory["frame_failed"].values.tolist() == [0] * 6 + [1] * 4
    complete = SETTINGS | {"frames": {"require_complete": True}}
    with pytest.raises(InputError, match=r"require_complete: 4 of 10 frames were never written.*000002\.h5"):
        run(complete, [store], out=tmp_path / "other", client=client)
    assert not (tmp_path / "other").exists()


def test_an_eiger_series_whose_last_file_is_missing_gives_what_its_store_gives(tmp_path, images, client):
    with h5py.File(tmp_path / "s_master.h5", "w") as master:
        for number, part in enumerate((images[:4], images[4:8], images[8:]), 1):
            name = f"s_data_{number:06d}.h5"
            with h5py.File(tmp_path / name, "w") as file:
                file["entry/data/data"] = part
            master[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(name, "entry/data/data")
        master["entry/instrument/detector/detectorSpecific/nimages"] = 10
        master["entry/instrument/detector/detectorSpecific/ntrigger"] = 1
    (tmp_path / "s_data_000003.h5").unlink()
    (direct,) = run(SETTINGS, [tmp_path / "s_master.h5"], out=tmp_path / "runs", client=client)
    store = braggflow.ingest([tmp_path / "s_master.h5"], tmp_path / "made.zarr", workers=1)
    (of_store,) = run(SETTINGS, [store], out=tmp_path / "runs", client=client)
    for outcome in (direct, of_store):
        assert (outcome.status, outcome.frames, outcome.frames_failed) == ("partial", 10, 2)
        failures = read_run_info(RunFolder(outcome.folder))["failures"]
        assert [failure["frame"] for failure in failures] == [8, 9]
        assert all("s_data_000003.h5" in failure["reason"] for failure in failures)
    xr.testing.assert_equal(open_peaks(direct.folder).load(), open_peaks(of_store.folder).load())


def test_a_scan_that_was_aborted_is_read_up_to_there(tmp_path, images, client):
    with h5py.File(tmp_path / "aborted.h5", "w") as file:
        frames = file.create_dataset("d", images.shape, images.dtype, chunks=(2, 32, 36))
        frames[:4] = images[:4]
    (outcome,) = run(SETTINGS, [tmp_path / "aborted.h5"], out=tmp_path / "runs", client=client)
    assert (outcome.status, outcome.frames_failed) == ("partial", 6)
    whole = braggflow.find_peaks(images[:4], config=SETTINGS)
    np.testing.assert_array_equal(open_peaks(outcome.folder)["y"], whole["y"])


def test_kernels_are_compiled_on_a_frame_that_is_there(tmp_path, images):
    store = store_of_others(tmp_path / "late.zarr", images, missing_frames=[[0, 3, "gone"]])
    opened = open_series(braggflow.open_frames(store), resolve_config(SETTINGS))
    with pytest.MonkeyPatch.context() as patch:
        looked = []
        patch.setattr(stages, "search_chunk", lambda *words: looked.append(words[1:]) or search_chunk(*words))
        stages.compile_kernels(opened)
    assert looked == [(3, 4)]
