"""Run the dashboard's server until the process is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

from aiohttp import web

from features.errors import HeadstartError, InputError
from streams import namespace
from streams.current import CurrentScores
from streams.dashboard.feed import Feed
from streams.dashboard.outcomes import UpliftReader
from streams.dashboard.server import create_app
from streams.http_access import Access
from streams.lag import LagReader
from streams.settings import Settings
from streams.view import Reader

logger = logging.getLogger(__name__)


def serve(settings: Settings, *, started: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `started` hears the address. Raises InputError when it cannot be bound, or others could reach it without a token."""
    access = Access.of(settings, settings.dashboard_host)
    asyncio.run(_serve(settings, access, started))


async def _serve(settings: Settings, access: Access, started: Callable[[str], None]) -> None:
    store = namespace.open_store(settings, patience_s=5.0)
    uplift = UpliftReader(settings) if settings.broker else None
    feed = Feed(Reader(store, settings.namespace), lag=LagReader(settings) if settings.broker else None, uplift=uplift)
    runner = web.AppRunner(create_app(feed, access, scores=CurrentScores(store, settings)), access_log=None, shutdown_timeout=1.0)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await runner.setup()
        site = web.TCPSite(runner, settings.dashboard_host, settings.dashboard_port)
        try:
            await site.start()
        except OSError as error:
            raise InputError(f"cannot listen on {settings.dashboard_host}:{settings.dashboard_port}: {error.strerror or error}; another --port?") from None
        host, port = runner.addresses[0][:2]
        try:
            await feed.look()  # an error that a person should see at once, and no reason not to wait for better times
        except HeadstartError as error:
            logger.warning("%s", error)
        started(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        await stop.wait()
    finally:
        await runner.cleanup()
        if uplift is not None:
            await uplift.close()
        await store.close()
