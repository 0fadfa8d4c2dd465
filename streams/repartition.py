"""Another number of partitions: every user's state goes to the partition that the user's events will lie in.

The workers are stopped, all that was published is worked, and all that was told is learned; so a partition's cursor holds nothing that cannot be divided.
The state is written to a backup first, and put back from it, divided otherwise: what goes wrong on the way is done again, from the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from features.catalogue import merge
from features.events import KINDS
from features.exposures import Exposure
from features.hashing import partition_for
from features.layout import USER
from features.redis_store import Entry
from features.store import decoded
from streams.backup import read_entries
from streams.knowledge import CONTROL_SLOT
from streams.learner_cursor import LearnerCursor
from streams.ledger.base import BASE, LearnerBase, PartitionBase, bins_of, counted_in
from streams.outbox import first_epoch
from streams.partition import Cursor, Totals
from streams.records import Seen
from streams.seen import merge_seen

VERSION = "version"
CURSOR = "cursor"


@dataclass
class _Held:
    """What a partition of the new division comes to hold, for its cursor and its base."""

    applied: int = 0
    exposures: int = 0


@dataclass
class Divided:
    """The keys of a namespace, divided among another number of partitions. Iterate once."""

    file: Path
    partitions: int
    outcome_partitions: int
    begins: Mapping[tuple[str, int], int]  # of (kind, partition): its first record
    kept: Collection[str]  # the kinds whose topics are those of before: they go on where their cursors stand
    moved: Counter[str] = field(default_factory=Counter)

    def entries(self) -> Iterator[Entry]:
        """Yield the keys as they must be put back; the cursors come last."""
        old: dict[int, Cursor] = {}
        held = [_Held() for _ in range(self.partitions)]
        base: dict[str, bytes] = {}
        highest = 0
        for entry in read_entries(self.file):
            if entry.slot.isdigit():
                if entry.name == CURSOR and entry.fields is not None:
                    old[int(entry.slot)] = decoded(entry.fields[CURSOR], Cursor, "a partition's cursor")
                    highest = max(highest, int(entry.fields[VERSION]))
                else:
                    yield from self._divide(entry, held)
            elif entry.slot == CONTROL_SLOT and entry.name == BASE:
                continue  # the account begins anew
            elif entry.name == CURSOR and entry.fields is not None and entry.slot != CONTROL_SLOT:
                learner = decoded(entry.fields[CURSOR], LearnerCursor, "a learner's cursor")
                learner.expected = {}  # lives that are over
                base[entry.slot] = self._learner_base(learner, base.get(entry.slot))
                yield Entry(entry.slot, entry.name, fields={**entry.fields, CURSOR: msgspec.msgpack.encode(learner)})
            else:
                if entry.name == "heads" and entry.fields is not None:
                    base[entry.slot] = self._learner_base(None, base.get(entry.slot), bins_of(entry.fields))
                yield entry
        for p, cursor in enumerate(self._cursors(old)):
            base[str(p)] = msgspec.json.encode(
                PartitionBase(
                    offsets=cursor.offsets, totals=cursor.totals, epoch=0, exposures=held[p].exposures, before=held[p].applied, counted=counted_in(cursor)
                )
            )
            yield Entry(str(p), CURSOR, fields={VERSION: str(highest + 1).encode(), CURSOR: msgspec.msgpack.encode(cursor)})
        yield Entry(CONTROL_SLOT, BASE, fields=base)

    def _divide(self, entry: Entry, held: Sequence[_Held]) -> Iterator[Entry]:
        if entry.record is not None:
            user = entry.name.partition(":")[2].partition("\x1f")[0]
            p = self._home(user)
            if entry.name.startswith("u:"):
                held[p].applied += int(np.frombuffer(entry.record, USER)["applied"][0])
                self.moved["users"] += 1
            yield Entry(str(p), entry.name, record=entry.record, ttl_ms=entry.ttl_ms)
        elif entry.name == "pending" and entry.fields is not None:
            shares: dict[int, dict[str, bytes]] = {}
            for name, value in entry.fields.items():
                p = self._home(decoded(value, Exposure, "an open exposure").user)
                shares.setdefault(p, {})[name] = value
            for p, fields in shares.items():
                held[p].exposures += len(fields)
                self.moved["open exposures"] += len(fields)
                yield Entry(str(p), entry.name, fields=fields)
        # What the outboxes held is learned.

    def _home(self, user: str) -> int:
        return partition_for(user.encode(), self.partitions)

    def _learner_base(
        self, cursor: LearnerCursor | None, known: bytes | None, launches: Mapping[str, tuple[list[int], list[int]]] | None = None
    ) -> bytes:  # fmt: skip
        base = msgspec.json.decode(known, type=LearnerBase) if known is not None else LearnerBase()
        if cursor is not None:
            base.tried, base.hit = cursor.tried, cursor.hit
        base.launches.update(launches or {})
        return msgspec.json.encode(base)

    def _cursors(self, old: Mapping[int, Cursor]) -> Iterator[Cursor]:
        """Yield the new cursors: what was counted in all goes to the first one."""
        totals, last = Totals(), list(old.values())
        for cursor in last:
            for name in Totals.__struct_fields__:
                setattr(totals, name, getattr(totals, name) + getattr(cursor.totals, name))
        for p in range(self.partitions):
            yield Cursor(
                epoch=first_epoch(),
                offsets=[old[p].offsets[kind] if KINDS[kind] in self.kept and p in old else self.begins.get((KINDS[kind], p), 0) for kind in range(len(KINDS))],
                numbers=[0] * self.outcome_partitions,
                tick_ms=max((cursor.tick_ms for cursor in last), default=0),
                time_ms=max((cursor.time_ms for cursor in last), default=0),
                totals=totals if p == 0 else Totals(),
                seen=merge_seen([cursor.seen for cursor in last]) if p == 0 else Seen(),
                counts=merge([cursor.counts for cursor in last if cursor.counts]) if p == 0 else {},
            )
