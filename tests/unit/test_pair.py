"""What is believed of vectors, and that a batch keeps to the beliefs with which it began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

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
    whole, some = view_of(model, pair.shared, model.maps(x)), pair.view(x, [4, 1])
    assert (some.s0[[1, 4]] == whole.s0[[1, 4]]).all()
    assert not np.isin(whole.s0, whole.s).any()
    assert np.isnan(some.s0[[0, 2, 3, 5]]).all()
    assert all((mine == theirs).all() for mine, theirs in zip(some[:3], whole[:3], strict=True))


class Meanwhile(Executor):
    """Computes as soon as something else has happened."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self.happens, self.asked = happens, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Compute."""
        self.asked += 1
        self.happens()
        future = Future[Any]()
        future.set_result(fn(*args, **kwargs))
        return future


def test_a_batch_keeps_to_the_beliefs_with_which_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another trunk, other heads and catalogue, a launch that ends and one that begins, all before its vectors are computed: nothing of them is in what comes of it."""
    monkeypatch.setattr(streams.aside, "MANY", 1)
    model, other = make_model("shoes", "bags"), Model(replace(make_artifact("shoes", "bags", "hats", seed=1), sha256="f" * 64))
    rules = make_rules(explains=True)
    told = [
        *((kind, make_event(START_MS + i, id=f"e{i}", who=f"u{i % 3}", line=line, explain=i % 4 == 0)) for i, (kind, line) in enumerate(
            [("browse", "shoes"), ("browse", "hats"), ("browse", "bags"), ("click", "shoes"), ("click", "hats"), ("browse", "shoes"), ("order", "bags")] * 3
        )),
    ]  # fmt: skip
    records = [receive(event, kind, offset=i) for i, (kind, event) in enumerate(told)]

    async def worked(happens: Callable[[Knowledge], None]) -> tuple[Worked, dict[str, bytes], int]:
        store = MemoryStore()
        await put_launches(store, [Launch(id="new", line="hats", window_s=EDGES_MS[-1] / 1000)])
        aside = Meanwhile(lambda: happens(knowledge))
        knowledge = Knowledge(store, model, 1, aside=aside)
        await knowledge.refresh()
        partition = await Partition.load(0, store, rules)
        done = await work_off(partition, records, knowledge, offsets=[0] * 4)
        return done, partition.pending.changes()[0], aside.asked

    def changed(knowledge: Knowledge) -> None:
        knowledge.pair = Pair(other, taught(other))
        knowledge.catalogue = knowledge.catalogue.copy()
        knowledge.catalogue["matured"], knowledge.catalogue["converted"] = 100, 50
        knowledge.launches = Launches([Launch(id="newer", line="shoes", window_s=EDGES_MS[-1] / 1000)])

    disturbed, undisturbed = asyncio.run(worked(changed)), asyncio.run(worked(lambda knowledge: None))
    assert len(undisturbed[0].scores) == len(told)
    assert len(undisturbed[1]) > 5
    assert disturbed == undisturbed
    assert disturbed[2] == 1
