"""The account of a whole namespace. The main flow: topics and Redis, partition by partition, each compared with the other.

It is written apart from the pipeline, and shares with it only how records are decoded and hashed. It needs the memory of one partition. The namespace
must be at rest while it is read: no records that wait, or workers that are stopped.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.errors import Mismatch
from features.events import KINDS, REASONS
from features.exposures import Exposure
from features.redis_store import RedisStore
from features.store import Slot, decoded
from streams import namespace
from streams.erasing import ERASED, mark_of
from streams.knowledge import HEADS, outcome_slot
from streams.learner_cursor import LearnerCursor
from streams.ledger.base import LearnerBase, PartitionBase, bins_of, counted_in, read_base
from streams.ledger.events import Due, Published, Rejected, due, read_published, same_bytes
from streams.ledger.findings import Account
from streams.ledger.scored import check_scored, read_scored
from streams.ledger.spill import Spill
from streams.ledger.state import check_state
from streams.ledger.told import Learned, check_exposures, check_learned, counted_by_kind, counting, learn, path, read_told
from streams.ledger.topics import Topics, opened
from streams.partition import Cursor, Totals
from streams.records import REASON_HEADER, SHARED
from streams.settings import Settings

REJECTED: Final = np.dtype([("kind", "u1"), ("offset", "i8"), ("reason", "u1"), ("value", "i8"), ("at_ms", "i8"), ("cut", "?")])

Progress = Callable[[str, int, int], None]


class NotAtRest(Mismatch):
    """The namespace is being worked while the ledger reads it. Operator action: wait until the lag is gone, or stop the workers; then try again."""


async def audit(settings: Settings, *, named: int = 20, progress: Progress = lambda *_: None) -> Account:
    """Return the account of the settings' namespace. Raises NotAtRest, InputError if there is no such namespace, and DependencyDown."""
    account = Account(named=named)
    store = namespace.open_store(settings)
    try:
        async with opened(settings) as topics:
            with tempfile.TemporaryDirectory(prefix="headstart-ledger-") as folder:
                await _Audit(account, settings, store, topics, Path(folder), progress).run()
    finally:
        await store.close()
    return account


class _Audit:
    def __init__(self, account: Account, settings: Settings, store: RedisStore, topics: Topics, folder: Path, progress: Progress) -> None:
        self.account, self.settings, self.store, self.topics, self.folder, self.progress = account, settings, store, topics, folder, progress
        self.learned: dict[int, Learned] = {}
        self.not_on_kafka: Counter[int] = Counter()  # of what each learner was told

    async def run(self) -> None:
        """Read and compare everything."""
        meta = await self.store.meta()
        self.partitions, self.outcome_partitions = namespace.sizes_of(meta, self.settings.namespace)
        self.replay = namespace.clock_of(meta) != namespace.LIVE
        self.ttl_ms, self.bins = _rules(meta["rules"])
        self.bases, self.learner_bases = await read_base(self.store)
        self.learned = {q: Learned() for q in range(self.outcome_partitions)}
        learners = [await self.store.load(outcome_slot(q), (HEADS,)) for q in range(self.outcome_partitions)]
        self.learners = [decoded(slot.cursor, LearnerCursor, "a learner's cursor") if slot.version else LearnerCursor() for slot in learners]
        self.progress("rejected", 0, 1)
        rejected = await self._read_rejected()
        self.progress("rejected", 1, 1)
        self.progress("outcomes", 0, 1)
        self.told = await read_told(self.topics, self.outcome_partitions, self.folder)
        self.progress("outcomes", 1, 1)
        held = await self._keys_by_slot()
        for p in range(self.partitions):
            self.progress("partitions", p, self.partitions)
            await self._check_partition(p, rejected, held.get(str(p), 0))
        self.progress("partitions", self.partitions, self.partitions)
        for q, slot in enumerate(learners):
            self._check_learner(q, slot)
            now = await self.store.load(outcome_slot(q), ())
            if now.version != slot.version and _learned(now.cursor) != _learned(slot.cursor):
                raise NotAtRest(f"the learner of outcomes[{q}] has learned more while the ledger read; try again when the namespace is at rest")

    async def _read_rejected(self) -> Spill:
        spill, reasons = Spill(self.folder, "rejected", REJECTED), list(REASONS)
        for partition in range(self.topics.partitions("rejected")):
            async for records in self.topics.read("rejected", partition):
                rows, boxes = [], []
                for record in records:
                    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
                    try:
                        kind, offset, number = KINDS.index(headers["headstart-topic"]), int(headers["headstart-offset"]), int(headers["headstart-partition"])
                        reason = reasons.index(headers[REASON_HEADER])
                    except (KeyError, ValueError):
                        self.account.notes.append(f"rejected[{partition}] at offset {record.offset} has no headers of ours; it is left out")
                        continue
                    cut = "headstart-value-bytes" in headers or "headstart-key-bytes" in headers
                    rows.append((kind, offset, reason, same_bytes(record.key, record.value), record.timestamp, cut))
                    boxes.append(number)
                spill.add(rows, boxes)
        return spill

    async def _keys_by_slot(self) -> dict[str, int]:
        """Return how many users' states each partition's slot has."""
        seen: dict[str, set[int]] = {}
        async for slot, name in self.store.names():
            if name.startswith("u:"):
                seen.setdefault(slot, set()).add(hash(name))
        return {slot: len(names) for slot, names in seen.items()}

    async def _check_partition(self, p: int, rejected: Spill, users_held: int) -> None:
        slot = await self.store.load(str(p), ("pending", ERASED))
        cursor = decoded(slot.cursor, Cursor, "a partition's cursor") if slot.version else _untouched(self.outcome_partitions)
        base = self.bases.get(p, PartitionBase(offsets=[0] * len(KINDS), totals=Totals()))
        account, sums = self.account, self.account.sums

        rejects = {
            (int(row["kind"]), int(row["offset"])): Rejected(list(REASONS)[row["reason"]], int(row["value"]), int(row["at_ms"]), bool(row["cut"]))
            for row in rejected.box(p)
        }
        published = await read_published(
            self.topics, p, self.partitions, starts=base.offsets, ends=cursor.offsets, rejected=rejects, check_partition=self.settings.partitioner_check,
            replay=self.replay,
        )  # fmt: skip
        for kind, text in published.wrong:
            account.find(kind, [text])
        erased = _erased(published.users, slot.hashes[ERASED])
        wanted = due(published, ttl_ms=self.ttl_ms, erased=erased)
        sums["users_erased"] += int(erased.sum())
        if again := int(wanted.again[erased].sum()):
            account.notes.append(f"partition {p}: {again} records of users who were erased repeat others; what came again after that was worked again")
        lag = self._lag(p, cursor.offsets)
        before = base.before

        counted = self._outcomes(p, cursor, base)
        applied = await check_state(account, self.store, published, wanted, before=before)
        old = published.rows["ts_ms"][wanted.first] < base.until_ms
        dropped = min(int(old.sum()), max(0, len(old) - (cursor.totals.applied - base.totals.applied)))  # duplicates of what was worked before the account
        self._totals(p, cursor.totals, base, published, wanted, applied, dropped)
        if not before and not published.before_log:
            account.expect("unknown_user", f"partition {p}: users in Redis", users_held, 0, len(published.users))
        pending = {int(name, 16): decoded(value, Exposure, "an open exposure") for name, value in slot.hashes["pending"].items()}
        complete = self._is_complete() and not base.exposures and not base.epoch
        opened = cursor.totals.exposures - base.totals.exposures + base.exposures
        known = check_exposures(account, p, counted, pending, bins=self.bins, opened=opened, complete=complete)
        scored = await read_scored(self.topics, p, {name: i for i, name in enumerate(published.users)})
        check_scored(
            account, published, wanted, scored, known, old=old, dropped=dropped, replay=self.replay, others=bool(lag) or any(any(b.offsets) or b.before for b in self.bases.values()), complete=complete and not published.before_log and not scored.first_at_ms
        )  # fmt: skip
        if (await self.store.load(str(p), ())).version != slot.version:
            raise NotAtRest(f"partition {p} was worked while the ledger read it; try again when the namespace is at rest, or stop the workers")
        sums.update(
            published=published.read,
            distinct=len(wanted.first),
            repeated=wanted.repeats,
            rejected=published.reasons.total(),
            waiting=lag,
            lost=cursor.totals.lost,
        )
        sums.update({f"rejected as {reason}": n for reason, n in published.reasons.items()})
        sums["before_log"] += published.before_log

    def _lag(self, p: int, offsets: Sequence[int]) -> int:
        return sum(max(0, self.topics.end(topic, p) - offset) for topic, offset in zip(KINDS, offsets, strict=True))

    def _is_complete(self) -> bool:
        """Whether the topic `outcomes` still has all that was told, and no message had to be taken from an outbox."""
        return not any(self.told.first) and not any(learner.refilled or learner.lost for learner in self.learners)

    def _outcomes(self, p: int, cursor: Cursor, base: PartitionBase) -> np.ndarray:
        rows = self.told.spill.box(p)
        facts = []
        counted_events = [0] * len(KINDS)
        for q, learner in enumerate(self.learners):
            start = (base.epoch, base.numbers[q] if base.numbers else 0)
            counted = counting(self.account, p, rows, cursor, q, base=start, complete=not self.told.first[q], refilled=learner.refilled + learner.lost)
            expected = learner.expected.get(p)
            lives = path(rows, cursor, q, start)
            self.not_on_kafka[q] += sum(end - first for _, first, end in lives) - len(counted)
            upto = (expected.epoch, expected.number) if expected is not None else None
            learn(self.learned[q], check_learned(self.account, p, counted, cursor, lives, q, upto, offset=learner.offset))
            facts.append(counted[counted["is_outcome"]])
            if q == 0:
                counted_events = list(counted_by_kind(counted[~counted["is_outcome"]]))
        if self._is_complete() and not base.epoch:
            counted_now = sum(counted_events) + counted_in(cursor) - base.counted
            self.account.expect("catalogue", f"partition {p}: events counted", counted_now, cursor.totals.applied - base.totals.applied)
        return np.concatenate(facts)

    def _totals(self, p: int, totals: Totals, base: PartitionBase, published: Published, wanted: Due, applied: int, dropped: int) -> None:
        """Check the partition's totals against its topics, and against the sum over its users; `dropped`: ids that were worked before the account."""
        account, where, was = self.account, f"partition {p}", base.totals
        hidden = published.before_log  # of these we know only how many offsets they had
        account.expect("totals", f"{where}: read + lost", totals.read - was.read + totals.lost - was.lost, published.read, published.read + hidden)
        account.expect("totals", f"{where}: applied + duplicate + rejected", totals.applied + totals.duplicate + totals.rejected, totals.read)
        maybe, again = int(wanted.maybe.clip(0, wanted.by_user).sum()), int(wanted.again.sum())
        distinct = len(wanted.first) - dropped
        account.expect("totals", f"{where}: rejected", totals.rejected - was.rejected, published.refused, published.refused + maybe + hidden)
        account.expect("totals", f"{where}: applied", totals.applied - was.applied, distinct - maybe, distinct + again + hidden)
        if not hidden and not base.before and not wanted.unclear.any():
            account.expect("totals", f"{where}: the sum over its users", applied, totals.applied)
        account.sums.update(
            read=totals.read - was.read, applied=totals.applied - was.applied, duplicates_dropped=totals.duplicate - was.duplicate,
            known_from_before=dropped, in_users_states=applied, exposures_untracked=totals.untracked - was.untracked, late_orders=totals.late_orders - was.late_orders,
        )  # fmt: skip

    def _check_learner(self, q: int, slot: Slot) -> None:
        """Check what a learner has tried and hit, in all and in each bin of each launch, against what the partitions told."""
        account, learned, cursor = self.account, self.learned[q], self.learners[q]
        base = self.learner_bases.get(q, LearnerBase())
        unknown = self.not_on_kafka[q]  # they may have been learned, out of an outbox
        for name, found, wanted in (("tried", cursor.tried - base.tried, learned.tried.total()), ("hit", cursor.hit - base.hit, learned.hit.total())):
            self._expect(f"outcomes[{q}]: {name}", found, wanted, unknown)
        bins = bins_of(slot.hashes[HEADS])
        for launch, index in self.told.launches.items():
            if launch == SHARED or (launch not in bins and not any(at == index for at, _ in learned.tried)):
                continue
            tried, hit = bins.get(launch, ([], []))
            was_tried, was_hit = base.launches.get(launch, ([], []))
            for k in range(self.bins):
                for name, held, was, told in (("tried", tried, was_tried, learned.tried), ("hit", hit, was_hit, learned.hit)):
                    found = (held[k] if k < len(held) else 0) - (was[k] if k < len(was) else 0)
                    self._expect(f"launch {launch}, bin {k + 1}: {name}", found, told[index, k + 1], unknown)
        account.sums.update(
            outcomes_learned=cursor.tried - base.tried, outcomes_hit=cursor.hit - base.hit, outcomes_refilled=cursor.refilled, outcomes_lost=cursor.lost
        )
        account.sums["outcome_duplicates_dropped"] += cursor.duplicates

    def _expect(self, what: str, found: int, wanted: int, unknown: int) -> None:
        self.account.expect("learned_twice" if found > wanted else "not_learned", what, found, wanted, wanted + unknown)


def _erased(users: Sequence[str], marks: Mapping[str, bytes]) -> NDArray[np.bool_]:
    """Return which users (N,) were erased."""
    return np.array([bool(marks) and mark_of(user) in marks for user in users], np.bool_)


def _learned(cursor: bytes) -> tuple[object, ...]:
    """What a learner's cursor says that it has learned; where it reads may move at rest, past what was sent again."""
    held = decoded(cursor, LearnerCursor, "a learner's cursor")
    return held.tried, held.hit, held.expected


def _untouched(outcome_partitions: int) -> Cursor:
    return Cursor(epoch=0, offsets=[0] * len(KINDS), numbers=[0] * outcome_partitions, totals=Totals())


def _rules(text: str) -> tuple[int, int]:
    """Return the records' life in ms and the number of delay bins, out of what the namespace's meta says of its rules."""
    ttl, edges = re.search(r"ttl=(\d+)", text), re.search(r"edges=\(([\d, ]+)\)", text)
    if ttl is None or edges is None:
        raise Mismatch(f"the namespace's rules cannot be read: {text!r}")
    return int(ttl[1]), sum(1 for edge in edges[1].split(",") if edge.strip())
