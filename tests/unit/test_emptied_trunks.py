"""A store that is emptied, or goes back, where a trunk was promoted: each worker goes on with it, and puts back what is missing."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from features.errors import DependencyDown, Mismatch
from features.memory_store import MemoryStore
from features.store import Changes
from models.checkpoint import Artifact, save
from models.model import Model
from streams import launches, trunks
from streams.namespace import join
from streams.offline import put_launches
from streams.partition import Rules
from streams.worker import Worker
from tests.builders import START_MS, make_artifact
from tests.lone_worker import LAUNCH, RULES, EmptiedStore, Everything, make_worker


@dataclass
class Promoted:
    """A namespace that was made with the first of three trunks; the others were promoted one after the other, and the learner has followed."""

    store: EmptiedStore
    trunks: list[Artifact]
    rules: Rules = RULES
    broker: Everything = field(default_factory=Everything)

    @classmethod
    async def make(cls, folder: Path, rules: Rules = RULES) -> Promoted:
        """With a launch."""
        made = [save(make_artifact("shoes", *more), folder / str(i)) for i, more in enumerate(((), ("hats",), ("hats", "bags")))]
        stage = cls(EmptiedStore(), made, rules)
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
        worker = make_worker(self.store, Model(self.trunks[own]), self.broker, rules=self.rules, clock="live", trunk=self.trunks[0].sha256)
        await worker.assigned([0], range(self.rules.outcome_partitions))
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


def test_a_worker_starts_where_outcome_partitions_are_trunks_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a shard is lost after two promotions and no worker runs: who starts goes on from the slower one, and it catches up."""
    monkeypatch.setattr("streams.knowledge.LOOK_AGAIN_S", 0.001)

    async def work() -> None:
        stage = await Promoted.make(tmp_path, replace(RULES, outcome_partitions=2))
        worker = await stage.worker(0)
        for number in (1, 2):
            await stage.followed(number, "o1")
        await worker.settle()
        store = stage.store
        store._cursors.pop("o1")
        store._hashes = {name: held for name, held in store._hashes.items() if name[0] != "o1"}
        starting = make_worker(store, Model(stage.trunks[0]), stage.broker, rules=stage.rules, clock="live", trunk=stage.trunks[0].sha256)
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
