"""Cluster profiles: what is accepted, what a refusal says, the examples, and dask-jobqueue's own configuration."""

import re
from pathlib import Path

import dask
import pytest
import yaml

from braggflow.cluster import load_profile
from braggflow.cluster.batch_systems import JobKind
from braggflow.cluster.profiles import (
    AllocationProfile,
    BatchProfile,
    ExistingProfile,
    GpuGroup,
    JobGroup,
    LocalProfile,
    _named,
    resolve_profile,
    walltime_seconds,
)
from braggflow.errors import InputError

EXAMPLES = Path(__file__).parents[2] / "cluster"
GROUP = {"cores": 2, "memory": "4GB"}
SLURM = {"kind": "slurm", "walltime": "1:00:00", "cpu": GROUP}


def refusal(data: object) -> str:
    with pytest.raises(InputError) as refused:
        resolve_profile(data)
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "sge"}, "kind: 'sge' is not accepted; must be one of local, existing, allocation, slurm, pbs"),
        ({"kind": ["slurm"]}, "kind: ['slurm'] is not accepted"),
        ({"walltme": "1:00:00"}, "walltme: unknown key (value '1:00:00'); accepted: .* Did you mean walltime?"),
        ({"cpu": {**GROUP, "gpus": 1}}, "cpu.gpus: unknown key (value 1)"),
        ({"cpu": {"cores": 0}}, "cpu.cores: 0 is not accepted"),
        ({"cpu": {"minimum": 3, "maximum": 2}}, "cpu.minimum: 3 must not be above maximum: 2"),
        ({"gpu": {"gpus": 0}}, "gpu.gpus: 0 is not accepted"),
        ({"memory": 64}, "memory: 64 is not accepted; must be a number with its unit, as in 64GB"),
        ({"cpu": {"memory": "64"}}, "cpu.memory: '64' is not accepted; must be a number with its unit"),
        ({"cpu": {"memory": "much"}}, "cpu.memory: 'much' is not accepted"),
        ({"walltime": "soon"}, "walltime: 'soon' is not accepted; must be h:m:s in quotes"),
        ({"gpu": {"walltime": "0:00:30"}}, "gpu.walltime: '0:00:30' is not accepted; must be a minute at least"),
        ({"directory": "/data/my files"}, "directory: '/data/my files' is not accepted; must be a path of letters"),
        ({"directory": "$UNSET_ANYWHERE/x"}, "directory: .* is not accepted"),
        ({"job_script_prologue": "module load x"}, "job_script_prologue: 'module load x' is not accepted"),
        ({"resource_spec": "select=1"}, "resource_spec: select=1 is of PBS"),
        ({"queue": "a", "partition": "b"}, "partition: 'b' is given beside queue: 'a', which is the same key"),
        ({"seconds_per_worker": 0}, "seconds_per_worker: 0 is not accepted"),
    ],
)
def test_a_refused_profile_names_the_key_its_value_and_what_is_accepted(changes, words):
    assert re.search(".*".join(map(re.escape, words.split(".*"))), refusal(SLURM | changes))


@pytest.mark.parametrize("data", [None, [], "slurm", {}])
def test_what_is_no_profile_at_all_is_refused_with_the_kinds_there_are(data):
    assert "local, existing, allocation, slurm, pbs" in refusal(data)


def test_a_batch_profile_without_cpu_group_is_refused():
    assert "cpu: " in refusal({"kind": "slurm", "gpu": GROUP})


def test_every_mistake_of_a_profile_is_named_at_once():
    said = refusal(SLURM | {"memory": 1, "partion": "x"})
    assert "memory: 1" in said
    assert "partion: unknown key" in said


@pytest.mark.parametrize("text", ["walltime: 1:00:00", "walltime: 3600", "cpu: {walltime: 2:00}"])
def test_a_walltime_that_yaml_reads_as_a_number_is_refused_with_the_remedy(text, tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(f"kind: slurm\ncpu: {{}}\n{text}\n" if "cpu" not in text else f"kind: slurm\n{text}\n")
    with pytest.raises(
        InputError, match=r'site.yaml: (cpu\.)?walltime: \d+ is not accepted; put it in quotes, as in "'
    ):
        load_profile(path)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), ("kind: [", "not valid YAML"), ("\xff", "not a UTF-8 text")]
)
def test_a_file_that_cannot_be_read_is_named(content, words, tmp_path):
    path = tmp_path / "site.yaml"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=f"cluster profile {path}: .*{words}"):
        load_profile(path)


def test_hyphens_and_the_word_partition_are_accepted_as_dask_jobqueue_and_slurm_users_write_them():
    made = resolve_profile({**SLURM, "job-extra-directives": ["--qos=x"], "cpu": {**GROUP, "partition": "a"}})
    assert isinstance(made, BatchProfile)
    assert made.job_extra_directives == ("--qos=x",)
    assert made.cpu.queue == "a"


def test_a_group_has_the_options_of_the_profile_unless_it_gives_its_own():
    made = resolve_profile({**SLURM, "account": "beam", "cores": 8, "gpu": {"account": "gpus"}})
    assert isinstance(made, BatchProfile)
    assert made.gpu is not None
    assert made.options(made.cpu) == {"account": "beam", "walltime": "1:00:00", **GROUP}
    assert made.options(made.gpu) == {"account": "gpus", "walltime": "1:00:00", "cores": 8}


def test_paths_are_expanded_here_but_scratch_directories_where_the_job_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PROJECT", "/proj")
    monkeypatch.chdir(tmp_path)
    made = resolve_profile({**SLURM, "log_directory": "$PROJECT/logs", "local_directory": "$TMPDIR"})
    assert isinstance(made, BatchProfile)
    assert (made.directory, made.log_directory) == ("/home/me/.braggflow", "/proj/logs")
    assert made.local_directory == "$TMPDIR"
    relative = resolve_profile({**SLURM, "directory": "shared"})
    assert isinstance(relative, BatchProfile)
    assert relative.directory == str(tmp_path / "shared")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "address: None and scheduler_file: None; exactly one must be given"),
        ({"address": "tls://a:1", "scheduler_file": "/x"}, "address: tls://a:1 and scheduler_file: /x; exactly one"),
        ({"address": "head:8786"}, "address: head:8786 is not accepted; must be tls://host:port or tcp://host:port"),
        ({"address": "tls://head"}, "address: tls://head is not accepted"),
        ({"address": "tls://a:1", "tls_cert": "/c"}, "tls_ca_file: must be given together with tls_cert and tls_key"),
    ],
)
def test_an_existing_scheduler_is_named_in_exactly_one_way(given, words):
    assert words in refusal({"kind": "existing", **given})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("2:00:00", 7200),
        ("100:00:01", 360_001),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("7-00:00:05", 604_805),
    ],
)
def test_a_time_limit_has_the_seconds_that_slurm_gives_it(text, seconds):
    assert walltime_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "1-", "-5", "1:00:00 "])
def test_what_is_no_time_limit_is_refused(text):
    with pytest.raises(InputError, match=r"walltime: .* is not accepted; must be h:m:s"):
        walltime_seconds(text)


@pytest.mark.parametrize("walltime", ["90", "30:00", "1-00:00:00"])
def test_time_limits_that_pbs_reads_otherwise_than_slurm_are_refused(walltime):
    assert "walltime: " in refusal({"kind": "pbs", "cpu": GROUP, "walltime": walltime})
    assert "walltime: " in refusal({"kind": "pbs", "cpu": {**GROUP, "walltime": walltime}})


# ---- the examples ----


def uncommented(name: str) -> str:
    """An example with all of its optional keys: their lines begin with # and no space."""
    return re.sub(r"^( *)#(?=[a-z ]+[a-z_]*:|  - )", r"\1", (EXAMPLES / name).read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["local.yaml", "allocation.yaml", "slurm.yaml", "pbs.yaml", "existing.yaml"])
def test_an_example_is_accepted_as_it_is(name):
    assert load_profile(EXAMPLES / name).kind == name.removesuffix(".yaml")


@pytest.mark.parametrize("name", ["local.yaml", "allocation.yaml", "slurm.yaml", "pbs.yaml"])
def test_an_example_is_accepted_with_all_of_its_optional_keys(name):
    resolve_profile(yaml.safe_load(uncommented(name)))


@pytest.mark.parametrize(
    ("name", "model", "groups"),
    [
        ("local.yaml", LocalProfile, {}),
        ("allocation.yaml", AllocationProfile, {}),
        ("existing.yaml", ExistingProfile, {}),
        ("slurm.yaml", BatchProfile, {"cpu": JobGroup, "gpu": GpuGroup}),
        ("pbs.yaml", BatchProfile, {"cpu": JobGroup, "gpu": GpuGroup}),
    ],
)
def test_an_example_shows_every_key_with_a_comment_and_no_other(name, model, groups):
    shown = _named(yaml.safe_load(uncommented(name)), name)
    of_groups = {key for group in groups for key in shown[group]}
    assert set(shown) <= set(model.model_fields)
    assert all(set(shown[group]) <= set(kind.model_fields) for group, kind in groups.items())
    expected = set(model.model_fields).union(*(kind.model_fields for kind in groups.values()))
    assert set(shown) | of_groups == expected - ({"resource_spec"} if name == "slurm.yaml" else set())
    for line in uncommented(name).splitlines():
        if re.match(r" *[a-z_]+:", line) and not line.startswith("kind:"):
            assert "  # " in line or " # " in line, f"{name}: {line}"


@pytest.mark.parametrize("name", ["slurm.yaml", "pbs.yaml"])
def test_optional_keys_of_an_example_stand_at_the_default_they_state(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    shown, plain = resolve_profile(yaml.safe_load(uncommented(name))), load_profile(EXAMPLES / name)
    assert isinstance(shown, BatchProfile)
    assert isinstance(plain, BatchProfile)
    assert shown.directory == plain.directory
    assert shown.seconds_per_worker == plain.seconds_per_worker
    assert shown.death_timeout == kind_of(SLURM).death_timeout == 300
    assert shown.config_name == shown.kind


def test_the_pbs_example_says_that_it_was_never_tried_on_a_pbs():
    assert "Not tried on a real PBS" in (EXAMPLES / "pbs.yaml").read_text()


# ---- dask-jobqueue's configuration ----


@pytest.fixture(autouse=True, scope="module")
def dask_jobqueue_is_loaded() -> None:
    # What is loaded while dask.config.set holds is gone again when it ends.
    kind_of(SLURM)


def kind_of(profile: dict[str, object], name: str = "cpu") -> JobKind:
    made = resolve_profile(profile)
    assert isinstance(made, BatchProfile)
    return JobKind(made, name, log_directory="/nowhere")


def script_of(profile: dict[str, object], tmp_path: Path) -> str:
    made = resolve_profile(profile)
    assert isinstance(made, BatchProfile)
    return JobKind(made, "cpu", log_directory=str(tmp_path / "logs")).script("braggflow-0", "tls://head:1", None)


def test_what_a_profile_leaves_out_comes_from_dask_jobqueues_own_configuration(tmp_path):
    own = {
        "jobqueue.slurm.queue": "fast",
        "jobqueue.slurm.account": "beam",
        "jobqueue.slurm.cores": 3,
        "jobqueue.slurm.memory": "6GiB",
        "jobqueue.slurm.walltime": "0:10:00",
        "jobqueue.slurm.job-script-prologue": ["module load x"],
        "jobqueue.slurm.job-extra-directives": ["--qos=night"],
        "jobqueue.slurm.python": "/opt/python",
        "jobqueue.slurm.log-directory": str(tmp_path / "mine"),
    }
    with dask.config.set(own):
        text = script_of({"kind": "slurm", "cpu": {"cores": 2}}, tmp_path)
        assert kind_of({"kind": "slurm", "cpu": {}}).workers == 3
    lines = text.splitlines()
    for line in ("#SBATCH -p fast", "#SBATCH -A beam", "#SBATCH --cpus-per-task=2", "#SBATCH --mem=6G"):
        assert line in lines
    for line in ("#SBATCH -t 0:10:00", "#SBATCH --qos=night", "#SBATCH --no-requeue", "module load x"):
        assert line in lines
    assert (
        "/opt/python -m braggflow.cluster.worker distributed,braggflow.flow,braggflow.cluster.worker tls://head:1"
        in text
    )
    assert f"#SBATCH -o {tmp_path}/mine/braggflow-0-%J.out" in lines
    assert not (tmp_path / "logs").exists()


def test_a_section_of_the_users_own_is_taken_where_config_name_says_so():
    section = {**dask.config.get("jobqueue.slurm"), "cores": 5, "memory": "1GB", "queue": "mine"}
    with dask.config.set({"jobqueue.beamline": section}):
        assert kind_of({"kind": "slurm", "config_name": "beamline", "cpu": {}}).option("queue") == "mine"
        assert kind_of({**SLURM, "cpu": {"config_name": "beamline"}}).workers == 5


def test_a_section_that_is_missing_is_named():
    with pytest.raises(InputError, match=r"cpu.config_name: dask's configuration has no section jobqueue.nosuch"):
        kind_of({**SLURM, "config_name": "nosuch"})


def test_a_key_that_a_section_lacks_is_named():
    with (
        dask.config.set({"jobqueue.half": {"cores": 1, "memory": "1GB"}}),
        pytest.raises(InputError, match=r"cpu.config_name: section jobqueue.half lacks the key '\w+'; it must hold"),
    ):
        kind_of({**SLURM, "config_name": "half"})


@pytest.mark.parametrize("key", ["cores", "memory"])
def test_cores_and_memory_that_nobody_gives_are_asked_for(key):
    profile = {**SLURM, "cpu": {name: value for name, value in GROUP.items() if name != key}}
    with pytest.raises(InputError, match=f"cpu.{key}: is not given, neither in the profile nor in jobqueue.slurm"):
        kind_of(profile)


def test_a_bad_value_of_dask_jobqueues_configuration_is_a_refusal_too():
    with dask.config.set({"jobqueue.slurm.memory": "much"}), pytest.raises(InputError, match=r"jobqueue.slurm .*much"):
        kind_of({"kind": "slurm", "cpu": {"cores": 1}})
