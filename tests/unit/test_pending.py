"""Open exposures as a worker holds them: many shoppers' kept apart, steps of a batch in their order, damage told when it is loaded."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from features import pending as pending_module
from features.errors import Mismatch
from features.events import BROWSE, CLICK, ORDER
from features.exposures import NONE, Exposure
from features.names import names_of, suffix_keys
from features.open_rows import NOT_OPENED, OPEN_BEFORE
from features.pending import Pending, Steps
from tests.exposing import EDGES, T, exposed, id_of


@pytest.mark.parametrize("bin", [0, 4, -1])
def test_a_bin_that_there_is_not_is_damage(bin: int) -> None:
    """It is said when it is loaded, not when it would close."""
    broken = msgspec.structs.replace(exposed(), bin=bin)
    with pytest.raises(Mismatch, match="damaged, or of another version"):
        Pending(EDGES, {"x": msgspec.msgpack.encode(broken)})


def test_damaged_predictions_are_said_when_they_are_loaded() -> None:
    """They are kept as bytes, and would travel on unread."""
    broken = msgspec.structs.replace(exposed(), predictions=msgspec.Raw(msgspec.msgpack.encode(["a"])))
    with pytest.raises(Mismatch, match="damaged"):
        Pending(EDGES, {"x": msgspec.msgpack.encode(broken)})


class Simple:
    """The same, said simply: a list that is looked through."""

    def __init__(self) -> None:
        self.open: list[dict[str, Any]] = []

    def add(self, id: str, user: str, domain: str, ts_ms: int) -> None:
        """Open one."""
        self.open.append({"id": id, "list": (user, domain), "ts_ms": ts_ms, "bin": 1, "ordered": False, "marks": {}})

    def mark(self, user: str, domain: str, kind: int, ts_ms: int) -> None:
        """Keep the least delay of each kind."""
        for e in self.open:
            if e["list"] == (user, domain) and 0 < ts_ms - e["ts_ms"] <= EDGES[-1]:
                e["marks"][kind] = min(ts_ms - e["ts_ms"], e["marks"].get(kind, EDGES[-1]))

    def close(self, until_ms: int) -> list[tuple[int, str, int, int]]:
        """(close time, id, y, label) of each bin that closes."""
        facts = []
        while due := sorted((e["ts_ms"] + EDGES[e["bin"] - 1], e["id"], k) for k, e in enumerate(self.open) if e["ts_ms"] + EDGES[e["bin"] - 1] <= until_ms):
            close_ms, id, k = due[0]
            e = self.open[k]
            hit = e["marks"].get(ORDER, EDGES[-1] + 1) <= EDGES[e["bin"] - 1]
            ends = e["bin"] == len(EDGES)
            facts.append((close_ms, id, int(hit and not e["ordered"]), int(hit) if ends else NONE))
            e["ordered"] |= hit
            e["bin"] = len(EDGES) if e["ordered"] else e["bin"] + 1
            if ends:
                del self.open[k]
        return facts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alike", [None, (0x03, 0x00), (0x00, 0xFC)])
def test_many_shoppers_are_kept_apart(seed: int, alike: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists that come and go, places that are used again, a table that grows and loses entries in its middle: as a list that is looked through has it.

    `alike`: which of the lower bits differ between keys, and which are set in all, so that nearly all lists stand in each other's way, at the table's begin or its end.
    """
    kept, same = (np.uint64(0xFFFFFFFFFFFFFF00 + alike[0]), np.uint64(alike[1])) if alike else (np.uint64(2**64 - 1), np.uint64(0))
    monkeypatch.setattr(pending_module, "suffix_keys", lambda texts: suffix_keys(texts) & kept)
    rng, held, simple, n = random.Random(seed), Pending(EDGES), Simple(), 0
    for step in range(120):
        now = T + 30 * step
        batch, users, times = Steps(), [f"u{rng.randrange(60)}" for _ in range(rng.randrange(12))], list[int]()
        opening = list[Exposure]()
        for i, user in enumerate(users):
            at, domain, kind = now - rng.randrange(60), rng.choice(["a", "b", "c"]), rng.randrange(4)
            times.append(at)
            if kind:
                batch.mark(i, domain, kind)
                simple.mark(user, domain, kind, at)
            if rng.random() < 0.6:
                n += 1
                opening.append(exposed(f"{n:05d}", at, user=user, domain=domain))
                batch.open(i, domain, opening[-1].id, True)
                simple.add(opening[-1].id, user, domain, at)
        names = names_of(users)
        names.keys[:] = names.keys & kept | same
        found = held.follow(batch, names, np.array(times, np.int64), 10**6).tolist()
        for place, exposure in zip([p for p in found if p >= 0], opening, strict=True):
            held.keep(place, exposure)
        facts = [(c.close_ms, c.exposure.id, c.y, c.label) for c in held.close(now - 100)]
        assert facts == simple.close(now - 100)
        assert set(held.open) == {e["id"] for e in simple.open}
        if step % 7 == 0:
            held.changes()
    assert [(c.close_ms, c.exposure.id, c.y, c.label) for c in held.close(10**9)] == simple.close(10**9)
    assert n > 300
    assert len(held) == 0
    assert sorted(held.changes()[0]) == []


def test_what_is_full_or_open_or_not_followed_opens_nothing() -> None:
    """And says which; a step of the same batch may have opened it."""
    held, steps = Pending(EDGES), Steps()
    ids = [id_of(name) for name in ("a", "a", "b", "c", "b", "d")]
    for id, followed in zip(ids, (True, False, True, False, True, True), strict=True):
        steps.open(0, "line:shoes", id, followed)
    found = held.follow(steps, names_of(["ann"]), np.array([T]), 2).tolist()
    assert [min(place, 0) for place in found] == [0, OPEN_BEFORE, 0, NOT_OPENED, OPEN_BEFORE, NOT_OPENED]
    assert len(held) == 2
    for place, id in zip(found, ids, strict=True):
        if place >= 0:
            held.keep(place, msgspec.structs.replace(exposed(), id=id))
    assert sorted(held.open) == [id_of("a"), id_of("b")]


def test_who_opens_in_the_same_batch_is_marked_by_what_comes_after_it_alone() -> None:
    """An event that was handled before it, though it is later in time, marks it no more than it would have in a batch of its own."""
    held, steps = Pending(EDGES), Steps()
    steps.mark(1, "line:shoes", ORDER)
    steps.open(0, "line:shoes", id_of("x"), True)
    steps.mark(2, "line:shoes", CLICK)
    _, place, _ = held.follow(steps, names_of(["ann"] * 3), np.array([T, T + 5, T + 9]), 2).tolist()
    held.keep(place, exposed())
    assert held.open[id_of("x")].delay_ms == (9, NONE, NONE)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "X" * 16},
        {"id": "0X" + "1" * 14},
        {"id": "AB" * 8},
        {"id": "1" * 17},
        {"ts_ms": 2**63},
        {"ts_ms": 2**63 - 1},
        {"bin": 2**40},
        {"delay_ms": (2**64 - 1, -1, -1)},
    ],
)
def test_what_no_row_holds_is_damage(change: dict[str, Any]) -> None:
    """An id that is none, a number that is too large."""
    with pytest.raises(Mismatch, match="damaged, or of another version"):
        Pending(EDGES, {"x": msgspec.msgpack.encode(msgspec.structs.replace(exposed(), **change))})


def test_predictions_that_are_nested_without_end_are_damage() -> None:
    """What decodes them gives up, and that is said."""
    nested = msgspec.structs.replace(exposed(), predictions=msgspec.Raw(b"\x91" * 5_000 + b"\x90"))
    with pytest.raises(Mismatch, match="damaged"):
        Pending(EDGES, {"x": msgspec.msgpack.encode(nested)})


def test_what_a_step_may_not_say_is_refused_before_a_kernel_reads_it() -> None:
    """A browse marks nothing; an id has 16 digits."""
    steps = Steps()
    with pytest.raises(AssertionError):
        steps.mark(0, "line:shoes", BROWSE)
    steps.open(0, "line:shoes", "00", True)
    with pytest.raises(AssertionError):
        Pending(EDGES).follow(steps, names_of(["ann"]), np.array([T]), 1)


def test_there_is_room_without_end() -> None:
    """A setting that no kernel could hold."""
    held, steps = Pending(EDGES), Steps()
    steps.open(0, "line:shoes", id_of("x"), True)
    assert held.follow(steps, names_of(["ann"]), np.array([T]), 10**20).tolist() == [0]
