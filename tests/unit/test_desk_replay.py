"""A replay's desk: it works each tick with the heads of that tick, and says nothing of what it worked while its partition went on elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from features.memory_store import MemoryStore
from models.model import Model
from streams import desk as desk_module
from streams.desk import Desk
from streams.knowledge import Knowledge
from streams.partition import Partition
from streams.records import Outgoing, Received
from tests.builders import START_MS, Came, make_model, make_rules
from tests.unit.test_desk import LOG, LateSource, until

RULES = make_rules(replay=True, partitioner_check=False)
TICK_MS = START_MS + 1000


@pytest.fixture(scope="module")
def model() -> Model:
    """A model that needs no training."""
    return make_model("shoes")


class Shop(LateSource):
    """A desk, its log, the tick of the heads, and what has left."""

    def __init__(self) -> None:
        super().__init__()
        self.store, self.stamp_ms, self.came = MemoryStore(), 0, 0
        self.sent: list[str] = []
        self.holds: list[tuple[int, bool]] = []
        self.crashes: list[BaseException] = []
        self.desk: Desk

    async def opens(self, model: Model) -> None:
        """The desk begins to work."""
        knowledge = Knowledge(self.store, model, 1)
        await knowledge.refresh()
        self.desk = Desk(
            await Partition.load(0, self.store, RULES), store=self.store, rules=RULES, knowledge=knowledge, outlet=self, source=self, tick_ms=1000,
            patience_s=10, clock_ms=lambda: START_MS, stamp_ms=lambda: self.stamp_ms, crashed=self.crashes.append,
        )  # fmt: skip
        self.desk.start()

    def bring(self, browses: int, *, whole: bool = True) -> None:
        """Let more browses come and, if the tick is `whole`, its end on each topic."""
        epoch, records = self.epoch, LOG[self.came : self.came + browses]
        self.came += browses
        for kind, end in enumerate((self.came, 0, 0, 0)):
            ends = [Received(kind, end, None, None, None, tick_ms=TICK_MS)] if whole else []
            self.desk.hear(kind, Came([*(records if kind == 0 else ()), *ends], end + whole, is_current=lambda: self.epoch == epoch))

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Take everything."""
        self.sent += [record.topic for record in records]

    async def seek(self, partition: int, offsets: list[int]) -> None:
        """Nothing comes again."""
        self.sought.append(offsets)
        self.epoch += 1

    def hold(self, partition: int, kind: int, held: bool) -> None:
        """Note it."""
        self.holds.append((kind, held))


@pytest.mark.parametrize("what", ["heads", "partition"])
def test_who_stood_still_while_it_read_says_nothing_of_what_it_worked(what: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads or partition are of another tick by then: scores would be of none. It starts over."""

    async def work() -> None:
        shop = Shop()
        await shop.opens(model)
        read = shop.store.read

        async def goes_on_elsewhere(slot: str, keys: Sequence[str]) -> list[bytes | None]:
            if what == "heads":
                shop.stamp_ms = TICK_MS
            else:
                await (await Partition.load(0, shop.store, RULES)).commit()
            return await read(slot, keys)

        monkeypatch.setattr(shop.store, "read", goes_on_elsewhere)
        shop.bring(1)
        await until(lambda: bool(shop.sought or shop.sent or shop.crashes))
        await shop.desk.stop()
        assert (shop.sent, shop.crashes) == ([], [])

    asyncio.run(work())


def test_with_heads_of_a_later_tick_nothing_is_worked(model: Model) -> None:
    """A worker that stood still while another one had its partition waits until the heads are of its own tick."""

    async def work() -> None:
        shop = Shop()
        shop.stamp_ms = TICK_MS
        await shop.opens(model)
        shop.bring(1)
        await asyncio.sleep(0.1)
        assert shop.desk.partition.cursor.totals.read == 0
        shop.stamp_ms = 0
        shop.desk.wake()
        await until(lambda: shop.desk.partition.cursor.totals.read == 1)
        await shop.desk.stop()
        assert not shop.crashes

    asyncio.run(work())


def test_a_topic_is_read_on_until_its_tick_is_whole(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of it waits: were it held, its tick would never end."""
    monkeypatch.setattr(desk_module, "HELD_RECORDS", 2)

    async def work() -> None:
        shop = Shop()
        await shop.opens(model)
        shop.bring(5, whole=False)
        await asyncio.sleep(0.1)
        assert shop.holds == []
        shop.bring(0)
        await until(lambda: shop.desk.partition.cursor.totals.read == 5)
        await shop.desk.stop()
        assert not shop.crashes

    asyncio.run(work())
