"""`headstart worker`: score events and learn from their outcomes, until stopped."""

from __future__ import annotations

import asyncio

import typer

from models.model import Model
from streams import faults, namespace, trunks
from streams.app import create_app
from streams.commands.options import Broker, Config, Namespace, Redis, Set, Trunk
from streams.faust_worker import run_worker
from streams.settings import Settings, load_settings
from streams.warm_up import warm_up


def worker(
    broker: Broker = None, redis: Redis = None, namespace_: Namespace = None, trunk: Trunk = None, config: Config = None, assignments: Set = None
) -> None:  # fmt: skip
    """Score events as they arrive, keep the shoppers' state in Redis, and learn from outcomes. Start as many as there are partitions.

    The worker stops on Ctrl-C or SIGTERM after the batch in hand. It exits with 70 when the broker or Redis stays down for longer than the
    setting dependency_timeout_s; a supervisor should start it again: it goes on from its cursors in Redis. It exits with 1 for what no new
    start mends, such as a trunk that was never active in the namespace. With one that was, it takes the active one from the store.
    """
    settings = load_settings(config, needs=("broker", "redis"), assignments=assignments or (), broker=broker, redis=redis, namespace=namespace_, trunk=trunk)
    run(settings)


def run(settings: Settings) -> None:
    """Join the namespace and run one worker in this process."""
    faults.install()
    artifact = namespace.load_trunk(settings)
    found = namespace.check_partitions(settings)

    async def joined() -> tuple[str, dict[str, str]]:
        store = namespace.open_store(settings)
        try:
            await store.check_durability()
            clock = namespace.clock_of(await store.meta())
            rules = namespace.rules_of(settings, artifact, replay=clock != namespace.LIVE)
            wanted = namespace.description(settings, artifact, rules, clock=clock, broker=found)
            held = await namespace.join(store, wanted, settings.namespace, trunks=await trunks.known(store))
            if clock == namespace.LIVE:
                await trunks.keep(store, settings.trunk, artifact)
            return clock, held
        finally:
            await store.close()

    clock, meta = asyncio.run(joined())
    rules = namespace.rules_of(settings, artifact, replay=clock != namespace.LIVE)
    model = Model(artifact)
    warm_up(model, rules)
    app, _ = create_app(settings, namespace.open_store(settings), model, rules, meta=meta)
    typer.echo(f"worker of namespace {settings.namespace!r} ({clock}), trunk {artifact.sha256[:16]}", err=True)
    run_worker(app, loglevel=settings.log_level)
