"""Servers that tests share: one of each for each pytest-xdist worker, started when a test first asks."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.net.inet import KafkaNetSocket

from streams.embedded import EmbeddedBroker, EmbeddedValkey
from tests.certificates import Certificates
from tests.kafka_server import KafkaServer
from tests.kafka_server import kafka_home as found_kafka


class LeftSocket(socket.socket):
    """Closes itself when nobody has it any more, and does not warn of that."""

    def __del__(self) -> None:
        if self.fileno() >= 0:
            self.close()


@pytest.fixture(scope="session", autouse=True)
def left_sockets() -> Iterator[None]:
    """kafka-python leaves the sockets of failed connections to the garbage collector: their warnings would fail whatever test runs when it comes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KafkaNetSocket, "socket", lambda _, *address: LeftSocket(*address))
        yield


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs the tests that need a real Kafka, and so starts one."""
    for item in items:
        if "kafka_home" in getattr(item, "fixturenames", ()):
            item.add_marker("java")
        if item.get_closest_marker("java") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("real_kafka"))


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """A Kafka-compatible broker for the whole session: use a `topic_prefix` of your own, and do not stop it."""
    with EmbeddedBroker() as server:
        yield server


@pytest.fixture(scope="session")
def embedded_valkey() -> Iterator[EmbeddedValkey]:
    """A Valkey for the whole session: do not stop it."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def broker(embedded_broker: EmbeddedBroker) -> str:
    """HOST:PORT of the session's embedded broker."""
    return embedded_broker.address


@pytest.fixture
def redis_url(embedded_valkey: EmbeddedValkey) -> str:
    """URL of the session's embedded Valkey, emptied."""
    with socket.create_connection(("127.0.0.1", embedded_valkey.port), 5.0) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(64) == b"+OK\r\n"
    return embedded_valkey.url


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority of our own."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """The folder of an Apache Kafka, from KAFKA_HOME or ../shared/kafka; the test is skipped if there is none."""
    home, missing = found_kafka()
    if missing:
        pytest.skip(missing)
    return home


@pytest.fixture(scope="session")
def real_kafka(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A real Apache Kafka (one node) for the whole session."""
    with KafkaServer(kafka_home, tmp_path_factory.mktemp("kafka")) as server:
        yield server
