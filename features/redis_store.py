"""The store in Redis or Valkey. The only importer of redis.

All keys of a slot share its hash tag (`hs:<namespace>:{<slot>}:...`), so on Redis Cluster they are one slot and change atomically.
A commit is one Lua script that compares the version first; an unanswered commit may have been done, so after an error the caller
loads the slot again and compares.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

import msgspec
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ClusterDownError, NoPermissionError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from features.errors import DependencyDown, InputError
from features.redis_access import RedisAccess
from features.redis_packing import packing
from features.store import Changes, Slot

logger = logging.getLogger(__name__)

DURABILITIES: Final = ("memory", "disk", "replica")
LONGEST_ANSWER_S: Final = 30.0  # a connection that says nothing for so long is given up, also by a store with more patience

# KEYS: cursor, then the records, then those of each block, then for each part a hash, or the records that go, or the hashes that will.
# ARGV: expected version, new version, cursor, ttl ms, whether to try MSETEX, number of records, their values, number of blocks, for each its count, width
# and values in one, then for each part: "put"|"drop", n, n fields (and values), or "DEL"|"PEXPIRE", n.
# Answers 0: another version; 1: done; 2: done, but not by MSETEX. Words are handed to a command as many at a time as Lua allows.
_COMMIT: Final = """
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'cursor', ARGV[3])
local together, answer, most = ARGV[5] == '1', 1, 2000
local words = {}
local function write()
  local n = #words
  if n == 0 then return end
  if together then
    words[n + 1], words[n + 2] = 'PX', ARGV[4]
    local said = redis.pcall('MSETEX', n / 2, unpack(words))
    if type(said) == 'table' and said.err then together, answer = false, 2 end
  end
  if not together then
    for i = 1, n, 2 do redis.call('SET', words[i], words[i + 1], 'PX', ARGV[4]) end
  end
  words = {}
end
local function set(key, value)
  local n = #words
  words[n + 1], words[n + 2] = key, value
  if n + 2 == most then write() end
end
local n = tonumber(ARGV[6])
for i = 1, n do set(KEYS[1 + i], ARGV[6 + i]) end
local a, k = 8 + n, 2 + n
for _ = 1, tonumber(ARGV[7 + n]) do
  local count, width, values = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), ARGV[a + 2]
  for i = 0, count - 1 do set(KEYS[k + i], string.sub(values, i * width + 1, (i + 1) * width)) end
  a, k = a + 3, k + count
end
write()
while a <= #ARGV do
  local command, count = 'HDEL', tonumber(ARGV[a + 1])
  if ARGV[a] == 'DEL' or ARGV[a] == 'PEXPIRE' then
    for i = k, k + count - 1 do
      if ARGV[a] == 'DEL' then redis.call('DEL', KEYS[i]) else redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
    end
    a, k = a + 2, k + count
  else
    if ARGV[a] == 'put' then command, count = 'HSET', 2 * count end
    local last = a + 1 + count
    for at = a + 2, last, most do redis.call(command, KEYS[k], unpack(ARGV, at, math.min(at + most - 1, last))) end
    a, k = last + 1, k + 1
  end
end
return answer
"""
_LOAD: Final = """
local out = {redis.call('HMGET', KEYS[1], 'version', 'cursor')}
for i = 2, #KEYS do out[i] = redis.call('HGETALL', KEYS[i]) end
return out
"""
_CLAIM: Final = """
for i = 1, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
return redis.call('HGETALL', KEYS[1])
"""
SCAN_COUNT: Final = 5_000
READ_AT_ONCE: Final = 500
FIELDS_AT_ONCE: Final = 1_000
RECORDS: Final = ("u:", "ul:")  # the names of what is no hash
SETTLED: Final = "settled"  # what is written to ask whether replicas have everything; it is empty, and no part of the state
T = TypeVar("T")


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One key as it is stored: a record, or fields of a hash (a long hash comes in parts). `ttl_ms` -1: it does not expire."""

    slot: str
    name: str
    record: bytes | None = None
    fields: dict[str, bytes] | None = None
    ttl_ms: int = -1


def _client(access: RedisAccess, *, timeout_s: float) -> Any:
    """A client, not connected yet. Raises InputError for an address or a certificate's file that cannot be used."""
    options: dict[str, Any] = {"socket_connect_timeout": 5, "socket_timeout": timeout_s, "retry": Retry(NoBackoff(), 0)}
    url = access.url
    if access.user or access.password:
        url, parts = access.without_user, urlsplit(access.url)
        user, password = access.user or unquote(parts.username or ""), access.password or unquote(parts.password or "")
        options |= {"username": user or None, "password": password}
    for name, file in (("cafile", access.cafile), ("certfile", access.certfile), ("keyfile", access.keyfile)):
        if file and not Path(file).is_file():
            raise InputError(f"setting 'redis_ssl_{name}': there is no file {file}")
    if access.encrypted:
        options |= {"ssl_check_hostname": access.check_hostname, "ssl_ca_certs": access.cafile or None}
        options |= {"ssl_certfile": access.certfile or None, "ssl_keyfile": access.keyfile or None}
    elif access.cafile or access.certfile or access.keyfile:
        raise InputError("certificates are given for Redis, but its address is not encrypted: use rediss://")
    try:
        if access.cluster:
            return redis.RedisCluster.from_url(url, **options)
        client = redis.Redis.from_url(url, **options)
    except ValueError as error:
        raise InputError(f"the Redis address cannot be used: {error}") from None
    client.connection_pool.connection_class = packing(client.connection_pool.connection_class)
    return client


def _literal(text: str) -> str:
    """The text as a pattern of Redis that matches itself."""
    return "".join(f"\\{c}" if c in "*?[]^-\\" else c for c in text)


class RedisStore:
    """Fulfils `features.store.Store`.

    `ttl_ms` is the records' life in wall time (they are read as empty long before, by event time). Each command is tried for up to
    `patience_s` seconds in all when the connection fails, then `DependencyDown` is raised; `commit` is tried once. With `msetex` it writes records by
    MSETEX, which costs a third less: a server that has none is found out, but a replica that has none would drop whole commits and say nothing.
    """

    def __init__(
        self, access: RedisAccess | str, namespace: str, *, ttl_ms: int, durability: str = "memory", msetex: bool = False, patience_s: float = 10.0
    ) -> None:  # fmt: skip
        """`access` may be an address alone."""
        if durability not in DURABILITIES:
            raise InputError(f"setting 'durability' is one of {', '.join(DURABILITIES)}, got {durability!r}")
        self._access = RedisAccess(access) if isinstance(access, str) else access
        answer_s = min(LONGEST_ANSWER_S, patience_s)
        self._redis = _client(self._access, timeout_s=answer_s)
        self._replicas_ms = int(500 * answer_s)  # Redis says how many have confirmed well before the socket gives up
        self._prefix = f"hs:{namespace}:"
        self.ttl_ms, self._durability, self._patience_s = ttl_ms, durability, patience_s
        self._commit = self._redis.register_script(_COMMIT)
        self._load = self._redis.register_script(_LOAD)
        self._claim = self._redis.register_script(_CLAIM)
        # The last: a cluster's client may write to a connection that another task has just closed (redis-py 8).
        on_clusters = (RedisClusterException, ClusterDownError, AttributeError) if self._access.cluster else ()
        self._lost: tuple[type[Exception], ...] = (RedisConnectionError, RedisTimeoutError, OSError, *on_clusters)
        self._msetex = msetex
        self._written: set[str] = set()  # on a cluster: a key of each slot that this store has committed to

    def _key(self, slot: str, name: str) -> str:
        return f"{self._prefix}{{{slot}}}:{name}"

    async def _tried(self, call: Callable[[], Awaitable[T]], *, again: bool = True) -> T:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience_s
        pause_s = 0.05
        while True:
            try:
                if self._access.cluster:
                    # redis-py 8: tasks that find a cluster's client without its map all at once close each other's connections.
                    await self._redis.initialize()
                return await call()
            except (AuthenticationError, NoPermissionError) as error:
                raise InputError(f"Redis at {self._access.place} refuses this user: {error}") from None
            except self._lost as error:
                if not self._access.cluster:
                    await self._forget_idle()
                if not again or loop.time() + pause_s > give_up:
                    raise DependencyDown(f"Redis does not answer at {self._access.place}: {error}") from error
            except RedisError as error:
                if "ACL failure" in str(error):  # so it says of what a script may not do
                    raise InputError(f"Redis at {self._access.place} refuses this user: {error}") from None
                raise DependencyDown(f"Redis refused a command: {error}") from error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    async def _forget_idle(self) -> None:
        """Let go of the connections that wait in the pool: where one has failed they are dead too, and each would fail somebody long after this is over."""
        for connection in list(self._redis.connection_pool._available_connections):
            with suppress(*self._lost):
                await connection.disconnect(nowait=True)  # else another task could take it while its TLS says goodbye

    async def load(self, slot: str, hashes: Sequence[str]) -> Slot:
        keys = [self._key(slot, "cursor"), *(self._key(slot, name) for name in hashes)]
        answer = cast(list[Any], await self._tried(lambda: self._load(keys=keys)))
        version, cursor = answer[0]
        held = {}
        for name, flat in zip(hashes, answer[1:], strict=True):
            held[name] = {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}
        return Slot(int(version or 0), cursor or b"", held)

    async def read(self, slot: str, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        start = self._key(slot, "")
        names = [start + key for key in keys]
        return cast(list[bytes | None], await self._tried(lambda: self._redis.mget(names)))

    async def read_hash(self, slot: str, name: str, fields: Sequence[str]) -> list[bytes | None]:
        if not fields:
            return []
        return cast(
            list[bytes | None],
            await self._tried(lambda: cast(Awaitable[Any], self._redis.hmget(self._key(slot, name), list(fields)))),
        )

    async def commit(self, slot: str, expected: int, changes: Changes) -> bool:
        keys = [self._key(slot, "cursor")]
        version = expected + 1 if changes.version is None else changes.version
        arguments: list[bytes | str | int] = [expected, version, changes.cursor, self.ttl_ms, int(self._msetex), len(changes.records)]
        for key, value in changes.records.items():
            keys.append(self._key(slot, key))
            arguments.append(value)
        arguments.append(len(changes.blocks))
        for block in changes.blocks:
            prefix = self._key(slot, "")
            keys += [prefix + name for name in block.names]
            arguments += [len(block.names), block.width, block.values]
        for name, fields in changes.drop.items():
            if fields:
                keys.append(self._key(slot, name))
                arguments += ["drop", len(fields), *fields]
        for name, values in changes.put.items():
            if values:
                keys.append(self._key(slot, name))
                fields_and_values: Iterator[str | bytes] = chain.from_iterable(values.items())
                arguments += ["put", len(values), *fields_and_values]
        for command, names in (("DEL", changes.erased), ("PEXPIRE", changes.expire)):
            if names:
                keys += [self._key(slot, name) for name in names]
                arguments += [command, len(names)]
        self._written.add(self._key(slot, SETTLED))
        answer = await self._tried(lambda: self._commit(keys=keys, args=arguments), again=False)
        if answer == 2:
            logger.warning("Redis has no MSETEX, or not for this user, though redis_msetex is on: records are set one by one until this process ends")
            self._msetex = False
        return bool(answer)

    async def settled(self, *slots: str) -> None:
        """As the contract says; of these slots also what others have committed."""
        self._written.update(self._key(slot, SETTLED) for slot in slots)
        if self._durability == "replica" and await self._tried(self._confirmed) < 1:
            raise DependencyDown("no Redis replica confirmed the commit (durability 'replica')")

    async def _confirmed(self) -> int:
        """Return how many replicas have everything, the least over all servers that were written to.

        WAIT covers its own connection's writes, and the commit may have gone over another one: so write something here first.
        """
        wait = ("WAIT", 1, self._replicas_ms)
        pipe = self._redis.pipeline(transaction=False)
        if isinstance(self._redis, redis.RedisCluster):
            nodes = {node.name: (node, key) for key in sorted(self._written) if (node := self._redis.get_node_from_key(key)) is not None}
            for node, key in nodes.values():
                pipe.set(key, b"")
                pipe.execute_command(*wait, target_nodes=node)
        else:
            pipe.set(self._prefix + SETTLED, b"")
            pipe.execute_command(*wait)
        return min((int(confirmed) for confirmed in (await pipe.execute())[1::2]), default=1)

    async def check_durability(self) -> None:
        """Raise `InputError` when the server cannot keep what the setting `durability` promises."""
        if self._durability != "disk":
            return
        try:
            held = await self._redis.config_get("append*")
        except RedisError:
            return  # a managed Redis may forbid CONFIG: the operator vouches
        if held.get("appendonly") != "yes" or held.get("appendfsync") != "always":
            raise InputError("durability 'disk' needs Redis with appendonly yes and appendfsync always")

    async def time_ms(self) -> int:
        """Return the server's clock, in milliseconds since the epoch."""
        seconds, microseconds = cast(tuple[int, int], await self._tried(lambda: self._redis.time()))
        return seconds * 1000 + microseconds // 1000

    async def meta(self) -> dict[str, str]:
        held = await self._tried(lambda: cast(Awaitable[dict[bytes, bytes]], self._redis.hgetall(self._prefix + "meta")))
        return {name.decode(): value.decode() for name, value in held.items()}

    async def put_meta(self, values: Mapping[str, str]) -> None:
        mapping = cast(dict[bytes | bytearray | memoryview | str | int | float, bytes | bytearray | memoryview | str | int | float], dict(values))
        await self._tried(lambda: self._redis.hset(self._prefix + "meta", mapping=mapping))

    async def claim_meta(self, values: Mapping[str, str]) -> dict[str, str]:
        arguments = [text for entry in values.items() for text in entry]
        flat = cast(list[bytes], await self._tried(lambda: self._claim(keys=[self._prefix + "meta"], args=arguments)))
        return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}

    async def put_beat(self, name: str, value: bytes) -> None:
        await self._tried(lambda: cast(Awaitable[Any], self._redis.hset(self._prefix + "beats", name, value)))

    async def beats(self) -> dict[str, bytes]:
        held = await self._tried(lambda: cast(Awaitable[dict[bytes, bytes]], self._redis.hgetall(self._prefix + "beats")))
        return {name.decode(): value for name, value in held.items()}

    async def drop_beats(self, names: Sequence[str]) -> None:
        if names:
            await self._tried(lambda: cast(Awaitable[Any], self._redis.hdel(self._prefix + "beats", *names)))

    async def records(self, slot: str, prefix: str) -> AsyncIterator[list[str]]:
        """Yield the keys of a slot's records that begin with a prefix, some at a time; one may come twice, as Redis' SCAN says."""
        start = self._key(slot, "")
        cursor = 0

        async def page() -> tuple[int, list[bytes]]:
            there: dict[str, Any] = {}
            if isinstance(self._redis, redis.RedisCluster):  # a slot is on one node, whose cursor comes under its name
                there["target_nodes"] = self._redis.get_node_from_key(start)
            at, found = await self._redis.scan(cursor, match=_literal(start + prefix) + "*", count=SCAN_COUNT, **there)
            return next(iter(at.values())) if isinstance(at, dict) else at, found

        while True:
            cursor, found = await self._tried(page)
            if found:
                yield [name.decode("utf-8", "surrogateescape").removeprefix(start) for name in found]
            if not cursor:
                return

    async def names(self) -> AsyncIterator[tuple[str, str]]:
        """Yield (slot, name) of every key of the namespace that has a slot; one that changes meanwhile may come twice."""
        try:
            async for raw in self._redis.scan_iter(match=self._prefix + "{*", count=SCAN_COUNT):
                slot, _, name = raw.decode().removeprefix(self._prefix + "{").partition("}:")
                if name != SETTLED:
                    yield slot, name
        except RedisError as error:
            raise DependencyDown(f"Redis does not answer: {error}") from error

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield every key of the namespace that has a slot, with what it holds; one that is written meanwhile may come twice, or torn."""
        batch: list[tuple[str, str]] = []
        async for place in self.names():
            batch.append(place)
            if len(batch) == READ_AT_ONCE:
                for entry in await self._entries(batch):
                    yield entry
                batch.clear()
        for entry in await self._entries(batch):
            yield entry

    async def _entries(self, places: Sequence[tuple[str, str]]) -> list[Entry]:
        names = [self._key(slot, name) for slot, name in places]
        records = [i for i, (_, name) in enumerate(places) if name.startswith(RECORDS)]

        async def read() -> list[Any]:
            pipe = self._redis.pipeline(transaction=False)
            for i, name in enumerate(names):
                if i in wanted:
                    pipe.get(name)
                else:
                    pipe.hgetall(name)
                pipe.pttl(name)
            return list(await pipe.execute())

        wanted = set(records)
        answers = iter(await self._tried(read))
        out = []
        for i, (slot, name) in enumerate(places):
            answer, ttl_ms = next(answers), next(answers)
            if i in wanted:
                if answer is not None:  # else it has expired meanwhile
                    out.append(Entry(slot, name, record=answer, ttl_ms=ttl_ms))
                continue
            fields = [(field.decode(), value) for field, value in answer.items()]
            out += [Entry(slot, name, fields=dict(fields[at : at + FIELDS_AT_ONCE]), ttl_ms=ttl_ms) for at in range(0, len(fields), FIELDS_AT_ONCE)]
        return out

    async def put_entries(self, entries: Sequence[Entry]) -> None:
        """Write keys as they were read, whatever is there."""

        async def put() -> None:
            pipe = self._redis.pipeline(transaction=False)
            for entry in entries:
                name = self._key(entry.slot, entry.name)
                ttl_ms = None if entry.ttl_ms == -1 else max(1, entry.ttl_ms)  # 0 in a key's last millisecond, -2 if it was gone when that was asked
                if entry.fields is not None:
                    pipe.hset(name, mapping=cast(Any, entry.fields))
                    if ttl_ms is not None:
                        pipe.pexpire(name, ttl_ms)
                elif entry.record is not None:
                    pipe.set(name, entry.record, px=ttl_ms)
            await pipe.execute()

        if entries:
            await self._tried(put)

    async def delete_entries(self, slots: Container[str] | None = None) -> int:
        """Delete every key of the namespace that has a slot, or one of these slots; returns how many."""
        gone, batch = 0, []
        async for slot, name in self.names():
            if slots is not None and slot not in slots:
                continue
            batch.append(self._key(slot, name))
            if len(batch) == READ_AT_ONCE:
                gone += await self._delete(batch)
                batch.clear()
        return gone + await self._delete(batch)

    async def _delete(self, names: Sequence[str]) -> int:
        async def delete() -> int:
            pipe = self._redis.pipeline(transaction=False)
            for name in names:
                pipe.execute_command("UNLINK", name)  # a cluster's pipeline has `unlink` too, which puts nothing into it
            return sum(await pipe.execute())

        return await self._tried(delete) if names else 0

    async def close(self) -> None:
        await self._redis.aclose()
