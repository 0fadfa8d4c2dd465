"""A shop in which nothing happens: partitions close ticks that they do not write down, and nobody who looks may take that for standing still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from features.errors import InputError
from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from models.model import Model
from streams import namespace
from streams.beats import ALIVE_MS, Pulse
from streams.current import Believer, CurrentScores, partition_of
from streams.dashboard.feed import Feed
from streams.desk import Desk
from streams.explaining import Asked, explain
from streams.gate import End
from streams.knowledge import Knowledge
from streams.offline import put_launches
from streams.panels import iso
from streams.panels_shop import flow
from streams.partition import Partition, Rules
from streams.pipeline import work_off
from streams.records import Launch
from streams.settings import Settings
from streams.view import Look, Reader
from tests.builders import HOUR_MS, START_MS, Came, make_artifact, make_event, make_model, make_rules, receive
from tests.unit.test_desk import LateSource, Slow, until

NIGHT_MS = 8 * HOUR_MS
META = {"clock": "live", "trunk": "ab" * 32, "partitions": "1", "outcome_partitions": "1"}
RULES = make_rules(replay=False, partitioner_check=False)


class Shop:
    """A partition of a live shop whose only event was worked off, and then the night came."""

    def __init__(self) -> None:
        self.store, self.now_ms = MemoryStore(), START_MS
        self.crashes: list[BaseException] = []

    def ends(self, partition: int) -> list[End | None]:
        """The broker answers, and has one browse."""
        return [End(1, self.now_ms), *[End(0, self.now_ms)] * 3]

    async def open(self) -> Desk:
        """Work off the event, and live through the night."""
        source = LateSource()
        source.ends = self.ends  # type: ignore[method-assign]
        desk = Desk(
            await Partition.load(0, self.store, RULES), store=self.store, rules=RULES, knowledge=Knowledge(self.store, make_model("shoes"), 1), outlet=Slow(),
            source=source, tick_ms=1_000, patience_s=10, clock_ms=lambda: self.now_ms, stamp_ms=lambda: -1, crashed=self.crashes.append,
        )  # fmt: skip
        desk.hear(0, Came([receive(make_event(START_MS), offset=0)], 1))
        desk.start()
        await until(lambda: bool(self.crashes) or desk.partition.cursor.offsets[0] == 1)
        for hours in range(1, 9):  # the bins of its exposures close, and are written
            self.now_ms = START_MS + hours * HOUR_MS
            desk.wake()
            await until(lambda: bool(self.crashes) or desk.partition.cursor.tick_ms == self.now_ms)
        return desk

    async def beat(self, desk: Desk) -> None:
        """As its worker says where it is."""
        await Pulse(self.store, clock_ms=lambda: self.now_ms).beat([desk], [0], self.ends, trunk="t", lost=0)


def seen(look: Callable[[Shop, Desk, Reader], Awaitable[Any]]) -> Any:
    """What is seen of the shop in the morning."""

    async def go() -> Any:
        shop = Shop()
        await shop.store.put_meta(META)
        await put_launches(shop.store, [Launch(id="new", line="hats", window_s=60.0, from_ms=START_MS + NIGHT_MS + HOUR_MS)])
        desk = await shop.open()
        shop.now_ms += 3 * HOUR_MS
        desk.wake()
        await until(lambda: bool(shop.crashes) or desk.partition.cursor.tick_ms == shop.now_ms)
        found = await look(shop, desk, Reader(shop.store, "test"))
        await desk.stop()
        assert not shop.crashes
        return found

    return asyncio.run(go())


def test_a_quiet_partition_is_not_late_and_its_clock_is_what_its_worker_says() -> None:
    """The cursor in the store is hours old; verdict, table, the page's clock and whether a launch is open go by the beat, until its worker is silent."""

    async def look(shop: Shop, desk: Desk, reader: Reader) -> tuple[Shop, Look, Any]:
        await shop.beat(desk)
        return shop, await reader.look(), await Feed(reader, lag=None, uplift=None, clock_ms=lambda: shop.now_ms).overview()

    shop, found, document = seen(look)
    assert found.cursors[0].tick_ms <= shop.now_ms - HOUR_MS, "the store knows of the last hours: the test looks at nothing"
    verdict = flow(found, shop.now_ms, {0: 0})
    assert (verdict.answer, verdict.state) == ("Yes", "good")
    assert found.times(shop.now_ms) == {0: shop.now_ms}
    (row,) = next(panel for panel in document["panels"] if panel["id"] == "flow")["rows"]
    assert row[2:4] == [iso(shop.now_ms), 0]
    assert document["now_ms"] == shop.now_ms
    assert [launch["open"] for launch in document["launches"]] == [True]
    later_ms = shop.now_ms + ALIVE_MS + 1
    assert found.times(later_ms) == {0: found.cursors[0].tick_ms}
    assert flow(found, later_ms, {}).state == "bad"


def test_a_partition_that_stands_still_is_late_all_the_same() -> None:
    """Its worker lives and says so."""

    async def look(shop: Shop, desk: Desk, reader: Reader) -> tuple[Shop, Look]:
        await desk.stop()
        shop.now_ms += HOUR_MS
        await shop.beat(desk)
        return shop, await reader.look()

    shop, found = seen(look)
    verdict = flow(found, shop.now_ms, {0: 3})
    assert (verdict.answer, verdict.state) == ("Late", "bad")
    assert "3 records waiting, the slowest partition is 60 minutes behind" in verdict.why


def test_a_replays_clock_is_that_of_what_is_committed() -> None:
    """Its workers' memory is ahead of what counts."""

    async def look(shop: Shop, desk: Desk, reader: Reader) -> tuple[Shop, Look]:
        await shop.beat(desk)
        shop.store._meta["clock"] = "replay:900000"
        return shop, await reader.look()

    shop, found = seen(look)
    assert found.now_ms == found.cursors[0].tick_ms < shop.now_ms
    assert found.times(shop.now_ms) == {0: found.now_ms}


async def committed(rules: Rules, at_ms: int, meta: dict[str, str]) -> tuple[MemoryStore, Knowledge]:
    """A namespace that has committed nothing since `at_ms`, and a launch that began an hour later."""
    store = MemoryStore()
    await store.put_meta(meta)
    await put_launches(store, [Launch(id="new", line="hats", window_s=60.0, from_ms=at_ms + HOUR_MS)])
    knowledge = Knowledge(store, Model(make_artifact("shoes")), 1)
    await knowledge.refresh()
    partition = await Partition.load(0, store, rules)
    await work_off(partition, [receive(make_event(at_ms, who="ann"))], knowledge, offsets=[1, 0, 0, 0], tick_end_ms=at_ms)
    await partition.commit()
    return store, knowledge


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
def test_a_launch_that_is_newer_than_the_last_commit_is_open_live(replay: bool) -> None:
    """For whoever asks for a shopper's scores now; in a replay it is not yet."""
    now_ms = time.time_ns() // 1_000_000
    at_ms, rules = now_ms - NIGHT_MS, make_rules(replay=replay)

    async def go() -> tuple[list[dict[str, Any]], int]:
        store, knowledge = await committed(rules, at_ms, META)
        scores = CurrentScores(cast(RedisStore, store), Settings())
        scores._believer = Believer(store, rules, knowledge)
        partition = await partition_of(store, 0, rules, now_ms)
        assert partition is not None
        return await scores.of("ann"), partition.cursor.tick_ms

    if replay:
        with pytest.raises(InputError, match="no launch is open"):
            asyncio.run(go())
        return
    (entry,), tick_ms = asyncio.run(go())
    assert (entry["launch_id"], tick_ms) == ("new", now_ms)
    assert entry["as_of_ms"] >= now_ms


def test_the_open_launch_is_explained_live() -> None:
    """`headstart explain` without --launch takes the one that is open now, not when the partition last wrote."""
    artifact, settings = make_artifact("shoes"), Settings(partitions=1, namespace="test")
    rules = namespace.rules_of(settings, artifact, replay=False)

    async def go() -> str | None:
        store, _ = await committed(rules, START_MS, namespace.description(settings, artifact, rules, clock="live", broker={}))
        told = await explain(store, settings, artifact, Asked(user="ann"), now_ms=START_MS + NIGHT_MS)
        return told.launch.id if told.launch else None

    assert asyncio.run(go()) == "new"
