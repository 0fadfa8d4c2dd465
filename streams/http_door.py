"""The worker's HTTP endpoint: /metrics for Prometheus, /live and /ready for whoever supervises it. Nothing else, and nothing to a stranger.

A thread of its own serves it, so that it answers, and tells the truth, while the event loop stands still.
"""

from __future__ import annotations

import io
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from features.errors import InputError
from streams.http_access import CHALLENGE, Access
from streams.vitals import Vitals

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 5.0  # for a whole request, and for a client that does not take its answer
MOST_AT_ONCE: Final = 32  # requests; when another comes, those who have been sending the longest are sent away
AWAY: Final = 8  # of them at a time, so that the next few find a thread free
LEAVE_S: Final = 1.0  # that is given to one of them to be gone

Answer = tuple[HTTPStatus, str, bytes]


class _Server(ThreadingHTTPServer):
    """A thread for each request, but no more than the worker can spare: whoever asks is a stranger until the request is read."""

    daemon_threads = True
    request_queue_size = MOST_AT_ONCE

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._sending: dict[socket.socket, None] = {}  # whose request is not read yet, in the order in which they came
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread, if need be in the place of clients who have been sending for long: a probe sends its request at once."""
        if not self._free.acquire(blocking=False) and not (self._send_away() and self._free.acquire(timeout=LEAVE_S)):
            self.shutdown_request(request)
            return
        with self._lock:
            self._sending[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:  # the system has no thread to give; the request is shut down
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, in the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, which nobody may shut down after that."""
        self.is_read(request)
        super().shutdown_request(request)

    def is_read(self, request: socket.socket) -> None:
        """Hear that a client has sent all it had to send, and is answered now."""
        with self._lock:
            self._sending.pop(request, None)

    def _send_away(self) -> bool:
        with self._lock:
            oldest = list(islice(self._sending, AWAY))
            for connection in oldest:
                del self._sending[connection]
                with suppress(OSError):  # it has just gone by itself
                    connection.shutdown(socket.SHUT_RDWR)
        return bool(oldest)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no news; anything else is logged, as the rest of the worker logs."""
        error = sys.exc_info()[1]
        if isinstance(error, (ConnectionError, TimeoutError)):
            logger.debug("an HTTP client went away: %s", error)
        else:
            logger.error("an HTTP request failed", exc_info=error)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Request(io.RawIOBase):
    """What a client sends, until its time is up: a byte every few seconds would else hold a thread for ever."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._until_s = connection, time.monotonic() + PATIENCE_S

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there. Raises TimeoutError."""
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left_s)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(PATIENCE_S)


class Door:
    """Serves at HOST:PORT (port 0: any free one, see `port`) to whom `access` allows. A context manager."""

    def __init__(self, address: str, access: Access, vitals: Vitals, registry: CollectorRegistry) -> None:
        host, _, port = address.rpartition(":")
        self._vitals, self._registry = vitals, registry
        try:
            server = _Server6 if host.startswith("[") else _Server
            self._server = server((host.strip("[]"), int(port)), _handler(self._answer, access))
        except OSError as error:
            raise InputError(f"setting 'http_address': {address} cannot be listened on: {error.strerror}") from None
        self.host, self.port = host, int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.5}, name="http", daemon=True)

    def __enter__(self) -> Door:
        self._thread.start()
        logger.info("http://%s:%d/metrics, /live and /ready", self.host, self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, accepts: str) -> Answer:
        if path == "/metrics":
            encode, kind = choose_encoder(accepts)
            return HTTPStatus.OK, kind, encode(self._registry)
        if path == "/live":
            return _told([self._vitals.stall] if self._vitals.stall else [])
        if path == "/ready":
            return _told(self._vitals.problems())
        return HTTPStatus.NOT_FOUND, "text/plain", b"there is /metrics, /live and /ready\n"


def _told(problems: list[str]) -> Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return status, "text/plain; charset=utf-8", ("\n".join(problems or ["ok"]) + "\n").encode()


def _handler(answer: Callable[[str, str], Answer], access: Access) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server: _Server
        timeout = PATIENCE_S
        server_version, sys_version = "headstart", ""

        def setup(self) -> None:
            super().setup()
            self.rfile.close()
            self.rfile = io.BufferedReader(_Request(self.connection))

        def do_GET(self) -> None:
            self.server.is_read(self.connection)
            if not access.allows(self.headers.get("Authorization"), self.headers.get("Host")):
                self._send(HTTPStatus.UNAUTHORIZED, "text/plain", f"{access.asks_for}\n".encode())
                return
            self._send(*answer(self.path.partition("?")[0], self.headers.get("Accept", "")))

        def do_HEAD(self) -> None:
            self.do_GET()

        def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            if status == HTTPStatus.UNAUTHORIZED:
                self.send_header("WWW-Authenticate", CHALLENGE)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: a probe comes every few seconds."""

    return Handler
