"""The shell around a Faust worker: what it logs, how it ends at once, its settings."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys

import faust

from streams.faust_worker import RateLimit, app_settings


def test_a_repeated_broker_error_is_written_once_in_a_while() -> None:
    """Of the same error of aiokafka one in every_s passes, then one that tells how many were left out; our own and infos always pass."""
    now = [0.0]
    limit = RateLimit(every_s=10, clock=lambda: now[0])

    def written(name: str, level: int, text: str, *args: object) -> str | None:
        entry = logging.LogRecord(name, level, "", 0, text, args, None)
        return entry.getMessage() if limit.filter(entry) else None

    assert written("aiokafka", logging.ERROR, "Unable connect to node %s", 1) == "Unable connect to node 1"
    assert [written("aiokafka", logging.ERROR, "Unable connect to node %s", 1) for _ in range(3)] == [None] * 3
    assert written("aiokafka", logging.ERROR, "another") == "another"
    assert written("aiokafka", logging.INFO, "Unable connect to node %s", 1)
    assert [written("streams.pipeline", logging.ERROR, "same") for _ in range(2)] == ["same"] * 2
    now[0] = 10.0
    assert written("aiokafka", logging.ERROR, "Unable connect to node %s", 2) == "Unable connect to node 2 (and 3 more like it)"


def test_hard_exit_ends_a_process_with_one_line() -> None:
    """One line on standard error, what was printed is flushed, the code is given, and no cleanup runs."""
    program = (
        "import atexit, logging; from streams.faust_worker import configure_logging, hard_exit; configure_logging('INFO')\n"
        "atexit.register(print, 'cleaned up'); print('before'); hard_exit('Redis does not answer:\\n  gone', 71)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (71, "before\n")
    assert done.stderr.endswith("CRITICAL streams.faust_worker: Redis does not answer: gone; exiting\n")
    assert done.stderr.count("\n") == 1


def test_the_settings_open_no_web_and_make_no_topics() -> None:
    """The settings with which nothing listens, nothing is made, and the four topics stay together."""
    loop = asyncio.new_event_loop()
    conf = faust.App(**app_settings("a:1, b:2", group="headstart-live", session_timeout_s=6), loop=loop).conf
    loop.close()
    assert [(url.scheme, url.host, url.port) for url in conf.broker_consumer] == [("kafka", "a", 1), ("kafka", "b", 2)]
    assert (conf.id, conf.web_enabled, conf.topic_disable_leader, conf.topic_allow_declare, conf.table_standby_replicas) == (
        "headstart-live",
        False,
        True,
        False,
        1,
    )
    assert (conf.broker_session_timeout, conf.broker_heartbeat_interval) == (6, 1.5)
    assert not conf.datadir.exists()
