"""`headstart worker`: score events and learn from their outcomes, until stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import typer

from features.errors import DependencyDown
from models.model import Model
from streams import faults, namespace, tracing, trunks
from streams.app import WorkerApp, create_app
from streams.commands.options import Broker, Config, Namespace, Redis, Set, Trunk
from streams.commands.waiting import patiently
from streams.faust_worker import EXIT_DOWN, configure_logging, hard_exit, run_worker
from streams.http_access import Access
from streams.http_door import Door
from streams.masking import hidden
from streams.settings import Settings, load_settings, unused_variables
from streams.warm_up import spare_the_collector, warm_up
from streams.watchdog import Stalls, Watchdog


def worker(
    broker: Broker = None, redis: Redis = None, namespace_: Namespace = None, trunk: Trunk = None, config: Config = None, assignments: Set = None
) -> None:  # fmt: skip
    """Score events as they arrive, keep the shoppers' state in Redis, and learn from outcomes. Start as many as there are partitions.

    The worker stops on Ctrl-C or SIGTERM after the batch in hand. It exits with 70 when the broker or Redis stays down for longer than the
    setting dependency_timeout_s; a supervisor should start it again: it goes on from its cursors in Redis. It exits with 1 for what no new
    start mends, such as a trunk that was never active in the namespace. With one that was, it takes the active one from the store.
    """
    for name in unused_variables():
        typer.echo(f"headstart: {name} is set in the environment, but is no setting", err=True)
    settings = load_settings(config, needs=("broker", "redis"), assignments=assignments or (), broker=broker, redis=redis, namespace=namespace_, trunk=trunk)
    try:
        run(settings)
    except DependencyDown as down:
        typer.echo(f"headstart: {hidden(' '.join(str(down).split()))}", err=True)
        raise typer.Exit(EXIT_DOWN) from None


def run(settings: Settings) -> None:
    """Join the namespace and run one worker in this process."""
    faults.install()
    artifact = namespace.load_trunk(settings)
    found = patiently(lambda: namespace.check_partitions(settings), patience_s=settings.dependency_timeout_s)

    async def joined() -> tuple[str, dict[str, str]]:
        store = namespace.open_store(settings)
        try:
            await store.check_durability()
            clock = namespace.clock_of(await store.meta())
            rules = namespace.rules_of(settings, artifact, replay=clock != namespace.LIVE)
            wanted = namespace.description(settings, artifact, rules, clock=clock, broker=found)
            held = await namespace.join(store, wanted, settings.namespace)
            if clock == namespace.LIVE:
                await trunks.keep(store, settings.trunk, artifact)
            return clock, held
        finally:
            await store.close()

    clock, meta = asyncio.run(joined())
    rules = namespace.rules_of(settings, artifact, replay=clock != namespace.LIVE)
    model = Model(artifact)
    warm_up(model, rules)
    spare_the_collector()
    configure_logging(settings.log_level)
    with tracing.tracer("headstart-worker") if settings.trace_share else nullcontext() as tracer:
        traces = tracing.Followed(tracer) if tracer is not None else None
        made = create_app(settings, namespace.open_store(settings), model, rules, meta=meta, traces=traces)
        typer.echo(f"worker of namespace {settings.namespace!r} ({clock}), trunk {artifact.sha256[:16]}", err=True)
        with watched(settings, made):
            run_worker(made.app, loglevel=settings.log_level)


@contextmanager
def watched(settings: Settings, made: WorkerApp) -> Iterator[None]:
    """Watch the worker, and serve how it is where the settings say, as long as the block runs."""
    made.vitals.watch(made.app.loop)
    watchdog = Watchdog(made.vitals, Stalls(made.vitals, stall_s=settings.stall_s, max_memory_mb=settings.max_memory_mb), hard_exit)
    host = settings.http_address.rpartition(":")[0]
    door = Door(settings.http_address, Access.of(settings, host), made.vitals, made.meters.registry) if settings.http_address else nullcontext()
    with door:
        watchdog.start()
        try:
            yield
        finally:
            watchdog.stop()
