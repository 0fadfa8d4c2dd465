"""Every figure that a worker publishes, in one closed list: name, kind, labels, unit, and what it means. docs/schema/metrics.md is made of it.

Names are Prometheus'. Nothing is counted event by event: counts that the cursors hold anyway are read when someone asks, and what is timed is a
poll, a commit or a delivery. `streams.measuring` fills them in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Meter:
    """One figure. A counter's name ends in _total; a histogram's unit is seconds."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

METERS: Final[tuple[Meter, ...]] = (
    # What is done, by partition: the totals of the cursors, which live in Redis, so that a partition's count goes on when it moves to another worker.
    Meter(
        "headstart_events_total", "counter", "events", "events of a partition by what became of them: applied, duplicate or rejected", ("partition", "outcome")
    ),
    Meter("headstart_exposures_total", "counter", "exposures", "exposures that were opened and are followed to their label", ("partition",)),
    Meter(
        "headstart_untracked_exposures_total",
        "counter",
        "exposures",
        "exposures that were not followed: by learn_share, or because max_pending were open",
        ("partition",),
    ),
    Meter("headstart_late_orders_total", "counter", "orders", "orders that came after their delay bin had closed", ("partition",)),
    Meter("headstart_bins_learned_total", "counter", "bins", "delay bins that the learner of an outcome partition has learned", ("outcome_partition",)),
    Meter("headstart_bins_ordered_total", "counter", "bins", "those among them in which an order fell", ("outcome_partition",)),
    Meter("headstart_outcome_duplicates_total", "counter", "outcomes", "outcomes that came again and were passed over", ("outcome_partition",)),
    Meter("headstart_launch_bins_total", "counter", "bins", "delay bins that a launch's head has learned", ("launch",)),
    Meter("headstart_launch_orders_total", "counter", "orders", "orders among them", ("launch",)),
    # What is done, by this process.
    Meter("headstart_records_sent_total", "counter", "records", "records that the broker has confirmed, by the topic's plain name", ("topic",)),
    Meter(
        "headstart_alerts_total",
        "counter",
        "alerts",
        "alerts of drift and poor quality that the broker has confirmed, by kind and severity (streams/alerts.py); those about the job's data are incidents",
        ("kind", "severity"),
    ),
    Meter("headstart_rejected_total", "counter", "events", "refused events by reason (features/events.py lists them)", ("reason",)),
    Meter(
        "headstart_lost_records_total",
        "counter",
        "records",
        "records that Kafka deleted before they were worked: retention is too short, or the worker was away too long",
    ),
    Meter(
        "headstart_incidents_total", "counter", "incidents", "what happened to the job's data, by kind (streams/incidents.py says what each means)", ("kind",)
    ),
    Meter(
        "headstart_partition_loads_total",
        "counter",
        "loads",
        "partitions that were loaded from Redis: on assignment, and after each commit that was refused or failed",
    ),
    # How far behind.
    Meter("headstart_lag_records", "gauge", "records", "end of the log less the partition's cursor: what is not worked yet", ("topic", "partition")),
    Meter("headstart_learner_lag_records", "gauge", "records", "end of the log less the learner's cursor", ("outcome_partition",)),
    Meter("headstart_event_time_delay_seconds", "gauge", "s", "wall clock less the partition's time: its bins close so late", ("partition",)),
    Meter(
        "headstart_oldest_unacknowledged_seconds",
        "gauge",
        "s",
        "for how long the oldest records that were read wait to be taken in hand, or to be committed; 0 if none do",
    ),
    # How long it takes.
    Meter(
        "headstart_score_delay_seconds",
        "histogram",
        "s",
        "from a record's timestamp (its producer's) to its score being on Kafka and its state in Redis; the oldest record of each lot",
    ),
    Meter("headstart_delivery_seconds", "histogram", "s", "until the broker has confirmed one lot of records"),
    Meter("headstart_redis_seconds", "histogram", "s", "one call to Redis: commit, read or load", ("call",)),
    # How it is.
    Meter("headstart_live", "gauge", "", "1 while the worker gets on, 0 when it stands still: as /live says"),
    Meter("headstart_ready", "gauge", "", "1 when the worker has joined, and reaches Kafka and Redis: as /ready says"),
    Meter("headstart_assigned_partitions", "gauge", "partitions", "input partitions that this worker works"),
    Meter(
        "headstart_dependency_down_seconds",
        "gauge",
        "s",
        "for how long Redis or the broker has failed the partition that waits longest, or the broker has answered nothing, above 10 s; 0 if all is well",
    ),
    Meter("headstart_event_loop_lag_seconds", "gauge", "s", "how long the event loop took to answer, when it was last asked"),
    Meter("headstart_held_records", "gauge", "records", "records that were read and wait to be worked"),
    Meter("headstart_held_bytes", "gauge", "bytes", "about what they take in memory"),
    Meter("headstart_parked_topics", "gauge", "topic partitions", "topic partitions that are not read at the moment, because enough of them waits"),
    Meter("headstart_open_exposures", "gauge", "exposures", "exposures whose delay bins are still open", ("partition",)),
    Meter(
        "headstart_exposures_fill",
        "gauge",
        "",
        "how full the fullest of this worker's partitions is: open exposures over its share of max_pending; at 1 it follows no more",
    ),
    Meter("headstart_outbox_outcomes", "gauge", "outcomes", "outcomes that are committed and not yet known to be on Kafka", ("partition",)),
    Meter("headstart_info", "gauge", "", "1, with the version, the namespace and the trunk in use", ("version", "namespace", "trunk")),
)
BY_NAME: Final = {meter.name: meter for meter in METERS}


def page() -> Iterator[str]:
    """Yield the lines of docs/schema/metrics.md."""
    yield "# What a worker measures"
    yield ""
    yield "Made by `headstart schema` out of `streams/meters.py`; a test compares. A worker serves these at `/metrics` where the setting `http_address` says; the learner runs in the"
    yield "worker's process. The process's own figures (`process_resident_memory_bytes`, `process_cpu_seconds_total`, `process_open_fds`, `python_gc_…`) come with them."
    yield ""
    yield "Counters by partition are totals that live in Redis with the cursor: they go on where a partition moves to another worker, so sum their `rate`, by whatever instance."
    yield ""
    yield "| name | kind | unit | labels | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for meter in METERS:
        yield f"| `{meter.name}` | {meter.kind} | {meter.unit} | {', '.join(meter.labels)} | {meter.meaning} |"
