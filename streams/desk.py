"""Where one input partition is worked: a loop that takes portions from the gate, works them off, settles and acknowledges them.

Each desk is a task of its own, so one that waits at a barrier, or for Redis, holds up no other. Live, portions are worked off, in memory, while the one
before them is being committed; their scores leave when that is stored (`streams.settling`). A refused commit means that someone else has committed: the desk drops what it holds,
loads the partition again and seeks to its cursor. Nothing is acknowledged before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from features.errors import DependencyDown, Mismatch
from features.store import Store
from streams.alerts import Alert
from streams.gate import End, LiveGate, Portion, ReplayGate, are_known
from streams.incidents import incident
from streams.knowledge import Knowledge
from streams.partition import LostCommit, Partition, Rules
from streams.patience import Patience
from streams.pipeline import Outlet, publish_outbox, work_off
from streams.records import Received
from streams.settling import Settling, Unsaid

logger = logging.getLogger(__name__)

HELD_RECORDS = 5_000  # of a topic of a partition, at most, and
HELD_BYTES = 5_000_000
IDLE_S = 0.25
CHECK_S = 3.0  # live, how often a partition that commits nothing looks whether the store went back
ENDS_S = 1.0  # live, how long after a load it is waited for where the topics end, before their records are taken
CLOSE_AT_ONCE = 200  # live, delay bins that close in one portion: with a tick's end, and before it whenever so many are due and no event waits
CLOSE_BEHIND, BEHIND_TICKS = 2_000, 2  # who is further behind closes so many at once, and all that is due before it takes what comes
BARRIER_S = 15.0  # in a replay, how long a partition waits at a barrier before it says everything again

Ack = Callable[[], Any]


class Tap(Protocol):
    """Where the records of one topic of a partition come out, from one seek to the next."""

    def is_current(self) -> bool:
        """Whether no seek has come since; else the records come again from another one, or are not wanted."""

    def listen(self, wake: Callable[[], Any] | None) -> None:
        """Have it called, on the event loop, whenever something has come that is not drawn yet; None: nobody listens any more."""

    def draw(self) -> tuple[list[Received], int, Ack] | None:
        """Return what has come since the last time, the offset that follows it, and what to call when all of it is in the store; None if nothing has."""


class Source(Protocol):
    """What a desk asks for; topics by their kind."""

    async def look_again(self) -> None:
        """Bring stamps and beliefs up to the store's present state."""

    async def seek(self, partition: int, offsets: list[int]) -> None:
        """Read the four topics on at these offsets."""

    def hold(self, partition: int, kind: int, held: bool) -> None:
        """Stop, or go on, reading one topic of the partition."""

    def ends(self, partition: int) -> Sequence[End | None]:
        """Return where the four topics end, as far as known."""

    def tell(self, alert: Alert) -> None:
        """Send an alert, sooner or later."""


class Desk:
    """Partition `number` of a worker. `start` begins the loop, `stop` ends it after the portion in hand."""

    def __init__(
        self, partition: Partition, *, store: Store, rules: Rules, knowledge: Knowledge, outlet: Outlet, source: Source,
        tick_ms: int, patience_s: float, clock_ms: Callable[[], int], stamp_ms: Callable[[], int], crashed: Callable[[BaseException], None],
        held_bytes: int = HELD_BYTES,
    ) -> None:  # fmt: skip
        self.partition, self.number = partition, partition.number
        self._store, self._rules, self._knowledge, self._outlet, self._source = store, rules, knowledge, outlet, source
        self._tick_ms, self._clock_ms, self._stamp_ms, self._crashed = tick_ms, clock_ms, stamp_ms, crashed
        self._patience, self._held_bytes = Patience(patience_s), held_bytes
        self._checked_s = self._said_s = 0.0
        self._unsent = True  # what is committed is perhaps not sent
        self._settling = Settling(outlet, store, replay=rules.replay, committed=self._committed, wake=self.wake)
        # While a portion is begun and not known to be committed, the partition's versions without it: that the store can be read again says nothing of it.
        self._unsettled_at: tuple[int, ...] = ()
        self._loaded_s: float | None = time.monotonic()  # when the store was read; None once an event has been worked since
        self._news = asyncio.Event()
        self._stopping = False
        self._reload = False
        self._taps: list[Tap | None] = [None] * 4
        self._acks: list[deque[tuple[int, Ack]]] = [deque() for _ in range(4)]
        self._held = [False] * 4
        self._task: asyncio.Task[None] | None = None
        self._open_gate()

    def _open_gate(self) -> None:
        cursor = self.partition.cursor
        self.gate: ReplayGate | LiveGate
        if self._rules.replay:
            self.gate = ReplayGate(cursor.offsets, max_tick_events=self._rules.max_tick_events)
        else:
            if not cursor.tick_ms:  # a new partition begins with the present tick: launches that are open now hold its first events
                cursor.tick_ms = self._clock_ms() // self._tick_ms * self._tick_ms
            self.gate = LiveGate(cursor.offsets, tick_ms=self._tick_ms, closed_ms=cursor.tick_ms, future_ms=self._rules.future_ms)

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"partition-{self.number}")

    async def stop(self) -> None:
        """Finish the portion in hand, and work no more."""
        self._stopping = True
        self._news.set()
        if self._task is not None:
            await asyncio.wait({self._task})  # whoever stops waiting does not cancel what is in hand

    def down_s(self) -> float:
        """Return for how long Redis or the broker has failed it; 0 if they do not."""
        return self._patience.down_s()

    def in_hand(self) -> bool:
        """Whether a portion was begun and is not known to be committed."""
        return bool(self._unsettled_at)

    def stopping(self) -> bool:
        """Whether the desk takes no further portion."""
        return self._stopping

    def wake(self) -> None:
        """Look again: something has come, or time has passed."""
        self._news.set()

    def load_again(self) -> None:
        """Drop everything and start from the store: it went back, or someone else has written."""
        self._reload = True
        self._news.set()

    def skip(self, kind: int, first: int) -> bool:
        """Go on at `first`, where the log of a topic begins; False if that is no loss, since the partition has not been worked yet."""
        cursor = self.partition.cursor
        worked = self.partition.version > 0
        cursor.totals.lost += first - cursor.offsets[kind] if worked else 0
        cursor.offsets[kind] = first
        self.gate.skip(kind, first)
        return worked

    def gone(self, kind: int, first: int, upto: int) -> None:
        """Hear that records [first, upto) left the log before they were read; they count as lost in the commit that goes past them."""
        self._settling.gone((kind, first, upto))

    def hear(self, kind: int, tap: Tap) -> None:
        """Hear where what comes of one topic is drawn, and that something has. It is drawn when the next portion begins, with all that has come by then."""
        if not self.stopping():
            self._taps[kind] = tap
            tap.listen(self.wake)
            self._news.set()

    def _draw(self) -> None:
        for kind, tap in enumerate(self._taps):
            if tap is not None and tap.is_current() and (drawn := tap.draw()) is not None:
                records, next_offset, ack = drawn
                self.gate.add(kind, records, next_offset)
                self._acks[kind].append((next_offset, ack))
        self._hold()

    def _hold(self) -> None:
        for kind in range(4):
            much = self.gate.held(kind) > HELD_RECORDS or self.gate.held_bytes(kind) > self._held_bytes
            self._hold_one(kind, much and not self.gate.waits_for(kind))

    def _hold_one(self, kind: int, held: bool) -> None:
        if held != self._held[kind]:
            self._held[kind] = held
            self._source.hold(self.number, kind, held)

    async def _run(self) -> None:
        quiet = False
        try:
            while not self.stopping():
                self._news.clear()
                try:
                    if not self._reload:
                        await self._look(quiet)
                    if self._reload:
                        await self._start_over()
                    elif self._unsent:
                        await self._again()
                    await self._work_on()
                    if not self._unsettled_at:
                        self._patience.is_up()
                except LostCommit as lost:
                    logger.warning("%s; starting over from the cursor", lost)
                    self._reload = True
                    await asyncio.sleep(0.05)
                    continue
                except DependencyDown as down:
                    # The commit may have been done or not: the stored cursor decides.
                    if self._patience.is_over():
                        raise
                    logger.warning("partition %d: %s; starting over from the cursor", self.number, down)
                    self._reload = True
                    await self._patience.pause(self.stopping)
                    continue
                quiet = False
                try:
                    async with asyncio.timeout(IDLE_S):
                        await self._news.wait()
                except TimeoutError:
                    quiet = True
            with suppress(LostCommit, DependencyDown):  # it was told of, or whoever comes next finds out
                await self._settling.done()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  whatever it is, the process must not go on
            self._crashed(error)
        finally:
            self._settling.cancel()
            self._let_go()

    async def _work_on(self) -> None:
        """Work whatever may be worked, and see it settled: portions that come while a commit is under way are worked off, and settled together after it."""
        settling = self._settling
        while True:
            if settling.may_send():
                await settling.send(self.partition)
            if self.stopping() or self._reload:
                break
            self._news.clear()
            if not settling.is_full() and (portion := self._next()) is not None:
                await self._work(portion)
            elif settling.is_under_way():
                await self._news.wait()
            elif not settling.waits():
                break
        if settling.waits() and not self._reload:
            await settling.send(self.partition)
        await settling.done()
        self._look_what_is_settled()

    def _look_what_is_settled(self) -> None:
        if self.partition.version not in self._unsettled_at:
            self._unsettled_at = ()

    def _let_go(self) -> None:
        """Be known to no tap: some are held for long after their partition has gone, and must not hold what it had in memory."""
        for tap in self._taps:
            if tap is not None:
                tap.listen(None)
        self._taps = [None] * 4

    async def _look(self, quiet: bool) -> None:
        """Look whether the store went back: who commits nothing would not hear of it. In a replay only in a `quiet` moment; live, ticks may leave none."""
        now_s = time.monotonic()
        if quiet if self._rules.replay else now_s - self._checked_s > CHECK_S:
            self._checked_s = now_s
            if not await self.partition.is_current():
                self._reload = True
        if self._rules.replay and quiet and now_s - self._said_s > BARRIER_S:
            self.partition.outbox.send_again()  # what was said may be lost
            self._unsent = True

    def _next(self) -> Portion | None:
        self._draw()
        if isinstance(self.gate, ReplayGate):
            # Not >=: a worker that stood still while another had its partition must not score with the heads of later ticks.
            return self.gate.next() if self._stamp_ms() == self.partition.cursor.tick_ms else None
        now_ms, ends = self._clock_ms(), self._source.ends(self.number)
        if self._loaded_s is not None and not are_known(ends, now_ms) and time.monotonic() - self._loaded_s < ENDS_S:
            return None  # else it could not be told what time it is
        return self.gate.next(now_ms, ends) or (None if self._settling.is_under_way() else self._due(self.gate.time_ms))

    def _due(self, time_ms: int) -> Portion | None:
        partition = self.partition
        if partition.pending.has_many_due(time_ms - partition.rules.grace_ms, CLOSE_AT_ONCE):
            return Portion([], list(partition.cursor.offsets), None, time_ms, due_ms=time_ms)
        return None

    async def _again(self) -> None:
        """Send once more what is committed and perhaps not sent."""
        self._unsent = False
        self._said_s = time.monotonic()
        tick_ms = self.partition.cursor.tick_ms
        await publish_outbox(self.partition, self._outlet, self._store, tick_done_ms=tick_ms if self._rules.replay and tick_ms else None)

    async def _work(self, portion: Portion) -> None:
        if not self._rules.replay:
            if self._loaded_s is not None and portion.records:
                self._loaded_s = None
                await self._pass_quiet_ticks(portion)
                if self.stopping():
                    return  # it may have stopped on the way: what came would be scored as of long ago
            end_ms = portion.tick_end_ms
            if end_ms is not None and end_ms - self.partition.cursor.tick_ms > BEHIND_TICKS * self._tick_ms:
                if portion.records:
                    await self._work_off(replace(portion, tick_end_ms=None))
                    await self._settling.send(self.partition)  # scores need not wait for what closes
                await self._go_on_to(end_ms, portion)
                return
        if not self.stopping():
            await self._work_off(portion)

    async def _pass_quiet_ticks(self, portion: Portion) -> None:
        """Go on to the tick of the first event. Quiet ticks leave nothing in the store, so what was read there is of the last tick that was not.

        An event that is late holds those of its portion back at its own tick, as everywhere.
        """
        first_ms = next((r.arrived.ts_ms for r in portion.records if r.arrived is not None and r.arrived.ts_ms <= self._clock_ms()), 0)
        tick_ms = min(first_ms, portion.time_ms) // self._tick_ms * self._tick_ms
        if tick_ms > self.partition.cursor.tick_ms:
            await self._go_on_to(tick_ms, Portion([], list(self.partition.cursor.offsets), tick_ms, tick_ms))

    async def _go_on_to(self, tick_ms: int, portion: Portion) -> None:
        """Close all that is due by then, some at a time, a commit each: a day that nobody wrote ends with all its bins due."""
        closing = replace(portion, records=[], tick_end_ms=tick_ms)
        while not self.stopping() and self.partition.cursor.tick_ms < tick_ms:
            await self._work_off(closing, CLOSE_BEHIND)

    async def _work_off(self, portion: Portion, closing: int | None = None) -> None:
        partition, now_ms = self.partition, self._clock_ms()
        if not self._rules.replay and not portion.records and portion.due_ms is None and not _has_due(partition, portion.tick_end_ms):
            partition.cursor.tick_ms = portion.tick_end_ms or partition.cursor.tick_ms  # nothing to write for a quiet tick
            return
        if self._rules.replay and portion.tick_end_ms is not None and portion.tick_end_ms <= partition.cursor.tick_ms:
            raise Mismatch(
                f"a replay's ticks must rise: {portion.tick_end_ms} came after {partition.cursor.tick_ms}; publish the log once, into a fresh namespace"
            )
        began_ms = partition.cursor.tick_ms
        self._unsettled_at = partition.version, partition.begun
        worked = await work_off(
            partition, portion.records, self._knowledge, offsets=portion.offsets, tick_end_ms=portion.tick_end_ms, due_ms=portion.due_ms,
            earliest_ms=None if self._rules.replay else now_ms - self._rules.ttl_ms, latest_ms=None if self._rules.replay else now_ms + self._rules.future_ms,
            closing=None if self._rules.replay else closing or CLOSE_AT_ONCE,
        )  # fmt: skip
        if self._rules.replay and (self._stamp_ms() != began_ms or (partition.has_read and not await partition.is_current())):
            self._reload = True  # heads or records are of another time: this worker lost the partition, or the store went back
            self._unsettled_at = ()
            return
        partition.cursor.time_ms = max(partition.cursor.time_ms, portion.time_ms)
        if isinstance(self.gate, LiveGate) and portion.tick_end_ms is not None:
            self.gate.closed(partition.cursor.tick_ms)
        self._hold()
        self._said_s = time.monotonic()
        self._settling.add(portion, worked)
        if self._rules.replay or portion.tick_end_ms is not None or portion.due_ms is not None:
            await self._settling.send(partition)  # so a commit holds the bins of one portion at most
        if self._rules.replay:
            await self._settling.done()

    def _committed(self, done: Unsaid) -> None:
        for kind, acks in enumerate(self._acks):
            while acks and acks[0][0] <= done.offsets[kind]:
                acks.popleft()[1]()
        if done.records:  # else what failed is perhaps still to come
            self._patience.is_up()

    async def _start_over(self) -> None:
        if self.stopping():
            return  # who has the partition next would not know that it is held
        self._reload = False
        with suppress(LostCommit, DependencyDown):  # that is known, or is another reason to start over
            await self._settling.done()
        for kind in range(4):  # what comes before the seek is of no use, and could be much
            self._hold_one(kind, True)
        before = self.partition
        self.partition = await Partition.load(self.number, self._store, self._rules)
        self._settling.start_over(before, self.partition)
        now = self.partition.version
        if now < before.version:
            text = f"partition {self.number} was at version {before.version} and is at {now}"
            self._source.tell(incident("store_went_back", text, partition=self.number, version_before=before.version, version=now))
        await self._source.look_again()  # if the store went back, so did the heads
        await self._again()
        self._look_what_is_settled()  # the commit may have been done, though its answer was lost, or somebody else's was
        for acks in self._acks:
            acks.clear()
        if self.stopping():
            return
        await self._source.seek(self.number, self.partition.cursor.offsets)
        self._open_gate()
        self._loaded_s = time.monotonic()
        for kind in range(4):
            self._hold_one(kind, False)


def _has_due(partition: Partition, tick_end_ms: int | None) -> bool:
    return tick_end_ms is not None and (
        bool(partition.cursor.counts or partition.cursor.seen) or partition.pending.has_due(tick_end_ms - partition.rules.grace_ms)
    )
