"""Another user of the machine gets nothing from a local cluster, whatever of it listens."""

import json
import os
import subprocess
import sys
import urllib.request

import psutil
import pytest

from braggflow.cluster.connect import local_cluster
from braggflow.cluster.profiles import LocalProfile
from braggflow.config import ComputeConfig
from tests.patience import PATIENCE

NOBODY = 65534
#: What a stranger tries: Dask's own client with and without a certificate, a look at the pages, bytes over each port.
STRANGER = """
import json, os, socket, ssl, sys
from contextlib import suppress
from distributed import Client, Security

address, ports, paths, nobody = json.loads(sys.argv[1])
certificate, got = Security.temporary(), {}
for scheme, security in (("tcp", None), ("tls", certificate)):
    with suppress(OSError):  # all is imported that it needs: who becomes another may not read this Python
        Client(f"{scheme}://127.0.0.1:1", security=security, timeout=0.1)
os.setgroups([])
os.setgid(nobody)
os.setuid(nobody)

def attempt(name, action):
    try:
        got[name] = repr(action())
    except (OSError, TypeError, RuntimeError):  # so distributed says that a certificate is needed, or is not
        got[name] = None

def ran(address, **options):
    with Client(address, timeout=2, **options) as client:
        return client.submit(sum, [1, 2]).result(timeout=2)

def answer(connection):
    connection.settimeout(2)
    connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    data = connection.recv(100)
    return None if data[:1] in (b"", b"\\x15") else data  # closed, or TLS's word for go away

def over(port, *, tls):
    with socket.create_connection(("127.0.0.1", port), timeout=2) as plain:
        if not tls:
            return answer(plain)
        anybody = ssl.create_default_context()
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
        with anybody.wrap_socket(plain) as connection:
            return answer(connection)

attempt("a client", lambda: ran(address.replace("tls://", "tcp://")))
attempt("a client with a certificate", lambda: ran(address, security=certificate))
for port in ports:
    attempt(f"bytes on {port}", lambda: over(port, tls=False))
    attempt(f"bytes in TLS on {port}", lambda: over(port, tls=True))
for path in paths:
    def connected():
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(path)
            return path
    attempt(path, connected)
print(json.dumps({name: said for name, said in got.items() if said not in (None, "None")}))
"""


def listening() -> tuple[set[int], set[str]]:
    """The ports and Unix sockets at which this process and its children listen."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [each for process in processes for each in process.net_connections("all")]
    ports = {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
    paths = {each.laddr for each in found if isinstance(each.laddr, str) and each.laddr}
    return ports, paths


def listening_since(before, client) -> tuple[str, list[int], list[str]]:
    """The scheduler's address, and what listens now and did not then, as other tests of this process may."""
    (ports, paths), (old_ports, old_paths) = listening(), before
    return client.scheduler_info()["address"], sorted(ports - old_ports), sorted(paths - old_paths)


def what_a_stranger_gets(where) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps([*where, NOBODY])],
        env={**os.environ, "DASK_LOGGING__DISTRIBUTED": "critical"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    got: dict[str, str] = json.loads(done.stdout)
    return got


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_of_the_machine_is_refused_by_all_that_listens():
    before = listening()
    with local_cluster(ComputeConfig(workers=1)) as client:
        assert client.submit(sum, [1, 2]).result(timeout=PATIENCE) == 3
        where = listening_since(before, client)
        assert len(where[1]) >= 2  # the scheduler's and a worker's at least
        assert what_a_stranger_gets(where) == {}
        assert client.dashboard_link == ""
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{client.cluster.scheduler.http_server.port}/", timeout=2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_opens_a_cluster_to_others_has_them_in():
    # So that the test before is known to be able to fail.
    open_to_all = LocalProfile(kind="local", tls=False, dashboard=True)
    with local_cluster(ComputeConfig(workers=1), open_to_all) as client:
        address, _, _ = listening_since(listening(), client)
        assert what_a_stranger_gets((address, [], [])) == {"a client": "3"}
        assert urllib.request.urlopen(client.dashboard_link, timeout=PATIENCE).status == 200
