"""`headstart audience`: whom a campaign should reach."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from features.errors import InputError
from streams.audience import Audience, gather, read_share, write
from streams.commands.options import Config, Json, Namespace, Redis, Set, Trunk, for_people, require_writable, write_json
from streams.commands.progress import progress_bar
from streams.settings import load_settings


def audience(
    launch: Annotated[str, typer.Argument(metavar="LAUNCH", help="The launch that the campaign is for.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the users go: a name that ends in .csv, .jsonl or .parquet.")],
    top: Annotated[
        str, typer.Option("--top", metavar="SHARE|N", help="How many: a share of those that may be targeted, such as 5%, or a number of users.")
    ] = "5%",
    seen_within: Annotated[
        float | None, typer.Option("--seen-within", metavar="DAYS", help="Only users with an event in so many days (default: as long as states live).")
    ] = None,
    without_buyers: Annotated[bool, typer.Option("--without-buyers", help="Leave out who has ordered in the launch lately.")] = False,
    redis: Redis = None,
    namespace_: Namespace = None,
    trunk: Trunk = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Write the users with the highest current scores of a launch, the best first, as a campaign needs them. The holdout is left out, always.

    Every user whose state is kept is scored as if they looked at the launch now. Columns: user_id, rank, score (to rank by), probability (of an order),
    last_seen_ms. The share is of the users that may be targeted, holdout not counted. Ids are as the shop gave them: a spreadsheet must take them for text.
    """
    settings = load_settings(config, needs=("redis",), assignments=assignments or (), redis=redis, namespace=namespace_, trunk=trunk)
    share, number = read_share(top)
    if out.suffix not in {".csv", ".jsonl", ".parquet"}:
        raise InputError(f"--out {out}: the name must end in .csv, .jsonl or .parquet")
    if seen_within is not None and not seen_within > 0:
        raise InputError(f"--seen-within {seen_within}: expected a number of days above 0")
    require_writable("--out", out, replaced=True)
    require_writable("--json", json)
    with progress_bar() as bar:
        task = bar.add_task("users scored", total=None)
        found: Audience = asyncio.run(
            gather(settings, launch, seen_within_days=seen_within, without_buyers=without_buyers, progress=lambda done: bar.update(task, completed=done))
        )
    chosen = found.best(share=share, number=number)
    write(chosen, out)
    told = {"launch": launch, "scored": found.scored, "held_out": found.held_out, "left_out": found.left_out, "targeted": len(chosen.users),
            "expected_orders": float(chosen.probability.sum()), "file": str(out)}  # fmt: skip
    if json is not None:
        write_json(json, told)
    if for_people(json):
        typer.echo(
            f"{out}: {len(chosen.users)} users of {found.scored} that were scored; {found.held_out} are held out"
            + (f", {found.left_out} left out as buyers or long gone" if found.left_out else "")
            + f". Untouched, about {told['expected_orders']:.0f} of them would order after their next look."
        )
