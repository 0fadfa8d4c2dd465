"""A steady load of real-shaped events: a simulated shop's shoppers, one event after the other, as of now; and bursts of what should not happen."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from features.events import KINDS
from features.hashing import partition_for
from streams.shop import Shop, simulate
from tests.chaos.pipes import Pipe, Record

LATE_RATIO = 0.05  # events that come up to two seconds after they happened
TWICE_RATIO = 0.01
BROKEN_RATIO = 0.004
RECENT = 400


class Made(NamedTuple):
    """One event that is yet to happen: its kind, its user, and its value with places for the turn (twice) and the time."""

    kind: str
    user: str
    value: bytes

    def now(self, turn: int, ts_ms: int) -> tuple[str, bytes, bytes]:
        """Return (kind, key, value) of the event at a time; each turn has other users and other event ids."""
        return self.kind, f"{turn}-{self.user}".encode(), self.value % (turn, turn, ts_ms)


def shop(seed: int) -> list[Made]:
    """Return the events of a simulated shop, in order; each visit is a user of its own, whose orders come after it."""
    settings = Shop(users=400, lines=4, days=2.0, launch_day=0.0, visits_per_day=2.0, conversion=0.25, window_s=21_600.0, seed=seed)
    latest: dict[str, str] = {}
    made = []
    for row in simulate(settings).log.to_pylist():
        session = row["session_id"] or latest.get(row["user_id"], "s")
        latest[row["user_id"]] = session
        user = f"{row['user_id']}-{session}"
        more = b"".join(b',"%s":%s' % (name.encode(), msgspec.json.encode(row[name])) for name in ("product_id", "line", "category", "channel", "price"))
        ids = f',"event_id":"%d-{row["event_id"]}","user_id":"%d-{user}","ts":%d'.encode()
        made.append(Made(row["kind"], user, b"{" + more.replace(b"%", b"%%")[1:] + ids + b"}"))
    return made


def shoppers(draw: random.Random) -> Iterator[tuple[int, Made]]:
    """Yield (turn, event) for ever."""
    shops = [shop(draw.getrandbits(31)) for _ in range(2)]
    for turn in range(1_000_000):
        for made in shops[turn % len(shops)]:
            yield turn, made


class Traffic:
    """Publishes in a thread of its own, at `rate` events a second, until `stop`. Counts what was tried and what the broker has confirmed."""

    def __init__(self, pipe: Pipe, topics: Mapping[str, str], partitions: int, *, rate: float, seed: int, hold: Callable[[], bool] = lambda: False) -> None:
        """`hold` says, now and then, whether to wait with more."""
        self._topics, self._partitions, self.rate, self._hold = topics, partitions, rate, hold
        self._draw = random.Random(seed)
        self._events = shoppers(self._draw)
        self._recent: deque[tuple[str, bytes, bytes]] = deque(maxlen=RECENT)
        self._lock = threading.Lock()
        self.tried = self.confirmed = self.failed = 0
        self._running, self._ended = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self._pipe = pipe
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def go(self) -> None:
        """Publish from now on."""
        self._running.set()

    def pause(self) -> None:
        """Publish no more, and return when the broker has all, or has refused."""
        self._running.clear()
        with self._lock:
            self._pipe.flush(180)

    def close(self) -> None:
        """End."""
        self._running.clear()
        self._ended.set()
        self._thread.join(30)
        self._pipe.close()

    def _work(self) -> None:
        owed = 0.0
        last_s = time.monotonic()
        try:
            while not self._ended.is_set():
                if not self._running.wait(0.1) or self._hold():
                    time.sleep(0.02)
                    last_s = time.monotonic()
                    continue
                now_s = time.monotonic()
                owed = min(owed + self.rate * (now_s - last_s), self.rate)  # what a standstill held back is not made up for
                last_s = now_s
                with self._lock:
                    for _ in range(int(owed) if self._running.is_set() else 0):
                        self._next()
                owed -= int(owed)
                time.sleep(0.02)
        except BaseException as error:  # noqa: BLE001  told by whoever looks
            self.error = error

    def _next(self) -> None:
        chance = self._draw.random()
        if chance < BROKEN_RATIO:
            self._broken()
        elif chance < BROKEN_RATIO + TWICE_RATIO and self._recent:
            self._send(*self._recent[-1 - self._draw.randrange(min(20, len(self._recent)))])
        else:
            turn, made = next(self._events)
            late_ms = self._draw.randrange(2_000) if self._draw.random() < LATE_RATIO else 0
            record = made.now(turn, time.time_ns() // 1_000_000 - late_ms)
            self._recent.append(record)
            self._send(*record)

    def _send(self, kind: str, key: bytes | None, value: bytes | None, partition: int | None = None) -> None:
        self.tried += 1
        where = partition_for(key or b"", self._partitions) if partition is None else partition
        self._pipe.send(Record(self._topics[kind], where, key, value, self._told))

    def _told(self, confirmed: bool) -> None:
        if confirmed:
            self.confirmed += 1
        else:
            self.failed += 1

    # Bursts.

    def twice(self, number: int) -> None:
        """Publish recent events again, in any order."""
        with self._lock:
            for record in self._draw.choices(list(self._recent), k=number):
                self._send(*record)

    def disorder(self, number: int) -> None:
        """Publish events of the last ten seconds, in any order, across all topics."""
        with self._lock:
            now_ms, records = time.time_ns() // 1_000_000, []
            for _ in range(number):
                turn, made = next(self._events)
                records.append(made.now(turn, now_ms - self._draw.randrange(10_000)))
            self._draw.shuffle(records)
            for record in records:
                self._send(*record)

    def poison(self, number: int) -> None:
        """Publish what cannot be used, in all the ways that there are."""
        with self._lock:
            for _ in range(number):
                self._broken()

    def _broken(self) -> None:
        draw = self._draw
        turn, made = next(self._events)
        kind, key, value = made.now(turn, time.time_ns() // 1_000_000)
        home = partition_for(key, self._partitions)
        elsewhere = (home + 1 + draw.randrange(self._partitions - 1)) % self._partitions
        broken: list[tuple[bytes | None, bytes | None, int]] = [
            (key, value[: draw.randrange(len(value))], home),
            (key, None, home),
            (None, value, home),
            (key + b"x", value, home),
            (key, value, elsewhere),
            (key, b"\xff" * draw.randrange(1, 100_000), home),
            (key, b"[" * 70_000, home),
            (key, value.replace(b'"ts":1', b'"ts":"never 1'), home),
            (key, value.replace(b'"ts":', b'"ts":9'), home),
            (key, value.replace(b"}", b',"price":-1}'), home),
            (key, value.replace(b"}", f',"kind":"{KINDS[KINDS.index(kind) - 1]}"}}'.encode()), home),
        ]
        key_, value_, partition = draw.choice(broken)
        self._send(kind, key_, value_, partition)
