"""Erasing what is kept of a shopper in Redis, while workers run.

It is a commit like any other: the partition gets another version, so the worker that holds it has its own next one refused. It drops what it has at hand,
the shopper's records too, and goes on from the cursor. Of whoever was erased stays a hash, by which the ledger knows that their events need not be in a state.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from features.errors import InputError, Mismatch
from features.events import ID_LENGTH
from features.hashing import partition_for
from features.intake import hash64
from features.redis_store import RedisStore
from features.store import Changes, Store, fresh_version
from streams import namespace
from streams.settings import Settings

ERASED: Final = "erased"  # the hash of a partition's slot: when (ms), by `mark_of` the shopper
TRIES: Final = 100
LOOKS: Final = 10  # a worker may write a record between the look and the commit; so it is over when a look finds nothing


def mark_of(user: str) -> str:
    """Return what stays of a shopper who was erased: 16 hex digits."""
    return f"{hash64(user):016x}"


def check_user(user: str) -> str:
    """Return the id. Raises InputError for one that no event can have."""
    if not 0 < len(user) <= ID_LENGTH or any(character < " " or "\ud800" <= character <= "\udfff" for character in user):
        raise InputError(f"{user[:40]!r} is no user id: 1 to {ID_LENGTH} characters of UTF-8, none of them a control character")
    return user


async def homes(store: Store, settings: Settings, users: Sequence[str]) -> dict[int, list[str]]:
    """Return the shoppers by each partition that may know them. Raises InputError for an empty namespace or a replay's, and Mismatch for one that is not whole."""
    held = await store.meta()
    partitions, _ = namespace.sizes_of(held, settings.namespace)
    if namespace.clock_of(held) != namespace.LIVE:
        raise InputError(f"namespace {settings.namespace!r} is a replay's, whose state follows from its log alone: erase the shopper there")
    if not settings.partitioner_check:
        return {p: list(users) for p in range(partitions)}
    found: dict[int, list[str]] = {}
    for user in users:
        found.setdefault(partition_for(user.encode(), partitions), []).append(user)
    return found


async def kept(store: RedisStore, partition: int, users: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of shoppers' records in a partition, of those who have any. One pass over the keys in Redis, however many shoppers."""
    slot = str(partition)
    own = await store.read(slot, [f"u:{user}" for user in users])
    found = {user: {f"u:{user}"} for user, value in zip(users, own, strict=True) if value is not None}
    wanted = {f"ul:{user}": user for user in users}
    async for names in store.records(slot, f"ul:{users[0]}\x1f" if len(users) == 1 else "ul:"):
        for name in names:
            if (who := wanted.get(name.partition("\x1f")[0])) is not None:
                found.setdefault(who, set()).add(name)
    return {user: sorted(found[user]) for user in users if user in found}


async def erase(store: RedisStore, partition: int, users: Sequence[str]) -> dict[str, int]:
    """Erase shoppers' records in a partition, together, since each commit makes its worker load again; returns how many there were, of those who had any.

    What comes of them from now on is kept as that of new ones; the mark of who was erased, for as long as a state. Raises Mismatch where
    shoppers' events come, or the partition changes, faster than it can be written, and DependencyDown. Then try again: what is erased stays erased.
    """
    erased: Counter[str] = Counter()
    for _ in range(LOOKS):
        found = await kept(store, partition, users)
        if not found:
            await store.settled(str(partition))  # what an earlier try erased, too
            return dict(erased)
        await _commit(store, str(partition), found)
        erased.update({user: len(names) for user, names in found.items()})
    raise Mismatch(f"events of {next(iter(found))!r:.60} come all the time: stop sending what is to be erased, and try again")


async def _commit(store: RedisStore, slot: str, found: Mapping[str, Sequence[str]]) -> None:
    now_ms, names = time.time_ns() // 1_000_000, [name for some in found.values() for name in some]
    put = {ERASED: {mark_of(user): str(now_ms).encode() for user in found}}
    for _ in range(TRIES):
        held = await store.load(slot, (ERASED,))
        if not held.version:
            break
        old = [mark for mark, at_ms in held.hashes[ERASED].items() if int(at_ms) < now_ms - store.ttl_ms]
        changes = Changes(cursor=held.cursor, put=put, drop={ERASED: old}, erased=names, expire=[ERASED], version=fresh_version(held.version))
        if await store.commit(slot, held.version, changes):
            return
    raise Mismatch(f"partition {slot} is being committed without a pause, or put back from a backup; try again")
