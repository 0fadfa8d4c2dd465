"""`headstart evaluate` in several processes ends at once, with all of them, when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from streams.importing import write_log
from streams.shop import Shop, simulate

WAIT_S = 120.0


def test_an_interrupt_ends_every_process(tmp_path: Path) -> None:
    """Ctrl-C while lines are being judged side by side: exit code 130, no traceback, and no process that goes on computing."""
    log, said = tmp_path / "log.parquet", tmp_path / "said"
    write_log(simulate(Shop(users=300, lines=4, days=9.0, launch_day=4.0, window_s=43_200.0, seed=3)).log, log)
    command = [sys.executable, "-m", "streams.cli", "evaluate", "--events", str(log), "--each-line", "--jobs", "2"]
    with (
        said.open("wb") as out,
        subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
        ) as process,
    ):
        try:
            until_s = time.monotonic() + WAIT_S
            while b"features" not in said.read_bytes():  # both have begun by then, or are about to
                assert process.poll() is None and time.monotonic() < until_s, said.read_text()
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert process.wait(WAIT_S) == 130
        finally:
            left = group_of(process.pid)
            if left:
                os.killpg(process.pid, signal.SIGKILL)
    assert not left
    assert "Traceback" not in said.read_text()


def group_of(leader: int) -> list[str]:
    """The processes of a group that are alive, by their command lines; the resource tracker has until a second later to end."""
    until_s = time.monotonic() + 5.0
    while True:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == leader and fields[0] != "Z":
                    found.append(stat.with_name("cmdline").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
        if not found or time.monotonic() > until_s:
            return found
        time.sleep(0.1)
