"""Long work on the event loop lets the rest of it go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from models.launch_head import LaunchHead
from models.shared_heads import SharedHeads
from streams import turns as turns_module
from streams.records import SHARED
from streams.turns import Turns
from tests.builders import make_model
from tests.unit.test_learner import T1, open_topic, outcome


@pytest.mark.parametrize(("rests", "size"), [(True, 3), (True, 100), (False, 3)])
def test_parts_are_all_of_it_in_order(rests: bool, size: int) -> None:
    """Without rests they are one."""

    async def work() -> list[list[int]]:
        return [list(part) async for part in Turns(rests=rests).parts(range(8), size)]

    parts = asyncio.run(work())
    assert [i for part in parts for i in part] == list(range(8))
    assert [len(part) for part in parts] == ([3, 3, 2] if rests and size == 3 else [8])


def test_no_rows_are_no_part() -> None:
    """Nothing is asked to learn nothing."""

    async def work() -> list[Sequence[int]]:
        nothing: list[int] = []
        return [part async for part in Turns(rests=False).parts(nothing, 5)]

    assert asyncio.run(work()) == []


@pytest.mark.parametrize(("rests", "held_s"), [(True, 0.0), (True, 3600.0), (False, 0.0)])
def test_the_loop_goes_on_between_parts_of_long_work(rests: bool, held_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there are rests, and the work was long: a short one is done sooner than it could be taken up again."""
    monkeypatch.setattr(turns_module, "HELD_S", held_s)
    seen: list[str] = []
    held = threading.Event()

    async def work() -> None:
        async def other() -> None:
            seen.append("other")

        waiting = asyncio.create_task(other())
        async for part in Turns(rests=rests).parts("abc", 1):
            held.wait(0.001)  # the loop is held
            seen.append(part[-1])
        await waiting

    asyncio.run(work())
    assert (seen.index("other") < seen.index("c")) == (rests and not held_s)


def test_live_a_head_learns_in_parts_what_it_would_learn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared heads and a launch's, to the bit."""
    model = make_model("shoes")
    messages = [outcome(i, key="new" if i % 3 else SHARED, y=int(i % 5 == 0), close_ms=T1 + 1000 * i) for i in range(40)]
    parts: list[int] = []
    for head in (SharedHeads, LaunchHead):
        learning = head.learn_many

        def learn_many(self: Any, *given: Any, learning: Any = learning) -> None:
            parts.append(len(given[-1]))
            learning(self, *given)

        monkeypatch.setattr(head, "learn_many", learn_many)

    async def learned(*, rests: bool = True) -> dict[str, bytes]:
        topic = await open_topic(model, replay=False)
        await topic.commit(0, T1, numbers=len(messages))
        for offset, message in enumerate(messages):
            await topic.learner.receive(message, offset)
        assert await topic.learner.step(rests=rests)
        assert topic.heard == [m.closed.exposure.id for m in messages]
        return (await topic.state())[0]

    at_once = asyncio.run(learned())
    assert (set(at_once), parts) == ({SHARED, "new"}, [26, 14])
    for size in (7, 1):
        parts.clear()
        monkeypatch.setattr("streams.learner.LEARN_AT_ONCE", size)
        assert asyncio.run(learned()) == at_once
        assert (max(parts), sum(parts)) == (size, len(messages))
    parts.clear()
    assert asyncio.run(learned(rests=False)) == at_once  # who is far behind
    assert parts == [26, 14]
