"""The parts of the transport and of the worker's shell that need no broker."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

import faust
import pytest
from aiokafka import ConsumerRecord
from faust.types import TP

from features.errors import DependencyDown
from streams.delivery import deliver
from streams.faust_worker import RateLimit, app_settings
from streams.records import Outgoing
from streams.transport import Batch, Consumer, Transport, batch_topic, check_copartitioned

P0 = TP("browse", 0)


class NoPositions:
    """Positions that nobody asks for."""

    async def cursors(self, tps: set[TP]) -> Mapping[TP, int]:
        return {}

    def log_start_above(self, tp: TP, cursor: int, first: int) -> None: ...

    def records_gone(self, tp: TP, first: int, upto: int) -> None: ...

    async def settle(self) -> None: ...

    def failed(self, error: BaseException) -> None: ...


def record(offset: int) -> ConsumerRecord[bytes | None, bytes | None]:
    """A raw record of partition 0 of browse."""
    return ConsumerRecord("browse", 0, offset, 1_700_000_000_123, 0, b"user", b"{}", None, 4, 2, (("h", b"1"),))


def batch(first: int, last: int, epoch: int) -> Batch:
    """A batch of the records first..last."""
    return Batch(P0, [record(offset) for offset in range(first, last + 1)], epoch, last + 1)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The event loop of the app."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def app(loop: asyncio.AbstractEventLoop) -> faust.App:
    """An app with the batched transport, not started."""
    app = faust.App(**app_settings("127.0.0.1:1", group="g"), loop=loop)
    app.transport = Transport(app.conf.broker_consumer, app, positions=NoPositions())
    return app


@pytest.fixture
def consumer(app: faust.App, monkeypatch: pytest.MonkeyPatch) -> Iterator[Consumer]:
    """Its consumer, for which all topics take acks."""
    monkeypatch.setattr(app.topics, "acks_enabled_for", lambda topic: True)
    consumer = app.consumer
    assert isinstance(consumer, Consumer)
    yield consumer
    consumer._thread.thread_loop.close()


def run(consumer: Consumer, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run it on the app's loop."""
    return consumer.app.loop.run_until_complete(coroutine)


def message(consumer: Consumer, of: Batch) -> Any:
    """The Faust message that stands for a batch."""
    return consumer._to_message(of.tp, of)


def test_an_agent_gets_the_batch_as_it_is(app: faust.App, consumer: Consumer) -> None:
    """The topic's decoder hands on the very batch, with its raw records, whatever their bytes."""
    given = batch(5, 7, 1)
    event: Any = run(consumer, batch_topic(app, "browse", "click").decode(message(consumer, given)))
    assert event.value is given
    assert (event.message.tp, event.message.offset, event.message.generation_id) == (P0, 7, app.consumer_generation_id)
    assert (given.first, given.next, len(given)) == (5, 8, 3)
    assert (given.records[0].key, given.records[0].value, given.records[0].timestamp, given.records[0].headers) == (
        b"user",
        b"{}",
        1_700_000_000_123,
        (("h", b"1"),),
    )


def test_the_highest_ack_is_told_and_gaps_are_nothing(consumer: Consumer) -> None:
    """The offset to commit is the highest acked one + 1, over holes in the log, and it stays until the next ack."""
    consumer.new_epoch(P0)
    for first, last in ((0, 4), (9, 12)):
        consumer.ack(message(consumer, batch(first, last, consumer.epochs[P0])))
    run(consumer, consumer._add_gap(P0, 5, 8))
    assert consumer._new_offset(P0) == consumer._new_offset(P0) == 13
    assert consumer._new_offset(TP("browse", 1)) is None


def test_after_a_seek_what_was_drained_before_is_stale(consumer: Consumer) -> None:
    """A batch of an older epoch is not current and its ack tells Kafka nothing; nor is one that was drained before the first seek."""
    consumer.new_epoch(P0)
    old = batch(0, 4, consumer.epochs[P0])
    assert consumer.is_current(old)
    consumer.new_epoch(P0)
    assert not consumer.is_current(old)
    consumer.ack(message(consumer, old))
    assert consumer._new_offset(P0) is None
    assert not consumer.is_current(batch(0, 4, 0))
    assert consumer.is_current(batch(2, 4, consumer.epochs[P0]))


def test_an_assignment_unparks_and_makes_all_stale(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rebalance no partition is parked, and nothing drained before it is current."""

    async def nothing(*_: Any) -> None: ...

    monkeypatch.setattr(consumer, "_on_partitions_assigned", nothing)
    monkeypatch.setattr(consumer.app, "on_rebalance_return", lambda: None)
    consumer.new_epoch(P0)
    old = batch(0, 4, consumer.epochs[P0])
    consumer.pause([P0])
    assert consumer.paused == {P0}
    run(consumer, consumer.on_partitions_assigned({P0}))
    assert not consumer.paused
    assert not consumer.is_current(old)


def test_parked_partitions_are_not_asked_for(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may be drained follows pause and resume during a poll, and is never empty for aiokafka, which would take that for all."""
    asked: list[Any] = []

    async def getmany(active_partitions: Any, timeout: float) -> dict[TP, Any]:
        asked.append(active_partitions)
        return {}

    monkeypatch.setattr(consumer, "_getmany", getmany)
    consumer._active_partitions = {P0}
    consumer.pause([P0])
    run(consumer, consumer._wait_next_records(1.0))
    assert (P0 in asked[0], bool(asked[0])) == (False, True)
    consumer.resume([P0])
    assert P0 in asked[0]
    assert TP("browse", 1) not in asked[0]


def test_split_partitions_are_named() -> None:
    """A partition number of which topics are assigned elsewhere gets a line; whole numbers and other topics do not."""
    topics = ["browse", "click"]
    whole = {TP("browse", 0), TP("click", 0), TP("outcomes", 4)}
    assert check_copartitioned(whole, topics) == []
    assert check_copartitioned({*whole, TP("click", 3)}, topics) == ["partition 3 is split: click here, browse elsewhere"]


def test_a_repeated_broker_error_is_written_once_in_a_while() -> None:
    """Of the same error of aiokafka one in every_s passes, then one that tells how many were left out; our own and infos always pass."""
    now = [0.0]
    limit = RateLimit(every_s=10, clock=lambda: now[0])

    def written(name: str, level: int, text: str, *args: object) -> str | None:
        entry = logging.LogRecord(name, level, "", 0, text, args, None)
        return entry.getMessage() if limit.filter(entry) else None

    assert written("aiokafka", logging.ERROR, "Unable connect to node %s", 1) == "Unable connect to node 1"
    assert [written("aiokafka", logging.ERROR, "Unable connect to node %s", 1) for _ in range(3)] == [None] * 3
    assert written("aiokafka", logging.ERROR, "another") == "another"
    assert written("aiokafka", logging.INFO, "Unable connect to node %s", 1)
    assert [written("streams.pipeline", logging.ERROR, "same") for _ in range(2)] == ["same"] * 2
    now[0] = 10.0
    assert written("aiokafka", logging.ERROR, "Unable connect to node %s", 2) == "Unable connect to node 2 (and 3 more like it)"


def test_hard_exit_ends_a_process_with_one_line() -> None:
    """One line on standard error, what was printed is flushed, the code is given, and no cleanup runs."""
    program = (
        "import atexit, logging; from streams.faust_worker import configure_logging, hard_exit; configure_logging('INFO')\n"
        "atexit.register(print, 'cleaned up'); print('before'); hard_exit('Redis does not answer:\\n  gone', 71)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (71, "before\n")
    assert done.stderr.endswith("CRITICAL streams.faust_worker: Redis does not answer: gone; exiting\n")
    assert done.stderr.count("\n") == 1


def test_the_settings_open_no_web_and_make_no_topics(loop: asyncio.AbstractEventLoop) -> None:
    """The settings with which nothing listens, nothing is made, and the four topics stay together."""
    conf = faust.App(**app_settings("a:1, b:2", group="headstart-live", session_timeout_s=6), loop=loop).conf
    assert [(url.scheme, url.host, url.port) for url in conf.broker_consumer] == [("kafka", "a", 1), ("kafka", "b", 2)]
    assert (conf.id, conf.web_enabled, conf.topic_disable_leader, conf.topic_allow_declare, conf.table_standby_replicas) == (
        "headstart-live",
        False,
        True,
        False,
        1,
    )
    assert (conf.broker_session_timeout, conf.broker_heartbeat_interval) == (6, 1.5)
    assert not conf.datadir.exists()


def test_deliver_without_a_producer_names_the_dependency(app: faust.App, loop: asyncio.AbstractEventLoop) -> None:
    """Before the producer runs, delivery is refused in words."""
    with pytest.raises(DependencyDown, match="not connected"):
        loop.run_until_complete(deliver(app, [Outgoing("scores", b"u", b"{}")], names={"scores": "scores"}))
