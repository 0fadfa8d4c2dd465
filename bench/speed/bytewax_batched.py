"""Bytewax with batches: `KafkaSource(batch_size=2000)`, the job on each batch with one MGET and one MSET, `KafkaSink`."""

from __future__ import annotations

import bytewax.operators as op
import redis
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from confluent_kafka import OFFSET_BEGINNING
from job import Score, advance_many, decode, encode, key_of
from options import Meter, options


def main() -> None:
    """Run until stopped."""
    o = options()
    store = redis.Redis.from_url(o.redis)
    source = KafkaSource(
        brokers=[o.broker], topics=o.inputs, starting_offset=OFFSET_BEGINNING, tail=True, batch_size=2000,
        add_config={"fetch.wait.max.ms": "20", "queued.min.messages": "5000", "fetch.queue.backoff.ms": "10"},
    )  # fmt: skip
    sink = KafkaSink(brokers=[o.broker], topic=o.output, add_config={"acks": "all", "linger.ms": "5", "partitioner": "murmur2_random"})

    meter = Meter(o.folder)

    def batch(messages: list) -> list:  # type: ignore[type-arg]
        events = [decode(m.value) for m in messages]
        keys = list(dict.fromkeys(key_of(event) for event in events))
        states = dict(zip(keys, store.mget([f"{o.name}:{key}" for key in keys]), strict=True))
        scores = advance_many(events, states)
        store.mset({f"{o.name}:{key}": state for key, state in states.items()})
        meter.add(len(messages))
        return [
            KafkaSinkMessage(key=m.key, value=encode(Score(event.user_id, event.product_id, p))) for m, event, p in zip(messages, events, scores, strict=True)
        ]

    flow = Dataflow(o.name.replace("-", "_"))
    stream = op.input("in", flow, source)
    op.output("out", op.flat_map_batch("job", stream, batch), sink)
    run_main(flow)


main()
