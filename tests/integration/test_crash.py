"""Nothing that ends a worker or puts Redis back changes what is known, believed or said: trouble in the middle of replays."""

from __future__ import annotations

import dataclasses
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.embedded import EmbeddedBroker, EmbeddedValkey
from streams.ticks import Tick
from tests.integration.harness import Cursors, Replay, connected
from tests.integration.worlds import Left, World, differences

pytestmark = pytest.mark.xdist_group("crash")  # what they share takes long to make

PARTITIONS = 3
SESSION_S = 2  # a killed worker's partitions are free after so long


@pytest.fixture(scope="module")
def ticks(world: World) -> list[Tick]:
    """The log's ticks without the last one, so that exposures stay open."""
    return world.ticks(final=False)


@pytest.fixture(scope="module")
def undisturbed(
    world: World, ticks: list[Tick], embedded_broker: EmbeddedBroker, embedded_valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Left, Cursors]:
    """What a replay leaves, and where its cursors are, when nothing happens to it."""
    replay = Replay(world, embedded_broker.address, embedded_valkey.url, tmp_path_factory.mktemp("undisturbed"), partitions=PARTITIONS)
    left = replay.run(ticks)
    assert len(left.pending) > 20
    return left, replay.cursors()


@pytest.fixture
def replay(world: World, broker: str, redis_url: str, tmp_path: Path) -> Iterator[Replay]:
    """A replay that is yet to run; its workers are killed at the end."""
    with Replay(world, broker, redis_url, tmp_path, partitions=PARTITIONS, session_timeout_s=SESSION_S) as made:
        made.prepare()
        yield made


@pytest.fixture
def draw() -> random.Random:
    """A source of random moments, whose seed is told when the test fails."""
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)  # noqa: T201  pytest shows it when the test fails
    return random.Random(seed)


def moments(draw: random.Random, ticks: list[Tick], number: int) -> list[int]:
    """Draw the ends of ticks, in order, apart from each other, away from the beginning and the end."""
    part = (len(ticks) - 4) // number
    return [ticks[2 + i * part + draw.randrange(part // 2)].end_ms for i in range(number)]


def same(replay: Replay, undisturbed: tuple[Left, Cursors]) -> None:
    """Assert that nothing differs, and that every event has its score or its refusal."""
    left = replay.left()
    assert differences(undisturbed[0], left) == []
    assert differences(undisturbed[1], replay.cursors()) == []
    assert {event["event_id"] for event in replay.world.log.to_pylist()} == {score_id.split(":", 1)[1] for score_id in left.scores}


def test_workers_killed_at_random_moments_change_nothing(replay: Replay, ticks: list[Tick], undisturbed: tuple[Left, Cursors], draw: random.Random) -> None:
    """kill -9 three times, each time followed by a new worker: states, open exposures, heads, cursors and scores are those of an undisturbed replay."""
    last_ms = replay.publish(ticks)
    worker = replay.start_worker()
    for at_ms in moments(draw, ticks, 3):
        replay.reach(at_ms)
        time.sleep(draw.uniform(0, 0.08))
        worker.kill()
        worker.wait()
        worker = replay.start_worker()
    replay.reach(last_ms)
    same(replay, undisturbed)


def test_a_worker_killed_while_the_other_waits_at_the_barrier(
    replay: Replay, ticks: list[Tick], undisturbed: tuple[Left, Cursors], draw: random.Random
) -> None:
    """When one of two workers stops dead and the other waits for it at a tick's end, its kill frees the partitions and the other finishes."""
    one, two = replay.start_ready(2)
    last_ms = replay.publish(ticks)
    replay.reach(moments(draw, ticks, 2)[0])
    one.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    waiting = replay.cursors()
    time.sleep(0.2)
    assert replay.cursors() == waiting, "the other worker went on without the partitions of the stopped one"
    one.kill()
    replay.reach(last_ms)
    assert two.poll() is None
    same(replay, undisturbed)


def test_a_worker_that_was_thought_dead_does_no_harm(replay: Replay, ticks: list[Tick], undisturbed: tuple[Left, Cursors], draw: random.Random) -> None:
    """A worker that stands still until another has its partitions, and then goes on with old batches and states, is refused by the version."""
    one, two = replay.start_ready(2)
    last_ms = replay.publish(ticks)
    first_ms, then_ms = moments(draw, ticks, 2)
    replay.reach(first_ms)
    one.send_signal(signal.SIGSTOP)
    replay.reach(then_ms)
    one.send_signal(signal.SIGCONT)
    replay.reach(last_ms)
    assert [worker.poll() for worker in (one, two)] == [None, None]
    same(replay, undisturbed)


@pytest.mark.parametrize(("running", "early"), [(False, False), (True, False), (True, True)], ids=["workers-stopped", "workers-running", "to-the-beginning"])
def test_an_older_redis_ends_in_the_same_state(
    world: World, broker: str, tmp_path: Path, ticks: list[Tick], undisturbed: tuple[Left, Cursors], draw: random.Random, running: bool, early: bool
) -> None:
    """Redis is put back to a snapshot while Kafka's offsets are ahead: the rest is worked again from the cursors, to the same bits."""
    save_ms, back_ms = moments(draw, ticks, 2)
    with (
        EmbeddedValkey(tmp_path / "redis") as valkey,
        Replay(world, broker, valkey.url, tmp_path, partitions=PARTITIONS, session_timeout_s=SESSION_S) as replay,
    ):
        replay.prepare()
        last_ms = replay.publish(ticks)
        if not early:
            worker = replay.start_worker()
            replay.reach(save_ms)
        with connected(valkey.url) as store:
            store.save()
        shutil.copy(tmp_path / "redis" / "dump.rdb", tmp_path / "older.rdb")
        if early:
            worker = replay.start_worker()
        replay.reach(back_ms if running else last_ms)
        if not running:
            time.sleep(1.5)  # until Kafka was told the offsets
            replay.stop(worker)
        valkey.kill()
        shutil.copy(tmp_path / "older.rdb", tmp_path / "redis" / "dump.rdb")
        valkey.start()
        if not running:
            assert save_ms <= replay.cursors().learners[0]["stamp_ms"] < last_ms
            worker = replay.start_worker()
        replay.reach(last_ms)
        assert worker.poll() is None
        same(replay, undisturbed)


def test_the_comparison_sees_a_cursor_that_is_one_off(undisturbed: tuple[Left, Cursors]) -> None:
    """One offset, one outcome number or one total that differs is told."""
    other = dataclasses.replace(undisturbed[1], partitions={p: {**c, "numbers": [c["numbers"][0] + 1]} for p, c in undisturbed[1].partitions.items()})
    assert len(differences(undisturbed[1], other)) == 1
