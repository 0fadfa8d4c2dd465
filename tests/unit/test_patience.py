"""What fails again and again ends the worker, though everything between two failures goes well; and how a partition goes on after a silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from features.errors import DependencyDown
from features.events import KINDS
from features.memory_store import MemoryStore
from features.store import Changes
from models.model import Model
from streams import desk as desk_module
from streams import learner_desk as learner_desk_module
from streams import patience as patience_module
from streams.alerts import Alert
from streams.desk import Desk
from streams.gate import End
from streams.knowledge import Knowledge
from streams.learner import Learner
from streams.learner_desk import LearnerDesk
from streams.offline import put_launches
from streams.outbox import OUTBOX
from streams.partition import Partition, Totals
from streams.pipeline import work_off
from streams.records import Counted, Launch, Outcome, Outgoing, Received, decode_message, encode_message
from tests.builders import DAY_MS, EDGES_MS, HOUR_MS, START_MS, Came, make_event, make_model, make_rules, random_events, receive
from tests.unit.test_desk import LOG, RULES, until


@pytest.fixture(scope="module")
def model() -> Model:
    """A model that needs no training."""
    return make_model("shoes")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other quickly."""
    monkeypatch.setattr(patience_module, "PAUSE_S", 0.01)
    for module in (desk_module, learner_desk_module):
        monkeypatch.setattr(module, "IDLE_S", 0.01)


class Refusing:
    """A broker that lets everything be read, and takes no record."""

    def __init__(self) -> None:
        self.tries = 0

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Refuse."""
        if records:
            self.tries += 1
            raise DependencyDown("not enough replicas are in sync")


class Taking:
    """A broker that takes everything."""

    def __init__(self) -> None:
        self.taken: list[Outgoing] = []

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Keep it."""
        self.taken.extend(records)


class Again:
    """A transport that brings the same batch a moment after each seek, when the desk has found its queues empty."""

    def __init__(self, ends: Sequence[End | None]) -> None:
        self.desk: Desk | None = None
        self.told = ends

    async def look_again(self) -> None:
        """Nothing is stamped live."""

    async def seek(self, partition: int, offsets: list[int]) -> None:
        """Read on, in a moment."""
        asyncio.get_running_loop().call_later(0.03, self.bring)

    def bring(self) -> None:
        """Hand over what there is of browse."""
        assert self.desk is not None
        self.desk.hear(0, Came(LOG, len(LOG)))

    def hold(self, partition: int, kind: int, held: bool) -> None:
        """Nothing is held."""

    def ends(self, partition: int) -> Sequence[End | None]:
        """As told."""
        return self.told

    def tell(self, alert: Alert) -> None:
        """There is nothing to be told."""


ENDS = [End(len(LOG), START_MS), *[End(0, START_MS)] * 3]


@pytest.mark.usefixtures("impatient")
def test_a_broker_that_is_read_and_takes_nothing_ends_the_worker(model: Model) -> None:
    """That the store can be read and the log be sought between two tries says nothing of what is waited for."""

    async def work() -> None:
        store, source, crashes = MemoryStore(), Again(ENDS), list[BaseException]()
        outlet = Refusing()
        desk = source.desk = Desk(
            await Partition.load(0, store, RULES), store=store, rules=RULES, knowledge=Knowledge(store, model, 1), outlet=outlet, source=source,
            tick_ms=1000, patience_s=1, clock_ms=lambda: START_MS, stamp_ms=lambda: -1, crashed=crashes.append,
        )  # fmt: skip
        desk.start()
        source.bring()
        await until(lambda: bool(crashes))
        assert isinstance(crashes[0], DependencyDown)
        assert desk.down_s() > 1
        assert outlet.tries < 20, "the pauses must grow"

    asyncio.run(work())


@pytest.mark.usefixtures("impatient")
def test_a_shard_that_takes_no_commit_of_the_learner_ends_the_worker(model: Model) -> None:
    """It can be read all the time."""

    async def work() -> None:
        store, crashes = MemoryStore(), list[BaseException]()
        await put_launches(store, [])

        async def refuse(*_: object) -> bool:
            raise DependencyDown("OOM command not allowed")

        partition = await Partition.load(0, store, RULES)
        partition.cursor.counts = {"shop": [1, 0, 0, 0, 0, 0]}
        partition.tell_counts(START_MS)
        await partition.commit()
        message = encode_message(Counted(epoch=partition.cursor.epoch, partition=0, number=0, tick_ms=START_MS, counts={"shop": [1, 0, 0, 0, 0, 0]}))
        store.commit = refuse  # type: ignore[assignment,method-assign]

        async def load(q: int) -> Learner:
            return await Learner.load(q, store, model, partitions=1, outcome_partitions=1, replay=False)

        def bring() -> None:
            desk.take([(0, message)], 1, lambda: None, lambda: True)

        async def seek(q: int, offset: int) -> None:
            asyncio.get_running_loop().call_later(0.03, bring)

        desk = LearnerDesk(
            await load(0), load=load, seek=seek, outlet=Refusing(), hold=lambda q, held: None, end=lambda q: None, tell=lambda alert: None,
            patience_s=0.3, learned=lambda: None, crashed=crashes.append,
        )  # fmt: skip
        desk.start()
        bring()
        await until(lambda: bool(crashes))
        assert isinstance(crashes[0], DependencyDown)

    asyncio.run(work())


def lose_an_answer(store: MemoryStore) -> Callable[[], bool]:
    """Let the next commit be done, and its answer get lost; returns what tells whether it was."""
    committing, lost = store.commit, list[bool]()

    async def commit(slot: str, expected: int, changes: Changes) -> bool:
        done = await committing(slot, expected, changes)
        if not lost:
            lost.append(done)
            raise DependencyDown("no answer")
        return done

    store.commit = commit  # type: ignore[method-assign]
    return lambda: bool(lost)


@pytest.mark.usefixtures("impatient")
def test_a_commit_whose_answer_was_lost_is_no_reason_to_wait(model: Model) -> None:
    """A desk that finds it done, and has nothing more to do, is not down."""

    async def work() -> None:
        rules = make_rules(replay=True)
        store, source, crashes = MemoryStore(), Again(ENDS), list[BaseException]()
        source.bring = lambda: None  # type: ignore[method-assign]
        desk = source.desk = Desk(
            await Partition.load(0, store, rules), store=store, rules=rules, knowledge=Knowledge(store, model, 1), outlet=Taking(), source=source,
            tick_ms=1000, patience_s=10, clock_ms=lambda: START_MS, stamp_ms=lambda: 0, crashed=crashes.append,
        )  # fmt: skip
        was_lost = lose_an_answer(store)
        for kind in range(4):
            desk.hear(kind, Came([Received(kind, 0, None, None, None, tick_ms=START_MS)], 1))
        desk.start()
        await until(was_lost)
        await until(lambda: bool(crashes) or (desk.partition.cursor.tick_ms == START_MS and not desk.down_s()))
        await desk.stop()
        assert not crashes

    asyncio.run(work())


@pytest.mark.usefixtures("impatient")
def test_nor_is_it_for_a_learner(model: Model) -> None:
    """At night nothing more comes."""

    async def work() -> None:
        store, crashes = MemoryStore(), list[BaseException]()
        partition = await Partition.load(0, store, RULES)
        partition.cursor.counts = {"shop": [1, 0, 0, 0, 0, 0]}
        partition.tell_counts(START_MS)
        await partition.commit()
        ((_, _, message),) = partition.outbox.unsent()

        async def load(q: int) -> Learner:
            return await Learner.load(q, store, model, partitions=1, outcome_partitions=1, replay=False)

        async def seek(q: int, offset: int) -> None:
            assert offset == 1

        desk = LearnerDesk(
            await load(0), load=load, seek=seek, outlet=Taking(), hold=lambda q, held: None, end=lambda q: None, tell=lambda alert: None,
            patience_s=10, learned=lambda: None, crashed=crashes.append,
        )  # fmt: skip
        was_lost = lose_an_answer(store)
        desk.take([(0, message)], 1, lambda: None, lambda: True)
        desk.start()
        await until(was_lost)
        await until(lambda: bool(crashes) or (desk.learner.cursor.offset == 1 and not desk.down_s()))
        await desk.stop()
        assert not crashes

    asyncio.run(work())


@pytest.mark.parametrize("known", [True, False], ids=["ends known", "ends told later"])
def test_a_quiet_partition_goes_on_at_the_present_tick(model: Model, known: bool) -> None:
    """Quiet ticks leave nothing in the store: whoever loads the partition must not score what waits there as if no time had passed, without the launch.

    What time it is can be told once the broker has told where the other topics end, which may be a moment later.
    """
    rules = make_rules(replay=False, partitioner_check=False)
    now_ms = START_MS + 600_000
    late = make_event(now_ms - 1_500, id="late", line="shoes")
    outlet = Taking()

    async def work() -> None:
        store, source, crashes = MemoryStore(), Again([End(1, now_ms), *[End(0, now_ms)] * 3]), list[BaseException]()
        await put_launches(store, [Launch(id="new", line="shoes", window_s=EDGES_MS[-1] / 1000, from_ms=START_MS + 300_000)])
        partition = await Partition.load(0, store, rules)
        partition.cursor.tick_ms = START_MS
        await partition.commit()
        knowledge = Knowledge(store, model, 1)
        await knowledge.refresh()
        desk = Desk(
            await Partition.load(0, store, rules), store=store, rules=rules, knowledge=knowledge, outlet=outlet, source=source,
            tick_ms=1000, patience_s=10, clock_ms=lambda: now_ms, stamp_ms=lambda: -1, crashed=crashes.append,
        )  # fmt: skip
        desk.hear(0, Came([receive(late)], 1))
        told = source.told
        if not known:
            source.told = [told[0], None, None, None]
        desk.start()
        for _ in range(20):
            await asyncio.sleep(0)
        source.told = told
        await until(lambda: bool(crashes) or any(record.topic == "scores" for record in outlet.taken))
        await desk.stop()
        assert not crashes
        assert desk.partition.cursor.tick_ms == now_ms // 1000 * 1000

    asyncio.run(work())
    (score,) = [record.value for record in outlet.taken if record.topic == "scores"]
    assert score is not None
    assert b'"launch_id":"new"' in score


@pytest.mark.parametrize("written", [0, 2], ids=["nothing waits", "events wait"])
def test_what_a_long_silence_ends_with_is_committed_in_steps(written: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours in which nobody wrote, or hardly anybody, and then their bins: every outcome leaves once, no commit holds them all, and the partition is at the present tick."""
    monkeypatch.setattr(desk_module, "CLOSE_BEHIND", 10)
    rules = make_rules(replay=False, partitioner_check=False, ttl_ms=30 * DAY_MS)
    events = [receive(a.event, KINDS[a.kind], offset=i) for i, a in enumerate(random_events(300, span_ms=4 * HOUR_MS))]
    now_ms = START_MS + DAY_MS
    outlet = Taking()
    at_once: list[int] = []

    async def work() -> Totals:
        store, source, crashes = MemoryStore(), Again([End(written, now_ms), *[End(0, now_ms)] * 3]), list[BaseException]()
        model = make_model("line0", "line1", "line2")
        knowledge = Knowledge(store, model, 1)
        await knowledge.refresh()
        partition = await Partition.load(0, store, rules)
        partition.cursor.tick_ms = START_MS
        await work_off(partition, events, knowledge, offsets=[0] * 4, tick_end_ms=START_MS + 1000)
        await partition.commit()
        opened = partition.cursor.totals
        committing = store.commit

        async def commit(slot: str, expected: int, changes: Changes) -> bool:
            at_once.append(len(changes.put[OUTBOX]))
            return await committing(slot, expected, changes)

        store.commit = commit  # type: ignore[method-assign]
        desk = Desk(
            await Partition.load(0, store, rules), store=store, rules=rules, knowledge=knowledge, outlet=outlet, source=source,
            tick_ms=1000, patience_s=10, clock_ms=lambda: now_ms, stamp_ms=lambda: -1, crashed=crashes.append,
        )  # fmt: skip
        if written:
            late = [receive(make_event(ts_ms, id=f"late{ts_ms}", line="line0"), offset=i) for i, ts_ms in enumerate((START_MS + 5_000, now_ms - 1_000))]
            desk.hear(0, Came(late, written))
        desk.start()
        await until(lambda: bool(crashes) or desk.partition.cursor.tick_ms == now_ms)
        await desk.stop()
        assert not crashes
        assert len(desk.partition.pending) <= written
        assert desk.partition.cursor.offsets[0] == written
        return opened

    opened = asyncio.run(work())
    messages = [decode_message(record.value or b"") for record in outlet.taken if record.topic == "outcomes"]
    bins = [(m.closed.exposure.id, m.closed.bin) for m in messages if isinstance(m, Outcome)]
    assert opened.exposures > 50
    assert len(set(bins)) == len(bins) >= opened.exposures
    assert len(at_once) > 10
    assert max(at_once) <= 10 + 1  # and the tick's counts
