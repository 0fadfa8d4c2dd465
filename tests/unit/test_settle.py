"""In which order a portion is settled: what leaves before the commit and what after it, and who may commit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from features.errors import DependencyDown
from features.memory_store import MemoryStore
from models.model import Model
from streams.partition import LostCommit, Partition
from streams.pipeline import publish_outbox, work_off
from streams.records import Outgoing, TickDone, decode_message
from tests.builders import DAY_MS, EDGES_MS, START_MS, make_event, make_model, receive
from tests.unit.test_pipeline import NOWHERE, Desk, go, open_desk


@pytest.fixture(scope="module")
def model() -> Model:
    """Its sources are shoes and bags."""
    return make_model("shoes", "bags")


def test_outcomes_leave_only_after_the_commit(model: Model) -> None:
    """A partition that died between commit and sending sends the same numbers with the same contents; the next commit trims them."""

    async def work() -> None:
        desk = await open_desk(model)
        await desk.work(receive(make_event()))
        worked = await work_off(desk.partition, (), desk.knowledge, offsets=NOWHERE, tick_end_ms=START_MS + DAY_MS)
        assert desk.partition.outbox.unsent() == []
        await desk.partition.commit()
        promised = desk.partition.outbox.unsent()
        assert len(promised) == len(EDGES_MS) + 1
        reborn = await Partition.load(0, desk.store, desk.rules)
        assert reborn.outbox.unsent() == promised
        await publish_outbox(reborn, desk, desk.store, tick_done_ms=START_MS + DAY_MS)
        assert [(r.key, r.value) for r in desk.sent if r.topic == "outcomes"][:-1] == [(key, value) for _, key, value in promised]
        assert decode_message(desk.sent[-1].value or b"") == TickDone(partition=0, tick_ms=START_MS + DAY_MS, upto=len(promised))
        assert reborn.outbox.unsent() == []
        await reborn.commit()
        assert (await Partition.load(0, desk.store, desk.rules)).outbox.unsent() == []
        assert worked.rejected == []

    go(work())


def test_scores_leave_before_the_commit_and_outcomes_after_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed has its score; and while the broker takes none, nothing is committed."""

    async def work() -> None:
        desk = await open_desk(model)
        await desk.work(receive(make_event(id="a")))
        steps: list[str] = []

        async def deliver(records: Sequence[Outgoing]) -> None:
            steps.extend(sorted({record.topic for record in records}))

        async def commit() -> None:
            steps.append("commit")
            await Partition.commit(desk.partition)

        monkeypatch.setattr(desk, "deliver", deliver)
        monkeypatch.setattr(desk.partition, "commit", commit)
        await desk.work(receive(make_event(START_MS + 1, id="b")), tick_end_ms=START_MS + DAY_MS)
        assert steps == ["scores", "commit", "outcomes"]

        async def refuse(records: Sequence[Outgoing]) -> None:
            raise DependencyDown("no broker")

        monkeypatch.setattr(desk, "deliver", refuse)
        before = await desk.store.load("0", ("pending", "outbox"))
        with pytest.raises(DependencyDown):
            await desk.work(receive(make_event(START_MS + DAY_MS, id="c")))
        assert await desk.store.load("0", ("pending", "outbox")) == before

    go(work())


def test_outcomes_wait_until_what_they_follow_from_is_as_durable_as_was_promised(model: Model) -> None:
    """Where no replica confirms the commit, none of them leaves; they stay in the outbox."""

    class NoReplica(MemoryStore):
        """A store whose replica is away."""

        async def settled(self) -> None:
            """Say so."""
            raise DependencyDown("no replica")

    async def work() -> None:
        desk = await open_desk(model, store=NoReplica())
        with pytest.raises(DependencyDown):
            await desk.work(receive(make_event()), tick_end_ms=START_MS + DAY_MS)
        assert {record.topic for record in desk.sent} == {"scores"}
        assert desk.partition.outbox.waiting() > len(EDGES_MS)

    go(work())


def test_of_two_workers_on_one_partition_one_loses(model: Model) -> None:
    """The zombie's commit is refused and writes nothing; made anew, it goes on from the other's state."""

    async def work() -> None:
        desk = await open_desk(model)
        await desk.work(receive(make_event(id="a")))
        zombie = Desk(desk.store, desk.rules, await Partition.load(0, desk.store, desk.rules), desk.knowledge)
        await desk.work(receive(make_event(START_MS + 1, id="b")))
        before = await desk.store.load("0", ("pending", "outbox"))
        with pytest.raises(LostCommit):
            await zombie.work(receive(make_event(START_MS + 2, id="c")))
        assert await desk.store.load("0", ("pending", "outbox")) == before
        zombie.partition = await Partition.load(0, desk.store, desk.rules)
        await zombie.work(receive(make_event(START_MS + 1, id="b")), receive(make_event(START_MS + 2, id="c")))
        totals = zombie.partition.cursor.totals
        assert (totals.read, totals.applied, totals.duplicate) == (4, 3, 1)

    go(work())
