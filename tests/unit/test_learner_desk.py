"""The loop around a learner: what is learned in one step."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock

import pytest

from features.memory_store import MemoryStore
from streams import learner_desk as learner_desk_module
from streams.learner import Learner
from streams.learner_desk import LearnerDesk
from streams.records import Counted, encode_message
from tests.builders import make_model
from tests.unit.test_desk import Slow, until


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
def test_what_comes_soon_after_the_first_is_learned_with_it(monkeypatch: pytest.MonkeyPatch, replay: bool) -> None:
    """Live, where partitions end their ticks one after the other; in a replay all wait for the learner, so it does not wait."""
    monkeypatch.setattr(learner_desk_module, "GATHER_S", 0.3)
    seen: list[str] = []

    async def receive(_: object, offset: int) -> None:
        seen.append(f"message {offset}")

    async def step() -> bool:
        seen.append("step")
        return False

    async def seek(_q: int, _offset: int) -> None:
        return None

    async def work() -> None:
        learner = await Learner.load(0, MemoryStore(), make_model("shoes"), partitions=1, outcome_partitions=1, replay=replay)
        learner.receive, learner.step = receive, step  # type: ignore[method-assign,assignment]
        crashes: list[BaseException] = []
        desk = LearnerDesk(
            learner, load=AsyncMock(), seek=seek, outlet=Slow(), hold=lambda q, held: None, end=lambda q: None, tell=lambda alert: None,
            patience_s=10, learned=lambda: None, crashed=crashes.append,
        )  # fmt: skip
        desk.start()
        await until(lambda: "step" in seen)
        message = encode_message(Counted(epoch=1, partition=0, number=0, tick_ms=1000, counts={}))
        desk.take([(0, message)], 1, lambda: None, lambda: True)
        if replay:
            await until(lambda: "message 0" in seen and seen[-1] == "step")
        for _ in range(50):  # turns of the loop, more than a desk needs that does not wait
            await asyncio.sleep(0)
        desk.take([(1, message)], 2, lambda: None, lambda: True)
        await until(lambda: "message 1" in seen)
        await desk.stop()
        assert not crashes

    asyncio.run(work())
    between = seen[seen.index("message 0") + 1 : seen.index("message 1")]
    assert ("step" in between) == replay
