"""Live, delay bins close some at a time: what comes meanwhile is scored, no outcome is told twice or not at all, and the tick ends in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import pytest

from features.memory_store import MemoryStore
from features.store import Changes
from models.model import Model
from streams import desk as desk_module
from streams.desk import Desk
from streams.gate import End
from streams.knowledge import Knowledge
from streams.outbox import OUTBOX, held_for
from streams.partition import Cursor, Partition
from streams.pipeline import Outlet, work_off
from streams.records import Counted, Outcome, Outgoing, decode_message, received
from tests.builders import EDGES_MS, START_MS, Came, make_event, make_model, make_rules, receive
from tests.unit.test_desk import LateSource, until

GRACE_MS, TICK_MS, N = 1_000, 1_000, 60
RULES = make_rules(replay=False, partitioner_check=False, grace_ms=GRACE_MS)
DUE_MS = START_MS + 1 + EDGES_MS[0] + GRACE_MS  # when the first bin of the first exposure closes


@pytest.fixture(scope="module")
def model() -> Model:
    """A model that needs no training."""
    return make_model("shoes")


class Shop:
    """A partition with N shoppers' exposures, opened a millisecond apart, none of whose bins is due yet."""

    def __init__(self, model: Model) -> None:
        self.store, self.model, self.now_ms, self.end = MemoryStore(), model, START_MS + TICK_MS, 0
        self.sent: list[Outgoing] = []
        self.commits: list[tuple[int, int]] = []  # of each: outcomes, and the tick
        self.crashes: list[BaseException] = []
        self.meanwhile: Callable[[], None] | None = None  # happens once the first outcome has left
        self.source = LateSource()
        self.source.ends = self.ends  # type: ignore[method-assign]

    def ends(self, partition: int) -> list[End | None]:
        """The broker answers."""
        return [End(self.end, self.now_ms), *[End(0, self.now_ms)] * 3]

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Take everything."""
        self.sent += records
        await asyncio.sleep(0)
        if self.told() and (happens := self.meanwhile) is not None:
            self.meanwhile = None
            happens()

    async def open(self) -> Desk:
        """Let the exposures open."""
        knowledge = Knowledge(self.store, self.model, 1)
        await knowledge.refresh()
        partition = await Partition.load(0, self.store, RULES)
        partition.cursor.tick_ms = START_MS
        events = [receive(make_event(START_MS + 1 + i, id=f"e{i}", who=f"u{i}", line="shoes"), offset=i) for i in range(N)]
        await work_off(partition, events, knowledge, offsets=[0] * 4, tick_end_ms=START_MS + TICK_MS)
        assert len(partition.pending) == N
        await partition.commit()
        committing = self.store.commit

        async def commit(slot: str, expected: int, changes: Changes) -> bool:
            self.commits.append((len(changes.put.get(OUTBOX, ())), msgspec.msgpack.decode(changes.cursor, type=Cursor).tick_ms))
            return await committing(slot, expected, changes)

        self.store.commit = commit  # type: ignore[method-assign]
        return await self.desk(knowledge)

    async def desk(self, knowledge: Knowledge, outlet: Outlet | None = None) -> Desk:
        """The partition's worker, anew from the store."""
        return Desk(
            await Partition.load(0, self.store, RULES), store=self.store, rules=RULES, knowledge=knowledge, outlet=outlet or self, source=self.source,
            tick_ms=TICK_MS, patience_s=10, clock_ms=lambda: self.now_ms, stamp_ms=lambda: -1, crashed=self.crashes.append,
        )  # fmt: skip

    async def goes_on(self, desk: Desk, now_ms: int) -> None:
        """Time passes, until nothing is left to do."""
        self.now_ms = now_ms
        desk.wake()
        tick_ms = now_ms // TICK_MS * TICK_MS
        await until(lambda: bool(self.crashes) or (desk.partition.cursor.tick_ms == tick_ms and not desk.in_hand()))
        assert not self.crashes

    def told(self) -> list[tuple[str, int]]:
        """(exposure, bin) of the outcomes that have left, in order."""
        messages = [decode_message(r.value or b"") for r in self.sent if r.topic == "outcomes"]
        return [(m.closed.exposure.user, m.closed.bin) for m in messages if isinstance(m, Outcome)]

    def browse(self, desk: Desk) -> None:
        """Another shopper comes."""
        self.end += 1
        desk.hear(0, Came([receive(make_event(self.now_ms, id=f"new{self.end}", who=f"new{self.end}", line="shoes"), offset=self.end - 1)], self.end))


async def begun(model: Model) -> tuple[Shop, Desk]:
    """The shop and its worker, at the last tick before anything is due."""
    shop = Shop(model)
    desk = await shop.open()
    desk.start()
    await shop.goes_on(desk, DUE_MS // TICK_MS * TICK_MS)
    return shop, desk


EVERY_ONE_ONCE = [(f"u{i}", 1) for i in range(N)]


def test_a_tick_with_many_bins_closes_them_some_at_a_time(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each commit holds few, each outcome leaves once and in order, and only with the last of them the tick ends."""
    monkeypatch.setattr(desk_module, "CLOSE_AT_ONCE", 7)

    async def work() -> tuple[Shop, int]:
        shop, desk = await begun(model)
        shop.commits.clear()
        before = desk.partition.cursor.tick_ms
        await shop.goes_on(desk, before + TICK_MS)
        await desk.stop()
        return shop, before

    shop, before = asyncio.run(work())
    assert shop.told() == EVERY_ONE_ONCE
    told, ticks = zip(*shop.commits, strict=True)
    assert max(told) <= 7 + 1  # and the tick's counts
    assert len(ticks) >= N / 7
    assert [*ticks] == [before] * (len(ticks) - 1) + [before + TICK_MS]


def test_who_comes_while_bins_close_is_scored_before_the_last_of_them(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions take turns; no score waits for all that is due."""
    monkeypatch.setattr(desk_module, "CLOSE_AT_ONCE", 5)

    async def work() -> Shop:
        shop, desk = await begun(model)
        shop.browse(desk)  # the first after a load finds the partition's time gone on to its own
        await until(lambda: any(r.topic == "scores" for r in shop.sent))
        shop.sent.clear()
        shop.meanwhile = lambda: shop.browse(desk)
        await shop.goes_on(desk, shop.now_ms + TICK_MS)
        await until(lambda: any(r.topic == "scores" for r in shop.sent))
        await desk.stop()
        return shop

    shop = asyncio.run(work())
    scored = next(i for i, r in enumerate(shop.sent) if r.topic == "scores")
    assert shop.told() == EVERY_ONE_ONCE
    del shop.sent[scored:]
    assert 0 < len(shop.told()) < N / 2


def test_scores_do_not_wait_for_what_closes_far_behind(model: Model) -> None:
    """The events in hand have a commit of their own, before the bins of the ticks that were missed."""

    async def work() -> Shop:
        shop, desk = await begun(model)
        shop.browse(desk)  # the first after a load goes on to its own tick
        await until(lambda: any(r.topic == "scores" for r in shop.sent) and not desk.in_hand())
        shop.sent.clear()
        shop.commits.clear()
        shop.now_ms += 10 * TICK_MS
        shop.browse(desk)
        await shop.goes_on(desk, shop.now_ms)
        await desk.stop()
        return shop

    shop = asyncio.run(work())
    assert shop.sent[0].topic == "scores"
    assert shop.told() == EVERY_ONE_ONCE
    assert shop.commits[0][0] == 0


def test_many_that_are_due_close_before_the_tick_ends_when_no_event_waits(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few are left for its end; and few of them wait for it, since each commit has its price. The tick itself goes on."""
    monkeypatch.setattr(desk_module, "CLOSE_AT_ONCE", 25)

    async def work() -> Shop:
        shop, desk = await begun(model)
        tick_ms = desk.partition.cursor.tick_ms
        shop.now_ms = DUE_MS + N
        shop.sent.clear()  # the counts of the tick before
        shop.browse(desk)
        await until(lambda: bool(shop.crashes) or len(shop.told()) == 50)
        for _ in range(100):
            desk.wake()
            await asyncio.sleep(0)
        assert shop.sent[0].topic == "scores"
        assert shop.told() == EVERY_ONE_ONCE[:50]
        assert (await Partition.load(0, shop.store, RULES)).cursor.tick_ms == tick_ms
        await shop.goes_on(desk, tick_ms + TICK_MS)
        await desk.stop()
        return shop

    assert asyncio.run(work()).told() == EVERY_ONE_ONCE


def test_a_worker_that_dies_between_two_parts_is_followed_by_one_that_closes_the_rest(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed and not sent is told again, under the same number; all else once, and nothing is missing."""
    monkeypatch.setattr(desk_module, "CLOSE_AT_ONCE", 7)

    class Gone(Exception):
        """The process has ended."""

    async def work() -> Shop:
        shop = Shop(model)
        desk = await shop.open()

        class Dying:
            """An outlet whose process ends when it is given the third part."""

            parts = 0

            async def deliver(self, records: Sequence[Outgoing]) -> None:
                """Take two parts."""
                if any(r.topic == "outcomes" for r in records):
                    self.parts += 1
                    if self.parts == 3:
                        raise Gone
                await shop.deliver(records)

        first = await shop.desk(desk._knowledge, Dying())
        first.start()
        await shop.goes_on(first, DUE_MS // TICK_MS * TICK_MS)
        shop.now_ms += TICK_MS
        first.wake()
        await until(lambda: bool(shop.crashes))
        assert isinstance(shop.crashes.pop(), Gone)
        assert 0 < len(shop.told()) < N
        held = held_for(0, (await shop.store.load("0", (OUTBOX,))).hashes[OUTBOX])
        again = {at: m.closed.exposure.user for at, m in held.items() if isinstance(m, Outcome)}
        assert set(again.values()) - {user for user, _ in shop.told()}, "nothing was committed and not sent: the test looks at nothing"
        second = await shop.desk(desk._knowledge)
        second.start()
        await until(lambda: bool(shop.crashes) or second.partition.cursor.tick_ms == shop.now_ms)
        await second.stop()
        assert not shop.crashes
        messages = [decode_message(r.value or b"") for r in shop.sent if r.topic == "outcomes"]
        numbers = {(m.epoch, m.number): m.closed.exposure.user for m in messages if isinstance(m, Outcome)}
        assert len(numbers) == N
        assert again.items() <= numbers.items()
        return shop

    assert asyncio.run(work()).told() == EVERY_ONE_ONCE


def test_who_is_stopped_while_it_catches_up_leaves_the_events_that_wait(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The partition's time is long ago until all that was due has closed: they would be scored as of then. Whoever has it next takes them."""
    monkeypatch.setattr(desk_module, "CLOSE_BEHIND", 7)

    async def work() -> Shop:
        shop = Shop(model)
        desk = await shop.open()
        stopping: list[asyncio.Task[None]] = []
        shop.meanwhile = lambda: stopping.append(asyncio.create_task(desk.stop()))
        shop.now_ms = DUE_MS // TICK_MS * TICK_MS + 100 * TICK_MS
        shop.browse(desk)
        desk.start()
        await until(lambda: bool(stopping))
        await stopping[0]
        assert not shop.crashes
        assert 0 < len(shop.told()) < N
        cursor = (await Partition.load(0, shop.store, RULES)).cursor
        assert (cursor.offsets[0], [r for r in shop.sent if r.topic == "scores"]) == (0, [])
        second = await shop.desk(desk._knowledge)
        shop.source = LateSource()
        second.hear(0, Came([receive(make_event(shop.now_ms, id="new1", who="new1", line="shoes"), offset=0)], 1))
        second.start()
        await until(lambda: bool(shop.crashes) or any(r.topic == "scores" for r in shop.sent))
        assert second.partition.cursor.tick_ms == shop.now_ms
        await second.stop()
        return shop

    told = asyncio.run(work()).told()
    assert [*dict.fromkeys(told)] == EVERY_ONE_ONCE  # what may not have been sent is sent again, under its number


def test_what_was_refused_is_told_at_the_ticks_end(model: Model) -> None:
    """Though nothing else has come, and nothing is due."""

    async def work() -> Shop:
        shop = Shop(model)
        desk = await shop.open()
        desk.start()
        shop.end = 1
        desk.hear(0, Came([received(0, 0, b"u", b"broken")], 1))
        await until(lambda: desk.partition.cursor.totals.rejected == 1 and not desk.in_hand())
        await shop.goes_on(desk, START_MS + 2 * TICK_MS)
        await desk.stop()
        return shop

    told = [decode_message(r.value or b"") for r in asyncio.run(work()).sent if r.topic == "outcomes"]
    assert [m.seen.refused for m in told if isinstance(m, Counted) and m.seen][1:] == [{"not_json": 1}]
