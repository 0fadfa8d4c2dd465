"""The worker's endpoint, where a client misbehaves; what it serves is tested on real workers."""

from __future__ import annotations

import logging

import pytest

from streams.http_door import _Server


@pytest.mark.parametrize(
    ("error", "logged"), [(BrokenPipeError("gone"), []), (ConnectionResetError(), []), (TimeoutError(), []), (ValueError("a bug"), ["an HTTP request failed"])]
)
def test_a_client_that_goes_away_is_no_news(error: Exception, logged: list[str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed when a scrape is cut off, neither by us nor by the standard library; a bug is logged."""
    server = _Server.__new__(_Server)
    with caplog.at_level(logging.INFO):
        try:
            raise error
        except Exception:  # noqa: BLE001  as the standard library calls it
            server.handle_error(None, ("127.0.0.1", 1))
    assert [record.message for record in caplog.records] == logged
    assert capfd.readouterr().err == ""
