"""What a partition may work off next: a whole tick in a replay, what has come and in which order live. Pure: time is an argument.

A gate holds what was read of the four topics of one partition and not yet worked off. `next` returns a `Portion` or None.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from features.errors import HeadstartError, InputError
from streams.partition import TOPICS
from streams.records import Received

PORTION = 4_000
AHEAD, LEAST_AHEAD = 1.25, 64
"""How many records of a topic are looked at for a portion: so many times its share of the last one, and so many more."""
RECORD_BYTES = 800  # what a waiting record takes beside its value: the event that was decoded from it
STALE_MS = 3_000
FUTURE_MS = 300_000


@dataclass(frozen=True)
class Portion:
    """Records to work off together, and the offsets (4,) that follow them. `tick_end_ms` closes a tick, `time_ms` is the partition's time.

    Delay bins close that are due at the tick's end, or by `due_ms`, before it ends.
    """

    records: list[Received]
    offsets: list[int]
    tick_end_ms: int | None
    time_ms: int = 0
    due_ms: int | None = None


@dataclass(frozen=True)
class End:
    """Where the log of one topic ends, as the broker last said at wall clock `as_of_ms`."""

    offset: int
    as_of_ms: int


def are_known(ends: Sequence[End | None], now_ms: int) -> bool:
    """Whether it is known, and fresh, where all topics end."""
    return all(end is not None and now_ms - end.as_of_ms <= STALE_MS for end in ends)


class Gate:
    """The four queues of a partition, from the cursor's offsets on."""

    def __init__(self, offsets: Sequence[int]) -> None:
        self.queues: list[list[Received]] = [[] for _ in range(TOPICS)]
        self.next_offsets = list(offsets)  # of each topic, the next one to be read
        self.taken = list(offsets)  # of each topic, the next one to be worked off
        self._polls: list[deque[tuple[int, int]]] = [deque() for _ in range(TOPICS)]  # (next offset, bytes) of each poll that is not wholly taken

    def add(self, kind: int, records: Sequence[Received], next_offset: int) -> Sequence[Received]:
        """Queue what was read of one topic; returns what of it had not been read before."""
        if records and records[0].offset < self.next_offsets[kind]:
            records = [r for r in records if r.offset >= self.next_offsets[kind]]
        self.queues[kind].extend(records)
        while self._polls[kind] and self._polls[kind][0][0] <= self.taken[kind]:
            self._polls[kind].popleft()
        self._polls[kind].append((next_offset, sum([len(r.value or b"") + RECORD_BYTES for r in records])))
        self.next_offsets[kind] = max(self.next_offsets[kind], next_offset)
        return records

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

    def held_bytes(self, kind: int) -> int:
        """Return about how much memory they take; of a poll that is taken in part, all of it counts."""
        return sum(size for upto, size in list(self._polls[kind]) if upto > self.taken[kind])


class ReplayGate(Gate):
    """Gives a tick when its tick record has come on all four topics."""

    def __init__(self, offsets: Sequence[int], *, max_tick_events: int) -> None:
        super().__init__(offsets)
        self._max = max_tick_events
        self._ticks: list[deque[tuple[int, int]]] = [deque() for _ in range(TOPICS)]

    def add(self, kind: int, records: Sequence[Received], next_offset: int) -> Sequence[Received]:
        """Queue what was read, and note the tick records in it."""
        self._ticks[kind].extend((r.tick_ms, r.offset) for r in records if r.tick_ms is not None and r.offset >= self.next_offsets[kind])
        return super().add(kind, records, next_offset)

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
            n = bisect_left(queue, at, key=lambda r: r.offset)
            records += queue[:n]
            del queue[: n + 1]
            self.taken[kind] = at + 1
        if len(records) > self._max:
            raise InputError(f"a tick holds {len(records)} events of one partition, more than {self._max}: replay with shorter ticks (replay_tick_ms)")
        return Portion(records, list(self.taken), ends.pop())


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
        self._times: list[list[int]] = [[] for _ in range(TOPICS)]  # of the records in the queues; 0 for one that has none
        self._shares = [1.0] * TOPICS  # of each topic in the last portion

    def add(self, kind: int, records: Sequence[Received], next_offset: int) -> Sequence[Received]:
        """Queue what was read, and note its times."""
        new = super().add(kind, records, next_offset)
        self._times[kind].extend([0 if (arrived := r.arrived) is None else arrived.ts_ms for r in new])
        return new

    def next(self, now_ms: int, ends: Sequence[End | None]) -> Portion | None:
        """Return what may be worked off now; a portion without records when only a tick ends. `ends` (4,) as far as they are known."""
        if any(end is None or now_ms - end.as_of_ms > STALE_MS for end in ends) and not any(self.queues):
            return None
        unread = [end is not None and end.offset > self.next_offsets[kind] for kind, end in enumerate(ends)]
        records = self._merged(unread, now_ms + self._future_ms)
        for kind in range(TOPICS):
            if not self.queues[kind]:
                self.taken[kind] = self.next_offsets[kind]
        if are_known(ends, now_ms):
            lags = [unread[kind] or bool(self.queues[kind]) for kind in range(TOPICS)]
            self._time_ms = max(self._time_ms, min(min(self._last_ms[kind], now_ms) if lags[kind] else now_ms for kind in range(TOPICS)))
        tick_end_ms = self._time_ms // self._tick_ms * self._tick_ms
        ends_tick = tick_end_ms > self._closed_ms
        if not records and not ends_tick:
            return None
        if ends_tick:
            self._closed_ms = tick_end_ms
        return Portion(records, list(self.taken), tick_end_ms if ends_tick else None, self._time_ms)

    @property
    def time_ms(self) -> int:
        """The partition's time, as it was when `next` was last asked."""
        return self._time_ms

    def closed(self, tick_ms: int) -> None:
        """Hear up to where ticks have ended: one that was given and has not is given again."""
        self._closed_ms = tick_ms

    def _merged(self, unread: Sequence[bool], latest_ms: int) -> list[Received]:
        """Take the next records out of the queues: always the one whose topic's head is oldest, until a topic is empty of which more is to be read.

        What has no time, or one after `latest_ms`, goes first, and is refused later. The order is that of the greatest time so far in each topic.
        """
        if not any(self.queues) or any(more and not queue for more, queue in zip(unread, self.queues, strict=True)):
            return []
        # A topic of few events holds those of a long time: to look at all that waits would cost more than to work it off.
        ahead = [min(len(queue), LEAST_AHEAD + int(AHEAD * share * self._portion)) for queue, share in zip(self.queues, self._shares, strict=True)]
        keys = [key for of_topic, n in zip(self._times, ahead, strict=True) for key in _greatest_so_far(of_topic[:n], latest_ms)]
        order = sorted(range(len(keys)), key=keys.__getitem__)[: self._portion]
        # Nothing after the last of a topic that was looked at, if more of it waits, or is to be read.
        more = [unread[kind] or n < len(self.queues[kind]) for kind, n in enumerate(ahead)]
        lasts = [upto - 1 for upto, n, goes_on in zip(accumulate(ahead), ahead, more, strict=True) if n and goes_on]
        cut = min([order.index(i) for i in lasts if i in order], default=len(order))
        return self._take(order[: cut + 1], ahead, keys)

    def _take(self, order: Sequence[int], ahead: Sequence[int], keys: Sequence[int]) -> list[Received]:
        """Take records out of the queues in this order, of the first `ahead` (4,) of each, one queue after the other; `keys` are their times so far."""
        looked_at = [record for queue, n in zip(self.queues, ahead, strict=True) for record in queue[:n]]
        taken, first = sorted(order), 0
        for kind, n in enumerate(ahead):
            of_topic = bisect_left(taken, first + n) - bisect_left(taken, first)
            self._shares[kind] = of_topic / len(order)
            if of_topic:
                last = first + of_topic - 1
                self.taken[kind] = looked_at[last].offset + 1
                self._last_ms[kind] = max(self._last_ms[kind], keys[last])
                del self.queues[kind][:of_topic], self._times[kind][:of_topic]
            first += n
        return [looked_at[i] for i in order]


def _greatest_so_far(times: list[int], latest_ms: int) -> list[int]:
    """Return the running maximum of times, of which those after `latest_ms` do not count."""
    ordered = sorted(times)  # as most are
    if not times or (ordered == times and ordered[-1] <= latest_ms):
        return times
    return list(accumulate([t if t <= latest_ms else 0 for t in times], max))
