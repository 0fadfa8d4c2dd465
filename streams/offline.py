"""The same pipeline in one process, without Kafka: for training rows, evaluation, backfill, and as the oracle of replays.

Partitions and learners are the ones that the workers run; records pass through lists instead of topics, and the store is the
in-memory one, or for a backfill the Redis of the workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from features.hashing import partition_for
from features.store import Changes, Store, fresh_version
from models.model import Model
from streams.knowledge import CONTROL_SLOT, Knowledge
from streams.learner import Learner
from streams.partition import TOPICS, Partition, Rules
from streams.pipeline import settle, work_off
from streams.records import Launch, Outcome, Outgoing, Received, decode_message, encode_json, received
from streams.ticks import Tick


class Lists:
    """Stands in for the broker: outcomes reach the learners, scores and rejects reach a listener."""

    def __init__(self, outcome_partitions: int, heard: Callable[[Outgoing], None] | None = None) -> None:
        self.outcomes: list[list[bytes]] = [[] for _ in range(outcome_partitions)]
        self._heard = heard

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Hand each record on at once."""
        for record in records:
            if record.topic == "outcomes":
                assert record.partition is not None and record.value is not None
                self.outcomes[record.partition].append(record.value)
            elif self._heard is not None:
                self._heard(record)


async def put_launches(store: Store, launches: Sequence[Launch]) -> None:
    """Write launches among the control records, each under its id."""
    slot = await store.load(CONTROL_SLOT, ())
    put = {"launches": {launch.id: encode_json(launch) for launch in launches}}
    await store.commit(CONTROL_SLOT, slot.version, Changes(cursor=slot.cursor, put=put, version=fresh_version(slot.version)))


async def run(
    ticks: Iterable[Tick],
    store: Store,
    rules: Rules,
    model: Model | None,
    *,
    scoring: bool = True,
    heard: Callable[[Outgoing], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_tick: Callable[[Tick], None] | None = None,
) -> None:
    """Work off the ticks, one after the other, over `rules.partitions` partitions. `on_outcome` hears each final fact in order.

    The cursors stay where Kafka's topics begin, so live workers can go on from the state that a backfill leaves.

    Without a model nothing is scored or learned, and the catalogue is kept all the same: that is how training rows are made.
    """
    lists = Lists(rules.outcome_partitions, heard)
    partitions = [await Partition.load(p, store, rules.shared_by(rules.partitions)) for p in range(rules.partitions)]
    learners = [
        await Learner.load(q, store, model, partitions=rules.partitions, outcome_partitions=rules.outcome_partitions, replay=True, reacts=rules.reacts)
        for q in range(rules.outcome_partitions)
    ]
    for learner in learners:
        learner.heard = on_outcome or learner.heard
    knowledge = Knowledge(store, model, rules.outcome_partitions)
    for tick in ticks:
        _heed_interrupt()
        await knowledge.refresh()
        shares: list[list[Received]] = [[] for _ in partitions]
        for offset, (kind, user, value) in enumerate(tick.records):
            key = user.encode()
            shares[partition_for(key, rules.partitions) if rules.partitions > 1 else 0].append(received(kind, offset, key, value))
        for partition, share in zip(partitions, shares, strict=True):
            worked = await work_off(partition, share, knowledge, offsets=[0] * TOPICS, tick_end_ms=tick.end_ms, scoring=scoring)
            await settle(partition, worked, lists, store, tick_done_ms=tick.end_ms)
        for q, learner in enumerate(learners):
            for value in lists.outcomes[q]:
                await learner.receive(decode_message(value), -1)
            lists.outcomes[q].clear()
        for learner in learners:
            await learner.step()
        if on_tick is not None:
            on_tick(tick)


def _heed_interrupt() -> None:
    """Raise CancelledError once this task was asked to end. Nothing here waits for long, so asyncio finds no moment for it: with a store in memory the loop has
    none, and `asyncio.wait_for`, by which redis-py writes, drops what was asked while something was computed (Python 3.11).
    """
    if (task := asyncio.current_task()) is not None and task.cancelling():
        raise asyncio.CancelledError
