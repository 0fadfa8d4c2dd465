"""The loop around a partition: what must not be lost when it starts over, and what a slow broker must not stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from unittest.mock import AsyncMock

import pytest

from features.errors import DependencyDown
from features.memory_store import MemoryStore
from features.store import Slot
from models.model import Model
from streams import desk as desk_module
from streams import learner_desk as learner_desk_module
from streams.alerts import Alert
from streams.desk import Desk
from streams.gate import End
from streams.knowledge import Knowledge
from streams.learner import Learner
from streams.learner_desk import LearnerDesk
from streams.namespace import rules_of
from streams.partition import Partition
from streams.pipeline import Outlet
from streams.records import Outgoing, received
from streams.settings import Settings
from streams.worker import Worker
from tests.builders import START_MS, Came, make_event, make_model, make_rules, receive

RULES = make_rules(replay=False, partitioner_check=False)
LOG = [receive(make_event(START_MS + i, id=f"e{i}"), offset=i) for i in range(150)]


class FailingOnce:
    """An outlet whose first delivery fails."""

    def __init__(self) -> None:
        self.failed = False

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Fail once, then take everything."""
        if records and not self.failed:
            self.failed = True
            raise DependencyDown("the broker is away for a moment")


class LateSource:
    """A transport that hands over one more old batch while it seeks, and reads on from the cursor after it."""

    def __init__(self) -> None:
        self.desk: Desk | None = None
        self.sought: list[list[int]] = []
        self.epoch = 0
        self.taps: dict[int, Came] = {}

    def hand_over(self, first: int, last: int) -> None:
        """Let the records [first, last) of browse come."""
        assert self.desk is not None
        epoch = self.epoch
        tap = self.taps.setdefault(epoch, Came([], 0, is_current=lambda: self.epoch == epoch))
        tap.records, tap.next_offset = [*tap.records, *LOG[first:last]], last
        self.desk.hear(0, tap)

    async def look_again(self) -> None:
        """Nothing is stamped live."""

    async def seek(self, partition: int, offsets: list[int]) -> None:
        """The seek takes effect in the middle."""
        self.sought.append(offsets)
        self.hand_over(100, 150)
        await asyncio.sleep(0)
        self.epoch += 1
        self.hand_over(offsets[0], 120)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(self.hand_over, 120, 150)

    def hold(self, partition: int, kind: int, held: bool) -> None:
        """Nothing is held."""

    def ends(self, partition: int) -> list[End | None]:
        """Only browse has records."""
        return [End(150, START_MS), *[End(0, START_MS)] * 3]

    def tell(self, alert: Alert) -> None:
        """There is nothing to be told."""


@pytest.fixture(scope="module")
def model() -> Model:
    """A model that needs no training."""
    return make_model("shoes")


async def until(holds: Callable[[], bool], *, tries: int = 500) -> None:
    """Wait until something holds, for at most five seconds."""
    for _ in range(tries):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came about")


async def make_desk(
    model: Model, store: MemoryStore, source: LateSource, outlet: Outlet, crashes: list[BaseException], *, held_bytes: int = desk_module.HELD_BYTES
) -> Desk:
    """A live desk of partition 0, whose clock stands."""
    return Desk(
        await Partition.load(0, store, RULES), store=store, rules=RULES, knowledge=Knowledge(store, model, 1), outlet=outlet, source=source,
        tick_ms=1000, patience_s=10, clock_ms=lambda: START_MS, stamp_ms=lambda: -1, crashed=crashes.append, held_bytes=held_bytes,
    )  # fmt: skip


async def make_learner_desk(
    model: Model, store: MemoryStore, seek: Callable[[int, int], Awaitable[None]], hold: Callable[[int, bool], None], crashes: list[BaseException]
) -> LearnerDesk:
    """A live desk of outcome partition 0."""

    async def load(q: int) -> Learner:
        return await Learner.load(q, store, model, partitions=1, outcome_partitions=1, replay=False)

    return LearnerDesk(
        await load(0), load=load, seek=seek, outlet=Slow(), hold=hold, end=lambda q: None, tell=lambda alert: None,
        patience_s=10, learned=lambda: None, crashed=crashes.append,
    )  # fmt: skip


class Elsewhere(LateSource):
    """A transport of which a desk hears only a while after the seek, while what was drained before it is still there."""

    async def seek(self, partition: int, offsets: list[int]) -> None:
        """All of it is read again."""
        self.sought.append(offsets)
        self.hand_over(100, 150)
        self.epoch += 1
        asyncio.get_running_loop().call_later(0.1, self.hand_over, offsets[0], 150)


@pytest.mark.parametrize("transport", [LateSource, Elsewhere])
def test_no_record_is_lost_when_a_desk_starts_over(model: Model, transport: type[LateSource]) -> None:
    """What was drained before the seek is dropped, what came after it is kept, whenever both arrive: records that lie behind those that are read again would make them look worked."""

    async def work() -> None:
        store, source = MemoryStore(), transport()
        crashes: list[BaseException] = []
        desk = source.desk = await make_desk(model, store, source, FailingOnce(), crashes)
        desk.start()
        source.hand_over(0, 100)
        await until(lambda: bool(crashes) or desk.partition.cursor.offsets[0] == 150)
        await desk.stop()
        assert not crashes
        assert source.sought == [[0, 0, 0, 0]]
        assert (desk.partition.cursor.totals.read, desk.partition.cursor.totals.applied) == (150, 150)

    asyncio.run(work())


def test_a_portion_takes_what_came_while_the_one_before_was_in_hand(model: Model) -> None:
    """The desk draws when it begins: it need not hear of it first."""

    async def work() -> None:
        store, source = MemoryStore(), LateSource()
        crashes: list[BaseException] = []
        tap = Came(LOG[:1], 1)

        class Meanwhile:
            """An outlet during whose first delivery more comes."""

            async def deliver(self, records: Sequence[Outgoing]) -> None:
                """Let the rest come."""
                if records and tap.next_offset == 1:
                    tap.records, tap.next_offset = LOG[1:], len(LOG)

        desk = await make_desk(model, store, source, Meanwhile(), crashes)
        desk.start()
        desk.hear(0, tap)
        await until(lambda: bool(crashes) or desk.partition.cursor.offsets[0] == len(LOG))
        await desk.stop()
        assert desk.partition.cursor.totals.applied == len(LOG)
        assert not crashes

    asyncio.run(work())


def test_a_desk_is_woken_by_what_comes_of_a_topic_that_it_knows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No agent has to hear of it again, and nobody waits for the next look around."""
    monkeypatch.setattr(desk_module, "IDLE_S", 3600.0)

    async def work() -> None:
        store, source, crashes, tap = MemoryStore(), LateSource(), list[BaseException](), Came(LOG[:1], 1)
        desk = await make_desk(model, store, source, Slow(), crashes)
        desk.start()
        desk.hear(0, tap)
        await until(lambda: bool(crashes) or (desk.partition.cursor.offsets[0] == 1 and not desk.in_hand()))
        tap.records, tap.next_offset = LOG[1:], len(LOG)
        wake = tap.wake
        assert wake is not None
        wake()
        await until(lambda: bool(crashes) or desk.partition.cursor.offsets[0] == len(LOG))
        await desk.stop()
        assert not crashes
        assert tap.wake is None  # a tap is perhaps held for long: it must not hold a desk that has given its partition away
        desk.hear(0, tap)
        assert (tap.wake, desk._taps) == (None, [None] * 4)

    asyncio.run(work())


class Slow:
    """An outlet that takes its time, as a broker does that fails over."""

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Wait."""
        if records:
            await asyncio.sleep(0.3)


class NoWire:
    """A transport without records."""

    async def seek(self, offsets: object) -> None:
        """Nothing to do."""

    def hold(self, topic: int, partition: int, held: bool) -> None:
        """Nothing to do."""

    def end(self, topic: int, partition: int) -> End | None:
        """Browse has one record."""
        return End(1 if topic == 0 else 0, START_MS)

    def answered_ms(self, topic: int, partition: int) -> int | None:
        """Always the same."""
        return START_MS


def test_a_rebalance_during_a_slow_delivery_goes_on_afterwards(model: Model) -> None:
    """The wait for the batch in hand may be given up: the batch is finished all the same, and the next assignment opens the desks."""

    async def work() -> None:
        exits: list[object] = []
        worker = Worker(
            MemoryStore(), model, RULES, tick_ms=1000, patience_s=10, outlet=Slow(), wire=NoWire(), hard_exit=lambda *why: exits.append(why),
            clock_ms=lambda: START_MS,
        )  # fmt: skip
        await worker.assigned([0], [])
        worker.hear(0, 0, Came([received(0, 0, b"u", b"broken")], 1))
        await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(worker.settle(), 0.05)
        assert (await worker.assigned([0], []))[0, 0] == 1
        await worker.settle()
        assert not exits

    asyncio.run(work())


class Holding(LateSource):
    """A transport that notes what is held; the logs hold one record each of browse and click."""

    def __init__(self) -> None:
        super().__init__()
        self.holds: list[tuple[int, bool]] = []

    def hold(self, partition: int, kind: int, held: bool) -> None:
        """Note it."""
        self.holds.append((kind, held))

    def ends(self, partition: int) -> list[End | None]:
        """One of each, of two topics."""
        return [*[End(1, START_MS)] * 2, *[End(0, START_MS)] * 2]


def test_a_topic_is_held_by_what_waits_in_bytes_and_goes_on_when_it_is_worked(model: Model) -> None:
    """However few the records are; another topic is not held with it."""

    async def work() -> None:
        store, source = MemoryStore(), Holding()
        crashes: list[BaseException] = []
        desk = await make_desk(model, store, source, Slow(), crashes, held_bytes=1_000)
        desk.hear(1, Came([received(1, 0, b"ann", bytes(100))], 1))
        desk.hear(0, Came([received(0, 0, b"ann", bytes(2_000))], 1))
        desk.start()
        await until(lambda: len(source.holds) > 1)
        await desk.stop()
        assert source.holds == [(0, True), (0, False)]
        assert not crashes

    asyncio.run(work())


def test_nothing_is_read_while_a_desk_starts_over(model: Model) -> None:
    """A store that is away for long would let a backlog pile up in memory: topics are held until the seek is done."""

    async def work() -> None:
        store, source, back = MemoryStore(), Holding(), asyncio.Event()
        load, crashes = store.load, list[BaseException]()
        desk = source.desk = await make_desk(model, store, source, Slow(), crashes)
        learner_holds: list[bool] = []
        sought: list[int] = []

        async def seek(q: int, offset: int) -> None:
            assert learner_holds[-1]
            sought.append(offset)

        other = await make_learner_desk(model, store, seek, lambda q, held: learner_holds.append(held), crashes)

        async def slow(slot: str, hashes: Sequence[str]) -> Slot:
            await back.wait()
            return await load(slot, hashes)

        store.load = slow  # type: ignore[method-assign]
        for one in (desk, other):
            one.load_again()
            one.start()
        await until(lambda: len(source.holds) == 4 and learner_holds == [True])
        assert source.holds == [(kind, True) for kind in range(4)]
        back.set()
        await until(lambda: learner_holds == [True, False] and len(source.holds) == 8)
        assert source.holds[4:] == [(kind, False) for kind in range(4)]
        assert sought == [0]
        for one in (desk, other):
            await one.stop()
        assert not crashes

    asyncio.run(work())


def test_who_is_stopped_while_it_looks_at_the_store_holds_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its partition may be somebody else's by then, who would not know what to let go."""
    monkeypatch.setattr(desk_module, "CHECK_S", 0.0)
    monkeypatch.setattr(learner_desk_module, "IDLE_S", 0.01)

    async def work() -> None:
        store, source, back = MemoryStore(), Holding(), asyncio.Event()
        looking, holds, crashes = list[object](), list[bool](), list[BaseException]()

        async def went_back(one: object) -> bool:
            looking.append(one)
            await back.wait()
            return False

        monkeypatch.setattr(Partition, "is_current", went_back)
        monkeypatch.setattr(Learner, "is_current", went_back)
        desk = source.desk = await make_desk(model, store, source, Slow(), crashes)
        other = await make_learner_desk(model, store, AsyncMock(), lambda q, held: holds.append(held), crashes)
        desk.start()
        other.start()
        await until(lambda: len(looking) == 2)
        stops = [asyncio.create_task(one.stop()) for one in (desk, other)]
        await asyncio.sleep(0)
        back.set()
        await asyncio.gather(*stops)
        assert (source.holds, holds, crashes) == ([], [], [])

    asyncio.run(work())


def test_a_desk_that_is_woken_all_the_time_sees_that_the_store_went_back(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks are news, and leave no quiet moment."""
    monkeypatch.setattr(desk_module, "CHECK_S", 0.2)

    async def work() -> None:
        store, source = MemoryStore(), Holding()
        crashes: list[BaseException] = []
        desk = source.desk = await make_desk(model, store, source, Slow(), crashes)
        partition = desk.partition
        await partition.commit()
        desk.start()
        store.__dict__.update(MemoryStore().__dict__)
        for _ in range(200):
            desk.wake()
            await asyncio.sleep(0.01)
            if desk.partition is not partition:
                break
        await desk.stop()
        assert desk.partition is not partition
        assert not crashes

    asyncio.run(work())


def test_the_partitions_of_a_worker_share_what_it_may_hold(model: Model) -> None:
    """`max_pending` and `lru_users` are a worker's, however many partitions there are elsewhere; each of its own has an equal part, after every rebalance."""

    async def work() -> None:
        rules = make_rules(replay=False, partitioner_check=False, partitions=12, max_pending=900, lru_users=90)
        worker = Worker(
            MemoryStore(), model, rules, tick_ms=1000, patience_s=10, outlet=Slow(), wire=NoWire(), hard_exit=lambda *why: pytest.fail(str(why)),
            clock_ms=lambda: START_MS,
        )  # fmt: skip
        for partitions, share in (([0, 1, 2], (300, 30)), ([1], (900, 90))):
            await worker.assigned(partitions, [])
            assert {(desk.partition.rules.max_pending, desk.partition.rules.lru_users) for desk in worker.desks.values()} == {share}
        worker.desks[1].load_again()
        await asyncio.sleep(0.05)
        assert worker.desks[1].partition.rules.max_pending == 900
        await worker.settle()

    asyncio.run(work())


def test_a_replay_and_an_evaluation_follow_every_exposure() -> None:
    """What a log's rows are does not depend on what a live worker may hold."""
    settings = Settings(max_pending=5, lru_users=7)
    assert rules_of(settings, None, replay=False).shared_by(1).max_pending == 5
    replayed = rules_of(settings, None, replay=True)
    assert replayed.lru_users == 7
    assert replayed.shared_by(12).max_pending > 10**12


def test_what_left_the_log_counts_in_the_commit_that_goes_past_it(model: Model) -> None:
    """Once, also where the desk starts over in between: of what is still ahead then, the seek tells."""

    async def work() -> None:
        worker = Worker(
            MemoryStore(), model, RULES, tick_ms=1000, patience_s=10, outlet=Slow(), wire=NoWire(), hard_exit=lambda *why: pytest.fail(str(why)),
            clock_ms=lambda: START_MS,
        )  # fmt: skip
        await worker.assigned([0], [])
        desk = worker.desks[0]

        async def take(offset: int) -> int:
            worker.hear(0, 0, Came([received(0, offset, b"u", b"broken")], offset + 1))
            await until(lambda: desk.partition.cursor.offsets[0] == offset + 1 and not desk.in_hand())
            return desk.partition.cursor.totals.lost

        assert await take(0) == 0
        worker.records_gone(0, 0, 1, 20)
        assert desk.partition.cursor.totals.lost == 0
        assert await take(20) == 19
        assert await take(21) == 19
        worker.records_gone(0, 0, 22, 30)
        held = desk.partition
        desk.load_again()
        await until(lambda: desk.partition is not held)
        assert await take(30) == 19
        assert worker.lost_records == 27
        await worker.settle()

    asyncio.run(work())
