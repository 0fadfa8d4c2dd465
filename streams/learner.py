"""The learner of one outcome partition: the one writer of the heads whose outcomes come here, and at partition 0 of the catalogue.

It applies only the number that it expects of each input partition, in a replay tick by tick once every partition is done with the
tick, live as they come and as the partitions' cursors confirm them (`streams.inbox`); and it commits as a worker does. In a replay,
launches learn against the shared heads as of the tick before.

Live, it also carries its heads over to a new trunk, in one commit with the stamp that says so (`_switch`). It learns with the trunk that its heads belong
to, so what is on its way at the switch is learned once, with the old trunk or the new one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from features.catalogue import add, empty, merge
from features.exposures import Closed
from features.hashing import partition_for
from features.layout import CATALOGUE
from features.store import Changes, Store, decoded, first_version
from models.carry import carried_launch, carried_shared, heard_since, same_scaler
from models.launch_head import LaunchHead
from models.model import Model
from models.shared_heads import SharedHeads
from streams import trunks
from streams.alerts import Alert
from streams.inbox import Expected, Inbox, Passed, lives_of
from streams.incidents import incident
from streams.knowledge import CHANGED, CHANGED_KEPT, HEADS, HEADS_BEFORE, encode_names, outcome_slot
from streams.learner_cursor import LearnerCursor
from streams.outbox import OUTBOX, held_for
from streams.outcome_rows import arrays_of, experts_said
from streams.partition import Cursor, LostCommit
from streams.records import SHARED, SHARED_BEFORE, Counted, Message, Outcome, Outgoing, TickDone, encode_json
from streams.sight import HASHES, Sight
from streams.snapshots import snapshot
from streams.turns import Turns

logger = logging.getLogger(__name__)

LEARN_AT_ONCE: Final = 200  # live, outcomes of a head: some 4 ms
SNAPSHOT_MS: Final = 60_000  # live, a head's snapshots are at least so far apart
ANSWER_FRESH_S: Final = 0.1  # live, for so long what a partition has told is taken for what the store still holds


class Learner:
    """Outcome partition q. Made by `load`, and made anew after every commit that was refused or failed."""

    def __init__(
        self, q: int, store: Store, model: Model | None, *, partitions: int, outcome_partitions: int, replay: bool, shelf: trunks.Shelf | None = None, reacts: bool = True
    ) -> None:  # fmt: skip
        self.q, self.cursor = q, LearnerCursor()
        self._store, self._model, self._slot = store, model, outcome_slot(q)
        self._partitions, self._outcome_partitions, self._replay = partitions, outcome_partitions, replay
        self._shelf, self._stamp = shelf, trunks.Stamp()
        self._shared_q = partition_for(SHARED.encode(), outcome_partitions)
        self._version, self._next_version = 0, first_version(0, secrets.randbits(32))
        self._shared: SharedHeads | None = None
        self._heads: dict[str, LaunchHead] = {}
        self._catalogue: dict[str, bytes] = {}
        self._changed: list[str] = []  # the versions of which the store knows what they changed, from before
        self._waiting: list[tuple[int, Outcome | Counted]] = []  # with their offsets
        self._next: dict[int, Expected] = {}
        self._done: dict[int, deque[tuple[int, TickDone]]] = {p: deque() for p in range(partitions)}
        self._read_to = 0
        self._inbox = Inbox(q, {})
        self._news = False  # live: something has come, or was refilled, since the last step
        self._asked_s = 0.0  # live, when the partitions were asked what they have told
        self.alerts: list[Alert] = []
        """What is to be told; whoever tells it clears it."""
        self._snapshots: dict[str, bytes] = {}
        self._sent: list[str] = []
        self._told_ms: dict[str, int] = {}
        self._reacts = reacts
        self.sight = Sight({name: {} for name in HASHES}, reacts=reacts)
        self.heard: Callable[[Outcome], None] = lambda _: None
        """Called with each outcome that is applied, in order: for figures in the same process."""

    @classmethod
    async def load(
        cls, q: int, store: Store, model: Model | None, *, partitions: int, outcome_partitions: int, replay: bool, shelf: trunks.Shelf | None = None, reacts: bool = True
    ) -> Learner:  # fmt: skip
        """Read version, cursor, heads, catalogue and unsent snapshots in one step.

        With a `shelf` (live) the trunk is the one that the stored heads belong to, and new ones are followed; else it is `model` for good.
        """
        learner = cls(q, store, model, partitions=partitions, outcome_partitions=outcome_partitions, replay=replay, shelf=shelf, reacts=reacts)
        slot = await store.load(learner._slot, (HEADS, "catalogue", *CHANGED.values(), "snapshots", trunks.STAMP, *HASHES))
        learner._version, learner._next_version = slot.version, first_version(slot.version, secrets.randbits(32))
        learner.sight = Sight(slot.hashes, reacts=reacts)
        if shelf is not None:
            learner._stamp = trunks.stamp_in(slot)
            learner._model = model = await shelf.model(learner._stamp.sha256)
        if slot.version:
            learner.cursor = decoded(slot.cursor, LearnerCursor, "a learner's cursor")
        for name, value in slot.hashes[HEADS].items():
            if name == SHARED:
                learner._shared = SharedHeads.from_bytes(value)
            elif name != SHARED_BEFORE:
                learner._heads[name] = LaunchHead.from_bytes(value)
        if learner._shared is None and q == learner._shared_q and model is not None:
            learner._shared = SharedHeads.of(model)
        learner._catalogue = dict(slot.hashes["catalogue"])
        learner._changed = sorted({version for name in CHANGED.values() for version in slot.hashes[name]})
        learner._snapshots = dict(slot.hashes["snapshots"])
        learner._next = {p: Expected(e.epoch, e.number) for p, e in learner.cursor.expected.items()}
        learner._inbox = Inbox(q, learner.cursor.expected)
        learner._read_to = learner.cursor.offset
        return learner

    async def receive(self, message: Message, offset: int) -> None:
        """Take in one message; what is a duplicate, or of an epoch that its partition has left, is passed over."""
        self._read_to, self._news = offset + 1, True
        if self._replay:
            await self._receive_in_replay(message, offset)
        elif not isinstance(message, TickDone):
            self._inbox.take(message, offset)

    async def _receive_in_replay(self, message: Message, offset: int) -> None:
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
        return decoded(slot.cursor, Cursor, "a partition's cursor") if slot.version else None

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

    async def step(self, *, rests: bool = True) -> bool:
        """Learn what can be learned now and commit it, or carry the heads over to a new trunk; False if there was nothing to do. Live it `rests` in between.

        Raises `LostCommit` and DependencyDown.
        """
        if self._shelf is not None and await self._switch(self._shelf):
            return True
        tick_ms = await self.due_ms() if self._replay else None
        if self._replay:
            if tick_ms is None:
                return False
            upto = {p: told[0][1].upto for p, told in self._done.items()}
            now = [m for _, m in self._waiting if m.number < upto[m.partition]]
            expected = {p: Expected(e.epoch, upto[p]) for p, e in self._next.items()}
        else:
            if not self._news:
                return False
            now = await self._due_live()
            expected = self._inbox.expected
        turns = Turns(rests=rests and not self._replay)
        outcomes = [m for m in now if isinstance(m, Outcome)]
        counted = [m for m in now if isinstance(m, Counted)]
        if self._replay:
            outcomes.sort(key=lambda m: (m.closed.close_ms, m.closed.exposure.id, m.closed.bin))
        heads = await self._learn(outcomes, turns)
        if not self._replay:
            await self._check_told(now)
        put: dict[str, dict[str, bytes]] = {HEADS: heads}
        self.sight.count(counted)
        if counted:
            at_ms = tick_ms if tick_ms is not None else max(m.tick_ms for m in counted)
            put["catalogue"] = self._count(counted, at_ms)
        stamp_ms = tick_ms if tick_ms is not None else max((m.closed.close_ms for m in outcomes), default=self.cursor.stamp_ms)
        fresh = {
            f"{stamp_ms:015d}:{name}": encode_json(snapshot(name, state, stamp_ms, self._model.artifact.sha256[:16] if self._model else ""))
            for name, state in self._states().items()
            if name in heads and (self._replay or stamp_ms - self._told_ms.get(name, -SNAPSHOT_MS) >= SNAPSHOT_MS)
        }
        put["snapshots"] = fresh
        seen, past = self.sight.changes()
        await self._commit({**put, **seen}, {"snapshots": self._sent, **past}, expected, tick_ms)
        self.sight.committed()
        for name in self._sent:
            self._snapshots.pop(name, None)
        self._snapshots.update(fresh)
        self._told_ms.update({name.partition(":")[2]: stamp_ms for name in fresh})
        self._sent = []
        for outcome in outcomes:
            self.heard(outcome)
        return True

    async def _due_live(self) -> list[Outcome | Counted]:
        self._news, self._asked_s = False, time.monotonic()
        partitions = self._inbox.partitions()
        cursors = await asyncio.gather(*map(self._partition_cursor, partitions))
        now, passed = self._inbox.due(dict(zip(partitions, cursors, strict=True)))
        self.cursor.duplicates += passed.duplicates
        self.alerts += _incidents(passed, self.q)
        return now

    async def _check_told(self, now: Sequence[Outcome | Counted]) -> None:
        """Ask once more whether all of this is told, if the answer is not fresh: the store may have gone back since. Raises LostCommit if it did."""
        if time.monotonic() - self._asked_s <= ANSWER_FRESH_S:
            return
        last: dict[int, tuple[int, int]] = {}
        for m in now:
            last[m.partition] = max(last.get(m.partition, (0, 0)), (m.epoch, m.number))
        cursors = await asyncio.gather(*map(self._partition_cursor, last))
        for (p, (epoch, number)), cursor in zip(last.items(), cursors, strict=True):
            if lives_of(cursor, self.q).get(epoch, 0) <= number:
                raise LostCommit(f"outcomes[{self.q}]: partition {p} went back while its outcomes were learned")

    async def look_for_holes(self, *, all_read: bool) -> bool:
        """Live: fill what the broker has lost from the partitions' outboxes; True if there is something to learn. `all_read`: the topic, to its end."""
        if self._replay:
            return False
        cursors = dict(enumerate(await asyncio.gather(*map(self._partition_cursor, range(self._partitions)))))
        for p in self._inbox.holes(cursors, all_read=all_read):
            slot = await self._store.load(str(p), (OUTBOX,))
            if not slot.version:
                continue  # the store was emptied meanwhile
            cursor = decoded(slot.cursor, Cursor, "a partition's cursor")
            refilled, lost = self._inbox.fill(p, cursor, held_for(self.q, slot.hashes[OUTBOX]), self._read_to, all_read=all_read)
            self.cursor.refilled += refilled
            self.cursor.lost += lost
            for kind, number in (("outcomes_refilled", refilled), ("outcomes_lost", lost)):
                if number:
                    self.alerts.append(incident(kind, f"outcomes[{self.q}]: {number} of partition {p}", partition=p, outcome_partition=self.q, outcomes=number))
                    self._news = True
        return self._news

    async def _switch(self, shelf: trunks.Shelf) -> bool:
        """Carry the heads over to the next trunk, if its time has come, in one commit with the stamp; True if it was done.

        What the heads were is kept beside them for workers, until the other outcome partitions have followed. Only when they have followed the last
        activation is the next one taken, and none is left out: so two outcome partitions are never more than one activation apart.
        """
        following = shelf.after(self._stamp.number)
        if following is None:
            return False
        others = [await self._store.load(outcome_slot(q), (trunks.STAMP,)) for q in range(self._outcome_partitions) if q != self.q]
        if any(trunks.stamp_in(other).number < self._stamp.number for other in others):
            return False
        old, new = await shelf.model(self._stamp.sha256), await shelf.model(following.sha256)
        if not same_scaler(old.artifact, new.artifact):
            logger.warning("outcomes[%d]: trunk %s has another scaler: all heads start again, and only levels, mixture weights and delays are carried over",
                           self.q, following.sha256[:16])  # fmt: skip
        shared = carried_shared(self._shared, old, new) if self._shared is not None else None
        heads = {name: carried_launch(head, old, new) for name, head in self._heads.items()}
        since_ms = self._since_ms(old) if self._shared is not None and self._shared.n_learned else None
        stamp = trunks.Stamp(number=following.number, sha256=following.sha256, before=self._stamp.number, since_ms=since_ms)
        before = {name: state.to_bytes() for name, state in self._states().items()}
        after = {name: head.to_bytes() for name, head in heads.items()} | ({SHARED: shared.to_bytes()} if shared is not None else {})
        put = {HEADS: after, HEADS_BEFORE: before, **trunks.stamp_entry(stamp)}
        await self._write(put, {})
        self._model, self._stamp, self._shared, self._heads = new, stamp, shared, heads
        logger.info("outcomes[%d]: the heads are carried over to trunk %s", self.q, following.sha256[:16])
        return True

    def _since_ms(self, model: Model) -> int:
        return model.artifact.trained_until_ms if self._stamp.since_ms is None else self._stamp.since_ms

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
        cursor.offset = min([*later, self._inbox.offset(self._read_to)])
        cursor.expected = {p: Expected(e.epoch, e.number) for p, e in sorted(expected.items())}
        if tick_ms is not None:
            cursor.stamp_ms = tick_ms
        await self._write(put, drop)

    async def _write(self, put: dict[str, dict[str, bytes]], drop: dict[str, list[str]]) -> None:
        past = [*self._changed, str(self._next_version - CHANGED_KEPT)]
        told = {changed: {str(self._next_version): encode_names(list(put.get(of, ())))} for of, changed in CHANGED.items()}
        drop = {**drop, **dict.fromkeys(CHANGED.values(), past)}
        changes = Changes(cursor=msgspec.msgpack.encode(self.cursor), put={**put, **told}, drop=drop, version=self._next_version)
        if not await self._store.commit(self._slot, self._version, changes):
            raise LostCommit(f"outcomes[{self.q}]: version {self._version} is no longer the store's")
        self._version, self._next_version, self._changed = self._next_version, self._next_version + 1, []

    async def _learn(self, outcomes: Sequence[Outcome], turns: Turns) -> dict[str, bytes]:
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
                if launch not in self._heads:
                    self._heads[launch] = LaunchHead.of(model)
                head = self._heads[launch]
                self.sight.hear(launch, rows, model, head)
                async for some in turns.parts(rows, LEARN_AT_ONCE):
                    head.learn_many(model, shared, *arrays_of(some), experts_said(some))
                self.sight.learned(launch, model, head)
                changed[launch] = head.to_bytes()
                await turns.pass_on()
        if self.q == self._shared_q and self._shared is not None and (shared_rows or self._replay):
            if self._replay:
                changed[SHARED_BEFORE] = self._shared.to_bytes()
            if shared_rows:
                self.sight.hear(SHARED, shared_rows, model, self._shared)
                async for some in turns.parts(shared_rows, LEARN_AT_ONCE):
                    self._shared.learn_many(heard_since(model, self._since_ms(model)), *arrays_of(some))
                self.sight.learned(SHARED, model, self._shared)
            changed[SHARED] = self._shared.to_bytes()
            await turns.pass_on()
        return changed

    async def _shared_before(self, model: Model) -> SharedHeads:
        """Return the shared heads as of the tick before, wherever they are kept; live, their latest state."""
        if self._shared is not None:
            return self._shared
        if self._shelf is not None:
            return await self._shared_elsewhere(self._shelf, model)
        slot = await self._store.load(outcome_slot(self._shared_q), (HEADS,))
        if not slot.version:
            return SharedHeads.of(model)
        stamp_ms = decoded(slot.cursor, LearnerCursor, "a learner's cursor").stamp_ms
        ahead = self._replay and stamp_ms > self.cursor.stamp_ms
        value = slot.hashes[HEADS].get(SHARED_BEFORE if ahead else SHARED)
        return SharedHeads.from_bytes(value) if value else SharedHeads.of(model)

    async def _shared_elsewhere(self, shelf: trunks.Shelf, model: Model) -> SharedHeads:
        """Return the shared heads of another outcome partition's learner, under the trunk of this one, which may be one activation ahead or behind."""
        slot = await self._store.load(outcome_slot(self._shared_q), (HEADS, trunks.STAMP))
        stamp = trunks.stamp_in(slot)
        held = slot.hashes[HEADS]
        if stamp.number > self._stamp.number:
            slot = await self._store.load(outcome_slot(self._shared_q), (HEADS_BEFORE, trunks.STAMP))
            if trunks.stamp_in(slot).before != self._stamp.number:
                raise LostCommit(f"outcomes[{self.q}]: the shared heads are more than one trunk ahead")
            held = slot.hashes[HEADS_BEFORE]
        if SHARED not in held:
            return SharedHeads.of(model)
        shared = SharedHeads.from_bytes(held[SHARED])
        return carried_shared(shared, await shelf.model(stamp.sha256), model) if stamp.number < self._stamp.number else shared

    def _count(self, counted: Sequence[Counted], at_ms: int) -> dict[str, bytes]:
        counts = merge([m.counts for m in counted])
        nobody = empty().tobytes()
        held = np.frombuffer(b"".join(self._catalogue.get(name, nobody) for name in counts), CATALOGUE)
        records = add(held, np.array(list(counts.values()), np.int64).reshape(len(counts), 6), at_ms).tobytes()
        width = CATALOGUE.itemsize
        changed = {name: records[i * width : (i + 1) * width] for i, name in enumerate(counts)}
        self._catalogue.update(changed)
        return changed

    def is_full(self) -> bool:
        """Whether too much waits for what is missing."""
        return self._inbox.is_full()

    @property
    def read_to(self) -> int:
        """The offset after the last message that was received."""
        return self._read_to

    @property
    def version(self) -> int:
        """The version of what it holds."""
        return self._version

    async def is_current(self) -> bool:
        """Whether the store's version is still ours: else it went back, or someone else has committed."""
        return (await self._store.load(self._slot, ())).version == self._version

    @property
    def is_live(self) -> bool:
        """Whether events come as they happen: heads may be a moment behind then, for workers take them up at their next tick."""
        return not self._replay

    def is_tick_end(self, message: Message) -> bool:
        """Whether `step` may have something to do right after a message, in a replay."""
        return self._replay and isinstance(message, TickDone)

    def unsent(self) -> list[Outgoing]:
        """Return the committed snapshots and alerts that are not known to be on Kafka."""
        waiting = [(name, value) for name, value in sorted(self._snapshots.items()) if name not in self._sent]
        return [*(Outgoing("heads", name.partition(":")[2].encode(), value) for name, value in waiting), *self.sight.unsent()]

    def mark_sent(self) -> None:
        """Note that all of `unsent` is on Kafka; the next commit trims it."""
        self._sent = sorted(self._snapshots)
        self.sight.mark_sent()

    def launch_figures(self) -> dict[str, tuple[int, int]]:
        """Return {launch: (bins learned, orders among them)}. May be called from another thread."""
        return {name: (int(head.tried.sum()), int(head.hit.sum())) for name, head in list(self._heads.items())}

    @property
    def stamp_ms(self) -> int:
        """The end of the last tick that was learned."""
        return self.cursor.stamp_ms


def _incidents(passed: Passed, q: int) -> list[Alert]:
    told = [("store_went_back", passed.forgotten, "outcomes that an earlier life told and the store has forgotten")]
    told += [("learned_ahead", passed.ahead, "outcomes are learned, and forgotten by the partition")]
    return [
        incident(
            kind, f"outcomes[{q}]: {sum(of.values())} {what} (partitions {', '.join(map(str, sorted(of)))})", outcome_partition=q, outcomes=sum(of.values())
        )
        for kind, of, what in told
        if of
    ]
