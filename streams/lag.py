"""How far partitions are behind, asked of Kafka: for partitions that no live worker speaks for. The rest is in the workers' signs of life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from features.errors import DependencyDown, HeadstartError
from features.events import KINDS
from streams.kafka_access import client_config, consumer_config
from streams.partition import Cursor
from streams.settings import Settings
from streams.topics import broker_names, require_reachable

AGAIN_S: Final = 5.0


class LagReader:
    """Asks where the event topics end, at most every five seconds, in a thread: it may wait long for a broker that is down."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = broker_names(settings.topic_prefix, settings.topic_names)
        self._ends: dict[tuple[str, int], int] = {}
        self._asked_s = -AGAIN_S
        self._failed: HeadstartError | None = None
        self._asking = asyncio.Lock()

    async def lags(self, cursors: Mapping[int, Cursor]) -> dict[int, int]:
        """Return {partition: records that are not worked off}. Raises DependencyDown, until it is asked again."""
        async with self._asking:
            if time.monotonic() - self._asked_s >= AGAIN_S:
                self._asked_s, self._failed = time.monotonic(), None
                try:
                    self._ends = await asyncio.to_thread(self._ask, sorted(cursors))
                except HeadstartError as error:
                    self._failed = error
            if self._failed is not None:
                raise self._failed
        return {
            p: sum(max(0, self._ends[self._names[kind], p] - offset) for kind, offset in zip(KINDS, cursor.offsets, strict=True))
            for p, cursor in cursors.items()
            if all((self._names[kind], p) in self._ends for kind in KINDS)
        }

    def _ask(self, partitions: list[int]) -> dict[tuple[str, int], int]:
        require_reachable(self._settings.broker, client_config(self._settings), timeout_s=2.0)
        try:
            consumer: Any = KafkaConsumer(**{**consumer_config(self._settings), "request_timeout_ms": 5_000})
            try:
                wanted = [TopicPartition(self._names[kind], p) for kind in KINDS for p in partitions]
                return {(tp.topic, tp.partition): int(end) for tp, end in consumer.end_offsets(wanted).items()}
            finally:
                consumer.close()
        except KafkaError as error:
            raise DependencyDown(f"the broker at {self._settings.broker} does not answer: {error}") from None
