"""The worker's endpoint, where a client misbehaves; what it serves is tested on real workers."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from streams import http_door


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
