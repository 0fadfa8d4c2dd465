"""A real Apache Kafka for tests: one node, KRaft, from a distribution's folder. It dies with the tests, as the embedded servers do."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from features.errors import DependencyDown
from streams.embedded import HOST, EmbeddedServer, free_port
from streams.topics import cluster_id

CLUSTER_ID = "aGVhZHN0YXJ0LXRlc3QtMQ"  # any 16 bytes in base64


class KafkaServer(EmbeddedServer):
    """One node, broker and controller; its log is kept in `folder`, so that `kill` and `start` lose nothing. Topics are not made by themselves."""

    name = "Kafka"
    environment: Mapping[str, str] = {"KAFKA_HEAP_OPTS": "-Xms256m -Xmx512m"}

    def __init__(self, home: Path, folder: Path) -> None:
        super().__init__(folder)
        self.home = home
        self.environment = {**self.environment, "LOG_DIR": str(folder)}
        self._controller = free_port()

    def command(self) -> list[str]:
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{self._controller}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self.folder / "log"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "3",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
        }
        file = self.folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        script = self.home / "bin" / "kafka-storage.sh"
        done = subprocess.run(
            [script, "format", "--cluster-id", CLUSTER_ID, "--ignore-formatted", "--config", file],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DependencyDown(f"{script} failed: {(done.stderr or done.stdout).strip()[-300:]}")
        return [str(self.home / "bin" / "kafka-server-start.sh"), str(file)]

    def answers(self, timeout_s: float) -> bool:
        return cluster_id(self.address, timeout_s=max(timeout_s, 5.0)) == CLUSTER_ID
