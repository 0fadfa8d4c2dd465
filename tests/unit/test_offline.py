"""The loop over a log: the same scores, facts and state whatever the partitions, the order within ticks, the LRU or a restart."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace as replace_struct

from features.exposures import NONE
from features.hashing import partition_for
from features.layout import USER
from features.memory_store import MemoryStore
from features.store import Store
from models.model import Model
from streams.cutting import cut
from streams.knowledge import outcome_slot
from streams.learner_cursor import LearnerCursor
from streams.offline import put_launches, run
from streams.partition import Partition, Rules
from streams.records import SHARED, Launch, Outcome, Outgoing, decode_score
from streams.ticks import Tick, with_end
from tests.builders import DAY_MS, EDGES_MS, HOUR_MS, START_MS, make_log, make_model, make_rules, random_events

TICK_MS = HOUR_MS // 2
EVENTS = random_events(900, seed=4, users=25, span_ms=2 * DAY_MS)
LOG = make_log(EVENTS)
LAUNCHES = (
    Launch(id="whole", line="line2", window_s=EDGES_MS[-1] / 1000, from_ms=START_MS + 6 * HOUR_MS, holdout=0.5),
    Launch(id="inside", line="line0", products=[f"line0-p{i}" for i in range(9)], window_s=EDGES_MS[-1] / 1000),
    Launch(id="again", line="line2", window_s=EDGES_MS[-1] / 1000, from_ms=START_MS + 12 * HOUR_MS),
)


@dataclass
class Ran:
    """What a run gave: scores by id, final facts in the order heard, and the state it left."""

    scores: dict[str, bytes] = field(default_factory=dict)
    facts: list[tuple[Any, ...]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)

    def hear_score(self, record: Outgoing) -> None:
        assert record.topic == "scores"
        assert record.value is not None
        name = decode_score(record.value).score_id
        assert name not in self.scores
        self.scores[name] = record.value

    def hear_fact(self, m: Outcome) -> None:
        e = m.closed.exposure
        self.outcomes.append(m)
        self.facts.append((m.key, m.closed.close_ms, e.id, m.closed.bin, m.closed.y, m.closed.label, e.counts, e.x, e.predictions, tuple(e.delay_ms)))


async def state_of(store: Store, rules: Rules) -> dict[str, Any]:
    """Everything in the store that does not depend on how the work was shared out."""
    found: dict[str, Any] = {}
    partitions = [await Partition.load(p, store, rules) for p in range(rules.partitions)]
    for name in sorted({a.event.user_id for a in EVENTS}):
        partition = partitions[partition_for(name.encode(), rules.partitions)]
        place = await partition.place_users([name])
        found[f"user {name}"] = partition.users.rows[place].tobytes()
        for domain in ("line0", "line1", "line2", "\x1einside"):
            place = await partition.place_lines([name], domain)
            found[f"user {name} in {domain}"] = partition.lines.rows[place].tobytes()
    found["pending"] = sorted(msgspec.msgpack.encode(e) for p in partitions for e in p.pending.open.values())
    totals = [msgspec.to_builtins(p.cursor.totals) for p in partitions]
    found["totals"] = [sum(column) for column in zip(*totals, strict=True)]
    found["ticks"] = {p.cursor.tick_ms for p in partitions}
    found["heads"], cursors = {}, []
    for q in range(rules.outcome_partitions):
        slot = await store.load(outcome_slot(q), ("heads", "catalogue"))
        found["heads"] |= slot.hashes["heads"]
        cursors.append(msgspec.msgpack.decode(slot.cursor, type=LearnerCursor))
        if q == 0:
            found["catalogue"] = dict(slot.hashes["catalogue"])
    found["learned"] = sum(c.tried for c in cursors), sum(c.hit for c in cursors), {c.stamp_ms for c in cursors}
    return found


def go(rules: Rules, model: Model | None, *, ticks: Iterable[Tick] | None = None, launches: Sequence[Launch] = LAUNCHES, store: Store | None = None) -> Ran:
    """Run the log to its end, at which every exposure is final."""
    ran, held = Ran(), store or MemoryStore()

    async def all_of_it() -> None:
        await put_launches(held, launches)
        parts = with_end(cut(LOG, TICK_MS), EDGES_MS[-1] + rules.grace_ms) if ticks is None else ticks
        await run(parts, held, rules, model, heard=ran.hear_score, on_outcome=ran.hear_fact)
        ran.state = await state_of(held, rules)

    asyncio.run(all_of_it())
    return ran


@pytest.fixture(scope="module")
def model() -> Model:
    """Sources are line0 and line1."""
    return make_model("line0", "line1")


@pytest.fixture(scope="module")
def wanted(model: Model) -> Ran:
    """The run that the others must equal: one partition."""
    return go(make_rules(), model)


def same(ran: Ran, wanted: Ran) -> None:
    """Scores, facts and state are the same to the bit."""
    assert ran.scores == wanted.scores
    assert sorted(ran.facts) == sorted(wanted.facts)
    assert ran.state.keys() == wanted.state.keys()
    assert [name for name in ran.state if ran.state[name] != wanted.state[name]] == []


def test_the_log_is_worth_running(wanted: Ran) -> None:
    """Every event has a score; launches and sources have exposures of both labels, and all heads have learned."""
    assert len(wanted.scores) == len(EVENTS)
    for key in (SHARED, "whole", "inside"):
        labels = [m.closed.label for m in wanted.outcomes if m.key == key and m.closed.label != NONE]
        assert {0, 1} == set(labels), key
    assert {"whole", "inside", SHARED} <= set(wanted.state["heads"])
    assert wanted.state["pending"] == []


@pytest.mark.parametrize(("partitions", "outcome_partitions"), [(3, 1), (12, 1), (1, 2), (3, 2), (12, 5)])
def test_partitions_do_not_matter(partitions: int, outcome_partitions: int, wanted: Ran, model: Model) -> None:
    """1, 3 or 12 input partitions and 1, 2 or 5 of outcomes: the same bits."""
    ran = go(make_rules(partitions=partitions, outcome_partitions=outcome_partitions), model)
    same(ran, wanted)
    if outcome_partitions == 1:
        assert ran.facts == wanted.facts


@pytest.mark.parametrize("seed", range(2))
def test_the_order_within_ticks_does_not_matter(seed: int, wanted: Ran, model: Model) -> None:
    """A log that is shuffled within its ticks gives the same bits."""
    rng, rules = random.Random(seed), make_rules(partitions=2)
    ticks = with_end(cut(LOG, TICK_MS), EDGES_MS[-1] + rules.grace_ms)
    same(go(rules, model, ticks=[Tick(t.end_ms, tuple(rng.sample(t.records, len(t.records)))) for t in ticks]), wanted)


def test_the_size_of_the_cache_does_not_matter(wanted: Ran, model: Model) -> None:
    """Even one that holds less than a tick's records."""
    same(go(make_rules(lru_users=1), model), wanted)


@pytest.mark.parametrize("stop", [1, 17, 60])
def test_a_run_can_be_cut_in_two(stop: int, wanted: Ran, model: Model) -> None:
    """Partitions, learners and knowledge that are made anew from the store go on with the same bits."""
    rules, store = make_rules(partitions=2, outcome_partitions=2), MemoryStore()
    ticks = list(with_end(cut(LOG, TICK_MS), EDGES_MS[-1] + rules.grace_ms))
    first, second = go(rules, model, ticks=ticks[:stop], store=store), go(rules, model, ticks=ticks[stop:], store=store)
    same(Ran({**first.scores, **second.scores}, first.facts + second.facts, [], second.state), wanted)


def test_what_is_read_is_accounted_for(wanted: Ran, model: Model) -> None:
    """read = applied + duplicate + rejected, and a log that is given twice within its ticks changes only the duplicates."""
    rules = make_rules(partitions=3)
    ticks = [Tick(t.end_ms, t.records * 2) for t in with_end(cut(LOG, TICK_MS), EDGES_MS[-1] + rules.grace_ms)]
    twice = go(rules, model, ticks=ticks)
    read, applied, duplicate, rejected = twice.state["totals"][:4]
    assert (read, applied, duplicate, rejected) == (2 * len(EVENTS), len(EVENTS), len(EVENTS), 0)
    twice.state["totals"] = wanted.state["totals"]
    same(twice, wanted)


def test_every_exposure_is_told_bin_by_bin_and_ends_with_one_label(wanted: Ran) -> None:
    """Bins 1, 2, … up to the order or the window's end, at their times; then the label, which says whether an order was told."""
    by_exposure: dict[str, list[Outcome]] = {}
    for m in wanted.outcomes:
        by_exposure.setdefault(m.closed.exposure.id, []).append(m)
    for facts in by_exposure.values():
        closed = [m.closed for m in facts]
        told = [c for c in closed if c.bin]
        assert [c.bin for c in told] == list(range(1, len(told) + 1))
        assert [c.y for c in told[:-1]] == [0] * (len(told) - 1)
        assert [c.close_ms - c.exposure.ts_ms for c in told] == list(EDGES_MS[: len(told)])
        assert [c.label for c in closed[:-1]] == [NONE] * (len(closed) - 1)
        assert (closed[-1].label, closed[-1].close_ms) == (told[-1].y, closed[-1].exposure.ts_ms + EDGES_MS[-1])


def test_labels_are_what_a_look_at_the_whole_log_says(wanted: Ran) -> None:
    """An exposure's label is 1 just if the log holds an order of its user in its domain later than it and within the window.

    What a launch holds of some products is a domain of its own, apart from their line.
    """
    orders = [a for a in EVENTS if a.kind == 3]
    for m in wanted.outcomes:
        if m.closed.label == NONE:
            continue
        e = m.closed.exposure
        mine = [
            a for a in orders
            if a.event.user_id == e.user and 0 < a.ts_ms - e.ts_ms <= EDGES_MS[-1]
            and a.event.line == e.line and (a.event.product_id in LAUNCHES[1].products) == (e.domain == "inside")
        ]  # fmt: skip
        assert m.closed.label == bool(mine), e
        assert e.delay_ms[2] == min((a.ts_ms - e.ts_ms for a in mine), default=NONE)


def test_users_know_their_own_matured_conversions(wanted: Ran) -> None:
    """Final labels of the exposures that count, and of those that one event opens, one does."""
    counting = [m.closed for m in wanted.outcomes if m.closed.label != NONE and m.closed.exposure.counts]
    assert len({(c.exposure.user, c.exposure.ts_ms) for c in counting}) == len(counting)
    assert wanted.state["totals"][4] > len(counting)
    for name in {a.event.user_id for a in EVENTS}:
        mine = [c.label for c in counting if c.exposure.user == name]
        (record,) = np.frombuffer(wanted.state[f"user {name}"], USER)
        assert (int(record["matured"]), int(record["converted"])) == (len(mine), sum(mine))


def test_without_a_model_features_and_labels_are_the_same(wanted: Ran) -> None:
    """Training rows are made by the same loop: without scores and heads, and with every line a source until it is launched."""
    ran = go(make_rules(), None)
    assert ran.scores == {}
    assert ran.state["heads"] == {}
    assert ran.state["catalogue"].keys() == wanted.state["catalogue"].keys()
    kept = {f[2]: (f[7], f[9]) for f in ran.facts if f[5] != NONE}
    for f in wanted.facts:
        if f[5] != NONE and f[0] != "whole":
            assert kept[f[2]][1] == f[9]


def test_a_launch_has_a_share_of_its_own(wanted: Ran, model: Model) -> None:
    """Where old lines are sampled, each exposure of a launch that says so is followed; one that says nothing is sampled as they are."""
    launches = [replace_struct(launch, learn_share=1.0 if launch.id == "inside" else None) for launch in LAUNCHES]
    ran = go(replace(make_rules(), learn_share=0.25), model, launches=launches)
    assert ran.scores.keys() == wanted.scores.keys()
    for domain in ("inside", "whole", SHARED):
        all_of_them = {f[2] for f in wanted.facts if f[0] == domain}
        sampled = {name for name in all_of_them if int(name[:8], 16) < 2**30}
        assert {f[2] for f in ran.facts if f[0] == domain} == (all_of_them if domain == "inside" else sampled)
        assert sampled < all_of_them


def test_a_share_of_the_exposures_is_followed(wanted: Ran, model: Model) -> None:
    """Every event is scored, the share is chosen by id, and what is not followed is counted."""
    ran = go(replace(make_rules(), learn_share=0.5), model)
    assert ran.scores.keys() == wanted.scores.keys()
    followed, all_of_them = {f[2] for f in ran.facts}, {f[2] for f in wanted.facts}
    assert followed == {name for name in all_of_them if int(name[:8], 16) < 2**31}
    assert ran.state["totals"][4:6] == [len(followed), len(all_of_them) - len(followed)]
    told = {e.exposure_id for value in ran.scores.values() for e in decode_score(value).entries} - {None}
    assert told <= followed


def test_an_interrupt_is_heeded_though_nothing_is_waited_for() -> None:
    """The store is in memory, so the event loop has no turn of its own: who was asked to end does so with the next tick, not with the last."""
    begun: list[int] = []

    def interrupt(tick: Tick) -> None:
        begun.append(tick.end_ms)
        task = asyncio.current_task()
        if task is not None and len(begun) == 2:
            task.cancel()

    ticks = list(cut(LOG, TICK_MS))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run(ticks, MemoryStore(), make_rules(), None, scoring=False, on_tick=interrupt))
    assert len(begun) == 2 < len(ticks)
