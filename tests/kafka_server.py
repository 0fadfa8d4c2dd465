"""A real Apache Kafka for tests: nodes of a KRaft cluster, from a distribution's folder. They die with the tests, as the embedded servers do.

`SecureKafka` is one that lets nobody in without a name: passwords over TLS on one listener, clients' certificates on another, and
nothing is allowed that an access list does not allow.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from features.errors import DependencyDown
from streams.embedded import HOST, EmbeddedServer, free_port
from streams.topics import cluster_id
from tests.certificates import Certificates

CLUSTER_ID = "aGVhZHN0YXJ0LXRlc3QtMQ"  # any 16 bytes in base64


def kafka_home() -> tuple[Path, str]:
    """Return the folder of a distribution, from KAFKA_HOME or ../shared/kafka, and why it cannot be used ("": it can)."""
    home = Path(os.environ.get("KAFKA_HOME") or Path(__file__).parents[2] / "shared" / "kafka")
    script = home / "bin" / "kafka-server-start.sh"
    if not script.exists():
        return home, f"no Apache Kafka: {script} does not exist; set KAFKA_HOME to a distribution's folder"
    if shutil.which("java") is None:
        return home, "no Java: `java` is not on the PATH; Apache Kafka needs Java 17"
    return home, ""


LIGHT = {"KAFKA_JIT_LEVEL": "1", "KAFKA_JVM_PERFORMANCE_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"}
"""For a broker that has little to do and ends soon: half of the processor time. Not for one whose speed is measured."""


class KafkaServer(EmbeddedServer):
    """One node, broker and controller; its log is kept in `folder`, so that `kill` and `start` lose nothing. Topics are not made by themselves.

    `voters` are the controllers' ports by node, of a cluster; `light`: see `LIGHT`. Clients that come to `entrance_port` are told to come to `advertised_port`, say of a proxy.
    """

    name = "Kafka"
    environment: Mapping[str, str] = {"KAFKA_HEAP_OPTS": "-Xms256m -Xmx512m"}
    start_timeout_s = 90.0

    def __init__(
        self, home: Path, folder: Path, *, node: int = 1, voters: Mapping[int, int] | None = None, port: int | None = None, advertised_port: int | None = None,
        light: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(folder, port=port)
        self.home, self.node = home, node
        self.environment = {**self.environment, **(LIGHT if light else {}), "LOG_DIR": str(folder)}
        self._voters = dict(voters or {node: free_port()})
        self.entrance_port = free_port() if advertised_port else 0
        self._advertised_port = advertised_port

    format_arguments: tuple[str, ...] = ()

    def properties(self) -> dict[str, str]:
        """What differs from an open broker."""
        return {}

    def client_config(self) -> dict[str, Any]:
        """What an administrator's client needs to get in."""
        return {}

    def command(self) -> list[str]:
        replicas = min(3, len(self._voters))
        listeners = {"PLAINTEXT": self.port, "CONTROLLER": self._voters[self.node]} | ({"ENTRANCE": self.entrance_port} if self._advertised_port else {})
        advertised = {"PLAINTEXT": self.port} | ({"ENTRANCE": self._advertised_port} if self._advertised_port else {})
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(self.node),
            "controller.quorum.voters": ",".join(f"{node}@{HOST}:{port}" for node, port in self._voters.items()),
            "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in advertised.items()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in ("CONTROLLER", "PLAINTEXT", "ENTRANCE")),
            "log.dirs": str(self.folder / "log"),
            "default.replication.factor": str(replicas),
            "min.insync.replicas": str(max(1, replicas - 1)),
            "offsets.topic.replication.factor": str(replicas),
            "offsets.topic.num.partitions": "3",
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(max(1, replicas - 1)),
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
        controller = f"CONTROLLER://{HOST}:{self._voters[self.node]}"
        return {
            "listeners": f"SASL_SSL://{HOST}:{self.port},SSL://{HOST}:{self._second_port},{controller}",
            "advertised.listeners": f"SASL_SSL://{HOST}:{self.port},SSL://{HOST}:{self._second_port}",
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


class KafkaCluster:
    """One or more nodes; replication is 3 and two replicas must be in sync where there are three. `advertised_ports`: one for each node, of proxies."""

    def __init__(self, home: Path, folder: Path, *, nodes: int = 3, advertised_ports: Sequence[int] = (), light: bool = True) -> None:
        voters = {node: free_port() for node in range(1, nodes + 1)}
        self.nodes = {
            node: KafkaServer(
                home, folder / f"node-{node}", node=node, voters=voters, port=free_port(), advertised_port=advertised_ports[node - 1] if advertised_ports else None,
                light=light,
            )
            for node in voters
        }  # fmt: skip
        self._stack = ExitStack()

    @property
    def replication(self) -> int:
        """The replication factor that topics can have."""
        return min(3, len(self.nodes))

    @property
    def address(self) -> str:
        """HOST:PORT of all nodes."""
        return ",".join(node.address for node in self.nodes.values())

    def __enter__(self) -> Self:
        with ThreadPoolExecutor(len(self.nodes)) as pool:  # none answers before most of them run
            starting = {node: pool.submit(node.start) for node in self.nodes.values()}
        try:
            for node, started in starting.items():
                self._stack.callback(node.close)
                started.result()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
