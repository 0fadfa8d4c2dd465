"""`headstart up`: the embedded broker and Valkey, until stopped."""

from __future__ import annotations

import datetime as dt
import shlex
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from features.errors import DependencyDown, InputError
from streams.commands.options import Config, Set
from streams.dashboard.child import DashboardServer
from streams.embedded import EmbeddedStack
from streams.settings import Settings, as_environment, load_settings, variable, with_changes
from streams.topics import create_topics

CHECK_S = 0.5
MADE_WITH = ("partitions", "outcome_partitions", "topic_prefix", "topic_names")  # what the topics are made with, so that the other commands must know it


def up(
    dir: Annotated[
        Path | None, typer.Option("--dir", metavar="FOLDER", help="Keep the servers' logs here (default: a temporary folder, removed at the end).")
    ] = None,
    partitions: Annotated[int | None, typer.Option("--partitions", help="Partitions of the event topics (default: 12).")] = None,
    dashboard: Annotated[bool, typer.Option(help="Start the dashboard too.")] = True,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Start an embedded Kafka broker and Valkey, create the topics, start the dashboard, and run until Ctrl-C.

    Both keep everything in memory and need nothing installed: they are for trying out and for tests, and what they hold is gone when they
    stop. Two variables that this command prints tell the other commands where they are.
    """
    stop = threading.Event()
    settings = load_settings(config, assignments=assignments or (), partitions=partitions)
    if dir is not None and dir.exists() and not dir.is_dir():
        raise InputError(f"--dir {dir} is not a folder")
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with EmbeddedStack(dir) as stack, ExitStack() as held:
            create_topics(
                stack.broker,
                prefix=settings.topic_prefix,
                names=settings.topic_names,
                partitions=settings.partitions,
                outcome_partitions=settings.outcome_partitions,
            )
            seen = with_changes(settings, broker=stack.broker, redis=stack.redis_url)
            board = held.enter_context(DashboardServer(seen, dir / "dashboard" if dir is not None else None)) if dashboard else None
            typer.echo(_welcome(stack, settings, board.url if board is not None else "(not started)"))
            servers = [stack.kafka, stack.valkey, *([board] if board is not None else [])]
            while not stop.wait(CHECK_S):
                for server in servers:
                    if not server.alive:
                        raise DependencyDown(f"{server.name} has ended by itself; start again with `headstart up`, everything in memory is lost")
        typer.echo("stopped; what they held is gone")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _days_ago(days: int) -> str:
    """Live workers refuse events that are older than any state is kept, so the example's log must end about now."""
    return (dt.datetime.now(dt.UTC) - dt.timedelta(days=days)).date().isoformat()


def _welcome(stack: EmbeddedStack, settings: Settings, dashboard: str) -> str:
    given = as_environment(settings)
    others = "".join(f" {name}={shlex.quote(given[name])}" for name in map(variable, MADE_WITH) if name in given)
    began, launched = _days_ago(14), _days_ago(6)
    return f"""\
Kafka broker  {stack.broker}   (Tansu, embedded; {settings.partitions} partitions for each event topic)
Redis         {stack.redis_url}   (Valkey, embedded)
Dashboard     {dashboard}

Memory only, for trying out: when this ends, all events, scores and states are gone.

In another terminal:

  export HEADSTART_BROKER={stack.broker} HEADSTART_REDIS={stack.redis_url}{others}
  headstart simulate --out shop.parquet --start {began}                         # a simulated shop's last two weeks
  headstart pretrain shop.parquet --without-line launch --until {launched}          # the trunk, from the older lines
  headstart backfill shop.parquet --until {launched}                                # the shoppers as they were on the day of the launch
  headstart launch add spring --line launch --from {launched}                       # the new line
  headstart worker &                                                            # score events as they arrive
  headstart publish shop.parquet --from {launched}                                  # what came since
  headstart scores --launch spring --follow --max 3                             # look at the first scores
  headstart launch show spring                                                  # and at what was learned

Ctrl-C stops both."""
