"""One worker: the desks of the partitions that Kafka assigned to it, what they believe, and where they read. No Faust in here.

`streams.app` connects it with Faust: agents say where things come, the transport asks for cursors, and a rebalance settles the desks.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from features.errors import DependencyDown, HeadstartError, InputError
from features.events import KINDS
from features.store import Store
from models.model import Model
from streams import trunks
from streams.alerts import Alert
from streams.beats import Pulse
from streams.desk import HELD_BYTES, Desk, Tap
from streams.gate import STALE_MS, End
from streams.inbox import Expected
from streams.incidents import INCIDENTS, incident, outgoing, together
from streams.knowledge import Knowledge, outcome_slot
from streams.launches import put_back
from streams.learner import Learner
from streams.learner_cursor import expected_in, stamp_of
from streams.learner_desk import LearnerDesk
from streams.namespace import compare
from streams.partition import Partition, Rules
from streams.pipeline import Outlet
from streams.trunks import Shelf

logger = logging.getLogger(__name__)

STAMP_POLL_S = 0.01
ALERTS_KEPT = 100
ALERT_AGAIN_S = 30.0
LOOK_S = 0.25  # at the broker's silence, and how often the alive file is touched at most
OUTCOMES = len(KINDS)  # the index of `outcomes` beside the four kinds


class Wire(Protocol):
    """What the worker asks of the transport; topics by kind, `OUTCOMES` for the outcomes."""

    async def seek(self, offsets: Mapping[tuple[int, int], int]) -> None:
        """Read (topic, partition) on at these offsets."""

    def hold(self, topic: int, partition: int, held: bool) -> None:
        """Stop, or go on, reading one."""

    def end(self, topic: int, partition: int) -> End | None:
        """Return where one ends."""

    def answered_ms(self, topic: int, partition: int) -> int | None:
        """Return when the broker last answered for one, by this machine's clock, which may jump: only that it changes means something."""


class Worker:
    """All desks of one process. `hard_exit` ends it at once, with one line that says why."""

    def __init__(
        self, store: Store, model: Model, rules: Rules, *, tick_ms: int, patience_s: float, outlet: Outlet, wire: Wire,
        hard_exit: Callable[..., Any], clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000, alive_file: str = "", held_bytes: int = HELD_BYTES,
        meta: Mapping[str, str] | None = None, ask_time: Callable[[], Awaitable[None]] | None = None, aside: Executor | None = None,
    ) -> None:  # fmt: skip
        """`model` is the trunk that this process came with, `meta` the description of the namespace; `ask_time` sets the clock right, at each tick.

        `held_bytes`: what may wait of one topic of one partition, about. `aside`: where many events are computed, if not at once (`streams.aside`).
        """
        self._store, self._model, self._rules, self._outlet, self._wire = store, model, rules, outlet, wire
        self._tick_ms, self._patience_s, self._clock_ms, self._hard_exit = tick_ms, patience_s, clock_ms, hard_exit
        self._meta, self._ask_time = dict(meta or {}), ask_time
        self._alive_file = Path(alive_file) if alive_file else None
        self._held_bytes = held_bytes
        self.is_live: Callable[[], bool] = lambda: True
        """Asked before the alive file is touched."""
        # In a replay the trunk is fixed before the first event.
        self._shelf = None if rules.replay else Shelf(store, model, self._meta.get("trunk") or model.artifact.sha256, clock_ms=clock_ms)
        self.knowledge = Knowledge(store, model, rules.outcome_partitions, shelf=self._shelf, aside=aside)
        self.desks: dict[int, Desk] = {}
        self.learners: dict[int, LearnerDesk] = {}
        self._stamp_ms = self._highest_ms = -1
        self._watch: asyncio.Task[None] | None = None
        self._is_whole = False  # the store has all control records that we know
        self._refreshing = asyncio.Lock()
        self._stamp_news = asyncio.Event()
        self._parked: set[tuple[int, int]] = set()
        self._answers: dict[tuple[int, int], int | None] = {}
        self._heard_s = time.monotonic()
        self.broker_silent_s = 0.0
        """For how long no fetch had been answered when it was last looked at; 0 if one had been since the look before, or nothing is read."""
        self.lost_records = 0
        self._pulse = Pulse(store, clock_ms=clock_ms)
        self.alerts: list[Alert] = []
        self.incidents = dict.fromkeys(INCIDENTS, 0)
        """How often each kind has befallen this worker, told or not."""
        self._told_s: dict[str, float] = {}
        self._held_back: dict[str, list[Alert]] = {}
        self._telling: asyncio.Task[None] | None = None
        self._positions: dict[str, tuple[bytes, Mapping[int, Expected]]] = {}  # of the learners, by slot, with the cursor that they come from

    # Where to read: asked by the transport.

    async def assigned(self, partitions: Iterable[int], outcome_partitions: Iterable[int]) -> dict[tuple[int, int], int]:
        """Open desks for exactly these partitions and return the offsets {(topic, partition): next} to read from."""
        await self.settle()
        if self._watch is None:
            await self._refresh()
        offsets: dict[tuple[int, int], int] = {}
        mine = sorted(partitions)
        rules = self._rules.shared_by(len(mine))
        for p in mine:
            self.desks[p] = desk = self._desk(await Partition.load(p, self._store, rules))
            offsets.update({(kind, p): offset for kind, offset in enumerate(desk.partition.cursor.offsets)})
        for q in sorted(outcome_partitions):
            self.learners[q] = learner = self._learner_desk(await self._load_learner(q))
            offsets[OUTCOMES, q] = learner.learner.cursor.offset
        logger.info("works partitions %s, learns outcomes %s", sorted(self.desks), sorted(self.learners))
        self._start()
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._watching(), name="watch")
        return offsets

    def _start(self) -> None:
        for desk in self.desks.values():
            desk.start()
        for learner in self.learners.values():
            learner.start()

    async def settle(self) -> None:
        """Let every desk finish what it has in hand, and close them all."""
        await asyncio.gather(*(desk.stop() for desk in self.desks.values()), *(learner.stop() for learner in self.learners.values()))
        self.desks.clear()
        self.learners.clear()
        self._parked.clear()

    def log_start_above(self, topic: int, partition: int, cursor: int, first: int) -> None:
        """Count a loss: the log starts above the cursor, so records are gone that were never worked. Lost outcomes are refilled by their learner."""
        desk = self.desks.get(partition)
        if topic == OUTCOMES or desk is None or not desk.skip(topic, first):
            return
        self._tell_lost(topic, partition, cursor, first)

    def records_gone(self, topic: int, partition: int, first: int, upto: int) -> None:
        """Count a loss: records [first, upto) left the log while it was being read, before they were."""
        desk = self.desks.get(partition)
        if topic != OUTCOMES and desk is not None:
            desk.gone(topic, first, upto)
            self._tell_lost(topic, partition, first, upto)

    def _tell_lost(self, topic: int, partition: int, first: int, upto: int) -> None:
        self.lost_records += upto - first
        name = KINDS[topic]
        text = f"{name}[{partition}]: records {first} to {upto - 1} are no longer in the log"
        self.tell(incident("records_lost", text, topic=name, partition=partition, first=first, records=upto - first))

    def crashed(self, error: BaseException) -> None:
        """End the process: nothing in hand is acknowledged."""
        if isinstance(error, DependencyDown):
            self._hard_exit(str(error))
        if isinstance(error, HeadstartError):
            self._hard_exit(str(error), 1)
        logger.error("a bug, or an answer that nobody expected", exc_info=error)
        self._hard_exit(f"{type(error).__name__}: {error}", 1)

    # What comes in: handed over by the agents.

    def hear(self, kind: int, partition: int, tap: Tap) -> None:
        """Tell a desk that something has come of an input topic; without a desk it is stale, and read again where it belongs."""
        desk = self.desks.get(partition)
        if desk is not None:
            desk.hear(kind, tap)

    def take_outcomes(
        self, q: int, records: list[tuple[int, bytes | None]], next_offset: int, ack: Callable[[], Any], is_current: Callable[[], bool]
    ) -> None:  # fmt: skip
        """Hand one poll of `outcomes` to its learner."""
        desk = self.learners.get(q)
        if desk is not None:
            desk.take(records, next_offset, ack, is_current)

    # Between ticks: stamps, heads, catalogue, launches.

    async def _watching(self) -> None:
        look_s, believed_s = 0.0, time.monotonic()
        try:
            while True:
                if self._rules.replay:
                    self._stamp_news.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(STAMP_POLL_S):
                            await self._stamp_news.wait()
                else:
                    await asyncio.sleep(self._tick_ms / 1000)
                try:
                    await self._refresh()
                    believed_s = time.monotonic()
                except DependencyDown as down:  # what is refused now, such as a write to a full store, may be taken at the next look
                    if time.monotonic() - believed_s > self._patience_s:
                        raise
                    logger.warning("%s; looking again", down)
                await self._pulse.beat(list(self.desks.values()), sorted(self.learners), self.ends, trunk=self.knowledge.trunk, lost=self.lost_records)
                if time.monotonic() >= look_s:
                    look_s = time.monotonic() + LOOK_S
                    self._listen_to_broker()
                    self._touch_alive_file()
                    self._tell_alerts()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  whatever it is, the process must not go on
            self.crashed(error)

    def _tell_alerts(self) -> None:
        """Send what is to be told, without waiting: a broker that is down must not hold up the watch."""
        now_s = time.monotonic()
        for kind in [kind for kind in self._held_back if now_s - self._told_s[kind] >= ALERT_AGAIN_S]:
            self._told_s[kind] = now_s
            self.alerts.append(together(self._held_back.pop(kind)))
        if self.alerts and (self._telling is None or self._telling.done()):
            self._telling = asyncio.get_running_loop().create_task(self._send_alerts(), name="alerts")

    async def _send_alerts(self) -> None:
        told = self.alerts[-ALERTS_KEPT:]
        with suppress(DependencyDown):
            await self._outlet.deliver([outgoing(alert) for alert in told])
            self.alerts[:] = [alert for alert in self.alerts if all(alert is not other for other in told)]

    def _listen_to_broker(self) -> None:
        """Raise DependencyDown when no fetch was answered for as long as the setting allows, though some partition is being read."""
        reading = {(kind, p) for p in self.desks for kind in range(len(KINDS))} | {(OUTCOMES, q) for q in self.learners}
        answers = {one: self._wire.answered_ms(*one) for one in reading - self._parked}
        now_s = time.monotonic()
        if answers != self._answers or not answers:
            self._answers, self._heard_s = answers, now_s
        self.broker_silent_s = now_s - self._heard_s
        if self.broker_silent_s > self._patience_s:
            raise DependencyDown(f"the broker has not answered for {self._patience_s:g} s")

    def _touch_alive_file(self) -> None:
        try:
            if self._alive_file is not None and self.is_live():
                self._alive_file.touch()
        except OSError as error:
            raise InputError(f"setting 'alive_file': {self._alive_file} cannot be written: {error.strerror}") from None

    async def _refresh(self) -> None:
        async with self._refreshing:
            await self._refresh_now()

    async def _refresh_now(self) -> None:
        if not self._rules.replay:
            if self._ask_time is not None:
                await self._ask_time()
            versions = {p: desk.partition.version for p, desk in self.desks.items()}
            await self._believe()
            if self.knowledge.went_back:  # and so, it seems, did the partitions, or what they have heard of the learners is no longer true
                self.knowledge.went_back = False
                self._start_over()
            self._hear_learners(versions)
            self._wake()
            await self._make_whole()
            return
        stamp_ms = await self._stamped()
        if stamp_ms == self._stamp_ms:
            await self._make_whole()
            return
        self._stamp_ms, refreshed_ms = -1, -1  # nobody works with beliefs of two times, nor says what came of it
        while stamp_ms != refreshed_ms:  # else the store went back in the meantime
            refreshed_ms = stamp_ms
            await self._believe()
            stamp_ms = await self._stamped()
        if stamp_ms < self._highest_ms:
            logger.warning("the store went back to tick %d: all partitions start over from their cursors", stamp_ms)
            self._start_over()
        self._stamp_ms = self._highest_ms = stamp_ms
        self._wake()
        await self._make_whole()

    def _start_over(self) -> None:
        self._is_whole = False  # on a Redis Cluster the description may be lost, and the control records not
        for desk in self.desks.values():
            desk.load_again()
        for learner in self.learners.values():
            learner.load_again()

    async def _believe(self) -> None:
        """Take up what control records and learners say."""
        if await self.knowledge.refresh_control():
            self._is_whole = False
        await self.knowledge.refresh_heads()

    async def _make_whole(self) -> None:
        """Put back what the store has forgotten of the control records, and we know; the namespace's description last, which others take for the rest."""
        if self._is_whole:
            return
        if self.knowledge.forgotten:
            self.knowledge.look_at_control_again()
            if lost := await put_back(self._store, self.knowledge.forgotten):
                self.tell(incident("store_went_back", f"the launches {', '.join(lost)} had left the control records; they were put back", launches=len(lost)))
        if (shelf := self._shelf) is not None and (shelf.missing or shelf.forgotten):
            self.knowledge.look_at_control_again()
            if numbers := await trunks.put_back(self._store, shelf.forgotten, shelf.missing):
                text = f"the trunks' activations {', '.join(map(str, numbers))} had left the control records; they were put back"
                self.tell(incident("store_went_back", text, activations=len(numbers)))
        self._follow(await self._store.claim_meta(self._meta))
        self._is_whole = True

    def _follow(self, held: Mapping[str, str]) -> None:
        """Take the namespace's description as it is held: where the store was emptied, someone else may have joined it first, with another trunk."""
        if self._shelf is not None and "trunk" in held:
            self._shelf.base = self._meta["trunk"] = held["trunk"]
        compare(held, self._meta, "the namespace, which was emptied and joined anew,")

    def _hear_learners(self, versions: Mapping[int, int]) -> None:
        """Let the partitions know what is learned; `versions` are those that they had before the learners were asked."""
        for q in range(self._rules.outcome_partitions):
            cursor = self.knowledge.cursors.get(outcome_slot(q), b"")
            if self._positions.get(outcome_slot(q), (b"",))[0] != cursor:
                self._positions[outcome_slot(q)] = cursor, expected_in(cursor)
            for p, expected in self._positions.get(outcome_slot(q), (b"", {}))[1].items():
                if (desk := self.desks.get(p)) is not None:
                    desk.partition.learned(q, expected.epoch, expected.number, as_of=versions.get(p, 0))

    async def _stamped(self) -> int:
        slots = await asyncio.gather(*(self._store.load(outcome_slot(q), ()) for q in range(self._rules.outcome_partitions)))
        return min(stamp_of(slot.cursor) for slot in slots)

    def _wake(self) -> None:
        for desk in self.desks.values():
            desk.wake()

    # Opening desks.

    def _desk(self, partition: Partition) -> Desk:
        return Desk(
            partition, store=self._store, rules=partition.rules, knowledge=self.knowledge, outlet=self._outlet, source=self, tick_ms=self._tick_ms,
            patience_s=self._patience_s, clock_ms=self._clock_ms, stamp_ms=lambda: self._stamp_ms, crashed=self.crashed,
            held_bytes=self._held_bytes,
        )  # fmt: skip

    def _learner_desk(self, learner: Learner) -> LearnerDesk:
        async def seek(q: int, offset: int) -> None:
            await self._seek({(OUTCOMES, q): offset})

        def hold(q: int, held: bool) -> None:
            self.hold(q, OUTCOMES, held)

        return LearnerDesk(
            learner, load=self._load_learner, seek=seek, hold=hold, end=self._outcomes_end, outlet=self._outlet, tell=self.tell,
            patience_s=self._patience_s, learned=self._stamp_news.set, crashed=self.crashed,
        )  # fmt: skip

    def _outcomes_end(self, q: int) -> int | None:
        """Return where `outcomes` ended when the broker last said so, None if that is long ago."""
        end = self._wire.end(OUTCOMES, q)
        return end.offset if end is not None and self._clock_ms() - end.as_of_ms <= STALE_MS else None

    async def _load_learner(self, q: int) -> Learner:
        return await Learner.load(
            q, self._store, self._model, partitions=self._rules.partitions, outcome_partitions=self._rules.outcome_partitions, replay=self._rules.replay,
            shelf=self._shelf, reacts=self._rules.reacts,
        )  # fmt: skip

    # What the desks ask for.

    async def look_again(self) -> None:
        """Bring stamps and beliefs up to the store's present state: asked for where something of the store was lost."""
        self._is_whole = False
        await self._refresh()

    def tell(self, alert: Alert) -> None:
        """Log an alert, and send it as soon as the broker takes it; those of its kind that come soon after are sent together, since what befalls the store befalls every partition."""
        self.incidents[alert.kind] += 1
        logger.error("alert %s: %s", alert.kind, alert.text)
        now_s = time.monotonic()
        if now_s - self._told_s.get(alert.kind, -math.inf) >= ALERT_AGAIN_S:
            self._told_s[alert.kind] = now_s
            self.alerts.append(alert)
        else:
            self._held_back.setdefault(alert.kind, []).append(alert)

    async def seek(self, partition: int, offsets: list[int]) -> None:
        """Read the four topics of a partition on at these offsets."""
        await self._seek({(kind, partition): offset for kind, offset in enumerate(offsets)})

    async def _seek(self, offsets: Mapping[tuple[int, int], int]) -> None:
        try:
            await self._wire.seek(offsets)
        except OSError as error:
            raise DependencyDown(f"the broker does not answer: {error}") from error

    def hold(self, partition: int, kind: int, held: bool) -> None:
        """Stop, or go on, reading one topic of a partition."""
        (self._parked.add if held else self._parked.discard)((kind, partition))
        self._wire.hold(kind, partition, held)

    def is_parked(self, topic: int, partition: int) -> bool:
        """Whether one topic of a partition is held."""
        return (topic, partition) in self._parked

    def parked(self) -> int:
        """Return how many topics of partitions are held."""
        return len(self._parked)

    def ends(self, partition: int) -> Sequence[End | None]:
        """Return where the four topics of a partition end."""
        return [self._wire.end(kind, partition) for kind in range(len(KINDS))]
