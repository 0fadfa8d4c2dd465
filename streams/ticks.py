"""Ticks of event time: how a log is cut into them, and when each ends. The publisher of a replay and the offline loop share this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from features.events import KINDS, Event, encode
from features.log import events

KIND_INDEX = {kind: i for i, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Tick:
    """What happens up to `end_ms`: (kind, user_id, value) in the log's order."""

    end_ms: int
    records: tuple[tuple[int, str, bytes], ...]


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


def with_end(ticks: Iterable[Tick], tail_ms: int) -> Iterator[Tick]:
    """Yield the ticks, then an empty one `tail_ms` after the last, at which every exposure is final."""
    end_ms = 0
    for tick in ticks:
        end_ms = tick.end_ms
        yield tick
    if end_ms:
        yield Tick(end_ms + tail_ms, ())


def _ts(event: Event) -> int:
    assert isinstance(event.ts, int)
    return event.ts
