"""A partition's records at hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from features.layout import USER, USER_LINE
from features.memory_store import MemoryStore
from features.names import names_of
from features.store import Changes
from streams.partition import Partition
from tests.builders import make_rules


class Asked(MemoryStore):
    """Notes what was read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[list[str]] = []

    async def read(self, slot: str, keys: Sequence[str]) -> list[bytes | None]:
        self.reads.append(list(keys))
        return await super().read(slot, keys)


def test_users_and_lines_come_in_one_answer() -> None:
    """What is not at hand of either is read at once, each name once, and lies where it is said to lie; what is at hand is not read."""
    records = {
        **{f"u:{name}": bytes([i]) * USER.itemsize for i, name in enumerate("abc", 1)},
        "ul:a": b"\7" * USER_LINE.itemsize,
        "ul:c": b"\x09" * USER_LINE.itemsize,
    }

    async def go() -> None:
        store = Asked()
        await store.commit("0", 0, Changes(cursor=b"", records=records))
        empty = await Partition.load(0, MemoryStore(), make_rules())
        partition = Partition(0, store, make_rules(), version=1, cursor=empty.cursor, pending=empty.pending)
        await partition.place_users(["b"])
        assert store.reads == [["u:b"]]
        users, lines = await partition.place(names_of(["a", "b", "a", "new", "c"]), names_of(["c", "a", "c", "other"]))
        assert store.reads[1:] == [["u:a", "u:new", "u:c", "ul:c", "ul:a", "ul:other"]]
        held = [partition.users.rows[place].tobytes()[:1] for place in users]
        assert held == [b"\1", b"\2", b"\1", b"\0", b"\3"]
        assert [partition.lines.rows[place].tobytes()[:1] for place in lines] == [b"\x09", b"\7", b"\x09", b"\0"]
        await partition.place(names_of(["c", "new"]), names_of(["other"]))
        assert len(store.reads) == 2

    asyncio.run(go())


@pytest.mark.parametrize("seed", range(10))
def test_what_is_at_hand_stays_where_it_is_while_others_make_room(seed: int) -> None:
    """Far more shoppers than are held at a time, some asked for again and again: each lies where it is said to lie."""
    rng, names = random.Random(seed), [f"u{i}" for i in range(60)]
    records = {f"{prefix}{name}": bytes([i]) * dtype.itemsize for i, name in enumerate(names) for prefix, dtype in (("u:", USER), ("ul:", USER_LINE))}

    async def go() -> None:
        store, rules = MemoryStore(), make_rules(lru_users=8)
        await store.commit("0", 0, Changes(cursor=b"", records=records))
        empty = await Partition.load(0, MemoryStore(), make_rules())
        partition = Partition(0, store, rules, version=1, cursor=empty.cursor, pending=empty.pending)
        for _ in range(60):
            users, lines = ([rng.choice(names[: rng.choice([5, 60])]) for _ in range(rng.randrange(12))] for _ in range(2))
            places = await partition.place(names_of(users), names_of(lines))
            for held, asked, at in zip((partition.users, partition.lines), (users, lines), places, strict=True):
                assert [held.rows[place].tobytes()[0] for place in at.tolist()] == [names.index(name) for name in asked]
        assert len(partition.users.find(names_of(names))[1].texts) > 20

    asyncio.run(go())
