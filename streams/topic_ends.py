"""Reading partitions to where they end, with an end to patience: kafka-python polls a broker that is gone for ever, and says nothing of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from kafka import TopicPartition

from features.errors import DependencyDown

SILENT_S: Final = 15.0
POSITION_MS: Final = 100  # else it waits for ever for a partition without a leader
NAMED: Final = 8


class Unread:
    """Which of a consumer's partitions are not read to their end yet, asked after each poll. The end is what fetches say: the embedded broker's answer to a question for it can lag behind."""

    def __init__(self, consumer: Any, tps: Sequence[TopicPartition], broker: str) -> None:
        self._consumer, self._tps, self._broker = consumer, tps, broker
        self._where: list[tuple[int | None, int | None]] = []
        self._since_s = time.monotonic()

    def left(self) -> list[TopicPartition]:
        """Return them. Raises DependencyDown where none has moved for long."""
        where = [self._at(tp) for tp in self._tps]
        left = [tp for tp, (position, end) in zip(self._tps, where, strict=True) if position is None or end is None or position < end]
        if where != self._where:
            self._where, self._since_s = where, time.monotonic()
        elif left and time.monotonic() - self._since_s > SILENT_S:
            names = ", ".join(f"{tp.topic}[{tp.partition}]" for tp in left[:NAMED])
            raise DependencyDown(f"the broker at {self._broker} has sent nothing of {names} for {SILENT_S:.0f} s: is it down, or are they without a leader?")
        return left

    def _at(self, tp: TopicPartition) -> tuple[int | None, int | None]:
        end = self._consumer.highwater(tp)
        return (None if end is None else self._consumer.position(tp, timeout_ms=POSITION_MS)), end
