"""Ticks of event time, and when each ends. The publisher of a replay and the offline loop share this; `streams.cutting` cuts logs into them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """What happens up to `end_ms`: (kind, user_id, value) in the log's order."""

    end_ms: int
    records: tuple[tuple[int, str, bytes], ...]


def with_end(ticks: Iterable[Tick], tail_ms: int) -> Iterator[Tick]:
    """Yield the ticks, then an empty one `tail_ms` after the last, at which every exposure is final."""
    end_ms = 0
    for tick in ticks:
        end_ms = tick.end_ms
        yield tick
    if end_ms:
        yield Tick(end_ms + tail_ms, ())
