"""The whole job against a real Apache Kafka: everything breaks at once and the ledger balances; and a replay leaves the bits of the evaluation."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.stage import SESSION_S, Stage
from tests.integration.harness import Replay
from tests.integration.worlds import Left, World, differences
from tests.kafka_server import KafkaServer

pytestmark = [pytest.mark.java, pytest.mark.timeout(400)]

SEED = 20_261_125


@dataclass
class OneBroker:
    """The session's broker, as a stage takes it."""

    nodes: Mapping[int, KafkaServer]
    replication: int = 1

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return self.nodes[1].address


def everything_at_once(stage: Stage, draw: random.Random) -> None:
    """A zombie, a learner that is killed, a Redis that is put back to an older state meanwhile, events twice and out of order, and poison."""
    zombie = draw.choice(stage.running())
    assert zombie.process is not None
    stage.redis.keep_copy(stage.folder / "older")
    zombie.process.send_signal(signal.SIGSTOP)
    stage.traffic.disorder(100)
    stage.traffic.twice(30)
    stage.traffic.poison(60)
    time.sleep(2)
    victim = next(seat for seat in stage.running() if seat is not zombie)
    assert victim.process is not None
    victim.process.kill()
    stage.redis.kill()
    stage.redis.put_back(stage.folder / "older")
    stage.redis.start()
    time.sleep(SESSION_S)
    zombie.process.send_signal(signal.SIGCONT)


def test_the_ledger_balances_after_everything_at_once(quick_trunk: Path, real_kafka: KafkaServer, tmp_path: Path) -> None:
    """The chaos suite in short: three workers, twelve partitions, a real Kafka and a Redis with append-only file; nothing is lost and nothing happens twice."""
    with Stage(OneBroker({1: real_kafka}), [], quick_trunk, tmp_path, seed=SEED, rate=60) as stage:
        stage.ready()
        outcome = stage.suffer("everything_at_once", everything_at_once, load_s=1.0, after_s=2.0)
        assert (outcome.lost, outcome.twice) == (0, 0)
        assert outcome.alerts["store_went_back"] > 0
        stage.ready()  # a process that still starts ends by the signal itself
        for seat in stage.running():
            seat.wanted = False
            stage.stop(seat)
            assert seat.process is None or seat.process.returncode == 0


def test_a_replay_on_a_real_kafka_leaves_the_bits_of_the_evaluation(
    world: World, evaluated: Left, real_kafka: KafkaServer, redis_url: str, tmp_path: Path
) -> None:
    """Four partitions and two workers on Apache Kafka give what one process gives without it, byte by byte."""
    with Replay(world, real_kafka.address, redis_url, tmp_path, partitions=4, outcome_partitions=2) as replay:
        assert differences(evaluated, replay.run(world.ticks(), number=2)) == []
