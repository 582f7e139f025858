"""What the batch systems' answers are taken for. Commands that print what the real ones print stand in for them."""

import re

import pytest

from braggflow.cluster.batch_systems import JobState, Pbs, Slurm, UnavailableError, submit_job
from braggflow.errors import InputError
from tests.cluster.test_job_scripts import PBS, PROFILE, kind_of

SBATCH_NEVER = [
    "sbatch: error: invalid partition specified: nosuch\n"
    "sbatch: error: Batch job submission failed: Invalid partition name specified",
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    "sbatch: error: CPU count per node can not be satisfied\n"
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
    "sbatch: error: Memory specification can not be satisfied\n"
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
    "sbatch: error: Batch job submission failed: Invalid qos specification",
    "sbatch: error: Batch job submission failed: User's group not permitted to use this partition",
    "sbatch: error: Batch job submission failed: Access/permission denied",
    "sbatch: unrecognized option '--nosuch'\nTry \"sbatch --help\" for more information",
]
SBATCH_LATER = [
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    "sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)",
    "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
    "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
    "sbatch: error: Batch job submission failed: Invalid job credential",
    "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
    "accounting/QOS policy (job submit limit, user's size and/or time limits)",
]
QSUB_NEVER = [
    "qsub: Unknown queue",
    "qsub: Illegal attribute or resource value Resource_List.ngpus",
    "qsub: Job violates queue and/or server resource limits",
    "qsub: Unauthorized Request",
    "qsub: Job rejected by all possible destinations",
]
QSUB_LATER = [
    "qsub: cannot connect to server pbs01 (errno=15010)",
    "qsub: would exceed queue generic's per-user limit of jobs in 'Q' state",
    "qsub: Queue is not enabled",
]


@pytest.mark.parametrize(
    ("profile", "said"), [*((PROFILE, said) for said in SBATCH_NEVER), *((PBS, said) for said in QSUB_NEVER)]
)
def test_a_request_that_will_never_be_granted_is_refused_in_the_batch_systems_words(profile, said, install):
    install("sbatch", err=said, status=1)
    install("qsub", err=said, status=1)
    with pytest.raises(InputError) as refused:
        submit_job(kind_of(profile), "script")
    message = str(refused.value)
    command = "sbatch" if profile is PROFILE else "qsub"
    assert message.startswith(f"cpu: the job is refused; {command}: ")
    assert message.count(f"{command}:") == 1
    for line in said.splitlines():
        assert re.sub(r"^\w+: (error: )?", "", line) in message


@pytest.mark.parametrize(
    ("profile", "said"), [*((PROFILE, said) for said in SBATCH_LATER), *((PBS, said) for said in QSUB_LATER)]
)
def test_a_request_that_fails_for_the_moment_is_one_to_be_tried_again(profile, said, install):
    install("sbatch", err=said, status=1)
    install("qsub", err=said, status=1)
    with pytest.raises(UnavailableError):
        submit_job(kind_of(profile), "script")


def test_the_id_of_a_job_is_found_in_what_was_printed(install):
    install("sbatch", out="sbatch: warning\nSubmitted batch job 4711\n")
    install("qsub", out="815.pbs01.example.org\n")
    assert submit_job(kind_of(PROFILE), "script") == "4711"
    assert submit_job(kind_of(PBS), "script") == "815"
    install("sbatch", out="nothing to be seen")
    with pytest.raises(UnavailableError, match="sbatch printed no job id: 'nothing to be seen'"):
        submit_job(kind_of(PROFILE), "script")


def test_a_missing_command_is_named_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for profile, command in ((PROFILE, "sbatch"), (PBS, "qsub")):
        with pytest.raises(InputError, match=f"{command}: is not a command of this machine; run where jobs are"):
            submit_job(kind_of(profile), "script")
    with pytest.raises(InputError, match="squeue: is not a command"):
        Slurm().states(["1"])
    with pytest.raises(InputError, match="qstat: is not a command"):
        Pbs().states(["1"])


def test_without_jobs_the_batch_system_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for batch in (Slurm(), Pbs()):
        assert not batch.states([])
        batch.cancel([])


@pytest.mark.parametrize(
    ("row", "state", "hopeless"),
    [
        ("7|RUNNING|None", JobState(running=True), False),
        ("7|COMPLETING|None", JobState(running=True), False),
        ("7|CONFIGURING|None", JobState(running=False), False),
        ("7|PENDING|None", JobState(running=False), False),
        ("7|PENDING|Priority", JobState(running=False, reason="Priority"), False),
        ("7|PENDING|Resources", JobState(running=False, reason="Resources"), False),
        ("7|PENDING|QOSMaxCpuPerUserLimit", JobState(running=False, reason="QOSMaxCpuPerUserLimit"), False),
        ("7|PENDING|AssocGrpCpuLimit", JobState(running=False, reason="AssocGrpCpuLimit"), False),
        ("7|PENDING|PartitionDown", JobState(running=False, reason="PartitionDown"), False),
        ("7|PENDING|PartitionTimeLimit", JobState(running=False, reason="PartitionTimeLimit"), True),
        ("7|PENDING|PartitionConfig", JobState(running=False, reason="PartitionConfig"), True),
        ("7|PENDING|QOSMaxCpuPerJobLimit", JobState(running=False, reason="QOSMaxCpuPerJobLimit"), True),
    ],
)
def test_slurms_word_for_a_job_says_whether_it_runs_why_it_waits_and_whether_for_ever(row, state, hopeless, install):
    install("squeue", out=f"6|RUNNING|None\n{row}\n")
    found = Slurm().states(["7", "8"])
    assert found == {"7": state}
    assert found["7"].hopeless is hopeless


def test_a_job_that_slurm_keeps_from_a_partition_for_ever_is_told_with_the_whole_sentence(install):
    reason = "Job's account not known, so it can't use this partition (restricted allows beam)"
    install("squeue", out=f"7|PENDING|{reason}\n")
    assert Slurm().states(["7"])["7"] == JobState(running=False, reason=reason)
    assert Slurm().states(["7"])["7"].hopeless


#: As `qstat -f` of PBS Pro prints: attributes indented, long lines folded with a tab, finished jobs named on stderr.
QSTAT = """\
Job Id: 101.pbs01
    Job_Name = braggflow-0a1b2c-cpu-0
    Job_Owner = me@login1.example.org
    job_state = R
    queue = workq
    Variable_List = PBS_O_HOME=/home/me,PBS_O_PATH=/usr/bin:/bin:/opt/pbs/bin,PB
\tS_O_HOST=login1.example.org
    comment = Job run at Tue Nov 04 at 10:11 on (node01:ncpus=8:mem=16777216kb)

Job Id: 102.pbs01
    Job_Name = braggflow-0a1b2c-cpu-1
    job_state = Q
    comment = Not Running: Insufficient amount of resource: ncpus (R: 8 A: 0 T:
\t 64)

Job Id: 103.pbs01
    job_state = F

Job Id: 104.pbs01
    job_state = E

Job Id: 105.pbs01
    job_state = H
"""


def test_qstat_says_which_jobs_run_and_why_others_wait(install):
    calls = install("qstat", out=QSTAT)
    found = Pbs().states(["101", "102", "103", "104", "105"])
    assert calls.read_text() == "-f 101 102 103 104 105\n"
    assert {job: state.running for job, state in found.items()} == {
        "101": True,
        "102": False,
        "104": True,
        "105": False,
    }
    assert found["102"].reason == "Not Running: Insufficient amount of resource: ncpus (R: 8 A: 0 T: 64)"
    assert not any(state.hopeless for state in found.values())


def test_jobs_that_have_ended_do_not_hide_those_that_run(install):
    ended = "qstat: Unknown Job Id 99.pbs01\nqstat: 98.pbs01 Job has finished, use -x or -H to obtain historical job\n"
    install("qstat", out=QSTAT, err=ended, status=35)
    assert "101" in Pbs().states(["98", "99", "101"])
    install("qstat", err=ended, status=153)
    assert Pbs().states(["98", "99"]) == {}


def test_a_batch_system_that_does_not_answer_is_no_sign_that_jobs_have_ended(install):
    install("qstat", err="qstat: cannot connect to server pbs01 (errno=15010)", status=255)
    with pytest.raises(UnavailableError, match="cannot connect to server pbs01"):
        Pbs().states(["101"])
    install("squeue", err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)", status=1)
    with pytest.raises(UnavailableError, match="Unable to contact slurm controller"):
        Slurm().states(["101"])
    install("qstat", status=1)
    with pytest.raises(UnavailableError, match="qstat: exit status 1"):
        Pbs().states(["101"])


def test_cancelling_jobs_that_have_ended_is_no_error_and_one_that_did_not_work_is(install):
    install("scancel", err="scancel: error: Kill job error on job id 7: Invalid job id specified", status=1)
    calls = install("qdel", err="qdel: Unknown Job Id 7.pbs01\nqdel: Job has finished 8.pbs01", status=35)
    Slurm().cancel(["7"])
    Pbs().cancel(["7", "8"])
    assert calls.read_text() == "7 8\n"
    failed = "scancel: error: Kill job error on job id 7: Unable to contact slurm controller (connect failure)"
    install("scancel", err=failed, status=1)
    install("qdel", err="qdel: cannot connect to server pbs01 (errno=15010)", status=255)
    with pytest.raises(UnavailableError, match="scancel: Kill job error on job id 7: Unable to contact"):
        Slurm().cancel(["7"])
    with pytest.raises(UnavailableError, match="qdel: cannot connect"):
        Pbs().cancel(["7"])


SINFO = "cpu*|4|8000|infinite\nshort|4|8000|5:00\nbig|64|512000+|2-00:00:00\nbig|32|256000|2-00:00:00\n"


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"queue": "nosuch"}, "cpu.queue: there is no partition nosuch; there are: big, cpu, short"),
        ({"queue": "cpu,nosuch"}, "cpu.queue: there is no partition cpu,nosuch"),
        ({"queue": None, "memory": "900GB"}, "cpu.memory: 900GB is more than a node of partition cpu has (8000 MiB)"),
        ({"queue": "big", "memory": "900GB"}, "cpu.memory: 900GB is more than a node of partition big has (512000"),
        ({"queue": "cpu", "cores": 64}, "cpu.cores: 64 is more than a node of partition cpu has (4)"),
        ({"queue": "short"}, "cpu.walltime: 1:00:00 is longer than a node of partition short is given for (5:00)"),
        ({"queue": "big", "walltime": "3-00"}, "cpu.walltime: 3-00 is longer than a node of partition big is given"),
    ],
)
def test_what_no_node_of_the_partition_can_run_is_refused_before_anything_is_submitted(group, words, install):
    install("sinfo", out=SINFO)
    profile = {"kind": "slurm", "walltime": "1:00:00", "cpu": {"cores": 1, "memory": "2GB", **group}}
    with pytest.raises(InputError) as refused:
        Slurm().refuse_impossible(kind_of(profile))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "group",
    [
        {"queue": "cpu", "walltime": "30-00"},
        {"queue": "short", "walltime": "5"},
        {"queue": "big", "cores": 64, "memory": "500GiB"},
        {"queue": "short,big", "cores": 64, "walltime": "2-00:00:00"},
        {},
    ],
)
def test_what_a_node_of_the_partition_can_run_passes(group, install):
    calls = install("sinfo", out=SINFO)
    profile = {"kind": "slurm", "walltime": "1:00:00", "cpu": {"cores": 1, "memory": "2GB", **group}}
    Slurm().refuse_impossible(kind_of(profile))
    assert calls.read_text().startswith("-a ")  # hidden partitions can be used too
