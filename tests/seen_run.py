"""A small run in this process whose figures, detectors and traffic lie in a memory store, as a learner left them: for tests of what is shown."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from features.memory_store import MemoryStore
from streams.cutting import cut
from streams.evaluation import as_launch
from streams.offline import put_launches, run
from streams.records import Outcome
from streams.ticks import with_end
from tests.builders import DAY_MS, EDGES_MS, START_MS, make_log, make_model, make_rules, random_events

META: Final = {"clock": "replay:900000", "trunk": "ab" * 32, "partitions": "2", "outcome_partitions": "1"}


@dataclass
class Run:
    """What a run over a small log left, and the outcomes that it told."""

    store: MemoryStore
    outcomes: list[Outcome]


def make_run() -> Run:
    """Two days of random events; line1 is launched, and so is `quiet`, which gets no event."""
    store, outcomes = MemoryStore(), list[Outcome]()
    model = make_model("line0", "line2")
    log = make_log(random_events(2500, seed=4, users=60, span_ms=2 * DAY_MS))

    async def go() -> None:
        await store.put_meta(META)
        await put_launches(store, [as_launch("line1", START_MS, EDGES_MS[-1] / 1000), as_launch("quiet", START_MS, EDGES_MS[-1] / 1000)])
        await run(with_end(cut(log, 900_000), EDGES_MS[-1] + 60_000), store, make_rules(partitions=2), model, on_outcome=outcomes.append)

    asyncio.run(go())
    return Run(store, outcomes)
