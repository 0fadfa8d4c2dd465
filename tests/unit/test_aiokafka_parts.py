"""What stands in for private parts of aiokafka does what those of the installed version do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecord, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP

from features.errors import InputError
from streams import consumer_thread
from streams.delivery import _batches
from streams.inflow import RECORD_BYTES, Inflow
from streams.records import Outgoing


def test_what_aiokafka_reads_off_a_batch_is_not_copied() -> None:
    """Records come from its fetcher as they were read, with all that is asked of them; so this copy of a private part still fits the version installed."""
    built = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=10_000
    )  # fmt: skip
    for offset, value in ((0, b"{}"), (1, None)):
        built.append(offset, 1_700_000_000_123, b"user", value, [("h", b"1"), ("empty", None)])
    tp = TopicPartition("browse", 0)
    read = PartitionRecords(tp, MemoryRecords(bytes(built.build())), [], 0, None, None, True, 0)
    fetched = consumer_thread.Fetched()
    fetched[tp] = FetchResult(tp, assignment=None, partition_records=read, backoff=0.1)
    first, second = fetched[tp]._partition_records
    assert type(first) is DefaultRecord
    assert [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in (first, second)] == [
        (offset, 1_700_000_000_123, b"user", value, [("h", b"1"), ("empty", None)]) for offset, value in ((0, b"{}"), (1, None))
    ]
    inflow = Inflow(TP("browse", 0), 0)
    inflow.put([first, second])
    assert inflow.waits().bytes == 2 + 2 * RECORD_BYTES


class _Read:
    """A partition as aiokafka's fetcher knows it: where it is read up to, and whether it may be."""

    def __init__(self) -> None:
        self.active, self.paused, self.position = True, False, 0

    def state_value(self, _: TopicPartition) -> _Read:
        """Its state, which is this."""
        return self

    def consumed_to(self, position: int) -> None:
        """Note how far it was read."""
        self.position = position


def _fetched(*sizes: int, damaged: int | None = None) -> tuple[FetchResult, _Read]:
    """Batches of so many records, of which one may be damaged."""
    data, offset = b"", 0
    for number, size in enumerate(sizes):
        built = DefaultRecordBatchBuilder(
            magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=10_000
        )  # fmt: skip
        for i in range(size):
            built.append(i, 1_700_000_000_123, b"user", b"%d" % (offset + i), [])
        batch = bytearray(built.build())
        batch[:8] = offset.to_bytes(8, "big")
        if number == damaged:
            batch[-1] ^= 1
        data, offset = data + bytes(batch), offset + size
    tp, read = TopicPartition("browse", 0), _Read()
    return FetchResult(tp, assignment=read, partition_records=PartitionRecords(tp, MemoryRecords(data), [], 0, None, None, True, 0), backoff=0.1), read


@pytest.mark.parametrize("most", [1, 2, 3, 5, 6, 7, 100])
@pytest.mark.parametrize(("sizes", "damaged"), [((6,), None), ((3, 3), None), ((1, 4, 1), None), ((3, 3), 1), ((2, 4), 0)])
@pytest.mark.parametrize("trouble", ["", "paused", "moved", "given away"])
def test_what_was_fetched_is_drained_as_aiokafka_does_it(most: int, sizes: tuple[int, ...], damaged: int | None, trouble: str) -> None:
    """So many at a time, up to a damaged batch and beyond, and nothing of a partition that may not be read or was sought meanwhile; the position alike."""
    said = []
    for ours in (False, True):
        fetched, read = _fetched(*sizes, damaged=damaged)
        if ours:
            consumer_thread.Fetched()[TopicPartition("browse", 0)] = fetched
        told: list[object] = []
        for drain in range(8):
            if drain == 1:
                read.paused, read.active = trouble == "paused", trouble != "given away"
                read.position += trouble == "moved"
            try:
                records = fetched.getall(most)
            except CorruptRecordException:
                told.append("damaged")
            else:
                told.append([(r.offset, r.value) for r in records])
            told.append(read.position)
            if not fetched.has_more():  # then it is dropped
                break
        said.append(told)
    assert said[0] == said[1]
    assert said[0][0]


def test_a_group_of_records_leaves_in_as_many_batches_as_it_takes() -> None:
    """Each record once and in order, whatever its size, one that is larger than a batch alone; a batch that is full is closed."""
    producer = SimpleNamespace(create_batch=lambda: BatchBuilder(10_000, 0))
    sizes = [100, 4_000, 5_000, 3_000, 900_000, 10, 9_000, 9_500, 0, 1]
    records = [Outgoing("scores", b"user%d" % i, bytes([i]) * size) for i, size in enumerate(sizes)]
    batches = list(_batches(cast(Any, producer), "scores", records))
    assert all(batch.record_count() and batch.closed() for batch in batches)
    read = [(r.key, r.value) for batch in batches for r in _of(bytes(batch._build()))]
    assert read == [(record.key, record.value) for record in records]
    assert sum(batch.record_count() for batch in batches) == len(records)
    assert 4 <= len(batches) < len(records)
    assert list(_batches(cast(Any, producer), "scores", [])) == []
    with pytest.raises(InputError, match="1000001 bytes"):
        list(_batches(cast(Any, producer), "scores", [*records, Outgoing("scores", None, bytes(1_000_001))]))


def _of(built: bytes) -> list[DefaultRecord]:
    batch = MemoryRecords(built).next_batch()
    assert batch is not None
    return list(cast(Any, batch))
