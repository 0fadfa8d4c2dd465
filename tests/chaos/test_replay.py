"""A replay under chaos: whatever breaks on the way, it leaves what one process leaves that nobody disturbs, bit for bit; and the ledger balances."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.cutting import cut
from streams.ledger.audit import audit
from streams.ticks import Tick, with_end
from tests.chaos.conftest import SEED
from tests.chaos.servers import RedisServer
from tests.integration.harness import PATIENCE_S, Replay
from tests.integration.worlds import WINDOW_S, Left, World, differences, in_process, make_world, troubled
from tests.kafka_server import KafkaCluster, kafka_home

pytestmark = [pytest.mark.java, pytest.mark.timeout(1800)]

PARTITIONS = 12
OUTCOME_PARTITIONS = 2
SHORT_TICK_MS = 900_000
FAULTS = 10


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small SYNTHETIC log and a trunk that was trained on its first day."""
    return make_world(tmp_path_factory.mktemp("world") / "trunk")


@pytest.fixture(scope="module")
def ticks(world: World) -> list[Tick]:
    """The log in ticks of a quarter of an hour, with duplicates and broken records in them."""
    return list(with_end(troubled(cut(world.log, SHORT_TICK_MS)), round(1000 * WINDOW_S) + 60_000))


@pytest.fixture(scope="module")
def undisturbed(world: World, ticks: list[Tick]) -> Left:
    """What the pipeline leaves in one process, without Kafka and Redis."""
    return in_process(world, ticks)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One real broker."""
    home, missing = kafka_home()
    if missing:
        pytest.skip(missing)
    with KafkaCluster(home, tmp_path_factory.mktemp("kafka"), nodes=1) as cluster:
        yield cluster


def test_a_replay_that_is_disturbed_leaves_the_same_bits(world: World, ticks: list[Tick], undisturbed: Left, kafka: KafkaCluster, tmp_path: Path) -> None:
    """Workers killed and stopped, Redis killed, put back and emptied, the broker killed, at moments that the seed draws: scores, states, heads to the bit."""
    draw = random.Random(SEED)
    with (
        RedisServer(tmp_path / "redis") as redis,
        Replay(
            world, kafka.address, redis.url, tmp_path, partitions=PARTITIONS, outcome_partitions=OUTCOME_PARTITIONS, replay_tick_ms=SHORT_TICK_MS,
            session_timeout_s=6, dependency_timeout_s=60, durability="disk",
        ) as replay,
    ):  # fmt: skip
        replay.prepare()
        last_ms = replay.publish(ticks)
        workers = [replay.start_worker() for _ in range(3)]
        ended = threading.Event()

        def supervise() -> None:
            while not ended.wait(0.3):
                for i, worker in enumerate(workers):
                    if worker.poll() is not None and not ended.is_set():
                        workers[i] = replay.start_worker()

        def kill_worker() -> None:
            workers[draw.randrange(3)].kill()

        def freeze_worker() -> None:
            worker = workers[draw.randrange(3)]
            worker.send_signal(signal.SIGSTOP)
            time.sleep(draw.uniform(7, 12))
            worker.send_signal(signal.SIGCONT)

        def kill_redis() -> None:
            redis.kill()
            time.sleep(draw.uniform(0, 2))
            redis.start()

        def put_redis_back() -> None:
            redis.keep_copy(tmp_path / "older")
            time.sleep(draw.uniform(0.5, 3))
            redis.kill()
            redis.put_back(tmp_path / "older")
            redis.start()

        def kill_broker() -> None:
            (node,) = kafka.nodes.values()
            node.kill()
            time.sleep(draw.uniform(0, 2))
            node.start()

        supervisor = threading.Thread(target=supervise)
        supervisor.start()
        faults: list[Callable[[], None]] = [kill_worker, freeze_worker, kill_redis, put_redis_back, kill_broker, kill_worker, kill_worker, put_redis_back]
        try:
            places = sorted(draw.sample(range(4, len(ticks) - 8), FAULTS))
            for place in places:
                replay.reach(ticks[place].end_ms)
                time.sleep(draw.uniform(0, 0.2))
                fault = draw.choice(faults)
                print(f"at tick {place}: {fault.__name__}")  # noqa: T201  pytest shows it when the test fails
                fault()
            replay.reach(last_ms, timeout_s=5 * PATIENCE_S)
        finally:
            ended.set()
            supervisor.join()
        for worker in workers:
            replay.stop(worker)
        assert differences(undisturbed, replay.left()) == []
        assert asyncio.run(audit(replay.settings)).first == []
