"""`braggflow cluster check` and `cluster script`, as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from braggflow.results import RunFolder, read_run_info
from tests.patience import PATIENCE
from tests.slurm.conftest import Slurm, command, wait_until
from tests.slurm.slow_runs import outside_interface
from tests.stores import make_store, spots


@pytest.fixture
def site(tmp_path: Path, slurm: Slurm) -> Path:
    """A folder with a profile, a configuration and a small series."""
    profile = {
        "kind": "slurm",
        "directory": str(tmp_path / "shared"),
        "walltime": "0:30:00",
        "interface": outside_interface(),
        "memory": "2GB",
        "cpu": {"partition": "cpu", "cores": 1, "maximum": 2},
        "gpu": {"partition": "gpu", "cores": 1},
    }
    (tmp_path / "site.yaml").write_text(json.dumps(profile))
    settings = {"detect": {"minval": 15, "minscore": 10}, "locate": {"network": "compact", "position": "network"}}
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    make_store(tmp_path / "scan.zarr", np.stack([spots((64, 64), 5, seed=seed) for seed in range(8)]), chunk=2)
    return tmp_path


def braggflow(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "braggflow", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_profile_is_tried_out_with_one_job_of_each_group(site, slurm):
    done = braggflow(site, "cluster", "check", "site.yaml", "scan.zarr")
    assert done.returncode == 0, done.stderr
    for part in ("#SBATCH -p cpu", "#SBATCH --gres=gpu:1", "GPU: none seen by torch (given: 0)", "all workers agree"):
        assert part in done.stdout
    names = [line.split("Name=")[1].split()[0] for line in (slurm.logs / "jobcomp.txt").read_text().splitlines()[-2:]]
    assert sorted(name.split("-")[-2] for name in names) == ["cpu", "gpu"]
    assert not list((site / "shared").iterdir())


def test_what_the_workers_do_not_see_is_said(site):
    done = braggflow(site, "cluster", "check", "site.yaml", "gone.zarr")
    assert done.returncode == 2
    assert "gone.zarr: does not exist here either" in done.stderr


def test_the_scripts_alone_need_no_job(site, slurm):
    done = braggflow(site, "cluster", "check", "site.yaml", "--scripts")
    assert done.returncode == 0
    assert done.stdout.count("#!/usr/bin/env bash") == 2
    assert not slurm.queue()


def test_a_batch_script_does_a_whole_run_from_a_compute_node(site, slurm):
    words = ("cluster", "script", "site.yaml", "run.yaml", "scan.zarr", "--out", "runs", "--write", "run.sh")
    assert braggflow(site, *words).returncode == 0
    assert "run.sh: exists" in braggflow(site, *words).stderr
    command("sbatch", f"--chdir={site}", str(site / "run.sh"))
    assert wait_until(lambda: not slurm.queue())
    (log,) = site.glob("braggflow-*.log")
    assert read_run_info(RunFolder(site / "runs" / "scan"))["status"] == "complete", log.read_text()


def test_a_mistake_is_found_before_the_script_waits_in_the_queue(site):
    done = braggflow(site, "cluster", "script", "site.yaml", "run.yaml", "scan.zarr", "--set", "detect.minvall=3")
    assert done.returncode == 2
    assert "detect.minvall: unknown key" in done.stderr
