"""What a partition may work off next, live and in a replay."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from features.errors import HeadstartError, InputError
from features.events import KINDS, encode
from streams.gate import FUTURE_MS, PORTION, RECORD_BYTES, STALE_MS, End, LiveGate, Portion, ReplayGate
from streams.records import Received, received
from tests.builders import START_MS, make_event

NOW = START_MS + 3_600_000
BROWSE, CLICK, CART, ORDER = range(4)


def at(kind: int, offset: int, ts_ms: int) -> Received:
    """An event of a topic, which happened at a time."""
    return received(kind, offset, b"ann", encode(make_event(ts_ms, id=f"{kind}-{offset}")))


def tick(kind: int, offset: int, end_ms: int) -> Received:
    """A tick record."""
    return Received(kind, offset, None, None, None, tick_ms=end_ms)


def ends(*offsets: int, as_of_ms: int = NOW) -> list[End]:
    """Where the four logs end."""
    return [End(offset, as_of_ms) for offset in offsets]


def names(portion: Portion | None) -> list[tuple[int, int]]:
    """(kind, offset) of a portion's records."""
    assert portion is not None
    return [(r.kind, r.offset) for r in portion.records]


class TestReplay:
    """The replay's gate gives whole ticks."""

    def filled(self, seed: int, *, ticks: int = 4) -> tuple[list[list[Received]], list[list[tuple[int, int]]]]:
        """Four topics with a tick record after each tick, and the records of each tick."""
        rng = random.Random(seed)
        topics: list[list[Received]] = [[] for _ in KINDS]
        wanted: list[list[tuple[int, int]]] = []
        for t in range(1, ticks + 1):
            share = []
            for kind, topic in enumerate(topics):
                for _ in range(rng.randrange(4)):
                    share.append((kind, len(topic)))
                    topic.append(at(kind, len(topic), START_MS))
                topic.append(tick(kind, len(topic), 1000 * t))
            wanted.append(share)
        return topics, wanted

    @pytest.mark.parametrize("seed", range(8))
    def test_ticks_are_whole_however_the_polls_end(self, seed: int) -> None:
        """Every tick comes once, with its records of all four topics and none of the next, and the offsets after it."""
        topics, wanted = self.filled(seed)
        rng = random.Random(seed)
        gate, got = ReplayGate([0] * 4, max_tick_events=100), []
        while any(gate.next_offsets[kind] < len(topic) for kind, topic in enumerate(topics)):
            kind = rng.randrange(4)
            start = gate.next_offsets[kind]
            part = topics[kind][start : start + rng.randrange(1, 5)]
            gate.add(kind, part, start + len(part))
            while (portion := gate.next()) is not None:
                got.append(portion)
        assert [names(p) for p in got] == wanted
        assert [p.tick_end_ms for p in got] == [1000, 2000, 3000, 4000]
        assert got[-1].offsets == [len(topic) for topic in topics]

    def test_what_is_read_twice_is_worked_once(self) -> None:
        """A poll that begins below what was read adds only what is new."""
        topics, wanted = self.filled(3)
        gate = ReplayGate([0] * 4, max_tick_events=100)
        for kind, topic in enumerate(topics):
            for stop in (2, 1, len(topic)):
                gate.add(kind, topic[:stop], stop)
        got = []
        while (portion := gate.next()) is not None:
            got.append(names(portion))
        assert got == wanted

    def test_a_gate_opens_where_the_cursor_stands(self) -> None:
        """The offsets of one portion are where another gate goes on."""
        topics, wanted = self.filled(5)
        gate = ReplayGate([0] * 4, max_tick_events=100)
        for kind, topic in enumerate(topics):
            gate.add(kind, topic, len(topic))
        first = gate.next()
        assert first is not None
        again = ReplayGate(first.offsets, max_tick_events=100)
        for kind, topic in enumerate(topics):
            again.add(kind, topic, len(topic))
        assert names(again.next()) == wanted[1]

    def test_it_says_which_topic_it_waits_for(self) -> None:
        """A topic without a whole tick must be read on, the others may wait."""
        gate = ReplayGate([0] * 4, max_tick_events=100)
        gate.add(BROWSE, [at(BROWSE, 0, START_MS), tick(BROWSE, 1, 1000)], 2)
        gate.add(ORDER, [at(ORDER, 0, START_MS)], 1)
        assert [gate.waits_for(kind) for kind in range(4)] == [False, True, True, True]
        assert [gate.held(kind) for kind in range(4)] == [2, 0, 0, 1]

    def test_a_tick_that_is_too_large_fails_with_what_to_do(self) -> None:
        """Also before its end has come, so that memory stays bounded."""
        for with_end in (False, True):
            gate = ReplayGate([0] * 4, max_tick_events=10)
            for kind in range(4):
                records = [at(kind, i, START_MS) for i in range(11 if kind == BROWSE else 0)]
                records += [tick(kind, len(records), 1000)] if with_end or kind != BROWSE else []
                gate.add(kind, records, len(records))
            with pytest.raises(InputError, match="shorter ticks"):
                gate.next()

    def test_many_small_ticks_are_not_one_large_one(self) -> None:
        """Topics that are read ahead of a slow one do not count together."""
        gate = ReplayGate([0] * 4, max_tick_events=2)
        for kind in (BROWSE, CLICK, CART):
            records = [r for i in range(50) for r in (at(kind, 2 * i, START_MS), tick(kind, 2 * i + 1, 1000 * (i + 1)))]
            gate.add(kind, records, len(records))
        assert gate.next() is None

    def test_topics_that_differ_in_their_ticks_are_refused(self) -> None:
        """Half a log published twice cannot be replayed."""
        gate = ReplayGate([0] * 4, max_tick_events=2)
        for kind in range(4):
            gate.add(kind, [tick(kind, 0, 1000 if kind else 2000)], 1)
        with pytest.raises(HeadstartError, match="differ in their ticks"):
            gate.next()


class TestLive:
    """The live gate orders what lags, and tells the time."""

    def gate(self, *, closed_ms: int = 0, portion: int = PORTION, tick_ms: int = 1000) -> LiveGate:
        """A gate at offset 0."""
        return LiveGate([0] * 4, tick_ms=tick_ms, closed_ms=closed_ms, portion=portion)

    def add(self, gate: LiveGate, kind: int, times: Sequence[int]) -> None:
        """Events of one topic, from where it was read to."""
        start = gate.next_offsets[kind]
        gate.add(kind, [at(kind, start + i, ts_ms) for i, ts_ms in enumerate(times)], start + len(times))

    def test_the_oldest_head_goes_first(self) -> None:
        """Across topics by event time; within a topic as they lie."""
        gate = self.gate()
        self.add(gate, BROWSE, [START_MS + 10, START_MS + 40, START_MS + 20])
        self.add(gate, ORDER, [START_MS + 30, START_MS + 50])
        portion = gate.next(NOW, ends(3, 0, 0, 2))
        assert names(portion) == [(BROWSE, 0), (ORDER, 0), (BROWSE, 1), (BROWSE, 2), (ORDER, 1)]
        assert portion is not None
        assert portion.offsets == [3, 0, 0, 2]

    def test_what_is_from_the_future_goes_with_what_came_before_it(self) -> None:
        """Also at the end of a topic whose times rise; it is refused later, and nothing waits for its time."""
        gate = self.gate()
        self.add(gate, BROWSE, [START_MS + 10, NOW + FUTURE_MS + 1])
        self.add(gate, ORDER, [START_MS + 30])
        assert names(gate.next(NOW, ends(2, 0, 0, 1))) == [(BROWSE, 0), (BROWSE, 1), (ORDER, 0)]

    def test_times_in_iso_8601_are_ordered_too(self) -> None:
        """A shop that writes its times as text is no worse off after a restart."""
        gate = self.gate()
        gate.add(BROWSE, [received(BROWSE, 0, b"ann", encode(make_event("2024-01-01T00:30:00Z")))], 1)  # type: ignore[arg-type]
        gate.add(ORDER, [received(ORDER, 0, b"ann", encode(make_event("2024-01-01T09:15:00+09:00")))], 1)  # type: ignore[arg-type]
        assert names(gate.next(NOW, ends(1, 0, 0, 1))) == [(ORDER, 0), (BROWSE, 0)]

    def test_a_topic_that_lags_with_nothing_fetched_is_waited_for(self) -> None:
        """Browses are not read to their end while orders lag; then both go in order of time."""
        gate = self.gate(closed_ms=START_MS)
        self.add(gate, BROWSE, [START_MS + 1000, START_MS + 5000])
        assert gate.next(NOW, ends(2, 0, 0, 1)) is None
        self.add(gate, ORDER, [START_MS + 2000])
        assert names(gate.next(NOW, ends(2, 0, 0, 1))) == [(BROWSE, 0), (ORDER, 0), (BROWSE, 1)]

    def test_time_is_the_minimum_over_what_lags(self) -> None:
        """While orders lag, time is that of the last order taken; without lag it is the wall clock."""
        gate = self.gate(closed_ms=START_MS)
        self.add(gate, BROWSE, [START_MS + 500, START_MS + 60_000])
        self.add(gate, ORDER, [START_MS + 10_500])
        lagging = gate.next(NOW, ends(2, 0, 0, 9))
        assert names(lagging) == [(BROWSE, 0), (ORDER, 0)]
        assert lagging is not None
        assert lagging.time_ms == START_MS + 500  # browses lag too: one is held
        self.add(gate, ORDER, [START_MS + 90_500])
        later = gate.next(NOW, ends(2, 0, 0, 9))
        assert later is not None
        assert (later.time_ms, later.tick_end_ms) == (START_MS + 90_500, START_MS + 90_000)
        self.add(gate, ORDER, [START_MS + 91_000] * 7)
        last = gate.next(NOW, ends(2, 0, 0, 9))
        assert last is not None
        assert (last.time_ms, last.tick_end_ms) == (NOW, NOW)

    def test_time_never_goes_back(self) -> None:
        """Nor do ticks end twice: neither the wall clock nor a new lag takes anything back."""
        gate, times, ticks = self.gate(closed_ms=START_MS), [], []
        rng = random.Random(1)
        now, end = NOW, [0] * 4
        for _ in range(300):
            now += rng.randrange(-2000, 4000)
            kind = rng.randrange(4)
            end[kind] += rng.randrange(3)
            if rng.random() < 0.7:
                self.add(gate, kind, [now - rng.randrange(900_000) for _ in range(end[kind] - gate.next_offsets[kind])])
            portion = gate.next(now, ends(*end, as_of_ms=now))
            if portion is not None:
                times.append(portion.time_ms)
                ticks += [portion.tick_end_ms] if portion.tick_end_ms is not None else []
        assert times == sorted(times)
        assert len(ticks) > 10
        assert ticks == sorted(set(ticks))
        assert all(t % 1000 == 0 for t in ticks)

    def test_a_quiet_partition_still_ends_its_ticks(self) -> None:
        """With no lag and no records a portion without records ends the tick, once."""
        gate = self.gate(closed_ms=NOW - 1000)
        portion = gate.next(NOW, ends(0, 0, 0, 0))
        assert portion == Portion([], [0] * 4, NOW, NOW)
        assert gate.next(NOW + 999, ends(0, 0, 0, 0, as_of_ms=NOW + 999)) is None
        assert gate.next(NOW + 1000, ends(0, 0, 0, 0, as_of_ms=NOW + 1000)) is not None

    def test_ends_that_are_unknown_or_old_stop_the_time(self) -> None:
        """Whether a topic lags cannot be told, so no tick ends; what was fetched is worked all the same."""
        for unknown in ([End(0, NOW)] * 3 + [None], [End(0, NOW)] * 3 + [End(0, NOW - STALE_MS - 1)]):
            gate = self.gate(closed_ms=START_MS)
            assert gate.next(NOW, unknown) is None
            self.add(gate, BROWSE, [START_MS + 5000])
            portion = gate.next(NOW, unknown)
            assert names(portion) == [(BROWSE, 0)]
            assert portion is not None
            assert portion.tick_end_ms is None

    def test_a_record_that_will_be_refused_does_not_move_the_time(self) -> None:
        """Neither an unreadable one nor one from the future: it goes first, and the lag's time stays the events'."""
        gate = self.gate(closed_ms=START_MS)
        gate.add(ORDER, [received(ORDER, 0, b"ann", b"junk"), at(ORDER, 1, NOW + 10**9), at(ORDER, 2, START_MS + 2000)], 3)
        self.add(gate, BROWSE, [START_MS + 1000])
        portion = gate.next(NOW, ends(1, 0, 0, 9))
        assert names(portion) == [(ORDER, 0), (ORDER, 1), (BROWSE, 0), (ORDER, 2)]
        assert portion is not None
        assert portion.time_ms == START_MS + 2000

    def test_portions_are_bounded_and_nothing_is_lost_between_them(self) -> None:
        """Fifty records in portions of seven: each once, and the offsets are those of what was given out."""
        gate = self.gate(portion=7)
        self.add(gate, CLICK, [START_MS + i for i in range(50)])
        got: list[tuple[int, int]] = []
        while len(got) < 50:
            portion = gate.next(NOW, ends(0, 50, 0, 0))
            assert portion is not None
            assert len(portion.records) <= 7
            got += names(portion)
            assert portion.offsets == [0, len(got), 0, 0]
        assert got == [(CLICK, i) for i in range(50)]

    @pytest.mark.parametrize("rates", [(75, 19, 4, 2), (1, 0, 0, 99), (25, 25, 25, 25)])
    def test_a_long_backlog_goes_in_order_of_time_and_in_whole_portions(self, rates: tuple[int, ...]) -> None:
        """Though topics of few events hold those of a long time, and who sends most changes halfway."""
        portion, n, rng = 400, 12_000, random.Random(2)
        kinds = rng.choices(range(4), rates, k=n // 2) + rng.choices(range(4), rates[::-1], k=n // 2)
        gate = self.gate(portion=portion)
        for kind in range(4):
            self.add(gate, kind, [START_MS + i for i, k in enumerate(kinds) if k == kind])
        got: list[int] = []
        sizes = []
        while (taken := gate.next(NOW, ends(*[kinds.count(kind) for kind in range(4)]))) is not None and taken.records:
            got += [r.arrived.ts_ms - START_MS for r in taken.records if r.arrived is not None]
            sizes.append(len(taken.records))
        assert got == list(range(n))
        assert max(sizes) == portion
        assert len(sizes) <= n // portion + 8  # shorter ones where the shares change

    def test_offsets_without_records_are_passed(self) -> None:
        """What a poll skipped (markers of a transaction, say) is behind the gate's offsets when nothing is held."""
        gate = self.gate(closed_ms=NOW - 1000)
        gate.add(CART, [], 5)
        portion = gate.next(NOW, ends(0, 0, 5, 0))
        assert portion is not None
        assert portion.offsets == [0, 0, 5, 0]


@pytest.mark.parametrize("size", [0, 1_000, 60_000])
def test_what_waits_is_known_in_bytes(size: int) -> None:
    """Each poll counts until the last of it is taken, and then no more."""
    gate = LiveGate([0, 0, 0, 0], tick_ms=1_000, closed_ms=NOW, portion=5)
    polls = [[received(BROWSE, offset, b"ann", bytes(size)) for offset in range(first, first + 4)] for first in (0, 4)]
    for poll in polls:
        gate.add(BROWSE, poll, poll[-1].offset + 1)
    each = 4 * (size + RECORD_BYTES)
    assert (gate.held_bytes(BROWSE), gate.held_bytes(CLICK)) == (2 * each, 0)
    assert len(names(gate.next(NOW, ends(8, 0, 0, 0)))) == 5
    assert gate.held_bytes(BROWSE) == each
    assert len(names(gate.next(NOW, ends(8, 0, 0, 0)))) == 3
    assert gate.held_bytes(BROWSE) == 0
