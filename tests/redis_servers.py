"""Redis with what production has and the embedded one has not: TLS, and a cluster of several nodes."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.exceptions import RedisError

from streams.embedded import HOST, EmbeddedServer, EmbeddedValkey, free_port
from tests.certificates import Certificates

SLOTS = 16_384


class TlsRedis(EmbeddedServer):
    """A redis-server of the system that speaks TLS only, asks for a client's certificate, and lets in `users` (name → rules) alone."""

    name = "Redis"

    def __init__(self, folder: Path, certificates: Certificates, users: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.certificates, self.users = certificates, users

    @staticmethod
    def missing() -> str:
        """Why there is none here; "" if there is."""
        return "" if shutil.which("redis-server") else "no redis-server on the PATH: install Debian's package redis-server (the embedded Valkey has no TLS)"

    def command(self) -> list[str]:
        certificate, key = self.certificates.server()
        acl = self.folder / "users.acl"
        acl.write_text("user default off\n" + "".join(f"user {name} {rules}\n" for name, rules in self.users.items()))
        directives = {
            "port": "0", "tls-port": str(self.port), "bind": HOST, "dir": str(self.folder), "save": "", "logfile": "", "aclfile": str(acl),
            "tls-cert-file": str(certificate), "tls-key-file": str(key), "tls-ca-cert-file": str(self.certificates.authority), "tls-auth-clients": "yes",
        }  # fmt: skip
        return [shutil.which("redis-server") or "", *(word for name, value in directives.items() for word in (f"--{name}", value))]

    def answers(self, timeout_s: float) -> bool:
        socket.create_connection((HOST, self.port), timeout_s).close()
        return True

    @property
    def url(self) -> str:
        """The address."""
        return f"rediss://{self.address}"


class Cluster:
    """A Redis Cluster on this machine: three primaries, and a replica of the first. The nodes are embedded Valkeys; a context manager."""

    def __init__(self, folder: Path, *, timeout_ms: int = 1_000) -> None:
        def config(number: int) -> dict[str, str]:
            return {
                "cluster-enabled": "yes", "cluster-config-file": f"nodes-{number}.conf", "cluster-node-timeout": str(timeout_ms),
                "cluster-port": str(free_port()), "repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1",
            }  # fmt: skip

        self.nodes = [EmbeddedValkey(folder / str(number), config=config(number)) for number in range(4)]
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """The address of one node that is no replica and is not stopped by tests: the third."""
        return self.nodes[2].url

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _join(self) -> None:
        clients: list[Any] = [redis.Redis(host=HOST, port=node.port, decode_responses=True) for node in self.nodes]
        try:
            ends = [number * SLOTS // 3 for number in range(4)]
            for number, client in enumerate(clients[:3]):
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", ends[number], ends[number + 1] - 1)
            for node in self.nodes[1:]:
                clients[0].execute_command("CLUSTER", "MEET", HOST, node.port, node.config["cluster-port"])
            first = str(clients[0].execute_command("CLUSTER", "MYID"))
            _until(lambda: first in str(clients[3].execute_command("CLUSTER", "NODES")), "the fourth node knows the first")
            _until(lambda: clients[3].execute_command("CLUSTER", "REPLICATE", first) in (True, "OK"), "the fourth node is a replica")
            for client in clients:
                _until(partial(_is_whole, client), "the cluster is whole")
            _until(lambda: clients[3].info("replication")["master_link_status"] == "up", "the replica has everything")
        finally:
            for client in clients:
                client.close()


def _is_whole(client: Any) -> bool:
    answer = client.execute_command("CLUSTER", "INFO")
    told = answer if isinstance(answer, dict) else dict(line.split(":", 1) for line in answer.split())
    return (told["cluster_state"], str(told["cluster_known_nodes"])) == ("ok", "4")


def _until(true: Any, what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if true():
                return
        except RedisError:
            pass
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)
