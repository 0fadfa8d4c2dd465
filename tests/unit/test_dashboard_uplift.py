"""The dashboard's reading of outcomes, which goes on in a thread: it ends when the dashboard does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from streams.dashboard import outcomes
from streams.dashboard.outcomes import UpliftReader
from streams.records import Launch
from streams.settings import Settings


def test_a_dashboard_that_ends_does_not_wait_for_the_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being read ends at its next record, what waits for its turn does not begin, and the process is free to go."""
    began, reads = list[str](), threading.Event()

    class Endless:
        def __init__(self, _: Settings, launch: Launch) -> None:
            self._launch = launch

        def read(self, *, timeout_s: float, progress: Callable[[int, int], None]) -> Any:
            began.append(self._launch.id)
            reads.set()
            until_s = time.monotonic() + 0.1 * timeout_s
            while time.monotonic() < until_s:
                progress(1, 2)
                time.sleep(0.001)

    monkeypatch.setattr(outcomes, "TopicReader", Endless)

    async def look() -> None:
        reader = UpliftReader(Settings())
        for name in ("one", "other"):
            await reader.panel(Launch(id=name, line="shoes", window_s=60.0, holdout=0.1))
        assert await asyncio.to_thread(reads.wait, 30)
        await reader.close()

    began_s = time.monotonic()
    asyncio.run(look())
    assert time.monotonic() - began_s < 0.1 * outcomes.TIMEOUT_S
    assert began == ["one"]
