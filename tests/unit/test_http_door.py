"""The worker's endpoint, where a client misbehaves; what it serves is tested on real workers."""

from __future__ import annotations

import socket
import threading
import urllib.request
from contextlib import ExitStack
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry

from streams import http_door
from streams.http_access import Access


@pytest.mark.parametrize(("error", "errors"), [(BrokenPipeError("gone"), 0), (ConnectionResetError(), 0), (TimeoutError(), 0), (ValueError("a bug"), 1)])
def test_a_client_that_goes_away_is_no_news(error: Exception, errors: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed when a scrape is cut off, neither by us nor by the standard library; a bug is logged."""
    monkeypatch.setattr(http_door, "logger", logger := Mock())
    server = http_door._Server.__new__(http_door._Server)
    try:
        raise error
    except Exception:  # noqa: BLE001  as the standard library calls it
        server.handle_error(None, ("127.0.0.1", 1))
    assert (logger.debug.call_count, logger.error.call_count) == (1 - errors, errors)
    assert capfd.readouterr().err == ""


def test_a_request_has_a_time_and_requests_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that send a byte now and then hold neither a thread for ever nor one each; afterwards the door answers."""
    monkeypatch.setattr(http_door, "PATIENCE_S", 0.5)
    vitals = Mock(stall="")
    with http_door.Door("127.0.0.1:0", Access(), vitals, CollectorRegistry()) as door, ExitStack() as stack:
        before = threading.active_count()
        clients = [stack.enter_context(socket.create_connection((door.host, door.port), 10)) for _ in range(3 * http_door.MOST_AT_ONCE)]
        ended = 0
        for client in clients:
            ended += dribbled(client)
            assert threading.active_count() - before <= http_door.MOST_AT_ONCE + 2  # one that has just answered may still be ending
        assert ended == len(clients)
        with urllib.request.urlopen(f"http://{door.host}:{door.port}/live", timeout=10) as answer:
            assert answer.read() == b"ok\n"


def test_who_is_slow_hides_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """While more clients than there are threads are slow to send, and may be for a minute, a probe is answered."""
    monkeypatch.setattr(http_door, "PATIENCE_S", 60.0)
    monkeypatch.setattr(http_door, "LEAVE_S", 10.0)
    with http_door.Door("127.0.0.1:0", Access(), Mock(stall=""), CollectorRegistry()) as door, ExitStack() as stack:
        for _ in range(http_door.MOST_AT_ONCE + 3):
            stack.enter_context(socket.create_connection((door.host, door.port), 10)).sendall(b"GET /li")
        for _ in range(3):
            with urllib.request.urlopen(f"http://{door.host}:{door.port}/live", timeout=10) as answer:
                assert answer.read() == b"ok\n"


def dribbled(client: socket.socket) -> bool:
    """Send a byte again and again, more often than the server's patience, until it has had enough."""
    for _ in range(100):
        try:
            client.sendall(b"G")
            client.settimeout(0.1)
            if not client.recv(1):
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False
