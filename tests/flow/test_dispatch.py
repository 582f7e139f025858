"""Frames that kill their workers, workers that are lost, and how far a run says it is: on real local clusters."""

import os
import signal
import time

import dask
import numpy as np
import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster, WorkerPlugin

import braggflow
from braggflow import peak_table
from braggflow.cluster import connect as connect_module
from braggflow.cluster.connect import local_cluster
from braggflow.config import ComputeConfig
from braggflow.flow import run
from braggflow.results import RunFolder, open_peaks, read_run_info
from braggflow.results import identity as identity_module
from tests.patience import PATIENCE
from tests.stores import make_store, spots

pytestmark = pytest.mark.faults

SETTINGS = {"detect": {"minval": 15, "minscore": 10}, "locate": {"network": "none"}}
#: Counts in the first pixel of a frame, and so what befalls the worker that searches it.
DEADLY, HUGE, TIGHT, SLOW = 60_001, 60_002, 60_003, 60_004
#: Workers of these tests are given up soon: by the scheduler for the frame that they die of, and by their cluster.
IMPATIENT = {"distributed.scheduler.allowed-failures": 1, "distributed.deploy.lost-worker-timeout": "1s"}


class Traps(WorkerPlugin):
    """On every worker, also on those that come for lost ones."""

    def setup(self, worker):  # noqa: ARG002
        from braggflow.pipeline import stages

        search, tight = stages.detect_stack, iter([True])

        def trapped(stack, *arguments, **options):
            firsts = stack[:, 0, 0].tolist()
            if DEADLY in firsts:
                time.sleep(0.2)
                os.kill(os.getpid(), signal.SIGKILL)
            if HUGE in firsts or (TIGHT in firsts and next(tight, False)):
                raise MemoryError("no room for this frame")
            if SLOW in firsts:
                time.sleep(0.2)
            return search(stack, *arguments, **options)

        stages.detect_stack = trapped


@pytest.fixture(scope="module")
def client(images):
    braggflow.find_peaks(images[:1], config=SETTINGS)  # compiles what the workers then find compiled
    with dask.config.set(IMPATIENT), local_cluster(ComputeConfig(workers=2)) as client:
        client.register_plugin(Traps())
        yield client


@pytest.fixture(scope="module")
def images():
    return np.stack([spots((64, 64), 5, seed=seed) for seed in range(12)])


def frames_with(path, images, *, chunk=3, **counts):
    """A store of the images; `f7=DEADLY` sets the first pixel of frame 7."""
    changed = images.copy()
    for frame, value in counts.items():
        changed[int(frame[1:]), 0, 0] = value
    return make_store(path, changed, chunk=chunk)


def settings(**compute):
    compute = {"task_seconds": 0.01, "retries": 0} | compute
    return SETTINGS | {"output": {"report": False}, "compute": compute}


def assert_only_these_are_lost(outcome, path, frames):
    """All other frames have the peaks that one process alone finds in them."""
    undisturbed = braggflow.find_peaks(braggflow.open_frames(path), config=SETTINGS)
    table = open_peaks(outcome.folder).load()
    assert table["frame"].values[table["frame_failed"].values == 1].tolist() == frames
    kept = undisturbed.isel(peak=~np.isin(undisturbed["peak_frame"], frames))
    assert kept.sizes["peak"] > 0
    for name in peak_table.VARIABLES:
        np.testing.assert_array_equal(table[name].values, kept[name].values, err_msg=name)


def failures(outcome):
    return {failure["frame"]: failure["reason"] for failure in read_run_info(RunFolder(outcome.folder))["failures"]}


# ---- frames that do harm ----


def test_a_frame_that_kills_workers_is_found_and_costs_no_other_frame_and_no_worker(tmp_path, images, client):
    path = frames_with(tmp_path / "scan.zarr", images, f4=DEADLY)
    (outcome,) = run(settings(), [path], out=tmp_path, client=client)
    assert (outcome.status, outcome.frames_failed) == ("partial", 1)
    (reason,) = failures(outcome).values()
    assert reason.startswith("the worker process was killed each time it worked on this, perhaps for lack of memory")
    assert "compute.memory_limit" in reason
    assert_only_these_are_lost(outcome, path, [4])
    client.wait_for_workers(2, timeout=PATIENCE)


def test_frames_that_wait_on_a_worker_that_dies_are_not_blamed(tmp_path, images):
    """Tasks that ask for a resource, as on batch clusters, do not wait at the scheduler but on the workers."""
    offer = {"cls": Nanny, "options": {"nthreads": 1, "host": "127.0.0.1", "resources": {"CPU": 1000}}}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    path = frames_with(tmp_path / "scan.zarr", images, chunk=12, f1=DEADLY)
    with (
        dask.config.set(IMPATIENT | {"distributed.deploy.lost-worker-timeout": "1h"}),
        SpecCluster(workers={0: offer, 1: offer}, scheduler=scheduler) as batch,
        Client(batch) as client,
    ):
        client.wait_for_workers(2)
        client.register_plugin(Traps())
        (outcome,) = run(settings(), [path], out=tmp_path, client=client)
    assert list(failures(outcome)) == [1]
    assert_only_these_are_lost(outcome, path, [1])


def test_a_frame_that_does_not_fit_into_memory_fails_alone(tmp_path, images, client):
    path = frames_with(tmp_path / "scan.zarr", images, f4=HUGE)
    (outcome,) = run(settings(), [path], out=tmp_path, client=client)
    assert outcome.status == "partial"
    assert failures(outcome) == {4: "MemoryError: no room for this frame"}
    assert_only_these_are_lost(outcome, path, [4])


def test_memory_that_is_short_for_a_moment_costs_no_frame(tmp_path, images, client):
    path = frames_with(tmp_path / "scan.zarr", images, f4=TIGHT)
    (outcome,) = run(settings(retries=1), [path], out=tmp_path, client=client)
    assert outcome.status == "complete"
    assert_only_these_are_lost(outcome, path, [])


# ---- workers that are lost ----


def test_a_worker_killed_from_outside_costs_tasks_that_run_again_and_nothing_else(tmp_path, images, client):
    path = frames_with(tmp_path / "scan.zarr", images, chunk=1, **{f"f{frame}": SLOW for frame in range(12)})
    processes, killed = client.run(os.getpid), []

    def kill(progress):
        busy = [address for address, tasks in client.processing().items() if tasks]
        if progress.frames_done and busy and not killed:
            killed.append(busy[0])
            os.kill(processes[busy[0]], signal.SIGKILL)

    (outcome,) = run(settings(), [path], out=tmp_path, client=client, progress=kill)
    assert killed
    assert (outcome.status, outcome.frames_failed) == ("complete", 0)
    assert outcome.tasks_rerun > 0
    assert read_run_info(RunFolder(outcome.folder))["tasks_rerun"] == outcome.tasks_rerun
    assert_only_these_are_lost(outcome, path, [])


def test_workers_lost_for_good_end_the_run_with_one_message_and_it_goes_on_later(tmp_path, images, monkeypatch):
    monkeypatch.setattr(connect_module, "NO_WORKERS_SECONDS", 2)
    path = frames_with(tmp_path / "scan.zarr", images, chunk=1, **{f"f{frame}": SLOW for frame in range(12)})
    with local_cluster(ComputeConfig(workers=1)) as client:
        client.register_plugin(Traps())

        def end_workers(progress):
            if progress.frames_done:
                client.cluster.scale(0)

        (outcome,) = run(settings(), [path], out=tmp_path, client=client, progress=end_workers)
    assert (outcome.status, outcome.frames_failed) == ("interrupted", 0)
    assert outcome.message == "cluster: all its workers are lost, and no others came in time"
    with local_cluster(ComputeConfig(workers=1)) as client:
        (again,) = run(settings(), [path], out=tmp_path, client=client)
    assert again.status == "complete"
    assert 0 < again.frames_processed < 12
    assert_only_these_are_lost(again, path, [])


def test_workers_with_other_sources_end_the_run_with_one_message(tmp_path, images, client, monkeypatch):
    paths = [frames_with(tmp_path / f"scan{i}.zarr", images) for i in range(2)]
    monkeypatch.setattr(identity_module, "code_version", lambda: {"version": "0.0.1", "sources": "of another install"})
    outcomes = run(settings(), paths, out=tmp_path, client=client)
    assert {outcome.status for outcome in outcomes} == {"interrupted"}
    (message,) = {outcome.message for outcome in outcomes}
    assert "the client has other sources (of another install)" in message


# ---- how far it is ----


def test_the_share_done_goes_from_0_to_1_and_never_back(tmp_path, images, client):
    lengths = {"a": 2, "b": 12, "c": 1, "d": 1, "e": 1, "f": 12, "g": 3, "h": 1}
    paths = [make_store(tmp_path / f"{name}.zarr", images[:n], chunk=1) for name, n in lengths.items()]
    (tmp_path / "bad.zarr").mkdir()
    run(settings(), paths[:1], out=tmp_path / "out", client=client)
    seen = []
    run(settings(), [*paths, tmp_path / "bad.zarr"], out=tmp_path / "out", client=client, progress=seen.append)
    shares = [progress.share for progress in seen]
    assert (shares[0], shares[-1]) == (0, 1)
    assert shares == sorted(shares)
    assert (seen[-1].datasets_done, seen[-1].datasets_total) == (9, 9)
