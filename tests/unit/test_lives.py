"""A partition's lives: whatever the store forgets, the broker loses and workers repeat, each fact is learned exactly once, and what cannot be is counted."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest

from features.layout import CATALOGUE
from features.memory_store import MemoryStore
from features.store import Slot
from streams import learner as learner_module
from streams import outbox
from streams.knowledge import CHANGED, CHANGED_KEPT
from streams.learner import Learner
from streams.learner_cursor import LearnerCursor, expected_in
from streams.partition import Cursor, LostCommit, Partition
from streams.records import Counted, decode_message
from tests.builders import make_rules

RULES = make_rules(replay=False)
PARTITIONS = 2
AT_MS = 1_000_000


@dataclass
class World:
    """Two partitions that tell numbered facts, a learner, the topic between them, and a store that can be put back."""

    store: MemoryStore = field(default_factory=MemoryStore)
    topic: list[bytes | None] = field(default_factory=list)  # None: the broker has lost it
    partitions: dict[int, Partition] = field(default_factory=dict)
    alerts: list[str] = field(default_factory=list)
    learner: Learner = field(init=False)
    read_to: int = 0

    async def open(self, p: int) -> None:
        """A worker takes partition p: it sends again what was perhaps not sent."""
        self.partitions[p] = await Partition.load(p, self.store, RULES)
        self.publish(self.partitions[p])

    async def tell(self, p: int, facts: int, *, send: bool = True, meanwhile: int = 0) -> None:
        """Partition p tells its next facts; how many it has told is in its cursor, and so goes back with the store. Some more are told while it commits."""
        partition = self.partitions[p]
        self.facts(partition, facts)
        changes = partition.changes()
        self.facts(partition, meanwhile)
        if meanwhile:
            await self.hear()
        try:
            await partition.commit(changes)
        except LostCommit:
            await self.open(p)
            return
        if send:
            self.publish(partition)

    def facts(self, partition: Partition, facts: int) -> None:
        """The next facts, in memory."""
        for _ in range(facts):
            number = partition.cursor.offsets[0]
            partition.cursor.counts = {f"{partition.number}:{number}": [1, 0, 0, 0, 0, 0]}
            partition.tell_counts(AT_MS)
            partition.cursor.offsets[0] += 1

    def publish(self, partition: Partition) -> None:
        """All that is unsent goes to the topic."""
        self.topic += [message for _, _, message in partition.outbox.unsent()]
        partition.outbox.mark_sent(partition.outbox.waiting())

    async def open_learner(self) -> None:
        """A worker takes the learner, which reads from its own offset."""
        self.learner = await Learner.load(0, self.store, None, partitions=PARTITIONS, outcome_partitions=1, replay=False)
        self.read_to = self.learner.cursor.offset

    async def learn(self, messages: int | None = None) -> None:
        """The learner reads on, and commits."""
        end = len(self.topic) if messages is None else min(len(self.topic), self.read_to + messages)
        for offset in range(self.read_to, end):
            if (value := self.topic[offset]) is not None:
                await self.learner.receive(decode_message(value), offset)
        self.read_to = max(self.read_to, end)
        try:
            while await self.learner.step():
                pass
        except LostCommit:
            await self.open_learner()
        await self.hear()

    async def look(self) -> None:
        """The learner looks for holes twice, so it knows which ones stay."""
        for _ in range(2):
            if await self.learner.look_for_holes(all_read=self.read_to == len(self.topic)):
                await self.learn()
        await self.hear()

    async def hear(self) -> None:
        """Gather alerts, and let the partitions know what is learned, as the store says."""
        self.alerts += [alert.kind for alert in self.learner.alerts]
        self.learner.alerts.clear()
        for p, expected in expected_in((await self.store.load("o0", ())).cursor).items():
            if p in self.partitions:
                self.partitions[p].learned(0, expected.epoch, expected.number, as_of=self.partitions[p].version)

    async def settle(self) -> None:
        """Everybody starts anew, and all is told, learned and filled."""
        for p in range(PARTITIONS):
            await self.open(p)
        await self.open_learner()
        await self.learn()
        for _ in range(4):
            await self.look()

    async def counts(self) -> dict[str, float]:
        """How often each fact is in the learner's state."""
        held = (await self.store.load("o0", ("catalogue",))).hashes["catalogue"]
        return {name: float(np.frombuffer(value, CATALOGUE)["counts"][0, 0, 0]) for name, value in held.items()}

    async def told(self) -> list[str]:
        """The facts that the partitions' cursors say are told."""
        slots = [await self.store.load(str(p), ()) for p in range(PARTITIONS)]
        return [f"{p}:{n}" for p, slot in enumerate(slots) if slot.version for n in range(msgspec.msgpack.decode(slot.cursor, type=Cursor).offsets[0])]

    async def cursor(self) -> LearnerCursor:
        """The learner's, as it is stored."""
        return msgspec.msgpack.decode((await self.store.load("o0", ())).cursor, type=LearnerCursor)


async def make() -> World:
    """A world in which nothing has happened."""
    world = World()
    for p in range(PARTITIONS):
        await world.open(p)
    await world.open_learner()
    return world


def go(work: Coroutine[Any, Any, None]) -> None:
    """Run it."""
    asyncio.run(work)


@pytest.mark.parametrize("seed", range(40))
def test_each_fact_is_learned_once_whatever_happens(seed: int) -> None:
    """Crashes, zombies, stores that go back once and again, flushes, and messages that the broker loses: the learner's state has each told fact once."""

    async def work() -> None:
        draw, world = random.Random(seed), await make()
        saved = copy.deepcopy(world.store)
        zombies: list[Partition] = []

        async def put_back(store: MemoryStore) -> None:
            world.store.__dict__.update(copy.deepcopy(store).__dict__)
            for p in range(PARTITIONS):  # a worker sees at its next tick that the learner went back; the others' commits are refused
                if await world.partitions[p].is_current():
                    for _ in range(draw.randrange(3)):  # until then it works on
                        await world.tell(p, draw.randrange(3), send=draw.random() < 0.8)
                        if draw.random() < 0.5:
                            await world.learn()
                    if draw.random() < 0.5:
                        await world.open(p)

        for _ in range(150):
            p, chance = draw.randrange(PARTITIONS), draw.random()
            if chance < 0.45:
                await world.tell(p, draw.randrange(4), send=draw.random() < 0.8, meanwhile=draw.choice([0, 0, 1, 2]))  # a commit may tell nothing
            elif chance < 0.75:
                await world.learn(draw.randrange(1, 6))
            elif chance < 0.80:
                zombies.append(world.partitions[p])
                await world.open(p)
            elif chance < 0.84:
                await world.open_learner()
            elif chance < 0.88:
                saved = copy.deepcopy(world.store)
            elif chance < 0.92:
                await put_back(saved)
            elif chance < 0.93:
                await put_back(MemoryStore())
            elif chance < 0.96 and zombies:
                world.publish(zombies.pop())  # late, what its life told
            elif world.topic:
                world.topic[draw.randrange(max(0, len(world.topic) - 6), len(world.topic))] = None
            if draw.random() < 0.1:
                await world.look()
        await world.settle()
        counts = await world.counts()
        assert {name: n for name, n in counts.items() if n != 1} == {}
        assert sorted(counts) == sorted(await world.told())
        assert (await world.cursor()).lost == 0

    go(work())


def test_what_a_forgotten_life_told_is_passed_over_with_an_alert() -> None:
    """The lost time's outcomes are on Kafka under the numbers that come next: they are not learned, the present life's are, and somebody is told."""

    async def work() -> None:
        world = await make()
        await world.tell(0, 3)
        await world.learn()
        saved = copy.deepcopy(world.store)
        await world.tell(0, 5)
        world.store.__dict__.update(saved.__dict__)
        await world.open(0)
        await world.open_learner()
        await world.learn()
        assert world.alerts == ["store_went_back"]
        assert sorted(await world.counts()) == [f"0:{n}" for n in range(3)]
        await world.tell(0, 2)
        await world.learn()
        assert await world.counts() == {f"0:{n}": 1 for n in range(5)}

    go(work())


def test_what_a_learner_has_forgotten_is_not_let_go() -> None:
    """The store goes back to before the learner's commit, and to after the partition's: the partition has heard of the first, and commits on."""

    async def work() -> None:
        for commits in range(3):
            world = await make()
            await world.tell(0, 3)
            await world.open(0)
            saved = copy.deepcopy(world.store)
            await world.learn()
            await world.hear()
            world.store.__dict__.update(saved.__dict__)
            for _ in range(commits):
                await world.tell(0, 1)
            await world.open_learner()
            await world.learn()
            await world.settle()
            assert await world.counts() == {f"0:{n}": 1 for n in range(3 + commits)}

    go(work())


@pytest.mark.parametrize("expected", [[(0, 2), (0, 0)], [(1 << 40, 5)] * 3], ids=["it went back", "of another life"])
def test_only_what_a_learner_goes_on_to_expect_of_a_life_that_is_named_is_let_go(expected: list[tuple[int, int]]) -> None:
    """Neither what it has forgotten again by the next commit, nor what it says of a life of which the partition knows nothing."""

    async def work() -> None:
        world = await make()
        await world.tell(0, 2)
        partition = world.partitions[0]
        for epochs, number in expected:
            partition.learned(0, partition.cursor.epoch + epochs, number, as_of=partition.version)
            await partition.commit()
        assert len((await world.store.load("0", ("outbox",))).hashes["outbox"]) == 2

    go(work())


@pytest.mark.parametrize("facts", [1, 2])
def test_what_a_partition_has_forgotten_while_it_was_learned_is_not_committed(facts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store goes back to before the partition's commit, and to after the learner's, while the learner learns."""
    monkeypatch.setattr(learner_module, "ANSWER_FRESH_S", -1.0)

    async def work() -> None:
        world = await make()
        await world.tell(0, 1)
        await world.learn()
        saved = copy.deepcopy(world.store)
        await world.tell(0, facts)
        load, loads = world.store.load, 0

        async def twice(slot: str, hashes: Sequence[str]) -> Slot:
            nonlocal loads
            loads += slot == "0"
            if slot == "0" and loads == 2:
                world.store.__dict__.update(saved.__dict__)
            return await load(slot, hashes)

        monkeypatch.setattr(world.store, "load", twice)
        await world.learn()
        assert loads >= 2
        monkeypatch.setattr(world.store, "load", load)
        await world.open(0)
        await world.tell(0, 2)
        await world.learn()
        await world.settle()
        assert await world.counts() == {f"0:{n}": 1 for n in range(3)}

    go(work())


def test_a_store_that_is_emptied_while_a_hole_is_looked_at_has_none() -> None:
    """What the partition had told is not there any more: the learner goes on, and does not take that for damage."""

    async def work() -> None:
        world = await make()
        await world.tell(0, 4)
        world.topic[2] = None
        await world.learn()
        await world.partitions[0].commit()
        await world.learn()
        await world.learner.look_for_holes(all_read=True)
        load = world.store.load

        async def emptied(slot: str, hashes: Sequence[str]) -> Slot:
            if "outbox" in hashes:
                world.store.__dict__.update(MemoryStore().__dict__)
            return await load(slot, hashes)

        world.store.load = emptied  # type: ignore[method-assign]
        assert not await world.learner.look_for_holes(all_read=True)

    go(work())


def test_a_hole_is_filled_from_the_outbox() -> None:
    """A message that the broker lost after its ack is taken from the partition's outbox, whether a later one has come or not."""

    async def work() -> None:
        for later in (True, False):
            world = await make()
            await world.tell(0, 4)
            world.topic[2] = None
            world.topic[3] = world.topic[3] if later else None
            await world.learn()
            assert len(await world.counts()) == 2
            await world.tell(1, 1)
            partition = world.partitions[0]
            await partition.commit()  # says what is on Kafka
            await world.learn()
            await world.look()
            assert await world.counts() == {**{f"0:{n}": 1 for n in range(4)}, "1:0": 1}
            assert world.alerts == ["outcomes_refilled"]
            assert (await world.cursor()).refilled == (1 if later else 2)

    go(work())


def test_what_is_nowhere_is_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker lost it and the outbox was too small: the learner goes on with what follows, counts it, and somebody is told."""

    async def work() -> None:
        monkeypatch.setattr(outbox, "KEPT", 2)
        world = await make()
        for _ in range(6):
            await world.tell(0, 1)
        world.topic[0] = world.topic[1] = None
        await world.learn()
        assert await world.counts() == {}
        await world.look()
        assert sorted(await world.counts()) == [f"0:{n}" for n in range(2, 6)]
        assert (world.alerts, (await world.cursor()).lost) == (["outcomes_lost"], 2)

    go(work())


def test_the_outbox_lets_go_what_is_learned() -> None:
    """It holds what nobody has learned yet, and no more; the lives that are learned to their end leave the cursor."""

    async def work() -> None:
        world = await make()
        for _ in range(5):
            await world.tell(0, 2)
            await world.open(0)
        held = await world.store.load("0", ("outbox",))
        assert len(held.hashes["outbox"]) == 10
        assert len(world.partitions[0].cursor.told.before) == 5
        await world.learn()
        await world.tell(0, 1)
        assert len((await world.store.load("0", ("outbox",))).hashes["outbox"]) == 11  # the store might yet go back to before it was learned
        await world.hear()
        await world.tell(0, 1)
        held = await world.store.load("0", ("outbox",))
        assert [decode_message(value).number for value in held.hashes["outbox"].values()] == [0, 1]
        assert msgspec.msgpack.decode(held.cursor, type=Cursor).told.before == []

    go(work())


def test_what_commits_have_changed_is_said_of_the_last_ones_alone() -> None:
    """However long a learner has learned: who is further behind reads everything."""

    async def work() -> None:
        world = await make()
        for _ in range(CHANGED_KEPT + 2):
            await world.tell(0, 1)
            await world.learn()
        held = (await world.store.load("o0", tuple(CHANGED.values()))).hashes
        assert [len(held[name]) for name in CHANGED.values()] == [CHANGED_KEPT] * len(CHANGED)

    go(work())


def test_the_first_message_of_a_life_names_the_one_before() -> None:
    """So that a reader of the topic alone can follow the lives that count."""

    async def work() -> None:
        world = await make()
        await world.tell(0, 3)
        first = world.partitions[0].cursor.epoch
        await world.open(0)
        await world.open(0)
        await world.tell(0, 2)
        messages = {value: decode_message(value) for value in world.topic if value is not None}
        assert [m.after for m in messages.values() if isinstance(m, Counted)] == [None] * 3 + [(first, 3), None]

    go(work())
