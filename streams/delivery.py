"""How records go out: in batches, one after the other for each partition, and a wait until the broker has all of them. Nothing is acknowledged before.

Batches are built here record by record; handing each record to the producer costs three times as much. The order within a partition is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import faust
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.transport.drivers.aiokafka import Producer

from features.errors import DependencyDown, InputError
from features.hashing import partitions_for
from streams.records import Outgoing

MAX_RECORD_BYTES: Final = 1_000_000
"""The largest record that is sent, with key and headers; Kafka's own default limit is 1 048 588 for a batch."""


async def deliver(app: faust.App, records: Sequence[Outgoing], *, names: Mapping[str, str], timeout_s: float = 30.0) -> None:
    """Send the records, whose topics are called `names[topic]` on the broker, in their order, and return when the broker has every one of them (acks of all in-sync replicas).

    Raises InputError if a record is larger than this producer or the broker takes, or names a partition that its topic lacks;
    DependencyDown if the broker has not confirmed all of them within timeout_s. Either way some of the records may have been, or
    still come to be, delivered: sending all of them again makes duplicates, never holes.
    """
    producer = _producer(app)
    sent: list[tuple[str, asyncio.Future[object]]] = []
    topic = ""
    try:
        async with asyncio.timeout(timeout_s):
            for name, of_topic in _by_topic(records).items():
                topic = names[name]
                known = await _partitions(producer, topic)
                for partition, group in _shared_out(topic, of_topic, known).items():
                    if any(record.headers for record in group):  # rejects: rare, and too large for a batch
                        for r in group:
                            sent.append((topic, await producer.send(topic, r.value, key=r.key, partition=partition, headers=list(r.headers))))
                        continue
                    for batch in _batches(producer, topic, group):
                        sent.append((topic, await producer.send_batch(batch, topic, partition=partition)))
            for topic, future in sent:  # noqa: B007 - the errors below name it
                await future
    except MessageSizeTooLargeError as error:
        raise InputError(f"a record for {topic} is too large for the broker: {error}") from None
    except TimeoutError:
        raise DependencyDown(f"the broker did not confirm all of {len(records)} records within {timeout_s:g} s") from None
    except KafkaError as error:
        raise DependencyDown(f"the broker did not take a record for {topic}: {str(error) or type(error).__name__}") from None
    finally:
        for _, future in sent:
            # Else asyncio reports each failure that nobody looked at.
            future.add_done_callback(_seen)


def _by_topic(records: Iterable[Outgoing]) -> dict[str, list[Outgoing]]:
    found: dict[str, list[Outgoing]] = {}
    for record in records:
        found.setdefault(record.topic, []).append(record)
    return found


def _shared_out(topic: str, records: list[Outgoing], known: set[int]) -> dict[int, list[Outgoing]]:
    """Return the records of each partition: the one that they name, or that of their key, as every client of Kafka's own rule has it."""
    if unknown := {record.partition for record in records if record.partition is not None} - known:
        raise InputError(f"topic {topic} has no partition {min(unknown)}")
    if len(known) == 1:
        return {next(iter(known)): records}
    places = partitions_for([record.key or b"" for record in records], len(known)).tolist()
    found: dict[int, list[Outgoing]] = {}
    for record, place in zip(records, places, strict=True):
        found.setdefault(place if record.partition is None else record.partition, []).append(record)
    return found


def _batches(producer: AIOKafkaProducer, topic: str, records: list[Outgoing]) -> Iterator[BatchBuilder]:
    now_ms = time.time_ns() // 1_000_000
    if large := next((r for r in records if len(r.value or b"") + len(r.key or b"") > MAX_RECORD_BYTES), None):
        raise InputError(f"a record for {topic} is too large: {len(large.value or b'')} bytes, at most {MAX_RECORD_BYTES} are sent")
    left = iter(records)
    record = next(left, None)
    while record is not None:
        batch = producer.create_batch()
        append, no_headers, n = batch._builder.append, list[Any](), 0  # what `batch.append` calls, in two thirds of the time
        while record is not None and append(n, now_ms, record.key, record.value, no_headers) is not None:
            record, n = next(left, None), n + 1
        batch._relative_offset = n
        batch.close()
        yield batch


async def _partitions(producer: AIOKafkaProducer, topic: str) -> set[int]:
    known: set[int] | None = producer.client.cluster.partitions_for_topic(topic)
    return known if known is not None else await producer.partitions_for(topic)


def _seen(future: asyncio.Future[object]) -> None:
    if not future.cancelled():
        future.exception()


def _producer(app: faust.App) -> AIOKafkaProducer:
    producer = app.producer
    if not isinstance(producer, Producer) or producer._producer is None:
        raise DependencyDown("the producer is not connected to the broker")
    return producer._producer
