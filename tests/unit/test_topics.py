"""Topic names, partitions and the check of a broker's answers, without a broker; and which lines `publish` takes."""

from __future__ import annotations

import random

import msgspec
import pytest
from aiokafka.partitioner import DefaultPartitioner as AiokafkaPartitioner
from kafka.partitioner import murmur2 as kafka_murmur2

from features.errors import InputError
from features.events import Event, encode
from features.hashing import murmur2, partition_for, partitions_for
from streams import settings
from streams.commands.publish import Lines
from streams.publisher import Outgoing
from streams.topics import DAY_MS, NAMES, TOPICS, _config_differences, broker_names, cluster_id, expected_partitions

SPECS = {spec.name: spec for spec in TOPICS}


def keys(number: int) -> list[bytes]:
    """Random keys of 0 to 40 bytes, the same each time."""
    rng = random.Random(7)
    return [rng.randbytes(rng.randrange(41)) for _ in range(number)]


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_javas(key: bytes, signed: int) -> None:
    """Our murmur2 gives the values of the Java client's own tests."""
    assert murmur2(key) == signed % 2**32


def test_clients_agree_on_the_partition() -> None:
    """kafka-python's and aiokafka's default partitioners put every key where `partition_for` says."""
    aiokafka = AiokafkaPartitioner()
    for key in keys(500):
        for partitions in (1, 12, 100):
            expected = partition_for(key, partitions)
            assert partitions_for([key], partitions).tolist() == [expected]
            assert (kafka_murmur2(key) & 0x7FFFFFFF) % partitions == expected
            assert aiokafka(key, list(range(partitions)), list(range(partitions))) == expected


def test_the_settings_know_the_same_topics() -> None:
    """A topic of the table can be mapped in the settings, and no other."""
    assert NAMES == settings.TOPICS


def test_prefix_and_mapping() -> None:
    """A prefix stands before every name but the mapped ones."""
    names = broker_names("replay-1.", {"browse": "shop.views"})
    assert names["browse"] == "shop.views"
    assert names["scores"] == "replay-1.scores"


@pytest.mark.parametrize(
    ("prefix", "names", "text"),
    [
        ("", {"clicks": "x"}, "no topic 'clicks'"),
        ("", {"browse": "a b"}, "'a b' is no Kafka topic name"),
        ("", {"browse": ".."}, "'..' is no Kafka topic name"),
        ("p" * 250, {}, "is no Kafka topic name"),
        ("", {"browse": "all", "click": "all"}, "both called 'all'"),
        ("", {"browse": "scores"}, "both called 'scores'"),
    ],
)
def test_unusable_names_are_refused(prefix: str, names: dict[str, str], text: str) -> None:
    """A name that Kafka refuses, an unknown topic, and two topics under one name are the user's to mend."""
    with pytest.raises(InputError, match=text):
        broker_names(prefix, names)


def test_what_is_keyed_by_user_has_the_partitions_of_the_events() -> None:
    """Scores lie beside their events; outcomes have a number of their own."""
    counts = {spec.name: expected_partitions(spec, partitions=12, outcome_partitions=3) for spec in TOPICS}
    assert {counts[name] for name in ("browse", "click", "cart", "order", "scores")} == {12}
    assert counts["outcomes"] == 3
    with pytest.raises(InputError, match="partitions is 0"):
        expected_partitions(SPECS["browse"], partitions=0, outcome_partitions=1)


@pytest.mark.parametrize(
    ("topic", "configs", "expected"),
    [
        ("browse", {"cleanup.policy": "delete", "retention.ms": str(30 * DAY_MS)}, []),
        ("browse", {"retention.ms": "-1"}, []),
        ("browse", {}, []),
        ("browse", {"retention.ms": str(7 * DAY_MS)}, ["retention.ms is 604800000 (7 days)"]),
        ("outcomes", {"cleanup.policy": "compact"}, ["cleanup.policy is compact, expected delete"]),
        ("outcomes", {"cleanup.policy": "compact,delete"}, ["cleanup.policy is compact,delete"]),
        ("rejected", {"max.message.bytes": "1048588"}, ["max.message.bytes is 1048588"]),
    ],
)
def test_what_a_topic_may_be(topic: str, configs: dict[str, str], expected: list[str]) -> None:
    """Shorter retention, compaction and a smaller limit than the table's are told; more, and silence, are not."""
    found = _config_differences(SPECS[topic], configs)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


@pytest.mark.parametrize("address", ["nonsense", "host:", ":9092", "host:99999", "host:http", "a:1,b"])
def test_a_broker_address_is_host_and_port(address: str) -> None:
    """A malformed address is refused before anything is tried."""
    with pytest.raises(InputError, match="is not HOST:PORT"):
        cluster_id(address)


def line(**changes: object) -> bytes:
    """A valid line for `publish`."""
    return msgspec.json.encode({"kind": "cart", "event_id": "e", "user_id": "u", "product_id": "p", "line": "l", "ts": 1} | changes)


def test_publish_leaves_out_and_names_what_is_no_event(capsys: pytest.CaptureFixture[str]) -> None:
    """Refused lines are reported by number, blank ones skipped, and the bytes of the others are sent as they came."""
    good = line(extra=[1])
    lines = Lines()
    sent = list(lines.outgoing([good + b"\n", b"\n", b"{", line(kind="view"), line(user_id=""), line(kind=None), line(price=-1), b"\xff\xfe"]))
    assert sent == [Outgoing("cart", b"u", good)]
    assert lines.refused == 6
    said = capsys.readouterr().err.splitlines()
    assert [text.split(":")[0] for text in said] == [f"line {number}" for number in (3, 4, 5, 6, 7, 8)]


def test_what_came_before_a_time_stays() -> None:
    """With a time to begin at, earlier events are not sent, and are not refused either."""
    lines = Lines(from_ms=5)
    assert list(lines.outgoing([line(ts=4), line(ts=5), b"{", line(ts=6)])) == [Outgoing("cart", b"u", line(ts=ts)) for ts in (5, 6)]
    assert lines.refused == 1


def test_raw_lines_are_sent_as_they_are() -> None:
    """With raw, broken lines go out too: to browse if they name no kind, without a key if they name no user."""
    sent = list(Lines(raw=True).outgoing([b"{", b'{"kind":"order","user_id":"u"}', b'{"kind":"view","user_id":7}']))
    assert sent == [
        Outgoing("browse", None, b"{"),
        Outgoing("order", b"u", b'{"kind":"order","user_id":"u"}'),
        Outgoing("browse", None, b'{"kind":"view","user_id":7}'),
    ]


def test_an_event_without_kind_in_it_is_not_guessed() -> None:
    """An event's own encoding has no kind; such a line is refused rather than sent to some topic."""
    lines = Lines()
    assert list(lines.outgoing([encode(Event(event_id="e", user_id="u", product_id="p", line="l", ts=1))])) == []
    assert lines.refused == 1
