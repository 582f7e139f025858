"""Clusters on this machine, and schedulers that cannot be joined."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import dask
import pytest
import torch
from distributed import Client, Security

from braggflow.cluster import connect as connect_module
from braggflow.cluster import open_cluster
from braggflow.cluster.connect import local_cluster
from braggflow.cluster.local_workers import KEPT_MEMORY
from braggflow.cluster.profiles import LocalProfile, resolve_profile
from braggflow.config import ComputeConfig, RunConfig
from braggflow.errors import InputError
from tests.patience import PATIENCE


def refusal(profile: dict[str, object], config: RunConfig | None = None) -> str:
    with (
        pytest.raises(InputError) as refused,
        open_cluster(resolve_profile(profile), config or RunConfig()),
    ):
        pytest.fail("the cluster was opened")
    return str(refused.value)


@pytest.fixture
def certificate(tmp_path):
    """The TLS keys of a profile, with files of a certificate."""
    texts = Security.temporary().get_tls_config_for_role("client")
    files = {"tls_ca_file": texts["ca_file"], "tls_cert": texts["cert"], "tls_key": texts["key"]}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in files}


def test_a_local_cluster_lets_nobody_else_in_and_leaves_dasks_configuration_as_it_was():
    before = dask.config.get("distributed.scheduler")
    with local_cluster(ComputeConfig(workers=1), LocalProfile(kind="local")) as client:
        address = client.scheduler_info()["address"]
        assert address.startswith("tls://127.0.0.1:")
        assert client.submit(sum, [1, 2]).result(timeout=PATIENCE) == 3
        with pytest.raises(OSError, match="TLS certificate does not match"):
            Client(address, security=Security.temporary(), timeout=2)
    assert dask.config.get("distributed.scheduler") == before


def test_workers_that_find_no_room_for_their_files_are_one_sentence(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", disk], check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        with dask.config.set({"temporary-directory": str(disk)}):
            said = refusal({"kind": "local", "workers": 1})
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    assert said == f"{disk}: the disk is full, on which worker processes keep their files; make room, or set TMPDIR"


def test_a_memory_limit_of_a_profile_that_is_none_is_named():
    said = refusal({"kind": "local", "workers": 1, "memory_limit": "much"})
    assert said.startswith("memory_limit: 'much' is not accepted")


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_a_scheduler_that_does_not_answer_is_named(scheme, certificate, monkeypatch):
    monkeypatch.setattr(connect_module, "_CONNECT_SECONDS", 0.5)
    # Port 1 is nobody's.
    profile = {"kind": "existing", "address": f"{scheme}://127.0.0.1:1", **(certificate if scheme == "tls" else {})}
    assert refusal(profile).startswith(f"cluster: no scheduler answers at {scheme}://127.0.0.1:1 (")


def test_tls_without_certificates_is_refused_with_the_keys_to_give():
    said = refusal({"kind": "existing", "address": "tls://127.0.0.1:1"})
    assert said.startswith("address: tls://127.0.0.1:1 needs tls_ca_file, tls_cert and tls_key (")


@pytest.mark.parametrize("key", ["tls_ca_file", "tls_cert", "tls_key"])
def test_a_certificate_that_is_not_there_is_named(key, certificate, tmp_path):
    profile = {"kind": "existing", "address": "tls://127.0.0.1:1", **certificate, key: str(tmp_path / "gone")}
    assert refusal(profile) == f"{key}: {tmp_path / 'gone'} does not exist"


def test_files_that_are_no_certificates_are_refused(certificate, tmp_path):
    (tmp_path / "tls_key").write_text("nothing")
    said = refusal({"kind": "existing", "address": "tls://127.0.0.1:1", **certificate})
    assert said.startswith("cluster: no scheduler answers at tls://127.0.0.1:1 (")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (No such file or directory); is the scheduler running?"),
        ("{", "is not one that dask scheduler --scheduler-file wrote"),
        ("{}", "is not one that dask scheduler --scheduler-file wrote"),
    ],
)
def test_a_scheduler_file_that_is_missing_or_not_one_is_named(content, words, tmp_path):
    file = tmp_path / "scheduler.json"
    if content is not None:
        file.write_text(content)
    assert refusal({"kind": "existing", "scheduler_file": str(file)}) == f"scheduler_file: {file} {words}"


@pytest.mark.parametrize("section", ["locate", "fit"])
def test_a_gpu_that_is_asked_for_and_not_there_is_said_before_anything_is_begun(section):
    config = RunConfig.model_validate({section: {"device": "cuda"}, "compute": {"workers": 1}})
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "has no GPU" in refusal({"kind": "local"}, config)


def test_fits_on_a_gpu_demanded_of_a_profile_without_gpu_group_are_refused():
    profile = {"kind": "slurm", "walltime": "1:00:00", "cpu": {"cores": 1, "memory": "2GB"}}
    config = RunConfig.model_validate({"fit": {"device": "cuda"}})
    said = refusal(profile, config)
    assert said.startswith(
        "fit.device: cuda, but the cluster profile has no `gpu` group; add one, or set fit.device to"
    )


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"locate": {"network": "none"}}, {}),
        ({}, {"locate.device": "auto"}),
        ({"locate": {"network": "none"}, "fit": {"device": "auto"}}, {"fit.device": "auto"}),
        ({"fit": {"device": "cuda:1"}}, {"locate.device": "auto", "fit.device": "cuda:1"}),
        ({"locate": {"network": "none"}, "fit": {"device": "cuda", "fraction": 0}}, {}),
        ({"locate": {"network": "none"}, "fit": {"device": "auto", "model": "disk"}}, {}),
    ],
)
def test_gpu_workers_are_for_what_a_gpu_can_do(settings, keys):
    assert connect_module.gpu_keys(RunConfig.model_validate(settings)) == keys


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_workers_are_forked_from_a_process_that_keeps_the_memory_it_frees():
    def started_with() -> list[str]:
        return Path(f"/proc/{os.getppid()}/environ").read_text().split("\0")

    with local_cluster(ComputeConfig(workers=1)) as client:
        (environment,) = client.run(started_with).values()
    assert {f"{name}={value}" for name, value in KEPT_MEMORY.items()} <= set(environment)


def _heard() -> tuple[bool, bool]:
    """Whether a worker would say that its heartbeat failed, and that something else did."""
    logger = logging.getLogger("distributed.worker")
    said = ("Failed to communicate with scheduler during heartbeat.", "Worker stream died")
    records = [logger.makeRecord(logger.name, logging.ERROR, "", 0, text, (), None) for text in said]
    return tuple(bool(logger.filter(record)) for record in records)


def test_a_local_worker_says_no_word_of_a_heartbeat_that_meets_the_end():
    with local_cluster(ComputeConfig(workers=1)) as client:
        assert client.submit(_heard).result() == (False, True)


def test_a_task_that_takes_more_memory_than_its_limit_is_killed_without_a_word_of_the_libraries():
    script = """
import time
import dask, numpy as np
from distributed import KilledWorker
from braggflow.cluster.connect import local_cluster
from braggflow.config import ComputeConfig

def greedy():
    taken = np.ones(2**28)  # 2 GiB
    time.sleep(60)

if __name__ == "__main__":
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        with local_cluster(ComputeConfig(workers=1, memory_limit="1 GiB")) as client:
            try:
                client.submit(greedy).result()
            except KilledWorker:
                print("killed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.stderr) == ("killed\n", "")
