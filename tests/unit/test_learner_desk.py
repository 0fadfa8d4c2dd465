"""The loop around a learner: what is learned in one step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from unittest.mock import AsyncMock

import pytest

from features.memory_store import MemoryStore
from streams import learner_desk as learner_desk_module
from streams.learner import Learner
from streams.learner_desk import LearnerDesk
from streams.partition import Partition
from streams.records import Counted, encode_message
from tests.builders import make_model, make_rules
from tests.unit.test_desk import Slow, until


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
def test_what_comes_soon_after_the_first_is_learned_with_it(monkeypatch: pytest.MonkeyPatch, replay: bool) -> None:
    """Live, where partitions end their ticks one after the other; in a replay all wait for the learner, so it does not wait."""
    monkeypatch.setattr(learner_desk_module, "GATHER_S", 0.3)
    seen: list[str] = []

    async def receive(_: object, offset: int) -> None:
        seen.append(f"message {offset}")

    async def step(*, rests: bool) -> bool:
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


def test_it_is_known_that_all_is_read_though_more_comes_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what the broker has lost would not be looked for until traffic ebbs."""
    monkeypatch.setattr(learner_desk_module, "GATHER_S", 0.0)
    monkeypatch.setattr(learner_desk_module, "HOLES_S", 0.0)
    looks: list[bool] = []

    async def work() -> None:
        learner = await Learner.load(0, MemoryStore(), make_model("shoes"), partitions=1, outcome_partitions=1, replay=False)
        sent, crashes = 0, list[BaseException]()

        def come() -> None:
            nonlocal sent
            sent += 1
            desk.take([(sent - 1, encode_message(Counted(epoch=1, partition=0, number=sent - 1, tick_ms=1000, counts={})))], sent, lambda: None, lambda: True)

        async def step(*, rests: bool) -> bool:
            come()  # while it learns
            return False

        async def look_for_holes(*, all_read: bool) -> bool:
            looks.append(all_read)
            return False

        learner.step, learner.look_for_holes = step, look_for_holes  # type: ignore[method-assign,assignment]
        desk = LearnerDesk(
            learner, load=AsyncMock(), seek=AsyncMock(), outlet=Slow(), hold=lambda q, held: None, end=lambda q: sent, tell=lambda alert: None,
            patience_s=10, learned=lambda: None, crashed=crashes.append,
        )  # fmt: skip
        desk.start()
        come()
        await until(lambda: len(looks) > 3)
        await desk.stop()
        assert not crashes

    asyncio.run(work())
    assert all(looks)


@pytest.mark.parametrize("behind", [9, 10])
def test_who_is_far_behind_learns_much_at_once_and_takes_no_rests(monkeypatch: pytest.MonkeyPatch, behind: int) -> None:
    """Until it has caught up: a step has its price, and so has a rest."""
    monkeypatch.setattr(learner_desk_module, "STEP_MESSAGES", 3)
    monkeypatch.setattr(learner_desk_module, "HURRIED_STEP_MESSAGES", 10)
    monkeypatch.setattr(learner_desk_module, "HOLES_S", 1e9)
    steps: list[tuple[int, bool]] = []

    async def work() -> None:
        learner = await Learner.load(0, MemoryStore(), make_model("shoes"), partitions=1, outcome_partitions=1, replay=False)
        received, crashes = 0, list[BaseException]()

        async def receive(_: object, offset: int) -> None:
            nonlocal received
            received = offset + 1

        async def step(*, rests: bool) -> bool:
            steps.append((received, not rests))
            return False

        learner.receive, learner.step = receive, step  # type: ignore[method-assign,assignment]
        desk = LearnerDesk(
            learner, load=AsyncMock(), seek=AsyncMock(), outlet=Slow(), hold=lambda q, held: None, end=lambda q: None, tell=lambda alert: None,
            patience_s=10, learned=lambda: None, crashed=crashes.append,
        )  # fmt: skip
        message = encode_message(Counted(epoch=1, partition=0, number=0, tick_ms=1000, counts={}))
        desk.take([(i, message) for i in range(behind)], behind, lambda: None, lambda: True)
        desk.start()
        await until(lambda: (behind, False) in steps or (behind, True) in steps)
        await desk.stop()
        assert not crashes

    asyncio.run(work())
    taken = [step for step in steps if step[0]]
    assert taken[: taken.index((behind, behind == 10)) + 1] == ([(10, True)] if behind == 10 else [(3, False), (6, False), (9, False)])


async def open_desk(
    store: MemoryStore, crashes: list[BaseException], *, seek: Callable[[int, int], Awaitable[None]] | None = None, end: int | None = None
) -> LearnerDesk:
    """A live desk of a namespace without a model; its topic ends at `end`."""

    async def load(q: int) -> Learner:
        return await Learner.load(q, store, None, partitions=1, outcome_partitions=1, replay=False)

    return LearnerDesk(
        await load(0), load=load, seek=seek or AsyncMock(), outlet=Slow(), hold=lambda q, held: None, end=lambda q: end, tell=lambda alert: None,
        patience_s=10, learned=lambda: None, crashed=crashes.append,
    )  # fmt: skip


async def told(store: MemoryStore, number: int) -> list[bytes | None]:
    """So many messages of a partition that has committed them."""
    partition = await Partition.load(0, store, make_rules(replay=False))
    for _ in range(number):
        partition.cursor.counts = {"shop": [1, 0, 0, 0, 0, 0]}
        partition.tell_counts(1000)
    await partition.commit()
    return [message for _, _, message in partition.outbox.unsent()]


def test_what_waits_behind_a_hole_is_not_acknowledged() -> None:
    """What is acknowledged does not come again, and this is not learned yet."""
    acked: list[int] = []

    async def work() -> None:
        store, crashes = MemoryStore(), list[BaseException]()
        first, _, third = await told(store, 3)
        desk = await open_desk(store, crashes)
        for offset, message in enumerate((first, third)):
            desk.take([(offset, message)], offset + 1, lambda offset=offset: acked.append(offset), lambda: True)  # type: ignore[misc]
        desk.start()
        await until(lambda: bool(acked or crashes))
        await desk.stop()
        assert (desk.learner.read_to, acked, crashes) == (2, [0], [])

    asyncio.run(work())


def test_what_was_drained_before_a_seek_is_dropped() -> None:
    """What lies behind that which is read again would make it look read."""
    acked: list[str] = []

    async def work() -> None:
        store, crashes = MemoryStore(), list[BaseException]()
        messages = list(enumerate(await told(store, 3)))

        async def seek(_q: int, _offset: int) -> None:
            desk.take(messages[2:], 3, lambda: acked.append("from before"), lambda: False)
            desk.take(messages, 3, lambda: acked.append("read again"), lambda: True)

        desk = await open_desk(store, crashes, seek=seek)
        desk.load_again()
        desk.start()
        await until(lambda: bool(acked or crashes))
        await desk.stop()
        assert (acked, crashes) == (["read again"], [])

    asyncio.run(work())


@pytest.mark.parametrize(("end", "all_read"), [(1, True), (2, False), (None, False)])
def test_all_is_read_only_where_the_topic_is_known_to_end(end: int | None, all_read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies further on may still come: it is no hole."""
    monkeypatch.setattr(learner_desk_module, "HOLES_S", 0.0)
    look, crashes = AsyncMock(return_value=False), list[BaseException]()
    monkeypatch.setattr(Learner, "look_for_holes", look)

    async def work() -> None:
        store = MemoryStore()
        desk = await open_desk(store, crashes, end=end)
        desk.take([(0, (await told(store, 1))[0])], 1, lambda: None, lambda: True)
        desk.start()
        await until(lambda: bool(look.await_count or crashes))
        await desk.stop()
        assert not crashes

    asyncio.run(work())
    assert look.await_args_list[0].kwargs == {"all_read": all_read}
