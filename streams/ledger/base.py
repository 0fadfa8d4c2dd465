"""Where an account begins: what a namespace held before its first event from Kafka, or before its cursors were moved by hand.

`headstart backfill`, `repartition` and `cursor move` write it among the control records, with the workers stopped: from there on the ledger counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from features.catalogue import SHOP
from features.errors import Mismatch
from features.events import KINDS
from features.store import Changes, Store, decoded, fresh_version
from models.launch_head import LaunchHead
from streams.knowledge import CONTROL_SLOT, HEADS, outcome_slot
from streams.learner_cursor import LearnerCursor
from streams.partition import Cursor, Totals
from streams.records import SHARED, SHARED_BEFORE

BASE: Final = "base"
TRIES: Final = 20


class PartitionBase(msgspec.Struct, kw_only=True):
    """A partition's integers when the account began; `numbers` (Q,) belong to `epoch`."""

    offsets: list[int]
    totals: Totals
    epoch: int = 0
    numbers: list[int] = []
    exposures: int = 0  # those that were open
    before: int = 0  # events that the users' states held
    counted: int = 0  # of the tick that was under way
    until_ms: int = 0  # event time: an event before it may have been worked before the account, and be a duplicate in it


class LearnerBase(msgspec.Struct, kw_only=True):
    """A learner's integers when the account began; of each launch what was tried and hit in each bin."""

    tried: int = 0
    hit: int = 0
    launches: dict[str, tuple[list[int], list[int]]] = {}


async def read_base(store: Store) -> tuple[dict[int, PartitionBase], dict[int, LearnerBase]]:
    """Return the bases by input partition and by outcome partition; empty if the account begins with the namespace."""
    held = (await store.load(CONTROL_SLOT, (BASE,))).hashes[BASE]
    partitions = {int(name): msgspec.json.decode(value, type=PartitionBase) for name, value in held.items() if name.isdigit()}
    learners = {int(name[1:]): msgspec.json.decode(value, type=LearnerBase) for name, value in held.items() if not name.isdigit()}
    return partitions, learners


async def begin_account(store: Store, *, partitions: int, outcome_partitions: int) -> None:
    """Let the account begin with what the store holds now. No worker may run."""
    put: dict[str, bytes] = {}
    for p in range(partitions):
        slot = await store.load(str(p), ("pending",))
        if slot.version:
            cursor = decoded(slot.cursor, Cursor, "a partition's cursor")
            put[str(p)] = msgspec.json.encode(
                PartitionBase(
                    offsets=cursor.offsets,
                    totals=cursor.totals,
                    epoch=cursor.epoch,
                    numbers=cursor.numbers,
                    exposures=len(slot.hashes["pending"]),
                    before=cursor.totals.applied,
                    counted=counted_in(cursor),
                    until_ms=cursor.tick_ms,
                )
            )
    for q in range(outcome_partitions):
        slot = await store.load(outcome_slot(q), (HEADS,))
        if slot.version:
            learner = decoded(slot.cursor, LearnerCursor, "a learner's cursor")
            put[outcome_slot(q)] = msgspec.json.encode(LearnerBase(tried=learner.tried, hit=learner.hit, launches=bins_of(slot.hashes[HEADS])))
    await write_base(store, put)


async def write_base(store: Store, put: Mapping[str, bytes]) -> None:
    """Write bases, by slot, in the place of those that were there."""
    for _ in range(TRIES):
        slot = await store.load(CONTROL_SLOT, (BASE,))
        stale = [name for name in slot.hashes[BASE] if name not in put]
        changes = Changes(cursor=slot.cursor, put={BASE: dict(put)}, drop={BASE: stale}, version=fresh_version(slot.version))
        if await store.commit(CONTROL_SLOT, slot.version, changes):
            return
    raise Mismatch("the control records are being changed by others all the time; try again")


def counted_in(cursor: Cursor) -> int:
    """Return how many events a partition has counted for the catalogue and not told yet."""
    return sum(cursor.counts.get(SHOP, [])[: len(KINDS)])


def bins_of(heads: Mapping[str, bytes]) -> dict[str, tuple[list[int], list[int]]]:
    """Return what each launch's head has tried and hit in each bin, of an outcome partition's stored heads."""
    launches = {name: LaunchHead.from_bytes(value) for name, value in heads.items() if name not in (SHARED, SHARED_BEFORE)}
    return {name: (head.tried.tolist(), head.hit.tolist()) for name, head in launches.items()}
