"""Long work shows that it goes on also where there is no terminal."""

from __future__ import annotations

import re
import sys
import threading
import time
from io import StringIO

import pytest

from streams.commands import progress
from streams.commands.progress import Steps, progress_bar


def _told(errors: StringIO, *parts: str) -> None:
    """Wait until each of these has been told."""
    while not all(part in errors.getvalue() for part in parts):
        time.sleep(0.005)


def test_without_a_terminal_a_line_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step that has moved since it was last told, with its total and the time; one that stands still is told once."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    errors = StringIO()  # reading pytest's own would lose what another thread writes meanwhile
    monkeypatch.setattr(sys, "stderr", errors)
    with progress_bar() as bar:
        steps = Steps(bar, "line books: ")
        steps("features", 5, 10)
        _told(errors, "features: 5")
        steps("rows (of 4 lines)", 1, 3)
        _told(errors, "1 of 3")
        steps("rows (of 4 lines)", 2, 3)
        _told(errors, "2 of 3")
        steps("features", 7, 10)
        _told(errors, "7 of")
    lines = errors.getvalue().splitlines()
    assert re.fullmatch(r"line books: features: 5 of 10 after 0:\d\d", lines[0])
    assert sum("features: 5 of 10" in line for line in lines) == 1
    assert any(re.fullmatch(r"line books: rows \(of 4 lines\): 1 of 3 after 0:\d\d", line) for line in lines)
    assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_short_work_leaves_its_last_state_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """What is done before the first line is due says nothing in between."""
    with progress_bar() as bar:
        Steps(bar)("features", 10, 10)
    assert " after " not in capsys.readouterr().err
