"""A live desk and the time: what it must know of it before it takes records, and which records are too old for it."""

from __future__ import annotations

import asyncio

import pytest

from features.memory_store import MemoryStore
from models.model import Model
from streams import desk as desk_module
from streams.desk import Desk
from streams.gate import End
from tests.builders import DAY_MS, START_MS, Came, make_event, make_model, receive
from tests.unit.test_desk import LateSource, Slow, make_desk, until


@pytest.fixture(scope="module")
def model() -> Model:
    """A model that needs no training."""
    return make_model("shoes")


class Unsure(LateSource):
    """A transport that does not always know where the topics end."""

    knows = True

    def ends(self, partition: int) -> list[End | None]:
        """All of them, or none."""
        return super().ends(partition) if self.knows else [None] * 4

    async def seek(self, partition: int, offsets: list[int]) -> None:
        """The next record comes before it is known again."""
        self.sought.append(offsets)
        self.epoch += 1
        self.knows = False
        asyncio.get_running_loop().call_soon(self.hand_over, offsets[0], offsets[0] + 1)


async def opens(model: Model, source: LateSource, crashes: list[BaseException]) -> Desk:
    """A desk that has worked the first record."""
    desk = source.desk = await make_desk(model, MemoryStore(), source, Slow(), crashes)
    desk.start()
    source.hand_over(0, 1)
    await until(lambda: desk.partition.cursor.offsets[0] == 1 and not desk.in_hand())
    return desk


def test_where_the_topics_end_may_be_unknown_while_records_come(model: Model) -> None:
    """Once an event is worked it is known what time it is."""

    async def work() -> None:
        source, crashes = Unsure(), list[BaseException]()
        desk = await opens(model, source, crashes)
        source.knows = False
        source.hand_over(1, 2)
        await until(lambda: bool(crashes) or desk.partition.cursor.offsets[0] == 2)
        await desk.stop()
        assert not crashes

    asyncio.run(work())


def test_who_starts_over_waits_again_for_where_the_topics_end(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after any load."""
    monkeypatch.setattr(desk_module, "ENDS_S", 3600.0)

    async def work() -> None:
        source, crashes = Unsure(), list[BaseException]()
        desk = await opens(model, source, crashes)
        desk.load_again()
        await until(lambda: bool(source.sought))
        await asyncio.sleep(0.1)
        assert desk.partition.cursor.offsets[0] == 1
        source.knows = True
        desk.wake()
        await until(lambda: desk.partition.cursor.offsets[0] == 2)
        await desk.stop()
        assert not crashes

    asyncio.run(work())


def test_what_is_older_than_any_record_is_kept_is_refused(model: Model) -> None:
    """The shopper's state of that time has expired; what is late within it is not."""

    async def work() -> None:
        crashes = list[BaseException]()
        desk = await make_desk(model, MemoryStore(), LateSource(), Slow(), crashes)
        desk.start()
        late = [receive(make_event(START_MS - days * DAY_MS, id=f"e{days}"), offset=offset) for offset, days in enumerate((31, 1))]
        desk.hear(0, Came(late, len(late)))
        await until(lambda: desk.partition.cursor.totals.read == len(late))
        await desk.stop()
        totals = desk.partition.cursor.totals
        assert (totals.rejected, totals.applied, crashes) == (1, 1, [])

    asyncio.run(work())
