"""A real Apache Kafka for tests: one node, KRaft, from a distribution's folder. It dies with the tests, as the embedded servers do.

`SecureKafka` is one that lets nobody in without a name: passwords over TLS on one listener, clients' certificates on another, and
nothing is allowed that an access list does not allow.
"""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.errors import DependencyDown
from streams.embedded import HOST, EmbeddedServer, free_port
from streams.topics import cluster_id
from tests.certificates import Certificates

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

    format_arguments: tuple[str, ...] = ()

    def properties(self) -> dict[str, str]:
        """What differs from an open broker."""
        return {}

    def client_config(self) -> dict[str, Any]:
        """What an administrator's client needs to get in."""
        return {}

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
            **self.properties(),
        }
        file = self.folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        script = self.home / "bin" / "kafka-storage.sh"
        done = subprocess.run(
            [script, "format", "--cluster-id", CLUSTER_ID, "--ignore-formatted", "--config", file, *self.format_arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DependencyDown(f"{script} failed: {(done.stderr or done.stdout).strip()[-300:]}")
        return [str(self.home / "bin" / "kafka-server-start.sh"), str(file)]

    def answers(self, timeout_s: float) -> bool:
        return cluster_id(self.address, client_config=self.client_config(), timeout_s=max(timeout_s, 5.0)) == CLUSTER_ID


class SecureKafka(KafkaServer):
    """SASL (SCRAM-SHA-512, PLAIN) over TLS at `address`, TLS with clients' certificates at `certificates_address`; `users` are names with passwords.

    "admin" may do everything, nobody else anything until an access list says so. A certificate's user is its whole subject (`subject`).
    """

    name = "SecureKafka"

    def __init__(self, home: Path, folder: Path, certificates: Certificates, users: Mapping[str, str]) -> None:
        super().__init__(home, folder)
        self.certificates, self.users = certificates, users
        self._second_port = free_port()
        self.format_arguments = tuple(word for name, password in users.items() for word in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"))

    @property
    def certificates_address(self) -> str:
        """HOST:PORT where clients show certificates."""
        return f"{HOST}:{self._second_port}"

    def properties(self) -> dict[str, str]:
        certificate, key = self.certificates.server()
        store = self.folder / "server-and-key.pem"
        store.write_bytes(key.read_bytes() + certificate.read_bytes())
        admin = f'required username="admin" password="{self.users["admin"]}"'
        known = " ".join(f'user_{name}="{password}"' for name, password in self.users.items())
        controller = f"CONTROLLER://{HOST}:{self._controller}"
        return {
            "listeners": f"SASL_SSL://{HOST}:{self.port},SSL://{HOST}:{self._second_port},{controller}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"org.apache.kafka.common.security.scram.ScramLoginModule {admin};",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f"org.apache.kafka.common.security.plain.PlainLoginModule {admin} {known};",
            "listener.name.ssl.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.certificates.authority),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:admin;User:ANONYMOUS",  # ANONYMOUS is the controller's listener; the others let nobody in without a name
        }

    def client_config(self) -> dict[str, Any]:
        context = ssl.create_default_context(cafile=str(self.certificates.authority))
        return {
            "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_username": "admin",
            "sasl_plain_password": self.users["admin"], "ssl_context": context,
        }  # fmt: skip
