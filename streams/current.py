"""The current scores of shoppers: what a worker would say if they looked at a launch's product now. Reads, never writes; no event is counted.

`rows_of` is the one way from stored records to vectors for an event that never was; `headstart audience`, the HTTP endpoint and `headstart explain`
differ only in whom they ask about.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.advance import advance
from features.errors import InputError
from features.events import Event
from features.hashing import partition_for
from features.intake import Arrived, LocalTime, rows
from features.pending import Pending
from features.redis_store import RedisStore
from features.store import Store, decoded
from models.model import Model
from streams import namespace, trunks
from streams.knowledge import Knowledge
from streams.line_records import domain_of
from streams.partition import Cursor, Partition, Rules
from streams.records import Launch
from streams.settings import Settings
from streams.trunks import Shelf

NEVER: Final = "\x1enever"
"""Id and product of the event that never was; no event of a shop may hold a control character."""


@dataclass(frozen=True)
class Believer:
    """What is needed to score: the namespace's rules, and what its workers believe."""

    store: Store
    rules: Rules
    knowledge: Knowledge


async def believer(store: Store, settings: Settings) -> Believer:
    """Return what the namespace believes now, with its own trunk: from its store if it is there, else from the settings' folder. Raises InputError, Mismatch."""
    held = await store.meta()
    partitions, outcome_partitions = namespace.sizes_of(held, settings.namespace)
    base = held["trunk"]
    artifact = await trunks.fetch(store, base) if await trunks.manifest(store, base) is not None else namespace.load_trunk(settings)
    clock = namespace.clock_of(held)
    rules = namespace.rules_of(settings, artifact, replay=clock != namespace.LIVE)
    rules = replace(rules, partitions=partitions, outcome_partitions=outcome_partitions)
    if artifact.sha256 != base:
        raise InputError(f"the namespace's trunk is {base[:16]}, the given one {artifact.sha256[:16]}: give the one that it works with (--trunk)")
    model = Model(artifact)
    knowledge = Knowledge(store, model, rules.outcome_partitions, shelf=None if rules.replay else Shelf(store, model, base))
    await knowledge.refresh()
    return Believer(store, rules, knowledge)


async def partition_of(store: Store, number: int, rules: Rules, now_ms: int) -> Partition | None:
    """Return a partition to read records from, without its open exposures; None if nobody has worked it.

    Its last tick is a replay's own. Live it is `now_ms`, as it is for a worker in a moment: a quiet tick is not written to the cursor.
    """
    slot = await store.load(str(number), ())
    if not slot.version:
        return None
    cursor = decoded(slot.cursor, Cursor, "a partition's cursor")
    if not rules.replay:
        cursor.tick_ms = max(cursor.tick_ms, now_ms)
    return Partition(number, store, rules, version=slot.version, cursor=cursor, pending=Pending(rules.edges_ms))


async def partition_with(store: Store, user: str, rules: Rules, now_ms: int) -> Partition | None:
    """Return the partition that knows a user, as `partition_of` has it; None if none does.

    Where a shop's producers have a partitioner of their own (`partitioner_check` off) it may be any.
    """
    home = partition_for(user.encode(), rules.partitions)
    elsewhere = [] if rules.partitioner_check else [p for p in range(rules.partitions) if p != home]
    for number in (home, *elsewhere):
        partition = await partition_of(store, number, rules, now_ms)
        if partition is not None:
            place = await partition.place_users([user])
            if partition.users.rows["ref_ms"][place][0]:
                return partition
    return None


@dataclass(frozen=True)
class Shoppers:
    """Shoppers and what is believed of them in one launch, (N,) each: last seen (ms), whether they have ordered there, score and probability."""

    users: list[str]
    last_ms: NDArray[np.int64]
    ordered: NDArray[np.bool_]
    score: NDArray[np.float64]
    probability: NDArray[np.float64]


async def shoppers(partition: Partition, knowledge: Knowledge, launch: Launch, users: Sequence[str], ts_ms: int) -> Shoppers:
    """Return what a browse of the launch at `ts_ms` would be scored, for users of one partition; who is not known is left out."""
    places = await partition.place_users(users)
    records = partition.users.rows[places]
    known = np.flatnonzero((records["ref_ms"] > 0) & (ts_ms - records["ref_ms"] <= partition.rules.ttl_ms))
    names = [users[i] for i in known.tolist()]
    if not names:
        nothing = np.zeros(0)
        return Shoppers([], np.zeros(0, np.int64), np.zeros(0, np.bool_), nothing, nothing)
    records = records[known]
    lines = await _line_records(partition, names, domain_of(launch))
    if launch.products:
        # A launch of some products changes the line's record too, and its vector is the launch's own.
        own = await _line_records(partition, names, launch.line)
        pairs, starts = np.concatenate([own, lines]), np.arange(0, 2 * len(names) + 1, 2)
        rows_of = np.stack([np.arange(len(names)), np.arange(len(names)) + len(names)], axis=1).ravel()
    else:
        pairs, starts, rows_of = lines, np.arange(len(names) + 1), np.arange(len(names))
    event = Event(event_id=NEVER, user_id=names[0], product_id=launch.products[0] if launch.products else NEVER, line=launch.line, ts=ts_ms)
    kernel_rows = np.repeat(rows([Arrived(event, 0, ts_ms, b"")], LocalTime(partition.rules.timezone)), len(names))
    kernel_rows["user"] = np.arange(len(names))
    line_stats, category_stats = knowledge.catalogue_rows([event])
    kernel_rows["line_stats"], kernel_rows["category_stats"] = line_stats[0], category_stats[0]
    last_ms, ordered = records["ref_ms"].copy(), lines["last_s"][:, 3] > 0
    x, _, _ = advance(
        kernel_rows,
        records,
        pairs,
        rows_of.astype(np.int64),
        starts.astype(np.int64),
        knowledge.catalogue,
        at_ms=partition.cursor.tick_ms,
        ttl_ms=partition.rules.ttl_ms,
    )
    pair = knowledge.pair
    assert pair is not None
    everyone = np.arange(len(names))
    told = pair.of_launches([launch.id], pair.view(x, everyone), everyone, np.zeros_like(everyone))
    return Shoppers(names, last_ms, ordered, told[:, 0], told[:, 1])


async def _line_records(partition: Partition, users: Sequence[str], domain: str) -> NDArray[np.void]:
    places = await partition.place_lines(users, domain)  # first: it may put `rows` elsewhere
    return partition.lines.rows[places]


class CurrentScores:
    """Answers what one shopper's scores are now, for each open launch. What is believed is read again once it is a second old."""

    def __init__(self, store: RedisStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._believer: Believer | None = None
        self._as_of_s = 0.0

    async def of(self, user: str) -> list[dict[str, Any]]:
        """Return an entry for each open launch: launch_id, arm, score, probability. Raises InputError for a shopper who is not known."""
        if self._believer is None:
            self._believer = await believer(self._store, self._settings)
        elif time.monotonic() - self._as_of_s > 1.0:
            await self._believer.knowledge.refresh()
        self._as_of_s = time.monotonic()
        known, rules = self._believer.knowledge, self._believer.rules
        partition = await partition_with(self._store, user, rules, time.time_ns() // 1_000_000)
        if partition is not None:
            at_ms = partition.cursor.tick_ms
            entries = []
            for launch in known.launches.all:
                if launch.is_open(at_ms):
                    found = await shoppers(partition, known, launch, [user], at_ms)
                    if found.users:
                        entries.append({
                            "launch_id": launch.id, "line": launch.line, "arm": launch.arm(user), "score": float(found.score[0]),
                            "probability": float(found.probability[0]), "as_of_ms": at_ms, "trunk": known.trunk,
                        })  # fmt: skip
            if entries:
                return entries
        raise InputError(f"nothing is known of user {user!r}, or no launch is open")
