"""A TCP proxy in a thread: the network between a client and a server, which a test can cut."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from streams.embedded import HOST, free_port

CHUNK = 65_536
Mode = Literal["refuse", "silence"]


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    client_port: int
    open: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """Forwards `port` to `target`, which may change: then the connections to the old one are cut. A context manager."""

    def __init__(self, target: int = 0) -> None:
        self.port = free_port()
        self.target = target
        self._mode: Mode | None = None
        self._of: frozenset[int] = frozenset()  # the cut concerns these processes; empty: all
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, HOST, self.port, reuse_address=True), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._call(self._close)
        asyncio.run_coroutine_threadsafe(self._ended(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _ended(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _call(self, work: object) -> None:
        done = threading.Event()

        def run() -> None:
            try:
                work()  # type: ignore[operator]
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def _close(self) -> None:
        self._server.close()
        for link in list(self._links):
            self._abort(link)

    def cut(self, mode: Mode, processes: Collection[int] = ()) -> None:
        """Cut the connections of some processes (of all, if none is named): `refuse` them, or let them hear nothing any more (`silence`)."""

        def do() -> None:
            self._mode, self._of = mode, frozenset(processes)
            for link in list(self._links):
                if self._is_cut(link.client_port):
                    if mode == "refuse":
                        self._abort(link)
                    else:
                        link.open.clear()

        self._call(do)

    def heal(self) -> None:
        """Let everything pass again; what was silent goes on where it was."""

        def do() -> None:
            self._mode = None
            for link in self._links:
                link.open.set()

        self._call(do)

    def move(self, target: int) -> None:
        """Lead to another server from now on."""

        def do() -> None:
            self.target = target
            for link in list(self._links):
                self._abort(link)

        self._call(do)

    def _is_cut(self, client_port: int) -> bool:
        return self._mode is not None and (not self._of or owner(client_port, self._of) is not None)

    def _abort(self, link: _Link) -> None:
        self._links.discard(link)
        link.open.set()
        for writer in link.writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client_port = writer.get_extra_info("peername")[1]
        if self._is_cut(client_port) and self._mode == "refuse":
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        for end in (writer, there_writer):
            with suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link((writer, there_writer), client_port)
        self._links.add(link)
        if not self._is_cut(client_port):
            link.open.set()
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._pump(link, reader, there_writer), self._pump(link, there_reader, writer))
        self._abort(link)

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await link.open.wait()
            writer.write(data)
            await writer.drain()
        await link.open.wait()
        writer.close()


def owner(port: int, processes: Collection[int]) -> int | None:
    """Return which of the processes has the local end of a connection from a port of this machine."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            row = line.split()
            if int(row[1].rpartition(":")[2], 16) == port:
                inodes.add(row[9])
    for pid in processes:
        with suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    target = os.readlink(descriptor)
                    if target.startswith("socket:[") and target[8:-1] in inodes:
                        return pid
    return None
