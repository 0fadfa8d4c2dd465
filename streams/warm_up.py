"""Work off a few made-up events before the first real ones come: so that nothing is compiled or loaded while others wait.

The kernels' machine code is loaded, or made (tens of seconds where its cache is empty), at their first call. In a worker that has joined its group that
would stop the event loop for longer than a session: its partitions would be given away, and those of the next one that starts like that.
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace

from features.events import KINDS, Event, encode
from features.memory_store import MemoryStore
from models.model import Model
from streams.offline import put_launches, run
from streams.partition import Rules
from streams.records import Launch
from streams.ticks import Tick

COLLECT_AFTER = (50_000, 20, 50)  # objects made, younger collections, middle ones: see `spare_the_collector`
LINE, LAUNCH = "warm-up", "warm-up"


def warm_up(model: Model, rules: Rules) -> None:
    """Score and learn a source line's and a launch's events in memory, through every kernel of worker and learner; explained, where the rules allow it."""
    lines = [*model.artifact.lines[:1], LINE]
    begin_ms = model.artifact.trained_until_ms + 1
    records = []
    for i, line in enumerate(lines * 4):
        kind = i // len(lines) % len(KINDS)
        event = Event(event_id=f"e{i}", user_id=f"u{line}", product_id="p", line=line, ts=begin_ms + 1_000 * i, price=1.0, explain=True)
        records.append((kind, event.user_id, encode(event)))
    end_ms = begin_ms + rules.edges_ms[-1] + rules.grace_ms + 60_000
    ticks = [Tick(begin_ms + 50_000, tuple(records[:2])), Tick(begin_ms + 60_000, tuple(records[2:])), Tick(end_ms, ()), Tick(end_ms + 1, tuple(records[:2]))]

    async def work() -> None:
        store = MemoryStore()
        await put_launches(store, [Launch(id=LAUNCH, line=LINE, window_s=rules.edges_ms[-1] / 1000)])
        await run(ticks, store, replace(rules, replay=True, partitions=1, outcome_partitions=1, partitioner_check=True, learn_share=1.0), model)

    asyncio.run(work())


def spare_the_collector() -> None:
    """Let Python's collector of cycles look seldom, and never at what is there already.

    A worker holds a million objects for long (open exposures, what was read) and makes a few hundred for each event; at the collector's
    usual threshold it looks through them all the time, and finds nothing: cycles come from tasks and errors alone.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
