"""Topics, ids and publishing against a broker that answers: the embedded one, and a real Apache Kafka where there is one."""

from __future__ import annotations

import gc
import io
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kafka import KafkaConsumer, TopicPartition

from features.errors import DependencyDown, InputError, Mismatch
from features.events import KINDS, Event, decode
from features.hashing import partition_for
from features.log import SCHEMA, in_order
from streams import cli, publisher
from streams.embedded import EmbeddedBroker
from streams.publisher import publish_events
from streams.topics import (
    NAMES,
    broker_names,
    check_topics,
    cluster_id,
    create_topics,
    delete_topics,
    group_members,
    inspect_topics,
    partition_counts,
    topic_ids,
)
from tests.integration.harness import fresh_name

PARTITIONS = 4


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.java)])
def kafka(request: pytest.FixtureRequest) -> str:
    """HOST:PORT of each kind of broker."""
    name = "embedded_broker" if request.param == "embedded" else "real_kafka"
    return str(request.getfixturevalue(name).address)


def make(broker: str, prefix: str) -> list[str]:
    """The topics with a small number of partitions."""
    return create_topics(broker, prefix=prefix, partitions=PARTITIONS, outcome_partitions=2)


def some_events(number: int) -> Iterator[tuple[str, Event]]:
    """Events of 40 users, of all kinds, in order of time."""
    for i in range(number):
        yield KINDS[i % 4], Event(event_id=f"e{i:06}", user_id=f"user-{i % 40}", product_id="p", line="shoes", ts=1_700_000_000_000 + i)


def read(broker: str, topic: str, number: int) -> list[tuple[int, bytes | None, bytes]]:
    """The first `number` records of a topic, as (partition, key, value), each partition in its order."""
    consumer = KafkaConsumer(bootstrap_servers=broker, auto_offset_reset="earliest", fetch_max_wait_ms=50)
    try:
        consumer.assign([TopicPartition(topic, p) for p in range(PARTITIONS)])
        records: list[tuple[int, bytes | None, bytes]] = []
        for _ in range(200):
            for polled in consumer.poll(timeout_ms=100).values():
                records += [(record.partition, record.key, record.value) for record in polled]
            if len(records) >= number:
                break
        return records
    finally:
        consumer.close()


def test_created_topics_pass_the_check(kafka: str, topic_prefix: str) -> None:
    """What `create_topics` makes is what `check_topics` wants, and a second call changes nothing."""
    assert all(line.startswith("created ") for line in make(kafka, topic_prefix))
    assert inspect_topics(kafka, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=2) == ([], [])
    ids = topic_ids(kafka, broker_names(topic_prefix).values())
    assert all(line.startswith("already there: ") for line in make(kafka, topic_prefix))
    assert topic_ids(kafka, broker_names(topic_prefix).values()) == ids


def test_differences_are_named(kafka: str, topic_prefix: str) -> None:
    """Missing topics and other numbers of partitions are told, each in one line with the topic's name."""
    assert check_topics(kafka, prefix=topic_prefix, partitions=PARTITIONS, outcome_partitions=2) == [f"{topic_prefix}{name}: missing" for name in NAMES]
    make(kafka, topic_prefix)
    differ = check_topics(kafka, prefix=topic_prefix, partitions=12, outcome_partitions=2, replication=3)
    assert f"{topic_prefix}order: {PARTITIONS} partitions, expected 12" in differ
    assert f"{topic_prefix}heads: replication 1, expected at least 3" in differ
    assert not any(line.startswith(f"{topic_prefix}outcomes: 2 partitions") for line in differ)


def test_a_topic_made_anew_has_another_id(kafka: str, topic_prefix: str) -> None:
    """Deleting says what was there; a topic of the same name made later is told apart by its id, and the cluster's id stays."""
    make(kafka, topic_prefix)
    topic, cluster = f"{topic_prefix}heads", cluster_id(kafka)
    before = topic_ids(kafka, [topic])
    assert delete_topics(kafka, [topic, f"{topic_prefix}never"]) == [topic]
    assert partition_counts(kafka, [topic, f"{topic_prefix}order"]) == {f"{topic_prefix}order": PARTITIONS}
    make(kafka, topic_prefix)
    assert topic_ids(kafka, [topic]).keys() == {topic}
    assert topic_ids(kafka, [topic]) != before
    assert cluster_id(kafka) == cluster


@pytest.mark.java
def test_more_replicas_than_brokers_is_the_users_to_mend(request: pytest.FixtureRequest, topic_prefix: str) -> None:
    """The refusal names both numbers. (The embedded broker promises any replication.)"""
    real = request.getfixturevalue("real_kafka").address
    with pytest.raises(InputError, match=r"replication is 3, and the cluster has 1 broker"):
        create_topics(real, prefix=topic_prefix, partitions=1, outcome_partitions=1, replication=3)


def test_published_events_arrive_once_in_order_on_their_partition(kafka: str, topic_prefix: str) -> None:
    """Every event is on its topic once, on murmur2(user_id)'s partition, each user's in the order given, though few may wait at a time."""
    make(kafka, topic_prefix)
    topics = broker_names(topic_prefix)
    told: list[int] = []
    counts = publish_events(kafka, some_events(4_100), topics, progress=told.append)
    assert counts == {"browse": 1_025, "click": 1_025, "cart": 1_025, "order": 1_025}
    assert told == [1_000, 2_000, 3_000, 4_000, 4_100]
    for kind in KINDS:
        records = read(kafka, topics[kind], counts[kind])
        events = [decode(value, KINDS.index(kind))[0] for _, _, value in records]
        assert all(partition == partition_for(key or b"", PARTITIONS) for partition, key, _ in records)
        assert [key for _, key, _ in records] == [event.user_id.encode() for event in events]
        assert sorted(event.event_id for event in events) == [event.event_id for found, event in some_events(4_100) if found == kind]
        for user in {event.user_id for event in events}:
            mine = [event.event_id for event in events if event.user_id == user]
            assert mine == sorted(mine)


def test_the_memory_of_what_waits_is_bounded(broker: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher takes no more events from its source while too many are not on the broker yet."""
    make(broker, topic_prefix)
    monkeypatch.setattr(publisher, "IN_FLIGHT", 100)
    assert sum(publish_events(broker, some_events(1_000), broker_names(topic_prefix)).values()) == 1_000


def test_publishing_needs_the_topics(broker: str, topic_prefix: str) -> None:
    """Nothing is sent when an event topic is missing, or when the four differ in their partitions."""
    with pytest.raises(Mismatch, match=rf"has no topic {topic_prefix}browse, .*headstart topics create"):
        publish_events(broker, some_events(1), broker_names(topic_prefix))
    make(broker, topic_prefix)
    mixed = broker_names(topic_prefix) | {"order": f"{topic_prefix}outcomes"}
    with pytest.raises(Mismatch, match="same number of partitions"):
        publish_events(broker, some_events(1), mixed)


@pytest.fixture
def sockets_freed(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """kafka-python leaves the sockets of refused connections to the garbage collector: free them with this test, not in a later one.

    Its log records hold them too, by way of exceptions.
    """
    with caplog.at_level(logging.CRITICAL, logger="kafka"):
        yield
    gc.collect()


@pytest.mark.usefixtures("sockets_freed")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_that_dies_is_reported() -> None:
    """Events that the broker did not confirm in time are an error, never a count."""
    with EmbeddedBroker() as dying:
        make(dying.address, "")

        def source() -> Iterator[tuple[str, Event]]:
            for i, event in enumerate(some_events(2_000)):
                if i == 1_000:
                    dying.kill()
                yield event

        with pytest.raises(DependencyDown, match=r"has \d+ of 2000 records for certain"):
            publish_events(dying.address, source(), broker_names(), delivery_timeout_s=2.0)


@pytest.mark.usefixtures("sockets_freed")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_source_that_goes_on_is_not_read_on_past_what_is_lost() -> None:
    """A pipe that does not end: the publisher ends when a record was not delivered in time, not when there are thousands more."""
    with EmbeddedBroker() as dying:
        make(dying.address, "")
        read = 0

        def source() -> Iterator[tuple[str, Event]]:
            nonlocal read
            for read, event in enumerate(some_events(15_000)):
                if read == 100:
                    dying.kill()
                if read > 100:
                    time.sleep(0.01)
                yield event

        with pytest.raises(DependencyDown, match=r"records for certain"):
            publish_events(dying.address, source(), broker_names(), delivery_timeout_s=2.0)
    assert read < 5_000


def test_nobody_there_is_one_line() -> None:
    """A refused connection is DependencyDown with the address, at once."""
    with pytest.raises(DependencyDown, match=r"no Kafka broker answers at 127\.0\.0\.1:1: Connection refused"):
        publish_events("127.0.0.1:1", some_events(1), broker_names())


def headstart(*arguments: str) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


def lines(number: int) -> list[bytes]:
    """JSON lines, each with its kind."""
    return [msgspec.json.encode({"kind": kind} | msgspec.to_builtins(event)) for kind, event in some_events(number)]


def test_publish_sends_the_good_lines_and_ends_with_1(
    broker: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad lines are named by number and left out; the others are sent, from a file and from standard input."""
    make(broker, topic_prefix)
    content = b"\n".join([*lines(8), b"{broken", *lines(4)]) + b"\n"
    file = tmp_path / "events.jsonl"
    file.write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    options = ("--broker", broker, "--set", f"topic_prefix={topic_prefix}")
    for source in (str(file), "-"):
        assert headstart("publish", source, *options) == 1
        captured = capsys.readouterr()
        assert "published 12 events: 3 browse, 3 click, 3 cart, 3 order" in captured.out
        assert "line 9: not_json" in captured.err
        assert "1 lines were refused" in captured.err
    assert len(read(broker, f"{topic_prefix}cart", 6)) == 6


def test_publish_raw_sends_broken_lines_too(broker: str, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --raw the bytes go out as they are, to be refused by the workers."""
    make(broker, topic_prefix)
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"{broken\n\xff\xfe\n")
    assert headstart("publish", str(file), "--raw", "--broker", broker, "--set", f"topic_prefix={topic_prefix}") == 0
    assert {value for _, _, value in read(broker, f"{topic_prefix}browse", 2)} == {b"{broken", b"\xff\xfe"}


def test_publish_takes_parquet(broker: str, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log in our own schema is published whole."""
    make(broker, topic_prefix)
    rows = [{name: value for name, value in msgspec.structs.asdict(event).items() if name in SCHEMA.names} | {"kind": kind} for kind, event in some_events(20)]
    file = tmp_path / "log.parquet"
    pq.write_table(in_order(pa.Table.from_pylist(rows)), file)
    assert headstart("publish", str(file), "--broker", broker, "--set", f"topic_prefix={topic_prefix}") == 0
    assert "published 20 events" in capsys.readouterr().out


def test_topics_create_and_check(kafka: str, topic_prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`topics check` ends with 1 and the list before `topics create`, and with 0 after it."""
    options = ("--broker", kafka, "--partitions", "4", "--set", f"topic_prefix={topic_prefix}")
    assert headstart("topics", "check", *options) == 1
    captured = capsys.readouterr()
    assert f"{topic_prefix}browse: missing" in captured.out
    assert "9 differences" in captured.err
    assert headstart("topics", "create", *options) == 0
    assert f"created {topic_prefix}browse (4 partitions)" in capsys.readouterr().out
    assert headstart("topics", "check", *options) == 0
    assert headstart("topics", "check", *options, "--outcome-partitions", "7") == 1


def test_members_of_a_group_are_counted(kafka: str) -> None:
    """A group has as many members as consumers have joined it, and none when they have left; one that is not there has none."""
    group = fresh_name()
    assert group_members(kafka, group) == 0
    make(kafka, f"{group}.")
    consumer = KafkaConsumer(f"{group}.browse", bootstrap_servers=kafka, group_id=group)
    try:
        for _ in range(100):
            consumer.poll(timeout_ms=100)
            if consumer.assignment():
                break
        assert group_members(kafka, group) == 1
    finally:
        consumer.close()
    assert group_members(kafka, group) == 0
