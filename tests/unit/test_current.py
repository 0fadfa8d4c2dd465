"""Current scores are what a worker says of the same look a moment later; the ledger on a score record adds up and comes only on request."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from features.errors import InputError, Mismatch
from features.hashing import partition_for
from features.memory_store import MemoryStore
from features.residents import FIRST_ROWS
from models.model import Model
from streams import namespace
from streams.current import partition_with, shoppers
from streams.knowledge import Knowledge
from streams.offline import put_launches
from streams.partition import Partition, Rules
from streams.pipeline import work_off
from streams.records import Launch, Score, decode_score
from streams.settings import Settings
from tests.builders import DAY_MS, HOUR_MS, START_MS, arrive, make_event, make_model, make_rules, random_events, receive

NOW_MS = START_MS + 2 * DAY_MS + HOUR_MS
LAUNCHES = [
    Launch(id="whole", line="line1", window_s=21_600.0, holdout=0.5),
    Launch(id="some", line="line0", products=["line0-p1", "line0-p2"], window_s=21_600.0),
]


async def worked(model: Model, rules: Rules) -> tuple[Partition, Knowledge]:
    """A partition that has seen two days of events, and what is believed then."""
    store = MemoryStore()
    await put_launches(store, LAUNCHES)
    partition, knowledge = await Partition.load(0, store, rules), Knowledge(store, model, 1)
    await knowledge.refresh()
    records = [receive(a.event, ("browse", "click", "cart", "order")[a.kind]) for a in random_events(400, seed=7)]
    await work_off(partition, records, knowledge, offsets=[0] * 4, tick_end_ms=START_MS + 2 * DAY_MS)
    await partition.commit()
    return partition, knowledge


async def scored(partition: Partition, knowledge: Knowledge, launch: Launch, user: str, **more: Any) -> Score:
    """What a worker says of a browse of the launch by a user now."""
    product = launch.products[0] if launch.products else "new"
    event = make_event(NOW_MS, id="now", who=user, line=launch.line, product=product, **more)
    told = await work_off(partition, [receive(event)], knowledge, offsets=[0] * 4)
    assert told.scores[0].value is not None
    return decode_score(told.scores[0].value)


@pytest.mark.parametrize("launch", LAUNCHES, ids=["a line", "some products"])
def test_the_current_score_is_what_a_worker_would_say(launch: Launch) -> None:
    """For every shopper, asked all at once, score and probability are bit for bit those of the browse that then comes; asking changed nothing."""

    async def go() -> None:
        partition, knowledge = await worked(make_model("line0", "line2"), make_rules())
        users = sorted({a.event.user_id for a in random_events(400, seed=7)})
        found = await shoppers(partition, knowledge, launch, [*users, "nobody"], NOW_MS)
        assert found.users == users
        for user, score, probability in zip(found.users, found.score.tolist(), found.probability.tolist(), strict=True):
            entry = next(e for e in (await scored(partition, knowledge, launch, user)).entries if e.launch_id == launch.id)
            assert (entry.score, entry.probability) == (score, probability), user

    asyncio.run(go())


@pytest.mark.parametrize("launch", LAUNCHES, ids=["a line", "some products"])
def test_many_shoppers_are_asked_about_at_once(launch: Launch) -> None:
    """More than were ever at hand: each is told as when asked about alone."""

    async def go() -> None:
        users, store = [f"user{i}" for i in range(3 * FIRST_ROWS)], MemoryStore()
        await put_launches(store, LAUNCHES)
        partition, knowledge = await Partition.load(0, store, make_rules()), Knowledge(store, make_model("line0", "line2"), 1)
        await knowledge.refresh()
        browses = [make_event(START_MS + i, id=f"e{i}", who=user, line=f"line{i % 3}", product=f"line0-p{i % 5}") for i, user in enumerate(users)]
        await work_off(partition, [receive(event) for event in browses], knowledge, offsets=[0] * 4, tick_end_ms=START_MS + DAY_MS)
        await partition.commit()
        anew = await Partition.load(0, store, make_rules())
        found = await shoppers(anew, knowledge, launch, users, NOW_MS)
        assert found.users == users
        for i in (0, FIRST_ROWS, len(users) - 1):
            alone = await shoppers(anew, knowledge, launch, users[i : i + 1], NOW_MS)
            assert (alone.score[0], alone.last_ms[0]) == (found.score[i], found.last_ms[i])

    asyncio.run(go())


def test_who_ordered_in_the_launch_is_known() -> None:
    """`ordered` is true of exactly those with an order of the launch's line."""

    async def go() -> None:
        partition, knowledge = await worked(make_model("line0", "line2"), make_rules())
        buyers = {a.event.user_id for a in random_events(400, seed=7) if a.kind == 3 and a.event.line == "line1"}
        users = sorted({a.event.user_id for a in random_events(400, seed=7)})
        found = await shoppers(partition, knowledge, LAUNCHES[0], users, NOW_MS)
        assert {user for user, ordered in zip(found.users, found.ordered.tolist(), strict=True) if ordered} == buyers

    asyncio.run(go())


def test_the_ledger_comes_on_request_and_adds_up() -> None:
    """With the setting on and the event asking, the entry of the launch holds the ledger: its parts, and its features, sum to the logit of the probability."""

    async def go() -> None:
        partition, knowledge = await worked(make_model("line0", "line2"), make_rules(explains=True))
        (entry,) = (await scored(partition, knowledge, LAUNCHES[0], "user3", explain=True)).entries
        why = entry.explanation
        assert why is not None
        logit = float(np.log(entry.probability / (1.0 - entry.probability)))
        assert why.logit == pytest.approx(logit, abs=1e-9)
        assert sum(why.parts.values()) == pytest.approx(why.logit, abs=1e-9)
        assert sum(why.heads.values()) == pytest.approx(why.parts["s0"] + why.parts["fresh"], abs=1e-9)
        assert sum(part for _, _, part in why.experts.values()) == pytest.approx(why.parts["mixed"], abs=1e-9)
        assert why.start + sum(why.features.values()) + why.others + why.residual == pytest.approx(why.logit, abs=1e-6)
        assert 1 <= len(why.features) <= 10

    asyncio.run(go())


@pytest.mark.parametrize(("setting", "asks"), [(False, True), (True, None), (True, False)])
def test_without_setting_and_request_the_record_is_as_ever(setting: bool, asks: bool | None) -> None:
    """No ledger unless both the setting and the event say so, and then no byte of it on the wire."""

    async def go() -> None:
        partition, knowledge = await worked(make_model("line0", "line2"), make_rules(explains=setting))
        told = await scored(partition, knowledge, LAUNCHES[0], "user3", explain=asks)
        assert told.entries[0].explanation is None
        assert b"explanation" not in msgspec.json.encode(told)

    asyncio.run(go())


@pytest.mark.parametrize("check", [True, False])
def test_a_shopper_is_found_where_the_producers_put_them(check: bool) -> None:
    """With a partitioner of the shop's own a shopper may lie anywhere, else only where murmur2 says; who is unknown is found nowhere."""
    rules, store = replace(make_rules(partitions=3), partitioner_check=check), MemoryStore()

    async def go() -> None:
        partition = await Partition.load(2, store, replace(rules, partitioner_check=False))
        users = [f"u{i}" for i in range(9)]
        records = [receive(make_event(START_MS, id=f"e{user}", who=user)) for user in users]
        knowledge = Knowledge(store, None, 1)
        await work_off(partition, records, knowledge, offsets=[0] * 4, tick_end_ms=START_MS + DAY_MS)
        await partition.commit()
        found = [await partition_with(store, user, rules, NOW_MS) for user in users]
        assert [there is not None and there.number == 2 for there in found] == [not check or partition_for(user.encode(), 3) == 2 for user in users]
        assert await partition_with(store, "nobody", rules, NOW_MS) is None

    asyncio.run(go())


def test_without_the_usual_partitioner_nobody_is_put_anywhere() -> None:
    """What must know in which partition a user's events will lie is refused; with one partition there is nothing to know."""
    namespace.require_murmur2(Settings(partitioner_check=False, partitions=1))
    namespace.require_murmur2(Settings(partitions=12))
    with pytest.raises(InputError, match="only your producers know"):
        namespace.require_murmur2(Settings(partitioner_check=False, partitions=12))


def test_arrivals_are_not_counted_by_asking() -> None:
    """Asking leaves the shopper's record in the store as it was."""

    async def go() -> None:
        partition, knowledge = await worked(make_model("line0", "line2"), make_rules())
        user = arrive(random_events(1, seed=7)[0].event).event.user_id
        place = await partition.place_users([user])
        before = partition.users.rows[place].tobytes()
        await shoppers(partition, knowledge, LAUNCHES[0], [user], NOW_MS)
        assert partition.users.rows[place].tobytes() == before

    asyncio.run(go())


@pytest.mark.parametrize(
    ("held", "wanted", "said"),
    [
        ("a=1 timezone=UTC", "a=1 timezone=Europe/Berlin", "(…timezone=UTC there, …timezone=Europe/Berlin here)"),
        (f"{'x' * 90} zone=GMT", f"{'x' * 90} zone=GMT+3", "(…zone=GMT there, …zone=GMT+3 here)"),
        ("12", "24", "(12 there, 24 here)"),
        ("scores,rejected", "scores,rejected-2", "(…rejected there, …rejected-2 here)"),
    ],
)
def test_where_two_descriptions_differ_is_shown(held: str, wanted: str, said: str) -> None:
    """Not the beginning, which may be the same for long; also where one ends in the middle of the other."""
    with pytest.raises(Mismatch, match=re.escape(said)):
        namespace.compare({"rules": held}, {"rules": wanted}, "the namespace")
