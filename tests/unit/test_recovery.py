"""What a worker does of itself when records have left the log or the broker falls silent, and who is behind."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from features.errors import DependencyDown
from features.memory_store import MemoryStore
from models.model import Model
from streams.at_rest import is_behind
from streams.inbox import Expected
from streams.incidents import INCIDENTS, incident
from streams.inflow import Reading, Waits
from streams.measuring import Meters, Polls
from streams.outbox import Past, Told
from streams.partition import Partition, first_cursor
from streams.vitals import SILENT_S, Vitals
from streams.worker import ALERT_AGAIN_S, OUTCOMES
from tests.builders import START_MS, Came, make_event, make_model, receive
from tests.lone_worker import RULES, Everything, make_worker


@pytest.fixture(scope="module")
def model() -> Model:
    """Any one."""
    return make_model("shoes")


def test_records_that_left_the_log_are_counted_once_and_told(model: Model) -> None:
    """The cursor goes on where the log begins, the loss is in the totals with it, and an alert tells which records; a new partition just begins there."""

    async def work() -> None:
        store, broker = MemoryStore(), Everything()
        worker = make_worker(store, model, broker)
        await worker.assigned([0], [0])
        worker.log_start_above(1, 0, 0, 500)
        assert (worker.alerts, worker.desks[0].partition.cursor.totals.lost) == ([], 0)
        worker.hear(0, 0, Came([receive(make_event(), offset=0)], 1))
        await worker.settle()
        partition = await Partition.load(0, store, RULES)
        partition.cursor.offsets[0] = 3
        await partition.commit()
        await worker.assigned([0], [0])
        worker.log_start_above(0, 0, 3, 10)
        worker.log_start_above(OUTCOMES, 0, 0, 99)  # the learner sees for itself what it has missed
        cursor = worker.desks[0].partition.cursor
        assert (cursor.offsets[0], cursor.totals.lost, worker.lost_records) == (10, 7, 7)
        assert [(alert.kind, alert.evidence) for alert in worker.alerts] == [("records_lost", {"topic": "browse", "partition": 0, "first": 3, "records": 7})]
        assert INCIDENTS["records_lost"] in worker.alerts[0].text
        # What is deleted later, from under a worker that lags, is told too, with what else was lost meanwhile; it does not move where reading stands.
        worker.records_gone(0, 0, 15, 20)
        worker.records_gone(2, 0, 4, 6)
        worker.records_gone(OUTCOMES, 0, 0, 99)
        assert (cursor.offsets[0], cursor.totals.lost, worker.lost_records, len(worker.alerts)) == (10, 7, 14, 1)
        worker._told_s["records_lost"] -= ALERT_AGAIN_S
        worker._tell_alerts()
        assert worker.alerts[-1].evidence == {"times": 2, "partitions": "0", "records": 7}
        assert worker.incidents["records_lost"] == 3
        await worker.settle()

    asyncio.run(work())


def test_of_one_kind_one_alert_is_told_in_a_while(model: Model) -> None:
    """What befalls the store befalls every partition: that is one alert, not one for each."""

    async def work() -> None:
        broker = Everything()
        worker = make_worker(MemoryStore(), model, broker)
        for kind in ("store_went_back", "store_went_back", "records_lost"):
            worker.tell(incident(kind, kind))
        await worker._send_alerts()
        assert [record.topic for record in broker.sent] == ["alerts", "alerts"]
        assert worker.alerts == []
        assert {kind: number for kind, number in worker.incidents.items() if number} == {"store_went_back": 2, "records_lost": 1}

    asyncio.run(work())


def test_a_silent_broker_is_noticed_whatever_the_clocks_do(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any new answer counts, also one that a clock which was set back has stamped; none for as long as the setting allows ends the worker."""

    async def work() -> None:
        broker, now_s = Everything(), 1_000.0
        worker = make_worker(MemoryStore(), model, broker)
        await worker.assigned([0], [0])
        monkeypatch.setattr("streams.worker.time", SimpleNamespace(monotonic=lambda: now_s))
        for answered in (START_MS + 3_600_000, START_MS, START_MS + 1, START_MS + 2):
            broker.answered = answered
            now_s += 9
            worker._listen_to_broker()
        now_s += 9
        worker._listen_to_broker()
        now_s += 2
        with pytest.raises(DependencyDown, match="the broker has not answered for 10 s"):
            worker._listen_to_broker()
        monkeypatch.undo()
        await worker.settle()

    asyncio.run(work())


class Joined:
    """A transport that is a member of its group, and reads."""

    def reading(self, topic: int, partition: int) -> None:
        """Nothing is known."""

    def waits(self, topic: int, partition: int) -> Waits:
        """Nothing came."""
        return Waits()

    def stands_still(self) -> bool:
        """It goes on."""
        return False

    def has_joined(self) -> bool:
        """It is there."""
        return True


class Lying(Joined):
    """A transport of which a test says what lies where."""

    def __init__(self) -> None:
        self.readings: dict[int, Reading] = {}
        self.drained: dict[int, Waits] = {}

    def reading(self, topic: int, partition: int) -> Reading | None:  # type: ignore[override]
        """As told."""
        return self.readings.get(topic)

    def waits(self, topic: int, partition: int) -> Waits:
        """As told."""
        return self.drained.get(topic, Waits())


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
def test_an_offset_that_nobody_is_handed_is_no_work_and_a_record_that_is_not_drawn_is(model: Model, replay: bool) -> None:
    """The mark of a transaction, outcomes that were deleted before the first was learned: a worker that waits for those would be ended again and again."""

    async def work() -> None:
        worker, wire = make_worker(MemoryStore(), model, Everything()), Lying()
        vitals = Vitals(worker, wire, Polls(Meters()), replay=replay, info=("0", "test"), clock_s=lambda: 9.0)
        await worker.assigned([0], [0])
        desk = worker.desks[0]
        desk.gate.skip(0, 100)
        wire.readings = {0: Reading(101, 101, 1), OUTCOMES: Reading(500, 500, 1)}
        wire.drained = {0: Waits(upto=100)}
        assert [place.has_work for place in vitals.places()] == [False, False]
        wire.drained = {0: Waits(upto=101, records=1, bytes=7, since_s=5.0)}
        assert [place.has_work for place in vitals.places()] == [True, False]
        figures = vitals.figures()
        assert [[*figures[f"headstart_held_{what}"]] for what in ("records", "bytes")] == [[((), 1.0)], [((), 7.0)]]
        assert next(iter(figures["headstart_oldest_unacknowledged_seconds"]))[1] == 4
        desk._unsettled_at = (3,)  # a tick of a replay may take its time, and nothing is drawn meanwhile
        assert vitals.places()[0].has_work == (not replay)
        desk._unsettled_at = ()
        await worker.settle()

    asyncio.run(work())


def test_a_worker_with_nothing_in_hand_is_not_ready_while_the_broker_is_silent(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No delivery fails where there is none: the fetches that are not answered say it, in /ready and in the figure, and as soon as one is, all is well."""

    async def work() -> None:
        broker, now_s = Everything(), 1_000.0
        worker = make_worker(MemoryStore(), model, broker, patience_s=60)
        vitals = Vitals(worker, Joined(), Polls(Meters()), replay=False, info=("0", "test"))
        await worker.assigned([0], [0])
        monkeypatch.setattr("streams.worker.time", SimpleNamespace(monotonic=lambda: now_s))

        def look(after_s: float, answered: int) -> tuple[list[str], float, list[object]]:
            nonlocal now_s
            now_s, broker.answered = now_s + after_s, answered
            worker._listen_to_broker()
            figures = vitals.figures()
            return vitals.problems(), vitals.down_s(), [*figures["headstart_dependency_down_seconds"], *figures["headstart_ready"]]

        well: tuple[list[str], float, list[object]] = ([], 0.0, [((), 0.0), ((), 1.0)])
        assert look(1, START_MS) == well
        assert look(SILENT_S, START_MS) == well
        assert look(2, START_MS) == (["the broker has not answered for 12 s"], 12.0, [((), 12.0), ((), 0.0)])
        assert look(20, START_MS + 1) == well
        monkeypatch.undo()
        await worker.settle()

    asyncio.run(work())


def test_a_partition_is_learned_when_its_learner_is_further_than_the_last_life_that_is_named() -> None:
    """Lives leave the cursor when all learners are through, not in their order: of two, the later one may be gone, and its learner stands there."""
    cursor = first_cursor([0] * 4, 2)
    early, late = (number << 40 for number in (5, 6))
    cursor.epoch, cursor.told = 7 << 40, Told(before=[Past(early, [4, 4])])
    assert not is_behind(Expected(late, 2), cursor, 1)
    assert not is_behind(Expected(early, 4), cursor, 1)
    assert is_behind(Expected(early, 3), cursor, 1)
    assert is_behind(None, cursor, 1)
    cursor.numbers = [0, 1]
    assert is_behind(Expected(late, 2), cursor, 1)
    assert not is_behind(Expected(cursor.epoch, 1), cursor, 1)
    assert is_behind(Expected(cursor.epoch + 1, 1), cursor, 1)  # a life that began from the same state, and that the store has forgotten
