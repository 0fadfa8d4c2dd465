"""Where the contenders of the benchmarks meet: a broker and a Redis of their own, the events on it, and what the machine is. SYNTHETIC events."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka.admin import KafkaAdminClient

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "speed"), str(HERE.parent)]

from features.events import KINDS
from features.hashing import partition_for
from streams.embedded import EmbeddedBroker, EmbeddedValkey
from streams.publisher import Outgoing, publish_records

PEERS = HERE.parent / ".venv-peers" / "bin" / "python"
LINES = ("coffee", "garden", "bags", "audio", "lamps", "kitchen", "books")
SHARES = (75, 19, 4, 2)
JVM_PASSES = 5
"""How often Kafka Streams is given its events: all passes but the last are to let the JVM compile."""
JVM_TOPICS = "-warm"
VISIT, LEAVES_LINE = 5, 0.2
SPAN_MS = 600_000


@dataclass(frozen=True)
class Stage:
    """Where contenders meet: the broker, Redis, and the events on it."""

    broker: str
    redis: str
    partitions: int
    events: int
    of_kind: tuple[int, ...]
    trunk: Path
    folder: Path
    kafka_libs: Path | None
    kafka_streams: Path | None
    limit_s: float
    launches: int
    workers: int
    products: int = 0
    to_the_end: bool = False
    """Whether Headstart's rounds last until no exposure is open, not only until the last event is in."""


def events(n: int, users: int, partitions: int, visit: int = VISIT, age_h: float = 0.0, seed: int = 1) -> Iterator[Outgoing]:
    """Yield n events over ten minutes, `age_h` hours ago, of users who come at random and stay for `visit` events in the mean, three in a line or so.

    A fifth of the users are there at a time, so two events after each other hardly ever are of the same one.
    """
    rng = random.Random(seed)
    begin_ms = time.time_ns() // 1_000_000 - SPAN_MS - round(3_600_000 * age_h)
    there = [(rng.randrange(users), rng.choice(LINES)) for _ in range(users // 5)]
    for i in range(n):
        at = rng.randrange(len(there))
        number, line = there[at]
        user, kind, product = f"user-{number}", rng.choices(range(4), SHARES)[0], rng.randrange(2000)
        value = {
            "event_id": f"e{i}", "user_id": user, "product_id": f"sku-{product}", "line": line, "category": f"{line}-{product % 20}",
            "ts": begin_ms + i * SPAN_MS // n, "price": round(rng.lognormvariate(3, 1), 2), "type": KINDS[kind],
        }  # fmt: skip
        yield Outgoing(KINDS[kind], user.encode(), json.dumps(value, separators=(",", ":")).encode(), partition_for(user.encode(), partitions))
        if rng.random() < 1 / visit:
            there[at] = rng.randrange(users), rng.choice(LINES)
        elif rng.random() < LEAVES_LINE:
            there[at] = number, rng.choice(LINES)


def make_topics(broker: str, names: Sequence[str], partitions: int) -> None:
    """Create topics."""
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics({name: {"num_partitions": partitions, "replication_factor": 1} for name in names})
    admin.wait_for_topics(list(names))
    admin.close()


def cpu_s(root: int) -> float:
    """Return the CPU seconds of a process and of all that it started."""
    children: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(") ", 1)[1].split()
            except (OSError, IndexError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            spent[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total, todo = 0.0, [root]
    while todo:
        pid = todo.pop()
        total += spent.get(pid, 0.0)
        todo += children.get(pid, [])
    return total


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {"processor": model, "processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def whole(folder: str) -> Path:
    """Return a folder's absolute path, since other programs are started elsewhere."""
    return Path(folder).resolve()


def staged(stack: ExitStack, given: argparse.Namespace, n: int) -> Stage:
    """Return a broker and a Redis of their own, with n events; they end with the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    if given.kafka:
        from tests.kafka_server import KafkaServer

        broker = stack.enter_context(KafkaServer(given.kafka, folder / "kafka", light=False)).address
    else:
        broker = stack.enter_context(EmbeddedBroker()).address
    valkey = stack.enter_context(EmbeddedValkey()).url
    make_topics(broker, KINDS, given.partitions)
    of_kind = [0] * len(KINDS)

    def counted() -> Iterator[Outgoing]:
        for record in events(n, given.users, given.partitions, given.visit, given.age):
            of_kind[KINDS.index(record.kind)] += 1
            yield record

    publish_records(broker, counted(), {kind: kind for kind in KINDS})
    libs, jars = given.kafka and given.kafka / "libs", given.kafka_streams
    return Stage(broker, valkey, given.partitions, n, tuple(of_kind), given.trunk, folder, libs, jars, given.limit, given.launches, given.workers)


async def publish_for_the_jvm(stage: Stage) -> None:
    """Give Kafka Streams topics of its own, with the same browses and clicks `JVM_PASSES` times."""
    make_topics(stage.broker, [f"{name}{JVM_TOPICS}" for name in (*KINDS[:2], "scores")], stage.partitions)
    consumer = AIOKafkaConsumer(*KINDS[:2], bootstrap_servers=stage.broker, auto_offset_reset="earliest")
    async with consumer, AIOKafkaProducer(bootstrap_servers=stage.broker, linger_ms=5) as producer:
        for _ in range(JVM_PASSES):
            await consumer.seek_to_beginning()
            left = stage.of_kind[0] + stage.of_kind[1]
            while left:
                for tp, records in (await consumer.getmany(timeout_ms=1_000)).items():
                    left -= len(records)
                    for record in records:
                        await producer.send(f"{tp.topic}{JVM_TOPICS}", record.value, record.key, tp.partition)


def train(folder: Path) -> None:
    """Train a trunk on a simulated shop's past."""
    log = folder.parent / "throughput-shop.parquet"
    folder.parent.mkdir(parents=True, exist_ok=True)
    for arguments in (["simulate", "--out", str(log), "--launch-day", "-1"], ["pretrain", str(log), "--trunk", str(folder)]):
        subprocess.run([sys.executable, "-m", "streams.cli", *arguments], check=True, stdout=subprocess.DEVNULL)
