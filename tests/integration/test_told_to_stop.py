"""A command that is told to stop brings to an end what it began: its workers and servers, its temporary folders, its half-written files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.importing import write_log
from tests.integration.harness import wait_until
from tests.integration.test_embedded import gone, started
from tests.integration.worlds import World

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def processes(folder: Path) -> list[int]:
    """Those that were started with this folder for their temporary files, zombies left out."""
    wanted, found = f"TMPDIR={folder}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


@contextmanager
def replaying(world: World, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`headstart replay --embedded` with a worker that has begun; its temporary files lie in `folder`/tmp."""
    write_log(world.log, folder / "log.parquet")
    temporary = folder / "tmp"
    temporary.mkdir()
    with started(
        "-m", "streams.cli", "replay", str(folder / "log.parquet"), "--embedded", "--trunk", str(world.trunk), "--launch-line", "launch",
        "--launch-at", str(world.artifact.trained_until_ms), "--speed", "3600", "--logs", str(folder / "logs"),
        folder=temporary,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        try:
            logs = folder / "logs"
            wait_until(lambda: any("worker of namespace" in log.read_text() for log in logs.glob("*.log")) or program.poll() is not None, "a worker has begun")
            assert program.poll() is None, program.stdout.read()
            yield program
        finally:
            program.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_replay_leaves_nothing_behind(world: World, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Its worker and both servers end with it, also where it is killed; where it was told, its folders are gone and no traceback is printed."""
    with replaying(world, tmp_path) as program:
        begun = processes(tmp_path / "tmp")
        assert len(begun) >= 6, "the command, a broker and a worker, and three guards; Valkey writes over its environment, and ends before its guard does"
        program.send_signal(number)
        assert program.wait(30) == code
        assert gone(begun)
        if code > 0:
            assert list((tmp_path / "tmp").iterdir()) == []
        assert program.stdout is not None
        assert "Traceback" not in program.stdout.read()


def test_processes_that_train_end_with_the_command(world: World, tmp_path: Path) -> None:
    """`headstart evaluate --jobs 2` and Ctrl-C, which a terminal sends to all of them: nobody waits for what they work on, and none says anything."""
    write_log(world.log, tmp_path / "log.parquet")
    (temporary := tmp_path / "tmp").mkdir()
    arguments = ("evaluate", "--events", str(tmp_path / "log.parquet"), "--each-line", "--jobs", "2", "--window", "21600")
    with started("-m", "streams.cli", *arguments, folder=temporary) as program:
        try:
            wait_until(lambda: len(processes(temporary)) >= 4 or program.poll() is not None, "both processes have begun")
            begun = processes(temporary)
            time.sleep(2.0)
            os.killpg(program.pid, signal.SIGINT)
            assert program.wait(20) == 130
            assert gone(begun)
        finally:
            program.kill()
            assert program.stdout is not None
            assert "Traceback" not in program.stdout.read()
