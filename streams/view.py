"""What there is to be seen of a namespace, read from the store alone: figures, alerts, traffic, signs of life. Read-only, for dashboard and terminal.

A `Reader` keeps what it has read and reads a slot again only when its version has moved on, so a look at a quiet namespace is a few small commands.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Final

from features.store import Store, decoded
from models.chronicle import Blocks, Rows
from models.launch_head import LaunchHead
from streams import namespace
from streams.alerts import Alert, decode_alert
from streams.beats import ALIVE_MS, FORGOTTEN_MS, Beat, decode_beat
from streams.knowledge import CONTROL_SLOT, HEADS, outcome_slot
from streams.partition import Cursor
from streams.records import SHARED, SHARED_BEFORE, Example, Launch, decode_launch
from streams.sight import ABOUT, ALERTS, BLOCKS, EXAMPLES, ROWS, TRAFFIC, About, by_domain, decode_about, decode_examples

LOOKED_AT: Final = (ROWS, BLOCKS, TRAFFIC, EXAMPLES, ALERTS, ABOUT, HEADS)


@dataclass(frozen=True)
class Look:
    """A namespace in one moment. Times in ms; `now_ms` is event time, the latest tick that any partition has closed, as far as is known."""

    name: str
    clock: str
    now_ms: int
    trunk: str
    launches: dict[str, Launch]
    rows: dict[str, Rows]
    blocks: dict[str, Blocks]
    traffic: dict[str, Rows]
    examples: dict[str, list[Example]]
    alerts: list[Alert]
    about: About | None
    heads: dict[str, LaunchHead]
    cursors: dict[int, Cursor]
    beats: list[Beat]
    outcome_partitions: int

    @property
    def live(self) -> bool:
        """Whether its time is the wall clock."""
        return self.clock == namespace.LIVE

    def alive(self, wall_ms: int) -> list[Beat]:
        """Return the workers that gave a sign of life lately."""
        return [beat for beat in self.beats if wall_ms - beat.at_ms <= ALIVE_MS]

    def heard_of(self, wall_ms: int) -> list[Beat]:
        """Return those and the ones that have been silent since, for a while."""
        return [beat for beat in self.beats if wall_ms - beat.at_ms <= FORGOTTEN_MS]

    def times(self, wall_ms: int) -> dict[int, int]:
        """Return {partition: the event time up to which it is worked off}; live as its worker says, since a quiet tick is not written to the cursor."""
        times = {p: cursor.tick_ms for p, cursor in self.cursors.items()}
        for beat in (beat for worker in self.alive(wall_ms) for beat in worker.partitions):
            if self.live and beat.partition in times:
                times[beat.partition] = max(times[beat.partition], beat.time_ms)
        return times

    def alerts_of(self, domain: str) -> list[Alert]:
        """Return a domain's alerts, the latest first."""
        return [alert for alert in self.alerts if alert.launch_id == domain]


@dataclass
class _Held:
    version: int = -1
    hashes: dict[str, dict[str, bytes]] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    blocks: dict[str, Blocks] = field(default_factory=dict)
    traffic: dict[str, Rows] = field(default_factory=dict)
    heads: dict[str, LaunchHead] = field(default_factory=dict)


class Reader:
    """Looks at the namespace of a store."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._held: dict[str, _Held] = {}
        self._launches: dict[str, Launch] = {}
        self._reading = asyncio.Lock()

    async def look(self) -> Look:
        """Return what there is now. Raises InputError for a namespace that nobody has joined, and DependencyDown."""
        async with self._reading:
            return await self._look()

    async def _look(self) -> Look:
        meta = await self._store.meta()
        partitions, outcome_partitions = namespace.sizes_of(meta, self._name)
        control = await self._store.load(CONTROL_SLOT, ("launches",))
        self._launches = {name: decode_launch(value) for name, value in sorted(control.hashes["launches"].items())}
        cursors = {}
        for p in range(partitions):
            slot = await self._store.load(str(p), ())
            if slot.version:
                cursors[p] = decoded(slot.cursor, Cursor, "a partition's cursor")
        held = [await self._slot(outcome_slot(q)) for q in range(outcome_partitions)]
        beats = sorted((decode_beat(raw) for raw in (await self._store.beats()).values()), key=lambda beat: beat.worker)
        clock = namespace.clock_of(meta)
        ticks = [cursor.tick_ms for cursor in cursors.values()]
        if clock == namespace.LIVE:  # a quiet tick is in no cursor; the last beat of a worker that has died tells of it too
            ticks += [beat.time_ms for worker in beats for beat in worker.partitions]
        alerts = sorted((decode_alert(raw) for one in held for raw in one.hashes[ALERTS].values()), key=lambda a: a.alert_id, reverse=True)
        abouts = [decode_about(raw) for one in held for raw in one.hashes[ABOUT].values()]
        return Look(
            name=self._name,
            clock=clock,
            now_ms=max(ticks, default=0),
            trunk=abouts[0].trunk if abouts else meta["trunk"][:16],
            launches=self._launches,
            rows={domain: rows for one in held for domain, rows in one.rows.items()},
            blocks={domain: blocks for one in held for domain, blocks in one.blocks.items()},
            traffic={domain: rows for one in held for domain, rows in one.traffic.items()},
            examples={reason: decode_examples(raw) for one in held for reason, raw in sorted(one.hashes[EXAMPLES].items())},
            alerts=alerts,
            about=abouts[0] if abouts else None,
            heads={name: head for one in held for name, head in one.heads.items()},
            cursors=cursors,
            beats=beats,
            outcome_partitions=outcome_partitions,
        )

    async def _slot(self, slot: str) -> _Held:
        held = self._held.setdefault(slot, _Held(hashes={name: {} for name in LOOKED_AT}))
        if (await self._store.load(slot, ())).version == held.version:
            return held
        now = await self._store.load(slot, LOOKED_AT)
        before = held.hashes
        held.version, held.hashes = now.version, {name: dict(part) for name, part in now.hashes.items()}
        held.rows = {domain: Rows(part) for domain, part in by_domain(held.hashes[ROWS]).items()}
        held.traffic = {domain: Rows(part) for domain, part in by_domain(held.hashes[TRAFFIC]).items()}
        held.blocks = {domain: Blocks(part) for domain, part in by_domain(held.hashes[BLOCKS]).items()}
        held.heads = {
            name: held.heads[name] if name in held.heads and before[HEADS].get(name) == raw else LaunchHead.from_bytes(raw)
            for name, raw in held.hashes[HEADS].items()
            if name not in (SHARED, SHARED_BEFORE)
        }
        return held


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: what is not finite is null."""
    return json.loads(json.dumps(_finite(value)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        return None
    return value
