"""`headstart cursor`: where each partition reads, and moving it by hand."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from features.errors import InputError
from features.events import KINDS, Refused, milliseconds
from features.redis_store import RedisStore
from features.store import decoded
from streams import namespace
from streams.at_rest import bounds, cursors_of, offsets_at, put_cursor, require_stopped
from streams.commands.options import WIDE, Broker, Config, Json, Namespace, Redis, Set, Trunk, whole_number, write_json
from streams.knowledge import outcome_slot
from streams.learner_cursor import LearnerCursor
from streams.ledger.base import begin_account
from streams.partition import Cursor, first_cursor
from streams.settings import Settings, load_settings
from streams.topics import broker_names

LEARNER_FIGURES = ("offset", "tried", "hit", "duplicates", "refilled", "lost")

cursor_app = typer.Typer(no_args_is_help=True, help="Show where each partition reads, or move it by hand.")


@cursor_app.command("show")
def show(
    broker: Broker = None, redis: Redis = None, namespace_: Namespace = None, json: Json = None, config: Config = None, assignments: Set = None
) -> None:  # fmt: skip
    """Show each partition's cursor: the next offset of each topic, how many records wait, its totals, and where the learners are."""
    settings = _settings(config, assignments, broker, redis, namespace_)
    names = broker_names(settings.topic_prefix, settings.topic_names)
    ends = bounds(settings, [*(names[kind] for kind in KINDS), names["outcomes"]])

    async def read() -> tuple[dict[int, Cursor], dict[int, LearnerCursor]]:
        store = namespace.open_store(settings, patience_s=5.0)
        try:
            partitions, outcome_partitions = await _sizes(store, settings)
            learners = {}
            for q in range(outcome_partitions):
                slot = await store.load(outcome_slot(q), ())
                learners[q] = decoded(slot.cursor, LearnerCursor, "a learner's cursor") if slot.version else LearnerCursor()
            return await cursors_of(store, partitions, outcome_partitions), learners
        finally:
            await store.close()

    cursors, learners = asyncio.run(read())
    rows = []
    for p, cursor in cursors.items():
        waits = sum(max(0, ends.get((names[kind], p), (0, 0))[1] - offset) for kind, offset in zip(KINDS, cursor.offsets, strict=True))
        rows.append({"partition": p, **dict(zip(KINDS, cursor.offsets, strict=True)), "waiting": waits, **msgspec.structs.asdict(cursor.totals)})
    if json is not None:
        write_json(
            json,
            {
                "partitions": rows,
                "learners": [{"outcome_partition": q, **{name: getattr(found, name) for name in LEARNER_FIGURES}} for q, found in learners.items()],
            },
        )
        if str(json) == "-":
            return
    table = Table(title=f"namespace {settings.namespace}", title_justify="left")
    for column in rows[0] if rows else ():
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=WIDE, markup=False).print(table)
    for q, found in learners.items():
        waits = max(0, ends.get((names["outcomes"], q), (0, 0))[1] - found.offset)
        typer.echo(f"outcomes[{q}]: next offset {found.offset}, {waits} wait; {found.tried} outcomes learned, {found.hit} orders among them, {found.lost} lost")


@cursor_app.command("move")
def move(
    to: Annotated[
        str, typer.Option("--to", metavar="OFFSET|beginning|end|TIME", help="Where to read on; TIME (ISO 8601): at the first record that is not older.")
    ],
    partition: Annotated[str, typer.Option("--partition", metavar="P|all", help="Which partition.")],
    topic: Annotated[str, typer.Option("--topic", metavar="browse|click|cart|order|all", help="Which topic.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what would be done.")] = False,
    broker: Broker = None,
    redis: Redis = None,
    namespace_: Namespace = None,
    trunk: Trunk = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Move cursors by hand, with the workers stopped: past records that must not be worked, or back; or say where a new namespace begins.

    What is passed over is never worked. What is read again is applied again, but for the last 16 events of each shopper. To go back with the state, restore a
    backup instead. The ledger counts from here on. A partition that nobody has worked gets a cursor: a namespace begins now with `--to end`, or where the
    history of `headstart backfill` ends, with that time. Without this it begins at the topics' beginning. A new namespace needs the trunk.
    """
    settings = _settings(config, assignments, broker, redis, namespace_, trunk)
    if topic != "all" and topic not in KINDS:
        raise InputError(f"--topic {topic}: expected one of {', '.join(KINDS)}, or all")
    offset = whole_number(to)
    at_ms = None if to in ("beginning", "end") or offset is not None else _time_ms(to)
    require_stopped(settings)
    names = broker_names(settings.topic_prefix, settings.topic_names)
    found = bounds(settings, [names[kind] for kind in KINDS])
    at_time = {} if at_ms is None else offsets_at(settings, [names[kind] for kind in KINDS], at_ms)

    def target(name: str, p: int) -> int:
        first, end = found[names[name], p]
        wanted = first if to == "beginning" else end if to == "end" else at_time[names[name], p] if offset is None else offset
        if not first <= wanted <= end:
            raise InputError(f"--to {to}: {name}[{p}] has the offsets {first} to {end}")
        return wanted

    async def work() -> list[str]:
        store = namespace.open_store(settings, patience_s=5.0)
        try:
            held = await store.meta() or await _begun(store, settings, join=False)
            partitions, outcome_partitions = namespace.sizes_of(held, settings.namespace)
            only = whole_number(partition)
            if partition != "all" and (only is None or only >= partitions):
                raise InputError(f"--partition {partition:.80}: expected a number below {partitions}, or all")
            lines, moved = [], list[tuple[int, int, Cursor]]()
            for p in range(partitions) if only is None else [only]:
                slot = await store.load(str(p), ())
                if slot.version:
                    cursor = decoded(slot.cursor, Cursor, "a partition's cursor")
                elif namespace.clock_of(held) == namespace.LIVE:
                    cursor = first_cursor([found[names[kind], p][0] for kind in KINDS], outcome_partitions, schema=held["schema"])
                else:
                    lines.append(f"partition {p}: nobody has worked it yet, and a replay begins at the beginning; it is left as it is")
                    continue
                for kind, name in enumerate(KINDS):
                    if topic not in ("all", name):
                        continue
                    before, cursor.offsets[kind] = cursor.offsets[kind], target(name, p)
                    past = cursor.offsets[kind] - max(before, found[names[name], p][0])
                    what = f"{past} records are passed over" if past >= 0 else f"{-past} records are read again"
                    lines.append(f"{name}[{p}]: {before} → {cursor.offsets[kind]}; {what}")
                moved.append((p, slot.version, cursor))
            if yes:  # and all of them can be moved
                if not await store.meta():
                    await _begun(store, settings, join=True)
                for p, version, cursor in moved:
                    await put_cursor(store, p, version, cursor)
                await begin_account(store, partitions=partitions, outcome_partitions=outcome_partitions)
            return lines
        finally:
            await store.close()

    for line in asyncio.run(work()):
        typer.echo(line)
    typer.echo("done; start the workers" if yes else "nothing was changed: give --yes to do it")


async def _begun(store: RedisStore, settings: Settings, *, join: bool) -> dict[str, str]:
    """Return what a new namespace's description will say; with `join` it is written."""
    artifact = namespace.load_trunk(settings)
    rules = namespace.rules_of(settings, artifact, replay=False)
    wanted = namespace.description(settings, artifact, rules, clock=namespace.LIVE, broker=namespace.check_partitions(settings))
    return await namespace.join(store, wanted, settings.namespace) if join else wanted


def _time_ms(to: str) -> int:
    try:
        return milliseconds(to)
    except Refused:
        raise InputError(f"--to {to:.80}: expected an offset, beginning, end, or a time in ISO 8601") from None


async def _sizes(store: RedisStore, settings: Settings) -> tuple[int, int]:
    held = await store.meta()
    return namespace.sizes_of(held, settings.namespace)


def _settings(config: Config, assignments: Set, broker: str | None, redis: str | None, name: str | None, trunk: Trunk = None) -> Settings:
    return load_settings(config, needs=("broker", "redis"), assignments=assignments or (), broker=broker, redis=redis, namespace=name, trunk=trunk)
