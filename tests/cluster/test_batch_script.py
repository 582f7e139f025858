"""The batch script of a whole run, as text; tests/slurm runs one."""

import shlex
import subprocess
from pathlib import Path

import pytest

from braggflow.cluster import sbatch_script
from braggflow.cluster.batch_script import NOTICE_SECONDS
from braggflow.cluster.profiles import resolve_profile
from braggflow.errors import InputError

PROFILE = {
    "kind": "slurm",
    "queue": "batch",
    "account": "beam",
    "walltime": "4:00:00",
    "memory": "32GB",
    "job_script_prologue": ["module load python"],
    "job_extra_directives": ["--qos=fast", "--gres=gpu:1", "--exclusive"],
    "cpu": {"cores": 16, "python": "/opt/env/bin/python"},
}


def script(arguments=("run.yaml", "scan.zarr"), walltime=None, **changes):
    return sbatch_script(resolve_profile({**PROFILE, **changes}), Path("site.yaml"), arguments, walltime=walltime)


def test_it_asks_for_what_the_client_needs_where_the_profile_says():
    lines = script().splitlines()
    header = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert {"--partition=batch", "--account=beam", "--time=4:00:00", "--qos=fast", "--cpus-per-task=2"} <= header
    assert not any("gpu" in line or "exclusive" in line for line in header)
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines.index("module load python") < lines.index(lines[-1])


def test_the_run_takes_the_place_of_the_shell_so_that_the_notice_before_the_limit_reaches_it():
    text = script()
    assert f"#SBATCH --signal=B:INT@{NOTICE_SECONDS}" in text
    words = shlex.split(text.splitlines()[-1])
    assert words[:4] == ["exec", "/opt/env/bin/python", "-m", "braggflow"]
    assert words[4:] == ["run", "run.yaml", "scan.zarr", "--cluster", str(Path("site.yaml").resolve())]


def test_names_with_spaces_and_signs_reach_the_run_as_they_are(tmp_path, monkeypatch):
    folder = tmp_path / "beam time; rm *"
    folder.mkdir()
    monkeypatch.chdir(folder)
    arguments = ["run.yaml", "a scan's.zarr", "--set", "detect.minval={sigma: 5}"]
    lines = script(arguments).splitlines()
    assert shlex.split(lines[-1])[5 : 5 + len(arguments)] == arguments
    assert shlex.split(lines[-2]) == ["cd", str(folder)]
    subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=True)


def test_its_own_time_limit_stands_above_the_profiles():
    assert "#SBATCH --time=2-00:00:00" in script(walltime="2-00:00:00")
    with pytest.raises(InputError, match="walltime: 0:05:00 is too short"):
        script(walltime="0:05:00")
    with pytest.raises(InputError, match="walltime: 'soon' is not accepted"):
        script(walltime="soon")


def test_other_kinds_of_profile_are_refused():
    with pytest.raises(InputError, match=r"site\.yaml: kind is local, must be slurm"):
        sbatch_script(resolve_profile({"kind": "local"}), Path("site.yaml"), [])
