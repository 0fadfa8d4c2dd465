"""How a worker is: what it has still to do, whether it gets on, and whether it is ready. Told by progress, not by the process being there.

Everything is read from outside, in whatever thread asks, and changes nothing. The watchdog decides by it, /live, /ready and /metrics tell it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from features.events import KINDS
from streams.inflow import Reading, Waits
from streams.measuring import Polls, Row
from streams.worker import OUTCOMES, Worker

SILENT_S: Final = 10.0
"""A broker that has answered no fetch for so long is down. One that is well answers several times a second, with records or without."""


class Gauges(Protocol):
    """What is asked of the transport."""

    def reading(self, topic: int, partition: int) -> Reading | None:
        """Return how far one is read, and where it ends."""

    def waits(self, topic: int, partition: int) -> Waits:
        """Return what was drained of it, and what of that waits to be drawn."""

    def stands_still(self) -> bool:
        """Whether a rebalance holds up everything."""

    def has_joined(self) -> bool:
        """Whether the worker is a member of its group, with partitions or without."""


@dataclass(frozen=True)
class Place:
    """One partition's place: what it has come to, and whether anything is left to do. Equal places mean that nothing has moved."""

    name: str
    come_to: tuple[int, ...] = field(repr=False)
    has_work: bool


class Vitals:
    """Of one worker. `clock_s` is monotonic."""

    def __init__(
        self, worker: Worker, gauges: Gauges, polls: Polls, *, replay: bool, info: tuple[str, str], clock_s: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        """`info`: version and namespace."""
        self._worker, self._gauges, self._polls, self._replay, self._info, self._clock_s = worker, gauges, polls, replay, info, clock_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_s: float | None = None  # when the loop was asked, if it has not answered yet
        self._lag_s = 0.0
        self._stands_since_s: float | None = None
        self.stall = ""
        """Why the worker is about to be ended; "" while it gets on. Set by the watchdog."""

    # The event loop answers a question that is put to it from outside.

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask this loop from now on."""
        self._loop = loop

    def ask_loop(self) -> None:
        """Ask the loop whether it is there, unless an answer is still due."""
        if self._loop is not None and self._asked_s is None and not self._loop.is_closed():
            self._asked_s = self._clock_s()
            self._loop.call_soon_threadsafe(self._answered, self._asked_s)

    def _answered(self, asked_s: float) -> None:
        self._lag_s, self._asked_s = self._clock_s() - asked_s, None

    def loop_lag_s(self) -> float:
        """Return how long the loop took to answer, or for how long the answer is due, if that is longer."""
        asked_s = self._asked_s
        return max(self._lag_s, self._clock_s() - asked_s) if asked_s is not None else self._lag_s

    # What is left to do.

    def places(self) -> list[Place]:
        """Return every partition's place. In a replay what waits for a tick's end is not work: the publisher may take its time. What waits to be drawn by an idle desk is."""
        found = []
        for p, desk in _items(self._worker.desks):
            readings = [self._reading(kind, p) for kind in range(len(KINDS))]
            waits = [self._gauges.waits(kind, p).upto > desk.gate.next_offsets[kind] for kind in range(len(KINDS))]  # to be drawn
            unread = any(r is not None and r.position < r.end and not (waits[kind] or self._worker.is_parked(kind, p)) for kind, r in enumerate(readings))
            held = any(desk.gate.held(kind) for kind in range(len(KINDS)))
            come_to = (*desk.partition.cursor.offsets, *(r.position for r in readings if r is not None))
            undrawn = any(waits) and not (self._replay and desk.in_hand())
            found.append(Place(f"partition {p}", come_to, unread or undrawn or (held and not self._replay)))
        for q, learner in _items(self._worker.learners):
            reading = self._reading(OUTCOMES, q)
            unread = reading is not None and reading.position < reading.end and not self._worker.is_parked(OUTCOMES, q)
            come_to = (learner.learner.cursor.offset, reading.position if reading is not None else 0)
            held = self._gauges.waits(OUTCOMES, q).upto > learner.learner.cursor.offset
            found.append(Place(f"outcomes[{q}]", come_to, unread or (held and not self._replay)))
        return found

    def _reading(self, topic: int, partition: int) -> Reading | None:
        try:
            return self._gauges.reading(topic, partition)
        except (AttributeError, KeyError, RuntimeError):
            return None  # a rebalance is taking it away at this moment

    def stands_still(self) -> bool:
        """Whether a rebalance holds up everything."""
        return self._gauges.stands_still()

    # What is told.

    def problems(self) -> list[str]:
        """Return what keeps the worker from being ready, a line each; empty if it is."""
        found = [self.stall] if self.stall else []
        if not self._gauges.has_joined():
            found.append("not a member of its consumer group yet")
        if self._gauges.stands_still():
            found.append("a rebalance is under way")
        waits_s, silent_s = self._waits_s(), self._silent_s()
        if waits_s:
            found.append(f"Redis or the broker has not answered a partition for {waits_s:.0f} s")
        if silent_s:
            found.append(f"the broker has not answered for {silent_s:.0f} s")
        return found

    def down_s(self) -> float:
        """Return for how long Redis or the broker has failed the partition that waits longest, or the broker has been silent; 0 if all is well."""
        return max(self._waits_s(), self._silent_s())

    def _waits_s(self) -> float:
        """For how long what a partition has in hand could not be delivered or committed: who has nothing in hand does not notice a broker that is down."""
        waits = [desk.down_s() for _, desk in _items(self._worker.desks)] + [learner.down_s() for _, learner in _items(self._worker.learners)]
        return max(waits, default=0.0)

    def _silent_s(self) -> float:
        silent_s = self._worker.broker_silent_s
        return silent_s if silent_s > SILENT_S else 0.0

    def figures(self) -> Mapping[str, Iterable[Row]]:
        """Return the figures that are read when someone asks, by the names of `streams.meters`."""
        worker, now_ms = self._worker, time.time_ns() // 1_000_000
        desks, learners = _items(worker.desks), _items(worker.learners)
        totals = {p: desk.partition.cursor.totals for p, desk in desks}
        outcomes = [
            ((str(p), what), float(number))
            for p, t in totals.items()
            for what, number in (("applied", t.applied), ("duplicate", t.duplicate), ("rejected", t.rejected))
        ]
        lags, learner_lags = [], []
        for p, desk in desks:
            for kind, name in enumerate(KINDS):
                if (reading := self._reading(kind, p)) is not None:
                    lags.append(((name, str(p)), float(max(0, reading.end - desk.partition.cursor.offsets[kind]))))
        for q, learner in learners:
            if (reading := self._reading(OUTCOMES, q)) is not None:
                learner_lags.append(((str(q),), float(max(0, reading.end - learner.learner.cursor.offset))))
        held = [desk.gate for _, desk in desks]
        waits = [self._gauges.waits(kind, p) for p, _ in desks for kind in range(len(KINDS))] + [self._gauges.waits(OUTCOMES, q) for q, _ in learners]
        oldest_s = max((self._clock_s() - w.since_s for w in waits if w.since_s is not None), default=0.0)
        launches = [(name, *told) for _, learner in learners for name, told in learner.learner.launch_figures().items()]
        problems = self.problems()
        return {
            "headstart_events_total": outcomes,
            "headstart_exposures_total": [((str(p),), float(t.exposures)) for p, t in totals.items()],
            "headstart_untracked_exposures_total": [((str(p),), float(t.untracked)) for p, t in totals.items()],
            "headstart_late_orders_total": [((str(p),), float(t.late_orders)) for p, t in totals.items()],
            "headstart_bins_learned_total": [((str(q),), float(learner.learner.cursor.tried)) for q, learner in learners],
            "headstart_bins_ordered_total": [((str(q),), float(learner.learner.cursor.hit)) for q, learner in learners],
            "headstart_outcome_duplicates_total": [((str(q),), float(learner.learner.cursor.duplicates)) for q, learner in learners],
            "headstart_launch_bins_total": [((name,), float(bins)) for name, bins, _ in launches],
            "headstart_launch_orders_total": [((name,), float(orders)) for name, _, orders in launches],
            "headstart_lost_records_total": [((), float(worker.lost_records))],
            "headstart_incidents_total": [((kind,), float(number)) for kind, number in worker.incidents.items()],
            "headstart_lag_records": lags,
            "headstart_learner_lag_records": learner_lags,
            "headstart_event_time_delay_seconds": [
                ((str(p),), max(0.0, (now_ms - desk.partition.cursor.tick_ms) / 1000)) for p, desk in desks if desk.partition.cursor.tick_ms
            ],
            "headstart_oldest_unacknowledged_seconds": [((), max(self._polls.oldest_s(), oldest_s))],
            "headstart_live": [((), float(not self.stall))],
            "headstart_ready": [((), float(not problems))],
            "headstart_assigned_partitions": [((), float(len(desks)))],
            "headstart_dependency_down_seconds": [((), self.down_s())],
            "headstart_event_loop_lag_seconds": [((), self.loop_lag_s())],
            "headstart_held_records": [((), float(sum(gate.held(kind) for gate in held for kind in range(len(KINDS))) + sum(w.records for w in waits)))],
            "headstart_held_bytes": [((), float(sum(gate.held_bytes(kind) for gate in held for kind in range(len(KINDS))) + sum(w.bytes for w in waits)))],
            "headstart_parked_topics": [((), float(worker.parked()))],
            "headstart_open_exposures": [((str(p),), float(len(desk.partition.pending))) for p, desk in desks],
            "headstart_exposures_fill": [((), max((len(desk.partition.pending) / desk.partition.rules.max_pending for _, desk in desks), default=0.0))],
            "headstart_outbox_outcomes": [((str(p),), float(desk.partition.outbox.waiting())) for p, desk in desks],
            "headstart_info": [((*self._info, worker.knowledge.trunk), 1.0)],
        }


def _items(held: dict[int, Any]) -> list[tuple[int, Any]]:
    """The entries in one moment, however the event loop's thread changes them."""
    while True:
        try:
            return sorted(held.items())
        except RuntimeError:
            continue
