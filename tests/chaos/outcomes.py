"""What was seen while a fault lasted, and what became of it: samples, outcomes, the file and the table of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Sample:
    """What was seen in one moment; bytes, seconds since the start, records."""

    at_s: float
    read: int = 0
    lag: int = 0
    redis_bytes: int = 0
    rss_bytes: dict[int, int] = field(default_factory=dict)  # by seat
    descriptors: dict[int, int] = field(default_factory=dict)


@dataclass
class Outcome:
    """What became of one fault."""

    fault: str
    seed: int
    progress_s: float = -1.0  # from the repair until every partition that lagged had moved
    level_s: float = -1.0  # from the repair until nothing lagged
    start_s: float = 0.0  # the longest start of a worker in this time
    lost: int = -1
    twice: int = -1
    events: int = 0
    scored_again: int = 0  # scores that Kafka has more than once, of this time
    told_again: int = 0  # messages to learners that were sent again, or told by a life that the store has forgotten
    exits: list[int] = field(default_factory=list)
    alerts: dict[str, int] = field(default_factory=dict)
    rss_bytes: int = 0
    notes: list[str] = field(default_factory=list)


def out() -> Path:
    """Return the file to which outcomes are appended."""
    return Path(os.environ.get("CHAOS_OUT", "var/chaos/outcomes.jsonl"))


def note(outcome: Outcome) -> None:
    """Append what became of a fault to the file that CHAOS_OUT names."""
    file = out()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as told:
        told.write(json.dumps(asdict(outcome)) + "\n")


def said(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield a table of outcomes, a line each."""
    yield f"{'fault':26} {'events':>8} {'lost':>5} {'twice':>6} {'progress':>9} {'level':>7} {'start':>6} {'RSS':>7}  exits, alerts"
    for o in outcomes:
        alerts = ", ".join(f"{n} {kind}" for kind, n in o.alerts.items())
        yield f"{o.fault:26} {o.events:8} {o.lost:5} {o.twice:6} {o.progress_s:8.1f}s {o.level_s:6.1f}s {o.start_s:5.1f}s {o.rss_bytes / 1e6:5.0f}MB  {o.exits} {alerts}"
