"""How the load gets to Kafka: as any user of kafka-python sends, or many thousand records a second, in batches, and again until the broker has them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from kafka import KafkaProducer
from kafka.errors import KafkaError

Told = Callable[[bool], None]


class Record(NamedTuple):
    """What is to be sent, where to, and who is told whether the broker has it."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    told: Told


class Pipe(Protocol):
    """Takes records from one thread at a time."""

    def send(self, record: Record) -> None:
        """Send it, sooner or later."""

    def flush(self, timeout_s: float) -> None:
        """Return when nothing is under way any more."""

    def close(self) -> None:
        """End, whatever is under way."""


class Plain:
    """kafka-python's idempotent producer; some 3 000 records a second at most."""

    def __init__(self, address: str) -> None:
        self._producer = KafkaProducer(
            bootstrap_servers=address.split(","), acks="all", enable_idempotence=True, linger_ms=20, allow_auto_create_topics=False,
            delivery_timeout_ms=180_000, request_timeout_ms=15_000, max_block_ms=180_000, max_request_size=2_097_152, bootstrap_timeout_ms=30_000,
        )  # fmt: skip

    def send(self, record: Record) -> None:
        future = self._producer.send(record.topic, key=record.key, value=record.value, partition=record.partition)
        future.add_callback(lambda _: record.told(True))
        future.add_errback(lambda _: record.told(False))

    def flush(self, timeout_s: float) -> None:
        self._producer.flush(timeout=timeout_s)

    def close(self) -> None:
        try:
            self._producer.close(timeout=5)
        except KafkaError:
            self._producer._sender.force_close()


class Bulk:
    """aiokafka's batches, in a thread of its own. Idempotent; what the broker has not confirmed after minutes is sent anew, and may come twice. Each partition keeps its order."""

    ROUND_S, PAUSE_S = 0.02, 0.5

    def __init__(self, address: str) -> None:
        self._address, self._lock, self._ended = address, threading.Lock(), False
        self._waiting: dict[tuple[str, int], list[Record]] = {}
        self._under_way = 0
        self._connected: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), daemon=True)
        self._thread.start()
        self._connected.result(60)

    def send(self, record: Record) -> None:
        with self._lock:
            self._waiting.setdefault((record.topic, record.partition), []).append(record)
            self._under_way += 1

    def flush(self, timeout_s: float) -> None:
        give_up_s = time.monotonic() + timeout_s
        while self._under_way:
            if time.monotonic() > give_up_s or not self._thread.is_alive():
                raise TimeoutError(f"{self._under_way} records are not on Kafka after {timeout_s:g} s")
            time.sleep(0.02)

    def close(self) -> None:
        self._ended = True
        self._thread.join(30)

    async def _work(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._address, acks="all", max_batch_size=1_000_000, max_request_size=2_000_000, request_timeout_ms=15_000
        )
        try:
            await producer.start()
        except BaseException as error:
            self._connected.set_exception(error)
            raise
        self._connected.set_result(None)
        try:
            while not self._ended:
                with self._lock:
                    some, self._waiting = self._waiting, {}
                await asyncio.gather(*(self._deliver(producer, *place, records) for place, records in some.items()))
                await asyncio.sleep(self.ROUND_S)
        finally:
            await asyncio.wait_for(producer.stop(), 10)

    async def _deliver(self, producer: AIOKafkaProducer, topic: str, partition: int, records: list[Record]) -> None:
        while records and not self._ended:
            batch, taken = _batch(producer, records)
            try:
                await (await producer.send_batch(batch, topic, partition=partition))
            except Exception:  # noqa: BLE001  whatever it was: again
                await asyncio.sleep(self.PAUSE_S)
                continue
            for record in records[:taken]:
                record.told(True)
            records = records[taken:]
            with self._lock:
                self._under_way -= taken


def _batch(producer: AIOKafkaProducer, records: list[Record]) -> tuple[BatchBuilder, int]:
    batch, now_ms = producer.create_batch(), time.time_ns() // 1_000_000
    for taken, record in enumerate(records):
        if batch.append(timestamp=now_ms, key=record.key, value=record.value) is None:
            return batch, taken
    return batch, len(records)
