"""`headstart dashboard`: the live dashboard in the browser."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.commands.options import Broker, Config, Namespace, Redis, Set, Trunk
from streams.settings import load_settings


def dashboard(
    host: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Where to listen (default: 127.0.0.1, this machine alone).")] = None,
    port: Annotated[int | None, typer.Option("--port", metavar="PORT", help="On which port; 0 takes a free one (default: 8765).")] = None,
    redis: Redis = None,
    broker: Broker = None,
    namespace_: Namespace = None,
    trunk: Trunk = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Show launches live: funnel, calibration, drift, uplift, rejects, lag. Reads Redis (and topics, if a broker is given); slows no worker down.

    It listens on this machine alone. To let others in give --host, and set http_token, or http_user and http_password, in the environment or by
    a file (HEADSTART_HTTP_PASSWORD_FILE): browsers then ask for a name and password, programs send the header "Authorization: Bearer TOKEN". With one of
    them set, GET /api/users/USER/scores tells a shop page the current scores of one shopper.
    """
    from streams.dashboard.run import serve

    settings = load_settings(
        config, needs=("redis",), assignments=assignments or (), redis=redis, broker=broker, namespace=namespace_, trunk=trunk, dashboard_host=host,
        dashboard_port=port,
    )  # fmt: skip
    serve(settings, started=lambda url: typer.echo(f"dashboard of namespace {settings.namespace!r}: {url}   (Ctrl-C ends it)"))
