"""What must be so before a namespace is moved by hand: no worker runs; and, for some moves, nothing waits and everything that was told is learned."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from features.errors import DependencyDown, Mismatch
from features.events import KINDS
from features.store import Changes, Store, decoded, first_version
from streams import topics
from streams.inbox import Expected
from streams.kafka_access import client_config, consumer_config
from streams.knowledge import outcome_slot
from streams.learner_cursor import LearnerCursor
from streams.outbox import Told, is_earlier
from streams.partition import Cursor, Totals
from streams.settings import Settings


def require_stopped(settings: Settings) -> None:
    """Raise Mismatch when a worker of the settings' namespace is in its consumer group; one that was killed counts until its session is over."""
    members = topics.group_members(settings.broker, topics.worker_group(settings.namespace), client_config=client_config(settings))
    if members:
        raise Mismatch(
            f"{members} worker(s) of namespace {settings.namespace!r} run (or ended less than {settings.session_timeout_s} s ago): stop them first, and try again"
        )


def bounds(settings: Settings, names: Iterable[str]) -> dict[tuple[str, int], tuple[int, int]]:
    """Return by (topic on the broker, partition) the log's first offset and the one after its last. Raises DependencyDown, and Mismatch for a missing topic."""
    with _asking(settings, names) as (consumer, tps):
        first, end = consumer.beginning_offsets(tps), consumer.end_offsets(tps)
        return {(tp.topic, tp.partition): (first[tp], end[tp]) for tp in tps}


def offsets_at(settings: Settings, names: Iterable[str], at_ms: int) -> dict[tuple[str, int], int]:
    """Return the offset of the first record whose timestamp is `at_ms` or later, and the log's end where there is none. Raises as `bounds`."""
    with _asking(settings, names) as (consumer, tps):
        end, found = consumer.end_offsets(tps), consumer.offsets_for_times(dict.fromkeys(tps, at_ms))
        return {(tp.topic, tp.partition): end[tp] if found[tp] is None or found[tp].offset < 0 else found[tp].offset for tp in tps}


@contextmanager
def _asking(settings: Settings, names: Iterable[str]) -> Iterator[tuple[Any, list[TopicPartition]]]:
    topics.require_reachable(settings.broker, client_config(settings))
    try:
        consumer = KafkaConsumer(**consumer_config(settings))
        try:
            tps = []
            for name in names:
                there = consumer.partitions_for_topic(name)
                if not there:
                    raise Mismatch(f"topic {name} is missing: create the topics with `headstart topics create`")
                tps += [TopicPartition(name, p) for p in sorted(there)]
            yield consumer, tps
        finally:
            consumer.close()
    except KafkaError as error:
        raise DependencyDown(f"the broker at {settings.broker} does not answer: {error}") from None


async def cursors_of(store: Store, partitions: int, outcome_partitions: int) -> dict[int, Cursor]:
    """Return the partitions' cursors; those that nobody has worked begin at zero."""
    found = {}
    for p in range(partitions):
        slot = await store.load(str(p), ())
        none = Cursor(epoch=0, offsets=[0] * len(KINDS), numbers=[0] * outcome_partitions, totals=Totals(), told=Told())
        found[p] = decoded(slot.cursor, Cursor, "a partition's cursor") if slot.version else none
    return found


async def put_cursor(store: Store, partition: int, version: int, cursor: Cursor) -> None:
    """Write a partition's cursor over the one that was loaded at `version`. Raises Mismatch if somebody has worked the partition since."""
    changes = Changes(cursor=msgspec.msgpack.encode(cursor), version=first_version(version, secrets.randbits(32)))
    if not await store.commit(str(partition), version, changes):
        raise Mismatch(f"partition {partition} was worked meanwhile: stop the workers")


async def unlearned(store: Store, cursors: Mapping[int, Cursor], outcome_partitions: int) -> int:
    """Return in how many (partition, outcome partition) something was told that is not learned."""
    missing = 0
    for q in range(outcome_partitions):
        slot = await store.load(outcome_slot(q), ())
        expected = decoded(slot.cursor, LearnerCursor, "a learner's cursor").expected if slot.version else {}
        missing += sum(is_behind(expected.get(p), cursor, q) for p, cursor in cursors.items())
    return missing


def is_behind(expected: Expected | None, cursor: Cursor, q: int) -> bool:
    """Whether the learner of outcome partition q, which expects this next of a partition, has not learned all that the partition has told it.

    It may be further than the last life that the cursor names for it: lives leave the cursor when all learners are through, not in their order.
    """
    told = [(past.epoch, past.ends[q]) for past in cursor.told.before if past.ends[q]]
    told += [(cursor.epoch, cursor.numbers[q])] if cursor.numbers[q] else []
    if not told or expected is None:
        return bool(told)
    epoch, number = told[-1]
    return expected.number < number if expected.epoch == epoch else not is_earlier(epoch, expected.epoch)
