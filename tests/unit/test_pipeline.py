"""One batch through one partition: what is refused, what a score says, what opens, and what a launch and its end change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest

from features.events import KINDS, encode
from features.exposures import NONE, exposure_id
from features.hashing import partition_for
from features.memory_store import MemoryStore
from models.launch_head import MODELS
from models.model import Model
from streams.knowledge import Knowledge
from streams.offline import put_launches
from streams.pair import Pair
from streams.partition import Partition, Rules
from streams.pipeline import MAX_REJECTED, Worked, settle, work_off
from streams.records import SHARED, Counted, Launch, Outcome, Outgoing, Received, Score, decode_message, decode_score, received
from tests.builders import DAY_MS, EDGES_MS, HOUR_MS, MINUTE_MS, START_MS, make_event, make_model, make_rules, receive, user_of

NOWHERE = [0] * 4


@dataclass
class Desk:
    """A partition, what it believes, and everything that left it."""

    store: MemoryStore
    rules: Rules
    partition: Partition
    knowledge: Knowledge
    sent: list[Outgoing] = field(default_factory=list)

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        self.sent += records

    async def work(self, *records: Received, tick_end_ms: int | None = None, earliest_ms: int | None = None, latest_ms: int | None = None) -> Worked:
        """Work off and settle one batch."""
        worked = await work_off(self.partition, records, self.knowledge, offsets=NOWHERE, tick_end_ms=tick_end_ms, earliest_ms=earliest_ms, latest_ms=latest_ms)
        await settle(self.partition, worked, self, self.store)
        return worked

    def outcomes(self) -> list[Outcome]:
        """The outcomes that left, in order."""
        told = [decode_message(r.value or b"") for r in self.sent if r.topic == "outcomes"]
        return [m for m in told if isinstance(m, Outcome)]


async def open_desk(model: Model | None, *launches: Launch, number: int = 0, store: MemoryStore | None = None, **rules: Any) -> Desk:
    """A desk on a new store, with its launches."""
    held, settings = store or MemoryStore(), make_rules(**rules)
    if launches:
        await put_launches(held, launches)
    knowledge = Knowledge(held, model, settings.outcome_partitions)
    await knowledge.refresh()
    return Desk(held, settings, await Partition.load(number, held, settings), knowledge)


def scores(worked: Worked) -> list[Score]:
    """The scores of a batch."""
    return [decode_score(r.value or b"") for r in worked.scores]


def go(work: Coroutine[Any, Any, None]) -> None:
    """Run it."""
    asyncio.run(work)


@pytest.fixture(scope="module")
def model() -> Model:
    """Its sources are shoes and bags."""
    return make_model("shoes", "bags")


def test_what_is_refused_goes_out_as_it_came(model: Model) -> None:
    """With its reason, place and raw bytes; the good events between are scored, and the totals add up."""

    async def work() -> None:
        partitions = 4
        ours, theirs = user_of(1, partitions), user_of(2, partitions)
        desk = await open_desk(model, number=1, partitions=partitions)
        good = [receive(make_event(START_MS + i, id=f"good{i}", who=ours), offset=i) for i in range(2)]
        late = receive(make_event(START_MS + HOUR_MS + 1, id="future", who=ours), offset=14)
        bad = [
            (received(1, 10, b"k", b"junk\xff"), "not_json"),
            (received(2, 11, None, None), "empty"),
            (received(0, 12, b"other", good[0].value), "wrong_key"),
            (received(0, 12, None, good[0].value), "wrong_key"),
            (receive(make_event(who=theirs), offset=13), "wrong_partition"),
            (late, "from_the_future"),
            (receive(make_event(START_MS // 1000, id="seconds", who=ours), offset=15), "too_old"),
        ]
        worked = await desk.work(good[0], *(r for r, _ in bad), good[1], earliest_ms=START_MS - HOUR_MS, latest_ms=START_MS + HOUR_MS)
        assert [s.event_id for s in scores(worked)] == ["good0", "good1"]
        assert [(r.topic, r.key, r.value) for r in worked.rejected] == [("rejected", r.key, r.value) for r, _ in bad]
        for out, (record, reason) in zip(worked.rejected, bad, strict=True):
            headers = dict(out.headers)
            assert headers["headstart-reason"].decode() == reason
            assert headers["headstart-topic"].decode() == KINDS[record.kind]
            assert (headers["headstart-partition"], headers["headstart-offset"]) == (b"1", str(record.offset).encode())
            assert headers["headstart-detail"]
        totals = desk.partition.cursor.totals
        assert (totals.read, totals.applied, totals.duplicate, totals.rejected) == (9, 2, 0, 7)
        assert desk.partition.cursor.seen.read == 9

    go(work())


def test_shops_with_another_partitioner_may_switch_the_check_off(model: Model) -> None:
    """Then a user's partition is where the record lies."""

    async def work() -> None:
        desk = await open_desk(model, number=1, partitions=4, partitioner_check=False)
        worked = await desk.work(receive(make_event(who=user_of(2, 4))))
        assert len(worked.scores) == 1
        assert worked.rejected == []

    go(work())


def test_a_score_has_the_promised_shape(model: Model) -> None:
    """Keyed by user; id, event, one entry by the line's source head; numbers in [0, 1]; nothing of clock, worker or partition."""

    async def work() -> None:
        desk = await open_desk(model)
        worked = await desk.work(receive(make_event(id="e:1", category="boots", price=3.0), "click"))
        (record,) = worked.scores
        assert (record.topic, record.key, record.partition) == ("scores", b"ann", None)
        told = json.loads(record.value or b"")
        (entry,) = told.pop("entries")
        assert told == {
            "score_id": "ann:e:1",
            "user_id": "ann",
            "event_id": "e:1",
            "kind": "click",
            "product_id": "p1",
            "ts": START_MS,
            "trunk": desk.knowledge.trunk,
        }
        assert len(told["trunk"]) == 16
        assert 0 < entry["score"] < 1
        assert 0 < entry["probability"] < 1
        del entry["score"], entry["probability"]
        assert entry == {"launch_id": None, "line": "shoes", "exposure_id": exposure_id("line:shoes", "ann", "e:1"), "arm": None}

    go(work())


def test_an_event_in_two_launches_has_two_entries(model: Model) -> None:
    """One for each launch, none for the line; each with its own exposure and arm; a launch of other products is not concerned."""

    async def work() -> None:
        window_s = EDGES_MS[-1] / 1000
        launches = [
            Launch(id="all", line="hats", window_s=window_s),
            Launch(id="one", line="hats", products=["p1"], window_s=window_s, holdout=1.0),
            Launch(id="other", line="hats", products=["p2"], window_s=window_s),
        ]
        desk = await open_desk(model, *launches)
        (score,) = scores(await desk.work(receive(make_event(line="hats"))))
        assert [(e.launch_id, e.exposure_id, e.arm) for e in score.entries] == [
            ("all", exposure_id("all", "ann", "e1"), None),
            ("one", exposure_id("one", "ann", "e1"), "holdout"),
        ]
        assert {(e.domain, e.counts) for e in desk.partition.pending.open.values()} == {("all", True), ("one", False)}

    go(work())


def test_what_is_told_of_each_is_its_own_and_is_kept(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry of each event has the numbers of its own domain, and the exposure that it opens keeps them, with those of all experts in a launch."""
    every = np.random.default_rng(1).random((5, 2 * len(MODELS)))
    monkeypatch.setattr(Pair, "of_launches", lambda *asked: every[: len(asked[3])])

    async def work() -> None:
        window_s = EDGES_MS[-1] / 1000
        desk = await open_desk(model, Launch(id="all", line="hats", window_s=window_s), Launch(id="one", line="hats", products=["p1"], window_s=window_s))
        events = [
            make_event(id="a", product="p3"),
            make_event(id="b", line="hats"),
            make_event(id="c", line="bags", product="p3"),
            make_event(id="d", line="hats", product="p2", who="bob"),
        ]
        told = scores(await desk.work(*(receive(e, offset=i) for i, e in enumerate(events))))
        entries = [e for score in told for e in score.entries]
        assert [e.launch_id for e in entries] == [None, "all", "one", None, "all"]
        assert [(e.score, e.probability) for e in entries if e.launch_id] == [tuple(row) for row in every[:3, :2].tolist()]
        of_launches, kept = iter(every.tolist()), desk.partition.pending.open
        for entry in entries:
            assert kept[entry.exposure_id or ""].said() == (tuple(next(of_launches)) if entry.launch_id else (entry.score, entry.score))
        assert [kept[e.exposure_id or ""].counts for e in entries] == [True, True, False, True, True]
        assert len({e.score for e in entries}) == 5

    go(work())


def test_a_refused_record_that_no_topic_takes_is_cut(model: Model) -> None:
    """Else its delivery would fail for ever, and the partition would stand still: key and value are cut, and headers say how long they were."""

    async def work() -> None:
        desk = await open_desk(model)
        huge, long = b"x" * (MAX_REJECTED["value"] + 1), b"k" * (MAX_REJECTED["key"] + 7)
        worked = await desk.work(received(0, 0, long, huge), received(0, 1, b"k", huge[:-1]))
        cut, whole = worked.rejected
        assert (cut.key, cut.value) == (long[:-7], huge[:-1])
        assert dict(cut.headers)["headstart-value-bytes"] == str(len(huge)).encode()
        assert dict(cut.headers)["headstart-key-bytes"] == str(len(long)).encode()
        assert (whole.key, whole.value) == (b"k", huge[:-1])
        assert not {"headstart-value-bytes", "headstart-key-bytes"} & dict(whole.headers).keys()

    go(work())


def test_a_product_launch_inside_a_source_line_is_a_domain_of_its_own(model: Model) -> None:
    """The line goes on as a source; the launched product's own first event opens the launch's exposure; an order of another does not count."""

    async def work() -> None:
        desk = await open_desk(model, Launch(id="new", line="shoes", products=["p9"], window_s=EDGES_MS[-1] / 1000))
        await desk.work(receive(make_event(id="a")))
        await desk.work(receive(make_event(START_MS + 1, id="b", product="p9")))
        await desk.work(receive(make_event(START_MS + 2, id="c"), "order"))
        assert {e.domain: e.delay_ms[2] for e in desk.partition.pending.open.values()} == {"line:shoes": 2, "new": NONE}
        await desk.work(receive(make_event(START_MS + 3, id="d", product="p9"), "order"))
        assert {e.domain: e.delay_ms[2] for e in desk.partition.pending.open.values()} == {"line:shoes": 2, "new": 2}

    go(work())


def test_what_is_launched_teaches_its_launch_alone(model: Model) -> None:
    """An event of a launched product opens no exposure of its line, and its order is none of the line's: the shared heads hear of neither."""

    async def work() -> None:
        desk = await open_desk(model, Launch(id="new", line="shoes", products=["p9"], window_s=EDGES_MS[-1] / 1000))
        await desk.work(receive(make_event(id="a", product="p9")))
        assert [e.domain for e in desk.partition.pending.open.values()] == ["new"]
        await desk.work(receive(make_event(START_MS + 2 * HOUR_MS, id="b")))
        await desk.work(receive(make_event(START_MS + 2 * HOUR_MS + 1, id="c", product="p9"), "order"))
        marks = {e.domain: e.delay_ms[2] for e in desk.partition.pending.open.values()}
        assert marks["line:shoes"] == NONE

    go(work())


def test_a_launched_line_is_no_source_while_it_is_open(model: Model) -> None:
    """Before its start and after its end, as told beforehand too, the line's exposures feed the shared heads."""

    async def work() -> None:
        launch = Launch(id="new", line="shoes", window_s=EDGES_MS[-1] / 1000, from_ms=START_MS + HOUR_MS, closed_ms=START_MS + 2 * HOUR_MS)
        desk = await open_desk(model, launch)
        for i, hours in enumerate((0, 1, 2)):
            await desk.work(receive(make_event(START_MS + hours * HOUR_MS, id=f"e{i}")))
            await desk.work(tick_end_ms=START_MS + (hours + 1) * HOUR_MS)
        assert [e.domain for e in sorted(desk.partition.pending.open.values(), key=lambda e: e.ts_ms)] == ["line:shoes", "new", "line:shoes"]

    go(work())


@pytest.mark.parametrize("products", [[], ["p1"]])
def test_after_a_launch_is_closed_its_open_exposures_run_out(model: Model, products: list[str]) -> None:
    """None opens any more, and an order within the window still counts for those that are open."""

    async def work() -> None:
        launch = Launch(id="new", line="hats", products=products, window_s=EDGES_MS[-1] / 1000, closed_ms=START_MS + HOUR_MS)
        desk = await open_desk(model, launch)
        await desk.work(receive(make_event(id="a", line="hats")), tick_end_ms=START_MS + HOUR_MS)
        (after,) = scores(await desk.work(receive(make_event(START_MS + 2 * HOUR_MS, id="b", line="hats"))))
        assert [e.launch_id for e in after.entries] == [None]
        await desk.work(receive(make_event(START_MS + 3 * HOUR_MS, id="c", line="hats"), "order"))
        await desk.work(tick_end_ms=START_MS + DAY_MS)
        labels = {m.closed.exposure.id: m.closed.label for m in desk.outcomes() if m.closed.label != NONE}
        assert labels == {exposure_id("new", "ann", "a"): 1}

    go(work())


def test_a_line_that_is_launched_keeps_its_open_source_exposures(model: Model) -> None:
    """An order after the launch's start still counts for the exposure that the line opened before."""

    async def work() -> None:
        desk = await open_desk(model, Launch(id="new", line="shoes", window_s=EDGES_MS[-1] / 1000, from_ms=START_MS + HOUR_MS))
        await desk.work(receive(make_event(id="a")), tick_end_ms=START_MS + HOUR_MS)
        await desk.work(receive(make_event(START_MS + HOUR_MS + 1, id="b"), "order"))
        await desk.work(tick_end_ms=START_MS + DAY_MS)
        assert [(m.key, m.closed.label) for m in desk.outcomes() if m.closed.label != NONE] == [(SHARED, 1)]

    go(work())


def test_an_event_that_comes_again_long_after_opens_nothing_twice(model: Model) -> None:
    """Once the ring of ids has forgotten it, it counts again, but its open exposure stays one, and closing goes on."""

    async def work() -> None:
        desk = await open_desk(model)
        first = receive(make_event(id="again"))
        await desk.work(first)
        await desk.work(*(receive(make_event(START_MS + HOUR_MS + i, id=f"e{i}", line="bags")) for i in range(16)))
        worked = await desk.work(first)
        assert scores(worked)[0].entries[0].exposure_id == exposure_id("line:shoes", "ann", "again")
        assert len(desk.partition.pending) == 2
        await desk.work(tick_end_ms=START_MS + DAY_MS)
        assert len([m for m in desk.outcomes() if m.closed.exposure.line == "shoes"]) == len(EDGES_MS)

    go(work())


def test_bins_close_a_grace_after_they_are_due(model: Model) -> None:
    """At a tick's end, up to the end less the grace; outcomes are numbered without holes."""

    async def work() -> None:
        desk = await open_desk(model)
        due_ms = START_MS + EDGES_MS[0] + desk.rules.grace_ms
        await desk.work(receive(make_event()), tick_end_ms=due_ms - 1)
        assert desk.outcomes() == []
        await desk.work(tick_end_ms=due_ms)
        await desk.work(tick_end_ms=START_MS + DAY_MS)
        assert [m.closed.bin for m in desk.outcomes()] == [1, 2, 3]
        told = [decode_message(r.value or b"") for r in desk.sent if r.topic == "outcomes"]
        assert [m.number for m in told if isinstance(m, Outcome | Counted)] == list(range(len(told)))
        assert {m.epoch for m in told if isinstance(m, Outcome | Counted)} == {desk.partition.cursor.epoch}

    go(work())


def test_an_order_that_is_late_within_the_grace_is_on_time(model: Model) -> None:
    """Its bin is still open; one that comes after the grace is counted as late."""

    async def work() -> None:
        desk = await open_desk(model)
        await desk.work(receive(make_event()), tick_end_ms=START_MS + EDGES_MS[0])
        await desk.work(receive(make_event(START_MS + EDGES_MS[0], id="o"), "order"), tick_end_ms=START_MS + EDGES_MS[0] + MINUTE_MS)
        assert [(m.closed.bin, m.closed.y) for m in desk.outcomes()] == [(1, 1)]
        late = await open_desk(model)
        await late.work(receive(make_event()), tick_end_ms=START_MS + EDGES_MS[0] + MINUTE_MS)
        await late.work(receive(make_event(START_MS + EDGES_MS[0], id="o"), "order"), tick_end_ms=START_MS + DAY_MS)
        assert [(m.closed.bin, m.closed.y) for m in late.outcomes()] == [(1, 0), (2, 1), (0, 0)]
        assert late.partition.cursor.totals.late_orders == 1

    go(work())


def test_the_largest_number_of_open_exposures_is_kept(model: Model) -> None:
    """What is above it is scored and counted, and not followed."""

    async def work() -> None:
        desk = await open_desk(model, max_pending=2)
        told = scores(await desk.work(*(receive(make_event(START_MS + i, id=f"e{i}", who=f"u{i}")) for i in range(5))))
        assert [s.entries[0].exposure_id is not None for s in told] == [True, True, False, False, False]
        assert len(desk.partition.pending) == 2
        assert (desk.partition.cursor.totals.exposures, desk.partition.cursor.totals.untracked) == (2, 3)

    go(work())


def test_live_order_is_arrival_and_replay_order_is_time(model: Model) -> None:
    """The same batch, later event first: live it is scored first, in a replay last."""

    async def work() -> None:
        batch = [receive(make_event(START_MS + 5, id="a")), receive(make_event(START_MS, id="b"), "order")]
        for replay, expected in ((False, ["a", "b"]), (True, ["b", "a"])):
            desk = await open_desk(model, replay=replay)
            assert [s.event_id for s in scores(await desk.work(*batch))] == expected

    go(work())


def test_in_a_replay_events_of_one_time_come_in_the_order_of_their_ids(model: Model) -> None:
    """In whichever order they were read, so that each replay of a log says the same."""

    async def work() -> None:
        said = []
        for order in ("ab", "ba"):
            desk = await open_desk(model)
            said.append(scores(await desk.work(*(receive(make_event(id=name)) for name in order))))
        assert said[0] == said[1]
        assert [s.event_id for s in said[0]] == ["a", "b"]

    go(work())


def test_records_broken_anywhere_stop_nothing(model: Model) -> None:
    """Every way to break a good record by one byte is either rejected or still an event, and the good ones between are scored."""

    async def work() -> None:
        desk = await open_desk(model)
        value = encode(make_event(price=1.5, category="boots"))
        broken = [received(0, i, b"ann", value[: i // 3] + [b"", b"\xff", b'"\\u001f'][i % 3] + value[i // 3 + 1 :]) for i in range(3 * len(value))]
        good = [receive(make_event(START_MS + i, id=f"good{i}", who="bob")) for i in range(30)]
        worked = await desk.work(*(r for i, g in enumerate(good) for r in (*broken[i * 20 : (i + 1) * 20], g)))
        assert {f"good{i}" for i in range(30)} <= {s.event_id for s in scores(worked)}
        totals = desk.partition.cursor.totals
        assert totals.read == totals.applied + totals.duplicate + totals.rejected == len(worked.scores) + totals.duplicate + len(worked.rejected)
        assert totals.rejected > 250
        msgspec.json.decode(worked.scores[0].value or b"")

    go(work())


def test_keys_of_outcomes_name_their_learner(model: Model) -> None:
    """Sources' outcomes travel under one key, a launch's under its id, the counts to partition 0."""

    async def work() -> None:
        desk = await open_desk(model, Launch(id="new", line="hats", window_s=EDGES_MS[-1] / 1000), outcome_partitions=3)
        await desk.work(receive(make_event(id="a")), receive(make_event(START_MS + 1, id="b", line="hats")))
        await desk.work(tick_end_ms=START_MS + DAY_MS)
        for record in desk.sent:
            if record.topic == "outcomes":
                message = decode_message(record.value or b"")
                key = message.key if isinstance(message, Outcome) else "catalogue"
                assert record.key == key.encode()
                assert record.partition == (partition_for(key.encode(), 3) if isinstance(message, Outcome) else 0)

    go(work())
