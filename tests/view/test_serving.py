"""Who gets at a page: those who know its token, from its own origin, on this machine, and nobody else."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

import braggflow
from braggflow.errors import InputError
from braggflow.view import View, view
from tests.stores import make_store, spots


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[View]:
    folder = tmp_path_factory.mktemp("page")
    store = make_store(folder / "scan.zarr", spots((60, 80), 5, seed=1)[None])
    with view(store, folder=folder) as served:
        yield served


def status(url: str, **headers: str) -> int:
    try:
        with urlopen(Request(url, headers=headers), timeout=60) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def signed_token(url: str) -> str:
    """The session token in a page that was let in."""
    with urlopen(url, timeout=60) as answer:
        text = answer.read().decode()
    return text.split('"token":"')[1].split('"')[0]


def connected(page: View, token: str, origin: str) -> bool:
    """Whether the page's own connection is opened."""
    base = page.url.split("?")[0]
    request = HTTPRequest(base.replace("http", "ws") + "ws", headers={"Origin": origin})

    async def connect() -> bool:
        try:
            connection = await websocket_connect(request, subprotocols=["bokeh", token])
        except HTTPClientError:
            return False
        message = await connection.read_message()
        connection.close()
        return message is not None

    return bool(IOLoop(make_current=False).run_sync(connect, timeout=60))


def test_the_page_is_given_to_those_who_know_its_token(page: View) -> None:
    assert status(page.url) == 200


@pytest.mark.parametrize("path", ["", "?token=", "?token=wrong", "autoload.js", "metadata", "autoload.js?token=wrong"])
def test_others_are_refused(page: View, path: str) -> None:
    assert status(page.url.split("?")[0] + path) == 403


@pytest.mark.parametrize(
    "path",
    [
        "etc/passwd",
        "../../etc/passwd",
        "static/../../../etc/passwd",
        "static/%2e%2e/%2e%2e/server.py",
        "scan.zarr/zarr.json",
    ],
)
def test_no_file_of_this_machine_has_an_address(page: View, path: str) -> None:
    base, token = page.url.split("?")
    assert status(f"{base}{path}?{token}") in (403, 404)


def test_a_connection_needs_a_session_of_this_server_and_the_origin_of_its_page(page: View) -> None:
    own, token = page.url.split("/?")[0], signed_token(page.url)
    assert connected(page, token, own)
    assert not connected(page, token, "http://example.org")
    assert not connected(page, token, "null")
    head, _, tail = token.partition(".")
    assert not connected(page, f"{head}.{tail[:-4]}AAAA", own)
    assert not connected(page, "x", own)


def test_only_the_loopback_interface_is_listened_at(page: View) -> None:
    port = int(page.url.split(":")[2].split("/")[0])
    listening = [
        connection.laddr.ip
        for connection in psutil.Process().net_connections()
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    assert listening == ["127.0.0.1"]


def test_a_port_that_is_taken_and_a_frame_and_a_folder_that_are_not_there_are_refused(tmp_path: Path) -> None:
    frames = spots((40, 50), 3, seed=0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"--port \d+: is not free"):
            view(frames, port=taken.getsockname()[1])
    with pytest.raises(InputError, match="frame 7: array has no such frame; there are 1, 0 to 0"):
        view(frames, frame=7)
    with pytest.raises(InputError, match="does not exist"):
        view(frames, folder=tmp_path / "nowhere")


def test_a_notebook_shows_the_page_and_stopping_ends_it() -> None:
    page = braggflow.view(spots((40, 50), 3, seed=0))
    assert f'<iframe src="{page.url}"' in page._repr_html_()
    assert repr(page) == f"<braggflow view of array, 1 frames: {page.url}>"
    page.stop()
    with pytest.raises(OSError, match="refused"):
        status(page.url)
