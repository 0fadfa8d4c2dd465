"""The embedded broker and Valkey: they answer, they leave nothing behind, and they do not outlive the program that started them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.errors import DependencyDown
from streams import embedded
from streams.embedded import EmbeddedBroker, EmbeddedServer, EmbeddedStack, EmbeddedValkey
from streams.topics import cluster_id, partition_counts

ROOT = Path(__file__).parents[2]


def running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    status = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not Path("/proc/self/stat").exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):  # it may end between the looks
        return False


def gone(pids: list[int], within_s: float = 10.0) -> bool:
    """Whether all the processes end in time."""
    deadline = time.monotonic() + within_s
    while any(map(running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def ask(server: EmbeddedServer, *words: str) -> bytes:
    """A Redis command's raw answer."""
    with socket.create_connection((embedded.HOST, server.port), 5.0) as connection:
        connection.sendall(f"*{len(words)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words))
        return connection.recv(65_536)


def started(*code: str, folder: Path) -> subprocess.Popen[str]:
    """A Python program of its own process group, in `folder`, whose output can be read; no signal is ignored, as nohup and a shell's background jobs have it."""

    def heeding() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADSTART_")}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *code], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=heeding,
    )  # fmt: skip


STACK = """
import os, time
from streams.embedded import EmbeddedStack
with EmbeddedStack() as stack:
    print(stack.kafka.pid, stack.valkey.pid, stack.kafka._guard.pid, stack.valkey._guard.pid)
    {then}
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A program that holds a stack, and the process ids of the two servers and of their two guards."""
    program = started("-c", STACK.format(then=""), folder=tmp_path)
    assert program.stdout is not None
    with program, program.stdout:
        try:
            yield program, [int(pid) for pid in program.stdout.readline().split()]
        finally:
            program.kill()


def test_the_stack_answers_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both servers serve at the addresses given; afterwards their processes and temporary folders are gone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with EmbeddedStack() as stack:
        assert cluster_id(stack.broker) == stack.kafka.cluster_id
        assert stack.redis_url == f"redis://127.0.0.1:{stack.valkey.port}"
        assert ask(stack.valkey, "PING") == b"+PONG\r\n"
        pids = [stack.kafka.pid, stack.valkey.pid]
        assert len(list(tmp_path.iterdir())) == 2
    assert gone(pids, within_s=0.5)
    assert list(tmp_path.iterdir()) == []


def test_a_given_folder_keeps_the_logs(tmp_path: Path) -> None:
    """With a folder, each server's log stays there."""
    with EmbeddedStack(tmp_path / "stack"):
        pass
    assert "ready" in (tmp_path / "stack" / "broker" / "tansu.log").read_text()
    assert "Ready to accept connections" in (tmp_path / "stack" / "redis" / "valkey.log").read_text()


@pytest.mark.parametrize("whole_group", [False, True], ids=["process", "group"])
def test_kill_9_of_the_parent_leaves_no_orphans(holder: tuple[subprocess.Popen[str], list[int]], tmp_path: Path, whole_group: bool) -> None:
    """SIGKILL of the program, or of its whole process group, ends both servers and both guards, and removes the temporary folders."""
    program, pids = holder
    assert all(map(running, pids))
    if whole_group:
        os.killpg(program.pid, signal.SIGKILL)
    else:
        program.kill()
    assert gone(pids)
    assert [path for path in tmp_path.iterdir() if path.name.startswith("headstart-")] == []


@pytest.mark.parametrize("said", [b"", b"."], ids=["silence", "a word"])
def test_a_guard_goes_by_what_its_parent_said(tmp_path: Path, said: bytes) -> None:
    """Without a word before the end of the pipe the folder goes, also where the dying parent is still to be seen; with one it stays."""
    folder = tmp_path / "folder"
    folder.mkdir()
    command = [sys.executable, "-I", "-S", str(embedded.GUARD), "--remove", str(folder), shutil.which("sleep") or "sleep", "600"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guard:
        assert guard.stdout is not None
        guard.stdout.readline()
        guard.communicate(said, timeout=10)
    assert folder.exists() == bool(said)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent's death")
def test_kill_9_of_the_guards_leaves_no_orphans(holder: tuple[subprocess.Popen[str], list[int]]) -> None:
    """A server whose guard is killed dies too."""
    _, pids = holder
    for guard in pids[2:]:
        os.kill(guard, signal.SIGKILL)
    assert gone(pids[:2])


def test_no_orphans_when_another_process_holds_the_pipe(tmp_path: Path) -> None:
    """A child forked by the program, which inherits its end of the guards' pipes, does not keep the servers alive."""
    program = started("-c", STACK.format(then="child = os.fork(); child and os.write(1, b'%d\\n' % child)"), folder=tmp_path)
    assert program.stdout is not None
    with program, program.stdout:
        pids = [int(pid) for pid in program.stdout.readline().split()]
        fork = int(program.stdout.readline())
        try:
            program.kill()
            assert gone(pids)
            assert running(fork)
        finally:
            os.kill(fork, signal.SIGKILL)


def test_a_server_outlives_the_thread_that_started_it() -> None:
    """Starting from a thread that ends is safe."""
    server = EmbeddedValkey()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.1)
        assert ask(server, "PING") == b"+PONG\r\n"
    finally:
        server.close()


def test_up_serves_until_sigterm(tmp_path: Path) -> None:
    """`headstart up` prints both addresses and the next commands, makes the topics, and ends with 0 on SIGTERM, its servers too."""
    program = started("-m", "streams.cli", "up", "--dir", "logs", "--partitions", "3", folder=tmp_path)
    assert program.stdout is not None
    with program, program.stdout:
        try:
            said = ""
            while "Ctrl-C" not in said:
                more = program.stdout.readline()
                assert more, said
                said += more
            export = next(text for text in said.splitlines() if "export" in text)
            addresses = dict(word.split("=", 1) for word in export.split()[1:])
            assert partition_counts(addresses["HEADSTART_BROKER"], ["browse", "outcomes"]) == {"browse": 3, "outcomes": 1}
            assert "Memory only" in said
            program.terminate()
            assert program.wait(20) == 0
        finally:
            program.kill()
    for name in ("HEADSTART_BROKER", "HEADSTART_REDIS"):
        port = int(addresses[name].rpartition(":")[2])
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 1.0)


def test_every_start_is_another_cluster() -> None:
    """A broker that lost its memory says so by a new cluster id, on the same port."""
    with EmbeddedBroker() as broker:
        before, port = broker.cluster_id, broker.port
        broker.kill()
        broker.start()
        assert broker.port == port
        assert cluster_id(broker.address) == broker.cluster_id != before


def test_a_snapshot_can_be_put_back(tmp_path: Path) -> None:
    """SAVE, more writes, a kill and a start from the file bring the older data back."""
    with EmbeddedValkey(tmp_path) as server:
        ask(server, "SET", "k", "old")
        assert ask(server, "SAVE") == b"+OK\r\n"
        ask(server, "SET", "k", "new")
        server.kill()
        assert (tmp_path / "dump.rdb").exists()
        server.start()
        assert ask(server, "GET", "k") == b"$3\r\nold\r\n"


def test_append_only_data_outlive_a_kill(tmp_path: Path) -> None:
    """With appendonly and fsync on every write nothing that was answered is lost."""
    with EmbeddedValkey(tmp_path, appendonly=True, config={"appendfsync": "always"}) as server:
        ask(server, "SET", "k", "v")
        server.kill()
        server.start()
        assert ask(server, "GET", "k") == b"$1\r\nv\r\n"


def test_a_password_is_no_hindrance() -> None:
    """A Valkey with a password is found to be up."""
    with EmbeddedValkey(config={"requirepass": "secret"}) as server:
        assert ask(server, "PING").startswith(b"-NOAUTH")


def test_a_paused_server_comes_back() -> None:
    """SIGSTOP makes the server silent, SIGCONT makes it answer."""
    with EmbeddedValkey() as server:
        server.pause()
        with socket.create_connection((embedded.HOST, server.port), 5.0) as connection:
            connection.settimeout(0.3)
            connection.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                connection.recv(64)
            server.resume()
            connection.settimeout(5.0)
            assert connection.recv(64) == b"+PONG\r\n"


@pytest.mark.parametrize("kind", [EmbeddedBroker, EmbeddedValkey])
def test_a_port_lost_to_another_program_is_replaced(kind: type[EmbeddedServer], embedded_valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the port that looked free is taken when the server binds it, another one is tried."""
    honest, given = embedded.free_port, [embedded_valkey.port]
    monkeypatch.setattr(embedded, "free_port", lambda: given.pop() if given else honest())
    with kind() as server:
        assert given == []
        assert server.port != embedded_valkey.port


def test_a_server_that_cannot_start_says_why(embedded_valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad directive, a taken port, a missing program and a folder that cannot be made each give one telling line."""
    with pytest.raises(DependencyDown, match=r"Valkey did not start on 127\.0\.0\.1:\d+: Bad directive"):
        EmbeddedValkey(config={"bogus": "1"}).start()
    with pytest.raises(DependencyDown, match=rf"Tansu did not start on 127\.0\.0\.1:{embedded_valkey.port}: .*in use"):
        EmbeddedBroker(port=embedded_valkey.port).start()
    (tmp_path / "file").touch()
    with pytest.raises(DependencyDown, match="Tansu needs a folder for its log: .*file"):
        EmbeddedBroker(tmp_path / "file" / "folder").start()
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "nothing"))
    with pytest.raises(DependencyDown, match="the embedded broker cannot be run on this machine: .*nothing"):
        EmbeddedBroker().start()
