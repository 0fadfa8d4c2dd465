"""What the transport hands to the agents: one `Batch` for each (partition, poll), decoded by nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import faust
from aiokafka import ConsumerRecord
from faust.types import TP


class Reading(NamedTuple):
    """How far a partition is read, as the last answer of the broker says."""

    position: int  # the next offset to be drained
    end: int  # the end of the log (its high watermark) at as_of_ms
    as_of_ms: int  # wall clock of the last fetch response for this partition


class Batch:
    """The records of one topic partition that one poll brought: at least one (but for a `mark`), in the order of their offsets."""

    __slots__ = ("end", "epoch", "records", "tp")

    def __init__(self, tp: TP, records: list[ConsumerRecord[bytes | None, bytes | None]], epoch: int, end: int) -> None:
        self.tp = tp
        self.records = records
        self.epoch = epoch
        self.end = end
        """The end of the log when the batch was drained: the batch is the last of it if `next == end`."""

    @property
    def first(self) -> int:
        """The offset of the first record."""
        return int(self.records[0].offset)

    @property
    def next(self) -> int:
        """The offset after the last record: the cursor once the batch is worked off."""
        return int(self.records[-1].offset) + 1

    def mark(self) -> Batch:
        """Return it without its records: what is needed to ask whether it is current, by whoever asks long afterwards."""
        return Batch(self.tp, [], self.epoch, self.end)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<Batch {self.tp.topic}[{self.tp.partition}] {self.first}..{self.next - 1} epoch {self.epoch}>"


class BatchSchema(faust.Schema[Any, Any]):
    """Hands a batch to the agents as it is: Faust decodes nothing, so nothing can fail to decode."""

    def compile(self, app: Any, **_: Any) -> Callable[..., Awaitable[Any]]:
        """Return the decoder of Faust's conductor."""

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return app.create_event(None, message.value, None, message)

        return decode


def batch_topic(app: faust.App, *topics: str) -> Any:
    """Return the channel on which an agent gets the batches of these topics, through one queue."""
    return app.topic(*topics, schema=BatchSchema(), internal=False)
