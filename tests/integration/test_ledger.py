"""The ledger balances where nothing is wrong, and names what is wrong where something is: faults that a worker makes, and states that somebody changed."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from features.errors import InputError
from features.events import KINDS, Event, encode
from features.exposures import UNMARKED, Exposure
from features.layout import USER
from features.predictions import UNSAID
from streams.faults import VARIABLE
from streams.learner_cursor import LearnerCursor
from streams.ledger.audit import audit
from streams.ledger.findings import FINDINGS, Account
from streams.partition import Cursor
from streams.publisher import Outgoing, publish_records
from streams.records import TICK_HEADER
from streams.settings import as_environment
from streams.ticks import Tick
from tests.integration.harness import Live, Replay, connected
from tests.integration.worlds import World

pytestmark = pytest.mark.xdist_group("ledger")  # what they share takes long to make

PARTITIONS = 3
USERS = 150
EVENTS = 900


def events(number: int, prefix: str = "e") -> Iterator[tuple[str, Event]]:
    """Events of a few users, now, in an order of their own; mostly browses, and some orders."""
    draw = random.Random(number)
    for i in range(number):
        kind, line = KINDS[draw.choice((0, 0, 0, 1, 2, 3))], draw.choice(("launch", "launch", "books", "audio"))
        ts = time.time_ns() // 1_000_000 - draw.randrange(1_500)
        yield kind, Event(event_id=f"{prefix}{i}", user_id=f"u{draw.randrange(USERS)}", product_id=f"{line}-{draw.randrange(5)}", line=line, ts=ts)


def settle(job: Live, records: int) -> None:
    """Wait until all is read, every window is over and all that was told is learned."""
    job.wait(lambda: job.totals().get("read", 0) == records, f"{records} records are read")

    def learned() -> bool:
        told = {p: sum(c["numbers"]) for p, c in job.cursors().partitions.items()}
        with connected(job.settings.redis) as store:
            prefix = f"hs:{job.settings.namespace}:"
            still = sum(store.hlen(f"{prefix}{{{p}}}:pending") for p in range(PARTITIONS))
            cursor = store.hget(f"{prefix}{{o0}}:cursor", "cursor")
        expected = msgspec.msgpack.decode(cursor, type=LearnerCursor).expected if cursor else {}
        return not still and all(p in expected and expected[p].number == n for p, n in told.items() if n)

    job.wait(learned, "all exposures have their labels and are learned")


def account_of(job: Live | Replay) -> Account:
    """The ledger's account of a namespace."""
    return asyncio.run(audit(job.settings))


@pytest.fixture(scope="module")
def worked(quick_trunk: Path, embedded_broker: Any, embedded_valkey: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A namespace at rest: a worker was killed while events came, some came twice, some could not be used, and two have the header of a replay's tick."""
    folder = tmp_path_factory.mktemp("ledger")
    with Live(quick_trunk, embedded_broker.address, embedded_valkey.url, folder, partitions=PARTITIONS) as job:
        job.prepare()
        (worker,) = job.start_ready(1)
        sent = list(events(EVENTS))
        job.send(sent[: EVENTS // 2])
        job.send(sent[EVENTS // 2 - 50 : EVENTS // 2])
        worker.kill()
        again = job.start_worker()
        job.send(sent[EVENTS // 2 : -2])
        stray = [Outgoing(kind, event.user_id.encode(), encode(event), headers=((TICK_HEADER, b"1700000000000"),)) for kind, event in sent[-2:]]
        publish_records(job.settings.broker, stray, job.topics)
        broken = [Outgoing(KINDS[i % 4], b"u1", b"{" * i) for i in range(20)]
        publish_records(job.settings.broker, broken, job.topics)
        settle(job, EVENTS + 50 + 20)
        assert job.stop(again) == 0
        yield job


def test_it_balances_after_a_crash_duplicates_and_poison(worked: Live) -> None:
    """Every event id is rejected, dropped or applied, and scored, whatever headers it has; every exposure has its bins; and the sums say so."""
    account = account_of(worked)
    assert account.first == []
    sums = account.sums
    assert (sums["published"], sums["distinct"], sums["applied"], sums["in_users_states"], sums["scored"]) == (EVENTS + 70, EVENTS, EVENTS, EVENTS, EVENTS)
    assert (sums["duplicates_dropped"], sums["rejected"], sums["rejected as empty"], sums["waiting"]) == (50, 20, 1, 0)
    assert sums["exposures_final"] == sums["exposures_ordered"] + sums["exposures_final"] - sums["exposures_ordered"] > 50
    assert sums["exposures_ordered"] > 0
    assert sums["outcomes_learned"] > sums["exposures_final"]
    assert sums["users_checked_to_the_counter"] > USERS // 2


@contextmanager
def changed(job: Live, key: str, change: Callable[[Any, str], None]) -> Iterator[None]:
    """A namespace in which somebody has changed one key; it is put back afterwards."""
    with connected(job.settings.redis) as store:
        name = f"hs:{job.settings.namespace}:{key}"
        before = store.dump(name)
        change(store, name)
        yield
        store.delete(name)
        if before is not None:
            store.restore(name, 0, before)


def of_user(name: str, value: Callable[[Any], Any]) -> Callable[[Any, str], None]:
    """Change one field of a user's record."""

    def change(store: Any, key: str) -> None:
        record = np.frombuffer(store.get(key), USER).copy()
        record[name] = value(record[name])
        store.set(key, record.tobytes())

    return change


def of_cursor(kind: type[Cursor] | type[LearnerCursor], change: Callable[[Any], None]) -> Callable[[Any, str], None]:
    """Change a cursor."""

    def rewrite(store: Any, key: str) -> None:
        cursor: Any = msgspec.msgpack.decode(store.hget(key, "cursor"), type=kind)
        change(cursor)
        store.hset(key, "cursor", msgspec.msgpack.encode(cursor))

    return rewrite


def one_more(cursor: Cursor) -> None:
    """Forge a partition's count."""
    cursor.totals.applied += 1


def tried_twice(cursor: LearnerCursor) -> None:
    """Forge a learner's count."""
    cursor.tried += 1


def one_number_back(cursor: LearnerCursor) -> None:
    """Forget that one message is learned."""
    first = next(iter(cursor.expected))
    cursor.expected[first].number -= 1


def nothing_learned(cursor: LearnerCursor) -> None:
    """Put a learner back to where it has read nothing, and leave its heads."""
    cursor.offset, cursor.expected, cursor.tried, cursor.hit = 0, {}, 0, 0


def reopen(store: Any, key: str) -> None:
    """Open an exposure that nobody announced."""
    exposure = Exposure(
        id="00000000000000aa",
        domain="launch",
        user="u1",
        line="launch",
        category="x",
        counts=True,
        ts_ms=1,
        x=b"",
        predictions=UNSAID,
        delay_ms=UNMARKED,
        bin=1,
    )
    store.hset(key, exposure.id, msgspec.msgpack.encode(exposure))


def user_key(job: Live) -> str:
    """The key of some user's state."""
    with connected(job.settings.redis) as store:
        prefix = f"hs:{job.settings.namespace}:"
        keys: list[str] = sorted(key.decode().removeprefix(prefix) for key in store.scan_iter(match=f"{prefix}*:u:*"))
    return next(key for key in keys if key.endswith(":u7"))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("not_applied", of_user("applied", lambda n: n - 1)),
        ("applied_twice", of_user("applied", lambda n: n + 1)),
        ("counters", of_user("counts", lambda counts: counts * np.float32(1.0001))),
        ("counters", of_user("ref_ms", lambda ms: ms + 1)),
        ("ring", of_user("ring", lambda ring: ring + np.uint64(1))),
        ("not_applied", lambda store, key: store.delete(key)),
    ],
)
def test_a_changed_state_is_named(worked: Live, kind: str, change: Callable[[Any, str], None]) -> None:
    """One event less, one more, a counter off by a ten thousandth, a millisecond, a foreign id in the ring, a user who is gone."""
    with changed(worked, user_key(worked), change):
        account = account_of(worked)
    assert account.findings[kind] == 1
    assert any(line.startswith(f"{kind}: ") and "u7" in line for line in account.first)
    assert account_of(worked).balances


@pytest.mark.parametrize(
    ("kind", "key", "change"),
    [
        ("totals", "{1}:cursor", of_cursor(Cursor, one_more)),
        ("unknown_user", "{1}:u:nobody", lambda store, key: store.set(key, bytes(USER.itemsize))),
        ("learned_twice", "{o0}:cursor", of_cursor(LearnerCursor, tried_twice)),
        ("not_learned", "{o0}:cursor", of_cursor(LearnerCursor, one_number_back)),
        ("learned_twice", "{o0}:cursor", of_cursor(LearnerCursor, nothing_learned)),
        ("not_announced", "{1}:pending", reopen),
        ("not_learned", "{o0}:heads", lambda store, key: store.hdel(key, "launch")),
    ],
)
def test_a_changed_count_is_named(worked: Live, kind: str, key: str, change: Callable[[Any, str], None]) -> None:
    """A partition's totals, a user of whom nothing was published, a learner's count, its place and its heads, an exposure out of nowhere."""
    with changed(worked, key, change):
        account = account_of(worked)
    assert account.findings[kind] >= 1, account.first


def test_an_event_that_was_only_published_is_named(worked: Live) -> None:
    """What lies beyond the cursor is said to wait; a score of it alone is a finding."""
    records = [Outgoing("browse", b"u1", b'{"event_id":"late","user_id":"u1","product_id":"p","line":"books","ts":1}')]
    publish_records(worked.settings.broker, records, worked.topics)
    account = account_of(worked)
    assert (account.balances, account.sums["waiting"]) == (True, 1)


def test_each_fault_of_a_worker_is_found(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One event skipped, one applied twice, one outcome learned twice, with forged totals: the command names them and exits with 1."""
    monkeypatch.setenv(VARIABLE, "skip_event:80,apply_twice:180,learn_twice:60")
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=PARTITIONS) as job:
        job.prepare()
        (worker,) = job.start_ready(1)
        for part in range(3):
            job.send(events(100, f"p{part}-"))
        settle(job, 300)
        assert job.stop(worker) == 0
        environment = {**os.environ, **as_environment(job.settings)}
        done = subprocess.run([sys.executable, "-m", "streams.cli", "ledger"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for kind in ("not_applied", "applied_twice", "not_scored", "learned_twice"):
        assert f" × {kind}: {FINDINGS[kind]}" in done.stdout, done.stdout
    assert "the ledger does not balance" in done.stderr.splitlines()[-1]


def test_a_replay_balances(world: World, broker: str, redis_url: str, tmp_path: Path) -> None:
    """Tick records are no events, and every score of an id is the same."""
    with Replay(world, broker, redis_url, tmp_path, partitions=2) as replay:
        ticks = world.ticks()[:6]
        replay.prepare()
        replay.work(replay.publish([*ticks, Tick(ticks[-1].end_ms + 1, ())]))
        account = account_of(replay)
    assert account.first == []
    assert account.sums["published"] == sum(len(tick.records) for tick in ticks)


def test_a_namespace_that_is_not_there_is_said(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """One line, and no traceback."""
    job = Live(quick_trunk, broker, redis_url, tmp_path)
    job.prepare()
    with connected(redis_url) as store:
        store.flushall()
    with pytest.raises(InputError, match="is empty: no worker has joined it yet"):
        account_of(job)
