"""The whole job against a real Apache Kafka: a worker of two is killed while events come, and every event id is accounted for."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from features.events import KINDS, Event
from features.exposures import NONE
from features.layout import USER
from models.launch_head import LaunchHead
from models.shared_heads import SharedHeads
from streams.publisher import Outgoing, publish_records
from streams.records import Outcome, decode_message
from streams.replay import read_topic
from tests.integration.harness import Live, Replay, connected, read_records
from tests.integration.worlds import Left, World, differences
from tests.kafka_server import KafkaServer

pytestmark = [pytest.mark.java, pytest.mark.timeout(180)]

USERS = 90
ROUNDS = 12


def walk(number: int) -> Iterator[tuple[str, Event]]:
    """One event of each user, now: mostly browses, now and then an order."""
    draw, ts = random.Random(number), time.time_ns() // 1_000_000
    for user in range(USERS):
        kind, line = KINDS[draw.choice((0, 0, 0, 1, 2, 3))], draw.choice(("launch", "books", "audio"))
        yield kind, Event(event_id=f"e{number}", user_id=f"u{user}", product_id=f"{line}-{draw.randrange(5)}", line=line, ts=ts)


def test_a_killed_worker_of_two_loses_and_doubles_nothing(quick_trunk: Path, real_kafka: KafkaServer, redis_url: str, tmp_path: Path) -> None:
    """Events come while a worker is killed and another joins: each is scored or rejected, applied once, and every exposure gets one label that is learned once."""
    with Live(quick_trunk, real_kafka.address, redis_url, tmp_path, partitions=4, outcome_partitions=2) as job:
        job.prepare()
        one, two = job.start_ready(2)
        for number in range(ROUNDS):
            job.send(walk(number))
            refused = [Outgoing("cart", f"u{user}".encode(), f"{{{number}".encode()) for user in range(3)]
            publish_records(job.settings.broker, refused, job.topics)
            if number == 4:
                one.kill()
            if number == 8:
                three = job.start_worker()
            time.sleep(0.3)
        scores = job.wait_for_scores(USERS * ROUNDS)
        assert set(scores) == {f"u{user}:e{number}" for user in range(USERS) for number in range(ROUNDS)}

        def counted() -> bool:
            return job.totals()["read"] == ROUNDS * (USERS + 3)

        job.wait(counted, "all is read and committed")
        totals = job.totals()
        assert (totals["applied"], totals["duplicate"], totals["rejected"]) == (ROUNDS * USERS, 0, ROUNDS * 3)
        assert sum(sum(cursor["offsets"]) for cursor in job.cursors().partitions.values()) == totals["read"]
        places = {(r.partition, dict(r.headers)["headstart-offset"]): r.value for r in read_records(job.settings, "rejected")}
        assert Counter(places.values()) == {f"{{{number}".encode(): 3 for number in range(ROUNDS)}
        with connected(redis_url) as store:
            users = [np.frombuffer(store.get(key), USER) for key in store.keys(f"hs:{job.settings.namespace}:*:u:*")]
        assert [int(user["applied"][0]) for user in users] == [ROUNDS] * USERS

        facts: dict[tuple[int, int, int, int], Outcome] = {}

        def all_final() -> bool:
            for q, value in read_topic(job.settings, "outcomes"):
                message = decode_message(value)
                if isinstance(message, Outcome):
                    facts[q, message.partition, message.epoch, message.number] = message
            return sum(fact.closed.label != NONE for fact in facts.values()) >= job.totals()["exposures"]

        job.wait(all_final, "every exposure has its label")
        labelled = [fact.closed.exposure.id for fact in facts.values() if fact.closed.label != NONE]
        assert len(labelled) == len(set(labelled)) == totals["exposures"]

        def learned() -> Counter[str]:
            with connected(redis_url) as store:
                held = {k: v for q in range(2) for k, v in store.hgetall(f"hs:{job.settings.namespace}:{{o{q}}}:heads").items()}
            return Counter(
                {
                    "launch": LaunchHead.from_bytes(held[b"launch"]).n_learned if b"launch" in held else 0,
                    "shared": SharedHeads.from_bytes(held[b"shared"]).n_learned if b"shared" in held else 0,
                }
            )

        told = Counter(fact.key for fact in facts.values() if fact.closed.bin > 0 or (fact.key == "shared" and fact.closed.label != NONE))
        job.wait(lambda: learned() == told, f"{told} are learned, once each")
        assert [job.stop(worker) for worker in (two, three)] == [0, 0]


def test_a_replay_on_a_real_kafka_leaves_the_bits_of_the_evaluation(
    world: World, evaluated: Left, real_kafka: KafkaServer, redis_url: str, tmp_path: Path
) -> None:
    """Four partitions and two workers on Apache Kafka give what one process gives without it, byte by byte."""
    with Replay(world, real_kafka.address, redis_url, tmp_path, partitions=4, outcome_partitions=2) as replay:
        assert differences(evaluated, replay.run(world.ticks(), number=2)) == []
