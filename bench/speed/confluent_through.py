"""The limit with confluent-kafka (librdkafka): `consume` to `produce`, the same bytes out as came in. No job at all; offsets are committed."""

from __future__ import annotations

from confluent_client import consumer_of, delivered, producer_of
from options import Meter, options


def main() -> None:
    """Read and write until stopped."""
    o = options()
    consumer, producer = consumer_of(o), producer_of(o)
    meter = Meter(o.folder)
    while True:
        messages = [m for m in consumer.consume(num_messages=2000, timeout=0.05) if m.error() is None]
        if not messages:
            continue
        for m in messages:
            producer.produce(o.output, value=m.value(), key=m.key(), partition=m.partition())
        delivered(producer)
        consumer.commit(asynchronous=True)
        meter.add(len(messages))


main()
