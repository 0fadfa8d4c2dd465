"""The store's contract: what `features.store` promises holds for the in-memory store and for Redis alike."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, cast
from unittest.mock import Mock

import pytest
import redis.asyncio as redis

import features.redis_store as redis_store_module
from features.errors import DependencyDown, InputError
from features.memory_store import MemoryStore
from features.redis_access import RedisAccess
from features.redis_store import Entry, RedisStore
from features.store import Block, Changes, Slot, Store
from streams.embedded import EmbeddedValkey

Check = Callable[[Store], Awaitable[None]]
Run = Callable[[Check], None]


@asynccontextmanager
async def redis_store(
    access: RedisAccess | str, namespace: str = "test", *, ttl_ms: int = 60_000, msetex: bool = False, patience_s: float = 10.0
) -> AsyncIterator[RedisStore]:  # fmt: skip
    """A store in Redis that is closed in the end."""
    store = RedisStore(access, namespace, ttl_ms=ttl_ms, msetex=msetex, patience_s=patience_s)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def unused_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(params=["memory", "redis", "cluster", "tls"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a check against an empty store of each kind: in memory, in one server, in a cluster, and over TLS as a user with no more rights than a worker's."""
    access: RedisAccess | str = ""
    if request.param == "redis":
        access = request.getfixturevalue("redis_url")
    elif request.param == "cluster":
        access = RedisAccess(request.getfixturevalue("redis_cluster").url, cluster=True)
    elif request.param == "tls":
        access = request.getfixturevalue("tls_access")
    namespace = f"test-{uuid.uuid4().hex[:8]}"

    async def with_store(check: Check) -> None:
        if not access:
            await check(MemoryStore())
            return
        async with redis_store(access, namespace) as store:
            await check(store)

    return lambda check: asyncio.run(with_store(check))


def test_a_slot_that_was_never_committed_is_empty(run: Run) -> None:
    """Version 0, no cursor, empty hashes, no records."""

    async def check(store: Store) -> None:
        assert await store.load("7", ("pending", "outbox")) == Slot(0, b"", {"pending": {}, "outbox": {}})
        assert await store.read("7", ["u:a", "u:b"]) == [None, None]
        assert await store.read_hash("7", "pending", ["x"]) == [None]
        assert await store.read("7", []) == await store.read_hash("7", "pending", []) == []
        assert await store.meta() == {}

    run(check)


def test_what_is_committed_is_read_back_exactly(run: Run) -> None:
    """Any bytes, any text as key or field, in order of the keys asked for."""
    raw = bytes(range(256)) + b"\r\n\x00"

    async def check(store: Store) -> None:
        changes = Changes(cursor=raw, records={"u:ü\x1f \n": raw, "u:b": b""}, put={"pending": {"é\x00": raw, "2": b""}, "outbox": {}})
        assert await store.commit("7", 0, changes)
        assert await store.load("7", ("outbox", "pending")) == Slot(1, raw, {"outbox": {}, "pending": {"é\x00": raw, "2": b""}})
        assert await store.read("7", ["u:b", "u:none", "u:ü\x1f \n"]) == [b"", None, raw]
        assert await store.read_hash("7", "pending", ["none", "é\x00"]) == [None, raw]

    run(check)


def test_a_stale_version_writes_nothing(run: Run) -> None:
    """Neither an older, a newer nor the first version's commit leaves a trace; the right one goes on."""

    async def check(store: Store) -> None:
        for version in range(3):
            assert await store.commit("7", version, Changes(cursor=b"right", records={"u:a": b"right"}, put={"pending": {"x": b"right"}}))
        before = await store.load("7", ("pending",)), await store.read("7", ["u:a", "u:b"])
        wrong = Changes(cursor=b"w", records={"u:a": b"w", "u:b": b"w"}, put={"pending": {"x": b"w", "y": b"w"}}, drop={"pending": ["x"]})
        for version in (0, 1, 2, 4, 10**15):
            assert not await store.commit("7", version, wrong)
        assert (await store.load("7", ("pending",)), await store.read("7", ["u:a", "u:b"])) == before
        assert before[0].version == 3
        assert await store.commit("7", 3, Changes(cursor=b"next"))

    run(check)


def test_of_two_writers_one_wins_whole(run: Run) -> None:
    """Twenty commits on one version at once: one is done, and all that is stored is its own."""

    async def check(store: Store) -> None:
        def changes(i: int) -> Changes:
            text = str(i).encode()
            return Changes(cursor=text, records={f"u:{k}": text for k in range(50)}, put={"pending": {str(k): text for k in range(50)}})

        done = await asyncio.gather(*(store.commit("7", 0, changes(i)) for i in range(20)))
        assert sum(done) == 1
        winner = str(done.index(True)).encode()
        slot = await store.load("7", ("pending",))
        assert (slot.version, slot.cursor) == (1, winner)
        assert set(slot.hashes["pending"].values()) | set(await store.read("7", [f"u:{k}" for k in range(50)])) == {winner}

    run(check)


def test_hashes_keep_put_and_drop_fields(run: Run) -> None:
    """Other fields stay, a dropped one goes, one that is dropped and put in one commit is there, an unknown one may be dropped."""

    async def check(store: Store) -> None:
        await store.commit("7", 0, Changes(cursor=b"", put={"pending": {"a": b"1", "b": b"1", "c": b"1"}, "outbox": {"a": b"9"}}))
        await store.commit("7", 1, Changes(cursor=b"", put={"pending": {"b": b"2", "d": b"2"}}, drop={"pending": ["a", "b", "none"], "other": ["a"]}))
        slot = await store.load("7", ("pending", "outbox"))
        assert slot.hashes == {"pending": {"b": b"2", "c": b"1", "d": b"2"}, "outbox": {"a": b"9"}}

    run(check)


@pytest.mark.parametrize("run", ["memory", "redis", "cluster"], indirect=True)  # a worker's user may not
def test_records_are_erased_with_the_commit_that_names_them(run: Run) -> None:
    """Those named go, with what else it changes; others stay, one that is not there is no trouble, and a refused commit erases nothing."""

    async def check(store: Store) -> None:
        await store.commit("7", 0, Changes(cursor=b"a", records={"u:a": b"1", "u:b": b"2", "ul:a\x1fl": b"3"}))
        assert not await store.commit("7", 5, Changes(cursor=b"x", erased=["u:a"]))
        changes = Changes(
            cursor=b"b",
            records={"u:c": b"4"},
            put={"erased": {"a": b"9"}},
            drop={"pending": ["z"]},
            erased=["u:a", "u:none", "ul:a\x1fl"],
            expire=["erased", "none"],
        )
        assert await store.commit("7", 1, changes)
        assert await store.read("7", ["u:a", "u:b", "u:c", "ul:a\x1fl"]) == [None, b"2", b"4", None]
        assert await store.load("7", ("erased",)) == Slot(2, b"b", {"erased": {"a": b"9"}})

    run(check)


def test_slots_do_not_see_each_other(run: Run) -> None:
    """Version, records and hashes belong to one slot."""

    async def check(store: Store) -> None:
        await store.commit("1", 0, Changes(cursor=b"x", records={"u:a": b"x"}, put={"pending": {"a": b"x"}}))
        assert await store.load("11", ("pending",)) == Slot(0, b"", {"pending": {}})
        assert await store.read("11", ["u:a"]) == [None]
        assert await store.commit("o1", 0, Changes(cursor=b"y"))
        assert (await store.load("1", ())).cursor == b"x"

    run(check)


def test_what_was_given_may_change_afterwards(run: Run) -> None:
    """The store keeps its own copy of what was committed and of what it gave out."""

    async def check(store: Store) -> None:
        changes = Changes(cursor=b"", put={"pending": {"a": b"1"}})
        await store.commit("7", 0, changes)
        changes.put["pending"]["a"] = b"2"
        given = dict((await store.load("7", ("pending",))).hashes["pending"])
        given.clear()
        assert (await store.load("7", ("pending",))).hashes["pending"] == {"a": b"1"}

    run(check)


def test_a_commit_of_5000_records_is_one_step(run: Run) -> None:
    """And so are its 5 000 fields and reading all of it back."""

    async def check(store: Store) -> None:
        records = {f"u:{i}": bytes([i % 256]) * 300 for i in range(5000)}
        fields = {str(i): b"x" * 100 for i in range(5000)}
        assert await store.commit("7", 0, Changes(cursor=b"", records=records, put={"pending": fields}))
        assert await store.read("7", list(records)) == list(records.values())
        assert await store.commit("7", 1, Changes(cursor=b"", drop={"pending": list(fields)[1:]}))
        assert (await store.load("7", ("pending",))).hashes["pending"] == {"0": b"x" * 100}

    run(check)


def test_meta_is_claimed_once(run: Run) -> None:
    """The first claim sets what is not there, a later one learns it; `put_meta` overwrites."""

    async def check(store: Store) -> None:
        assert await store.claim_meta({"clock": "live", "cluster": "a"}) == {"clock": "live", "cluster": "a"}
        assert await store.claim_meta({"clock": "replay", "schema": "s"}) == {"clock": "live", "cluster": "a", "schema": "s"}
        await store.put_meta({"clock": "replay"})
        assert await store.meta() == {"clock": "replay", "cluster": "a", "schema": "s"}

    run(check)


def test_of_many_claims_one_describes_the_namespace(run: Run) -> None:
    """Claims at the same time do not mix, and everyone is told the same."""

    async def check(store: Store) -> None:
        told = await asyncio.gather(*(store.claim_meta({name: str(i) for name in "abcdefgh"}) for i in range(20)))
        assert len({tuple(sorted(t.items())) for t in told}) == 1
        assert len(set(told[0].values())) == 1

    run(check)


def test_settled_returns(run: Run) -> None:
    """With the durability `memory` there is nothing to wait for."""
    run(lambda store: store.settled())


def test_namespaces_do_not_see_each_other(redis_url: str) -> None:
    """The same slot, record and description in two namespaces of one Redis are two."""

    async def check() -> None:
        async with redis_store(redis_url, "a") as one, redis_store(redis_url, "ab") as other:
            await one.commit("7", 0, Changes(cursor=b"x", records={"u:a": b"x"}, put={"pending": {"a": b"x"}}))
            await one.put_meta({"clock": "live"})
            assert await other.load("7", ("pending",)) == Slot(0, b"", {"pending": {}})
            assert await other.read("7", ["u:a"]) == [None]
            assert await other.meta() == {}

    asyncio.run(check())


def test_only_records_expire(redis_url: str) -> None:
    """Records have the time to live that was set, cursor and meta none, hashes if a commit says so; every key but meta has its slot's hash tag."""

    async def check() -> None:
        async with redis_store(redis_url, "ns", ttl_ms=50_000) as store:
            await store.commit("7", 0, Changes(cursor=b"x", records={"u:a": b"x"}, put={"pending": {"a": b"x"}, "erased": {"a": b"x"}}, expire=["erased"]))
            await store.put_meta({"clock": "live"})
        async with redis.Redis.from_url(redis_url) as client:
            ttl = {key.decode(): await client.pttl(key) for key in cast(list[bytes], await client.keys("*"))}
        for name in ("u:a", "erased"):
            assert 40_000 < ttl.pop(f"hs:ns:{{7}}:{name}") <= 50_000
        assert ttl == {"hs:ns:{7}:cursor": -1, "hs:ns:{7}:pending": -1, "hs:ns:meta": -1}

    asyncio.run(check())


def test_what_expires_does_so_too_when_it_was_put_back(redis_url: str) -> None:
    """Keys that are read as they are, deleted and written again live for as long as they would have."""

    async def check() -> None:
        async with redis_store(redis_url, "ns", ttl_ms=50_000) as store:
            await store.commit("7", 0, Changes(cursor=b"x", records={"u:a": b"x"}, put={"pending": {"a": b"x"}, "erased": {"a": b"x"}}, expire=["erased"]))
            held = [entry async for entry in store.entries()]
            assert await store.delete_entries() == 4
            await store.put_entries(held)
        async with redis.Redis.from_url(redis_url) as client:
            ttl = {name: await client.pttl(f"hs:ns:{{7}}:{name}") for name in ("u:a", "erased", "cursor", "pending")}
        assert 40_000 < ttl.pop("u:a") <= 50_000
        assert 40_000 < ttl.pop("erased") <= 50_000
        assert ttl == {"cursor": -1, "pending": -1}

    asyncio.run(check())


@pytest.mark.parametrize("ttl_ms", [0, -2])
def test_what_was_read_in_its_last_moment_is_not_put_back_for_ever(ttl_ms: int, redis_url: str) -> None:
    """Redis says 0 in a key's last millisecond, and -2 when it went after it was read."""

    async def check() -> None:
        async with redis_store(redis_url, "ns") as store:
            await store.put_entries([Entry("7", "u:a", record=b"x", ttl_ms=ttl_ms), Entry("7", "erased", fields={"a": b"x"}, ttl_ms=ttl_ms)])
            await asyncio.sleep(0.05)
            assert [entry async for entry in store.entries()] == []

    asyncio.run(check())


@pytest.mark.parametrize(("msetex", "without"), [(True, ""), (True, "-msetex"), (False, "")])
def test_records_are_set_together_if_that_is_wanted_and_can_be(redis_url: str, msetex: bool, without: str, caplog: pytest.LogCaptureFixture) -> None:
    """Two commits of 2 500 records are three MSETEX each. Who may not, as with an older server, sets them one by one, and says so once."""

    async def check() -> None:
        client: Any
        async with redis.Redis.from_url(redis_url) as client:
            await client.execute_command(*f"ACL SETUSER plain reset on nopass ~* +@all {without}".split())
            await client.config_resetstat()
            async with redis_store(RedisAccess(redis_url, user="plain"), "ns", ttl_ms=50_000, msetex=msetex) as store:
                for version in (0, 1):
                    records = {f"u:{i}": b"%d-%d" % (version, i) for i in range(1_500)}
                    block = Block([f"ul:{i}" for i in range(1_000)], 4, b"".join(b"%d%03d" % (version, i) for i in range(1_000)))
                    assert await store.commit("7", version, Changes(cursor=b"", records=records, blocks=[block]))
                    assert await store.read("7", ["u:0", "u:1499", "ul:7"]) == [records["u:0"], records["u:1499"], b"%d007" % version]
            calls = cast(dict[str, dict[str, int]], await client.info("commandstats"))
            done, refused = (calls.get("cmdstat_msetex", {}).get(name, 0) for name in ("calls", "rejected_calls"))
            assert (done, refused) == ((0 if without else 6, 1 if without else 0) if msetex else (0, 0))
            assert calls.get("cmdstat_set", {}).get("calls", 0) == (0 if done else 5_000)
            assert ["no MSETEX" in line for line in caplog.messages] == [True] * refused
            assert 40_000 < await client.pttl("hs:ns:{7}:ul:999") <= 50_000
            await client.execute_command("ACL", "DELUSER", "plain")

    asyncio.run(check())


def test_a_server_that_is_away_is_a_dependency_down(unused_port: int) -> None:
    """Every call tells so in one line, within its patience."""

    async def check() -> None:
        async with redis_store(f"redis://127.0.0.1:{unused_port}", patience_s=0.2) as store:
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: store.load("7", ("pending",)),
                lambda: store.read("7", ["u:a"]),
                lambda: store.read_hash("7", "pending", ["a"]),
                lambda: store.commit("7", 0, Changes(cursor=b"")),
                store.meta,
                lambda: store.put_meta({"a": "b"}),
                lambda: store.claim_meta({"a": "b"}),
            ]
            for call in calls:
                with pytest.raises(DependencyDown) as down:
                    await asyncio.wait_for(call(), 5)
                assert "\n" not in str(down.value)

    asyncio.run(check())


def test_reads_outlast_a_short_outage_but_a_commit_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops and starts again within the patience is waited for; the commit's caller is told, and loads again."""

    async def check(server: EmbeddedValkey) -> None:
        async with redis_store(server.url, patience_s=20) as store:
            assert await store.commit("7", 0, Changes(cursor=b"x"))
            server.kill()
            monkeypatch.setattr(store, "_commit", tried := Mock(wraps=store._commit))
            with pytest.raises(DependencyDown):
                await store.commit("7", 1, Changes(cursor=b"y"))
            assert tried.call_count == 1
            reading = asyncio.create_task(store.load("7", ()))
            await asyncio.sleep(0.3)
            assert not reading.done()
            await asyncio.to_thread(server.start)
            assert (await reading).version == 0  # memory only: the server forgot, and the script too
            assert await store.commit("7", 0, Changes(cursor=b"z"))

    with EmbeddedValkey() as server:
        asyncio.run(check(server))


def test_replica_durability_waits_for_the_commit_itself(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the durability `replica` and no replica, `settled` refuses, also after commits over other connections, and says why.

    However great the patience: Redis answers before its connection is given up.
    """
    monkeypatch.setattr(redis_store_module, "LONGEST_ANSWER_S", 4.0)

    async def check() -> None:
        store = RedisStore(redis_url, "test", ttl_ms=60_000, durability="replica", patience_s=60.0)
        try:
            await asyncio.gather(*(store.commit(str(p), 0, Changes(cursor=b"x")) for p in range(5)))
            with pytest.raises(DependencyDown, match="no Redis replica"):
                await store.settled()
        finally:
            await store.close()

    asyncio.run(check())


def test_settings_that_cannot_hold_are_refused(redis_url: str) -> None:
    """An unknown durability, an address that is none, and `disk` on a server without an append-only file."""
    with pytest.raises(InputError, match="durability"):
        RedisStore(redis_url, "test", ttl_ms=1, durability="hope")
    with pytest.raises(InputError, match="address"):
        RedisStore("nonsense", "test", ttl_ms=1)

    async def check() -> None:
        store = RedisStore(redis_url, "test", ttl_ms=1, durability="disk")
        try:
            with pytest.raises(InputError, match="appendonly"):
                await store.check_durability()
        finally:
            await store.close()

    asyncio.run(check())


@pytest.mark.parametrize(("fsync", "refuses"), [("everysec", True), ("always", False)])
def test_durability_disk_needs_each_commit_on_the_disk(fsync: str, refuses: bool) -> None:
    """A file that is written once a second loses a second of commits."""

    async def check(server: EmbeddedValkey) -> None:
        store = RedisStore(server.url, "test", ttl_ms=1, durability="disk")
        try:
            with pytest.raises(InputError, match="appendfsync always") if refuses else nullcontext():
                await store.check_durability()
        finally:
            await store.close()

    with EmbeddedValkey(appendonly=True, config={"appendfsync": fsync}) as server:
        asyncio.run(check(server))
