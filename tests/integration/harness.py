"""What the tests of the whole job share: a small SYNTHETIC log, a tiny trunk, replays through real workers, and all that they leave."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from subprocess import Popen
from typing import Any, Self

import msgspec
import pyarrow as pa
import redis
from kafka import KafkaConsumer, TopicPartition

from features.events import KINDS
from features.exposures import NONE
from features.memory_store import MemoryStore
from models.checkpoint import Artifact, load, save
from models.mind import Model
from models.pretrain import PretrainSettings
from models.trunk import TrunkSettings
from streams import namespace
from streams.evaluation import Figures, Judged, as_launch, launched
from streams.offline import put_launches, run
from streams.partition import Cursor, Rules
from streams.records import REASON_HEADER, Launch, Outcome, Outgoing, decode_message
from streams.replay import prepare, publish, read_topic, replay_settings, start_worker, stop_worker, wait_for, workers
from streams.learner import LearnerCursor, stamp_of
from streams.settings import Settings, with_changes
from streams.shop import Shop, simulate
from streams.ticks import Tick, cut, with_end
from streams.topics import broker_names
from streams.training import edges_ms, train

TINY = PretrainSettings(trunk=TrunkSettings(most_steps=60, check_steps=30, width=32, middle=16), c_grid=(0.02,))
TICK_MS = 3_600_000
WINDOW_S = 21_600.0
DAY_MS = 86_400_000
PATIENCE_S = 60.0  # without any progress; a shared machine may be slow


@dataclass(frozen=True)
class World:
    """A log, the trunk that was trained on its beginning, and what is launched in the rest: two lines, and some products of a third."""

    log: pa.Table
    trunk: Path
    launches: tuple[Launch, ...]

    @property
    def artifact(self) -> Artifact:
        """The trained trunk with its heads."""
        return load(self.trunk, schema_hash=namespace.SCHEMA_HASH)

    def ticks(self, *, final: bool = True) -> list[Tick]:
        """The log's ticks, with a few duplicates and broken records in them; `final` ends with the tick at which every label is final."""
        ticks = troubled(cut(self.log, TICK_MS))
        return list(with_end(ticks, round(1000 * WINDOW_S) + 60_000)) if final else ticks


def make_world(folder: Path) -> World:
    """Simulate 2 days of a shop of four lines, about 3 000 events, and train for the first."""
    shop = Shop(users=150, lines=4, days=2.0, launch_day=1.0, visits_per_day=1.4, conversion=0.16, window_s=WINDOW_S,
                categories_per_line=2, products_per_category=3, seed=5)  # fmt: skip
    at_ms = shop.start_ms + DAY_MS
    log = launched(simulate(shop).log, ["launch", "bags"], at_ms)
    rules = Rules(edges_ms=edges_ms(WINDOW_S))
    save(train(log, rules, tick_ms=TICK_MS, until_ms=at_ms, seed=1, pseudo=False, settings=TINY), folder)
    lines = [as_launch(line, at_ms, WINDOW_S) for line in ("launch", "bags")]
    some = [f"books-{category}-{number:03d}" for category in (1, 2) for number in (1, 2, 3)][:5]
    products = Launch(id="products", line="books", products=some, window_s=WINDOW_S, from_ms=at_ms + 2 * TICK_MS, holdout=0.3)
    return World(log, folder, (*lines, products))


def troubled(ticks: Iterable[Tick]) -> list[Tick]:
    """Send some events twice, at once and a tick later, and put records between them that must be refused."""
    draw = random.Random(3)
    out: list[Tick] = []
    again: list[tuple[int, str, bytes]] = []
    for tick in ticks:
        twice = draw.sample(tick.records, min(3, len(tick.records)))
        user = tick.records[0][1]
        broken = [(draw.randrange(4), user, value) for value in (b'{"event_id": ', b"\xff\xfe", b'{"user_id": 3}', twice[0][2].replace(user.encode(), b"someone"))]
        out.append(Tick(tick.end_ms, (*tick.records, *twice, *again, *broken)))
        again = twice[:1]
    return out


def shuffled(ticks: Iterable[Tick], seed: int) -> list[Tick]:
    """Shuffle the records within each tick."""
    draw = random.Random(seed)
    return [Tick(tick.end_ms, tuple(draw.sample(tick.records, len(tick.records)))) for tick in ticks]


@dataclass
class Left:
    """All that a replay leaves, in a form that does not depend on partitions: equal to the bit or not."""

    scores: dict[str, bytes] = field(default_factory=dict)
    rejected: Counter[tuple[bytes, bytes | None]] = field(default_factory=Counter)  # (reason, value)
    outcomes: list[tuple[object, ...]] = field(default_factory=list)
    snapshots: dict[str, bytes] = field(default_factory=dict)  # of the heads, as the topic has them
    figures: dict[str, Figures] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    pending: dict[str, bytes] = field(default_factory=dict)
    heads: dict[str, bytes] = field(default_factory=dict)
    catalogue: dict[str, bytes] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)

    def hear(self, judged: Judged, facts: Iterable[Outcome], window_ms: int) -> None:
        """Take in the outcomes, in any order."""
        self.outcomes = sorted(
            (m.key, m.closed.close_ms, m.closed.exposure.id, m.closed.bin, m.closed.y, m.closed.label, m.closed.exposure.predictions, m.closed.exposure.x)
            for m in facts
        )
        self.figures = {launch: judged.figures(launch, until_ms=2**53, window_ms=window_ms) for launch in judged.launches()}


def differences(a: object, b: object) -> list[str]:
    """Return a line for each field in which two results differ: empty when they are equal to the bit."""
    told = []
    for name in (f.name for f in fields(a)):  # type: ignore[arg-type]
        one, other = getattr(a, name), getattr(b, name)
        if repr(one) == repr(other):
            continue
        if isinstance(one, dict):
            keys = [key for key in {**one, **other} if repr(one.get(key)) != repr(other.get(key))]
            told.append(f"{name}: {len(keys)} of {len(one)} and {len(other)} differ, {keys[0]!r}: {one.get(keys[0])!r:.200} != {other.get(keys[0])!r:.200}" if keys else f"{name}: in order")
        else:
            told.append(f"{name}: {len(one)} and {len(other)}, {one!r:.200} != {other!r:.200}")
    return told


def in_process(world: World, ticks: Iterable[Tick], *, partitions: int = 1, outcome_partitions: int = 1) -> Left:
    """Run the pipeline over the ticks in this process, without Kafka and Redis: what every replay is compared with."""
    rules = Rules(edges_ms=edges_ms(WINDOW_S), partitions=partitions, outcome_partitions=outcome_partitions)
    store, left, judged = MemoryStore(), Left(), Judged()
    facts: list[Outcome] = []

    def heard(record: Outgoing) -> None:
        if record.topic == "scores":
            assert record.value is not None
            left.scores[json.loads(record.value)["score_id"]] = record.value
        else:
            left.rejected[dict(record.headers)[REASON_HEADER], record.value] += 1

    def outcome(fact: Outcome) -> None:
        facts.append(fact)
        judged.hear(fact)

    async def all_of_it() -> None:
        await put_launches(store, world.launches)
        await run(ticks, store, rules, Model(world.artifact), heard=heard, on_outcome=outcome)

    asyncio.run(all_of_it())
    left.hear(judged, facts, rules.edges_ms[-1])
    slots = {str(p) for p in range(partitions)}
    left.records = {key: value for (_, key), value in store._records.items()}
    for (slot, name), held in store._hashes.items():
        if slot in slots and name == "pending":
            left.pending.update(held)
        elif slot not in slots and name in ("heads", "catalogue"):
            getattr(left, name).update(held)
        elif name == "snapshots":
            left.snapshots.update({key.partition(":")[2] + key.partition(":")[0]: value for key, value in held.items()})
    for slot in slots:
        left.totals.update(msgspec.structs.asdict(msgspec.msgpack.decode(store._cursors[slot][1], type=Cursor).totals))
    return _sorted(left)


def _sorted(left: Left) -> Left:
    for name in ("scores", "rejected", "snapshots", "records", "pending", "heads", "catalogue", "totals"):
        held = getattr(left, name)
        setattr(left, name, type(held)(dict(sorted(held.items(), key=repr))))
    return left


def wait_until(true: Callable[[], bool], what: str, *, log: Path | None = None, timeout_s: float = PATIENCE_S, poll_s: float = 0.02) -> None:
    """Return once `true()`; fails with what was awaited, and the end of the log."""
    give_up_s = time.monotonic() + timeout_s
    while not true():
        said = log.read_text()[-2000:] if log is not None and log.exists() else ""
        assert time.monotonic() < give_up_s, f"not within {timeout_s:g} s: {what}; {said}"
        time.sleep(poll_s)


class Replay:
    """One replay in a namespace and topics of its own. `prepare`, then `publish` and workers in any order, then `left`; `run` does all of it."""

    def __init__(self, world: World, broker: str, redis_url: str, folder: Path, **changes: Any) -> None:
        name = f"r{random.SystemRandom().getrandbits(48):012x}"
        wanted = {"outcome_partitions": 1, "partitions": 1, "session_timeout_s": 6, "dependency_timeout_s": 30, "max_poll_records": 500, **changes}
        base = Settings(broker=broker, redis=redis_url, trunk=world.trunk, replay_tick_ms=TICK_MS, log_level="WARNING")
        self.settings = replay_settings(with_changes(base, **wanted), name)
        self.world, self.folder = world, folder
        self.rules = namespace.rules_of(self.settings, world.artifact, replay=True)
        self.log = folder / f"{name}.log"
        self._running: list[Popen[bytes]] = []

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

    def reach(self, at_ms: int) -> None:
        """Return as soon as every learner has learned the tick that ends at `at_ms`."""
        keys = [f"hs:{self.settings.namespace}:{{o{q}}}:cursor" for q in range(self.settings.outcome_partitions)]

        def reached(store: Any) -> bool:
            try:
                return min(stamp_of(store.hget(key, "cursor") or b"") for key in keys) >= at_ms
            except redis.ConnectionError:
                return False  # a test may have stopped it

        with closing(redis.Redis.from_url(self.settings.redis)) as store:
            wait_until(lambda: reached(store), f"the tick {at_ms} is learned", log=self.log, poll_s=0.003)

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

    def start_worker(self, **changes: Any) -> Popen[bytes]:
        """Start one worker, whose settings may differ; `close` kills what still runs."""
        worker = start_worker(with_changes(self.settings, **changes), self.log)
        self._running.append(worker)
        return worker

    def start_pair(self) -> tuple[Popen[bytes], Popen[bytes]]:
        """Start two workers and return when both have been given partitions; nothing must have been published yet."""
        alive = [self.folder / f"alive-{i}" for i in range(2)]
        one, two = (self.start_worker(alive_file=str(file)) for file in alive)
        wait_until(lambda: all(file.exists() for file in alive), "both workers have partitions", log=self.log)
        return one, two

    def stop(self, worker: Popen[bytes]) -> int:
        """SIGTERM, and return the exit code."""
        stop_worker(worker)
        return worker.returncode

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

    def left(self) -> Left:
        """Read everything back from Kafka and Redis. Fails when one score_id has two different records."""
        left, judged = Left(), Judged()
        for score_id, value in self.scores():
            assert left.scores.setdefault(score_id, value) == value, f"scored twice, differently: {left.scores[score_id]!r} {value!r}; {self.log.read_text()[-3000:]}"
        told: dict[tuple[int, int, int], Outcome] = {}
        for q, value in read_topic(self.settings, "outcomes"):
            message = decode_message(value)
            if isinstance(message, Outcome):
                told.setdefault((q, message.partition, message.number), message)
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
        return _sorted(left)

    def scores(self) -> Iterator[tuple[str, bytes]]:
        """Yield (score_id, value) of every score on Kafka."""
        for _, value in read_topic(self.settings, "scores"):
            yield json.loads(value)["score_id"], value

    def _read_state(self, left: Left) -> None:
        prefix = f"hs:{self.settings.namespace}:"
        with closing(redis.Redis.from_url(self.settings.redis)) as store:
            for raw in store.scan_iter(match=prefix + "*", count=10_000):
                slot, _, name = raw.decode().removeprefix(prefix).partition(":")
                if name.startswith(("u:", "ul:")):
                    left.records[name] = store.get(raw)
                elif name in ("pending", "heads", "catalogue"):
                    getattr(left, name).update({key.decode(): value for key, value in store.hgetall(raw).items()})
        for cursor in self.cursors().partitions.values():
            left.totals.update(cursor["totals"])

    def cursors(self) -> Cursors:
        """Return all cursors, without what a crash may change: versions, epochs, and where in `outcomes` a learner reads."""
        found = Cursors()
        prefix = f"hs:{self.settings.namespace}:"
        with closing(redis.Redis.from_url(self.settings.redis)) as store:
            for p in range(self.settings.partitions):
                cursor = msgspec.structs.asdict(msgspec.msgpack.decode(store.hget(f"{prefix}{{{p}}}:cursor", "cursor"), type=Cursor))
                del cursor["epoch"]
                found.partitions[p] = {**cursor, "totals": msgspec.structs.asdict(cursor["totals"])}
            for q in range(self.settings.outcome_partitions):
                learner = msgspec.msgpack.decode(store.hget(f"{prefix}{{o{q}}}:cursor", "cursor"), type=LearnerCursor)
                found.learners[q] = {
                    "stamp_ms": learner.stamp_ms, "tried": learner.tried, "hit": learner.hit, "numbers": {p: e.number for p, e in learner.expected.items()},
                }  # fmt: skip
        return found


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
