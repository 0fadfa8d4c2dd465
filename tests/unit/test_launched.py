"""Events and launches as pairs: which belong together, which records they change, and what is counted of them; each beside the plain way, event by event."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

from features.advance import APPLIED, DUPLICATE
from features.events import KINDS, Event
from features.names import names_of
from streams.domains import KEPT, Launches
from streams.line_records import line_records
from streams.records import SHARED, Launch, Seen
from streams.seen import MILLION, merge_seen, see_events
from tests.builders import make_event

LINES = ("shoes", "bags", "hats")
AT_MS = 1_000


def some_launches(rng: random.Random) -> list[Launch]:
    """Of whole lines and of products, some that have not begun or are over."""
    return [
        Launch(
            id=f"launch{i}", line=rng.choice(LINES), products=[f"p{rng.randrange(9)}" for _ in range(rng.randrange(3))], window_s=60,
            from_ms=rng.choice([0, 0, 2 * AT_MS]), closed_ms=rng.choice([None, None, AT_MS, 3 * AT_MS]),
        )
        for i in range(rng.randrange(9))
    ]  # fmt: skip


def some_events(rng: random.Random) -> list[Event]:
    """Of few shoppers, lines and products."""
    return [
        make_event(AT_MS, id=f"e{i}", who=f"u{rng.randrange(4)}", line=rng.choice(LINES), product=f"p{rng.randrange(12)}") for i in range(rng.randrange(1, 20))
    ]


def plainly(launches: list[Launch], event: Event, at_ms: int) -> list[Launch]:
    """Those that an event belongs to and that are open, one after the other."""
    return [launch for launch in launches if launch.holds(event.product_id, event.line) and launch.is_open(at_ms)]


@pytest.mark.parametrize("seed", range(40))
def test_every_event_comes_with_the_launches_it_belongs_to(seed: int) -> None:
    """However many times are asked about in turn."""
    rng = random.Random(seed)
    launches, events = some_launches(rng), some_events(rng)
    known = Launches(launches)
    for at_ms in (0, AT_MS - 1, AT_MS, 2 * AT_MS, 3 * AT_MS - 1, 3 * AT_MS, AT_MS):
        wanted = {i: there for i, event in enumerate(events) if (there := plainly(launches, event, at_ms))}
        launched = known.open_for_each(events, at_ms)
        assert {i: list(there) for i, there in launched.by_event.items()} == wanted
        pairs = [(i, launch.id) for i, there in wanted.items() for launch in there]
        assert [(i, launched.launches[n].id) for i, n in zip(launched.event.tolist(), launched.launch.tolist(), strict=True)] == pairs
        assert len({launch.id for launch in launched.launches}) == len(launched.launches) == len({launch for _, launch in pairs})
        assert all(pairs[m] == (i, wanted[i][0].id) for i, m in launched.first.items())
        assert launched.first.keys() == wanted.keys()
        assert [list(known.open_for(event, at_ms)) for event in events] == [plainly(launches, event, at_ms) for event in events]


def test_what_is_open_is_found_once_between_two_changes() -> None:
    """However many times are asked about; of many changes the latest are remembered."""
    known = Launches([Launch(id=f"launch{i:02}", line="shoes", window_s=60, from_ms=100 * i) for i in range(3 * KEPT)])
    assert known.open_at(100) is known.open_at(150) is known.open_at(199) is not known.open_at(200)
    for i in range(3 * KEPT):
        assert [launch.id for launch in known.open_at(100 * i + 50).all] == [f"launch{k:02}" for k in range(i + 1)]
        assert len(known._open) <= KEPT
    assert known.open_at(100 * i) is known.open_at(100 * i + 50)


@pytest.mark.parametrize("seed", range(40))
def test_the_records_of_an_event_come_one_after_the_other(seed: int) -> None:
    """First its line's, then that of each of its launches that holds some products; a launch of the whole line has the line's."""
    rng = random.Random(seed)
    launches, events = some_launches(rng), some_events(rng)
    launched = Launches(launches).open_for_each(events, AT_MS)
    found = line_records(names_of([event.user_id for event in events]), [event.line for event in events], launched)
    names = [found.names.text(k) for k in range(len(found.names.keys))]
    keys = {name: key.tobytes() for name, key in zip(names, found.names.keys, strict=True)}
    assert [keys[name] for name in names] == [key.tobytes() for key in found.names.keys]
    assert len(set(keys.values())) == len(keys)
    come, m = 0, 0
    for i, event in enumerate(events):
        there = plainly(launches, event, AT_MS)
        own = [f"{event.user_id}\x1f\x1e{launch.id}" for launch in there if launch.products]
        assert names[found.starts[i] : found.starts[i + 1]] == [f"{event.user_id}\x1f{event.line}", *own]
        for launch in there:
            assert names[found.of_pair[m]] == (f"{event.user_id}\x1f\x1e{launch.id}" if launch.products else f"{event.user_id}\x1f{event.line}")
            assert found.starts[i] <= found.of_pair[m] < found.starts[i + 1]
            m += 1
        come += 1 + len(own)
    assert found.starts[-1] == come == len(names)
    assert len(found.of_pair) == m


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("believed", [True, False])
def test_what_is_seen_is_counted_launch_by_launch(seed: int, believed: bool) -> None:
    """Events by kind and what was foretold of them, duplicates left out; what belongs to no launch is counted together. A second batch adds to the first."""
    rng = random.Random(seed)
    launches = some_launches(rng)
    seen, wanted = Seen(), dict[str, list[int]]()
    for _ in range(2):
        events = some_events(rng)
        kinds = np.array([rng.randrange(len(KINDS)) for _ in events])
        fate = np.array([rng.choice([APPLIED, APPLIED, DUPLICATE]) for _ in events], np.uint8)
        launched = Launches(launches).open_for_each(events, AT_MS)
        p = np.array([rng.random() for _ in launched.event])
        see_events(seen, kinds, fate, launched, p if believed else None)
        told = iter(p.tolist())
        for i, event in enumerate(events):
            there = [launch.id for launch in plainly(launches, event, AT_MS)]
            for name in there:
                row, foretold = wanted.setdefault(name, [0] * (len(KINDS) + 1)), next(told)
                if fate[i] == APPLIED:
                    row[kinds[i]] += 1
                    row[-1] += round(foretold * MILLION) if believed else 0
            if not there and fate[i] == APPLIED:
                wanted.setdefault(SHARED, [0] * (len(KINDS) + 1))[kinds[i]] += 1
    assert seen.domains == wanted


def test_what_partitions_have_seen_adds_up() -> None:
    """Together it is the sum of each, and none of them is changed."""
    parts = [
        Seen({"shoes": [1, 0, 0, 0, 5], SHARED: [2, 1, 0, 0, 0]}, 9, {"empty": 1}, []),
        Seen({"shoes": [3, 2, 1, 0, 7]}, 4, {"empty": 2, "not_json": 1}, []),
        Seen(),
    ]
    before = [msgspec.to_builtins(part) for part in parts]
    assert merge_seen(parts) == Seen({"shoes": [4, 2, 1, 0, 12], SHARED: [2, 1, 0, 0, 0]}, 13, {"empty": 3, "not_json": 1}, [])
    assert [msgspec.to_builtins(part) for part in parts] == before
