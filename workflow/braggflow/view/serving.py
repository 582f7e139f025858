"""The server of a page: on the loopback interface alone, and only for those who know its token.

The token stands in the page's address. The page's own connection carries a session token signed with a key of this
process; so no cookie is needed, and none can be stolen by a page of another origin. Whoever has neither is refused,
other users of the machine included. Nothing but the page is served: no file of this machine has an address.
"""

import asyncio
import hmac
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.server.auth_provider import NullAuth
from bokeh.server.server import Server
from bokeh.util.token import check_token_signature
from tornado.web import HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from braggflow.errors import InputError

#: A page that was left open overnight still connects again.
_EXPIRES_SECONDS = 7 * 24 * 3600
_ADDRESS = "127.0.0.1"
#: Sessions whose page was closed go after so many milliseconds.
_UNUSED_MS = 15_000


class _Token(NullAuth):  # type: ignore[misc]
    """Lets those in who know the token, or whose session this server has signed."""

    def __init__(self, token: str, key: bytes) -> None:
        self._token, self._key = token, key

    @property
    def get_user(self) -> Callable[[RequestHandler], str]:
        return self._user

    def _user(self, handler: RequestHandler) -> str:
        if isinstance(handler, WebSocketHandler):
            _, _, signed = handler.request.headers.get("Sec-WebSocket-Protocol", "").partition(",")
            if signed and check_token_signature(signed.strip(), secret_key=self._key, signed=True):
                return "visitor"
        elif hmac.compare_digest(handler.get_argument("token", ""), self._token):
            return "visitor"
        raise HTTPError(403, reason="the token of this page is missing or wrong: use the address that was printed")


class PageServer:
    """Serves one page, made anew for each visitor by `make`."""

    def __init__(self, make: Callable[[Document], None], *, port: int = 0) -> None:
        self.token, key = secrets.token_urlsafe(24), secrets.token_bytes(32)
        self.port = _free_port(port)
        application = Application(FunctionHandler(make, trap_exceptions=False))
        self._loop_thread: threading.Thread | None = None
        origins = [f"{name}:{self.port}" for name in (_ADDRESS, "localhost")]
        self._arguments: dict[str, Any] = {
            "applications": {"/": application},
            "address": _ADDRESS,
            "port": self.port,
            "allow_websocket_origin": origins,
            "sign_sessions": True,
            "secret_key": key,
            "generate_session_ids": True,
            "session_token_expiration": _EXPIRES_SECONDS,
            "auth_provider": _Token(self.token, key),
            "unused_session_lifetime": _UNUSED_MS,
            "include_headers": [],
            "include_cookies": [],
            "websocket_max_message_size": 4 * 1024 * 1024,
        }

    @property
    def url(self) -> str:
        """The page's address, token included."""
        return f"http://{_ADDRESS}:{self.port}/?token={self.token}"

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serve in this thread until Ctrl-C or `stop`."""
        asyncio.run(self._serve(started))

    def start(self) -> None:
        """Serve in a thread of its own; returns when the page can be asked for."""
        up, failed = threading.Event(), list[Exception]()

        def serve() -> None:
            try:
                self.run(up.set)
            except Exception as error:  # noqa: BLE001 - raised by the thread that waits
                failed.append(error)
            finally:
                up.set()

        self._loop_thread = threading.Thread(target=serve, name="braggflow-view", daemon=True)
        self._loop_thread.start()
        up.wait()
        if failed:
            raise failed[0]

    def stop(self) -> None:
        """End; pages that are open say that they have lost their connection."""
        if self._loop_thread is not None and self._loop_thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._loop_thread.join(timeout=10)

    async def _serve(self, started: Callable[[], None]) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = Server(**self._arguments)
        server.start()
        started()
        try:
            await self._end.wait()
        finally:
            server.stop(wait=False)


def _free_port(wanted: int) -> int:
    """The port that is wanted, or for 0 one that is free; raises `InputError` where it is taken."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((_ADDRESS, wanted))
        except OSError as error:
            raise InputError(f"--port {wanted}: is not free ({error.strerror or error}); leave it out") from error
        return int(free.getsockname()[1])
