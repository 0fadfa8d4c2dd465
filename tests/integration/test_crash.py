"""Nothing that ends a worker or puts Redis back changes what is known, believed or said: crashes in the middle of replays."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from streams.embedded import EmbeddedBroker, EmbeddedValkey
from streams.replay import stop_worker
from streams.ticks import Tick
from tests.integration.harness import Cursors, Left, Replay, World, differences


@pytest.fixture(scope="module")
def ticks(world: World) -> list[Tick]:
    """The log's ticks without the last one, so that exposures stay open."""
    return world.ticks(final=False)


@pytest.fixture(scope="module")
def undisturbed(world: World, ticks: list[Tick], embedded_broker: EmbeddedBroker, embedded_valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> tuple[Left, Cursors]:
    """What a replay with three partitions leaves when nothing happens to it."""
    replay = Replay(world, embedded_broker.address, embedded_valkey.url, tmp_path_factory.mktemp("undisturbed"), partitions=3)
    return replay.run(ticks), replay.cursors()


def test_killed_workers_change_nothing(world: World, ticks: list[Tick], undisturbed: tuple[Left, Cursors], broker: str, redis_url: str, tmp_path: Path) -> None:
    """kill -9 at five random moments, each time a new worker: states, open exposures, heads and cursors are those of an undisturbed replay."""
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    draw = random.Random(seed)
    replay = Replay(world, broker, redis_url, tmp_path, partitions=3, session_timeout_s=2)
    last_ms = replay.publish(ticks)
    worker = replay.start_worker()
    t=time.time()
    try:
        for at_ms in sorted(draw.sample([tick.end_ms for tick in ticks[:-2]], 5)):
            replay.wait(at_ms)
            time.sleep(draw.uniform(0, 0.05))
            worker.kill()
            worker.wait()
            print(at_ms, time.time()-t)
            worker = replay.start_worker()
        replay.wait(last_ms)
        print(time.time()-t)
    finally:
        stop_worker(worker)
    print((tmp_path/f"{replay.settings.namespace}.log").read_text())
    left, cursors = replay.left(), replay.cursors()
    assert differences(undisturbed[0], left) == []
    assert differences(undisturbed[1], cursors) == []
