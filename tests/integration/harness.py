"""Whole jobs for tests: namespaces with topics of their own, workers as processes, and everything that Kafka and Redis hold afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any, Self

import msgspec
import redis
from kafka import KafkaConsumer, TopicPartition

from features.events import Event, encode
from features.hashing import partition_for
from streams import namespace
from streams.evaluation import Judged
from streams.learner_cursor import LearnerCursor, stamp_of
from streams.offline import put_launches
from streams.partition import Cursor
from streams.publisher import Outgoing as Sent
from streams.publisher import publish_records
from streams.records import REASON_HEADER, Launch, Outcome, decode_message
from streams.replay import prepare, publish, read_topic, replay_settings, start_worker, stop_worker, wait_for, workers
from streams.settings import Settings, with_changes
from streams.ticks import Tick
from streams.topics import broker_names, create_topics
from tests.integration.worlds import LIVE_WINDOW_MS, SEEN, TICK_MS, Left, World, in_fixed_order

FEW = {"partitions": 1, "outcome_partitions": 1, "session_timeout_s": 6, "dependency_timeout_s": 30, "log_level": "WARNING"}
PATIENCE_S = 120.0  # a shared machine may be slow


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """Yield a client of Redis: not the one that is being tested."""
    with closing(redis.Redis.from_url(url)) as client:
        yield client


def wait_until(true: Callable[[], bool], what: str, *, log: Path | None = None, timeout_s: float = PATIENCE_S, poll_s: float = 0.02) -> None:
    """Return once `true()`; fails with what was awaited, and the end of the log."""
    give_up_s = time.monotonic() + timeout_s
    while not true():
        said = log.read_text()[-2000:] if log is not None and log.exists() else ""
        assert time.monotonic() < give_up_s, f"not within {timeout_s:g} s: {what}; {said}"
        time.sleep(poll_s)


def fresh_name() -> str:
    """Return a name for a namespace that no other test has."""
    return f"t{random.SystemRandom().getrandbits(48):012x}"


class Job:
    """One namespace with topics of its own, and the workers that were started for it; a context manager that kills them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.log = folder / f"{settings.namespace}.log"
        self._running: list[Popen[bytes]] = []
        self._alive: dict[int, Path] = {}

    def start_worker(self, **changes: Any) -> Popen[bytes]:
        """Start one worker, whose settings may differ; `close` kills what still runs."""
        alive = self.folder / f"alive-{len(self._running)}"
        worker = start_worker(with_changes(self.settings, **{"alive_file": str(alive), **changes}), self.log)
        self._running.append(worker)
        self._alive[worker.pid] = alive
        return worker

    def start_ready(self, number: int) -> list[Popen[bytes]]:
        """Start workers and return when all have been given their partitions; nothing must have been published yet."""
        started = [self.start_worker() for _ in range(number)]
        wait_until(lambda: all(self._alive[worker.pid].exists() for worker in started), "all workers have partitions", log=self.log)
        return started

    def wait(self, true: Callable[[], bool], what: str) -> None:
        """Return once `true()`, asking every half second."""
        wait_until(true, what, log=self.log, poll_s=0.5)

    def stop(self, worker: Popen[bytes]) -> int:
        """SIGTERM once the worker is up, and return the exit code: one that is still starting would end by the signal."""
        self.wait_up(worker)
        stop_worker(worker)
        return worker.returncode

    def wait_up(self, *workers: Popen[bytes]) -> None:
        """Return when each has partitions, or has ended. The embedded broker goes on taking one that leaves a joiner behind for the group's leader, for good."""
        for worker in workers:
            wait_until(partial(self._is_up_or_ended, worker), "the worker is up", log=self.log)

    def _is_up_or_ended(self, worker: Popen[bytes]) -> bool:
        return self._alive[worker.pid].exists() or worker.poll() is not None

    def close(self) -> None:
        """Kill the workers that still run, stopped ones too."""
        for worker in self._running:
            if worker.poll() is None:
                worker.kill()
                worker.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scores(self) -> Iterator[tuple[str, bytes]]:
        """Yield (score_id, value) of every score on Kafka."""
        for _, value in read_topic(self.settings, "scores"):
            yield json.loads(value)["score_id"], value

    def cursors(self) -> Cursors:
        """Return all cursors, without what a crash may change: versions, epochs, and where in `outcomes` a learner reads."""
        found = Cursors()
        prefix = f"hs:{self.settings.namespace}:"
        with connected(self.settings.redis) as store:
            for p in range(self.settings.partitions):
                held = store.hget(f"{prefix}{{{p}}}:cursor", "cursor")
                if held is None:
                    continue  # nobody has worked it yet
                cursor = msgspec.structs.asdict(msgspec.msgpack.decode(held, type=Cursor))
                del cursor["epoch"], cursor["told"]
                found.partitions[p] = {**cursor, "totals": msgspec.structs.asdict(cursor["totals"])}
            for q in range(self.settings.outcome_partitions):
                held = store.hget(f"{prefix}{{o{q}}}:cursor", "cursor")
                if held is None:
                    continue
                learner = msgspec.msgpack.decode(held, type=LearnerCursor)
                found.learners[q] = {
                    "stamp_ms": learner.stamp_ms, "tried": learner.tried, "hit": learner.hit, "numbers": {p: e.number for p, e in learner.expected.items()},
                }  # fmt: skip
        return found


class Live(Job):
    """A live namespace with one launched line, `launch`."""

    def __init__(self, trunk: Path, broker: str, redis_url: str, folder: Path, **changes: Any) -> None:
        name = fresh_name()
        live = {"tick_ms": 200, "grace_ms": 200, "dependency_timeout_s": 10}
        base = Settings(broker=broker, redis=redis_url, trunk=trunk, namespace=name, topic_prefix=f"{name}.")
        super().__init__(with_changes(base, **{**FEW, **live, **changes}), folder)
        self.topics = broker_names(self.settings.topic_prefix)

    def prepare(self) -> None:
        """Make the topics and the launch."""
        create_topics(
            self.settings.broker, prefix=self.settings.topic_prefix, partitions=self.settings.partitions, outcome_partitions=self.settings.outcome_partitions
        )

        async def begin() -> None:
            store = namespace.open_store(self.settings)
            try:
                await put_launches(store, [Launch(id="launch", line="launch", window_s=LIVE_WINDOW_MS / 1000)])
            finally:
                await store.close()

        asyncio.run(begin())

    def send(self, events: Iterable[tuple[str, Event]]) -> int:
        """Publish (kind, event) pairs; returns how many."""
        records = [Sent(kind, event.user_id.encode(), encode(event), partition_for(event.user_id.encode(), self.settings.partitions)) for kind, event in events]
        return sum(publish_records(self.settings.broker, records, self.topics).values())

    def wait_for_scores(self, number: int) -> dict[str, bytes]:
        """Return the scores, the last one of each event, once there are as many."""
        found: dict[str, bytes] = {}

        def enough() -> bool:
            found.update(self.scores())
            return len(found) >= number

        wait_until(enough, f"{number} scores", log=self.log, poll_s=0.2)
        return found

    def totals(self) -> dict[str, int]:
        """Return the sums of what the partitions have counted."""
        total: Counter[str] = Counter()
        for cursor in self.cursors().partitions.values():
            total.update(cursor["totals"])
        return dict(total)


class Replay(Job):
    """One replay. `prepare`, then `publish` and workers in any order, then `left`; `run` does all of it."""

    def __init__(self, world: World, broker: str, redis_url: str, folder: Path, **changes: Any) -> None:
        base = Settings(broker=broker, redis=redis_url, trunk=world.trunk, replay_tick_ms=TICK_MS)
        super().__init__(replay_settings(with_changes(base, **{**FEW, **changes}), fresh_name()), folder)
        self.world = world
        self.rules = namespace.rules_of(self.settings, world.artifact, replay=True)

    def prepare(self) -> None:
        """Make the topics, the namespace and its launches."""

        async def begin() -> None:
            store = namespace.open_store(self.settings)
            try:
                await prepare(self.settings, store, self.world.artifact, self.world.launches, self.rules)
            finally:
                await store.close()

        asyncio.run(begin())

    def publish(self, ticks: Sequence[Tick]) -> int:
        """Publish the ticks and return when the last ends."""
        return publish(self.settings, ticks)

    def reach(self, at_ms: int, *, timeout_s: float = PATIENCE_S) -> None:
        """Return as soon as every learner has learned the tick that ends at `at_ms`."""
        keys = [f"hs:{self.settings.namespace}:{{o{q}}}:cursor" for q in range(self.settings.outcome_partitions)]

        def reached(store: Any) -> bool:
            try:
                return min(stamp_of(store.hget(key, "cursor") or b"") for key in keys) >= at_ms
            except (redis.ConnectionError, redis.TimeoutError):
                return False  # a test may have stopped it

        with connected(self.settings.redis) as store:
            wait_until(lambda: reached(store), f"the tick {at_ms} is learned", log=self.log, timeout_s=timeout_s, poll_s=0.003)

    def work(self, last_ms: int, *, number: int = 1) -> None:
        """Run `number` workers until the tick that ends at `last_ms` is learned, and stop them."""

        async def until_done(check: Callable[[int], None]) -> None:
            store = namespace.open_store(self.settings)
            try:
                await wait_for(store, last_ms, self.settings.outcome_partitions, check=check, timeout_s=PATIENCE_S)
            finally:
                await store.close()

        with workers(self.settings, number, self.folder) as check:
            asyncio.run(until_done(check))

    def run(self, ticks: Sequence[Tick], *, number: int = 1) -> Left:
        """Do all of it with `number` workers, and return what they left."""
        self.prepare()
        self.work(self.publish(ticks), number=number)
        return self.left()

    def left(self) -> Left:
        """Read everything back from Kafka and Redis. Fails when a score, an outcome or a snapshot was sent twice, differently."""
        left, judged = Left(), Judged()
        for score_id, value in self.scores():
            assert left.scores.setdefault(score_id, value) == value, (
                f"scored twice, differently: {left.scores[score_id]!r} {value!r}; {self.log.read_text()[-3000:]}"
            )
        told: dict[tuple[int, int, int], Outcome] = {}
        for q, value in read_topic(self.settings, "outcomes"):
            message = decode_message(value)
            if isinstance(message, Outcome):
                first = told.setdefault((q, message.partition, message.number), message)
                assert first.closed == message.closed, f"an outcome was sent twice, differently: {first} {message}"
        for fact in told.values():
            judged.hear(fact)
        left.hear(judged, told.values(), self.rules.edges_ms[-1])
        for _, value in read_topic(self.settings, "heads"):
            said = json.loads(value)
            name = f"{said['launch_id']}{said['tick_ms']:015d}"
            assert left.snapshots.setdefault(name, value) == value, f"two different snapshots {name}"
        seen = set()
        for record in read_records(self.settings, "rejected"):
            headers = dict(record.headers)
            place = tuple(headers[f"headstart-{part}"] for part in ("topic", "partition", "offset"))
            if place not in seen:
                seen.add(place)
                left.rejected[headers[REASON_HEADER], record.value] += 1
        self._read_state(left)
        return in_fixed_order(left)

    def _read_state(self, left: Left) -> None:
        prefix = f"hs:{self.settings.namespace}:"
        with connected(self.settings.redis) as store:
            for raw in store.scan_iter(match=prefix + "*", count=10_000):
                _, _, name = raw.decode().removeprefix(prefix).partition(":")
                if name.startswith(("u:", "ul:")):
                    left.records[name] = store.get(raw)
                elif name in SEEN:
                    left.seen.update({f"{name} {key.decode()}": value for key, value in store.hgetall(raw).items()})
                elif name in ("pending", "heads", "catalogue"):
                    getattr(left, name).update({key.decode(): value for key, value in store.hgetall(raw).items()})
        for cursor in self.cursors().partitions.values():
            left.totals.update(cursor["totals"])


@dataclass
class Cursors:
    """Where a namespace is."""

    partitions: dict[int, dict[str, Any]] = field(default_factory=dict)
    learners: dict[int, dict[str, Any]] = field(default_factory=dict)


def read_records(settings: Settings, topic: str) -> Iterator[Any]:
    """Yield every record (key, value, headers, partition) that a topic holds now."""
    name = broker_names(settings.topic_prefix, settings.topic_names)[topic]
    with closing(KafkaConsumer(bootstrap_servers=settings.broker, enable_auto_commit=False, max_partition_fetch_bytes=8_388_608)) as consumer:
        tps = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name))]
        consumer.assign(tps)
        consumer.seek_to_beginning(*tps)
        silent = 0
        while silent < 6 and any((end := consumer.highwater(tp)) is None or consumer.position(tp) < end for tp in tps):
            polled = consumer.poll(timeout_ms=500)
            silent = 0 if polled else silent + 1
            for records in polled.values():
                yield from records
