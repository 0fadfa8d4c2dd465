"""How a log is cut into ticks. Apart from them, since a worker makes ticks too when it warms up, and Arrow would take 26 MB of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from features.events import KINDS, Event, encode
from features.log import events
from streams.ticks import Tick

KIND_INDEX = {kind: i for i, kind in enumerate(KINDS)}


def cut(log: pa.Table | Iterable[pa.Table], tick_ms: int) -> Iterator[Tick]:
    """Yield the ticks of a log that is in order, or of the tables that make it up. Times without events join the next tick that has some."""
    end_ms, records = 0, list[tuple[int, str, bytes]]()
    tables = (log,) if isinstance(log, pa.Table) else log
    for kind, event in (one for table in tables for one in events(table)):
        ts_ms = _ts(event)
        if ts_ms >= end_ms:
            if records:
                yield Tick(end_ms, tuple(records))
                records = []
            end_ms = (ts_ms // tick_ms + 1) * tick_ms
        records.append((KIND_INDEX[kind], event.user_id, encode(event)))
    if records:
        yield Tick(end_ms, tuple(records))


def _ts(event: Event) -> int:
    assert isinstance(event.ts, int)
    return event.ts
