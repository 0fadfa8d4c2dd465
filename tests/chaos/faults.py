"""The faults, each with its repair: when a function returns, everything is as it should be again, and the system must find its way."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Final

from kafka import KafkaAdminClient, TopicPartition

from tests.chaos.proxy import Mode
from tests.chaos.seat import Seat
from tests.chaos.stage import SESSION_S, WORKERS, Stage
from tests.integration.harness import connected

Fault = Callable[[Stage, random.Random], None]


def worker_killed(stage: Stage, draw: random.Random) -> None:
    """SIGKILL; the supervisor starts another one after a second."""
    _kill(draw.choice(stage.running()))


def learner_killed(stage: Stage, draw: random.Random) -> None:
    """SIGKILL of a worker that learns."""
    _kill(stage.of_learner(draw))


def _kill(seat: Seat) -> None:
    process = seat.process
    assert process is not None
    process.kill()
    process.wait()


def worker_frozen(stage: Stage, draw: random.Random) -> None:
    """A zombie: SIGSTOP until others have its partitions, then SIGCONT, with what it held."""
    _freeze(draw.choice(stage.running()), draw)


def learner_frozen(stage: Stage, draw: random.Random) -> None:
    """The same with one that learns."""
    _freeze(stage.of_learner(draw), draw)


def _freeze(seat: Seat, draw: random.Random) -> None:
    process = seat.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    time.sleep(draw.uniform(1.5, 2.5) * SESSION_S)
    process.send_signal(signal.SIGCONT)


def rolling_restart(stage: Stage, draw: random.Random) -> None:
    """Each worker in turn: SIGTERM, and a new one."""
    for seat in draw.sample(stage.running(), len(stage.running())):
        before = len(seat.ends)
        stage.stop(seat)
        stage.wait(lambda seat=seat, before=before: len(seat.ends) > before and bool(seat.works()[0]), "it has partitions again", 90.0)  # type: ignore[misc]
        assert seat.ends[-1] == 0, f"a worker that was asked to stop ended with {seat.ends[-1]}; {stage.say(200)}"
        time.sleep(draw.uniform(0, 2))


def scaled(stage: Stage, draw: random.Random) -> None:
    """One worker, then four, then two, then as many as before."""
    for number in (1, 4, 2, WORKERS):
        stage.staff(number)
        stage.ready()
        time.sleep(draw.uniform(0, 3))


def broker_killed(stage: Stage, draw: random.Random) -> None:
    """SIGKILL of a broker, and its restart; of three, two go on."""
    node = draw.choice(list(stage.kafka.nodes.values()))
    node.kill()
    time.sleep(draw.uniform(2, 6))
    node.start()


def leader_killed(stage: Stage, draw: random.Random) -> None:
    """SIGKILL of the broker that leads most partitions of the orders."""
    admin = KafkaAdminClient(bootstrap_servers=stage.kafka.address.split(","), bootstrap_timeout_ms=15_000)
    try:
        (topic,) = admin.describe_topics([stage.topics["order"]])
    finally:
        admin.close()
    leaders = [partition["leader_id"] for partition in topic["partitions"]]
    node = stage.kafka.nodes[max(set(leaders), key=leaders.count)]
    node.kill()
    time.sleep(draw.uniform(8, 14))
    node.start()


def broker_paused(stage: Stage, draw: random.Random) -> None:
    """SIGSTOP of a broker for longer than the session of the workers, and of the broker in its cluster."""
    node = draw.choice(list(stage.kafka.nodes.values()))
    node.pause()
    time.sleep(draw.uniform(10, 14))
    node.resume()


def redis_killed(stage: Stage, draw: random.Random) -> None:
    """SIGKILL of Redis, and its restart with its append-only file."""
    stage.redis.kill()
    time.sleep(draw.uniform(0.5, 4))
    stage.redis.start()


def redis_paused(stage: Stage, draw: random.Random) -> None:
    """SIGSTOP for half a minute: longer than the workers wait for it."""
    stage.redis.pause()
    time.sleep(30)
    stage.redis.resume()


def redis_failed_over(stage: Stage, draw: random.Random) -> None:
    """The leader is killed under load and its replica leads; later there is a replica again."""
    assert stage.standby is not None
    old, new = stage.redis, stage.standby
    old.kill()
    time.sleep(draw.uniform(0.5, 3))
    new.lead()
    stage.redis, stage.standby = new, old
    for seat in stage.seats:
        seat.wire.move(new.port)
    old.start()
    old.follow(new)


def redis_flushed(stage: Stage, draw: random.Random) -> None:
    """FLUSHALL under running workers."""
    with connected(stage.redis.url) as client:
        client.flushall()


def redis_put_back(stage: Stage, draw: random.Random) -> None:
    """Redis is put back to what it was some seconds ago, under running workers and with Kafka ahead."""
    stage.redis.keep_copy(stage.folder / "older")
    time.sleep(draw.uniform(4, 10))
    stage.redis.kill()
    stage.redis.put_back(stage.folder / "older")
    stage.redis.start()


def redis_full(stage: Stage, draw: random.Random) -> None:
    """Redis has no memory left and evicts nothing: every write is refused."""
    with connected(stage.redis.url) as client:
        client.config_set("maxmemory", max(1, client.info("memory")["used_memory"] - 1_000_000))
        time.sleep(draw.uniform(8, 26))
        client.config_set("maxmemory", 0)


def group_deleted(stage: Stage, draw: random.Random) -> None:
    """All workers stop, somebody deletes the consumer group, and they start again."""
    stage.staff(0)
    admin = KafkaAdminClient(bootstrap_servers=stage.kafka.address.split(","), bootstrap_timeout_ms=15_000)
    try:
        # Workers that ended without leaving are members until their session is over.
        group = f"headstart-{stage.settings.namespace}"
        stage.wait(lambda: admin.delete_groups([group]) == {group: "OK"}, "the group is deleted", 3 * SESSION_S)
    finally:
        admin.close()
    stage.staff(WORKERS)
    stage.ready()


def _mode(draw: random.Random) -> Mode:
    return "refuse" if draw.random() < 0.5 else "silence"


def broker_cut_off_from_one(stage: Stage, draw: random.Random) -> None:
    """The network between one worker and all brokers is cut, for longer than a session."""
    _cut_broker(stage, draw, [draw.choice(stage.running()).pid])


def broker_cut_off_from_all(stage: Stage, draw: random.Random) -> None:
    """The network between all workers and all brokers is cut."""
    _cut_broker(stage, draw, [])


def _cut_broker(stage: Stage, draw: random.Random, processes: list[int]) -> None:
    mode = _mode(draw)
    for entrance in stage.entrances:
        entrance.cut(mode, processes)
    time.sleep(draw.uniform(1.5, 3) * SESSION_S)
    for entrance in stage.entrances:
        entrance.heal()


def redis_cut_off_from_one(stage: Stage, draw: random.Random) -> None:
    """The network between one worker and Redis is cut, for a while or for longer than it waits."""
    wire = draw.choice(stage.running()).wire
    wire.cut(_mode(draw))
    time.sleep(draw.uniform(5, 28))
    wire.heal()


def clock_jumped(stage: Stage, draw: random.Random) -> None:
    """The wall clock of one worker's machine jumps by an hour, ahead or back, and is set right later."""
    seat = draw.choice(stage.running())
    seat.clock.write_text(str(draw.choice((-3600, 3600))))
    time.sleep(draw.uniform(6, 12))
    seat.clock.write_text("0")


def out_of_order_and_twice(stage: Stage, draw: random.Random) -> None:
    """A burst of events of the last seconds in any order, and of events that were published already."""
    for _ in range(4):
        stage.traffic.disorder(300)
        stage.traffic.twice(100)
        time.sleep(draw.uniform(0.2, 1))


def poisoned(stage: Stage, draw: random.Random) -> None:
    """A burst of records that cannot be used, in every way that there is."""
    for _ in range(3):
        stage.traffic.poison(200)
        time.sleep(draw.uniform(0.2, 1))


def outcomes_lost_by_broker(stage: Stage, draw: random.Random) -> None:
    """The broker forgets outcomes that it had confirmed and that nobody has learned: the records are deleted while the learners stand still."""
    learning = {seat.number: seat for seat in stage.running() if seat.works()[1]}
    for seat in learning.values():
        assert seat.process is not None
        seat.process.send_signal(signal.SIGSTOP)
    time.sleep(draw.uniform(2, 4))
    admin = KafkaAdminClient(bootstrap_servers=stage.kafka.address.split(","), bootstrap_timeout_ms=15_000)
    try:
        admin.delete_records({TopicPartition(stage.topics["outcomes"], q): -1 for q in range(stage.settings.outcome_partitions)})
    finally:
        admin.close()
        for seat in learning.values():
            assert seat.process is not None
            seat.process.send_signal(signal.SIGCONT)


ONE_BROKER: Final[tuple[Fault, ...]] = (
    worker_killed, learner_killed, worker_frozen, learner_frozen, rolling_restart, scaled, broker_killed, broker_paused, redis_killed, redis_paused,
    redis_flushed, redis_put_back, redis_full, group_deleted, broker_cut_off_from_one, broker_cut_off_from_all, redis_cut_off_from_one, clock_jumped,
    out_of_order_and_twice, poisoned,
)  # fmt: skip
THREE_BROKERS: Final[tuple[Fault, ...]] = (broker_killed, leader_killed, broker_paused, redis_failed_over, worker_killed, broker_cut_off_from_one)
