"""`headstart status`: what the dashboard shows, in the terminal."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from features.errors import HeadstartError, InputError
from streams import namespace, panels_launch, panels_shop
from streams.commands.options import Broker, Config, Json, Namespace, Redis, Set, for_people, write_json
from streams.lag import LagReader
from streams.masking import hidden
from streams.panels import State, number, percent, when, whole
from streams.settings import Settings, load_settings
from streams.view import Look, Reader, plain

COLOURS: dict[State, str] = {"good": "green", "warn": "yellow", "bad": "bold red", "none": "dim"}
SIGNS: dict[State, str] = {"good": "✓", "warn": "!", "bad": "✕", "none": "·"}
AGAIN_S = 2.0
WIDTH = 120
LONG_NAME = 32  # characters; a longer one goes on in the next line


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every two seconds; Ctrl-C ends it.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless data flows, events are fit for use and every launch's scores can be trusted.")
    ] = False,
    redis: Redis = None,
    broker: Broker = None,
    namespace_: Namespace = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Does data flow, is each launch going well, can its scores be trusted? The dashboard's answers, read from Redis.

    With a broker, the lag of partitions that no live worker speaks for is asked of Kafka; where it does not answer, everything else is shown.
    """
    if watch and (json is not None or check):
        raise InputError("--watch goes with neither --json nor --check")
    settings = load_settings(config, needs=("redis",), assignments=assignments or (), redis=redis, broker=broker, namespace=namespace_)
    if watch:
        asyncio.run(_watching(settings))
        return
    look, lags, note = asyncio.run(_once(settings))
    if note:
        typer.echo(note, err=True)
    told = as_json(look, lags)
    if json is not None:
        write_json(json, told)
    if for_people(json):
        Console(width=WIDTH, highlight=False, markup=False).print(rendered(look, lags))
    if check and (bad := [v for v in told["verdicts"] if v["state"] == "bad"]):
        raise InputError("; ".join(f"{v['of']}: {v['answer']}" for v in bad))


async def _once(settings: Settings) -> tuple[Look, dict[int, int], str]:
    store = namespace.open_store(settings, patience_s=5.0)
    try:
        return await _looked(Reader(store, settings.namespace), LagReader(settings) if settings.broker else None)
    finally:
        await store.close()


async def _looked(reader: Reader, lag: LagReader | None) -> tuple[Look, dict[int, int], str]:
    """Return the look, each partition's lag, and what is to be said of those whose lag Kafka was asked for in vain."""
    look = await reader.look()
    lags = {beat.partition: beat.lag for worker in look.alive(_now_ms()) for beat in worker.partitions if beat.lag is not None}
    if lag is not None and set(look.cursors) - set(lags):
        try:
            lags = {**await lag.lags(look.cursors), **lags}
        except HeadstartError as error:
            return look, lags, f"lag unknown: {hidden(' '.join(str(error).split()))}"
    return look, lags, ""


async def _watching(settings: Settings) -> None:
    store = namespace.open_store(settings, patience_s=5.0)
    reader, lag = Reader(store, settings.namespace), LagReader(settings) if settings.broker else None
    try:
        with Live(console=Console(width=WIDTH, highlight=False, markup=False), auto_refresh=False, screen=False) as live:
            while True:
                live.update(rendered(*await _looked(reader, lag)), refresh=True)
                await asyncio.sleep(AGAIN_S)
    finally:
        await store.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def as_json(look: Look, lags: dict[int, int]) -> dict[str, Any]:
    """Return the answers and figures; null where a figure is not known."""
    wall_ms = _now_ms()
    shop = [panels_shop.flow(look, wall_ms, lags), panels_shop.refused(look)]
    verdicts = [{"of": "the shop", "question": v.question, "answer": v.answer, "why": v.why, "state": v.state} for v in shop]
    for launch in look.launches.values():
        verdicts += [
            {"of": launch.id, "question": v.question, "answer": v.answer, "why": v.why, "state": v.state} for v in panels_launch.verdicts(look, launch)
        ]
    found: dict[str, Any] = plain({
        "namespace": look.name, "clock": look.clock, "now_ms": look.now_ms, "trunk": look.trunk, "verdicts": verdicts, "lag": lags,
        "launches": {name: panels_launch.figures(look, name) for name in look.launches}, "workers": [beat.worker for beat in look.alive(wall_ms)],
        "alerts": [{"at_ms": a.at_ms, "launch_id": a.launch_id, "kind": a.kind, "severity": a.severity, "text": a.text, "done": a.done} for a in look.alerts[:20]],
    })  # fmt: skip
    return found


def rendered(look: Look, lags: dict[int, int], note: str = "") -> Group:
    """Return the tables, with a note at their head."""
    wall_ms = _now_ms()
    parts: list[Any] = [
        Text(f"namespace {look.name} · {look.clock} · {f'{when(look.now_ms)} UTC' if look.now_ms else 'not begun'} · trunk {look.trunk}", style="dim")
    ]
    if note:
        parts.append(Text(note, style="yellow"))
    for v in (panels_shop.flow(look, wall_ms, lags), panels_shop.refused(look)):
        parts.append(Text.assemble((f"{SIGNS[v.state]} {v.question} ", COLOURS[v.state]), (v.answer, COLOURS[v.state]), f"  {v.why}"))
    table = Table(
        title="launches",
        title_justify="left",
        expand=False,
        caption="order rate: of final exposures; came / foretold: since the launch",
        caption_justify="left",
    )
    for name, justify in (
        ("launch", "left"),
        ("exposures", "right"),
        ("with an order", "right"),
        ("order rate", "right"),
        ("came / foretold", "right"),
        ("AUC", "right"),
        ("", "left"),
    ):
        room = min(LONG_NAME, max(map(len, look.launches), default=0)) if name == "launch" else None
        table.add_column(name, justify=justify, overflow="fold", min_width=room)  # type: ignore[arg-type]
    for launch in look.launches.values():
        f = panels_launch.figures(look, launch.id)
        answers = Text("\n").join(Text(f"{SIGNS[v.state]} {v.answer}", style=COLOURS[v.state]) for v in panels_launch.verdicts(look, launch))
        table.add_row(launch.id, whole(f["exposures"]), whole(f["orders"]), percent(f["conversion"]), number(f["came_foretold"]), number(f["auc"], 3), answers)
    parts.append(table)
    if look.alerts:
        parts.append(Text("latest alerts", style="bold"))
        parts += [Text(f"{when(a.at_ms)}  {a.text}", style="bold red" if a.severity == "page" else "yellow") for a in look.alerts[:5]]
    return Group(*parts)
