"""Where the chaos happens: a Kafka, a Redis, a network between them and the workers, supervised workers, a steady load, and an eye on all of it."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
import redis
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from features.events import KINDS
from streams import namespace
from streams.at_rest import is_behind
from streams.embedded import HOST
from streams.learner_cursor import LearnerCursor
from streams.ledger.audit import audit
from streams.ledger.findings import Account
from streams.offline import put_launches
from streams.partition import Cursor
from streams.records import Launch
from streams.settings import Settings
from streams.topics import broker_names, create_topics
from tests.chaos.outcomes import Outcome, Sample
from tests.chaos.pipes import Bulk, Plain
from tests.chaos.proxy import Proxy
from tests.chaos.seat import Seat
from tests.chaos.servers import RedisServer, used_bytes
from tests.chaos.traffic import Traffic
from tests.integration.harness import connected, fresh_name
from tests.integration.worlds import LIVE_WINDOW_MS
from tests.kafka_server import KafkaServer

PARTITIONS = 12
OUTCOME_PARTITIONS = 2
WORKERS = 3
PATIENCE_S = 30.0  # so soon after the repair there must be progress in every partition
START_S = 6.0  # and so long may a worker's start take in that; what it takes longer, on a machine that is busy with other things, is added
REST_S = 240.0  # and so soon all must be worked off
SESSION_S = 6
MOST_RSS_BYTES = 900_000_000


class Brokers(Protocol):
    """The Kafka of a stage."""

    @property
    def nodes(self) -> Mapping[int, KafkaServer]:
        """The brokers by number."""

    @property
    def address(self) -> str:
        """HOST:PORT of all nodes."""

    @property
    def replication(self) -> int:
        """The replication factor that topics can have."""


class Stage:
    """Everything that a fault needs. A context manager. Without `entrances` the workers reach the brokers directly, without `wires` Redis.

    The load stands still while more than `most_lag` records wait; `bulk`: it is more than kafka-python can send.
    """

    def __init__(
        self, kafka: Brokers, entrances: list[Proxy], trunk: Path, folder: Path, *, seed: int, rate: float, durability: str = "disk",
        redis_config: dict[str, str] | None = None, replica: bool = False, wires: bool = True, most_lag: int = 10**9,
        window_ms: int = LIVE_WINDOW_MS, bulk: bool = False, **changes: Any,
    ) -> None:  # fmt: skip
        self.kafka, self.entrances, self.folder, self.seed = kafka, entrances, folder, seed
        folder.mkdir(parents=True, exist_ok=True)
        self.redis = RedisServer(folder / "redis", config=redis_config)
        self.standby = RedisServer(folder / "standby", config=redis_config) if replica else None
        name = fresh_name()
        # With redis_msetex both ways of writing records are tried: Debian's Redis 7 has no MSETEX.
        self._base = {
            "broker": kafka.address, "trunk": trunk, "namespace": name, "topic_prefix": f"{name}.", "partitions": PARTITIONS,
            "outcome_partitions": OUTCOME_PARTITIONS, "replication": kafka.replication, "session_timeout_s": SESSION_S, "dependency_timeout_s": 20,
            "grace_ms": 500, "durability": durability, "tick_ms": 500, "redis_msetex": True, **changes,
        }  # fmt: skip
        self.topics = broker_names(f"{name}.")
        self._rate, self._window_ms, self._wires, self._most_lag, self._bulk = rate, window_ms, wires, most_lag, bulk
        self.seats: list[Seat] = []
        self.samples: list[Sample] = []
        self.tainted = False
        self._stack = ExitStack()
        self._stop = threading.Event()
        self._started_s = time.monotonic()
        self._alerts_seen: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()

    @property
    def settings(self) -> Settings:
        """The settings of one who reaches everything directly."""
        return Settings(**self._base, redis=self.redis.url)

    def __enter__(self) -> Self:
        try:
            self._stack.enter_context(self.redis)
            if self.standby is not None:
                self._stack.enter_context(self.standby)
                self.standby.follow(self.redis)
            create_topics(
                self.kafka.address, prefix=self.settings.topic_prefix, partitions=PARTITIONS, outcome_partitions=OUTCOME_PARTITIONS,
                replication=self.kafka.replication,
            )  # fmt: skip
            self.launch()
            for number in range(4):
                wire = self._stack.enter_context(Proxy(self.redis.port))
                entrance = ",".join(f"{HOST}:{proxy.port}" for proxy in self.entrances) or self.kafka.address
                settings = Settings(**{**self._base, "broker": entrance}, redis=f"redis://{HOST}:{wire.port}/0" if self._wires else self.redis.url)
                self.seats.append(Seat(number, settings, self.folder, wire))
            self._stack.callback(self._kill)
            self.traffic = Traffic(
                (Bulk if self._bulk else Plain)(self.kafka.address), self.topics, PARTITIONS, rate=self._rate, seed=self.seed,
                hold=lambda: bool(self.samples) and self.samples[-1].lag > self._most_lag,
            )  # fmt: skip
            self._stack.callback(self.traffic.close)
            for work in (self._supervise, self._watch):
                thread = threading.Thread(target=work, daemon=True)
                thread.start()
                self._stack.callback(thread.join, 30)
            self._stack.callback(self._stop.set)
            self.staff(WORKERS)
            self.traffic.go()
            self.wait(lambda: self.read() > 0, "the first events are worked", REST_S)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def launch(self) -> None:
        """Write the launch among the control records, as `headstart launch add` does."""

        async def begin() -> None:
            store = namespace.open_store(self.settings)
            try:
                await put_launches(store, [Launch(id="launch", line="launch", window_s=self._window_ms / 1000)])
            finally:
                await store.close()

        asyncio.run(begin())

    # Workers.

    def staff(self, number: int) -> None:
        """Want so many workers: those above are stopped with SIGTERM, and must end well."""
        for seat in self.seats:
            seat.want(seat.number < number)
        for seat in self.seats[number:]:
            self.stop(seat)

    def stop(self, seat: Seat) -> None:
        """SIGTERM, and wait for a good end; whether it is started again depends on whether it is wanted."""
        process = seat.process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def running(self) -> list[Seat]:
        """Return the seats whose process runs."""
        return [seat for seat in self.seats if seat.pid]

    def ready(self) -> None:
        """Return when all that are wanted have their partitions, each partition one worker."""

        def given() -> bool:
            held = [seat.works() for seat in self.seats if seat.wanted]
            return sorted(p for partitions, _ in held for p in partitions) == list(range(PARTITIONS)) and all(partitions for partitions, _ in held)

        self.wait(given, "all workers have partitions", 120.0)

    def of_learner(self, draw: random.Random) -> Seat:
        """Return a worker that learns."""
        learning = [seat for seat in self.running() if seat.works()[1]]
        return draw.choice(learning or self.running())

    def _supervise(self) -> None:
        while not self._stop.wait(0.2):
            for seat in self.seats:
                seat.look()

    def _kill(self) -> None:
        for seat in self.seats:
            seat.want(False)
            if seat.process is not None and seat.process.poll() is None:
                seat.process.kill()
                seat.process.wait()

    # What is seen.

    def cursors(self) -> dict[int, Cursor]:
        """Return the partitions' cursors; raises RedisError."""
        found = {}
        with connected(self.redis.url) as store:
            for p in range(PARTITIONS):
                held = store.hget(f"hs:{self.settings.namespace}:{{{p}}}:cursor", "cursor")
                if held is not None:
                    found[p] = msgspec.msgpack.decode(held, type=Cursor)
        return found

    def read(self) -> int:
        """Return how many records are worked; 0 if Redis does not answer."""
        try:
            return sum(cursor.totals.read for cursor in self.cursors().values())
        except redis.RedisError:
            return 0

    def ends(self) -> dict[tuple[str, int], int]:
        """Return where the topics end, by (kind, partition)."""
        tps = {TopicPartition(self.topics[kind], p): (kind, p) for kind in KINDS for p in range(PARTITIONS)}
        consumer = KafkaConsumer(
            bootstrap_servers=self.kafka.address.split(","), enable_auto_commit=False, request_timeout_ms=12_000, bootstrap_timeout_ms=10_000
        )
        try:
            return {tps[tp]: end for tp, end in consumer.end_offsets(list(tps)).items()}
        finally:
            consumer.close()

    def lags(self) -> dict[int, int]:
        """Return how many records of each partition wait."""
        ends, cursors = self.ends(), self.cursors()
        none = [0] * len(KINDS)
        return {
            p: sum(ends[kind, p] - (cursors[p].offsets if p in cursors else none)[k] for k, kind in enumerate(KINDS)) for p in range(PARTITIONS)
        }  # fmt: skip

    def at_rest(self) -> bool:
        """Whether nothing waits: no record, no open exposure, no outcome that is not learned."""
        try:
            if any(self.lags().values()):
                return False
            cursors = self.cursors()
            prefix = f"hs:{self.settings.namespace}:"
            with connected(self.redis.url) as store:
                if any(store.hlen(f"{prefix}{{{p}}}:pending") for p in range(PARTITIONS)):
                    return False
                for q in range(OUTCOME_PARTITIONS):
                    held = store.hget(f"{prefix}{{o{q}}}:cursor", "cursor")
                    expected = msgspec.msgpack.decode(held, type=LearnerCursor).expected if held else {}
                    for p, cursor in cursors.items():
                        if is_behind(expected.get(p), cursor, q):
                            return False
                return not any(cursor.counts or cursor.seen for cursor in cursors.values())
        except (redis.RedisError, KafkaError, OSError):
            return False

    def now_s(self) -> float:
        """Return the seconds since the start, as the samples count."""
        return time.monotonic() - self._started_s

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            sample = Sample(self.now_s())
            with suppress(redis.RedisError, KafkaError, OSError):
                sample.read = sum(cursor.totals.read for cursor in self.cursors().values())
                sample.lag = self.traffic.confirmed - sample.read
            sample.redis_bytes = used_bytes(self.redis.url)
            for seat in self.seats:
                if seat.pid:
                    with suppress(OSError, IndexError, ValueError):
                        sample.rss_bytes[seat.number] = 4096 * int(Path(f"/proc/{seat.pid}/statm").read_text().split()[1])
                        sample.descriptors[seat.number] = len(list(Path(f"/proc/{seat.pid}/fd").iterdir()))
            self.samples.append(sample)

    def wait(self, true: Callable[[], bool], what: str, timeout_s: float) -> float:
        """Return the seconds until `true()`."""
        began_s = time.monotonic()
        while not true():
            assert time.monotonic() - began_s < timeout_s, f"not within {timeout_s:g} s: {what}; {self.say()}"
            time.sleep(0.25)
        return time.monotonic() - began_s

    def say(self, lines: int = 25) -> str:
        """Return the ends of the workers' logs, for who must find out."""
        told = []
        for seat in self.seats:
            if seat.log.exists():
                told.append(
                    f"--- worker {seat.number} (pid {seat.pid}, ended {seat.ends})\n" + "\n".join(seat.log.read_text(errors="replace").splitlines()[-lines:])
                )
        return "\n".join(told)

    # One fault.

    def suffer(self, name: str, fault: Callable[[Stage, random.Random], None], *, load_s: float = 3.0, after_s: float = 4.0) -> Outcome:
        """Let a fault happen and be mended under load, and check afterwards all that must hold."""
        self.tainted = True
        draw, outcome = random.Random(f"{self.seed}-{name}"), Outcome(name, self.seed)
        ended = {seat.number: len(seat.ends) for seat in self.seats}
        started = {seat.number: len(seat.starts) for seat in self.seats}
        seen = len(self.samples)
        self.traffic.go()
        time.sleep(load_s)
        fault(self, draw)
        mended_s = time.monotonic()
        outcome.progress_s = self._progress(mended_s)
        outcome.start_s = max((start_s for seat in self.seats for start_s in seat.starts[started[seat.number] :]), default=0.0)
        most_s = PATIENCE_S + max(0.0, outcome.start_s - START_S)
        assert outcome.progress_s <= most_s, (
            f"progress {outcome.progress_s:.0f} s after the repair (a worker's start took {outcome.start_s:.0f} s); {self.say()}"
        )
        time.sleep(max(0.0, mended_s + after_s - time.monotonic()))
        outcome.level_s = self._level(mended_s)
        self.traffic.pause()
        self.wait(self.at_rest, f"all is worked off after {name}", REST_S)
        account = self.account()
        outcome.lost = (
            account.findings["not_applied"]
            + account.findings["not_scored"]
            + account.findings["not_learned"]
            + account.findings["hole"]
            + account.sums["outcomes_lost"]
        )
        outcome.twice = account.findings["applied_twice"] + account.findings["learned_twice"] + account.findings["bins"]
        outcome.events = account.sums["applied"]
        fresh = account.sums.copy()
        fresh.subtract(self._sums)
        self._sums = account.sums
        outcome.scored_again, outcome.told_again = fresh["scores_on_kafka"] - fresh["scored"], fresh["told_again"]
        outcome.exits = [code for seat in self.seats for code in seat.ends[ended[seat.number] :]]
        outcome.rss_bytes = max((rss for sample in self.samples[seen:] for rss in sample.rss_bytes.values()), default=0)
        outcome.alerts = self._alerts()
        outcome.notes = [f"{n} {kind}" for kind, n in account.findings.items()]
        assert account.balances, f"after {name} the ledger does not balance: {dict(account.findings)}; {account.first}; {self.say()}"
        assert not account.sums["outcomes_lost"], f"after {name} learners have given up {account.sums['outcomes_lost']} outcomes; {self.say()}"
        assert self.traffic.error is None, self.traffic.error
        assert account.sums["published"] >= self.traffic.confirmed, (
            f"the broker has lost what it had confirmed: {account.sums['published']} < {self.traffic.confirmed}"
        )
        assert outcome.rss_bytes < MOST_RSS_BYTES, f"a worker used {outcome.rss_bytes} bytes"
        bugs = [line for seat in self.seats if seat.log.exists() for line in seat.log.read_text(errors="replace").splitlines() if "a bug, or" in line]
        assert not bugs, f"{bugs}; {self.say()}"
        self.tainted = False
        return outcome

    def account(self) -> Account:
        """Return the ledger's account; everything must be at rest."""
        return asyncio.run(audit(self.settings))

    def _progress(self, mended_s: float) -> float:
        """Return the seconds until every partition that lags has moved."""
        began: dict[int, int] | None = None
        while True:
            with suppress(redis.RedisError, KafkaError, OSError):
                now = {p: sum(cursor.offsets) for p, cursor in self.cursors().items()}
                began = now if began is None else began
                lags = self.lags()
                stuck = [p for p, lag in lags.items() if lag and now.get(p, 0) == began.get(p, 0)]
                if not stuck:
                    return time.monotonic() - mended_s
                assert time.monotonic() - mended_s < 4 * PATIENCE_S, f"partitions {stuck} do not move after the repair; {self.say()}"
            assert time.monotonic() - mended_s < 5 * PATIENCE_S, f"Redis or the broker does not answer after the repair; {self.say()}"
            time.sleep(0.25)

    def _level(self, mended_s: float) -> float:
        """Return the seconds from the repair until less waits than the load of two seconds."""
        self.wait(lambda: self._lag() < 2 * self._rate, "the lag is worked off", REST_S)
        return time.monotonic() - mended_s

    def _lag(self) -> float:
        try:
            return sum(self.lags().values())
        except (redis.RedisError, KafkaError, OSError):
            return float("inf")

    def _alerts(self) -> dict[str, int]:
        """Return how many alerts of each kind have come since the last look, as the workers log them."""
        now: Counter[str] = Counter()
        for seat in self.seats:
            if seat.log.exists():
                now.update(re.findall(r"alert (\w+):", seat.log.read_text(errors="replace")))
        fresh, self._alerts_seen = now - self._alerts_seen, now
        return dict(fresh)
