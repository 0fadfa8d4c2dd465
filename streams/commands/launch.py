"""`headstart launch add|list|show|close`: the new products that are being learned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from features.errors import InputError, Mismatch
from features.events import ID_LENGTH, LABEL_LENGTH
from features.hashing import partition_for
from features.redis_store import RedisStore
from streams import launches, namespace, trunks
from streams.commands.options import WIDE, Config, Json, Namespace, Redis, Set, Trunk, for_people, time_ms, write_json
from streams.records import Launch, checked_id
from streams.settings import Settings, load_settings

launch_app = typer.Typer(no_args_is_help=True, help="Add, list, show and close launches: the new products that are being learned.")

Name = Annotated[str, typer.Argument(metavar="ID", help="The launch's name.")]
T = TypeVar("T")
LEAD_MS = 5_000


@launch_app.command("add")
def add(
    name: Name,
    line: Annotated[str, typer.Option("--line", metavar="LINE", help="The product line whose events belong to the launch.")],
    product: Annotated[list[str] | None, typer.Option("--product", metavar="ID", help="Only events of this product belong to it; may be given again.")] = None,
    holdout: Annotated[float, typer.Option("--holdout", help="Share of the users that must not be targeted, from 0 to below 1.")] = 0.0,
    learn_share: Annotated[
        float | None, typer.Option("--learn-share", help="Share of its exposures that are followed to their label (default: the setting learn_share).")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help="When it begins: ISO 8601 or ms (default: in five seconds).")] = None,
    window: Annotated[float | None, typer.Option("--window", metavar="SECONDS", help="Its attribution window; must be the trunk's.")] = None,
    redis: Redis = None,
    namespace_: Namespace = None,
    trunk: Trunk = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Begin to learn a new product: its events open exposures, and their outcomes teach its head."""
    settings = _settings(config, assignments, redis, namespace_, trunk)
    checked_id(name)
    for option, text, longest in (("--line", line, LABEL_LENGTH), *(("--product", one, ID_LENGTH) for one in product or ())):
        if not 0 < len(text) <= longest:
            raise InputError(f"{option} {text!r:.80}: expected 1 to {longest} characters, as in an event")
    if not 0 <= holdout < 1:
        raise InputError(f"--holdout {holdout}: expected a share from 0 to below 1")
    if learn_share is not None and not 0 < learn_share <= 1:
        raise InputError(f"--learn-share {learn_share}: expected a share above 0, up to 1")
    artifact = namespace.load_trunk(settings)
    lines = set(artifact.lines)
    launch = Launch(
        id=name, line=line, products=sorted(product or ()), window_s=namespace.need_window(window, artifact), holdout=holdout,
        from_ms=time_ms("--from", start) if start else _now_ms() + LEAD_MS, learn_share=learn_share,
    )  # fmt: skip

    async def adding(store: RedisStore) -> bool:
        held = await store.meta()  # empty before the namespace's first worker
        activated = await trunks.read(store)
        base = held.get("trunk", artifact.sha256)
        if artifact.sha256 not in {base, *(a.sha256 for a in activated)}:
            raise Mismatch(f"namespace {settings.namespace!r} works with the trunk {base[:16]}, not {artifact.sha256[:16]} in {settings.trunk} (--trunk)")
        active = trunks.active(activated, base, launch.from_ms)
        if active != artifact.sha256 and (manifest := await trunks.manifest(store, active)) is not None:
            lines.clear()
            lines.update(manifest["lines"])
        if namespace.clock_of(held) != namespace.LIVE:
            raise Mismatch(f"namespace {settings.namespace!r} is a replay's: its launches are fixed before the first event")
        await launches.change(store, name, launch, must_exist=False)
        return bool(held)

    if not _with_store(settings, adding):
        typer.echo(f"note: namespace {settings.namespace!r} has no worker yet; the launch waits for one", err=True)
    known = "a line that the trunk was trained on" if line in lines else "a line that the trunk has never seen"
    typer.echo(f"launch {name}: {'products ' + ', '.join(launch.products) + ' of ' if product else ''}line {line} ({known}), from {launch.from_ms} ms on")


@launch_app.command("list")
def list_(redis: Redis = None, namespace_: Namespace = None, json: Json = None, config: Config = None, assignments: Set = None) -> None:
    """List the launches."""
    settings = _settings(config, assignments, redis, namespace_, None)

    async def read(store: RedisStore) -> tuple[dict[str, Launch], bool]:
        return await launches.read(store), bool(await store.meta())

    found, joined = _with_store(settings, read)
    if not found and not joined:
        typer.echo(f"namespace {settings.namespace!r} is empty: no worker has joined it yet", err=True)
    table = Table()
    for column in ("launch", "line", "products", "holdout", "learn share", "from (ms)", "closed (ms)"):
        table.add_column(column, overflow="fold")
    for launch in found.values():
        products = ", ".join(launch.products) or "all"
        table.add_row(
            launch.id,
            launch.line,
            products,
            f"{launch.holdout:g}",
            "" if launch.learn_share is None else f"{launch.learn_share:g}",
            str(launch.from_ms),
            str(launch.closed_ms or ""),
        )
    if for_people(json):
        Console(width=WIDE, markup=False).print(table)
    if json is not None:
        write_json(json, [msgspec.to_builtins(launch) for launch in found.values()])


@launch_app.command("show")
def show(name: Name, redis: Redis = None, namespace_: Namespace = None, json: Json = None, config: Config = None, assignments: Set = None) -> None:
    """Show one launch and what it has learned so far."""
    settings = _settings(config, assignments, redis, namespace_, None)

    async def read(store: RedisStore) -> tuple[dict[str, Launch], launches.Learned]:
        q = partition_for(name.encode(), int((await store.meta()).get("outcome_partitions", "1")))
        return await launches.read(store), await launches.learned(store, name, q)

    found, learned = _with_store(settings, read)
    if name not in found:
        raise launches.unknown(name, list(found))
    facts = {**msgspec.to_builtins(found[name]), "outcomes": learned.outcomes, "orders": learned.orders, "tried": learned.bins_tried, "hit": learned.bins_hit}
    for key, value in facts.items() if for_people(json) else ():
        typer.echo(f"{key:11} {value}")
    if json is not None:
        write_json(json, facts)


@launch_app.command("close")
def close(name: Name, redis: Redis = None, namespace_: Namespace = None, config: Config = None, assignments: Set = None) -> None:
    """Close a launch: no exposure opens any more, and the open ones run out."""
    settings = _settings(config, assignments, redis, namespace_, None)

    async def closing(store: RedisStore) -> None:
        found = await launches.read(store)
        if name not in found:
            raise launches.unknown(name, list(found))
        if found[name].closed_ms is not None:
            raise InputError(f"launch {name!r} is closed already, since {found[name].closed_ms} ms")
        await launches.change(store, name, launches.closed(found[name], _now_ms() + LEAD_MS), must_exist=True)

    _with_store(settings, closing)
    typer.echo(f"launch {name} closes in five seconds")


def _settings(config: Config, assignments: Set, redis: str | None, name: str | None, trunk: Trunk) -> Settings:
    return load_settings(config, needs=("redis",), assignments=assignments or (), redis=redis, namespace=name, trunk=trunk)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _with_store(settings: Settings, call: Callable[[RedisStore], Awaitable[T]]) -> T:
    async def called() -> T:
        store = namespace.open_store(settings, patience_s=5.0)
        try:
            return await call(store)
        finally:
            await store.close()

    return asyncio.run(called())
