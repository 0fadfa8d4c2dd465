"""`headstart repartition`: another number of partitions of the event topics, with the shoppers' state."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from features.errors import InputError, Mismatch
from features.events import KINDS
from features.redis_store import RedisStore
from features.vector import SCHEMA_HASH
from streams import backup as copies
from streams import namespace
from streams.at_rest import bounds, cursors_of, require_stopped, unlearned
from streams.commands.options import Broker, Config, Namespace, Redis, Set
from streams.commands.progress import progress_bar
from streams.kafka_access import client_config
from streams.repartition import Divided
from streams.settings import Settings, load_settings
from streams.topics import TOPICS, add_partitions, broker_names, partition_counts, topic_ids


def repartition(
    file: Annotated[Path, typer.Option("--backup", metavar="FILE", help="Where the state is kept meanwhile; with it, what went wrong is done again.")],
    partitions: Annotated[int | None, typer.Option("--partitions", help="The new number (default: the setting partitions).")] = None,
    broker: Broker = None,
    redis: Redis = None,
    namespace_: Namespace = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Give the event topics another number of partitions, and move every shopper's state to where their events will lie.

    First stop the producers, let the workers work off everything, and stop them too. The topics of the settings get more partitions, if they have fewer;
    for fewer partitions, make new topics and name them in the settings (topic_prefix, topic_names). Then set `partitions` for all workers, and start everything.
    If it was interrupted, run the same command again: it goes on from the file.
    """
    settings = load_settings(
        config, needs=("broker", "redis"), assignments=assignments or (), broker=broker, redis=redis, namespace=namespace_, partitions=partitions
    )
    namespace.require_murmur2(settings)
    require_stopped(settings)
    is_there = file.exists()

    async def work() -> list[str]:
        store = namespace.open_store(settings, patience_s=10.0)
        try:
            return await _work(store, settings, file, is_there=is_there)
        finally:
            await store.close()

    for line in asyncio.run(work()):
        typer.echo(line)
    typer.echo(f"done: set partitions = {settings.partitions} for all workers and publishers, and start them")


async def _work(store: RedisStore, settings: Settings, file: Path, *, is_there: bool) -> list[str]:
    held = await store.meta()
    again = held.get("partitions") == namespace.DIVIDED
    if not again:
        namespace.sizes_of(held, settings.namespace)
    elif not is_there:
        raise InputError(f"a repartition of namespace {settings.namespace!r} was interrupted: give its file with --backup")
    _lacking(settings)  # or it cannot be, and no backup is written
    if held["schema"] != SCHEMA_HASH:
        raise Mismatch(
            f"namespace {settings.namespace!r} holds records of feature schema {held['schema']}, this program has {SCHEMA_HASH}: run the release that made it"
        )
    if not again:
        if held["partitions"] == str(settings.partitions):
            raise InputError(f"namespace {settings.namespace!r} has {settings.partitions} partitions already")
        if is_there:
            raise InputError(f"{file} is there already; give another name")
        await _require_level(store, settings, held)
        with progress_bar() as bar:
            task = bar.add_task("keys kept", total=None)
            await copies.write(store, settings.namespace, file, progress=lambda n: bar.update(task, completed=n))
    header = copies.check(file)
    if header.namespace != settings.namespace:
        raise InputError(f"{file} is of namespace {header.namespace!r}, not {settings.namespace!r}")
    lines = _grow(settings)

    names, before = broker_names(settings.topic_prefix, settings.topic_names), header.meta["topics"].split(",")
    found = bounds(settings, [names[kind] for kind in KINDS])
    begins = {(kind, p): found[names[kind], p][0] for kind in KINDS for p in range(settings.partitions)}
    kept = [kind for kind in KINDS if names[kind] in before]
    divided = Divided(file, settings.partitions, int(header.meta["outcome_partitions"]), begins, kept)
    ids = topic_ids(settings.broker, [names[kind] for kind in (*KINDS, "outcomes")], client_config=client_config(settings))
    meta = {
        **header.meta,
        "partitions": str(settings.partitions),
        "topics": ",".join(names.values()),
        "topic_ids": ",".join(ids[name] for name in sorted(ids)),
    }
    with progress_bar() as bar:
        task = bar.add_task("keys moved", total=None)
        await copies.put(store, divided.entries(), meta, meanwhile=namespace.DIVIDED, progress=lambda n: bar.update(task, completed=n))
    moved = ", ".join(f"{n:,} {what}" for what, n in divided.moved.items()) or "no shopper"
    return [
        *lines,
        f"{moved} are in {settings.partitions} partitions; {file} holds what was before; from here on only a backup made after this brings the state back",
    ]


async def _require_level(store: RedisStore, settings: Settings, held: dict[str, str]) -> None:
    """Raise Mismatch unless all that was published is worked, and all that was told is learned.

    Where the topics have more partitions already (a backup from before was restored) no worker could work anything off: the state goes on where its cursors stand.
    """
    partitions, outcome_partitions = int(held["partitions"]), int(held["outcome_partitions"])
    before = dict(zip((spec.name for spec in TOPICS), held["topics"].split(","), strict=True))
    found = bounds(settings, [before[kind] for kind in KINDS])
    cursors = await cursors_of(store, partitions, outcome_partitions)
    if len(found) < len(KINDS) * partitions:
        raise Mismatch(f"the event topics have fewer than the namespace's {partitions} partitions: make new ones, and name them in the settings (topic_names)")
    waiting = sum(max(0, found[before[kind], p][1] - offset) for p, c in cursors.items() for kind, offset in zip(KINDS, c.offsets, strict=True))
    if waiting and len(found) == len(KINDS) * partitions:
        raise Mismatch(f"{waiting} records wait to be worked: stop the producers, let the workers work everything off, stop them, and try again")
    if waiting:
        typer.echo(
            f"{waiting} records wait in the namespace's partitions; those from before there were more of them will be refused as wrong_partition", err=True
        )
    if n := await unlearned(store, cursors, outcome_partitions):
        raise Mismatch(f"outcomes of {n} partitions wait to be learned: start a worker for a moment, and try again")


def _lacking(settings: Settings) -> dict[str, int]:
    """Return the topics that have fewer partitions than the settings say, and how many they have. Raises Mismatch where one has more, or is missing."""
    names = broker_names(settings.topic_prefix, settings.topic_names)
    wanted = [names[spec.name] for spec in TOPICS if spec.partitions == "input"]
    counts = partition_counts(settings.broker, wanted, client_config=client_config(settings))
    missing = [name for name in wanted if name not in counts]
    if missing:
        raise Mismatch(f"topic {missing[0]} is missing: create the topics with `headstart topics create`")
    more = [name for name, count in counts.items() if count > settings.partitions and name in {names[kind] for kind in KINDS}]
    if more:
        raise Mismatch(f"topic {more[0]} has {counts[more[0]]} partitions, and Kafka takes none away: make new topics, and name them in the settings")
    return {name: count for name, count in counts.items() if count < settings.partitions}


def _grow(settings: Settings) -> list[str]:
    """Give the topics of the settings the partitions that they lack."""
    lacking = _lacking(settings)
    if lacking:
        add_partitions(settings.broker, dict.fromkeys(lacking, settings.partitions), client_config=client_config(settings))
    return [f"{name}: {count} → {settings.partitions} partitions" for name, count in lacking.items()]
