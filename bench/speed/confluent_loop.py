"""A hand-written loop on confluent-kafka: a batch of messages, one MGET, the job, one MSET, produce, wait for the broker, commit.

What a good engineer writes in an afternoon. At-least-once: a crash between MSET and commit counts events twice. No cache, no labels, no learning.
"""

from __future__ import annotations

import redis
from confluent_client import consumer_of, delivered, producer_of
from job import Score, advance_many, decode, encode, key_of
from options import Meter, options


def main() -> None:
    """Work until stopped."""
    o = options()
    consumer, producer, store = consumer_of(o), producer_of(o), redis.Redis.from_url(o.redis)
    meter = Meter(o.folder)
    while True:
        messages = [m for m in consumer.consume(num_messages=2000, timeout=o.wait_s) if m.error() is None]
        if not messages:
            continue
        events = [decode(m.value()) for m in messages]
        keys = list(dict.fromkeys(f"{o.name}:{key_of(event)}" for event in events))
        cut = len(o.name) + 1
        states = dict(zip((key[cut:] for key in keys), store.mget(keys), strict=True))
        scores = advance_many(events, states)
        store.mset({f"{o.name}:{key}": state for key, state in states.items()})
        for m, event, p in zip(messages, events, scores, strict=True):
            producer.produce(o.output, value=encode(Score(event.user_id, event.product_id, p)), key=m.key(), partition=m.partition())
        delivered(producer)
        consumer.commit(asynchronous=True)
        meter.add(len(messages))


main()
