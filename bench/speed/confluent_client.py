"""confluent-kafka's clients as its documentation advises for throughput: batches of messages, linger, compression left to the topic."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer
from options import Options


def consumer_of(o: Options) -> Consumer:
    """A consumer of the inputs from their beginning; offsets are committed by hand.

    librdkafka stops fetching when its queue holds `queued.min.messages`, and by itself looks again after a second; few are queued, so that little of what is
    measured was fetched before.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": o.broker, "group.id": o.name, "auto.offset.reset": "earliest", "enable.auto.commit": False,
            "session.timeout.ms": 6000, "heartbeat.interval.ms": 1500, "fetch.wait.max.ms": 20, "queued.min.messages": 20000,
            "fetch.queue.backoff.ms": 10,
        }
    )  # fmt: skip
    consumer.subscribe(o.inputs)
    return consumer


def producer_of(o: Options) -> Producer:
    """A producer that waits for all replicas."""
    return Producer({"bootstrap.servers": o.broker, "acks": "all", "linger.ms": 5, "batch.size": 262_144, "queue.buffering.max.messages": 100_000})


def delivered(producer: Producer) -> None:
    """Return when the broker has everything; ends the process otherwise."""
    if producer.flush(30) > 0:
        raise SystemExit("the broker did not take everything")
