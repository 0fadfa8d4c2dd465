"""Writes grafana/dashboards/headstart.json: `python deploy/monitoring/board.py`. The panels are the table below; a test compares the file with it.

$__rate_interval is Grafana's; a query's legend stands after ` | `.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parent / "grafana" / "dashboards" / "headstart.json"
WIDTH, HEIGHT = 8, 7


class Panel(NamedTuple):
    """One panel: its title, unit (Grafana's name), what it means, and its queries."""

    title: str
    unit: str
    meaning: str
    queries: tuple[str, ...]
    kind: str = "timeseries"


def quantiles(name: str, by: str = "") -> tuple[str, ...]:
    """p50, p95 and p99 of a histogram."""
    also, legend = (f", {by}", f" {{{{{by}}}}}") if by else ("", "")
    return tuple(
        f"histogram_quantile({q}, sum by (le{also}) (rate({name}_bucket[$__rate_interval]))) | p{round(100 * q)}{legend}"
        for q in ((0.99,) if by else (0.5, 0.95, 0.99))
    )


ROWS: dict[str, tuple[Panel, ...]] = {
    "Is it well?": (
        Panel("Workers that get on", "short", "of those that answer; 0 in a worker means that it is about to be restarted", ("sum(headstart_live) | live", "sum(headstart_ready) | ready"), "stat"),
        Panel("Not worked yet", "short", "records on the event topics above the cursors", ("sum(headstart_lag_records) | records",), "stat"),
        Panel("Partitions that somebody works", "short", "must be the number of partitions of the event topics", ("count(count by (partition) (headstart_events_total)) | partitions",), "stat"),
        Panel("Redis or the broker is down for", "s", "the partition that waits longest", ("max by (instance) (headstart_dependency_down_seconds) | {{instance}}",)),
        Panel("Oldest records that are not committed", "s", "grows when a worker stands still", ("max by (instance) (headstart_oldest_unacknowledged_seconds) | {{instance}}",)),
        Panel("Event loop's answer", "s", "a second is much", ("max by (instance) (headstart_event_loop_lag_seconds) | {{instance}}",)),
    ),
    "What it does": (
        Panel("Events worked", "ops", "applied, duplicate (dropped), rejected", ("sum by (outcome) (rate(headstart_events_total[$__rate_interval])) | {{outcome}}",)),
        Panel("Records sent", "ops", "as the broker confirmed them, by topic", ("sum by (topic) (rate(headstart_records_sent_total[$__rate_interval])) | {{topic}}",)),
        Panel("Rejected, by reason", "ops", "the reasons are explained in features/events.py and docs/operations.md", ("sum by (reason) (rate(headstart_rejected_total[$__rate_interval])) | {{reason}}",)),
        Panel("From the producer to the score", "s", "the record's own timestamp until its score is on Kafka and its state in Redis", quantiles("headstart_score_delay_seconds")),
        Panel("Lag, by topic", "short", "end of the log less the cursor", ("sum by (topic) (headstart_lag_records) | {{topic}}",)),
        Panel("Event time is behind by", "s", "bins close so late; quiet partitions stand near 0", ("max(headstart_event_time_delay_seconds) | slowest partition", "avg(headstart_event_time_delay_seconds) | mean")),
    ),
    "What it learns": (
        Panel("Delay bins learned", "ops", "and those in which an order fell", ("sum(rate(headstart_bins_learned_total[$__rate_interval])) | learned", "sum(rate(headstart_bins_ordered_total[$__rate_interval])) | with an order")),
        Panel("Orders for each bin learned, by launch", "percentunit", "since the launch began", ("sum by (launch) (headstart_launch_orders_total) / sum by (launch) (headstart_launch_bins_total) | {{launch}}",)),
        Panel("Learner's lag", "short", "outcomes that are not learned yet", ("sum by (outcome_partition) (headstart_learner_lag_records) | outcomes[{{outcome_partition}}]",)),
        Panel("Open exposures", "short", "they are in memory and in Redis until their window is over", ("sum(headstart_open_exposures) | open",)),
        Panel("Not followed, late, again", "ops", "exposures beyond max_pending or learn_share; late orders; outcomes that came twice", (
            "sum(rate(headstart_untracked_exposures_total[$__rate_interval])) | not followed", "sum(rate(headstart_late_orders_total[$__rate_interval])) | late orders",
            "sum(rate(headstart_outcome_duplicates_total[$__rate_interval])) | outcomes again",
        )),
        Panel("Outcomes that wait to leave", "short", "committed, not known to be on Kafka", ("sum(headstart_outbox_outcomes) | outcomes",)),
    ),
    "What it costs": (
        Panel("Redis, p99", "s", "a commit is one script for a whole batch", quantiles("headstart_redis_seconds", "call")),
        Panel("Delivery", "s", "until the broker has one lot of scores, rejects or outcomes", quantiles("headstart_delivery_seconds")),
        Panel("Partitions loaded anew", "ops", "on a rebalance, and after each commit that was refused or failed", ("sum(rate(headstart_partition_loads_total[$__rate_interval])) | loads",)),
        Panel("Memory", "bytes", "resident", ("process_resident_memory_bytes{job=\"headstart\"} | {{instance}}",)),
        Panel("Processor", "percentunit", "1 is one core", ("rate(process_cpu_seconds_total{job=\"headstart\"}[$__rate_interval]) | {{instance}}",)),
        Panel("Waiting to be worked", "bytes", "bounded by max_held_mb", ("sum by (instance) (headstart_held_bytes) | {{instance}}",)),
        Panel("Topic partitions not read at the moment", "short", "because enough of them waits: backpressure", ("sum by (instance) (headstart_parked_topics) | {{instance}}",)),
        Panel("Partitions, by worker", "short", "", ("headstart_assigned_partitions | {{instance}}",)),
        Panel("Incidents, by kind", "short", "what happened to the job's data: docs/operations.md, HeadstartIncident, says what each kind means", ("sum by (kind) (headstart_incidents_total) | {{kind}}",)),
        Panel("Lost to Kafka's retention", "short", "records that were deleted before they were worked", ("sum(headstart_lost_records_total) | records",)),
    ),
}  # fmt: skip


def board() -> dict[str, Any]:
    """Return the dashboard."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})
        y += 1
        for i, panel in enumerate(row):
            x, top = WIDTH * (i % 3), y + HEIGHT * (i // 3)
            panels.append(_panel(panel, len(panels) + 1, x, top))
        y += HEIGHT * -(-len(row) // 3)
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}
    return {
        "uid": "headstart", "title": "Headstart", "tags": ["headstart"], "schemaVersion": 39, "version": 1, "editable": True, "refresh": "10s", "timezone": "",
        "time": {"from": "now-1h", "to": "now"}, "templating": {"list": [source]}, "annotations": {"list": []}, "links": [], "panels": panels,
    }  # fmt: skip


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    targets = []
    for letter, query in zip("ABCDEF", panel.queries, strict=False):
        expression, _, legend = query.rpartition(" | ")
        targets.append({"refId": letter, "datasource": source, "expr": expression, "legendFormat": legend, "range": True, "instant": False})
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area", "textMode": "auto"}
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.meaning, "datasource": source, "targets": targets, "options": options,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT}, "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
    }  # fmt: skip


def text() -> str:
    """Return the file's content."""
    return json.dumps(board(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
