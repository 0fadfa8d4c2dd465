"""The main flow: what happens to one batch of one partition. Read this first.

    raw records ▸ decode ▸ dedup ▸ advance state ▸ vector ▸ trunk ▸ heads ▸ scores
                                        └ exposures ▸ delay bins close ▸ outcomes

`work_off` changes only memory; `settle` makes it real, in the order that keeps features and learning exactly-once in effect:
scores are delivered, then everything is committed in one step, then the outcomes leave. The same two functions run under Faust
with Kafka and Redis (`streams.worker`) and, with the in-memory store, in evaluation and training (`streams.offline`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.advance import APPLIED, advance
from features.catalogue import CONVERTED, MATURED, count
from features.events import KINDS, Event, Refused, decode
from features.exposures import NONE, Exposure, exposure_id, is_followed
from features.hashing import partition_for
from features.intake import Arrived, rows
from features.store import Store
from streams.knowledge import Belief, Knowledge
from streams.ledger_record import explanation
from streams.partition import Partition, distinct
from streams.records import REASON_HEADER, SHARED, Entry, Explanation, Launch, Outgoing, Received, Score, TickDone, encode_json, encode_message
from streams.seen import see_events, see_refused

MAX_REJECTED = {"key": 100_000, "value": 1_900_000}  # bytes; the topic `rejected` takes 2 MiB in all


class Outlet(Protocol):
    """Where records leave. Returns when the broker has all of them; raises DependencyDown."""

    async def deliver(self, records: Sequence[Outgoing]) -> None: ...


@dataclass
class Worked:
    """What a batch has to say to the outside."""

    scores: list[Outgoing] = field(default_factory=list)
    rejected: list[Outgoing] = field(default_factory=list)


@dataclass(frozen=True)
class _Domain:
    """One domain that an event touches: which of the event's records is its own, and under which name exposures open (None: they do not)."""

    place: int
    exposure: str | None
    launch: Launch | None


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
) -> Worked:
    """Apply a batch to the partition, in memory, and return its scores and rejects.

    `offsets` (4,) are the next ones to read once the batch is done. With `tick_end_ms`, the tick ends there: due delay bins close.
    An event before `earliest_ms` or after `latest_ms` is refused.
    """
    worked = Worked()
    arrived = take_in(partition, records, earliest_ms, latest_ms, worked)
    cursor = partition.cursor
    if arrived:
        await _apply(partition, arrived, knowledge, scoring, worked)
    if tick_end_ms is not None:
        await close_bins(partition, tick_end_ms)
        partition.tell_counts(tick_end_ms)
        cursor.tick_ms = tick_end_ms
    cursor.offsets = list(offsets)
    return worked


async def settle(partition: Partition, worked: Worked, outlet: Outlet, store: Store, *, tick_done_ms: int | None = None) -> None:
    """Deliver scores and rejects, commit in one step, then let the outcomes leave; nothing leaves that a crash could take back."""
    await outlet.deliver([*worked.scores, *worked.rejected])
    await partition.commit()
    await publish_outbox(partition, outlet, store, tick_done_ms=tick_done_ms)


async def publish_outbox(partition: Partition, outlet: Outlet, store: Store, *, tick_done_ms: int | None = None) -> None:
    """Send committed outcomes in the order of their numbers, and then, in a replay, that the tick is done."""
    unsent = partition.unsent()
    done = [
        (q, None, encode_message(TickDone(partition=partition.number, tick_ms=tick_done_ms, upto=partition.upto(q))))
        for q in range(partition.rules.outcome_partitions)
        if tick_done_ms is not None
    ]
    if unsent or done:
        await store.settled()
        await outlet.deliver([Outgoing("outcomes", key, message, partition=q) for q, key, message in [*unsent, *done]])
        partition.mark_sent()


def take_in(partition: Partition, records: Sequence[Received], earliest_ms: int | None, latest_ms: int | None, worked: Worked) -> list[Arrived]:
    """Decode and validate; what is not valid goes to `rejected` as it came, with the reason."""
    arrived, rules = [], partition.rules
    for record in records:
        partition.cursor.totals.read += 1
        partition.cursor.seen.read += 1
        try:
            event, ts_ms = decode(record.value, record.kind)
            key = event.user_id.encode()
            if record.key != key:
                raise Refused("wrong_key", f"key {record.key!r:.60}, user_id {event.user_id!r:.60}")
            if rules.partitioner_check and partition_for(key, rules.partitions) != partition.number:
                raise Refused("wrong_partition", f"in {partition.number}, expected {partition_for(key, rules.partitions)}")
            if earliest_ms is not None and ts_ms < earliest_ms:
                raise Refused("too_old", f"{earliest_ms - ts_ms} ms too old; are its milliseconds seconds?")
            if latest_ms is not None and ts_ms > latest_ms:
                raise Refused("from_the_future", f"{ts_ms - latest_ms} ms too far")
        except Refused as refused:
            partition.cursor.totals.rejected += 1
            see_refused(partition.cursor.seen, record, refused, partition.number)
            worked.rejected.append(_rejected(partition, record, refused))
        else:
            arrived.append(Arrived(event, record.kind, ts_ms, record.value or b""))
    if rules.replay:
        arrived.sort(key=Arrived.order)
    return arrived


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
    told = [_domains(event, knowledge, at_ms) for event in events]
    names, domains = [t[0] for t in told], [t[1] for t in told]

    # What we know: load the records, let each event change them, and read the vector right after it.
    users = distinct(event.user_id for event in events)
    pairs: dict[tuple[str, str], int] = {}
    for event, wanted in zip(events, names, strict=True):
        for name in wanted:
            pairs.setdefault((event.user_id, name), len(pairs))
    user_records = await partition.users(list(users))
    line_records = await partition.lines(list(pairs))
    kernel_rows = rows(arrived, partition.local)
    kernel_rows["user"] = [users[event.user_id] for event in events]
    kernel_rows["line_stats"], kernel_rows["category_stats"], catalogue = knowledge.catalogue_rows(events)
    starts = np.cumsum([0, *(len(wanted) for wanted in names)])
    places = np.array([pairs[event.user_id, name] for event, wanted in zip(events, names, strict=True) for name in wanted], np.int64)
    x, fate, opens = advance(kernel_rows, user_records, line_records, places, starts, catalogue, at_ms=at_ms, ttl_ms=partition.rules.ttl_ms)
    partition.keep_users(list(users), user_records)
    partition.keep_lines(list(pairs), line_records)

    # What we believe: each event in each domain that it touches.
    members = _members(domains)
    beliefs = _believe(knowledge, x, domains, members)
    see_events(partition.cursor.seen, kernel_rows["kind"], fate, members)

    # What follows: scores, marks on open exposures, new exposures, and the catalogue's counts.
    totals, trunk = partition.cursor.totals, knowledge.trunk
    for i, (a, touched) in enumerate(zip(arrived, domains, strict=True)):
        if fate[i] != APPLIED:
            totals.duplicate += 1
            continue
        totals.applied += 1
        event, line, category = a.event, a.event.line, a.event.category or a.event.line
        count(partition.cursor.counts, line, category, a.kind)
        partition.pending.mark(event.user_id, knowledge.followed(event, at_ms), a.kind, a.ts_ms)
        opened: list[str | None] = []
        for domain, belief in zip(touched, beliefs[i], strict=True):
            is_open = domain.exposure is not None and bool(opens[starts[i] + domain.place])
            opened.append(_expose(partition, a, domain.exposure or "", category, x[i], belief, counts=not any(opened)) if is_open else None)
        if scoring and trunk:
            worked.scores.append(_score(a, touched, beliefs[i], opened, trunk, _explained(partition, knowledge, a, touched, x[i])))


def _domains(event: Event, knowledge: Knowledge, at_ms: int) -> tuple[list[str], list[_Domain]]:
    """Return the names of the user-line records that an event changes, and its domains: first its own line, then its launches.

    A launch of a whole line shares the line's record; one of some products has a record of its own.
    """
    names = [event.line]
    launches = knowledge.launches_of(event, at_ms)
    # What is being launched teaches its launch alone, until it has become a source.
    domains = [_Domain(0, f"line:{event.line}" if not launches and knowledge.is_source(event.line, at_ms) else None, None)]
    for launch in launches:
        if launch.products:
            names.append(f"\x1e{launch.id}")
        domains.append(_Domain(len(names) - 1 if launch.products else 0, launch.id, launch))
    return names, domains


Members = dict[str, tuple[list[int], NDArray[np.float64] | None]]
"""Of each launch the places of its events in the batch, and the probabilities that were foretold of them."""


def _members(domains: list[list[_Domain]]) -> Members:
    members: Members = {}
    for i, touched in enumerate(domains):
        for domain in touched[1:]:
            assert domain.launch
            members.setdefault(domain.launch.id, ([], None))[0].append(i)
    return members


def _believe(knowledge: Knowledge, x: NDArray[np.float32], domains: list[list[_Domain]], members: Members) -> list[list[Belief]]:
    if knowledge.model is None:
        return [[() for _ in touched] for touched in domains]
    maps = knowledge.maps(x)
    in_line = knowledge.of_lines(maps)
    beliefs: list[list[Belief]] = [[in_line[i], *(() for _ in touched[1:])] for i, touched in enumerate(domains)]
    for launch, (indices, _) in members.items():
        told = knowledge.of_launch(launch, maps.rows(indices))
        members[launch] = indices, np.fromiter((belief[1] for belief in told), np.float64, len(told))
        for i, belief in zip(indices, told, strict=True):
            place = next(j for j, d in enumerate(domains[i]) if d.launch and d.launch.id == launch)
            beliefs[i][place] = belief
    return beliefs


def _expose(partition: Partition, a: Arrived, domain: str, category: str, x: NDArray[np.float32], belief: Belief, *, counts: bool) -> str | None:
    """Open an exposure and follow it, if it is among those that are followed; returns its id then."""
    name = exposure_id(domain, a.event.user_id, a.event.event_id)
    totals = partition.cursor.totals
    if name in partition.pending.open:  # the event came again after the ring of ids had forgotten it
        return name
    if not is_followed(name, partition.rules.learn_share) or len(partition.pending) >= partition.rules.max_pending:
        totals.untracked += 1
        return None
    totals.exposures += 1
    partition.pending.add(
        Exposure(
            id=name,
            domain=domain,
            counts=counts,
            user=a.event.user_id,
            line=a.event.line,
            category=category,
            ts_ms=a.ts_ms,
            x=x.tobytes(),
            predictions=belief,
            delay_ms=[NONE] * 3,
            bin=1,
        )
    )
    return name


def _explained(partition: Partition, knowledge: Knowledge, a: Arrived, touched: list[_Domain], x: NDArray[np.float32]) -> list[Explanation | None]:
    if not (a.event.explain and partition.rules.explains):
        return [None] * len(touched)
    return [explanation(knowledge, d.launch, x) if d.launch or len(touched) == 1 else None for d in touched]


def _score(
    a: Arrived, touched: list[_Domain], beliefs: list[Belief], opened: list[str | None], trunk: str, explained: list[Explanation | None]
) -> Outgoing:  # fmt: skip
    event = a.event
    told = list(zip(touched, beliefs, opened, explained, strict=True))
    entries = [
        Entry(
            launch_id=d.launch.id if d.launch else None,
            line=event.line,
            exposure_id=exposure,
            arm=d.launch.arm(event.user_id) if d.launch else None,
            score=belief[0],
            probability=belief[1],
            explanation=why,
        )
        for d, belief, exposure, why in (told[1:] or told)
    ]
    score = Score(
        score_id=f"{event.user_id}:{event.event_id}", user_id=event.user_id, event_id=event.event_id, kind=KINDS[a.kind],
        product_id=event.product_id, ts=a.ts_ms, entries=entries, trunk=trunk,
    )  # fmt: skip
    return Outgoing("scores", event.user_id.encode(), encode_json(score))


async def close_bins(partition: Partition, tick_end_ms: int) -> None:
    """Close the delay bins that are due at the tick's end less the grace: outcomes, the users' labels, the catalogue's labels."""
    matured: list[tuple[str, int]] = []
    for closed in partition.pending.close(tick_end_ms - partition.rules.grace_ms):
        exposure = closed.exposure
        key = SHARED if exposure.domain.startswith("line:") else exposure.domain
        partition.tell(partition_for(key.encode(), partition.rules.outcome_partitions), key, closed)
        if closed.label != NONE:
            partition.cursor.totals.late_orders += exposure.late_orders
        if closed.label != NONE and exposure.counts:
            matured.append((exposure.user, closed.label))
            for what in (MATURED, CONVERTED)[: 1 + closed.label]:
                count(partition.cursor.counts, exposure.line, exposure.category, what)
    if matured:
        names = distinct(user for user, _ in matured)
        users = await partition.users(list(names))
        for user, label in matured:
            record = users[names[user]]
            if record["ref_ms"]:
                record["matured"] += 1
                record["converted"] += label
        partition.keep_users(list(names), users)
