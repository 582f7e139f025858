"""The whole flow on real local Dask clusters."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster, get_task_stream

import braggflow
from braggflow import peak_table
from braggflow.cluster import Pools
from braggflow.cluster import connect as connect_module
from braggflow.cluster.connect import local_cluster, pools_of
from braggflow.config import ComputeConfig, RunConfig
from braggflow.errors import InputError
from braggflow.flow import run
from braggflow.flow import running as running_module
from braggflow.flow.data_set_queue import first_work
from braggflow.frames import selected_positions
from braggflow.frames import store as store_module
from braggflow.pipeline import plan_groups, regroup
from braggflow.results import (
    RunFolder,
    open_peaks,
    open_run_frames,
    read_run_config,
    read_run_info,
    run_lock,
    write_run_info,
)
from tests.patience import PATIENCE
from tests.stores import assert_same_table, make_store, spots

SETTINGS = {
    "detect": {"minval": 15, "minscore": 10, "background": "none"},
    "locate": {"network": "compact", "position": "network"},
    "output": {"report": False},
    "compute": {"task_seconds": 0.01, "workers": 2, "retries": 0},
}


def settings(**sections):
    merged = {key: dict(value) for key, value in SETTINGS.items()}
    for section, keys in sections.items():
        merged[section] = {**merged.get(section, {}), **keys}
    return merged


@pytest.fixture(scope="module")
def client():
    with local_cluster(ComputeConfig(workers=2)) as client:
        yield client


@pytest.fixture(scope="module")
def images():
    return np.stack([spots((72, 64), 6, seed=seed) for seed in range(24)])


@pytest.fixture(scope="module")
def data(tmp_path_factory, images):
    return make_store(tmp_path_factory.mktemp("data") / "scan.zarr", images, chunk=2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data, client):
    out = tmp_path_factory.mktemp("undisturbed")
    (outcome,) = run(settings(), [data], out=out, client=client)
    assert outcome.status == "complete"
    return open_peaks(outcome.folder).load()


def info_of(outcome):
    return read_run_info(RunFolder(outcome.folder))


def test_a_run_leaves_the_table_the_settings_and_what_happened(tmp_path, data, client, undisturbed, images):
    seen, begun = [], time.monotonic()
    (outcome,) = run(settings(output={"report": True}), [data], out=tmp_path, client=client, progress=seen.append)
    took = time.monotonic() - begun
    folder = RunFolder(tmp_path / "scan")
    assert (outcome.status, outcome.frames, outcome.frames_processed) == ("complete", 24, 24)
    info = read_run_info(folder)
    assert info["counts"]["peaks"] == outcome.peaks == undisturbed.sizes["peak"] > 60
    assert set(info["counts"]["removed"]) == {"false_peaks", "minscore", "min_snr"}
    assert sum(info["counts"]["methods"].values()) == outcome.peaks
    assert 0 < info["seconds"]["processing"] <= info["seconds"]["wall"] <= took
    assert set(info["seconds"]["stages"]) == {"read", "correct", "detect", "patches", "locate", "fit"}
    assert read_run_config(folder).detect.minval == 15
    assert folder.report.exists()
    assert seen[-1].frames_done == seen[-1].frames_total == 24
    assert_same_table(open_peaks(folder.path), undisturbed)


def test_peaks_lie_where_the_frames_are_bright(undisturbed, images):
    strong = undisturbed.isel(peak=undisturbed["snr"].values > 20)
    values = images[strong["peak_frame"], strong["y_pixel"], strong["x_pixel"]]
    np.testing.assert_array_equal(values, strong["birth"])
    interior = strong.isel(peak=(strong["flags"] == 0).values)
    assert np.median(np.hypot(interior["y_fit"] - interior["y_pixel"], interior["x_fit"] - interior["x_pixel"])) < 0.6
    assert np.median(interior["disagreement"]) < 0.1


@pytest.mark.parametrize(
    ("chunk", "workers", "sections"),
    [
        (1, 1, {}),
        (5, 2, {"compute": {"task_seconds": 5}}),
        (24, 1, {"locate": {"batch_size": 7}}),
        (3, 2, {"locate": {"batch_size": 1000}, "compute": {"task_seconds": 0.002}}),
    ],
)
def test_chunks_workers_and_batches_do_not_change_a_bit(tmp_path, images, undisturbed, chunk, workers, sections):
    path = make_store(tmp_path / "scan.zarr", images, chunk=chunk)
    sections = {**sections, "compute": {**sections.get("compute", {}), "workers": workers}}
    (outcome,) = run(settings(**sections), [path], out=tmp_path / "out")
    assert_same_table(open_peaks(outcome.folder), undisturbed)


def test_the_order_of_frames_in_the_store_does_not_change_a_bit(tmp_path, images, client, undisturbed):
    order = np.random.default_rng(3).permutation(len(images))
    path = make_store(tmp_path / "scan.zarr", images[order], numbers=order, chunk=4)
    (outcome,) = run(settings(), [path], out=tmp_path / "out", client=client)
    assert_same_table(open_peaks(outcome.folder), undisturbed)


def test_an_array_in_a_notebook_gives_the_same_table(images, undisturbed):
    array = xr.DataArray(images, dims=("frame", "y", "x"), coords={"time": ("frame", np.arange(24) * 0.5)})
    config = {key: SETTINGS[key] for key in ("detect", "locate")}
    assert_same_table(braggflow.find_peaks(array, config=config), undisturbed)
    assert_same_table(braggflow.find_peaks(array.astype(">u2"), config=config), undisturbed)
    masked = array.to_dataset(name="frames").assign(mask=(("y", "x"), np.arange(72)[:, None] < 30 + np.zeros(64)))
    assert braggflow.find_peaks(masked, config=config)["y_pixel"].min() >= 30
    one = braggflow.find_peaks(images[5], config=config)
    np.testing.assert_array_equal(one["y"], undisturbed.sel(peak_frame=5)["y"])


def test_counts_in_another_unit_give_the_same_peaks_with_the_same_uncertainties(images):
    plain = braggflow.find_peaks(images[:6], network="none", config={"detect": SETTINGS["detect"]})
    scaled = braggflow.find_peaks(images[:6] * 4, minval=60, minscore=40, network="none", counts_per_photon=4)
    for name in ("y_pixel", "x_pixel", "flags", "method"):
        np.testing.assert_array_equal(scaled[name], plain[name])
    for name in ("y", "x", "y_std", "x_std", "snr"):
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(scaled["intensity"], 4 * plain["intensity"], rtol=1e-5)


def test_read_noise_is_that_of_a_pixel_of_the_detector(images):
    sums = images[:6].reshape(6, 36, 2, 32, 2).sum(axis=(2, 4))

    def peaks_of(array, **frames):
        return braggflow.find_peaks(array, minval=80, minscore=60, network="none", **frames)

    summed, binned = peaks_of(sums, read_noise=20), peaks_of(images[:6], bin=2, read_noise=10)
    stated = {"snr": 1, "intensity_std": 1, "y_fit_std": 2, "x_fit_std": 2, "fwhm_major_std": 2, "fwhm_minor_std": 2}
    for name, factor in stated.items():
        np.testing.assert_array_equal(binned[name], factor * summed[name].values, err_msg=name)
    quiet = peaks_of(images[:6], bin=2)
    assert (binned["snr"].values < quiet["snr"].values).mean() > 0.9
    # The fit allows for noise that the images do not have.
    fitted = np.isfinite(binned["chi2"].values) & np.isfinite(quiet["chi2"].values)
    assert (binned["chi2"].values < quiet["chi2"].values)[fitted].mean() > 0.9


def test_neighbours_are_fitted_together():
    y, x = np.mgrid[:40, :40]
    truth = np.array([[20.2, 17.7], [20.8, 22.4]])
    image = np.full(y.shape, 10.0)
    for (row, column), height in zip(truth, (600, 1500), strict=True):
        image += height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 1.4**2))

    def errors(rule):
        found = braggflow.find_peaks(
            image,
            network="none",
            config={"detect": SETTINGS["detect"], "patches": {"neighbours": rule}, "fit": {"deblend": False}},
        )
        assert (found["flags"] & peak_table.Flag.overlap != 0).all()
        distance = np.hypot(found["y_fit"] - truth[:, 0], found["x_fit"] - truth[:, 1])
        return distance.fillna(np.inf).values  # inf: no fit

    joint = errors("fit_together")
    assert (joint < 0.001).all()
    assert (errors("mask") > 0.01).any()
    assert (errors("ignore") > 0.1).all()


def test_a_notebook_user_is_told_what_is_wrong(images):
    with pytest.raises(InputError, match=r"detect\.minvall: unknown key"):
        braggflow.find_peaks(images, config={"detect": {"minvall": 3}})
    with pytest.raises(InputError, match=r"find_peaks: detect\.minval: 'high' is not accepted"):
        braggflow.find_peaks(images, minval="high")
    with pytest.raises(TypeError, match="minvall"):
        braggflow.find_peaks(images, minvall=20)
    with pytest.raises(InputError, match=r"frame 0: .*every pixel"):
        braggflow.find_peaks(np.full((20, 20), np.nan), network="none")


def test_a_finished_run_is_not_touched_again(tmp_path, data, client):
    run(settings(), [data], out=tmp_path, client=client)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "scan").rglob("*") if path.name != ".lock"}
    (again,) = run(settings(compute={"workers": 1, "task_seconds": 3}), [data], out=tmp_path)
    assert (again.status, again.frames_processed) == ("complete", 0)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "scan").rglob("*") if path.name != ".lock"}


def test_only_missing_parts_are_made_again(tmp_path, data, client, undisturbed):
    (first,) = run(settings(), [data], out=tmp_path, client=client)
    parts = sorted(RunFolder(first.folder).parts.iterdir())
    kept = {path: path.stat().st_mtime_ns for path in parts[1::2]}
    for path in parts[::2]:
        path.unlink()
    (again,) = run(settings(compute={"task_seconds": 9}), [data], out=tmp_path, client=client)
    assert info_of(again)["parts"] == {"total": len(parts), "done": len(parts), "redone": len(parts[::2])}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same_table(open_peaks(again.folder), undisturbed)


def test_the_detectors_constants_are_found_once_and_kept_with_the_run(tmp_path, client):
    rng = np.random.default_rng(0)
    level = np.linspace(40, 400, 128) * np.ones((128, 1))
    images = np.stack([3 * rng.poisson(level) for _ in range(12)]).astype(np.uint16)
    images[:, 60:63, 60:63] += 3000
    data = make_store(tmp_path / "scan.zarr", images, chunk=2)
    asked = settings(frames={"counts_per_photon": "auto", "read_noise": 0}, detect={"minval": 2500})
    (first,) = run(asked, [data], out=tmp_path, client=client)
    found = info_of(first)["detector"]
    assert found["counts_per_photon"] == pytest.approx(3, rel=0.05)
    assert open_peaks(first.folder).attrs["counts_per_photon"] == found["counts_per_photon"]
    assert braggflow.open_run(first.folder).config.frames.counts_per_photon == found["counts_per_photon"]
    table = open_peaks(first.folder).load()
    array = braggflow.find_peaks(braggflow.open_frames(data), config=asked)
    np.testing.assert_array_equal(array["snr"], table["snr"])

    folder = RunFolder(first.folder)
    next(iter(sorted(folder.parts.iterdir()))).unlink()
    kept = info_of(first)
    kept["detector"]["counts_per_photon"] = 2.5  # as if the first preparation had found another number
    write_run_info(folder, kept)
    (again,) = run(asked, [data], out=tmp_path, client=client)
    assert info_of(again)["parts"]["redone"] == 1
    assert info_of(again)["detector"] == kept["detector"]
    assert (open_peaks(again.folder)["snr"] != table["snr"]).any()


def test_constants_that_frames_contradict_are_said(tmp_path, client):
    data = make_store(tmp_path / "scan.zarr", np.random.default_rng(0).poisson(40, (6, 128, 128)).astype("u2"), chunk=2)
    (outcome,) = run(settings(frames={"counts_per_photon": 4}), [data], out=tmp_path, client=client)
    assert "frames.counts_per_photon: 4" in outcome.message
    assert info_of(outcome)["detector"]["notes"] == [outcome.message]


def test_bad_pixels_are_found_once_and_ignored_by_every_worker_and_the_report(tmp_path, client):
    images = np.stack([spots((72, 64), 3, seed=seed) for seed in range(16)])
    images[:, 30, 20] += 900
    images[::2, 50, 40] += 700
    data = make_store(tmp_path / "scan.zarr", images, chunk=2)
    asked = settings(frames={"find_bad_pixels": True}, output={"report": True})
    (outcome,) = run(asked, [data], out=tmp_path, client=client)
    found = info_of(outcome)["detector"]["bad_pixels"]
    assert (found["hot"], found["noisy"], found["dead"]) == ([[30, 20]], [[50, 40]], [])
    peaks = open_peaks(outcome.folder)
    places = set(zip(peaks["y_pixel"].values.tolist(), peaks["x_pixel"].values.tolist(), strict=True))
    assert not places & {(30, 20), (50, 40)}
    array = braggflow.find_peaks(braggflow.open_frames(data), config=asked)
    np.testing.assert_array_equal(array["y"], peaks["y"])
    assert open_run_frames(RunFolder(outcome.folder)).correction.mask.sum() == 2
    assert "1 hot, 1 noisy, 0 dead" in (outcome.folder / "report.html").read_text(encoding="utf-8")


def test_constants_that_cannot_be_known_are_refused_and_nothing_is_written(tmp_path, client):
    data = make_store(tmp_path / "scan.zarr", np.zeros((3, 64, 64), np.uint16), chunk=1)
    with pytest.raises(InputError, match=r"frames\.counts_per_photon: auto: .*every pixel is 0; give a number"):
        run(settings(frames={"counts_per_photon": "auto"}), [data], out=tmp_path / "out", client=client)
    assert not (tmp_path / "out").exists()


def test_other_settings_never_mix_with_an_old_run(tmp_path, data, client):
    (first,) = run(settings(), [data], out=tmp_path, client=client)
    with pytest.raises(InputError, match=r"detect\.minval: 15\.0 → 300\.0"):
        run(settings(detect={"minval": 300}), [data], out=tmp_path, client=client)
    assert info_of(first)["status"] == "complete"
    (new,) = run(settings(detect={"minval": 300}, output={"overwrite": True}), [data], out=tmp_path, client=client)
    assert new.frames_processed == 24
    assert new.peaks < first.peaks


def test_frames_of_another_series_never_mix_with_an_old_run(tmp_path, images, data, client):
    run(settings(), [data], out=tmp_path, client=client)
    other = make_store(tmp_path / "elsewhere" / "scan.zarr", images[::-1], chunk=2)
    with pytest.raises(InputError, match=r"frames\.origin"):
        run(settings(), [other], out=tmp_path, client=client)


def test_gpu_workers_get_the_network_and_cpu_workers_the_rest(tmp_path, data, undisturbed):
    """The layout of a cluster with GPUs, on workers that offer the resource without having one."""
    spec = {
        i: {"cls": Nanny, "options": {"nthreads": 1, "host": "127.0.0.1", "resources": resources}}
        for i, resources in enumerate(({"CPU": 1000}, {"CPU": 1000}, {"GPU": 1}))
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    with SpecCluster(workers=spec, scheduler=scheduler) as mixed, Client(mixed) as client:
        client.wait_for_workers(3)
        assert pools_of(client, gpu_work=True) == Pools(cpu=True, gpu=True)
        assert pools_of(client, gpu_work=False) == Pools(cpu=True, gpu=False)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        gpu = {address for address, worker in workers.items() if "GPU" in worker["resources"]}
        with get_task_stream(client) as stream:
            (outcome,) = run(settings(fit={"device": "auto"}), [data], out=tmp_path, client=client)
        with pytest.raises(InputError, match=r"has no GPU .*do without: locate\.device and fit\.device auto or cpu"):
            run(settings(fit={"device": "cuda"}), [data], out=tmp_path / "refused", client=client)
    places = {(task["key"][0], task["worker"] in gpu) for task in stream.data}
    assert places == {("search", False), ("locate", True), ("complete", False), ("conclude", False)}
    assert not info_of(outcome)["notes"]  # nothing was done on a GPU
    assert not (tmp_path / "refused").exists()
    assert_same_table(open_peaks(outcome.folder), undisturbed)


def test_gpu_workers_alone_are_refused():
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0", resources={"GPU": 1}) as local,
        Client(local) as client,
        pytest.raises(InputError, match="none offers CPU"),
    ):
        pools_of(client, gpu_work=True)


# ---- damaged data ----


def test_damaged_and_missing_chunks_are_recorded_and_made_good_later(
    tmp_path, images, client, undisturbed, monkeypatch
):
    monkeypatch.setattr(store_module, "MIN_CHUNKS", 12)
    path = make_store(tmp_path / "scan.zarr", images)
    chunks = path / "frames" / "c"
    truncated, missing = chunks / "1" / "0" / "0", chunks / "5" / "0" / "0"
    whole = {file: file.read_bytes() for file in (truncated, missing)}
    truncated.write_bytes(whole[truncated][:100])
    missing.unlink()

    (outcome,) = run(settings(), [path], out=tmp_path / "out", client=client)
    assert (outcome.status, outcome.frames_failed) == ("partial", 4)
    info = info_of(outcome)
    assert sorted(failure["frame"] for failure in info["failures"]) == [2, 3, 10, 11]
    assert any("frames/c/5/0/0 is missing" in failure["reason"] for failure in info["failures"])
    table = open_peaks(outcome.folder).load()
    assert table["frame"].values[table["frame_failed"].values == 1].tolist() == [2, 3, 10, 11]
    others = ~np.isin(undisturbed["peak_frame"], [2, 3, 10, 11])
    np.testing.assert_array_equal(table["y"], undisturbed["y"][others])

    for file, content in whole.items():
        file.write_bytes(content)
    (again,) = run(settings(), [path], out=tmp_path / "out", client=client)
    assert (again.status, info_of(again)["parts"]["redone"]) == ("complete", 2)
    assert_same_table(open_peaks(again.folder), undisturbed)


def test_a_frame_that_cannot_be_processed_does_not_take_its_neighbours_with_it(tmp_path, images, client):
    bad = images.astype(np.float32)
    bad[7] = np.nan
    path = make_store(tmp_path / "scan.zarr", bad, chunk=4)
    sections = settings(detect={"minval": {"sigma": 6}}, locate={"network": "none", "position": "fit"})
    (outcome,) = run(sections, [path], out=tmp_path / "out", client=client)
    info = info_of(outcome)
    assert [failure["frame"] for failure in info["failures"]] == [7]
    assert "every pixel" in info["failures"][0]["reason"]
    assert outcome.status == "partial"


def test_nan_pixels_are_masked_and_flagged(tmp_path, images, client):
    bad = images.astype(np.float32)
    y, x = np.unravel_index(bad[3].argmax(), bad[3].shape)
    bad[3, y, x] = np.nan
    path = make_store(tmp_path / "scan.zarr", bad, chunk=4)
    (outcome,) = run(settings(), [path], out=tmp_path / "out", client=client)
    assert outcome.status == "complete"
    frame = open_peaks(outcome.folder).sel(peak_frame=3)
    near = np.hypot(frame["y_pixel"] - y, frame["x_pixel"] - x) < 3
    assert (frame["flags"].values[near] & peak_table.Flag.masked).all()
    assert np.isfinite(frame["y"]).all()


def test_one_refused_data_set_does_not_stop_the_others(tmp_path, data, client):
    (tmp_path / "empty.zarr").mkdir()
    outcomes = run(settings(), [data, tmp_path / "empty.zarr"], out=tmp_path / "out", client=client)
    assert {outcome.name: outcome.status for outcome in outcomes} == {"scan": "complete", "empty": "refused"}
    assert "not a Zarr store" in outcomes[-1].message


def test_noise_multiples_on_a_series_thresholded_at_source_are_refused_at_once(tmp_path):
    images = np.stack([spots((40, 40), 3, seed=seed, background=0) for seed in range(3)])
    path = make_store(tmp_path / "scan.zarr", np.where(images < 50, 0, images), chunk=1)
    with pytest.raises(InputError, match=r"detect\.minval.*no noise.*in counts"):
        run(
            settings(detect={"minval": {"sigma": 6}}, locate={"network": "none", "position": "fit"}),
            [path],
            out=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_frames_that_changed_at_their_place_never_mix_with_an_old_run(tmp_path, images, client):
    path = make_store(tmp_path / "scan.zarr", images, chunk=2)
    run(settings(), [path], out=tmp_path / "out", client=client)
    shutil.rmtree(path)
    mask = np.zeros(images.shape[1:], bool)
    mask[:30] = True
    make_store(path, images, chunk=3, mask=mask)
    with pytest.raises(InputError, match=r"frames\.chunk: 2 → 3"):
        run(settings(), [path], out=tmp_path / "out", client=client)
    # Workers that have seen the old store must not use what they remember of it.
    (new,) = run(settings(output={"overwrite": True}), [path], out=tmp_path / "out", client=client)
    assert open_peaks(new.folder)["y_pixel"].min() >= 30


def test_a_run_that_another_finished_meanwhile_is_not_thrown_away(tmp_path, data, client, monkeypatch):
    prepared = first_work

    def slowly(source):
        result = prepared(source)
        monkeypatch.undo()
        run(settings(detect={"minval": 40}), [data], out=tmp_path, client=client)
        return result

    monkeypatch.setattr(running_module, "first_work", slowly)
    with pytest.raises(InputError, match=r"detect\.minval: 40\.0 → 15\.0"):
        run(settings(), [data], out=tmp_path, client=client)
    assert read_run_config(RunFolder(tmp_path / "scan")).detect.minval == 40


def test_a_folder_in_use_is_refused(tmp_path, data, client):
    (tmp_path / "scan").mkdir()
    with run_lock(RunFolder(tmp_path / "scan")), pytest.raises(InputError, match="another run writes here"):
        run(settings(), [data], out=tmp_path, client=client)


def test_a_cluster_without_workers_is_refused(tmp_path, data):
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as local,
        Client(local) as idle,
        pytest.raises(InputError, match="has no workers"),
    ):
        run(settings(), [data], out=tmp_path, client=idle)


def test_workers_that_cannot_start_are_said_and_not_waited_for(monkeypatch):
    monkeypatch.setattr(connect_module, "NO_WORKERS_SECONDS", 3)
    monkeypatch.setattr(connect_module, "_PRELOAD", "raise SystemExit('broken on purpose')\n")
    with pytest.raises((InputError, RuntimeError)), local_cluster(ComputeConfig(workers=1)):
        pass


def test_a_coordinate_that_the_table_has_already_is_refused(tmp_path, images):
    path = make_store(tmp_path / "scan.zarr", images[:4], chunk=1)
    xr.Dataset({"angle": ("frame", np.arange(4.0))}).to_zarr(path, mode="a", consolidated=False)
    with pytest.raises(InputError, match="'angle' is a name of the peak table"):
        run(settings(), [path], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_report_that_was_never_drawn_is_made_by_the_next_run(tmp_path, data):
    # As where the run was killed between its record and its report.
    (first,) = run(settings(), [data], out=tmp_path)
    before = open_peaks(first.folder).load()
    assert not (first.folder / "report.html").exists()
    (again,) = run(settings(output={"report": True}), [data], out=tmp_path)
    assert again.status == "complete"
    assert again.message == "of the run as it was found, report.html is missing; made again"
    assert (first.folder / "report.html").exists()
    assert_same_table(open_peaks(first.folder), before)
    (third,) = run(settings(output={"report": True}), [data], out=tmp_path)
    assert third.message == ""


def test_a_report_that_fails_does_not_spoil_the_table(tmp_path, data, monkeypatch):
    folder = RunFolder(tmp_path / "scan")
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as local, Client(local) as client:

        def broken(_):
            raise RuntimeError("no fonts")

        monkeypatch.setattr("braggflow.show.write_report", broken)
        (outcome,) = run(settings(output={"report": True}), [data], out=tmp_path, client=client)
    assert (outcome.status, outcome.message) == ("complete", "no report (RuntimeError: no fonts)")
    assert open_peaks(folder.path).sizes["peak"] == outcome.peaks


@pytest.mark.parametrize(
    ("sections", "part"),
    [
        ({"frames": {"start": 100}}, r"frames\.start: 100 .*none of the 24 frames"),
        ({"frames": {"mask": "gone.npy"}}, r"frames\.mask: .*gone\.npy does not exist"),
        ({"detect": {"background": "gone.npy"}}, r"detect\.background: .*gone\.npy does not exist"),
        ({"locate": {"network": "gone.safetensors"}}, r"locate\.network.*gone\.safetensors"),
        ({"compute": {"memory_limit": "lots"}}, r"compute\.memory_limit: 'lots'"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(tmp_path, data, sections, part):
    with pytest.raises(InputError, match=part):
        run(settings(**sections), [data], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_to_do_and_names_that_collide_are_refused(tmp_path, data):
    with pytest.raises(InputError, match="no data set is named"):
        run(settings())
    with pytest.raises(InputError, match="another data set is named scan"):
        run(settings(), [data, tmp_path / "scan.zarr"])


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path, data):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        run(settings(output={"overwrite": True}), [data], out=tmp_path)


def test_a_subset_of_frames_keeps_its_numbers(tmp_path, data, client, undisturbed):
    sections = settings(frames={"start": 3, "stop": 20, "step": 4})
    (outcome,) = run(sections, [data], out=tmp_path, client=client)
    table = open_peaks(outcome.folder)
    assert table["frame"].values.tolist() == [3, 7, 11, 15, 19]
    chosen = np.isin(undisturbed["peak_frame"], table["frame"])
    np.testing.assert_array_equal(table["y"], undisturbed["y"][chosen])


def test_groups_hold_whole_chunks_and_every_frame_once(data):
    opened = braggflow.open_frames(data)
    for seconds in (0.001, 0.1, 100):
        config = RunConfig.model_validate({"compute": {"task_seconds": seconds}})
        groups = plan_groups(opened, config)
        assert [group.first for group in groups] == [0, *(group.stop for group in groups[:-1])]
        assert groups[-1].stop == 24
        assert all(chunk[0] % 2 == 0 for group in groups for chunk in group.chunks)
        regrouped = regroup(plan_groups(opened, RunConfig()), [(g.first, g.stop) for g in groups])
        assert regrouped == groups


def test_no_chunk_of_the_store_is_read_for_two_groups_chunks(data):
    opened = braggflow.open_frames(data)  # of two frames a chunk
    for start, step in ((1, 1), (0, 3), (3, 1), (5, 2)):
        config = RunConfig.model_validate({"frames": {"start": start, "step": step}})
        positions = selected_positions(opened, config)
        chunks = [chunk for group in plan_groups(opened, config) for chunk in group.chunks]
        read = [set((positions[first:stop] // 2).tolist()) for first, stop in chunks]
        assert all(len(one) == 1 for one in read)
        assert len(set.union(*read)) == len(chunks)


# ---- killed ----


@pytest.fixture(scope="module")
def slow(tmp_path_factory, images, client):
    """A run that takes some seconds (the reference engine), as a command line, and its undisturbed table."""
    folder = tmp_path_factory.mktemp("slow")
    data = make_store(folder / "scan.zarr", images, chunk=1)
    sections = settings(detect={"engine": "findpeaks"}, locate={"network": "none", "position": "fit"})
    (folder / "run.yaml").write_text(json.dumps(sections))
    (outcome,) = run(sections, [data], out=folder / "undisturbed", client=client)

    def start(out):
        command = [sys.executable, "-m", "braggflow", "run", folder / "run.yaml", data, "--out", out]
        return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return start, open_peaks(outcome.folder).load()


def wait_for_parts(out: Path, n: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(list((out / "scan" / "parts").glob("part-*.npz"))) < n:
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.01)


def finish(start, out):
    process = start(out)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.faults
def test_killed_worker_and_then_killed_client_change_nothing(tmp_path, slow):
    start, undisturbed = slow
    process = start(tmp_path)
    wait_for_parts(tmp_path, 3)
    # A worker is a process that was forked from a child of the client.
    workers = [worker for child in psutil.Process(process.pid).children() for worker in child.children()]
    os.kill(workers[0].pid, signal.SIGKILL)
    wait_for_parts(tmp_path, 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = len(list((tmp_path / "scan" / "parts").glob("part-*.npz")))
    info = read_run_info(RunFolder(tmp_path / "scan"))
    total = len(info["plan"])
    assert done < total
    assert info["status"] == "running"

    finish(start, tmp_path)
    info = read_run_info(RunFolder(tmp_path / "scan"))
    assert info["parts"] == {"total": total, "done": total, "redone": total - done}
    assert_same_table(open_peaks(tmp_path / "scan"), undisturbed)


@pytest.mark.faults
def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path, slow):
    start, undisturbed = slow
    process = start(tmp_path)
    wait_for_parts(tmp_path, 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to workers too
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert "the same command goes on from here" in output.decode()
    assert "Traceback" not in output.decode()
    info = read_run_info(RunFolder(tmp_path / "scan"))
    assert info["status"] == "interrupted"
    assert 1 <= info["parts"]["done"] < info["parts"]["total"]
    finish(start, tmp_path)
    assert_same_table(open_peaks(tmp_path / "scan"), undisturbed)
