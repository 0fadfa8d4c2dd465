"""A store that is emptied under a worker gets its launches and the description of its namespace back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import pytest

from features.errors import DependencyDown
from features.memory_store import MemoryStore
from features.store import Changes
from models.model import Model
from streams import launches
from streams.learner_cursor import LearnerCursor
from streams.offline import put_launches
from streams.records import Launch
from tests.builders import START_MS, make_model
from tests.lone_worker import LAUNCH, EmptiedStore, Everything, make_worker


@pytest.fixture(scope="module")
def model() -> Model:
    """Any one."""
    return make_model("shoes")


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
