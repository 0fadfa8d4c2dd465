"""What is believed of vectors, and that a batch keeps to the beliefs with which it began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

import streams.aside
from features.memory_store import MemoryStore
from features.vector import NAMES
from models.launch_head import view_of
from models.model import Model
from models.shared_heads import SharedHeads
from streams.domains import Launches
from streams.knowledge import Knowledge
from streams.offline import put_launches
from streams.pair import Pair
from streams.partition import Partition
from streams.pipeline import Worked, work_off
from streams.records import Launch
from tests.builders import EDGES_MS, START_MS, make_artifact, make_event, make_model, make_rules, receive


def taught(model: Model) -> SharedHeads:
    """Shared heads that have learned something."""
    shared = SharedHeads.of(model)
    for head in shared.heads.values():
        head.m += 0.3
    return shared


def vectors(n: int) -> Any:
    """Made-up ones, (n, F)."""
    return np.random.default_rng(1).normal(size=(n, len(NAMES))).astype(np.float32)


def test_what_was_said_before_is_asked_of_launched_rows_alone() -> None:
    """It is what the heads of the artifact say of just those rows, and nothing of the others; all else of the view is there for every row."""
    model, x = make_model("shoes"), vectors(6)
    pair = Pair(model, taught(model))
    whole, some = view_of(model, pair.shared, model.maps(x)), pair.view(x, np.array([4, 1]))
    assert (some.s0[[1, 4]] == whole.s0[[1, 4]]).all()
    assert not np.isin(whole.s0, whole.s).any()
    assert np.isnan(some.s0[[0, 2, 3, 5]]).all()
    assert all((mine == theirs).all() for mine, theirs in zip(some[:3], whole[:3], strict=True))


class Meanwhile(Executor):
    """Computes as soon as something else has happened."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self.happens = happens

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Compute."""
        self.happens()
        future = Future[Any]()
        future.set_result(fn(*args, **kwargs))
        return future


class Reading(MemoryStore):
    """In which something else has happened when records are read."""

    happens: Callable[[], None] = staticmethod(lambda: None)

    async def read(self, slot: str, keys: Sequence[str]) -> list[bytes | None]:
        """Let it happen first."""
        self.happens()
        return await super().read(slot, keys)


def change(knowledge: Knowledge) -> None:
    """Another trunk, other heads and catalogue, a launch that ends and one that begins."""
    other = Model(replace(make_artifact("shoes", "bags", "hats", seed=1), sha256="f" * 64))
    knowledge.pair = Pair(other, taught(other))
    knowledge.catalogue = knowledge.catalogue.copy()
    knowledge.catalogue["matured"], knowledge.catalogue["converted"] = 100, 50
    knowledge.launches = Launches([Launch(id="newer", line="shoes", window_s=EDGES_MS[-1] / 1000)])


@pytest.mark.parametrize("meanwhile", ["read", "computed"])
def test_a_batch_keeps_to_the_beliefs_with_which_it_began(meanwhile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever changes while its shoppers' records are read, or before its vectors are computed, is in nothing that comes of it."""
    monkeypatch.setattr(streams.aside, "MANY", 1)
    model, rules = make_model("shoes", "bags"), make_rules(explains=True)
    kinds = [("browse", "shoes"), ("browse", "hats"), ("browse", "bags"), ("click", "shoes"), ("click", "hats"), ("browse", "shoes"), ("order", "bags")] * 3
    told = [(kind, make_event(START_MS + i, id=f"e{i}", who=f"u{i % 3}", line=line, explain=i % 4 == 0)) for i, (kind, line) in enumerate(kinds)]
    records = [receive(event, kind, offset=i) for i, (kind, event) in enumerate(told)]
    happened: list[str] = []

    async def worked(disturbing: bool) -> tuple[Worked, dict[str, bytes], bytes, bytes]:
        store = Reading()
        await put_launches(store, [Launch(id="new", line="hats", window_s=EDGES_MS[-1] / 1000)])

        def happens(where: str) -> None:
            if disturbing and where == meanwhile:
                happened.append(where)
                change(knowledge)

        knowledge = Knowledge(store, model, 1, aside=Meanwhile(lambda: happens("computed")))
        await knowledge.refresh()
        partition = await Partition.load(0, store, rules)
        partition.cursor.epoch = 1
        store.happens = lambda: happens("read")
        done = await work_off(partition, records, knowledge, offsets=[0] * 4)
        state = partition.users.rows.tobytes() + partition.lines.rows.tobytes()
        return done, partition.pending.changes()[0], msgspec.msgpack.encode(partition.cursor), state

    disturbed, undisturbed = asyncio.run(worked(True)), asyncio.run(worked(False))
    assert happened == [meanwhile]
    assert len(undisturbed[0].scores) == len(told)
    assert len(undisturbed[1]) > 5
    assert disturbed == undisturbed
