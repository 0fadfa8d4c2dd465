"""A live namespace in memory whose learners can be made anew at any time, and whose store notes which trunk each state of a head belongs to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from features.hashing import partition_for
from features.memory_store import MemoryStore
from features.store import Changes, Slot
from models.launch_head import LaunchHead
from models.model import Model
from models.shared_heads import SharedHeads
from streams import trunks
from streams.knowledge import HEADS, Knowledge, outcome_slot
from streams.learner import Learner
from streams.partition import Cursor, Totals
from streams.records import SHARED, Message
from tests.builders import pair_of
from tests.unit.test_learner import EPOCH, T1, outcome

PARTITIONS = 3
KEYS = [next(name for name in (f"launch{i}" for i in range(99)) if partition_for(name.encode(), PARTITIONS) == q) for q in range(PARTITIONS)]
SHARED_Q = partition_for(SHARED.encode(), PARTITIONS)


@dataclass(frozen=True)
class Trunk:
    """An artifact, its folder and its model."""

    folder: Path
    model: Model

    @property
    def sha256(self) -> str:
        """Its name."""
        return self.model.artifact.sha256


class Told(MemoryStore):
    """Notes under which trunk each state of a head was committed; with `draw`, others get their turn before every answer."""

    def __init__(self, base: str, draw: random.Random | None = None) -> None:
        super().__init__()
        self._base, self._draw = base, draw
        self.trunk_of: dict[bytes, str] = {}
        self.heads_read: list[str] = []
        """The heads that were read, and `*` where a whole slot's were."""

    async def _wait(self) -> None:
        for _ in range(self._draw.randrange(4) if self._draw else 0):
            await asyncio.sleep(0)

    async def load(self, slot: str, hashes: Any) -> Slot:
        await self._wait()
        self.heads_read += ["*"] if HEADS in hashes else []
        return await super().load(slot, hashes)

    async def read_hash(self, slot: str, name: str, fields: Any) -> list[bytes | None]:
        await self._wait()
        self.heads_read += fields if name == HEADS else []
        return await super().read_hash(slot, name, fields)

    async def commit(self, slot: str, expected: int, changes: Changes) -> bool:
        await self._wait()
        done = await super().commit(slot, expected, changes)
        if done and HEADS in changes.put:
            sha = trunks.stamp_in(await super().load(slot, (trunks.STAMP,))).sha256 or self._base
            for value in changes.put[HEADS].values():
                assert self.trunk_of.setdefault(value, sha) == sha
        return done


@dataclass
class Stage:
    """A live namespace whose learners can be made anew at any time."""

    store: Told
    base: Trunk
    now_ms: int = 0
    learners: dict[int, Learner] = field(default_factory=dict)
    logs: list[list[Message]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    shelf: trunks.Shelf = field(init=False)

    def __post_init__(self) -> None:
        self.shelf = self.new_shelf()

    def new_shelf(self, own: Trunk | None = None) -> trunks.Shelf:
        """What a process that came with `own` knows of the trunks."""
        return trunks.Shelf(self.store, (own or self.base).model, self.base.sha256, clock_ms=lambda: self.now_ms)

    def new_knowledge(self, own: Trunk | None = None) -> Knowledge:
        """What a worker that came with `own` believes."""
        return Knowledge(self.store, (own or self.base).model, PARTITIONS, shelf=self.new_shelf(own))

    async def begin(self) -> None:
        """Make the one input partition, and put the base trunk into the store."""
        cursor = Cursor(epoch=EPOCH, offsets=[0] * 4, numbers=[1_000] * PARTITIONS, tick_ms=T1, totals=Totals())
        await self.store.commit("0", 0, Changes(cursor=msgspec.msgpack.encode(cursor)))
        await trunks.keep(self.store, self.base.folder, self.base.model.artifact)
        for q in range(PARTITIONS):
            await self.restart(q)

    async def restart(self, q: int) -> None:
        """Make a learner anew; it reads its topic on from its cursor."""
        self.learners[q] = await Learner.load(q, self.store, self.base.model, partitions=1, outcome_partitions=PARTITIONS, replay=False, shelf=self.shelf)
        for offset in range(self.learners[q].cursor.offset, len(self.logs[q])):
            await self.learners[q].receive(self.logs[q][offset], offset)

    async def send(self, q: int, y: int) -> None:
        """One more outcome for a learner: of its launch, or of the source lines."""
        number = len(self.logs[q])
        key = SHARED if q == SHARED_Q and number % 2 else KEYS[q]
        self.logs[q].append(outcome(number, key=key, close_ms=T1 + number, y=y, id=f"{1 + number + 1000 * q:016x}"))
        await self.learners[q].receive(self.logs[q][-1], number)

    async def step(self, q: int) -> bool:
        """Let a learner do one thing."""
        return await self.learners[q].step()

    async def hear(self) -> None:
        """Take up the control records, as a worker does at its tick."""
        await self.shelf.take((await self.store.load(trunks.CONTROL_SLOT, (trunks.ACTIVATIONS,))).hashes[trunks.ACTIVATIONS])

    async def settle(self) -> None:
        """Let all learners do all that there is to do."""
        await self.hear()
        while any([await self.step(q) for q in range(PARTITIONS)]):
            pass

    async def promote(self, trunk: Trunk) -> trunks.Activation:
        """Make a trunk active, from now on."""
        done, _ = await trunks.promote(self.store, trunk.folder, trunk.model.artifact, base=self.base.sha256, stamped=0, at_ms=self.now_ms)
        return done

    async def rollback(self) -> trunks.Activation:
        """Go back one trunk, from now on."""
        done, _ = await trunks.rollback(self.store, base=self.base.sha256, stamped=0, at_ms=self.now_ms)
        return done


def check_pair(knowledge: Knowledge, store: Told) -> None:
    """Whatever heads it has belong to its trunk."""
    pair, model = pair_of(knowledge), pair_of(knowledge).model
    assert knowledge.trunk == model.artifact.sha256[:16]
    if knowledge._number < 0:
        return  # nobody scores before the first refresh is over
    fresh = LaunchHead.of(model).to_bytes()
    held = [(pair.shared.to_bytes(), SharedHeads.of(model).to_bytes()), *((head.to_bytes(), fresh) for head in pair.heads.values())]
    for state, unlearned in held:
        assert state == unlearned or store.trunk_of[state] == model.artifact.sha256


def go(work: Coroutine[Any, Any, None]) -> None:
    """Run it."""
    asyncio.run(work)


def outcomes_of(stage: Stage, key: str) -> int:
    """How many outcomes were sent for a head."""
    return sum(m.key == key for log in stage.logs for m in log)  # type: ignore[union-attr]


async def final_state(stage: Stage) -> dict[str, bytes]:
    """All heads in the store, by name."""
    return {name: value for q in range(PARTITIONS) for name, value in (await stage.store.load(outcome_slot(q), (HEADS,))).hashes[HEADS].items()}
