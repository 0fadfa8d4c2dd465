"""A worker with the batched transport and nothing else, run as a process of its own by test_transport.

Its cursors are files `TOPIC.PARTITION` in a folder, in place of Redis; each batch moves them. It writes what happens to standard output,
a JSON object a line, and takes orders from standard input, likewise:

    {"do": "seek", "to": [["browse", 3, 17]]} | {"do": "pause" | "resume", "tps": [["browse", 3]]} | {"do": "deliver", "records": [[topic, key, value, partition]]} | {"do": "never_stop" | "never_end"}
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import faust
from faust.types import TP

from features.errors import HeadstartError
from streams import faust_worker
from streams.delivery import deliver
from streams.faust_worker import app_settings, hard_exit, run_worker
from streams.inflow import Inflow, inflow_topic
from streams.records import Outgoing
from streams.transport import Consumer, Transport, check_copartitioned


def say(**what: Any) -> None:
    """Write one line."""
    print(json.dumps(what), flush=True)  # noqa: T201 - that print works in a worker is part of the promise


class FileCursors:
    """Positions of which each is a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.in_hand = asyncio.Event()
        self.in_hand.set()

    def path(self, tp: TP) -> Path:
        """The cursor's file."""
        return self.folder / f"{tp.topic}.{tp.partition}"

    async def cursors(self, tps: set[TP]) -> Mapping[TP, int]:
        """Read the files that there are."""
        say(what="assigned", tps=sorted(tps))
        return {tp: int(self.path(tp).read_text()) for tp in tps if self.path(tp).exists()}

    def move(self, tp: TP, offset: int) -> None:
        """Write one cursor in one step."""
        new = self.path(tp).with_suffix(f".{tp.partition}.new")
        new.write_text(str(offset))
        new.replace(self.path(tp))

    def log_start_above(self, tp: TP, cursor: int, first: int) -> None:
        """Report."""
        say(what="log_start_above", tp=tp, cursor=cursor, first=first)

    def records_gone(self, tp: TP, first: int, upto: int) -> None:
        """Report."""
        say(what="records_gone", tp=tp, first=first, upto=upto)

    async def settle(self) -> None:
        """Wait for the batch in hand."""
        await self.in_hand.wait()

    def failed(self, error: BaseException) -> None:
        """End."""
        hard_exit(f"positions: {error}")


def slow_to_resume(rest_s: float) -> type[Transport]:
    """A transport of which Faust hears late that it has sought, as on a busy machine."""

    class SlowConsumer(Consumer):
        async def seek_to_committed(self) -> Mapping[TP, int]:
            sought = await super().seek_to_committed()
            await asyncio.sleep(rest_s)
            return sought

    class SlowTransport(Transport):
        Consumer = SlowConsumer

    return SlowTransport


async def never_ends() -> None:
    """Outlive every cancellation."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


async def hold_up(*_: Any, **__: Any) -> None:
    """Hold up a stop for good."""
    await asyncio.sleep(3600)


def main(options: dict[str, Any]) -> None:
    """Run the worker until it is stopped."""
    faust_worker.STOP_TIMEOUT_S = options.get("stop_timeout_s", faust_worker.STOP_TIMEOUT_S)  # type: ignore[misc]
    lasting: list[asyncio.Task[None]] = []
    settings = app_settings(
        options["broker"], group=options["group"], session_timeout_s=options.get("session_timeout_s", 6.0),
        max_poll_records=options.get("max_poll_records", 500), commit_interval_s=0.2,
    )  # fmt: skip
    app = faust.App(**settings)
    positions = FileCursors(Path(options["cursors"]))
    transport = slow_to_resume(rest_s) if (rest_s := options.get("rest_after_seek_s")) else Transport
    app.transport = transport(app.conf.broker_consumer, app, positions=positions, fetch_max_wait_ms=options.get("fetch_max_wait_ms", 20), shrunk_log_s=0.5)
    topics: list[str] = options["topics"]
    work_s: float = options.get("work_s", 0.0)

    @app.agent(inflow_topic(app, *topics), name="take")
    async def take(stream: Any) -> None:
        consumer = app.consumer
        assert isinstance(consumer, Consumer)
        async for event in stream.noack().events():
            inflow: Inflow = event.value
            event.ack()
            if not consumer.is_current(inflow) or not (records := consumer.take(inflow)):
                continue
            positions.in_hand.clear()
            first, after = records[0].offset, records[-1].offset + 1
            await asyncio.sleep(work_s)
            if not consumer.is_current(inflow):
                # As a refused commit: what was worked off meanwhile counts for nothing.
                say(what="stale", tp=inflow.tp, first=first)
                positions.in_hand.set()
                continue
            positions.move(inflow.tp, after)
            now = time.time()
            say(
                what="batch", tp=inflow.tp, first=first, next=after,
                of=type(records[0]).__name__,
                rows=[[r.offset, (r.key or b"").decode(), (r.value or b"").decode()] for r in records] if options.get("rows", True) else [],
                late_ms=[round((now - float(r.value or b"0")) * 1000, 2) for r in records] if options.get("timed") else [],
            )  # fmt: skip
            consumer.worked(inflow, after)
            positions.in_hand.set()

    @app.task  # type: ignore[untyped-decorator]
    async def obey() -> None:
        reader = asyncio.StreamReader(limit=1 << 26)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            order = json.loads(line)
            consumer = app.consumer
            assert isinstance(consumer, Consumer)
            if order["do"] == "seek":
                reached = await consumer.seek_partition({TP(topic, number): offset for topic, number, offset in order["to"]})
                say(what="sought", to=[[*tp, offset] for tp, offset in reached.items()])
            elif order["do"] == "deliver":
                try:
                    await deliver(
                        app,
                        [Outgoing(t, k.encode(), v.encode(), partition=p) for t, k, v, p in order["records"]],
                        names={t: t for t, *_ in order["records"]},
                        timeout_s=order.get("timeout_s", 10),
                    )
                    say(what="delivered")
                except HeadstartError as error:
                    say(what="refused", error=type(error).__name__, text=str(error))
            elif order["do"] == "ask":
                readings = {f"{t}.{p}": consumer.reading(TP(t, p)) for t, p in order["tps"]}
                say(what="told", split=check_copartitioned(consumer.assignment(), topics), readings=readings)
            elif order["do"] == "never_stop":
                app.on_before_shutdown.connect(hold_up, weak=False)
                say(what="never_stops")
            elif order["do"] == "never_end":
                lasting.append(asyncio.create_task(never_ends(), name="stubborn"))
                say(what="never_ends")
            else:
                {"pause": consumer.pause, "resume": consumer.resume}[order["do"]]({TP(*tp) for tp in order["tps"]})
                say(what=order["do"] + "d")

    run_worker(app, loglevel=options.get("loglevel", "INFO"), on_ready=lambda: say(what="ready"))
    say(what="stopped")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
