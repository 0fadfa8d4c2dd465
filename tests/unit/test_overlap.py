"""Live, a portion is worked off while the one before it is being committed: neither takes anything from the other, whatever becomes of the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from features.errors import DependencyDown
from features.memory_store import MemoryStore
from features.store import Changes
from models.model import Model
from streams import settling as settling_module
from streams.desk import Desk
from streams.gate import Portion
from streams.partition import Partition
from streams.pipeline import Worked
from streams.records import Outgoing, Received, decode_score
from streams.settling import ENOUGH, Settling, Unsaid
from tests.builders import START_MS, Came, make_event, make_model, make_rules, receive
from tests.unit.test_desk import LateSource, make_desk, until

EVENTS = [receive(make_event(START_MS - 100 + i, id=f"e{i}", who=who, line="shoes"), offset=i) for i, who in enumerate(["ann", "ann", "bob"])]


@pytest.fixture(scope="module")
def model() -> Model:
    """A model that needs no training."""
    return make_model("shoes")


class GatedStore(MemoryStore):
    """A store whose commits wait until they are let through, and then do what they are told."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Future[object]] = []
        self.refuses = self.does_it = self.reads_nothing = False

    async def read(self, slot: str, keys: Sequence[str]) -> list[bytes | None]:
        """Read, or fail once."""
        if keys and self.reads_nothing:
            self.reads_nothing = False
            raise DependencyDown("no answer")
        return await super().read(slot, keys)

    async def commit(self, slot: str, expected: int, changes: Changes) -> bool:
        """Wait; `through` says what becomes of it."""
        self.waiting.append(gate := asyncio.get_running_loop().create_future())
        if (error := await gate) is not None:
            assert isinstance(error, Exception)
            if self.does_it:
                await super().commit(slot, expected, changes)
            raise error
        return not self.refuses and await super().commit(slot, expected, changes)

    def through(self, error: Exception | None = None) -> None:
        """Let the oldest commit through, or fail."""
        self.waiting.pop(0).set_result(error)


class Log(LateSource):
    """A transport that reads a log of three events on from where it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.end = 0
        self.before: Callable[[], None] = lambda: None

    def comes(self, upto: int) -> None:
        """The log grows, and what is new is there to be drawn."""
        self._give(self.end, upto)
        self.end = upto

    def _give(self, first: int, upto: int) -> None:
        assert self.desk is not None
        epoch = self.epoch
        self.desk.hear(0, Came(EVENTS[first:upto], upto, is_current=lambda: self.epoch == epoch))

    async def seek(self, partition: int, offsets: list[int]) -> None:
        """Read again."""
        self.before()
        self.sought.append(offsets)
        self.epoch += 1
        asyncio.get_running_loop().call_soon(lambda: self._give(offsets[0], self.end))  # what has come by then


class Shop:
    """A desk whose store waits, and what it has sent."""

    def __init__(self) -> None:
        self.store, self.source = GatedStore(), Log()
        self.sent: list[str] = []
        self.sent_before: list[str] = []  # the desk started over
        self.crashes: list[BaseException] = []
        self.desk: Desk
        self.source.before = lambda: self.sent_before.extend(self.sent)

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Take everything."""
        self.sent += [decode_score(r.value or b"").event_id for r in records if r.topic == "scores"]

    async def opens(self, model: Model) -> None:
        """The desk begins to work."""
        self.desk = self.source.desk = await make_desk(model, self.store, self.source, self, self.crashes)
        await self.desk._knowledge.refresh()
        self.desk.start()

    async def two_in_hand(self, model: Model) -> None:
        """The first event is scored and being committed, the second one worked off."""
        await self.opens(model)
        self.source.comes(1)
        await until(lambda: len(self.store.waiting) == 1)
        self.source.comes(2)
        await until(lambda: self.desk.partition.cursor.totals.applied == 2)
        await asyncio.sleep(0.01)

    async def settles(self) -> None:
        """Let all commits through until nothing is in hand."""

        def settled() -> bool:
            while self.store.waiting:
                self.store.through()
            return bool(self.crashes) or (self.desk.partition.cursor.totals.applied == self.source.end and not self.desk.in_hand())

        await until(settled)

    async def applied(self) -> tuple[int, int]:
        """Events in the stored cursor, and in the stored record of the shopper."""
        partition = await Partition.load(0, self.store, make_rules(replay=False))
        places = await partition.place_users(["ann"])
        return partition.cursor.totals.applied, int(partition.users.rows["applied"][places][0])


def test_scores_wait_for_the_commit_before_and_that_holds_its_own_portion_alone(model: Model) -> None:
    """Of two portions one at most has scores out that a crash could take back; whoever loads after the first commit finds the first event, and no more."""

    async def work() -> None:
        shop = Shop()
        await shop.two_in_hand(model)
        assert (shop.sent, len(shop.store.waiting), shop.desk.in_hand()) == (["e0"], 1, True)
        shop.store.through()
        await until(lambda: shop.sent == ["e0", "e1"])
        assert await shop.applied() == (1, 1)
        await shop.settles()
        assert await shop.applied() == (2, 2)
        await shop.desk.stop()
        assert not shop.crashes

    asyncio.run(work())


DONE = "done, and unanswered"


@pytest.mark.parametrize("why", ["refused", "unanswered", DONE])
def test_a_commit_that_fails_takes_back_the_portion_that_was_worked_meanwhile(model: Model, why: str) -> None:
    """Its scores have not left; all that is not in the store is read again, and applied once."""

    async def work() -> None:
        shop = Shop()
        await shop.two_in_hand(model)
        shop.store.refuses, shop.store.does_it = why == "refused", why == DONE
        shop.store.through(None if why == "refused" else DependencyDown("no answer"))
        await until(lambda: bool(shop.source.sought))
        shop.store.refuses = False
        await shop.settles()
        assert shop.source.sought == [[1 if why == DONE else 0, 0, 0, 0]]
        assert shop.sent_before == ["e0"]
        assert shop.sent == (["e0", "e1"] if why == DONE else ["e0", "e0", "e1"])
        assert await shop.applied() == (2, 2)
        await shop.desk.stop()
        assert not shop.crashes

    asyncio.run(work())


def test_a_desk_that_stops_sees_its_commit_through(model: Model) -> None:
    """Whoever has the partition next finds it settled: the portion in hand, and the one before it."""

    async def work() -> None:
        shop = Shop()
        await shop.two_in_hand(model)
        stopping = asyncio.create_task(shop.desk.stop())
        await asyncio.sleep(0.02)
        shop.source.comes(3)
        assert (stopping.done(), shop.sent) == (False, ["e0"])
        while not stopping.done():
            if shop.store.waiting:
                shop.store.through()
            await asyncio.sleep(0.01)
        await stopping
        assert shop.sent == ["e0", "e1"]
        assert await shop.applied() == (2, 2)
        assert not shop.crashes

    asyncio.run(work())


def test_what_comes_while_a_commit_takes_its_time_is_settled_together(model: Model) -> None:
    """It has been worked off by the time the commit is done, and leaves at once, in order, with one commit for all of it."""

    async def work() -> None:
        shop = Shop()
        await shop.two_in_hand(model)
        shop.source.comes(3)
        await until(lambda: shop.desk.partition.cursor.totals.applied == 3)
        assert shop.sent == ["e0"]
        shop.store.through()
        await until(lambda: shop.sent == ["e0", "e1", "e2"])
        assert len(shop.store.waiting) == 1
        assert await shop.applied() == (1, 1)
        await shop.settles()
        assert await shop.applied() == (3, 2)
        await shop.desk.stop()

    asyncio.run(work())


def test_what_is_stored_is_acknowledged_and_nothing_before(model: Model) -> None:
    """All that is settled together, too: what is acknowledged does not come again."""

    class Acked(Came):
        """A topic that notes up to where it is acknowledged."""

        def draw(self) -> tuple[list[Received], int, Callable[[], object]] | None:
            """As ever."""
            drawn = super().draw()
            return drawn and (drawn[0], drawn[1], lambda: acked.append(drawn[1]))

    acked: list[int] = []

    async def work() -> None:
        shop, tap = Shop(), Acked([], 0)
        await shop.opens(model)
        for n, event in enumerate(EVENTS, 1):
            tap.records, tap.next_offset = [event], n
            shop.desk.hear(0, tap)
            await until(lambda n=n: shop.desk.partition.cursor.totals.applied == n)  # type: ignore[misc]
        shop.store.through()
        await until(lambda: len(shop.store.waiting) == 1 and bool(acked))
        assert acked == [1]
        shop.source.end = len(EVENTS)
        await shop.settles()
        assert acked == [1, 2, 3]
        await shop.desk.stop()

    asyncio.run(work())


@pytest.mark.parametrize("fails", [False, True])
def test_scores_need_not_wait_for_outcomes_on_their_way_but_the_next_commit_does(model: Model, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """The outbox hears that they have left before it takes further ones. If the broker did not take them, what is not stored is worked again."""
    left = asyncio.Event()

    async def publish(*_: object, **__: object) -> None:
        if shop.sent:
            await left.wait()
        if fails and shop.sent == ["e0", "e1"]:
            raise DependencyDown("the broker is away for a moment")

    monkeypatch.setattr(settling_module, "publish_outbox", publish)
    shop = Shop()

    async def work() -> None:
        await shop.two_in_hand(model)
        shop.store.through()
        await until(lambda: shop.sent == ["e0", "e1"])
        await asyncio.sleep(0.02)
        assert shop.store.waiting == []
        left.set()
        await shop.settles()
        assert shop.sent == (["e0", "e1", "e1"] if fails else ["e0", "e1"])
        assert await shop.applied() == (2, 2)
        await shop.desk.stop()
        assert not shop.crashes

    asyncio.run(work())


def test_a_portion_that_fails_while_another_is_committed_is_read_again_alone(model: Model) -> None:
    """The commit under way is seen to its end before the partition is loaded."""

    async def work() -> None:
        shop = Shop()
        await shop.two_in_hand(model)
        shop.store.reads_nothing = True
        shop.source.comes(3)
        await until(lambda: shop.desk.down_s() > 0)
        await asyncio.sleep(0.3)  # longer than the pause before it starts over
        assert (shop.source.sought, shop.desk.in_hand()) == ([], True)
        shop.store.through()
        await until(lambda: shop.source.sought == [[1, 0, 0, 0]])
        await shop.settles()
        assert shop.sent == ["e0", "e1", "e2"]
        assert await shop.applied() == (3, 2)
        await shop.desk.stop()
        assert not shop.crashes

    asyncio.run(work())


def test_an_event_that_is_settled_ends_a_trouble_though_more_always_waits(model: Model) -> None:
    """The desk need not come to rest. What is settled without an event says nothing: those that failed may fail again."""

    async def work() -> None:
        shop = Shop()
        await shop.two_in_hand(model)
        shop.store.through(DependencyDown("no answer"))
        await until(lambda: bool(shop.store.waiting))
        shop.desk._committed(Unsaid(offsets=[0] * 4))
        assert shop.desk.down_s() > 0
        shop.source.comes(3)
        await until(lambda: shop.desk.partition.cursor.totals.applied == 3)
        shop.store.through()
        await until(lambda: bool(shop.store.waiting))
        assert (shop.desk.in_hand(), shop.desk.down_s()) == (True, 0.0)
        await shop.settles()
        await shop.desk.stop()

    asyncio.run(work())


@pytest.mark.parametrize("done", [True, False])
def test_lost_records_count_once_though_the_answer_is_lost_too(model: Model, done: bool) -> None:
    """Whether the commit that counts them was done or not."""

    async def work() -> None:
        shop = Shop()
        await shop.opens(model)
        shop.desk.gone(0, 0, 1)
        shop.source.comes(1)
        await until(lambda: len(shop.store.waiting) == 1)
        shop.store.does_it = done
        shop.store.through(DependencyDown("no answer"))
        await until(lambda: bool(shop.source.sought))
        if not done:
            shop.desk.gone(0, 0, 1)  # as the seek tells again
        await shop.settles()
        shop.source.comes(2)
        await shop.settles()
        assert shop.desk.partition.cursor.totals.lost == 1
        await shop.desk.stop()

    asyncio.run(work())


def test_lost_records_that_a_commit_did_not_count_wait_for_one_that_does(model: Model) -> None:
    """Though the desk starts over twice before that begins, the second time without a commit."""

    async def work() -> None:
        shop = Shop()
        await shop.opens(model)
        shop.source.comes(1)
        await shop.settles()
        shop.desk.gone(0, 0, 1)  # told late
        shop.source.comes(2)
        await until(lambda: len(shop.store.waiting) == 1)
        shop.store.refuses = True
        shop.store.through()
        await until(lambda: bool(shop.source.sought))
        shop.store.refuses = False
        await until(lambda: len(shop.store.waiting) == 1)
        settling = shop.desk._settling
        settling.start_over(shop.desk.partition, await Partition.load(0, shop.store, make_rules(replay=False)))  # the commit under way is not done
        at_rest = await Partition.load(0, shop.store, make_rules(replay=False))
        settling.start_over(at_rest, at_rest)
        assert settling._gone == [(0, 0, 1)]
        await shop.settles()
        await shop.desk.stop()

    asyncio.run(work())


def test_enough_is_worked_off_before_a_commit_is_done() -> None:
    """What waits leaves together, with one commit, which must not become too large."""
    settling = Settling(Shop(), MemoryStore(), replay=False, committed=lambda unsaid: None, wake=lambda: None)
    for n, full in ((ENOUGH - 1, False), (1, True)):
        settling.add(Portion([EVENTS[0]] * n, [0] * 4, None), Worked())
        assert settling.is_full() == full


def test_a_commit_is_on_its_way_before_the_next_portion_is_worked(model: Model) -> None:
    """Also where all shoppers are at hand, so that working off waits for nothing."""
    steps: list[str] = []

    class Eager(MemoryStore):
        """A store whose commits take a turn of the event loop to begin."""

        async def commit(self, slot: str, expected: int, changes: Changes) -> bool:
            """Begin, and be done."""
            await asyncio.sleep(0)
            steps.append("commit")
            return await super().commit(slot, expected, changes)

    class OneByOne(Came):
        """A topic of which one record is drawn at a time."""

        def draw(self) -> tuple[list[Received], int, Callable[[], object]] | None:
            """Draw one."""
            if not self.records:
                return None
            steps.append("draw")
            return [self.records.pop(0)], self.next_offset - len(self.records), lambda: None

    async def work() -> None:
        source, crashes = Log(), list[BaseException]()
        desk = await make_desk(model, Eager(), source, Shop(), crashes)
        desk.start()
        desk.hear(0, OneByOne([receive(make_event(START_MS - 100 + i, id=f"e{i}", who="ann"), offset=i) for i in range(3)], 3))
        await until(lambda: steps.count("commit") == 3)
        await desk.stop()
        assert not crashes

    asyncio.run(work())
    assert steps == ["draw", "commit"] * 3
