"""Alerts about the job itself, on the topic `alerts`: what happened to the data. Each kind has a line that says what it means and what to do."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from streams.records import Outgoing, encode_json

ALERTS: Final[dict[str, str]] = {
    "records_lost": "records left the log of an input topic before they were read; they are lost: keep the topic's records longer, add workers",
    "outcomes_lost": "outcomes were lost by the broker after it had confirmed them, and the outbox no longer had them; they are not learned: check the "
    "broker's disks, its replication and min.insync.replicas",
    "outcomes_refilled": "outcomes were lost by the broker after it had confirmed them; they were taken from the outbox, and nothing is missing: check the broker",
    "store_went_back": "Redis holds an older state than before (a restore, a failover, a lost file); what was lost is worked again from Kafka: check what "
    "Redis promises (setting durability)",
    "learned_ahead": "heads have learned outcomes that their partition has forgotten, and may learn those exposures again: parts of a Redis Cluster went back apart "
    "from each other (setting durability)",
}


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert. `launch_id` null: it is about the job, not about a launch."""

    alert: str
    launch_id: str | None = None
    at_ms: int
    text: str
    facts: dict[str, int | float | str] = {}


def alert(kind: str, text: str, **facts: int | float | str) -> Alert:
    """Return an alert of now."""
    assert kind in ALERTS, kind
    return Alert(alert=kind, at_ms=time.time_ns() // 1_000_000, text=f"{text}: {ALERTS[kind]}", facts=facts)


def outgoing(alert: Alert) -> Outgoing:
    """Return the record that tells it."""
    return Outgoing("alerts", alert.launch_id.encode() if alert.launch_id else None, encode_json(alert))
