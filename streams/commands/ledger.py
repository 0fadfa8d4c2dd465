"""`headstart ledger`: account for every event id and every exposure of a namespace."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from features.errors import HeadstartError, InputError
from streams.commands.options import Broker, Config, Json, Namespace, Redis, Set, for_people, write_json
from streams.commands.progress import Steps, progress_bar
from streams.ledger.audit import audit
from streams.ledger.findings import FINDINGS, Account
from streams.settings import load_settings

WORDS = {
    "published": "records published", "read": "read", "waiting": "not read yet", "lost": "lost: gone from the log before they were read",
    "before_log": "no longer in the log (retention)", "rejected": "rejected", "repeated": "repeated publications", "duplicates_dropped": "dropped as duplicates",
    "known_from_before": "of which worked before the account began (a history, moved cursors)",
    "distinct": "distinct event ids", "applied": "applied", "in_users_states": "in users' states", "scored": "event ids with a score",
    "scores_on_kafka": "scores on Kafka (at least once)", "exposures_final": "exposures with their label", "exposures_ordered": "of which ordered",
    "exposures_open": "open exposures", "exposures_untracked": "exposures not followed (learn_share, max_pending)", "told": "messages told to learners",
    "outcomes_waiting": "of which not learned yet", "told_again": "sent again, or by a life that is forgotten",
    "outcomes_learned": "outcomes learned (tried)", "outcomes_hit": "of which hit",
    "outcome_duplicates_dropped": "dropped by learners as duplicates", "outcomes_refilled": "lost by the broker, taken from the outbox",
    "outcomes_lost": "lost by the broker and not learned", "users": "users", "users_erased": "of whom erased", "users_checked_to_the_counter": "users whose counters were recomputed",
}  # fmt: skip


def ledger(
    first: Annotated[int, typer.Option("--first", help="How many findings to name.")] = 20,
    broker: Broker = None,
    redis: Redis = None,
    namespace_: Namespace = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Account for every published event id (rejected with its reason, dropped as a duplicate, or applied exactly once; and scored) and for every exposure (each bin learned exactly once).

    It reads the topics from their beginning and compares them with what Redis holds; it changes nothing. The namespace must be at rest: nothing
    waits to be read, or the workers are stopped. The exit code is 1 if anything does not balance, with the first findings named.
    """
    settings = load_settings(config, needs=("broker", "redis"), assignments=assignments or (), broker=broker, redis=redis, namespace=namespace_)
    if first < 1:
        raise InputError(f"--first {first}: at least 1 is needed")
    with progress_bar() as bar:
        account = asyncio.run(audit(settings, named=first, progress=Steps(bar)))
    if json is not None:
        write_json(json, account.as_json())
    if for_people(json):
        show(account)
    if not account.balances:
        what = ", ".join(f"{kind} {n}" for kind, n in account.findings.most_common())
        raise HeadstartError(f"the ledger does not balance: {what}")


def show(account: Account) -> None:
    """Print sums, notes and findings."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    for name, words in WORDS.items():
        if account.sums[name] or name in ("published", "rejected", "applied", "scored"):
            table.add_row(f"{account.sums[name]:,}", words)
        if name == "rejected":
            for reason in sorted(key for key in account.sums if key.startswith("rejected as ")):
                table.add_row(f"{account.sums[reason]:,}", f"  {reason.removeprefix('rejected ')}")
    Console(width=110, markup=False).print(table)
    for note in account.notes[:10]:
        typer.echo(f"note: {note}")
    if account.balances:
        typer.echo("the ledger balances")
        return
    for kind, n in account.findings.most_common():
        typer.echo(f"\n{n} × {kind}: {FINDINGS[kind]}")
        for line in account.first:
            if line.startswith(f"{kind}: "):
                typer.echo(f"  {line.removeprefix(f'{kind}: ')}")
