"""What is believed of vectors, here or aside, and that a batch keeps to the beliefs with which it began."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import streams.pair
from features.memory_store import MemoryStore
from features.vector import NAMES
from models.launch_head import view_of
from models.model import Model
from models.shared_heads import SharedHeads
from streams.domains import Launches
from streams.knowledge import Knowledge
from streams.offline import put_launches
from streams.pair import MANY_ROWS, Pair
from streams.partition import Partition
from streams.pipeline import Worked, work_off
from streams.records import Launch
from tests.builders import EDGES_MS, START_MS, make_artifact, make_event, make_model, make_rules, pair_of, receive


def taught(model: Model) -> SharedHeads:
    """Shared heads that have learned something."""
    shared = SharedHeads.of(model)
    for head in shared.heads.values():
        head.m += 0.3
    return shared


def vectors(n: int) -> Any:
    """Made-up ones, (n, F)."""
    return np.random.default_rng(1).normal(size=(n, len(NAMES))).astype(np.float32)


@pytest.fixture
def thread() -> Iterator[Executor]:
    """One to compute in."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_what_was_said_before_is_asked_of_launched_rows_alone() -> None:
    """It is what the heads of the artifact say of just those rows, and nothing of the others; all else of the view is there for every row."""
    model, x = make_model("shoes"), vectors(6)
    pair = Pair(model, taught(model))
    whole, some = view_of(model, pair.shared, model.maps(x)), asyncio.run(pair.view(x, [4, 1]))
    assert (some.s0[[1, 4]] == whole.s0[[1, 4]]).all()
    assert not np.isin(whole.s0, whole.s).any()
    assert np.isnan(some.s0[[0, 2, 3, 5]]).all()
    assert all((mine == theirs).all() for mine, theirs in zip(some[:3], whole[:3], strict=True))


@pytest.mark.parametrize("n", [MANY_ROWS - 1, MANY_ROWS])
def test_many_vectors_are_computed_aside(n: int, thread: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few are not; the bits are the same."""
    model, x, seen = make_model("shoes"), vectors(n), list[threading.Thread]()
    maps = model.maps

    def noting(x: Any) -> Any:
        seen.append(threading.current_thread())
        return maps(x)

    monkeypatch.setattr(model, "maps", noting)
    shared = taught(model)
    aside, here = asyncio.run(Pair(model, shared, aside=thread).view(x, [0, n - 1])), asyncio.run(Pair(model, shared).view(x, [0, n - 1]))
    assert (seen[0] is not threading.main_thread()) == (n == MANY_ROWS)
    assert seen[1] is threading.main_thread()
    assert [a.tobytes() for a in aside] == [a.tobytes() for a in here]


class Meanwhile(Executor):
    """Computes at once; before anybody hears of it, something else has happened."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self.happens, self.asked = happens, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Compute."""
        self.asked += 1
        future = Future[Any]()
        future.set_result(fn(*args, **kwargs))
        self.happens()
        return future


def test_a_batch_keeps_to_the_beliefs_with_which_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another trunk, other heads, a launch that ends and one that begins, all while its vectors are computed: nothing of them is in its scores and exposures."""
    monkeypatch.setattr(streams.pair, "MANY_ROWS", 1)
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
        knowledge.pair = Pair(other, taught(other), aside=pair_of(knowledge).aside)
        knowledge.launches = Launches([Launch(id="newer", line="shoes", window_s=EDGES_MS[-1] / 1000)])

    disturbed, undisturbed = asyncio.run(worked(changed)), asyncio.run(worked(lambda knowledge: None))
    assert len(undisturbed[0].scores) == len(told)
    assert len(undisturbed[1]) > 5
    assert disturbed == undisturbed
    assert disturbed[2] == 1
