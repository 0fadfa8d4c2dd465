"""Who gets into Redis, and what a cluster survives."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.errors import DependencyDown, InputError
from features.redis_access import RedisAccess
from features.redis_store import RedisStore
from features.store import Changes
from streams.embedded import EmbeddedValkey
from streams.rights import redis_user
from tests.certificates import Certificates
from tests.contract.conftest import PASSWORD
from tests.redis_servers import Cluster, TlsRedis

# A handshake that fails leaves its socket to the garbage collector (asyncio waits for a close_notify that nobody sends).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """Sockets of refused connections are collected here, not in some later test."""
    yield
    gc.collect()


def refused(access: RedisAccess, call: Callable[[RedisStore], Awaitable[object]] = lambda store: store.meta(), *, namespace: str = "test-x") -> str:
    """Why a call is not done: the text of a InputError or DependencyDown."""

    async def tried() -> None:
        store = RedisStore(access, namespace, ttl_ms=60_000, patience_s=0.3)
        try:
            await call(store)
        finally:
            await store.close()

    with pytest.raises((InputError, DependencyDown)) as error:
        asyncio.run(tried())
    text = str(error.value)
    assert PASSWORD not in text
    assert "\n" not in text
    return f"{type(error.value).__name__}: {text}"


def test_nobody_gets_in_without_the_right_name_and_password(tls_access: RedisAccess) -> None:
    """No user, an unknown one, and a wrong password are refused in one line, at once, as the user's error."""
    assert refused(replace(tls_access, user="", password="")).startswith("InputError: Redis at 127.0.0.1:")
    assert refused(replace(tls_access, user="mallory")).startswith("InputError")
    assert "refuses this user" in refused(replace(tls_access, password="guess"))


def test_who_may_not_write_is_refused_in_a_script_as_well(tmp_path: Path) -> None:
    """A commit by a user who may only read is the user's error, not a server that is down and is tried again."""
    acl = tmp_path / "users.acl"
    acl.write_text(
        "user default on nopass ~* +@all\nuser reader " + " ".join(redis_user("dashboard", "reader", "test-x")[3:]).replace(">PASSWORD", "nopass") + "\n"
    )
    with EmbeddedValkey(config={"aclfile": str(acl)}) as valkey:
        access = RedisAccess(valkey.url, user="reader", password="any")
        text = refused(access, lambda store: store.commit("0", 0, Changes(cursor=b"x", put={"pending": {"a": b"b"}})))
    assert text.startswith("InputError: Redis at 127.0.0.1:")
    assert "refuses this user" in text


def test_an_unencrypted_client_and_an_unknown_authority_are_refused(tls_access: RedisAccess, tmp_path: Path) -> None:
    """Plain text is not spoken; a server's certificate of another authority, or for another name, is not trusted; a client without certificate gets nothing."""
    plain = replace(tls_access, url=tls_access.url.replace("rediss://", "redis://"), cafile="", certfile="", keyfile="")
    assert refused(plain).startswith("DependencyDown")
    assert "certificate verify failed" in refused(replace(tls_access, cafile=str(Certificates(tmp_path).authority)))
    assert refused(replace(tls_access, certfile="", keyfile="")).startswith("DependencyDown")


def test_the_name_in_the_certificate_counts(tls_access: RedisAccess, tmp_path: Path) -> None:
    """A server that is called by a name which its certificate does not hold is refused."""
    other = replace(tls_access, url=tls_access.url.replace("127.0.0.1", "127.0.0.2"))
    assert refused(other).startswith("DependencyDown")

    async def read(access: RedisAccess) -> dict[str, str]:
        store = RedisStore(access, "test-names", ttl_ms=1)
        try:
            return await store.meta()
        finally:
            await store.close()

    assert asyncio.run(read(replace(tls_access, url=tls_access.url.replace("127.0.0.1", "localhost")))) == {}


def test_a_dashboards_user_reads_and_cannot_write(tls_access: RedisAccess, tls_redis: TlsRedis) -> None:
    """With the rights of `headstart rights`: the worker writes its namespace only, the dashboard reads it and changes nothing, not even by a script."""
    seeing = replace(tls_access, user="dashboard")

    async def check() -> None:
        worker, dashboard = RedisStore(tls_access, "test-rights", ttl_ms=60_000), RedisStore(seeing, "test-rights", ttl_ms=60_000, patience_s=0.3)
        try:
            assert await worker.commit("7", 0, Changes(cursor=b"x", records={"u:a": b"1"}, put={"heads": {"a": b"2"}}))
            assert (await dashboard.load("7", ("heads",))).hashes == {"heads": {"a": b"2"}}
            assert await dashboard.read("7", ["u:a"]) == [b"1"]
            calls: list[Awaitable[Any]] = [dashboard.commit("7", 1, Changes(cursor=b"y")), dashboard.put_meta({"a": "b"}), dashboard.claim_meta({"a": "b"})]
            for call in calls:
                with pytest.raises((InputError, DependencyDown)):
                    await call
            assert (await worker.load("7", ())).version == 1
        finally:
            await worker.close()
            await dashboard.close()

    asyncio.run(check())
    assert "InputError" in refused(tls_access, lambda store: store.commit("7", 0, Changes(cursor=b"x")), namespace="other")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cafile": __file__}, "use rediss://"),
        ({"url": "rediss://h:1", "cafile": "/missing/ca.pem"}, "/missing/ca.pem"),
        ({"url": "rediss://h:1", "certfile": "/missing/me.pem"}, "/missing/me.pem"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named(changes: dict[str, str], expected: str) -> None:
    """A file that is missing, or given for an address without TLS, is the user's error before anything is sent."""
    with pytest.raises(InputError, match=expected):
        RedisStore(replace(RedisAccess("redis://h:1"), **changes), "test", ttl_ms=1)  # type: ignore[arg-type]


def test_user_and_password_of_their_own_win_over_the_addresss() -> None:
    """`redis_username` and `redis_password` are used in place of the address's, and neither shows in a repr."""
    access = RedisAccess("rediss://old:p%40ss@h:1/2", user="new")
    assert access.without_user == "rediss://h:1/2"
    assert access.place == "h:1"
    store = RedisStore(access, "test", ttl_ms=1)
    given = store._redis.connection_pool.connection_kwargs
    assert (given["username"], given["password"], given["db"]) == ("new", "p@ss", 2)
    assert "p@ss" not in repr(access) and "p%40ss" not in repr(access)


def test_a_cluster_goes_on_when_a_replica_takes_over(tmp_path: Path) -> None:
    """A primary is killed under twelve writers: what it has confirmed to its replica is kept, each commit is done once, and all go on within seconds."""

    async def check(cluster: Cluster) -> None:
        store = RedisStore(RedisAccess(cluster.url, cluster=True), "test", ttl_ms=60_000, patience_s=20)
        on_first = [slot for slot in map(str, range(12)) if await is_on(store, slot, cluster.nodes[0].port)]
        assert 0 < len(on_first) < 12
        versions = dict.fromkeys(map(str, range(12)), 0)

        async def commit(slot: str) -> None:
            try:
                done = await store.commit(slot, versions[slot], Changes(cursor=str(versions[slot]).encode()))
                assert done
            except DependencyDown:  # done or not: the stored version decides
                stored = await store.load(slot, ())
                assert stored.version - versions[slot] in (0, 1)
                versions[slot] = stored.version
            else:
                versions[slot] += 1

        try:
            for _ in range(5):
                await asyncio.gather(*map(commit, versions))
            assert set(versions.values()) == {5}
            await asyncio.sleep(0.2)  # replication is asynchronous: the setting `durability` is another test's
            cluster.nodes[0].kill()
            async with asyncio.timeout(30):
                while min(versions.values()) < 8:
                    await asyncio.gather(*map(commit, versions))
        finally:
            await store.close()

    with Cluster(tmp_path) as cluster:
        asyncio.run(check(cluster))


async def is_on(store: RedisStore, slot: str, port: int) -> bool:
    """Whether the node at a port has the slot."""
    await store.load(slot, ())
    return bool(store._redis.get_node_from_key(f"hs:test:{{{slot}}}:cursor").port == port)


def test_on_a_cluster_a_replica_of_every_server_that_was_written_to_must_confirm(redis_cluster: Cluster) -> None:
    """Durability `replica`: the first primary's replica confirms; a primary without one is refused."""

    async def settled(with_first: bool) -> None:
        store = RedisStore(RedisAccess(redis_cluster.url, cluster=True), "test", ttl_ms=60_000, durability="replica", patience_s=1.0)
        try:
            for slot in map(str, range(12)):
                if await is_on(store, slot, redis_cluster.nodes[0].port) == with_first:
                    version = (await store.load(slot, ())).version
                    assert await store.commit(slot, version, Changes(cursor=b"x"))
            await store.settled()
        finally:
            await store.close()

    asyncio.run(settled(with_first=True))
    with pytest.raises(DependencyDown, match="no Redis replica"):
        asyncio.run(settled(with_first=False))


@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_all_that_is_kept_is_found(kind: str, request: pytest.FixtureRequest) -> None:
    """The shoppers of a slot, and every key of the namespace as a backup reads it; what is written to ask the replicas is none of them."""
    cluster = kind == "cluster"
    server = request.getfixturevalue(f"redis_{'cluster' if cluster else 'url'}")
    access, slots = RedisAccess(server.url if cluster else server, cluster=cluster), [str(p) for p in range(6)]
    shoppers = {slot: {f"u:{slot}-{i}": b"x" for i in range(20 + 10 * int(slot))} for slot in slots}

    async def check() -> None:
        store = RedisStore(access, "test-all", ttl_ms=60_000, durability="replica", patience_s=1.0)
        try:
            await store.delete_entries()
            for slot, records in shoppers.items():
                assert await store.commit(slot, 0, Changes(cursor=b"c", records={**records, f"ul:{slot}": b"y"}))
            with suppress(DependencyDown):  # not every server here has a replica
                await store.settled()
            for slot, records in shoppers.items():
                assert {name async for names in store.records(slot, "u:") for name in names} == set(records)
            kept = {(slot, name) for slot in slots for name in ("cursor", f"ul:{slot}", *shoppers[slot])}
            assert {place async for place in store.names()} == kept
            assert {(entry.slot, entry.name) async for entry in store.entries()} == kept
            assert await store.delete_entries() == len(kept)
        finally:
            await store.close()

    asyncio.run(check())


def test_a_server_that_came_back_fails_nobody_later(tmp_path: Path) -> None:
    """Connections that waited in the pool while it was away are let go with the first one that fails: a commit, which is tried once, does not meet them."""

    async def check() -> None:
        with EmbeddedValkey(tmp_path) as valkey:
            store = RedisStore(valkey.url, "test", ttl_ms=60_000, patience_s=10.0)
            slots = [str(p) for p in range(6)]
            try:
                assert all(await asyncio.gather(*(store.commit(slot, 0, Changes(cursor=b"x")) for slot in slots)))
                valkey.kill()
                valkey.start()
                await store.meta()
                assert all(await asyncio.gather(*(store.commit(slot, 0, Changes(cursor=b"x")) for slot in slots)))
            finally:
                await store.close()

    asyncio.run(check())


def test_a_single_server_is_no_cluster(redis_url: str) -> None:
    """The setting `redis_cluster` with a server that is none is refused with the server's own words."""
    assert "luster" in refused(RedisAccess(redis_url, cluster=True))
