"""What looking after a worker costs, and what it holds: one worker process on the embedded broker and Valkey, measured from outside.

    python bench/worker_costs.py [--events 40000] [--pairs 3] [--backlog-mb 300]

1. Metrics: CPU seconds per million events, with everything that `/metrics` needs and a scrape every second, against the same worker without; in
   alternating pairs over the same backlog, after the kernels were compiled.
2. Memory: the highest resident memory while a backlog of large values is worked, above that with a backlog of as many small ones.
3. Stop: seconds from SIGTERM in the middle of a backlog to the end of the process.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import msgspec
import redis

from features.events import KINDS, Event, encode
from models.checkpoint import save
from streams.embedded import EmbeddedStack, free_port
from streams.partition import Cursor
from streams.publisher import Outgoing, publish_records
from streams.settings import Settings, child_environment, load_settings
from streams.topics import broker_names, create_topics
from tests.builders import make_artifact

PARTITIONS = 4
WARM = 400


class Run:
    """One namespace and its worker."""

    def __init__(self, stack: EmbeddedStack, folder: Path, number: int, how: str) -> None:
        name = f"b{number}"
        self.http = f"127.0.0.1:{free_port()}" if how == "metered" else ""
        self.settings = Settings(
            broker=stack.broker, redis=stack.redis_url, trunk=folder / "trunk", namespace=name, topic_prefix=f"{name}.", partitions=PARTITIONS,
            session_timeout_s=6, log_level="WARNING", http_address=self.http,
        )  # fmt: skip
        self.how, self.peak_mb, self._stopped = how, 0.0, False
        create_topics(stack.broker, prefix=self.settings.topic_prefix, partitions=PARTITIONS, outcome_partitions=1)
        self._redis = redis.Redis.from_url(stack.redis_url)

    def send(self, number: int, start: int, *, padding: int = 0) -> None:
        """Publish events of many users."""
        now_ms = time.time_ns() // 1_000_000

        def records() -> Iterator[Outgoing]:
            for i in range(start, start + number):
                event = Event(event_id=f"e{i}", user_id=f"u{i % 5000}", product_id=f"p{i % 50}", line=("books", "audio")[i % 2], ts=now_ms + i % 1000)
                value = encode(event)
                yield Outgoing(
                    KINDS[0 if i % 10 < 8 else i % 4], event.user_id.encode(), value[:-1] + b',"note":"' + b"x" * padding + b'"}' if padding else value
                )

        publish_records(self.settings.broker, records(), broker_names(self.settings.topic_prefix), delivery_timeout_s=300)

    def read(self) -> int:
        """How many are committed."""
        held = [self._redis.hget(f"hs:{self.settings.namespace}:{{{p}}}:cursor", "cursor") for p in range(PARTITIONS)]
        return sum(msgspec.msgpack.decode(raw, type=Cursor).totals.read for raw in held if isinstance(raw, bytes))

    def wait(self, number: int) -> None:
        """Wait until so many are."""
        give_up_s = time.monotonic() + 300
        while self.read() < number:
            if time.monotonic() > give_up_s:
                raise SystemExit(f"only {self.read()} of {number} after 300 s")
            time.sleep(0.05)

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the worker; its memory is followed, and its figures are asked for every second."""
        environment = child_environment(self.settings)
        process = subprocess.Popen([sys.executable, __file__, "--as", self.how], env=environment, stdin=subprocess.DEVNULL)
        thread = threading.Thread(target=self._follow, args=(process.pid,), daemon=True)
        thread.start()
        try:
            yield process
        finally:
            self._stopped = True
            process.kill()
            process.wait()
            thread.join()

    def _follow(self, pid: int) -> None:
        while not self._stopped:
            try:
                self.peak_mb = max(self.peak_mb, int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6)
                if self.http:
                    urllib.request.urlopen(f"http://{self.http}/metrics", timeout=5).read()
            except OSError:
                pass
            time.sleep(1 if self.http else 0.2)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_worker(how: str) -> None:
    """In the child: the worker as it is, or without anything that measures."""
    from streams import app, measuring
    from streams.commands import worker

    if how == "plain":
        module: Any = app
        module.MeteredStore, module.MeteredOutlet = (lambda store, _: store), (lambda outlet, _: outlet)
        setattr(measuring.Polls, "handed", lambda self, batch, ack, current: ack)  # noqa: B010
    worker.run(load_settings(needs=("broker", "redis")))


def metrics(stack: EmbeddedStack, folder: Path, events: int, pairs: int) -> None:
    """Measure 1."""
    took: dict[str, list[float]] = {"plain": [], "metered": []}
    for number in range(2 * pairs):
        how = ("plain", "metered")[(number + number // 2) % 2]
        run = Run(stack, folder, number, how)
        with run.worker() as process:
            run.send(WARM, 0)
            run.wait(WARM)
            process.send_signal(signal.SIGSTOP)  # the backlog is there before it is worked
            run.send(events, WARM)
            before = cpu_s(process.pid)
            process.send_signal(signal.SIGCONT)
            run.wait(WARM + events)
            took[how].append((cpu_s(process.pid) - before) / events * 1e6)
    ratios = [b / a for a, b in zip(took["plain"], took["metered"], strict=True)]
    told = {how: f"{statistics.median(seconds):.1f}" for how, seconds in took.items()}
    print(f"metrics: CPU seconds per million events {told['plain']} without, {told['metered']} with; ratios {', '.join(f'{r:.3f}' for r in ratios)}, "
          f"median {statistics.median(ratios):.3f}")  # fmt: skip


def memory(stack: EmbeddedStack, folder: Path, backlog_mb: int) -> None:
    """Measure 2."""
    peaks = {}
    number = backlog_mb * 1_000_000 // 20_000
    for i, (what, padding) in enumerate((("small", 0), ("20 KB", 20_000))):
        run = Run(stack, folder, 100 + i, "metered")
        run.send(number, 0, padding=padding)
        with run.worker():
            run.wait(number)
            peaks[what] = run.peak_mb
    print(f"memory: highest {peaks['small']:.0f} MB with a backlog of {number} small events, {peaks['20 KB']:.0f} MB with {number} of 20 KB ({backlog_mb} MB); "
          f"max_held_mb is {Settings().max_held_mb}")  # fmt: skip


def stopping(stack: EmbeddedStack, folder: Path) -> None:
    """Measure 3."""
    seconds = []
    for i in range(3):
        run = Run(stack, folder, 200 + i, "metered")
        run.send(30_000, 0)
        with run.worker() as process:
            run.wait(2_000)
            began_s = time.monotonic()
            process.terminate()
            code = process.wait(60)
            seconds.append(time.monotonic() - began_s)
            assert code == 0, code
    print(f"stop: {', '.join(f'{s:.2f}' for s in seconds)} s from SIGTERM under load to the end, exit code 0")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--backlog-mb", type=int, default=300)
    parser.add_argument("--as", dest="how", choices=("plain", "metered"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.how:
        run_worker(options.how)
        return
    with tempfile.TemporaryDirectory(prefix="headstart-bench-") as folder, EmbeddedStack() as stack:
        save(make_artifact("books", "audio"), Path(folder) / "trunk")
        metrics(stack, Path(folder), options.events, options.pairs)
        memory(stack, Path(folder), options.backlog_mb)
        stopping(stack, Path(folder))


if __name__ == "__main__":
    main()
