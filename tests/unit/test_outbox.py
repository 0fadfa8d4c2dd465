"""The outbox: what leaves, when, and what a later life finds of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from features.catalogue import merge
from features.errors import DependencyDown, Mismatch
from features.exposures import NONE, UNMARKED, Closed, Exposure
from features.memory_store import MemoryStore
from features.predictions import UNSAID
from streams.outbox import Outbox, Past, Told, begin_life, field
from streams.partition import Partition
from streams.pipeline import LEAVE_TOGETHER, publish_outbox
from streams.records import SHARED, Counted, Outcome, Outgoing, TickDone, decode_message, encode_message
from tests.builders import make_rules

EPOCH = 7


def message(number: int, key: str = SHARED, epoch: int = EPOCH) -> bytes:
    """An outcome of some exposure."""
    exposure = Exposure(
        id="0" * 16, domain="line:a", user="u", line="a", category="a", counts=True, ts_ms=0, x=b"", predictions=UNSAID, delay_ms=UNMARKED, bin=1
    )  # fmt: skip
    return encode_message(Outcome(epoch=epoch, partition=0, number=number, key=key, closed=Closed(exposure=exposure, close_ms=1, bin=1, y=0, label=NONE)))


def test_nothing_leaves_before_it_is_committed() -> None:
    """Then everything does, by outcome partition and number; what is sent stays until it is learned, and the next commit drops it."""
    outbox = Outbox({}, epoch=EPOCH, sent=(0, 0))
    places = [(0, EPOCH, 9), (0, EPOCH, 10), (1, EPOCH, 0)]
    for place in places:
        outbox.post(place, b"k", message(place[2]))
    assert outbox.unsent() == []
    put, drop = outbox.changes()
    assert (sorted(put), drop) == ([field(place) for place in places], [])
    outbox.committed()
    assert [(q, key) for q, key, _ in outbox.unsent()] == [(0, b"k"), (0, b"k"), (1, b"k")]
    assert outbox.waiting() == 3
    outbox.mark_sent(len(outbox.unsent()))
    assert (outbox.unsent(), outbox.waiting()) == ([], 0)
    outbox.learned(0, EPOCH, 10)
    assert outbox.changes() == ({}, [field(places[0])])
    outbox.learned(0, EPOCH, 11)
    outbox.learned(1, EPOCH, 1)
    assert outbox.changes() == ({}, [field(place) for place in places[1:]])
    assert outbox.changes() == ({}, [])


def test_a_later_life_sends_the_same() -> None:
    """What the store held and is not on Kafka is unsent, in the order of numbers, with the key that its content tells."""
    held = {field((q, EPOCH, number)): message(number, key) for q, number, key in ((1, 2, "new"), (0, 10, SHARED), (0, 9, SHARED), (0, 8, SHARED))}
    outbox = Outbox(held, epoch=EPOCH, sent=(9, 0))
    assert outbox.unsent() == [(0, SHARED.encode(), message(9)), (0, SHARED.encode(), message(10)), (1, b"new", message(2, "new"))]


@pytest.mark.parametrize("value", [b"", b"\x00", encode_message(TickDone(partition=0, tick_ms=1, upto=1))])
def test_what_is_no_outcome_is_refused(value: bytes) -> None:
    """A damaged store is told of, not believed."""
    with pytest.raises(Mismatch, match="outbox"):
        Outbox({"0:1": value}, epoch=EPOCH, sent=(0,))


@pytest.mark.parametrize("replay", [False, True])
def test_a_tick_of_many_names_leaves_in_messages_that_a_broker_takes(replay: bool) -> None:
    """A shop that puts its products' numbers into `category`: what is told is the same in all."""

    async def told() -> list[Counted]:
        store, rules = MemoryStore(), make_rules(replay=replay)
        partition = await Partition.load(0, store, rules)
        partition.cursor.counts = dict(counts)
        partition.cursor.seen.read = 7
        partition.tell_counts(1000)
        await partition.commit()
        messages = [value for _, _, value in partition.outbox.unsent()]
        assert max(map(len, messages)) < 300_000
        return [m for m in map(decode_message, messages) if isinstance(m, Counted)]

    counts = {f"category:{'x' * 40}{i}": [i, 0, 2**40, 0, 0, 1] for i in range(20_000)}
    parts = asyncio.run(told())
    assert len(parts) > 3
    assert [m.number for m in parts] == list(range(len(parts)))
    assert [m.seen.read if m.seen else 0 for m in parts] == [7] + [0] * (len(parts) - 1)
    assert merge([m.counts for m in parts]) == dict(sorted(counts.items()))


def test_what_leaves_together_is_bounded() -> None:
    """A broker is given so many at once; what it took before it refused a step counts as sent."""

    class Slow:
        """Takes one step."""

        def __init__(self) -> None:
            self.steps: list[int] = []

        async def deliver(self, records: Sequence[Outgoing]) -> None:
            """Take it, or not."""
            self.steps.append(len(records))
            if len(self.steps) == 2:
                raise DependencyDown("slow")

    async def work() -> None:
        store, outlet, number = MemoryStore(), Slow(), LEAVE_TOGETHER + 10
        partition = await Partition.load(0, store, make_rules(replay=True))
        for n in range(number):
            partition.outbox.post((0, partition.cursor.epoch, n), b"k", message(n))
        await partition.commit()
        with pytest.raises(DependencyDown):
            await publish_outbox(partition, outlet, store, tick_done_ms=1000)
        assert partition.outbox.waiting() == 10
        await publish_outbox(partition, outlet, store, tick_done_ms=1000)
        assert outlet.steps == [LEAVE_TOGETHER, 11, 11]
        assert partition.outbox.waiting() == 0

    asyncio.run(work())


def test_a_life_that_told_nothing_leaves_no_trace() -> None:
    """The next one names the lives that told something, and for each outcome partition the last of them, with where it ended."""
    second, told = begin_life(EPOCH, [3, 0], Told())
    assert (told.before, told.prior) == ([Past(EPOCH, [3, 0])], [[EPOCH, 3], []])
    third, told = begin_life(second, [0, 2], told)
    assert told.prior == [[EPOCH, 3], [second, 2]]
    _, after_nothing = begin_life(third, [0, 0], told)
    assert (after_nothing.before, after_nothing.prior) == (told.before, told.prior)
