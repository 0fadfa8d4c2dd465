"""The Faust app: topics, agents and transport around one `streams.worker.Worker`. Nothing lives at module level: `create_app`."""

from __future__ import annotations

import importlib.metadata
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import faust
from aiokafka.errors import KafkaError
from faust.types import TP

from features.errors import DependencyDown
from features.events import KINDS
from features.redis_store import RedisStore
from models.model import Model
from streams.clock import Clock
from streams.delivery import deliver
from streams.desk import Ack
from streams.faust_worker import app_settings, hard_exit
from streams.gate import End
from streams.inflow import Inflow, Reading, Record, Waits, inflow_topic
from streams.kafka_access import faust_credentials
from streams.measuring import MeteredOutlet, MeteredStore, Meters, Polls
from streams.partition import Rules
from streams.records import Outgoing, Received, received, tick_of
from streams.settings import Settings
from streams.topics import broker_names, worker_group
from streams.tracing import Followed
from streams.transport import Consumer, Transport, check_copartitioned
from streams.vitals import Vitals
from streams.worker import OUTCOMES, Worker

logger = logging.getLogger(__name__)

BUFFERED_MESSAGES_A_PARTITION = 4
STILL_S, STILL_LOOKS = 2.0, 8
MAX_FETCH_BYTES, MIN_FETCH_BYTES = 4 * 1_048_576, 262_144
MAX_REQUEST_BYTES = 3_000_000  # a refused value may be as large as the broker took it, and carries its reason besides


class KafkaOutlet:
    """Sends records by their plain topic names, and waits until the broker has them."""

    def __init__(self, app: faust.App, names: Mapping[str, str]) -> None:
        self._app, self._names = app, names

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Return when the broker has all of them."""
        if records:
            await deliver(self._app, records, names=self._names)


@dataclass
class _Still:
    """A position at the end of a log, since when it is so, and how often it was looked at."""

    position: int
    since_s: float
    looks: int = 0


class FaustWire:
    """Between the worker, which counts topics by kind, and the transport, which calls them by name."""

    def __init__(self, app: faust.App, names: Mapping[str, str], clock: Clock) -> None:
        self._app, self._clock = app, clock
        self.topics = [names[kind] for kind in KINDS] + [names["outcomes"]]
        self._still: dict[TP, _Still] = {}

    def _consumer(self) -> Consumer:
        return cast(Consumer, self._app.consumer)

    async def seek(self, offsets: Mapping[tuple[int, int], int]) -> None:
        """Read on at these offsets."""
        try:
            await self._consumer().seek_partition({TP(self.topics[topic], p): offset for (topic, p), offset in offsets.items()})
        except KafkaError as error:
            raise DependencyDown(f"the broker does not answer: {error}") from error

    def hold(self, topic: int, partition: int, held: bool) -> None:
        """Park one partition of a topic, or let it go on."""
        tps = [TP(self.topics[topic], partition)]
        if held:
            self._consumer().pause(tps)
        else:
            self._consumer().resume(tps)

    def reading(self, topic: int, partition: int) -> Reading | None:
        """Return how far a partition is read and where it ends, or None before the first answer. Callable from any thread."""
        return self._consumer().reading(TP(self.topics[topic], partition))

    def waits(self, topic: int, partition: int) -> Waits:
        """Return what was drained of it, and what of that waits. Callable from any thread."""
        return self._consumer().waits(TP(self.topics[topic], partition))

    def stands_still(self) -> bool:
        """Whether a rebalance holds up everything."""
        return bool(self._app.rebalancing) or not self._consumer().flow_active

    def has_joined(self) -> bool:
        """Whether the worker is a member of its group, with partitions or without."""
        return bool(self._app.rebalancing_count)

    def answered_ms(self, topic: int, partition: int) -> int | None:
        """Return when the broker last answered for the partition, by the wall clock; None before the first answer."""
        reading = self.reading(topic, partition)
        return None if reading is None else reading.as_of_ms

    def end(self, topic: int, partition: int) -> End | None:
        """Return where the partition ends, or None before the first answer.

        A log can end with the mark of a producer's transaction, an offset that nobody is handed. So when the consumer has stood at the end
        for a while, long enough for what it drained to have been handed over, nothing is left to be read, whatever the end's offset.
        """
        tp = TP(self.topics[topic], partition)
        reading = self._consumer().drained(tp)
        if reading is None:
            return None
        as_of_ms = self._clock.of_wall_ms(reading.as_of_ms)
        still = self._still.get(tp)
        if still is None or still.position != reading.position or reading.position < reading.end:
            self._still[tp] = _Still(reading.position, time.monotonic())
            return End(reading.end, as_of_ms)
        still.looks += 1
        done = still.looks >= STILL_LOOKS and time.monotonic() - still.since_s >= STILL_S
        return End(0 if done else reading.end, as_of_ms)


@dataclass(frozen=True)
class InflowTap:
    """Where a desk draws the records of one inflow, decoded."""

    inflow: Inflow
    kind: int
    consumer: Consumer
    polls: Polls
    traces: Followed | None
    replay: bool

    def is_current(self) -> bool:
        """Whether no seek has come since."""
        return self.consumer.is_current(self.inflow)

    def listen(self, wake: Callable[[], Any] | None) -> None:
        """Have it called when more has come, or nothing any more."""
        self.inflow.listener = wake

    def draw(self) -> tuple[list[Received], int, Ack] | None:
        """Return what has come, the offset that follows it, and what to call when all of it is in the store."""
        records = self.consumer.take(self.inflow)
        if not records:
            return None
        tp, next_offset = self.inflow.tp, records[-1].offset + 1
        ack = self.polls.drawn(tp, records[0].timestamp, partial(self.consumer.worked, self.inflow, next_offset), self.is_current)
        if self.traces is not None:
            ack = self.traces.follow(KINDS[self.kind], tp, records, ack)
        return _received(self.kind, records, self.replay), next_offset, ack


class WorkerPositions:
    """Tells the transport where to read: out of the store, through the worker."""

    def __init__(self, worker: Worker, topics: Sequence[str]) -> None:
        self._worker, self._topics = worker, list(topics)

    async def cursors(self, tps: set[TP]) -> Mapping[TP, int]:
        """Open the desks of what is assigned, and return their cursors."""
        split = check_copartitioned(tps, self._topics[:OUTCOMES])
        if split:
            hard_exit(f"the assignment is not co-partitioned: {split[0]}")
        outcomes = self._topics[OUTCOMES]
        offsets = await self._worker.assigned({tp.partition for tp in tps if tp.topic != outcomes}, {tp.partition for tp in tps if tp.topic == outcomes})
        return {TP(self._topics[topic], p): offset for (topic, p), offset in offsets.items()}

    def log_start_above(self, tp: TP, cursor: int, first: int) -> None:
        """Count what is lost."""
        self._worker.log_start_above(self._topics.index(tp.topic), tp.partition, cursor, first)

    def records_gone(self, tp: TP, first: int, upto: int) -> None:
        """Count what is lost."""
        self._worker.records_gone(self._topics.index(tp.topic), tp.partition, first, upto)

    async def settle(self) -> None:
        """Finish what is in hand."""
        await self._worker.settle()

    def failed(self, error: BaseException) -> None:
        """End the process: where to read is not known."""
        self._worker.crashed(error)


class WorkerApp(NamedTuple):
    """A worker that is put together and not started."""

    app: faust.App
    worker: Worker
    vitals: Vitals
    meters: Meters


def create_app(
    settings: Settings, store: RedisStore, model: Model, rules: Rules, *, meta: Mapping[str, str] | None = None, traces: Followed | None = None
) -> WorkerApp:  # fmt: skip
    """Return the app of one worker, the worker, and what tells how it is. Its group is the namespace's, so that namespaces never share partitions.

    `meta` describes the namespace. `traces` follows what comes traced.
    """
    clock = Clock()

    async def ask_time() -> None:
        asked_s = time.monotonic()
        server_ms = await store.time_ms()
        clock.hear(server_ms, int(1000 * (time.monotonic() - asked_s)))

    meters = Meters()
    polls = Polls(meters)
    names = broker_names(settings.topic_prefix, settings.topic_names)
    readable = len(KINDS) * rules.partitions + rules.outcome_partitions  # topic partitions, if this is the only worker
    buffered = BUFFERED_MESSAGES_A_PARTITION * readable + 64
    # What is fetched, what is drained and one fetch more, what waits at the gate, and what is drawn before the hold takes effect: a fifth of the bound each.
    share = settings.max_held_mb * 1_000_000 // (5 * readable)
    kwargs = app_settings(
        settings.broker, group=worker_group(settings.namespace), session_timeout_s=float(settings.session_timeout_s),
        max_poll_records=settings.max_poll_records, buffered_messages=buffered, max_fetch_bytes=min(MAX_FETCH_BYTES, max(MIN_FETCH_BYTES, share)), credentials=faust_credentials(settings),
    )  # fmt: skip
    app = faust.App(**{**kwargs, "producer_max_request_size": MAX_REQUEST_BYTES})
    wire, outlet = FaustWire(app, names, clock), KafkaOutlet(app, names)
    worker = Worker(
        MeteredStore(store, meters), model, rules, tick_ms=settings.tick_ms, patience_s=float(settings.dependency_timeout_s),
        outlet=MeteredOutlet(traces.outlet(outlet) if traces is not None else outlet, meters), wire=wire, hard_exit=hard_exit, alive_file=settings.alive_file, held_bytes=share,
        clock_ms=clock.now_ms, meta=meta, ask_time=ask_time, aside=ThreadPoolExecutor(1, thread_name_prefix="kernels"),
    )  # fmt: skip
    app.transport = Transport(app.conf.broker_consumer, app, positions=WorkerPositions(worker, wire.topics), full_bytes=share)

    kinds = {topic: kind for kind, topic in enumerate(wire.topics)}

    @app.agent(inflow_topic(app, *wire.topics[:OUTCOMES]), name="headstart-score")
    async def score(stream: Any) -> None:
        async for event in stream.noack().events():
            inflow, consumer = event.value, cast(Consumer, app.consumer)
            event.ack()
            if consumer.is_current(inflow):
                kind = kinds[inflow.tp.topic]
                worker.hear(kind, inflow.tp.partition, InflowTap(inflow, kind, consumer, polls, traces, rules.replay))

    @app.agent(inflow_topic(app, wire.topics[OUTCOMES]), name="headstart-learn")
    async def learn(stream: Any) -> None:
        async for event in stream.noack().events():
            inflow, consumer = event.value, cast(Consumer, app.consumer)
            event.ack()
            if consumer.is_current(inflow) and (records := [(r.offset, r.value) for r in consumer.take(inflow)]):
                next_offset = records[-1][0] + 1
                worker.take_outcomes(
                    inflow.tp.partition, records, next_offset, partial(consumer.worked, inflow, next_offset), partial(consumer.is_current, inflow)
                )

    info = (importlib.metadata.version("headstart"), settings.namespace)
    vitals = Vitals(worker, wire, polls, replay=rules.replay, info=info)
    worker.is_live = lambda: not vitals.stall
    meters.read_from(vitals.figures)
    return WorkerApp(app, worker, vitals, meters)


def _received(kind: int, records: Sequence[Record], replay: bool) -> list[Received]:
    if not replay:
        return [received(kind, r.offset, r.key, r.value) for r in records]
    return [
        received(kind, r.offset, r.key, r.value)
        if (tick_ms := tick_of(r.headers, replay=replay)) is None
        else Received(kind, r.offset, r.key, r.value, None, tick_ms=tick_ms)
        for r in records
    ]
