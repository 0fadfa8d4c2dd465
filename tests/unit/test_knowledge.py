"""Trunk and heads are believed as a pair, whatever learners, workers and crashes do in between; nothing is lost or learned twice on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from features.catalogue import empty
from features.errors import DependencyDown
from models.checkpoint import save
from models.model import Model
from models.shared_heads import SharedHeads
from streams import trunks
from streams.knowledge import CHANGED, CHANGED_KEPT, HEADS, HEADS_BEFORE, Knowledge, outcome_slot
from streams.pair import is_source
from streams.partition import LostCommit
from streams.records import SHARED
from tests.builders import make_artifact, pair_of
from tests.trunk_stage import KEYS, PARTITIONS, SHARED_Q, Stage, Told, Trunk, check_pair, final_state, go, outcomes_of
from tests.unit.test_learner import T1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Trunk]:
    """Three trunks with one scaler; the later ones were trained until after the exposures, before their outcomes."""
    out = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("trunks") / str(seed)
        out.append(Trunk(folder, Model(save(make_artifact("shoes", seed=seed, trained_until_ms=T1 - 1 if seed else 0), folder))))
    return out


@pytest.mark.parametrize("seed", range(6))
def test_no_mixed_pair_is_ever_believed(seed: int, made: list[Trunk]) -> None:
    """Learners learn, switch and crash, workers refresh and start, trunks are promoted and taken back, all at once: every pair fits, none goes back,
    each outcome is learned once, and heads on raw features end as if there had been one trunk all the time.
    """
    draw = random.Random(seed)
    labels = [[int(draw.random() < 0.3) for _ in range(40)] for _ in range(PARTITIONS)]

    async def work() -> None:
        stage = Stage(Told(made[0].sha256, draw), made[0])
        await stage.begin()
        running, followers = True, [stage.new_knowledge(), stage.new_knowledge(made[1])]
        seen: list[str] = []
        arrived = asyncio.Event()

        async def learn(q: int) -> None:
            for y in labels[q]:
                await stage.send(q, y)
                for _ in range(draw.randrange(3)):
                    await stage.step(q)
                    await asyncio.sleep(0)
                if draw.random() < 0.15:
                    await stage.restart(q)  # a crash: what was not committed is read again
            while running:
                await stage.step(q)
                await asyncio.sleep(0)

        async def follow(knowledge: Knowledge) -> None:
            number = -1
            while running:
                await knowledge.refresh()
                assert knowledge._number >= number
                number = knowledge._number
                if knowledge is followers[0] and seen[-1:] != [knowledge.trunk]:
                    seen.append(knowledge.trunk)
                if followers[0]._number == 4:
                    arrived.set()

        async def arrive() -> None:
            while running:
                newcomer = stage.new_knowledge(draw.choice(made))
                await newcomer.refresh()
                assert newcomer._number >= 0
                check_pair(newcomer, stage.store)

        async def look() -> None:
            while running:
                for knowledge in followers:
                    check_pair(knowledge, stage.store)
                await asyncio.sleep(0)

        async def operate() -> None:
            nonlocal running
            acts: list[Callable[[], Awaitable[object]]] = [lambda: stage.promote(made[1]), lambda: stage.promote(made[2]), stage.rollback, stage.rollback]
            for act in acts:
                for _ in range(draw.randrange(60)):
                    await asyncio.sleep(0)
                await act()
                await stage.hear()
            await arrived.wait()
            running = False

        async with asyncio.TaskGroup() as group:
            for task in (*(learn(q) for q in range(PARTITIONS)), *map(follow, followers), arrive(), look(), operate()):
                group.create_task(task)
        await stage.settle()
        for knowledge in followers:
            await knowledge.refresh()
            check_pair(knowledge, stage.store)
            assert knowledge.trunk == made[0].sha256[:16]
            for key in (*KEYS, SHARED):
                head = pair_of(knowledge).shared if key == SHARED else pair_of(knowledge).head(key)
                assert head is not None
                assert head.n_learned == outcomes_of(stage, key)
        order = [made[i].sha256[:16] for i in (0, 1, 2, 1, 0)]
        passed = iter(order)
        assert all(any(name == step for step in passed) for name in seen), seen  # in this order, though short stays may be missed

        alone = Stage(Told(made[0].sha256), made[0])
        await alone.begin()
        for q in range(PARTITIONS):
            for y in labels[q]:
                await alone.send(q, y)
        await alone.settle()
        one, other = SharedHeads.from_bytes((await final_state(stage))[SHARED]), SharedHeads.from_bytes((await final_state(alone))[SHARED])
        for name in ("raw_final", "raw_delay"):
            assert one.heads[name].m.tobytes() == other.heads[name].m.tobytes()
            assert one.heads[name].p.tobytes() == other.heads[name].p.tobytes()
        assert one.delay.counts.ring.sum() > 0
        assert one.delay.counts.ring.tobytes() == other.delay.counts.ring.tobytes()
        assert one.heads["trunk_delay"].m.tobytes() != other.heads["trunk_delay"].m.tobytes()

    go(work())


def test_the_old_pair_is_believed_until_the_last_learner_has_followed(made: list[Trunk]) -> None:
    """By a worker that was there and by one that starts in the middle, alike to the bit; then the new one by both."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        for q in range(PARTITIONS):
            for i in range(6):
                await stage.send(q, i % 2)
        await stage.settle()
        there = stage.new_knowledge()
        await there.refresh()
        before = {key: pair_of(there).head(key).to_bytes() for key in KEYS}
        await stage.promote(made[1])
        await there.refresh()
        await stage.hear()
        for q in range(PARTITIONS):
            await there.refresh()
            newcomer = stage.new_knowledge(made[2] if q == 1 else made[1])
            await newcomer.refresh()
            for knowledge in (there, newcomer):
                assert knowledge.trunk == made[0].sha256[:16]
                assert {key: pair_of(knowledge).head(key).to_bytes() for key in KEYS} == before
            assert await stage.step(q)
            assert not await stage.step(q)
        for knowledge in (there, stage.new_knowledge()):
            await knowledge.refresh()
            check_pair(knowledge, stage.store)
            assert knowledge.trunk == made[1].sha256[:16]
            assert {key: pair_of(knowledge).head(key).n_learned for key in KEYS} == {key: outcomes_of(stage, key) for key in KEYS}
            assert all(pair_of(knowledge).head(key).to_bytes() != before[key] for key in KEYS)

    go(work())


def test_nobody_switches_before_its_time_nor_two_trunks_ahead(made: list[Trunk]) -> None:
    """A learner waits for `from_ms`, takes one activation after the other, and the next one only when all others have taken the one before."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        stage.now_ms = 1000
        await stage.promote(made[1])
        await stage.promote(made[2])
        await stage.hear()
        stage.now_ms = 999
        assert [await stage.step(q) for q in range(PARTITIONS)] == [False] * PARTITIONS
        stage.now_ms = 1000
        assert [await stage.step(0) for _ in range(3)] == [True, False, False]
        assert [await stage.step(q) for q in (1, 2, 1, 0, 2, 0)] == [True, True, True, True, True, False]
        stamps = [trunks.stamp_in(await stage.store.load(outcome_slot(q), (trunks.STAMP,))) for q in range(PARTITIONS)]
        assert {(stamp.number, stamp.before, stamp.sha256) for stamp in stamps} == {(2, 1, made[2].sha256)}

    go(work())


def test_a_learner_that_lost_its_commit_has_not_switched(made: list[Trunk]) -> None:
    """Of two learners of one partition one carries the heads over; the other starts again and finds it done."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        await stage.send(0, 1)
        await stage.step(0)
        await stage.promote(made[1])
        zombie = stage.learners[0]
        await stage.restart(0)
        await stage.settle()
        after = await final_state(stage)
        with pytest.raises(LostCommit):
            await zombie.step()
        assert await final_state(stage) == after
        with suppress(LostCommit):
            await stage.restart(0)
        assert not await stage.step(0)

    go(work())


def test_launches_learn_with_shared_heads_of_their_own_trunk(made: list[Trunk]) -> None:
    """While the shared heads' learner is ahead, or behind, a launch's learner reads them under the trunk that its own heads belong to."""

    async def work() -> None:
        for ahead in (True, False):
            stage = Stage(Told(made[0].sha256), made[0])
            await stage.begin()
            q = (SHARED_Q + 1) % PARTITIONS
            for i in range(6):
                await stage.send(SHARED_Q, i % 2)
            await stage.settle()
            await stage.promote(made[1])
            await stage.hear()
            assert await stage.step(SHARED_Q if ahead else q)
            learner = stage.learners[q]
            assert learner._model is not None
            shared = await learner._shared_before(learner._model)
            trunk = made[0] if ahead else made[1]
            assert learner._model.artifact.sha256 == trunk.sha256
            hash_ = HEADS_BEFORE if ahead else HEADS
            if not ahead:
                await stage.step(SHARED_Q)
            stored = (await stage.store.load(outcome_slot(SHARED_Q), (hash_,))).hashes[hash_][SHARED]
            assert shared.to_bytes() == stored

    go(work())


def test_shared_heads_that_are_two_trunks_ahead_are_not_learned_with(made: list[Trunk]) -> None:
    """Others go on only after this learner's partition: somebody else has it, or the store went back."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        ahead = trunks.Stamp(number=2, sha256=made[2].sha256, before=1)
        await stage.learners[SHARED_Q]._write({HEADS_BEFORE: {SHARED: SharedHeads.of(made[1].model).to_bytes()}, **trunks.stamp_entry(ahead)}, {})
        learner = stage.learners[(SHARED_Q + 1) % PARTITIONS]
        assert learner._model is not None
        with pytest.raises(LostCommit):
            await learner._shared_before(learner._model)

    go(work())


def test_a_stamp_says_since_when_the_shared_heads_have_learned(made: list[Trunk]) -> None:
    """Since the first trunk's training ended, however often they are carried over."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        for _ in range(2):  # the second one is theirs
            await stage.send(SHARED_Q, 1)
        for trunk in made[1:]:
            await stage.settle()
            await stage.promote(trunk)
            await stage.settle()
            stamp = trunks.stamp_in(await stage.store.load(outcome_slot(SHARED_Q), (trunks.STAMP,)))
            assert (stamp.sha256, stamp.since_ms) == (trunk.sha256, made[0].model.artifact.trained_until_ms)

    go(work())


def test_a_store_that_went_back_takes_trunk_and_heads_back(made: list[Trunk]) -> None:
    """After the store was put back to before the switch, the old pair is believed again; a learner made anew switches once more."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        for q in range(PARTITIONS):
            await stage.send(q, 1)
        await stage.settle()
        saved = {name: dict(getattr(stage.store, name)) for name in ("_cursors", "_records")}
        hashes = {key: dict(value) for key, value in stage.store._hashes.items()}
        await stage.promote(made[1])
        await stage.settle()
        knowledge = stage.new_knowledge()
        await knowledge.refresh()
        assert knowledge.trunk == made[1].sha256[:16]
        for name, value in saved.items():
            setattr(stage.store, name, value)
        stage.store._hashes = hashes
        await knowledge.refresh()
        check_pair(knowledge, stage.store)
        assert knowledge.trunk == made[0].sha256[:16]
        for q in range(PARTITIONS):
            await stage.restart(q)
        await stage.promote(made[2])
        await stage.settle()
        await knowledge.refresh()
        assert knowledge.trunk == made[2].sha256[:16]

    go(work())


def test_what_was_lost_does_not_live_on_where_the_learner_has_gone_on_since(made: list[Trunk]) -> None:
    """A failover loses a learner's commits, and it commits again before a worker looks: the version is above the one that was seen."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        q = SHARED_Q
        await stage.send(q, 0)  # of a launch; the next one is of the shared heads
        await stage.settle()
        await stage.learners[0]._write({HEADS: {}}, {})  # the catalogue's writer
        saved = {name: dict(getattr(stage.store, name)) for name in ("_cursors", "_records")}
        hashes = {key: dict(value) for key, value in stage.store._hashes.items()}
        await stage.send(q, 1)
        await stage.settle()
        counted = empty()
        counted["matured"] = 1
        await stage.learners[0]._write({HEADS: {}, "catalogue": {"line:lost": counted.tobytes()}}, {})
        knowledge = stage.new_knowledge()
        await knowledge.refresh()
        lost = pair_of(knowledge).shared.to_bytes()
        for name, value in saved.items():
            setattr(stage.store, name, value)
        stage.store._hashes = hashes
        assert knowledge.catalogue["matured"].sum() == 1
        for at in {0, q}:
            await stage.restart(at)
            await stage.learners[at]._write({HEADS: {}}, {})
        await knowledge.refresh()
        assert not knowledge.went_back
        assert pair_of(knowledge).shared.to_bytes() != lost
        assert knowledge.catalogue["matured"].sum() == 0
        check_pair(knowledge, stage.store)

    go(work())


def test_only_the_heads_that_changed_are_read_again(made: list[Trunk]) -> None:
    """A worker that follows closely reads the heads that were written; one that comes late, or after a learner was made anew, reads all. They agree."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        q = (SHARED_Q + 1) % PARTITIONS
        close, late = stage.new_knowledge(), stage.new_knowledge()
        await stage.send(q, 0)
        await stage.settle()
        await close.refresh()
        await late.refresh()
        for commits, expected in ((1, [KEYS[q]]), (2, [KEYS[q]]), (0, [])):
            for _ in range(commits):
                await stage.send(q, 1)
                await stage.settle()
            stage.store.heads_read.clear()
            await close.refresh()
            assert stage.store.heads_read == expected
            assert pair_of(close).head(KEYS[q]).to_bytes() == (await final_state(stage))[KEYS[q]]
        for _ in range(CHANGED_KEPT):
            await stage.send(q, 1)
            await stage.settle()
        for follower in (late, close):
            stage.store.heads_read.clear()
            await follower.refresh()
            assert stage.store.heads_read == (["*"] if follower is late else [KEYS[q]])
        await stage.restart(q)
        await stage.send(q, 0)
        await stage.settle()
        stage.store.heads_read.clear()
        await close.refresh()
        assert stage.store.heads_read == ["*"]
        assert pair_of(close).head(KEYS[q]).to_bytes() == (await final_state(stage))[KEYS[q]]
        kept = (await stage.store.load(outcome_slot(q), (CHANGED[HEADS],))).hashes[CHANGED[HEADS]]
        assert len(kept) <= CHANGED_KEPT

    go(work())


def test_an_artifact_that_the_store_does_not_have_is_waited_for(made: list[Trunk]) -> None:
    """Without the active trunk's files there is nothing to score with; another worker may put them back: one line that says what to do if none does."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        await stage.promote(made[1])
        held = stage.store._hashes[trunks.CONTROL_SLOT, trunks.ARTIFACTS]
        for name in [name for name in held if name.startswith(made[1].sha256)]:
            del held[name]
        with pytest.raises(DependencyDown, match="promote it again"):
            await stage.new_knowledge().refresh()

    go(work())


def test_offline_the_trunk_is_given_and_stays(made: list[Trunk]) -> None:
    """Without a shelf the control records of trunks are not looked at."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        await stage.promote(made[1])
        await stage.settle()
        knowledge = Knowledge(stage.store, made[2].model, PARTITIONS)
        await knowledge.refresh()
        assert knowledge.trunk == made[2].sha256[:16]

    go(work())


def test_what_counts_as_a_source_follows_the_trunk(made: list[Trunk], tmp_path: Path) -> None:
    """A launch that has grown up is a source line under the trunk that was trained on it."""

    async def work() -> None:
        stage = Stage(Told(made[0].sha256), made[0])
        await stage.begin()
        grown = Trunk(tmp_path, Model(save(replace(make_artifact("shoes", "hats", seed=5), sha256=""), tmp_path)))
        knowledge = stage.new_knowledge()
        await knowledge.refresh()
        assert not is_source("hats", knowledge.pair, knowledge.launches, T1)
        await stage.promote(grown)
        await stage.settle()
        await knowledge.refresh()
        assert is_source("hats", knowledge.pair, knowledge.launches, T1)

    go(work())
