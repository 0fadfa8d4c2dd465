"""Publish events at an even rate and read the scores, in one process on librdkafka's threads: when was each published, and when was its score read.

`python paced.py --broker … --scores TOPIC --rate N --seconds S --skip S --users N --partitions N --tag T`; prints one JSON object with the latencies in ms.
An event's id, and its product's, hold the moment at which it was handed to the producer: each contender tells one of them again. Shoppers come and stay for
`--visit` events in the mean, three in a line or so, as those of `bench/throughput.py` do.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition

KINDS = ("browse", "click", "cart", "order")
SHARES = (75, 19, 4, 2)
LINES = ("coffee", "garden", "bags", "audio", "lamps", "kitchen", "books")
LEAVES_LINE = 0.2
STEP_S = 0.002
LATE_S = 30.0
STAMP = re.compile(rb'"(?:event|product)_id":"[^"]*?-(\d+)"')


def read(broker: str, topic: str, partitions: int, tag: str, ready: threading.Event, wanted: list[int], found: list[tuple[int, int]]) -> None:
    """Note (published, read) in ns of every score of this run, until all that are wanted came."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": f"latency-{tag}", "enable.auto.commit": False, "fetch.wait.max.ms": 5})
    ends = [TopicPartition(topic, p, consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1]) for p in range(partitions)]
    consumer.assign(ends)
    ready.set()
    mark, quiet_s = f"-{tag}-".encode(), time.monotonic()
    while not (wanted and len(found) >= wanted[0]) and time.monotonic() - quiet_s < LATE_S:
        for message in consumer.consume(2000, timeout=0.002):
            now = time.time_ns()
            value = message.value()
            if message.error() is None and mark in value:
                stamp = STAMP.search(value)
                assert stamp is not None
                found.append((int(stamp.group(1)), now))
                quiet_s = time.monotonic()
    consumer.close()


def main() -> None:
    """Publish, read, print."""
    parser = argparse.ArgumentParser()
    for name in ("broker", "scores", "tag"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("rate", "seconds", "skip"):
        parser.add_argument(f"--{name}", type=float, required=True)
    for name in ("users", "partitions", "visit"):
        parser.add_argument(f"--{name}", type=int, required=True)
    o = parser.parse_args()
    draw, found, wanted, ready = random.Random(o.tag), [], [], threading.Event()
    reader = threading.Thread(target=read, args=(o.broker, o.scores, o.partitions, o.tag, ready, wanted, found))
    reader.start()
    ready.wait(30)
    producer = Producer({"bootstrap.servers": o.broker, "acks": "all", "linger.ms": 5, "partitioner": "murmur2_random"})
    there = [(draw.randrange(o.users), draw.choice(LINES)) for _ in range(o.users // 5)]
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < o.seconds:
        for _ in range(int(passed * o.rate) - sent):
            at = draw.randrange(len(there))
            (number, line), now = there[at], time.time_ns()
            user = f"user-{number}"
            product, kind, stamp = draw.randrange(2000), draw.choices(KINDS, SHARES)[0], f"{o.tag}-{sent}-{now}"
            event = {
                "event_id": f"e-{stamp}", "user_id": user, "product_id": f"sku-{product}-{stamp}", "line": line, "category": f"{line}-{product % 20}",
                "ts": now // 1_000_000, "price": round(draw.lognormvariate(3, 1), 2), "type": kind,
            }  # fmt: skip
            producer.produce(kind, key=user, value=json.dumps(event, separators=(",", ":")))
            sent += 1
            if draw.random() < 1 / o.visit:
                there[at] = draw.randrange(o.users), draw.choice(LINES)
            elif draw.random() < LEAVES_LINE:
                there[at] = number, draw.choice(LINES)
        producer.poll(0)
        time.sleep(STEP_S)
    producer.flush(30)
    rate = sent / (time.monotonic() - began)
    wanted.append(sent)
    reader.join()
    first = min(published for published, _ in found) + int(o.skip * 1e9)
    print(
        json.dumps({"sent": sent, "read": len(found), "rate": rate, "ms": [round((at - published) / 1e6, 2) for published, at in found if published >= first]})
    )


main()
