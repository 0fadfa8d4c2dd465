"""`headstart topics create` and `headstart topics check`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from features.errors import Mismatch
from streams.commands.options import Broker, Config, Set
from streams.commands.waiting import patiently
from streams.kafka_access import client_config
from streams.settings import Settings, load_settings
from streams.topics import create_topics, inspect_topics

T = TypeVar("T")

topics_app = typer.Typer(no_args_is_help=True, help="Create the topics, or check that they are as they must be.")

Partitions = Annotated[int | None, typer.Option("--partitions", help="Partitions of each event topic: at most so many workers share the work (default: 12).")]
OutcomePartitions = Annotated[int | None, typer.Option("--outcome-partitions", help="Partitions of the topic outcomes (default: 1).")]
Replication = Annotated[int | None, typer.Option("--replication", help="Replicas of each partition; 3 on a production cluster (default: 1).")]


@topics_app.command("create")
def create(
    broker: Broker = None,
    partitions: Partitions = None,
    outcome_partitions: OutcomePartitions = None,
    replication: Replication = None,
    wait_s: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0.0, help="How long to wait for a broker that does not answer yet.")] = 0.0,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Create the topics that are missing. Those that exist are left as they are."""
    settings = _settings(config, assignments, broker, partitions, outcome_partitions, replication)
    made = patiently(lambda: _ask(create_topics, settings), patience_s=wait_s)
    for line in made:
        typer.echo(line)


@topics_app.command("check")
def check(
    broker: Broker = None,
    partitions: Partitions = None,
    outcome_partitions: OutcomePartitions = None,
    replication: Replication = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Compare the topics with what Headstart needs: partitions, replication, retention, cleanup policy. Exits with 1 if anything differs."""
    settings = _settings(config, assignments, broker, partitions, outcome_partitions, replication)
    differences, notes = _ask(inspect_topics, settings)
    for line in differences:
        typer.echo(line)
    for line in notes:
        typer.echo(f"note: {line}", err=True)
    if differences:
        raise Mismatch(f"{len(differences)} differences between the topics at {settings.broker} and what Headstart needs")
    typer.echo(f"the topics at {settings.broker} are as they must be")


def _ask(broker: Callable[..., T], settings: Settings) -> T:
    """Let a function that knows no settings see, or make, the topics that they ask for."""
    return broker(
        settings.broker,
        prefix=settings.topic_prefix,
        names=settings.topic_names,
        partitions=settings.partitions,
        outcome_partitions=settings.outcome_partitions,
        replication=settings.replication,
        client_config=client_config(settings),
    )


def _settings(
    config: Config, assignments: Set, broker: str | None, partitions: int | None, outcome_partitions: int | None, replication: int | None
) -> Settings:
    return load_settings(
        config,
        needs=("broker",),
        assignments=assignments or (),
        broker=broker,
        partitions=partitions,
        outcome_partitions=outcome_partitions,
        replication=replication,
    )
