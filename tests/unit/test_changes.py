"""What a commit writes is as it was when the commit began: what changes while it is under way belongs to the next, and nothing of either is let go of."""

from __future__ import annotations

import asyncio

import numpy as np

from features.layout import USER
from features.names import names_of
from features.residents import Residents
from streams.outbox import Outbox
from streams.partition import Partition
from streams.records import Counted, encode_message
from tests.builders import make_rules
from tests.unit.test_overlap import GatedStore


def test_records_that_change_during_a_commit_are_in_the_next() -> None:
    """And none of either is let go of, however few are held."""
    residents = Residents(USER, 1)

    def apply(name: str, count: int) -> None:
        names = names_of([name])
        _, missing = residents.find(names)
        residents.take_in(missing, [None] * len(missing.texts))
        places, _ = residents.find(names)
        residents.change(places)
        residents.rows["applied"][places] = count

    def told() -> dict[str, int]:
        return {name: int(np.frombuffer(value, USER)["applied"][0]) for name, value in residents.changes().split().items()}

    for name in ("ann", "bob", "cid"):
        apply(name, 1)
    assert told() == {"ann": 1, "bob": 1, "cid": 1}
    apply("ann", 2)
    apply("dan", 1)
    assert residents.find(names_of(["ann", "bob", "cid", "dan"]))[1].texts == []  # some of their records are not in the store yet
    residents.committed()
    apply("eve", 1)
    assert residents.find(names_of(["bob"]))[1].texts == ["bob"]
    assert told() == {"ann": 2, "dan": 1, "eve": 1}


def test_outcomes_that_are_told_during_a_commit_leave_after_the_next() -> None:
    """What is posted after `changes` is neither in it nor sent with it, and the cursor says that none of both is on Kafka."""

    def message(n: int) -> bytes:
        return encode_message(Counted(epoch=1, partition=0, number=n, tick_ms=0, counts={}))

    outbox = Outbox({}, epoch=1, sent=())
    outbox.post((0, 1, 0), b"k", message(0))
    put, _ = outbox.changes()
    outbox.post((0, 1, 1), b"k", message(1))
    assert list(put.values()) == [message(0)]
    assert (outbox.unsent(), outbox.sent(1, [2])) == ([], [0])
    outbox.committed()
    assert outbox.unsent() == [(0, b"k", message(0))]
    outbox.mark_sent(1)
    assert outbox.sent(1, [2]) == [1]
    put, _ = outbox.changes()
    outbox.committed()
    assert list(put.values()) == [message(1)]
    assert outbox.unsent() == [(0, b"k", message(1))]


def test_what_is_heard_of_a_learner_during_a_commit_says_nothing_of_that_commit() -> None:
    """It is let go with a commit that began afterwards, and was asked about after that; commits that follow each other without a pause hold nothing up."""

    async def work() -> None:
        store = GatedStore()
        partition = await Partition.load(0, store, make_rules(replay=False))
        epoch = partition.cursor.epoch

        async def commit() -> asyncio.Task[None]:
            task = asyncio.create_task(partition.commit(partition.changes()))
            await asyncio.sleep(0)
            return task

        async def through(task: asyncio.Task[None]) -> None:
            store.through()
            await task

        partition.cursor.counts = {"shop": [1, 0, 0, 0, 0, 0]}
        partition.tell_counts(1000)
        await through(await commit())
        partition.outbox.mark_sent(1)
        versions = [partition.version]
        kept = partition.outbox._kept
        for _ in range(2):
            under_way = await commit()
            partition.learned(0, epoch, 1, as_of=versions[-1])  # the second time it was asked after the commit that was under way at the first
            assert len(kept) == 1
            await through(under_way)
            versions.append(partition.version)
        under_way = await commit()
        partition.learned(0, epoch, 1, as_of=versions[-1])
        assert len(kept) == 0
        await through(under_way)

    asyncio.run(work())
