"""The dashboard's reading of outcomes, which goes on in a thread: it ends when the dashboard does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from features.errors import DependencyDown
from streams.dashboard import outcomes
from streams.dashboard.outcomes import UpliftReader
from streams.panels import Panel
from streams.records import Launch
from streams.settings import Settings
from streams.uplift import Row, gathered
from tests.builders import START_MS


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


def test_a_judgement_says_of_when_it_is_and_what_the_last_reading_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the time at which it was read; when a later reading fails, why, when, and that what is shown is older."""
    monkeypatch.setattr(outcomes, "AGAIN_S", 0.0)
    rows = [
        Row(user_id=str(k), arm="holdout" if k % 5 == 0 else "treated", close_ms=START_MS + k, label=1 if k % 3 == 0 else 0, exposure_id=str(k))
        for k in range(400)
    ]
    clock_ms = [START_MS]

    class Once:
        def __init__(self, *_: Any) -> None:
            self._answers = iter([True])

        def read(self, **_: Any) -> Any:
            if next(self._answers, False):
                return gathered(rows)
            raise DependencyDown("the broker does not answer")

    monkeypatch.setattr(outcomes, "TopicReader", Once)
    launch = Launch(id="one", line="shoes", window_s=60.0, holdout=0.2)

    async def look() -> list[Panel]:
        reader, found = UpliftReader(Settings(), clock_ms=lambda: clock_ms[0]), list[Panel]()
        for _ in range(3):  # what is shown is of the reading before
            found.append(await reader.panel(launch))
            await reader.settled()
            clock_ms[0] += 3_600_000
        await reader.close()
        return found

    first, second, third = asyncio.run(look())
    assert first.empty == "Reading the outcomes."
    assert second.says.endswith("As of 01 Jan 00:00 UTC.")
    assert third.says.endswith(
        "As of 01 Jan 00:00 UTC. The outcomes could not be read at 01 Jan 01:00 UTC: the broker does not answer. What is shown is older."
    )
    assert (second.state, third.state) == ("none", "warn")
    assert third.data
