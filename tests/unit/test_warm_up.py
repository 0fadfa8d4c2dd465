"""The warm-up goes through every kernel in the form in which worker and learner call it."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from dataclasses import replace

import msgspec
from numba.core.dispatcher import Dispatcher

import features
import models
from features.events import encode
from features.memory_store import MemoryStore
from streams.offline import put_launches, run
from streams.records import Launch, Outgoing
from streams.ticks import Tick
from streams.warm_up import warm_up
from tests.builders import DAY_MS, EDGES_MS, START_MS, make_model, make_rules, random_events


def compiled() -> dict[str, int]:
    """How many forms of each kernel are there."""
    found = {}
    for package in (features, models):
        for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            for name, value in vars(importlib.import_module(info.name)).items():
                if isinstance(value, Dispatcher):
                    found[f"{info.name}.{name}"] = len(value.signatures)
    return found


def test_nothing_is_compiled_after_it() -> None:
    """Two days of events of sources, a launched line and launched products, scored, explained and learned: no kernel gets another form."""
    model, rules = make_model("line0", "line1"), replace(make_rules(), explains=True)
    warm_up(model, rules)
    before = compiled()
    assert sum(before.values()) > 10
    ticks = [Tick(a.ts_ms + 1, ((a.kind, a.event.user_id, encode(msgspec.structs.replace(a.event, explain=True))),)) for a in random_events(300)]
    launches = [
        Launch(id="whole", line="line2", window_s=EDGES_MS[-1] / 1000),
        Launch(id="some", line="line1", products=["line1-p1", "line1-p2"], window_s=EDGES_MS[-1] / 1000, holdout=0.5),
    ]

    async def work() -> None:
        store = MemoryStore()
        await put_launches(store, launches)
        await run([*ticks, Tick(START_MS + 4 * DAY_MS, ())], store, rules, model, heard=heard.append)

    heard: list[Outgoing] = []
    asyncio.run(work())
    assert compiled() == before
    assert any(b'"explanation":{' in (record.value or b"") for record in heard)
