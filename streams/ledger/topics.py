"""Reading topics to a fixed end, partition by partition: raw records, as fast as the broker gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from features.errors import DependencyDown, Mismatch
from streams.kafka_access import client_config
from streams.settings import Settings
from streams.topics import broker_names, require_reachable

POLL_MS: Final = 500
SILENT_POLLS: Final = 60  # then the broker is down
MOST: Final = 20_000

Record: TypeAlias = Any  # an aiokafka ConsumerRecord of bytes


@dataclass
class Topics:
    """The topics of a namespace, by their plain names, and the logs' bounds as they were at the beginning."""

    consumer: AIOKafkaConsumer
    names: dict[str, str]
    begins: dict[TopicPartition, int]
    ends: dict[TopicPartition, int]

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return sum(tp.topic == self.names[topic] for tp in self.begins)

    def begin(self, topic: str, partition: int) -> int:
        """Return the first offset that the log still has."""
        return self.begins[TopicPartition(self.names[topic], partition)]

    def end(self, topic: str, partition: int) -> int:
        """Return the offset after the last one of the log (the embedded broker may say less)."""
        return self.ends[TopicPartition(self.names[topic], partition)]

    async def read(self, topic: str, partition: int, *, start: int = 0, end: int | None = None) -> AsyncIterator[Sequence[Record]]:
        """Yield the records from `start` (or the log's first) to below `end`, or to where the log ended. Raises DependencyDown."""
        tp = TopicPartition(self.names[topic], partition)
        first, known = max(start, self.begins[tp]), self.ends[tp] if end is None else end
        if known <= first:
            return
        try:
            self.consumer.assign([tp])
            self.consumer.seek(tp, first)
            fixed, silent = end is not None, 0
            while True:
                found = (await self.consumer.getmany(tp, timeout_ms=POLL_MS, max_records=MOST)).get(tp, [])
                if not fixed and (told := self.consumer.highwater(tp)) is not None:
                    known, fixed = max(known, told), True  # the embedded broker's answer to a question for the end can lag behind
                silent = 0 if found else silent + 1
                if found and found[-1].offset >= known:
                    found = [record for record in found if record.offset < known]
                if found:
                    yield found
                if await self.consumer.position(tp) >= known:
                    return
                if silent > SILENT_POLLS:
                    raise DependencyDown(f"the broker has not answered for {SILENT_POLLS * POLL_MS / 1000:g} s")
        except KafkaError as error:
            raise DependencyDown(f"the broker does not answer: {error or type(error).__name__}") from None


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Topics]:
    """Connect to the settings' broker. Raises DependencyDown, and Mismatch if a topic is missing."""
    access = client_config(settings)
    require_reachable(settings.broker, access)
    names = broker_names(settings.topic_prefix, settings.topic_names)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.broker, enable_auto_commit=False, max_partition_fetch_bytes=8 * 1_048_576, fetch_max_wait_ms=20, request_timeout_ms=40_000,
        **access,
    )  # fmt: skip
    try:
        await consumer.start()
        known = await consumer._client.fetch_all_metadata()
        tps = []
        for name in names.values():
            there = known.partitions_for_topic(name)
            if not there:
                raise Mismatch(f"the topic {name} is missing: create the topics with `headstart topics create`")
            tps += [TopicPartition(name, p) for p in sorted(there)]
        yield Topics(consumer, names, await consumer.beginning_offsets(tps), await consumer.end_offsets(tps))
    except KafkaError as error:
        raise DependencyDown(f"the broker at {settings.broker} does not answer: {error}") from None
    finally:
        await consumer.stop()
