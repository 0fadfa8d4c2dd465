"""The kernel that advances states: it equals the oracle to the bit, whatever the batches, and forgets and drops what it should."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from features.advance import APPLIED, DUPLICATE, advance
from features.events import KINDS, Shopper
from features.intake import Arrived, LocalTime, rows
from features.layout import CATALOGUE, USER, USER_LINE
from features.vector import FEATURES, NAMES, WIDTH, index
from tests.builders import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, arrive, make_event, random_events
from tests.oracle import Oracle, Stats

TTL_MS = 5 * DAY_MS
TIMEZONE = "Asia/Shanghai"
AT_MS = START_MS + HOUR_MS
LAUNCHED = ("line0-p1", "line1-p2")  # products with a record of their own beside their line's


def domains_of(a: Arrived) -> list[str]:
    """The records that an event touches: its line's, and a launch's if it is of a launched product."""
    return [a.event.line, *(f"launch:{p}" for p in LAUNCHED if p == a.event.product_id)]


class Kernel:
    """`advance` with states that last from call to call."""

    def __init__(self, catalogue: dict[str, Stats] | None = None, *, ttl_ms: int = TTL_MS) -> None:
        self.users: dict[str, NDArray[np.void]] = {}
        self.lines: dict[tuple[str, str], NDArray[np.void]] = {}
        self.ttl_ms, self.local = ttl_ms, LocalTime(TIMEZONE)
        self.names = {"shop": 0}
        self.stats = np.zeros(200, CATALOGUE)
        for name, stats in (catalogue or {}).items():
            record = self.stats[self.names.setdefault(name, len(self.names))]
            record["at_ms"], record["matured"], record["converted"] = stats.at_ms, stats.matured, stats.converted
            record["counts"] = [[stats.of(k, span) for span in ("day", "week")] for k in KINDS]

    def take(self, batch: Sequence[Arrived]) -> tuple[NDArray[np.float32], list[int], list[bool]]:
        """Apply one batch; returns the vectors, the fates, and the flat list of what opens."""
        names = sorted({a.event.user_id for a in batch})
        wanted = [domains_of(a) for a in batch]
        pairs = sorted({(a.event.user_id, d) for a, touched in zip(batch, wanted, strict=True) for d in touched})
        users = np.array([self.users.get(n, np.zeros((), USER)) for n in names], USER)
        lines = np.array([self.lines.get(p, np.zeros((), USER_LINE)) for p in pairs], USER_LINE)
        events = rows(list(batch), self.local)
        events["user"] = [names.index(a.event.user_id) for a in batch]
        events["line_stats"] = [self.names.setdefault(f"line:{a.event.line}", len(self.names)) for a in batch]
        events["category_stats"] = [self.names.setdefault(f"category:{a.event.category or a.event.line}", len(self.names)) for a in batch]
        places = np.array([pairs.index((a.event.user_id, d)) for a, touched in zip(batch, wanted, strict=True) for d in touched], np.int64)
        starts = np.cumsum([0, *map(len, wanted)])
        x, fate, opens = advance(events, users, lines, places, starts, self.stats, at_ms=AT_MS, ttl_ms=self.ttl_ms)
        self.users.update({n: users[i].copy() for i, n in enumerate(names)})
        self.lines.update({p: lines[i].copy() for i, p in enumerate(pairs)})
        return x, fate.tolist(), opens.tolist()

    def bytes(self) -> list[bytes]:
        """Every record, in order of key."""
        return [r.tobytes() for _, r in sorted(self.users.items())] + [r.tobytes() for _, r in sorted(self.lines.items())]


def with_troubles(events: list[Arrived], seed: int) -> list[Arrived]:
    """The events with some that come late, some that come twice, and a user who stays away for longer than the TTL."""
    rng = random.Random(seed)
    out = list(events)
    for _ in range(len(events) // 6):
        i = rng.randrange(len(out))
        out.insert(min(len(out), i + rng.randrange(1, 30)), out[i])
    for _ in range(len(events) // 6):
        out.insert(rng.randrange(len(out)), out.pop(rng.randrange(len(out))))
    away_ms = TTL_MS + DAY_MS
    later = [a for a in events if a.event.user_id in ("user0", "user1")][:40]
    for a in later:
        event = msgspec.structs.replace(a.event, event_id=f"later-{a.event.event_id}", ts=a.ts_ms + away_ms + 2 * DAY_MS)
        out.append(msgspec.structs.replace(a, event=event, ts_ms=a.ts_ms + away_ms + 2 * DAY_MS))
    return out


CATALOGUE_NOW = {
    "shop": Stats(START_MS, {(k, s): 1000.5 / (1 + i) for i, k in enumerate(KINDS) for s in ("day", "week")}, 200.25, 11.5),
    "line:line0": Stats(START_MS - DAY_MS, {("browse", "week"): 77.7, ("cart", "week"): 8.1, ("browse", "day"): 3.3}, 40.5, 3.25),
    "line:line1": Stats(AT_MS + HOUR_MS, {("click", "week"): 5.0}),
    "category:line0-c1": Stats(START_MS, {("order", "week"): 2.5, ("order", "day"): 1.5, ("click", "day"): 0.25}, 3.5, 1.5),
}


@pytest.mark.parametrize("seed", range(4))
def test_the_kernel_equals_the_oracle_to_the_bit(seed: int) -> None:
    """Vectors, duplicates and opened exposures of events that are late, doubled, or come after the TTL."""
    oracle, kernel = Oracle(ttl_ms=TTL_MS, timezone=TIMEZONE, catalogue=CATALOGUE_NOW, at_ms=AT_MS), Kernel(CATALOGUE_NOW)
    events = with_troubles(random_events(700, seed=seed), seed)
    duplicates = 0
    for start in range(0, len(events), 50):
        batch = events[start : start + 50]
        x, fate, opens = kernel.take(batch)
        place = 0
        for i, a in enumerate(batch):
            touched = domains_of(a)
            told = oracle.take(a.event, KINDS[a.kind], touched)
            assert opens[place : place + len(touched)] == told.opens
            place += len(touched)
            assert fate[i] == (DUPLICATE if told.x is None else APPLIED)
            duplicates += told.x is None
            expected = np.array(told.x or [0.0] * WIDTH, np.float32)
            wrong = [NAMES[j] for j in np.flatnonzero(x[i].view(np.uint32) != expected.view(np.uint32))]
            assert not wrong, (start + i, wrong)
    assert duplicates > 50
    for name, user in oracle.users.items():
        record = kernel.users[name]
        assert [record[n].item() for n in ("visits", "lines", "visit_lines")] == [user.visits, user.lines, user.visit_lines]
    for name in {a.event.user_id for a in events}:
        oracle.label(name, 1)
        kernel.users[name]["matured"] += 1
        kernel.users[name]["converted"] += 1
    last = arrive(make_event(events[-1].ts_ms + 1, id="last", who=events[-1].event.user_id))
    told = oracle.take(last.event, "browse", ["shoes"])
    assert kernel.take([last])[0][0].tobytes() == np.array(told.x, np.float32).tobytes()


def test_batches_of_any_size_give_the_same_bits() -> None:
    """One event at a time, by sevens, and all at once: the same vectors and the same records."""
    events = with_troubles(random_events(900, seed=9), 9)
    seen = set()
    for size in (1, 7, 1000):
        kernel = Kernel(CATALOGUE_NOW)
        x = [kernel.take(events[i : i + size])[0].tobytes() for i in range(0, len(events), size)]
        seen.add((b"".join(x), *kernel.bytes()))
    assert len(seen) == 1


def test_every_feature_is_finite_and_every_position_is_named() -> None:
    """At the ends of time, price and level, and a million events into a counter."""
    assert len(set(NAMES)) == len(FEATURES) == WIDTH
    assert all(f.meaning for f in FEATURES)
    kernel = Kernel(CATALOGUE_NOW, ttl_ms=2**62)
    extremes = [(1, 0.0), (4_294_967_295_999, 1e12), (0, 1e-300), (999, None), (START_MS, 1e12)]
    x = np.concatenate([kernel.take([arrive(make_event(ts, id=f"{ts}-{k}", price=price), k)])[0] for ts, price in extremes for k in KINDS])
    record = kernel.users["ann"]
    record["counts"], record["applied"], record["visits"], record["matured"] = 3e38, 2**32 - 2, 2**32 - 2, 2**32 - 1
    x = np.concatenate([x, kernel.take([arrive(make_event(START_MS, id="last"))])[0]])
    assert np.isfinite(x).all()


def test_a_duplicate_changes_nothing_but_only_within_the_ring() -> None:
    """The same id among the last 16 is dropped without a trace; after 16 others it counts again."""
    kernel = Kernel()
    first = arrive(make_event(id="twice"))
    kernel.take([first])
    before = kernel.bytes()
    assert kernel.take([first])[1] == [DUPLICATE]
    assert kernel.bytes() == before
    for i in range(15):
        kernel.take([arrive(make_event(START_MS + i, id=f"other{i}"))])
    assert kernel.take([first])[1] == [DUPLICATE]
    kernel.take([arrive(make_event(START_MS + 20, id="other15"))])
    assert kernel.take([first])[1] == [APPLIED]
    assert kernel.users["ann"]["applied"] == 18


@pytest.mark.parametrize("seed", range(3))
def test_counters_do_not_mind_the_order_of_events(seed: int) -> None:
    """Shuffled within a ring's reach, every decayed counter agrees to a relative 1e-5, and whole numbers agree exactly."""
    events = random_events(400, seed=seed, users=4, lines=2)
    rng = random.Random(seed)
    shuffled = sorted(events, key=lambda a: a.ts_ms + rng.randrange(3 * HOUR_MS))
    assert shuffled != events
    there, here = Kernel(), Kernel()
    there.take(events)
    here.take(shuffled)
    pairs = [(there.users[name], here.users[name]) for name in there.users] + [(there.lines[key], here.lines[key]) for key in there.lines]
    for a, b in pairs:
        np.testing.assert_allclose(a["counts"], b["counts"], rtol=1e-5)
        assert a["applied"] == b["applied"]
        assert (a["last_s"] == b["last_s"]).all()
        assert a["ref_ms"] == b["ref_ms"]


def test_a_late_event_weighs_what_it_would_have_on_time() -> None:
    """An event an hour late counts half in the counter of an hour, and opens no new visit."""
    kernel = Kernel()
    kernel.take([arrive(make_event(START_MS + HOUR_MS, id="a")), arrive(make_event(START_MS, id="b"), "click")])
    record = kernel.users["ann"]
    assert record["counts"][KINDS.index("click"), 0] == np.float32(0.5)
    assert record["ref_ms"] == START_MS + HOUR_MS
    assert record["visits"] == 1


def test_a_record_older_than_the_ttl_reads_as_empty() -> None:
    """After the TTL an event gives the bytes that it gives a user nobody knows, demographics and lines included."""
    told = make_event(START_MS, id="a", user=Shopper(age_band="25", gender="f", level=3, region="n", registered_ts=5))
    back = START_MS + TTL_MS + 1
    old, new = Kernel(), Kernel()
    old.take([arrive(told), arrive(make_event(START_MS, id="b", line="bags"))])
    new_x = new.take([arrive(make_event(back, id="c"))])
    assert old.take([arrive(make_event(back, id="c"))])[0].tobytes() == new_x[0].tobytes()
    assert old.users["ann"].tobytes() == new.users["ann"].tobytes()
    assert old.lines["ann", "shoes"].tobytes() == new.lines["ann", "shoes"].tobytes()
    on_time = Kernel()
    on_time.take([arrive(told)])
    assert on_time.take([arrive(make_event(back - 1, id="c"))])[0][0, index("user_visits")] == np.float32(np.log1p(2))


def test_a_line_that_expired_counts_as_a_new_one() -> None:
    """Whether its old record is still stored makes no difference to the user's record."""
    kept, freed = Kernel(), Kernel()
    for kernel in (kept, freed):
        kernel.take([arrive(make_event(START_MS, id="a"))])
        for day in range(1, 8):
            kernel.take([arrive(make_event(START_MS + day * DAY_MS, id=f"b{day}", line="bags"))])
    del freed.lines["ann", "shoes"]
    back = arrive(make_event(START_MS + 8 * DAY_MS, id="c"))
    assert kept.take([back])[0].tobytes() == freed.take([back])[0].tobytes()
    assert kept.bytes() == freed.bytes()


def test_visits_end_after_a_gap_of_30_minutes() -> None:
    """A gap of exactly 30 min, in whatever line, goes on with the visit; a millisecond more begins another."""
    kernel = Kernel()
    kernel.take([arrive(make_event(START_MS, id="a"))])
    kernel.take([arrive(make_event(START_MS + 30 * MINUTE_MS, id="b", line="bags"))])
    assert [kernel.users["ann"][n].item() for n in ("visits", "visit_lines", "visit_events")] == [1, 2, 2]
    kernel.take([arrive(make_event(START_MS + 60 * MINUTE_MS + 1, id="c"))])
    assert [kernel.users["ann"][n].item() for n in ("visits", "visit_lines", "visit_events")] == [2, 1, 1]


@pytest.mark.parametrize(
    ("kinds", "opens"),
    [
        (["browse", "click", "order"], [True, False, False]),
        (["order", "browse", "click"], [False, False, False]),
        (["cart", "order", "browse"], [True, False, False]),
        (["order", "order"], [False, False]),
    ],
)
def test_an_exposure_is_the_first_event_of_a_line_in_a_visit(kinds: list[str], opens: list[bool]) -> None:
    """Unless it is an order, or an order in that line came before it in that visit; the next visit begins anew, other lines do not mind."""
    kernel = Kernel()
    kernel.take([arrive(make_event(START_MS - 1, id="bag", line="bags"), "order")])
    told = [kernel.take([arrive(make_event(START_MS + i, id=f"e{i}"), kind)])[2][0] for i, kind in enumerate(kinds)]
    assert told == opens
    assert kernel.take([arrive(make_event(START_MS + HOUR_MS, id="next"), "click")])[2] == [True]


def test_a_product_launch_inside_a_line_has_its_own_exposure() -> None:
    """A browse of another product opens the line's alone; the launched product's first browse opens the launch's alone."""
    kernel = Kernel()
    other, launched = make_event(START_MS, id="a", line="line0", product="p"), make_event(START_MS + 1, id="b", line="line0", product=LAUNCHED[0])
    assert kernel.take([arrive(other)])[2] == [True]
    assert kernel.take([arrive(launched)])[2] == [False, True]
