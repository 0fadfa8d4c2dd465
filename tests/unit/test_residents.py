"""Records at hand: found where they were left, never let go of while they are changed."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from features.layout import USER
from features.names import Names, names_of
from features.residents import Missing, Residents
from features.store import Block


def record(applied: int) -> bytes:
    """A user's record with a count."""
    one = np.zeros(1, USER)
    one["applied"] = applied
    return one.tobytes()


def find(residents: Residents, names: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """The places of names, and those that have none."""
    places, missing = residents.find(names_of(names))
    assert (missing.keys == names_of(missing.texts).keys).all()
    return places, missing.texts


def take_in(residents: Residents, names: list[str], values: Sequence[bytes | None]) -> None:
    """Hold records by their names."""
    residents.take_in(Missing(names, names_of(names).keys), values)


def test_what_is_taken_in_is_found() -> None:
    """By name, with its content; who is unknown has an empty record; a name that is asked for twice is missing once."""
    residents = Residents(USER, 100)
    places, missing = find(residents, ["ann", "bob", "ann"])
    assert places.tolist() == [-1, -1, -1]
    assert missing == ["ann", "bob"]
    take_in(residents, missing, [record(7), None])
    places, missing = find(residents, ["bob", "ann", "bob"])
    assert missing == []
    assert residents.rows["applied"][places].tolist() == [0, 7, 0]


def test_what_was_changed_is_told_once() -> None:
    """Each record once, with its latest content, until it is committed."""
    residents = Residents(USER, 100)
    take_in(residents, ["ann", "bob"], [None, None])
    places, _ = find(residents, ["bob", "ann", "bob"])
    residents.change(places)
    residents.rows["applied"][places] = [1, 2, 3]
    block = residents.changes()
    assert block.split() == {"ann": record(2), "bob": record(3)}
    residents.committed()
    assert residents.changes() == Block([], USER.itemsize, b"")


@pytest.mark.parametrize("most", [1, 3, 50])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_changed_is_lost_however_few_are_held(seed: int, most: int) -> None:
    """Users counted at random, in batches, with a store behind: the counts are exact, and memory is bounded by what is held or in use."""
    rng, residents = random.Random(seed), Residents(USER, most)
    store: dict[str, bytes] = {}
    wanted: dict[str, int] = {}
    for _ in range(300):
        names = [f"user{rng.randrange(40)}" for _ in range(rng.randrange(1, 8))]
        places, missing = find(residents, names)
        if missing:
            take_in(residents, missing, [store.get(name) for name in missing])
            places, missing = find(residents, names)
        assert missing == []
        residents.change(places)
        np.add.at(residents.rows["applied"], places, 1)
        for name in names:
            wanted[name] = wanted.get(name, 0) + 1
        if rng.random() < 0.3:
            store |= residents.changes().split()
            residents.committed()
            assert len(residents.rows) <= max(most, 40)
    store |= residents.changes().split()
    assert {name: int(np.frombuffer(store[name], USER)["applied"][0]) for name in wanted} == wanted


def test_the_longest_unused_makes_room() -> None:
    """Who was asked for lately stays."""
    residents = Residents(USER, 64)
    take_in(residents, [f"user{i}" for i in range(64)], [None] * 64)
    find(residents, [f"user{i}" for i in range(60)])
    take_in(residents, ["new1", "new2"], [None, None])
    assert len(residents.rows) == 64
    _, missing = find(residents, ["new1", "new2", *(f"user{i}" for i in range(60))])
    assert missing == []
    assert find(residents, ["user60"])[1] == ["user60"]


@pytest.mark.parametrize("half", [0, 1])
def test_names_that_share_half_of_a_key_are_told_apart(half: int) -> None:
    """And those that share the bits by which a place in the table is found, however many, also across its end."""
    keys = np.full((40, 2), np.iinfo(np.uint64).max, np.uint64)
    keys[:, half] -= np.arange(40, dtype=np.uint64) << np.uint64(32)
    names = Names(keys, [f"user{i}" for i in range(40)].__getitem__)
    residents = Residents(USER, 100)
    residents.take_in(Missing([names.text(i) for i in range(0, 40, 2)], keys[::2]), [record(i) for i in range(0, 40, 2)])
    places, missing = residents.find(names)
    assert missing.texts == [names.text(i) for i in range(1, 40, 2)]
    assert residents.rows["applied"][places[::2]].tolist() == list(range(0, 40, 2))
