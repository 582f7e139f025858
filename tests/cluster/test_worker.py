"""What a worker is told beside its tasks: its GPU, and whether it agrees with the client."""

import asyncio
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from distributed import Client, LocalCluster, Scheduler, Worker

from braggflow.cluster.worker import JOB_BEGAN, allocated_gpus, check_worker, describe_worker
from braggflow.errors import InputError
from tests.patience import PATIENCE


@pytest.fixture
def visible_to(monkeypatch):
    """CUDA_VISIBLE_DEVICES after a worker has started, given its name and what its job was given."""

    def visible(name: str, given: str | None, resource: str = "GPU") -> str | None:
        if given is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)

        async def started() -> str | None:
            options = {"dashboard_address": None, "protocol": "inproc://"}
            async with (
                Scheduler(**options) as scheduler,
                Worker(
                    scheduler.address,
                    name=name,
                    resources={resource: 1},
                    preload="braggflow.cluster.worker",
                    dashboard=False,
                    nthreads=1,
                ),
            ):
                return os.environ.get("CUDA_VISIBLE_DEVICES")

        return asyncio.run(started())

    return visible


@pytest.mark.parametrize("given", ["0,1,2,3", "4,5,6,7", "GPU-1a,GPU-2b,MIG-3c,MIG-4d"])
def test_each_worker_of_a_job_has_a_gpu_of_its_own(given, visible_to):
    seen = [visible_to(f"braggflow-0a1b2c-gpu-12-{index}", given) for index in range(4)]
    assert seen == given.split(",")


@pytest.mark.parametrize(
    ("name", "given", "resource"),
    [
        ("braggflow-123456-gpu-1", "0,1", "GPU"),  # the only worker of its job has all of its GPUs
        ("braggflow-123456-cpu-0-1", "0,1", "CPU"),  # a CPU worker takes none
        ("braggflow-123456-gpu-0-1", "", "GPU"),
        ("braggflow-123456-gpu-0-1", "NoDevFiles", "GPU"),
        ("braggflow-123456-gpu-0-1", None, "GPU"),
        ("somebody", "0,1", "GPU"),
    ],
)
def test_what_a_job_was_given_stays_where_there_is_nothing_to_share(name, given, resource, visible_to):
    assert visible_to(name, given, resource) == given


def test_more_workers_than_gpus_share_them_evenly(visible_to):
    assert [visible_to(f"braggflow-0a1b2c-gpu-0-{index}", "2,3") for index in range(4)] == ["2", "3", "2", "3"]


def test_dask_worker_names_the_workers_of_a_job_as_the_choice_of_gpus_expects():
    with (
        LocalCluster(n_workers=0, dashboard_address=":0", host="127.0.0.1") as cluster,
        Client(cluster) as client,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "braggflow.cluster.worker", "json,braggflow.flow", cluster.scheduler_address),
                *("--name", "braggflow-0a1b2c-gpu-0", "--nworkers", "2", "--nthreads", "1", "--resources", "GPU=1"),
                *("--preload", "braggflow.cluster.worker", "--no-dashboard", "--death-timeout", "30"),
            ],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "5,7", JOB_BEGAN: str(time.time())},
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            client.wait_for_workers(2, timeout=PATIENCE)
            names = {info["name"] for info in client.scheduler_info(n_workers=-1)["workers"].values()}
            assert names == {"braggflow-0a1b2c-gpu-0-0", "braggflow-0a1b2c-gpu-0-1"}
            said = client.run(describe_worker).values()
            assert {found.allocated for found in said} == {"5", "7"}
            # Forked from one process that had imported the modules.
            assert all(client.run(lambda: "braggflow.flow" in sys.modules).values())
            for found in said:
                assert found.start_up is not None
                assert 0 < found.start_up.imports < found.start_up.seconds < PATIENCE
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("variable", "devices"),
    [(None, []), ("", []), ("-1", []), ("NoDevFiles", []), ("0", ["0"]), ("0,3", ["0", "3"]), ("GPU-1a", ["GPU-1a"])],
)
def test_the_gpus_of_a_job_are_those_that_the_batch_system_names(variable, devices, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert allocated_gpus() == devices


def test_a_worker_like_this_client_is_accepted(tmp_path):
    (tmp_path / "scan.zarr").mkdir()
    check_worker("w", describe_worker([str(tmp_path), str(tmp_path / "scan.zarr")]), gpu_needed=True)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"python": "3.9"}, "runs Python 3.9, this is {python} (CPython); set `python` or"),
        (
            {"packages": {"braggflow version": "9.9"}},
            "has braggflow version 9.9, here it is {version}; results would be mixed. Install the same",
        ),
        (
            {"packages": {"braggflow sources": "beef"}},
            "has braggflow sources beef, here it is {sources};",
        ),
        (
            {"packages": {"distributed": "2020.1"}},
            "has distributed 2020.1, here it is {distributed};",
        ),
        (
            {"missing": ("/data/scan.zarr",)},
            "does not see /data/scan.zarr; frames and results must be on a file system that it shares",
        ),
        (
            {"gpu": "", "allocated": ""},
            "has no GPU (CUDA_VISIBLE_DEVICES: not set, torch sees none); ask for one in the profile",
        ),
    ],
)
def test_a_worker_that_would_give_other_results_or_none_is_refused_with_the_remedy(difference, words):
    own = describe_worker()
    packages = {**own.packages, **difference.get("packages", {})}
    found = replace(own, **{"host": "node7", **difference, "packages": packages})
    expected = words.format(
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        version=own.packages["braggflow version"],
        sources=own.packages["braggflow sources"],
        distributed=own.packages["distributed"],
    )
    with pytest.raises(InputError, match=re.escape(f"worker w on node7: {expected}")):
        check_worker("w", found, gpu_needed=False)


def test_a_gpu_that_torch_does_not_see_is_refused_only_where_the_configuration_demands_one():
    given = replace(describe_worker(), gpu="", allocated="0")
    check_worker("w", given, gpu_needed=False)
    with pytest.raises(InputError, match=r"has no GPU \(CUDA_VISIBLE_DEVICES: 0, torch sees none\)"):
        check_worker("w", given, gpu_needed=True)


def test_a_gpu_that_no_batch_system_gave_but_torch_sees_is_one():
    check_worker("w", replace(describe_worker(), gpu="NVIDIA A100", allocated=""), gpu_needed=True)


def test_a_worker_says_which_paths_it_does_not_see_and_loads_no_torch_unasked(tmp_path):
    found = describe_worker([str(tmp_path), str(tmp_path / "gone")])
    assert found.missing == (str(tmp_path / "gone"),)
    assert found.gpu is None
