"""Alerts about the job itself: what happened to its data. Each kind has a line that says what it means and what to do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from streams.alerts import Alert
from streams.records import JOB, Outgoing, encode_json

SUMMED: Final = ("records", "outcomes", "launches")  # facts that add up
INCIDENTS: Final[dict[str, str]] = {
    "records_lost": "records left the log of an input topic before they were read; they are lost: keep the topic's records longer, add workers",
    "outcomes_lost": "outcomes were lost by the broker after it had confirmed them, and the outbox no longer had them; they are not learned: check the "
    "broker's disks, its replication and min.insync.replicas",
    "outcomes_refilled": "outcomes were lost by the broker after it had confirmed them; they were taken from the outbox, and nothing is missing: check the broker",
    "store_went_back": "Redis holds an older state than before (a restore, a failover, a lost file), and what was lost is worked again from Kafka: check what "
    "Redis promises (setting durability). Or another namespace writes to the same topics: is a worker's setting namespace misspelt?",
    "learned_ahead": "heads have learned outcomes that their partition has forgotten, and may learn those exposures again: parts of a Redis Cluster went back apart "
    "from each other (setting durability)",
}
NOTES: Final = ("outcomes_refilled",)
"""Kinds after which nothing is missing: they can wait until morning. The others should wake somebody."""


def incident(kind: str, text: str, **facts: int | float | str) -> Alert:
    """Return an alert of now."""
    now_ms = time.time_ns() // 1_000_000
    return Alert(
        alert_id=f"{now_ms:015d}:{JOB}:{kind}", launch_id=JOB, kind=kind, severity="note" if kind in NOTES else "page", at_ms=now_ms, since_ms=now_ms,
        text=f"{text}: {INCIDENTS[kind]}", evidence=facts, done="", trunk="",
    )  # fmt: skip


def together(alerts: Sequence[Alert]) -> Alert:
    """Return one alert for several of a kind: how often it was, in which partitions, and how many records or outcomes in all."""
    first, *others = alerts
    if not others:
        return first
    facts: dict[str, int | float | str] = {"times": len(alerts)}
    if places := sorted({int(alert.evidence["partition"]) for alert in alerts if "partition" in alert.evidence}):
        facts["partitions"] = ", ".join(map(str, places))
    for name in SUMMED:
        if any(name in alert.evidence for alert in alerts):
            facts[name] = sum(int(alert.evidence.get(name, 0)) for alert in alerts)
    said = "; ".join(f"{name} {value}" for name, value in facts.items() if name != "times")
    return incident(first.kind, f"{len(alerts)} times more ({said})" if said else f"{len(alerts)} times more", **facts)


def outgoing(alert: Alert) -> Outgoing:
    """Return the record that tells it."""
    return Outgoing("alerts", alert.launch_id.encode(), encode_json(alert))
