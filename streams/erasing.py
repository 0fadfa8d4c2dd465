"""Erasing what is kept of a shopper in Redis, while workers run.

It is a commit like any other: the partition gets another version, so the worker that holds it has its own next one refused. It drops what it has at hand,
the shopper's records too, and goes on from the cursor. Of whoever was erased stays a hash, by which the ledger knows that their events need not be in a state.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
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
LOOKS: Final = 3  # a worker may write a record between the look and the commit


def mark_of(user: str) -> str:
    """Return what stays of a shopper who was erased: 16 hex digits."""
    return f"{hash64(user):016x}"


def check_user(user: str) -> str:
    """Return the id. Raises InputError for one that no event can have."""
    if not 0 < len(user) <= ID_LENGTH or any(character < " " for character in user):
        raise InputError(f"{user[:40]!r} is no user id: 1 to {ID_LENGTH} characters, none of them a control character")
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


async def kept(store: RedisStore, partition: int, user: str) -> list[str]:
    """Return the names of a shopper's records in a partition."""
    slot, name = str(partition), f"u:{user}"
    found = {name} if (await store.read(slot, [name]))[0] is not None else set[str]()
    async for names in store.records(slot, f"ul:{user}\x1f"):
        found.update(names)
    return sorted(found)


async def erase(store: RedisStore, partition: int, users: Sequence[str], looked: Callable[[], object] = lambda: None) -> Counter[str]:
    """Erase shoppers' records in a partition, together, since each commit makes its worker load again; returns how many there were of each.

    What comes of them from now on is kept as that of new ones. `looked` is called for each of them. Raises Mismatch where the partition changes faster than
    it can be written, and DependencyDown. Then try again: what is erased stays erased.
    """
    erased: Counter[str] = Counter()
    for look in range(LOOKS):
        names: list[str] = []
        there = []
        for user in users:
            if found := await kept(store, partition, user):
                names += found
                there.append(user)
                erased[user] += len(found)
            if not look:
                looked()
        if not names:
            break
        await _commit(store, str(partition), names, there)
    return erased


async def _commit(store: Store, slot: str, names: list[str], users: Sequence[str]) -> None:
    now = str(time.time_ns() // 1_000_000).encode()
    put = {ERASED: {mark_of(user): now for user in users}}
    for _ in range(TRIES):
        held = await store.load(slot, ())
        if await store.commit(slot, held.version, Changes(cursor=held.cursor, put=put, erased=names, version=fresh_version(held.version))):
            await store.settled()
            return
    raise Mismatch(f"partition {slot} is being committed without a pause; try again")
