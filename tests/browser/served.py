"""A dashboard in a thread of this process, over a store in memory that can be out of reach."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from features.errors import DependencyDown
from features.memory_store import MemoryStore
from streams.dashboard.feed import Feed
from streams.dashboard.server import create_app
from streams.embedded import free_port
from streams.http_access import Access
from streams.view import Reader


class Reachable(MemoryStore):
    """A store that answers, or is away."""

    away = False

    @classmethod
    def of(cls, store: MemoryStore) -> Reachable:
        """The same contents."""
        made = cls()
        made.__dict__.update(store.__dict__)
        return made

    async def meta(self) -> dict[str, str]:
        """What Redis says when it is asked, if it is there."""
        if self.away:
            raise DependencyDown("Redis at redis://here does not answer")
        return await super().meta()


@contextmanager
def serving(store: MemoryStore) -> Iterator[str]:
    """Yields the address of a dashboard over a store."""
    port, ready, ended = free_port(), threading.Event(), threading.Event()

    async def serve() -> None:
        runner = web.AppRunner(create_app(Feed(Reader(store, "test"), lag=None, uplift=None), Access()), shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ready.set()
        await asyncio.to_thread(ended.wait)
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{port}"
    finally:
        ended.set()
        thread.join(30)
    assert not thread.is_alive()
