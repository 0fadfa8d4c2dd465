"""Exposures through their delay bins: what closes when, in which order, and what an order counts for."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from features.events import BROWSE, CART, CLICK, ORDER
from features.exposures import NONE, Closed, exposure_id, is_followed
from features.pending import Pending
from tests.exposing import EDGES, T, add, exposed, id_of, mark, name_of, pending


def told(closed: list[Closed]) -> list[tuple[int, int, int, int]]:
    """(close time since T, bin, y, label) of each."""
    return [(c.close_ms - T, c.bin, c.y, c.label) for c in closed]


def all_of(held: Pending) -> list[Closed]:
    """Everything that closes."""
    return list(held.close(10**9))


def test_without_an_order_every_bin_says_no() -> None:
    """One negative a bin; the label is final with the last, and then nothing is open."""
    held = pending(exposed())
    assert told(all_of(held)) == [(100, 1, 0, NONE), (400, 2, 0, NONE), (1000, 3, 0, 0)]
    assert len(held) == 0
    assert not held.has_due(10**9)


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (1, [(100, 1, 1, NONE), (1000, 0, 0, 1)]),
        (100, [(100, 1, 1, NONE), (1000, 0, 0, 1)]),
        (101, [(100, 1, 0, NONE), (400, 2, 1, NONE), (1000, 0, 0, 1)]),
        (1000, [(100, 1, 0, NONE), (400, 2, 0, NONE), (1000, 3, 1, 1)]),
        (1001, [(100, 1, 0, NONE), (400, 2, 0, NONE), (1000, 3, 0, 0)]),
        (0, [(100, 1, 0, NONE), (400, 2, 0, NONE), (1000, 3, 0, 0)]),
        (-1, [(100, 1, 0, NONE), (400, 2, 0, NONE), (1000, 3, 0, 0)]),
    ],
)
def test_an_order_falls_into_the_bin_of_its_delay(delay: int, expected: list[tuple[int, int, int, int]]) -> None:
    """Strictly later than the exposure and up to the window's end inclusive; the label waits for the window's end."""
    held = pending(exposed())
    mark(held, "ann", ["line:shoes"], ORDER, T + delay)
    assert told(all_of(held)) == expected


def test_positives_and_negatives_of_a_bin_close_together() -> None:
    """In order of (close time, id), whatever order they opened in and however the closing is cut up."""
    seen = set()
    for seed in range(6):
        rng = random.Random(seed)
        exposures = [exposed(f"{i:02d}", T + 50 * (i % 5), user=f"u{i}") for i in range(20)]
        rng.shuffle(exposures)
        held = pending(*exposures)
        for i in rng.sample(range(20), 20):
            if i % 3 == 0:
                mark(held, f"u{i}", ["line:shoes"], ORDER, T + 50 * (i % 5) + 7 * (i + 1))
        cuts = [*sorted(rng.sample(range(T, T + 1500), seed)), T + 2000]
        seen.add(tuple((c.close_ms, name_of(c.exposure.id), c.bin, c.y, c.label) for cut in cuts for c in held.close(cut)))
    assert len(seen) == 1
    (facts,) = seen
    assert [f[:2] for f in facts] == sorted(f[:2] for f in facts)
    assert {f[3] for f in facts if f[0] == T + 100} == {0, 1}


def test_only_what_is_due_closes() -> None:
    """A bin that ends at the time closes, one that ends a millisecond later does not."""
    held = pending(exposed("a"), exposed("b", T + 1))
    assert not held.has_due(T + 99)
    assert held.has_due(T + 100)
    assert [name_of(c.exposure.id) for c in held.close(T + 100)] == ["a"]
    assert list(held.close(T + 100)) == []


def test_an_order_counts_for_every_open_exposure_of_its_user_and_domain() -> None:
    """Not for another user's, nor another domain's; further orders and cheaper events add nothing."""
    held = pending(exposed("a"), exposed("b", T + 10), exposed("other user", user="bob"), exposed("other domain", domain="line:bags"))
    for kind in (BROWSE, CLICK, CART):
        mark(held, "ann", ["line:shoes", "launch"], kind, T + 15)
    mark(held, "ann", ["line:shoes", "launch"], ORDER, T + 20)
    mark(held, "ann", ["line:shoes", "launch"], ORDER, T + 30)
    assert held.open[id_of("a")].delay_ms == (15, 15, 20)
    closed = [c for c in all_of(held) if c.y]
    assert [(name_of(c.exposure.id), c.bin) for c in closed] == [("a", 1), ("b", 1)]


def test_a_late_order_is_counted_and_falls_into_the_next_open_bin() -> None:
    """What was told is not changed; an order on time, or a second one, is not late."""
    held = pending(exposed("late"), exposed("on time", user="bob"))
    assert told(list(held.close(T + 100))) == [(100, 1, 0, NONE)] * 2
    mark(held, "ann", ["line:shoes"], ORDER, T + 50)
    mark(held, "ann", ["line:shoes"], ORDER, T + 40)
    mark(held, "bob", ["line:shoes"], ORDER, T + 150)
    facts = all_of(held)
    assert [(name_of(c.exposure.id), c.bin, c.y) for c in facts[:2]] == [("late", 2, 1), ("on time", 2, 1)]
    assert {name_of(c.exposure.id): (c.label, c.exposure.late_orders) for c in facts[2:]} == {"late": (1, 1), "on time": (1, 0)}


def test_an_order_after_the_label_is_too_late() -> None:
    """Nothing is open, and nothing happens."""
    held = pending(exposed())
    all_of(held)
    mark(held, "ann", ["line:shoes"], ORDER, T + 50)
    assert len(held) == 0
    assert all_of(held) == []


def test_orders_that_shuffle_give_the_same_facts() -> None:
    """The marks of one tick may come in any order."""
    marks = [(CLICK, 30), (ORDER, 90), (ORDER, 60), (CART, 20), (ORDER, 350), (CLICK, 10)]
    seen = set()
    for seed in range(10):
        held = pending(exposed())
        for kind, delay in random.Random(seed).sample(marks, len(marks)):
            mark(held, "ann", ["line:shoes"], kind, T + delay)
        seen.add(repr((held.open[id_of("x")].delay_ms, told(all_of(held)))))
    assert len(seen) == 1


@pytest.mark.parametrize("seed", range(5))
def test_what_is_stored_goes_on_as_if_nothing_had_happened(seed: int) -> None:
    """A pending that is stored by `changes` and made anew at any time tells the same facts as one that lives on."""
    rng = random.Random(seed)
    lives, stored, reborn = Pending(EDGES), dict[str, bytes](), Pending(EDGES)
    facts: tuple[list[Any], list[Any]] = ([], [])
    for step in range(60):
        now = T + 20 * step
        user, name, kind, delay = f"u{rng.randrange(4)}", f"{step:03d}", rng.randrange(4), rng.randrange(300)
        for held, heard in ((lives, facts[0]), (reborn, facts[1])):
            if step < 40:
                add(held, exposed(name, now, user=user))
            mark(held, user, ["line:shoes"], kind, now - delay)
            heard += told(list(held.close(now - 60)))
        written, removed = reborn.changes()
        for gone in removed:
            stored.pop(gone, None)
        stored.update(written)
        assert reborn.changes() == ({}, [])
        if rng.random() < 0.5:
            reborn = Pending(EDGES, dict(rng.sample(list(stored.items()), len(stored))))
    assert facts[0] == facts[1]
    assert len(facts[0]) > 40
    assert set(stored) == set(lives.open)


def test_what_is_stored_is_what_it_is_at_the_commit() -> None:
    """However much happens to an exposure between its opening and the commit; what has ended by then is not stored."""
    held = pending(
        exposed("marked"),
        exposed("told", user="bob"),
        exposed("over", T - 2000, user="eve"),
        exposed("pristine", user="dan"),
        exposed("young", T + 60, user="kim"),
    )
    mark(held, "kim", ["line:shoes"], CART, T + 70)
    mark(held, "ann", ["line:shoes"], CART, T + 30)
    mark(held, "bob", ["line:shoes"], ORDER, T + 40)
    assert {name_of(c.exposure.id) for c in held.close(T + 100)} == {"marked", "told", "over", "pristine"}
    mark(held, "dan", ["line:shoes"], CLICK, T + 150)
    written, removed = held.changes()
    again = Pending(EDGES, written)
    assert again.open == held.open
    assert again.open[id_of("marked")].delay_ms == (NONE, 30, NONE)
    assert again.open[id_of("young")].delay_ms == (NONE, 10, NONE)
    assert again.open[id_of("pristine")].delay_ms == (150, NONE, NONE)
    assert (again.open[id_of("told")].ordered, again.open[id_of("told")].bin) == (True, 3)
    assert removed == [id_of("over")]


def test_what_closes_far_apart_and_close_together_comes_in_order() -> None:
    """Over hours, and several bins of an exposure within a second, however it is cut up, before 1970 too: as a sorted list of all that closes has it."""
    edges = (100, 900, 950, 3_600_000)
    for seed, start in enumerate((0, -5_000_000, T)):
        rng = random.Random(seed)
        opened = {f"{i:03d}": start + rng.randrange(5_000_000) for i in range(200)}
        expected = sorted((at + edge, name) for name, at in opened.items() for edge in edges)
        held, found = Pending(edges), []
        for i, (name, at) in enumerate(opened.items()):
            add(held, exposed(name, at, user=name))
            if i % 40 == 39:
                held = Pending(edges, dict(zip(held.open, map(msgspec.msgpack.encode, held.open.values()), strict=True)))
        for cut in (*sorted(rng.sample(range(start, start + 8_000_000), 300)), start + 9_000_000):
            due = held.has_due(cut)
            closed = [(c.close_ms, name_of(c.exposure.id)) for c in held.close(cut)]
            assert due == bool(closed)
            found += closed
        assert found == expected


@pytest.mark.parametrize("most", [1, 2, 7])
def test_some_at_a_time_is_the_same_as_all_at_once(most: int) -> None:
    """The same facts, and the same exposures are left as the store has them; of the last of each time nothing is forgotten."""

    def opened() -> Pending:
        held = pending(*(exposed(f"x{i}", T + 13 * i, user=f"u{i % 3}") for i in range(12)))
        mark(held, "u1", ["line:shoes"], ORDER, T + 150)
        held.changes()
        return held

    whole, parted = opened(), opened()
    due_ms = T + 420
    expected = told(list(whole.close(due_ms)))
    assert len(expected) > 12
    found: list[Closed] = []
    while parted.has_due(due_ms):
        some = list(parted.close(due_ms, most))
        assert 0 < len(some) <= most
        found += some
    assert told(found) == expected
    assert parted.open == whole.open
    assert parted.changes() == whole.changes()
    assert told(all_of(parted)) == told(all_of(whole))


def test_whether_many_are_due_is_known_without_closing_them() -> None:
    """Over seconds that are not looked at yet, too; and what closes afterwards is what would have closed."""
    rng = random.Random(4)
    edges = (700, 2_100, 9_000)
    opened = {f"{i:03d}": T + rng.randrange(6_000) for i in range(90)}

    def held() -> Pending:
        new = Pending(edges)
        for name, at in opened.items():
            add(new, exposed(name, at, user=name))
        return new

    for _ in range(200):
        asked, parted, many, until_ms = held(), held(), rng.randrange(1, 80), T + rng.randrange(9_000)
        first = list(asked.close(T + rng.randrange(3_000)))
        assert told(list(parted.close(10**9, len(first)))) == told(first)
        # Of each exposure, its next bin: the one after it is due only once that has closed.
        due = [c for e in asked.open.values() if (c := e.ts_ms + edges[e.bin - 1]) <= until_ms]
        assert asked.has_many_due(until_ms, many) == (len(due) >= many)
        assert told(all_of(asked)) == told(all_of(parted))


def test_ids_do_not_depend_on_anything_else() -> None:
    """An exposure's id is a hash of domain, user and event; the share that is followed is chosen by it alone."""
    names = {exposure_id(d, u, e) for d in "ab" for u in "ab" for e in "ab"}
    assert len(names) == 8
    assert exposure_id("line:shoes", "ann", "e1") == "fff26cadb525fa6b", "what is stored goes by it"
    many = [exposure_id("line:shoes", "ann", f"e{i}") for i in range(4000)]
    followed = [name for name in many if is_followed(name, 0.25)]
    assert 0.2 < len(followed) / len(many) < 0.3
    assert set(followed) <= {name for name in many if is_followed(name, 0.5)}
    assert all(is_followed(name, 1.0) for name in many)
    assert not any(is_followed(name, 0.0) for name in many)
