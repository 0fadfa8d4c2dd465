"""Send events to Kafka as live events, and be sure that the broker has them.

Records carry the time of sending as their Kafka timestamp, never the event's own: a broker deletes by that timestamp, and would drop an
old log as soon as it came in.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from kafka import KafkaProducer
from kafka.errors import KafkaError

from features.errors import DependencyDown, Mismatch
from features.events import KINDS, Event, encode
from streams.topics import partition_counts, require_reachable
from streams.tracing import Published

IN_FLIGHT: Final = 20_000  # records; kafka-python itself sets no bound to what waits in memory
MAX_RECORD_BYTES: Final = 2_097_152
PROGRESS_EVERY: Final = 1_000


class Outgoing(NamedTuple):
    """A record to be sent to the topic of `kind`; its key says the partition, unless one is given."""

    kind: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class _Sent(NamedTuple):
    """What was handed to the producer, and when (monotonic)."""

    future: Any
    at_s: float


def publish_events(
    broker: str,
    events: Iterable[tuple[str, Event]],
    topics: Mapping[str, str],
    *,
    client_config: Mapping[str, object] | None = None,
    progress: Callable[[int], None] | None = None,
    delivery_timeout_s: float = 30.0,
    traces: Published | None = None,
) -> dict[str, int]:
    """Send (kind, event) pairs in order, keyed by user_id; see `publish_records`."""
    records = (Outgoing(kind, event.user_id.encode(), encode(event)) for kind, event in events)
    return publish_records(broker, records, topics, client_config=client_config, progress=progress, delivery_timeout_s=delivery_timeout_s, traces=traces)


def publish_records(
    broker: str,
    records: Iterable[Outgoing],
    topics: Mapping[str, str],
    *,
    client_config: Mapping[str, object] | None = None,
    progress: Callable[[int], None] | None = None,
    delivery_timeout_s: float = 30.0,
    traces: Published | None = None,
) -> dict[str, int]:
    """Send records and return how many of each kind the broker has; returns only when it has all of them.

    `topics` maps each of `KINDS` to its name on the broker. Order within a partition is the order given, each record once: the producer is
    idempotent and waits for all in-sync replicas. `progress` gets the number sent so far, now and then. Raises Mismatch if a topic is missing
    or the topics differ in their partitions, DependencyDown if a record was not delivered within `delivery_timeout_s`.
    """
    _require_topics(broker, topics, client_config)
    counts = dict.fromkeys(KINDS, 0)
    waiting: deque[_Sent] = deque()
    limit_ms = int(delivery_timeout_s * 1000)
    config = {
        "bootstrap_servers": broker.split(","),
        "acks": "all",
        "enable_idempotence": True,
        "linger_ms": 20,
        "batch_size": 131_072,
        "max_request_size": MAX_RECORD_BYTES,
        "allow_auto_create_topics": False,
        "bootstrap_timeout_ms": 10_000,
        "request_timeout_ms": min(10_000, limit_ms // 2),
        "delivery_timeout_ms": limit_ms,
        "max_block_ms": limit_ms,
        **(client_config or {}),
    }
    confirmed = sent = 0
    producer = None
    try:
        producer = KafkaProducer(**config)
        for sent, record in enumerate(records, 1):
            counts[record.kind] += 1
            trace = traces.begin(record.kind, record.key) if traces is not None else None
            headers = [*record.headers, *(trace[0] if trace is not None else ())]
            future = producer.send(topics[record.kind], key=record.key, value=record.value, partition=record.partition, headers=headers)
            now_s = time.monotonic()
            waiting.append(_Sent(future, now_s))
            if trace is not None:
                future.add_both(lambda _, end=trace[1]: end())
            # A source that goes on for long must not be read on past a record that was not delivered: kafka-python itself may never tell.
            while waiting and (waiting[0].future.is_done or now_s - waiting[0].at_s > delivery_timeout_s):
                confirmed += _confirm(waiting, 1, 0.0)
            if len(waiting) >= IN_FLIGHT:
                confirmed += _confirm(waiting, IN_FLIGHT // 2, delivery_timeout_s)
            if progress is not None and sent % PROGRESS_EVERY == 0:
                progress(sent)
        producer.flush(timeout=delivery_timeout_s)
        confirmed += _confirm(waiting, len(waiting), delivery_timeout_s)
    except (KafkaError, OSError) as error:
        confirmed += sum(sent.future.succeeded() for sent in waiting)
        raise DependencyDown(f"the broker at {broker} has {confirmed} of {sent} records for certain, then: {error or type(error).__name__}") from None
    finally:
        if producer is not None:
            _close(producer, 0 if waiting else 5)
    if progress is not None:
        progress(sent)
    return counts


def _close(producer: Any, timeout_s: float) -> None:
    try:
        producer.close(timeout=timeout_s)
    except KafkaError:
        # kafka-python then leaves its thread running, which would try to connect for ever.
        producer._sender.force_close()
        producer._sender.join(5.0)


def _confirm(waiting: deque[_Sent], number: int, timeout_s: float) -> int:
    """Wait until the oldest `number` records are on the broker; a KafkaError says that one is not."""
    for _ in range(number):
        waiting[0].future.get(timeout=timeout_s)
        waiting.popleft()
    return number


def _require_topics(broker: str, topics: Mapping[str, str], client_config: Mapping[str, object] | None) -> None:
    require_reachable(broker, client_config)
    counts = partition_counts(broker, [topics[kind] for kind in KINDS], client_config=client_config)
    missing = [topics[kind] for kind in KINDS if topics[kind] not in counts]
    if missing:
        raise Mismatch(f"the broker at {broker} has no topic {', '.join(missing)}; create it with `headstart topics create --broker {broker}`")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise Mismatch(f"the event topics must have the same number of partitions, but {found}")


def numbered_lines(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line without its end) for each line that is not blank."""
    for number, line in enumerate(stream, 1):
        stripped = line.strip()
        if stripped:
            yield number, stripped
