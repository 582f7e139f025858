"""The batch script of a whole run, as text; tests/slurm runs one."""

import shlex
import subprocess
from pathlib import Path

import pytest

from braggflow.cluster import sbatch_script
from braggflow.cluster.batch_script import NOTICE_SECONDS
from braggflow.cluster.batch_systems import JobKind
from braggflow.cluster.profiles import resolve_profile
from braggflow.cluster.steps import SHARED_NODE
from braggflow.errors import InputError

PROFILE = {
    "kind": "slurm",
    "queue": "batch",
    "account": "beam",
    "walltime": "4:00:00",
    "memory": "32GB",
    "job_script_prologue": ["module load python"],
    "job_extra_directives": ["--qos=fast", "--gres=gpu:1"],
    "cpu": {"cores": 16, "python": "/opt/env/bin/python"},
}


def script(arguments=("run.yaml", "scan.zarr"), walltime=None, **changes):
    return sbatch_script(resolve_profile({**PROFILE, **changes}), Path("site.yaml"), arguments, walltime=walltime)


def test_it_asks_for_what_the_client_needs_where_the_profile_says():
    lines = script().splitlines()
    header = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert {"--partition=batch", "--account=beam", "--time=4:00:00", "--qos=fast", "--cpus-per-task=2"} <= header
    assert not any("gpu" in line for line in header)
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines.index("module load python") < lines.index(lines[-1])


def test_the_run_takes_the_place_of_the_shell_so_that_the_notice_before_the_limit_reaches_it():
    text = script()
    assert f"#SBATCH --signal=B:INT@{NOTICE_SECONDS}" in text
    words = shlex.split(text.splitlines()[-1])
    assert words[:5] == ["exec", "env", "/opt/env/bin/python", "-m", "braggflow"]
    assert words[5:] == ["run", "run.yaml", "scan.zarr", "--cluster", str(Path("site.yaml").resolve())]


def test_names_with_spaces_and_signs_reach_the_run_as_they_are(tmp_path, monkeypatch):
    folder = tmp_path / "beam time; rm *"
    folder.mkdir()
    monkeypatch.chdir(folder)
    arguments = ["run.yaml", "a scan's.zarr", "--set", "detect.minval={sigma: 5}"]
    lines = script(arguments).splitlines()
    assert shlex.split(lines[-1])[6 : 6 + len(arguments)] == arguments
    assert shlex.split(lines[-2]) == ["cd", str(folder)]
    subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=True)


@pytest.mark.parametrize(
    "python", ["apptainer exec image.sif python", "~/bin/python", "KEY=1 python -X dev", "'/opt/my env/python'"]
)
def test_python_is_a_command_as_in_a_shell_in_this_script_and_in_those_of_workers(python, tmp_path):
    calls, home = tmp_path / "calls", tmp_path / "home"
    for path in (tmp_path / "apptainer", tmp_path / "python", home / "bin" / "python", tmp_path / "my env" / "python"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\nfor word in "$KEY" "$@"; do echo "$word" >> {calls}; done\n')
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(home)}
    python = python.replace("/opt", str(tmp_path))
    profile = resolve_profile({**PROFILE, "cpu": {"cores": 1, "python": python}, "job_script_prologue": []})
    of_run = sbatch_script(profile, Path("site.yaml"), ["run.yaml", "a scan.zarr"])
    of_worker = JobKind(profile, "cpu", log_directory=str(tmp_path)).script("braggflow-0", "tls://head:1", None)
    for text, words in ((of_run, ["braggflow", "run", "run.yaml", "a scan.zarr"]), (of_worker, ["tls://head:1"])):
        calls.unlink(missing_ok=True)
        subprocess.run(["bash"], input=text, text=True, check=True, env=environment)
        said = calls.read_text().splitlines()
        assert said[0] == ("1" if "KEY" in python else "")
        assert ("image.sif" in said) == ("image.sif" in python)
        assert [word for word in said if word in words] == words


def test_what_module_and_conda_do_stands_before_the_shell_is_strict():
    text = script(job_script_prologue=['if [ -z "$NOT_SET_ANYWHERE" ]; then echo prologue; fi', "false"])
    text = text.replace("exec env /opt/env/bin/python", "echo")
    done = subprocess.run(["bash"], input=text, text=True, check=True, capture_output=True)
    assert done.stdout.startswith("prologue\n-m braggflow run")


@pytest.mark.parametrize(
    ("directives", "sinfo", "whole"),
    [
        (["--exclusive", "--mem=0"], "batch|NO\n", True),
        ([], "other*|NO\nbatch|EXCLUSIVE\n", True),
        ([], "other*|EXCLUSIVE\nbatch|NO\n", False),
    ],
)
def test_where_jobs_have_whole_nodes_the_first_workers_share_that_of_the_client(directives, sinfo, whole, install):
    install("sinfo", out=sinfo)
    lines = script(job_extra_directives=directives).splitlines()
    size = {"#SBATCH --cpus-per-task=16", "#SBATCH --mem=30518M"} if whole else {"#SBATCH --cpus-per-task=2"}
    assert size <= set(lines)
    assert any(line.startswith(f"export {SHARED_NODE}=1") for line in lines) == whole
    assert ("#SBATCH --exclusive" in lines) == ("--exclusive" in directives)
    assert "#SBATCH --mem=0" not in lines


def test_its_own_time_limit_stands_above_the_profiles():
    assert "#SBATCH --time=2-00:00:00" in script(walltime="2-00:00:00")
    with pytest.raises(InputError, match="walltime: 0:05:00 is too short"):
        script(walltime="0:05:00")
    with pytest.raises(InputError, match="walltime: 'soon' is not accepted"):
        script(walltime="soon")


def test_other_kinds_of_profile_are_refused():
    with pytest.raises(InputError, match=r"site\.yaml: kind is local, must be slurm"):
        sbatch_script(resolve_profile({"kind": "local"}), Path("site.yaml"), [])
