"""`headstart backfill`: take a history into the live state, without scores, before workers start."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from features.errors import InputError, Mismatch
from features.events import KINDS, MAX_TS_MS
from features.redis_store import RedisStore
from features.store import decoded
from models.model import Model
from streams import namespace
from streams.at_rest import bounds, put_cursor, require_stopped
from streams.commands.options import Broker, ByParts, Config, Format, Lines, Namespace, Redis, Set, Trunk, time_ms
from streams.commands.progress import progress_bar
from streams.cutting import cut
from streams.knowledge import outcome_slot
from streams.ledger.base import begin_account
from streams.log_parts import open_log, parts
from streams.offline import run
from streams.partition import Cursor
from streams.records import REASON_HEADER, Outgoing
from streams.settings import load_settings
from streams.topics import broker_names
from streams.training import before


def backfill(
    events: Annotated[Path, typer.Argument(metavar="FILE", help="The history, or a folder of Parquet files that follow each other by name.")],
    broker: Broker = None,
    redis: Redis = None,
    namespace_: Namespace = None,
    trunk: Trunk = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Only events before it, ISO 8601 or ms; `headstart publish --from` sends the others.")
    ] = None,
    by_parts: ByParts = False,
    format: Format = "auto",
    lines: Lines = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Take a history into the live namespace through the same pipeline, without scores, before workers start: else every user is cold for a week.

    Shoppers' states, open exposures, the catalogue and what the old lines still teach end up in Redis; Kafka is asked for its topics only.
    The namespace must not have been worked yet. If it was interrupted, run it again: it begins anew, and until it has ended no worker is let in. Workers then read the topics from their beginning, and what is in the history too counts twice: cut the
    history where the topics begin (--until), or let workers begin where it ends, with `headstart cursor move --partition all --topic all --to TIME --yes`.
    """
    settings = load_settings(config, needs=("broker", "redis"), assignments=assignments or (), broker=broker, redis=redis, namespace=namespace_, trunk=trunk)
    namespace.require_murmur2(settings)
    artifact = namespace.load_trunk(settings)
    log = open_log(events, by_parts=by_parts, format=format, lines=lines)
    until_ms = time_ms("--until", until) if until is not None else MAX_TS_MS + 1
    found = namespace.check_partitions(settings)
    names = broker_names(settings.topic_prefix, settings.topic_names)
    begins = bounds(settings, [names[kind] for kind in KINDS])
    rules = namespace.rules_of(settings, artifact, replay=False)

    wanted = namespace.description(settings, artifact, rules, clock=namespace.LIVE, broker=found)
    require_stopped(settings)

    async def work() -> int:
        store = namespace.open_store(settings)
        try:
            again = await _may_begin(store, wanted, settings.namespace, rules.partitions)
            with progress_bar() as bar:
                checking, taken = bar.add_task("checking the log", total=log.num_rows), 0
                for part in parts(log):  # a bad row must be found before anything is written
                    taken += before(part, until_ms).num_rows
                    bar.advance(checking, part.num_rows)
                if not taken:
                    raise InputError(f"--until {until}: the log has no event before it")
                await store.put_meta({"partitions": namespace.FILLED})  # until all of it is there, whoever comes is refused
                if again:
                    await store.delete_entries({*map(str, range(rules.partitions)), *map(outcome_slot, range(rules.outcome_partitions))})
                task = bar.add_task("events", total=taken)
                ticks = cut((before(part, until_ms) for part in parts(log)), settings.replay_tick_ms)
                past = replace(rules, replay=True)
                await run(ticks, store, past, Model(artifact), scoring=False, heard=_refused, on_tick=lambda tick: bar.advance(task, len(tick.records)))
            for p in range(rules.partitions):  # else what Kafka has deleted by now would count as lost
                if (slot := await store.load(str(p), ())).version:
                    cursor = decoded(slot.cursor, Cursor, "a partition's cursor")
                    cursor.offsets = [begins[names[kind], p][0] for kind in KINDS]
                    await put_cursor(store, p, slot.version, cursor)
            await begin_account(store, partitions=rules.partitions, outcome_partitions=rules.outcome_partitions)
            await store.put_meta({"partitions": wanted["partitions"]})
            return taken
        finally:
            await store.close()

    taken = asyncio.run(work())
    typer.echo(f"{taken} events are in namespace {settings.namespace!r}; start `headstart worker`")


async def _may_begin(store: RedisStore, wanted: dict[str, str], name: str, partitions: int) -> bool:
    """Return whether an earlier backfill was begun and not ended, whose work is to be dropped. Raises Mismatch for a namespace that is another's, or has been worked."""
    if (await store.meta()).get("partitions") == namespace.FILLED:
        await namespace.join(store, {**wanted, "partitions": namespace.FILLED}, name)
        return True
    await namespace.join(store, wanted, name)
    for p in range(partitions):
        if (await store.load(str(p), ())).version:
            raise Mismatch(f"namespace {name!r} has been worked already: a history can only come before its first event")
    return False


def _refused(record: Outgoing) -> None:
    """Hear what is not taken in. Each row was checked before: what a worker would refuse all the same must not be lost without a word."""
    reasons = [value.decode() for name, value in record.headers if name in (REASON_HEADER, "headstart-detail")]
    raise InputError(f"the history holds an event that a worker refuses ({': '.join(reasons)}): {(record.value or b'')[:200].decode('utf-8', 'replace')}")
