"""`headstart scores`: print the scores as they arrive on Kafka."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from features.errors import DependencyDown, Mismatch
from streams.commands.options import Broker, Config, Set
from streams.kafka_access import client_config, consumer_config
from streams.records import decode_score
from streams.settings import load_settings
from streams.topic_ends import Unread
from streams.topics import broker_names, require_reachable


def scores(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more when there are none; Ctrl-C ends it.")] = False,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Start with the oldest score that the topic still holds.")] = False,
    launch: Annotated[str | None, typer.Option("--launch", metavar="ID", help="Only scores of this launch.")] = None,
    most: Annotated[int, typer.Option("--max", metavar="N", min=0, help="Stop after so many scores; 0: no limit.")] = 0,
    broker: Broker = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Print scores as JSON, a line each. Without --follow, print what is there from the beginning and end; where nothing was, standard error says so.

    Where the broker sends nothing for a while before the end is reached, that is an error.
    """
    settings = load_settings(config, needs=("broker",), assignments=assignments or (), broker=broker)
    name = broker_names(settings.topic_prefix, settings.topic_names)["scores"]
    require_reachable(settings.broker, client_config(settings))
    try:
        consumer = KafkaConsumer(**consumer_config(settings))
        try:
            tps = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name) or ())]
            if not tps:
                raise Mismatch(f"the broker at {settings.broker} has no topic {name}; create it with `headstart topics create`")
            consumer.assign(tps)
            if from_beginning or not follow:
                consumer.seek_to_beginning(*tps)
            else:
                consumer.seek_to_end(*tps)
            printed, read = _print(consumer, None if follow else Unread(consumer, tps, settings.broker), launch, most)
        finally:
            consumer.close()
    except KafkaError as error:
        raise DependencyDown(f"the broker at {settings.broker} does not answer: {error}") from None
    if not printed:
        typer.echo(f"{name} holds no score" if not read else f"records in {name}: {read}; scores of launch {launch!r}: none", err=True)


def _belongs(value: bytes, launch: str) -> bool:
    try:
        return any(entry.launch_id == launch for entry in decode_score(value).entries)
    except msgspec.MsgspecError:
        return False  # somebody else's record


def _print(consumer: KafkaConsumer, unread: Unread | None, launch: str | None, most: int) -> tuple[int, int]:
    """Print until nothing is unread, for ever where that is not asked; returns how many were printed, and how many read."""
    printed = seen = 0
    while unread is None or unread.left():
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                seen += 1
                if launch is not None and not _belongs(record.value, launch):
                    continue
                typer.echo(record.value.decode())
                printed += 1
                if most and printed >= most:
                    return printed, seen
    return printed, seen
