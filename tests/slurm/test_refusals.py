"""What can never work is refused through the command line: one clear message, nothing written, no job left."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

import braggflow
from tests.patience import PATIENCE
from tests.slurm.conftest import Slurm
from tests.stores import make_store, spots

REFUSED = 2
Refuse = Callable[..., str]


@pytest.fixture(scope="module")
def interface() -> str:
    """The network interface that is not loopback."""
    return next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.family.name == "AF_INET" and not address.address.startswith("127.") for address in addresses)
    )


@pytest.fixture
def refuse(tmp_path: Path, slurm: Slurm, interface: str) -> Iterator[Refuse]:
    """Runs the command line with a changed profile; its message, after what holds for every refusal."""
    make_store(tmp_path / "scan.zarr", np.stack([spots((64, 64), 5, seed=seed) for seed in range(4)]), chunk=2)
    usable: dict[str, Any] = {
        "kind": "slurm",
        "directory": str(tmp_path / "shared"),
        "walltime": "0:30:00",
        "interface": interface,
        "memory": "2GB",
        "cpu": {"partition": "cpu", "cores": 1},
    }
    before = {path.name for path in tmp_path.iterdir()} | {"run.yaml", "site.yaml", "shared"}

    def refused(changes: dict[str, Any], network: str = "none", device: str = "auto", **environment: str) -> str:
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(usable | changes))
        settings = {"detect": {"minval": 15, "minscore": 10}, "locate": {"network": network, "device": device}}
        (tmp_path / "run.yaml").write_text(json.dumps(settings))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "braggflow", "run", "run.yaml", "scan.zarr"),
                *("--out", "runs", "--cluster", "site.yaml"),
            ],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == REFUSED, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert [job for job in slurm.queue() if job.state != "COMPLETING"] == []
        assert {path.name for path in tmp_path.iterdir()} <= before
        assert not list((tmp_path / "shared").glob("*/tls"))
        # The message is the last that is said; what stands before it are notes on the cluster and its waiting jobs.
        *progress, message = re.split(r"^braggflow: ", done.stderr, flags=re.MULTILINE)
        assert not any("error" in said.lower() for said in progress)
        return " ".join(message.split())

    yield refused
    shutil.rmtree(tmp_path / "shared", ignore_errors=True)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (
            {"partition": "nosuch"},
            "cpu.queue: there is no partition nosuch; there are: cpu, gpu, restricted, short, whole",
        ),
        ({"memory": "900GB"}, "cpu.memory: 900GB is more than a node of partition cpu has (8000 MiB)"),
        ({"cores": 64}, "cpu.cores: 64 is more than a node of partition cpu has (4)"),
        (
            {"partition": "short", "walltime": "1:00:00"},
            "cpu.walltime: 1:00:00 is longer than a node of partition short is given for (5:00)",
        ),
        ({"account": "nosuch"}, "Invalid account or account/partition combination specified"),
        ({"partition": "restricted", "account": "beam"}, "cpu: job .* will never start .*restricted allows beam"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_a_job_that_no_partition_or_account_allows(group: dict[str, Any], words: str, refuse: Refuse) -> None:
    said = refuse({"cpu": {"partition": "cpu", "cores": 1, **group}})
    assert re.search(re.escape(words).replace(r"\.\*", ".*"), said), said
    if group.get("account") == "nosuch":
        assert said.startswith("cpu: the job is refused; sbatch: "), said


def test_a_directory_that_cannot_be_used(refuse: Refuse, tmp_path: Path) -> None:
    directory = tmp_path / "run.yaml" / "shared"
    assert refuse({"directory": str(directory)}).startswith(f"directory: {directory} cannot be used (Not a directory)")


def test_an_interface_that_this_machine_does_not_have(refuse: Refuse, interface: str) -> None:
    said = refuse({"interface": "ib99"})
    assert said.startswith("interface: ib99 is not a network interface of this machine; there are: ")
    assert interface in said


def other_package(folder: Path, file: str, old: str, new: str) -> dict[str, Any]:
    """A prologue that gives workers a copy of the package with a changed source."""
    copy = folder / "other" / "braggflow"
    shutil.copytree(Path(braggflow.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    return {"job_script_prologue": [f"export PYTHONPATH={copy.parent}"]}


def test_workers_whose_braggflow_has_another_version(refuse: Refuse, tmp_path_factory: pytest.TempPathFactory) -> None:
    own = braggflow.__version__
    changes = other_package(tmp_path_factory.mktemp("site"), "version.py", f'"{own}"', '"99.0"')
    said = refuse(changes)
    assert re.match(r"worker braggflow-\w+-cpu-0 on .*: has braggflow version 99.0, here it is " + own, said), said


def test_workers_whose_braggflow_has_other_sources(refuse: Refuse, tmp_path_factory: pytest.TempPathFactory) -> None:
    changes = other_package(
        tmp_path_factory.mktemp("site"),
        "detect/detection.py",
        "import numpy as np",
        "import numpy as np  # changed",
    )
    assert re.match(
        r"worker braggflow-\w+-cpu-0 on .*: has braggflow sources \w+, here it is \w+; results", refuse(changes)
    )


def test_workers_without_braggflow(refuse: Refuse, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("site")
    (folder / "braggflow.py").write_text("raise ImportError('this is another braggflow')")
    said = refuse({"job_script_prologue": [f"export PYTHONPATH={folder}"]})
    assert "cpu: 3 jobs in succession ended before a worker came up. Job " in said
    assert "this is another braggflow" in said


def test_a_python_that_the_nodes_do_not_have(refuse: Refuse) -> None:
    said = refuse({"python": "/nosuch/bin/python"})
    assert "cpu: 3 jobs in succession ended before a worker came up. Job " in said
    assert "/nosuch/bin/python: No such file or directory" in said


def test_a_gpu_group_in_a_partition_without_gpus(refuse: Refuse) -> None:
    said = refuse({"gpu": {"partition": "cpu", "cores": 1}}, network="compact")
    assert said.startswith("gpu: the job is refused; sbatch: ")
    assert "Requested node configuration is not available" in said


def test_a_gpu_that_torch_does_not_see_where_the_configuration_demands_one(refuse: Refuse) -> None:
    said = refuse({"gpu": {"partition": "gpu", "cores": 1}}, network="compact", device="cuda")
    assert re.match(
        r"worker braggflow-\w+-gpu-0 on .*: has no GPU \(CUDA_VISIBLE_DEVICES: 0, torch sees none\)", said
    ), said


def test_a_gpu_demanded_of_a_profile_without_gpu_group(refuse: Refuse, tmp_path: Path) -> None:
    said = refuse({}, network="compact", device="cuda")
    assert said.startswith("locate.device: cuda, but the cluster profile has no `gpu` group; add one, or set")
    assert not (tmp_path / "shared").exists()


def test_a_machine_from_which_no_jobs_are_submitted(refuse: Refuse) -> None:
    said = refuse({}, PATH="/nosuch")
    assert re.match(
        r"s(info|batch): is not a command of this machine; run where jobs are submitted, a login node", said
    )


def test_a_slurm_whose_controller_is_away(refuse: Refuse, slurm: Slurm, tmp_path: Path) -> None:
    conf = tmp_path / "shared" / "slurm.conf"
    conf.parent.mkdir()
    # Port 1 is nobody's.
    conf.write_text(re.sub("SlurmctldPort=.*", "SlurmctldPort=1", (slurm.folder / "slurm.conf").read_text()))
    said = refuse({}, SLURM_CONF=str(conf))
    assert said.startswith("cluster: slurm does not answer (sinfo: "), said
    assert "Unable to contact slurm controller" in said
