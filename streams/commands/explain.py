"""`headstart explain`: why a shopper has the score that they have."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.attribution import TOLERANCE
from streams import namespace
from streams.commands.options import Config, Json, Namespace, Redis, Set, Trunk, for_people, time_ms, write_json
from streams.explaining import EXPERTS_IN_WORDS, HEADS_IN_WORDS, STEPS, Asked, Explained, as_json, chance, odds, percent
from streams.explaining import explain as explained
from streams.feature_words import by_group, reasons
from streams.settings import load_settings

MOST_REASONS = 15
WIDTH = 110


def explain(
    user: Annotated[str, typer.Argument(metavar="USER", help="The shopper's user_id.")],
    launch: Annotated[str | None, typer.Option("--launch", metavar="ID", help="In which launch (default: the only open one).")] = None,
    line: Annotated[str | None, typer.Option("--line", metavar="LINE", help="In which product line, if it is not the launch's own.")] = None,
    product: Annotated[
        str | None, typer.Option("--product", metavar="ID", help="As if they met this product (default: the launch's first, or one new to them).")
    ] = None,
    category: Annotated[str | None, typer.Option("--category", metavar="NAME", help="The product's category, as the shop's events name it.")] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, max=1e12, help="The product's price (default: unknown).")] = None,
    kind: Annotated[str, typer.Option("--kind", metavar="browse|click|cart|order", help="As if they did this now.")] = "browse",
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="As if they did it then: ISO 8601 or ms (default: now; in a replay, at its end).")
    ] = None,
    event: Annotated[
        str | None, typer.Option("--event", metavar="ID", help="Explain the exposure that this event of theirs opened, while it is still followed.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it, as .png or .svg.")] = None,
    json: Json = None,
    redis: Redis = None,
    namespace_: Namespace = None,
    trunk: Trunk = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Why does a shopper have this score? Take it apart: what older lines say, what this product has taught, how sure it is, and what moved it.

    The shopper's state is read as a worker would see it if they did something now; nothing is written. The parts add up to the score exactly, in
    logits: the logarithm of the odds of an order. "odds × 1.5" means that a part makes an order one and a half times as likely, while it is rare.
    """
    settings = load_settings(config, needs=("redis",), assignments=assignments or (), redis=redis, namespace=namespace_, trunk=trunk)
    if plot is not None:
        from streams import waterfall  # matplotlib takes its time

        waterfall.check(plot)
    artifact = namespace.load_trunk(settings)
    asked = Asked(
        user=user, launch=launch, line=line, product=product, category=category, price=price, kind=kind, event=event, at_ms=time_ms("--at", at) if at else None
    )  # fmt: skip

    async def read() -> Explained:
        store = namespace.open_store(settings, patience_s=5.0)
        try:
            return await explained(store, settings, artifact, asked, now_ms=time.time_ns() // 1_000_000)
        finally:
            await store.close()

    told = asyncio.run(read())
    if plot is not None:
        waterfall.draw(told, plot)
    if json is not None:
        write_json(json, as_json(told))
    if for_people(json):
        _show(told)


def _show(told: Explained) -> None:
    console, book = Console(width=WIDTH), told.ledger
    what = f"launch {told.launch.id} (line {told.line})" if told.launch else f"line {told.line}, which is not being launched"
    when = dt.datetime.fromtimestamp(told.ts_ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    doing = f"event {told.asked.event} of {when}" if told.asked.event else f"as if they had a {told.asked.kind} event at {when}"
    low, high = (chance(book.logit + sign * book.total_sd) for sign in (-1.0, 1.0))
    lines = [
        f"{told.asked.user} in {what}, {doing}",
        f"chance of an order within {_span(told.window_s)}: {percent(book.probability)}, give or take {low} to {high}; score to rank by: {book.score:.4f}",
    ]
    if told.said is not None:
        lines.append(f"when it was scored, the chance was said to be {percent(told.said)}; what follows is as of now")
    if told.arm == "holdout":
        lines.append("this shopper is in the holdout of the launch: not to be targeted")
    if told.asked.event is None and (unknown := [name for name in ("category", "price") if getattr(told.asked, name) is None]):
        lines.append(f"{' and '.join(unknown)} of the product not given ({', '.join(f'--{name}' for name in unknown)}): read as unknown")
    for text in lines:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print()
    console.print(_where(told))
    if book.experts:
        console.print(_experts(told))
    if book.sources.lines:
        console.print(_sources(told))
    console.print(_why(told))


def _where(told: Explained) -> Table:
    book = told.ledger
    table = _table("where the chance comes from", ("", "logit", "odds", "chance so far", "give or take (logit)"))
    heads, total = {"s0": book.s0_heads, "fresh": book.fresh_heads}, 0.0
    spreads = {"s0": "", "fresh": f"± {book.heads_sd:.2f}", "level": f"± {book.level_sd:.2f}", "mixed": ""}
    for name, part in told.steps.items():
        total += part
        table.add_row(STEPS[name], f"{part:+.3f}", "" if name == "s0" else odds(part), chance(total), spreads[name])
        for head, share in heads.get(name, {}).items():
            table.add_row(f"[dim]  {HEADS_IN_WORDS.get(head, head)}[/]", f"[dim]{share:+.3f}[/]")
    table.add_section()
    table.add_row("[bold]this score", f"[bold]{book.logit:+.3f}", "", f"[bold]{percent(book.probability)}", f"± {book.total_sd:.2f}")
    return table


def _experts(told: Explained) -> Table:
    title = f"ways of transfer, weighted by how well each has foretold this launch's {told.outcomes} outcomes so far"
    table = _table(title, ("", "", "weight", "chance it says", "moves the score by"), left=2)
    for expert in sorted(told.ledger.experts, key=lambda e: -e.weight):
        table.add_row(
            expert.name,
            EXPERTS_IN_WORDS.get(expert.name, ""),
            f"{expert.weight:.1%}",
            percent(expert.probability),
            "" if expert.name == "shared" else f"{expert.part:+.3f}",
        )
    return table


def _sources(told: Explained) -> Table:
    sources, s0 = told.ledger.sources, told.ledger.s0
    title = f"the old lines, when training ended, line by line: an APPROXIMATION (it explains {sources.fit:.0%} of one head)"
    table = _table(title, ("line", "share", "chance that it alone says", "logit: share × its own"))
    for line in sorted(sources.lines, key=lambda s: -s.share):
        table.add_row(escape(line.line), f"{line.share:.1%}", chance(line.alone), f"{line.part:+.3f}")
    table.add_row("[dim]what no single line explains[/]", "", "", f"{sources.remainder:+.3f}")
    table.add_section()
    table.add_row("the old lines, when training ended", "", chance(s0), f"{s0:+.3f}")
    return table


def _why(told: Explained) -> Table:
    book = told.ledger
    found = reasons(book.feature_names, told.x.tolist(), book.features.shares.tolist())
    table = _table("why this shopper: the strongest of what is known of them", ("", "", "logit", "odds", "chance so far"), left=2)
    total = book.features.start
    table.add_row("the mean shopper of the old lines", "", f"{total:+.3f}", "", chance(total))
    for group, share in by_group(found).items():
        total += share
        table.add_row(group, "", f"{share:+.3f}", odds(share), chance(total))
        for reason in [r for r in found[:MOST_REASONS] if r.group == group and r.share]:
            table.add_row(f"[dim]  {reason.label}[/]", f"[dim]{reason.value}[/]", f"[dim]{reason.share:+.3f}[/]")
    total += book.features.residual
    table.add_row(f"rounding of the path (aim: under {TOLERANCE:g})", "", f"{book.features.residual:+.4f}", "", chance(total))
    table.add_section()
    table.add_row("[bold]this score", "", f"[bold]{book.logit:+.3f}", "", f"[bold]{percent(book.probability)}")
    return table


def _table(title: str, columns: tuple[str, ...], *, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < left else "right")
    return table


def _span(seconds: float) -> str:
    for unit_s, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:g} {unit}"
    return f"{seconds:g} seconds"
