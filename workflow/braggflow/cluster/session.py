"""The folder of one cluster of batch jobs: its keys, which only the user may read, what its jobs print, and their ids.

It lies on the file system that the nodes share, and is removed at the end. What a killed client left behind (keys, jobs
that still wait) is removed by the next one on the same machine.
"""

import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
from distributed import Security

from braggflow.cluster.batch_systems import UnavailableError
from braggflow.cluster.steps import BatchSystem
from braggflow.errors import InputError


@dataclass(slots=True)
class Session:
    """Paths of a session, and whether what its jobs printed is kept at the end."""

    folder: Path
    keep_logs: bool = False

    @property
    def tag(self) -> str:
        """Tells its jobs from those of other sessions."""
        return self.folder.name.rpartition("-")[2]

    @property
    def keys(self) -> Path:
        """Certificate and key that let a process into the cluster."""
        return self.folder / "tls"

    @property
    def logs(self) -> Path:
        """What jobs print."""
        return self.folder / "logs"

    @property
    def jobs(self) -> Path:
        """Ids of all jobs submitted, one a line."""
        return self.folder / "jobs"

    @property
    def owner(self) -> Path:
        """The client's host and process."""
        return self.folder / "owner.json"

    def security(self) -> Security:
        """TLS with a fresh self-signed certificate, demanded of every part; its files are in the folder."""
        made = Security.temporary()
        texts = made.get_tls_config_for_role("client")
        files = {"ca_file": self.keys / "ca.pem", "cert": self.keys / "cert.pem", "key": self.keys / "key.pem"}
        for name, path in files.items():
            path.touch(mode=0o600)
            path.write_text(texts[name], encoding="ascii")
        roles = {
            f"tls_{role}_{name}": str(files[name])
            for role in ("client", "scheduler", "worker")
            for name in ("cert", "key")
        }
        return Security(require_encryption=True, tls_ca_file=str(files["ca_file"]), **roles)

    def remember(self, job: str) -> None:
        """Record a job before anything else happens to it."""
        with self.jobs.open("a", encoding="ascii") as file:
            file.write(f"{job}\n")


@contextmanager
def open_session(directory: Path, batch: BatchSystem) -> Iterator[Session]:
    """A new session in `directory`; raises `InputError` where no folder can be made that only the user can read."""
    made = Session(directory / f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}")
    try:
        try:
            _make(made)
        except OSError as error:
            raise InputError(
                f"directory: {directory} cannot be used ({error.strerror}); must be a folder that you can write in, "
                "on a file system that the nodes share"
            ) from error
        sweep_sessions(directory, batch)
        yield made
    finally:
        shutil.rmtree(made.keys, ignore_errors=True)
        if not made.keep_logs:
            shutil.rmtree(made.folder, ignore_errors=True)


def _make(made: Session) -> None:
    made.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in (made.folder, made.keys, made.logs):
        folder.mkdir(mode=0o700)
    process = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    made.owner.write_text(json.dumps(process), encoding="ascii")
    mode = stat.S_IMODE(made.keys.stat().st_mode)
    if mode & 0o077:
        raise InputError(
            f"directory: {made.folder.parent} is on a file system where a folder cannot be closed to others (mode "
            f"{mode:o}); keys would be open to them. Choose another"
        )


def sweep_sessions(directory: Path, batch: BatchSystem) -> None:
    """Cancel the jobs and remove the keys of sessions whose client on this machine was killed."""
    for owner in directory.glob("*/owner.json"):
        left = Session(owner.parent)
        try:
            process = json.loads(owner.read_text(encoding="ascii"))
            if process["host"] != socket.gethostname() or _lives(process["pid"], process["started"]):
                continue
            ids = left.jobs.read_text(encoding="ascii").split() if left.jobs.exists() else []
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being made, being removed, or not ours
        if not left.keys.exists():
            continue  # it ended in order: its jobs are cancelled, and its logs are for the user
        try:
            batch.cancel(list(batch.states(ids)))
        except UnavailableError:
            continue  # the next session tries again
        shutil.rmtree(left.folder, ignore_errors=True)


def _lives(pid: int, started: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - started) < 1)
    except psutil.NoSuchProcess:
        return False
