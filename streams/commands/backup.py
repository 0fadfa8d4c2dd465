"""`headstart backup` and `headstart restore`: a namespace into a file, and back."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from features.errors import Mismatch
from features.events import KINDS
from streams import backup as copies
from streams import namespace
from streams.at_rest import bounds, cursors_of, require_stopped
from streams.commands.options import Broker, Config, Namespace, Redis, Set
from streams.commands.progress import progress_bar
from streams.settings import Settings, load_settings
from streams.topics import broker_names

File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]


def backup(
    file: File, redis: Redis = None, namespace_: Namespace = None, config: Config = None, assignments: Set = None,
) -> None:  # fmt: skip
    """Write everything that the namespace holds in Redis into one file: shoppers, open exposures, cursors, heads, catalogue, launches and trunks.

    The workers must be stopped (or have nothing to do): a backup is of one moment. Of a Redis that is being written, take Redis' own snapshot instead.
    What happens afterwards is not lost: a restore goes on from the cursors in the file, as far back as Kafka keeps the topics.
    """
    settings = load_settings(config, needs=("redis",), assignments=assignments or (), redis=redis, namespace=namespace_)

    async def work() -> copies.Header:
        store = namespace.open_store(settings, patience_s=10.0)
        try:
            with progress_bar() as bar:
                task = bar.add_task("keys", total=None)
                return await copies.write(store, settings.namespace, file, progress=lambda n: bar.update(task, completed=n))
        finally:
            await store.close()

    header = asyncio.run(work())
    typer.echo(f"namespace {header.namespace!r} is in {file} ({file.stat().st_size:,} bytes)")


def restore(
    file: File,
    replace: Annotated[bool, typer.Option("--replace", help="Put the backup in the place of what the namespace holds now, which is deleted.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only read the file to its end, and say what it is of.")] = False,
    broker: Broker = None,
    redis: Redis = None,
    namespace_: Namespace = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Put a backup into Redis. The workers must be stopped. The file is checked to its end before anything is written.

    Workers that start afterwards work everything again that came after the backup, from Kafka; what they had told the learners in the lost time is passed over
    (alert store_went_back). Scores are sent again.
    """
    header = copies.check(file)
    made = dt.datetime.fromtimestamp(header.made_at_ms / 1000, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    typer.echo(f"{file}: namespace {header.namespace!r}, {len(header.versions)} slots, made at {made}")
    if check:
        return
    settings = load_settings(config, needs=("broker", "redis"), assignments=assignments or (), broker=broker, redis=redis, namespace=namespace_)
    require_stopped(settings)

    async def work() -> tuple[int, list[str]]:
        store = namespace.open_store(settings, patience_s=10.0)
        try:
            held = await store.meta()
            if held and not replace and held.get("partitions") != namespace.RESTORED:
                raise Mismatch(f"namespace {settings.namespace!r} is in use: give --replace to delete what it holds, or --namespace for another one")
            with progress_bar() as bar:
                task = bar.add_task("keys", total=None)
                keys = await copies.put(store, copies.read_entries(file), header.meta, progress=lambda n: bar.update(task, completed=n))
            cursors = await cursors_of(store, int(header.meta["partitions"]), int(header.meta["outcome_partitions"]))
            return keys, to_be_worked(settings, {p: cursor.offsets for p, cursor in cursors.items()})
        finally:
            await store.close()

    keys, lines = asyncio.run(work())
    typer.echo(f"{keys} keys are in namespace {settings.namespace!r}")
    for line in lines:
        typer.echo(line)


def to_be_worked(settings: Settings, offsets: dict[int, list[int]]) -> list[str]:
    """Return lines that say how many records the workers will find, and what is gone from the topics."""
    names = broker_names(settings.topic_prefix, settings.topic_names)
    found = bounds(settings, [names[kind] for kind in KINDS])
    if len(found) != len(KINDS) * len(offsets):
        now = len(found) // len(KINDS)
        if now < len(offsets):
            return [f"the event topics have {now} partitions, the backup is of {len(offsets)}: make new ones, and name them in the settings (topic_names)"]
        return [
            f"the event topics have {now} partitions, the backup is of {len(offsets)}: run `headstart repartition --partitions {now} --backup FILE` before workers start;",
            "they work what came after it, but what came before the topics were enlarged lies in other partitions, and is refused as wrong_partition",
        ]
    waiting = gone = 0
    for p, mine in offsets.items():
        for kind, offset in zip(KINDS, mine, strict=True):
            first, end = found[names[kind], p]
            waiting += max(0, end - max(offset, first))
            gone += max(0, first - offset)
    lines = [f"{waiting:,} records came after it, and are worked when workers start"]
    if gone:
        lines.append(f"{gone:,} records came after it and are no longer in the topics: they are lost (alert records_lost)")
    return lines
