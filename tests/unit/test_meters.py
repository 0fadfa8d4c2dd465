"""The list of figures: closed, well formed, written down, and what the worker's wrappers count."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from features.errors import DependencyDown
from features.memory_store import MemoryStore
from features.store import Changes
from models.watch import Finding
from streams.alerts import KINDS, alert_of, severity_of
from streams.commands.schema import schema
from streams.incidents import incident, outgoing
from streams.measuring import MeteredOutlet, MeteredStore, Meters, Polls
from streams.meters import METERS, page
from streams.records import REASON_HEADER, Outgoing, encode_json

ROOT = Path(__file__).parents[2]


def test_names_kinds_and_units_agree() -> None:
    """Each name is there once, a counter ends in _total, seconds and bytes are in the name, and each meaning is a line."""
    assert len({meter.name for meter in METERS}) == len(METERS)
    for meter in METERS:
        assert meter.name.startswith("headstart_")
        assert meter.name.endswith("_total") == (meter.kind == "counter")
        assert meter.name.endswith("_seconds") == (meter.unit == "s")
        assert meter.name.endswith("_bytes") == (meter.unit == "bytes")
        assert meter.meaning and "\n" not in meter.meaning


def test_the_pages_in_docs_are_made_of_the_lists(tmp_path: Path) -> None:
    """docs/schema is what `headstart schema` writes."""
    schema(tmp_path)
    written = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    assert written == {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "docs" / "schema").iterdir()}
    assert written["metrics.md"] == "\n".join(page()) + "\n"


class Outlet:
    """Takes everything, or fails."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails

    async def deliver(self, records: Any) -> None:
        if self.fails:
            raise DependencyDown("away")


def test_what_is_delivered_is_counted_by_topic_and_reason() -> None:
    """Once the broker has it, and not before."""
    meters = Meters()
    refused = Outgoing("rejected", b"k", b"v", ((REASON_HEADER, b"not_json"), ("headstart-detail", b"x")))
    records = [Outgoing("scores", b"k", b"v"), Outgoing("scores", b"k", b"v"), refused]
    asyncio.run(MeteredOutlet(Outlet(), meters).deliver(records))
    with pytest.raises(DependencyDown):
        asyncio.run(MeteredOutlet(Outlet(fails=True), meters).deliver(records))
    asyncio.run(MeteredOutlet(Outlet(fails=True), meters).deliver([]))
    value = meters.registry.get_sample_value
    assert value("headstart_records_sent_total", {"topic": "scores"}) == 2
    assert value("headstart_records_sent_total", {"topic": "rejected"}) == 1
    assert value("headstart_rejected_total", {"reason": "not_json"}) == 1
    assert value("headstart_delivery_seconds_count") == 1


def test_alerts_are_counted_by_kind_and_severity_from_zero_on() -> None:
    """Of a calibration alarm an alert rule can wake somebody; what is about the job itself is an incident, and counted there."""
    meters = Meters()
    value = meters.registry.get_sample_value
    finding = Finding("calibration", 2, 1, {"direction": 1})
    told = alert_of("shoes", finding, done="", trunk="")
    assert [value("headstart_alerts_total", {"kind": kind, "severity": severity_of(kind)}) for kind in KINDS] == [0] * len(KINDS)
    records = [Outgoing("alerts", b"shoes", encode_json(told)), outgoing(incident("store_went_back", "x"))]
    asyncio.run(MeteredOutlet(Outlet(), meters).deliver(records))
    assert value("headstart_alerts_total", {"kind": "calibration", "severity": "page"}) == 1
    assert value("headstart_alerts_total", {"kind": "store_went_back", "severity": "page"}) is None
    assert value("headstart_records_sent_total", {"topic": "alerts"}) == 2


def test_a_metered_store_does_what_the_store_does() -> None:
    """And counts loads of partitions, reads and commits."""
    meters, inner = Meters(), MemoryStore()
    store = MeteredStore(inner, meters)

    async def use() -> None:
        assert await store.commit("7", 0, Changes(cursor=b"x", records={"u:a": b"1"}, put={"outbox": {"1": b"2"}}))
        assert (await store.load("7", ("pending", "outbox"))).hashes["outbox"] == {"1": b"2"}
        assert (await store.load("7", ())).version == 1
        assert await store.read("7", ["u:a"]) == [b"1"]
        assert await store.read_hash("7", "outbox", ["1"]) == [b"2"]
        assert await store.claim_meta({"a": "b"}) == await store.meta() == {"a": "b"}
        await store.put_meta({"a": "c"})
        await store.settled()
        await store.close()

    asyncio.run(use())
    value = meters.registry.get_sample_value
    assert value("headstart_partition_loads_total") == 1
    assert [value("headstart_redis_seconds_count", {"call": call}) for call in ("load", "read", "commit")] == [1, 1, 1]


def test_the_age_of_the_oldest_poll_in_hand() -> None:
    """Counts what is current and not acknowledged; an ack tells how late the poll's oldest record was done."""
    now, meters = 100.0, Meters()
    polls = Polls(meters, clock_s=lambda: now)
    current = {1: True, 2: True, 3: True}
    acks = {}
    for epoch, partition in ((1, 0), (2, 0), (3, 1)):
        acks[epoch] = polls.drawn(TP("browse", partition), 95_000, lambda: "acked", lambda epoch=epoch: current[epoch])  # type: ignore[misc]
        now += 1
    assert polls.oldest_s() == 3
    assert acks[2]() == "acked"  # in the order of a partition, so the one before is done as well
    assert polls.oldest_s() == 1
    current[3] = False
    assert polls.oldest_s() == 0
    assert meters.registry.get_sample_value("headstart_score_delay_seconds_sum") == 8


def test_polls_that_a_seek_made_stale_are_let_go() -> None:
    """Nobody acknowledges them."""
    polls, tp, now = Polls(Meters()), TP("browse", 0), 0
    for now in range(1, 100):
        polls.drawn(tp, 95_000, lambda: None, lambda epoch=now: epoch == now)  # type: ignore[misc]  # noqa: B023
    assert [len(waiting) for waiting in polls._open.values()] == [1]
