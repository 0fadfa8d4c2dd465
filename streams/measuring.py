"""How a worker's figures come about: what wraps its store and its outlet, what follows each poll until it is committed, and what is read when Prometheus asks.

All of it is per call, poll or scrape; nothing here is done for each event. See `streams.meters` for the list.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from faust.types import TP
from prometheus_client import CollectorRegistry, GCCollector, Histogram, ProcessCollector
from prometheus_client import Counter as Counting
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from features.events import REASONS
from features.store import Changes, Slot, Store
from streams.alerts import KINDS, Alert, decode_alert, severity_of
from streams.meters import BUCKETS_S, BY_NAME
from streams.pipeline import Outlet
from streams.records import JOB, REASON_HEADER, Outgoing

Row = tuple[tuple[str, ...], float]
"""Labels, and the figure."""


class Meters:
    """The figures of one process: those that are counted as they happen, and `read`, which gives the others when someone asks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.sent = self._counting("headstart_records_sent_total")
        self.alerts = self._counting("headstart_alerts_total")
        self.rejected = self._counting("headstart_rejected_total")
        self.loads = self._counting("headstart_partition_loads_total")
        self.score_delay = self._histogram("headstart_score_delay_seconds")
        self.delivery = self._histogram("headstart_delivery_seconds")
        self.redis = self._histogram("headstart_redis_seconds")
        # A rate needs the zero before the first one.
        for topic in ("scores", "outcomes", "heads", "alerts", "rejected"):
            self.sent.labels(topic)
        for kind in KINDS:
            self.alerts.labels(kind, severity_of(kind))
        for reason in REASONS:
            self.rejected.labels(reason)

    def _counting(self, name: str) -> Counting:
        meter = BY_NAME[name]
        return Counting(name, meter.meaning, meter.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        meter = BY_NAME[name]
        return Histogram(name, meter.meaning, meter.labels, registry=self.registry, buckets=BUCKETS_S)

    def read_from(self, read: Callable[[], Mapping[str, Iterable[Row]]]) -> None:
        """Ask `read` for {name: rows} at each scrape. It is called in the thread that serves the scrape."""
        self.registry.register(_Read(read))


class _Read(Collector):
    def __init__(self, read: Callable[[], Mapping[str, Iterable[Row]]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that nothing is read while the worker is being put together."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield a family for each name."""
        for name, rows in self._read().items():
            meter = BY_NAME[name]
            family = (CounterMetricFamily if meter.kind == "counter" else GaugeMetricFamily)(name, meter.meaning, labels=meter.labels)
            for labels, value in rows:
                family.add_metric(labels, value)
            yield family


class MeteredOutlet:
    """An outlet that counts and times what it lets out."""

    def __init__(self, outlet: Outlet, meters: Meters) -> None:
        self._outlet, self._meters = outlet, meters

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Return when the broker has all of them."""
        if not records:
            return
        began_s = time.monotonic()
        await self._outlet.deliver(records)
        meters = self._meters
        meters.delivery.observe(time.monotonic() - began_s)
        for topic, number in Counter([record.topic for record in records]).items():
            meters.sent.labels(topic).inc(number)
        others = [record for record in records if record.topic != "scores"]
        refused = Counter(value.decode() for record in others if record.topic == "rejected" for name, value in record.headers if name == REASON_HEADER)
        for reason, number in refused.items():
            meters.rejected.labels(reason).inc(number)
        found = Counter((alert.kind, alert.severity) for alert in _alerts_in(others) if alert.launch_id != JOB)
        for (kind, severity), number in found.items():
            meters.alerts.labels(kind, severity).inc(number)


def _alerts_in(records: Sequence[Outgoing]) -> Iterator[Alert]:
    return (decode_alert(record.value) for record in records if record.topic == "alerts" and record.value is not None)


class MeteredStore:
    """A store that times its calls."""

    def __init__(self, store: Store, meters: Meters) -> None:
        self._store, self._meters = store, meters

    async def load(self, slot: str, hashes: Sequence[str]) -> Slot:
        began_s = time.monotonic()
        found = await self._store.load(slot, hashes)
        if hashes:  # without, it is a look at the version
            self._meters.redis.labels("load").observe(time.monotonic() - began_s)
            if "outbox" in hashes:
                self._meters.loads.inc()
        return found

    async def read(self, slot: str, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        began_s = time.monotonic()
        found = await self._store.read(slot, keys)
        self._meters.redis.labels("read").observe(time.monotonic() - began_s)
        return found

    async def read_hash(self, slot: str, name: str, fields: Sequence[str]) -> list[bytes | None]:
        return await self._store.read_hash(slot, name, fields)

    async def commit(self, slot: str, expected: int, changes: Changes) -> bool:
        began_s = time.monotonic()
        done = await self._store.commit(slot, expected, changes)
        self._meters.redis.labels("commit").observe(time.monotonic() - began_s)
        return done

    async def settled(self) -> None:
        await self._store.settled()

    async def meta(self) -> dict[str, str]:
        return await self._store.meta()

    async def put_beat(self, name: str, value: bytes) -> None:
        await self._store.put_beat(name, value)

    async def beats(self) -> dict[str, bytes]:
        return await self._store.beats()

    async def drop_beats(self, names: Sequence[str]) -> None:
        await self._store.drop_beats(names)

    async def put_meta(self, values: Mapping[str, str]) -> None:
        await self._store.put_meta(values)

    async def claim_meta(self, values: Mapping[str, str]) -> dict[str, str]:
        return await self._store.claim_meta(values)

    async def close(self) -> None:
        await self._store.close()


class Polls:
    """What the desks have drawn and not committed: since when the oldest is in hand, and how late each was when it was done."""

    def __init__(self, meters: Meters, *, clock_s: Callable[[], float] = time.time) -> None:
        self._meters, self._clock_s = meters, clock_s
        self._open: dict[TP, deque[tuple[float, Callable[[], bool]]]] = {}

    def drawn(self, tp: TP, written_ms: int, ack: Callable[[], Any], is_current: Callable[[], bool]) -> Callable[[], Any]:
        """Note that something is in hand whose oldest record was written at `written_ms`; the ack to call in place of the given one."""
        entry = (self._clock_s(), is_current)
        waiting = self._open.setdefault(tp, deque())
        while waiting and not waiting[0][1]():  # a seek has made it stale: nobody will acknowledge it
            waiting.popleft()
        waiting.append(entry)

        def acked() -> Any:
            if entry in waiting:
                while waiting.popleft() is not entry:
                    pass
            self._meters.score_delay.observe(max(0.0, self._clock_s() - written_ms / 1000))
            return ack()

        return acked

    def oldest_s(self) -> float:
        """Return the age of the oldest poll in hand, 0 if there is none; what a rebalance or a start over has made stale does not count."""
        oldest = [next((handed_s for handed_s, is_current in list(waiting) if is_current()), None) for waiting in list(self._open.values())]
        return max(0.0, self._clock_s() - min((s for s in oldest if s is not None), default=self._clock_s()))
