"""`headstart erase` while a worker runs: whoever is erased is unknown from then on, everybody else is not touched, and the ledger balances."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from features.events import Event
from features.layout import USER
from tests.integration.harness import Live, connected, wait_until
from tests.integration.test_backup import headstart
from tests.integration.test_ledger import PARTITIONS, account_of, events, settle

LINES = ("launch", "books")


def looks(*users: str, at: str) -> Iterator[tuple[str, Event]]:
    """A browse of each user in each line, now."""
    for user in users:
        for line in LINES:
            yield "browse", Event(event_id=f"{at}-{line}", user_id=user, product_id=f"{line}-1", line=line, ts=time.time_ns() // 1_000_000)


def records_of(job: Live, user: str) -> dict[str, bytes]:
    """What Redis holds of a user, by the records' names, whichever partition has them."""
    with connected(job.settings.redis) as store:
        keys = [key for key in store.scan_iter(match=f"hs:{job.settings.namespace}:*") if f":{user}\x1f" in f"{key.decode()}\x1f"]
        return {key.decode().partition("}:")[2]: store.get(key) for key in keys}


def applied(job: Live, user: str) -> int:
    """How many events the user's state holds."""
    held = records_of(job, user).get(f"u:{user}")
    return int(np.frombuffer(held, USER)["applied"][0]) if held else 0


@pytest.mark.timeout(300)
def test_a_shopper_is_forgotten_while_a_worker_runs(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """All records go, also those that the worker has at hand; who comes back is new; who does not leaves no record when their exposures end."""
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=PARTITIONS) as job:
        job.prepare()
        (worker,) = job.start_ready(1)
        sent = job.send(looks("ann", "bob", "cleo", "an", "ann*", at="first"))
        wait_until(lambda: job.totals().get("read") == sent, "all is worked", log=job.log)
        others = {user: records_of(job, user) for user in ("bob", "an", "ann*")}
        before = records_of(job, "ann")
        assert set(before) == {"u:ann", "ul:ann\x1flaunch", "ul:ann\x1fbooks"}

        told = headstart(job, "erase", "ann", "nobody")
        assert (told.returncode, told.stdout.splitlines()) == (
            0,
            ["ann: 3 records kept", "nobody: no state is kept", "nothing was changed: give --yes to do it"],
        ), told.stderr
        assert records_of(job, "ann") == before
        listed = tmp_path / "users.txt"
        listed.write_text("cleo\n\nann\n")
        done = headstart(job, "erase", "ann", "--users", str(listed), "--yes", "--json", "-")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"erased": True, "users": [{"user_id": "ann", "records": 3}, {"user_id": "cleo", "records": 3}]}
        assert records_of(job, "ann") == records_of(job, "cleo") == {}
        assert {user: records_of(job, user) for user in others} == others

        sent += job.send(looks("ann", "bob", at="second"))
        wait_until(lambda: job.totals().get("read") == sent, "the worker goes on", log=job.log)
        assert (applied(job, "ann"), applied(job, "bob")) == (2, 4)
        settle(job, sent)
        assert records_of(job, "cleo") == {}
        assert "Traceback" not in job.log.read_text()
        assert job.stop(worker) == 0
        account = account_of(job)
        assert account.first == []
        assert (account.sums["users"], account.sums["users_erased"], account.sums["applied"]) == (5, 2, sent)


@pytest.mark.timeout(300)
def test_a_partition_that_commits_all_the_time_is_erased_from(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """While events pour in, every shopper of some is erased, one after the other: no event is lost or counted twice, and the ledger balances."""
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=PARTITIONS) as job:
        job.prepare()
        (worker,) = job.start_ready(1)
        sent = job.send(events(900, "first"))
        wait_until(lambda: job.totals().get("read") == sent, "all is worked", log=job.log)
        erased = [f"u{i}" for i in range(12)]
        with ThreadPoolExecutor(1) as thread:
            sending = [thread.submit(job.send, list(events(400, f"more{i}"))) for i in range(8)]
            done = headstart(job, "erase", *erased, "--yes")
            sent += sum(future.result() for future in sending)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(" erased\n") == len(erased)
        settle(job, sent)
        assert job.stop(worker) == 0
        account = account_of(job)
        assert account.first == []
        assert (account.sums["users_erased"], account.sums["applied"], account.sums["scored"]) == (len(erased), sent, sent)


def test_what_cannot_be_erased_is_one_line(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """Nobody, no user id, a file that is not there, a namespace that is empty."""
    with Live(quick_trunk, broker, redis_url, tmp_path) as job:
        for arguments, why in (
            ((), "whom? Give user ids"), (("a\x1fb",), "is no user id"), (("",), "is no user id"), (("--users", str(tmp_path / "none")), "cannot be read"),
            (("ann",), "is empty: no worker has joined it yet"),
        ):  # fmt: skip
            told = headstart(job, "erase", *arguments, "--yes")
            assert (told.returncode, told.stderr.count("\n"), why in told.stderr) == (1, 1, True), told
