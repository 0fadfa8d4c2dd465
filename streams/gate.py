"""What a partition may work off next: a whole tick in a replay, what has come and in which order live. Pure: time is an argument.

A gate holds what was read of the four topics of one partition and not yet worked off. `next` returns a `Portion` or None.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from features.errors import HeadstartError, InputError
from features.events import Refused, milliseconds
from streams.partition import TOPICS
from streams.records import Received

PORTION = 2_000
STALE_MS = 3_000
FUTURE_MS = 300_000


@dataclass(frozen=True)
class Portion:
    """Records to work off together, and the offsets (4,) that follow them. `tick_end_ms` closes a tick, `time_ms` is the partition's time."""

    records: list[Received]
    offsets: list[int]
    tick_end_ms: int | None
    time_ms: int = 0


@dataclass(frozen=True)
class End:
    """Where the log of one topic ends, as the broker last said at wall clock `as_of_ms`."""

    offset: int
    as_of_ms: int


class Gate:
    """The four queues of a partition, from the cursor's offsets on."""

    def __init__(self, offsets: Sequence[int]) -> None:
        self.queues: list[deque[Received]] = [deque() for _ in range(TOPICS)]
        self.next_offsets = list(offsets)  # of each topic, the next one to be read
        self.taken = list(offsets)  # of each topic, the next one to be worked off

    def add(self, kind: int, records: Sequence[Received], next_offset: int) -> None:
        """Queue what was read of one topic."""
        if records and records[0].offset < self.next_offsets[kind]:
            records = [r for r in records if r.offset >= self.next_offsets[kind]]
        self.queues[kind].extend(records)
        self.next_offsets[kind] = max(self.next_offsets[kind], next_offset)

    def skip(self, kind: int, first: int) -> None:
        """Go on at the offset `first`: what was before is gone."""
        self.next_offsets[kind] = max(self.next_offsets[kind], first)
        self.taken[kind] = max(self.taken[kind], first)

    def waits_for(self, kind: int) -> bool:
        """Whether more of a topic must be read, however much of it is held."""
        return False

    def held(self, kind: int) -> int:
        """Return how many records of one topic are waiting."""
        return len(self.queues[kind])


class ReplayGate(Gate):
    """Gives a tick when its tick record has come on all four topics."""

    def __init__(self, offsets: Sequence[int], *, max_tick_events: int) -> None:
        super().__init__(offsets)
        self._max = max_tick_events
        self._ticks: list[deque[tuple[int, int]]] = [deque() for _ in range(TOPICS)]

    def add(self, kind: int, records: Sequence[Received], next_offset: int) -> None:
        """Queue what was read, and note the tick records in it."""
        self._ticks[kind].extend((r.tick_ms, r.offset) for r in records if r.tick_ms is not None and r.offset >= self.next_offsets[kind])
        super().add(kind, records, next_offset)

    def waits_for(self, kind: int) -> bool:
        """Whether more of a topic must be read before a tick is whole."""
        return not self._ticks[kind]

    def next(self) -> Portion | None:
        """Return the next whole tick. Raises InputError when it holds more events than the setting allows."""
        if not all(self._ticks):
            if sum(len(queue) for queue, ticks in zip(self.queues, self._ticks, strict=True) if not ticks) > self._max:
                raise InputError(f"a tick holds more than {self._max} events of one partition: replay with shorter ticks (replay_tick_ms)")
            return None
        ends = {ticks[0][0] for ticks in self._ticks}
        if len(ends) != 1:
            raise HeadstartError(f"the topics of a replay differ in their ticks: {sorted(ends)}; publish the log again into a fresh namespace")
        records: list[Received] = []
        for kind, queue in enumerate(self.queues):
            _, at = self._ticks[kind].popleft()
            while queue and queue[0].offset < at:
                records.append(queue.popleft())
            queue.popleft()
            self.taken[kind] = at + 1
        if len(records) > self._max:
            raise InputError(f"a tick holds {len(records)} events of one partition, more than {self._max}: replay with shorter ticks (replay_tick_ms)")
        return Portion(records, list(self.taken), ends.pop())


class _Time(msgspec.Struct):
    ts: int | str = 0


_time = msgspec.json.Decoder(_Time)


def _event_ms(record: Received, latest_ms: int) -> int:
    """Return an event's time; what cannot be read, or lies after `latest_ms`, goes first (0), and is refused later."""
    try:
        ts_ms = milliseconds(_time.decode(record.value or b"").ts)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Refused):
        return 0
    return ts_ms if ts_ms <= latest_ms else 0


class LiveGate(Gate):
    """Gives records in the order of their event times across topics while any lags, and tells the partition's time.

    The time is the minimum over the four topics: the wall clock where there is no lag, the event time of the last record taken where
    there is. It never goes back. A topic with lag and nothing fetched is waited for: otherwise browses would be read to their end while
    orders lag, and bins would close as negatives.
    """

    def __init__(self, offsets: Sequence[int], *, tick_ms: int, closed_ms: int, portion: int = PORTION, future_ms: int = FUTURE_MS) -> None:
        super().__init__(offsets)
        self._tick_ms, self._portion, self._future_ms = tick_ms, portion, future_ms
        self._closed_ms = closed_ms
        self._time_ms = closed_ms
        self._last_ms = [0] * TOPICS

    def next(self, now_ms: int, ends: Sequence[End | None]) -> Portion | None:
        """Return what may be worked off now; a portion without records when only a tick ends. `ends` (4,) as far as they are known."""
        if any(end is None or now_ms - end.as_of_ms > STALE_MS for end in ends) and not any(self.queues):
            return None
        unread = [end is not None and end.offset > self.next_offsets[kind] for kind, end in enumerate(ends)]
        records: list[Received] = []
        latest_ms = now_ms + self._future_ms
        heads = [_event_ms(queue[0], latest_ms) if queue else None for queue in self.queues]
        while len(records) < self._portion:
            if any(heads[kind] is None and unread[kind] for kind in range(TOPICS)):
                break
            there = [(ms, kind) for kind, ms in enumerate(heads) if ms is not None]
            if not there:
                break
            ms, kind = min(there)
            queue = self.queues[kind]
            record = queue.popleft()
            records.append(record)
            self.taken[kind] = record.offset + 1
            self._last_ms[kind] = max(self._last_ms[kind], ms)
            heads[kind] = _event_ms(queue[0], latest_ms) if queue else None
        for kind in range(TOPICS):
            if not self.queues[kind]:
                self.taken[kind] = self.next_offsets[kind]
        known = all(end is not None and now_ms - end.as_of_ms <= STALE_MS for end in ends)
        if known:
            lags = [unread[kind] or bool(self.queues[kind]) for kind in range(TOPICS)]
            self._time_ms = max(self._time_ms, min(min(self._last_ms[kind], now_ms) if lags[kind] else now_ms for kind in range(TOPICS)))
        tick_end_ms = self._time_ms // self._tick_ms * self._tick_ms
        ends_tick = tick_end_ms > self._closed_ms
        if not records and not ends_tick:
            return None
        if ends_tick:
            self._closed_ms = tick_end_ms
        return Portion(records, list(self.taken), tick_end_ms if ends_tick else None, self._time_ms)
