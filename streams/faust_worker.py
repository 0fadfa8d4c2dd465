"""The shell around one Faust worker: its settings, its logging, its signals, and its two ways to end.

It starts Faust from our own command, because `faust worker` opens a web server on all interfaces, redirects print, and takes over the
logging.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import faust
from aiokafka.errors import KafkaConnectionError
from mode.utils.futures import maybe_cancel

from features.errors import DependencyDown
from streams import masking
from streams.delivery import MAX_RECORD_BYTES
from streams.stopping import end_tasks, still_running, where

logger = logging.getLogger(__name__)

EXIT_DOWN: Final = 70
METADATA_MS: Final = 10_000
"""How often it is asked anew which partitions there are. A broker that has just started may know of none yet: a group that is made up then is given nothing, reads
nothing, and would learn of them at the next such question alone (5 minutes, unless it is said)."""
STOP_TIMEOUT_S: Final = 15.0
END_S: Final = 2.0
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
NOISY: Final = ("aiokafka", "faust.transport", "streams.consumer_thread", "streams.transport")


def app_settings(
    broker: str,
    *,
    group: str,
    session_timeout_s: float = 10.0,
    heartbeat_s: float | None = None,
    max_poll_records: int = 500,
    commit_interval_s: float = 1.0,
    buffered_messages: int = 256,
    max_fetch_bytes: int = 1_048_576,
    credentials: Any = None,
) -> dict[str, Any]:
    """Return the arguments of `faust.App` for a worker of ours; `faust.App(**app_settings(...))`.

    broker: HOST:PORT[,HOST:PORT...]. group: the consumer group, and the app's id. session_timeout_s: 6 with the embedded broker, whose
    joins wait half of it. buffered_messages: what an agent's queue holds; each says of one partition that something has come, so it must be above the
    number of its topic partitions, or one of them blocks all others.
    """
    return {
        "id": group,
        "broker": ["kafka://" + address.strip() for address in broker.split(",") if address.strip()],
        "broker_credentials": credentials,
        "autodiscover": False,
        "web_enabled": False,
        "processing_guarantee": "at_least_once",
        # No topics of Faust's own, and none made by it.
        "topic_disable_leader": True,
        "topic_allow_declare": False,
        "reply_create_topic": False,
        # One standby replica makes Faust use its own assignor, which keeps equal partition numbers of all topics together.
        "table_standby_replicas": 1,
        "consumer_auto_offset_reset": "earliest",
        "consumer_max_fetch_size": max_fetch_bytes,
        "consumer_metadata_max_age_ms": METADATA_MS,
        "broker_session_timeout": session_timeout_s,
        "broker_heartbeat_interval": heartbeat_s or min(2.0, session_timeout_s / 4),
        "broker_rebalance_timeout": max(20.0, 2 * session_timeout_s),
        "broker_request_timeout": max(40.0, 2 * session_timeout_s),
        "broker_max_poll_records": max_poll_records,
        "broker_commit_interval": commit_interval_s,
        "stream_buffer_maxsize": buffered_messages,
        "stream_wait_empty": True,  # the transport's own wait: bounded, for the batch in hand
        "stream_recovery_delay": 0.0,
        "producer_acks": -1,
        "producer_linger": 0.0,
        "producer_max_batch_size": 262_144,
        "producer_max_request_size": MAX_RECORD_BYTES,
        "producer_request_timeout": 30.0,
        "worker_redirect_stdouts": False,
        # A folder for tables, of which we have none; run_worker keeps it from being made.
        "datadir": Path(tempfile.gettempdir()) / "headstart-faust",
    }


class RateLimit(logging.Filter):
    """Lets one record of each message text pass in `every_s` seconds, for loggers under `prefixes`; the next one tells how many were left out.

    aiokafka logs an error every 100 ms for each connection while a broker is down.
    """

    def __init__(self, prefixes: Iterable[str] = NOISY, *, every_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._prefixes, self._every_s, self._clock = tuple(prefixes), every_s, clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if record.levelno < logging.WARNING or not record.name.startswith(self._prefixes):
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        with self._lock:
            since, left_out = self._seen.get(key, (-self._every_s, 0))
            if now - since < self._every_s:
                self._seen[key] = (since, left_out + 1)
                return False
            self._seen[key] = (now, 0)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it)", ()
        return True


def configure_logging(loglevel: str) -> None:
    """Log to standard error, ours at `loglevel`, libraries' from WARNING on (at DEBUG: all of it), repeated broker errors seldom."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(masking.Formatter(LOG_FORMAT))
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(loglevel)
    for library in ("aiokafka", "faust", "mode", "kafka", "asyncio"):
        logging.getLogger(library).setLevel(logging.DEBUG if loglevel == "DEBUG" else logging.WARNING)


def hard_exit(reason: str, code: int = EXIT_DOWN) -> NoReturn:
    """End the process at once: no ack, no commit, no farewell to the group; offsets and cursors stay where they were. Callable from any thread."""
    logger.critical("%s; exiting", " ".join(reason.split()))
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)


class _Worker(faust.Worker):
    """Faust's worker without its spinner, process title and logging set-up, and with a bounded stop."""

    def __init__(self, app: faust.App, loop: asyncio.AbstractEventLoop, on_ready: Callable[[], Awaitable[None] | None] | None) -> None:
        super().__init__(app, quiet=True, override_logging=False, redirect_stdouts=False, loop=loop)
        self.spinner = None
        self._on_ready = on_ready

    def _setproctitle(self, info: str, **_: Any) -> None:
        return None

    async def on_startup_finished(self) -> None:
        """Tell the caller, once everything has been started."""
        await super().on_startup_finished()
        if self._on_ready is not None:
            said = self._on_ready()
            if said is not None:
                await said

    def _schedule_shutdown(self, signal: Any) -> None:
        late = threading.Timer(STOP_TIMEOUT_S, self._too_late, (int(signal),))
        late.daemon = True
        late.start()
        super()._schedule_shutdown(signal)

    def _too_late(self, signal: int) -> None:
        try:
            thread = getattr(cast(faust.App, self.app).consumer, "_thread", None)
            logger.critical("what still runs:\n%s", still_running(loop for loop in (self.loop, getattr(thread, "thread_loop", None)) if loop is not None))
        finally:  # whatever the look at other threads meets
            hard_exit(f"the worker did not stop within {STOP_TIMEOUT_S:g} s of signal {signal}")


def run_worker(app: faust.App, *, loglevel: str = "INFO", on_ready: Callable[[], Awaitable[None] | None] | None = None) -> None:
    """Run the app until SIGINT or SIGTERM: then the batch in hand is finished, the offsets are told, the group is left, and it returns.

    on_ready is called (and awaited) when all services run; partitions may come later. Raises DependencyDown when the broker cannot be
    reached at the start; any other error that ends the worker is raised as it is.
    """
    configure_logging(loglevel)
    loop = app.loop  # parts of the app may have taken it already
    asyncio.set_event_loop(loop)
    vars(app)["_create_directories"] = lambda: None
    worker = _Worker(app, loop, on_ready)
    try:
        _execute(worker, loop)
    except KafkaConnectionError:
        raise DependencyDown(f"no broker answers at {', '.join(f'{url.host}:{url.port}' for url in app.conf.broker_consumer)}") from None


def _execute(worker: _Worker, loop: asyncio.AbstractEventLoop) -> None:
    """As mode's execute_from_commandline, which ends in sys.exit and sleeps for two seconds on the way."""
    starting = worker._starting_fut = asyncio.ensure_future(worker.start(), loop=loop)
    try:
        loop.run_until_complete(starting)
    except asyncio.CancelledError:
        pass  # stopped by a signal
    finally:
        maybe_cancel(starting)
        stopping = worker._signal_stop_future
        loop.run_until_complete(stopping if stopping is not None else worker.stop())
        loop.run_until_complete(worker._gather_futures())
        # What has to be finished is finished: what still runs must not make a failure of it.
        for task in loop.run_until_complete(end_tasks(asyncio.all_tasks(loop), within_s=END_S)):
            logger.warning("left behind at the stop:\n%s", where(task))
        loop.close()
    if worker.crash_reason is not None:
        raise worker.crash_reason
