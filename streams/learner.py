"""The learner of one outcome partition: the one writer of the heads whose outcomes come here, and at partition 0 of the catalogue.

It applies only the number that it expects of each input partition, in a replay tick by tick once every partition is done with the
tick, live as they come; and it commits as a worker does. In a replay, launches learn against the shared heads as of the tick before.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from features.catalogue import add, empty, merge
from features.exposures import Closed
from features.hashing import partition_for
from features.layout import CATALOGUE
from features.store import Changes, Store
from features.vector import WIDTH
from models.mind import LaunchHead, Model, SharedHeads, learn_launch, learn_shared
from streams.knowledge import CHANGED_KEPT, encode_names, outcome_slot
from streams.partition import Cursor, LostCommit
from streams.records import SHARED, SHARED_BEFORE, Counted, Message, Outcome, Outgoing, TickDone, encode_json

logger = logging.getLogger(__name__)

SNAPSHOT_MS: Final = 60_000  # live, a head's snapshots are at least so far apart


class Expected(msgspec.Struct, array_like=True):
    """What comes next of one input partition."""

    epoch: int
    number: int


class LearnerCursor(msgspec.Struct, array_like=True, kw_only=True):
    """Up to where all outcomes are in the heads. `stamp_ms` is the end of the last tick that was learned in a replay."""

    offset: int = 0
    stamp_ms: int = 0
    expected: dict[int, Expected] = {}
    tried: int = 0
    hit: int = 0
    duplicates: int = 0


class Snapshot(msgspec.Struct, kw_only=True):
    """The audit record of a head: its means and its offset's weights, and the sha256 of the whole state, which is in the store."""

    launch_id: str
    tick_ms: int
    n_learned: int
    sha256: str
    means: dict[str, str]  # base64 of little-endian float64


class Learner:
    """Outcome partition q. Made by `load`, and made anew after every commit that was refused or failed."""

    def __init__(self, q: int, store: Store, model: Model | None, *, partitions: int, outcome_partitions: int, replay: bool) -> None:
        self.q, self.cursor = q, LearnerCursor()
        self._store, self._model, self._slot = store, model, outcome_slot(q)
        self._partitions, self._replay = partitions, replay
        self._shared_q = partition_for(SHARED.encode(), outcome_partitions)
        self._version = 0
        self._shared: SharedHeads | None = None
        self._heads: dict[str, LaunchHead] = {}
        self._catalogue: dict[str, bytes] = {}
        self._waiting: list[tuple[int, Outcome | Counted]] = []  # with their offsets
        self._next: dict[int, Expected] = {}
        self._done: dict[int, deque[tuple[int, TickDone]]] = {p: deque() for p in range(partitions)}
        self._read_to = 0
        self._snapshots: dict[str, bytes] = {}
        self._sent: list[str] = []
        self._told_ms: dict[str, int] = {}
        self.heard: Callable[[Outcome], None] = lambda _: None
        """Called with each outcome that is applied, in order: for figures in the same process."""

    @classmethod
    async def load(cls, q: int, store: Store, model: Model | None, *, partitions: int, outcome_partitions: int, replay: bool) -> Learner:
        """Read version, cursor, heads, catalogue and unsent snapshots in one step."""
        learner = cls(q, store, model, partitions=partitions, outcome_partitions=outcome_partitions, replay=replay)
        slot = await store.load(learner._slot, ("heads", "catalogue", "snapshots"))
        learner._version = slot.version
        if slot.version:
            learner.cursor = msgspec.msgpack.decode(slot.cursor, type=LearnerCursor)
        for name, value in slot.hashes["heads"].items():
            if name == SHARED:
                learner._shared = SharedHeads.from_bytes(value)
            elif name != SHARED_BEFORE:
                learner._heads[name] = LaunchHead.from_bytes(value)
        if learner._shared is None and q == learner._shared_q and model is not None:
            learner._shared = model.shared()
        learner._catalogue = dict(slot.hashes["catalogue"])
        learner._snapshots = dict(slot.hashes["snapshots"])
        learner._next = {p: Expected(e.epoch, e.number) for p, e in learner.cursor.expected.items()}
        learner._read_to = learner.cursor.offset
        return learner

    async def receive(self, message: Message, offset: int) -> None:
        """Take in one message; what is a duplicate, or of an epoch that its partition has left, is passed over."""
        self._read_to = offset + 1
        if isinstance(message, TickDone):
            told = self._done[message.partition]
            last_ms = told[-1][1].tick_ms if told else self.cursor.stamp_ms
            if message.tick_ms > last_ms and self._next.get(message.partition, Expected(0, 0)).number >= message.upto:
                told.append((offset, message))
            return
        expected = self._next.get(message.partition)
        if expected is None or expected.epoch != message.epoch:
            cursor = await self._partition_cursor(message.partition)
            if cursor is None or cursor.epoch != message.epoch:
                return
            expected = self._next[message.partition] = Expected(message.epoch, 0)
            self._waiting = [(at, m) for at, m in self._waiting if m.partition != message.partition]
        if message.number == expected.number:
            expected.number += 1
            self._waiting.append((offset, message))
        elif message.number < expected.number:
            self.cursor.duplicates += 1
        else:
            logger.warning("outcomes[%d]: partition %d sent %d, expected %d; it will come again", self.q, message.partition, message.number, expected.number)

    async def _partition_cursor(self, partition: int) -> Cursor | None:
        slot = await self._store.load(str(partition), ())
        return msgspec.msgpack.decode(slot.cursor, type=Cursor) if slot.version else None

    async def due_ms(self) -> int | None:
        """In a replay, the end of the next tick, if every partition is done with it; else None.

        That a partition said so is not enough: where the store was put back to an older state, what it said before is still on Kafka.
        The learner must not run ahead of it, so its committed cursor decides.
        """
        if not all(self._done.values()):
            return None
        ends = {told[0][1].tick_ms for told in self._done.values()}
        assert len(ends) == 1, f"partitions are done with different ticks: {sorted(ends)}"
        tick_ms = ends.pop()
        cursors = await asyncio.gather(*map(self._partition_cursor, self._done))
        return tick_ms if all(cursor is not None and cursor.tick_ms >= tick_ms for cursor in cursors) else None

    async def step(self) -> bool:
        """Learn what can be learned now and commit it; False if there was nothing. Raises `LostCommit` and DependencyDown."""
        tick_ms = await self.due_ms() if self._replay else None
        if self._replay:
            if tick_ms is None:
                return False
            upto = {p: told[0][1].upto for p, told in self._done.items()}
            now = [m for _, m in self._waiting if m.number < upto[m.partition]]
            expected = {p: Expected(e.epoch, upto[p]) for p, e in self._next.items()}
        else:
            if self._read_to == self.cursor.offset:
                return False
            now = [m for _, m in self._waiting]
            expected = {p: Expected(e.epoch, e.number) for p, e in self._next.items()}
        outcomes = [m for m in now if isinstance(m, Outcome)]
        counted = [m for m in now if isinstance(m, Counted)]
        if self._replay:
            outcomes.sort(key=lambda m: (m.closed.close_ms, m.closed.exposure.id, m.closed.bin))
        heads = await self._learn(outcomes)
        put: dict[str, dict[str, bytes]] = {"heads": heads}
        if counted:
            at_ms = tick_ms if tick_ms is not None else max(m.tick_ms for m in counted)
            changed = self._count(counted, at_ms)
            put["catalogue"] = changed
            put["changed"] = {str(self._version + 1): encode_names(list(changed))}
        elif self.q == 0:
            put["changed"] = {str(self._version + 1): encode_names([])}
        stamp_ms = tick_ms if tick_ms is not None else max((m.closed.close_ms for m in outcomes), default=self.cursor.stamp_ms)
        fresh = {
            f"{stamp_ms:015d}:{name}": encode_json(snapshot(name, state, stamp_ms))
            for name, state in self._states().items()
            if name in heads and (self._replay or stamp_ms - self._told_ms.get(name, -SNAPSHOT_MS) >= SNAPSHOT_MS)
        }
        put["snapshots"] = fresh
        await self._commit(put, {"snapshots": self._sent, "changed": [str(self._version + 1 - CHANGED_KEPT)]}, expected, tick_ms)
        for name in self._sent:
            self._snapshots.pop(name, None)
        self._snapshots.update(fresh)
        self._told_ms.update({name.partition(":")[2]: stamp_ms for name in fresh})
        self._sent = []
        for outcome in outcomes:
            self.heard(outcome)
        return True

    def _states(self) -> dict[str, Any]:
        shared = {SHARED: self._shared} if self._shared is not None and self.q == self._shared_q else {}
        return {**shared, **dict(sorted(self._heads.items()))}

    async def _commit(self, put: dict[str, dict[str, bytes]], drop: dict[str, list[str]], expected: dict[int, Expected], tick_ms: int | None) -> None:
        cursor = self.cursor
        if tick_ms is not None:
            for told in self._done.values():
                told.popleft()
        self._waiting = [(at, m) for at, m in self._waiting if m.number >= expected[m.partition].number]
        later = [at for at, _ in self._waiting] + [at for told in self._done.values() for at, _ in told]
        cursor.offset = min(later, default=self._read_to)
        cursor.expected = dict(sorted(expected.items()))
        if tick_ms is not None:
            cursor.stamp_ms = tick_ms
        changes = Changes(cursor=msgspec.msgpack.encode(cursor), put=put, drop=drop)
        if not await self._store.commit(self._slot, self._version, changes):
            raise LostCommit(f"outcomes[{self.q}]: version {self._version} is no longer the store's")
        self._version += 1

    async def _learn(self, outcomes: Sequence[Outcome]) -> dict[str, bytes]:
        """Update the heads in memory; returns the states that changed, as bytes."""
        self.cursor.tried += sum(m.closed.bin > 0 for m in outcomes)
        self.cursor.hit += sum(m.closed.y for m in outcomes)
        model = self._model
        if model is None:
            return {}
        # What closed before the end of training has taught the shared heads already.
        fresh = [m for m in outcomes if m.key != SHARED or m.closed.close_ms > model.artifact.trained_until_ms]
        by_launch: dict[str, list[Closed]] = {}
        for m in fresh:
            by_launch.setdefault(m.key, []).append(m.closed)
        shared_rows = by_launch.pop(SHARED, [])
        changed: dict[str, bytes] = {}
        if by_launch:
            shared = await self._shared_before(model)
            for launch, rows in sorted(by_launch.items()):
                head = self._heads.setdefault(launch, model.launch())
                x, bin_, y, final, close_ms = _arrays(rows)
                learn_launch(model, head, shared, x, bin_, y, final, close_ms)
                changed[launch] = head.to_bytes()
        if self.q == self._shared_q and self._shared is not None and (shared_rows or self._replay):
            if self._replay:
                changed[SHARED_BEFORE] = self._shared.to_bytes()
            if shared_rows:
                learn_shared(model, self._shared, *_arrays(shared_rows)[:4])
            changed[SHARED] = self._shared.to_bytes()
        return changed

    async def _shared_before(self, model: Model) -> SharedHeads:
        """Return the shared heads as of the tick before, wherever they are kept; live, their latest state."""
        if self._shared is not None:
            return self._shared
        slot = await self._store.load(outcome_slot(self._shared_q), ("heads",))
        if not slot.version:
            return model.shared()
        stamp_ms = msgspec.msgpack.decode(slot.cursor, type=LearnerCursor).stamp_ms
        ahead = self._replay and stamp_ms > self.cursor.stamp_ms
        value = slot.hashes["heads"].get(SHARED_BEFORE if ahead else SHARED)
        return SharedHeads.from_bytes(value) if value else model.shared()

    def _count(self, counted: Sequence[Counted], at_ms: int) -> dict[str, bytes]:
        changed = {}
        for name, values in merge([m.counts for m in counted]).items():
            held = self._catalogue.get(name)
            record = np.frombuffer(held, CATALOGUE) if held else empty()
            changed[name] = self._catalogue[name] = add(record, values, at_ms).tobytes()
        return changed

    async def is_current(self) -> bool:
        """Whether the store's version is still ours: else it went back, or someone else has committed."""
        return (await self._store.load(self._slot, ())).version == self._version

    def is_tick_end(self, message: Message) -> bool:
        """Whether `step` may have something to do right after a message, in a replay."""
        return self._replay and isinstance(message, TickDone)

    def unsent(self) -> list[Outgoing]:
        """Return the committed snapshots that are not known to be on Kafka."""
        return [Outgoing("heads", name.partition(":")[2].encode(), value) for name, value in sorted(self._snapshots.items()) if name not in self._sent]

    def mark_sent(self) -> None:
        """Note that all of `unsent` is on Kafka; the next commit trims it."""
        self._sent = sorted(self._snapshots)

    @property
    def stamp_ms(self) -> int:
        """The end of the last tick that was learned."""
        return self.cursor.stamp_ms


def _arrays(rows: Sequence[Closed]) -> tuple[Any, Any, Any, Any, Any]:
    """Return x (N, F), bin (N,) from 0 or -1, y (N,), final label (N,) or -1, and close time (N,)."""
    x = np.frombuffer(b"".join(c.exposure.x for c in rows), np.float32).reshape(len(rows), WIDTH).copy()
    columns = np.array([(c.bin - 1, c.y, c.label, c.close_ms) for c in rows], np.int64).reshape(len(rows), 4)
    return x, *(np.ascontiguousarray(columns[:, i]) for i in range(4))  # type: ignore[return-value]


def snapshot(name: str, state: SharedHeads | LaunchHead, tick_ms: int) -> Snapshot:
    """Return the audit record of a head's state."""
    if isinstance(state, SharedHeads):
        means = {"raw_final": state.raw_final.m, "raw_delay": state.raw_delay.m, "trunk_delay": state.trunk_delay.m}
    else:
        means = {"offset_log_evidence": state.offset.evidence, "scratch": state.scratch.m}
    return Snapshot(
        launch_id=name,
        tick_ms=tick_ms,
        n_learned=state.n_learned,
        sha256=hashlib.sha256(state.to_bytes()).hexdigest(),
        means={part: base64.b64encode(np.ascontiguousarray(m, "<f8").tobytes()).decode() for part, m in means.items()},
    )


def stamp_of(cursor: bytes) -> int:
    """Return the stamp in a learner's stored cursor; 0 if there is none."""
    return msgspec.msgpack.decode(cursor, type=LearnerCursor).stamp_ms if cursor else 0
