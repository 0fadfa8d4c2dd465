"""Quix Streams: a StreamingDataFrame of each topic, one event at a time. State in Redis, as for the others: its own store would keep one for each topic."""

from __future__ import annotations

from typing import Any

import redis
from job import Event, Score, advance_one, encode, key_of
from options import Meter, options
from quixstreams import Application


def main() -> None:
    """Run until stopped."""
    o = options()
    app = Application(
        broker_address=o.broker, consumer_group=o.name, auto_offset_reset="earliest", state_dir=o.folder, loglevel="WARNING", auto_create_topics=False,
        consumer_extra_config={"session.timeout.ms": 6000, "heartbeat.interval.ms": 1500, "fetch.wait.max.ms": 20},
        producer_extra_config={"acks": "all", "linger.ms": 5, "partitioner": "murmur2_random"}, use_changelog_topics=False,
    )  # fmt: skip
    store = redis.Redis.from_url(o.redis)
    output = app.topic(o.output, key_serializer="bytes", value_serializer="bytes")

    meter = Meter(o.folder)

    def one(value: dict[str, Any]) -> bytes:
        event = Event(value["user_id"], value["product_id"], value["type"], value["ts"])
        key = f"{o.name}:{key_of(event)}"
        held: Any = store.get(key)
        state, p = advance_one(held, event)
        store.set(key, state)
        meter.add(1)
        return encode(Score(event.user_id, event.product_id, p))

    for name in o.inputs:
        app.dataframe(app.topic(name, key_deserializer="bytes", value_deserializer="json")).apply(one).to_topic(output)
    app.run()


main()
