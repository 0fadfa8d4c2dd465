"""Faust as its documentation shows it: an agent that takes one event after the other; with `take` in the name, `stream.take(500, …)`.

State is in Redis, one round trip for each event (or one MGET and MSET for each `take`). Faust's own tables would keep it in RocksDB, where no one else can read it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import faust
import redis.asyncio as redis
from job import Score, advance_many, advance_one, decode, encode, key_of
from options import Meter, options

o = options()
app = faust.App(
    o.name, broker=f"kafka://{o.broker}", value_serializer="raw", key_serializer="raw", consumer_auto_offset_reset="earliest", web_enabled=False,
    broker_session_timeout=6, broker_heartbeat_interval=1.5, broker_max_poll_records=500, topic_disable_leader=True, datadir=Path(o.folder),
    stream_buffer_maxsize=20_000, producer_acks=-1, producer_linger=0.005,
)  # fmt: skip
inputs = app.topic(*o.inputs, value_serializer="raw", key_serializer="raw")
output = app.topic(o.output, value_serializer="raw", key_serializer="raw")
meter = Meter(o.folder)
store: Any = redis.Redis.from_url(o.redis)


if "take" in o.name:

    @app.agent(inputs)
    async def score(stream: Any) -> None:
        """Five hundred at a time."""
        async for values in stream.take(500, within=0.05):
            events = [decode(value) for value in values]
            keys = list(dict.fromkeys(key_of(event) for event in events))
            states = dict(zip(keys, await store.mget([f"{o.name}:{key}" for key in keys]), strict=True))
            scores = advance_many(events, states)
            await store.mset({f"{o.name}:{key}": state for key, state in states.items()})
            for event, p in zip(events, scores, strict=True):
                await output.send(key=event.user_id.encode(), value=encode(Score(event.user_id, event.product_id, p)))
            meter.add(len(values))

else:

    @app.agent(inputs)
    async def score(stream: Any) -> None:
        """One event after the other."""
        async for value in stream:
            event = decode(value)
            key = f"{o.name}:{key_of(event)}"
            state, p = advance_one(await store.get(key), event)
            await store.set(key, state)
            await output.send(key=event.user_id.encode(), value=encode(Score(event.user_id, event.product_id, p)))
            meter.add(1)


sys.argv = ["faust", "worker", "-l", "warn", "--without-web"]
app.main()
