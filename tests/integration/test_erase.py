"""`headstart erase` while a worker runs: whoever is erased is unknown from then on, everybody else is not touched, and the ledger balances."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from features.errors import DependencyDown, Mismatch
from features.events import Event
from features.layout import USER
from features.redis_store import Entry, RedisStore
from features.store import Changes, Slot
from streams.erasing import ERASED, erase, kept, mark_of
from tests.integration.harness import Live, connected, fresh_name, wait_until
from tests.integration.test_backup import headstart
from tests.integration.test_ledger import PARTITIONS, account_of, events, settle

LINES = ("launch", "books")
TTL_MS = 60_000


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
        listed.write_text("\ufeffcleo\r\n\nann\n", encoding="utf-8")  # as some editors write it
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
        assert account.notes == []


@pytest.mark.timeout(300)
def test_what_is_sent_again_after_an_erasure_is_noted(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """Nobody knows any more that it was there: it is worked again, its exposures are told twice, and the ledger says why."""
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=PARTITIONS) as job:
        job.prepare()
        (worker,) = job.start_ready(1)
        again = list(looks("ann", at="once"))
        sent = job.send([*again, *looks("bob", at="once")])
        settle(job, sent)  # while they are open, its exposures would not open again
        assert headstart(job, "erase", "ann", "--yes").returncode == 0
        sent += job.send([*again, *looks("bob", at="once")])
        settle(job, sent)
        assert job.stop(worker) == 0
        account = account_of(job)
        assert (applied(job, "ann"), job.totals()["duplicate"]) == (2, 2)
        (note,) = account.notes
        assert "2 records of users who were erased repeat others" in note
        assert set(account.findings) == {"bins", "exposures"}


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
            wait_until(lambda: job.totals()["read"] > sent, "they pour in", log=job.log)
            done = [headstart(job, "erase", user, "--yes") for user in erased]
            sent += sum(future.result() for future in sending)
        assert [(told.returncode, told.stdout.count(" erased\n")) for told in done] == [(0, 1)] * len(erased), done
        assert "no longer the store's; starting over" in job.log.read_text(), "no commit of the worker was refused"
        settle(job, sent)
        assert job.stop(worker) == 0
        account = account_of(job)
        assert account.first == []
        assert (account.sums["users_erased"], account.sums["applied"], account.sums["scored"]) == (len(erased), sent, sent)


def test_what_cannot_be_erased_is_one_line(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """Nobody, no user id, a file that is not there, a namespace that is empty."""
    with Live(quick_trunk, broker, redis_url, tmp_path) as job:
        for arguments, why in (
            ((), "whom? Give user ids"), (("a\x1fb",), "is no user id"), (("",), "is no user id"), (("\udcff",), "is no user id"),
            (("--users", str(tmp_path / "none")), "cannot be read"), (("ann",), "is empty: no worker has joined it yet"),
        ):  # fmt: skip
            told = headstart(job, "erase", *arguments, "--yes")
            assert (told.returncode, told.stderr.count("\n"), why in told.stderr) == (1, 1, True), told


class Watched(RedisStore):
    """A store that counts passes over the keys, and writes something after each of the first few, as a worker does whose shopper goes on."""

    def __init__(self, url: str, *, writes: int = 0, durability: str = "memory") -> None:
        super().__init__(url, fresh_name(), ttl_ms=TTL_MS, patience_s=2.0, durability=durability)
        self.passes, self.writes = 0, writes

    async def records(self, slot: str, prefix: str) -> AsyncIterator[list[str]]:
        self.passes += 1
        async for names in super().records(slot, prefix):
            yield names
        if self.passes <= self.writes:
            await self.write({"u:ann": b"late", f"ul:ann\x1fline-{self.passes}": b"late"})

    async def write(self, records: dict[str, bytes]) -> None:
        """Commit records to partition 7, whoever has committed before."""
        held = await self.load("7", ())
        assert await self.commit("7", held.version, Changes(cursor=b"c", records=records))

    async def users(self) -> set[str]:
        """Of whom anything is kept."""
        return {name.partition(":")[2].partition("\x1f")[0] async for _, name in self.names() if name.startswith(("u:", "ul:"))}


def with_store(store: Watched, does: Callable[[Watched], Awaitable[None]]) -> None:
    """Do something with a store, and close it."""

    async def done() -> None:
        try:
            await does(store)
        finally:
            await store.close()

    asyncio.run(done())


def test_many_are_erased_in_one_pass_and_nobody_else(redis_url: str) -> None:
    """Forty of fifty shoppers: a pass to find them, and one to see that nothing is left; marks of long ago go, others stay, for as long as a state."""

    async def check(store: Watched) -> None:
        users = [f"u{i}" for i in range(50)]
        await store.write({name: b"x" for user in users for name in (f"u:{user}", f"ul:{user}\x1fhats", f"ul:{user}\x1f\x1elaunch")})
        held = await store.load("7", ())
        long_ago, now = b"1000", str(time.time_ns() // 1_000_000).encode()
        await store.commit("7", held.version, Changes(cursor=b"c", put={ERASED: {"old": long_ago, "new": now}}))
        assert await kept(store, 7, ["u1", "u11", "nobody"]) == {u: [f"u:{u}", f"ul:{u}\x1f\x1elaunch", f"ul:{u}\x1fhats"] for u in ("u1", "u11")}
        store.passes = 0
        assert await erase(store, 7, [*users[:40], "nobody"]) == dict.fromkeys(users[:40], 3)
        assert store.passes == 2
        assert await store.users() == set(users[40:])
        assert set((await store.load("7", (ERASED,))).hashes[ERASED]) == {"new", *map(mark_of, users[:40])}
        with connected(redis_url) as server:
            assert TTL_MS / 2 < server.pttl(store._key("7", ERASED)) <= TTL_MS

    with_store(Watched(redis_url), check)


def test_what_is_written_meanwhile_is_erased_too_or_it_is_told(redis_url: str) -> None:
    """A worker writes between look and commit: then it is over when a look finds nothing, and where that never comes it is an error."""

    async def check(store: Watched) -> None:
        await store.write({"u:ann": b"x", "ul:ann\x1fhats": b"x", "u:bob": b"x"})
        await erase(store, 7, ["ann"])
        assert await store.users() == {"bob"}
        store.passes, store.writes = 0, 1_000
        await store.write({"u:ann": b"x"})
        with pytest.raises(Mismatch, match="stop sending"):
            await erase(store, 7, ["ann"])

    with_store(Watched(redis_url, writes=3), check)


def test_what_no_replica_has_is_not_said_to_be_erased(redis_url: str) -> None:
    """With durability 'replica' and none there: neither at first nor when it is tried again, though nothing is found any more."""

    async def check(store: Watched) -> None:
        await store.write({"u:ann": b"x"})
        for _ in range(2):
            with pytest.raises(DependencyDown, match="no Redis replica confirmed"):
                await erase(store, 7, ["ann"])
            assert await store.users() == set()

    with_store(Watched(redis_url, durability="replica"), check)


def test_a_partition_that_is_gone_is_told(redis_url: str) -> None:
    """A restore or a repartition has deleted it in between: no cursor of ours may come in its way."""

    async def check(store: Watched) -> None:
        await store.put_entries([Entry("7", "u:ann", record=b"x")])
        with pytest.raises(Mismatch, match="put back from a backup"):
            await erase(store, 7, ["ann"])
        assert await store.load("7", ()) == Slot(0, b"", {})

    with_store(Watched(redis_url), check)
