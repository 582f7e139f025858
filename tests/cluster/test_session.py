"""The folder of a cluster of batch jobs: who can read it, and what is left of it at the end."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from braggflow.cluster.batch_systems import Pbs
from braggflow.cluster.session import Session, open_session
from braggflow.errors import InputError

CLIENT = """
import sys, time
from pathlib import Path
from braggflow.cluster.batch_systems import Pbs
from braggflow.cluster.session import open_session

with open_session(Path(sys.argv[1]), Pbs()) as held:
    held.security()
    held.remember("7")
    held.remember("8")
    print(held.folder, flush=True)
    time.sleep(60)
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path / "shared"


@pytest.fixture
def qdel_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PBS where job 7 still waits and 8 has ended; the file holds what qdel was asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"
    (folder / "qstat").write_text(
        '#!/bin/sh\nprintf "Job Id: 7.pbs\\n    job_state = Q\\n"\necho "qstat: Unknown Job Id 8.pbs" >&2\nexit 153\n'
    )
    (folder / "qdel").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    for name in ("qstat", "qdel"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return calls


@pytest.fixture(params=[0o000, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_only_the_user_can_read_the_keys_and_the_folders_above_them(shared):
    with open_session(shared, Pbs()) as held:
        security = held.security()
        assert {mode(path) for path in (shared, held.folder, held.keys, held.logs)} == {0o700}
        files = list(held.keys.iterdir())
        assert {path.name for path in files} == {"ca.pem", "cert.pem", "key.pem"}
        assert {mode(path) for path in files} == {0o600}
        assert security.require_encryption
        assert security.tls_worker_key == str(held.keys / "key.pem")


def test_no_two_sessions_have_the_same_key_or_the_same_name_for_their_jobs(shared):
    with open_session(shared, Pbs()) as one, open_session(shared, Pbs()) as other:
        for held in (one, other):
            held.security()
        assert (one.keys / "key.pem").read_text() != (other.keys / "key.pem").read_text()
        assert one.tag != other.tag


@pytest.mark.parametrize("end", [None, RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_at_the_end_however_it_comes(end, shared):
    def use() -> None:
        with open_session(shared, Pbs()) as held:
            held.security()
            held.remember("1")
            (held.logs / "job.out").touch()
            if end is not None:
                raise end

    if end is None:
        use()
    else:
        with pytest.raises(end):
            use()
    assert list(shared.iterdir()) == []


def test_logs_that_are_to_be_kept_stay_and_the_keys_go(shared, qdel_calls):
    with open_session(shared, Pbs()) as held:
        held.security()
        held.remember("7")
        (held.logs / "job.out").write_text("no module named x")
        held.keep_logs = True
    assert (held.logs / "job.out").read_text() == "no module named x"
    assert not held.keys.exists()
    with open_session(shared, Pbs()):
        pass
    assert (held.logs / "job.out").exists()
    assert not qdel_calls.exists()


@pytest.mark.parametrize("kind", ["below a file", "no such file system"])
def test_a_directory_that_cannot_be_used_is_named(kind, tmp_path):
    (tmp_path / "file").touch()
    # Root may write wherever permissions forbid it: these are closed to root too.
    directory = {"below a file": tmp_path / "file" / "shared", "no such file system": Path("/proc/braggflow")}[kind]
    with pytest.raises(InputError) as refused, open_session(directory, Pbs()):
        pytest.fail("the session began")
    assert str(refused.value).startswith(f"directory: {directory} cannot be used (")
    assert "must be a folder that you can write in" in str(refused.value)


def test_a_file_system_that_cannot_close_folders_to_others_is_refused(shared, monkeypatch):
    make = Path.mkdir
    # As on a FAT or SMB mount, whose modes are those of its mounting.
    monkeypatch.setattr(Path, "mkdir", lambda path, **options: (make(path, **options), path.chmod(0o755)))
    with pytest.raises(InputError, match=rf"directory: {shared} is on a file system where .* \(mode 755\)"):
        open_session(shared, Pbs()).__enter__()
    assert list(shared.iterdir()) == []


def test_a_living_clients_session_is_left_alone_and_a_killed_ones_removed_with_its_waiting_jobs(shared, qdel_calls):
    with subprocess.Popen([sys.executable, "-c", CLIENT, shared], stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout is not None
            left = Path(client.stdout.readline().strip())
            with open_session(shared, Pbs()) as held:
                assert set(shared.iterdir()) == {held.folder, left}
            assert not qdel_calls.exists()
        finally:
            client.kill()
    assert (left / "tls" / "key.pem").exists()
    with open_session(shared, Pbs()) as held:
        assert list(shared.iterdir()) == [held.folder]
    assert qdel_calls.read_text() == "7\n"


@pytest.fixture
def abandoned(shared: Path) -> Session:
    """What a client leaves that is killed."""
    left = Session(shared / "somewhere-1-0a1b2c")
    left.keys.mkdir(parents=True)
    left.remember("7")
    left.owner.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": 0.0}))
    return left


def test_another_process_with_the_number_of_a_killed_client_is_not_taken_for_it(abandoned, shared, qdel_calls):
    with open_session(shared, Pbs()):
        assert not abandoned.folder.exists()
    assert qdel_calls.read_text() == "7\n"


def test_the_session_of_another_machine_is_left_alone(abandoned, shared, qdel_calls):
    abandoned.owner.write_text(json.dumps(json.loads(abandoned.owner.read_text()) | {"host": "elsewhere"}))
    with open_session(shared, Pbs()):
        pass
    assert abandoned.keys.exists()
    assert not qdel_calls.exists()


def test_where_jobs_cannot_be_cancelled_now_their_session_stays_for_the_next(abandoned, shared, qdel_calls, tmp_path):
    (tmp_path / "bin" / "qstat").write_text("#!/bin/sh\necho cannot connect to server >&2\nexit 1\n")
    with open_session(shared, Pbs()):
        pass
    assert abandoned.jobs.read_text() == "7\n"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"host": 1}'])
def test_files_of_others_in_the_directory_do_not_matter(content, shared):
    (shared / "other").mkdir(parents=True)
    (shared / "other" / "owner.json").write_text(content)
    with open_session(shared, Pbs()):
        pass
    assert [path.name for path in shared.iterdir()] == ["other"]
