"""What many users take, in Redis and in a worker: `python bench/memory.py [--users 1000000] [--json FILE]`. SYNTHETIC events.

All users come three times, one after the other, and look at another line each time; a worker's own path (`work_off`, `settle`) takes the events in and
commits to a real Valkey, with the settings as they come: one process, one partition, no Kafka. What a round adds to the server's memory is told: the first
is a user and a line each, the second a line, and in the third the exposures are followed too. Kafka's client takes some 40 MB more in a worker.
Then the partition is loaded once more, as a worker that starts does.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis
from arena import HERE, LINES, machine, train

from features.redis_store import RedisStore
from models.checkpoint import load
from models.model import Model
from streams.embedded import EmbeddedValkey
from streams.knowledge import Knowledge
from streams.namespace import rules_of
from streams.partition import Partition
from streams.pipeline import settle, work_off
from streams.records import Outgoing, Received, received
from streams.settings import load_settings, with_changes
from streams.warm_up import spare_the_collector

BATCH = 4_000
ROUNDS = (("users and lines", 0.0), ("lines", 0.0), ("lines and open exposures", 1.0))
"""What a round adds, and the share of exposures that are followed in it."""


class Nowhere:
    """An outlet into nothing."""

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Let them go."""


def resident_mb() -> float:
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def batch(users: range, line: str, ts_ms: int) -> list[Received]:
    """Return the event of each user who comes now."""
    made = []
    for i in users:
        user = f"user-{i:07d}"
        value = {"event_id": f"{user}{line}", "user_id": user, "product_id": f"sku-{i % 2000}", "line": line, "category": f"{line}-{i % 20}", "ts": ts_ms}
        made.append(received(0, i, user.encode(), json.dumps(value, separators=(",", ":")).encode()))
    return made


async def measured(url: str, trunk: Path, users: int) -> dict[str, Any]:
    """Let all users come, round after round."""
    artifact, server = load(trunk), redis.Redis.from_url(url)
    settings = with_changes(load_settings(None, needs=()), partitions=1, outcome_partitions=1)
    rules = replace(rules_of(settings, artifact, replay=False), partitioner_check=False)
    store = RedisStore(url, settings.namespace, ttl_ms=rules.ttl_ms)
    partition, knowledge = await Partition.load(0, store, rules), Knowledge(store, Model(artifact), 1)
    await knowledge.refresh()
    spare_the_collector()
    found: dict[str, Any] = {"worker_mb_before": resident_mb()}
    for (what, share), line in zip(ROUNDS, LINES, strict=False):
        partition.rules = replace(rules, learn_share=share)
        before, began_s = server.info("memory")["used_memory"], time.monotonic()
        for first in range(0, users, BATCH):
            records = batch(range(first, min(users, first + BATCH)), line, time.time_ns() // 1_000_000)
            worked = await work_off(partition, records, knowledge, offsets=[0] * 4, tick_end_ms=None)
            await settle(partition, worked, Nowhere(), store)
        took_s, grown = time.monotonic() - began_s, server.info("memory")["used_memory"] - before
        found[what] = {"bytes_each": grown / users, "events_per_s": users / took_s, "worker_mb": resident_mb(), "open": len(partition.pending)}
        print(f"{what}: {grown / users:.0f} bytes each, worker {resident_mb():.0f} MB, {took_s:.0f} s", file=sys.stderr, flush=True)
    assert partition.cursor.totals.applied == len(ROUNDS) * users
    began_s = time.monotonic()
    again = await Partition.load(0, store, rules)
    found["start"] = {"s": time.monotonic() - began_s, "open": len(again.pending)}
    await store.close()
    server.close()
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--trunk", type=Path, default=HERE.parent / "var" / "bench" / "throughput-trunk", help="trained in passing if it is not there")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not (given.trunk / "manifest.json").exists():
        train(given.trunk)
    with EmbeddedValkey() as server:
        found = asyncio.run(measured(server.url, given.trunk, given.users))
    line, both, followed = (found[what]["bytes_each"] for what in ("lines", "users and lines", "lines and open exposures"))
    print(f"| {given.users:,} users | bytes in Redis |\n| --- | --: |")
    parts = (
        ("a user", both - line),
        ("a user in a line", line),
        ("either, on average: growing tables double now and then", (both + line) / 3),
        ("an open exposure", followed - line),
    )
    for name, value in parts:
        print(f"| {name} | {value:.0f} |")
    print(f"\nworker: {found['worker_mb_before']:.0f} MB before, {found['lines']['worker_mb']:.0f} MB with {given.users:,} users gone by, "
          f"{found['lines and open exposures']['worker_mb']:.0f} MB with {found['lines and open exposures']['open']:,} open exposures")  # fmt: skip
    print(f"a start, until the partition with {found['start']['open']:,} open exposures is loaded: {found['start']['s']:.1f} s")
    if given.json:
        given.json.write_text(json.dumps({"users": given.users, "machine": machine(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
