"""A log through Kafka and real workers, in event time: publish it tick by tick, wait until every outcome is final, read what was said."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from features.errors import DependencyDown, InputError, Mismatch
from features.events import KINDS
from features.hashing import partition_for
from features.store import Store
from models.checkpoint import Artifact
from streams import namespace
from streams.cutting import cut
from streams.embedded import GUARD
from streams.evaluation import Judged
from streams.kafka_access import client_config, consumer_config
from streams.knowledge import outcome_slot
from streams.learner_cursor import stamp_of
from streams.offline import put_launches
from streams.partition import Rules
from streams.publisher import Outgoing, publish_records
from streams.records import TICK_HEADER, Launch, Outcome, decode_message
from streams.settings import Settings, child_environment, with_changes
from streams.ticks import Tick, with_end
from streams.topic_ends import Unread
from streams.topics import broker_names, create_topics, require_reachable

POLL_S = 0.1
GRACE_S = 17.0  # more than a worker gives itself, less than stop_worker waits


def replay_settings(settings: Settings, name: str) -> Settings:
    """Return the settings of a replay: a namespace and topics of its own."""
    return with_changes(settings, namespace=name, topic_prefix=f"{name}.", topic_names={})


async def prepare(settings: Settings, store: Store, artifact: Artifact, launches: Sequence[Launch], rules: Rules) -> None:
    """Make the topics, the namespace and its launches. Raises Mismatch if the namespace is not fresh."""
    if await store.meta():
        raise Mismatch(f"namespace {settings.namespace!r} is already in use: a replay needs a fresh one (--namespace)")
    create_topics(
        settings.broker, prefix=settings.topic_prefix, names=settings.topic_names, partitions=settings.partitions,
        outcome_partitions=settings.outcome_partitions, replication=settings.replication, client_config=client_config(settings),
    )  # fmt: skip
    found = namespace.check_partitions(settings)
    clock = f"replay:{settings.replay_tick_ms}"
    await namespace.join(store, namespace.description(settings, artifact, rules, clock=clock, broker=found), settings.namespace)
    await put_launches(store, launches)


def publish(settings: Settings, ticks: Iterable[Tick], *, speed: float | None = None, on_tick: Callable[[Tick], None] | None = None) -> int:
    """Publish the ticks, each followed by a tick record on every partition of every input topic; returns the last tick's end in ms.

    `speed` is event time over wall time; None is as fast as the broker takes it.
    """
    last_ms = 0

    def records() -> Iterator[Outgoing]:
        nonlocal last_ms
        began_s, first_ms = time.monotonic(), 0
        for tick in ticks:
            if speed is not None:
                first_ms = first_ms or tick.end_ms
                pause_s = (tick.end_ms - first_ms) / 1000 / speed - (time.monotonic() - began_s)
                if pause_s > 0 and tick.records:
                    time.sleep(pause_s)
            for kind, user, value in tick.records:
                key = user.encode()
                yield Outgoing(KINDS[kind], key, value, partition_for(key, settings.partitions))
            header = ((TICK_HEADER, str(tick.end_ms).encode()),)
            for name in KINDS:
                for p in range(settings.partitions):
                    yield Outgoing(name, None, b"", p, header)
            last_ms = tick.end_ms
            if on_tick is not None:
                on_tick(tick)

    publish_records(settings.broker, records(), broker_names(settings.topic_prefix, settings.topic_names), client_config=client_config(settings))
    return last_ms


async def stamp_ms(store: Store, outcome_partitions: int) -> int:
    """Return the end of the last tick that every learner has learned."""
    slots = [await store.load(outcome_slot(q), ()) for q in range(outcome_partitions)]
    return min(stamp_of(slot.cursor) for slot in slots)


async def wait_for(store: Store, last_ms: int, outcome_partitions: int, *, check: Callable[[int], None], timeout_s: float) -> None:
    """Return when every learner has learned the tick that ends at `last_ms`. `check` hears each stamp and may raise."""
    seen, since_s = -1, time.monotonic()
    while True:
        now = await stamp_ms(store, outcome_partitions)
        check(now)
        if now >= last_ms:
            return
        if now != seen:
            seen, since_s = now, time.monotonic()
        if time.monotonic() - since_s > timeout_s:
            raise DependencyDown(f"the replay made no progress for {timeout_s:.0f} s: is a worker of this namespace running?")
        await asyncio.sleep(POLL_S)


def start_worker(settings: Settings, log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a worker of the settings' namespace as a process of its own, with more in its environment; its log is appended to a file."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "streams.cli", "worker"],
            env={**child_environment(settings), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )


def start_tied_worker(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    """Start a worker that cannot outlive this process, whatever ends that: the guard of it, which ends as it does."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), "--grace", str(GRACE_S), sys.executable, "-m", "streams.cli", "worker"],
            env=child_environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for us: we stop it
        )


def stop_worker(worker: subprocess.Popen[bytes], *, timeout_s: float = 20.0) -> None:
    """Stop a worker, by force if it does not listen."""
    if worker.poll() is None:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(timeout_s)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


@contextmanager
def workers(settings: Settings, number: int, folder: Path) -> Iterator[Callable[[int], None]]:
    """Run `number` workers; yields a check that raises InputError when one of them has ended by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"worker-{settings.namespace}-{i}.log" for i in range(number)]
    running: list[subprocess.Popen[bytes]] = []

    def check(_: int) -> None:
        for worker, log in zip(running, logs, strict=False):
            if worker.poll() is not None:
                lines = log.read_text(errors="replace").strip().splitlines()
                raise InputError(f"a worker ended with {worker.returncode}: {lines[-1] if lines else 'it said nothing'}")

    try:
        running.extend(start_tied_worker(settings, log) for log in logs)
        yield check
    finally:
        for worker in running:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)  # to all of them first: each may take seconds
        for worker in running:
            stop_worker(worker)
            assert worker.stdin is not None
            worker.stdin.close()


def replay_log(
    settings: Settings, log: pa.Table, artifact: Artifact, launches: Sequence[Launch], *, number: int, folder: Path, speed: float | None = None,
    timeout_s: float = 120.0, on_prepared: Callable[[], None] | None = None, on_published: Callable[[Tick], None] | None = None, on_stamp: Callable[[int], None] | None = None,
) -> Judged:  # fmt: skip
    """Send a log through Kafka to `number` workers of its own (0: to those that the user starts), and return what became final.

    `settings` are those of `replay_settings`, with the trunk's folder. Publishing and working overlap; `on_stamp` hears, in ms of event
    time, up to where the workers have learned.
    """
    rules = namespace.rules_of(settings, artifact, replay=True)

    async def prepared() -> None:
        store = namespace.open_store(settings)
        try:
            await prepare(settings, store, artifact, launches, rules)
        finally:
            await store.close()

    async def worked(last_ms: int, check: Callable[[int], None]) -> None:
        store = namespace.open_store(settings)
        try:
            await wait_for(store, last_ms, settings.outcome_partitions, check=check, timeout_s=timeout_s)
        finally:
            await store.close()

    asyncio.run(prepared())
    with workers(settings, number, folder) as alive:

        def check(now_ms: int) -> None:
            alive(now_ms)
            if on_stamp is not None:
                on_stamp(now_ms)

        def told(tick: Tick) -> None:
            alive(tick.end_ms)
            if on_published is not None:
                on_published(tick)

        if on_prepared is not None:
            on_prepared()
        ticks = with_end(cut(log, settings.replay_tick_ms), rules.edges_ms[-1] + rules.grace_ms)
        last_ms = publish(settings, ticks, speed=speed, on_tick=told)
        asyncio.run(worked(last_ms, check))
        return read_outcomes(settings)


def read_outcomes(settings: Settings) -> Judged:
    """Return the launches' final labels as the topic `outcomes` holds them; what was sent twice counts once."""
    judged = Judged()
    seen: set[tuple[int, int, int]] = set()
    for q, value in read_topic(settings, "outcomes"):
        message = decode_message(value)
        if isinstance(message, Outcome) and (q, message.partition, message.number) not in seen:
            seen.add((q, message.partition, message.number))
            judged.hear(message)
    return judged


def read_topic(settings: Settings, topic: str) -> Iterator[tuple[int, bytes]]:
    """Yield (partition, value) of every record that a topic holds now. Raises DependencyDown, also where not all of them come."""
    name = broker_names(settings.topic_prefix, settings.topic_names)[topic]
    require_reachable(settings.broker, client_config(settings))
    try:
        consumer = KafkaConsumer(**consumer_config(settings), max_poll_records=5_000)
        try:
            tps = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name) or ())]
            if not tps:
                raise Mismatch(f"the broker at {settings.broker} has no topic {name}, or does not show it to this user")
            consumer.assign(tps)
            consumer.seek_to_beginning(*tps)
            unread = Unread(consumer, tps, settings.broker)
            while unread.left():
                for tp, records in consumer.poll(timeout_ms=500).items():
                    for record in records:
                        yield tp.partition, record.value
        finally:
            consumer.close()
    except KafkaError as error:
        raise DependencyDown(f"the broker at {settings.broker} does not answer: {error}") from None
