"""The learner applies each outcome once, in order, tick by tick, and no tick that its partitions have not committed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import pytest

from features.exposures import NONE, UNMARKED, Closed, Exposure, exposure_id
from features.layout import CATALOGUE
from features.memory_store import MemoryStore
from features.predictions import UNSAID
from features.store import Changes
from features.vector import WIDTH
from models.launch_head import MODELS
from models.model import Model
from streams.knowledge import Knowledge, outcome_slot
from streams.learner import Learner
from streams.learner_cursor import LearnerCursor, stamp_of
from streams.outcome_rows import experts_said
from streams.partition import Cursor, LostCommit, Totals
from streams.records import SHARED, Counted, Message, Outcome, TickDone
from tests.builders import EDGES_MS, START_MS, make_model, pair_of

EPOCH = 7
TICK_MS = 900_000
T1, T2, T3 = (START_MS + i * TICK_MS for i in (1, 2, 3))


def outcome(number: int, *, partition: int = 0, key: str = SHARED, close_ms: int = T1 - 60_000, y: int = 0, epoch: int = EPOCH, id: str = "") -> Outcome:
    """The first bin of an exposure has closed; its vector depends on its id."""
    name = id or exposure_id(key, str(partition), str(number))
    x = np.random.default_rng(int(name, 16)).normal(size=WIDTH).astype(np.float32)
    exposure = Exposure(
        id=name, domain="line:shoes" if key == SHARED else key, user="ann", line="shoes", category="boots", counts=True, ts_ms=close_ms - EDGES_MS[0],
        x=x.tobytes(), predictions=UNSAID, delay_ms=UNMARKED, bin=2,
    )  # fmt: skip
    return Outcome(epoch=epoch, partition=partition, number=number, key=key, closed=Closed(exposure=exposure, close_ms=close_ms, bin=1, y=y, label=NONE))


def counted(number: int, tick_ms: int, *, partition: int = 0, browses: int = 1) -> Counted:
    """What a partition counted in a tick."""
    return Counted(epoch=EPOCH, partition=partition, number=number, tick_ms=tick_ms, counts={"shop": [browses, 0, 0, 0, 0, 0]})


def done(tick_ms: int, upto: int, *, partition: int = 0) -> TickDone:
    """A partition's word that it is done with a tick."""
    return TickDone(partition=partition, tick_ms=tick_ms, upto=upto)


@dataclass
class Topic:
    """One outcome partition and its learner; what was appended stays, so a learner made anew can read it again."""

    store: MemoryStore
    learner: Learner
    load: Any
    log: list[Message] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    async def append(self, *messages: Message) -> int:
        """Let the learner read messages; returns how often it then committed."""
        for message in messages:
            self.log.append(message)
            await self.learner.receive(message, len(self.log) - 1)
        steps = 0
        while await self.learner.step():
            steps += 1
        return steps

    async def restart(self) -> None:
        """Make the learner anew from the store, and read the topic on from its offset."""
        self.learner = await self.load()
        self.learner.heard = lambda m: self.heard.append(m.closed.exposure.id)
        for offset in range(self.learner.cursor.offset, len(self.log)):
            await self.learner.receive(self.log[offset], offset)
            while await self.learner.step():
                pass

    async def commit(self, partition: int, tick_ms: int, *, epoch: int = EPOCH, numbers: int = 0) -> None:
        """Let an input partition commit a tick; `numbers` have been told in its epoch."""
        slot = await self.store.load(str(partition), ())
        cursor = Cursor(epoch=epoch, offsets=[0] * 4, numbers=[numbers], tick_ms=tick_ms, totals=Totals())
        assert await self.store.commit(str(partition), slot.version, Changes(cursor=msgspec.msgpack.encode(cursor)))

    async def state(self, q: int = 0) -> tuple[dict[str, bytes], dict[str, bytes], tuple[int, ...]]:
        """Heads, catalogue, and the cursor's counts."""
        slot = await self.store.load(outcome_slot(q), ("heads", "catalogue"))
        cursor = msgspec.msgpack.decode(slot.cursor, type=LearnerCursor)
        return dict(slot.hashes["heads"]), dict(slot.hashes["catalogue"]), (cursor.stamp_ms, cursor.tried, cursor.hit)


async def open_topic(
    model: Model | None, *, partitions: int = 1, replay: bool = True, q: int = 0, outcome_partitions: int = 1, store: MemoryStore | None = None
) -> Topic:
    """A learner on a new store."""
    held = store or MemoryStore()

    async def load() -> Learner:
        return await Learner.load(q, held, model, partitions=partitions, outcome_partitions=outcome_partitions, replay=replay)

    topic = Topic(held, await load(), load)
    topic.learner.heard = lambda m: topic.heard.append(m.closed.exposure.id)
    return topic


def go(work: Coroutine[Any, Any, None]) -> None:
    """Run it."""
    asyncio.run(work)


@pytest.fixture(scope="module")
def model() -> Model:
    """Any one."""
    return make_model("shoes")


def test_a_tick_is_learned_when_every_partition_is_done_and_has_committed(model: Model) -> None:
    """Not when one is missing, nor when one only said so: its committed cursor decides."""

    async def work() -> None:
        topic = await open_topic(model, partitions=2)
        await topic.commit(0, T1)
        await topic.commit(1, START_MS)
        assert await topic.append(outcome(0), done(T1, 1), outcome(0, partition=1)) == 0
        assert await topic.append(done(T1, 1, partition=1)) == 0
        assert topic.heard == []
        await topic.commit(1, T1)
        assert await topic.append() == 1
        assert len(topic.heard) == 2
        assert stamp_of((await topic.store.load("o0", ())).cursor) == topic.learner.stamp_ms == T1

    go(work())


def test_a_store_that_went_back_is_waited_for(model: Model) -> None:
    """What a partition said before its cursor was put back is on the topic still, and the learner does not run ahead of it."""

    async def work() -> None:
        topic = await open_topic(model)
        await topic.commit(0, T1)
        assert await topic.append(outcome(0), done(T1, 1), outcome(1, close_ms=T2 - 1), done(T2, 2)) == 1
        await topic.restart()
        assert topic.learner.stamp_ms == T1
        await topic.commit(0, T2)
        assert await topic.append(outcome(1, close_ms=T2 - 1), done(T2, 2)) == 1
        assert topic.learner.stamp_ms == T2
        assert len(topic.heard) == 2

    go(work())


def test_outcomes_are_learned_in_order_of_close_time_and_id(model: Model) -> None:
    """Whichever partition's came first: the same heads to the bit, with 1 partition or with 3."""

    async def work() -> None:
        facts = [(T1 - 100 * (i % 4), f"{i:016x}", int(i % 5 == 0), SHARED if i % 3 else "new") for i in range(1, 25)]
        seen = set()
        for partitions in (1, 3):
            for seed in range(3):
                topic = await open_topic(model, partitions=partitions)
                rng, numbers, messages = random.Random(seed), [0] * partitions, []
                for close_ms, name, y, key in rng.sample(facts, len(facts)):
                    p = rng.randrange(partitions)
                    messages.append(outcome(numbers[p], partition=p, key=key, close_ms=close_ms, y=y, id=name))
                    numbers[p] += 1
                for p in range(partitions):
                    await topic.commit(p, T1)
                await topic.append(*messages, *(done(T1, numbers[p], partition=p) for p in range(partitions)))
                assert topic.heard == [name for _, name, _, _ in sorted(facts)]
                heads, _, counts = await topic.state()
                seen.add((tuple(sorted(heads.items())), counts))
        assert len(seen) == 1

    go(work())


def test_duplicates_holes_and_old_epochs_are_passed_over(model: Model) -> None:
    """Each number is applied once; what follows a hole waits for its second coming; a partition's earlier life is over."""

    async def work() -> None:
        topic = await open_topic(model)
        await topic.commit(0, T1)
        a, b, c = (outcome(i, id=f"{i + 1:016x}") for i in range(3))
        stale = outcome(0, epoch=EPOCH - 1, id=f"{99:016x}")
        assert await topic.append(stale, a, a, c, done(T1, 3)) == 0  # the hole: b is missing, so the tick is not whole
        assert await topic.append(a, b, stale, c, b, done(T1, 3)) == 1
        assert topic.heard == [m.closed.exposure.id for m in (a, b, c)]
        assert topic.learner.cursor.duplicates == 3
        assert await topic.append(a, b, c, done(T1, 3)) == 0

    go(work())


def test_at_a_new_epoch_numbers_start_at_zero(model: Model) -> None:
    """A partition whose state was lost begins a new life; what its old one still had waiting goes."""

    async def work() -> None:
        topic = await open_topic(model)
        await topic.commit(0, T1)
        await topic.append(outcome(0, id="0" * 15 + "1"), done(T1, 1), outcome(1, id="0" * 15 + "2"))
        await topic.commit(0, T2, epoch=EPOCH + 1)
        await topic.append(outcome(0, epoch=EPOCH + 1, id="0" * 15 + "3", close_ms=T2 - 1), done(T2, 1))
        assert topic.heard == ["0" * 15 + "1", "0" * 15 + "3"]
        assert topic.learner.cursor.expected[0].epoch == EPOCH + 1

    go(work())


@pytest.mark.parametrize("seed", range(6))
def test_a_restart_at_any_message_gives_the_same_heads(seed: int, model: Model) -> None:
    """Made anew from the store in the middle of ticks, with messages that come twice: heads, catalogue and counts to the bit."""

    async def work() -> None:
        rng = random.Random(seed)
        states = []
        for restarts in (False, True):
            topic = await open_topic(model, partitions=2)
            numbers = [0, 0]
            for tick_ms in (T1, T2, T3):
                shares: list[list[Message]] = [[], []]
                for p, share in enumerate(shares):
                    for i in range(5):
                        share.append(outcome(numbers[p], partition=p, key=("new", SHARED)[i % 2], close_ms=tick_ms - 1, y=int(i == 3)))
                        numbers[p] += 1
                    share.append(counted(numbers[p], tick_ms, partition=p, browses=p + 1))
                    numbers[p] += 1
                    await topic.commit(p, tick_ms)
                    share.append(done(tick_ms, numbers[p], partition=p))
                order = random.Random(1)
                while any(shares):
                    p = order.choice([p for p, share in enumerate(shares) if share])
                    message = shares[p].pop(0)
                    await topic.append(message)
                    if restarts and rng.random() < 0.3:
                        await topic.restart()
                    if restarts and rng.random() < 0.3:
                        await topic.append(message)
            states.append(await topic.state())
            assert len(topic.heard) == 30
        assert states[0] == states[1]

    go(work())


def test_of_two_learners_one_loses(model: Model) -> None:
    """The second commit on one version is refused and changes nothing."""

    async def work() -> None:
        topic = await open_topic(model)
        zombie = await topic.load()
        await topic.commit(0, T1)
        await topic.append(outcome(0), done(T1, 1))
        before = await topic.state()
        assert not await zombie.is_current()
        for offset, message in enumerate([outcome(0), done(T1, 1)]):
            await zombie.receive(message, offset)
        with pytest.raises(LostCommit):
            await zombie.step()
        assert await topic.state() == before

    go(work())


def test_launches_learn_against_the_shared_heads_of_the_tick_before(model: Model) -> None:
    """In one outcome partition or two, whichever of the two learners comes first in a tick."""

    async def work() -> None:
        seen = set()
        for order in ("one", "shared first", "launch first"):
            store = MemoryStore()
            outcome_partitions = 1 if order == "one" else 2
            probe = await open_topic(model, outcome_partitions=outcome_partitions)
            shared_q = probe.learner._shared_q
            launch_q = 0 if order == "one" else 1 - shared_q
            topics = {q: await open_topic(model, q=q, outcome_partitions=outcome_partitions, store=store) for q in {shared_q, launch_q}}
            numbers = dict.fromkeys(topics, 0)
            for tick_ms in (T1, T2, T3):
                await topics[shared_q].commit(0, tick_ms)
                for q in sorted(topics, key=lambda q, first=shared_q if order == "shared first" else launch_q: q != first):  # type: ignore[misc]
                    batch: list[Message] = []
                    for key, owner in ((SHARED, shared_q), ("new", launch_q)):
                        for i in range(8 if owner == q else 0):
                            batch.append(outcome(numbers[q], key=key, close_ms=tick_ms - 1, y=i % 2, id=f"{tick_ms + i + len(key):016x}"))
                            numbers[q] += 1
                    await topics[q].append(*batch, done(tick_ms, numbers[q]))
            heads = {name: value for q in topics for name, value in (await topics[q].state(q))[0].items()}
            seen.add(tuple(sorted(heads.items())))
        assert len(seen) == 1

    go(work())


def test_what_taught_the_trunk_is_not_learned_again() -> None:
    """Outcomes that closed before the end of training are applied and counted, but teach nothing."""

    async def work() -> None:
        topic = await open_topic(make_model("shoes", trained_until_ms=T1))
        await topic.commit(0, T2)
        fresh = topic.learner._shared
        assert fresh is not None
        before = fresh.to_bytes()
        await topic.append(outcome(0, close_ms=T1), done(T2, 1))
        assert (await topic.state())[0][SHARED] == before
        await topic.commit(0, T3)
        await topic.append(outcome(1, close_ms=T1 + 1), done(T3, 2))
        heads, _, counts = await topic.state()
        assert heads[SHARED] != before
        assert counts[1] == 2

    go(work())


def test_the_catalogue_adds_up_all_partitions(model: Model) -> None:
    """Integers of one tick are summed, and what workers then refresh is the store's, over many ticks and after a gap too long to follow."""

    async def work() -> None:
        topic = await open_topic(model, partitions=2)
        follower, sleeper = Knowledge(topic.store, model, 1), Knowledge(topic.store, model, 1)
        await sleeper.refresh()
        for i in range(1, 81):
            tick_ms = START_MS + i * TICK_MS
            for p in range(2):
                await topic.commit(p, tick_ms)
            await topic.append(*(m for p in range(2) for m in (counted(i - 1, tick_ms, partition=p), done(tick_ms, i, partition=p))))
            used = follower.catalogue, follower.catalogue.tobytes()
            await follower.refresh()
            assert used[0].tobytes() == used[1]  # whoever works with one keeps it
        await sleeper.refresh()
        held = np.frombuffer((await topic.state())[1]["shop"], CATALOGUE)
        assert held["at_ms"][0] == START_MS + 80 * TICK_MS
        week_ticks = 604_800_000 / TICK_MS
        np.testing.assert_allclose(held["counts"][0, 0, 1], sum(2 * 2 ** (-i / week_ticks) for i in range(80)), rtol=1e-9)
        for knowledge in (follower, sleeper):
            assert knowledge.catalogue[0].tobytes() == held[0].tobytes()

    go(work())


def test_knowledge_forgets_what_a_store_that_went_back_has_lost(model: Model) -> None:
    """Heads and catalogue are then as if the lost ticks had never been, also those of names that the store no longer has."""

    async def work() -> None:
        topic = await open_topic(model)
        knowledge = Knowledge(topic.store, model, 1)
        await knowledge.refresh()
        before = pair_of(knowledge).head("new").to_bytes(), pair_of(knowledge).shared.to_bytes(), knowledge.catalogue[0].tobytes()
        held = pair_of(knowledge)
        await topic.commit(0, T1)
        await topic.append(outcome(0), outcome(1, key="new"), counted(2, T1), done(T1, 3))
        await knowledge.refresh()
        assert pair_of(knowledge).head("new").to_bytes() != before[0]
        assert (held.head("new").to_bytes(), held.shared.to_bytes()) == before[:2]  # whoever works with a pair keeps it
        knowledge._store = MemoryStore()
        await knowledge.refresh()
        assert (pair_of(knowledge).head("new").to_bytes(), pair_of(knowledge).shared.to_bytes(), knowledge.catalogue[0].tobytes()) == before

    go(work())


def test_a_launch_may_be_named_like_the_shared_heads(model: Model) -> None:
    """A name that only begins like ours is a launch's own."""

    async def work() -> None:
        topic = await open_topic(model)
        await topic.commit(0, T1)
        await topic.append(outcome(0, key="shared-scooter"), done(T1, 1))
        knowledge = Knowledge(topic.store, model, 1)
        await knowledge.refresh()
        assert pair_of(knowledge).head("shared-scooter").to_bytes() == (await topic.state())[0]["shared-scooter"]

    go(work())


def test_snapshots_leave_after_the_commit_and_once(model: Model) -> None:
    """What is committed and perhaps not sent is sent again by the next life; then it is trimmed."""

    async def work() -> None:
        topic = await open_topic(model)
        await topic.commit(0, T1)
        await topic.append(outcome(0), outcome(1, key="new"), done(T1, 2))
        promised = topic.learner.unsent()
        assert [(r.topic, r.key) for r in promised] == [("heads", b"new"), ("heads", b"shared")]
        assert {json.loads(r.value or b"")["tick_ms"] for r in promised} == {T1}
        await topic.restart()
        assert topic.learner.unsent() == promised
        topic.learner.mark_sent()
        assert topic.learner.unsent() == []
        with patch.object(topic.store, "commit", wraps=topic.store.commit) as commits:
            for tick_ms in (T2, T3):
                await topic.commit(0, tick_ms)
                await topic.append(done(tick_ms, 2))
        assert [len(call.args[2].drop["snapshots"]) for call in commits.await_args_list if call.args[0] == "o0"] == [2, 0]
        await topic.restart()
        assert [json.loads(r.value or b"")["tick_ms"] for r in topic.learner.unsent()] == [T2, T3]

    go(work())


def test_live_outcomes_are_learned_as_they_come(model: Model) -> None:
    """Without waiting for other partitions or a tick's end; a duplicate moves the offset, and only that."""

    async def work() -> None:
        topic = await open_topic(model, partitions=3, replay=False)
        await topic.commit(0, T1, numbers=1)
        assert await topic.append(outcome(0)) == 1
        heads, _, counts = await topic.state()
        assert counts[1] == 1
        assert await topic.append(outcome(0)) == 1
        assert (await topic.state())[0] == heads
        assert topic.learner.cursor.offset == 2
        assert await topic.append() == 0

    go(work())


def test_the_offset_stays_at_the_first_message_that_is_not_applied(model: Model) -> None:
    """So that a learner made anew reads again what still waited."""

    async def work() -> None:
        topic = await open_topic(model, partitions=2)
        for p in range(2):
            await topic.commit(p, T1)
        await topic.append(outcome(0), done(T1, 1), outcome(1, close_ms=T2 - 1), done(T1, 0, partition=1))
        assert topic.learner.cursor.offset == (await topic.load()).cursor.offset == 2

    go(work())


def test_a_head_hears_what_its_experts_had_said() -> None:
    """Of each exposure each expert's probability, not its score, nor headstart's own; of one that other experts scored nothing is known."""
    said = np.random.default_rng(0).random((2, 2 * len(MODELS)))
    rows = [outcome(i, key="new").closed for i in range(3)]
    for closed, row in zip(rows, (said[0], said[0, :-2], said[1]), strict=True):
        closed.exposure = msgspec.structs.replace(closed.exposure, predictions=msgspec.Raw(msgspec.msgpack.encode(row.tolist())))
    found = experts_said(rows)
    assert found.flags.c_contiguous
    assert found[[0, 2]].tolist() == [[row[2 * k + 1] for k in range(1, len(MODELS))] for row in said.tolist()]
    assert np.isnan(found[1]).all()
