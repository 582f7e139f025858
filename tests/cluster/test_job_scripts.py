"""Job scripts as text; no batch system is needed."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import dask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braggflow.cluster.batch_systems import JobKind, lifetimes
from braggflow.cluster.profiles import BatchProfile, resolve_profile, walltime_seconds
from braggflow.cluster.session import Session
from braggflow.errors import InputError
from tests.patience import PATIENCE

PROFILE = {
    "kind": "slurm",
    "account": "beam",
    "walltime": "4:00:00",
    "interface": "ib0",
    "cpu": {"queue": "compute", "cores": 8, "memory": "16GiB"},
    "gpu": {"queue": "gpu", "cores": 4, "memory": "8GiB"},
}
PBS = PROFILE | {"kind": "pbs"}


def kind_of(profile: dict[str, object], name: str = "cpu", logs: Path | str = "/logs") -> JobKind:
    made = resolve_profile(profile)
    assert isinstance(made, BatchProfile)
    return JobKind(made, name, log_directory=str(logs))


@pytest.fixture
def render(tmp_path):
    """The directives, and the words of the worker's command, of a job script."""

    def rendered(profile: dict[str, object], name: str = "cpu", security: object = None) -> tuple[list[str], list[str]]:
        text = kind_of(profile, name, tmp_path).script(f"braggflow-0a1b2c-{name}-0", "tls://head:1", security)
        lines = [line for line in text.splitlines() if line]
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
        marks = ("#SBATCH ", "#PBS ")
        return [
            line.partition(" ")[2].replace(str(tmp_path), "LOGS") for line in lines if line.startswith(marks)
        ], shlex.split(lines[-1])

    return rendered


def value_of(option: str, words: list[str]) -> str:
    """The value of an option: the last one counts."""
    return words[len(words) - words[::-1].index(option)]


def test_a_slurm_job_asks_for_what_the_profile_says_and_never_comes_twice(render):
    assert render(PROFILE)[0] == [
        "-J braggflow-0a1b2c-cpu-0",
        "-e LOGS/braggflow-0a1b2c-cpu-0-%J.err",
        "-o LOGS/braggflow-0a1b2c-cpu-0-%J.out",
        "-p compute",
        "-A beam",
        "-n 1",
        "--cpus-per-task=8",
        "--mem=16G",
        "-t 4:00:00",
        "--no-requeue",
    ]


def test_a_pbs_job_asks_for_what_the_profile_says_and_never_comes_twice(render):
    assert render(PBS)[0] == [
        "-N braggflow-0a1b2c-cpu-0",
        "-q compute",
        "-A beam",
        "-l select=1:ncpus=8:mem=16GB",
        "-l walltime=4:00:00",
        "-r n",
        "-j oe",
        "-o LOGS/braggflow-0a1b2c-cpu-0.out",
    ]
    assert "-l select=1:ncpus=4:ngpus=1:mem=8192mb" in render(PBS, "gpu")[0]
    own = PBS | {"gpu": {**PBS["gpu"], "resource_spec": "select=1:ncpus=4:ngpus=1:gpu_model=a100"}}
    assert "-l select=1:ncpus=4:ngpus=1:gpu_model=a100" in render(own, "gpu")[0]


def test_the_output_of_a_job_is_one_file_or_two_named_after_it(tmp_path, render):
    name = "braggflow-0a1b2c-cpu-0"
    for profile in (PROFILE, PBS):
        outputs = [Path(line.split("LOGS/")[1]).name for line in render(profile)[0] if "LOGS/" in line]
        assert outputs
        assert all(re.fullmatch(rf"{name}[-.].*", output) for output in outputs)


def test_a_gpu_job_asks_for_its_gpus_and_has_a_worker_for_each(render):
    profile = PROFILE | {"gpu": {**PROFILE["gpu"], "gpus": 4}}
    directives, words = render(profile, "gpu")
    assert directives.count("--gres=gpu:4") == 1
    assert value_of("--nworkers", words) == "4"
    assert value_of("--nthreads", words) == "1"
    assert value_of("--memory-limit", words) == "2.00GiB"
    assert kind_of(profile, "gpu").workers == 4
    assert "gres" not in " ".join(render(profile)[0])


@pytest.mark.parametrize("directive", ["--gres=gpu:a100:1", "--gres gpu:1", "--gpus=1", "--gpus-per-node=1", "-G 1"])
def test_gpus_that_the_user_asks_for_are_not_asked_for_again(directive, render):
    profile = PROFILE | {"gpu": {**PROFILE["gpu"], "job_extra_directives": [directive]}}
    asking = [line for line in render(profile, "gpu")[0] if re.search("gres|gpus|-G", line)]
    assert asking == [directive]


def test_an_option_that_only_looks_like_it_asks_for_no_gpu(render):
    profile = PROFILE | {"gpu": {**PROFILE["gpu"], "job_extra_directives": ["--gres-flags=enforce-binding"]}}
    assert "--gres=gpu:1" in render(profile, "gpu")[0]


def test_a_number_of_workers_meant_for_cpu_jobs_puts_no_more_of_them_on_a_gpu():
    assert kind_of(PROFILE | {"processes": 4}).workers == 4
    assert kind_of(PROFILE | {"processes": 4}, "gpu").workers == 1
    assert kind_of(PROFILE | {"gpu": {**PROFILE["gpu"], "processes": 2}}, "gpu").workers == 2


def test_a_cpu_job_has_a_worker_of_one_thread_for_each_core(render):
    _, words = render(PROFILE)
    assert value_of("--nworkers", words) == "8"
    assert value_of("--nthreads", words) == "1"
    assert kind_of(PROFILE).workers == 8


def test_more_workers_than_cores_are_refused():
    with pytest.raises(InputError, match=r"gpu.cores: 4 is too few for 8 workers, which need one each"):
        kind_of(PROFILE | {"gpu": {**PROFILE["gpu"], "gpus": 8}}, "gpu")


def test_workers_offer_their_resource_listen_for_the_network_given_and_show_dashboards_to_their_own_node(render):
    for name, resource in (("cpu", "CPU=1"), ("gpu", "GPU=1")):
        own = PROFILE | {"worker_extra_args": ["--dashboard-address", ":8787", "--resources", "X=1", "--verbose"]}
        for profile in (PROFILE, own):
            _, words = render(profile, name)
            assert value_of("--resources", words) == resource
            assert value_of("--dashboard-address", words) == "127.0.0.1:0"
            assert value_of("--preload", words) == "braggflow.cluster.worker"
            assert value_of("--interface", words) == "ib0"
            assert value_of("--name", words) == f"braggflow-0a1b2c-{name}-0"
        assert "--verbose" in words


def test_workers_are_given_the_files_of_their_certificate(render, tmp_path):
    session = Session(tmp_path / "host-1-0a1b2c")
    session.keys.mkdir(parents=True)
    _, words = render(PROFILE, security=session.security())
    assert value_of("--protocol", words) == "tls://"
    for option, name in (("--tls-ca-file", "ca.pem"), ("--tls-cert", "cert.pem"), ("--tls-key", "key.pem")):
        assert Path(value_of(option, words)).read_text().startswith("-----BEGIN")
        assert Path(value_of(option, words)).name == name
    assert not any("-----" in word for word in words)


def test_python_is_that_of_this_process_unless_the_profile_names_one(render):
    assert render(PROFILE)[1][0] == sys.executable
    assert render(PROFILE | {"python": "/opt/env/bin/python"})[1][0] == "/opt/env/bin/python"


def test_the_users_commands_run_in_order_before_the_worker(tmp_path):
    profile = PROFILE | {"job_script_prologue": ["module load x", "export Y=1"]}
    text = kind_of(profile, logs=tmp_path).script("n", "tls://head:1", None)
    places = [
        text.index(part)
        for part in ("#SBATCH -t", "module load x", "export Y=1", "braggflow.cluster.worker distributed")
    ]
    assert places == sorted(places)
    assert "export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-134217728}" in text


def test_directives_can_be_added_and_left_out(render):
    for profile, skipped in ((PROFILE, "--mem"), (PBS, "-A beam")):
        directives, _ = render(profile | {"job_extra_directives": ["--x=1", "--y"], "job_directives_skip": [skipped]})
        assert {"--x=1", "--y"} <= set(directives)
        assert not any(skipped in line for line in directives)


@given(walltime=st.integers(120, 7 * 86_400))
def test_every_worker_leaves_well_before_its_time_limit_and_each_at_its_own_time(walltime):
    lifetime, stagger = lifetimes(walltime)
    margin = walltime - (lifetime + stagger)
    assert 30 <= margin <= max(60, 300)  # for the start of the worker, and for what it does when it leaves
    assert stagger >= min(walltime / 10, 300) - 1
    assert lifetime - stagger >= walltime / 2


@pytest.mark.parametrize("walltime", ["0:02:00", "30", "2:00:00", "7-00:00:00"])
def test_the_lifetime_in_a_script_is_that_of_its_walltime(walltime, render):
    _, words = render(PROFILE | {"walltime": walltime})
    lifetime, stagger = lifetimes(walltime_seconds(walltime))
    assert value_of("--lifetime", words) == f"{lifetime}s"
    assert value_of("--lifetime-stagger", words) == f"{stagger}s"


@pytest.mark.parametrize("own", [["--lifetime", "1h"], ["--lifetime=1h"], ["--lifetime 1h"]])
def test_a_lifetime_of_the_users_own_stands(own, render):
    _, words = render(PROFILE | {"worker_extra_args": own})
    assert " ".join(words).count("--lifetime") == 1


def test_former_names_of_dask_jobqueues_options_are_still_read(render):
    kind_of(PROFILE)  # dask-jobqueue's configuration is there once it is loaded
    former = {"jobqueue.slurm.job-extra": ["--qos=night"], "jobqueue.slurm.extra": ["--verbose"]}
    with dask.config.set(former), pytest.warns(FutureWarning, match="renamed"):
        directives, words = render(PROFILE)
    assert "--qos=night" in directives
    assert "--verbose" in words


def test_a_log_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    kind = kind_of(PROFILE | {"log_directory": str(tmp_path / "file" / "logs")})
    with pytest.raises(InputError, match=r"cpu.log_directory: .*/file/logs cannot be made \(Not a directory\)"):
        kind.script("n", "tls://head:1", None)


def test_loading_dask_jobqueue_leaves_ctrl_c_as_it_was():
    code = (
        "import signal; from braggflow.cluster.batch_systems import _job_class\n"
        "_job_class('slurm'); assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    # A shell starts background jobs with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
    finally:
        signal.signal(signal.SIGINT, before)
