"""The batched transport in real workers, each a process, on the embedded broker and on a real Apache Kafka where there is one."""

from __future__ import annotations

import re
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from streams.embedded import EmbeddedBroker
from streams.topics import create_topics
from tests.integration.transport_worker import KINDS, PARTITIONS, Worker, publish, until
from tests.kafka_server import KafkaServer


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.java)])
def kafka(request: pytest.FixtureRequest) -> str:
    """HOST:PORT of each kind of broker."""
    return str(request.getfixturevalue("embedded_broker" if request.param == "embedded" else "real_kafka").address)


@pytest.fixture
def topics(kafka: str, topic_prefix: str) -> list[str]:
    """The four input topics, made for this test."""
    create_topics(kafka, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
    return [topic_prefix + kind for kind in KINDS]


def test_batches_come_in_order_without_holes(kafka: str, topic_prefix: str, topics: list[str], tmp_path: Path) -> None:
    """Every record of every partition arrives once, in order, each time fewer than two polls bring, while more is being written."""
    publish(kafka, topics, range(200))
    with Worker(kafka, topic_prefix, tmp_path / "cursors", max_poll_records=50) as worker:
        worker.wait_for("ready")
        publish(kafka, topics, range(200, 300))
        worker.wait(lambda _: worker.count() >= 300 * 12)
        assert worker.rows() == {(topic, p): [(i, str(i)) for i in range(300)] for topic in topics for p in range(PARTITIONS)}
        assert all(batch["next"] - batch["first"] == len(batch["rows"]) < 100 for batch in worker.batches())
        assert {batch["of"] for batch in worker.batches()} == {"DefaultRecord"}, "aiokafka has copied each into a ConsumerRecord"
        assert not [line for line in worker.said if line["what"] == "stale"]


def test_a_restart_reads_from_the_cursors_and_not_from_kafkas_offsets(kafka: str, topic_prefix: str, topics: list[str], tmp_path: Path) -> None:
    """With Kafka's committed offsets at the end and the cursors elsewhere, or absent, reading starts at the cursors, or at the beginning."""
    publish(kafka, topics, range(20))
    with Worker(kafka, topic_prefix, tmp_path / "cursors") as worker:
        worker.wait(lambda _: worker.count() == 20 * 12)
        assert worker.stop() == 0
    committed = KafkaConsumer(bootstrap_servers=kafka, group_id=topic_prefix + "group", enable_auto_commit=False)
    assert {committed.committed(TopicPartition(topic, p)) for topic in topics for p in range(PARTITIONS)} == {20}
    committed.close()

    older = tmp_path / "older"
    older.mkdir()
    wanted = {(topic, p): 3 * p + 5 for topic in topics for p in range(1, PARTITIONS)}
    for (topic, p), offset in wanted.items():
        (older / f"{topic}.{p}").write_text(str(offset))
    with Worker(kafka, topic_prefix, older) as worker:
        worker.wait(lambda _: worker.count() >= 4 * (20 + 12 + 9))
        assert worker.rows() == {(t, p): [(i, str(i)) for i in range(wanted.get((t, p), 0), 20)] for t in topics for p in range(PARTITIONS)}


def test_a_seek_back_reads_again_exactly(kafka: str, topic_prefix: str, topics: list[str], tmp_path: Path) -> None:
    """After a seek back in mid-stream the next batch of that partition starts there, and nothing drained before the seek comes after it; others go on."""
    publish(kafka, topics, range(400))
    with Worker(kafka, topic_prefix, tmp_path / "cursors", max_poll_records=20, work_s=0.004) as worker:
        worker.wait(lambda _: worker.rows()[topics[0], 1][-1:] >= [(100, "")])
        for offset in (17, 0, 51):
            assert worker.order("seek", "sought", to=[[topics[0], 1, offset]])["to"] == [[topics[0], 1, offset]]
            since = max(i for i, line in enumerate(worker.said) if line["what"] == "sought")
            worker.wait(lambda _, since=since: len(worker.rows(since)[topics[0], 1]) > 60)  # type: ignore[misc]
            again = worker.rows(since)[topics[0], 1]
            assert again == [(i, str(i)) for i in range(offset, offset + len(again))]
        worker.wait(lambda _: all(worker.rows()[t, p][-1:] == [(399, "399")] for t in topics for p in range(PARTITIONS)))
        others = {tp: rows for tp, rows in worker.rows().items() if tp != (topics[0], 1)}
        assert set(map(tuple, others.values())) == {tuple((i, str(i)) for i in range(400))}


@pytest.mark.java
def test_partitions_that_the_broker_did_not_know_of_are_soon_read(real_kafka: KafkaServer, topic_prefix: str, tmp_path: Path) -> None:
    """As one that has just started may not: a group that was given none of them gets them once they are there."""
    with Worker(real_kafka.address, topic_prefix, tmp_path / "cursors") as worker:
        worker.wait_for("ready")
        create_topics(real_kafka.address, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
        publish(real_kafka.address, worker.topics, range(10))
        worker.wait(lambda _: worker.count() == 10 * len(KINDS) * PARTITIONS)


def test_a_worker_that_had_nothing_reads_all_that_it_is_given(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """More workers than partitions: when the other stops, nothing that comes while the flow is about to go on is forgotten."""
    create_topics(kafka, prefix=topic_prefix, partitions=1, outcome_partitions=1)
    cursors, options = tmp_path / "cursors", {"rest_after_seek_s": 0.3, "work_s": 0.5}
    with Worker(kafka, topic_prefix, cursors, **options) as one:
        one.wait_for("assigned")
        with Worker(kafka, topic_prefix, cursors, **options) as other:
            until(lambda: sum(line["what"] == "assigned" for line in one.said + other.said) == 2)  # the other has joined
            busy, idle = (other, one) if any(line["what"] == "assigned" for line in other.said) else (one, other)
            publish(kafka, one.topics, range(10), partitions=1)
            busy.wait(lambda _: busy.count() == 40)
            for cursor in cursors.iterdir():
                cursor.unlink()  # so that there is something to read as soon as the idle one has sought
            assert busy.stop() == 0
            idle.wait(lambda _: idle.rows() == {(topic, 0): [(i, str(i)) for i in range(10)] for topic in one.topics})


def test_a_parked_partition_rests_and_goes_on_where_it_was(kafka: str, topic_prefix: str, topics: list[str], tmp_path: Path) -> None:
    """Paused partitions bring nothing while others go on; on resuming, what was written meanwhile comes, without loss."""
    parked = [(topic, 2) for topic in topics]
    with Worker(kafka, topic_prefix, tmp_path / "cursors") as worker:
        worker.wait_for("ready")
        publish(kafka, topics, range(10))
        worker.wait(lambda _: worker.count() == 120)
        worker.order("pause", "paused", tps=parked)
        publish(kafka, topics, range(10, 50))
        worker.wait(lambda _: worker.count() == 120 + 40 * 8)
        time.sleep(0.5)
        assert all(len(worker.rows()[tp]) == 10 for tp in parked)

        worker.order("resume", "resumed", tps=parked)
        worker.wait(lambda _: worker.count() == 600)
        assert all(worker.rows()[tp] == [(i, str(i)) for i in range(50)] for tp in parked)


def test_all_partitions_parked_does_not_stop_the_poll(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    """With every partition parked nothing comes, aiokafka's 'none means all' included; all come when resumed."""
    create_topics(broker, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
    topics = [topic_prefix + kind for kind in KINDS]
    everything = [(topic, p) for topic in topics for p in range(PARTITIONS)]
    with Worker(broker, topic_prefix, tmp_path / "cursors") as worker:
        worker.wait_for("ready")
        worker.order("pause", "paused", tps=everything)
        publish(broker, topics, range(5))
        time.sleep(0.5)
        assert worker.count() == 0
        worker.order("resume", "resumed", tps=everything)
        worker.wait(lambda _: worker.count() == 60)


def test_a_killed_workers_partitions_go_to_the_other_at_the_cursors(kafka: str, topic_prefix: str, topics: list[str], tmp_path: Path) -> None:
    """Two workers share whole partition numbers; when one is killed, the other goes on from the cursors, and each record is accounted for once."""
    cursors = tmp_path / "cursors"
    with Worker(kafka, topic_prefix, cursors) as one, Worker(kafka, topic_prefix, cursors) as two:
        one.wait_for("ready")
        two.wait_for("ready")

        def held(worker: Worker) -> list[Any]:
            return next((list(line["tps"]) for line in reversed(list(worker.said)) if line["what"] == "assigned"), [])

        until(lambda: sorted(map(len, (held(one), held(two)))) == [4, 8])
        for worker in (one, two):
            assert worker.order("ask", "told", tps=[])["split"] == []
        publish(kafka, topics, range(50))
        until(lambda: one.count() + two.count() >= 600)
        one.process.send_signal(signal.SIGKILL)
        publish(kafka, topics, range(50, 100))
        until(lambda: one.count() + two.count() >= 1200)
        assert len(held(two)) == 12
        first, second = one.rows(), two.rows()
        for tp in ((topic, p) for topic in topics for p in range(PARTITIONS)):
            assert first[tp] + second[tp] == [(i, str(i)) for i in range(100)] or second[tp] + first[tp] == [(i, str(i)) for i in range(100)]
        assert two.order("ask", "told", tps=[])["split"] == []
        assert two.stop() == 0

    admin = KafkaAdminClient(bootstrap_servers=kafka)
    assert not [name for name in admin.list_topics() if name.startswith(topic_prefix) and ("leader" in name or "changelog" in name or "reply" in name)]
    admin.close()


def test_records_deleted_below_the_cursor_are_reported(real_kafka: Any, topic_prefix: str, tmp_path: Path) -> None:
    """When the log starts above a cursor the loss is told with its bounds, and reading starts at the log's beginning."""
    kafka = real_kafka.address
    create_topics(kafka, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
    topic = topic_prefix + "browse"
    publish(kafka, [topic], range(20))
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.delete_records({TopicPartition(topic, 0): 12})
    admin.close()
    cursors = tmp_path / "cursors"
    cursors.mkdir()
    (cursors / f"{topic}.0").write_text("4")
    with Worker(kafka, topic_prefix, cursors) as worker:
        assert worker.wait_for("log_start_above") == {"what": "log_start_above", "tp": [topic, 0], "cursor": 4, "first": 12}
        worker.wait(lambda _: worker.count() == 8 + 20 + 20)
        assert worker.rows()[topic, 0] == [(i, str(i)) for i in range(12, 20)]


def test_records_deleted_while_they_wait_are_reported(real_kafka: Any, topic_prefix: str, tmp_path: Path) -> None:
    """A worker that lags behind what is deleted tells exactly what it has not read, and goes on at the log's beginning."""
    kafka = real_kafka.address
    create_topics(kafka, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
    topic = topic_prefix + "browse"
    publish(kafka, [topic], range(20))
    with Worker(kafka, topic_prefix, tmp_path / "cursors") as worker:
        worker.wait(lambda _: worker.count() == 20 * PARTITIONS)
        worker.process.send_signal(signal.SIGSTOP)
        publish(kafka, [topic], range(20, 60))
        admin = KafkaAdminClient(bootstrap_servers=kafka)
        admin.delete_records({TopicPartition(topic, 0): 50})
        admin.close()
        worker.process.send_signal(signal.SIGCONT)
        lost = worker.wait_for("records_gone")
        assert lost["tp"] == [topic, 0]
        assert lost["upto"] == 50
        worker.wait(lambda _: worker.count() == 60 * PARTITIONS - (lost["upto"] - lost["first"]))
        read = [offset for offset, _ in worker.rows()[topic, 0]]
        assert read == [*range(lost["first"]), *range(50, 60)]
        assert worker.stop() == 0


def test_a_cursor_beyond_the_log_ends_the_worker(kafka: str, topic_prefix: str, topics: list[str], tmp_path: Path) -> None:
    """A topic that was made anew under old cursors is refused with one line and a code, instead of being read from its beginning."""
    cursors = tmp_path / "cursors"
    cursors.mkdir()
    (cursors / f"{topics[0]}.1").write_text("7")
    with Worker(kafka, topic_prefix, cursors) as worker:
        assert worker.ended(40) == 70
        assert f"the log of {topics[0]}[1] ends at 0, below the cursor 7" in worker.errors
        assert "Traceback" not in worker.errors


def test_sigterm_finishes_the_batch_in_hand_and_leaves_the_group(kafka: str, topic_prefix: str, topics: list[str], tmp_path: Path) -> None:
    """On SIGTERM the batch in hand is finished and its offset told; the process ends with 0 within seconds, and the group is empty at once."""
    publish(kafka, topics[:1], range(10))
    with Worker(kafka, topic_prefix, tmp_path / "cursors", max_poll_records=1, work_s=0.7) as worker:
        worker.wait_for("batch")
        time.sleep(0.2)
        taken, started = worker.count(), time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - started < 5
        assert worker.count() == taken + 1
        assert worker.said[-1] == {"what": "stopped"}
        assert "Traceback" not in worker.errors
    with Worker(kafka, topic_prefix, tmp_path / "cursors") as heir:
        heir.wait_for("assigned", timeout_s=12)
        heir.wait(lambda _: heir.count() == 30 - taken - 1)


def test_a_worker_that_does_not_stop_says_where_it_stands_and_ends(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    """Whatever holds it up: after a limit it ends with 70, and its log names the task and the line."""
    create_topics(broker, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
    with Worker(broker, topic_prefix, tmp_path / "cursors", stop_timeout_s=3.0) as worker:
        worker.wait_for("ready")
        worker.order("never_stop", "never_stops")
        assert worker.stop() == 70
    assert "did not stop within 3 s of signal 15" in worker.errors
    assert re.search(r"task .*in on_stop\n.*hold_up\n\s+await asyncio.sleep\(3600\)", worker.errors, re.DOTALL)


def test_a_task_that_does_not_end_makes_no_failure_of_a_stop(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    """What has to be finished is finished then; the log names the task and the line."""
    create_topics(broker, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
    with Worker(broker, topic_prefix, tmp_path / "cursors") as worker:
        worker.wait_for("ready")
        worker.order("never_end", "never_ends")
        assert worker.stop() == 0
    assert re.search(r"left behind at the stop:\ntask stubborn\n.*never_ends\n\s+await asyncio.sleep\(3600\)", worker.errors, re.DOTALL)


def test_a_stop_does_not_wait_for_a_broker_that_is_silent(topic_prefix: str, tmp_path: Path) -> None:
    """It cannot tell the group that it leaves; after seconds it ends with 0 all the same, and says so."""
    with EmbeddedBroker() as silent:
        create_topics(silent.address, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
        with Worker(silent.address, topic_prefix, tmp_path / "cursors") as worker:
            publish(silent.address, worker.topics[:1], range(3))
            worker.wait(lambda _: worker.count() == 3 * PARTITIONS)
            silent.pause()
            try:
                assert worker.stop() == 0
            finally:
                silent.resume()
    assert "The group could not be left within 3 s" in worker.errors


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux' table of sockets")
def test_a_worker_listens_on_no_port(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    """No web server and no console: the process has no listening socket. Its prints arrive as they are."""
    create_topics(broker, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
    with Worker(broker, topic_prefix, tmp_path / "cursors") as worker:
        worker.wait_for("ready")
        mine = set()
        for entry in Path(f"/proc/{worker.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if found := re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink())):
                    mine.add(found[1])
        sockets = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        assert mine & {row[9] for row in sockets}
        assert not mine & {row[9] for row in sockets if row[3] == "0A"}


def test_delivery_is_confirmed_or_an_error(topic_prefix: str, tmp_path: Path) -> None:
    """`deliver` returns when the broker has the records; too large ones and a broker that does not answer are errors of the right kind."""
    with EmbeddedBroker() as server:
        create_topics(server.address, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
        topic = topic_prefix + "order"
        with Worker(server.address, topic_prefix, tmp_path / "cursors") as worker:
            worker.wait_for("ready")
            worker.order("deliver", "delivered", records=[[topic, "k", str(i), 1] for i in range(500)])
            worker.wait(lambda _: worker.count() == 500)
            assert worker.rows()[topic, 1] == [(i, str(i)) for i in range(500)]
            refused = worker.order("deliver", "refused", records=[[topic, "k", "x" * 1_100_000, 1]])
            assert (refused["error"], topic in refused["text"]) == ("InputError", True)
            refused = worker.order("deliver", "refused", records=[[topic, "k", "x", 99]])
            assert (refused["error"], refused["text"]) == ("InputError", f"topic {topic} has no partition 99")
            server.pause()
            refused = worker.order("deliver", "refused", records=[[topic, "k", "x", 1]], timeout_s=0.5)
            assert (refused["error"], refused["text"]) == ("DependencyDown", "the broker did not confirm all of 1 records within 0.5 s")
            server.resume()


def test_no_broker_is_one_line(topic_prefix: str, tmp_path: Path) -> None:
    """A worker without a broker raises DependencyDown, which names the address."""
    with Worker("127.0.0.1:1", topic_prefix, tmp_path / "cursors") as worker:
        assert worker.ended() == 1
        assert worker.errors.splitlines()[-1] == "features.errors.DependencyDown: no broker answers at 127.0.0.1:1"


@pytest.mark.slow
def test_a_broker_that_comes_back_is_read_on_from(real_kafka_of_its_own: KafkaServer, topic_prefix: str, tmp_path: Path) -> None:
    """While the only broker is dead for seconds the worker lives, logs a few lines, and reads on without loss when it is back."""
    kafka = real_kafka_of_its_own.address
    create_topics(kafka, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
    topics = [topic_prefix + kind for kind in KINDS]
    with Worker(kafka, topic_prefix, tmp_path / "cursors") as worker:
        publish(kafka, topics, range(20))
        worker.wait(lambda _: worker.count() == 240)
        real_kafka_of_its_own.kill()
        time.sleep(8)
        real_kafka_of_its_own.start()
        publish(kafka, topics, range(20, 40))
        until(lambda: all(offsets(worker)[topic, p] >= set(range(40)) for topic in topics for p in range(PARTITIONS)), 60)
        assert worker.stop() == 0
        assert "Traceback" not in worker.errors
        assert worker.errors.count("\n") < 40


def offsets(worker: Worker) -> defaultdict[tuple[str, int], set[int]]:
    """The offsets that it took, by topic and partition."""
    return defaultdict(set, {tp: {offset for offset, _ in rows} for tp, rows in worker.rows().items()})


@pytest.fixture
def real_kafka_of_its_own(real_kafka: KafkaServer, tmp_path: Path) -> Iterator[KafkaServer]:
    """A real Kafka that the test may kill."""
    with KafkaServer(real_kafka.home, tmp_path / "kafka") as server:
        yield server
