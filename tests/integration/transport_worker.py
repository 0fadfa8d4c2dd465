"""A `transport_app` in a process of its own, seen from a test: what it said, what it took, its end; and who writes to its topics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from kafka import KafkaProducer

PARTITIONS = 3
KINDS = ("browse", "click", "cart", "order")
ROOT = Path(__file__).parents[2]


class Worker:
    """A `transport_app` as a process; `said` holds what it has written, `orders` it reads."""

    def __init__(self, kafka: str, prefix: str, cursors: Path, **options: Any) -> None:
        cursors.mkdir(exist_ok=True)
        self.topics = [prefix + kind for kind in KINDS]
        given = {"broker": kafka, "group": prefix + "group", "topics": self.topics, "cursors": str(cursors), **options}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.transport_app", json.dumps(given)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.said: list[dict[str, Any]] = []
        self.errors = ""
        self._news = threading.Condition()
        self._threads = [threading.Thread(target=self._listen), threading.Thread(target=self._listen_to_errors)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.said.append(json.loads(line))
                self._news.notify_all()

    def _listen_to_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def wait(self, true: Callable[[list[dict[str, Any]]], bool], timeout_s: float = 40.0) -> None:
        """Wait until what it said fulfils a condition."""
        with self._news:
            assert self._news.wait_for(lambda: true(self.said), timeout_s), f"not within {timeout_s} s; the last it said: {self.said[-5:]}"

    def wait_for(self, what: str, timeout_s: float = 40.0) -> dict[str, Any]:
        """Wait until it says that, and return the first such line."""
        self.wait(lambda said: any(line["what"] == what for line in said), timeout_s)
        return next(line for line in self.said if line["what"] == what)

    def order(self, do: str, answer: str, **rest: Any) -> dict[str, Any]:
        """Give an order and return the answer to it."""
        before = len(self.said)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **rest}) + "\n")
        self.process.stdin.flush()
        self.wait(lambda said: any(line["what"] == answer for line in said[before:]))
        return next(line for line in self.said[before:] if line["what"] == answer)

    def batches(self, since: int = 0) -> Iterator[dict[str, Any]]:
        """The batches that it took, in that order."""
        return (line for line in list(self.said)[since:] if line["what"] == "batch")

    def rows(self, since: int = 0) -> dict[tuple[str, int], list[tuple[int, str]]]:
        """(offset, value) of all records that it took, in that order, by topic and partition."""
        taken: defaultdict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
        for batch in self.batches(since):
            taken[batch["tp"][0], batch["tp"][1]] += [(offset, value) for offset, _, value in batch["rows"]]
        return taken

    def count(self, since: int = 0) -> int:
        """How many records it took."""
        return sum(batch["next"] - batch["first"] for batch in self.batches(since))

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        self.process.terminate()
        return self.ended()

    def ended(self, timeout_s: float = 20.0) -> int:
        """Wait for its end and return its exit code."""
        code = self.process.wait(timeout_s)
        for thread in self._threads:
            thread.join()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.ended()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def until(true: Callable[[], bool], timeout_s: float = 40.0) -> None:
    """Wait until something holds that more than one worker says."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def publish(kafka: str, topics: Iterable[str], each: range, *, partitions: int = PARTITIONS) -> None:
    """Write the numbers of `each` to every partition of the topics; where the log was empty, number and offset agree."""
    producer = KafkaProducer(bootstrap_servers=kafka, linger_ms=5)
    try:
        sent = [producer.send(topic, key=b"k", value=str(i).encode(), partition=p) for i in each for topic in topics for p in range(partitions)]
        for future in sent:
            future.get(20)
    finally:
        producer.close()
