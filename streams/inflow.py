"""What the transport hands to the agents: the inflow of a partition, whose raw records they take when they are ready for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import faust
from faust.types import TP

RECORD_BYTES = 320  # what a record takes beside its value


class Record(Protocol):
    """What aiokafka reads off a batch."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Reading(NamedTuple):
    """How far a partition is read, as the last answer of the broker says."""

    position: int  # the next offset to be drained
    end: int  # the end of the log (its high watermark) at as_of_ms
    as_of_ms: int  # wall clock of the last fetch response for this partition


class Waits(NamedTuple):
    """What is drained of a partition, and what of it nobody has taken."""

    upto: int = 0  # the offset after the last record that was drained since the last seek; 0 if none was. A position may be higher: not all offsets are records
    records: int = 0
    bytes: int = 0  # about, in memory
    since_s: float | None = None  # monotonic time at which the first of them was drained; None if none waits


class Inflow:
    """What comes of one topic partition from one seek to the next, in the order of its offsets: the consumer's thread puts in, the app takes out.

    The app is told that something has come, once until it takes; whoever takes has all that is there by then.
    """

    __slots__ = ("_lock", "_records", "_since_s", "_told", "_upto", "bytes", "listener", "next", "reading", "tp")

    def __init__(self, tp: TP, offset: int) -> None:
        self.tp, self.next = tp, offset
        """`next`: the offset that comes after what was put in."""
        self.bytes = 0
        self.listener: Callable[[], Any] | None = None
        """Who is told that something has come, on the app's loop; an agent if nobody is."""
        self.reading: Reading | None = None
        """As of the last drain, and set before its records are put in: who sees a record sees a reading that is no older."""
        self._records: list[Record] = []
        self._upto, self._since_s, self._told = 0, 0.0, False
        self._lock = threading.Lock()

    def put(self, records: list[Record]) -> bool:
        """Add what follows; whether the app is to be told."""
        size, now_s = sum([len(r.value or b"") + RECORD_BYTES for r in records]), time.monotonic()
        with self._lock:
            self._since_s = self._since_s if self._records else now_s
            self._records += records
            self.bytes += size
            self.next = self._upto = int(records[-1].offset) + 1
            tell, self._told = not self._told, True
            return tell

    def take(self) -> tuple[list[Record], int]:
        """Return all that was put in since the last time, and about how many bytes it takes in memory."""
        with self._lock:
            records, size, self._records = self._records, self.bytes, []
            self.bytes, self._told = 0, False
            return records, size

    def waits(self) -> Waits:
        """Return what waits, in one moment. Callable from any thread."""
        with self._lock:
            return Waits(self._upto, len(self._records), self.bytes, self._since_s if self._records else None)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"<Inflow {self.tp.topic}[{self.tp.partition}] to {self.next}, {len(self)} wait>"


class InflowSchema(faust.Schema[Any, Any]):
    """Hands an inflow to the agents as it is: Faust decodes nothing, so nothing can fail to decode."""

    def compile(self, app: Any, **_: Any) -> Callable[..., Awaitable[Any]]:
        """Return the decoder of Faust's conductor."""

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return app.create_event(None, message.value, None, message)

        return decode


def inflow_topic(app: faust.App, *topics: str) -> Any:
    """Return the channel on which an agent hears of what comes of these topics, through one queue."""
    return app.topic(*topics, schema=InflowSchema(), internal=False)
