"""The parts of the transport that need no broker."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.record.default_records import DefaultRecord
from faust.types import TP

from features.errors import DependencyDown
from streams import consumer_thread
from streams.delivery import deliver
from streams.faust_worker import app_settings
from streams.inflow import RECORD_BYTES, Inflow, Reading, Record, Waits, inflow_topic
from streams.records import Outgoing
from streams.transport import Consumer, Transport, check_copartitioned

P0 = TP("browse", 0)


class NoPositions:
    """Positions that nobody asks for."""

    async def cursors(self, tps: set[TP]) -> Mapping[TP, int]:
        return {}

    def log_start_above(self, tp: TP, cursor: int, first: int) -> None: ...

    def records_gone(self, tp: TP, first: int, upto: int) -> None: ...

    async def settle(self) -> None: ...

    def failed(self, error: BaseException) -> None: ...


def record(offset: int) -> Record:
    """A raw record of partition 0 of browse."""
    made: Record = DefaultRecord(offset, 1_700_000_000_123, 0, b"user", b"{}", [("h", b"1")])
    return made


def records(first: int, last: int) -> list[Record]:
    """The records first..last."""
    return [record(offset) for offset in range(first, last + 1)]


def inflow(consumer: Consumer, first: int) -> Inflow:
    """The one that a seek to `first` begins."""
    begun = consumer.inflows[P0] = Inflow(P0, first)
    return begun


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
    """An app with our transport, not started."""
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


async def poll(consumer: Consumer) -> list[Inflow]:
    """What one poll brings."""
    return [message.value async for _, message in consumer.getmany(0.01)]


def test_the_app_is_told_once_until_it_takes_and_takes_all(consumer: Consumer) -> None:
    """However often something is put in; who takes finds nothing a second time, and of what was taken nothing is kept."""
    begun = inflow(consumer, 5)
    assert begun.put(records(5, 6))
    assert not begun.put(records(7, 9))
    waits = consumer.waits(P0)
    assert (waits.upto, waits.records, waits.bytes, waits.since_s is not None) == (10, 5, 5 * (2 + RECORD_BYTES), True)
    assert [r.offset for r in consumer.take(begun)] == [5, 6, 7, 8, 9]
    assert (consumer.take(begun), consumer.waits(P0), consumer.waits(TP("click", 0))) == ([], Waits(upto=10), Waits())
    assert begun.put(records(10, 10))


def test_who_listens_is_told_at_once_and_no_agent_is(consumer: Consumer) -> None:
    """An agent hears of an inflow that nobody listens to; from then on it is left out, and so is its price."""
    begun, told = inflow(consumer, 0), list[str]()
    consumer._active_partitions = {P0}
    consumer.resume_flow()
    consumer.came([begun])
    assert run(consumer, poll(consumer)) == [begun]
    begun.listener = lambda: told.append("came")
    consumer.came([begun])
    assert (told, run(consumer, poll(consumer))) == (["came"], [])


def test_an_agent_gets_the_inflow_as_it_is(app: faust.App, consumer: Consumer) -> None:
    """The topic's decoder hands on the very inflow, and its records are raw, whatever their bytes."""
    begun = inflow(consumer, 5)
    begun.put(records(5, 7))
    event: Any = run(consumer, inflow_topic(app, "browse", "click").decode(consumer._to_message(P0, begun)))
    assert event.value is begun
    assert (event.message.tp, event.message.generation_id) == (P0, app.consumer_generation_id)
    first = consumer.take(begun)[0]
    assert (first.key, first.value, first.timestamp, first.headers) == (b"user", b"{}", 1_700_000_000_123, [("h", b"1")])


def test_the_highest_offset_is_told_and_gaps_are_nothing(consumer: Consumer) -> None:
    """The offset to commit is the highest that was worked off, over holes in the log, and it stays until the next; that a message was heard says nothing."""
    begun = inflow(consumer, 0)
    consumer.ack(consumer._to_message(P0, begun))
    assert consumer._new_offset(P0) is None
    for upto in (5, 13):
        consumer.worked(begun, upto)
    run(consumer, consumer._add_gap(P0, 5, 8))
    assert consumer._new_offset(P0) == consumer._new_offset(P0) == 13
    assert consumer._new_offset(TP("browse", 1)) is None


def test_after_a_seek_what_was_drained_before_is_stale(consumer: Consumer) -> None:
    """An older inflow is not current, no agent hears of it any more, and what was taken from it tells Kafka nothing."""
    old = inflow(consumer, 0)
    assert consumer.is_current(old)
    consumer.came([old])
    present = inflow(consumer, 2)
    consumer.came([present])
    consumer.resume_flow()
    consumer._active_partitions = {P0}
    assert run(consumer, poll(consumer)) == [present]
    assert not consumer.is_current(old)
    consumer.worked(old, 5)
    assert consumer._new_offset(P0) is None
    assert consumer.is_current(present)


def test_an_assignment_unparks_and_makes_all_stale(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rebalance no partition is parked, and nothing drained before it is current."""

    async def nothing(*_: Any) -> None: ...

    monkeypatch.setattr(consumer, "_on_partitions_assigned", nothing)
    monkeypatch.setattr(consumer.app, "on_rebalance_return", lambda: None)
    old = inflow(consumer, 0)
    consumer.pause([P0])
    assert consumer.paused == {P0}
    run(consumer, consumer.on_partitions_assigned({P0}))
    assert not consumer.paused
    assert not consumer.is_current(old)


def test_the_flow_stands_from_the_seeks_on(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until Faust lets it go on, whatever let it go on before: what came in between would be cleared from the agents' queues."""
    flowed: list[bool] = []

    async def cursors(_: object) -> dict[TP, int]:
        flowed.append(consumer.flow_active)
        return {P0: 5}

    async def sought(positions: dict[TP, int]) -> dict[TP, int]:
        flowed.append(consumer.flow_active)
        return positions

    monkeypatch.setattr(consumer, "assignment", lambda: {P0})
    monkeypatch.setattr(consumer._own_transport.positions, "cursors", cursors)
    monkeypatch.setattr(consumer, "_seek_within", sought)
    consumer.resume_flow()
    assert run(consumer, consumer.seek_to_committed()) == {P0: 5}
    assert (flowed, consumer.drainable()) == ([False, False], None)


def test_parked_partitions_are_not_asked_for(consumer: Consumer) -> None:
    """What may be drained follows pause and resume, is never empty for aiokafka, which would take that for all, and is nothing while the flow stands."""
    assert consumer.drainable() is None
    consumer._active_partitions = {P0}
    consumer.resume_flow()
    consumer.pause([P0])
    run(consumer, poll(consumer))
    wanted: Any = consumer.drainable()
    assert (P0 in wanted, bool(wanted)) == (False, True)
    consumer.resume([P0])
    assert P0 in wanted
    assert TP("browse", 1) not in wanted
    consumer.stop_flow()
    assert consumer.drainable() is None


@pytest.mark.parametrize("limit", ["records", "bytes"])
def test_of_a_partition_that_is_not_taken_no_more_than_a_bound_is_drained(consumer: Consumer, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """In records or in bytes; when it is taken, the thread is woken."""
    monkeypatch.setattr(consumer_thread, "FULL_RECORDS", 3 if limit == "records" else 100)
    monkeypatch.setattr(consumer._own_transport, "full_bytes", 10**6 if limit == "records" else 3 * RECORD_BYTES)
    woken: list[bool] = []
    monkeypatch.setattr(consumer._thread, "wake", lambda: woken.append(True))
    consumer._active_partitions = {P0}
    consumer.resume_flow()
    run(consumer, poll(consumer))
    wanted: Any = consumer.drainable()
    begun = inflow(consumer, 0)
    begun.put(records(0, 1))
    assert P0 in wanted
    begun.put(records(2, 2))
    assert P0 not in wanted
    assert len(consumer.take(begun)) == 3
    assert P0 in wanted
    assert woken == [True]


def test_a_drain_lies_in_the_present_inflow(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of a partition that was not sought is dropped; what was never read is told. A reading is kept before the records that it knows of can be taken:

    else who draws in between would see their log end before them, and take its partition to be at the present.
    """
    thread, other = consumer._thread, TP("click", 0)
    found = {P0: records(3, 5), other: records(0, 1)}

    async def fetched(*_: Any, **__: Any) -> Any:
        return found

    async def beginnings(_: Any) -> Any:
        return {P0: 100}

    fake = SimpleNamespace(_max_poll_records=10, beginning_offsets=beginnings)
    monkeypatch.setattr(thread, "_consumer", fake)
    monkeypatch.setattr(thread, "_fetch_records", fetched)
    monkeypatch.setattr(thread, "reading", lambda tp: Reading(6, 9, 1) if tp == P0 else None)
    lost: list[Any] = []
    monkeypatch.setattr(consumer, "gone", lambda *what: lost.append(what))
    begun, known = inflow(consumer, 1), list[Reading | None]()
    putting = Inflow.put

    def put(self: Inflow, rows: list[Record]) -> bool:
        known.append(self.reading)
        return putting(self, rows)

    monkeypatch.setattr(Inflow, "put", put)

    async def drain() -> None:
        assert await thread._drain(consumer._parked) == 1  # browse and click of the same one
        await asyncio.sleep(0)

    run(consumer, drain())
    assert [r.offset for r in consumer.take(begun)] == [3, 4, 5]
    assert (list(consumer._arrived), consumer.drained(P0), consumer.drained(other)) == ([begun], Reading(6, 9, 1), None)
    assert (lost, known) == ([(P0, 1, 3)], [Reading(6, 9, 1)])


def fetcher_of_one() -> Any:
    """What aiokafka's own look at its brokers needs to find one partition to fetch from, in node 7."""
    return SimpleNamespace(
        _records={}, _in_flight=set(), _select_read_replica=lambda tp: 7, _max_partition_fetch_bytes=1, _fetch_max_wait_ms=20, _fetch_min_bytes=1,
        _fetch_max_bytes=1, _isolation_level=0, _client_rack=None, _fetcher_timeout=0.2,
    )  # fmt: skip


@pytest.mark.parametrize("rest", ["over", "under way", "nothing to fetch"])
def test_nothing_is_fetched_before_the_rest_is_over(consumer: Consumer, rest: str) -> None:
    """Then aiokafka looks again, by itself; all else that it found to be done is done. So this look at a private part still fits the version installed."""
    state = SimpleNamespace(has_valid_position=True, paused=False, position=5)
    assignment = SimpleNamespace(tps=[TopicPartition(*P0)] if rest != "nothing to fetch" else [], state_value=lambda tp: state)
    found = Fetcher._get_actions_per_node(fetcher_of_one(), assignment)
    looking = consumer._thread._after_a_rest(lambda assignment: Fetcher._get_actions_per_node(fetcher_of_one(), assignment))
    consumer._thread._rest_until_s = 1e-9 if rest == "over" else math.inf
    assert [node for node, _ in found[0]] == ([] if rest == "nothing to fetch" else [7])
    if rest == "under way":
        assert looking(assignment) == ([], *found[1:])
        consumer._thread._rest_until_s = consumer.loop.time() + 0.1  # asyncio's clock is `time.monotonic`
        assert looking(assignment)[2] <= 0.1
    else:
        assert [node for node, _ in looking(assignment)[0]] == [node for node, _ in found[0]]
        assert looking(assignment)[1:] == found[1:]
        assert consumer._thread._rest_until_s == (0.0 if rest == "over" else math.inf)


def test_a_rest_follows_what_came_and_grows_until_aiokafka_has_looked(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what each of several brokers brings, from its beginning on. The rest of the thread gets its turn after each drain, however much is fetched."""
    thread, rests, turns = consumer._thread, list[float](), list[int]()
    three = {TP("browse", p): [record(0)] for p in range(3)}
    answers = iter([{}, three, {}, three, three])

    async def fetched(*_: Any, **__: Any) -> Any:
        rests.append(thread._rest_until_s)
        turns.append(turned)
        if (found := next(answers, None)) is None:
            raise TopicAuthorizationFailedError("enough")
        return found

    turned = 0

    async def others() -> None:
        nonlocal turned
        while True:
            turned += 1
            await asyncio.sleep(0)

    async def both() -> None:
        turning = asyncio.create_task(others())
        await thread._drain_on()
        turning.cancel()

    monkeypatch.setattr(thread, "_consumer", SimpleNamespace(_max_poll_records=10))
    monkeypatch.setattr(thread, "_fetch_records", fetched)
    monkeypatch.setattr(thread, "reading", lambda tp: None)
    monkeypatch.setattr(consumer_thread, "LONGEST_REST_S", 0.018)
    consumer._active_partitions = {P0}
    consumer.resume_flow()
    run(consumer, poll(consumer))
    run(consumer, both())
    began_s = thread._rest_from_s
    assert rests[:2] == [0.0, 0.0]
    assert [round(1000 * (rest_s - began_s), 3) for rest_s in rests[2:]] == [7.5, 7.5, 15, 18]
    assert turns[1] < turns[2] == turns[3] < turns[4] < turns[5]
    # Once aiokafka has looked after its end, the next one begins anew.
    thread._rest_until_s = began_s
    thread._after_a_rest(lambda _: ([], {}, 0.2, False, []))(None)
    thread._rest(1)
    assert thread._rest_from_s > began_s
    assert round(1000 * (thread._rest_until_s - thread._rest_from_s), 3) == 5


def test_who_seeks_waits_for_no_rest(consumer: Consumer) -> None:
    """What is read from the new place on is asked for at once: aiokafka looks again when it is told of a seek."""
    sought: list[Any] = []
    consumer._thread._rest_until_s = math.inf
    run(consumer, consumer._thread._seek_wait(SimpleNamespace(seek=lambda *what: sought.append(what)), {P0: 3}))
    assert (sought, consumer.inflows[P0].next, consumer._thread._rest_until_s) == ([(TopicPartition(*P0), 3)], 3, 0.0)


def test_an_error_in_the_thread_is_raised_by_the_next_poll(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app must not wait for records that nobody reads any more."""

    async def refused(*_: Any, **__: Any) -> Any:
        raise TopicAuthorizationFailedError("browse")

    monkeypatch.setattr(consumer._thread, "_consumer", SimpleNamespace(_max_poll_records=10))
    monkeypatch.setattr(consumer._thread, "_fetch_records", refused)
    consumer._active_partitions = {P0}
    consumer.resume_flow()
    run(consumer, poll(consumer))
    run(consumer, consumer._thread._drain_on())
    with pytest.raises(TopicAuthorizationFailedError):
        run(consumer, poll(consumer))


def test_split_partitions_are_named() -> None:
    """A partition number of which topics are assigned elsewhere gets a line; whole numbers and other topics do not."""
    topics = ["browse", "click"]
    whole = {TP("browse", 0), TP("click", 0), TP("outcomes", 4)}
    assert check_copartitioned(whole, topics) == []
    assert check_copartitioned({*whole, TP("click", 3)}, topics) == ["partition 3 is split: click here, browse elsewhere"]


def test_deliver_without_a_producer_names_the_dependency(app: faust.App, loop: asyncio.AbstractEventLoop) -> None:
    """Before the producer runs, delivery is refused in words."""
    with pytest.raises(DependencyDown, match="not connected"):
        loop.run_until_complete(deliver(app, [Outgoing("scores", b"u", b"{}")], names={"scores": "scores"}))
