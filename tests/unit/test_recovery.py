"""What a worker does of itself when something is gone: records that left the log, and a store that was emptied under it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from features.errors import DependencyDown, Mismatch
from features.memory_store import MemoryStore
from features.store import Changes, Slot
from models.checkpoint import Artifact, save
from models.model import Model
from streams import launches, trunks
from streams.at_rest import is_behind
from streams.gate import End
from streams.inbox import Expected
from streams.incidents import INCIDENTS, incident
from streams.learner import LearnerCursor
from streams.measuring import Meters, Polls
from streams.namespace import join
from streams.offline import put_launches
from streams.outbox import Past, Told
from streams.partition import Partition, first_cursor
from streams.records import Launch, Outgoing
from streams.vitals import SILENT_S, Vitals
from streams.worker import ALERT_AGAIN_S, OUTCOMES, Worker
from tests.builders import START_MS, make_artifact, make_event, make_model, make_rules, receive

RULES = make_rules(replay=False, partitioner_check=False)
LAUNCH = Launch(id="new", line="hats", window_s=21_600.0)


class Everything:
    """A broker that takes everything and has nothing."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.answered: int | None = None

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Keep them."""
        self.sent += records

    async def seek(self, offsets: object) -> None:
        """Nothing to do."""

    def hold(self, topic: int, partition: int, held: bool) -> None:
        """Nothing to do."""

    def end(self, topic: int, partition: int) -> End | None:
        """Nothing is known."""
        return None

    def answered_ms(self, topic: int, partition: int) -> int | None:
        """As the test says, of one partition."""
        return self.answered if topic == 0 else None


@pytest.fixture(scope="module")
def model() -> Model:
    """Any one."""
    return make_model("shoes")


def make_worker(store: MemoryStore, model: Model, broker: Everything, patience_s: float = 10, **meta: str) -> Worker:
    """A worker on a store."""
    return Worker(
        store, model, RULES, tick_ms=60_000, patience_s=patience_s, outlet=broker, wire=broker, hard_exit=lambda *why: pytest.fail(str(why)), clock_ms=lambda: START_MS,
        meta={"trunk": model.artifact.sha256, **meta},
    )  # fmt: skip


def test_records_that_left_the_log_are_counted_once_and_told(model: Model) -> None:
    """The cursor goes on where the log begins, the loss is in the totals with it, and an alert tells which records; a new partition just begins there."""

    async def work() -> None:
        store, broker = MemoryStore(), Everything()
        worker = make_worker(store, model, broker)
        await worker.assigned([0], [0])
        worker.log_start_above(1, 0, 0, 500)
        assert (worker.alerts, worker.desks[0].partition.cursor.totals.lost) == ([], 0)
        worker.take(0, 0, [receive(make_event(), offset=0)], 1, lambda: None, lambda: True)
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


def test_a_store_that_was_emptied_gets_its_launches_and_its_description_back(model: Model) -> None:
    """From what the worker knows: a launch that is gone, one that was closed; and somebody is told. What is there already stays as it is."""

    async def work() -> None:
        store, broker = MemoryStore(), Everything()
        await put_launches(store, [LAUNCH, Launch(id="old", line="bags", window_s=21_600.0, closed_ms=START_MS)])
        worker = make_worker(store, model, broker, clock="live")
        await worker.assigned([0], [0])
        store.__dict__.update(MemoryStore().__dict__)
        await put_launches(store, [Launch(id="old", line="bags", window_s=21_600.0)])
        await store.commit("control", 1, Changes(cursor=b"", version=0))  # as if it had gone back
        await worker.look_again()
        assert await launches.read(store) == {"new": LAUNCH, "old": Launch(id="old", line="bags", window_s=21_600.0, closed_ms=START_MS)}
        assert {launch.id for launch in worker.knowledge.launches.all} == {"new", "old"}
        assert (await store.meta())["clock"] == "live"
        assert [alert.evidence for alert in worker.alerts] == [{"launches": 2}]
        await worker.settle()

    asyncio.run(work())


class EmptiedStore(MemoryStore):
    """One that is emptied right before the `at`-th of its slots is loaded."""

    at = -1

    async def load(self, slot: str, hashes: Sequence[str]) -> Slot:
        """Count down first."""
        if self.at == 0:
            vars(self).update(vars(MemoryStore()))
        self.at -= 1
        return await super().load(slot, hashes)


@pytest.mark.parametrize("known", [(LAUNCH,), ()], ids=["launch", "none"])
def test_a_store_that_is_emptied_while_it_is_looked_at_gets_everything_back(model: Model, known: tuple[Launch, ...]) -> None:
    """Whichever slot was the last to be read from before: launches and description are back after the next look."""

    async def work() -> None:
        looks = 0
        for moment in range(99):
            store, broker = EmptiedStore(), Everything()
            await put_launches(store, known)
            await store.put_meta({"clock": "live"})
            assert await store.commit("o0", 0, Changes(cursor=msgspec.msgpack.encode(LearnerCursor())))
            worker = make_worker(store, model, broker, clock="live")
            await worker.assigned([0], [0])
            await worker.settle()
            if known:  # one more launch, since the last look: the launches are read as well
                await put_launches(store, [Launch(id="newer", line="bags", window_s=21_600.0)])
            store.at = moment
            await worker.look_again()
            if store.at >= 0:
                looks = moment
                break
            await worker.look_again()
            back = await launches.read(store)
            assert back.keys() >= {launch.id for launch in known}, moment
            assert (await store.meta()).get("clock") == "live", moment
        assert looks == (3 if known else 2)

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

    def drained(self, topic: int, partition: int) -> int:
        """Nothing came."""
        return 0

    def stands_still(self) -> bool:
        """It goes on."""
        return False

    def has_joined(self) -> bool:
        """It is there."""
        return True


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


@dataclass
class Promoted:
    """A namespace that was made with the first of three trunks; the others were promoted one after the other, and the learner has followed."""

    store: EmptiedStore
    trunks: list[Artifact]
    broker: Everything = field(default_factory=Everything)

    @classmethod
    async def make(cls, folder: Path) -> Promoted:
        """With a launch."""
        made = [save(make_artifact("shoes", *more), folder / str(i)) for i, more in enumerate(((), ("hats",), ("hats", "bags")))]
        stage = cls(EmptiedStore(), made)
        await stage.store.put_meta({"trunk": made[0].sha256, "clock": "live"})
        await trunks.keep(stage.store, folder / "0", made[0])
        await put_launches(stage.store, [LAUNCH])
        for i in (1, 2):
            await trunks.promote(stage.store, folder / str(i), made[i], base=made[0].sha256, stamped=0, at_ms=0)
        worker = await stage.worker(0)
        await stage.followed(2)
        await worker.settle()
        return stage

    async def worker(self, own: int) -> Worker:
        """One that came with a trunk, and works."""
        worker = make_worker(self.store, Model(self.trunks[own]), self.broker, clock="live", trunk=self.trunks[0].sha256)
        await worker.assigned([0], range(RULES.outcome_partitions))
        return worker

    async def followed(self, number: int, slot: str = "o0") -> None:
        """Return when the learner has taken up an activation."""
        for _ in range(200):
            if trunks.stamp_in(await self.store.load(slot, (trunks.STAMP,))).number >= number:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"activation {number} was not taken up")

    async def refused(self) -> list[int]:
        """The trunks with which a worker may not join."""
        wanted = {"clock": "live"}
        found = []
        for i, artifact in enumerate(self.trunks):
            try:
                await join(self.store, wanted | {"trunk": artifact.sha256}, "n")
            except Mismatch:
                found.append(i)
        return found

    def empty(self) -> None:
        """Forget everything."""
        vars(self.store).update(vars(MemoryStore()))


@pytest.mark.parametrize("own", range(3))
def test_a_store_that_was_emptied_follows_the_promoted_trunk_again(tmp_path: Path, own: int) -> None:
    """At whatever moment of a look, and whichever trunk the only worker came with: launch, trunk and description are back, and workers may join as before."""

    async def work() -> None:
        stage = await Promoted.make(tmp_path)
        worker = await stage.worker(own)
        for moment in range(99):
            stage.store.at = moment
            await worker.look_again()
            if ended := stage.store.at >= 0:
                break
            await worker.look_again()
            assert list(await launches.read(stage.store)) == ["new"], moment
            assert (await stage.store.meta())["trunk"] == stage.trunks[0].sha256
            assert [a.sha256 for a in await trunks.read(stage.store)] == [stage.trunks[2].sha256]
            assert await stage.refused() == []
            await stage.followed(2)
            await worker.look_again()
            assert worker.knowledge.trunk == stage.trunks[2].sha256[:16]
        stage.store.at = -1
        assert ended
        assert moment >= 2
        await trunks.rollback(stage.store, base=stage.trunks[0].sha256, stamped=2, at_ms=0)
        await worker.look_again()
        await stage.followed(3)
        await worker.look_again()
        assert worker.knowledge.trunk == stage.trunks[1].sha256[:16]
        await worker.settle()

    asyncio.run(work())


def test_each_worker_puts_back_the_trunks_that_it_has(tmp_path: Path) -> None:
    """Also where another one has put back all that it found forgotten; launches go on meanwhile."""

    async def work() -> None:
        stage = await Promoted.make(tmp_path)
        first, second = await stage.worker(2), await stage.worker(1)
        await trunks.promote(stage.store, tmp_path / "0", stage.trunks[0], base=stage.trunks[0].sha256, stamped=2, at_ms=0)
        for worker in (first, second):
            await worker.look_again()
        await stage.followed(3)
        stage.empty()
        for worker in (first, second):
            await worker.look_again()
            assert [launch.id for launch in worker.knowledge.launches.all] == ["new"]
        for artifact in stage.trunks:
            assert (await trunks.fetch(stage.store, artifact.sha256)).sha256 == artifact.sha256
        for worker in (first, second):
            await worker.settle()

    asyncio.run(work())


def test_what_could_not_be_put_back_is_put_back_later(tmp_path: Path) -> None:
    """The launch is taken, the trunk is refused: the next look knows of it still, and both were told."""

    async def work() -> None:
        stage = await Promoted.make(tmp_path)
        worker = await stage.worker(2)
        await worker.settle()
        commit, commits = stage.store.commit, 0

        async def second_refused(slot: str, expected: int, changes: Changes) -> bool:
            nonlocal commits
            commits += slot == trunks.CONTROL_SLOT
            if slot == trunks.CONTROL_SLOT and commits == 2:
                raise DependencyDown("no memory")
            return await commit(slot, expected, changes)

        stage.empty()
        stage.store.commit = second_refused  # type: ignore[method-assign]
        with pytest.raises(DependencyDown):
            await worker.look_again()
        assert await trunks.read(stage.store) == []
        await worker.look_again()
        assert [a.sha256 for a in await trunks.read(stage.store)] == [stage.trunks[2].sha256]
        assert worker.incidents["store_went_back"] == 2

    asyncio.run(work())


@pytest.mark.parametrize("change", ["promote", "rollback"])
def test_what_is_to_follow_the_active_trunk_does_not_take_its_place(tmp_path: Path, change: str) -> None:
    """A store is emptied while a change of trunks is set for tomorrow: today's goes on, and its files are back for who starts."""

    async def work() -> None:
        stage = await Promoted.make(tmp_path)
        base, active = stage.trunks[0].sha256, stage.trunks[2].sha256
        worker = await stage.worker(0)
        tomorrow = START_MS + 86_400_000
        if change == "promote":
            await trunks.promote(stage.store, tmp_path / "1", stage.trunks[1], base=base, stamped=2, at_ms=tomorrow)
        else:
            await trunks.rollback(stage.store, base=base, stamped=2, at_ms=tomorrow)
        await worker.look_again()
        stage.empty()
        await worker.look_again()
        assert [(a.number, a.sha256) for a in await trunks.read(stage.store)] == [(2, active), (3, stage.trunks[1].sha256)]
        await stage.followed(2)
        await worker.look_again()
        other = await stage.worker(0)
        assert worker.knowledge.trunk == other.knowledge.trunk == active[:16]
        assert worker.incidents["store_went_back"] >= 2
        for one in (worker, other):
            await one.settle()

    asyncio.run(work())


def test_a_store_that_is_emptied_twice_between_two_looks_gets_everything_back(model: Model) -> None:
    """It comes to the version at which it was looked at last, and what was put back is gone again."""

    async def work() -> None:
        store, broker = MemoryStore(), Everything()
        await put_launches(store, [LAUNCH])
        worker = make_worker(store, model, broker, clock="live")
        await worker.assigned([0], [0])
        for _ in range(2):
            vars(store).update(vars(MemoryStore()))
            await worker._refresh()
        assert list(await launches.read(store)) == ["new"]
        assert (await store.meta())["clock"] == "live"
        await worker.settle()

    asyncio.run(work())


def test_a_description_that_is_lost_with_some_partitions_is_written_again(model: Model) -> None:
    """As where one shard of a Redis Cluster is lost: the partition starts over, and so the worker looks."""

    async def work() -> None:
        store, broker = MemoryStore(), Everything()
        worker = make_worker(store, model, broker, clock="live")
        await worker.assigned([0], [0])
        assert (await store.meta())["clock"] == "live"
        store._meta.clear()
        worker.desks[0].load_again()
        for _ in range(100):
            if await store.meta():
                break
            await asyncio.sleep(0.02)
        assert (await store.meta())["clock"] == "live"
        await worker.settle()

    asyncio.run(work())


def test_a_worker_starts_where_outcome_partitions_are_trunks_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a shard is lost after two promotions and no worker runs: who starts goes on from the slower one, and it catches up."""
    monkeypatch.setitem(globals(), "RULES", make_rules(replay=False, partitioner_check=False, outcome_partitions=2))
    monkeypatch.setattr("streams.knowledge.LOOK_AGAIN_S", 0.001)

    async def work() -> None:
        stage = await Promoted.make(tmp_path)
        worker = await stage.worker(0)
        for number in (1, 2):
            await stage.followed(number, "o1")
        await worker.settle()
        store = stage.store
        store._cursors.pop("o1")
        store._hashes = {name: held for name, held in store._hashes.items() if name[0] != "o1"}
        starting = make_worker(store, Model(stage.trunks[0]), stage.broker, clock="live", trunk=stage.trunks[0].sha256)
        await starting.assigned([0], [0, 1])
        assert starting.knowledge.trunk == stage.trunks[0].sha256[:16]
        await stage.followed(2, "o1")
        await starting.look_again()
        assert starting.knowledge.trunk == stage.trunks[2].sha256[:16]
        await starting.settle()

    asyncio.run(work())


def test_who_joins_while_trunks_are_put_back_belongs(tmp_path: Path) -> None:
    """The description is put back last, so who meets it finds the trunks too."""

    async def work() -> None:
        stage = await Promoted.make(tmp_path)
        worker = await stage.worker(0)
        stage.empty()
        claim = stage.store.claim_meta

        async def later(values: Mapping[str, str]) -> dict[str, str]:
            stage.store.claim_meta = claim  # type: ignore[method-assign]
            await worker.look_again()
            return await claim(values)

        stage.store.claim_meta = later  # type: ignore[method-assign]
        held = await join(stage.store, {"clock": "live", "trunk": stage.trunks[2].sha256}, "n")
        assert held["trunk"] == stage.trunks[0].sha256
        await worker.settle()

    asyncio.run(work())


def test_who_joins_an_emptied_store_first_says_what_heads_begin_with(tmp_path: Path) -> None:
    """Another worker with the promoted trunk: all score with that one; and with another clock it is another namespace."""

    async def work() -> None:
        stage = await Promoted.make(tmp_path)
        worker = await stage.worker(0)
        await worker.settle()  # nobody learns from here on
        stage.empty()
        await join(stage.store, {"clock": "live", "trunk": stage.trunks[2].sha256}, "n")
        for _ in range(2):
            await worker.look_again()
        assert trunks.stamp_in(await stage.store.load("o0", (trunks.STAMP,))).number == 0
        assert worker.knowledge.trunk == stage.trunks[2].sha256[:16]
        stage.empty()
        await join(stage.store, {"clock": "replay:60000", "trunk": stage.trunks[0].sha256}, "n")
        with pytest.raises(Mismatch, match="the clock"):
            await worker.look_again()

    asyncio.run(work())


def test_an_activation_is_told_by_its_trunk_too(tmp_path: Path) -> None:
    """The store goes back to before a promotion, and another trunk is promoted under its number while a worker does not look."""

    async def work() -> None:
        made = [save(make_artifact("shoes", *more), tmp_path / str(i)) for i, more in enumerate(((), ("hats",), ("hats", "bags")))]
        stage = Promoted(EmptiedStore(), made)
        await stage.store.put_meta({"trunk": made[0].sha256, "clock": "live"})
        await trunks.keep(stage.store, tmp_path / "0", made[0])
        before = copy.deepcopy(vars(stage.store))
        looking = await stage.worker(0)
        for i in (1, 2):
            vars(stage.store).update(copy.deepcopy(before))
            await trunks.promote(stage.store, tmp_path / str(i), made[i], base=made[0].sha256, stamped=0, at_ms=0)
            learning = await stage.worker(0)
            await stage.followed(1)
            await learning.settle()
            if i == 1:
                await looking.look_again()
                await looking.settle()
        await looking.look_again()
        assert looking.knowledge.trunk == made[2].sha256[:16]

    asyncio.run(work())


def test_a_trunk_that_is_nowhere_is_waited_for(tmp_path: Path) -> None:
    """Another worker may be about to put it back; a start ends as where Redis is down, and is tried again."""

    async def work() -> None:
        stage = await Promoted.make(tmp_path)
        stage.empty()
        await stage.store.put_meta({"trunk": stage.trunks[0].sha256, "clock": "live"})
        with pytest.raises(DependencyDown, match="is not in the namespace's store"):
            await stage.worker(2)

    asyncio.run(work())


def test_control_records_that_come_to_the_same_version_again_are_read(model: Model) -> None:
    """Emptied, and written once by a worker that starts: as many commits as before."""

    async def work() -> None:
        store, broker = MemoryStore(), Everything()
        await put_launches(store, [LAUNCH])
        worker = make_worker(store, model, broker, clock="live")
        await worker.assigned([0], [0])
        store.__dict__.update(MemoryStore().__dict__)
        await put_launches(store, [])
        await worker.look_again()
        assert list(await launches.read(store)) == ["new"]
        assert (await store.meta())["clock"] == "live"
        await worker.settle()

    asyncio.run(work())


def test_a_store_that_refuses_to_be_described_is_asked_again(model: Model) -> None:
    """Partitions are told to start over all the same."""

    async def work() -> None:
        store, broker = MemoryStore(), Everything()
        assert await store.commit("o0", 0, Changes(cursor=msgspec.msgpack.encode(LearnerCursor()), version=5))
        worker = make_worker(store, model, broker, clock="live")
        await worker.assigned([0], [0])
        await worker.look_again()
        desk, learner = worker.desks[0], worker.learners[0]
        await worker.settle()
        worker.desks[0], worker.learners[0] = desk, learner
        store.__dict__.update(MemoryStore().__dict__)
        claim = store.claim_meta

        async def refused(values: Mapping[str, str]) -> dict[str, str]:
            raise DependencyDown("no memory")

        store.claim_meta = refused  # type: ignore[method-assign]
        with pytest.raises(DependencyDown):
            await worker.look_again()
        assert desk._reload
        assert learner._reload
        store.claim_meta = claim  # type: ignore[method-assign]
        await worker.look_again()
        assert (await store.meta())["clock"] == "live"
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
