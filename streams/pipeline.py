"""The main flow: what happens to one batch of one partition. Read this first.

    raw records ▸ decode ▸ dedup ▸ advance state ▸ vector ▸ trunk ▸ heads ▸ scores
                                        └ exposures ▸ delay bins close ▸ outcomes

`work_off` changes only memory; `settle` makes it real, in the order that keeps features and learning exactly-once in effect:
scores are delivered, then everything is committed in one step, then the outcomes leave. So it is in evaluation and training, with the
in-memory store (`streams.offline`), and under Faust, with Kafka and Redis (`streams.desk`), where `streams.settling` takes the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.advance import APPLIED, advance
from features.catalogue import CONVERTED, MATURED, count, count_many
from features.events import CLICK, KINDS, MAX_TS_MS, MIN_TS_MS, Event, Refused
from features.exposures import NONE
from features.hashing import partition_for, partitions_for
from features.intake import Arrived, rows
from features.names import names_of
from features.store import Store
from streams.aside import computed
from streams.beliefs import Beliefs
from streams.following import follow
from streams.knowledge import Knowledge
from streams.launched import Launched
from streams.ledger_record import explanation
from streams.line_records import line_records
from streams.pair import Pair, Said
from streams.partition import Partition
from streams.records import REASON_HEADER, SHARED, Entry, Explanation, Outgoing, Received, Score, TickDone, encode_each, encode_message
from streams.seen import see_events, see_refused

_NONE: Sequence[Any] = ()
LEAVE_TOGETHER = 5_000  # outcomes
MAX_REJECTED = {"key": 100_000, "value": 1_900_000}  # bytes; the topic `rejected` takes 2 MiB in all


class Outlet(Protocol):
    """Where records leave. Returns when the broker has all of them; raises DependencyDown."""

    async def deliver(self, records: Sequence[Outgoing]) -> None: ...


@dataclass
class Worked:
    """What one batch, or several, have to say to the outside."""

    scores: list[Outgoing] = field(default_factory=list)
    rejected: list[Outgoing] = field(default_factory=list)

    def add(self, other: Worked) -> None:
        """Say what another batch, worked after this one, has to say."""
        self.scores += other.scores
        self.rejected += other.rejected


async def work_off(
    partition: Partition,
    records: Sequence[Received],
    knowledge: Knowledge,
    *,
    offsets: Sequence[int],
    tick_end_ms: int | None = None,
    earliest_ms: int | None = None,
    latest_ms: int | None = None,
    scoring: bool = True,
    due_ms: int | None = None,
    closing: int | None = None,
) -> Worked:
    """Apply a batch to the partition, in memory, and return its scores and rejects.

    `offsets` (4,) are the next ones to read once the batch is done. With `tick_end_ms`, the tick ends there: due delay bins close;
    with `due_ms`, what is due by then closes before any tick ends. With `closing`, at most so many do, and a tick ends when none is left.
    An event before `earliest_ms` or after `latest_ms` is refused.
    """
    worked = Worked()
    arrived = take_in(partition, records, earliest_ms, latest_ms, worked)
    cursor = partition.cursor
    if arrived:
        await _apply(partition, arrived, knowledge, scoring, worked)
    due_ms = due_ms if tick_end_ms is None else tick_end_ms
    none_left = due_ms is not None and await close_bins(partition, due_ms, closing)
    if tick_end_ms is not None and none_left:
        partition.tell_counts(tick_end_ms)
        cursor.tick_ms = tick_end_ms
    cursor.offsets = list(offsets)
    return worked


async def settle(partition: Partition, worked: Worked, outlet: Outlet, store: Store, *, tick_done_ms: int | None = None) -> None:
    """Deliver scores and rejects, commit in one step, then let the outcomes leave; nothing leaves that a crash could take back."""
    await deliver(worked, outlet)
    await partition.commit()
    await publish_outbox(partition, outlet, store, tick_done_ms=tick_done_ms)


async def deliver(worked: Worked, outlet: Outlet) -> None:
    """Let scores and rejects leave. What they follow from is not committed: a crash before it is makes them again."""
    await outlet.deliver([*worked.scores, *worked.rejected])


async def publish_outbox(partition: Partition, outlet: Outlet, store: Store, *, tick_done_ms: int | None = None) -> None:
    """Send committed outcomes in the order of their numbers, and then, in a replay, that the tick is done.

    Many can be waiting at once: they leave in steps, so that a slow broker has its time for each.
    """
    leaving = [Outgoing("outcomes", key, message, partition=q) for q, key, message in partition.outbox.unsent()]
    if tick_done_ms is not None:
        for q in range(partition.rules.outcome_partitions):
            done = encode_message(TickDone(partition=partition.number, tick_ms=tick_done_ms, upto=partition.upto(q)))
            leaving.append(Outgoing("outcomes", None, done, partition=q))
    if leaving:
        await store.settled()
    for first in range(0, len(leaving), LEAVE_TOGETHER):
        step = leaving[first : first + LEAVE_TOGETHER]
        await outlet.deliver(step)
        partition.outbox.mark_sent(len(step))


def take_in(partition: Partition, records: Sequence[Received], earliest_ms: int | None, latest_ms: int | None, worked: Worked) -> list[Arrived]:
    """Return the events that are valid; what is not goes to `rejected` as it came, with the reason."""
    arrived, rules = [], partition.rules
    earliest_ms, latest_ms = earliest_ms or MIN_TS_MS, latest_ms or MAX_TS_MS
    for record, here in zip(records, _belong_here(partition, records), strict=True):
        event, why = record.arrived, record.refused
        if event is not None:
            if not (here and earliest_ms <= event.ts_ms <= latest_ms):
                why = _refused(partition, event, earliest_ms, latest_ms)
            if why is None:
                arrived.append(event)
        if why is not None:
            partition.cursor.totals.rejected += 1
            see_refused(partition.cursor.seen, record, why, partition.number)
            worked.rejected.append(_rejected(partition, record, why))
    partition.cursor.totals.read += len(records)
    partition.cursor.seen.read += len(records)
    if rules.replay:
        arrived.sort(key=Arrived.order)
    return arrived


def _belong_here(partition: Partition, records: Sequence[Received]) -> Sequence[bool]:
    """Whether each record lies in the partition of its key, which in a record with an event is its user."""
    rules = partition.rules
    if not rules.partitioner_check:
        return [True] * len(records)
    found: list[bool] = (partitions_for([record.key or b"" for record in records], rules.partitions) == partition.number).tolist()
    return found


def _refused(partition: Partition, arrived: Arrived, earliest_ms: int, latest_ms: int) -> Refused | None:
    """Why an event that was decoded is refused here and now, if it is."""
    number, rules = partition.number, partition.rules
    if rules.partitioner_check and (expected := partition_for(arrived.event.user_id.encode(), rules.partitions)) != number:
        return Refused("wrong_partition", f"in {number}, expected {expected}")
    if arrived.ts_ms < earliest_ms:
        return Refused("too_old", f"{earliest_ms - arrived.ts_ms} ms too old; are its milliseconds seconds?")
    if arrived.ts_ms > latest_ms:
        return Refused("from_the_future", f"{arrived.ts_ms - latest_ms} ms too far")
    return None


def _rejected(partition: Partition, record: Received, refused: Refused) -> Outgoing:
    """Return the record as it came, with the reason. What no topic of ours would take is cut, and a header says how long it was."""
    told = [(REASON_HEADER, refused.reason), ("headstart-detail", refused.detail), ("headstart-topic", KINDS[record.kind]),
            ("headstart-partition", str(partition.number)), ("headstart-offset", str(record.offset))]  # fmt: skip
    parts = {"key": record.key, "value": record.value}
    for name, part in parts.items():
        if part is not None and len(part) > MAX_REJECTED[name]:
            told.append((f"headstart-{name}-bytes", str(len(part))))
            parts[name] = part[: MAX_REJECTED[name]]
    headers = tuple((name, text.encode("utf-8", "replace")) for name, text in told)
    return Outgoing("rejected", parts["key"], parts["value"], headers)


async def _apply(partition: Partition, arrived: list[Arrived], knowledge: Knowledge, scoring: bool, worked: Worked) -> None:
    at_ms = partition.cursor.tick_ms
    events = [a.event for a in arrived]
    # Beliefs may change whenever this waits: a batch keeps to those with which it began.
    line_rows, category_rows = knowledge.catalogue_rows(events)
    pair, launches, catalogue = knowledge.pair, knowledge.launches, knowledge.catalogue
    launched = launches.open_for_each(events, at_ms)

    # What we know: each event in turn changes its shopper's records, and the vector is read right after it.
    names = names_of([event.user_id for event in events])
    records = line_records(names, [event.line for event in events], launched)
    users, lines = await partition.place(names, records.names)
    facts = rows(arrived, partition.local)
    facts["user"] = users
    facts["line_stats"], facts["category_stats"] = line_rows, category_rows
    partition.users.change(users)
    partition.lines.change(lines)
    of_users, of_lines, ttl_ms = partition.users.rows, partition.lines.rows, partition.rules.ttl_ms

    def seen() -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_], Said | None]:
        x, fate, opens = advance(facts, of_users, of_lines, lines, records.starts, catalogue, at_ms=at_ms, ttl_ms=ttl_ms)
        return x, fate, opens, pair.of(x, launched) if pair is not None else None

    x, fate, opens, said = await computed(seen, len(events), knowledge.aside)
    fresh = np.flatnonzero(fate == APPLIED)
    kinds = facts["kind"].astype(np.int64)
    counted = np.zeros((3, len(fresh)), np.int64)  # in the shop, in the line, in the category
    counted[1], counted[2] = line_rows[fresh], category_rows[fresh]
    count_many(partition.cursor.counts, knowledge.catalogue_names, counted, kinds[fresh])
    partition.cursor.totals.applied += len(fresh)
    partition.cursor.totals.duplicate += len(events) - len(fresh)
    see_events(partition.cursor.seen, kinds, fate, launched, said.in_launch[:, 1] if said is not None else None)

    # What we believe, and what follows from it: exposures that open, marks on open ones, scores.
    of_event, of_pair = opens[records.starts[:-1]], opens[records.of_pair]
    touched = kinds >= CLICK
    touched |= of_event
    touched[launched.event[of_pair]] = True
    touching = fresh[touched[fresh]]
    beliefs = Beliefs.of(said)
    opened = follow(partition, arrived, names, facts["ts_ms"], pair, launches, launched, beliefs, x, of_event, of_pair, touching)
    if scoring and pair is not None:
        explained, trunk = _explained(partition, pair, events, launched, x), pair.trunk
        told = [_score(arrived[i], i, launched, beliefs, opened.get(i, _NONE), explained.get(i, _NONE), trunk) for i in fresh.tolist()]
        worked.scores += [Outgoing("scores", score.user_id.encode(), value) for score, value in zip(told, encode_each(told), strict=True)]


def _explained(
    partition: Partition, pair: Pair, events: Sequence[Event], launched: Launched, x: NDArray[np.float32]
) -> dict[int, list[Explanation]]:  # fmt: skip
    """Return the ledgers of the events that ask for one, where the settings allow it: for each of its launches, or for its line."""
    asking = [i for i, event in enumerate(events) if event.explain] if partition.rules.explains else []
    return {i: [explanation(pair, launch, x[i]) for launch in launched.by_event.get(i, [None])] for i in asking}


def _score(
    a: Arrived, i: int, launched: Launched, beliefs: Beliefs, opened: Sequence[str | None], explained: Sequence[Explanation], trunk: str
) -> Score:  # fmt: skip
    """Return the score record of event i of the batch: an entry for each of its launches, or one for its line."""
    event, there = a.event, launched.by_event.get(i)
    if there is None:
        p = beliefs.in_line[i]
        entries = [Entry(None, event.line, opened[0] if opened else None, None, p, p, explained[0] if explained else None)]
    else:
        entries, first = [], launched.first[i]
        for k, launch in enumerate(there):
            score, probability = beliefs.in_launch[first + k]
            exposure, why = opened[k] if opened else None, explained[k] if explained else None
            entries.append(Entry(launch.id, event.line, exposure, launch.arm(event.user_id), score, probability, why))
    return Score(f"{event.user_id}:{event.event_id}", event.user_id, event.event_id, KINDS[a.kind], event.product_id, a.ts_ms, entries, trunk)


async def close_bins(partition: Partition, due_ms: int, most: int | None = None) -> bool:
    """Close the delay bins that are due at `due_ms` less the grace, at most so many: outcomes, the users' labels, the catalogue's labels.

    Returns whether no more are due.
    """
    until_ms = due_ms - partition.rules.grace_ms
    matured: list[tuple[str, int]] = []
    for closed in partition.pending.close(until_ms, most):
        exposure = closed.exposure
        key = SHARED if exposure.domain.startswith("line:") else exposure.domain
        partition.tell(key, closed)
        if closed.label != NONE:
            partition.cursor.totals.late_orders += exposure.late_orders
        if closed.label != NONE and exposure.counts:
            matured.append((exposure.user, closed.label))
            for what in (MATURED, CONVERTED)[: 1 + closed.label]:
                count(partition.cursor.counts, exposure.line, exposure.category, what)
    if matured:
        places = await partition.place_users([user for user, _ in matured])
        records = partition.users.rows
        seen = records["ref_ms"][places] > 0  # whoever has expired or was erased gets no record for it
        partition.users.change(places[seen])
        np.add.at(records["matured"], places[seen], 1)
        np.add.at(records["converted"], places[seen], np.array([label for _, label in matured])[seen])
    return not partition.pending.has_due(until_ms)
