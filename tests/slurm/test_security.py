"""While a run works on jobs: who can get in, and after it: what is left of its keys."""

import contextlib
import http.client
import ipaddress
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from distributed import Client, Security

from tests.patience import PATIENCE
from tests.slurm.conftest import Slurm, wait_until
from tests.stores import make_store, spots

#: How long a stranger tries.
SECONDS = 3


@dataclass(frozen=True)
class Run:
    """A run that waits for more data sets, with a worker of each group."""

    client: "subprocess.Popen[str]"
    shared: Path
    host: str
    """An address of this machine that others can reach it by."""
    dashboard: int
    """Port on loopback."""
    scheduler: str
    """Address, tls://..."""
    listening: frozenset[tuple[str, int]]
    """Host and port of all that its processes listen on."""

    @property
    def session(self) -> Path:
        return next(self.shared.iterdir())

    @property
    def exposed(self) -> list[tuple[str, int]]:
        """What can be reached from elsewhere."""
        found = [(ipaddress.ip_address(host), port) for host, port in self.listening]
        return [(self.host if host.is_unspecified else str(host), port) for host, port in found if not host.is_loopback]

    def certificate(self) -> tuple[Path, Path]:
        """Files of the certificate and key that the run made."""
        return self.session / "tls" / "cert.pem", self.session / "tls" / "key.pem"


def outward() -> tuple[str, str]:
    """A network interface that is not loopback, and its address."""
    return next(
        (name, address.address)
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    )


def processes(client: int, slurm: Slurm) -> list[psutil.Process]:
    """The client's process, in which the scheduler is, and those of the jobs in the queue."""
    jobs = {job.job_id for job in slurm.queue()}
    found = [psutil.Process(client)]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile, or is the kernel's
            if process.environ().get("SLURM_JOB_ID") in jobs:
                found.append(process)
    return found


def listening(found: list[psutil.Process]) -> Iterator[tuple[str, int]]:
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in process.net_connections(kind="tcp"):
                if each.status == psutil.CONN_LISTEN:
                    yield each.laddr.ip, each.laddr.port


@pytest.fixture(scope="module")
def run(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("security")
    interface, host = outward()
    (folder / "later").mkdir()
    make_store(folder / "scan.zarr", np.stack([spots((64, 64), 5, seed=seed) for seed in range(4)]), chunk=2)
    profile = {
        "kind": "slurm",
        "directory": str(folder / "shared"),
        "walltime": "0:30:00",
        "interface": interface,
        "memory": "2GB",
        "cores": 1,
        "cpu": {"queue": "cpu", "minimum": 1},
        "gpu": {"queue": "gpu", "minimum": 1},
    }
    (folder / "site.yaml").write_text(json.dumps(profile))
    (folder / "run.yaml").write_text(
        json.dumps({"detect": {"minval": 15, "minscore": 10}, "output": {"report": False}})
    )
    command = "run run.yaml scan.zarr --follow later --idle 300 --out runs --cluster site.yaml"
    with (
        (folder / "err").open("w") as err,
        subprocess.Popen(
            [sys.executable, "-m", "braggflow", *command.split()],
            cwd=folder,
            stderr=err,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as client,
    ):
        try:
            outcomes = folder / "runs" / "outcomes.jsonl"
            assert wait_until(lambda: outcomes.exists() or client.poll() is not None)
            assert client.poll() is None, (folder / "err").read_text()
            assert json.loads(outcomes.read_text())["status"] == "complete"
            found = processes(client.pid, slurm)
            words_of_jobs = [word for process in found for word in process.cmdline()]
            shown = re.search(r"dashboard: http://127.0.0.1:(\d+)/status", (folder / "err").read_text())
            assert shown is not None
            yield Run(
                client,
                folder / "shared",
                host,
                int(shown[1]),
                next(word for word in words_of_jobs if word.startswith("tls://")),
                frozenset(listening(found)),
            )
        finally:
            if client.poll() is None:
                client.send_signal(signal.SIGINT)
            client.wait(60)
            slurm.empty_queue(PATIENCE)


@pytest.fixture(autouse=True)
def no_job_is_left() -> None:
    """In place of the check after each test: here the run goes on from test to test, and the last one checks."""


def answer(host: str, port: int, context: ssl.SSLContext | None) -> bytes:
    """What a listener says first to somebody who connects: nothing, if it does not let him in.

    Without TLS it may say that it wants TLS, in a record of its own (an alert, type 21).
    """
    try:
        with socket.create_connection((host, port), timeout=SECONDS) as stream:
            if context is None:
                stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
                said = stream.recv(1024)
                return b"" if said.startswith(b"\x15\x03") else said
            with context.wrap_socket(stream) as encrypted:
                return encrypted.recv(1024)
    except (ssl.SSLError, ConnectionError):
        return b""


def context(certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    """A client that trusts everybody and shows this certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        made.load_cert_chain(*certificate)
    return made


@pytest.fixture
def foreign(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that is as good as the run's, and another."""
    texts = Security.temporary().get_tls_config_for_role("client")
    (tmp_path / "cert.pem").write_text(texts["cert"])
    (tmp_path / "key.pem").write_text(texts["key"])
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def test_the_scheduler_and_of_each_worker_two_processes_listen_on_the_network(run: Run) -> None:
    assert len(run.exposed) == 5
    assert run.scheduler.removeprefix("tls://") in {f"{host}:{port}" for host, port in run.exposed}


def test_only_the_user_can_read_the_keys(run: Run) -> None:
    folders = (run.shared, run.session, run.session / "tls", run.session / "logs")
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (run.session / "tls").iterdir()} == {0o600}


def test_who_shows_the_runs_certificate_is_answered(run: Run) -> None:
    # Else the refusals below would show nothing.
    for host, port in run.exposed:
        assert answer(host, port, context(run.certificate())), f"{host}:{port}"


def test_nobody_else_is_answered(run: Run, foreign: tuple[Path, Path]) -> None:
    for host, port in run.exposed:
        assert answer(host, port, None) == b"", f"{host}:{port} without TLS"
        assert answer(host, port, context(None)) == b"", f"{host}:{port} without certificate"
        assert answer(host, port, context(foreign)) == b"", f"{host}:{port} with another certificate"


def run_code(address: str, security: Security | None) -> str:
    """What a stranger wants: a function of his run by a worker."""
    with Client(address, security=security, timeout=SECONDS, set_as_default=False) as client:
        return str(client.submit(os.getcwd, resources={"CPU": 1}, pure=False).result(timeout=PATIENCE))


def test_a_dask_client_runs_code_with_the_runs_keys_and_with_no_others(run: Run) -> None:
    cert, key = map(str, run.certificate())
    ours = Security(
        require_encryption=True,
        tls_ca_file=str(run.session / "tls" / "ca.pem"),
        tls_client_cert=cert,
        tls_client_key=key,
    )
    assert run_code(run.scheduler, ours)
    with pytest.raises(OSError, match="TLS certificate does not match"):
        run_code(run.scheduler, Security.temporary())
    with pytest.raises(OSError, match=re.escape(run.host)):
        run_code(run.scheduler.replace("tls://", "tcp://"), None)
    with pytest.raises(TypeError, match="ssl_context"):
        run_code(run.scheduler, None)


def http_status(host: str, port: int) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", "/status")
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_dashboard_is_on_loopback_and_no_page_is_served_elsewhere(run: Run) -> None:
    assert http_status("127.0.0.1", run.dashboard) == http.HTTPStatus.OK
    for _, port in run.listening:
        with pytest.raises((OSError, http.client.HTTPException)):
            http_status(run.host, port)


def test_after_the_run_no_key_no_listener_and_no_job_is_left(run: Run, slurm: Slurm) -> None:
    run.client.send_signal(signal.SIGINT)
    run.client.wait(60)
    assert list(run.shared.iterdir()) == []
    assert wait_until(lambda: not slurm.queue())
    for host, port in run.listening:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), timeout=SECONDS)
