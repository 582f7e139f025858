"""`braggflow cluster check` and `cluster script`, as a user types them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def change(site: Path, **keys: object) -> None:
    profile = json.loads((site / "site.yaml").read_text())
    (site / "site.yaml").write_text(json.dumps(profile | keys))


@pytest.fixture
def apptainer(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """The command of Python in a container: one that runs what follows the image stands in for Apptainer."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "apptainer").write_text(
        '#!/bin/sh\n[ "$1 $2" = "exec image.sif" ] || exit 1\nshift 2\nexec env IN_CONTAINER=1 "$@"\n'
    )
    (folder / "apptainer").chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return f"apptainer exec image.sif {sys.executable}"


@pytest.mark.slow
def test_a_profile_is_tried_out_with_one_job_of_each_group(site, slurm, tmp_path_factory):
    # A slow file system: every module takes 2 ms longer.
    slow = tmp_path_factory.mktemp("slow")
    (slow / "sitecustomize.py").write_text(
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, *_, **__):\n"
        "        time.sleep(0.002)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    prologue = [f"export PYTHONPATH={slow}:$PYTHONPATH", "sleep 2"]
    change(site, job_script_prologue=prologue, seconds_per_worker=1)
    done = braggflow(site, "cluster", "check", "site.yaml", "scan.zarr")
    assert done.returncode == 0, done.stderr
    took = re.findall(r"ready (\d+) s after its job began: (\d+) s until Python, (\d+) s of imports", done.stdout)
    assert len(took) == 2, done.stdout
    for seconds, before, imports in (map(int, one) for one in took):
        assert 1 <= before < PATIENCE
        assert imports >= 2
        assert seconds >= before + imports - 1
    assert "imports took longer than the 1 s of work that a worker is asked for" in done.stdout
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


def ran(site: Path, status: str = "complete") -> dict[str, Any]:
    """The record of the run, by a job that wrote this log."""
    (log,) = site.glob("braggflow-*.log")
    info = read_run_info(RunFolder(site / "runs" / "scan"))
    assert info["status"] == status, log.read_text()
    return info


@pytest.mark.slow
def test_a_batch_script_does_a_whole_run_in_a_container_on_whole_nodes(site, slurm, apptainer):
    change(
        site, python=apptainer, cpu={"partition": "whole", "cores": 4, "processes": 2, "memory": "4GB", "maximum": 1}
    )
    words = ("cluster", "script", "site.yaml", "run.yaml", "scan.zarr", "--out", "runs", "--write", "run.sh")
    assert braggflow(site, *words).returncode == 0
    assert "run.sh: exists" in braggflow(site, *words).stderr
    command("sbatch", f"--chdir={site}", str(site / "run.sh"))
    submitted = set[str]()
    assert wait_until(lambda: not {job.name for job in slurm.queue() if not submitted.add(job.name)})
    # The client's own node had the CPU workers: only the GPU's was a job of its own.
    assert sorted(name.split("-")[-2:][0] for name in submitted) == ["braggflow", "gpu"]
    workers = {task.split()[1].split("-")[2] for task in ran(site)["tasks"]}
    assert workers == {"cpu", "gpu"}


@pytest.mark.slow
def test_an_allocation_is_filled_and_ended_in_order_by_the_run_in_its_batch_script(site, slurm, apptainer):
    profile = {"kind": "allocation", "directory": str(site / "shared"), "interface": outside_interface()}
    (site / "site.yaml").write_text(json.dumps(profile | {"python": apptainer, "processes": 2}))
    run = f"exec {apptainer} -m braggflow run run.yaml scan.zarr --out runs --cluster site.yaml"
    (site / "run.sh").write_text(f"#!/usr/bin/env bash\n{run} --follow .\n")
    submit = ("sbatch", "--nodes=2", "--cpus-per-task=3", "--mem=4G", "--output=braggflow-%j.log", "run.sh")
    job = command(*submit[:-1], "--parsable", f"--chdir={site}", str(site / "run.sh")).strip()
    info = site / "runs" / "scan" / "run.json"
    assert wait_until(lambda: not slurm.queue() or (info.exists() and '"status": "complete"' in info.read_text()))
    assert [each.job_id for each in slurm.queue()] == [job], "a job was submitted from inside"
    # As --signal=B:INT@180 does, three minutes before the time limit.
    command("scancel", "--signal=INT", "--batch", job)
    assert wait_until(lambda: not slurm.queue())
    tasks = ran(site)["tasks"]
    assert {task.split()[1].rpartition("-")[0].split("-", 2)[2] for task in tasks} <= {"cpu-0", "cpu-1"}
    assert not list((site / "shared").iterdir())
    (log,) = site.glob("braggflow-*.log")
    assert "Traceback" not in log.read_text()


def test_a_mistake_is_found_before_the_script_waits_in_the_queue(site):
    done = braggflow(site, "cluster", "script", "site.yaml", "run.yaml", "scan.zarr", "--set", "detect.minvall=3")
    assert done.returncode == 2
    assert "detect.minvall: unknown key" in done.stderr
