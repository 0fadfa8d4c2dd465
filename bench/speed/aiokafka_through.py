"""The limit with aiokafka: `getmany` to `send_batch`, the same bytes out as came in. No job at all; offsets are committed."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from options import Meter, options


async def main() -> None:
    """Read and write until stopped."""
    o = options()
    consumer = AIOKafkaConsumer(
        *o.inputs, bootstrap_servers=o.broker, group_id=o.name, auto_offset_reset="earliest", enable_auto_commit=False,
        session_timeout_ms=6000, heartbeat_interval_ms=1500, max_partition_fetch_bytes=1_048_576, fetch_max_wait_ms=20,
    )  # fmt: skip
    producer = AIOKafkaProducer(bootstrap_servers=o.broker, acks="all", max_batch_size=262_144)
    await consumer.start()
    await producer.start()
    meter = Meter(o.folder)
    while True:
        polled = await consumer.getmany(timeout_ms=100, max_records=4000)
        waiting = []
        for tp, records in polled.items():
            batch = producer.create_batch()
            for record in records:
                if batch.append(timestamp=None, key=record.key, value=record.value) is None:
                    waiting.append(await producer.send_batch(batch, o.output, partition=tp.partition))
                    batch = producer.create_batch()
                    batch.append(timestamp=None, key=record.key, value=record.value)
            waiting.append(await producer.send_batch(batch, o.output, partition=tp.partition))
        if waiting:
            await asyncio.gather(*waiting)
            await consumer.commit()
            meter.add(sum(map(len, polled.values())))


asyncio.run(main())
