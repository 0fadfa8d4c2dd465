"""A real Redis for the chaos suite, with append-only file: Debian's `redis-server` where there is one, else the Valkey that tests bring along."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import redis

from streams.embedded import HOST, EmbeddedValkey
from tests.integration.harness import connected

DATA = ("appendonlydir", "dump.rdb")


class RedisServer(EmbeddedValkey):
    """Redis with `appendfsync always`, unless `config` says otherwise. REDIS_SERVER names the program."""

    name = "Redis"

    def __init__(self, folder: Path, *, port: int | None = None, config: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, port=port, appendonly=True, config={"appendfsync": "always", "repl-diskless-sync-delay": "0", **(config or {})})

    def command(self) -> list[str]:
        program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
        return [program, *super().command()[1:]] if program else super().command()

    def keep_copy(self, folder: Path) -> None:
        """Keep what is on disk now, to be put back later."""
        with connected(self.url) as client:
            client.config_set("auto-aof-rewrite-percentage", 0)  # it must not begin anew while the files are copied
            self._wait_for_rewrite(client)
            client.bgrewriteaof()  # the file is then whole, whatever is written meanwhile
            self._wait_for_rewrite(client)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in DATA:
                if (self.folder / name).is_dir():
                    shutil.copytree(self.folder / name, folder / name)
                elif (self.folder / name).exists():
                    shutil.copy(self.folder / name, folder / name)
            client.config_set("auto-aof-rewrite-percentage", 100)

    @staticmethod
    def _wait_for_rewrite(client: redis.Redis) -> None:
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.05)

    def put_back(self, folder: Path) -> None:
        """Put an older state in the place of the present one; the server must not run."""
        for name in DATA:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).unlink(missing_ok=True)
            if (folder / name).is_dir():
                shutil.copytree(folder / name, self.folder / name)
            elif (folder / name).exists():
                shutil.copy(folder / name, self.folder / name)

    def follow(self, leader: RedisServer) -> None:
        """Be a replica of another server, and return when it has all that the other has."""
        with connected(self.url) as client:
            client.replicaof(HOST, leader.port)
            for _ in range(600):
                found = client.info("replication")
                if found.get("master_link_status") == "up" and not found.get("master_sync_in_progress"):
                    return
                time.sleep(0.1)
        raise AssertionError("the replica did not come up")

    def lead(self) -> None:
        """Be a replica no more."""
        with connected(self.url) as client:
            client.replicaof("NO", "ONE")


def used_bytes(url: str) -> int:
    """Return the memory that a server uses; 0 if it does not answer."""
    try:
        with connected(url) as client:
            return int(client.info("memory")["used_memory"])
    except redis.RedisError:
        return 0
